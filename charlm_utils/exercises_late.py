"""Checkers for the first exercises of chapters 8, 9, A2 and A4, as in `exercises`."""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm_utils.exercises import _judge, _none_of


def check_ch08(answer: Callable) -> bool:
    """Chapter 8: `answer(x, layers, norms)` is what a stack of residual layers makes of x.

    x (B, T, H); `layers` and `norms` are equally many functions from (B, T, H) to (B, T, H).
    Each layer reads its norm's answer, and what it says is added to the road.
    """
    x = torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(8))
    layers = [lambda v: (2 * v).tanh(), lambda v: v.roll(1, dims=1) - 0.5, lambda v: v.abs()]
    norms = [lambda v, k=k: k * F.layer_norm(v, (4,)) for k in (1, 2, 3)]

    def gives(wrong: Tensor) -> bool:
        got = answer(x.clone(), list(layers), list(norms))
        return got.shape == wrong.shape and torch.allclose(got, wrong, rtol=1e-4, atol=1e-5)

    form = f"return one tensor of shape {tuple(x.shape)}"
    first = (lambda: answer(x.clone(), list(layers), list(norms)).shape == x.shape, form)
    right, *wrong = _stacks(x, layers, norms)
    hint = "not road + layer(norm(road)) for each pair in turn; try a single layer"
    return _judge([first, *_none_of(gives, wrong), (lambda: gives(right), hint)])


def _stacks(x: Tensor, layers: list[Callable], norms: list[Callable]) -> list:
    """The right answer of chapter 8, then wrong ones, each with its hint."""

    def walk(step: Callable) -> Tensor:
        road = x
        for place, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
            road = step(road, layer, norm, place == 0)
        return road

    return [
        walk(lambda road, layer, norm, first: road + layer(norm(road))),
        *((walk(step), hint) for hint, step in _WRONG_STEPS.items()),
        (
            walk(lambda road, layer, norm, first: x + layer(norm(road))),
            "add to the road as it is now, not to the stack's input",
        ),
    ]


_WRONG_STEPS = {
    "no skips: add what the layer says": lambda x, f, norm, first: f(norm(x)),
    "the norms are missing": lambda x, f, norm, first: x + f(x),
    "that is post-norm, where the road itself passes every norm": (
        lambda x, f, norm, first: norm(x + f(x))
    ),
    "the norm is for the layer alone; the road goes around it": (
        lambda x, f, norm, first: norm(x) + f(norm(x))
    ),
    "the norm stands in front of the layer, not behind it": (
        lambda x, f, norm, first: x + norm(f(x))
    ),
    "the first layer has a skip too": lambda x, f, norm, first: x * (not first) + f(norm(x)),
}


def check_a2(answer: Callable) -> bool:
    """Appendix A2: `answer(losses, sizes)` is the perplexity of a text scored in batches.

    `losses` are the batches' means in nats per character, `sizes` their numbers of characters.
    """
    losses, sizes = [1.7, 2.4, 1.3, 3.2], [1024, 1024, 1024, 8]
    total = sum(loss * size for loss, size in zip(losses, sizes, strict=True))
    mean, plain = total / sum(sizes), sum(losses) / len(losses)
    each = [math.exp(loss) for loss in losses]
    weighted = sum(p * size for p, size in zip(each, sizes, strict=True)) / sum(sizes)

    def gives(wrong: float) -> bool:
        return math.isclose(float(answer(list(losses), list(sizes))), wrong, rel_tol=1e-6)

    finite = "return one finite number, a perplexity"
    wrong = [
        (mean, "that is the loss; perplexity is e to the power of it"),
        (plain, "that is a loss, and the small batch must count less"),
        (math.exp(plain), "the last batch has 8 characters: weigh each loss by its size"),
        (weighted, "average the losses first; e to the power of the mean comes last"),
        (sum(each) / len(each), "average the losses, not the perplexities, and weigh them"),
        (each[0], "the first batch is not the text: use all of them"),
        (2**mean, "the losses are in nats: e to the power of the mean, not 2"),
    ]
    first = (lambda: math.isfinite(float(answer(list(losses), list(sizes)))), finite)
    last = (lambda: gives(math.exp(mean)), "not exp(sum of loss times size / sum of sizes)")
    return _judge([first, *_none_of(gives, wrong), last])


class _Suspect(nn.Module):
    """Logits (B, T, 7) from the letters x (B, T) so far, and what `leak` adds to them.

    `leak` maps what each letter says (B, T, 7) to what is added; `noisy` is dropout in training.
    """

    def __init__(self, leak: Callable, noisy: bool = False):
        super().__init__()
        self.leak, self.noisy = leak, noisy

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        said = torch.linspace(-2, 2, 49).sin().view(7, 7)[x]  # (B, T, 7)
        logits = said.cumsum(dim=1)
        if self.noisy:
            logits = F.dropout(logits, 0.5, self.training)
        return logits + self.leak(said), logits[:, -1]


_LEAKS = {
    "none": lambda said: 0 * said,
    "now": lambda said: 3 * said,  # a letter's own logits may see it
    "window": lambda said: said.sum(dim=1, keepdim=True),
    "next": lambda said: F.pad(said[:, 1:], (0, 0, 0, 1)),
    "last": lambda said: F.pad(said[:, -1:], (0, 0, 0, said.shape[1] - 1)),  # in the first logits
}


def _accuses(test: Callable, leak: str, x: Tensor, noisy: bool = False) -> bool:
    """Whether the test raises an AssertionError for a suspect that leaks in this way."""
    try:
        test(_Suspect(_LEAKS[leak], noisy).train(), x.clone())
    except AssertionError:
        return True
    return False


def check_a4(answer: Callable) -> bool:
    """Appendix A4: `answer(model, x)` raises AssertionError if a logit sees a later character.

    `model(x)` gives `logits, state`; x (B, T) are ids, logits (B, T, V).
    """
    x = torch.tensor([[3, 1, 4, 1, 5, 2]])
    equal = [torch.full((1, 6), letter) for letter in range(7)]

    def keeps() -> bool:
        given = x.clone()
        answer(_Suspect(_LEAKS["none"]), given)
        return torch.equal(given, x)

    honest = "an honest model is accused: a logit may see its own character and those before it"
    whole = "a model that reads the whole window passes: change a late character, ask again, "
    other = "the new character must differ from the old one, whatever that is: (x + 1) % V"
    return _judge(
        [
            (lambda: not any(_accuses(answer, leak, x) for leak in ("none", "now")), honest),
            (lambda: _accuses(answer, "window", x), whole + "assert that earlier logits stay"),
            (lambda: _accuses(answer, "next", x), "a glance at the next character goes unseen"),
            (lambda: _accuses(answer, "last", x), "a glance at the last one goes unseen"),
            (lambda: all(_accuses(answer, "window", same) for same in equal), other),
            (lambda: not _accuses(answer, "none", x, True), "dropout: call model.eval() first"),
            (keeps, "x was changed in place: clone it first"),
        ]
    )


def check_ch09(answer: Callable) -> bool:
    """Chapter 9: `answer(said, truths)` is the share of exams answered right, whole answers only.

    `said` are texts as the network says them, units first, ended by a NUL; `truths` are numbers
    as they are written.
    """
    said = ["64\0\0", "02\0\0", "521\0", "52\0\0", "7\0\0\0", "7777", "641\0", "00\0\0", "9\0\0\0"]
    truths = ["46", "20", "125", "125", "7", "7", "46", "0", "9"]
    right = _share((text.split("\0")[0][::-1], t) for text, t in zip(said, truths, strict=True))

    def gives(wrong: float) -> bool:
        return math.isclose(float(answer(list(said), list(truths))), wrong, rel_tol=1e-6)

    finite = "return one number, from 0 to 1"
    first = (lambda: math.isfinite(float(answer(list(said), list(truths)))), finite)
    last = (lambda: gives(right), "not the share of exact answers; try one exam")
    return _judge([first, *_none_of(gives, _wrong_marks(said, truths, right)), last])


def _wrong_marks(said: list[str], truths: list[str], right: float) -> list[tuple]:
    """Wrong answers of chapter 9, each with its hint."""
    both = list(zip(said, truths, strict=True))
    ended = [(text.split("\0")[0], truth) for text, truth in both]
    characters = [pair for a, t in both for pair in zip(a, t[::-1].ljust(4, "\0"), strict=True)]
    whole = "an answer that goes on where it should end is wrong"
    return [
        (_share(characters), "that counts characters; an answer is right as a whole or not"),
        (_share(ended), "they are said units first: turn them round"),
        (_share((int(a[::-1]), int(t)) for a, t in ended), "00 is not 0"),
        (_share((a[: len(t)][::-1], t) for a, t in both), whole),
        (_share((a[::-1], t) for a, t in both), "stop at the NUL"),
        (right * len(said), "that is how many; divide by the number of exams"),
        (1 - right, "that is the share of the wrong ones"),
    ]


def _share(pairs: Iterable[tuple]) -> float:
    """The share of pairs whose two parts are equal."""
    same = [a == b for a, b in pairs]
    return sum(same) / len(same)
