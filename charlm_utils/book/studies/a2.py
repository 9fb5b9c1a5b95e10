"""The recorded studies of appendix A2: perplexities on The Time Machine, letters only.

A point with `tune` is scored on the last tenth of the training part; what is best there is then
trained on the whole training part and scored on the held-out text.
"""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charlm_utils.book.studies.points import Line, Study, all_done, best_of
from charlm_utils.book.studies.runs import read_settings
from charlm_utils.corpora import load_corpus
from charlm_utils.data import CharVocab, StreamBatches, letters_only, split_text
from charlm_utils.device import pick_device, seed_everything
from charlm_utils.models import CharLM, count_parameters
from charlm_utils.optim import Recipe
from charlm_utils.training import TrainingDiverged, evaluate, train_epoch, train_epochs

OTHER_BOOKS = {"worlds": "war_of_the_worlds", "spain": "secret_history_court_of_spain"}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class GridSettings:
    """A point of the grid: sizes in units, characters and streams, one rate throughout."""

    num_hiddens: int
    num_steps: int
    lr: float
    batch_size: int = 16
    epochs: int = 10
    tune: bool = False


@dataclass(frozen=True)
class LowSettings:
    """A run of `low`: how the text is cut (see `lab_split`), the network, how it is trained."""

    cut: str
    hidden_size: int
    embedding_dim: int
    batch_size: int
    epochs: int
    lr: float
    dropout: float
    noise: float  # share of the letters read that are exchanged
    seed: int = 0
    tune: bool = False


class NoisyStreams:
    """`StreamBatches` in which a share of the inputs are letters drawn from anywhere in the text.

    The targets stay. Drawn anew in each epoch; iterable for `fit`.
    """

    contiguous = True
    epoch: int | None

    def __init__(self, ids: Tensor, batch_size: int, seq_len: int, share: float, *, device=None):
        if not 0 <= share < 1:
            raise ValueError(f"share must be at least 0 and below 1, not {share}")
        self.batches = StreamBatches(ids, batch_size, seq_len, device=device)
        self.letters, self.share, self.epoch = ids.cpu(), share, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(self.epoch or 0)
        for x, y in self.batches:
            places = torch.randint(len(self.letters), x.shape, generator=draw)
            swap = torch.rand(x.shape, generator=draw) < self.share
            yield torch.where(swap.to(x.device), self.letters[places].to(x.device), x), y


def lab_split(
    cut: str, fallback: str | None = None, *, tune: bool = False
) -> tuple[Tensor, Tensor, CharVocab]:
    """Training ids, the ids to be scored with the letter before them, and the vocabulary.

    `cut` is "90/10", "d2l" (10,032 letters, held out [10000:15032], as d2l's windows have it)
    or "whole" (the whole book; held out is The War of the Worlds [10000:15032]). With `tune`,
    of "90/10" only, the last tenth of the training part is scored and not trained on.
    """
    text = letters_only(load_corpus("timemachine", fallback=fallback).text)
    vocab = CharVocab.from_text(text)
    ids = vocab.encode(text)
    if tune and cut != "90/10":
        raise ValueError(f"only 90/10 has a development part, not {cut!r}")
    if cut == "whole":
        return ids, other_book("worlds", vocab, fallback), vocab
    if cut == "d2l":
        return ids[:10_032], ids[9_999:15_032], vocab
    if cut != "90/10":
        raise ValueError(f"cut must be 90/10, d2l or whole, not {cut!r}")
    start, end = len(split_text(text, (0.9, 0.1))[0]), len(text)
    if tune:
        start, end = start * 9 // 10, start
    return ids[:start], ids[start - 1 : end], vocab


def other_book(book: str, vocab: CharVocab, fallback: str | None = None) -> Tensor:
    """Letters [10000:15032] of another book with the one before them, in this vocabulary."""
    text = letters_only(load_corpus(OTHER_BOOKS[book], fallback=fallback).text)
    return vocab.encode(text[9_999:15_032])


def grid_run(
    settings: dict,
    *,
    folder: Path | None = None,
    stop_after: int | None = None,
    fallback: str | None = None,
) -> dict:
    """One point: one-hot letters, `nn.RNN`, plain SGD at one rate, gradients clipped at 1.

    Contiguous streams with the state carried on, in float32: for such small models faster than
    bf16. Returns losses in nats per character by epoch; a run whose loss is no longer
    finite ends there, and `diverged` says so. `folder` is not used: a run takes seconds.
    Not by `train_epochs`, which has AdamW and a schedule: plain SGD is what the exercises have.
    """
    s, device = read_settings(GridSettings, settings), pick_device()
    train, held_out, vocab = lab_split("90/10", fallback, tune=s.tune)
    model = one_hot_model(len(vocab), s.num_hiddens).to(device)
    batches = StreamBatches(train, s.batch_size, s.num_steps, device=device)
    valid = StreamBatches(held_out, 32, 256, device=device)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=s.lr)
    found: dict[str, Any] = {"train": [], "valid": [], "seconds": [], "characters": []}
    began = time.perf_counter()
    try:
        for epoch in range(1, (s.epochs if stop_after is None else stop_after) + 1):
            train_loss = train_epoch(model, batches, optimizer)
            row = (train_loss, evaluate(model, valid), time.perf_counter() - began)
            if not math.isfinite(row[1]):
                raise TrainingDiverged(f"the held-out loss is {row[1]}")
            for name, value in zip(found, (*row, epoch * batches.grid[:, 1:].numel()), strict=True):
                found[name].append(value)
    except TrainingDiverged as error:
        found["diverged"] = f"epoch {epoch}: {error}"
    return found | {"parameters": count_parameters(model)}


def one_hot_model(vocab_size: int, num_hiddens: int, nonlinearity: str = "tanh") -> CharLM:
    """The d2l exercises' network: a letter comes as a row of the identity matrix, never trained."""
    seed_everything(0)
    core = nn.RNN(vocab_size, num_hiddens, batch_first=True, nonlinearity=nonlinearity)
    model = CharLM(vocab_size, vocab_size, core)
    model.embedding = nn.Embedding.from_pretrained(torch.eye(vocab_size))
    return model


def low_run(
    settings: dict,
    *,
    folder: Path | None = None,
    stop_after: int | None = None,
    fallback: str | None = None,
) -> dict:
    """One tanh layer trained as well as we know how, and what it scores on this and other books.

    AdamW, cosine schedule, dropout on the output, some letters of the input exchanged. The
    held-out text of d2l's cut is read as one stream. A run with `tune` reads no other book.
    `folder` is not used.
    """
    s, device = read_settings(LowSettings, settings), pick_device()
    train, held_out, vocab = lab_split(s.cut, fallback, tune=s.tune)
    seed_everything(s.seed)
    core = nn.RNN(s.embedding_dim, s.hidden_size, batch_first=True)
    model = CharLM(len(vocab), s.embedding_dim, core, dropout=s.dropout).to(device)
    batches = NoisyStreams(train, s.batch_size, 16, s.noise, device=device)
    streams = 32 if s.cut == "90/10" else 1
    valid = StreamBatches(held_out, streams, 256, device=device)
    recipe = Recipe(s.epochs, s.lr, precision="float32")
    history = train_epochs(model, batches, valid, recipe, stop_after=stop_after)
    if history.interrupted and stop_after is None:
        raise KeyboardInterrupt
    found = {name: getattr(history, name) for name in ("train", "valid", "seconds", "characters")}
    found["parameters"] = count_parameters(model)
    for book in OTHER_BOOKS if stop_after is None and not s.tune else ():
        ids = other_book(book, vocab, fallback)
        found[book] = evaluate(model, StreamBatches(ids, 1, 256, device=device))
    return found


def grid(lines: list[Line]) -> list[dict]:
    """num_hiddens x num_steps x lr, the hundred points of the d2l exercises, ten epochs each.

    All are scored on the development part. The best of them, and the sizes with which the
    exercises begin, are then run on the whole training part.
    """
    common, sizes = {"batch_size": 16, "epochs": 10}, (8, 16, 32, 64, 128)
    points = [
        common | {"num_hiddens": hiddens, "num_steps": steps, "lr": lr}
        for hiddens, steps, lr in itertools.product(sizes, sizes, (0.01, 0.1, 1, 10))
    ]
    search = [point | {"tune": True} for point in points]
    if not all_done(search, lines):
        return search
    published = common | {"num_hiddens": 32, "num_steps": 32, "lr": 1}
    final = [_best(lines, search), published]
    return search + (final if final[0] != published else final[:1])


def low(lines: list[Line]) -> list[dict]:
    """d2l's 10,032 letters, nine tenths of the book, and all of it (scored on other books).

    Of two widths, the one that is better on the development part of 90/10. The settings of
    d2l's cut were chosen on letters 15,032 to 25,032, which belong to neither of its parts.
    """
    small: dict[str, Any] = {"hidden_size": 256, "embedding_dim": 256, "batch_size": 8}
    small |= {"epochs": 30, "lr": 3e-3, "dropout": 0.5, "noise": 0.06}
    large: dict[str, Any] = {"hidden_size": 256, "embedding_dim": 128, "batch_size": 32}
    large |= {"epochs": 20, "lr": 3e-3, "dropout": 0.3, "noise": 0.03}
    wide = large | {"hidden_size": 512, "embedding_dim": 256, "lr": 2e-3, "dropout": 0.4}
    search = [{"cut": "90/10"} | settings | {"tune": True} for settings in (large, wide)]
    if not all_done(search, lines):
        return search
    best = _best(lines, search)
    final = [point | {"seed": seed} for point in ({"cut": "d2l"} | small, best) for seed in SEEDS]
    return [*search, *final, best | {"cut": "whole", "seed": 0}]


def _best(lines: list[Line], search: list[dict]) -> dict:
    """The settings of the lowest last loss among the points that did not diverge."""
    return {name: value for name, value in best_of(lines, search).items() if name != "tune"}


STUDIES = {
    "perplexity_grid": Study(
        "Which of a hundred settings suits the d2l exercises' RNN?", 25, grid, grid_run
    ),
    "perplexity_low": Study("How low can one tanh layer go on The Time Machine?", 40, low, low_run),
}
