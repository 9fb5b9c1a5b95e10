"""What every checker shares: tests asked in order, each with the hint it deserves."""

import functools
from collections.abc import Callable

Test = tuple[Callable[[], bool], str]  # a question to the answer, and the hint if it fails


def judge(tests: list[Test]) -> bool:
    """Ask in order; print the hint of the first test that fails or breaks, else "right"."""
    for question, hint in tests:
        try:
            good = bool(question())
        except Exception as error:  # a reader's answer may break in any way
            print(f"not yet: {hint} (it stopped with {type(error).__name__}: {error})")
            return False
        if not good:
            print(f"not yet: {hint}")
            return False
    print("right")
    return True


def none_of(gives: Callable, wrong: list[tuple]) -> list[Test]:
    """Tests that the answer gives none of these values, each with the hint it deserves."""
    return [(functools.partial(_differs, gives, value), hint) for value, hint in wrong]


def _differs(gives: Callable, value: object) -> bool:
    return not gives(value)
