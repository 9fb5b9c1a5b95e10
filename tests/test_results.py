"""The book's numbers: written by one kind of run, checked by another, shown to a reader."""

import json
import math

import pytest

from charlm_utils import corpora, results
from charlm_utils.results import published, record, result

ROW = {"key": "a.b", "model": "m", "corpus": "c", "split": "90/10", "value": 1.47, "unit": "nats"}


@pytest.fixture(autouse=True)
def book(clean, tmp_path, monkeypatch):
    """A repository of its own: a package folder and, beside it, the book's two files."""
    folder = tmp_path / "repository" / "book"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(
        '{"03.model.valid": 2.0, "03.zero": 0.0}', encoding="utf-8"
    )
    (folder / "published.json").write_text(json.dumps([ROW]), encoding="utf-8")
    monkeypatch.setattr(results, "_PACKAGE", folder.parent / "charlm_utils")
    return folder


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


@pytest.mark.parametrize("value", [2.0, 2.0399, 1.9601])
def test_a_check_passes_within_two_percent(monkeypatch, value, capsys, book):
    monkeypatch.setenv("CHARLM_CHECK", "1")
    before = stored(book)
    assert record("03.model.valid", value) == value
    assert capsys.readouterr().out == "" and stored(book) == before


@pytest.mark.parametrize("value", [2.06, 1.94, 2.0401, -2.0])
def test_a_check_fails_beyond_two_percent(monkeypatch, value):
    monkeypatch.setenv("CHARLM_CHECK", "1")
    with pytest.raises(AssertionError, match=f"03.model.valid: {value:.5g} here, 2 in the book"):
        record("03.model.valid", value)


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
    assert folder.name == "book" and (folder.parent / "charlm_utils" / "results.py").is_file()
    assert all(isinstance(row["key"], str) for row in results._load("published.json"))
