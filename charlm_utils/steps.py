"""One update of a model: the loss, its gradient, the clip, the step."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm_utils.batching import IGNORE
from charlm_utils.checkpoint import History
from charlm_utils.device import autocast
from charlm_utils.resume import State


class TrainingDiverged(FloatingPointError):
    """The loss is no longer a finite number; `history` holds the epochs that were."""

    history: History | None = None


def detach_state(state: State) -> State:
    """Keep a state's values and drop its history, so that no gradient crosses the cut."""
    if isinstance(state, tuple):
        return tuple(part.detach() for part in state)
    return None if state is None else state.detach()


def mean_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats per character; (B, T, V) with (B, T), or (B, V) with (B,)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bf16 has too few digits
    return F.cross_entropy(wide.flatten(0, -2), y.flatten(), ignore_index=IGNORE)


def train_step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    optimizer: torch.optim.Optimizer,
    state: State = None,
    *,
    clip: float | None = 1.0,
    precision: str = "float32",
) -> tuple[float, State]:
    """One update. Returns the loss before it (nats per character) and the detached state.

    Raises `TrainingDiverged` where that loss is not finite, and `ValueError` where no target of
    `y` counts; the weights are then as they were.
    """
    with autocast(x.device, precision):
        logits, state = model(x, state)
    loss = mean_loss(logits, y)
    value = loss.item()
    if not math.isfinite(value):  # before the update: the weights are still good
        if not (y != IGNORE).any():
            raise ValueError("a batch without a target that counts can't be learnt from")
        raise TrainingDiverged(f"the loss is {value}")
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return value, detach_state(state)
