"""Prose: words we avoid, no paths of one machine. Its numbers are held by test_bound.py."""

import re

import pytest
from book_reader import NOTEBOOKS, ROOT, markdown, notebook, prose_pages

BANNED = re.compile(r"\bsimply\b", re.IGNORECASE)
MACHINE = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|private|mnt)/\w|\b[A-Z]:\\Users")

each_page = pytest.mark.parametrize(
    "path", NOTEBOOKS + prose_pages(), ids=lambda path: path.relative_to(ROOT).as_posix()
)


@each_page
def test_words_we_avoid(path):
    assert [m[0] for text in markdown(path) for m in BANNED.finditer(text)] == []


def texts_of(path):
    """All that a reader of a file sees: of a notebook also its outputs' text."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = notebook(path).cells
    outputs = [str({k: v for k, v in o.items() if k != "data"}) for c in cells if "outputs" in c
               for o in c.outputs]  # fmt: skip
    data = [str(o.data.get(mime, "")) for c in cells if "outputs" in c for o in c.outputs
            if "data" in o for mime in ("text/plain", "text/html")]  # fmt: skip
    return "\n".join([cell.source for cell in cells] + outputs + data)


def test_no_paths_of_one_machine():
    names = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.yml"), ROOT / "Makefile"]
    for folder, pattern in [("book", "**/*"), ("charlm_utils", "**/*.py"), ("tests", "*.py")]:
        found = (ROOT / folder).glob(pattern)
        names += [p for p in found if p.suffix in (".md", ".py", ".json", ".svg", ".bib", ".jsonl")]
    hits = [
        f"{path.name}: {match[0]}"
        for path in [*names, *NOTEBOOKS]
        for match in MACHINE.finditer(texts_of(path))
    ]
    assert hits == []
