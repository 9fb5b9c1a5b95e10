"""The recurrent cells written by hand, each equal to torch's; parameters are named as there.

B is the batch size, E the size of what goes in, H that of the hidden state.
"""

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
