"""A run from its settings: what it can't begin from, what is chosen, what is read first."""

import inspect
import math

import pytest
import torch

from charlm_utils.book.studies import STUDIES, ch07, ch08, rerun, runs
from charlm_utils.book.studies.ch07 import average_run, quotation_run
from charlm_utils.book.studies.points import best_line, best_lr, best_of
from charlm_utils.book.studies.runs import FirstBatches, first_updates, train_run
from charlm_utils.checkpoint import History, save_checkpoint
from charlm_utils.corpora import load_corpus
from charlm_utils.data import CharVocab, RandomWindows
from charlm_utils.models import CharLM
from charlm_utils.saves import CheckpointError

SMALL = {"hidden_size": 12, "embedding_dim": 6, "batch_size": 8, "seq_len": 20, "epochs": 2}


@pytest.fixture(autouse=True)
def own_text(clean, monkeypatch, text_file):
    monkeypatch.setattr(runs, "load_corpus", lambda *_, **__: load_corpus(text_file))


# ---- runs that need what others left behind ---------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_run_by_the_same_arguments(name):
    """`rerun` gives them to any line of any study."""
    given = inspect.signature(STUDIES[name].run).parameters
    assert {"settings", "folder", "stop_after", "fallback"} <= given.keys()
    rest = [p for n, p in given.items() if n != "settings"]
    assert all(p.default is None for p in rest)


def nothing_is_read(*args, **kwargs):
    raise AssertionError("the text was read")


LATER = SMALL | {"after": "longer"}


@pytest.mark.parametrize(
    "begin",
    [
        lambda: train_run(LATER),
        lambda: train_run(LATER, stop_after=1),
        lambda: ch08.deep_run(LATER),
        lambda: ch08.deep_run(LATER, stop_after=1),
        lambda: first_updates(LATER, 3),
    ],
)
def test_a_run_that_goes_on_from_another_says_what_it_lacks(begin, monkeypatch):
    monkeypatch.setattr(runs, "load_corpus", nothing_is_read)
    with pytest.raises(ValueError, match="weights of 'longer'.*can't be run again by itself"):
        begin()


def test_and_with_a_folder_it_names_the_file(tmp_path):
    with pytest.raises(CheckpointError, match="longer"):
        train_run(LATER, folder=tmp_path / "mine")


@pytest.mark.parametrize("name", ["quotations", "lstm_average"])
def test_a_line_made_of_others_checkpoints_says_what_it_lacks(name):
    run = {"quotations": quotation_run, "lstm_average": average_run}[name]
    line = {"settings": STUDIES[name].points([])[0], "command": f"charlm study {name}"}
    with pytest.raises(ValueError, match="checkpoints of other studies"):
        rerun(line, 1)
    with pytest.raises(ValueError, match="checkpoints of other studies"):
        run(line["settings"])


# ---- which run was best -----------------------------------------------------------------------


def line(lr, *valid, **more):
    return {"settings": {"lr": lr, "tune": True}, "valid": list(valid)} | more


LOW_AND_LOST = [
    line(1e-1, 1.2, diverged="step 90 (epoch 2): the loss is inf"),
    line(3e-2, diverged="step 2 (epoch 1): the loss is nan"),  # before its first epoch ended
]
SOUND = [line(1e-3, 1.9, 1.7), line(2e-3, 1.4, 1.5), line(4e-3, 1.8, 1.6)]


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_diverged_is_never_the_best(first):
    lines = [*LOW_AND_LOST, *SOUND] if first else [*SOUND, *LOW_AND_LOST]
    assert best_line(lines) is SOUND[1]  # by its last loss
    assert best_lr(lines, {}) == 2e-3
    assert best_of(lines, [line["settings"] for line in lines])["lr"] == 2e-3
    assert best_of(lines, [SOUND[0]["settings"], SOUND[2]["settings"]])["lr"] == 4e-3


@pytest.mark.parametrize("loss", [math.nan, -math.inf, math.inf])
def test_a_loss_that_is_no_number_is_never_the_best(loss):
    for lines in ([line(9.0, 1.0, loss), *SOUND], [*SOUND, line(9.0, 1.0, loss)]):
        assert best_lr(lines, {}) == 2e-3


def test_of_equals_the_first_is_the_best():
    assert best_lr([line(5e-3, 1.5), *SOUND], {}) == 5e-3


def test_where_no_run_came_to_its_end():
    points = [line["settings"] for line in LOW_AND_LOST]
    with pytest.raises(ValueError, match="of 2 runs none"):
        best_lr(LOW_AND_LOST, {})
    with pytest.raises(ValueError, match="of 2 runs none"):
        best_of(LOW_AND_LOST, points)
    with pytest.raises(ValueError, match="of 0 runs none"):
        best_of(SOUND, points)


# ---- the first batches of a run ---------------------------------------------------------------


def test_first_batches_are_drawn_anew_in_each_epoch():
    def windows():
        return RandomWindows(torch.arange(500), 4, 6, 5)

    whole, part = windows(), FirstBatches(windows(), 3)
    starts = set()
    for epoch in range(3):
        whole.epoch = part.epoch = epoch
        pairs = list(zip(whole, part, strict=False))
        assert len(pairs) == len(part) == 3
        assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)
        starts.add(tuple(pairs[0][1][0][:, 0].tolist()))
    assert len(starts) == 3
    assert len(FirstBatches(windows(), 9)) == 5


def test_a_quotation_is_counted_among_those_of_its_length(tmp_path, monkeypatch):
    """Up to 8, 16, 40 and 160 characters."""
    filler = "a b. " * 500
    vocab = CharVocab.from_text(filler + '"')
    model = CharLM(len(vocab), 3, torch.nn.GRU(3, 4, batch_first=True))
    save_checkpoint(tmp_path / "other" / "x" / "cycle-2", model, vocab, History())
    settings = {"of": "other", "label": "x", "cycle": 2}
    own = tmp_path / "text.txt"
    for module in (runs, ch07):
        monkeypatch.setattr(module, "load_corpus", lambda *_, **__: load_corpus(own))
    for length, place in zip((1, 8, 9, 16, 17, 40, 41, 160), (0, 0, 1, 1, 2, 2, 3, 3), strict=True):
        own.write_text(f'{filler}"{"A" * length}" b.')
        found = quotation_run(settings, folder=tmp_path / "quotations" / "y")
        assert math.isfinite(found["valid"][0]) and len(found["marks"]) == 4
        assert [not math.isnan(p) for p, _ in found["marks"]] == [i == place for i in range(4)]
