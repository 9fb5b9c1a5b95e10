"""One training run from its settings: what the recorded studies are made of.

Settings are plain JSON. What a run leaves out stands in `DEFAULTS`.
"""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from charlm_utils.cells import DropoutLSTM
from charlm_utils.checkpoint import load_checkpoint, load_weights
from charlm_utils.corpora import load_corpus
from charlm_utils.data import CharVocab, RandomWindows, StreamBatches, split_text
from charlm_utils.device import pick_device, pick_precision, seed_everything
from charlm_utils.models import CharLM, Ensemble, count_parameters, make_core, set_forget_bias
from charlm_utils.optim import Cycles, decay_groups, l2_groups, learning_rate, parameter_groups
from charlm_utils.training import TrainingDiverged, evaluate, fit, make_optimizer, train_epoch

DEFAULTS = {
    "label": "",  # names the folder of the checkpoints
    "after": "",  # go on from the weights of the run with this label
    "corpus": "nietzsche",
    "lower": True,
    "train_share": 0.8,
    "data_share": 1.0,  # keep only the start of the training part
    "windows": 0,  # this many batches of random windows an epoch, in place of streams
    "tune": False,  # hold out the last tenth of the training part in place of the held-out text
    "core": "gru",
    "embedding_dim": 64,
    "hidden_size": 256,
    "num_layers": 1,
    "core_dropout": 0.0,  # torch's own, between the layers; on each answer of `ResidualGRU`
    "skips": True,  # these four: of `ResidualGRU`, the core "residual-gru"
    "projected": True,
    "norm": False,
    "projection": False,
    "input_dropout": 0.0,  # these three: of `DropoutLSTM`, the core "dropout-lstm"
    "between": 0.0,
    "recurrent": 0.0,
    "forget_bias": None,  # of an LSTM, where its start is set; None: torch's, about 0
    "dropout": 0.0,  # on the core's output, one mask over time
    "nonlinearity": "tanh",  # of the plain RNN
    "start": "torch",  # or "identity": the recurrent matrix of the plain RNN
    "batch_size": 64,
    "seq_len": 64,
    "epochs": 12,
    "lr": 4e-3,
    "schedule": "cosine",  # a name, or [first, multiplier, count] of the cycles
    "warmup_steps": 50,
    "betas": [0.9, 0.99],
    "weight_decay": 0.0,  # of the matrices
    "l2": 0.0,  # of all weights, in the gradient, in place of weight_decay
    "clip": 1.0,
    "average": None,  # decay of a running mean of the weights
    "seed": 0,
}


def full_settings(settings: dict) -> dict:
    """Settings with the defaults filled in; raises `ValueError` for a name not known."""
    unknown = settings.keys() - DEFAULTS.keys()
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
    return DEFAULTS | settings


def load_batches(
    settings: dict, device: torch.device, fallback: str | None = None
) -> tuple[StreamBatches | RandomWindows, StreamBatches, CharVocab]:
    """Training batches, held-out streams (every character once) and the vocabulary."""
    s = full_settings(settings)
    text = load_corpus(s["corpus"], fallback=fallback).text
    text = text.lower() if s["lower"] else text
    vocab = CharVocab.from_text(text)
    ids = vocab.encode(text)
    start, end = len(split_text(text, (s["train_share"], 1 - s["train_share"]))[0]), len(text)
    if s["tune"]:
        start, end = start * 9 // 10, start
    kept, sizes = ids[: int(start * s["data_share"])], (s["batch_size"], s["seq_len"])
    if s["windows"]:
        train = RandomWindows(kept, *sizes, s["windows"], seed=s["seed"], device=device)
    else:
        train = StreamBatches(kept, *sizes, device=device)
    return train, StreamBatches(ids[start - 1 : end], 32, 256, device=device), vocab


def build_model(settings: dict, vocab_size: int) -> CharLM:
    """The model of a run, its weights drawn from the run's seed."""
    s = full_settings(settings)
    seed_everything(s["seed"])
    core = _build_core(s)
    model = CharLM(vocab_size, s["embedding_dim"], core, dropout=s["dropout"])
    if s["start"] == "identity":
        nn.init.eye_(core.weight_hh_l0)
    if s["forget_bias"] is not None:
        set_forget_bias(core, s["forget_bias"])
    return model


def _build_core(s: dict) -> nn.Module:
    sizes = s["embedding_dim"], s["hidden_size"], s["num_layers"]
    if s["core"] == "dropout-lstm":
        rates = {name: s[name] for name in ("input_dropout", "between", "recurrent")}
        return DropoutLSTM(*sizes, **rates)
    if s["core"] == "rnn":
        options = {"nonlinearity": s["nonlinearity"], "dropout": s["core_dropout"]}
        return nn.RNN(*sizes, batch_first=True, **options)
    switches = ("skips", "projected", "norm", "projection")
    options = {name: s[name] for name in switches} if s["core"] == "residual-gru" else None
    return make_core(s["core"], *sizes, s["core_dropout"], options)


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
    without a `folder`, beside which that one's weights would lie.
    """
    check_start(settings, folder)
    s, device = full_settings(settings), pick_device()
    train, valid, vocab = load_batches(s, device, fallback)
    model = build_model(s, len(vocab)).to(device)
    if s["after"]:
        load_weights(model, folder.parent / s["after"])
    cycles = not isinstance(s["schedule"], str)
    options = {name: s[name] for name in ("epochs", "lr", "warmup_steps", "clip", "seed")}
    options |= {"betas": tuple(s["betas"]), "groups": _groups(model, s), "average": s["average"]}
    options |= {"checkpoint_dir": folder, "resume": folder is not None, "vocab": vocab}
    options |= {"schedule": _schedule(s), "stop_after": stop_after, "progress": progress}
    found = {"parameters": count_parameters(model), "precision": pick_precision(device)}
    try:
        history = fit(model, train, valid, **options)
    except TrainingDiverged as error:
        history, found["diverged"] = error.history, str(error)
    if history.interrupted and stop_after is None and "diverged" not in found:
        raise KeyboardInterrupt
    found |= {name: getattr(history, name) for name in ("train", "valid", "seconds", "characters")}
    if folder is not None and (cycles or s["average"]):
        earlier = [folder.parent / s["after"]] if s["after"] else []
        found |= _cycles([*earlier, folder], valid, device)
    return found


def check_start(settings: dict, folder: Path | None) -> None:
    """Raise `ValueError` where a run goes on from another's weights and can't find them."""
    if folder is None and full_settings(settings)["after"]:
        raise ValueError(
            f"this run goes on from the weights of {settings['after']!r}, which lie in its study's "
            "folder: it can't be run again by itself"
        )


def first_updates(settings: dict, updates: int, *, fallback: str | None = None) -> float:
    """The mean training loss of a run's first updates: the run itself, cut short.

    In nats per character; what `train_run` does under the same settings, to the last bit.
    Raises `ValueError` for a run that goes on from another (`after`).
    """
    check_start(settings, None)
    s, device = full_settings(settings), pick_device()
    train, _, vocab = load_batches(s, device, fallback)
    model = build_model(s, len(vocab)).to(device)
    torch.manual_seed(s["seed"])  # as `fit` does
    groups = parameter_groups(model, _groups(model, s), s["lr"])
    optimizer = make_optimizer(groups, s["lr"], tuple(s["betas"]))
    rate = functools.partial(
        learning_rate,
        total_steps=s["epochs"] * len(train),
        lr=s["lr"],
        warmup_steps=s["warmup_steps"],
        schedule=_schedule(s),
    )
    options = {"clip": s["clip"], "precision": pick_precision(device), "rate": rate}
    return train_epoch(model, FirstBatches(train, updates), optimizer, **options)


class FirstBatches:
    """The first few batches of each epoch of another iterable of batches."""

    epoch = 0

    def __init__(self, batches: StreamBatches | RandomWindows, count: int):
        self.batches, self.count, self.contiguous = batches, count, batches.contiguous

    def __len__(self) -> int:
        return min(self.count, len(self.batches))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.batches.epoch = self.epoch
        return itertools.islice(self.batches, self.count)


def _schedule(s: dict) -> str | Cycles:
    return s["schedule"] if isinstance(s["schedule"], str) else Cycles(*s["schedule"])


def _groups(model: nn.Module, s: dict) -> list[dict]:
    return l2_groups(model, s["l2"]) if s["l2"] else decay_groups(model, s["weight_decay"])


def _cycles(folders: list[Path], valid: StreamBatches, device: torch.device) -> dict:
    """The held-out loss of each cycle's checkpoint, and of the last two, three … averaged.

    Where a run goes on from another (`after`), that one's cycles come first. A run without
    cycles has its last checkpoint only.
    """
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
