"""The models of the book. Each is written out in its home chapter and stands here once more.

One contract for all: `logits, state = model(x, state)` with x of shape (B, T), int64.
B is the batch size, T the time steps, V the vocabulary, E the embedding, H the hidden state.
State goes in and comes out; no module keeps it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm_utils.cells import DropoutLSTM, ReLUGRU


class ThreeCharModel(nn.Module):
    """Predicts a character from the three before it (chapter 2; the fast.ai lesson's first model).

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
        self.head = nn.Linear(core.hidden_size, vocab_size)  # type: ignore[arg-type]

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        out, state = self.core(self.embedding(x), state)  # (B, T, H)
        if self.training and self.dropout > 0:
            B, T, H = out.shape
            out = out * F.dropout(out.new_ones(B, 1, H), self.dropout)
        return self.head(out), state  # (B, T, V)


class ResidualGRU(nn.Module):
    """A stack of GRU layers, each added to what it reads (chapter 8).

    The residual-GRU post's second model, with switches for what it lacks.
    `projected`: a linear map brings the input to width H, so that the first layer has a skip
    too; without it the first layer reads E numbers and has none. `norm`: a layer norm in front
    of each layer and one behind the last. `projection`: a linear map on each layer's answer.
    `dropout`: on each layer's answer, one mask per stream over all time steps.
    x (B, T, E) to out (B, T, H) and the state (L, B, H), as `nn.GRU(batch_first=True)`.
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        *,
        skips=True,
        projected=True,
        norm=False,
        projection=False,
        dropout=0.0,
    ):
        super().__init__()
        self.hidden_size, self.num_layers, self.dropout = hidden_size, num_layers, dropout
        self.skips, self.projected, self.norm, self.projection = skips, projected, norm, projection
        H, widths = hidden_size, [hidden_size if projected else input_size]
        widths += [H] * (num_layers - 1)
        self.first = nn.Linear(input_size, H) if projected else nn.Identity()
        self.norms = nn.ModuleList(nn.LayerNorm(n) if norm else nn.Identity() for n in widths)
        self.grus = nn.ModuleList(nn.GRU(n, H, batch_first=True) for n in widths)
        self.projections = nn.ModuleList(
            nn.Linear(H, H) if projection else nn.Identity() for _ in widths
        )
        self.last_norm = nn.LayerNorm(H) if norm else nn.Identity()

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, new_state = self.first(x), []  # (B, T, H) where projected
        for layer, gru in enumerate(self.grus):
            start = None if state is None else state[layer : layer + 1]  # (1, B, H)
            out, h = gru(self.norms[layer](x), start)
            out = self.projections[layer](out)
            if self.training and self.dropout > 0:
                B, T, H = out.shape
                out = out * F.dropout(out.new_ones(B, 1, H), self.dropout)
            skip = self.skips and (self.projected or layer > 0)
            x = x + out if skip else out
            new_state.append(h)
        return self.last_norm(x), torch.cat(new_state)  # (B, T, H), (L, B, H)


class Ensemble(nn.Module):
    """Several models asked together: the mean of their probabilities (chapter 7).

    Reads like one model: x (B, T) to log probabilities (B, T, V), and the tuple of states.
    Raises `ValueError` without a model.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        if not models:
            raise ValueError("0 models have no mean")
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, tuple]:
        states = [None] * len(self.models) if state is None else state
        answers = [model(x, s) for model, s in zip(self.models, states, strict=True)]
        logs = [F.log_softmax(logits.float(), dim=-1) for logits, _ in answers]  # each (B, T, V)
        mean = torch.logsumexp(torch.stack(logs), dim=0) - math.log(len(logs))  # no underflow
        return mean, tuple(s for _, s in answers)


CORES = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM, "relu-gru": ReLUGRU}
CORES |= {"residual-gru": ResidualGRU}
SWITCHES = ("skips", "projected", "norm", "projection")  # of `ResidualGRU`
RATES = ("input_dropout", "between", "recurrent")  # of `DropoutLSTM`
OPTIONS = {"rnn": ("bias", "nonlinearity"), "gru": ("bias",), "lstm": ("bias", *RATES)}
OPTIONS |= {"relu-gru": ("bias",), "residual-gru": SWITCHES}


def make_core(
    name: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    dropout: float = 0.0,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """A recurrent core by name (`rnn`, `gru`, `lstm`, `residual-gru` …), batch first.

    `dropout` of torch's cores is torch's: between the layers, drawn anew at each step.
    `options` are `bias` and `nonlinearity` of torch's cores, the switches of `ResidualGRU`, and
    the rates of `DropoutLSTM`, which make an `lstm` one. `ValueError` for what makes no sense.
    """
    if name not in CORES:
        raise ValueError(f"core must be one of {', '.join(CORES)}, not {name!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for what, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{what} must be a whole number of at least 1, not {size!r}")
    options = options or {}
    _check_options(name, options)
    if name == "residual-gru":
        return ResidualGRU(*sizes.values(), dropout=dropout, **options)
    if options.keys() & set(RATES):
        if dropout or "bias" in options:
            raise ValueError("an lstm with dropout held over time has no other, and biases")
        return DropoutLSTM(*sizes.values(), **options)
    return CORES[name](*sizes.values(), batch_first=True, dropout=dropout, **options)


def _check_options(name: str, options: dict[str, Any]) -> None:
    if unknown := [option for option in options if option not in OPTIONS[name]]:
        raise ValueError(f"a core {name} has no options {', '.join(unknown)}")
    for option, value in options.items():
        if option == "nonlinearity":
            fits = value in ("tanh", "relu")
        elif option in RATES:
            fits = type(value) in (int, float) and 0 <= value <= 1
        else:
            fits = type(value) is bool
        if not fits:
            raise ValueError(f"the option {option} of a core {name} can't be {value!r}")


def core_name(core: nn.Module) -> str:
    """The name under which `make_core` builds this core, with its `core_options`.

    Raises `ValueError` for any other, and for what `CharLM` can't use: a core that takes time
    first, reads in two directions or projects its state.
    """
    kinds = {kind: name for name, kind in CORES.items()} | {DropoutLSTM: "lstm"}
    if type(core) not in kinds:
        raise ValueError(f"{type(core).__name__} is none of the cores {', '.join(CORES)}")
    for name, value in {"batch_first": True, "bidirectional": False, "proj_size": 0}.items():
        if getattr(core, name, value) != value:  # a `ResidualGRU` has none of the three
            raise ValueError(
                f"a core with {name}={getattr(core, name)} is none of the cores {', '.join(CORES)}"
            )
    return kinds[type(core)]


def core_options(core: nn.Module) -> dict[str, Any]:
    """What `make_core` needs besides name, sizes and dropout; empty for torch's usual cores."""
    if type(core) in (ResidualGRU, DropoutLSTM):
        names = SWITCHES if type(core) is ResidualGRU else RATES
        return {name: getattr(core, name) for name in names}
    options = {} if core.bias else {"bias": False}
    relu = type(core) is nn.RNN and core.nonlinearity != "tanh"
    return options | ({"nonlinearity": core.nonlinearity} if relu else {})


def set_forget_bias(core: nn.LSTM, value: float) -> None:
    """Start the forget gates of an LSTM (torch's, or `DropoutLSTM`) at sigmoid(`value`)."""
    H = core.hidden_size
    with torch.no_grad():
        for name, bias in core.named_parameters():
            if name.startswith("bias_ih"):
                bias[H : 2 * H] = value


def count_parameters(model: nn.Module) -> int:
    """The number of trainable numbers in a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
