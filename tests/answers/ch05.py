"""Chapter 5: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import torch

from charlm_utils.book.exercises.ch05 import check_ch05
from charlm_utils.data import StreamBatches


def chunks(inputs, targets, seq_len):
    return list(zip(inputs.split(seq_len, dim=1), targets.split(seq_len, dim=1), strict=True))


def streams(ids, batch_size):
    """Inputs and targets (B, L)."""
    return ids[:-1].view(batch_size, -1), ids[1:].view(batch_size, -1)


def right(ids, batch_size, seq_len):
    return chunks(*streams(ids, batch_size), seq_len)


def one_by_one(ids, batch_size, seq_len):
    """The same as a generator."""
    x, y = streams(ids, batch_size)
    for start in range(0, x.shape[1], seq_len):
        yield [x[:, start : start + seq_len], y[:, start : start + seq_len]]


def wrapped(ids, batch_size, seq_len):
    return [(x, torch.cat([x[:, 1:], x[:, :1]], dim=1)) for x, _ in right(ids, batch_size, seq_len)]


def interleaved(ids, batch_size, seq_len):
    rows = [torch.stack([part[b::batch_size] for b in range(batch_size)])
            for part in (ids[:-1], ids[1:])]  # fmt: skip
    return chunks(*rows, seq_len)


def one_after_the_other(ids, batch_size, seq_len):
    whole = (len(ids) - 1) // (batch_size * seq_len) * batch_size * seq_len
    parts = [part[:whole].view(-1, batch_size, seq_len) for part in (ids[:-1], ids[1:])]
    return list(zip(*parts, strict=True))


def ends_lost(ids, batch_size, seq_len):
    rows = ids[:-1].view(batch_size, -1)
    return chunks(rows[:, :-1], rows[:, 1:], seq_len)


def cut_inside(ids, batch_size, seq_len):
    windows = [x for x, _ in right(ids, batch_size, seq_len) if x.shape[1] > 1]
    return [(x[:, :-1], x[:, 1:]) for x in windows]


WRONG = {
    "return a list of pairs": lambda ids, B, T: [(x, y[:, 1:]) for x, y in right(ids, B, T)],
    "not the chunk's first": wrapped,
    "after the input": lambda ids, B, T: [(x, x) for x, _ in right(ids, B, T)],
    "not every B-th": interleaved,
    "must go on in row i": one_after_the_other,
    "batch first": lambda ids, B, T: [(x.T, y.T) for x, y in right(ids, B, T)],
    "its targets count too": lambda ids, B, T: right(ids, B, T)[:-1],
    "the next stream's first": ends_lost,
    "the next chunk's first input": cut_inside,
    "not the stream grid": lambda ids, B, T: right(ids, B, T)[::-1],
}


def also_right(ids, batch_size, seq_len):
    return StreamBatches(ids, batch_size, seq_len)


NONSENSE = [
    None,
    "a text",
    lambda: 1,
    lambda *given: None,
    lambda *given: [],
    lambda *given: [1, 2, 3],
    lambda *given: 1 / 0,
    lambda *given: [(torch.zeros(2, 3), torch.zeros(2, 3))],
    lambda ids, B, T: [(x.float() * torch.nan, y) for x, y in right(ids, B, T)],
    lambda ids, B, T: torch.stack(streams(ids, B)),
]

CHECK = check_ch05
RIGHT = [right, one_by_one, also_right]
