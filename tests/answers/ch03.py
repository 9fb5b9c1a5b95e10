"""Chapter 3: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import torch
from torch import nn

from charlm_utils.book.exercises.ch03 import check_ch03


def right(x, w_ih, w_hh, bias):
    h, states = torch.zeros(len(x), len(bias)), []
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] @ w_ih.T + h @ w_hh.T + bias)
        states.append(h)
    return torch.stack(states, dim=1)


def by_torch(x, w_ih, w_hh, bias):
    """The same from `nn.RNN`."""
    rnn = nn.RNN(w_ih.shape[1], w_ih.shape[0], batch_first=True)
    weights = {"weight_ih_l0": w_ih, "weight_hh_l0": w_hh}
    rnn.load_state_dict(weights | {"bias_ih_l0": bias, "bias_hh_l0": 0 * bias})
    return rnn(x)[0].detach()


def never_carried(x, w_ih, w_hh, bias):
    return torch.tanh(x @ w_ih.T + bias)


def without_tanh(x, w_ih, w_hh, bias):
    h, states = torch.zeros(len(x), len(bias)), []
    for t in range(x.shape[1]):
        h = x[:, t] @ w_ih.T + h @ w_hh.T + bias
        states.append(h)
    return torch.stack(states, dim=1)


WRONG = {
    "that is the last state": lambda *given: right(*given)[:, -1],
    "batch first": lambda *given: right(*given).transpose(0, 1),
    "return a tensor of shape": lambda *given: right(*given)[:, 1:],
    "not from zeros again": never_carried,
    "tanh is missing": without_tanh,
    "inside the loop": lambda *given: without_tanh(*given).tanh(),
    "multiply h by w_hh.T": lambda x, w_ih, w_hh, bias: right(x, w_ih, w_hh.T, bias),
    "bias is missing": lambda x, w_ih, w_hh, bias: right(x, w_ih, w_hh, 0 * bias),
    "at every step": lambda *given: right(*given) * 1.01,
}

NONSENSE = [
    None,
    "a text",
    lambda: 1,
    lambda *given: None,
    lambda *given: [1, 2],
    lambda *given: 1 / 0,
    lambda *given: torch.zeros(2, 4, 5, dtype=torch.int64),
    lambda *given: torch.full((2, 4, 5), float("nan")),
    lambda x, w_ih, w_hh, bias: x @ w_hh,
]

CHECK = check_ch03
RIGHT = [right, by_torch]
