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


def check_settings(
    epochs: int,
    lr: float,
    *,
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    clip: float | None = None,
    seed: int = 0,
) -> None:
    """Raise `ValueError`, naming it, for the first number of a run that makes no sense."""
    good = {
        "epochs must be at least 1": (epochs, epochs >= 1),
        "lr must be above 0 and finite": (lr, 0 < lr < math.inf),
        "warmup_steps must be at least 0": (warmup_steps, warmup_steps >= 0),
        "weight_decay must be at least 0 and finite": (weight_decay, 0 <= weight_decay < math.inf),
        "clip must be above 0, or None": (clip, clip is None or clip > 0),
        "seed must fit into 64 bits": (seed, -(2**63) <= seed < 2**64),
    }
    for words, (value, holds) in good.items():
        if not holds:
            raise ValueError(f"{words}, not {value}")


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
class Plan:
    """The settings of one call of `fit`. A run that was stopped goes on only under the same."""

    total_steps: int
    batch_shape: tuple[int, ...]
    lr: float
    warmup_steps: int
    schedule: Schedule
    betas: tuple[float, float]
    weight_decay: float
    clip: float | None
    carry_state: bool
    precision: str
    seed: int
    groups: tuple = ()  # of each parameter group: how many, learning rate, weight decay
    average: float | None = None  # decay of the running mean of the weights

    def rate(self, step: int) -> float:
        """The learning rate of update `step`."""
        options = {"warmup_steps": self.warmup_steps, "schedule": self.schedule}
        return learning_rate(step, self.total_steps, self.lr, **options)

    def settings(self) -> dict:
        """All of it as JSON gives it back."""
        named = isinstance(self.schedule, str | Cycles)
        lists = {"batch_shape": list(self.batch_shape), "betas": list(self.betas)}
        lists |= {"groups": [list(group) for group in self.groups]}
        return vars(self) | lists | {"schedule": str(self.schedule) if named else "a function"}


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
