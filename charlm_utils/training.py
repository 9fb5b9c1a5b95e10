"""One training loop for every model of the book, and the number that judges them all."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from charlm_utils.checkpoint import History, has_checkpoint, plain_model, save_checkpoint
from charlm_utils.data import IGNORE, Batches, CharVocab, check_batches
from charlm_utils.device import autocast, pick_precision
from charlm_utils.optim import (
    Cycles,
    Recipe,
    Schedule,
    describe_group,
    keep_mean,
    mean_for_saving,
    mean_weights,
    parameter_groups,
    take_mean,
    walk_on,
)
from charlm_utils.resume import Position, State, load_run, save_run, stop_signals
from charlm_utils.saves import CheckpointError, lock_folder
from charlm_utils.terminal import Display


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


def train_epoch(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    clip: float | None = 1.0,
    carry_state: bool = True,
    precision: str = "float32",
    rate: Callable[[int], float] | None = None,
    at: Position | None = None,
    stop: threading.Event | None = None,
    bar: tqdm | Display | None = None,
) -> float:
    """One pass over the batches; returns the mean training loss, nats per character.

    `rate(step)` sets the learning rate before each update; `at` is where to begin and is
    moved along; a `stop` that is set ends the pass after the current update.
    """
    check_batches(batches)
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


@contextlib.contextmanager
def evaluating(model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Without dropout inside; afterwards each module is in the mode it was in.

    With `gradients` they can be taken on a CUDA device too, where cuDNN's recurrent layers have a
    backward pass in training mode only: within the block torch computes them itself. Needed
    around the forward pass.
    """
    before = [(module, module.training) for module in model.modules()]
    cudnn = torch.backends.cudnn.enabled
    model.eval()
    torch.backends.cudnn.enabled = cudnn and not gradients
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for module, training in before:
            module.training = training


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, *, precision: str = "float32") -> float:
    """The loss on every target of `batches`, each counted once, in nats per character.

    Starts from a zero state and carries it on where the batches are contiguous. Raises
    `ValueError` where no batch has a target, and `TypeError` for other than `data.Batches`. The
    model ends in the mode it was in, in any case.
    """
    check_batches(batches)
    with evaluating(model):
        total, targets = _summed_loss(model, batches, precision)
    if targets == 0:
        raise ValueError("there is no target to be scored")
    return total / targets


def _summed_loss(model: nn.Module, batches: Batches, precision: str) -> tuple[float, int]:
    """The loss summed over all targets, in nats, and their number."""
    total, targets, state = 0.0, 0, None
    for x, y in batches:
        with autocast(x.device, precision):
            logits, new_state = model(x, state)
        state = new_state if batches.contiguous else None
        if count := int((y != IGNORE).sum()):  # no target, no mean
            total += mean_loss(logits, y).item() * count
            targets += count
    return total, targets


def fit(
    model: nn.Module,
    train: Batches,
    valid: Batches,
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
) -> History:
    """Train with AdamW for `epochs` passes, validating after each; returns the history.

    In short for `train_epochs` with a `Recipe` of these settings, saved in `checkpoint_dir`.
    """
    numbers = (epochs, lr, warmup_steps, schedule, betas, weight_decay, clip)
    recipe = Recipe(*numbers, carry_state, precision, seed)
    keep = None if checkpoint_dir is None else Keep(Path(checkpoint_dir))
    return train_epochs(model, train, valid, recipe, keep=keep, resume=resume, progress=progress)


@dataclass(frozen=True)
class Keep:
    """Where a run is saved, and what of it beside the model: its alphabet, and how it was made.

    `made` is what JSON can hold (see `load_made`).
    """

    folder: Path
    vocab: CharVocab | None = None
    made: dict | None = None


def train_epochs(
    model: nn.Module,
    train: Batches,
    valid: Batches,
    recipe: Recipe,
    *,
    keep: Keep | None = None,
    resume: bool = False,
    progress: bool | None = None,
    stop_after: int | None = None,
) -> History:
    """Train as the recipe says, validating after each epoch; returns the history.

    With `keep` the model is saved after every epoch and when Ctrl-C, SIGTERM or SIGHUP asks to
    stop; `resume=True` goes on from there to the last bit. The recipe's `epochs` may then be
    others than the run was begun with, as long as they are no fewer than it has behind it: from
    where it stands on, the rate follows the schedule over all of them. Under the schedule
    `Cycles` each cycle leaves its model in the sub-folder `cycle-1`, `cycle-2` …
    `stop_after` ends the run after so many of its epochs. `progress` shows a bar and a line for
    each epoch; None does so unless `CHARLM_QUIET` is 1.
    Raises `TrainingDiverged` when the loss is not finite: the last checkpoint stays;
    `CheckpointError` where the folder holds another run, or one that is going on; and `TypeError`
    for batches that don't say whether they are contiguous (see `data.Batches`).
    """
    check_batches(train, valid)
    run = _Run(model, train, recipe, keep)
    last = recipe.epochs if stop_after is None else min(recipe.epochs, stop_after)
    with run.lock(), stop_signals() as stop, _hang_up(stop):
        run.open(resume)
        with Display(run.steps, run.at.step, progress) as display:
            while run.at.epoch < last and not stop.is_set():
                run.epoch(train, valid, stop, display)
    take_mean(run.optimizer)  # where it was stopped, too: it is what the history speaks of
    run.history.interrupted = run.at.epoch < recipe.epochs
    return run.history


def make_optimizer(
    groups: list[dict], lr: float, betas: tuple[float, float], weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """AdamW, by its other name: the class AdamW forgets `l2_groups` when a run is resumed."""
    return torch.optim.Adam(
        groups, lr, betas, weight_decay=weight_decay, fused=True, decoupled_weight_decay=True
    )


@contextlib.contextmanager
def _hang_up(stop: threading.Event) -> Iterator[None]:
    """A terminal that is closed asks to stop, as Ctrl-C does, unless `nohup` keeps it from it."""
    number = getattr(signal, "SIGHUP", None)  # there is none on Windows
    main = threading.current_thread() is threading.main_thread()
    if number is None or not main or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


class _Run:
    """The moving parts of one call of `train_epochs`: where it stands, and what it saves."""

    def __init__(self, model: nn.Module, train: Batches, recipe: Recipe, keep: Keep | None):
        device = next(model.parameters()).device
        self.precision = recipe.precision or pick_precision(device)
        autocast(device, self.precision)  # or ValueError
        torch.manual_seed(recipe.seed)
        self.model, self.recipe, self.keep = model, recipe, keep
        self.epoch_steps, self.steps = len(train), recipe.epochs * len(train)
        groups = parameter_groups(model, recipe.groups, recipe.lr)
        self.settings = recipe.settings() | {
            "batch_shape": list(next(iter(train))[0].shape),
            "precision": self.precision,
            "groups": [list(describe_group(group, recipe.weight_decay)) for group in groups],
        }
        self.at, self.history, self.kept = Position(), History(), 0  # `kept`: updates in the folder
        self.optimizer = make_optimizer(groups, recipe.lr, recipe.betas, recipe.weight_decay)
        if recipe.average is not None:
            keep_mean(self.optimizer, recipe.average)

    def lock(self) -> contextlib.AbstractContextManager:
        """Keeps every other run out of the folder."""
        return contextlib.nullcontext() if self.keep is None else lock_folder(self.keep.folder)

    @property
    def cycles(self) -> dict[int, Path]:
        """Where the model is kept after which epochs: the ends of the schedule's cycles."""
        if self.keep is None or not isinstance(self.recipe.schedule, Cycles):
            return {}
        ends = enumerate(self.recipe.schedule.ends, start=1)
        return {end: self.keep.folder / f"cycle-{i}" for i, end in ends}

    def open(self, resume: bool) -> None:
        """Find out that the folder can be written, or go on from what it holds."""
        keep = self.keep
        folders = [keep.folder, *self.cycles.values()] if keep else []
        found = [folder for folder in folders if has_checkpoint(folder)]
        if keep is None or not found:
            self.save()  # an unwritable folder is found out before the first hour, not after
            return
        if not resume:
            raise CheckpointError(f"{found[0]} holds a checkpoint already; resume=True goes on")
        where = (keep.folder, plain_model(self.model), keep.vocab, self.optimizer)
        self.at, self.history = load_run(*where, self.settings)
        walk_on(self.optimizer)
        self.kept = self.at.step
        self.check_place(keep.folder)

    def check_place(self, folder: Path) -> None:
        """Epochs as long as they were, and no fewer than are done."""
        at = self.at
        if at.step != at.epoch * self.epoch_steps + at.batch:
            raise CheckpointError(f"{folder}: an epoch had not {self.epoch_steps} updates before")
        if at.step > self.steps:
            done = f"{at.epoch + (at.batch > 0)} epochs were begun"
            raise CheckpointError(f"{folder}: {done}, which is more than {self.recipe.epochs}")

    def epoch(self, train: Batches, valid: Batches, stop: threading.Event, show: Display) -> None:
        """Train to the end of the epoch, or to the first update after `stop`, and save."""
        at, began = self.at, time.perf_counter() - self.at.seconds
        train.epoch = at.epoch  # shuffles and window draws differ by epoch
        try:
            loss = self.updates(train, stop, show)
            with mean_weights(self.optimizer):
                valid_loss = evaluate(self.model, valid) if at.batch == len(train) else None
            self.check(valid_loss)
        except TrainingDiverged as error:
            raise self.diverged(error) from None
        at.seconds = max(at.seconds, time.perf_counter() - began)  # a clock may be set back
        if valid_loss is not None:
            self.close_epoch(loss, valid_loss)
        self.history.interrupted = stop.is_set() and at.step < self.steps
        self.save()  # before anything is shown
        if valid_loss is not None:
            losses = f"training {loss:.4f}, validation {valid_loss:.4f}"
            show.say(f"epoch {at.epoch}: {losses}, {at.seconds:.0f} s")

    def updates(self, train: Batches, stop: threading.Event, show: Display) -> float:
        """Train from where the run stands to the end of the epoch, or to `stop`."""
        return train_epoch(
            self.model,
            train,
            self.optimizer,
            clip=self.recipe.clip,
            carry_state=self.recipe.carry_state,
            precision=self.precision,
            rate=lambda step: self.recipe.rate(step, self.steps),
            at=self.at,
            stop=stop,
            bar=show,
        )

    def check(self, valid_loss: float | None) -> None:
        """The last update may have spoilt the weights without a loss that shows it."""
        if valid_loss is not None and not math.isfinite(valid_loss):
            raise TrainingDiverged(f"the validation loss is {valid_loss}")
        for name, weights in self.model.named_parameters():
            if not weights.isfinite().all():
                raise TrainingDiverged(f"{name} holds numbers that are not finite")

    def close_epoch(self, loss: float, valid_loss: float) -> None:
        """Enter a finished epoch into the history; keep the model at the end of a cycle."""
        at, history, keep = self.at, self.history, self.keep
        history.train.append(loss)
        history.valid.append(valid_loss)
        history.seconds.append(at.seconds)
        history.characters.append(at.characters)
        at.epoch, at.batch, at.loss_sum, at.targets, at.state = at.epoch + 1, 0, 0.0, 0, None
        if keep is not None and at.epoch in self.cycles:
            folder, model = self.cycles[at.epoch], plain_model(self.model)
            with mean_weights(self.optimizer):
                save_checkpoint(folder, model, keep.vocab, history, made=keep.made)

    def diverged(self, error: TrainingDiverged) -> TrainingDiverged:
        """The error with where it happened, and what is left of the run."""
        at, losses = self.at, [f"{loss:.4f}" for loss in self.history.train]
        last = f"{at.loss_sum / at.targets:.4f}" if at.targets else (losses or ["none"])[-1]
        kept = "nothing was saved"
        if self.keep and self.kept:
            kept = f"the last good checkpoint is in {self.keep.folder}"
        where = f"step {at.step} (epoch {at.epoch + 1}): {error}"
        where += f"; mean loss of the epoch until then: {last}"
        raised = TrainingDiverged(where if self.keep is None else f"{where}; {kept}")
        raised.history = self.history
        return raised

    def save(self) -> None:
        """Write the run to its folder: the model that is judged, and what goes on from it."""
        if (keep := self.keep) is None:
            return
        run = (plain_model(self.model), keep.vocab, self.history, self.optimizer, self.at)
        settings = self.settings | {"total_steps": self.steps}
        with mean_for_saving(self.optimizer):
            save_run(keep.folder, *run, settings, made=keep.made)
        self.kept = self.at.step


def _from(batches: Batches, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from number `start` on; earlier ones are drawn and passed over."""
    for number, batch in enumerate(batches):
        if number >= start:
            yield batch


def _advance(at: Position, loss: float, x: Tensor, y: Tensor, bar: tqdm | Display | None) -> None:
    targets = int((y != IGNORE).sum())
    at.batch, at.step = at.batch + 1, at.step + 1
    at.loss_sum, at.targets = at.loss_sum + loss * targets, at.targets + targets
    at.characters += x.numel()
    if bar is not None:
        bar.update()
