"""The reader's checklist: the museum's own tests, complete, and good outside the notebook too."""

import ast
import importlib.util
import re
import subprocess
import sys
from itertools import repeat

import nbformat
import pytest
import torch
from book_reader import ROOT, headings, tool
from torch import nn

NOTEBOOK = ROOT / "notebooks" / "A4_bug_museum.ipynb"
PAGE = ROOT / "book" / "checklist.md"


def page():
    return PAGE.read_text(encoding="utf-8")


def blocks():
    """Every block of Python on the page, in order; the first one is the imports."""
    return re.findall(r"^```python\n(.*?)^```", page(), re.MULTILINE | re.DOTALL)


def defined(source):
    """{name: its syntax} of the functions `test_…` and the classes in a piece of code."""
    nodes = ast.parse(source).body
    wanted = [
        n for n in nodes if isinstance(n, ast.ClassDef) or n.__dict__.get("name", "")[:5] == "test_"
    ]
    return {node.name: ast.dump(node) for node in wanted}


def shown():
    """The same for the cells of the notebook that define a test."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    sources = [c.source for c in cells if c.cell_type == "code" and "def test_" in c.source]
    return {name: dump for source in sources for name, dump in defined(source).items()}


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    """The page's imports and tests as a module, as a reader would copy them."""
    path = tmp_path_factory.mktemp("copied") / "checks.py"
    imports, *rest = blocks()
    path.write_text("\n\n".join([imports, *(b for b in rest if "my_project" not in b)]))
    spec = importlib.util.spec_from_file_location("checks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_the_notebooks_tests_and_no_other():
    on_page = {}
    for block in blocks():
        if "my_project" not in block:
            on_page |= defined(block)
    in_notebook = shown()
    tests = [name for name in in_notebook if name.startswith("test_")]
    assert len(tests) >= 16
    assert set(tests) <= set(on_page)
    assert on_page == {name: in_notebook[name] for name in on_page}


def test_the_page_is_as_the_tool_writes_it(capsys):
    assert tool("checklist").main(["--check"]) == 0, capsys.readouterr().err


def test_the_tool_finds_a_changed_and_a_missing_test():
    checklist = tool("checklist")
    tests = checklist.tests_of(NOTEBOOK)
    changed = page().replace("assert kinds == len(seen)", "assert kinds")
    assert changed != page() and checklist.written(changed, tests) == page()
    tests.popitem()
    with pytest.raises(ValueError, match="test_"):
        checklist.written(page(), tests)


def test_each_test_of_the_notebook_is_tried_on_a_broken_and_on_a_fixed_thing():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    for name in (n for n in shown() if n.startswith("test_")):
        assert re.search(rf"^assert catches\(\s*{name},", code, re.MULTILINE), name
        assert re.search(rf"^assert not catches\(\s*{name},", code, re.MULTILINE), name


def test_every_exhibit_is_linked_and_every_link_leads_to_one():
    slugs = set()
    for level in (2, 3):
        for heading in headings(NOTEBOOK, level):
            slugs.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-").rstrip("-"))
    linked = set(re.findall(r"A4_bug_museum\.ipynb#([\w-]+)\)", page()))
    assert linked <= slugs, linked - slugs
    exhibits = {slug for slug in slugs if re.match(r"\d+-", slug)}
    assert len(exhibits) >= 16 and exhibits <= linked, exhibits - linked


def test_the_copied_module_uses_no_name_it_lacks(checks):
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", checks.__file__]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


class Reads(nn.Module):
    """Logits from the running sum of the letters, or, broken, from the whole sum."""

    def __init__(self, ahead=False):
        super().__init__()
        self.ahead, self.table = ahead, nn.Embedding(9, 9)

    def forward(self, x, state=None):
        said = self.table(x)
        return (said.sum(1, keepdim=True) + 0 * said if self.ahead else said.cumsum(1)), state


BATCH = torch.tensor([[1, 2, 3, 4, 5], [5, 3, 1, 2, 4]])
TRIALS = {  # name: (broken, fixed), each a tuple of what the test takes
    "test_batches_differ": (
        (repeat((BATCH, BATCH)),),
        (((BATCH + i, BATCH) for i in range(9)),),
    ),
    "test_targets_are_the_next_inputs": (
        (lambda ids: (ids, ids.roll(-1)),),
        (lambda ids: (ids[:-1], ids[1:]),),
    ),
    "test_no_character_on_both_sides": (
        (lambda ids: (ids[:600], ids[599:]),),
        (lambda ids: (ids[:600], ids[600:]),),
    ),
    "test_no_glance_ahead": ((Reads(ahead=True), BATCH), (Reads(), BATCH)),
    "test_certainty_is_free": (
        (lambda logits, y: nn.functional.cross_entropy(logits.sigmoid(), y), 9),
        (nn.functional.cross_entropy, 9),
    ),
    "test_compiles_without_a_warning": (("x = 1\ny = x is 'a'\n",), ("x = 1\ny = x == 'a'\n",)),
    "test_enough_was_scored": ((torch.ones(1),), (torch.arange(1000.0) / 1000,)),
    "test_scored_text_is_new": (
        ("to be or not to be, that is the question: whether 'tis nobler",) * 2,
        ("to be or not to be, that is the question: whether", "shall I compare thee to a day" * 2),
    ),
    "test_cold_is_always_the_same": (
        (lambda temperature, seed: [seed],),
        (lambda temperature, seed: [1, 2],),
    ),
    "test_more_is_brighter": (
        (lambda values: values.long().byte(),),
        (lambda values: values * 40 + 128,),
    ),
}


@pytest.mark.parametrize("name", TRIALS)
def test_a_copied_test_works_by_itself(checks, name):
    broken, fixed = TRIALS[name]
    with pytest.raises(AssertionError):
        getattr(checks, name)(*broken)
    getattr(checks, name)(*fixed)
