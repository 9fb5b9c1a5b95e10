"""The recorded studies of chapter 9: models that learn to add."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charlm_utils.book.studies.points import Line, Study
from charlm_utils.book.studies.runs import read_settings
from charlm_utils.data import CharVocab
from charlm_utils.device import pick_device, pick_precision, seed_everything
from charlm_utils.models import CharLM, count_parameters, make_core
from charlm_utils.optim import decay_groups, learning_rate
from charlm_utils.resume import Position
from charlm_utils.training import mean_loss, train_epoch
from charlm_utils.tutor import (
    SYMBOLS,
    Form,
    Lessons,
    Tutor,
    VanillaRNN,
    ask,
    both_orders,
    carries,
    exact_match,
    make_batch,
    split_pairs,
)


@dataclass(frozen=True)
class Settings:
    """All that decides what a run does. A study's points are dicts of those that are not these."""

    cell: str = "gru"  # or linear, tanh: the arithmetic notebook's network
    hidden_size: int = 256
    embedding_dim: int = 32
    limit: int = 100  # numbers below this
    held_out: float = 0.1  # of the unordered pairs; 0: examined on what was taught
    exam: int = 2_000  # questions at most
    reverse: bool = True
    width: int = 0
    start: str = "zero"  # the state before a question: zero, random or carried
    rounds: int = 10
    steps: int = 200
    batch_size: int = 256
    lr: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0  # of the weights, the pairs and the tutor
    own_streams: bool = False  # True: pairs and tutor draw other random numbers than the weights


class StartsFrom(nn.Module):
    """A model that begins from a random state, or from the one another question left behind."""

    def __init__(self, model: VanillaRNN, start: str, lessons: Lessons):
        super().__init__()
        self.model, self.start, self.lessons = model, start, lessons
        self.hidden_size = model.hidden_size

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if state is None and self.start == "random":
            state = torch.randn(len(x), self.hidden_size).to(x.device)
        if state is None and self.start == "carried" and not self.training:
            before, _ = make_batch(
                self.lessons.tutor.ask(len(x)), self.lessons.vocab, self.lessons.form
            )
            _, state = self.model(before.to(x.device))
        return self.model(x, state)


def teach(
    model: nn.Module,
    lessons: Lessons,
    exam: list[str],
    *,
    rounds: int,
    lr: float,
    weight_decay: float = 0.0,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train with AdamW on `rounds` times `lessons`, and examine after each round.

    Not by `train_epochs`: what is validated here are whole answers, in which the network reads its
    own digits, and not a loss over batches. The updates are those of `train_epoch`.
    Returns by round the losses `train` and `valid` (nats per character of the answer), the
    share of `exact` answers, that of questions with 0, 1, 2 … `carries`, `characters` read
    and `seconds`.
    """
    optimizer = torch.optim.AdamW(decay_groups(model, weight_decay), lr, (0.9, 0.99))
    total, small = rounds * len(lessons), lessons.batch_size < 64  # bf16 pays for big products
    precision = "float32" if small else pick_precision(next(model.parameters()).device)
    x, y = (part.to(lessons.device) for part in make_batch(exam, lessons.vocab, lessons.form))
    names = ("train", "valid", "exact", "carries", "characters", "seconds")
    found: dict[str, list[Any]] = {name: [] for name in names}
    rate = functools.partial(learning_rate, total_steps=total, lr=lr)
    at, began = Position(), time.perf_counter()
    for _ in range(rounds if stop_after is None else stop_after):
        at.batch, at.loss_sum, at.targets = 0, 0.0, 0
        loss = train_epoch(model, lessons, optimizer, precision=precision, rate=rate, at=at)
        found["train"].append(loss)
        model.eval()
        with torch.no_grad():
            found["valid"].append(mean_loss(model(x)[0], y).item())
        said = ask(model, lessons.vocab, exam, lessons.form, longest=6)
        found["exact"].append(exact_match(said, exam))
        found["carries"].append(exact_by_carries(said, exam))
        found["characters"].append(at.characters)
        found["seconds"].append(time.perf_counter() - began)
    return found


def sums_run(
    settings: dict,
    *,
    folder: Path | None = None,
    stop_after: int | None = None,
    fallback: str | None = None,
) -> dict:
    """Teach one model; beside the curves, how it answers from a zero state.

    `folder` and `fallback` are not used. Raises `ValueError` for a setting not known, where pairs
    are to be held out and there are too few, and for a cell that can start from zero only.
    """
    s, device = read_settings(Settings, settings), pick_device()
    seed_everything(s.seed)
    vocab = CharVocab(SYMBOLS)
    tutor, exam = tutor_and_exam(s)
    form = Form(s.reverse, s.width)
    lessons = Lessons(tutor, vocab, s.batch_size, s.steps, form)
    lessons.contiguous, lessons.device = s.start == "carried", device
    inner = build_learner(s, len(vocab)).to(device)
    model = inner if s.start == "zero" else _starting(inner, s.start, lessons)
    found = teach(
        model,
        lessons,
        exam,
        rounds=s.rounds,
        lr=s.lr,
        weight_decay=s.weight_decay,
        stop_after=stop_after,
    )
    found |= {"parameters": count_parameters(model), "by_carries": found["carries"][-1]}
    return found | {"from_zero": exact_match(ask(inner, vocab, exam, form), exam)}


def _starting(model: nn.Module, start: str, lessons: Lessons) -> StartsFrom:
    if start not in ("random", "carried"):
        raise ValueError(f"start must be zero, random or carried, not {start!r}")
    if not isinstance(model, VanillaRNN):
        raise ValueError(f"only the cells linear and tanh start from other than zero, not {start}")
    return StartsFrom(model, start, lessons)


def tutor_and_exam(settings: dict | Settings) -> tuple[Tutor, list[str]]:
    """Who asks in a run's lessons, and the questions of its exam: of other pairs, if any are held.

    Raises `ValueError` where `held_out` is not 0 and leaves no pair to ask about.
    """
    s = read_settings(Settings, settings)
    seeds = [s.seed] * 2
    if s.own_streams:
        seeds = [s.seed * 1_000_003 + own for own in (1, 2)]
    taught, held = split_pairs(s.limit, s.held_out, seed=seeds[0])
    if s.held_out and not len(held):
        raise ValueError(f"a share of {s.held_out} of {len(taught)} pairs is none to ask about")
    exam = both_orders(held if len(held) else taught)
    return Tutor(taught, seed=seeds[1]), exam[:: -(-len(exam) // s.exam)]


def build_learner(settings: dict | Settings, vocab_size: int) -> VanillaRNN | CharLM:
    """The model that these settings name."""
    s = read_settings(Settings, settings)
    if s.cell in ("linear", "tanh"):
        linear = s.cell == "linear"
        return VanillaRNN(vocab_size, s.hidden_size, vocab_size, linear=linear)
    core = make_core(s.cell, s.embedding_dim, s.hidden_size)
    return CharLM(vocab_size, s.embedding_dim, core)


def exact_by_carries(answers: list[str], exam: list[str]) -> list[float | None]:
    """The share of exact answers to questions with 0, 1, 2 … carries."""
    groups: dict[int, list[tuple[str, str]]] = {}
    for answer, question in zip(answers, exam, strict=True):
        groups.setdefault(carries(question), []).append((answer, question))
    most = max(groups)
    return [
        exact_match(*zip(*groups[n], strict=True)) if n in groups else None for n in range(most + 1)
    ]


def sums_share(lines: list[Line]) -> list[dict]:
    """A twentieth to eight tenths of the pairs are taught, the rest is asked; 2,000 updates."""
    return [{"held_out": held} for held in (0.2, 0.6, 0.8, 0.9, 0.95)]


def sums_order(lines: list[Line]) -> list[dict]:
    """The answer's digits reversed or as written, three seeds."""
    return [{"seed": seed, "reverse": reverse} for seed in range(3) for reverse in (True, False)]


def sums_start(lines: list[Line]) -> list[dict]:
    """The arithmetic notebook's question: start at zero, at noise, or where the last one ended."""
    common = {"limit": 10, "held_out": 0.0, "width": 2, "reverse": False, "hidden_size": 64}
    common |= {"batch_size": 32, "rounds": 5, "steps": 400, "lr": 1e-2, "weight_decay": 0.0}
    return [
        common | {"cell": cell, "start": start, "seed": seed}
        for cell in ("linear", "tanh")
        for seed in range(5)
        for start in ("zero", "random", "carried")
    ]


def sums_three(lines: list[Line]) -> list[dict]:
    """Numbers of up to three digits, one in fifty pairs held out; 8,000 updates."""
    return [{"limit": 1_000, "held_out": 0.02, "rounds": 40}]


STUDIES: dict[str, Study] = {
    "sums_share": Study("How few pairs teach addition?", 5, sums_share, sums_run),
    "sums_order": Study("Units first, or last?", 6, sums_order, sums_run),
    "sums_start": Study("From what state should a question start?", 3, sums_start, sums_run),
    "sums_three": Study("How well does a GRU add three digits?", 6, sums_three, sums_run),
}
