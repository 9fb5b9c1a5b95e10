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


def check_ch01(answer: Callable) -> bool:
    """Chapter 1: `answer(table, ids)` is the mean surprise of a text, nats per character.

    `table` (V, V) holds p(next | this) with this in the rows, `ids` (N,) the text.
    """
    table = torch.tensor([[0.70, 0.20, 0.10], [0.05, 0.15, 0.80], [0.50, 0.30, 0.20]])
    ids = torch.tensor([0, 1, 2, 2, 1, 1, 2, 0, 1])
    p = table[ids[:-1], ids[1:]]
    right = -p.log().mean().item()

    def gives(wrong: Tensor | float) -> bool:
        return math.isclose(float(answer(table.clone(), ids.clone())), float(wrong), rel_tol=1e-4)

    return _judge(
        [
            (
                lambda: math.isfinite(float(answer(table.clone(), ids.clone()))),
                "return one finite number, the mean over all predictions",
            ),
            (lambda: not gives(-right), "surprise is minus the logarithm: it is never negative"),
            (lambda: not gives(right * len(p)), "that is the sum; divide by the N - 1 predictions"),
            (lambda: not gives(right / math.log(2)), "that is in bits; nats need the natural log"),
            (
                lambda: not gives(-table[ids[1:], ids[:-1]].log().mean()),
                "rows are this character, columns the next: table[ids[:-1], ids[1:]]",
            ),
            (
                lambda: not gives(-p.mean().log()),
                "take the logarithm of each probability first and the mean after it",
            ),
            (
                lambda: not gives(-table[ids, ids.roll(-1)].log().mean()),
                "nothing follows the last character: N ids make N - 1 predictions",
            ),
            (lambda: gives(right), "not the mean of -ln table[this, next]; try a text of 2 ids"),
        ]
    )


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


def check_ch03(answer: Callable) -> bool:
    """Chapter 3: `answer(x, w_ih, w_hh, bias)` is the state after every step, (B, T, H).

    x (B, T, E), w_ih (H, E), w_hh (H, H), bias (H,); the state starts from zeros.
    """
    B, T, E, H = 2, 4, 3, 5
    draw = torch.Generator().manual_seed(3)
    shapes = (B, T, E), (H, E), (H, H), (H,)
    x, w_ih, w_hh, bias = (torch.randn(shape, generator=draw) for shape in shapes)

    def states(matrix: Tensor, squeeze: Callable = torch.tanh, carry: bool = True, b=bias):
        h, found = torch.zeros(B, H), []
        for t in range(T):
            h = squeeze(x[:, t] @ w_ih.T + (h if carry else 0 * h) @ matrix.T + b)
            found.append(h)
        return torch.stack(found, dim=1)

    def gives(wrong: Tensor) -> bool:
        given = answer(x.clone(), w_ih.clone(), w_hh.clone(), bias.clone())
        return given.shape == wrong.shape and torch.allclose(given, wrong, rtol=1e-4, atol=1e-5)

    def plain(a: Tensor) -> Tensor:
        return a

    right = states(w_hh)
    all_of_them = (B, T, H)
    return _judge(
        [
            (lambda: not gives(right[:, -1]), "that is the last state; collect one at each step"),
            (lambda: not gives(right.transpose(0, 1)), "batch first: stack along dim=1"),
            (
                lambda: tuple(answer(x, w_ih, w_hh, bias).shape) == all_of_them,
                f"for x {tuple(x.shape)} and H = {H} return a tensor of shape {all_of_them}",
            ),
            (
                lambda: not gives(states(w_hh, carry=False)),
                "each step starts from the state before it, not from zeros again",
            ),
            (lambda: not gives(states(w_hh, plain)), "the tanh is missing"),
            (lambda: not gives(states(w_hh, plain).tanh()), "tanh belongs inside the loop"),
            (lambda: not gives(states(w_hh.T)), "w_hh is (out, in): multiply h by w_hh.T"),
            (lambda: not gives(states(w_hh, b=0 * bias)), "the bias is missing"),
            (
                lambda: gives(right),
                "not tanh(x_t @ w_ih.T + h @ w_hh.T + bias) at every step; try T = 1",
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
    biases = 2 * H + V

    def gives(wrong: int, is_shared: bool) -> bool:
        return answer(V, E, H, n, is_shared) == wrong

    return _judge(
        [
            (
                lambda: answer(V, E, H, n, True) == int(answer(V, E, H, n, True)) > 0,
                "return one number, the count of all parameters",
            ),
            (
                lambda: not gives(shared - biases, True) and not gives(own - n * 2 * H - V, False),
                "each nn.Linear has a bias for every output; count the biases too",
            ),
            (
                lambda: not gives(own, True),
                "shared arrows are counted once, however many characters are read",
            ),
            (lambda: not gives(shared, False), "not shared: num_chars green and orange arrows"),
            (
                lambda: (
                    not gives(own + (n - 1) * table, False)
                    and not gives(own + (n - 1) * blue, False)
                    and not gives(n * shared, False)
                ),
                "only green and orange are repeated; there is one embedding and one blue arrow",
            ),
            (
                lambda: not gives(shared - table, True),
                "the embedding is a table of vocab_size times embedding_dim weights",
            ),
            (
                lambda: (
                    answer(84, 42, 256, 3, True) == count_parameters(ThreeCharModel(84, 42, 256))
                ),
                "compare with count_parameters(ThreeCharModel(84, 42, 256))",
            ),
            (lambda: gives(shared, True) and gives(own, False), "try 4 characters of other sizes"),
        ]
    )


def check_ch04(answer: Callable) -> bool:
    """Chapter 4: `answer(logits, y)` is the mean loss at each step, (T,), nats per character.

    logits (B, T, V), y (B, T): ids of the characters that came.
    """
    B, T, V = 4, 3, 5
    draw = torch.Generator().manual_seed(4)
    logits, y = torch.randn((B, T, V), generator=draw), torch.tensor([[0, 4, 1], [3, 3, 2]] * 2)
    y[3, 1] = 0
    picked = logits.log_softmax(dim=2).gather(2, y[:, :, None]).squeeze(2)  # (B, T)
    right = -picked.mean(dim=0)
    mixed = logits.reshape(B, V, T).log_softmax(dim=1).gather(1, y[:, None]).squeeze(1)
    timeless = logits.log_softmax(dim=1).gather(2, y[:, :, None]).squeeze(2)

    def gives(wrong: Tensor) -> bool:
        given = answer(logits.clone(), y.clone())
        return given.shape == wrong.shape and torch.allclose(given, wrong, rtol=1e-4, atol=1e-5)

    return _judge(
        [
            (lambda: not gives(right.mean()), "that is one mean over everything; keep the steps"),
            (
                lambda: not gives(-picked.mean(dim=1)),
                "that is one loss per window: mean over dim 0",
            ),
            (lambda: not gives(-picked), "that is each loss on its own; average over the windows"),
            (
                lambda: tuple(answer(logits, y).shape) == (T,),
                f"for logits {(B, T, V)} and y {(B, T)} return a tensor of shape {(T,)}",
            ),
            (lambda: not gives(-right), "the loss is minus the logarithm: it is never negative"),
            (lambda: not gives(right * B), f"divide by the number of windows, here {B}"),
            (lambda: not gives(right / math.log(2)), "that is in bits; nats need the natural log"),
            (
                lambda: not gives(-mixed.mean(dim=0)),
                "view and reshape cut the numbers anew; use transpose(1, 2) to swap two axes",
            ),
            (
                lambda: not gives(-timeless.mean(dim=0)),
                "softmax runs over the characters, the last axis, not over the steps",
            ),
            (
                lambda: gives(right),
                "not the mean over the windows of -ln p(y) at each step; try B = 1",
            ),
        ]
    )
