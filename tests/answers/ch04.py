"""Chapter 4: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import math

import torch
import torch.nn.functional as F

from answers import ANYWHERE
from charlm_utils.book.exercises.ch04 import check_ch04


def each(logits, y):
    """The loss of each prediction on its own, (B, T)."""
    return F.cross_entropy(logits.transpose(1, 2), y, reduction="none")


def right(logits, y):
    return each(logits, y).mean(dim=0)


def one_by_one(logits, y):
    """The same with a loop over the steps."""
    steps = range(logits.shape[1])
    return torch.stack([F.cross_entropy(logits[:, t], y[:, t]) for t in steps])


def cut_anew(logits, y):
    B, T, V = logits.shape
    return F.cross_entropy(logits.view(B, V, T), y, reduction="none").mean(dim=0)


def over_steps(logits, y):
    p = logits.softmax(dim=1)
    return -p.gather(2, y[:, :, None]).log().squeeze(2).mean(dim=0)


WRONG = {
    "keep the steps": lambda logits, y: each(logits, y).mean(),
    "one loss per window": lambda logits, y: each(logits, y).mean(dim=1),
    "average over the windows": each,
    "return a tensor of shape": lambda logits, y: right(logits, y)[1:],
    "minus the logarithm": lambda logits, y: -right(logits, y),
    "divide by the number": lambda logits, y: each(logits, y).sum(dim=0),
    "in bits": lambda logits, y: right(logits, y) / math.log(2),
    "use transpose(1, 2)": cut_anew,
    "not over the steps": over_steps,
    "try B = 1": lambda logits, y: right(logits, y) * 1.01,
}

NONSENSE = [
    *ANYWHERE,
    lambda *given: torch.zeros(3, dtype=torch.int64),
    lambda *given: torch.full((3,), float("nan")),
    lambda logits, y: F.cross_entropy(logits, y),
]

CHECK = check_ch04
RIGHT = [right, one_by_one]
