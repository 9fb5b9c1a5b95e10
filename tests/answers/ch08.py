"""Chapter 8: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import torch

from answers import ANYWHERE
from charlm_utils.book.exercises.ch08 import check_ch08


def right(x, layers, norms):
    for layer, norm in zip(layers, norms, strict=True):
        x = x + layer(norm(x))
    return x


def folded(x, layers, norms):
    """The same, the last layer around the stack of the others."""
    if not layers:
        return x
    below = folded(x, layers[:-1], norms[:-1])
    return layers[-1](norms[-1](below)) + below


def walk(step):
    """A stack that takes `step(road, layer, norm, start)` at each layer."""

    def answer(x, layers, norms):
        road = x
        for layer, norm in zip(layers, norms, strict=True):
            road = step(road, layer, norm, x)
        return road

    return answer


def bare_first(x, layers, norms):
    return right(layers[0](norms[0](x)), layers[1:], norms[1:])


WRONG = {
    "return one tensor": lambda *given: right(*given).sum(1),
    "no skips": walk(lambda road, layer, norm, start: layer(norm(road))),
    "norms are missing": walk(lambda road, layer, norm, start: road + layer(road)),
    "post-norm": walk(lambda road, layer, norm, start: norm(road + layer(road))),
    "the road goes around it": walk(
        lambda road, layer, norm, start: norm(road) + layer(norm(road))
    ),
    "not behind it": walk(lambda road, layer, norm, start: road + norm(layer(road))),
    "not to the stack's input": walk(lambda road, layer, norm, start: start + layer(norm(road))),
    "first layer has a skip": bare_first,
    "try a single layer": lambda x, layers, norms: right(x, layers[::-1], norms[::-1]),
}

NONSENSE = [
    *ANYWHERE,
    lambda x, layers, norms: torch.full_like(x, float("nan")),
    lambda x, layers, norms: x.long(),
]

CHECK = check_ch08
RIGHT = [right, folded]
