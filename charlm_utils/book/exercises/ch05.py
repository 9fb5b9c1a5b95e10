"""Chapter 5: the stream grid."""

from collections.abc import Callable

import torch
from torch import Tensor

from charlm_utils.book.exercises.judge import judge, none_of

Chunks = list[tuple[Tensor, Tensor]]


def check_ch05(answer: Callable) -> bool:
    """Chapter 5: `answer(ids, batch_size, seq_len)` is the list of batches (x, y) of an epoch.

    `ids` (N,) with N - 1 a multiple of `batch_size`; x and y have shape (B, T), the last ones
    fewer columns where `seq_len` does not divide the streams.
    """
    B, T, L = 2, 3, 8
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 0, 2, 8])
    inputs, targets = ids[:-1].view(B, L), ids[1:].view(B, L)
    right = _chunks(inputs, targets, T)

    def gives(wrong: Chunks) -> bool:
        got = list(answer(ids.clone(), B, T))
        return len(got) == len(wrong) and all(
            torch.equal(x, u) and torch.equal(y, v)
            for (x, y), (u, v) in zip(got, wrong, strict=True)
        )

    form = "return a list of pairs x, y of shape (batch_size, seq_len)"
    first = (lambda: all(x.shape == y.shape for x, y in answer(ids.clone(), B, T)), form)
    last = (lambda: gives(right), "not the stream grid; try 9 ids, 2 streams and seq_len 2")
    return judge([first, *none_of(gives, _wrong_chunks(ids, inputs, targets, T)), last])


def _wrong_chunks(ids: Tensor, inputs: Tensor, targets: Tensor, T: int) -> list[tuple]:
    """Wrong answers of chapter 5, each with its hint."""
    (B, L), right = inputs.shape, _chunks(inputs, targets, T)
    wrapped = [(x, x.roll(-1, dims=1)) for x, _ in right]
    across = ids[:-1].view(L, B).T, ids[1:].view(L, B).T
    in_turn = list(zip(ids[:12].view(2, B, T), ids[1:13].view(2, B, T), strict=True))
    short = [(x[:, :-1], y[:, :-1]) for x, y in right if x.shape[1] > 1]

    return [
        (wrapped, "the last target is what follows the chunk, not the chunk's first character"),
        ([(x, x) for x, _ in right], "the target is the character after the input"),
        (
            _chunks(*across, T),
            "a stream is a contiguous part of the text, not every B-th character",
        ),
        (in_turn, "row i must go on in row i of the next batch"),
        ([(x.T, y.T) for x, y in right], "batch first: x is (B, T)"),
        (right[:-1], "the last batch is shorter, but its targets count too"),
        (
            _chunks(inputs[:, :-1], targets[:, :-1], T),
            "a stream's last character has a target too: the next stream's first",
        ),
        (short, "seq_len inputs in a chunk; the last one's target is the next chunk's first input"),
    ]


def _chunks(inputs: Tensor, targets: Tensor, seq_len: int) -> Chunks:
    """Columns of inputs (B, L) and targets (B, L) in pieces of `seq_len`."""
    return list(zip(inputs.split(seq_len, dim=1), targets.split(seq_len, dim=1), strict=True))
