"""Appendix A2: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import math

import torch

from charlm_utils.book.exercises.a2 import check_a2


def mean(losses, sizes):
    return sum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(sizes)


def right(losses, sizes):
    return math.exp(mean(losses, sizes))


def by_tensors(losses, sizes):
    weights = torch.tensor(sizes, dtype=torch.float64)
    return (torch.tensor(losses, dtype=torch.float64) @ weights / weights.sum()).exp()


WRONG = {
    "that is the loss": mean,
    "a loss, and the small batch": lambda losses, sizes: sum(losses) / len(losses),
    "weigh each loss by its size": lambda losses, sizes: math.exp(sum(losses) / len(losses)),
    "comes last": lambda losses, sizes: mean([math.exp(loss) for loss in losses], sizes),
    "not the perplexities": lambda losses, sizes: sum(map(math.exp, losses)) / len(losses),
    "the first batch": lambda losses, sizes: math.exp(losses[0]),
    "not 2": lambda losses, sizes: 2 ** mean(losses, sizes),
    "sum of sizes": lambda losses, sizes: 1.1 * right(losses, sizes),
}

NONSENSE = [
    None,
    "a text",
    lambda: 1,
    lambda losses, sizes: None,
    lambda losses, sizes: losses,
    lambda losses, sizes: 1 / 0,
    lambda losses, sizes: math.nan,
    lambda losses, sizes: torch.zeros(3),
]

CHECK = check_a2
RIGHT = [right, by_tensors]
