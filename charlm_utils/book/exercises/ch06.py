"""Chapter 6: one step of a GRU."""

from collections.abc import Callable

import torch
from torch import Tensor

from charlm_utils.book.exercises.judge import judge, none_of


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
    return judge([first, *none_of(gives, _wrong_gru_steps(given)), last])


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
