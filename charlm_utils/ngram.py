"""What a loss is worth: count tables and compressors on the same split.

An n-gram table with *context k* predicts a character from the k before it, so it counts
(k + 1)-grams. Counts are interpolated down to the uniform distribution over the alphabet,
by Witten-Bell (Witten and Bell, 1991) or by modified Kneser-Ney (Chen and Goodman, 1998).
Every character gets a positive probability, so no loss is infinite.
"""

import bz2
import lzma
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
COMPRESSORS = ("bz2", "xz")
SHORTEST = 64  # bytes; what a compressor spends on less is mostly its own bookkeeping
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # where counts are too few to estimate D1, D2, D3+


@dataclass(frozen=True)
class _Counts:
    """Counts of all n-grams of one length, each stored as (context, next character).

    An n-gram's id is its row here; `keys` is `context id * V + character`, sorted.
    """

    keys: Ints  # (G,) sorted and distinct
    counts: Ints  # (G,)
    total: Ints  # (C,) sum of the counts behind each context
    types: Ints  # (C, 3) how many n-grams of count 1, 2, and 3 or more follow each context
    discounts: Floats  # (3,) D1, D2 and D3+

    def find(self, keys: Ints) -> Ints:
        """The id of each key, or -1 where it was never seen."""
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)


class NGram:
    """Counts of every n-gram of a text up to `context + 1` characters.

    `ids` are character ids below `vocab_size`; one table answers for all shorter contexts too.
    Raises `ValueError` for ids outside the alphabet and for a text not longer than `context`.
    """

    def __init__(self, ids: ArrayLike, vocab_size: int, context: int):
        self.vocab_size, self.context = vocab_size, context
        ids = self._checked(ids)
        if context < 0 or len(ids) <= context:
            raise ValueError(f"{len(ids)} characters are too few for a context of {context}")
        self.tail = ids[len(ids) - context :]
        self.raw: list[_Counts] = []  # by n - 1, each with raw counts
        self.continuation: list[_Counts] = []  # … with the number of distinct characters before
        self._count(ids)

    def _count(self, ids: Ints) -> None:
        """Fill the tables, one length after the other: an n-gram's id is the next one's context."""
        grams: list[Ints] = []  # by n - 1, the id of the n-gram that starts at each place
        before, contexts = np.zeros(len(ids), dtype=np.int64), 1  # the one empty context
        for n in range(self.context + 1):
            keys, gram, counts = np.unique(
                before * self.vocab_size + ids[n:], return_inverse=True, return_counts=True
            )
            self.raw.append(_tabulate(keys, counts, self.vocab_size, contexts))
            grams.append(gram)
            before, contexts = gram[:-1], len(keys)
        for n in range(self.context):
            self.continuation.append(self._count_predecessors(grams, n))

    def _count_predecessors(self, grams: list[Ints], n: int) -> _Counts:
        """For each (n + 1)-gram, the number of distinct characters seen right before it."""
        _, first = np.unique(grams[n + 1], return_index=True)  # one place of each longer n-gram
        counts = np.bincount(grams[n][first + 1], minlength=len(self.raw[n].keys))
        contexts = len(self.raw[n].total)
        return _tabulate(self.raw[n].keys, counts, self.vocab_size, contexts)

    def log_probs(
        self,
        ids: ArrayLike,
        *,
        context: int | None = None,
        smoothing: str = "kneser-ney",
        before: ArrayLike | None = None,
    ) -> Floats:
        """ln p of each character of `ids` given the up to `context` characters before it.

        The text starts with `before` as its context: by default the end of the counted text,
        as for a held-out part that follows it. Returns nats, shape (len(ids),).
        """
        k, ids = self._context(context), self._checked(ids)
        start = self._start(before, k)
        contexts = self._context_ids(np.concatenate([start, ids]), k, first=len(start))
        return np.log(self._interpolate(contexts, ids, k, smoothing))

    def probs(
        self, context_ids: ArrayLike, *, context: int | None = None, smoothing: str = "kneser-ney"
    ) -> Floats:
        """The distribution over the alphabet after `context_ids`, which may be none: (V,)."""
        k = self._context(context)
        given = self._start(np.atleast_1d(context_ids), k)
        stream = np.append(given, 0)  # the 0 marks the place that is asked for
        found = self._context_ids(stream, k, first=len(given))
        contexts = [np.full(self.vocab_size, gram[0]) for gram in found]
        return self._interpolate(contexts, np.arange(self.vocab_size), k, smoothing)

    def loss(
        self,
        ids: ArrayLike,
        *,
        context: int | None = None,
        smoothing: str = "kneser-ney",
        before: ArrayLike | None = None,
    ) -> float:
        """Mean of -ln p over `ids`, nats per character; options as in `log_probs`."""
        ids = self._checked(ids)
        if len(ids) == 0:
            raise ValueError("a text of 0 characters has no loss")
        found = self.log_probs(ids, context=context, smoothing=smoothing, before=before)
        return max(0.0, float(-found.mean()))  # no -0.0 of a sure thing

    def seen(
        self, ids: ArrayLike, *, context: int | None = None, before: ArrayLike | None = None
    ) -> Ints:
        """How often the counted text goes on after the context before each character of `ids`."""
        k, ids = self._context(context), self._checked(ids)
        start = self._start(before, k)
        rows = self._context_ids(np.concatenate([start, ids]), k, first=len(start))[k]
        return np.where(rows >= 0, self.raw[k].total[rows], 0)

    def _context(self, context: int | None) -> int:
        k = self.context if context is None else context
        if not 0 <= k <= self.context:
            raise ValueError(f"context must lie in 0 … {self.context}, not {k}")
        return k

    def _checked(self, ids: ArrayLike) -> Ints:
        """`ids` as a one-dimensional array of int64; raises where one is no id of the alphabet."""
        array = np.asarray(ids)
        if array.size == 0:
            return np.zeros(0, dtype=np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"ids must be integers in one row, not {array.dtype} {array.shape}")
        low, high = array.min(), array.max()
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"ids must lie in 0 … {self.vocab_size - 1}, not {low} … {high}")
        return array.astype(np.int64)

    def _start(self, before: ArrayLike | None, k: int) -> Ints:
        """The last k ids of `before`, of the counted text by default."""
        start = self.tail if before is None else self._checked(before)
        return start[max(len(start) - k, 0) :]

    def _context_ids(self, stream: Ints, k: int, first: int) -> list[Ints]:
        """For n = 0 … k: the id of the n characters before each place from `first` on.

        It is -1 where the counted text lacks them, or fewer than n stand before the place.
        """
        gram = np.zeros(len(stream) + 1, dtype=np.int64)  # id of the n characters before a place
        found = [gram[first:-1]]
        for n in range(k):
            longer = np.full(len(stream) + 1, -1, dtype=np.int64)
            keys = np.where(gram[:-1] >= 0, gram[:-1] * self.vocab_size + stream, -1)
            longer[1:] = self.raw[n].find(keys)
            gram = longer
            found.append(gram[first:-1])
        return found

    def _interpolate(self, contexts: list[Ints], chars: Ints, k: int, smoothing: str) -> Floats:
        """p of each of `chars`, from the shortest context (1/V) up to the one of k characters."""
        if smoothing not in ("kneser-ney", "witten-bell"):
            raise ValueError(f"smoothing is 'kneser-ney' or 'witten-bell', not {smoothing!r}")
        kneser_ney = smoothing == "kneser-ney"
        p = np.full(len(chars), 1 / self.vocab_size)
        for n in range(k + 1):
            table = self.continuation[n] if kneser_ney and n < k else self.raw[n]
            seen = contexts[n] >= 0
            row = np.where(seen, contexts[n], 0)
            seen &= table.total[row] > 0
            gram = table.find(np.where(seen, row * self.vocab_size + chars, -1))
            count = np.where(gram >= 0, table.counts[gram], 0)
            total, types = table.total[row], table.types[row]
            if kneser_ney:
                higher, rest = _kneser_ney(count, types, table.discounts)
            else:
                higher, rest = count, types.sum(axis=1)
                total = total + rest
            p = np.where(seen, (higher + rest * p) / np.maximum(total, 1), p)
        return p


def _tabulate(keys: Ints, counts: Ints, vocab_size: int, contexts: int) -> _Counts:
    context = keys // vocab_size
    total = np.bincount(context, weights=counts, minlength=contexts).astype(np.int64)
    kinds = [counts == 1, counts == 2, counts >= 3]
    types = np.stack([np.bincount(context[k], minlength=contexts) for k in kinds], axis=1)
    return _Counts(keys, counts.astype(np.int64), total, types, _discounts(counts))


def _discounts(counts: Ints) -> Floats:
    """D1, D2 and D3+ of Chen and Goodman, from how many n-grams occur 1, 2, 3 and 4 times.

    A discount of 0 or less would leave unseen characters nothing, and one that rests on no
    n-gram means nothing: 0.5, 1 and 1.5 stand in for those.
    """
    n = [int((counts == c).sum()) for c in (1, 2, 3, 4)]
    if not all(n):
        return np.array(FALLBACK_DISCOUNTS)
    y = n[0] / (n[0] + 2 * n[1])
    estimates = [i + 1 - (i + 2) * y * n[i + 1] / n[i] for i in range(3)]  # below i + 1 always
    return np.where(np.greater(estimates, 0), estimates, FALLBACK_DISCOUNTS)


def _kneser_ney(count: Ints, types: Ints, discounts: Floats) -> tuple[Floats, Floats]:
    """What is left of each count after its discount, and what the discounts free in all."""
    steps = np.concatenate([[0.0], discounts])
    return count - steps[count.clip(max=3)], types @ discounts


def compressor_loss(train: str, held_out: str, compressor: str = "bz2") -> float:
    """Nats per held-out character that `bz2` (level 9) or `xz` (9e) spends on it after `train`.

    The difference of two compressed sizes: both texts together, less the first alone. A size
    moves by some dozen bytes for reasons of its own, so for a short or an often repeated text
    the difference says little, and may be negative: it then counts as 0.
    """
    return extra_bytes(train, held_out, compressor) * 8 * math.log(2) / len(held_out)


def extra_bytes(train: str, held_out: str, compressor: str = "bz2") -> int:
    """By how many bytes the compressed `train` grows when `held_out` follows it, at least 0."""
    if compressor not in COMPRESSORS:
        raise ValueError(f"compressor is 'bz2' or 'xz', not {compressor!r}")
    if not held_out:
        raise ValueError("a held-out text of 0 characters has no loss")

    def size(text: str) -> int:
        data = text.encode("utf-8")
        if compressor == "bz2":
            return len(bz2.compress(data, 9))
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))

    return max(0, size(train + held_out) - size(train))


def floors(train: str, held_out: str, max_context: int = 6) -> dict[str, float]:
    """The losses any model must beat on this split, nats per character, easiest first.

    The alphabet is that of both parts; counts come from `train` alone. A compressor has no row
    where it spends fewer than 64 bytes (`SHORTEST`) on the held-out part: a text that short, or
    that often seen before, gives a number which is not its own. Raises `ValueError` where one of
    the two parts is empty.
    """
    if not train or not held_out:
        raise ValueError(f"no floors from {len(train)} characters for {len(held_out)} held out")
    alphabet = sorted(set(train) | set(held_out))
    stoi = {c: i for i, c in enumerate(alphabet)}
    table = NGram([stoi[c] for c in train], len(alphabet), min(max_context, len(train) - 1))
    ids = [stoi[c] for c in held_out]
    result = {"uniform": math.log(len(alphabet)), "unigram": table.loss(ids, context=0)}
    for k in range(1, table.context + 1):
        result[f"{k + 1}-gram, Kneser-Ney"] = table.loss(ids, context=k)
    for name in COMPRESSORS:
        if (size := extra_bytes(train, held_out, name)) >= SHORTEST:
            result[name] = size * 8 * math.log(2) / len(held_out)
    return result
