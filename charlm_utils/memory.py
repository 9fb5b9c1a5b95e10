"""How far back a model remembers, what its units know, and how much it recites.

All losses are in nats per character; models follow the contract of `models.py` and are
read in eval mode, and left in the mode they were in.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm_utils.data import IGNORE, CharVocab
from charlm_utils.models import CharLM
from charlm_utils.training import evaluating

QUOTATION = re.compile(r'(?<![a-z.,])"([^"]{1,160})"(?![a-z])')  # neither apostrophe nor a closing


def gradient_by_lag(model: CharLM, x: Tensor, y: Tensor) -> Tensor:
    """How strongly the last prediction depends on each character before it.

    x (B, T) and y (B,), the character after each row. Returns (T,): at lag l the mean over
    the rows of the norm of d loss / d embedding, l characters back; lag 0 is the last one.
    """
    with evaluating(model, gradients=True):
        embedded = model.embedding(x).detach().requires_grad_()  # (B, T, E)
        out, _ = model.core(embedded, None)
        loss = F.cross_entropy(model.head(out[:, -1]), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, embedded)
    return gradient.norm(dim=2).mean(dim=0).flip(0)


def gradient_by_layer(model: CharLM, x: Tensor, y: Tensor) -> Tensor:
    """How much gradient reaches each layer of a recurrent stack, the lowest first.

    x and y (B, T). Returns (L,): the root mean square of d loss / d weight over each layer's
    input matrix, loss being the mean in nats per character.
    """
    found = [p for name, p in model.core.named_parameters() if "weight_ih" in name]
    with evaluating(model, gradients=True):
        logits, _ = model(x, None)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE)
        gradients = torch.autograd.grad(loss, found)
    return torch.stack([g.pow(2).mean().sqrt() for g in gradients])


@torch.no_grad()
def loss_by_context(model: nn.Module, ids: Tensor, length: int, *, rows: int = 256) -> Tensor:
    """The loss after exactly 1, 2, … `length` characters of context since a zero state.

    `ids` (N,) is cut into windows of `length + 1`, `rows` at a time. Returns (length,). The
    loss of a model whose state is reset every k characters is the mean of the first k.
    """
    if len(ids) <= length:
        raise ValueError(f"{len(ids)} characters hold no window of {length} and its target")
    windows = ids.unfold(0, length + 1, length)
    device, total = next(model.parameters()).device, torch.zeros((), dtype=torch.float64)
    with evaluating(model):
        for window in windows.to(device).split(rows):
            logits, _ = model(window[:, :-1], None)  # (rows, length, V)
            losses = F.cross_entropy(logits.transpose(1, 2), window[:, 1:], reduction="none")
            losses = losses.cpu() if device.type == "mps" else losses  # which has no float64
            total = total + losses.double().sum(dim=0)
    return total / len(windows)


@torch.no_grad()
def closing_marks(
    model: nn.Module, vocab: CharVocab, text: str, spans: list[tuple[int, int]]
) -> list[tuple[float, float]]:
    """How probable is the mark that closes a quotation, and how probable without the opening one?

    For each span `(low, high)` the mean of both over the quotations of `text` of more than low
    and at most high characters, each read from 80 characters in front of it on. A network that
    does not hold the opening mark gives the same twice. (nan, nan) where there is no quotation.
    """
    device = next(model.parameters()).device
    found: dict[tuple[int, int], list[tuple[float, float]]] = {span: [] for span in spans}

    def probability(prompt: str) -> float:
        logits, _ = model(vocab.encode(prompt)[None].to(device))
        return logits[0, -1].float().softmax(dim=0)[vocab.stoi['"']].item()

    with evaluating(model):
        for quote in QUOTATION.finditer(text):
            before, inside = text[max(0, quote.start() - 80) : quote.start()], quote[1]
            for low, high in spans if "\n\n" not in inside else ():
                if low < len(inside) <= high:
                    both = probability(before + '"' + inside), probability(before + inside)
                    found[low, high].append(both)
    none = [(math.nan, math.nan)]
    means = [torch.tensor(pairs or none).mean(dim=0) for pairs in found.values()]
    return [(kept.item(), bare.item()) for kept, bare in means]


def copy_back_batch(
    batch_size: int, length: int, lag: int, symbols: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random symbols x (B, T); the target at each step is the symbol `lag` steps before it.

    y (B, T) is `IGNORE` on the first `lag` steps. A model that cannot look back scores
    ln(symbols); one that remembers perfectly scores 0.
    """
    if not 0 <= lag < length:
        raise ValueError(f"lag must lie in 0 … {length - 1}, not {lag}")
    x = torch.randint(symbols, (batch_size, length), generator=generator)
    y = torch.full_like(x, IGNORE)
    y[:, lag:] = x[:, : length - lag]
    return x, y


class CopyBack:
    """`num_batches` fresh batches of the copy-k-back task an epoch; an iterable for `fit`."""

    contiguous = False
    epoch: int | None

    def __init__(
        self,
        batch_size: int,
        length: int,
        lag: int,
        symbols: int,
        num_batches: int,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
    ):
        self.shape, self.num_batches = (batch_size, length, lag, symbols), num_batches
        self.seed, self.epoch, self.device = seed, 0, device

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + (self.epoch or 0))
        for _ in range(self.num_batches):
            x, y = copy_back_batch(*self.shape, generator)
            yield x.to(self.device), y.to(self.device)


@torch.no_grad()
def hidden_trace(model: CharLM, ids: Tensor) -> Tensor:
    """The core's output (T, H) while the model reads ids (T,) once from a zero state."""
    with evaluating(model):
        device = next(model.parameters()).device
        out, _ = model.core(model.embedding(ids[None].to(device)), None)
    return out[0].float().cpu()


@dataclass(frozen=True)
class Probe:
    """What a linear classifier reads off hidden units, on text it was not fitted to.

    `accuracy` is judged against `majority` (always the commonest label) and `shuffled` (the
    same classifier fitted to labels in random order: what chance and capacity give).
    `weights` (H + 1, K) act on the units and a constant 1.
    """

    accuracy: float
    shuffled: float
    majority: float
    weights: Tensor


def linear_probe(
    states: Tensor, labels: Tensor, *, held_out: float = 0.3, ridge: float = 1.0, seed: int = 0
) -> Probe:
    """Fit labels (T,) of K classes from states (T, H) by ridge regression on one-hot targets.

    The last `held_out` share of the steps is kept for the accuracies: contiguous, since
    neighbouring states are nearly the same. Both may lie on any device; the fit is made, and
    `weights` lie, on the CPU, in float64. Raises `ValueError` where there are not as many labels
    as states, or fewer than 10.
    """
    if len(states) != len(labels) or len(labels) < 10:
        raise ValueError(f"{len(states)} states and {len(labels)} labels can't be probed")
    states, labels = states.cpu().double(), labels.cpu()
    cut = int(len(labels) * (1 - held_out))
    features = torch.cat([states, states.new_ones(len(states), 1)], dim=1)
    classes = int(labels.max()) + 1
    order = torch.randperm(cut, generator=torch.Generator().manual_seed(seed))

    def fit(train_labels: Tensor) -> tuple[Tensor, float]:
        weights = _ridge(features[:cut], F.one_hot(train_labels, classes).double(), ridge)
        guess = (features[cut:] @ weights).argmax(dim=1)
        return weights, (guess == labels[cut:]).double().mean().item()

    weights, accuracy = fit(labels[:cut])
    _, shuffled = fit(labels[:cut][order])
    commonest = labels[:cut].bincount().argmax()
    majority = (labels[cut:] == commonest).double().mean().item()
    return Probe(accuracy, shuffled, majority, weights)


def _ridge(features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    gram = features.T @ features + ridge * torch.eye(features.shape[1], dtype=features.dtype)
    return torch.linalg.solve(gram, features.T @ targets)


@dataclass(frozen=True)
class Recitation:
    """How much of a text stands word for word in another.

    `longest` is the longest shared run of characters and `passage` that run; `novel` is the
    share of the text's n-grams that the source does not hold.
    """

    longest: int
    passage: str
    novel: float


def recitation(text: str, source: str, *, n: int = 8) -> Recitation:
    """Measure verbatim copying of `source` in `text`, with n-grams of `n` characters."""
    if len(text) < n:
        raise ValueError(f"{len(text)} characters hold no {n}-gram")
    known = {source[i : i + n] for i in range(len(source) - n + 1)}
    grams = [text[i : i + n] for i in range(len(text) - n + 1)]
    novel = sum(gram not in known for gram in grams) / len(grams)
    start, length = _longest_copy(text, source)
    return Recitation(length, text[start : start + length], novel)


def _longest_copy(text: str, source: str) -> tuple[int, int]:
    """Start and length of the longest run of `text` that `source` holds (two pointers)."""
    best, start = (0, 0), 0
    for end in range(1, len(text) + 1):
        while text[start:end] not in source:
            start += 1
        if end - start > best[1]:
            best = (start, end - start)
    return best
