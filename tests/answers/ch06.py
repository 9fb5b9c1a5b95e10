"""Chapter 6: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import torch
from torch import nn

from answers import ANYWHERE
from charlm_utils.book.exercises.ch06 import check_ch06
from charlm_utils.cells import GRUCell


def right(x, h, w_ih, w_hh, b_ih, b_hh, squeeze=torch.tanh):
    x_reset, x_update, x_new = (x @ w_ih.T + b_ih).chunk(3, dim=1)
    h_reset, h_update, h_new = (h @ w_hh.T + b_hh).chunk(3, dim=1)
    reset, update = (x_reset + h_reset).sigmoid(), (x_update + h_update).sigmoid()
    return update * h + (1 - update) * squeeze(x_new + reset * h_new)


def by_a_cell(kind):
    """The same from torch's cell, or from the book's."""

    def answer(x, h, *weights):
        cell = kind(x.shape[1], h.shape[1])
        cell.load_state_dict(
            dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True))
        )
        return cell(x, h)

    return answer


def swapped(x, h, *weights):
    """The update gate the other way round: h + candidate - h'."""
    x_reset, x_update, x_new = (x @ weights[0].T + weights[2]).chunk(3, dim=1)
    h_reset, h_update, h_new = (h @ weights[1].T + weights[3]).chunk(3, dim=1)
    candidate = (x_new + (x_reset + h_reset).sigmoid() * h_new).tanh()
    return h + candidate - right(x, h, *weights)


def before(x, h, w_ih, w_hh, b_ih, b_hh):
    H = h.shape[1]
    reset, update = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)[:, : 2 * H].sigmoid().chunk(2, dim=1)
    state = (reset * h) @ w_hh[2 * H :].T + b_hh[2 * H :]
    candidate = ((x @ w_ih.T + b_ih)[:, 2 * H :] + state).tanh()
    return update * h + (1 - update) * candidate


def reordered(places):
    """The right step on weights whose blocks were taken in another order."""

    def answer(x, h, *weights):
        blocks = [weight.chunk(3) for weight in weights]
        return right(x, h, *(torch.cat([block[i] for i in places]) for block in blocks))

    return answer


def no_bias(which):
    def answer(x, h, w_ih, w_hh, *biases):
        return right(x, h, w_ih, w_hh, *(b if i != which else 0 * b for i, b in enumerate(biases)))

    return answer


WRONG = {
    "return the new state": lambda x, h, *weights: right(x, h, *weights).T,
    "z swapped": swapped,
    "reset before the product": before,
    "reset, update, candidate": reordered((1, 0, 2)),
    "order of the rows": reordered((2, 1, 0)),
    "function is tanh": lambda *given: right(*given, squeeze=torch.sigmoid),
    "b_hh is missing": no_bias(1),
    "b_ih is missing": no_bias(0),
    "belongs to the state's part": lambda x, h, w_ih, w_hh, b_ih, b_hh: right(
        x, h, w_ih, w_hh, b_ih + b_hh, 0 * b_hh
    ),
    "try H = 1": lambda *given: right(*given) * 1.01,
}

NONSENSE = [
    *ANYWHERE,
    lambda *given: torch.full((3, 4), float("nan")),
    lambda *given: torch.zeros(3, 4, dtype=torch.int64),
]

CHECK = check_ch06
RIGHT = [right, by_a_cell(nn.GRUCell), by_a_cell(GRUCell)]
