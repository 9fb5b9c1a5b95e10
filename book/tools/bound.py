"""Bind the numbers in prose to what they were measured as.

    python book/tools/bound.py                check every page and notebook
    python book/tools/bound.py --fill         write the present values in
    python book/tools/bound.py --suggest PAGE print a comment for what is not bound yet

A comment names, for every decimal and every percentage before it in the same cell (on a page: back
to the last such comment) and in the alt texts of the code cells that follow, what it is:

    <!-- numbers
    1.347 = {06.gru.valid}
    0.08 = {05.rnn.valid} - {06.gru.valid}
    4.2 % = 100 * {08.share}
    0.3 = code
    0.27 = output
    0.5 = charlm_utils/ngram.py
    -->

Braces hold a key of results.json or published.json, or ± and a key of spreads.json; +, -, *, /,
exp, log, log2, abs, min, max and plain numbers may be used with them, but a number alone says
nothing and is refused. `code` is a constant of the notebook's code, `output` a number that one of
the compared cells nearby has printed; a file's name stands for a number in that file. Python that
a page shows is code, and its numbers are settings: they need no binding.
"""

import argparse
import ast
import itertools
import json
import math
import operator
import re
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parents[2]
COMMENT = re.compile(r"<!-- numbers\n(.*?)\n?-->", re.DOTALL)
TOKEN = re.compile(r"(?<![\w.])(\d+\.\d+)(?!\.?\d)(\s*%)?|(?<![\w.,])(\d+)\s*%")
IGNORED = [
    re.compile(r"<!-- begin:(\w+) -->.*?<!-- end:\1 -->", re.DOTALL),  # held by pages.py --check
    re.compile(r"<!-- numbers\n.*?-->", re.DOTALL),
    re.compile(r"^```python\n.*?^```", re.DOTALL | re.MULTILINE),
    re.compile(r"--[a-z-]+ [\d.e+-]+"),  # an option of a command and its value
    re.compile(r"https?://[^\s)>\]]+"),
    re.compile(r"\]\([^)]*\)"),  # a link's target
    re.compile(r"\b\d{4}\.\d{4,5}\b"),  # arXiv
    re.compile(r"\b\d+\.\d+\.\d+[\w.]*"),  # versions
    re.compile(r"\b(Python|PyTorch|torch|CUDA|NumPy|Jupyter Book|version)\s*[≥<>=~]*\s*\d+\.\d+"),
    re.compile(r"\b(exercises?|sections?|chapters?|d2l)\s+\d+\.\d(?!\d)", re.IGNORECASE),
    re.compile(r"\b(BY|Apache)\s+\d+\.\d+"),  # licences; "by 0.12" is none
]
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
ALT = re.compile(r"^# alt: .*$", re.MULTILINE)
FILE = re.compile(r"[\w/.-]+\.(py|toml|ipynb)")
DECIMAL = re.compile(r'Decimal\("([\d.]+)"\)')
ALONE = re.compile(r"(100 \* )?[\d.,]+")
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PLAIN_NUMBER = re.compile(r"[-+\s\d.,%\\]*")
NEAR = 4  # code cells before and after in which `output` looks

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FUNCTIONS = {"exp": math.exp, "log": math.log, "log2": math.log2, "sqrt": math.sqrt}
FUNCTIONS |= {"abs": abs, "min": min, "max": max}


class Binding(NamedTuple):
    """One line of a comment: what is printed, and what it is said to be."""

    printed: str  # "1.347", "4.2 %"
    meaning: str  # an expression, `code` or `output`


class Segment(NamedTuple):
    """A piece of prose, its bindings, and where it may look for constants and outputs."""

    where: str
    text: str
    bindings: list[Binding]
    constants: frozenset[float]
    outputs: str


# ---- reading ----------------------------------------------------------------------------------


def prose(text):
    """Text without formulas, code spans, addresses and versions; plain numbers in them stay."""

    def keep_numbers(match):
        inside = next(group for group in match.groups()[::-1] if group)
        return f" {inside} " if PLAIN_NUMBER.fullmatch(inside) else " "

    for pattern in IGNORED:
        text = pattern.sub(" ", text)
    return CODE_SPAN.sub(keep_numbers, FORMULA.sub(keep_numbers, text))


def printed_numbers(text):
    """Every decimal and every percentage in prose, as it stands there: "1.347", "97.3 %"."""
    return [_plain(match[0]) for match in TOKEN.finditer(prose(text))]


def _plain(number):
    return f"{number[:-1].rstrip()} %" if number.endswith("%") else number


def digits(printed):
    """The number of "4,798" or "4.2 %" as `float` takes it, and its places."""
    number = printed.rstrip(" %").replace(",", "")
    return number, len(number.split(".")[1]) if "." in number else 0


def parts(text):
    """(prose, bindings) for each stretch that ends in a comment, and for the rest."""
    start = 0
    for match in COMMENT.finditer(text):
        yield text[start : match.start()], bindings(match[1])
        start = match.end()
    yield text[start:], []


def bindings(lines):
    """The bindings of a comment; a line that is none raises `ValueError`."""
    found = []
    for line in filter(str.strip, lines.splitlines()):
        printed, equals, meaning = line.partition(" = ")
        if not equals:
            raise ValueError(f"no binding: {line!r}")
        found.append(Binding(_plain(printed.strip()), meaning.strip()))
    return found


def segments(path):
    """The segments of a page or a notebook."""
    if path.suffix == ".md":
        pieces = parts(path.read_text(encoding="utf-8"))
        return [Segment(path.name, text, found, frozenset(), "") for text, found in pieces]
    cells = nbformat.read(path, as_version=4).cells
    numbers = frozenset(constants(cells))
    return [
        Segment(f"{path.name} [{i}]", text, found, numbers, outputs_near(cells, i))
        for i, cell in enumerate(cells)
        if cell.cell_type == "markdown"
        for text, found in with_alt_texts(list(parts(cell.source)), alt_texts(following(cells, i)))
    ]


def following(cells, place):
    """The code cells between a Markdown cell and the next one."""
    return list(itertools.takewhile(lambda cell: cell.cell_type == "code", cells[place + 1 :]))


def alt_texts(cells):
    """What the plots of these cells show, in words, a line each."""
    return "\n".join(match[0] for cell in cells for match in ALT.finditer(cell.source))


def with_alt_texts(pieces, texts):
    """The alt texts belong to what the cell's last comment binds."""
    place = max((n for n, (_, found) in enumerate(pieces) if found), default=len(pieces) - 1)
    text, found = pieces[place]
    pieces[place] = f"{text}\n{texts}", found
    return pieces


def constants(cells):
    """Every number in a notebook's code."""
    for cell in cells:
        if cell.cell_type == "code" and not cell.source.lstrip().startswith(("import sys", "%")):
            yield from python_constants(cell.source)


def python_constants(source):
    """Every number in a piece of Python."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield float(node.value)


def stands_in_file(printed, name):
    """Whether a file of the repository holds the number: Python as a constant, others anywhere."""
    path = ROOT / name
    if not path.is_file():
        raise ValueError(f"no file {name}")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return holds(text, printed)
    cells = nbformat.reads(text, as_version=4).cells if path.suffix == ".ipynb" else None
    numbers = set(constants(cells) if cells else python_constants(text))
    numbers |= set(map(float, DECIMAL.findall(text)))
    return is_constant(printed, numbers)


def is_constant(printed, numbers):
    """Whether a number, or the share that a percentage is, is among these."""
    percents = {round(100 * number, 9) for number in numbers} if "%" in printed else set()
    return float(digits(printed)[0]) in numbers | percents


def outputs_near(cells, place):
    """What compared cells around a Markdown cell have printed."""
    before = [c for c in cells[:place] if c.cell_type == "code"][-NEAR:]
    after = [c for c in cells[place:] if c.cell_type == "code"][:NEAR]
    tagged = "nbval-ignore-output"
    near = [c for c in before + after if tagged not in c.metadata.get("tags", [])]
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for c in near
             for o in c.outputs]  # fmt: skip
    return "\n".join(texts)


def known_values(root=ROOT):
    """{key: value} of results.json and published.json, and {±key: spread}."""
    folder = root / "book"
    rows = json.loads((folder / "published.json").read_text(encoding="utf-8"))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    spreads = json.loads((folder / "spreads.json").read_text(encoding="utf-8"))
    spreads = {f"±{key}": value for key, value in spreads.items()}
    return {row["key"]: row["value"] for row in rows} | results | spreads


# ---- checking ---------------------------------------------------------------------------------


def evaluate(expression, values):
    """The value of an expression over keys in braces. Raises `ValueError` for anything else."""
    names = {}

    def name(match):
        if match[1] not in values:
            raise ValueError(f"no key {match[1]}")
        names[f"_{len(names)}"] = values[match[1]]
        return f"_{len(names) - 1}"

    tree = ast.parse(re.sub(r"\{([^{}]+)\}", name, expression), mode="eval")
    try:
        return float(_value(tree.body, names))
    except (ArithmeticError, TypeError) as error:  # a division by zero, a root of -1
        raise ValueError(f"can't evaluate {expression!r}: {error}") from None


def _value(node, names):
    match node:
        case ast.Constant(value=int() | float()) if type(node.value) is not bool:
            return node.value
        case ast.Name(id=key) if key in names:
            return names[key]
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, names)
        case ast.BinOp() if type(node.op) in OPERATORS:
            left, right = (_value(side, names) for side in (node.left, node.right))
            return OPERATORS[type(node.op)](left, right)
        case ast.Call(func=ast.Name(id=function), keywords=[]) if function in FUNCTIONS:
            return FUNCTIONS[function](*(_value(arg, names) for arg in node.args))
    raise ValueError(f"can't evaluate {ast.unparse(node)!r}")


def shown(value, like):
    """`value` with as many decimals as `like`."""
    comma = "," if "," in like else ""
    return f"{abs(value):{comma}.{digits(like)[1]}f}{' %' if like.endswith('%') else ''}"


def agrees(binding, segment, values):
    """Whether what is printed is what it is said to be."""
    number, places = digits(binding.printed)
    if binding.meaning == "code":
        return is_constant(binding.printed, segment.constants)
    if binding.meaning == "output":
        return holds(segment.outputs, binding.printed)
    if FILE.fullmatch(binding.meaning):
        return stands_in_file(binding.printed, binding.meaning)
    if ALONE.fullmatch(binding.meaning):
        raise ValueError("a number is bound to itself")
    value = abs(evaluate(binding.meaning, values))
    return abs(value - float(number)) <= 0.5 * 10.0**-places * (1 + 1e-6)


def faults(segment, values):
    """What is wrong in a segment, a line each."""
    found, bound = [], {binding.printed for binding in segment.bindings}
    for number in dict.fromkeys(printed_numbers(segment.text)):
        if number not in bound:
            found.append(f"{segment.where}: {number} is not bound")
    for binding in segment.bindings:
        what = f"{segment.where}: {binding.printed} = {binding.meaning}"
        if not stands_in(binding.printed, segment.text):
            found.append(f"{what}: is not in the text")
            continue
        try:
            good = agrees(binding, segment, values)
        except (ValueError, SyntaxError) as error:
            found.append(f"{what}: {error}")
            continue
        if not good:
            found.append(f"{what}: is something else")
    return found


def whole(printed):
    """A pattern for a number that is not a part of a longer one, such as 798 of 4,798."""
    number = re.escape(printed.rstrip(" %"))
    return rf"(?<![\d.])(?<!\d,){number}(?!\.?\d)(?!,\d{{3}})"


def holds(outputs, printed):
    """Whether an output has printed the number."""
    return bool(re.search(whole(printed), outputs))


def stands_in(printed, text):
    """Whether a number stands in a text; integers may be bound, too, with or without commas."""
    sign = r"\s*%" if printed.endswith("%") else ""
    return bool(re.search(whole(printed) + sign, COMMENT.sub("", text)))


# ---- filling ----------------------------------------------------------------------------------


def filled(text, values, changes=None):
    """`text` with each bound number at its present value, in prose and comment.

    `changes` is given the numbers that the last comment moved, {old: new}.
    """
    pieces, start = [], 0
    for match in COMMENT.finditer(text):
        before, lines = text[start : match.start()], match[1]
        changed = {}
        for printed, meaning in bindings(match[1]):
            if meaning in ("code", "output") or FILE.fullmatch(meaning):
                continue
            new = shown(evaluate(meaning, values), printed)
            if new != printed:
                changed[printed.rstrip(" %")] = new.rstrip(" %")
                lines = lines.replace(f"{printed} = {meaning}", f"{new} = {meaning}")
        before = replaced(before, changed)
        if changes is not None:
            changes.clear()
            changes.update(changed)
        pieces += [before, f"<!-- numbers\n{lines}\n-->"]
        start = match.end()
    return "".join([*pieces, text[start:]])


def replaced(text, changed):
    """All at once: the new value of one may be the old value of another."""
    if not changed:
        return text
    return re.sub("|".join(map(whole, changed)), lambda match: changed[match[0]], text)


def fill(path, values):
    """Write the present values into a page or a notebook; returns whether anything changed."""
    old = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        new = filled(old, values)
    else:
        nb = nbformat.reads(old, as_version=4)
        for place, cell in enumerate(nb.cells):
            if cell.cell_type == "markdown":
                changes = {}
                cell.source = filled(cell.source, values, changes)
                for code in following(nb.cells, place):
                    fill_alt_texts(code, changes)
        new = nbformat.writes(nb) + "\n"
    if new != old:
        path.write_text(new, encoding="utf-8")
    return new != old


def fill_alt_texts(cell, changes):
    """Write new numbers into what a code cell says about its plots."""
    cell.source = ALT.sub(lambda match: replaced(match[0], changes), cell.source)


def suggest(path, values):
    """For each number that is not bound yet, the keys that round to it: a start, not an answer."""
    for segment in segments(path):
        bound = {binding.printed for binding in segment.bindings}
        missing = [n for n in dict.fromkeys(printed_numbers(segment.text)) if n not in bound]
        if not missing:
            continue
        print(f"--- {segment.where}\n<!-- numbers")
        for number in missing:
            scale = 100 if "%" in number else 1
            keys = [k for k, v in values.items() if shown(scale * v, number) == number]
            own = [k for k in keys if k.split(".")[0] == path.name[:2]]
            words = [m for m in ("code", "output") if agrees(Binding(number, m), segment, values)]
            factor = "100 * " if scale == 100 else ""
            options = [*words, *(f"{factor}{{{key}}}" for key in (own or keys)[:6])]
            print(f"{number} = {' | '.join(options) or '?'}")
        print("-->")


def pages():
    """Every notebook and every page of prose."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return [*notebooks, *sorted((ROOT / "book").glob("*.md")), ROOT / "README.md"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--fill", action="store_true", help="write the present values in")
    mode.add_argument("--suggest", action="store_true", help="print keys for what is not bound")
    options = parser.parse_args(argv)
    values, paths = known_values(), options.paths or pages()
    if options.suggest:
        for path in paths:
            suggest(path, values)
        return 0
    for path in paths:
        if options.fill and fill(path, values):
            print(f"{path.name}: numbers written")
    wrong = [
        line for path in paths for segment in segments(path) for line in faults(segment, values)
    ]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
