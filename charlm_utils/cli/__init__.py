"""The `charlm` command: corpora, train, sample, eval, floors, pack, study."""

import argparse
import inspect
import io
import math
import sys
from pathlib import Path

import torch

from charlm_utils import __version__, corpora
from charlm_utils.book.studies import STUDIES, run_study
from charlm_utils.checkpoint import has_checkpoint, load_checkpoint, load_made, save_checkpoint
from charlm_utils.cli.arguments import ARGUMENTS, RECIPE_OPTIONS, SHAPE, check_ranges, joined_prompt
from charlm_utils.cli.origin import (
    as_read,
    check_same_text,
    describe,
    eval_batches,
    left_out,
    load_trained,
    part_to_score,
    reads_lower,
)
from charlm_utils.data import Batches, CharVocab, StreamBatches, split_text
from charlm_utils.device import memory_here, pick_device, pick_precision, seed_everything
from charlm_utils.models import CharLM, core_name, count_parameters, make_core
from charlm_utils.ngram import floors
from charlm_utils.optim import Recipe
from charlm_utils.sampling import stream
from charlm_utils.saves import lock_folder
from charlm_utils.terminal import flushed, quoted, say, tell
from charlm_utils.training import Keep, TrainingDiverged, evaluate, train_epochs


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (0 good, 1 error, 130 stopped).

    An error is one line on stderr. Wrong usage ends with argparse's `SystemExit` of status 2.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's is another kind
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args = _arguments(sys.argv[1:] if argv is None else argv)
        check_ranges(args)
        return _printed(args) if args.run in _PRINTING else flushed(args.run(args) or 0)
    except (ValueError, OSError, corpora.CorpusUnavailable, TrainingDiverged) as error:
        return _failed(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        return _failed(MemoryError(f"there is not enough memory for this ({error})"))
    except KeyboardInterrupt:
        say("stopped")
        return flushed(130)


def _printed(args: argparse.Namespace) -> int:
    """Run a command that prints and does nothing else."""
    if sys.stdout is None:
        raise OSError("standard output is closed")
    try:
        args.run(args)
    except BrokenPipeError:  # the reader has enough, as `head` does
        pass
    return flushed(0, strict=True)


def _failed(error: Exception) -> int:
    """Say what went wrong in one line (the cures of a missing corpus take more)."""
    lines = str(error).splitlines()
    say("\n".join(lines) if isinstance(error, corpora.CorpusUnavailable) else " ".join(lines))
    return flushed(1)


# ---- commands ---------------------------------------------------------------------------------


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
    _check_out(out, args.resume)
    device = pick_device(args.device)
    args.precision = args.precision or pick_precision(device)
    start = None if args.init_from is None else load_trained(args.init_from)
    _settle_shape(args, start)
    raw = corpora.load_corpus(args.corpus).text
    text = raw.lower() if args.lower else raw
    cut = len(split_text(text, (args.train_share, 1 - args.train_share))[0])
    _check_text(args, text, cut)
    made = describe(args, raw, text, cut)
    if args.resume:
        check_same_text(out, made)
    model, vocab = _begin(args, text, start)
    ids = vocab.encode(text)
    batches = StreamBatches(ids[:cut], args.batch_size, args.seq_len, device=device)
    tell(
        f"{args.corpus}: {cut:,} characters to train on, {len(text) - cut:,} held out, "
        f"{len(vocab)} distinct; {count_parameters(model):,} parameters; {device}, {args.precision}"
    )
    valid = eval_batches(ids[cut - 1 :], device)
    return _train(model.to(device), batches, valid, args, Keep(out, vocab, made))


def _train(
    model: CharLM, batches: Batches, valid: Batches, args: argparse.Namespace, keep: Keep
) -> int:
    """Train, say how it ended, and return the exit status."""
    out, recipe = keep.folder, Recipe(**{name: getattr(args, name) for name in RECIPE_OPTIONS})
    try:
        history = train_epochs(model, batches, valid, recipe, keep=keep, resume=args.resume)
    except TrainingDiverged as error:
        cure = "the same command with a lower --lr begins anew"
        if has_checkpoint(out):
            cure = f"a lower --lr goes on from it with --init-from {quoted(out)} --out ANOTHER"
        raise TrainingDiverged(f"{error}; {cure}") from None
    if history.interrupted:
        if has_checkpoint(out):
            tell(f"stopped; the same command with --resume goes on from {out}")
        else:
            tell("stopped before the first update; nothing was saved")
        return 130
    tell(f"validation {_units(history.valid[-1])}")
    tell(f"in {history.seconds[-1]:.0f} s; the model is in {out}; try: charlm sample {quoted(out)}")
    return 0


def sample(args: argparse.Namespace) -> None:
    """Print a prompt and what the model writes after it."""
    model, vocab, made = load_trained(args.folder)
    prompt = as_read(args.prompt, "the prompt", vocab, made)
    options = {"temperature": args.temperature, "top_k": args.top_k, "seed": args.seed}
    options |= {"greedy": args.greedy, "start_empty": True}
    device = pick_device(args.device)
    characters = stream(model.to(device), vocab, prompt, args.length, **options)
    print(prompt, end="", flush=True)
    for character in characters:
        print(character, end="", flush=True)  # each as soon as it is there
    print()


def evaluate_checkpoint(args: argparse.Namespace) -> None:
    """The loss of a checkpoint on what its training held out, or on another text, beside tables."""
    model, vocab, made = load_trained(args.folder)
    device = pick_device(args.device)
    raw = corpora.load_corpus(args.corpus).text
    text = as_read(raw, args.corpus, vocab, made)
    cut, title = part_to_score(args, made, raw, text)
    known = "".join(c for c in text if c in vocab.stoi)
    start = cut if len(known) == len(text) else sum(c in vocab.stoi for c in text[:cut])
    if len(known) <= max(start, 1) or (cut and not start):
        count = f"the model knows {len(known):,} of the {len(text):,} characters of {args.corpus}"
        raise ValueError(f"{count}: too few to score {title}")
    ids = vocab.encode(known[max(start, 1) - 1 :])
    loss = evaluate(model.to(device), eval_batches(ids, device))
    rows = {"this model": loss, "uniform": math.log(len(vocab))}
    rows |= floors(known[:start], known[start:]) if start else {}
    scored = f"{len(ids) - 1:,} characters{'' if start else ' after the first'}"
    _print_losses(f"{title}, {scored}{left_out(text, vocab)}", rows)


def show_floors(args: argparse.Namespace) -> None:
    """What count tables and compressors get on the last tenth of a text."""
    train_text, held_out = split_text(corpora.load_corpus(args.corpus).text)
    rows = floors(train_text, held_out)
    _print_losses(f"the last tenth of {args.corpus}, {len(held_out):,} characters", rows)


def pack(args: argparse.Namespace) -> None:
    """Copy a trained model without what resuming needs, its weights in 16 bits."""
    model, vocab, history = load_checkpoint(args.folder)
    if has_checkpoint(args.out):
        raise ValueError(f"{args.out} holds a checkpoint already")
    with lock_folder(args.out):
        made = load_made(args.folder)
        save_checkpoint(args.out, model, vocab, history, half=True, made=made)
    size = sum(path.stat().st_size for path in Path(args.out).rglob("*") if path.is_file())
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


# ---- where a training begins ---------------------------------------------------------------------


def _check_out(out: Path, resume: bool) -> None:
    """A folder to begin in holds no checkpoint, and one to go on from holds one."""
    if has_checkpoint(out) and not resume:
        raise ValueError(f"{out} holds a checkpoint; --resume goes on with it, --out names another")
    if resume and not has_checkpoint(out):
        raise ValueError(f"{out} holds no checkpoint to go on from; without --resume one begins")


def _check_text(args: argparse.Namespace, text: str, cut: int) -> None:
    """Raise `ValueError` for a text from which nothing can be learnt, or not in these batches."""
    if len(set(text)) == 1:
        raise ValueError(f"{args.corpus} holds only {text[0]!r}s: there is nothing to learn")
    if cut <= args.batch_size:
        few = f"{args.corpus}: {cut:,} characters to train on are too few"
        cure = f" for --batch-size {args.batch_size}; it can be {cut - 1:,} at most"
        raise ValueError(few + (cure if cut > 1 else ""))


def _settle_shape(args: argparse.Namespace, start: tuple[CharLM, CharVocab, dict] | None) -> None:
    """Fill in the sizes that were not asked for: the defaults, or those of `--init-from`."""
    shape = SHAPE
    if start is not None:
        model, vocab, made = start
        sizes = (model.core.hidden_size, model.core.num_layers, model.embedding.embedding_dim)
        shape = dict(zip(SHAPE, (core_name(model.core), *sizes), strict=True))
        if reads_lower(vocab, made) and not args.lower:
            args.lower = True
            say(f"{args.corpus} is read in lower case, as the text of {args.init_from} was")
    for name, value in shape.items():
        asked = getattr(args, name)
        if start is not None and asked not in (None, value):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} {asked} is not that of {args.init_from}, which is {value}")
        setattr(args, name, value if asked is None else asked)


def _begin(
    args: argparse.Namespace, text: str, start: tuple[CharLM, CharVocab, dict] | None
) -> tuple[CharLM, CharVocab]:
    """A new model for this text, or that of `--init-from` with what its alphabet lacks."""
    vocab = CharVocab.from_text(text)
    if start is None:
        _check_memory(args, len(vocab))
        seed_everything(args.seed)
        return _new_model(args, len(vocab)), vocab
    old, known, _ = start
    vocab = CharVocab(sorted({*known.itos, *vocab.itos}))
    seed_everything(args.seed)
    model = CharLM(len(vocab), args.embedding_dim, old.core, dropout=args.dropout)
    places = vocab.encode("".join(known.itos))
    with torch.no_grad():
        model.embedding.weight[places] = old.embedding.weight
        model.head.weight[places], model.head.bias[places] = old.head.weight, old.head.bias
    return model, vocab


def _new_model(args: argparse.Namespace, vocab_size: int) -> CharLM:
    core = make_core(args.core, args.embedding_dim, args.hidden_size, args.num_layers)
    return CharLM(vocab_size, args.embedding_dim, core, dropout=args.dropout)


def _check_memory(args: argparse.Namespace, vocab_size: int) -> None:
    """Raise `ValueError` for a model that can't be trained in the memory of this machine."""
    with torch.device("meta"):  # takes no memory
        parameters = count_parameters(_new_model(args, vocab_size))
    need, there = 16 * parameters, memory_here()  # weights, gradients and two moments, 4 bytes each
    if there is not None and need > there:
        raise ValueError(
            f"a model of {parameters:,} parameters takes {need / 2**30:,.0f} GiB to train, this "
            f"machine has {there / 2**30:,.0f}; lower --hidden-size, --num-layers, --embedding-dim"
        )


# ---- what is printed -----------------------------------------------------------------------------


def _units(loss: float) -> str:
    bits = loss / math.log(2)
    return f"{loss:.4f} nats = {bits:.4f} bits per character, perplexity {_perplexity(loss):.3f}"


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _print_losses(title: str, rows: dict[str, float]) -> None:
    print(f"{title}\n{'':22} {'nats':>8} {'bits':>8} {'perplexity':>11}")
    for name, loss in rows.items():
        print(f"{name:22} {loss:8.4f} {loss / math.log(2):8.4f} {_perplexity(loss):11.3f}")


_PRINTING = (show_corpora, sample, evaluate_checkpoint, show_floors)  # print, and do nothing else


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    return parser.parse_args(joined_prompt(words, parser))


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
