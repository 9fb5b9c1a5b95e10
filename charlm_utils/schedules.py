"""How the learning rate moves from the first update to the last."""

import math
from collections.abc import Callable

FLOOR = 0.02  # the cosine schedule ends at 2 % of the learning rate
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2,
}


def learning_rate(
    step: int, total_steps: int, lr: float, *, warmup_steps: int = 50, schedule="cosine"
) -> float:
    """The rate of update `step` (from 0): a linear warm-up, then the schedule to the end.

    `schedule` is a name in `SCHEDULES` or a function from progress in [0, 1] to a factor.
    The warm-up takes at most a fifth of the run.
    """
    warmup = min(warmup_steps, total_steps // 5)
    if step < warmup:
        return lr * (step + 1) / warmup
    factor = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    return lr * factor((step - warmup) / max(1, total_steps - warmup))
