"""Write the tests of the bug museum (appendix A4) into the reader's checklist.

    python book/tools/checklist.py            copy each test from the notebook into the page
    python book/tools/checklist.py --check    exit 1 if the page holds another text

A test is a function `test_…` of the notebook, with the classes that stand above it in its cell. In
book/checklist.md it stands between `<!-- begin:test_… -->` and `<!-- end:test_… -->`; the words
around it are the page's own.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "A4_bug_museum.ipynb"
PAGE = ROOT / "book" / "checklist.md"
BLOCK = re.compile(r"<!-- begin:(test_\w+) -->\n(.*?)<!-- end:\1 -->", re.DOTALL)


def tests_of(notebook):
    """{name: source} of the notebook's tests, each with the classes of its cell."""
    found = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code" or "def test_" not in cell.source:
            continue
        nodes, needed = ast.parse(cell.source).body, []
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                needed.append(ast.get_source_segment(cell.source, node))
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                source = ast.get_source_segment(cell.source, node)
                found[node.name] = "\n\n\n".join([*needed, source])
                needed = []
    return found


def written(page, tests):
    """The page's text with every block as the notebook has it."""
    named = [match[1] for match in BLOCK.finditer(page)]
    if sorted(named) != sorted(tests):
        odd = sorted(set(named) ^ set(tests)) or [n for n in named if named.count(n) > 1]
        raise ValueError(f"in the notebook or on the page, not once in both: {', '.join(odd)}")

    def block(match):
        name = match[1]
        return f"<!-- begin:{name} -->\n```python\n{tests[name]}\n```\n<!-- end:{name} -->"

    return BLOCK.sub(block, page)


def main(arguments=None):
    """Rewrite the page, or compare; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    page = PAGE.read_text(encoding="utf-8")
    new = written(page, tests_of(NOTEBOOK))
    if check and new != page:
        print("book/checklist.md is out of date: run book/tools/checklist.py", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
