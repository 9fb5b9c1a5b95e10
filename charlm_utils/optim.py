"""How weights are moved: the learning rate from update to update, decay, and a running mean.

The mean of the weights (chapter 7; Izmailov et al. 2018) has the numbers of torch's
`AveragedModel` with `get_ema_multi_avg_fn`. Here they lie in the optimizer's state, under "mean",
and so are saved and restored with it.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FLOOR = 0.02  # the cosine schedules end at 2 % of the learning rate


def _cosine(progress: float) -> float:
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Cycles:
    """Cosine with warm restarts: `count` cycles, each `multiplier` times as long as the last.

    A schedule for `fit` (Loshchilov and Hutter, SGDR). The first cycle takes `first` epochs;
    `fit` keeps a checkpoint at the end of each.
    """

    first: int = 1
    multiplier: int = 2
    count: int = 4

    def __post_init__(self) -> None:
        if min(self.first, self.multiplier, self.count) < 1:
            raise ValueError(f"every number of {self} must be at least 1")

    @property
    def ends(self) -> list[int]:
        """The epochs after which a cycle is over: 1, 3, 7, 15 for 1 + 2 + 4 + 8."""
        lengths = [self.first * self.multiplier**i for i in range(self.count)]
        return [sum(lengths[: i + 1]) for i in range(self.count)]

    def __call__(self, progress: float) -> float:
        """The factor at a share of the whole run."""
        epoch = progress * self.ends[-1]
        end = next((end for end in self.ends if epoch < end), self.ends[-1])
        start = max([0, *(e for e in self.ends if e < end)])
        return _cosine((epoch - start) / (end - start))


Schedule = str | Callable[[float], float]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "step": lambda progress: 1.0 if progress < 2 / 3 else 0.1,  # a tenth for the last third
    "cosine": _cosine,
}


def check_schedule(schedule: Schedule, epochs: int) -> None:
    """Raise `ValueError` for an unknown name, or cycles that are not as long as the run."""
    if isinstance(schedule, str) and schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
    if isinstance(schedule, Cycles) and schedule.ends[-1] != epochs:
        raise ValueError(f"{schedule} takes {schedule.ends[-1]} epochs, not {epochs}")


def learning_rate(
    step: int,
    total_steps: int,
    lr: float,
    *,
    warmup_steps: int = 50,
    schedule: Schedule = "cosine",
) -> float:
    """The rate of update `step` (from 0): a linear warm-up, then the schedule to the end.

    `schedule` is a name in `SCHEDULES`, `Cycles`, or a function from progress in [0, 1] to
    a factor. The warm-up takes at most a fifth of the run; cycles are counted from step 0.
    Raises `ValueError` for an unknown name and for a warm-up below 0.
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be at least 0, not {warmup_steps}")
    check_schedule(schedule, schedule.ends[-1] if isinstance(schedule, Cycles) else 0)
    warmup = min(warmup_steps, total_steps // 5)
    if step < warmup:
        return lr * (step + 1) / warmup
    factor = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    start = 0 if isinstance(schedule, Cycles) else warmup
    return lr * factor((step - start) / max(1, total_steps - start))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for `fit`: matrices are decayed, vectors (the biases) are not."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim == 1], "weight_decay": 0.0},
    ]


def l2_groups(model: nn.Module, l2: float) -> list[dict]:
    """One parameter group for `fit`: decay as older Adams have it, added to the gradient.

    Adam then divides it by the size of the gradients, so that a weight with small gradients
    is pulled to zero as fast as any other moves; `weight_decay` of AdamW goes round that.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    return [{"params": weights, "weight_decay": l2, "decoupled_weight_decay": False}]


def parameter_groups(model: nn.Module, groups: list[dict] | None, lr: float) -> list[dict]:
    """The groups as an optimizer takes them; each keeps `scale`, its rate relative to `lr`.

    Raises `ValueError` unless they hold every trainable parameter exactly once.
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    groups = [{"params": list(model.parameters())}] if groups is None else groups
    groups = [group | {"params": list(group["params"])} for group in groups]
    given = [id(p) for group in groups for p in group["params"] if p.requires_grad]
    for key, name in names.items():
        if given.count(key) != 1:
            raise ValueError(f"{name} is in {given.count(key)} parameter groups, not in one")
    if len(given) != len(names):
        raise ValueError("the parameter groups hold parameters that are not the model's")
    return [group | {"scale": group.get("lr", lr) / lr} for group in groups]


def describe_group(group: dict, weight_decay: float) -> tuple:
    """How many weights, rate relative to `lr`, decay and, if it is in the gradient, a word."""
    kind = () if group.get("decoupled_weight_decay", True) else ("l2",)
    return (len(group["params"]), group["scale"], group.get("weight_decay", weight_decay), *kind)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW, its rate from update to update, decay, clip, and the seed.

    `schedule` is a name in `SCHEDULES`, `Cycles`, or a function from progress in [0, 1] to a factor
    of `lr`. `clip` is the norm that a gradient may have at most. `groups` are parameter groups as
    torch's optimizers take them, with their own `lr` and `weight_decay`; `average` is the decay of
    a running mean of the weights, which is then what is validated, saved and left in the model.
    `precision` None is what `pick_precision` finds. Raises `ValueError`, naming it, for the first
    setting that makes no sense.
    """

    epochs: int
    lr: float
    warmup_steps: int = 50
    schedule: Schedule = "cosine"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float | None = 1.0
    carry_state: bool = True
    precision: str | None = None
    seed: int = 0
    groups: list[dict] | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        good = {
            "epochs must be at least 1": (self.epochs, self.epochs >= 1),
            "lr must be above 0 and finite": (self.lr, 0 < self.lr < math.inf),
            "warmup_steps must be at least 0": (self.warmup_steps, self.warmup_steps >= 0),
            "weight_decay must be at least 0 and finite": (
                self.weight_decay,
                0 <= self.weight_decay < math.inf,
            ),
            "clip must be above 0, or None": (self.clip, self.clip is None or self.clip > 0),
            "seed must fit into 64 bits": (self.seed, -(2**63) <= self.seed < 2**64),
        }
        for words, (value, holds) in good.items():
            if not holds:
                raise ValueError(f"{words}, not {value}")
        check_schedule(self.schedule, self.epochs)

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of update `step` of so many."""
        warmup_steps, schedule = self.warmup_steps, self.schedule
        return learning_rate(
            step, total_steps, self.lr, warmup_steps=warmup_steps, schedule=schedule
        )

    def settings(self) -> dict:
        """What a run that goes on must share with the one that was stopped, as JSON gives it back.

        The number of epochs is not among it: a run may go on for longer than was planned.
        """
        named = isinstance(self.schedule, str | Cycles)
        words = {"schedule": str(self.schedule) if named else "a function"}
        kept = {k: v for k, v in vars(self).items() if k not in ("epochs", "groups")}
        return kept | words | {"betas": list(self.betas)}


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
