"""The options of the `charlm` command: one function for each subcommand, and what is in range."""

import argparse
import math
from collections.abc import Callable
from typing import Any

from charlm_utils.models import CORES
from charlm_utils.optim import SCHEDULES

SHAPE = {"core": "gru", "hidden_size": 512, "num_layers": 1, "embedding_dim": 64}  # defaults
RECIPE_OPTIONS = ["epochs", "lr", "warmup_steps", "schedule", "betas", "weight_decay", "clip"]
RECIPE_OPTIONS += ["carry_state", "precision", "seed"]  # named as in `Recipe`
Rule = tuple[Callable[[Any], bool], str]  # whether a value is in range, and the range in words


def _between(low: int, high: int) -> Rule:
    return lambda value: low <= value <= high, f"between {low:,} and {high:,}"


def _at_least(low: int, high: int) -> Rule:
    """As `_between`, where the upper end is only there to stop a slip of the finger."""
    return lambda value: low <= value <= high, f"at least {low} and at most {high:,}"


RULES: dict[str, Rule] = {
    "hidden_size": _at_least(1, 1_000_000),
    "num_layers": _at_least(1, 1_000),
    "embedding_dim": _at_least(1, 1_000_000),
    "batch_size": _at_least(1, 10_000_000),
    "seq_len": _at_least(1, 10_000_000),
    "epochs": _at_least(1, 1_000_000),
    "warmup_steps": _at_least(0, 1_000_000_000),
    "length": _at_least(0, 10_000_000),
    "top_k": _at_least(1, 10_000_000),
    "seed": _between(-(2**63), 2**64 - 1),
    "train_share": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "dropout": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "lr": (lambda value: 0 < value < math.inf, "above 0 and finite"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "at least 0 and finite"),
    "clip": (lambda value: value > 0, "above 0, or 0 for none"),
    "betas": (lambda pair: all(0 <= beta < 1 for beta in pair), "two of at least 0 and below 1"),
    "temperature": (
        lambda value: 0 < value < math.inf,
        "above 0 and finite (--greedy takes the likeliest character every time)",
    ),
}


def check_ranges(args: argparse.Namespace) -> None:
    """Raise `ValueError`, in the words of the command line, for the first number out of range."""
    for name, (holds, words) in RULES.items():
        value = getattr(args, name, None)
        if value is not None and not holds(value):
            shown = " ".join(map(str, value)) if name == "betas" else value
            raise ValueError(f"--{name.replace('_', '-')} must be {words}, not {shown}")


def joined_prompt(words: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The command line with `--prompt TEXT` as one word, so that TEXT may begin with a minus.

    The mark `\\0`, which no argument can hold, keeps argparse from reading TEXT as anything else;
    `_prompt` takes it away. After `--prompt` another option of `charlm sample` is that option.
    `--option=--`, on which argparse itself stumbles, is wrong usage: the parser's `SystemExit`.
    """
    found: list[str] = []
    rest = iter(words)
    prompted = list(words[:1]) == ["sample"]
    for word in rest:
        if word == "--":
            return [*found, word, *rest]
        option, equals, value = word.partition("=")
        if prompted and option == "--prompt" and not equals:
            following = next(rest, None)
            if following is None or following.partition("=")[0] in _OPTIONS_BESIDE_PROMPT:
                found += [word] if following is None else [word, following]
                continue
            value = following
        if prompted and option == "--prompt":
            word = f"--prompt=\0{value}"
        elif value == "--" and option.startswith("-"):
            parser.error(f"argument {option}: '--' is no value")
        found.append(word)
    return found


_OPTIONS_BESIDE_PROMPT = ["--length", "--temperature", "--top-k", "--greedy", "--seed", "--device"]
_OPTIONS_BESIDE_PROMPT += ["--help", "-h"]


def _prompt(text: str) -> str:
    return text.removeprefix("\0")


def _train_arguments(p: argparse.ArgumentParser) -> None:
    _corpus_argument(p)
    p.add_argument("--lower", action="store_true", help="read the text in lower case")
    p.add_argument("--train-share", type=_number, default=0.9, help="the rest is held out")
    p.add_argument("--core", choices=CORES, help="default: gru")
    p.add_argument("--hidden-size", type=_count, help="units in each layer (default: 512)")
    p.add_argument("--num-layers", type=_count, help="default: 1")
    p.add_argument("--embedding-dim", type=_count, help="default: 64")
    p.add_argument("--dropout", type=_number, default=0.3, help="share of the core's output")
    p.add_argument("--batch-size", type=_count, default=64, help="streams read side by side")
    p.add_argument("--seq-len", type=_count, default=64, help="characters between two updates")
    p.add_argument("--epochs", type=_count, default=6, help="may grow with --resume")
    p.add_argument("--lr", type=_number, default=2e-3, help="learning rate")
    p.add_argument("--warmup-steps", type=_count, default=50)
    p.add_argument("--schedule", choices=SCHEDULES, default="cosine")
    p.add_argument("--betas", type=_number, nargs=2, default=(0.9, 0.99))
    p.add_argument("--weight-decay", type=_number, default=0.0)
    p.add_argument("--clip", type=_clip, default=1.0, help="gradient norm; 0 for none")
    p.add_argument("--no-carry-state", dest="carry_state", action="store_false")
    p.add_argument("--out", help="folder of the checkpoint (default: runs/NAME)")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    p.add_argument("--init-from", metavar="DIR", help="start from the weights of this checkpoint")
    p.add_argument("--precision", choices=["bf16", "float32"])
    p.add_argument("--seed", type=_count, default=0)
    _device_argument(p)


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is no whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is no number") from None


def _clip(text: str) -> float | None:
    return _number(text) or None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _sample_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="DIR", help="folder of a checkpoint")
    p.add_argument("--prompt", type=_prompt, default="")
    p.add_argument("--length", type=_count, default=400)
    p.add_argument("--temperature", type=_number, default=0.8)
    p.add_argument("--top-k", type=_count, help="draw among the k likeliest only")
    p.add_argument("--greedy", action="store_true", help="always the likeliest")
    p.add_argument("--seed", type=_count, help="the same seed, the same text")
    _device_argument(p)


def _eval_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="DIR", help="folder of a checkpoint")
    _corpus_argument(p)
    p.add_argument(
        "--train-share",
        type=_number,
        help="score what follows this share (default: what the model's training held out, "
        "the whole of any other text)",
    )
    _device_argument(p)


def _corpus_argument(p: argparse.ArgumentParser) -> None:
    p.add_argument("corpus", metavar="CORPUS_OR_FILE", help="a known corpus or a UTF-8 text file")


def _pack_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="DIR", help="folder of a checkpoint")
    p.add_argument("out", metavar="OUT", help="folder of the copy")


def _study_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("name", metavar="NAME", nargs="?", help="leave it out for the list")
    p.add_argument("--search", action="store_true", help="stop before the held-out text is read")


def _corpora_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--fetch", action="store_true", help="download what is missing")


def _device_argument(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")


ARGUMENTS = {
    "corpora": _corpora_arguments,
    "train": _train_arguments,
    "sample": _sample_arguments,
    "eval": _eval_arguments,
    "floors": _corpus_argument,
    "pack": _pack_arguments,
    "study": _study_arguments,
}
