"""One training loop for every model of the book, and the number that judges them all."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from charlm_utils.batching import IGNORE
from charlm_utils.checkpoint import CheckpointError, History, has_checkpoint
from charlm_utils.device import autocast, pick_precision
from charlm_utils.resume import Position, State, load_run, save_run, stop_signals
from charlm_utils.schedules import Plan, learning_rate
from charlm_utils.vocab import CharVocab


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
    """One update. Returns the loss before it (nats per character) and the detached state."""
    with autocast(x.device, precision):
        logits, state = model(x, state)
    loss = mean_loss(logits, y)
    value = loss.item()
    if not math.isfinite(value):  # before the update: the weights are still good
        raise TrainingDiverged(f"the loss is {value}")
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return value, detach_state(state)


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
                group["lr"] = rate(at.step)
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
    schedule: str | Callable[[float], float] = "cosine",
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
) -> History:
    """Train with AdamW for `epochs` passes, validating after each; returns the history.

    With `checkpoint_dir` the model (and `vocab`) is saved after every epoch and when
    Ctrl-C or SIGTERM asks to stop; `resume=True` goes on from there to the last bit.
    Raises `TrainingDiverged` when the loss is not finite: the last checkpoint stays.
    """
    if epochs < 1 or not 0 < lr < math.inf or (clip is not None and not clip > 0):
        raise ValueError(
            f"epochs must be at least 1, lr and clip above 0, not {epochs}, {lr} and {clip}"
        )
    precision = precision or pick_precision(next(model.parameters()).device)
    steps, shape = epochs * len(train), tuple(next(iter(train))[0].shape)
    _ = learning_rate(0, steps, lr, schedule=schedule), autocast("cpu", precision)  # or ValueError
    updates = (lr, warmup_steps, schedule, betas, weight_decay, clip)
    plan = Plan(steps, shape, *updates, carry_state, precision, seed)
    run = _Run(model, plan, vocab, checkpoint_dir)
    run.open(resume)
    quiet = not progress if progress is not None else os.environ.get("CHARLM_QUIET") == "1"
    with (
        stop_signals() as stop,
        tqdm(total=steps, initial=run.at.step, delay=3, disable=quiet) as bar,
    ):
        while run.at.epoch < epochs and not stop.is_set():
            run.epoch(train, valid, stop, bar)
    run.history.interrupted = run.at.epoch < epochs
    return run.history


class _Run:
    """The moving parts of one call of `fit`: where it stands, and what it saves."""

    def __init__(self, model: nn.Module, plan: Plan, vocab: CharVocab | None, folder):
        torch.manual_seed(plan.seed)
        self.model, self.plan, self.vocab = model, plan, vocab
        self.folder = None if folder is None else Path(folder)
        self.at, self.history = Position(), History()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), plan.lr, plan.betas, weight_decay=plan.weight_decay
        )

    def open(self, resume: bool) -> None:
        if self.folder is None or not has_checkpoint(self.folder):
            self.save()  # an unwritable folder is found out before the first hour, not after
            return
        if not resume:
            raise CheckpointError(f"{self.folder} holds a checkpoint already; resume=True goes on")
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
            valid_loss = evaluate(self.model, valid) if at.batch == len(train) else None
            self.check(valid_loss)
        except TrainingDiverged as error:
            raise self.diverged(error) from None
        at.seconds = time.perf_counter() - began
        if valid_loss is not None:
            self.close_epoch(loss, valid_loss, bar)
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
