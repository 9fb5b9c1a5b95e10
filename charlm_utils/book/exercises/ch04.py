"""Chapter 4: the loss at each step."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from charlm_utils.book.exercises.judge import judge, none_of


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
    return judge([*none_of(gives, form), shape, *none_of(gives, wrong), last])
