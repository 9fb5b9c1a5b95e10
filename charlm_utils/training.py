"""One training loop for every model of the book, and the number that judges them all."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from charlm_utils.averaging import keep_mean, mean_weights, take_mean
from charlm_utils.batching import IGNORE
from charlm_utils.checkpoint import CheckpointError, History, has_checkpoint, save_checkpoint
from charlm_utils.device import autocast, pick_precision
from charlm_utils.resume import Position, load_run, save_run, stop_signals
from charlm_utils.schedules import (
    Cycles,
    Plan,
    Schedule,
    check_schedule,
    describe_group,
    parameter_groups,
)
from charlm_utils.steps import TrainingDiverged, detach_state, mean_loss, train_step
from charlm_utils.vocab import CharVocab

__all__ = ["History", "TrainingDiverged", "detach_state", "evaluate", "fit", "make_optimizer"]
__all__ += ["mean_loss", "train_epoch", "train_step"]


def train_epoch(
    model: nn.Module,
    batches: Iterable,
    optimizer: torch.optim.Optimizer,
    *,
    clip: float | None = 1.0,
    carry_state: bool = True,
    precision: str = "float32",
    rate: Callable[[int], float] | None = None,
    at: Position | None = None,
    stop: threading.Event | None = None,
    bar: tqdm | None = None,
) -> float:
    """One pass over the batches; returns the mean training loss, nats per character.

    `rate(step)` sets the learning rate before each update; `at` is where to begin and is
    moved along; a `stop` that is set ends the pass after the current update.
    """
    model.train()
    at = at if at is not None else Position()
    carry = carry_state and batches.contiguous
    for x, y in _from(batches, at.batch):
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate(at.step) * group.get("scale", 1.0)
        loss, state = train_step(model, x, y, optimizer, at.state, clip=clip, precision=precision)
        at.state = state if carry else None
        _advance(at, loss, x, y, bar)
        if stop is not None and stop.is_set():
            break
    return at.loss_sum / max(1, at.targets)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable, *, precision: str = "float32") -> float:
    """The loss on every target of `batches`, each counted once, in nats per character.

    Starts from a zero state and carries it on where the batches are contiguous.
    """
    training = model.training
    model.eval()
    total, targets, state = 0.0, 0, None
    for x, y in batches:
        with autocast(x.device, precision):
            logits, new_state = model(x, state)
        state = new_state if batches.contiguous else None
        count = int((y != IGNORE).sum())
        total += mean_loss(logits, y).item() * count
        targets += count
    model.train(training)
    return total / targets


def fit(
    model: nn.Module,
    train: Iterable,
    valid: Iterable,
    *,
    epochs: int,
    lr: float,
    warmup_steps: int = 50,
    schedule: Schedule = "cosine",
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    carry_state: bool = True,
    precision: str | None = None,
    seed: int = 0,
    checkpoint_dir: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool | None = None,
    vocab: CharVocab | None = None,
    groups: list[dict] | None = None,
    average: float | None = None,
    stop_after: int | None = None,
) -> History:
    """Train with AdamW for `epochs` passes, validating after each; returns the history.

    With `checkpoint_dir` the model (and `vocab`) is saved after every epoch and when
    Ctrl-C or SIGTERM asks to stop; `resume=True` goes on from there to the last bit. Under
    the schedule `Cycles` each cycle leaves its model in `checkpoint_dir/cycle-1`, `-2` …
    `groups` are parameter groups as torch's optimizers take them, with their own `lr` and
    `weight_decay`. `average` is the decay of a running mean of the weights (see `averaging`):
    the mean is what is validated, kept at the end of a cycle and left in the model at the end.
    `stop_after` ends the run after so many of its `epochs`.
    Raises `TrainingDiverged` when the loss is not finite: the last checkpoint stays.
    """
    if epochs < 1 or not 0 < lr < math.inf or (clip is not None and not clip > 0):
        raise ValueError(
            f"epochs must be at least 1, lr and clip above 0, not {epochs}, {lr} and {clip}"
        )
    precision = precision or pick_precision(next(model.parameters()).device)
    _ = check_schedule(schedule, epochs), autocast("cpu", precision)  # or ValueError
    groups = parameter_groups(model, groups, lr)
    each = tuple(describe_group(group, weight_decay) for group in groups)
    updates = (lr, warmup_steps, schedule, betas, weight_decay, clip)
    steps, shape = epochs * len(train), tuple(next(iter(train))[0].shape)
    plan = Plan(steps, shape, *updates, carry_state, precision, seed, each, average)
    run = _Run(model, plan, vocab, checkpoint_dir, groups)
    run.open(resume)
    last = epochs if stop_after is None else min(epochs, stop_after)
    quiet = not progress if progress is not None else os.environ.get("CHARLM_QUIET") == "1"
    with (
        stop_signals() as stop,
        tqdm(total=steps, initial=run.at.step, delay=3, disable=quiet) as bar,
    ):
        while run.at.epoch < last and not stop.is_set():
            run.epoch(train, valid, stop, bar)
    run.history.interrupted = run.at.epoch < epochs
    return run.history


def make_optimizer(
    groups: list[dict], lr: float, betas: tuple[float, float], weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """AdamW, by its other name: the class AdamW forgets `l2_groups` when a run is resumed."""
    decay = {"weight_decay": weight_decay, "decoupled_weight_decay": True}
    return torch.optim.Adam(groups, lr, betas, fused=True, **decay)


class _Run:
    """The moving parts of one call of `fit`: where it stands, and what it saves."""

    def __init__(self, model: nn.Module, plan: Plan, vocab: CharVocab | None, folder, groups):
        torch.manual_seed(plan.seed)
        self.model, self.plan, self.vocab = model, plan, vocab
        self.folder = None if folder is None else Path(folder)
        self.at, self.history = Position(), History()
        self.optimizer = make_optimizer(groups, plan.lr, plan.betas, plan.weight_decay)
        if plan.average is not None:
            keep_mean(self.optimizer, plan.average)

    @property
    def cycles(self) -> dict[int, Path]:
        """Where the model is kept after which epochs: the ends of the schedule's cycles."""
        if self.folder is None or not isinstance(self.plan.schedule, Cycles):
            return {}
        ends = self.plan.schedule.ends
        return {end: self.folder / f"cycle-{i}" for i, end in enumerate(ends, start=1)}

    def open(self, resume: bool) -> None:
        folders = [self.folder, *self.cycles.values()] if self.folder else []
        found = [folder for folder in folders if has_checkpoint(folder)]
        if not found:
            self.save()  # an unwritable folder is found out before the first hour, not after
            return
        if not resume:
            raise CheckpointError(f"{found[0]} holds a checkpoint already; resume=True goes on")
        self.at, self.history = load_run(
            self.folder, self.model, self.vocab, self.optimizer, self.plan.settings()
        )

    def epoch(self, train: Iterable, valid: Iterable, stop: threading.Event, bar: tqdm) -> None:
        """Train to the end of the epoch, or to the first update after `stop`, and save."""
        at, plan, began = self.at, self.plan, time.perf_counter() - self.at.seconds
        train.epoch = at.epoch  # shuffles and window draws differ by epoch
        options = {"carry_state": plan.carry_state, "precision": plan.precision, "rate": plan.rate}
        options |= {"clip": plan.clip, "at": at, "stop": stop, "bar": bar}
        try:
            loss = train_epoch(self.model, train, self.optimizer, **options)
            with mean_weights(self.optimizer):
                valid_loss = evaluate(self.model, valid) if at.batch == len(train) else None
            self.check(valid_loss)
        except TrainingDiverged as error:
            raise self.diverged(error) from None
        at.seconds = time.perf_counter() - began
        if valid_loss is not None:
            self.close_epoch(loss, valid_loss, bar)
            if at.epoch in self.cycles:
                with mean_weights(self.optimizer):
                    save_checkpoint(self.cycles[at.epoch], self.model, self.vocab, self.history)
        if at.step == plan.total_steps:
            take_mean(self.optimizer)
        self.history.interrupted = stop.is_set() and at.step < plan.total_steps
        self.save()

    def check(self, valid_loss: float | None) -> None:
        """The last update may have spoilt the weights without a loss that shows it."""
        if valid_loss is not None and not math.isfinite(valid_loss):
            raise TrainingDiverged(f"the validation loss is {valid_loss}")
        for name, weights in self.model.named_parameters():
            if not weights.isfinite().all():
                raise TrainingDiverged(f"{name} holds numbers that are not finite")

    def close_epoch(self, loss: float, valid_loss: float, bar: tqdm) -> None:
        at, history = self.at, self.history
        history.train.append(loss)
        history.valid.append(valid_loss)
        history.seconds.append(at.seconds)
        history.characters.append(at.characters)
        at.epoch, at.batch, at.loss_sum, at.targets, at.state = at.epoch + 1, 0, 0.0, 0, None
        if not bar.disable:
            line = f"epoch {at.epoch}: training {loss:.4f}, validation {valid_loss:.4f}"
            bar.write(f"{line}, {at.seconds:.0f} s")

    def diverged(self, error: TrainingDiverged) -> TrainingDiverged:
        at, losses = self.at, [f"{loss:.4f}" for loss in self.history.train]
        last = f"{at.loss_sum / at.targets:.4f}" if at.targets else (losses or ["none"])[-1]
        kept = f"; the last good checkpoint is in {self.folder}" if self.folder else ""
        where = f"step {at.step} (epoch {at.epoch + 1}): {error}"
        raised = TrainingDiverged(f"{where}; mean loss of the epoch until then: {last}{kept}")
        raised.history = self.history
        return raised

    def save(self) -> None:
        if self.folder is not None:
            where = (self.optimizer, self.at, self.plan.settings())
            save_run(self.folder, self.model, self.vocab, self.history, *where)


def _from(batches: Iterable, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from number `start` on; earlier ones are drawn and passed over."""
    for number, batch in enumerate(batches):
        if number >= start:
            yield batch


def _advance(at: Position, loss: float, x: Tensor, y: Tensor, bar: tqdm | None) -> None:
    targets = int((y != IGNORE).sum())
    at.batch, at.step = at.batch + 1, at.step + 1
    at.loss_sum, at.targets = at.loss_sum + loss * targets, at.targets + targets
    at.characters += x.numel()
    if bar is not None:
        bar.update()
