"""Appendix A2: the perplexity of a text scored in batches."""

import math
from collections.abc import Callable

from charlm_utils.book.exercises.judge import judge, none_of


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
    return judge([first, *none_of(gives, wrong), last])
