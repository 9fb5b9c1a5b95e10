"""The models of the book. Each is written out in its home chapter and stands here once more.

One contract for all: `logits, state = model(x, state)` with x of shape (B, T), int64.
B is the batch size, T the time steps, V the vocabulary, E the embedding, H the hidden state.
State goes in and comes out; no module keeps it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class RNNCell(nn.Module):
    """One step of a plain recurrent network, equal to `nn.RNNCell` (chapter 3).

    x (B, E) and state (B, H) or None to the next state (B, H):
    h' = tanh(W_ih x + b_ih + W_hh h + b_hh). Parameters are named as in torch.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__()
        self.hidden_size = hidden_size
        bound = hidden_size**-0.5
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.zeros(hidden_size)) if bias else None
        self.bias_hh = nn.Parameter(torch.zeros(hidden_size)) if bias else None

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        h = x.new_zeros(x.shape[0], self.hidden_size) if state is None else state
        from_input = F.linear(x, self.weight_ih, self.bias_ih)  # (B, H)
        from_state = F.linear(h, self.weight_hh, self.bias_hh)  # (B, H)
        return torch.tanh(from_input + from_state)


class GRUCell(nn.Module):
    """One step of a gated recurrent unit, equal to `nn.GRUCell` (chapter 6; Cho et al. 2014).

    x (B, E) and state (B, H) or None to the next state (B, H). Rows of the weights are the
    gates reset, update, candidate; the reset gate acts after the product with the state.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        bound = hidden_size**-0.5
        wide = 3 * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(wide, input_size).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(wide, hidden_size).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(wide).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(wide).uniform_(-bound, bound))

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        h = x.new_zeros(x.shape[0], self.hidden_size) if state is None else state
        x_reset, x_update, x_new = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, dim=1)
        h_reset, h_update, h_new = F.linear(h, self.weight_hh, self.bias_hh).chunk(3, dim=1)
        reset = torch.sigmoid(x_reset + h_reset)  # (B, H), each unit in 0 … 1
        update = torch.sigmoid(x_update + h_update)
        candidate = torch.tanh(x_new + reset * h_new)
        return (1 - update) * candidate + update * h


class LSTMCell(nn.Module):
    """One step of a long short-term memory, equal to `nn.LSTMCell` (chapter 7).

    x (B, E) and state (h, c), each (B, H), or None to the next (h, c). Rows of the weights
    are the gates input, forget, cell, output (Hochreiter and Schmidhuber 1997; Gers 2000).
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        bound = hidden_size**-0.5
        wide = 4 * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(wide, input_size).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(wide, hidden_size).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(wide).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(wide).uniform_(-bound, bound))

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        zeros = x.new_zeros(x.shape[0], self.hidden_size)
        h, c = (zeros, zeros) if state is None else state
        gates = F.linear(x, self.weight_ih, self.bias_ih)  # (B, 4H)
        gates = gates + F.linear(h, self.weight_hh, self.bias_hh)
        input_gate, forget_gate, cell, output_gate = gates.chunk(4, dim=1)  # each (B, H)
        c = torch.sigmoid(forget_gate) * c + torch.sigmoid(input_gate) * torch.tanh(cell)
        return torch.sigmoid(output_gate) * torch.tanh(c), c


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
    """The name under which `make_core` builds a core of this class."""
    for name, kind in CORES.items():
        if type(core) is kind:
            return name
    raise ValueError(f"{type(core).__name__} is none of the cores {', '.join(CORES)}")


def count_parameters(model: nn.Module) -> int:
    """The number of trainable numbers in a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
