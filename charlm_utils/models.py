"""The models of the book. Each is written out in its home chapter and stands here once more.

One contract for all: `logits, state = model(x, state)` with x of shape (B, T), int64.
B is the batch size, T the time steps, V the vocabulary, E the embedding, H the hidden state.
State goes in and comes out; no module keeps it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm_utils.cells import GRUCell, LSTMCell, RNNCell

__all__ = ["CORES", "CharLM", "ConcatLoopModel", "DropoutLSTM", "Ensemble", "GRUCell", "LSTMCell"]
__all__ += ["LoopModel", "RNNCell", "ThreeCharModel", "core_name", "count_parameters", "make_core"]


class ThreeCharModel(nn.Module):
    """Predicts a character from the three before it (chapter 2; source 003's first model).

    x (B, 3) to logits (B, V) and the last hidden state (B, H).
    """

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_size: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.input_to_hidden = nn.Linear(embedding_dim, hidden_size)  # the green arrow
        self.hidden_to_hidden = nn.Linear(hidden_size, hidden_size)  # the orange arrow
        self.hidden_to_output = nn.Linear(hidden_size, vocab_size)  # the blue arrow

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen = F.relu(self.input_to_hidden(self.embedding(x)))  # (B, 3, H)
        first, second, third = seen.unbind(dim=1)  # each (B, H)
        h = torch.zeros_like(first) if state is None else state
        h = torch.tanh(self.hidden_to_hidden(h + first))
        h = torch.tanh(self.hidden_to_hidden(h + second))
        h = torch.tanh(self.hidden_to_hidden(h + third))
        return self.hidden_to_output(h), h  # (B, V), (B, H)


class LoopModel(nn.Module):
    """`ThreeCharModel` with its three lines folded into a loop over any T (chapter 3).

    x (B, T) to logits (B, V) after the last character and the hidden state (B, H).
    """

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_size: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.input_to_hidden = nn.Linear(embedding_dim, hidden_size)
        self.hidden_to_hidden = nn.Linear(hidden_size, hidden_size)
        self.hidden_to_output = nn.Linear(hidden_size, vocab_size)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen = F.relu(self.input_to_hidden(self.embedding(x)))  # (B, T, H)
        B, T, H = seen.shape
        h = seen.new_zeros(B, H) if state is None else state
        for t in range(T):
            h = torch.tanh(self.hidden_to_hidden(h + seen[:, t]))
        return self.hidden_to_output(h), h  # (B, V), (B, H)


class ConcatLoopModel(nn.Module):
    """The loop with state and character side by side instead of added (chapter 3).

    x (B, T) to logits (B, V) after the last character and the hidden state (B, H).
    """

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.input_to_hidden = nn.Linear(hidden_size + embedding_dim, hidden_size)
        self.hidden_to_hidden = nn.Linear(hidden_size, hidden_size)
        self.hidden_to_output = nn.Linear(hidden_size, vocab_size)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        embedded = self.embedding(x)  # (B, T, E)
        B, T, E = embedded.shape
        h = embedded.new_zeros(B, self.hidden_size) if state is None else state
        for t in range(T):
            both = torch.cat([h, embedded[:, t]], dim=1)  # (B, H + E)
            h = torch.tanh(self.hidden_to_hidden(F.relu(self.input_to_hidden(both))))
        return self.hidden_to_output(h), h  # (B, V), (B, H)


class CharLM(nn.Module):
    """Embedding, recurrent core, linear head: a prediction after every character (chapter 4).

    `core` has the signature of `nn.GRU(batch_first=True)` and a `hidden_size`. In training,
    one dropout mask per stream is drawn and held over all time steps of the core's output.
    x (B, T) to logits (B, T, V) and the core's state.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, core: nn.Module, *, dropout=0.0):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.core = core
        self.dropout = dropout
        self.head = nn.Linear(core.hidden_size, vocab_size)

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        out, state = self.core(self.embedding(x), state)  # (B, T, H)
        if self.training and self.dropout > 0:
            B, T, H = out.shape
            out = out * F.dropout(out.new_ones(B, 1, H), self.dropout)
        return self.head(out), state  # (B, T, V)


class DropoutLSTM(nn.LSTM):
    """`nn.LSTM` with dropout where it regularises best (chapter 7; Merity et al. 2017).

    In training one mask per stream is drawn and held over all time steps of the input and of
    what passes between the layers, and a share of each recurrent matrix is set to zero. In
    eval mode, and without dropout, it is `nn.LSTM` with the same weights by the same names.
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        *,
        input_dropout=0.0,
        between=0.0,
        recurrent=0.0,
    ):
        super().__init__(input_size, hidden_size, num_layers, batch_first=True)
        self.input_dropout, self.between, self.recurrent = input_dropout, between, recurrent

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None):
        if not self.training:
            return super().forward(x, state)
        B, T, E = x.shape
        zeros = x.new_zeros(self.num_layers, B, self.hidden_size)
        h, c = (zeros, zeros) if state is None else state
        new_h, new_c = [], []
        for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(self.all_weights):
            rate = self.between if layer else self.input_dropout
            x = x * F.dropout(x.new_ones(B, 1, x.shape[2]), rate)  # one mask over time
            weights = (w_ih, F.dropout(w_hh, self.recurrent), b_ih, b_hh)
            start = (h[layer : layer + 1], c[layer : layer + 1])
            x, *last = torch.lstm(x, start, weights, True, 1, 0.0, True, False, True)
            new_h.append(last[0])
            new_c.append(last[1])
        return x, (torch.cat(new_h), torch.cat(new_c))


class Ensemble(nn.Module):
    """Several models asked together: the mean of their probabilities (chapter 7).

    Reads like one model: x (B, T) to log probabilities (B, T, V), and the tuple of states.
    """

    def __init__(self, models: list[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        states = [None] * len(self.models) if state is None else state
        answers = [model(x, s) for model, s in zip(self.models, states, strict=True)]
        probs = [F.softmax(logits.float(), dim=-1) for logits, _ in answers]  # each (B, T, V)
        return torch.stack(probs).mean(dim=0).log(), tuple(s for _, s in answers)


CORES = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def make_core(
    name: str, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0
) -> nn.Module:
    """torch's own recurrent layer by name (`rnn`, `gru`, `lstm`), batch first.

    `dropout` is torch's: between the layers, drawn anew at each step.
    """
    if name not in CORES:
        raise ValueError(f"core must be one of {', '.join(CORES)}, not {name!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
    return CORES[name](input_size, hidden_size, num_layers, batch_first=True, dropout=dropout)


def core_name(core: nn.Module) -> str:
    """The name under which `make_core` builds a core that reads with the same weights."""
    for name, kind in CORES.items():
        if type(core) is kind or (kind is nn.LSTM and type(core) is DropoutLSTM):
            return name
    raise ValueError(f"{type(core).__name__} is none of the cores {', '.join(CORES)}")


def count_parameters(model: nn.Module) -> int:
    """The number of trainable numbers in a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
