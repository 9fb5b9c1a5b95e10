"""The alphabet, there and back; batches: every target once, x and y aligned, streams that go on."""

import math
import random
import re

import pytest
import torch

from charlm_utils.data import (
    IGNORE,
    CharVocab,
    RandomWindows,
    ShuffledBatches,
    StreamBatches,
    context_windows,
    evaluation_batches,
    split_text,
)

# ---- the alphabet -----------------------------------------------------------------------------


def test_there_and_back(text):
    vocab = CharVocab.from_text(text)
    ids = vocab.encode(text)
    assert ids.dtype == torch.int64 and ids.shape == (len(text),)
    assert (int(ids.min()), int(ids.max())) == (0, len(vocab) - 1)
    assert vocab.decode(ids) == vocab.decode(ids.tolist()) == text
    assert all(vocab.itos[i] == c and vocab.stoi[c] == i for i, c in enumerate(sorted(set(text))))


def test_any_text_comes_back():
    draw = random.Random(1)
    points = [*range(0x20, 0x250), *range(0x4E00, 0x4E80), *range(0x1F300, 0x1F380), 0, 9, 10]
    for length in range(1, 60):
        text = "".join(chr(draw.choice(points)) for _ in range(length))
        assert CharVocab.from_text(text).decode(CharVocab.from_text(text).encode(text)) == text


def test_order_is_that_of_every_process():
    """A set's order differs from process to process; ids must not."""
    assert CharVocab.from_text("zyxäöü🙂abc").itos == list("abcxyzäöü🙂")


@pytest.mark.parametrize(
    ("text", "character", "code", "position"),
    [
        ("abß", "'ß'", "U+00DF", 2),
        ("🙂a🙂", "'🙂'", "U+1F642", 0),
        ("a\u200bb", "'\\u200b'", "U+200B", 1),
    ],
)
def test_unknown_character_is_named(text, character, code, position):
    vocab = CharVocab.from_text("ab")
    with pytest.raises(
        ValueError, match=re.escape(f"{character} ({code}) at position {position} ")
    ):
        vocab.encode(text)


def test_first_unknown_character_far_in():
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 5000 "):
        CharVocab.from_text("ab").encode("ab" * 2500 + "éa" * 10)


def test_padding_is_id_zero_and_stands_once():
    vocab = CharVocab.from_text("ba\0b", padding="\0")
    assert vocab.itos == ["\0", "a", "b"]
    assert CharVocab.from_text("ab~c", padding="~").itos == ["~", "a", "b", "c"]


@pytest.mark.parametrize("ids", [[0, 1, 2], [-1], torch.tensor([5])])
def test_unknown_id_is_named(ids):
    with pytest.raises(ValueError, match=r"id (2|-1|5) .* 2 characters"):
        CharVocab.from_text("ab").decode(ids)


def test_nothing_and_nonsense():
    with pytest.raises(ValueError, match="empty"):
        CharVocab.from_text("")
    with pytest.raises(ValueError, match="twice"):
        CharVocab(["a", "b", "a"])
    for bad in (["ab"], [""], ["a", 3]):
        with pytest.raises(ValueError, match="single characters"):
            CharVocab(bad)
    assert CharVocab.from_text("a").encode("").shape == (0,)
    assert CharVocab.from_text("a").decode([]) == ""


def test_equality_is_that_of_the_characters():
    assert CharVocab.from_text("abba") == CharVocab(["a", "b"])
    assert CharVocab(["b", "a"]) != CharVocab(["a", "b"])
    assert CharVocab(["a"]) != ["a"]


# ---- splitting --------------------------------------------------------------------------------


def test_split_of_tinyshakespeares_length():
    train, valid = split_text("x" * 1_115_394)
    assert (len(train), len(valid)) == (1_003_854, 111_540)


def test_split_of_nietzsches_length():
    train, valid = split_text("x" * 600_893, (0.8, 0.2))
    assert (len(train), len(valid)) == (480_714, 120_179)


def test_parts_are_the_text_in_order():
    draw = random.Random(2)
    for _ in range(300):
        text = "".join(draw.choices("abc\n", k=draw.randrange(20, 400)))
        weights = [draw.randrange(1, 6) for _ in range(draw.randrange(1, 5))]
        fractions = tuple(w / sum(weights) for w in weights)
        parts = split_text(text, fractions)
        assert "".join(parts) == text and len(parts) == len(fractions)
        assert all(abs(len(p) - f * len(text)) <= 1 for p, f in zip(parts, fractions, strict=True))


@pytest.mark.parametrize("parts", [2, 3, 6, 7, 9, 11, 13])
def test_equal_parts_of_a_whole_number_are_equal(parts):
    for size in (1, 2, 5, 100, 12_345):
        cut = split_text("x" * (size * parts), (1 / parts,) * parts)
        assert [len(part) for part in cut] == [size] * parts


def test_cuts_are_those_of_exact_arithmetic():
    """Hundredths as they are meant, in two parts and in three, at every length."""
    for share in range(1, 100):
        for n in [*range(100, 400), 178_979, 600_893, 1_115_394]:
            fractions = (share / 100, 1 - share / 100)
            assert len(split_text("x" * n, fractions)[0]) == n * share // 100
    for n in range(100, 3000, 7):
        sizes = [len(part) for part in split_text("x" * n, (0.72, 0.08, 0.2))]
        cuts = [n * 72 // 100, n * 80 // 100]
        assert sizes == [cuts[0], cuts[1] - cuts[0], n - cuts[1]]


def test_the_books_cuts_are_where_they_were():
    """Every text and every share that the book uses, as it was cut before thirds were."""
    for n in [*range(20, 3000), 178_979, 337_430, 465_046, 518_808, 600_893, 1_115_394]:
        for fractions in ((0.9, 0.1), (0.8, 0.2), (0.8, 1 - 0.8), (0.9, 1 - 0.9)):
            assert len(split_text("x" * n, fractions)[0]) == int(n * fractions[0])
    lesson = 493_747.5 / 600_893
    assert len(split_text("x" * 600_893, (lesson, 1 - lesson))[0]) == 493_747


def test_three_tenths_do_not_lose_a_character_to_rounding():
    assert [len(p) for p in split_text("x" * 10, (0.7, 0.1, 0.2))] == [7, 1, 2]
    assert [len(p) for p in split_text("x" * 1000, (0.1,) * 10)] == [100] * 10


@pytest.mark.parametrize(
    "fractions",
    [(0.9, 0.2), (0.5, 0.4), (1.1, -0.1), (1.0, 0.0), (), (math.nan, 0.5), (math.inf, 1)],
)
def test_fractions_that_are_none(fractions):
    with pytest.raises(ValueError, match="add up to 1"):
        split_text("x" * 100, fractions)


@pytest.mark.parametrize("text", ["", "x"])
def test_too_short_to_split(text):
    with pytest.raises(ValueError, match=f"{len(text)} characters"):
        split_text(text)


# ---- streams ----------------------------------------------------------------------------------

SIZES = [
    (n, b, t)
    for n in (2, 3, 7, 10, 31, 64, 65, 100)
    for b in (1, 2, 3, 5, 8)
    for t in (1, 2, 7, 33)
]


@pytest.mark.parametrize(("n", "batch_size", "seq_len"), SIZES)
def test_every_target_exactly_once(n, batch_size, seq_len):
    ids = torch.arange(n)  # a character's id is its place
    if n - 1 < batch_size:
        with pytest.raises(
            ValueError, match=f"^{n} characters .*batch_size {batch_size} .*{seq_len}"
        ):
            StreamBatches(ids, batch_size, seq_len)
        return
    batches = StreamBatches(ids, batch_size, seq_len)
    pairs = list(batches)
    assert len(pairs) == len(batches)
    for x, y in pairs:
        assert x.shape == y.shape and x.shape[0] == batch_size and 1 <= x.shape[1] <= seq_len
        assert x.dtype == y.dtype == torch.int64
        assert ((y == x + 1) | (y == IGNORE)).all() and (x >= 0).all()
    targets = torch.cat([y.flatten() for _, y in pairs])
    assert sorted(targets[targets != IGNORE].tolist()) == list(range(1, n))
    assert batches.targets == n - 1


@pytest.mark.parametrize(("n", "batch_size", "seq_len"), SIZES)
def test_streams_go_on_from_batch_to_batch(n, batch_size, seq_len):
    if n - 1 < batch_size:
        return
    pairs = list(StreamBatches(torch.arange(n), batch_size, seq_len))
    for (_, y), (x, _) in zip(pairs[:-1], pairs[1:], strict=True):
        assert (x[:, 0] == y[:, -1]).all()  # no fill in the middle either
    assert all(x.shape[1] == seq_len for x, _ in pairs[:-1])
    fill = pairs[-1][1] == IGNORE
    assert not fill[:, :-1].any()  # at most the last target of a stream is filled in
    lengths = sum((y != IGNORE).sum(1) for _, y in pairs)
    assert int(lengths.max() - lengths.min()) <= 1
    starts = pairs[0][0][:, 0]
    assert starts[0] == 0 and (starts[1:] - starts[:-1] == lengths[:-1]).all()


def test_batches_are_views_of_one_storage():
    batches = StreamBatches(torch.arange(100), 4, 7)
    places = {t.untyped_storage().data_ptr() for pair in batches for t in pair}
    assert places == {batches.grid.untyped_storage().data_ptr()}


def test_the_text_itself_is_left_alone():
    ids = torch.arange(11)
    batches = StreamBatches(ids, 4, 3)  # 10 targets in 4 streams: two of them are filled in
    assert (batches.grid == IGNORE).sum() == 2
    assert torch.equal(ids, torch.arange(11))


def test_bytes_serve_as_ids():
    ids = torch.arange(200, dtype=torch.uint8)
    x, y = next(iter(StreamBatches(ids, 3, 5)))
    assert x.dtype == torch.int64 and (y == x + 1).all()


def test_iterating_twice_gives_the_same():
    batches = StreamBatches(torch.arange(50), 3, 4)
    for (x, y), (x2, y2) in zip(batches, batches, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


@pytest.mark.parametrize(("batch_size", "seq_len"), [(0, 5), (-1, 5), (5, 0), (5, -3)])
def test_sizes_below_one(batch_size, seq_len):
    with pytest.raises(ValueError, match=f"100 .*{batch_size}.*{seq_len}"):
        StreamBatches(torch.arange(100), batch_size, seq_len)


@pytest.mark.parametrize(
    ("n", "batch_size", "help"),
    [(10, 64, "batch_size may be 9 at most"), (2, 5, "may be 1 at most"), (1, 1, "at least 2")],
)
def test_a_text_too_short_is_told_what_would_help(n, batch_size, help):
    with pytest.raises(ValueError, match=help):
        StreamBatches(torch.arange(n), batch_size, 8)
    if n > 1:
        assert StreamBatches(torch.arange(n), n - 1, 8).targets == n - 1  # and it does


# ---- evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 20, 65, 128, 129, 200, 1000, 2048])
def test_a_short_text_is_scored_in_fewer_streams(n):
    batches = evaluation_batches(torch.arange(n))
    targets = torch.cat([y.flatten() for _, y in batches])
    assert sorted(targets[targets != IGNORE].tolist()) == list(range(1, n))
    assert batches.batch_size == max(1, (n - 1) // 64) and batches.seq_len == 256


@pytest.mark.parametrize("n", [2049, 5000, 120_180])
def test_a_text_of_the_book_is_scored_in_the_books_grid(n):
    batches, grid = evaluation_batches(torch.arange(n)), StreamBatches(torch.arange(n), 32, 256)
    assert torch.equal(batches.grid, grid.grid) and batches.seq_len == grid.seq_len


@pytest.mark.parametrize("n", [0, 1])
def test_no_target_no_score(n):
    with pytest.raises(ValueError, match=f"{n} characters are too few to be scored"):
        evaluation_batches(torch.arange(n))


# ---- windows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 9, 40])
@pytest.mark.parametrize("context", [1, 2, 8])
def test_context_windows(n, context):
    ids = torch.arange(n) * 3
    if n <= context:
        with pytest.raises(ValueError, match=f"{n} characters .*{context}"):
            context_windows(ids, context)
        return
    x, y = context_windows(ids, context)
    assert x.shape == (n - context, context) and y.shape == (n - context,)
    for i in range(n - context):
        assert torch.equal(x[i], ids[i : i + context]) and y[i] == ids[i + context]
    assert x.untyped_storage().data_ptr() == ids.untyped_storage().data_ptr()


def test_random_windows_are_aligned_and_reach_both_ends():
    ids = torch.arange(30)
    batches = RandomWindows(ids, 16, 10, 40, seed=3)
    assert len(batches) == 40 == len(list(batches))
    starts = set()
    for x, y in batches:
        assert x.shape == y.shape == (16, 10)
        assert torch.equal(y, x + 1) and torch.equal(x[:, 1:], x[:, :-1] + 1)
        starts |= set(x[:, 0].tolist())
    assert starts == set(range(20))  # 30 - 10 windows, each with its target


def draws(batches):
    return torch.cat([x.flatten() for x, _ in batches])


def make(kind, seed):
    ids = torch.arange(500)
    if kind is RandomWindows:
        return RandomWindows(ids, 4, 8, 6, seed=seed)
    return ShuffledBatches(*context_windows(ids, 3), 16, seed=seed)


@pytest.mark.parametrize("kind", [RandomWindows, ShuffledBatches])
def test_draws_depend_on_seed_and_epoch_alone(kind):
    one, two, other = make(kind, 7), make(kind, 7), make(kind, 8)
    torch.manual_seed(0)
    first = draws(one)
    torch.manual_seed(1)
    assert torch.equal(first, draws(one)) and torch.equal(first, draws(two))
    assert not torch.equal(first, draws(other))
    seen = [first]
    for one.epoch in (1, 2, 3):
        seen.append(draws(one))
        assert not any(torch.equal(seen[-1], old) for old in seen[:-1])
    one.epoch = 0
    assert torch.equal(first, draws(one))


@pytest.mark.parametrize("kind", [RandomWindows, ShuffledBatches])
def test_drawing_leaves_torchs_generator_alone(kind):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(make(kind, 0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sizes", [(10, 4, 10, 1), (100, 0, 5, 1), (100, 4, 0, 1), (100, 4, 5, 0)])
def test_random_windows_that_cannot_be(sizes):
    with pytest.raises(ValueError, match=str(sizes[0])):
        RandomWindows(torch.arange(sizes[0]), *sizes[1:])
    assert len(RandomWindows(torch.arange(11), 4, 10, 1).windows) == 1  # one window is enough


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("batch_size", [1, 7, 97, 1000])
def test_shuffled_rows_once_each_with_their_targets(seed, batch_size):
    x, y = context_windows(torch.arange(100), 3)
    batches = ShuffledBatches(x, y, batch_size, seed=seed)
    pairs = list(batches)
    assert len(pairs) == len(batches)
    assert all(torch.equal(b, a[:, -1] + 1) for a, b in pairs)
    seen = torch.cat([b for _, b in pairs])
    assert torch.equal(seen.sort().values, y)
    assert torch.equal(seen, y) == (seed is None)


def test_shuffled_batches_that_cannot_be():
    x = torch.arange(10)
    for bad in ((x, x[:9], 2), (x, x, 0), (x[:0], x[:0], 2)):
        with pytest.raises(ValueError, match="rows"):
            ShuffledBatches(*bad)


def test_only_streams_are_contiguous():
    assert StreamBatches(torch.arange(9), 2, 2).contiguous
    assert not make(RandomWindows, 0).contiguous and not make(ShuffledBatches, 0).contiguous
