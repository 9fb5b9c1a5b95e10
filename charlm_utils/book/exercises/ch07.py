"""Chapter 7: one step of an LSTM."""

from collections.abc import Callable

import torch
from torch import Tensor

from charlm_utils.book.exercises.judge import judge, none_of


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
    return judge([first, *none_of(gives, wrong), (lambda: gives((h, c)), hint)])


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
