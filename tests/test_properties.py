"""What must hold of any input: a few cases each here, thousands under `make soak`.

The number of cases is that of the profile (see conftest.py; `--hypothesis-profile=soak`). With
CHARLM_COUNT naming a file, how many there were is appended to it.
"""

import math
import os
import shlex

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from charlm_utils.cli.arguments import joined_prompt
from charlm_utils.corpora import gutenberg_body
from charlm_utils.data import (
    IGNORE,
    CharVocab,
    RandomWindows,
    ShuffledBatches,
    StreamBatches,
    context_windows,
    evaluation_batches,
    letters_only,
    split_text,
)
from charlm_utils.ngram import NGram, compressor_loss
from charlm_utils.optim import SCHEDULES, Cycles, learning_rate
from charlm_utils.sampling import scaled_probs
from charlm_utils.saves import parse_json, short, to_json
from charlm_utils.terminal import quoted
from charlm_utils.tutor import SYMBOLS, Form, carries, lesson, make_batch, sensei

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
LETTERS = st.text("abcde \n", min_size=2, max_size=60)
SIZES = st.integers(1, 12)
counted = {"cases": 0}


@pytest.fixture(scope="module", autouse=True)
def count():
    yield
    if path := os.environ.get("CHARLM_COUNT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{counted['cases']}\n")


def one_more():
    counted["cases"] += 1


def ids_of(text):
    return CharVocab.from_text(text).encode(text)


@given(TEXTS, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_the_parts_of_a_text_are_the_text(text, weights):
    one_more()
    fractions = tuple(weight / sum(weights) for weight in weights)
    try:
        parts = split_text(text, fractions)
    except ValueError:
        assert len(text) * min(fractions) < 2  # else no part could be empty
        return
    assert "".join(parts) == text and all(parts) and len(parts) == len(fractions)
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - fraction * len(text)) <= 1


@given(TEXTS, st.none() | st.characters(exclude_categories=["Cs"]))
def test_a_vocabulary_reads_back_what_it_wrote(text, padding):
    one_more()
    vocab = CharVocab.from_text(text, padding=padding)
    assert vocab.decode(vocab.encode(text)) == text
    assert set(vocab.itos) == {*text} | ({padding} - {None}) and vocab == CharVocab(vocab.itos)
    assert padding is None or vocab.itos[0] == padding
    rest = vocab.itos[padding is not None :]
    assert rest == sorted(rest)


@given(LETTERS, SIZES, SIZES)
def test_streams_meet_every_target_once(text, batch_size, seq_len):
    one_more()
    ids = ids_of(text)
    if len(ids) <= batch_size:
        with pytest.raises(ValueError, match="too few"):
            StreamBatches(ids, batch_size, seq_len)
        return
    batches = list(StreamBatches(ids, batch_size, seq_len))
    assert len(batches) == len(StreamBatches(ids, batch_size, seq_len))
    x, y = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))  # (B, L)
    assert torch.equal(y[y != IGNORE], ids[1:])  # the streams one after another: the text itself
    assert torch.equal(x[y != IGNORE], ids[:-1])
    assert ((y[:, :-1] == x[:, 1:]) | (y[:, :-1] == IGNORE)).all()


@given(LETTERS)
def test_an_evaluation_scores_every_character_once(text):
    one_more()
    ids = ids_of(text)
    assert sum(int((y != IGNORE).sum()) for _, y in evaluation_batches(ids)) == len(ids) - 1


@given(LETTERS, SIZES, SIZES, st.integers(0, 2**40), st.integers(0, 9))
def test_random_windows_are_pieces_of_the_text(text, batch_size, seq_len, seed, epoch):
    one_more()
    if len(text) <= seq_len:
        return
    batches = RandomWindows(ids_of(text), batch_size, seq_len, 2, seed=seed)
    batches.epoch = epoch
    vocab, drawn = CharVocab.from_text(text), list(batches)
    for x, y in drawn:
        assert x.shape == y.shape == (batch_size, seq_len) and torch.equal(x[:, 1:], y[:, :-1])
        for row, last in zip(x, y[:, -1:], strict=True):
            assert vocab.decode(row) + vocab.decode(last) in text
    again = list(batches)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(drawn, again, strict=True))


@given(LETTERS, SIZES)
def test_windows_and_what_follows_them(text, context):
    one_more()
    if len(text) <= context:
        return
    x, y = context_windows(ids_of(text), context)
    vocab = CharVocab.from_text(text)
    for i in range(len(y)):
        assert vocab.decode(x[i]) + vocab.itos[y[i]] == text[i : i + context + 1]
    assert len(y) == len(text) - context


@given(st.integers(1, 40), SIZES, st.integers(0, 2**40), st.integers(0, 9))
def test_a_shuffle_loses_no_row(rows, batch_size, seed, epoch):
    one_more()
    batches = ShuffledBatches(torch.arange(rows), torch.arange(rows) + 100, batch_size, seed=seed)
    batches.epoch = epoch
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(y, x + 100) and torch.equal(x.sort().values, torch.arange(rows))


@given(
    st.integers(1, 500),
    st.integers(0, 600),
    st.floats(1e-6, 10.0),
    st.sampled_from([*SCHEDULES, Cycles(1, 2, 3), Cycles(2, 1, 4)]),
)
def test_a_rate_is_never_above_the_one_asked_for(total, warmup, lr, schedule):
    one_more()
    rates = [
        learning_rate(step, total, lr, warmup_steps=warmup, schedule=schedule)
        for step in range(total)
    ]
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    rising = rates[: min(warmup, total // 5)]
    assert rising == sorted(rising)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
    st.floats(1e-6, 1e6),
    st.none() | st.integers(1, 30),
)
def test_scaled_probabilities_are_probabilities(logits, temperature, top_k):
    one_more()
    logits = torch.tensor(logits)
    probs = scaled_probs(logits, temperature, top_k)
    assert probs.isfinite().all() and (probs >= 0).all() and abs(probs.sum().item() - 1) < 1e-9
    assert top_k is None or (probs > 0).sum() <= max(top_k, 1)
    assert probs[logits.argmax()] == probs.max()


@given(LETTERS, LETTERS, st.integers(0, 5), st.sampled_from(["kneser-ney", "witten-bell"]))
def test_a_table_gives_probabilities(train, held_out, context, smoothing):
    one_more()
    vocab = CharVocab.from_text(train + held_out)
    assume(len(train) > context)
    table = NGram(vocab.encode(train), len(vocab), context)
    probs = table.probs(vocab.encode(held_out), smoothing=smoothing)
    assert probs.shape == (len(vocab),) and (probs > 0).all()
    assert probs.sum() == pytest.approx(1, abs=1e-9)


@given(LETTERS, LETTERS, st.sampled_from(["bz2", "xz"]))
def test_a_compressor_never_costs_less_than_nothing(train, held_out, method):
    one_more()
    assert 0 <= compressor_loss(train, held_out, method) < 8 * math.log(2) * 100


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.sampled_from("+-"))
def test_sums_are_sums(a, b, sign):
    one_more()
    assert int(sensei(f"{a}{sign}{b}=?")) == (a + b if sign == "+" else a - b)
    columns, carry, count = max(len(str(a)), len(str(b))), 0, 0
    for place in range(columns):
        carry = a // 10**place % 10 + b // 10**place % 10 + carry >= 10
        count += carry
    assert carries(f"{a}+{b}=?") == count


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans(), st.integers(0, 9))
def test_an_answer_that_is_said_is_understood(a, b, reverse, width):
    one_more()
    form, question = Form(reverse, width), f"{a}+{b}=?"
    read, say = lesson(question, form)
    assert len(read) == len(say) and form.number(say[len(question) - 1 :]) == str(a + b)
    x, y = make_batch([question, "1+1=?"], CharVocab(SYMBOLS), form)
    assert x.shape == y.shape and (y[0] != IGNORE).sum() == len(form.say(str(a + b))) + 1


@given(st.text(max_size=60))
def test_letters_are_letters(text):
    one_more()
    found = letters_only(text)
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz ") and "  " not in found
    assert letters_only(found) == found


@given(st.text(max_size=40).map(str.strip))
def test_a_book_without_its_frame(text):
    one_more()
    if "***" in text or "\r" in text or "\ufeff" in text:
        return
    framed = f"\ufeffpg\r\n*** START OF A BOOK ***\r\n{text}\r\n*** END OF A BOOK ***\r\nlicence"
    assert gutenberg_body(framed) == text.strip()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=9,
)


@given(st.dictionaries(st.text(max_size=5).filter(str.isprintable), JSON, max_size=3), st.text())
def test_what_is_saved_as_json_reads_back(value, text):
    one_more()
    try:
        data = to_json(value)
    except UnicodeEncodeError:  # half of a pair is no text
        return
    assert parse_json(data, "x") == value
    assert "\n" not in short(text) and len(short(text)) <= 120 and short(text).isprintable()


@given(st.text(min_size=1).filter(lambda path: "\0" not in path))
def test_a_suggested_command_names_the_same_path(path):
    one_more()
    word = quoted(path)
    assert shlex.split(word) in ([path], [f"./{path}"]) and not word.startswith("-")


@given(st.text().filter(lambda text: "\0" not in text))
def test_any_prompt_is_one_word(text):
    one_more()
    words = joined_prompt(["sample", "x", "--prompt", text, "--length", "5"], None)
    options = ("--length", "--temperature", "--top-k", "--greedy", "--seed", "--device", "--help")
    if text.partition("=")[0] in (*options, "-h"):
        return
    assert words == ["sample", "x", f"--prompt=\0{text}", "--length", "5"]
