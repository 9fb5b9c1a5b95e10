"""Chapter 3: the states of a loop."""

from collections.abc import Callable

import torch
from torch import Tensor

from charlm_utils.book.exercises.judge import judge, none_of


def check_ch03(answer: Callable) -> bool:
    """Chapter 3: `answer(x, w_ih, w_hh, bias)` is the state after every step, (B, T, H).

    x (B, T, E), w_ih (H, E), w_hh (H, H), bias (H,); the state starts from zeros.
    """
    B, T, E, H = 2, 4, 3, 5
    draw = torch.Generator().manual_seed(3)
    given = [torch.randn(s, generator=draw) for s in ((B, T, E), (H, E), (H, H), (H,))]
    x, w_ih, w_hh, bias = given

    def gives(wrong: Tensor) -> bool:
        got = answer(*(tensor.clone() for tensor in given))
        return got.shape == wrong.shape and torch.allclose(got, wrong, rtol=1e-4, atol=1e-5)

    right, bare = _states(*given), _states(*given, squeeze=torch.clone)
    reset = _states(*given, carry=0)
    shape = (lambda: answer(*given).shape == (B, T, H), f"return a tensor of shape {(B, T, H)}")
    form = [
        (right[:, -1], "that is the last state; collect one at each step"),
        (right.transpose(0, 1), "batch first: stack along dim=1"),
    ]
    wrong = [
        (reset, "each step starts from the state before it, not from zeros again"),
        (bare, "the tanh is missing"),
        (bare.tanh(), "tanh belongs inside the loop"),
        (_states(x, w_ih, w_hh.T, bias), "w_hh is (out, in): multiply h by w_hh.T"),
        (_states(x, w_ih, w_hh, 0 * bias), "the bias is missing"),
    ]
    hint = "not tanh(x_t @ w_ih.T + h @ w_hh.T + bias) at every step; try T = 1"
    last = (lambda: gives(right), hint)
    return judge([*none_of(gives, form), shape, *none_of(gives, wrong), last])


def _states(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    *,
    squeeze: Callable = torch.tanh,
    carry: int = 1,
) -> Tensor:
    """A plain RNN's states (B, T, H); without `squeeze` or `carry` a wrong one's."""
    h, found = x.new_zeros(len(x), len(bias)), []
    for t in range(x.shape[1]):
        h = squeeze(x[:, t] @ w_ih.T + carry * h @ w_hh.T + bias)
        found.append(h)
    return torch.stack(found, dim=1)
