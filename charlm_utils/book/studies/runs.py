"""One training run from its settings: what the recorded studies are made of.

A study's points, and the lines that it leaves, are plain JSON; `Settings` fills in the rest.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import nn

from charlm_utils.cells import DropoutLSTM
from charlm_utils.checkpoint import History, load_checkpoint, load_weights
from charlm_utils.corpora import load_corpus
from charlm_utils.data import Batches, CharVocab, RandomWindows, StreamBatches, split_text
from charlm_utils.device import pick_device, pick_precision, seed_everything
from charlm_utils.models import (
    RATES,
    SWITCHES,
    CharLM,
    Ensemble,
    count_parameters,
    make_core,
    set_forget_bias,
)
from charlm_utils.optim import (
    Cycles,
    Recipe,
    decay_groups,
    l2_groups,
    parameter_groups,
)
from charlm_utils.training import (
    Keep,
    TrainingDiverged,
    evaluate,
    make_optimizer,
    train_epoch,
    train_epochs,
)

S = TypeVar("S")


@dataclass(frozen=True)
class Settings:
    """All that decides what a run does. A study's points are dicts of those that are not these."""

    label: str = ""  # names the folder of the checkpoints
    after: str = ""  # go on from the weights of the run with this label
    corpus: str = "nietzsche"
    lower: bool = True
    train_share: float = 0.8
    data_share: float = 1.0  # keep only the start of the training part
    windows: int = 0  # this many batches of random windows an epoch, in place of streams
    tune: bool = False  # hold out the last tenth of the training part, not the held-out text
    core: str = "gru"
    embedding_dim: int = 64
    hidden_size: int = 256
    num_layers: int = 1
    core_dropout: float = 0.0  # torch's own, between the layers; on each answer of `ResidualGRU`
    skips: bool = True  # these four: of `ResidualGRU`, the core "residual-gru"
    projected: bool = True
    norm: bool = False
    projection: bool = False
    input_dropout: float = 0.0  # these three: of `DropoutLSTM`, the core "dropout-lstm"
    between: float = 0.0
    recurrent: float = 0.0
    forget_bias: float | None = None  # of an LSTM, where its start is set; None: torch's, about 0
    dropout: float = 0.0  # on the core's output, one mask over time
    nonlinearity: str = "tanh"  # of the plain RNN
    start: str = "torch"  # or "identity": the recurrent matrix of the plain RNN
    batch_size: int = 64
    seq_len: int = 64
    epochs: int = 12
    lr: float = 4e-3
    schedule: str | list[int] = "cosine"  # a name, or [first, multiplier, count] of the cycles
    warmup_steps: int = 50
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0  # of the matrices
    l2: float = 0.0  # of all weights, in the gradient, in place of weight_decay
    clip: float | None = 1.0
    average: float | None = None  # decay of a running mean of the weights
    seed: int = 0
    early: int = 0  # report, too, the mean training loss of so many first updates


def read_settings(kind: type[S], settings: dict | S) -> S:
    """A point's settings as the dataclass `kind`, with its defaults for all that it leaves out.

    Raises `ValueError` for a name that is not known, and for a value of another type.
    """
    if not isinstance(settings, dict):
        return settings
    kinds = get_type_hints(kind)
    if unknown := settings.keys() - kinds.keys():
        raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
    for name, value in settings.items():
        if not _fits(value, kinds[name]):
            raise ValueError(f"the setting {name} can't be {value!r}")
    return kind(**settings)


def _fits(value: object, kind: object) -> bool:
    """Whether a value, as JSON has it, is of a type such as `float | None` or `list[int]`."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    plain = {get_origin(k) or k for k in kinds}
    plain |= {int} if float in plain else set()
    plain |= {list} if tuple in plain else set()
    return type(value) in plain


def load_batches(
    settings: dict | Settings, device: torch.device, fallback: str | None = None
) -> tuple[Batches, StreamBatches, CharVocab]:
    """Training batches, held-out streams (every character once) and the vocabulary."""
    s = read_settings(Settings, settings)
    text = load_corpus(s.corpus, fallback=fallback).text
    text = text.lower() if s.lower else text
    vocab = CharVocab.from_text(text)
    ids = vocab.encode(text)
    start, end = len(split_text(text, (s.train_share, 1 - s.train_share))[0]), len(text)
    if s.tune:
        start, end = start * 9 // 10, start
    kept, sizes = ids[: int(start * s.data_share)], (s.batch_size, s.seq_len)
    train: Batches
    if s.windows:
        train = RandomWindows(kept, *sizes, s.windows, seed=s.seed, device=device)
    else:
        train = StreamBatches(kept, *sizes, device=device)
    return train, StreamBatches(ids[start - 1 : end], 32, 256, device=device), vocab


def build_model(settings: dict | Settings, vocab_size: int) -> CharLM:
    """The model of a run, its weights drawn from the run's seed.

    Raises `ValueError` where a `forget_bias` is asked for and the core is no LSTM.
    """
    s = read_settings(Settings, settings)
    seed_everything(s.seed)
    core = _build_core(s)
    model = CharLM(vocab_size, s.embedding_dim, core, dropout=s.dropout)
    if s.start == "identity":
        nn.init.eye_(core.get_parameter("weight_hh_l0"))
    if s.forget_bias is not None:
        if not isinstance(core, nn.LSTM):
            raise ValueError(f"a core {s.core} has no forget gates whose bias could be set")
        set_forget_bias(core, s.forget_bias)
    return model


def _build_core(s: Settings) -> nn.Module:
    sizes = s.embedding_dim, s.hidden_size, s.num_layers
    if s.core == "dropout-lstm":
        return DropoutLSTM(*sizes, **{name: getattr(s, name) for name in RATES})
    if s.core == "rnn":
        return nn.RNN(*sizes, batch_first=True, nonlinearity=s.nonlinearity, dropout=s.core_dropout)
    switches = SWITCHES if s.core == "residual-gru" else ()
    return make_core(s.core, *sizes, s.core_dropout, {name: getattr(s, name) for name in switches})


def train_run(
    settings: dict,
    *,
    folder: Path | None = None,
    stop_after: int | None = None,
    progress: bool | None = None,
    fallback: str | None = None,
) -> dict:
    """Train as the settings say; returns curves, parameters, precision and seconds.

    `folder` keeps the checkpoints, and an interrupted run goes on from there. Losses are in
    nats per character. `stop_after` runs only the first epochs of the schedule. A run whose
    loss is no longer finite ends there: its curves stop early, and `diverged` says where.
    Raises `ValueError` for unknown settings, and for a run that goes on from another (`after`)
    without a `folder`, beside which that one's weights would lie. With the setting `early` there is
    `early`, what `first_updates` gives: of a long run the part that can be repeated at once.
    """
    check_start(settings, folder)
    s, device = read_settings(Settings, settings), pick_device()
    train, valid, vocab = load_batches(s, device, fallback)
    model = build_model(s, len(vocab)).to(device)
    if s.after and folder is not None:
        load_weights(model, folder.parent / s.after)
    found = _described(model, device)
    try:
        history = train_epochs(
            model,
            train,
            valid,
            _recipe(model, s),
            keep=None if folder is None else Keep(folder, vocab),
            resume=True,
            progress=progress,
            stop_after=stop_after,
        )
    except TrainingDiverged as error:
        history, found["diverged"] = error.history or History(), str(error)
    if history.interrupted and stop_after is None and "diverged" not in found:
        raise KeyboardInterrupt
    found |= {name: getattr(history, name) for name in ("train", "valid", "seconds", "characters")}
    found |= _early(s, fallback) if stop_after is None else {}
    return found if folder is None else found | _cycles(s, folder, valid, device)


def _described(model: nn.Module, device: torch.device) -> dict[str, Any]:
    """What of a run is known before it begins."""
    return {"parameters": count_parameters(model), "precision": pick_precision(device)}


def check_start(settings: dict | Settings, folder: Path | None) -> None:
    """Raise `ValueError` where a run goes on from another's weights and can't find them."""
    after = read_settings(Settings, settings).after
    if folder is None and after:
        raise ValueError(
            f"this run goes on from the weights of {after!r}, which lie in its study's "
            "folder: it can't be run again by itself"
        )


def first_updates(settings: dict | Settings, updates: int, *, fallback: str | None = None) -> float:
    """The mean training loss of a run's first updates: the run itself, cut short.

    In nats per character; what `train_run` does under the same settings, to the last bit.
    Raises `ValueError` for a run that goes on from another (`after`).
    """
    check_start(settings, None)
    s, device = read_settings(Settings, settings), pick_device()
    train, _, vocab = load_batches(s, device, fallback)
    model = build_model(s, len(vocab)).to(device)
    recipe, steps = _recipe(model, s), s.epochs * len(train)
    torch.manual_seed(s.seed)  # as `train_epochs` does
    groups = parameter_groups(model, recipe.groups, s.lr)
    optimizer = make_optimizer(groups, s.lr, recipe.betas)
    return train_epoch(
        model,
        FirstBatches(train, updates),
        optimizer,
        clip=s.clip,
        precision=pick_precision(device),
        rate=lambda step: recipe.rate(step, steps),
    )


def _early(s: Settings, fallback: str | None) -> dict[str, float]:
    return {"early": first_updates(s, s.early, fallback=fallback)} if s.early else {}


class FirstBatches:
    """The first few batches of each epoch of another iterable of batches."""

    epoch: int | None = 0

    def __init__(self, batches: Batches, count: int):
        self.batches, self.count, self.contiguous = batches, count, batches.contiguous

    def __len__(self) -> int:
        return min(self.count, len(self.batches))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.batches.epoch = self.epoch
        return itertools.islice(self.batches, self.count)


def _recipe(model: nn.Module, s: Settings) -> Recipe:
    return Recipe(
        epochs=s.epochs,
        lr=s.lr,
        warmup_steps=s.warmup_steps,
        schedule=s.schedule if isinstance(s.schedule, str) else Cycles(*s.schedule),
        betas=(s.betas[0], s.betas[1]),
        clip=s.clip,
        seed=s.seed,
        groups=_groups(model, s),
        average=s.average,
    )


def _groups(model: nn.Module, s: Settings) -> list[dict]:
    return l2_groups(model, s.l2) if s.l2 else decay_groups(model, s.weight_decay)


def _cycles(s: Settings, folder: Path, valid: Batches, device: torch.device) -> dict:
    """The held-out loss of each cycle's checkpoint, and of the last two, three … averaged.

    Where a run goes on from another (`after`), that one's cycles come first. A run without
    cycles has its last checkpoint only, and is asked for it where it keeps a mean.
    """
    if isinstance(s.schedule, str) and not s.average:
        return {}
    folders = [folder.parent / s.after, folder] if s.after else [folder]
    paths = [path for folder in folders for path in _kept(folder)]
    models = [load_checkpoint(path)[0].to(device).eval() for path in paths]
    last = [Ensemble(models[-n:]) for n in range(2, len(models) + 1)]
    return {
        "cycles": [evaluate(model, valid) for model in models],
        "averages": [evaluate(model, valid) for model in last],
    }


def _kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("cycle-*"), key=_number) or [folder]


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])
