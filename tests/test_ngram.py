"""Count tables and compressors against slow, plain-Python versions of their definitions."""

import bz2
import lzma
import math
import os
import random
import time
from collections import Counter

import numpy as np
import pytest
import torch

from charlm_utils.corpora import load_corpus
from charlm_utils.data import CharVocab, letters_only, split_text
from charlm_utils.ngram import (
    FALLBACK_DISCOUNTS,
    SHORTEST,
    NGram,
    compressor_loss,
    extra_bytes,
    floors,
)

SMOOTHINGS = ("kneser-ney", "witten-bell")

each_smoothing = pytest.mark.parametrize("smoothing", SMOOTHINGS)


# ---- the definitions, written out over strings of ids -----------------------------------------


def grams(ids, n):
    """Counter of all n-grams of a list of ids, as tuples."""
    return Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))


def predecessors(ids, n):
    """For each n-gram, how many distinct ids stand right before it."""
    return Counter(longer[1:] for longer in grams(ids, n + 1))


def discounts(counts):
    """D1, D2, D3+ from a Counter of n-grams (Chen and Goodman)."""
    n = [sum(c == times for c in counts.values()) for times in (1, 2, 3, 4)]
    if 0 in n:
        return FALLBACK_DISCOUNTS
    y = n[0] / (n[0] + 2 * n[1])
    d = [1 - 2 * y * n[1] / n[0], 2 - 3 * y * n[2] / n[1], 3 - 4 * y * n[3] / n[2]]
    return [one if one > 0 else other for one, other in zip(d, FALLBACK_DISCOUNTS, strict=True)]


class Slow:
    """The same probabilities as `NGram`, one at a time, by recursion."""

    def __init__(self, ids, vocab_size, context, smoothing):
        self.vocab_size, self.kneser_ney = vocab_size, smoothing == "kneser-ney"
        self.tables = [grams(ids, n + 1) for n in range(context + 1)]
        if self.kneser_ney:
            self.tables[:context] = [predecessors(ids, n + 1) for n in range(context)]
        self.discounts = [discounts(table) for table in self.tables]

    def p(self, context, char):
        """p(char | context), both as tuples of ids; all of `context` is used."""
        lower = self.p(context[1:], char) if context else 1 / self.vocab_size
        table = self.tables[len(context)]
        after = {g[-1]: c for g, c in table.items() if g[:-1] == context}
        total, count = sum(after.values()), after.get(char, 0)
        if total == 0:
            return lower
        if not self.kneser_ney:
            return (count + len(after) * lower) / (total + len(after))
        d = [0, *self.discounts[len(context)]]
        freed = sum(d[min(c, 3)] for c in after.values())
        return (count - d[min(count, 3)] + freed * lower) / total


def slow_probs(ids, vocab_size, context, smoothing, given):
    """The distribution after `given` with a table of that context; a shorter `given` backs off.

    With fewer characters than `context` the top table is never reached: raw counts stay unused.
    """
    slow = Slow(ids, vocab_size, context, smoothing)
    return [slow.p(tuple(given), c) for c in range(vocab_size)]


def random_text(seed, length, vocab_size):
    """Ids with a Zipf-like distribution and some structure: a character likes its neighbours."""
    rng = random.Random(seed)
    weights = [1 / (i + 1) for i in range(vocab_size)]
    ids = [rng.randrange(vocab_size)]
    while len(ids) < length:
        step = rng.choices(range(vocab_size), weights)[0]
        ids.append((ids[-1] + step) % vocab_size if rng.random() < 0.7 else step)
    return ids


TEXTS = [(0, 30, 3), (1, 60, 4), (2, 200, 5), (3, 400, 3), (4, 300, 12), (5, 9, 2), (6, 900, 7)]


@each_smoothing
@pytest.mark.parametrize(("seed", "length", "vocab_size"), TEXTS)
@pytest.mark.parametrize("context", [0, 1, 2, 4])
def test_equals_the_definition(seed, length, vocab_size, context, smoothing):
    ids = random_text(seed, length, vocab_size)
    held_out = random_text(seed + 100, 25, vocab_size)
    fast = NGram(ids, vocab_size, context)
    slow = Slow(ids, vocab_size, context, smoothing)
    stream = ids + held_out
    expected = [
        math.log(slow.p(tuple(stream[i - context : i]), stream[i]))
        for i in range(len(ids), len(stream))
    ]
    np.testing.assert_allclose(fast.log_probs(held_out, smoothing=smoothing), expected, rtol=1e-10)
    assert fast.loss(held_out, smoothing=smoothing) == pytest.approx(-np.mean(expected), rel=1e-10)


@pytest.mark.parametrize(("seed", "length", "vocab_size"), TEXTS)
def test_discounts_and_continuation_counts_equal_the_definition(seed, length, vocab_size):
    ids = random_text(seed, length, vocab_size)
    table = NGram(ids, vocab_size, 2)
    for n in (1, 2, 3):
        raw = grams(ids, n)
        np.testing.assert_allclose(table.raw[n - 1].discounts, discounts(raw))
        assert sorted(table.raw[n - 1].counts) == sorted(raw.values())
        if n < 3:
            before = predecessors(ids, n)
            full = {gram: before[gram] for gram in raw}  # 0 for one that only starts the text
            assert sorted(table.continuation[n - 1].counts) == sorted(full.values())
            np.testing.assert_allclose(table.continuation[n - 1].discounts, discounts(before))


def test_the_texts_above_try_estimated_and_fallback_discounts():
    kinds = set()
    for seed, length, vocab_size in TEXTS:
        counts = grams(random_text(seed, length, vocab_size), 2)
        kinds.add(discounts(counts) is FALLBACK_DISCOUNTS)
    assert kinds == {True, False}


def test_a_table_answers_for_shorter_contexts_as_a_shorter_table_does():
    ids, held_out = random_text(7, 500, 6), random_text(8, 80, 6)
    table = NGram(ids, 6, 4)
    for context in range(5):
        alone = NGram(ids, 6, context)
        for smoothing in SMOOTHINGS:
            np.testing.assert_allclose(
                table.log_probs(held_out, context=context, smoothing=smoothing),
                alone.log_probs(held_out, smoothing=smoothing),
            )
        assert (table.seen(held_out, context=context) == alone.seen(held_out)).all()


# ---- distributions ----------------------------------------------------------------------------


@each_smoothing
@pytest.mark.parametrize(("seed", "length", "vocab_size"), TEXTS)
def test_probabilities_are_positive_and_sum_to_one(seed, length, vocab_size, smoothing):
    ids, rng = random_text(seed, length, vocab_size), random.Random(seed)
    table = NGram(ids, vocab_size + 1, 3)  # the last character of the alphabet is never seen
    seen = [ids[i : i + 3] for i in range(0, length - 3, max(1, length // 9))]
    unseen = [[vocab_size] * 3, [vocab_size, vocab_size, ids[0]], [vocab_size, ids[0], ids[1]]]
    short = [[], [ids[0]], ids[:2], [vocab_size]]
    free = [[rng.randrange(vocab_size + 1) for _ in range(3)] for _ in range(10)]
    for given in seen + unseen + short + free + [ids[-3:]]:
        for context in range(4):
            p = table.probs(given, context=context, smoothing=smoothing)
            assert p.shape == (vocab_size + 1,)
            assert p.sum() == pytest.approx(1, abs=1e-12)
            assert (p > 0).all()


@each_smoothing
def test_probs_agree_with_log_probs(smoothing):
    ids, held_out = random_text(9, 300, 5), random_text(10, 40, 5)
    table = NGram(ids, 5, 3)
    log_p = table.log_probs(held_out, smoothing=smoothing)
    for i, char in enumerate(held_out):
        given = (ids + held_out)[: len(ids) + i]
        p = table.probs(given, smoothing=smoothing)[char]  # only the last 3 of `given` count
        assert math.log(p) == pytest.approx(log_p[i], rel=1e-12)


@each_smoothing
def test_fewer_characters_than_the_context_are_answered_by_shorter_ngrams(smoothing):
    ids = random_text(11, 200, 4)
    table = NGram(ids, 4, 3)
    for given in ([], [2], [1, 3]):
        expected = slow_probs(ids, 4, 3, smoothing, given)
        np.testing.assert_allclose(table.probs(given, smoothing=smoothing), expected)
        start = table.log_probs([0], before=given, smoothing=smoothing)
        assert start[0] == pytest.approx(math.log(expected[0]))


def test_the_start_of_the_held_out_text_can_be_given():
    ids, held_out = random_text(12, 200, 4), random_text(13, 30, 4)
    table = NGram(ids, 4, 3)
    np.testing.assert_array_equal(
        table.log_probs(held_out), table.log_probs(held_out, before=ids[-3:])
    )
    whole = table.log_probs(ids[50:100], before=ids[:50])
    parts = [table.log_probs(ids[a:b], before=ids[:a]) for a, b in ((50, 71), (71, 100))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert table.log_probs(held_out, before=[])[0] != table.log_probs(held_out)[0]


def test_seen_counts_what_follows_a_context():
    ids, held_out = random_text(14, 300, 5), random_text(15, 60, 6)
    table = NGram(ids, 6, 2)
    stream = ids + held_out
    follows = Counter(tuple(ids[i : i + 2]) for i in range(len(ids) - 2))
    expected = [follows[tuple(stream[i - 2 : i])] for i in range(len(ids), len(stream))]
    assert table.seen(held_out).tolist() == expected
    assert 0 in expected and max(expected) > 0
    assert table.seen(held_out, context=0).tolist() == [300] * 60


@each_smoothing
def test_a_better_text_for_the_table_costs_less(smoothing):
    ids = random_text(16, 2000, 6)
    table = NGram(ids[:1600], 6, 2)
    shuffled = random.Random(0).sample(ids[1600:], 400)
    assert table.loss(ids[1600:], smoothing=smoothing) < table.loss(shuffled, smoothing=smoothing)


# ---- degenerate texts -------------------------------------------------------------------------


def test_discounts_are_positive_and_never_above_the_count():
    for seed in range(300):
        rng = random.Random(seed)
        ids = random_text(seed, rng.randrange(2, 120), rng.randrange(1, 9))
        table = NGram(ids, 9, min(3, len(ids) - 1))
        for counts in table.raw + table.continuation:
            assert (counts.discounts > 0).all() and (counts.discounts <= [1, 2, 3]).all()


@each_smoothing
@pytest.mark.parametrize(
    ("ids", "vocab_size", "context"),
    [([0] * 50, 1, 3), ([0] * 50, 4, 3), ([1, 0], 2, 1), ([2, 2], 3, 1), ([0], 1, 0), ([0], 5, 0)],
    ids=["alphabet of one", "one character", "two characters", "a pair", "single", "single of 5"],
)
def test_degenerate_texts(ids, vocab_size, context, smoothing):
    table = NGram(ids, vocab_size, context)
    for given in ([], ids, [vocab_size - 1] * 5):
        p = table.probs(given, smoothing=smoothing)
        assert p.sum() == pytest.approx(1) and (p > 0).all()
        assert len(set(ids)) > 1 or p[ids[0]] == max(p)
    if vocab_size == 1:
        assert table.loss(ids, smoothing=smoothing) == pytest.approx(0, abs=1e-12)


def test_all_counts_equal_to_two_leave_something_for_the_unseen():
    """With n1 = 1, n2 = 1, n3 = 5 the formula puts D2 at -3: nothing would be left to share."""
    ids = [0] + [1] * 2 + [c for c in (2, 3, 4, 5, 6) for _ in range(3)] + [7] * 4
    table = NGram(ids, 9, 0)
    assert [int((table.raw[0].counts == c).sum()) for c in (1, 2, 3, 4)] == [1, 1, 5, 1]
    d = table.raw[0].discounts
    assert d[1] == FALLBACK_DISCOUNTS[1]
    assert d[[0, 2]] == pytest.approx([1 - 2 / 3, 3 - 4 / 15])
    assert table.probs([])[8] > 0
    assert math.isfinite(table.loss([8]))


# ---- input ------------------------------------------------------------------------------------


def test_lists_arrays_and_tensors_give_the_same():
    ids, held_out = random_text(17, 100, 4), random_text(18, 20, 4)
    expected = NGram(ids, 4, 2).loss(held_out)
    for make in (np.array, torch.tensor, lambda x: np.array(x, dtype=np.uint8)):
        assert NGram(make(ids), 4, 2).loss(make(held_out)) == expected
    one = NGram(ids, 4, 2).probs(3)
    np.testing.assert_array_equal(one, NGram(ids, 4, 2).probs([3]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: NGram([], 4, 0), "0 characters are too few for a context of 0"),
        (lambda t: NGram([0, 1, 2], 4, 3), "3 characters are too few for a context of 3"),
        (lambda t: NGram([0, 1], 4, -1), "a context of -1"),
        (lambda t: NGram([0, 1, 4], 4, 1), "0 … 3, not 0 … 4"),
        (lambda t: NGram([0, -1], 4, 1), "0 … 3, not -1 … 0"),
        (lambda t: NGram([0.5, 1.0], 4, 1), "float64"),
        (lambda t: NGram([[0, 1]], 4, 0), r"\(1, 2\)"),
        (lambda t: NGram([0], 0, 0), "0 … -1"),
        (lambda t: t.log_probs([4]), "not 4 … 4"),
        (lambda t: t.log_probs([0], before=[7]), "not 7 … 7"),
        (lambda t: t.probs([-1]), "not -1 … -1"),
        (lambda t: t.probs([0], context=3), "0 … 2, not 3"),
        (lambda t: t.probs([0], context=-1), "0 … 2, not -1"),
        (lambda t: t.seen([9]), "not 9 … 9"),
        (lambda t: t.loss([0], smoothing="laplace"), "'laplace'"),
        (lambda t: t.loss([]), "0 characters"),
    ],
)
def test_bad_input_is_named(call, message):
    table = NGram(random_text(19, 50, 4), 4, 2)
    with pytest.raises(ValueError, match=message):
        call(table)


def test_no_text_has_no_log_probs():
    assert NGram([0, 1, 0], 2, 1).log_probs([]).shape == (0,)


# ---- compressors, floors ----------------------------------------------------------------------

PROSE = "the cat sat on the mat, and the rat sat on the cat; " * 40


def words(seed, count):
    """Sentences from a vocabulary of 2,000 made-up words; the frequent ones come often."""
    rng = random.Random(0)
    known = ["".join(rng.choices("aeiourstlnmdg", k=rng.randrange(2, 9))) for _ in range(2000)]
    weights = [1 / (i + 3) for i in range(2000)]
    return " ".join(random.Random(seed).choices(known, weights, k=count))


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        (PROSE[:1500] + "größer", "naïve “cat” on the mat" + PROSE[1500:]),
        (words(1, 30_000), words(2, 12_000)),  # more than one of bz2's smallest blocks
    ],
    ids=["accents", "long"],
)
def test_compressor_loss_is_the_difference_of_sizes(train, held_out):
    both, first = (train + held_out).encode(), train.encode()
    bits = 8 * (len(bz2.compress(both, 9)) - len(bz2.compress(first, 9)))
    assert compressor_loss(train, held_out) == pytest.approx(bits * math.log(2) / len(held_out))
    extreme = 9 | lzma.PRESET_EXTREME
    sizes = [len(lzma.compress(data, preset=extreme)) for data in (both, first)]
    nats = 8 * (sizes[0] - sizes[1]) * math.log(2) / len(held_out)
    assert compressor_loss(train, held_out, "xz") == pytest.approx(nats)


def test_compressors_find_a_repetition_cheap_and_noise_dear():
    noise = "".join(random.Random(1).choices("abcdefgh", k=2000))
    other = "".join(random.Random(2).choices("abcdefgh", k=2000))
    for name in ("bz2", "xz"):
        assert compressor_loss(noise, noise, name) < 0.5 * compressor_loss(noise, other, name)
        assert compressor_loss(noise, other, name) > 0.9 * math.log(8)


def test_floors_are_the_losses_of_one_split():
    train, held_out = words(1, 400), words(2, 60) + "z"
    rows = floors(train, held_out, max_context=3)
    names = [f"{n}-gram, Kneser-Ney" for n in (2, 3, 4)]
    assert list(rows) == ["uniform", "unigram", *names, "bz2", "xz"]
    vocab = CharVocab.from_text(train + held_out)
    table = NGram(vocab.encode(train), len(vocab), 3)
    ids = vocab.encode(held_out)
    assert rows["uniform"] == math.log(len(vocab))
    assert rows["unigram"] == pytest.approx(table.loss(ids, context=0))
    assert [rows[name] for name in names] == pytest.approx(
        [table.loss(ids, context=k) for k in (1, 2, 3)]
    )
    assert rows["bz2"] == compressor_loss(train, held_out)
    assert rows["xz"] == compressor_loss(train, held_out, "xz")


def test_floors_of_tiny_texts():
    assert list(floors("a", "b")) == ["uniform", "unigram"]
    assert "3-gram, Kneser-Ney" in floors("abc", "d")
    assert all(math.isfinite(loss) for loss in floors("aaaa", "ab").values())


REPEATED = {
    "lines": "salt and pepper, oil.\n" * 200,
    "one character": "a" * 5000,
    "one letter and line ends": "a\n" * 3000,
    "blocks": words(3, 300) * 30,
    "a rhyme": "ab" * 40 + "\n",
}


@pytest.mark.parametrize("name", REPEATED)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_no_floor_is_below_zero(name, share):
    """A difference of compressed sizes may be; as a perplexity it would be below 1."""
    text = REPEATED[name]
    train, held_out = split_text(text, (share, 1 - share))
    rows = floors(train, held_out)
    assert all(math.copysign(1, loss) == 1 and math.isfinite(loss) for loss in rows.values()), rows
    for compressor in ("bz2", "xz"):
        assert compressor_loss(train, held_out, compressor) >= 0
        size = extra_bytes(train, held_out, compressor)
        assert (compressor in rows) == (size >= SHORTEST)


def test_the_difference_of_sizes_can_be_negative():
    """Or the bound above would bound nothing."""
    found = set()
    for name, text in REPEATED.items():
        for share in (0.5, 0.9, 0.99):
            train, _ = split_text(text, (share, 1 - share))
            if len(bz2.compress(text.encode(), 9)) < len(bz2.compress(train.encode(), 9)):
                found.add(name)
    assert "lines" in found


def test_a_sure_thing_costs_nothing():
    rows = floors("a" * 90, "a" * 10)
    assert all(str(loss) == "0.0" for loss in rows.values()) and len(rows) == 8


@pytest.mark.parametrize(("train", "held_out"), [("", "abc"), ("abc", ""), ("", "")])
def test_floors_need_two_texts(train, held_out):
    with pytest.raises(ValueError, match=f"{len(train)} characters for {len(held_out)} held out"):
        floors(train, held_out)


def test_compressor_errors():
    with pytest.raises(ValueError, match="'gzip'"):
        compressor_loss("a", "b", "gzip")
    with pytest.raises(ValueError, match="0 characters"):
        compressor_loss("a", "")


# ---- the book's own figures -------------------------------------------------------------------

needs_corpora = pytest.mark.skipif(
    not os.environ.get("CHARLM_DATA"), reason="CHARLM_DATA is not set: no corpora to count here"
)


def best_kneser_ney(text, fractions, contexts=range(8)):
    train, held_out = split_text(text, fractions)
    vocab = CharVocab.from_text(text)
    table = NGram(vocab.encode(train), len(vocab), max(contexts))
    ids = vocab.encode(held_out)
    return min(table.loss(ids, context=k) for k in contexts)


@needs_corpora
def test_best_tables_of_the_book(record_property):
    began = time.perf_counter()
    shakespeare = best_kneser_ney(load_corpus("tinyshakespeare").text, (0.9, 0.1))
    record_property("seconds_tinyshakespeare", time.perf_counter() - began)
    nietzsche = load_corpus("nietzsche").text
    assert shakespeare == pytest.approx(1.5165, abs=0.005)
    assert best_kneser_ney(nietzsche, (0.8, 0.2)) == pytest.approx(1.4018, abs=0.005)
    assert best_kneser_ney(nietzsche.lower(), (0.8, 0.2)) == pytest.approx(1.3760, abs=0.005)


@needs_corpora
def test_time_machine_as_d2l_cuts_it():
    letters = letters_only(load_corpus("timemachine").text)
    vocab = CharVocab.from_text(letters)
    assert len(vocab) == 27
    table = NGram(vocab.encode(letters[:10032]), 27, 5)
    perplexity = math.exp(table.loss(vocab.encode(letters[10000:15032])))
    assert perplexity == pytest.approx(4.61, abs=0.005)
