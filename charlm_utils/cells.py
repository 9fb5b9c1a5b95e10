"""The recurrent cells written by hand, each equal to torch's, and variants of torch's layers.

Parameters are named as in torch. B is the batch size, E the size of what goes in, H that of
the hidden state.
"""

import functools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    def forward(  # type: ignore[override]  # torch's takes packed sequences too
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
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


def _loose_weights(forward: Callable) -> Callable:
    """A forward pass in which cuDNN does not warn that it copies the weights together each time.

    It must: where weights are dropped they are new at each call, and never lie in one piece.
    """

    @functools.wraps(forward)
    def quiet(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "RNN module weights are not part of single")
            return forward(self, x, state)

    return quiet


# the class above is the chapter's
DropoutLSTM.forward = _loose_weights(DropoutLSTM.forward)  # type: ignore[method-assign]


class ReLUGRU(nn.GRU):
    """`nn.GRU` whose output passes a ReLU, which drops the sign (the residual-GRU post's first)."""

    def forward(  # type: ignore[override]  # torch's takes packed sequences too
        self, x: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out, state = super().forward(x, state)
        return F.relu(out), state
