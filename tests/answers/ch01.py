"""Chapter 1: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import math

import numpy as np
import torch

from charlm_utils.book.exercises.ch01 import check_ch01


def following(table, ids):
    """p of each character that came, (N - 1,)."""
    return table[ids[:-1], ids[1:]]


def by_loop(table, ids):
    pairs = zip(ids.tolist(), ids.tolist()[1:], strict=False)
    return -sum(math.log(table[a, b]) for a, b in pairs) / (len(ids) - 1)


def changes_its_arguments(table, ids):
    loss = by_loop(table, ids)
    table.zero_(), ids.zero_()
    return loss


RIGHT = [
    lambda table, ids: -following(table, ids).log().mean().item(),
    lambda table, ids: -following(table, ids).log().mean(),  # a tensor of one number
    lambda table, ids: np.mean(-np.log(following(table, ids).numpy())),
    lambda table, ids: torch.nn.functional.cross_entropy(table.log()[ids[:-1]], ids[1:]),
    by_loop,
    changes_its_arguments,
]


WRONG = [
    (lambda table, ids: following(table, ids).log().mean(), "never negative"),
    (lambda table, ids: -following(table, ids).log().sum(), "divide by the N - 1"),
    (lambda table, ids: -following(table, ids).log2().mean(), "in bits"),
    (lambda table, ids: -following(table.T, ids).log().mean(), "rows are this character"),
    (lambda table, ids: -following(table, ids).mean().log(), "the mean after it"),
    (lambda table, ids: -table[ids, ids.roll(-1)].log().mean(), "nothing follows the last"),
    (lambda table, ids: -following(table, ids).log(), "one finite number"),
    (lambda table, ids: 1.0, "a text of 2 ids"),
]

NONSENSE = [
    None,
    3,
    "answer",
    lambda: 1.0,
    lambda table, ids: None,
    lambda table, ids: "two",
    lambda table, ids: math.nan,
    lambda table, ids: torch.zeros(0),
    lambda table, ids: table[99],
    lambda table, ids: 1 / 0,
]

CHECK = check_ch01
