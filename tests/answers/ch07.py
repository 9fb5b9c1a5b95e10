"""Chapter 7: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import torch
from torch import nn

from charlm_utils.book.exercises.ch07 import check_ch07


def gates(x, h, w_ih, w_hh, bias):
    return (x @ w_ih.T + h @ w_hh.T + bias).chunk(4, dim=1)


def right(x, h, c, w_ih, w_hh, bias):
    i, f, g, o = gates(x, h, w_ih, w_hh, bias)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def by_torch(x, h, c, w_ih, w_hh, bias):
    cell = nn.LSTMCell(x.shape[1], h.shape[1])
    weights = {"weight_ih": w_ih, "weight_hh": w_hh, "bias_ih": bias, "bias_hh": 0 * bias}
    cell.load_state_dict(weights)
    return cell(x, (h, c))


def swapped(x, h, c, w_ih, w_hh, bias):
    f, i, g, o = gates(x, h, w_ih, w_hh, bias)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def as_in_papers(x, h, c, w_ih, w_hh, bias):
    i, f, o, g = gates(x, h, w_ih, w_hh, bias)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def all_sigmoid(x, h, c, w_ih, w_hh, bias):
    i, f, g, o = (gate.sigmoid() for gate in gates(x, h, w_ih, w_hh, bias))
    c = f * c + i * g
    return o * c.tanh(), c


def shows(seen):
    """A step whose h is the output gate times `seen(old c, new c)`."""

    def step(x, h, c, w_ih, w_hh, bias):
        new = right(x, h, c, w_ih, w_hh, bias)[1]
        return gates(x, h, w_ih, w_hh, bias)[3].sigmoid() * seen(c, new), new

    return step


WRONG = {
    "return two tensors": lambda *given: right(*given)[0],
    "h first": lambda *given: right(*given)[::-1],
    "order is input, forget": swapped,
    "the fourth the output gate": as_in_papers,
    "the sigmoid is for the three": all_sigmoid,
    "not the cell itself": shows(lambda old, new: new),
    "not at the old one": shows(lambda old, new: old.tanh()),
    "the bias is missing": lambda *given: right(*given[:5], 0 * given[5]),
    "try H = 1": lambda *given: tuple(1.01 * part for part in right(*given)),
}

NONSENSE = [
    None,
    "a text",
    lambda: 1,
    lambda *given: None,
    lambda *given: (1, 2),
    lambda *given: 1 / 0,
    lambda *given: torch.zeros(2, 3, 4),
    lambda *given: (torch.full((3, 4), float("nan")),) * 2,
    lambda x, h, c, w_ih, w_hh, bias: right(x, h, c, w_hh, w_ih, bias),
]

CHECK = check_ch07
RIGHT = [right, by_torch]
