"""The options of the `charlm` command, one function for each subcommand."""

import argparse

from charlm_utils.models import CORES
from charlm_utils.schedules import SCHEDULES


def _train_arguments(p: argparse.ArgumentParser) -> None:
    _corpus_argument(p)
    p.add_argument("--lower", action="store_true", help="read the text in lower case")
    p.add_argument("--train-share", type=float, default=0.9, help="the rest is held out")
    p.add_argument("--core", choices=CORES, default="gru")
    p.add_argument("--hidden-size", type=int, default=512, help="units in each layer")
    p.add_argument("--num-layers", type=int, default=1)
    p.add_argument("--embedding-dim", type=int, default=64)
    p.add_argument("--dropout", type=float, default=0.3, help="share of the core's output")
    p.add_argument("--batch-size", type=int, default=64, help="streams read side by side")
    p.add_argument("--seq-len", type=int, default=64, help="characters between two updates")
    p.add_argument("--epochs", type=int, default=6)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--warmup-steps", type=int, default=50)
    p.add_argument("--schedule", choices=SCHEDULES, default="cosine")
    p.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.99))
    p.add_argument("--weight-decay", type=float, default=0.0)
    p.add_argument("--clip", type=_clip, default=1.0, help="gradient norm; 0 for none")
    p.add_argument("--no-carry-state", dest="carry_state", action="store_false")
    p.add_argument("--out", help="folder of the checkpoint (default: runs/NAME)")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    p.add_argument("--precision", choices=["bf16", "float32"])
    p.add_argument("--seed", type=int, default=0)
    _device_argument(p)


def _clip(text: str) -> float | None:
    return float(text) or None


def _sample_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="DIR", help="folder of a checkpoint")
    p.add_argument("--prompt", default="")
    p.add_argument("--length", type=int, default=400)
    p.add_argument("--temperature", type=float, default=0.8)
    p.add_argument("--top-k", type=int, help="draw among the k likeliest only")
    p.add_argument("--greedy", action="store_true", help="always the likeliest")
    p.add_argument("--seed", type=int, help="the same seed, the same text")
    _device_argument(p)


def _eval_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("folder", metavar="DIR", help="folder of a checkpoint")
    _corpus_argument(p)
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
