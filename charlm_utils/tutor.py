"""Sums as text: who asks, who knows, who learns, and how the answers are marked (chapter 9).

A question is a text such as `"12+34=?"`. A learner reads it and then its own answer,
`"12+34=?64"`; it should say NUL while it listens, then the answer, units first, then NUL
for its end. Only the answer and its end are learned and judged: the silence is masked.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm_utils import checkpoint
from charlm_utils.data import IGNORE, CharVocab
from charlm_utils.sampling import scaled_probs

NUL = "\0"
SYMBOLS = NUL + "+-=?0123456789"


def sensei(question: str) -> str:
    """The answer to `"12+34=?"` or `"34-12=?"`, read by a pattern and never by `eval`.

    Raises `ValueError` for a text that is no sum.
    """
    match = re.fullmatch(r"([0-9]{1,99})([+-])([0-9]{1,99})=\?", question)
    if match is None:
        raise ValueError(f"{question!r} is no sum: write it like 12+34=?")
    a, sign, b = match.groups()
    return str(int(a) + int(b) if sign == "+" else int(a) - int(b))


def split_pairs(limit: int, held_out: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """All unordered pairs a <= b below `limit`, (N, 2), in two parts: to teach, and to ask.

    `held_out` is the share of the second part. Raises `ValueError` unless it is at least 0 and
    below 1, and `limit` at least 1.
    """
    if limit < 1 or not 0 <= held_out < 1:
        raise ValueError(
            f"limit must be at least 1, held_out at least 0 and below 1, not {limit} and {held_out}"
        )
    pairs = torch.triu_indices(limit, limit).T  # (N, 2)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    cut = round(held_out * len(pairs))
    return pairs[order[cut:]], pairs[order[:cut]]


def both_orders(pairs: Tensor, *, sign: str = "+") -> list[str]:
    """Every question these pairs allow: 3+8 and 8+3, and 4+4 once."""
    asked = {(a, b) for pair in pairs.tolist() for a, b in (pair, pair[::-1])}
    return [f"{a}{sign}{b}=?" for a, b in sorted(asked)]


def carries(question: str) -> int:
    """How many columns of a written addition carry a one: 0 for 12+34, 2 for 67+58."""
    a, b = (int(n) for n in question.removesuffix("=?").split("+"))
    places = range(max(len(str(a)), len(str(b))))
    return sum(a % 10**p + b % 10**p >= 10**p for p in (p + 1 for p in places))


class Tutor:
    """Asks questions about a list of pairs (N, 2), in either order, from its own generator.

    The same seed gives the same questions, whatever else is drawn. It also gives the random
    numbers that torch draws under `torch.manual_seed` of the same seed, for weights, say: seeds
    that differ keep the two apart.
    """

    def __init__(self, pairs: Tensor, *, sign: str = "+", seed: int = 0):
        self.pairs, self.sign = pairs, sign
        self.generator = torch.Generator().manual_seed(seed)

    def ask(self, count: int) -> list[str]:
        """So many questions, drawn at random with repetition."""
        rows = torch.randint(len(self.pairs), (count,), generator=self.generator)
        turned = torch.rand(count, generator=self.generator) < 0.5
        pairs = torch.where(turned[:, None], self.pairs[rows].flip(1), self.pairs[rows])
        return [f"{a}{self.sign}{b}=?" for a, b in pairs.tolist()]


class Form(NamedTuple):
    """How an answer is said: with NULs in front up to `width`; turned round if `reverse`."""

    reverse: bool = True
    width: int = 0

    def say(self, answer: str) -> str:
        """What stands for a number."""
        return answer.rjust(self.width, NUL)[:: -1 if self.reverse else 1]

    def number(self, said: str) -> str:
        """The number in what was said, up to the NUL that ends it."""
        if self.reverse:
            return said.split(NUL)[0][::-1]
        return (said[: self.width].lstrip(NUL) + said[self.width :]).split(NUL)[0]


FORM = Form()


def lesson(question: str, form: Form = FORM) -> tuple[str, str]:
    """What a learner reads, and what it should say at each of these characters."""
    answer = form.say(sensei(question))
    return question + answer, NUL * (len(question) - 1) + answer + NUL


def make_batch(questions: list[str], vocab: CharVocab, form: Form = FORM) -> tuple[Tensor, Tensor]:
    """x (B, T) and targets y (B, T), `IGNORE` on the silence and behind the end."""
    lessons = [lesson(question, form) for question in questions]
    longest = max(len(read) for read, _ in lessons)
    x = torch.zeros(len(lessons), longest, dtype=torch.int64)
    y = torch.full_like(x, IGNORE)
    for row, (question, (read, say)) in enumerate(zip(questions, lessons, strict=True)):
        listens = len(question) - 1
        x[row, : len(read)] = vocab.encode(read)
        y[row, listens : len(say)] = vocab.encode(say[listens:])
    return x, y


class Lessons:
    """`steps` fresh batches of a tutor's questions an epoch; an iterable for `fit`.

    One epoch's questions go on where the last one's ended. `fit` sets `epoch`: from then on an
    epoch has the same questions whenever, and however often, it is read, counted from where the
    tutor stood when the lessons were made.
    """

    contiguous = False  # True: training carries the state from one question to the next
    device: torch.device | str | None = None
    epoch: int | None = None  # None: the tutor's next questions

    def __init__(
        self, tutor: Tutor, vocab: CharVocab, batch_size: int, steps: int, form: Form = FORM
    ):
        self.tutor, self.vocab, self.form = tutor, vocab, form
        self.batch_size, self.steps = batch_size, steps
        self._starts = [tutor.generator.get_state()]  # at the start of epoch 0, then of 1, 2 …

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.epoch is not None:
            self._turn_to(self.epoch)
        for _ in range(self.steps):
            x, y = make_batch(self.tutor.ask(self.batch_size), self.vocab, self.form)
            yield x.to(self.device), y.to(self.device)

    def _turn_to(self, epoch: int) -> None:
        """Set the tutor's generator to where this epoch's questions begin."""
        generator = self.tutor.generator
        while len(self._starts) <= epoch:  # ask, and pass over, the epochs before
            generator.set_state(self._starts[-1])
            for _ in range(self.steps):
                self.tutor.ask(self.batch_size)
            self._starts.append(generator.get_state())
        generator.set_state(self._starts[epoch])


@torch.no_grad()
def ask(
    model: nn.Module, vocab: CharVocab, questions: list[str], form: Form = FORM, longest: int = 12
) -> list[str]:
    """The model's own answers, as numbers are written; each likeliest digit is fed back to it.

    An answer that does not end stops after `longest` characters.
    """
    device, answers = next(model.parameters()).device, [""] * len(questions)
    for size in {len(question) for question in questions}:
        rows = [i for i, question in enumerate(questions) if len(question) == size]
        x = torch.stack([vocab.encode(questions[i]) for i in rows]).to(device)
        state, said = None, []
        for _ in range(longest):
            logits, state = model(x, state)
            x = logits[:, -1:].argmax(dim=2)  # (B, 1)
            said.append(x)
        for i, ids in zip(rows, torch.cat(said, dim=1).cpu(), strict=True):
            answers[i] = form.number(vocab.decode(ids))
    return answers


def exact_match(answers: Iterable[str], questions: Iterable[str]) -> float:
    """The share of questions answered right to the last digit: whole answers, no characters."""
    if not (marks := [a == sensei(q) for a, q in zip(answers, questions, strict=True)]):
        raise ValueError("0 questions can't be marked")
    return sum(marks) / len(marks)


class Char2Vec:
    """Characters as one-hot rows, as codes, and back (the arithmetic notebook hides its own)."""

    def __init__(self, characters: str):
        self.vocab = CharVocab(characters)

    def char_code(self, text: str) -> Tensor:
        return self.vocab.encode(text)  # (T,)

    def one_hot(self, text: str) -> Tensor:
        return F.one_hot(self.char_code(text), len(self.vocab)).float()  # (T, V)

    def vec2str(self, codes: Tensor) -> str:
        return self.vocab.decode(codes)


class VanillaRNN(nn.Module):
    """The arithmetic notebook's network; with `linear=True`, as published, it has no tanh.

    x (B, T) ids, or one-hot rows (B, T, V), to logits (B, T, V') and the state (B, H).
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, *, linear=False):
        super().__init__()
        self.input_size, self.hidden_size, self.linear = input_size, hidden_size, linear
        self.xhh = nn.Linear(input_size + hidden_size, hidden_size)
        self.ho = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not x.is_floating_point():
            x = F.one_hot(x, self.input_size).to(self.ho.weight)  # (B, T, V)
        B, T, V = x.shape
        hidden = x.new_zeros(B, self.hidden_size) if hidden is None else hidden
        outputs = []
        for t in range(T):
            hidden = self.xhh(torch.cat([x[:, t], hidden], dim=1))  # (B, H)
            hidden = hidden if self.linear else torch.tanh(hidden)
            outputs.append(self.ho(hidden))
        return torch.stack(outputs, dim=1), hidden  # (B, T, V'), (B, H)


class Tao:
    """The arithmetic notebook's learner, one question at a time, with a network of its own."""

    loss: Tensor | float
    losses: list[float]

    def __init__(self, model: VanillaRNN, char2vec: Char2Vec, *, lr: float = 2e-4):
        self.model, self.char2vec = model, char2vec
        self.optimizer = torch.optim.Adam(model.parameters(), lr)
        self.loss, self.losses = 0.0, []
        self.init_hidden()

    def init_hidden(self, random: bool = False) -> "Tao":
        draw = torch.randn if random else torch.zeros
        self.hidden = draw(1, self.model.hidden_size).to(self.model.ho.weight)
        return self

    def read(self, text: str) -> "Tao":
        self.embedded = self.char2vec.one_hot(text).to(self.model.ho.weight)  # (T, V)
        output, self.hidden = self.model(self.embedded[None], self.hidden)
        self.output = output[0]  # (T, V)
        return self

    def listen(self, read: str, say: str, *, skip: int = 0) -> None:
        self.hidden = self.hidden.detach()
        target = self.char2vec.char_code(say).to(self.hidden.device)
        self.loss = self.loss + F.cross_entropy(self.read(read).output[skip:], target[skip:])

    def descent(self) -> None:
        if not torch.is_tensor(self.loss):
            raise ValueError("nothing was listened to since the last descent")
        self.optimizer.zero_grad()
        self.loss.backward()
        self.optimizer.step()
        self.losses.append(self.loss.item())
        self.loss = 0.0

    def text(self, temperature: float, generator: torch.Generator | None = None) -> str:
        probs = scaled_probs(self.output, temperature).cpu()  # (T, V)
        return self.char2vec.vec2str(torch.multinomial(probs, 1, generator=generator)[:, 0])

    def save(self, folder: str | Path) -> None:
        weights = self.model.state_dict().items()
        tensors = {name: checkpoint.portable(weight) for name, weight in weights}
        files = {"model.safetensors": checkpoint.to_bytes(tensors)}
        files["history.json"] = checkpoint.to_json({"losses": self.losses})
        checkpoint.write_files(folder, files)

    def load(self, folder: str | Path) -> "Tao":
        checkpoint.load_weights(self.model, folder)
        self.losses = checkpoint.read_json(Path(folder) / "history.json")["losses"]
        return self.init_hidden()


@torch.no_grad()
def predict_next(tao: Tao, question: str, length: int, temperature: float, seed: int = 0) -> str:
    """What a Tao says after a question, each character drawn at `temperature` and fed back."""
    generator = torch.Generator().manual_seed(seed)
    said = tao.init_hidden().read(question).text(temperature, generator)[-1]
    while len(said) < length:
        said += tao.read(said[-1]).text(temperature, generator)
    return said
