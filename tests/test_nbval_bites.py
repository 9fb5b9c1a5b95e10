"""The notebook checks can fail: stored outputs are changed one at a time, and nbval must object.

pytest runs in a subprocess, in a temporary copy that holds the root's conftest.py.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = json.loads((ROOT / "tests" / "tiny.ipynb").read_text(encoding="utf-8"))
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


def copy_of(notebook):
    return json.loads(json.dumps(notebook))


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


def with_code(source, printed):
    """A notebook of one code cell whose stored output is `printed`."""
    notebook = copy_of(TINY)
    cell = notebook["cells"][1]
    cell["source"], cell["outputs"][0]["text"] = source, printed
    notebook["cells"] = [cell]
    return notebook


def project(folder, notebooks):
    """A temporary project: the root's conftest and what it needs, and these notebooks."""
    for name in ("conftest.py", "pyproject.toml", "book/tools/run.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("notebooks", "home", "empty"):
        (folder / name).mkdir()
    for name, notebook in notebooks.items():
        path = folder / "notebooks" / f"{name}.ipynb"
        path.write_text(json.dumps(notebook), encoding="utf-8")
    return folder


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


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Verdicts and printed text of one run over the tiny notebook in all its versions."""
    notebooks = {name: changed(*change) for name, change in CHANGES.items()}
    notebooks["missing"] = copy_of(TINY)
    notebooks["missing"]["cells"][1]["outputs"] = []
    notebooks["killed"] = with_code("import os\n\nos.kill(os.getpid(), 9)", "")
    status, text = run_pytest(project(tmp_path_factory.mktemp("bites"), notebooks))
    assert status == 1, text
    return verdicts(text), text


@pytest.mark.parametrize(
    "name",
    ["decimal_far", "integer", "word", "result_word", "result_integer", "missing", "killed"],
)
def test_fails(outcome, name):
    found, text = outcome
    assert "FAILED" in found[name], text


@pytest.mark.parametrize("name", ["unchanged", "decimal_near"])
def test_passes(outcome, name):
    found, text = outcome
    assert found[name] == {"PASSED"}, text


def test_failure_is_one_cell_and_is_shown(outcome):
    _, text = outcome
    assert len(re.findall(r"^FAILED \S*integer\.ipynb", text, re.MULTILINE)) == 2  # two notebooks
    assert "301 steps" in text and "300 steps" in text


def test_killed_kernel_is_named(outcome):
    assert "the kernel died" in outcome[1]


def test_summary_counts_cells(outcome):
    row = re.search(r"^ +(\d+\.\d) +2 +1 +0  unchanged\.ipynb$", outcome[1], re.MULTILINE)
    assert row, outcome[1]
    assert float(row[1]) > 0


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
