"""The settings of a training run, and how the learning rate moves from its first update on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

FLOOR = 0.02  # the cosine schedule ends at 2 % of the learning rate
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2,
}


def learning_rate(
    step: int,
    total_steps: int,
    lr: float,
    *,
    warmup_steps: int = 50,
    schedule: str | Callable[[float], float] = "cosine",
) -> float:
    """The rate of update `step` (from 0): a linear warm-up, then the schedule to the end.

    `schedule` is a name in `SCHEDULES` or a function from progress in [0, 1] to a factor.
    The warm-up takes at most a fifth of the run.
    """
    if isinstance(schedule, str) and schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
    warmup = min(warmup_steps, total_steps // 5)
    if step < warmup:
        return lr * (step + 1) / warmup
    factor = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    return lr * factor((step - warmup) / max(1, total_steps - warmup))


@dataclass(frozen=True)
class Plan:
    """The settings of one call of `fit`. A run that was stopped goes on only under the same."""

    total_steps: int
    batch_shape: tuple[int, ...]
    lr: float
    warmup_steps: int
    schedule: str | Callable[[float], float]
    betas: tuple[float, float]
    weight_decay: float
    clip: float | None
    carry_state: bool
    precision: str
    seed: int

    def rate(self, step: int) -> float:
        """The learning rate of update `step`."""
        options = {"warmup_steps": self.warmup_steps, "schedule": self.schedule}
        return learning_rate(step, self.total_steps, self.lr, **options)

    def settings(self) -> dict:
        """All of it as JSON gives it back."""
        schedule = self.schedule if isinstance(self.schedule, str) else "a function"
        lists = {"batch_shape": list(self.batch_shape), "betas": list(self.betas)}
        return vars(self) | lists | {"schedule": schedule}
