"""The book's numbers: written by one run, compared by every other.

`book/results.json` holds what the notebooks measured, `book/published.json` what the
sources and others report. Under `make run` (`CHARLM_RECORD=1`) `record` writes; under
the tests (`CHARLM_CHECK=1`) it asserts; in a reader's hands it shows both numbers.
"""

import json
import math
import os
from pathlib import Path

from charlm_utils.corpora import stand_in_used

TOLERANCE = 0.02  # relative
_PACKAGE = Path(__file__).parent


def book_folder() -> Path:
    """`book/` of the repository, or its copy inside an installed package."""
    beside = _PACKAGE.parent / "book"
    return beside if (beside / "published.json").is_file() else _PACKAGE / "_book"


def record(key: str, value: float) -> float:
    """Record, check or show one number under a key such as `03.concat.valid`; returns it.

    Raises `AssertionError` when a check differs from the book by more than 2 %.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{key} is {value}: no result to record")
    if os.environ.get("CHARLM_RECORD") == "1":
        if stand_in_used():
            raise RuntimeError(f"{key} was measured on a stand-in: it is not recorded")
        _store(key, value)
    elif stand_in_used():
        pass  # another text: nothing to compare
    elif os.environ.get("CHARLM_CHECK") == "1":
        book = result(key)
        if not abs(value - book) <= TOLERANCE * abs(book):
            raise AssertionError(f"{key}: {value:.5g} here, {book:.5g} in the book")
    elif key in (known := _load("results.json")):
        print(f"{key}: {value:.4g} here, {known[key]:.4g} in the book")
    return value


def result(key: str) -> float:
    """A number of this book, recorded by another chapter."""
    known = _load("results.json")
    if key not in known:
        raise KeyError(f"{key} is not in book/results.json; `make run` records it")
    return known[key]


def published(key: str) -> dict:
    """A published number: its value, model, corpus, split, unit and source."""
    for row in _load("published.json"):
        if row["key"] == key:
            return row
    raise KeyError(f"{key} is not in book/published.json")


def _load(name: str) -> dict | list:
    path = book_folder() / name
    if not path.is_file():
        return {} if name == "results.json" else []
    return json.loads(path.read_text(encoding="utf-8"))


def _store(key: str, value: float) -> None:
    path = book_folder() / "results.json"
    known = _load("results.json")
    known[key] = float(f"{value:.5g}")
    part = path.with_suffix(f".{os.getpid()}.part")
    text = json.dumps(dict(sorted(known.items())), indent=1)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
