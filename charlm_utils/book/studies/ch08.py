"""The recorded studies of chapter 8: deep GRUs on tinyshakespeare, with and without skips.

Beside the curves a run reports the loss on its own training text (`fitted`), the gradient
that reaches each layer, and how much of a sample of 2,000 characters is recited.
"""

import itertools
import tempfile
from pathlib import Path

from charlm_utils.book.studies.points import Line, Study, grid, searched
from charlm_utils.book.studies.runs import (
    Settings,
    check_start,
    load_batches,
    read_settings,
    train_run,
)
from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.corpora import load_corpus
from charlm_utils.data import CharVocab, StreamBatches
from charlm_utils.device import pick_device
from charlm_utils.memory import gradient_by_layer, recitation
from charlm_utils.models import CharLM
from charlm_utils.sampling import generate
from charlm_utils.training import evaluate

SHAKESPEARE = {"corpus": "tinyshakespeare", "lower": False, "train_share": 0.9}
DEEP = SHAKESPEARE | {"core": "residual-gru"}


def deep_run(
    settings: dict,
    *,
    folder: Path | None = None,
    stop_after: int | None = None,
    fallback: str | None = None,
) -> dict:
    """`train_run`, then what the finished model makes of its own training text."""
    check_start(settings, folder)
    if stop_after is not None:
        return train_run(settings, folder=folder, stop_after=stop_after, fallback=fallback)
    with tempfile.TemporaryDirectory() as spare:
        folder = folder or Path(spare) / "run"
        found = train_run(settings, folder=folder, fallback=fallback)
        if "diverged" in found:
            return found
        model, vocab, _ = load_checkpoint(folder)
    assert vocab is not None  # `train_run` saves it
    return found | inspect_model(model, vocab, settings, fallback)


def inspect_model(
    model: CharLM, vocab: CharVocab, settings: dict, fallback: str | None = None
) -> dict:
    """Loss on the start of the training text, gradient by layer, and recitation."""
    s, device = read_settings(Settings, settings), pick_device()
    text = load_corpus(s.corpus, fallback=fallback).text
    text = text.lower() if s.lower else text
    seen = text[: int(len(text) * s.train_share * s.data_share)]
    start = StreamBatches(vocab.encode(seen[:60_000]), 32, 256, device=device)
    _, valid, _ = load_batches(settings, device, fallback)
    x, y = next(iter(valid))
    model = model.to(device).eval()
    sample = generate(model, vocab, "\n", 2_000, temperature=0.8, seed=0)[1:]
    copied = recitation(sample, seen)
    layers = [] if s.core == "lstm" else gradient_by_layer(model, x[:, :64], y[:, :64]).tolist()
    return {
        "fitted": evaluate(model, start),
        "gradients": layers,
        "longest_copy": copied.longest,
        "novel": copied.novel,
    }


def depth(lines: list[Line]) -> list[dict]:
    """1, 2, 4 and 8 layers of 128 units, skips and norm on and off, two learning rates."""
    common = DEEP | {"hidden_size": 128, "seq_len": 32, "epochs": 2, "warmup_steps": 100}
    return [
        common | {"num_layers": layers, "skips": skips, "norm": norm, "lr": lr}
        for layers, lr, norm, skips in itertools.product(
            (1, 2, 4, 8), (3e-3, 6e-3), (False, True), (False, True)
        )
    ]


# the residual-GRU post as published: random windows of 40, 16 at a time,
# Adam, no clipping, no warm-up
SOURCE = SHAKESPEARE | {"batch_size": 16, "seq_len": 40, "lr": 2e-3, "schedule": "constant"}
SOURCE |= {"warmup_steps": 0, "betas": [0.9, 0.999], "clip": None}


def width(lines: list[Line]) -> list[dict]:
    """128, 256 and 512 units, three learning rates, with and without clipping, equal steps."""
    common = SOURCE | {"core": "relu-gru", "epochs": 4, "windows": 400}
    return [
        common | {"hidden_size": size, "embedding_dim": size, "lr": lr, "clip": clip}
        for size, lr, clip in itertools.product((128, 256, 512), (5e-4, 2e-3, 8e-3), (None, 1.0))
    ]


def source_deep(lines: list[Line]) -> list[dict]:
    """The residual-GRU post's two models and Karpathy's 3 x 512, validated as they never were."""
    first = SOURCE | {"core": "relu-gru", "hidden_size": 512, "embedding_dim": 512}
    second = SOURCE | {"core": "residual-gru", "projected": False, "num_layers": 8}
    second |= {"hidden_size": 128, "epochs": 3, "windows": 1_500}
    third = SHAKESPEARE | {"core": "lstm", "hidden_size": 512, "num_layers": 3, "lr": 2e-3}
    return [
        first | {"label": "first", "epochs": 4, "windows": 1_000},
        second | {"label": "residual"},
        second | {"label": "fifth", "data_share": 0.2},
        third | {"label": "karpathy", "epochs": 2, "batch_size": 50, "seq_len": 50},
    ]


def data(lines: list[Line]) -> list[dict]:
    """The whole training text, a half, a fifth, a tenth: equal characters read, four layers."""
    common = DEEP | {"hidden_size": 128, "num_layers": 4, "seq_len": 32, "lr": 4e-3}
    return [common | {"data_share": 1 / part, "epochs": 5 * part} for part in (1, 2, 5, 10)]


def dropout(lines: list[Line]) -> list[dict]:
    """Two layers of 256 units with dropout 0 to 0.5 on each layer's answer and at the end."""
    common = DEEP | {"hidden_size": 256, "num_layers": 2, "seq_len": 32, "epochs": 4}
    return [common | {"core_dropout": p, "dropout": p} for p in (0.0, 0.1, 0.3, 0.5)]


def projections(lines: list[Line]) -> list[dict]:
    """The first layer projected or plain, a projection behind each layer or none."""
    common = DEEP | {"hidden_size": 128, "num_layers": 4, "seq_len": 32, "epochs": 3}
    return [
        common | {"projected": projected, "projection": projection}
        for projected, projection in itertools.product((True, False), (True, False))
    ]


def residual_long(lines: list[Line]) -> list[dict]:
    """What `depth` found best, wider and for longer: eight layers of 256 units."""
    recipe = DEEP | {"label": "long", "num_layers": 8, "hidden_size": 256, "norm": True}
    recipe |= {"core_dropout": 0.25, "dropout": 0.25, "seq_len": 32, "epochs": 12}
    return [recipe | {"lr": 4e-3, "warmup_steps": 300, "weight_decay": 0.05}]


def residual_live(lines: list[Line]) -> list[dict]:
    """Chapter 8's stack of eight layers of 128 units, three readings."""
    common = DEEP | {"num_layers": 8, "hidden_size": 128, "norm": True, "seq_len": 32}
    common |= {"epochs": 3, "warmup_steps": 100}
    return searched(lines, grid(common, {"lr": (4e-3, 6e-3, 9e-3), "weight_decay": (0.0, 0.05)}))


def residual_chosen(lines: list[Line]) -> list[dict]:
    """Eight layers of 256 units, twelve readings: rate and dropout searched, then run once."""
    common = DEEP | {"num_layers": 8, "hidden_size": 256, "norm": True, "seq_len": 32}
    common |= {"epochs": 12, "warmup_steps": 300, "weight_decay": 0.05}
    tried = ((4e-3, 0.25), (4e-3, 0.35), (6e-3, 0.25))
    points = [common | {"lr": lr, "core_dropout": p, "dropout": p} for lr, p in tried]
    return searched(lines, points, seeds=(0,), early=100)


STUDIES = {
    "depth": Study("What do depth, skips and a norm do to a GRU?", 40, depth, deep_run),
    "width": Study("Why do 128 units beat 512 in the residual-GRU post?", 30, width, deep_run),
    "data": Study("How much is recited as the training text shrinks?", 15, data, deep_run),
    "dropout": Study("How much dropout do two layers want?", 15, dropout, deep_run),
    "projections": Study("What do projections add?", 10, projections, deep_run),
    "source_deep": Study(
        "What do the residual-GRU post's models score?", 40, source_deep, deep_run
    ),
    "residual_live": Study("What do eight layers of 128 reach in minutes?", 20, residual_live),
    "residual_long": Study("What does a residual stack reach?", 40, residual_long, deep_run),
    "residual_chosen": Study("And eight of 256, read twelve times?", 120, residual_chosen),
}
