"""The whole command line under generated calls: one line or a result, never a traceback.

The calls and what is asked of each stand in book/tools/soak_calls.py; `make soak` makes more.
"""

import pytest
from book_reader import tool

from charlm_utils import cli
from charlm_utils.checkpoint import has_checkpoint

CALLS = 400
soak_calls = tool("soak_calls")
pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with texts, a model, and things that are neither."""
    return soak_calls.make_place(tmp_path_factory.mktemp("parser"))


@pytest.mark.parametrize("seed", range(4))
def test_every_call_ends_in_a_result_or_one_line(
    place, seed, capsys, monkeypatch, tmp_path, record_property
):
    monkeypatch.chdir(tmp_path)  # what a call makes by a relative name stays here
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    calls, found = soak_calls.Calls(place, seed), {}
    for number in range(CALLS // 4):
        words = calls.call(f"{seed}-{number}")
        with soak_calls.deadline(words):
            status = soak_calls.status_of(words)
        out, err = capsys.readouterr()
        found[status] = found.get(status, 0) + 1
        assert soak_calls.problem(status, out, err) is None, (words, err)
    assert min(found.get(status, 0) for status in (0, 1, 2)) >= 5, found  # all three kinds occur
    record_property("counted", f"{CALLS // 4} generated command lines")


@pytest.mark.parametrize(
    ("status", "out", "err", "wrong"),
    [
        (0, "fine\n", "", None),
        (1, "", "charlm: no such file\n", None),
        (2, "", "usage: charlm\ncharlm: error: no\n", None),
        (130, "", "charlm: stopped\n", "status 130"),
        (1, "", "Traceback (most recent call last)\n", "a traceback"),
        (1, "", "", "0 lines"),
        (1, "", "charlm: a\nb\nc\n", "3 lines"),
        (1, "", "no such file\n", "not charlm's"),
        (1, "", "charlm: \x1b[2J\n", "steer a terminal"),
        (2, "", "charlm: no\n", "not named"),
    ],
)
def test_what_a_call_may_end_in(status, out, err, wrong):
    found = soak_calls.problem(status, out, err)
    assert found is None if wrong is None else wrong in found


def test_the_calls_know_every_option():
    """An option that is new is drawn, too."""
    for name, options in soak_calls.OF.items():
        parser = cli._parser()._subparsers._group_actions[0].choices[name]
        known = {word for word in parser._option_string_actions if word.startswith("--")}
        assert known - {"--help"} == {*options} | ({"--fetch"} if name == "corpora" else set())


def test_a_call_that_trains_leaves_a_model(place, capsys):
    out = place / "last"
    words = ["train", str(place / "text.txt"), "--hidden-size=4", "--epochs=1", "--batch-size=8"]
    assert soak_calls.status_of([*words, "--out", str(out)]) == 0 and has_checkpoint(out)
