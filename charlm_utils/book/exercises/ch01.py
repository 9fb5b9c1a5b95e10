"""Chapter 1: the mean surprise of a text."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from charlm_utils.book.exercises.judge import judge, none_of


def check_ch01(answer: Callable) -> bool:
    """Chapter 1: `answer(table, ids)` is the mean surprise of a text, nats per character.

    `table` (V, V) holds p(next | this) with this in the rows, `ids` (N,) the text.
    """
    table = torch.tensor([[0.70, 0.20, 0.10], [0.05, 0.15, 0.80], [0.50, 0.30, 0.20]])
    ids = torch.tensor([0, 1, 2, 2, 1, 1, 2, 0, 1])
    p, swapped = table[ids[:-1], ids[1:]], table[ids[1:], ids[:-1]]
    right, looped = -p.log().mean().item(), table[ids, ids.roll(-1)]

    def gives(wrong: Tensor | float) -> bool:
        return math.isclose(float(answer(table.clone(), ids.clone())), float(wrong), rel_tol=1e-4)

    wrong = [
        (-right, "surprise is minus the logarithm: it is never negative"),
        (right * len(p), "that is the sum; divide by the N - 1 predictions"),
        (right / math.log(2), "that is in bits; nats need the natural log"),
        (
            -swapped.log().mean(),
            "rows are this character, columns the next: table[ids[:-1], ids[1:]]",
        ),
        (-p.mean().log(), "take the logarithm of each probability first and the mean after it"),
        (-looped.log().mean(), "nothing follows the last character: N ids make N - 1 predictions"),
    ]
    finite = "return one finite number, the mean over all predictions"
    first = (lambda: math.isfinite(float(answer(table.clone(), ids.clone()))), finite)
    last = (lambda: gives(right), "not the mean of -ln table[this, next]; try a text of 2 ids")
    return judge([first, *none_of(gives, wrong), last])
