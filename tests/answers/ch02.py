"""Chapter 2: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import numpy as np
import torch
from torch import nn

from charlm_utils.book.exercises.ch02 import check_ch02


def linear(inputs, outputs):
    return inputs * outputs + outputs


def parts(V, E, H):
    """Embedding, green and orange together, blue."""
    return V * E, linear(E, H) + linear(H, H), linear(H, V)


def right(V, E, H, n, shared):
    table, arrows, blue = parts(V, E, H)
    return table + arrows * (1 if shared else n) + blue


def by_building(vocab_size, embedding_dim, hidden_size, num_chars, shared):
    places = 1 if shared else num_chars
    green = [nn.Linear(embedding_dim, hidden_size) for _ in range(places)]
    orange = [nn.Linear(hidden_size, hidden_size) for _ in range(places)]
    ends = [nn.Embedding(vocab_size, embedding_dim), nn.Linear(hidden_size, vocab_size)]
    return sum(p.numel() for p in nn.ModuleList([*green, *orange, *ends]).parameters())


def no_biases(V, E, H, n, shared):
    places = 1 if shared else n
    return V * E + places * (E * H + H * H) + H * V


def no_embedding(V, E, H, n, shared):
    return right(V, E, H, n, shared) - V * E


RIGHT = [
    right,
    by_building,
    lambda *sizes: torch.tensor(right(*sizes)),
    lambda *sizes: np.int64(right(*sizes)),
]


WRONG = [
    (no_biases, "count the biases"),
    (lambda V, E, H, n, shared: right(V, E, H, n, False), "counted once"),
    (lambda V, E, H, n, shared: right(V, E, H, n, True), "num_chars green and orange"),
    (
        lambda V, E, H, n, shared: right(V, E, H, n, shared) + (not shared) * (n - 1) * V * E,
        "one embedding and one blue",
    ),
    (
        lambda V, E, H, n, shared: right(V, E, H, n, True) * (1 if shared else n),
        "one embedding and one blue",
    ),
    (
        lambda V, E, H, n, shared: right(V, E, H, n, shared) + (not shared) * (n - 1) * (H + 1) * V,
        "one embedding and one blue",
    ),
    (no_embedding, "the embedding is a table"),
    (lambda *sizes: 139_998, "compare with count_parameters"),
    (lambda V, E, H, n, shared: right(V, E, H, 3, shared), "4 characters of other sizes"),
    (lambda *sizes: None, "return one number"),
    (lambda *sizes: -3, "return one number"),
]

NONSENSE = [
    None,
    3,
    "answer",
    lambda: 0,
    lambda *sizes: "many",
    lambda *sizes: [1, 2, 3],
    lambda *sizes: torch.zeros(2, 3),
    lambda *sizes: float("nan"),
    lambda *sizes: 1 / 0,
    lambda *sizes: next(iter(())),
]

CHECK = check_ch02
