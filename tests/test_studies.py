"""Recorded studies: run once, appended whole, gone on with, read back."""

import errno
import io
import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from charlm_utils import cli
from charlm_utils.book import results, studies
from charlm_utils.book.studies import STUDIES, ch08, load, looks, rerun, run_study, runs
from charlm_utils.book.studies.ch07 import average_run, ladder, lstm_chosen, lstm_recipes
from charlm_utils.book.studies.points import SEEDS, Study, best_lr, searched
from charlm_utils.book.studies.runs import (
    Settings,
    build_model,
    first_updates,
    load_batches,
    read_settings,
    train_run,
)
from charlm_utils.cells import DropoutLSTM
from charlm_utils.corpora import load_corpus
from charlm_utils.saves import CheckpointError

SMALL = {"hidden_size": 12, "embedding_dim": 6, "batch_size": 8, "seq_len": 20, "epochs": 2}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def book(clean, tmp_path, monkeypatch, text_file):
    """A book folder of its own, the tests' text for a corpus, and a work folder to run in."""
    folder = tmp_path / "repository" / "book"
    folder.mkdir(parents=True)
    (folder / "published.json").write_text("[]", encoding="utf-8")
    monkeypatch.setattr(results, "_PACKAGE", folder.parent / "charlm_utils")
    for module in (runs, ch08):
        monkeypatch.setattr(module, "load_corpus", lambda *_, **__: load_corpus(text_file))
    monkeypatch.chdir(tmp_path)
    return folder


def study_of(monkeypatch, *points, run=train_run):
    study = Study("Is it small?", 1, lambda lines: list(points), run)
    monkeypatch.setitem(STUDIES, "small", study)


# ---- one run ----------------------------------------------------------------------------------


def test_a_run_reports_its_curves():
    found = train_run(SMALL)
    assert len(found["train"]) == len(found["valid"]) == len(found["seconds"]) == 2
    assert found["valid"][1] < found["valid"][0] < math.log(40)
    size = len(load_batches(SMALL, CPU)[2])
    assert found["parameters"] == 3 * 12 * (6 + 12 + 2) + size * (6 + 12 + 1)
    assert train_run(SMALL)["valid"] == found["valid"]  # the same again
    assert train_run(SMALL | {"seed": 1})["valid"] != found["valid"]


def test_the_first_epochs_are_those_of_the_whole_run():
    assert train_run(SMALL, stop_after=1)["valid"] == train_run(SMALL)["valid"][:1]


def test_the_first_updates_are_those_of_the_run():
    """All updates of an epoch give its training loss; fewer, the mean of the first of them."""
    settings = SMALL | {"l2": 1e-4, "schedule": [1, 1, 2]}
    whole = first_updates(settings, 10**6)
    assert whole == train_run(settings, stop_after=1)["train"][0]
    assert first_updates(settings, 5) > whole


def test_a_long_run_reports_what_can_be_repeated_at_once():
    settings = SMALL | {"early": 3}
    found = train_run(settings)
    assert found["early"] == first_updates(settings, 3) != found["train"][0]
    assert found["valid"] == train_run(SMALL)["valid"] and "early" not in train_run(SMALL)
    assert "early" not in train_run(settings, stop_after=1)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="hiden_size"):
        train_run({"hiden_size": 3})
    assert read_settings(Settings, {"lr": 1.0}) == replace(Settings(), lr=1.0)


@pytest.mark.parametrize(
    "wrong", [{"epochs": "3"}, {"lr": None}, {"tune": 1}, {"epochs": 3.0}, {"schedule": 2}]
)
def test_settings_have_types(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"the setting {name} can't be"):
        read_settings(Settings, wrong)
    assert read_settings(Settings, {"clip": None, "lr": 1, "schedule": [1, 2, 3]}).lr == 1


def test_tuning_never_sees_the_held_out_text():
    whole, held_out, vocab = load_batches({}, CPU)
    part, tuned_on, _ = load_batches({"tune": True}, CPU)

    def characters(batches):
        return [c for c in torch.cat([y for _, y in batches], dim=1).T.flatten().tolist() if c >= 0]

    kept = sum(len(y[y >= 0]) for _, y in held_out)
    size = round(kept / 0.2)
    assert sum(len(y[y >= 0]) for _, y in whole) == pytest.approx(0.8 * size, abs=2)
    assert sum(len(y[y >= 0]) for _, y in part) == pytest.approx(0.72 * size, abs=2)
    assert sum(len(y[y >= 0]) for _, y in tuned_on) == pytest.approx(0.08 * size, abs=2)
    first = next(iter(held_out))[1][0, :20]
    assert vocab.decode(first) not in vocab.decode(torch.tensor(characters(tuned_on)[:20]))


def test_a_share_of_the_training_part_leaves_the_held_out_text_alone():
    whole, held_out, _ = load_batches({"batch_size": 2}, CPU)
    part, same, _ = load_batches({"batch_size": 2, "data_share": 0.1}, CPU)
    assert part.targets == pytest.approx(whole.targets / 10, abs=2)
    assert torch.equal(part.grid[0, :20], whole.grid[0, :20])
    assert torch.equal(same.grid, held_out.grid)


def test_random_windows_come_from_the_training_part():
    settings = {"batch_size": 4, "seq_len": 6, "windows": 5, "seed": 3}
    windows, _, vocab = load_batches(settings, CPU)
    streams, _, _ = load_batches({"batch_size": 1}, CPU)
    text = vocab.decode(streams.grid[0])
    assert len(windows) == 5
    for x, y in windows:
        assert x.shape == y.shape == (4, 6) and torch.equal(x[:, 1:], y[:, :-1])
        assert all(vocab.decode(row) in text for row in x)
    first = next(iter(windows))[0]
    assert not torch.equal(next(iter(load_batches(settings | {"seed": 4}, CPU)[0]))[0], first)


def test_a_deep_run_is_inspected():
    deep = SMALL | {"core": "residual-gru", "num_layers": 3}
    found = ch08.deep_run(deep)
    assert found["valid"] == train_run(deep)["valid"]
    assert len(found["gradients"]) == 3 and all(g > 0 for g in found["gradients"])
    assert 0 < found["novel"] <= 1 and 1 <= found["longest_copy"] < 2_000
    assert found["fitted"] == pytest.approx(found["train"][-1], rel=0.2)
    assert ch08.deep_run(deep, stop_after=1)["valid"] == found["valid"][:1]


def test_a_deep_run_that_diverges_is_a_result():
    wild = SMALL | {"core": "relu-gru", "lr": 1e36, "clip": None, "warmup_steps": 0}
    found = ch08.deep_run(wild)
    assert "step" in found["diverged"] and "fitted" not in found


@pytest.mark.parametrize("core", ["rnn", "gru", "lstm", "dropout-lstm"])
def test_models_from_settings(core):
    model = build_model(SMALL | {"core": core, "num_layers": 2, "dropout": 0.3}, 30)
    assert (model.core.num_layers, model.core.hidden_size, model.dropout) == (2, 12, 0.3)
    assert isinstance(model.core, DropoutLSTM) == (core == "dropout-lstm")


def test_every_rate_reaches_the_lstm():
    rates = {"input_dropout": 0.1, "between": 0.2, "recurrent": 0.3}
    core = build_model(SMALL | rates | {"core": "dropout-lstm"}, 30).core
    assert {name: getattr(core, name) for name in rates} == rates


def test_identity_start_and_relu():
    plain = build_model(SMALL | {"core": "rnn"}, 30).core
    core = build_model(
        SMALL | {"core": "rnn", "start": "identity", "nonlinearity": "relu"}, 30
    ).core
    assert torch.equal(core.weight_hh_l0, torch.eye(12)) and core.nonlinearity == "relu"
    assert plain.nonlinearity == "tanh" and not torch.equal(plain.weight_hh_l0, torch.eye(12))


def test_cycles_are_reported_and_averaged(tmp_path):
    found = train_run(SMALL | {"epochs": 3, "schedule": [1, 2, 2]}, folder=tmp_path / "run")
    assert found["cycles"] == pytest.approx([found["valid"][0], found["valid"][2]])
    assert len(found["averages"]) == 1
    assert found["averages"][0] < sum(found["cycles"]) / 2


def test_a_phase_goes_on_from_another(tmp_path):
    first = train_run(SMALL | {"label": "one"}, folder=tmp_path / "one")
    second = train_run(SMALL | {"after": "one"}, folder=tmp_path / "two")
    assert second["valid"][0] < first["valid"][0]


def test_cycles_of_an_earlier_run_are_averaged_too(tmp_path):
    cyclic = SMALL | {"epochs": 3, "schedule": [1, 2, 2]}
    first = train_run(cyclic | {"label": "one"}, folder=tmp_path / "one")
    longer = SMALL | {"after": "one", "epochs": 2, "schedule": [2, 1, 1]}
    second = train_run(longer, folder=tmp_path / "two")
    assert second["cycles"] == pytest.approx([*first["cycles"], second["valid"][-1]])
    assert len(second["averages"]) == 2  # the last two, and all three
    assert second["averages"][0] < sum(second["cycles"][1:]) / 2


def test_the_mean_of_the_weights_is_reported_beside_the_run_before(tmp_path):
    first = train_run(SMALL | {"label": "one"}, folder=tmp_path / "one")
    even = {"after": "one", "epochs": 1, "schedule": "constant", "average": 0.5}
    second = train_run(SMALL | even, folder=tmp_path / "two")
    expected = [first["valid"][-1], second["valid"][-1]]
    assert second["cycles"] == pytest.approx(expected) and len(second["averages"]) == 1
    plain = train_run(SMALL | even | {"average": None}, folder=tmp_path / "three")
    assert plain["train"] == second["train"] and plain["valid"] != second["valid"]
    assert "cycles" not in plain


def test_runs_of_another_study_are_averaged(tmp_path):
    work = tmp_path / "runs" / "other"
    losses = [
        train_run(SMALL | {"seed": seed}, folder=work / f"seed {seed}")["valid"][-1]
        for seed in range(2)
    ]
    settings = {"members": ["other/seed 0", "other/seed 1"]}
    (mean,) = average_run(settings, folder=tmp_path / "runs" / "mine" / "x")["valid"]
    assert mean < sum(losses) / 2
    (alone,) = average_run({"members": ["other/seed 1"]}, folder=work / "x")["valid"]
    assert alone == pytest.approx(losses[1])
    with pytest.raises(CheckpointError):
        average_run({"members": ["other/seed 2"]}, folder=work / "x")


# ---- a study ----------------------------------------------------------------------------------


def test_a_study_is_run_recorded_and_read(monkeypatch, book, capsys):
    study_of(monkeypatch, SMALL, SMALL | {"seed": 1})
    assert run_study("small") == 2
    lines = load("small")
    assert [line["settings"] for line in lines] == [SMALL, SMALL | {"seed": 1}]
    for line in lines:
        assert line["command"] == "charlm study small" and line["torch"] == torch.__version__
        assert {"version", "commit", "dirty", "device", "wall", "precision"} <= line.keys()
        assert len(line["valid"]) == len(line["characters"]) == 2
    assert lines[0]["valid"] == pytest.approx(train_run(SMALL)["valid"], rel=1e-5)
    assert rerun(lines[0], 1) == pytest.approx(lines[0]["valid"][:1], rel=1e-5)
    assert run_study("small") == 0 and load("small") == lines  # nothing was missing
    assert "2 of 2" in capsys.readouterr().out


def test_what_is_missing_is_run_and_the_rest_kept(monkeypatch, book):
    study_of(monkeypatch, SMALL)
    run_study("small")
    before = (book / "runs" / "small.jsonl").read_bytes()
    study_of(monkeypatch, SMALL | {"seed": 1}, SMALL)
    assert run_study("small") == 1
    after = (book / "runs" / "small.jsonl").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 2


def test_a_stopped_run_leaves_no_line_and_goes_on(monkeypatch, book, tmp_path):
    study_of(monkeypatch, SMALL)
    expected = train_run(SMALL)["valid"]

    def stopped(point, *, folder):
        train_run(point, folder=folder, stop_after=1)
        raise KeyboardInterrupt

    study_of(monkeypatch, SMALL, run=stopped)
    with pytest.raises(KeyboardInterrupt):
        run_study("small", work=tmp_path / "work")
    assert not (book / "runs" / "small.jsonl").exists()
    study_of(monkeypatch, SMALL)
    assert run_study("small", work=tmp_path / "work") == 1
    assert load("small")[0]["valid"] == pytest.approx(expected, rel=1e-5)


def test_a_run_that_diverges_is_a_result(monkeypatch, book):
    wild = SMALL | {"lr": 1e36, "clip": None, "warmup_steps": 0, "epochs": 4}
    study_of(monkeypatch, wild, SMALL)
    assert run_study("small") == 2
    first, second = load("small")
    assert "step" in first["diverged"] and len(first["valid"]) < 4
    assert "diverged" not in second and len(second["valid"]) == 2


def test_names_and_files_that_are_not_there(monkeypatch, book):
    with pytest.raises(ValueError, match="no study 'laddder'; there are identity"):
        load("laddder")
    with pytest.raises(FileNotFoundError, match="charlm study ladder"):
        load("ladder")
    (book / "runs").mkdir()
    whole = '{"settings": {}}\n'
    for bad in ('{"b": \n', '{"b": ', "3\n", '{"b": 1}\n', "\0\0\0", "\xe9"):
        for first, number in (("", 1), (whole, 2), (whole + "\n", 3)):
            data = f"{first}{bad}".encode("latin-1")
            (book / "runs" / "ladder.jsonl").write_bytes(data)
            with pytest.raises(ValueError, match=f"line {number}: .*`charlm study ladder` sets"):
                load("ladder")
            (book / "runs" / "ladder.jsonl").write_bytes(data + b"\n" + whole.encode())
            with pytest.raises(ValueError, match=f"ladder.jsonl, line {number}: ") as caught:
                load("ladder")
            assert "sets" not in str(caught.value)  # only a last line is set aside


# ---- full disks, lost machines, two at once ---------------------------------------------------


@pytest.mark.parametrize("kept", [1, 150, -2])  # bytes of the line
@pytest.mark.parametrize("end", ["", "\n", "\0\0\0\0", "   "])
def test_a_last_line_that_was_cut_off_is_set_aside(monkeypatch, book, capsys, kept, end):
    monkeypatch.setitem(STUDIES, "small", fake(SMALL, SMALL | {"seed": 1}))
    run_study("small")
    path = book / "runs" / "small.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    torn = second[:kept]
    path.write_bytes(first + torn + end.encode())
    with pytest.raises(ValueError, match="small.jsonl, line 2: .*charlm study small"):
        load("small")
    capsys.readouterr()
    assert run_study("small") == 1
    assert "its last line is cut off" in capsys.readouterr().out
    lines = load("small")
    assert [line["settings"] for line in lines] == [SMALL, SMALL | {"seed": 1}]
    assert path.read_bytes().startswith(first) and path.read_bytes().count(b"\n") == 2
    aside = (book / "runs" / "small.damaged").read_bytes()
    assert aside.rstrip() == (torn + end.encode()).rstrip()
    assert run_study("small") == 0 and "cut off" not in capsys.readouterr().out


@pytest.mark.parametrize("end", ["", "\n\n", "\n    "])
def test_a_whole_last_line_stays_however_it_ends(monkeypatch, book, capsys, end):
    monkeypatch.setitem(STUDIES, "small", fake(SMALL))
    run_study("small")
    path = book / "runs" / "small.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.rstrip() + end.encode())
    monkeypatch.setitem(STUDIES, "small", fake(SMALL, SMALL | {"seed": 1}))
    assert run_study("small") == 1 and "cut off" not in capsys.readouterr().out
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 2


def test_damage_elsewhere_is_refused_before_anything_is_run(monkeypatch, book):
    study_of(monkeypatch, SMALL, run=None)
    (book / "runs").mkdir()
    (book / "runs" / "small.jsonl").write_text('{"b": \n{"settings": {}}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        run_study("small")


def test_a_line_that_no_longer_fits_leaves_the_file_as_it_was(monkeypatch, book):
    monkeypatch.setitem(STUDIES, "small", fake(SMALL))
    run_study("small")
    path = book / "runs" / "small.jsonl"
    before = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(STUDIES, "small", fake(SMALL, SMALL | {"seed": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(results.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            run_study("small")
    assert path.read_bytes() == before
    assert run_study("small") == 1


def fake(*points, ran=None):
    """A study whose runs take no time and are noted in `ran`."""

    def run(point, *, folder):
        (ran if ran is not None else []).append(point)
        return {"valid": [1.0]}

    return Study("Is it quick?", 1, lambda lines: list(points), run)


@pytest.mark.parametrize("kind", ["a folder in its place", "no folder for it", "a full disk"])
def test_a_file_that_cannot_be_written_is_found_out_before_the_run(monkeypatch, book, kind):
    ran = []
    monkeypatch.setitem(STUDIES, "small", fake(SMALL, ran=ran))
    if kind == "a folder in its place":
        (book / "runs" / "small.jsonl").mkdir(parents=True)
    elif kind == "no folder for it":
        (book / "runs").write_text("a file")
    else:
        (book / "runs").mkdir()
        monkeypatch.setattr(studies, "open", nearly_full, raising=False)
    with pytest.raises(OSError, match="small.jsonl|runs|No space"):
        run_study("small")
    assert ran == []
    assert not (book / "runs" / "small.jsonl").is_file()


def nearly_full(*args):
    """`open`, on a disk that has room for ten bytes."""
    file = io.FileIO(args[0], args[1].replace("b", ""))

    class Nearly:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            file.close()

        def write(self, data):
            return file.write(data[:10])

        def __getattr__(self, name):
            return getattr(file, name)

    return Nearly()


def test_the_trial_leaves_no_trace(monkeypatch, book):
    path = book / "runs" / "small.jsonl"
    path.parent.mkdir()
    studies._check_writable(path)
    assert not path.exists()
    path.write_text('{"settings": {}}\n', encoding="utf-8")
    studies._check_writable(path)
    assert path.read_text(encoding="utf-8") == '{"settings": {}}\n'


def test_a_study_is_run_by_one_process_at_a_time(monkeypatch, book):
    def run(point, *, folder):
        with pytest.raises(TimeoutError, match="small is being run by another process"):
            run_study("small")
        assert run_study("other") == ("seed" not in point)  # another study may
        return {"valid": [1.0]}

    monkeypatch.setitem(STUDIES, "other", fake(SMALL))
    study_of(monkeypatch, SMALL, SMALL | {"seed": 1}, run=run)
    assert run_study("small") == 2 and len(load("small")) == 2
    assert sorted(p.name for p in (book / "runs").iterdir()) == ["other.jsonl", "small.jsonl"]


# ---- running again ----------------------------------------------------------------------------


def test_a_run_that_went_on_from_another_is_run_again(monkeypatch, book, tmp_path):
    one, two = SMALL | {"label": "one"}, SMALL | {"label": "two", "after": "one"}
    study_of(monkeypatch, one, two)
    run_study("small")
    line = load("small")[1]
    before = tree(tmp_path / "runs")
    assert rerun(line, 1) == pytest.approx(line["valid"][:1], rel=1e-5)
    assert tree(tmp_path / "runs") == before  # the study's own checkpoints are left alone
    shutil.move(tmp_path / "runs" / "small", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="small/one: not there; .*`charlm study small`"):
        rerun(line, 1)
    assert rerun(line, 1, work=tmp_path / "elsewhere") == pytest.approx(line["valid"][:1], rel=1e-5)


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files}


def test_a_diverged_run_is_never_chosen(monkeypatch, book):
    def line(lr, **more):
        return {"settings": SMALL | {"lr": lr, "tune": True}, **more}

    lines = [
        line(1, valid=[1.0], diverged="step 9"),
        line(2, valid=[1.5, 1.2]),
        line(3, valid=[], diverged="step 0"),
        line(4, valid=[1.4, math.nan]),
    ]
    monkeypatch.setattr(studies, "tuning", lambda name: lines)
    assert studies.chosen("small") == SMALL | {"lr": 2}
    del lines[1]
    with pytest.raises(ValueError, match="small: no run of its search"):
        studies.chosen("small")


# ---- the search, and looks at the held-out text -----------------------------------------------

RATES = [SMALL | {"epochs": 1, "lr": lr} for lr in (1e-3, 4e-3)]


def searching(monkeypatch, seeds=(0,)):
    """A study `small` that chooses between two rates, then runs the better one for each seed."""
    study = Study("Which rate?", 1, lambda lines: searched(lines, RATES, seeds))
    monkeypatch.setitem(STUDIES, "small", study)


def replace_lines(book, *names):
    """Lines of other studies that were scored on the held-out text and then replaced."""
    lines = [json.dumps({"study": name, "settings": {}, "valid": [2.0]}) for name in names]
    (book / "runs").mkdir(exist_ok=True)
    (book / "runs" / "replaced.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_search_ends_before_the_held_out_text_is_read(monkeypatch, book):
    searching(monkeypatch, seeds=(0, 1))
    assert run_study("small", search=True) == 2
    lines = load("small")
    assert [line["settings"] for line in lines] == [rate | {"tune": True} for rate in RATES]
    assert run_study("small", search=True) == 0 and load("small") == lines
    assert run_study("small") == 2  # no repository here: nothing to wait for
    best = min(lines, key=lambda line: line["valid"][-1])["settings"]["lr"]
    finals = [line["settings"] for line in load("small")[2:]]
    assert finals == [RATES[0] | {"lr": best, "seed": seed} for seed in (0, 1)]


def test_a_search_goes_on_past_a_run_on_the_held_out_text(monkeypatch, book):
    """As in `lstm_chosen`, where such a run may stand before the last of the search."""
    mixed = [RATES[0] | {"tune": True}, RATES[0], RATES[1] | {"tune": True}]
    study_of(monkeypatch, *mixed)
    assert run_study("small", search=True) == 2
    assert [line["settings"] for line in load("small")] == [mixed[0], mixed[2]]


def test_a_study_without_a_search_has_nothing_to_do_before(monkeypatch, book):
    study_of(monkeypatch, SMALL)
    assert run_study("small", search=True) == 0
    assert not (book / "runs" / "small.jsonl").exists()


def test_each_look_at_the_held_out_text_is_counted(monkeypatch, book):
    searching(monkeypatch, seeds=(0, 1))
    assert looks("small") == 0
    run_study("small", search=True)
    assert [line["looks"] for line in load("small")] == [0, 0] and looks("small") == 0
    replace_lines(book, "small", "ladder", "small")
    assert looks("small") == 2 and looks("ladder") == 1 and looks("bptt") == 0
    run_study("small")
    assert [line["looks"] for line in load("small")] == [0, 0, 3, 4] and looks("small") == 4


def test_search_and_what_came_of_it_are_told_apart(monkeypatch, book):
    searching(monkeypatch, seeds=(0, 1))
    assert studies.tuning("small") == studies.final("small") == []
    with pytest.raises(ValueError):
        studies.chosen("small")
    run_study("small")
    lines = load("small")
    assert studies.tuning("small") == lines[:2] and studies.final("small") == lines[2:]
    best = min(lines[:2], key=lambda line: line["valid"][-1])
    assert studies.chosen("small") == {k: v for k, v in best["settings"].items() if k != "tune"}
    assert studies.final("small")[0]["settings"] == studies.chosen("small") | {"seed": 0}


def git(book, *arguments):
    who = ("-c", "user.name=A Reader", "-c", "user.email=reader@example.org")
    command = ["git", "-C", str(book), *who, "-c", "commit.gpgsign=false", *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(book):
    """The book's folder as a repository with one commit."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    git(book, "init", "--quiet")
    git(book, "add", ".")
    git(book, "commit", "--quiet", "-m", "first")
    return book


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_line_says_whether_the_code_was_changed(book):
    """Of the package, which lies beside the book; what else was changed does not matter."""
    root, package = book.parent, book.parent / "charlm_utils"
    package.mkdir()
    (package / "models.py").write_text("x = 1\n", encoding="utf-8")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    (book / "note.md").write_text("a page\n", encoding="utf-8")
    assert not studies._provenance("small")["dirty"]
    (package / "models.py").write_text("x = 2\n", encoding="utf-8")
    assert studies._provenance("small")["dirty"]
    git(root, "commit", "--quiet", "-am", "changed")
    assert not studies._provenance("small")["dirty"]
    (package / "new.py").write_text("", encoding="utf-8")
    assert studies._provenance("small")["dirty"]


def test_the_search_is_committed_before_the_held_out_text_is_read(monkeypatch, repository):
    searching(monkeypatch, seeds=(0, 1))
    for _ in range(2):  # it is not written down, and asking twice is no way round
        with pytest.raises(ValueError, match="commit the search first: .*small.jsonl"):
            run_study("small")
        assert [line["settings"].get("tune") for line in load("small")] == [True, True]
    git(repository, "add", ".")
    with pytest.raises(ValueError, match="commit the search first"):
        run_study("small")
    git(repository, "commit", "--quiet", "-m", "the search")
    assert run_study("small") == 2
    assert [line["looks"] for line in load("small")] == [0, 0, 1, 2]


def test_a_search_that_was_changed_after_its_commit_is_refused(monkeypatch, repository):
    searching(monkeypatch)
    run_study("small", search=True)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "the search")
    path = repository / "runs" / "small.jsonl"
    first, second = path.read_text(encoding="utf-8").splitlines()
    first = json.loads(first)
    path.write_text(f"{json.dumps(first | {'valid': [0.1]})}\n{second}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="commit the search first"):
        run_study("small")


def test_a_study_without_a_search_needs_no_commit(monkeypatch, repository):
    study_of(monkeypatch, SMALL | {"epochs": 1}, SMALL | {"epochs": 1, "seed": 1})
    assert run_study("small") == 2


# ---- what the studies run ---------------------------------------------------------------------


def tuned(points):
    """Lines as if every tuning run were done, the second learning rate always the best."""
    order = sorted({p["lr"] for p in points})
    return [{"settings": p, "valid": [abs(order.index(p["lr"]) - 1)]} for p in points]


@pytest.mark.parametrize("name", ["ladder", "bptt"])
def test_rates_are_chosen_on_the_training_part(name):
    points = STUDIES[name].points
    first = points([])
    assert all(p["tune"] for p in first) and len(first) == len({json.dumps(p) for p in first})
    assert points(tuned(first)[:-1]) == first  # one is missing
    rest = points(tuned(first))[len(first) :]
    assert rest and not any("tune" in p for p in rest)
    assert {p["lr"] for p in rest} == {sorted({p["lr"] for p in first})[1]}


def test_best_lr_takes_the_last_loss():
    lines = [
        {"settings": {"lr": 1.0, "tune": True, "core": "a"}, "valid": [1.0, 3.0]},
        {"settings": {"lr": 2.0, "tune": True, "core": "a"}, "valid": [4.0, 2.0]},
        {"settings": {"lr": 3.0, "tune": True, "core": "b"}, "valid": [1.0, 1.0]},
        {"settings": {"lr": 4.0, "core": "a"}, "valid": [0.0, 0.0]},
    ]
    assert best_lr(lines, {"core": "a"}) == 2.0


def test_the_ladder_is_fair():
    points = ladder(tuned(ladder([])))
    final = [p for p in points if "tune" not in p]
    assert len(final) == 15 and {p["seed"] for p in final} == {0, 1, 2}
    assert len({(p["epochs"], p["batch_size"], p["dropout"]) for p in final}) == 1
    sizes = {}
    for p in final:
        core = build_model(p, 57).core
        sizes[p["core"], p["hidden_size"]] = sum(w.numel() for w in core.parameters())
    for pair in (("rnn", 465), ("lstm", 217)):  # as many parameters as the GRU, to 1 %
        assert sizes[pair] == pytest.approx(sizes["gru", 256], rel=0.01)


@pytest.mark.parametrize("name", STUDIES)
def test_every_point_can_be_built(name):
    points = STUDIES[name].points
    known = points([])
    known = points(tuned(known)) if any(p.get("tune") for p in known) else known
    assert known and STUDIES[name].minutes <= 120 and STUDIES[name].question.endswith("?")
    for point in known:
        if STUDIES[name].run in (train_run, ch08.deep_run):
            read_settings(Settings, point)
            build_model(point | {"hidden_size": 4}, 9)


# ---- the recipes ------------------------------------------------------------------------------


def lines_of(points, losses):
    """Lines as if these points were done."""
    return [{"settings": p, "valid": [9.0, v]} for p, v in zip(points, losses, strict=True)]


@pytest.mark.parametrize("name", ["rnn_live", "rnn_long", "gru_live", "gru_long", "lstm_live"])
def test_a_search_is_every_combination(name):
    points = STUDIES[name].points([])
    choices = {key: len({json.dumps(p[key]) for p in points}) for key in points[0]}
    assert len({json.dumps(p) for p in points}) == len(points) == math.prod(choices.values())
    assert choices["lr"] > 1


def test_the_best_of_a_search_is_run_for_each_seed():
    points = [{"core": "rnn", "lr": lr} for lr in (1, 2, 3)]
    search = searched([], points)
    assert search == [p | {"tune": True} for p in points]
    lines = lines_of(search, (1.5, 1.3, 1.4))
    assert searched(lines[:2], points) == search  # one is missing
    final = [{"core": "rnn", "lr": 2, "seed": seed} for seed in SEEDS]
    assert searched(lines, points) == search + final
    lines += lines_of(final, (1.7, 1.2, 1.8))  # what the held-out text says changes nothing
    assert searched(lines, points) == search + final
    assert searched(lines, points, seeds=(5,)) == [*search, final[0] | {"seed": 5}]


@pytest.mark.parametrize("name", ["rnn_live", "rnn_long", "gru_live", "gru_long", "lstm_live"])
def test_a_recipe_is_chosen_on_the_development_part(name):
    points = STUDIES[name].points
    search = points([])
    assert (
        len(search) > 1 and all(p["tune"] for p in search) and not any("seed" in p for p in search)
    )
    for best in (0, len(search) - 1):
        losses = [1.0 if i == best else 2.0 for i in range(len(search))]
        final = points(lines_of(search, losses))[len(search) :]
        chosen = {k: v for k, v in search[best].items() if k != "tune"}
        assert final == [chosen | {"seed": seed} for seed in (0, 1, 2)]


def chain(losses):
    """`lstm_chosen` done to its end: its points, given the losses of the search by label."""
    lines, points = [], lstm_chosen([])
    while todo := [p for p in points if p.get("tune") and not done(p, lines)]:
        lines += lines_of(todo, [losses(p["label"]) for p in todo])
        points = lstm_chosen(lines)
    return points


def done(point, lines):
    return any(point == line["settings"] for line in lines)


RECIPES = list(lstm_recipes())
ENDINGS = [f"search mean, 1 epochs at {lr}" for lr in ("0.001", "0.0025", "0.005")]
ENDINGS.append("search mean, 3 epochs at 0.0025")


@pytest.mark.parametrize("ending", [None, *ENDINGS])
@pytest.mark.parametrize("longer", [False, True])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (3, 2), (2, 0)])
def test_the_long_lstm_is_what_had_the_lowest_development_loss(first, second, longer, ending):
    """`first` is best after 48 epochs; after 16 it was second."""
    finalists = [f"search 48 epochs, {RECIPES[i]}" for i in (first, second)]
    low = {f"search {RECIPES[second]}": 1.29, f"search {RECIPES[first]}": 1.30}
    low |= {finalists[0]: 1.27, finalists[1]: 1.28, "search longer": 1.26 if longer else 1.31}
    points = chain(lambda label: (low | {ending: 1.25}).get(label, 1.40))
    search = [p for p in points if p.get("tune")]
    assert [p["label"] for p in search] == [
        *(f"search {name}" for name in RECIPES), *finalists[::-1], "search longer", *ENDINGS
    ]  # fmt: skip
    final, by_label = points[len(search) :], {p["label"]: p for p in search}
    labels = ["cycles"] + ["longer"] * longer + ["mean"] * (ending is not None)
    assert [p["label"] for p in final] == labels and not any("tune" in p for p in final)
    assert [p.get("after") for p in final] == [None, *labels[:-1]]
    chosen = [finalists[0]] + ["search longer"] * longer + [ending] * (ending is not None)
    for phase, label in zip(final, chosen, strict=True):
        names = ("label", "after", "tune", "early")
        same = [{k: v for k, v in p.items() if k not in names} for p in (phase, by_label[label])]
        assert same[0] == same[1]
        # and it was searched after the very phases that it now follows
        followed = by_label[label].get("after")
        assert followed == (chosen[chosen.index(label) - 1] if phase is not final[0] else None)


def test_the_first_phase_of_the_long_lstm_does_not_wait_for_its_ending():
    """What is settled may run beside the rest of the search, which can't change it."""
    lines = lines_of(points := lstm_chosen([]), [1.3, 1.31, 1.4, 1.5])
    finalists = lstm_chosen(lines)[len(points) :]
    points = lstm_chosen(lines + lines_of(finalists, [1.28, 1.29]))
    assert [p["label"] for p in points if "tune" not in p] == ["cycles"]
    assert points[-1]["label"] == "search longer"


def test_every_phase_of_the_long_lstm_can_be_built():
    for first in RECIPES:
        low = {f"search {first}": 1.3, f"search 48 epochs, {first}": 1.3, "search longer": 1.29}
        low |= {ENDINGS[1]: 1.2}
        for point in chain(lambda label, low=low: low.get(label, 1.4)):
            read_settings(Settings, point)
            model = build_model(point | {"hidden_size": 4}, 9)
            sizes = [tuple(w.shape) for w in model.parameters()]
            first_model = build_model(lstm_recipes()[first] | {"hidden_size": 4}, 9)
            assert sizes == [tuple(w.shape) for w in first_model.parameters()]  # weights fit on


# ---- the book's own files ---------------------------------------------------------------------

RUNS = Path(studies.__file__).parents[3] / "book" / "runs"
STORED = sorted(set(RUNS.glob("*.jsonl")) - {RUNS / "replaced.jsonl"})


def recorded(path):
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_recorded_studies_are_of_this_code(path):
    """Every line in the book's own files is a run that its study names."""
    lines = recorded(path)
    points = STUDIES[path.stem].points(lines)
    for line in lines:
        assert line["settings"] in points, line["settings"]
        assert len(line["commit"]) == 40 and not line["dirty"]
        assert line.get("diverged") or all(math.isfinite(loss) for loss in line["valid"])
    assert len({json.dumps(line["settings"]) for line in lines}) == len(lines), "a run twice"


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_recorded_looks_are_those_there_were(path):
    lines, gone = recorded(path), recorded(RUNS / "replaced.jsonl")
    final = [line for line in lines if not line["settings"].get("tune")]
    assert all(line.get("looks", 0) == 0 for line in lines if line not in final)
    looks = [line["looks"] for line in final if "looks" in line]  # the first studies did not count
    there_were = len(final) + sum(
        line.get("count", 1) for line in gone if line["study"] == path.stem
    )
    assert looks == sorted(set(looks)) and all(1 <= look <= there_were for look in looks)


def test_replaced_runs_are_of_a_study_and_no_longer_in_it():
    lines = recorded(RUNS / "replaced.jsonl")
    assert lines
    for line in lines:
        assert line["study"] in STUDIES and len(line["commit"]) == 40
        assert not line["settings"].get("tune") and math.isfinite(line["valid"][-1])
        path = RUNS / f"{line['study']}.jsonl"
        kept = recorded(path) if path.is_file() else []
        assert line["valid"] not in [other["valid"] for other in kept]


# ---- the command ------------------------------------------------------------------------------


def test_the_command_lists_and_runs(monkeypatch, capsys):
    study_of(monkeypatch, SMALL)
    assert cli.main(["study"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in STUDIES) and "Is it small?" in out
    assert cli.main(["study", "small"]) == 0
    assert "1 runs done now" in capsys.readouterr().out
    assert cli.main(["study", "small", "--search"]) == 0
    assert "the search is complete" in capsys.readouterr().out
    assert cli.main(["study", "big"]) == 1
    assert "no study 'big'" in capsys.readouterr().err
