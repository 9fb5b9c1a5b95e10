"""Appendix A4: who looks ahead."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm_utils.book.exercises.judge import judge


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
    return judge(
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
