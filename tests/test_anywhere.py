"""Other processors imitated: what a run is kept under, what several say, and one nudged run."""

import json
import math
import random
import sys

import pytest
from book_reader import ROOT, tool
from small_notebooks import project, with_cells

from charlm_utils.book import results

anywhere = tool("anywhere")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A project of its own with three numbers, two of them with a measured spread."""
    folder = tmp_path / "book"
    folder.mkdir()
    known = {"01.a": 1.5, "01.b": 2.0, "02.c": 1.0}
    (folder / "results.json").write_text(json.dumps(known), encoding="utf-8")
    (folder / "spreads.json").write_text('{"01.a": 0.01, "02.c": 0.0}', encoding="utf-8")
    (folder / "published.json").write_text("[]", encoding="utf-8")
    monkeypatch.setattr(anywhere, "ROOT", tmp_path)
    monkeypatch.setattr(anywhere, "FOUND", tmp_path / "found")
    monkeypatch.setattr(results, "_PACKAGE", tmp_path / "charlm_utils")
    return folder


def found(cells=None, **values):
    return {"cells": cells or {"0": "passed"}, "values": values, "log": ""}


def runs(key, *values):
    return {f"run {i}": found(**{key: value}) for i, value in enumerate(values)}


# ---- spreads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "values", "expected"),
    [
        (1.5, [1.5, 1.5, 1.5], 0.0),
        (1.4142, [math.sqrt(2)] * 3, 0.0),  # only what five digits leave out
        (1.5, [1.50001], 0.0),
        (1.5, [1.5039], 0.012),  # three times, up
        (1.5, [1.5039, 1.4961], 0.012),
        (1.5, [1.5039, 1.5, 1.5, 1.5], 0.0059),  # the root of the mean of the squares
        (1.5, [1.50345], 0.011),  # 0.01035: up, not down
        (0.0, [0.0, 0.0], 0.0),
        (0.0, [0.00099], 0.003),
        (211730.0, [211740.0], 30.0),
        (24.418, [28.418], 12.0),
    ],
)
def test_a_spread_is_three_root_mean_squares(stored, values, expected):
    assert anywhere.spread(stored, values) == pytest.approx(expected)


def test_a_spread_is_rounded_up_to_two_digits():
    draw = random.Random(0)
    for _ in range(500):
        size, stored = 10 ** draw.uniform(-3, 3), draw.uniform(0.5, 9)
        values = [stored + size * draw.gauss(0, 1) for _ in range(8)]
        rms = math.sqrt(sum((v - stored) ** 2 for v in values) / 8)
        spread = anywhere.spread(stored, values)
        assert 3 * rms <= spread * (1 + 1e-12) and spread <= 3.3001 * rms
        assert float(f"{spread:.1e}") == pytest.approx(spread, rel=1e-9)


def test_what_the_runs_say_becomes_the_spreads(book):
    some = {"here": found(**{"01.a": 1.5, "01.b": 2.002}), "avx2": found(**{"01.a": 1.5})}
    some["avx2"]["values"]["09.unknown"] = 3.0  # not recorded: it has no spread
    assert anywhere.spreads(some) == {"01.a": 0.0, "01.b": 0.006}
    (book / "results.json").write_text('{"01.a": 1.5, "01.b": 2.0, "05.d": 1.0}', encoding="utf-8")
    anywhere.store_spreads({"01.ipynb": some, "05.ipynb": runs("05.d", 1.0, 1.02)})
    text = (book / "spreads.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    assert stored == {"01.a": 0.0, "01.b": 0.006, "05.d": 0.043}  # 02.c is no longer recorded
    assert list(stored) == sorted(stored) and text.endswith("}\n")


def test_spreads_of_other_notebooks_stay(book):
    anywhere.store_spreads({"01.ipynb": runs("01.b", 2.0)})
    known = json.loads((book / "spreads.json").read_text(encoding="utf-8"))
    assert known == {"01.a": 0.01, "01.b": 0.0, "02.c": 0.0}


# ---- what did not hold ------------------------------------------------------------------------


def test_numbers_outside_their_tolerance_are_named(book):
    some = {
        "here": found(**{"01.a": 1.5, "02.c": 1.0}),
        "avx2": found(**{"01.a": 1.5099, "02.c": 1.0009}),
        "threads": found(**{"01.a": 1.4899, "02.c": 1.0011}),
    }
    assert anywhere.outside(some) == {"01.a": ["threads"], "02.c": ["threads"]}


def test_numbers_without_a_record_or_a_spread_are_named_too(book):
    """Not passed over, and not a reason to break off after hours of runs."""
    assert anywhere.outside(runs("09.unknown", 1.0)) == {"09.unknown": ["run 0"]}
    assert anywhere.outside(runs("01.b", 2.0)) == {"01.b": ["run 0"]}


def test_the_table_names_cells_and_numbers(book):
    good, bad = {"0": "passed", "7": "passed"}, {"0": "passed", "7": "failed"}
    some = {
        "01.ipynb": {
            "here": found(good, **{"01.a": 1.5}),
            "avx2": found(bad, **{"01.a": 1.5}),
            "nudge-1": found(bad, **{"01.a": 1.6}),
        },
        "02.ipynb": {"here": found(good)},
    }
    assert anywhere.table(some) == [
        "01.ipynb: 2 cells, 3 imitations",
        "  cell 7: held in 1 of 3, not in avx2, nudge-1",
        "  01.a: held in 2 of 3, not in nudge-1",
        "02.ipynb: 2 cells, 1 imitations",
    ]


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite>
<testcase classname="01" name="01.ipynb::Cell 0" time="1"/>
<testcase classname="01" name="01.ipynb::Cell 1" time="1"><failure message="x"/></testcase>
<testcase classname="01" name="01.ipynb::Cell 2" time="1"><error message="x"/></testcase>
<testcase classname="01" name="01.ipynb::Cell 13" time="1"><skipped message="x"/></testcase>
</testsuite></testsuites>
"""


def test_cells_of_a_report(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT, encoding="utf-8")
    assert anywhere.cells(path) == {"0": "passed", "1": "failed", "2": "failed", "13": "passed"}


# ---- what a run is kept under -----------------------------------------------------------------


@pytest.fixture
def stored(tmp_path, book):
    """A notebook in a project, and the files that its runs depend on."""
    for name in ("charlm_utils/a.py", "charlm_utils/book/b.py", "conftest.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    notebook = with_cells([("1.5", "1.5")])
    notebook["cells"].append({"cell_type": "markdown", "id": "m", "metadata": {}, "source": "# T"})
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_digest_is_of_all_that_a_run_depends_on(stored, tmp_path):
    seen = [anywhere.digest(stored)]
    assert anywhere.digest(stored) == seen[0] and len(seen[0]) == 12
    edit(stored, "# T", "# Another title")
    assert anywhere.digest(stored) == seen[0]  # prose is not run
    edits = [(stored, "print('1.5')", "print('1.6')"), (stored, "1.5\\n", "1.6\\n")]
    for name in ("charlm_utils/a.py", "charlm_utils/book/b.py", "conftest.py"):
        edits.append((tmp_path / name, "x = 1", "x = 2"))
    for change in edits:
        edit(*change)
        seen.append(anywhere.digest(stored))
    assert len(set(seen)) == len(seen)


def test_a_run_that_was_done_is_not_done_again(stored, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    done = found(**{"01.a": 1.5})
    path = anywhere.FOUND / f"x.avx2.{anywhere.digest(stored)}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(done), encoding="utf-8")
    assert anywhere.run(stored, "avx2") == done
    with pytest.raises(FileNotFoundError):
        anywhere.run(stored, "here")
    edit(stored, "1.5", "1.6")
    with pytest.raises(FileNotFoundError):
        anywhere.run(stored, "avx2")


def test_the_command(stored, monkeypatch, capsys):
    verdicts = {"here": "passed", "avx2": "failed"}
    monkeypatch.setattr(
        anywhere, "run", lambda path, name: found({"3": verdicts[name]}, **{"02.c": 1.0})
    )
    monkeypatch.setenv("CHARLM_STRICT", "1")
    assert anywhere.main(["--only", "here", "--", str(stored)]) == 0
    assert anywhere.main(["--only", "here", "avx2", "--measure", "--", str(stored)]) == 1
    assert "cell 3: held in 1 of 2, not in avx2" in capsys.readouterr().out
    monkeypatch.setenv("CHARLM_STRICT", "0")
    with pytest.raises(SystemExit):
        anywhere.main([str(stored)])
    assert "CHARLM_STRICT" in capsys.readouterr().err


def test_imitations_are_those_of_decision_16():
    settings = anywhere.IMITATIONS
    assert settings["here"] == {} and len(settings) == len({str(s) for s in settings.values()})
    names = {name for one in settings.values() for name in one}
    assert names == {
        "ATEN_CPU_CAPABILITY",
        "CHARLM_PRECISION",
        "OMP_NUM_THREADS",
        "CHARLM_NUDGE",
    }
    assert sum("CHARLM_NUDGE" in one for one in settings.values()) >= 3


# ---- one notebook under one nudge -------------------------------------------------------------

TRAINING = """\
import torch
from torch import nn

from charlm_utils.book.results import record

torch.manual_seed(0)
x = torch.randn(64, 8).double()
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).double()
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for _ in range(20):
    loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
record("01.a", loss.item())
print(f"{loss.item():.2f}")"""
DRAWS = "print(torch.randint(10**9, (3,)).tolist())"
BEFORE = """\
import torch
from charlm_utils.book.results import record
torch.manual_seed(1)
record("01.b", torch.nn.Linear(4, 4)(torch.ones(4)).sum().item())
print(torch.randint(10**9, (3,)).tolist())"""


def printed(*sources):
    """What cells print, run here one after the other, and what they record."""
    lines, kept, scope = [], {}, {}
    for source in sources:
        scope["print"], out = (lambda text, out=lines: out.append(str(text))), len(lines)
        code = source.replace("from charlm_utils.book.results import record", "")
        scope["record"] = kept.__setitem__
        eval(compile(code, "cell", "exec"), scope)
        assert len(lines) == out + 1
    return lines, kept


def test_a_nudge_changes_the_last_digits_of_a_training_and_nothing_else(
    tmp_path, monkeypatch, clean
):
    sources = (BEFORE, TRAINING, DRAWS)
    lines, kept = printed(*sources)
    notebook = with_cells([("", f"{line}") for line in lines])
    for cell, source in zip(notebook["cells"], sources, strict=True):
        cell["source"] = source
    folder = project(tmp_path / "project", {"small": notebook})
    monkeypatch.setattr(anywhere, "ROOT", folder)
    monkeypatch.setattr(anywhere, "FOUND", folder / "found")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = folder / "notebooks" / "small.ipynb"
    here, nudged = (anywhere.run(path, name) for name in ("here", "nudge-1"))
    for one in (here, nudged):
        assert one["cells"] == {"0": "passed", "1": "passed", "2": "passed"}, one["log"]
        assert one["values"]["01.b"] == kept["01.b"]  # no training, no nudge
    off = abs(nudged["values"]["01.a"] - here["values"]["01.a"])
    assert here["values"]["01.a"] == pytest.approx(kept["01.a"], rel=1e-6)
    assert 0 < off < 1e-4 * here["values"]["01.a"]
    assert anywhere.run(path, "nudge-1") == nudged  # from its file
    assert len(list((folder / "found").iterdir())) == 2
