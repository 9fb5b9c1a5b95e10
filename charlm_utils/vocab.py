"""The alphabet of a text: characters to ids and back."""

from collections.abc import Iterable

import torch
from torch import Tensor


class CharVocab:
    """A sorted list of distinct characters; a character's place in it is its id.

    Sorted, because the order of a set changes from process to process, and a model
    whose ids have moved decodes to nonsense.
    """

    def __init__(self, characters: Iterable[str]):
        self.itos = list(characters)
        self.stoi = {character: i for i, character in enumerate(self.itos)}
        if len(self.stoi) != len(self.itos):
            raise ValueError("a vocabulary can't hold the same character twice")
        if bad := [c for c in self.itos if not isinstance(c, str) or len(c) != 1]:
            raise ValueError(f"a vocabulary holds single characters, not {bad[0]!r}")

    @classmethod
    def from_text(cls, text: str, *, padding: str | None = None) -> "CharVocab":
        """The sorted characters of `text`, with `padding`, if given, as id 0."""
        if not text:
            raise ValueError("an empty text has no alphabet")
        characters = sorted(set(text))
        if padding is not None:
            characters = [padding, *(c for c in characters if c != padding)]
        return cls(characters)

    def encode(self, text: str) -> Tensor:
        """`text` as an int64 tensor of shape (len(text),).

        Raises `ValueError` naming the first character the vocabulary lacks.
        """
        try:
            return torch.tensor([self.stoi[c] for c in text], dtype=torch.int64)
        except KeyError:
            place = next(i for i, c in enumerate(text) if c not in self.stoi)
            raise ValueError(
                f"the character {text[place]!r} (U+{ord(text[place]):04X}) at position {place} "
                f"is not among the {len(self)} of this vocabulary"
            ) from None

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of a sequence of ids (a tensor of any one-dimensional shape, or ints)."""
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if bad := [i for i in ids if not 0 <= i < len(self.itos)]:
            raise ValueError(f"id {bad[0]} is outside this vocabulary of {len(self)} characters")
        return "".join(self.itos[i] for i in ids)

    def __len__(self) -> int:
        return len(self.itos)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharVocab) and self.itos == other.itos

    __hash__ = None

    def __repr__(self) -> str:
        return f"CharVocab({len(self)} characters: {''.join(self.itos)!r})"
