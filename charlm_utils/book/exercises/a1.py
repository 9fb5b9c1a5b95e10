"""Appendix A1: what a compressor spends."""

import math
import zlib
from collections.abc import Callable

from charlm_utils.book.exercises.judge import judge


def check_a1(answer: Callable) -> bool:
    """Appendix A1: `answer(train, held_out)` is what zlib spends on the held-out text.

    In nats per held-out character, at level 9, after the training text.
    """
    train = "la señora canta: «sí, sí» y la niña canta: «no, no, ¡no!»; " * 8
    held_out = "la niña: «¡sí!», y la señora: «no, sí, no»; mañana cantó el señor. " * 2

    def size(text: str) -> int:
        return len(zlib.compress(text.encode("utf-8"), 9))

    extra, unit = size(train + held_out) - size(train), 8 * math.log(2) / len(held_out)
    letters = len(held_out) / len(held_out.encode("utf-8"))

    def gives(wrong: float) -> bool:
        return math.isclose(float(answer(train, held_out)), wrong, rel_tol=1e-6)

    return judge(
        [
            (lambda: math.isfinite(float(answer(train, held_out))), "return one finite number"),
            (lambda: not gives(size(held_out) * unit), "compress it after the training text"),
            (lambda: not gives((extra + size(train)) * unit), "subtract the training text's size"),
            (lambda: not gives(extra * unit / 8), "sizes are in bytes, and a byte is 8 bits"),
            (lambda: not gives(extra * unit / math.log(2)), "that is in bits; a bit is ln 2 nats"),
            (lambda: not gives(extra * unit * letters), "per character: ñ is one, and two bytes"),
            (
                lambda: gives(extra * unit),
                "not (size of both - size of the first) · 8 ln 2 / letters",
            ),
        ]
    )
