"""Chapter 9: right answers to its first exercise, wrong ones with their hint, and nonsense."""

from charlm_utils.book.exercises.ch09 import check_ch09


def read(text):
    return text.split("\0")[0][::-1]


def right(said, truths):
    return sum(read(a) == t for a, t in zip(said, truths, strict=True)) / len(truths)


def by_hand(said, truths):
    marks = 0
    for a, t in zip(said, truths, strict=True):
        marks += a.rstrip("\0") == t[::-1]
    return marks / len(said)


def by_character(said, truths):
    same = count = 0
    for a, t in zip(said, truths, strict=True):
        for i, c in enumerate(t[::-1].ljust(len(a), "\0")):
            same, count = same + (a[i] == c), count + 1
    return same / count


WRONG = {
    "return one number": lambda said, truths: [right(said, truths)] * 2,
    "counts characters": by_character,
    "units first": lambda said, truths: right([read(a) + "\0" for a in said], truths),
    "00 is not 0": lambda said, truths: (
        sum(int(read(a)) == int(t) for a, t in zip(said, truths, strict=True)) / len(said)
    ),
    "goes on": lambda said, truths: (
        sum(a.startswith(t[::-1]) for a, t in zip(said, truths, strict=True)) / len(said)
    ),
    "stop at the NUL": lambda said, truths: (
        sum(a[::-1] == t for a, t in zip(said, truths, strict=True)) / len(said)
    ),
    "that is how many": lambda said, truths: right(said, truths) * len(said),
    "share of the wrong": lambda said, truths: 1 - right(said, truths),
    "try one exam": lambda said, truths: right(said, truths) + 0.01,
}

NONSENSE = [None, "a text", lambda: 1, lambda *a: None, lambda *a: 1 / 0, lambda *a: float("nan")]
NONSENSE += [lambda *a: "half", lambda said, truths: said.clear()]

CHECK = check_ch09
RIGHT = [right, by_hand]
