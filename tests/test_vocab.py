"""The alphabet: there and back, and every character it lacks named."""

import random
import re

import pytest
import torch

from charlm_utils.data import CharVocab


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
