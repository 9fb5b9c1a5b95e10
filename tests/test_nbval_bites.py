"""The notebook checks can fail: stored outputs are changed one at a time, and nbval must object.

pytest runs in a subprocess, in a temporary copy that holds the root's conftest.py.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_notebooks import TINY, copy_of, project, with_cells, with_code, with_error

ROOT = Path(__file__).resolve().parents[1]
CORPUS_CELL = """\
from charlm_utils.corpora import load_corpus

corpus = load_corpus("nietzsche", fallback="python-docs")
print(len(corpus.text))"""

# name: (text in the stored outputs, what replaces it)
CHANGES = {
    "decimal_far": ("1.2345", "1.2962"),  # 5 %
    "integer": ("300 steps", "301 steps"),
    "word": ("nats", "bits"),
    "result_word": ("'gru'", "'rnn'"),
    "result_integer": ("'layers': 2", "'layers': 3"),
    "decimal_near": ("1.2345", "1.2407"),  # 0.5 %
    "unchanged": ("1.2345", "1.2345"),
}
# what a cell prints, what is stored, and whether nbval lets it pass: a cell each
SPREADS = [
    ("1.35 ± 0.03", "1.35 ± 0.03", True),
    ("1.35 ± 0.03", "1.32 ± 0.03", True),  # just inside
    ("1.35 ± 0.03", "1.31 ± 0.03", False),  # just outside, though 3 % would do without a spread
    ("1.35 ± 0.03", "1.39 ± 0.03", False),
    ("1.35 ± 0.03", "1.35", False),  # no spread in the book
    ("1.35", "1.35 ± 0.03", False),  # none here
    ("1.35 ± 0.04", "1.35 ± 0.03", False),  # wider than the book says
    ("1.35 ± 0.02", "1.35 ± 0.03", False),  # narrower
    ("74 ± 3 of 90", "71 ± 3 of 90", True),  # whole numbers
    ("74 ± 3 of 90", "70 ± 3 of 90", False),
    ("74 ± 3 of 90", "74 ± 3 of 91", False),  # beside it words and integers are what they were
    ("loss 1.35 ± 0.03", "loss  1.350 ± 0.030", True),  # padding and places
]


def changed(old, new):
    """The tiny notebook with one piece of text in its stored outputs replaced."""
    notebook, hits = copy_of(TINY), 0
    for cell in notebook["cells"]:
        text = json.dumps(cell.get("outputs", []))
        hits += text.count(old)
        if "outputs" in cell:
            cell["outputs"] = json.loads(text.replace(old, new))
    assert hits == 1, f"{old!r} stands {hits} times in the stored outputs"
    return notebook


def run_pytest(folder, *arguments, **variables):
    """Bare `pytest --nbval notebooks/` in `folder`; returns exit status and printed text."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CHARLM_")}
    paths = {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "pytest", "--nbval", "notebooks/", "-rA", *arguments]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=folder,
        env={**clean, **paths, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def verdicts(text):
    """{notebook: {"PASSED", "FAILED", …}} from pytest's short summary."""
    found = {}
    for word, name in re.findall(r"^(PASSED|FAILED|ERROR) \S*?(\w+)\.ipynb::", text, re.MULTILINE):
        found.setdefault(name, set()).add(word)
    return found


def verdicts_by_cell(text, notebook):
    """{cell: "PASSED" or "FAILED"} of one notebook."""
    found = re.findall(rf"^(\w+) \S*{notebook}\.ipynb::\S*Cell (\d+)", text, re.MULTILINE)
    return {int(cell): word for word, cell in found}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Verdicts and printed text of one run over the tiny notebook in all its versions."""
    notebooks = {name: changed(*change) for name, change in CHANGES.items()}
    notebooks["missing"] = copy_of(TINY)
    notebooks["missing"]["cells"][1]["outputs"] = []
    notebooks["spreads"] = with_cells(pair[:2] for pair in SPREADS)
    notebooks["killed"] = with_code("import os\n\nos.kill(os.getpid(), 9)", "")
    status, text = run_pytest(project(tmp_path_factory.mktemp("bites"), notebooks))
    assert status == 1, text
    return verdicts(text), text, notebooks


@pytest.mark.parametrize(
    "name",
    ["decimal_far", "integer", "word", "result_word", "result_integer", "missing", "killed"],
)
def test_fails(outcome, name):
    found, text, _ = outcome
    assert "FAILED" in found[name], text


@pytest.mark.parametrize("name", ["unchanged", "decimal_near"])
def test_passes(outcome, name):
    found, text, _ = outcome
    assert found[name] == {"PASSED"}, text


@pytest.mark.parametrize("number", range(len(SPREADS)), ids=lambda n: " for ".join(SPREADS[n][:2]))
def test_a_spread_is_what_the_numbers_may_differ_by(outcome, number):
    verdict = verdicts_by_cell(outcome[1], "spreads")[number]
    assert verdict == ("PASSED" if SPREADS[number][2] else "FAILED"), SPREADS[number]


def test_failure_is_one_cell_and_is_shown(outcome):
    _, text, _ = outcome
    assert len(re.findall(r"^FAILED \S*integer\.ipynb", text, re.MULTILINE)) == 2  # two notebooks
    assert "301 steps" in text and "300 steps" in text


def test_killed_kernel_is_named(outcome):
    assert "the kernel died" in outcome[1]


def test_summary_counts_cells(outcome):
    row = re.search(r"^ +(\d+\.\d) +2 +1 +0  unchanged\.ipynb$", outcome[1], re.MULTILINE)
    assert row, outcome[1]
    assert float(row[1]) > 0
    cells = [len([c for c in n["cells"] if "outputs" in c]) for n in outcome[2].values()]
    tagged = len(cells) - 2  # all but `spreads` and `killed` end in a tagged cell
    counts = f"{sum(cells) - tagged} compared, {tagged} tagged and run only, 0 lax"
    assert re.search(rf"^{sum(cells)} cells: {counts}$", outcome[1], re.MULTILINE), outcome[1]


# ---- errors, cells never run, notebooks torn apart --------------------------------------------

RAISES, IGNORED = "raises-exception", "nbval-ignore-output"
# name: (notebook, whether it passes)
EDGES = {
    "error_stored": (with_error("KeyError", [RAISES]), True),
    "error_stored_ignored": (with_error("KeyError", [RAISES, IGNORED]), True),
    "error_not_stored": (with_error("", [RAISES]), False),
    "error_not_stored_ignored": (with_error("", [RAISES, IGNORED]), False),
    "error_not_stored_unrun": (with_error("", [RAISES], run=False), False),
    "error_not_stored_both": (with_error("", [RAISES, IGNORED], run=False), False),
    "error_untagged": (with_error("KeyError"), False),
    "another_error": (with_error("ValueError", [RAISES, IGNORED]), False),
    "error_gone": (with_error("KeyError", [RAISES, IGNORED], source="x = 1"), False),
    "unrun_prints": (with_error("", source="print(3)", run=False), False),
    "unrun_silent": (with_error("", source="x = 1", run=False), True),
    "unrun_ignored": (with_error("", [IGNORED], source="print(3)", run=False), True),
    "no_python": (with_error("", source="def f(:"), False),
}
WHOLE = ["whole_one", "whole_two", "whole_three"]  # their cells need what the cells before made


@pytest.fixture(scope="module")
def edges(tmp_path_factory):
    """One run over all of them in two processes, with no word about how to deal them out."""
    errors = copy_of(TINY)
    errors["cells"] = [
        notebook["cells"][0] | {"id": f"cell-{number}"}
        for number, (notebook, _) in enumerate(EDGES.values())
    ]
    notebooks = {"errors": errors} | {name: copy_of(TINY) for name in WHOLE}
    status, text = run_pytest(project(tmp_path_factory.mktemp("edges"), notebooks), "-n", "2")
    assert status == 1, text
    return text


@pytest.mark.parametrize("name", EDGES)
def test_an_error_passes_only_where_it_is_stored(edges, name):
    verdict = verdicts_by_cell(edges, "errors")[list(EDGES).index(name)]
    assert verdict == ("PASSED" if EDGES[name][1] else "FAILED"), edges


@pytest.mark.parametrize("name", WHOLE)
def test_two_processes_share_out_notebooks_and_no_cells(edges, name):
    assert verdicts_by_cell(edges, name) == dict.fromkeys(range(3), "PASSED"), edges


@pytest.mark.parametrize(
    ("given", "becomes"),
    [("load", "loadfile"), ("worksteal", "loadfile"), ("loadgroup", "loadfile")]
    + [(same, same) for same in ("loadfile", "loadscope", "each", "no")],
)
def test_notebooks_stay_whole(conftest, given, becomes):
    option = SimpleNamespace(nbval_kernel_name="", nbval_cell_timeout=5, dist=given)
    conftest.set_defaults(option)
    assert option.dist == becomes


def test_a_mistyped_notebook_gives_pytests_own_line(tmp_path):
    folder = project(tmp_path, {"tiny": copy_of(TINY)})
    for name in ("notebooks/03_loop_rnn.ipynb", "notebook/"):
        status, text = run_pytest(folder, name)
        assert status == 4 and f"ERROR: file or directory not found: {name}" in text
        assert "INTERNALERROR" not in text and "Traceback" not in text


def test_a_file_that_is_no_notebook_is_named_in_one_line(tmp_path):
    folder = project(tmp_path, {"tiny": copy_of(TINY)})
    (folder / "notebooks" / "torn.ipynb").write_text('{"cells": [', encoding="utf-8")
    status, text = run_pytest(folder)
    lines = [line for line in text.splitlines() if line.strip()]
    assert status == 4 and len(lines) == 1 and "torn.ipynb is no notebook" in lines[0], text


@pytest.mark.parametrize("data", [b"", b"not JSON", b"[]", b"3", b"{}", b"\xff", b'{"cells": 3}'])
def test_nothing_else_passes_for_a_notebook(conftest, tmp_path, data):
    (tmp_path / "x.ipynb").write_bytes(data)
    with pytest.raises(pytest.UsageError, match="x.ipynb is no notebook: ."):
        conftest.read_notebook(tmp_path / "x.ipynb")


@pytest.mark.parametrize(
    "workers", [(), ("-n", "2", "--dist", "loadfile")], ids=["serial", "xdist"]
)
def test_lax_without_corpus(tmp_path, workers):
    notebooks = {
        "needs_corpus": with_code(CORPUS_CELL, "600893\n"),
        "needs_none": changed(*CHANGES["integer"]),
    }
    folder = project(tmp_path, notebooks)
    status, text = run_pytest(folder, *workers, CHARLM_DATA="empty", CHARLM_OFFLINE="1")
    assert status == 1, text
    assert verdicts(text)["needs_corpus"] == {"PASSED"}, text
    assert "FAILED" in verdicts(text)["needs_none"], text  # the other one is still compared
    assert re.search(r"^lax, .*needs_corpus\.ipynb \(nietzsche\)$", text, re.MULTILINE), text
    assert re.search(r"^ +\d+\.\d +0 +0 +1  needs_corpus\.ipynb$", text, re.MULTILINE), text
    last = "4 cells: 2 compared, 1 tagged and run only, 1 lax"  # seen by either kind of run
    assert re.search(rf"^{last}$", text, re.MULTILINE), text


def test_strict_without_corpus(tmp_path):
    folder = project(tmp_path, {"needs_corpus": with_code(CORPUS_CELL, "600893\n")})
    status, text = run_pytest(folder, CHARLM_DATA="empty", CHARLM_OFFLINE="1", CHARLM_STRICT="1")
    assert status not in (0, 1), text
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 1 and "nietzsche" in lines[0] and "CHARLM_STRICT" in lines[0], text


@pytest.fixture(scope="module")
def conftest():
    spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("failures", "starts"), [(0, True), (2, True), (3, False)])
def test_kernels_that_die_at_birth_are_started_again(conftest, failures, starts):
    tries = []

    def start_new_kernel(startup_timeout, kernel_name, stderr, cwd):
        tries.append(cwd)
        if len(tries) <= failures:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return "a kernel"

    start = conftest.persistent(start_new_kernel)
    if starts:
        assert start(startup_timeout=1, kernel_name="k", stderr=None, cwd="here") == "a kernel"
    else:
        with pytest.raises(RuntimeError, match="Kernel died"):
            start(startup_timeout=1, kernel_name="k", stderr=None, cwd="here")
    assert tries == ["here"] * min(failures + 1, 3)


@pytest.mark.parametrize("status", ["ok", "error"])
def test_a_kernel_that_is_not_nudged_does_not_pass_for_one_that_is(conftest, monkeypatch, status):
    asked = []

    class Client:
        def execute_interactive(self, code, **options):
            asked.append(code)
            return {"content": {"status": status, "evalue": "no such thing"}}

    def start_new_kernel(startup_timeout, kernel_name, stderr, cwd):
        return "manager", Client()

    start = conftest.persistent(start_new_kernel, attempts=1)
    options = {"startup_timeout": 1, "kernel_name": "k", "stderr": None, "cwd": "here"}
    monkeypatch.delenv("CHARLM_NUDGE", raising=False)
    assert start(**options)[0] == "manager" and asked == []
    monkeypatch.setenv("CHARLM_NUDGE", "3")
    if status == "ok":
        assert start(**options)[0] == "manager"
    else:
        with pytest.raises(RuntimeError, match="not nudged: no such thing"):
            start(**options)
    assert len(asked) == 1 and "nudge_trainings(3)" in asked[0]


@pytest.mark.parametrize(
    ("stored", "new", "equal"),
    [
        ("1.50", "1.52", True),
        ("1.50", "1.54", False),
        ("0.012", "0.013", True),  # one unit of the third place
        ("0.012", "0.014", False),
        ("0.01", "0.02", False),  # one unit, but only two places
        ("-0.001", "0.000", True),
        ("  9.99 |", " 10.01 |", True),  # padding follows the digits
        ("torch 2.13.0", "torch 2.12.0", False),  # no decimal: a version
        ("1.0e-05", "1.01e-05", True),
        ("1.0e-05", "1.0e-04", False),
        ("loss 1.5", "loss nan", False),
        ("tensor([1., 2.])", "tensor([1., 3.])", False),
        ("7 of 8", "8 of 8", False),
        ("1.5 1.6", "1.5", False),
    ],
)
def test_tolerance(conftest, stored, new, equal):
    assert (conftest.Tolerant(stored) == conftest.Tolerant(new)) is equal
    assert (conftest.Tolerant(new) != conftest.Tolerant(stored)) is not equal


@pytest.mark.parametrize(
    ("stored", "new", "equal"),
    [
        ("1.35", "1.36", True),
        ("1.35", "1.38", False),
        ("1.351", "1.352", True),
        ("-0.5", "-0.5", True),
        ("0.5", "-0.5", False),
        ("1.35 ± 0.03", "1.38 ± 0.03", True),
        ("1.35 ± 0.03", "1.3801 ± 0.03", False),
        ("1.35 ± 0.03", "1.35", False),
        ("1.35", "1.35 ± 0.03", False),
        ("1.35 ± 0.03", "1.35 ± 0.031", False),
        ("1.35 ± 0.030", "1.35 ± 0.03", True),
        ("-2.0 ± 0.5", "-2.5 ± 0.5", True),
        ("-2.0 ± 0.5", "2.0 ± 0.5", False),
        ("74 ± 3", "77 ± 3", True),
        ("74 ± 3", "78 ± 3", False),
        ("74 ± 0", "74 ± 0", True),
    ],
)
def test_close(conftest, stored, new, equal):
    assert conftest.close(stored, new) is conftest.close(new, stored) is equal
    if "±" in stored + new:
        assert conftest.close_within(stored, new) is equal


@pytest.mark.parametrize(
    ("stored", "new", "equal"),
    [
        ("a 1.35 ± 0.03, b 2.00", "a 1.38 ± 0.03, b 2.01", True),
        ("a 1.35 ± 0.03, b 2.00", "a 1.38 ± 0.03, b 2.10", False),
        ("a 1.35 ± 0.03, b 2.00", "b 1.38 ± 0.03, a 2.00", False),
        ("1.35 ± 0.03 1.40 ± 0.01", "1.38 ± 0.03 1.40 ± 0.01", True),
        ("1.35 ± 0.03 1.40 ± 0.01", "1.38 ± 0.03 1.43 ± 0.01", False),  # each has its own
        ("of 74 ± 3", "of  77 ± 3 ", True),
        ("74 ± 3", "74 +- 3", False),
        ("± 0.03", "± 0.03", True),
        ("1.35±0.03", "1.38±0.03", False),  # not how `within` prints it: 2 % each
        ("v1.2.3 ± 4", "v1.2.3 ± 4", True),
        ("v1.2.3 ± 4", "v1.2.5 ± 4", False),
        ("3 ± 1 x 2", "3 ± 1 x 3", False),
    ],
)
def test_texts_with_spreads(conftest, stored, new, equal):
    assert (conftest.Tolerant(stored) == conftest.Tolerant(new)) is equal
    assert (conftest.Tolerant(new) == conftest.Tolerant(stored)) is equal


def test_equal_texts_have_equal_hashes(conftest):
    assert hash(conftest.Tolerant("1.35 ± 0.03")) == hash("1.35 ± 0.03")
