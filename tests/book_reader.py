"""What the tests of the book share: notebooks, pages, the table of contents, the tools."""

import ast
import functools
import importlib.util
import json
import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONG = ("08", "09", "A2", "A4")  # chapters that may be longer
NUMBERS = re.compile(r"\n?<!-- numbers\n.*?-->", re.DOTALL)
FENCE = re.compile(r"^(`{3,}|:{3,}).*$")


def number(path):
    """`03` of notebooks/03_looped_rnn.ipynb."""
    return path.name.split("_")[0]


def is_chapter(path):
    return number(path).isdigit()


@functools.cache
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in notebook(path).cells if cell.cell_type == "code"]


def markdown(path):
    """Sources of a notebook's Markdown cells, or a page's whole text as a list of one.

    Without the comments that bind numbers, which no reader sees.
    """
    if path.suffix == ".md":
        return [NUMBERS.sub("", path.read_text(encoding="utf-8"))]
    cells = (cell for cell in notebook(path).cells if cell.cell_type == "markdown")
    return [NUMBERS.sub("", cell.source) for cell in cells]


def headings(path, level):
    """Headings of one level in a notebook, code fences left out."""
    text = without_code("\n\n".join(markdown(path)))
    return re.findall(rf"^#{{{level}}} +(.+?) *$", text, re.MULTILINE)


def without_code(text):
    """Markdown with its fenced code blocks removed."""
    return re.sub(r"^(`{3,})(?!\{).*?^\1`* *$", "", text, flags=re.DOTALL | re.MULTILINE)


def trees(path):
    """Syntax tree of each code cell of a notebook."""
    return [tool("run").cell_tree(cell.source) for cell in code_cells(path)]


def walk(path):
    """All syntax nodes of a notebook's code."""
    return [node for tree in trees(path) for node in ast.walk(tree)]


def table_of_contents():
    """(root, {caption: [file, …]}) of _toc.yml."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = {part["caption"]: [c["file"] for c in part["chapters"]] for part in toc["parts"]}
    return toc["root"], parts


def toc_files():
    """Every page of the book, as _toc.yml names it."""
    root, parts = table_of_contents()
    return [root, *(name for files in parts.values() for name in files)]


def prose_pages():
    """book/*.md and the README, where they exist."""
    return sorted((ROOT / "book").glob("*.md")) + sorted(ROOT.glob("README.md"))


def load_json(name):
    return json.loads((ROOT / "book" / name).read_text(encoding="utf-8"))


@functools.cache
def tool(name):
    """A module of book/tools."""
    path = ROOT / "book" / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"book_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
