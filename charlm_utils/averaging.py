"""A running mean of the weights, kept while they go on moving (chapter 7; Izmailov et al. 2018).

The numbers are those of torch's `AveragedModel` with `get_ema_multi_avg_fn`. Here they lie in the
optimizer's state, under "mean", and so are saved and restored with it.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def keep_mean(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """From now on each step moves mean to decay · mean + (1 − decay) · weights.

    The first step starts it at the weights. A `decay` of 0.999 looks back some thousand
    updates. Raises `ValueError` unless it is above 0 and below 1.
    """
    if not 0 < decay < 1:
        raise ValueError(f"the decay of the mean must be above 0 and below 1, not {decay}")

    @torch.no_grad()
    def follow(optimizer: torch.optim.Optimizer, *_) -> None:
        every = (weights for group in optimizer.param_groups for weights in group["params"])
        for weights in every:
            if weights.grad is None:
                continue
            slots = optimizer.state[weights]
            if "mean" in slots:
                slots["mean"].lerp_(weights, 1 - decay)
            else:
                slots["mean"] = weights.detach().clone()

    optimizer.register_step_post_hook(follow)


@contextlib.contextmanager
def mean_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within the block the weights are their mean. Without `keep_mean` nothing changes."""
    before = [(weights, weights.detach().clone()) for weights, _ in _means(optimizer)]
    take_mean(optimizer)
    try:
        yield
    finally:
        _copy(before)


@contextlib.contextmanager
def mean_for_saving(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """As `mean_weights`; within the block the optimizer's state holds the weights, under "walk".

    A model saved in the block is the one that is judged, and the optimizer saved with it still
    knows from where training goes on: `walk_on` after loading.
    """
    for weights, _ in _means(optimizer):
        optimizer.state[weights]["walk"] = weights.detach().clone()
    take_mean(optimizer)
    try:
        yield
    finally:
        walk_on(optimizer)


def walk_on(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights that `mean_for_saving` set aside back in their place."""
    slots = optimizer.state.items()
    _copy([(weights, slot.pop("walk")) for weights, slot in slots if "walk" in slot])


def take_mean(optimizer: torch.optim.Optimizer) -> None:
    """Put the mean in the place of the weights, for good."""
    _copy(_means(optimizer))


def _means(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
    slots = optimizer.state.items()
    return [(weights, slot["mean"]) for weights, slot in slots if "mean" in slot]


@torch.no_grad()
def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for weights, values in pairs:
        weights.copy_(values)
