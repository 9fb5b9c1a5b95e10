"""How a model's text was made: kept beside the weights, and asked before they read another.

A checkpoint that `charlm train` writes holds, under `made` in its `config.json`, the text's name
and digest, whether it was lower-cased, where it was cut, and the settings of the run.
"""

import argparse
import hashlib
import os
from pathlib import Path

import torch

from charlm_utils.checkpoint import has_checkpoint, load_checkpoint, load_made
from charlm_utils.cli.arguments import RECIPE_OPTIONS, SHAPE
from charlm_utils.data import CharVocab, StreamBatches, split_text
from charlm_utils.models import CharLM
from charlm_utils.saves import CheckpointError
from charlm_utils.terminal import quoted, say, tell

EVAL_STREAMS, EVAL_LEN = 32, 256


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def describe(args: argparse.Namespace, raw: str, text: str, cut: int) -> dict:
    """What a checkpoint keeps of how it was made: its text, where it was cut, the settings."""
    names = [*SHAPE, "dropout", "batch_size", "seq_len", *RECIPE_OPTIONS]
    settings = {name: getattr(args, name) for name in names if name != "resume"}
    return {
        "text": _plain(args.corpus),
        "sha256": _digest(raw),  # of the text as it was read, before it was lower-cased
        "length": len(raw),
        "lower": args.lower,
        "train_share": args.train_share,
        "cut": cut,  # so many characters, lower-cased or not, were trained on
        "settings": settings | {"betas": list(args.betas)},
    } | ({} if args.init_from is None else {"init_from": _plain(args.init_from)})


def _plain(path: str) -> str:
    """A path as JSON can hold it: a file's name may be no text at all."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


_MADE = {"text": str, "sha256": str, "length": int, "lower": bool, "train_share": float}
_MADE |= {"cut": int, "settings": dict}


def made_by_command(folder: str | os.PathLike) -> dict:
    """How the command line made a checkpoint; {} for one made otherwise."""
    made = load_made(folder)
    if "sha256" not in made:
        return {}
    for name, kind in _MADE.items():
        if type(made.get(name)) is not kind:
            raise CheckpointError(
                f"{folder}: the field made.{name} is missing or no {kind.__name__}"
            )
    return made


def load_trained(folder: str) -> tuple[CharLM, CharVocab, dict]:
    """A trained model with its alphabet and how it was made."""
    model, vocab, _ = load_checkpoint(folder)
    if vocab is None:
        raise ValueError(f"{folder} was saved without a vocabulary")
    if Path(folder).exists() and not has_checkpoint(folder):
        raise CheckpointError(f"{folder} holds no trained model: its training saved no update")
    return model, vocab, made_by_command(folder)


def reads_lower(vocab: CharVocab, made: dict) -> bool:
    """Whether the model's text was lower-cased; where it doesn't say, it knows no capitals."""
    if made:
        return made["lower"]
    letters = [c for c in vocab.itos if c.lower() != c.upper()]
    return bool(letters) and all(c == c.lower() for c in letters)


def as_read(text: str, what: str, vocab: CharVocab, made: dict) -> str:
    """`text` as the model's own text was read."""
    lower = text.lower()
    if lower == text or not reads_lower(vocab, made):
        return text
    say(f"{what} is read in lower case, as the model's text was")
    return lower


def part_to_score(args: argparse.Namespace, made: dict, raw: str, text: str) -> tuple[int, str]:
    """Where the scored part of a text begins, and its name."""
    share, own = args.train_share, bool(made) and made["sha256"] == _digest(raw)
    if share is None and made and not own:
        return 0, f"the whole of {args.corpus}"
    if share is None and not made:
        say(f"{args.folder} does not say what it was trained on; it may know this text")
    if share is None:
        share = made["train_share"] if own else 0.9
    cut = len(split_text(text, (share, 1 - share))[0])
    if own and cut < made["cut"]:
        raise ValueError(
            f"{args.folder} was trained on the first {made['cut']:,} characters of {args.corpus}; "
            f"--train-share {share} would score what follows the first {cut:,}"
        )
    part = "tenth" if share == 0.9 else f"{100 * (1 - share):.3g} %"
    return cut, f"the last {part} of {args.corpus}"


def left_out(text: str, vocab: CharVocab) -> str:
    """Words for the characters of `text` that the model does not know, if there are any."""
    places = [i for i, c in enumerate(text) if c not in vocab.stoi]
    if not places:
        return ""
    first, kinds = places[0], len({text[i] for i in places})
    where = f"position {first:,}, line {text.count(chr(10), 0, first) + 1:,}"
    return (
        f"; left out: {len(places):,} of the text's {len(text):,} that the model does not know "
        f"({kinds:,} distinct; first {text[first]!r}, U+{ord(text[first]):04X}, at {where})"
    )


def eval_batches(ids: torch.Tensor, device: torch.device) -> StreamBatches:
    """32 streams, as in the book; a text too short for them is read in one."""
    streams = EVAL_STREAMS if len(ids) > EVAL_STREAMS else 1
    return StreamBatches(ids, streams, EVAL_LEN, device=device)


def check_same_text(out: Path, now: dict) -> None:
    """Raise `ValueError` where a run would go on with another text, or with another part of it."""
    old = made_by_command(out)
    if not old:  # it was not made by this command
        return
    if old["sha256"] != now["sha256"]:
        was, new = (
            f"{made['text']} ({made['length']:,} characters, SHA-256 {made['sha256'][:12]}…)"
            for made in (old, now)
        )
        cure = f"--init-from {quoted(out)} --out ANOTHER starts on it from these weights"
        raise ValueError(f"{out} was trained on {was}, not on {new}; {cure}")
    if old["lower"] != now["lower"]:
        words = ("without", "with") if old["lower"] else ("with", "without")
        raise ValueError(f"{out} was trained {words[1]} --lower, and now it is {words[0]}")
    if old["cut"] != now["cut"]:
        was = f"--train-share was {old['train_share']} ({old['cut']:,} characters)"
        raise ValueError(f"{out}: {was}, now it is {now['train_share']} ({now['cut']:,})")
    before, epochs = old["settings"].get("epochs"), now["settings"]["epochs"]
    if before != epochs:
        tell(f"--epochs was {before}, now it is {epochs}: so is the course of the learning rate")
