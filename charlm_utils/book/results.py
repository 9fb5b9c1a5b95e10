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
from typing import Any

from charlm_utils.corpora import stand_in_used
from charlm_utils.saves import give_back_lock, take_lock

_PACKAGE = Path(__file__).parents[1]


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


def _load(name: str) -> Any:
    """What a file of `book/` holds: numbers by key, and of `published.json` a list of rows."""
    path = book_folder() / name
    if not path.is_file():
        return [] if name == "published.json" else {}
    return json.loads(path.read_text(encoding="utf-8"))


def _measure(key: str, value: float) -> None:
    append_line(Path(os.environ["CHARLM_MEASURE"]), {key: value})


def _store(key: str, value: float) -> None:
    path = book_folder() / "results.json"
    part = path.with_suffix(".part")
    with locked(path.with_suffix(".lock"), wait=60):  # two notebooks may record at the same time
        known = _load("results.json")
        known[key] = float(f"{value:.5g}")
        try:
            with open(part, "w", encoding="utf-8") as file:
                file.write(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


# ---- files that several processes write -------------------------------------------------------


def append_line(path: Path, value: dict) -> None:
    """Add a value to a file of JSON lines: the whole line, on disk, or nothing.

    Processes that append at the same time do so one after the other. Raises `OSError` where the
    line can't be written; the file is then what it was.
    """
    data = (json.dumps(value) + "\n").encode()
    with locked(path.with_name(f"{path.name}.lock"), wait=60), open(path, "ab", 0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:  # a full disk takes a part, and refuses only the rest
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise


@contextlib.contextmanager
def locked(path: Path, *, wait: float = 0.0, busy: str | None = None) -> Iterator[None]:
    """Hold the lock file `path`; while another process holds it, wait up to so many seconds.

    The system gives the lock back when a process ends, however it ends: a file that is left over
    locks nobody out. Raises `TimeoutError`, with `busy` for its text or naming the file.
    """
    ends = time.monotonic() + wait
    while (handle := take_lock(path)) is None:
        if time.monotonic() >= ends:
            raise TimeoutError(busy or f"{path} is held by another process")
        time.sleep(0.02)
    try:
        yield
    finally:
        give_back_lock(handle, path)
