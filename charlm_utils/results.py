"""The book's numbers: written by one run, compared by every other.

`book/results.json` holds what the notebooks measured, `book/spreads.json` how far each of these
numbers moves from machine to machine, `book/published.json` what the sources and others report.
Under `make run` (`CHARLM_RECORD=1`) `record` writes; under the tests (`CHARLM_CHECK=1`) it
asserts; in a reader's hands it shows both numbers.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from charlm_utils.corpora import stand_in_used

_PACKAGE = Path(__file__).parent


def book_folder() -> Path:
    """`book/` of the repository, or its copy inside an installed package."""
    beside = _PACKAGE.parent / "book"
    return beside if (beside / "published.json").is_file() else _PACKAGE / "_book"


def record(key: str, value: float) -> float:
    """Record, check or show one number under a key such as `03.concat.valid`; returns it.

    Raises `AssertionError` when a check differs from the book by more than `tolerance(key)`.
    With `CHARLM_MEASURE` naming a file, a check adds key and value to it and asserts nothing:
    `make anywhere` compares, and measures the spreads.
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
        if os.environ.get("CHARLM_MEASURE"):
            _measure(key, value)
        elif not abs(value - result(key)) <= tolerance(key):
            book = f"{result(key):.5g} ± {tolerance(key):.2g}"
            raise AssertionError(f"{key}: {value:.5g} here, {book} in the book")
    elif key in (known := _load("results.json")):
        print(f"{key}: {value:.4g} here, {known[key]:.4g} in the book")
    return value


def spread(key: str) -> float:
    """How far a number of this book was seen to move over processors, as `make anywhere` found.

    Raises `KeyError` for a number whose spread was never measured.
    """
    known = _load("spreads.json")
    if key not in known:
        raise KeyError(f"{key} is not in book/spreads.json; `make anywhere` measures it")
    return known[key]


def tolerance(key: str) -> float:
    """What a check of `key` allows: its spread, at least one unit in the fourth digit."""
    return max(spread(key), unit(result(key)))


def unit(value: float) -> float:
    """One unit of the last place that the book prints: the third decimal, or the fourth digit."""
    return max(1e-3, 10 * rounding(value))


def rounding(value: float) -> float:
    """One unit in the last of the five digits that results.json keeps."""
    return 10.0 ** (math.floor(math.log10(abs(value))) - 4) if value else 0.0


def within(key: str, value: float, places: int = 3) -> str:
    """`value` with the measured spread of `key` beside it, as `1.351 ± 0.004`."""
    units = _load("spreads.json").get(key, 0.0) * 10**places
    apart = max(1, math.ceil(units - 1e-9)) / 10**places  # up: rounding moves a value, too
    return f"{value:.{places}f} ± {apart:.{places}f}"


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
        return [] if name == "published.json" else {}
    return json.loads(path.read_text(encoding="utf-8"))


def _measure(key: str, value: float) -> None:
    with open(os.environ["CHARLM_MEASURE"], "a", encoding="utf-8") as file:
        file.write(json.dumps({key: value}) + "\n")


def _store(key: str, value: float) -> None:
    path = book_folder() / "results.json"
    with _locked(path):
        known = _load("results.json")
        known[key] = float(f"{value:.5g}")
        part = path.with_suffix(".part")
        part.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")
        part.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two notebooks that record at the same time do so one after the other."""
    lock = path.with_suffix(".lock")
    for _ in range(600):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        time.sleep(0.1)
    else:
        raise TimeoutError(f"{lock} is there for a minute: remove it if nothing is running")
    try:
        yield
    finally:
        lock.unlink()
