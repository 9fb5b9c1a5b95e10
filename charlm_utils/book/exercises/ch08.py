"""Chapter 8: a stack with skips."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from charlm_utils.book.exercises.judge import judge, none_of


def check_ch08(answer: Callable) -> bool:
    """Chapter 8: `answer(x, layers, norms)` is what a stack of residual layers makes of x.

    x (B, T, H); `layers` and `norms` are equally many functions from (B, T, H) to (B, T, H).
    Each layer reads its norm's answer, and what it says is added to the road.
    """
    x = torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(8))
    layers = [lambda v: (2 * v).tanh(), lambda v: v.roll(1, dims=1) - 0.5, lambda v: v.abs()]
    norms = [lambda v, k=k: k * F.layer_norm(v, (4,)) for k in (1, 2, 3)]

    def gives(wrong: Tensor) -> bool:
        got = answer(x.clone(), list(layers), list(norms))
        return got.shape == wrong.shape and torch.allclose(got, wrong, rtol=1e-4, atol=1e-5)

    form = f"return one tensor of shape {tuple(x.shape)}"
    first = (lambda: answer(x.clone(), list(layers), list(norms)).shape == x.shape, form)
    right, *wrong = _stacks(x, layers, norms)
    hint = "not road + layer(norm(road)) for each pair in turn; try a single layer"
    return judge([first, *none_of(gives, wrong), (lambda: gives(right), hint)])


def _stacks(x: Tensor, layers: list[Callable], norms: list[Callable]) -> list:
    """The right answer of chapter 8, then wrong ones, each with its hint."""

    def walk(step: Callable) -> Tensor:
        road = x
        for place, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
            road = step(road, layer, norm, place == 0)
        return road

    return [
        walk(lambda road, layer, norm, first: road + layer(norm(road))),
        *((walk(step), hint) for hint, step in _WRONG_STEPS.items()),
        (
            walk(lambda road, layer, norm, first: x + layer(norm(road))),
            "add to the road as it is now, not to the stack's input",
        ),
    ]


_WRONG_STEPS = {
    "no skips: add what the layer says": lambda x, f, norm, first: f(norm(x)),
    "the norms are missing": lambda x, f, norm, first: x + f(x),
    "that is post-norm, where the road itself passes every norm": (
        lambda x, f, norm, first: norm(x + f(x))
    ),
    "the norm is for the layer alone; the road goes around it": (
        lambda x, f, norm, first: norm(x) + f(norm(x))
    ),
    "the norm stands in front of the layer, not behind it": (
        lambda x, f, norm, first: x + norm(f(x))
    ),
    "the first layer has a skip too": lambda x, f, norm, first: x * (not first) + f(norm(x)),
}
