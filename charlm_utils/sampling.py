"""Drawing text from a model, one character at a time, each read exactly once."""

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from charlm_utils.data import CharVocab
from charlm_utils.resume import State
from charlm_utils.training import evaluating


def scaled_probs(logits: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """Probabilities of the last axis of `logits`, sharpened and cut to the `top_k` largest.

    Temperature t raises the probabilities to the power 1/t and normalises them again. The result
    is float64, of the shape of `logits` and on their device, or on the CPU where they come from
    Apple's `mps`, which has no float64. Raises `ValueError` for settings out of range.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"temperature must be a positive number, not {temperature}; for the most likely "
            "character every time use greedy=True"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    logits = (logits.cpu() if logits.device.type == "mps" else logits).float()
    if top_k is not None and top_k < logits.shape[-1]:
        keep = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, keep.indices, keep.values)
    highest = logits.amax(dim=-1, keepdim=True)  # before dividing: a tiny temperature stays finite
    return ((logits - highest).double() / temperature).softmax(dim=-1)


def sample_next(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    greedy: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One id for each row of `logits` (B, V): int64 of shape (B,), on the logits' device."""
    if greedy:
        return logits.argmax(dim=-1)
    probs = scaled_probs(logits, temperature, top_k)
    drawn = torch.multinomial(probs.cpu(), 1, generator=generator)  # CPU: same draws everywhere
    return drawn.squeeze(1).to(logits.device)


@torch.no_grad()
def next_char_probs(
    model: nn.Module, vocab: CharVocab, prompt: str, *, temperature: float = 1.0
) -> dict[str, float]:
    """Every character with the probability the model gives it after `prompt`, likeliest first."""
    with evaluating(model):
        logits, _ = _step(model, _encode(model, vocab, prompt), None)
    probs = scaled_probs(logits[0], temperature)
    order = probs.argsort(descending=True).tolist()
    return {vocab.itos[i]: probs[i].item() for i in order}


def generate(
    model: nn.Module,
    vocab: CharVocab,
    prompt: str,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    greedy: bool = False,
    start_empty: bool = False,
) -> str:
    """`prompt` and `length` more characters, drawn from the model one by one.

    The prompt is read once; after it each drawn character goes in and the state carries
    the rest. `greedy=True` takes the likeliest character every time. An empty prompt is
    an error unless `start_empty=True`, which starts from a zero state and the first
    character of the vocabulary (not returned).
    """
    characters = stream(
        model,
        vocab,
        prompt,
        length,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        greedy=greedy,
        start_empty=start_empty,
    )
    return prompt + "".join(characters)


def stream(
    model: nn.Module,
    vocab: CharVocab,
    prompt: str,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    greedy: bool = False,
    start_empty: bool = False,
) -> Iterator[str]:
    """What `generate` writes after its prompt, each character as soon as it is drawn.

    Bad settings, and a prompt that can't be read, raise `ValueError` at the call. The model is
    in eval mode from the first character to the last one taken or to the stream's `close()`,
    and then in the mode it was in.
    """
    if length < 0:
        raise ValueError(f"length must be at least 0, not {length}")
    scaled_probs(torch.zeros(1), temperature, top_k)  # bad settings fail before any reading
    x = _encode(model, vocab, vocab.itos[0] if start_empty and not prompt else prompt)
    draw = functools.partial(
        sample_next,
        temperature=temperature,
        top_k=top_k,
        greedy=greedy,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
    )
    return _characters(model, vocab, x, length, draw)


@torch.no_grad()
def _characters(
    model: nn.Module, vocab: CharVocab, x: Tensor, length: int, draw: Callable[[Tensor], Tensor]
) -> Iterator[str]:
    """Reads x (1, T), then draws; each character drawn is read when the next is asked for."""
    state = None
    with evaluating(model):
        for _ in range(length):
            logits, state = _step(model, x, state)
            last = draw(logits)  # (1,)
            yield vocab.decode(last)
            x = last[:, None]


def _encode(model: nn.Module, vocab: CharVocab, prompt: str) -> Tensor:
    """The ids of a prompt, (1, T), on the model's device."""
    if not prompt:
        raise ValueError("the prompt is empty (0 characters); start_empty=True starts from nothing")
    return vocab.encode(prompt)[None].to(next(model.parameters()).device)


def _step(model: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Logits (B, V) after the last character of x (B, T), from either kind of model."""
    logits, state = model(x, state)
    return (logits[:, -1] if logits.dim() == 3 else logits), state
