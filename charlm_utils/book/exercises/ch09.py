"""Chapter 9: the share of right answers."""

import math
from collections.abc import Callable, Iterable

from charlm_utils.book.exercises.judge import judge, none_of


def check_ch09(answer: Callable) -> bool:
    """Chapter 9: `answer(said, truths)` is the share of exams answered right, whole answers only.

    `said` are texts as the network says them, units first, ended by a NUL; `truths` are numbers
    as they are written.
    """
    said = ["64\0\0", "02\0\0", "521\0", "52\0\0", "7\0\0\0", "7777", "641\0", "00\0\0", "9\0\0\0"]
    truths = ["46", "20", "125", "125", "7", "7", "46", "0", "9"]
    right = _share((text.split("\0")[0][::-1], t) for text, t in zip(said, truths, strict=True))

    def gives(wrong: float) -> bool:
        return math.isclose(float(answer(list(said), list(truths))), wrong, rel_tol=1e-6)

    finite = "return one number, from 0 to 1"
    first = (lambda: math.isfinite(float(answer(list(said), list(truths)))), finite)
    last = (lambda: gives(right), "not the share of exact answers; try one exam")
    return judge([first, *none_of(gives, _wrong_marks(said, truths, right)), last])


def _wrong_marks(said: list[str], truths: list[str], right: float) -> list[tuple]:
    """Wrong answers of chapter 9, each with its hint."""
    both = list(zip(said, truths, strict=True))
    ended = [(text.split("\0")[0], truth) for text, truth in both]
    characters = [pair for a, t in both for pair in zip(a, t[::-1].ljust(4, "\0"), strict=True)]
    whole = "an answer that goes on where it should end is wrong"
    return [
        (_share(characters), "that counts characters; an answer is right as a whole or not"),
        (_share(ended), "they are said units first: turn them round"),
        (_share((int(a[::-1]), int(t)) for a, t in ended), "00 is not 0"),
        (_share((a[: len(t)][::-1], t) for a, t in both), whole),
        (_share((a[::-1], t) for a, t in both), "stop at the NUL"),
        (right * len(said), "that is how many; divide by the number of exams"),
        (1 - right, "that is the share of the wrong ones"),
    ]


def _share(pairs: Iterable[tuple]) -> float:
    """The share of pairs whose two parts are equal."""
    same = [a == b for a, b in pairs]
    return sum(same) / len(same)
