"""Prose: numbers that are recorded somewhere, words we avoid, no paths of one machine."""

import ast
import re

import pytest
from book_reader import NOTEBOOKS, ROOT, load_json, markdown, notebook, prose_pages, walk

DECIMAL = re.compile(r"(?<![\w.])(\d+\.\d+)(?!\.?\d)(\s*%)?")
NOT_PROSE = [
    re.compile(r"<!-- begin:(\w+) -->.*?<!-- end:\1 -->", re.DOTALL),  # held by pages.py --check
    re.compile(r"^(`{3,}).*?^\1`* *$", re.DOTALL | re.MULTILINE),  # fenced code
    re.compile(r"https?://[^\s)>\]]+"),
    re.compile(r"\]\([^)]*\)"),  # a link's target
    re.compile(r"\b\d{4}\.\d{4,5}\b"),  # arXiv
    re.compile(r"\b\d+\.\d+\.\d+[\w.]*"),  # versions
    re.compile(r"\b(Python|PyTorch|torch|CUDA|NumPy|Jupyter Book|version)\s*[≥<>=~]*\s*\d+\.\d+"),
    re.compile(
        r"\b(exercises?|sections?|chapters?|figures?|tables?|d2l|BY|Apache)\s+\d+\.\d+",
        re.IGNORECASE,
    ),
]
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
CODE_SPAN = re.compile(r"(`+)(.+?)\1")
PLAIN_NUMBER = re.compile(r"[-+\s\d.,%\\]*")
BANNED = re.compile(r"\bsimply\b", re.IGNORECASE)
MACHINE = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|private|mnt)/\w|\b[A-Z]:\\Users")

each_page = pytest.mark.parametrize(
    "path", NOTEBOOKS + prose_pages(), ids=lambda path: path.relative_to(ROOT).as_posix()
)


def prose(text):
    """Markdown without code, formulas, addresses and versions; plain numbers in them stay."""

    def keep_numbers(match):
        inside = next(group for group in match.groups()[::-1] if group)
        return f" {inside} " if PLAIN_NUMBER.fullmatch(inside) else " "

    for pattern in NOT_PROSE:
        text = pattern.sub(" ", text)
    return CODE_SPAN.sub(keep_numbers, FORMULA.sub(keep_numbers, text))


def recorded():
    """Every number of results.json and published.json."""
    published = [row["value"] for row in load_json("published.json")]
    return [abs(value) for value in [*load_json("results.json").values(), *published]]


def constants(path):
    """Every number in a notebook's code; a page has none."""
    if path.suffix == ".md":
        return []
    values = [node.value for node in walk(path) if isinstance(node, ast.Constant)]
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def stands(text, percent, rounded, exact):
    """Whether a printed decimal is one of `rounded` to its places, or one of `exact`."""
    value, half_a_unit = float(text), 0.5 * 10.0 ** -len(text.split(".")[1])
    scales = (1, 100) if percent else (1,)
    near = any(abs(s * r - value) <= half_a_unit * 1.000001 for r in rounded for s in scales)
    return near or any(abs(s * e - value) < 1e-9 for e in exact for s in scales)


@each_page
def test_decimals_in_prose_are_recorded(path):
    rounded, exact = recorded(), constants(path)
    stray = [
        match[0]
        for text in markdown(path)
        for match in DECIMAL.finditer(prose(text))
        if not stands(match[1], match[2], rounded, exact)
    ]
    assert stray == [], "in neither results.json nor published.json nor the chapter's code"


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


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("loss 1.70 here", ["1.70"]),
        ("`1.70` and $1.71$ and **1.72**.", ["1.71", "1.70", "1.72"]),
        ("`lr=1.70`, $x = 1.71$, [a](b1.72.md), https://a.b/1.73", []),
        ("torch 2.13.0, Python 3.11, arXiv 1504.00941, Exercise 3.1", []),
        ("97.3 % of 1,003,854", ["97.3"]),
        ("```\nloss = 1.70\n```\nand 1.71", ["1.71"]),
    ],
)
def test_what_counts_as_prose(text, left):
    assert sorted(match[1] for match in DECIMAL.finditer(prose(text))) == sorted(left)


@pytest.mark.parametrize(
    ("text", "percent", "legal"),
    [("1.70", "", True), ("1.7", "", True), ("1.71", "", False), ("70.1", "%", False)],
)
def test_what_is_recorded(text, percent, legal):
    assert stands(text, percent, [1.6987], []) is legal
    assert stands("69.9", "%", [0.6987], [])
    assert not stands("0.3", "", [], [0.25])
