"""Checkers for the first exercise of each chapter: a bool, one hint line, never an error."""

import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from charlm_utils.models import ThreeCharModel, count_parameters

Test = tuple[Callable[[], bool], str]  # a question to the answer, and the hint if it fails


def _judge(tests: list[Test]) -> bool:
    """Ask in order; print the hint of the first test that fails or breaks, else "right"."""
    for question, hint in tests:
        try:
            good = bool(question())
        except Exception as error:  # a reader's answer may break in any way
            print(f"not yet: {hint} (it stopped with {type(error).__name__}: {error})")
            return False
        if not good:
            print(f"not yet: {hint}")
            return False
    print("right")
    return True


def _none_of(gives: Callable, wrong: list[tuple]) -> list[Test]:
    """Tests that the answer gives none of these values, each with the hint it deserves."""
    return [(lambda value=value: not gives(value), hint) for value, hint in wrong]


def check_ch01(answer: Callable) -> bool:
    """Chapter 1: `answer(table, ids)` is the mean surprise of a text, nats per character.

    `table` (V, V) holds p(next | this) with this in the rows, `ids` (N,) the text.
    """
    table = torch.tensor([[0.70, 0.20, 0.10], [0.05, 0.15, 0.80], [0.50, 0.30, 0.20]])
    ids = torch.tensor([0, 1, 2, 2, 1, 1, 2, 0, 1])
    p, swapped = table[ids[:-1], ids[1:]], table[ids[1:], ids[:-1]]
    right, looped = -p.log().mean().item(), table[ids, ids.roll(-1)]

    def gives(wrong: Tensor | float) -> bool:
        return math.isclose(float(answer(table.clone(), ids.clone())), float(wrong), rel_tol=1e-4)

    wrong = [
        (-right, "surprise is minus the logarithm: it is never negative"),
        (right * len(p), "that is the sum; divide by the N - 1 predictions"),
        (right / math.log(2), "that is in bits; nats need the natural log"),
        (
            -swapped.log().mean(),
            "rows are this character, columns the next: table[ids[:-1], ids[1:]]",
        ),
        (-p.mean().log(), "take the logarithm of each probability first and the mean after it"),
        (-looped.log().mean(), "nothing follows the last character: N ids make N - 1 predictions"),
    ]
    finite = "return one finite number, the mean over all predictions"
    first = (lambda: math.isfinite(float(answer(table.clone(), ids.clone()))), finite)
    last = (lambda: gives(right), "not the mean of -ln table[this, next]; try a text of 2 ids")
    return _judge([first, *_none_of(gives, wrong), last])


def check_a1(answer: Callable) -> bool:
    """Appendix A1: `answer(train, held_out)` is what zlib spends on the held-out text.

    In nats per held-out character, at level 9, after the training text.
    """
    train = "la señora canta: «sí, sí» y la niña canta: «no, no, ¡no!»; " * 8
    held_out = "la niña: «¡sí!», y la señora: «no, sí, no»; mañana cantó el señor. " * 2

    def size(text: str) -> int:
        return len(zlib.compress(text.encode("utf-8"), 9))

    extra, unit = size(train + held_out) - size(train), 8 * math.log(2) / len(held_out)
    letters = len(held_out) / len(held_out.encode("utf-8"))

    def gives(wrong: float) -> bool:
        return math.isclose(float(answer(train, held_out)), wrong, rel_tol=1e-6)

    return _judge(
        [
            (lambda: math.isfinite(float(answer(train, held_out))), "return one finite number"),
            (lambda: not gives(size(held_out) * unit), "compress it after the training text"),
            (lambda: not gives((extra + size(train)) * unit), "subtract the training text's size"),
            (lambda: not gives(extra * unit / 8), "sizes are in bytes, and a byte is 8 bits"),
            (lambda: not gives(extra * unit / math.log(2)), "that is in bits; a bit is ln 2 nats"),
            (lambda: not gives(extra * unit * letters), "per character: ñ is one, and two bytes"),
            (
                lambda: gives(extra * unit),
                "not (size of both - size of the first) · 8 ln 2 / letters",
            ),
        ]
    )


def check_ch02(answer: Callable) -> bool:
    """Chapter 2: `answer(vocab_size, embedding_dim, hidden_size, num_chars, shared)`, an int.

    The number of parameters of a model like `ThreeCharModel` that reads `num_chars`
    characters, with its green and orange arrows shared or with own ones at each place.
    """
    V, E, H, n = 11, 5, 7, 4  # no two numbers below are equal
    table, green, orange, blue = V * E, E * H + H, H * H + H, H * V + V
    shared, own = table + green + orange + blue, table + n * (green + orange) + blue

    def gives(wrong: tuple[int, bool]) -> bool:
        return answer(V, E, H, n, wrong[1]) == wrong[0]

    biases = "each nn.Linear has a bias for every output; count the biases too"
    once = "only green and orange are repeated; there is one embedding and one blue arrow"
    rows = "the embedding is a table of vocab_size times embedding_dim weights"
    wrong = [
        ((shared - 2 * H - V, True), biases),
        ((own - 2 * n * H - V, False), biases),
        ((own, True), "shared arrows are counted once, however many characters are read"),
        ((shared, False), "not shared: num_chars green and orange arrows"),
        *(((count, False), once) for count in (own + 3 * table, own + 3 * blue, n * shared)),
        ((shared - table, True), rows),
    ]
    number = "return one number, the count of all parameters"
    first = (lambda: answer(V, E, H, n, True) == int(answer(V, E, H, n, True)) > 0, number)
    both = (
        lambda: gives((shared, True)) and gives((own, False)),
        "try 4 characters of other sizes",
    )
    return _judge([first, *_none_of(gives, wrong), _same_as_the_book(answer), both])


def _same_as_the_book(answer: Callable) -> Test:
    book = count_parameters(ThreeCharModel(84, 42, 256))
    hint = "compare with count_parameters(ThreeCharModel(84, 42, 256))"
    return (lambda: answer(84, 42, 256, 3, True) == book, hint)


def check_ch03(answer: Callable) -> bool:
    """Chapter 3: `answer(x, w_ih, w_hh, bias)` is the state after every step, (B, T, H).

    x (B, T, E), w_ih (H, E), w_hh (H, H), bias (H,); the state starts from zeros.
    """
    B, T, E, H = 2, 4, 3, 5
    draw = torch.Generator().manual_seed(3)
    given = [torch.randn(s, generator=draw) for s in ((B, T, E), (H, E), (H, H), (H,))]

    def gives(wrong: Tensor) -> bool:
        got = answer(*(tensor.clone() for tensor in given))
        return got.shape == wrong.shape and torch.allclose(got, wrong, rtol=1e-4, atol=1e-5)

    right, bare, zero = _states(*given), _states(*given, squeeze=torch.clone), 0 * given[3]
    shape = (lambda: answer(*given).shape == (B, T, H), f"return a tensor of shape {(B, T, H)}")
    form = [
        (right[:, -1], "that is the last state; collect one at each step"),
        (right.transpose(0, 1), "batch first: stack along dim=1"),
    ]
    wrong = [
        (
            _states(*given, carry=0),
            "each step starts from the state before it, not from zeros again",
        ),
        (bare, "the tanh is missing"),
        (bare.tanh(), "tanh belongs inside the loop"),
        (_states(*given[:2], given[2].T, given[3]), "w_hh is (out, in): multiply h by w_hh.T"),
        (_states(*given[:3], zero), "the bias is missing"),
    ]
    hint = "not tanh(x_t @ w_ih.T + h @ w_hh.T + bias) at every step; try T = 1"
    last = (lambda: gives(right), hint)
    return _judge([*_none_of(gives, form), shape, *_none_of(gives, wrong), last])


def _states(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    *,
    squeeze: Callable = torch.tanh,
    carry: int = 1,
) -> Tensor:
    """A plain RNN's states (B, T, H); without `squeeze` or `carry` a wrong one's."""
    h, found = x.new_zeros(len(x), len(bias)), []
    for t in range(x.shape[1]):
        h = squeeze(x[:, t] @ w_ih.T + carry * h @ w_hh.T + bias)
        found.append(h)
    return torch.stack(found, dim=1)


def check_ch04(answer: Callable) -> bool:
    """Chapter 4: `answer(logits, y)` is the mean loss at each step, (T,), nats per character.

    logits (B, T, V), y (B, T): ids of the characters that came.
    """
    B, T, V = 4, 3, 5
    logits = torch.randn((B, T, V), generator=torch.Generator().manual_seed(4))
    y = torch.tensor([[0, 4, 1], [3, 3, 2], [0, 4, 1], [3, 0, 2]])
    losses = -logits.log_softmax(2).gather(2, y[:, :, None]).squeeze(2)  # (B, T)
    mixed = -logits.reshape(B, V, T).log_softmax(1).gather(1, y[:, None]).squeeze(1)
    timeless = -logits.log_softmax(1).gather(2, y[:, :, None]).squeeze(2)
    right = losses.mean(0)

    def gives(wrong: Tensor) -> bool:
        got = answer(logits.clone(), y.clone())
        return got.shape == wrong.shape and torch.allclose(got, wrong, rtol=1e-4, atol=1e-5)

    shape = (lambda: answer(logits, y).shape == (T,), f"return a tensor of shape {(T,)}")
    form = [
        (right.mean(), "that is one mean over everything; keep the steps"),
        (losses.mean(1), "that is one loss per window: mean over dim 0"),
        (losses, "that is each loss on its own; average over the windows"),
    ]
    wrong = [
        (-right, "the loss is minus the logarithm: it is never negative"),
        (right * B, f"divide by the number of windows, here {B}"),
        (right / math.log(2), "that is in bits; nats need the natural log"),
        (mixed.mean(0), "view and reshape cut the numbers anew; use transpose(1, 2)"),
        (timeless.mean(0), "softmax runs over the characters, the last axis, not over the steps"),
    ]
    last = (lambda: gives(right), "not the mean over the windows of -ln p(y); try B = 1")
    return _judge([*_none_of(gives, form), shape, *_none_of(gives, wrong), last])
