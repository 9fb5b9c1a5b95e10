"""The checker of appendix A1: right answers pass, named wrong ones get their hint, none raises."""

import math
import zlib

import pytest
from checker_cases import accepted, rejected

from charlm_utils.book.exercises.a1 import check_a1


def size(text):
    return len(zlib.compress(text.encode("utf-8"), 9))


def right(train, held_out):
    extra = size(train + held_out) - size(train)
    return 8 * math.log(2) * extra / len(held_out)


def by_object(train, held_out):
    """Another way to the same number: one stream, fed twice."""
    data = zlib.compressobj(9)
    both = data.compress(train.encode()) + data.compress(held_out.encode()) + data.flush()
    return (len(both) - size(train)) / len(held_out) * 8 / math.log2(math.e)


WRONG = {
    "after the training text": lambda t, h: 8 * math.log(2) * size(h) / len(h),
    "subtract": lambda t, h: 8 * math.log(2) * size(t + h) / len(h),
    "8 bits": lambda t, h: right(t, h) / 8,
    "ln 2 nats": lambda t, h: right(t, h) / math.log(2),
    "two bytes": lambda t, h: right(t, h) * len(h) / len(h.encode()),
    "size of both": lambda t, h: right(t, h) * 1.01,
}


@pytest.mark.parametrize("answer", [right, by_object])
def test_right_answers_are_accepted(answer, capsys):
    accepted(check_a1, answer, capsys)


@pytest.mark.parametrize(("hint", "answer"), WRONG.items(), ids=list(WRONG))
def test_wrong_answers_get_their_hint(hint, answer, capsys):
    rejected(check_a1, answer, capsys, hint)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "a text",
        lambda: 1,
        lambda t, h: None,
        lambda t, h: float("nan"),
        lambda t, h: [1, 2],
        lambda t, h: 1 / 0,
        lambda t, h: zlib.compress(t),
    ],
)
def test_nonsense_never_raises(answer, capsys):
    assert check_a1(answer) is False
    assert "return one finite number" in capsys.readouterr().out
