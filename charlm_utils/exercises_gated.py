"""Checkers for the first exercises of chapters 5 to 7, as in `exercises`."""

from collections.abc import Callable

import torch
from torch import Tensor

from charlm_utils.exercises import _judge, _none_of

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
    return _judge([first, *_none_of(gives, _wrong_chunks(ids, inputs, targets, T)), last])


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


def check_ch07(answer: Callable) -> bool:
    """Chapter 7: `answer(x, h, c, w_ih, w_hh, bias)` is the pair (h', c') after one LSTM step.

    x (B, E), h and c (B, H), w_ih (4H, E), w_hh (4H, H), bias (4H,); the rows of the weights
    are the gates input, forget, cell, output.
    """
    B, E, H = 3, 2, 4
    draw = torch.Generator().manual_seed(7)
    sizes = ((B, E), (B, H), (B, H), (4 * H, E), (4 * H, H), (4 * H,))
    given = [torch.randn(size, generator=draw) for size in sizes]
    h, c = _lstm_step(*given)

    def gives(wrong: tuple[Tensor, Tensor]) -> bool:
        got = answer(*(tensor.clone() for tensor in given))
        return len(got) == 2 and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)
            for a, b in zip(got, wrong, strict=True)
        )

    two = "return two tensors of shape (B, H): the new h and the new c"
    first = (lambda: [t.shape for t in answer(*given)] == [(B, H), (B, H)], two)
    hint = "not h' = output * tanh(c'), c' = forget * c + input * tanh(cell); try H = 1"
    wrong = [((c, h), "h first, then c"), *_wrong_steps(given)]
    return _judge([first, *_none_of(gives, wrong), (lambda: gives((h, c)), hint)])


def _wrong_steps(given: list[Tensor]) -> list[tuple]:
    """Wrong answers of chapter 7, each with its hint."""
    x, h, c, w_ih, w_hh, bias = given
    right, squashed = _lstm_step(*given), _lstm_step(*given, candidate=torch.sigmoid)
    swapped = _lstm_step(*given, order=(1, 0, 2, 3))
    papers = _lstm_step(*given, order=(0, 1, 3, 2))
    bare = _lstm_step(x, h, c, w_ih, w_hh, 0 * bias)
    output = (x @ w_ih.T + h @ w_hh.T + bias).chunk(4, dim=1)[3].sigmoid()
    return [
        (swapped, "PyTorch's order is input, forget, cell, output"),
        (papers, "the third block is the cell, the fourth the output gate"),
        (squashed, "what is written is tanh(cell); the sigmoid is for the three gates"),
        ((output * right[1], right[1]), "h' shows tanh of the cell, not the cell itself"),
        ((output * c.tanh(), right[1]), "h' looks at the new cell, not at the old one"),
        (bare, "the bias is missing"),
    ]


def _lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    *,
    order: tuple[int, ...] = (0, 1, 2, 3),
    candidate: Callable = torch.tanh,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM; with another `order` of the gates or `candidate` a wrong one."""
    blocks = (x @ w_ih.T + h @ w_hh.T + bias).chunk(4, dim=1)
    write, keep, cell, show = (blocks[place] for place in order)
    c = keep.sigmoid() * c + write.sigmoid() * candidate(cell)
    return show.sigmoid() * c.tanh(), c


def check_ch06(answer: Callable) -> bool:
    """Chapter 6: `answer(x, h, w_ih, w_hh, b_ih, b_hh)` is the state after one GRU step, (B, H).

    x (B, E), h (B, H), w_ih (3H, E), w_hh (3H, H), b_ih and b_hh (3H,); the rows of the
    weights are the gates reset, update, candidate.
    """
    B, E, H = 3, 2, 4
    draw = torch.Generator().manual_seed(6)
    sizes = ((B, E), (B, H), (3 * H, E), (3 * H, H), (3 * H,), (3 * H,))
    given = [torch.randn(size, generator=draw) for size in sizes]

    def gives(wrong: Tensor) -> bool:
        got = answer(*(tensor.clone() for tensor in given))
        return got.shape == wrong.shape and torch.allclose(got, wrong, rtol=1e-4, atol=1e-5)

    form = f"return the new state, a tensor of shape {(B, H)}"
    first = (lambda: answer(*(tensor.clone() for tensor in given)).shape == (B, H), form)
    hint = "not update * h + (1 - update) * candidate; try H = 1"
    last = (lambda: gives(_gru_step(*given)), hint)
    return _judge([first, *_none_of(gives, _wrong_gru_steps(given)), last])


def _wrong_gru_steps(given: list[Tensor]) -> list[tuple]:
    """Wrong answers of chapter 6, each with its hint."""
    x, h, w_ih, w_hh, b_ih, b_hh = given
    order = "PyTorch's order of the rows is reset, update, candidate"
    return [
        (
            _gru_step(*given, flip=True),
            "z swapped: an update gate of 1 keeps the old state, 0 takes the candidate",
        ),
        (
            _gru_step(*given, early=True),
            "reset before the product: PyTorch multiplies the product W h + b by the gate",
        ),
        (_gru_step(*given, order=(1, 0, 2)), order),
        (_gru_step(*given, order=(2, 1, 0)), order),
        (_gru_step(*given, squeeze=torch.sigmoid), "the candidate's function is tanh: -1 … 1"),
        (_gru_step(x, h, w_ih, w_hh, b_ih, 0 * b_hh), "b_hh is missing"),
        (_gru_step(x, h, w_ih, w_hh, 0 * b_ih, b_hh), "b_ih is missing"),
        (
            _gru_step(x, h, w_ih, w_hh, b_ih + b_hh, 0 * b_hh),
            "the candidate's b_hh belongs to the state's part, which the reset gate multiplies",
        ),
    ]


def _gru_step(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    *,
    order: tuple[int, ...] = (0, 1, 2),
    early: bool = False,
    flip: bool = False,
    squeeze: Callable = torch.tanh,
) -> Tensor:
    """One step of a GRU; with another `order`, an `early` reset or a `flip`ped update wrong."""
    from_x, from_h = (x @ w_ih.T + b_ih).chunk(3, dim=1), (h @ w_hh.T + b_hh).chunk(3, dim=1)
    reset, update = (torch.sigmoid(from_x[i] + from_h[i]) for i in order[:2])
    last = order[2]
    rows = slice(last * h.shape[1], (last + 1) * h.shape[1])
    state = (reset * h) @ w_hh[rows].T + b_hh[rows] if early else reset * from_h[last]
    candidate = squeeze(from_x[last] + state)
    update = 1 - update if flip else update
    return (1 - update) * candidate + update * h
