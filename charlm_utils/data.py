"""From a text to batches: characters as ids, parts of a text, inputs x and targets y.

Whatever a model is trained or judged on is an iterable of `Batches`. A target of `IGNORE` is no
target: it fills a short last column.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from charlm_utils.corpora import Corpus, CorpusUnavailable, load_corpus

__all__ = ["Batches", "CharVocab", "Corpus", "CorpusUnavailable", "RandomWindows"]
__all__ += ["ShuffledBatches", "StreamBatches", "check_batches", "context_windows"]
__all__ += ["evaluation_batches", "letters_only", "load_corpus", "split_text"]


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

    def __repr__(self) -> str:
        return f"CharVocab({len(self)} characters: {''.join(self.itos)!r})"


IGNORE = -100  # torch's cross_entropy leaves such targets out
ROUNDING = 1e-6  # of a character: what floating point may lose of a cut, and no more
EVAL_STREAMS, EVAL_LEN = 32, 256  # the grid of every evaluation in the book
SHORTEST_STREAM = 64  # characters; a shorter text is read in fewer streams


def letters_only(text: str) -> str:
    """Keep a-z and the space: each run of other characters becomes one space (d2l's cleaning)."""
    return re.sub("[^a-z]+", " ", re.sub("[A-Z]", lambda m: m[0].lower(), text))


def split_text(text: str, fractions: tuple[float, ...] = (0.9, 0.1)) -> tuple[str, ...]:
    """Cut `text` into contiguous parts, before any windowing, so that no window crosses.

    A cut falls at `len(text)` times the sum of the fractions so far, rounded down; a sum that
    misses a whole character by rounding alone (three thirds) counts as that character. The last
    part takes the rest. Raises `ValueError` for fractions that are not positive or do not add up
    to 1, and for a text that leaves a part empty.
    """
    if not all(f > 0 for f in fractions) or not abs(sum(fractions) - 1) <= 1e-9:
        raise ValueError(f"fractions must be positive and add up to 1, not {fractions}")
    ends = [math.fsum(fractions[: i + 1]) for i in range(len(fractions))]
    cuts = [0, *(int(len(text) * end + ROUNDING) for end in ends[:-1]), len(text)]
    parts = tuple(text[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True))
    if not all(parts):
        raise ValueError(f"{len(text)} characters are too few to cut into {fractions}")
    return parts


def context_windows(ids: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """All windows of `context` characters and the character after each.

    `ids` has shape (N,); returns x (N - context, context), a view, and y (N - context,).
    """
    if context < 1 or len(ids) <= context:
        raise ValueError(f"{len(ids)} characters hold no window of {context} and a target")
    return ids[:-1].unfold(0, context, 1), ids[context:]


class Batches(Protocol):
    """What training and evaluation read: pairs x, y of int64 tensors, again for each epoch.

    `len()` is the number of batches in an epoch. `contiguous` says whether a batch goes on where
    the last one stopped, so that a recurrent state may be carried across. Before each epoch its
    number is written to `epoch`, for those that draw anew.
    """

    contiguous: bool
    epoch: int | None

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


def check_batches(*all_batches: Batches) -> None:
    """Raise `TypeError` for what is not `Batches`: a list of pairs, say, or a `DataLoader`."""
    for batches in all_batches:
        if not hasattr(batches, "contiguous"):
            raise TypeError(
                f"a {type(batches).__name__} does not say whether each batch goes on where the "
                "last one stopped: use StreamBatches, RandomWindows or ShuffledBatches, or set its "
                "attribute `contiguous`"
            )


class ShuffledBatches:
    """Rows of x (N, ...) and y (N, ...) in an order drawn anew for each epoch."""

    contiguous = False
    epoch: int | None

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, *, seed: int | None = 0):
        """`seed=None` keeps the rows in their order, for evaluation."""
        if not 1 <= batch_size or len(x) != len(y) or len(x) == 0:
            raise ValueError(f"can't batch {len(x)} rows and {len(y)} targets by {batch_size}")
        self.x, self.y, self.batch_size, self.seed, self.epoch = (
            x,
            y,
            batch_size,
            seed,
            0,
        )

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.seed is None:
            yield from zip(
                self.x.split(self.batch_size),
                self.y.split(self.batch_size),
                strict=True,
            )
            return
        order = torch.randperm(len(self.x), generator=_generator(self.seed, self.epoch))
        for rows in order.to(self.x.device).split(self.batch_size):
            yield self.x[rows], self.y[rows]


class RandomWindows:
    """`num_batches` batches of windows that start anywhere (the residual-GRU post).

    Yields x (B, T) and y (B, T), the same windows one character on.
    """

    contiguous = False
    epoch: int | None

    def __init__(
        self,
        ids: Tensor,
        batch_size: int,
        seq_len: int,
        num_batches: int,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
    ):
        if len(ids) <= seq_len or seq_len < 1 or batch_size < 1 or num_batches < 1:
            raise ValueError(
                f"{len(ids)} characters are too few for a window of {seq_len} and its target, "
                f"or batch_size {batch_size} or num_batches {num_batches} is below 1"
            )
        self.windows = ids.to(device).unfold(0, seq_len + 1, 1)  # (N - T, T + 1), a view
        self.batch_size, self.num_batches = batch_size, num_batches
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = _generator(self.seed, self.epoch)
        for _ in range(self.num_batches):
            starts = torch.randint(len(self.windows), (self.batch_size,), generator=generator)
            window = self.windows[starts.to(self.windows.device)]  # (B, T + 1)
            yield window[:, :-1], window[:, 1:]


class StreamBatches:
    """The text as `batch_size` contiguous streams, read side by side (the stream grid).

    `ids` of shape (N,) hold N - 1 targets. Stream i is the i-th part of the text; the
    parts differ by at most one in length, and a shorter one ends in one `IGNORE` target,
    so that every target is met exactly once. Yields x (B, T) and y (B, T), views of one
    tensor on `device`; the last T is shorter where `seq_len` does not divide the length.

    For held-out text pass one character more in front (`ids[cut - 1:]`): it is the input
    from which the first held-out character is predicted.
    """

    contiguous = True
    epoch: int | None = None  # each is the same

    def __init__(
        self,
        ids: Tensor,
        batch_size: int,
        seq_len: int,
        *,
        device: torch.device | str | None = None,
    ):
        targets = len(ids) - 1
        if batch_size < 1 or seq_len < 1 or targets < batch_size:
            raise ValueError(_too_few(len(ids), batch_size, seq_len))
        self.batch_size, self.seq_len, self.targets = batch_size, seq_len, targets
        self.grid = _stream_grid(ids, batch_size).to(device)  # (B, L + 1)

    def __len__(self) -> int:
        return -(-(self.grid.shape[1] - 1) // self.seq_len)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        length = self.grid.shape[1] - 1
        for start in range(0, length, self.seq_len):
            end = min(start + self.seq_len, length)
            yield self.grid[:, start:end], self.grid[:, start + 1 : end + 1]


def evaluation_batches(ids: Tensor, *, device: torch.device | str | None = None) -> StreamBatches:
    """A text to be scored, each target once, in the book's grid of 32 streams.

    `ids` of shape (N,) hold N - 1 targets: pass one character before the first that counts. Each
    stream starts without any context, so a text too short for 32 streams of 64 characters is
    read in fewer, down to one. Raises `ValueError` where there is no target.
    """
    targets = len(ids) - 1
    if targets < 1:
        raise ValueError(
            f"{len(ids)} characters are too few to be scored: one before and one to predict"
        )
    streams = min(EVAL_STREAMS, max(1, targets // SHORTEST_STREAM))
    return StreamBatches(ids, streams, EVAL_LEN, device=device)


def _stream_grid(ids: Tensor, batch_size: int) -> Tensor:
    """Streams as rows (B, L + 1): L inputs and, one on, L targets; short rows end in IGNORE."""
    short, longer = divmod(len(ids) - 1, batch_size)  # `longer` streams have one target more
    length = short + (longer > 0)
    rows = torch.arange(batch_size)
    starts = rows * short + rows.clamp(max=longer)
    places = starts[:, None] + torch.arange(length + 1)  # (B, L + 1)
    grid = ids.to("cpu", torch.int64)[places.clamp(max=len(ids) - 1)]
    if longer:
        grid[longer:, -1] = IGNORE
    return grid


def _too_few(characters: int, batch_size: int, seq_len: int) -> str:
    """Why there is no grid of streams, and what would help: never a size that can't help."""
    sizes = f"batch_size {batch_size} and seq_len {seq_len}"
    if batch_size < 1 or seq_len < 1:
        return f"no batches of {characters} characters with {sizes}: both must be at least 1"
    why = f"{characters} characters are too few for {sizes}"
    if characters < 2:
        return f"{why}: at least 2 are needed, one to read and one to predict"
    return (
        f"{why}: a batch needs {batch_size + 1} characters at least; "
        f"batch_size may be {characters - 1} at most"
    )


def _generator(seed: int, epoch: int | None) -> torch.Generator:
    """A CPU generator of its own for each epoch: a GPU run draws the same windows."""
    return torch.Generator().manual_seed(seed * 1_000_003 + (epoch or 0))
