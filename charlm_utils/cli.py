"""The `charlm` command: corpora, train, sample, eval, floors, pack, study."""

import argparse
import inspect
import io
import math
import os
import sys
from pathlib import Path

from charlm_utils import __version__, corpora
from charlm_utils.baselines import floors
from charlm_utils.batching import StreamBatches, split_text
from charlm_utils.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from charlm_utils.device import pick_device, pick_precision, seed_everything
from charlm_utils.models import CharLM, count_parameters, make_core
from charlm_utils.options import ARGUMENTS
from charlm_utils.sampling import generate
from charlm_utils.studies import STUDIES, run_study
from charlm_utils.training import TrainingDiverged, evaluate, fit
from charlm_utils.vocab import CharVocab

EVAL_STREAMS, EVAL_LEN = 32, 256


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (0 good, 1 error, 130 stopped)."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's is another kind
        sys.stdout.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    try:
        status = args.run(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, corpora.CorpusUnavailable, TrainingDiverged) as error:
        print(f"charlm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("charlm: stopped", file=sys.stderr)
        return 130


def show_corpora(args: argparse.Namespace) -> None:
    """Which texts are known, how long they are, and whether they are on this machine."""
    for name, known in corpora.KNOWN.items():
        problems: list[str] = []
        try:
            corpus = corpora.load_corpus(name) if args.fetch else corpora.find_local(name, problems)
        except corpora.CorpusUnavailable as error:
            corpus, problems = None, [error.reason]
        missing = f"not here ({'; '.join(problems)})" if problems else "not here"
        print(f"{name:30} {known.length:>9,}  {corpus.source if corpus else missing}")
    print(f"{corpora.FALLBACK:30} {len(corpora.python_docs()):>9,}  comes with Python")


def train(args: argparse.Namespace) -> int:
    """Train on the first part of a text, validate on the rest, save a checkpoint."""
    out = Path(args.out or f"runs/{Path(args.corpus).stem}")
    if has_checkpoint(out) and not args.resume:
        raise ValueError(f"{out} holds a checkpoint; --resume goes on with it, --out names another")
    text, cut = _text_and_cut(args)
    vocab, device = CharVocab.from_text(text), pick_device(args.device)
    ids = vocab.encode(text)
    batches = StreamBatches(ids[:cut], args.batch_size, args.seq_len, device=device)
    valid = StreamBatches(ids[cut - 1 :], EVAL_STREAMS, EVAL_LEN, device=device)
    model = _new_model(args, len(vocab)).to(device)
    args.precision = args.precision or pick_precision(device)
    print(
        f"{args.corpus}: {cut:,} characters to train on, {len(text) - cut:,} held out, "
        f"{len(vocab)} distinct; {count_parameters(model):,} parameters; {device}, {args.precision}"
    )
    options = {name: getattr(args, name) for name in _FIT_OPTIONS}
    history = fit(model, batches, valid, vocab=vocab, checkpoint_dir=out, **options)
    if history.interrupted:
        print(f"stopped; the same command with --resume goes on from {out}")
        return 130
    print(f"validation {_units(history.valid[-1])}")
    print(f"in {history.seconds[-1]:.0f} s; the model is in {out}; try: charlm sample {out}")
    return 0


def _text_and_cut(args: argparse.Namespace) -> tuple[str, int]:
    if not 0 < args.train_share < 1:
        raise ValueError(f"--train-share must lie between 0 and 1, not {args.train_share}")
    text = corpora.load_corpus(args.corpus).text
    text = text.lower() if args.lower else text
    return text, len(split_text(text, (args.train_share, 1 - args.train_share))[0])


def _new_model(args: argparse.Namespace, vocab_size: int) -> CharLM:
    if not 0 <= args.dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {args.dropout}")
    seed_everything(args.seed)
    core = make_core(args.core, args.embedding_dim, args.hidden_size, args.num_layers)
    return CharLM(vocab_size, args.embedding_dim, core, dropout=args.dropout)


def sample(args: argparse.Namespace) -> None:
    """Print a prompt and what the model writes after it."""
    model, vocab, _ = load_checkpoint(args.folder)
    if vocab is None:
        raise ValueError(f"{args.folder} was saved without a vocabulary")
    text = generate(
        model.to(pick_device(args.device)),
        vocab,
        args.prompt,
        args.length,
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
        greedy=args.greedy,
        start_empty=True,
    )
    print(text)


def evaluate_checkpoint(args: argparse.Namespace) -> None:
    """The loss of a checkpoint on the last tenth of a text, beside what tables get there."""
    model, vocab, _ = load_checkpoint(args.folder)
    if vocab is None:
        raise ValueError(f"{args.folder} was saved without a vocabulary")
    device = pick_device(args.device)
    train_text, held_out = split_text(corpora.load_corpus(args.corpus).text)
    ids = vocab.encode(train_text[-1] + held_out)
    loss = evaluate(model.to(device), StreamBatches(ids, EVAL_STREAMS, EVAL_LEN, device=device))
    rows = {"this model": loss, **floors(train_text, held_out)}
    _print_losses(f"the last tenth of {args.corpus}, {len(held_out):,} characters", rows)


def show_floors(args: argparse.Namespace) -> None:
    """What count tables and compressors get on the last tenth of a text."""
    train_text, held_out = split_text(corpora.load_corpus(args.corpus).text)
    rows = floors(train_text, held_out)
    _print_losses(f"the last tenth of {args.corpus}, {len(held_out):,} characters", rows)


def pack(args: argparse.Namespace) -> None:
    """Copy a trained model without what resuming needs, its weights in 16 bits."""
    if has_checkpoint(args.out):
        raise ValueError(f"{args.out} holds a checkpoint already")
    model, vocab, history = load_checkpoint(args.folder)
    save_checkpoint(args.out, model, vocab, history, half=True)
    size = sum(path.stat().st_size for path in Path(args.out).iterdir())
    print(f"{args.out}: {size:,} bytes")


def study(args: argparse.Namespace) -> None:
    """Run what is missing of a recorded study of the book; without a name, list them."""
    if args.name is None:
        for name, known in STUDIES.items():
            print(f"{name:14} {known.minutes:>3} min  {known.question}")
        return
    done = run_study(args.name, search=args.search)
    left = "the search is complete" if args.search else "nothing is missing"
    print(f"{args.name}: {done} runs done now, {left}")


def _units(loss: float) -> str:
    bits = loss / math.log(2)
    return f"{loss:.4f} nats = {bits:.4f} bits per character, perplexity {_perplexity(loss):.3f}"


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _print_losses(title: str, rows: dict[str, float]) -> None:
    print(f"{title}\n{'':22} {'nats':>8} {'bits':>8} {'perplexity':>11}")
    for name, loss in rows.items():
        print(f"{name:22} {loss:8.4f} {loss / math.log(2):8.4f} {_perplexity(loss):11.3f}")


_FIT_OPTIONS = ["epochs", "lr", "warmup_steps", "schedule", "betas", "weight_decay", "clip"]
_FIT_OPTIONS += ["carry_state", "precision", "seed", "resume"]  # named as in `fit`


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="charlm", description="Character-level language models, from the book."
    )
    parser.add_argument("--version", action="version", version=f"charlm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run in {
        "corpora": show_corpora,
        "train": train,
        "sample": sample,
        "eval": evaluate_checkpoint,
        "floors": show_floors,
        "pack": pack,
        "study": study,
    }.items():
        text = inspect.getdoc(run)
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        ARGUMENTS[name](command)
    return parser
