"""The book's numbers: written by one kind of run, checked by another, shown to a reader."""

import errno
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from charlm_utils import corpora
from charlm_utils.book import results
from charlm_utils.book.results import (
    append_line,
    locked,
    published,
    record,
    result,
    spread,
    tolerance,
    unit,
    within,
)

ROW = {"key": "a.b", "model": "m", "corpus": "c", "split": "90/10", "value": 1.47, "unit": "nats"}


@pytest.fixture(autouse=True)
def book(clean, tmp_path, monkeypatch):
    """A repository of its own: a package folder and, beside it, the book's three files."""
    folder = tmp_path / "repository" / "book"
    folder.mkdir(parents=True)
    write(folder, results={"03.model.valid": 2.0, "03.zero": 0.0})
    write(folder, spreads={"03.model.valid": 0.03, "03.zero": 0.0})
    (folder / "published.json").write_text(json.dumps([ROW]), encoding="utf-8")
    monkeypatch.setattr(results, "_PACKAGE", folder.parent / "charlm_utils")
    return folder


def write(book, **files):
    for name, values in files.items():
        (book / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")


def stored(book):
    return json.loads((book / "results.json").read_text(encoding="utf-8"))


def test_make_run_writes(book, monkeypatch, capsys):
    monkeypatch.setenv("CHARLM_RECORD", "1")
    assert record("01.new", 1.23456789) == 1.23456789
    record("03.model.valid", 3)
    assert stored(book) == {"01.new": 1.2346, "03.model.valid": 3.0, "03.zero": 0.0}
    assert list(stored(book)) == sorted(stored(book))
    assert capsys.readouterr().out == "" and [p.name for p in book.glob("*.part")] == []


def test_first_record_makes_the_file(book, monkeypatch):
    (book / "results.json").unlink()
    monkeypatch.setenv("CHARLM_RECORD", "1")
    record("01.new", 0.5)
    assert stored(book) == {"01.new": 0.5}


@pytest.mark.parametrize("value", [2.0, 2.0299, 1.9701])
def test_a_check_passes_within_the_measured_spread(monkeypatch, value, capsys, book):
    monkeypatch.setenv("CHARLM_CHECK", "1")
    before = stored(book)
    assert record("03.model.valid", value) == value
    assert capsys.readouterr().out == "" and stored(book) == before


@pytest.mark.parametrize("value", [2.0301, 1.9699, 2.06, -2.0])
def test_a_check_fails_beyond_it(monkeypatch, value):
    monkeypatch.setenv("CHARLM_CHECK", "1")
    words = f"03.model.valid: {value:.5g} here, 2 ± 0.03 in the book"
    with pytest.raises(AssertionError, match=words):
        record("03.model.valid", value)


@pytest.mark.parametrize(
    ("stored_value", "passes", "fails"),
    [
        (2.0, 2.00099, 2.0011),  # the third decimal
        (0.0, 0.00099, 0.0011),
        (0.012, 0.01299, 0.0131),
        (-2.0, -2.00099, -2.0011),
        (91.5, 91.509, 91.511),  # or the fourth digit
        (24418.0, 24427.0, 24429.0),
    ],
)
def test_what_no_processor_moves_is_checked_to_one_unit(
    monkeypatch, book, stored_value, passes, fails
):
    write(book, results={"03.x": stored_value}, spreads={"03.x": 0.0})
    monkeypatch.setenv("CHARLM_CHECK", "1")
    record("03.x", passes)
    with pytest.raises(AssertionError, match="03.x"):
        record("03.x", fails)


def test_two_percent_are_no_tolerance(monkeypatch, book):
    """What the rule was: 0.025 nats of 1.25, three times the lead of one model over another."""
    write(book, results={"07.lstm": 1.2443}, spreads={"07.lstm": 0.004})
    monkeypatch.setenv("CHARLM_CHECK", "1")
    record("07.lstm", 1.2482)
    with pytest.raises(AssertionError, match="07.lstm"):
        record("07.lstm", 1.2524)


@pytest.mark.parametrize("spreads", [{}, {"03.zero": 0.1}, None])
def test_a_number_whose_spread_was_not_measured_is_no_check(monkeypatch, book, spreads):
    write(book, spreads=spreads or {})
    if spreads is None:
        (book / "spreads.json").unlink()
    monkeypatch.setenv("CHARLM_CHECK", "1")
    for ask in (lambda: record("03.model.valid", 2.0), lambda: spread("03.model.valid")):
        with pytest.raises(KeyError, match="03.model.valid .*spreads.json.*make anywhere"):
            ask()


def test_tolerance_is_the_larger_of_spread_and_unit(book):
    assert spread("03.model.valid") == tolerance("03.model.valid") == 0.03
    assert spread("03.zero") == 0.0 and tolerance("03.zero") == unit(0.0) == 0.001
    assert unit(1.2345) == unit(0.5) == unit(-1.0) == pytest.approx(0.001)
    assert unit(91.5) == pytest.approx(0.01) and unit(10_000) == pytest.approx(10)


# ---- measuring --------------------------------------------------------------------------------


def test_measuring_collects_and_asserts_nothing(monkeypatch, book, tmp_path, capsys):
    """`make anywhere` measures, before there is a spread or a number."""
    (book / "spreads.json").unlink()
    file, before = tmp_path / "measured.jsonl", stored(book)
    monkeypatch.setenv("CHARLM_CHECK", "1")
    monkeypatch.setenv("CHARLM_MEASURE", str(file))
    assert record("03.model.valid", 9.0) == 9.0 and record("03.none", 1) == 1.0
    record("03.model.valid", 2.0123456789)  # not rounded: a difference is what is looked for
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert lines == [{"03.model.valid": 9.0}, {"03.none": 1.0}, {"03.model.valid": 2.0123456789}]
    assert stored(book) == before and capsys.readouterr().out == ""


def test_measuring_is_part_of_checking_only(monkeypatch, tmp_path, book):
    file = tmp_path / "measured.jsonl"
    monkeypatch.setenv("CHARLM_MEASURE", str(file))
    record("03.model.valid", 9.0)
    monkeypatch.setenv("CHARLM_RECORD", "1")
    record("03.model.valid", 4.0)
    assert not file.exists() and stored(book)["03.model.valid"] == 4.0
    monkeypatch.delenv("CHARLM_RECORD")
    monkeypatch.setenv("CHARLM_CHECK", "1")
    corpora.stand_in("nietzsche")  # another text: what it gives is no measurement
    record("03.model.valid", 9.0)
    assert not file.exists()


# ---- a number with its spread -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("apart", "places", "text"),
    [
        (0.03, 3, "2.001 ± 0.030"),
        (0.03, 2, "2.00 ± 0.03"),
        (0.0, 3, "2.001 ± 0.001"),  # one unit of the last place at least
        (0.0, 2, "2.00 ± 0.01"),
        (0.004, 2, "2.00 ± 0.01"),
        (None, 3, "2.001 ± 0.001"),  # not measured yet: the notebook has to run to be measured
    ],
)
def test_within_prints_value_and_spread(book, apart, places, text):
    write(book, spreads={} if apart is None else {"03.model.valid": apart})
    assert within("03.model.valid", 2.0009, places) == text


@pytest.mark.parametrize("apart", [0.0, 0.001, 0.0044, 0.0046, 0.013, 0.03])
@pytest.mark.parametrize("places", [2, 3])
def test_what_is_within_its_spread_is_so_when_printed(book, apart, places):
    """Two values no further apart than the spread, rounded, differ by no more than is printed."""
    write(book, spreads={"03.model.valid": apart})
    for i in range(100):
        value = 1.35 + i * 1.7e-4
        texts = [within("03.model.valid", v, places) for v in (value, value + apart)]
        (one, shown), (other, same) = ([float(part) for part in t.split(" ± ")] for t in texts)
        assert shown == same and abs(one - other) <= shown + 1e-9, texts


# ---- other keys, other modes ------------------------------------------------------------------


def test_a_check_of_what_was_never_recorded_fails(monkeypatch):
    monkeypatch.setenv("CHARLM_CHECK", "1")
    with pytest.raises(KeyError, match="03.none .*make run"):
        record("03.none", 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("mode", ["CHARLM_RECORD", "CHARLM_CHECK", None])
def test_no_number_is_no_result(monkeypatch, value, mode, book):
    if mode:
        monkeypatch.setenv(mode, "1")
    before = stored(book)
    with pytest.raises(ValueError, match="03.model.valid is (nan|inf)"):
        record("03.model.valid", value)
    assert stored(book) == before


def test_a_reader_sees_both_numbers(capsys):
    assert record("03.model.valid", 2.5) == 2.5
    assert capsys.readouterr().out == "03.model.valid: 2.5 here, 2 in the book\n"
    record("03.unknown", 2.5)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mode", ["CHARLM_CHECK", None])
def test_on_a_stand_in_nothing_is_compared(monkeypatch, mode, capsys):
    corpora.stand_in("nietzsche")
    if mode:
        monkeypatch.setenv(mode, "1")
    assert record("03.model.valid", 9.0) == 9.0 and record("03.none", 1.0) == 1.0
    assert capsys.readouterr().out == ""


def test_results_of_a_stand_in_are_never_written(monkeypatch, book):
    corpora.stand_in("nietzsche")
    monkeypatch.setenv("CHARLM_RECORD", "1")
    before = stored(book)
    with pytest.raises(RuntimeError, match="stand-in"):
        record("03.model.valid", 9.0)
    assert stored(book) == before


def test_recording_goes_before_checking(monkeypatch, book):
    monkeypatch.setenv("CHARLM_RECORD", "1")
    monkeypatch.setenv("CHARLM_CHECK", "1")
    record("03.model.valid", 4.0)
    assert stored(book)["03.model.valid"] == 4.0


RECORDS = """
import sys
from pathlib import Path

from charlm_utils.book import results

results._PACKAGE = Path(sys.argv[1])
for i in range(40):
    results.record(f"{sys.argv[2]}.{i}", i)
"""


def test_two_notebooks_that_record_at_once_lose_nothing(book):
    command = [sys.executable, "-c", RECORDS, str(results._PACKAGE)]
    here = {"CHARLM_RECORD": "1", "PYTHONPATH": str(Path(results.__file__).parents[2])}
    names = ("05", "06", "07")
    running = [subprocess.Popen([*command, name], env=os.environ | here) for name in names]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    known = stored(book)
    assert len(known) == 2 + 3 * 40 and known["03.model.valid"] == 2.0
    assert all(known[f"{name}.{i}"] == i for name in names for i in range(40))
    assert sorted(path.suffix for path in book.iterdir()) == [".json"] * 3


HOLDS = """
import sys
import time
from pathlib import Path

from charlm_utils.book.results import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(book):
    """Another process that holds the lock of results.json."""
    command = [sys.executable, "-c", HOLDS, str(book / "results.lock")]
    here = {"PYTHONPATH": str(Path(results.__file__).parents[2])}
    process = subprocess.Popen(command, env=os.environ | here, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_that_another_process_holds_is_named(book, holder):
    for busy, said in ((None, "results.lock is held by another process"), ("not now", "not now")):
        with (
            pytest.raises(TimeoutError, match=said),
            locked(book / "results.lock", wait=0.1, busy=busy),
        ):
            raise AssertionError("two hold it")


def test_a_killed_process_leaves_no_lock(book, monkeypatch, holder):
    holder.kill()
    holder.wait()
    assert (book / "results.lock").exists()  # and yet:
    monkeypatch.setenv("CHARLM_RECORD", "1")
    record("03.model.valid", 4.0)
    assert stored(book)["03.model.valid"] == 4.0 and not (book / "results.lock").exists()


def test_who_waits_for_a_lock_gets_it(book, holder):
    threading.Timer(0.2, holder.kill).start()
    with locked(book / "results.lock", wait=20):
        assert holder.poll() is not None or holder.wait(timeout=5) is not None


def test_a_line_is_added_whole_or_not_at_all(tmp_path, monkeypatch):
    """A full disk takes a part of what is written, and refuses only the rest."""
    path = tmp_path / "lines.jsonl"
    append_line(path, {"a": 1})
    plain = open
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda *args: Full(plain(*args), room=40))
        append_line(path, {"b": 2})
        before = path.read_bytes()
        with pytest.raises(OSError, match="No space"):
            append_line(path, {"c": "x" * 100})
    assert path.read_bytes() == before == b'{"a": 1}\n{"b": 2}\n'
    append_line(path, {"d": 4})
    assert path.read_text() == '{"a": 1}\n{"b": 2}\n{"d": 4}\n'
    assert not path.with_name("lines.jsonl.lock").exists()


class Full:
    """A file on a disk with so many bytes of room."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: min(self.room, 7)])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_said_where_a_check_measures(monkeypatch, book, tmp_path):
    (tmp_path / "measured.jsonl").symlink_to("/dev/full")
    monkeypatch.setenv("CHARLM_CHECK", "1")
    monkeypatch.setenv("CHARLM_MEASURE", str(tmp_path / "measured.jsonl"))
    with pytest.raises(OSError, match="No space"):
        record("03.model.valid", 2.0)


def test_a_full_disk_leaves_the_book_and_no_part(book, monkeypatch):
    monkeypatch.setenv("CHARLM_RECORD", "1")
    before = stored(book)
    with monkeypatch.context() as patch:
        patch.setattr(results.os, "fsync", lambda handle: full())
        with pytest.raises(OSError, match="No space"):
            record("03.model.valid", 4.0)
    assert stored(book) == before
    assert sorted(path.suffix for path in book.iterdir()) == [".json"] * 3


def full():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_fails_lifts_the_lock(book, monkeypatch):
    monkeypatch.setenv("CHARLM_RECORD", "1")
    before = stored(book)
    with monkeypatch.context() as patch:
        patch.setattr(results.Path, "replace", lambda *paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            record("03.model.valid", 4.0)
    assert stored(book) == before and not (book / "results.lock").exists()
    record("03.model.valid", 4.0)
    assert stored(book)["03.model.valid"] == 4.0


def test_result_and_published():
    assert result("03.model.valid") == 2.0 and published("a.b") == ROW
    with pytest.raises(KeyError, match="03.none"):
        result("03.none")
    with pytest.raises(KeyError, match="c.d"):
        published("c.d")


def test_an_installed_copy_has_the_numbers_inside(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "charlm_utils"
    (package / "_book").mkdir(parents=True)
    (package / "_book" / "results.json").write_text('{"03.model.valid": 7.0}', encoding="utf-8")
    (package / "_book" / "published.json").write_text("[]", encoding="utf-8")
    (package.parent / "book").mkdir()  # somebody else's
    monkeypatch.setattr(results, "_PACKAGE", package)
    assert results.book_folder() == package / "_book" and result("03.model.valid") == 7.0


def test_the_repositorys_own_files_are_found(monkeypatch):
    monkeypatch.undo()
    folder = results.book_folder()
    assert (
        folder.name == "book" and (folder.parent / "charlm_utils" / "book" / "results.py").is_file()
    )
    assert all(isinstance(row["key"], str) for row in results._load("published.json"))
