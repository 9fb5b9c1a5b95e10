"""Appendix A1: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import math
import zlib

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

NONSENSE = [
    None,
    "a text",
    lambda: 1,
    lambda t, h: None,
    lambda t, h: float("nan"),
    lambda t, h: [1, 2],
    lambda t, h: 1 / 0,
    lambda t, h: zlib.compress(t),
]

CHECK = check_a1
RIGHT = [right, by_object]
SAID = "return one finite number"  # to all nonsense
