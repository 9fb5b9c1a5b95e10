"""The command line in use: a model knows its text; no display, pipe or slip costs a training."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from charlm_utils import cli, training
from charlm_utils.checkpoint import History, has_checkpoint, load_checkpoint, save_checkpoint
from charlm_utils.cli.arguments import _OPTIONS_BESIDE_PROMPT
from charlm_utils.corpora import KNOWN, CorpusUnavailable, load_corpus
from charlm_utils.data import StreamBatches, split_text
from charlm_utils.sampling import generate
from charlm_utils.training import evaluate

SMALL = ["--hidden-size", "12", "--embedding-dim", "6", "--batch-size", "8", "--seq-len", "20"]
SMALL += ["--epochs", "2", "--precision", "float32", "--device", "cpu", "--lr", "0.01"]
ROOT = Path(cli.__file__).parents[2]

pytestmark = pytest.mark.usefixtures("clean")


def run(capsys, *arguments, status=0):
    """What a command writes to stdout and to stderr; its exit status is checked."""
    found = cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert found == status, err
    return out, err


def refused(capsys, *arguments):
    """The one line of an error."""
    _, err = run(capsys, *arguments, status=1)
    assert err.startswith("charlm: ") and err.count("\n") == 1, err
    return err


def first_loss(table):
    """The model's row of what `charlm eval` prints."""
    return float(next(line for line in table.splitlines() if "this model" in line).split()[2])


@pytest.fixture(scope="module")
def lower(tmp_path_factory, text):
    """A model of the first six tenths of a text, lower-cased; with the folder the text's file."""
    folder = tmp_path_factory.mktemp("lower")
    (folder / "own.txt").write_text(text.title(), encoding="utf-8")
    options = ["--out", str(folder / "model"), *SMALL, "--lower", "--train-share", "0.6"]
    assert cli.main(["train", str(folder / "own.txt"), *options]) == 0
    return folder


# ---- a model knows how its text was made ---------------------------------------------------------


def test_a_model_is_judged_on_what_its_training_held_out(lower, text, capsys):
    out, err = run(capsys, "eval", lower / "model", lower / "own.txt", "--device", "cpu")
    _, _, history = load_checkpoint(lower / "model")
    held_out = split_text(text.title().lower(), (0.6, 0.4))[1]
    assert f"the last 40 % of {lower / 'own.txt'}, {len(held_out):,} characters\n" in out
    assert first_loss(out) == pytest.approx(history.valid[-1], abs=6e-5) and "7-gram" in out
    assert err.endswith("own.txt is read in lower case, as the model's text was\n")


def test_what_was_trained_on_is_not_scored_as_held_out(lower, capsys):
    again = ["eval", lower / "model", lower / "own.txt", "--train-share"]
    _, message = run(capsys, *again, "0.5", status=1)
    cut = json.loads((lower / "model" / "config.json").read_text(encoding="utf-8"))["made"]["cut"]
    assert f"was trained on the first {cut:,} characters" in message and "0.5" in message
    assert "the last 20 %" in run(capsys, *again, "0.8")[0]


def test_prompts_are_read_as_the_text_was(lower, capsys):
    options = ["--length", "20", "--seed", "1", "--device", "cpu"]
    small = run(capsys, "sample", lower / "model", "--prompt", "la mer", *options)
    large = run(capsys, "sample", lower / "model", "--prompt", "La Mer", *options)
    assert small[0] == large[0] and small[1] == ""
    assert large[1] == "charlm: the prompt is read in lower case, as the model's text was\n"


def test_another_text_is_scored_whole(lower, tmp_path, text, capsys):
    """Characters that the model does not know are counted, and the first is placed in the file."""
    path, raw = tmp_path / "other.txt", text[:1000] + "!\n{" + text[1000:2500] + "!"
    path.write_text(raw, encoding="utf-8")
    out, _ = run(capsys, "eval", lower / "model", path, "--device", "cpu")
    model, vocab, _ = load_checkpoint(lower / "model")
    known = "".join(c for c in raw.lower() if c in vocab.stoi)
    place, missing = raw.index("!"), len(raw) - len(known)
    title = out.splitlines()[0]
    assert title.startswith(f"the whole of {path}, {len(known) - 1:,} characters after the first;")
    assert f"left out: {missing} of the text's {len(raw):,}" in title and missing == 3
    line = raw[:place].count("\n") + 1
    assert f"(2 distinct; first '!', U+0021, at position {place:,}, line {line:,})" in title
    expected = evaluate(model, StreamBatches(vocab.encode(known), 32, 256))
    assert first_loss(out) == pytest.approx(expected, abs=6e-5)
    out, _ = run(capsys, "eval", lower / "model", path, "--train-share", "0.5", "--device", "cpu")
    assert "the last 50 %" in out and "7-gram" in out


def test_a_text_of_nothing_known_is_refused(lower, tmp_path, capsys):
    (tmp_path / "digits.txt").write_text("0123456789" * 9)
    message = refused(capsys, "eval", lower / "model", tmp_path / "digits.txt")
    assert "the model knows 0 of the 90 characters" in message


def test_a_model_that_does_not_say_is_asked_for_its_alphabet(lower, tmp_path, capsys):
    """As those saved by `fit` from Python, or by an earlier version."""
    model, vocab, history = load_checkpoint(lower / "model")
    save_checkpoint(tmp_path / "old", model, vocab, history)
    out, err = run(capsys, "eval", tmp_path / "old", lower / "own.txt", "--device", "cpu")
    assert "the last tenth of" in out and "does not say what it was trained on" in err
    assert "is read in lower case" in err


@pytest.mark.parametrize(("name", "value"), [("cut", "5"), ("length", None), ("lower", 1)])
def test_odd_records_are_named(lower, tmp_path, capsys, name, value):
    model, vocab, history = load_checkpoint(lower / "model")
    made = cli.load_made(lower / "model") | {name: value}
    save_checkpoint(tmp_path / "odd", model, vocab, history, made=made)
    assert f"made.{name}" in refused(capsys, "eval", tmp_path / "odd", lower / "own.txt")


def test_pack_keeps_it(lower, tmp_path, capsys):
    run(capsys, "pack", lower / "model", tmp_path / "small")
    assert cli.load_made(tmp_path / "small") == cli.load_made(lower / "model")
    out, _ = run(capsys, "eval", tmp_path / "small", lower / "own.txt", "--device", "cpu")
    assert "the last 40 %" in out


DATA = os.environ.get("CHARLM_DATA", "")  # before `clean` takes it away


def test_the_packaged_model_on_its_own_corpus(capsys, monkeypatch):
    made = cli.load_made("gru-nietzsche")
    assert made["sha256"] == KNOWN["nietzsche"].sha256 and made["lower"]
    assert made["cut"] == int(0.8 * KNOWN["nietzsche"].length)
    monkeypatch.setenv("CHARLM_DATA", DATA)
    try:
        load_corpus("nietzsche")
    except (CorpusUnavailable, AssertionError):
        pytest.skip("the corpus is not here")
    out, _ = run(capsys, "eval", "gru-nietzsche", "nietzsche", "--device", "cpu")
    assert first_loss(out) == pytest.approx(load_checkpoint("gru-nietzsche")[2].valid[-1], abs=5e-4)


@pytest.fixture
def stopped(tmp_path, text, capsys):
    """A run that has one of its two epochs behind it, and its command."""
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    command = ["train", tmp_path / "a.txt", "--out", tmp_path / "out", *SMALL]
    run(capsys, *command, "--epochs", "1")
    return command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lower"], ("was trained without --lower", "now it is with")),
        (["--train-share", "0.899"], ("--train-share was 0.9 (", "now it is 0.899 (")),
        (["--lr", "0.02"], ("lr was 0.01", "now it is 0.02")),
        (["--dropout", "0.2"], ("dropout was 0.3", "now it is 0.2")),
        (["--schedule", "constant"], ("schedule was cosine", "now it is constant")),
        (["--core", "lstm"], ("core was gru", "now it is lstm")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_run_goes_on_with_its_own_text_and_settings_only(stopped, capsys, options, words):
    out, err = run(capsys, *stopped, "--resume", *options, status=1)
    assert all(word in err for word in words) and err.count("\n") == 1


def test_a_text_that_was_moved_is_still_the_same(stopped, tmp_path, capsys):
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    moved = [stopped[0], tmp_path / "b.txt", *stopped[2:]]
    assert "validation" in run(capsys, *moved, "--epochs", "1", "--resume")[0]


# ---- further with what was trained ---------------------------------------------------------------


def test_training_goes_on_for_more_epochs(stopped, tmp_path, capsys):
    out, _ = run(capsys, *stopped, "--epochs", "3", "--resume")
    assert "--epochs was 1, now it is 3" in out
    _, _, history = load_checkpoint(tmp_path / "out")
    assert len(history.valid) == 3 and history.valid[-1] < history.valid[0]
    message = refused(capsys, *stopped, "--epochs", "2", "--resume")
    assert "3 epochs were begun, which is more than 2" in message
    assert len(load_checkpoint(tmp_path / "out")[2].valid) == 3


def test_a_finished_model_starts_another(stopped, tmp_path, text, capsys, monkeypatch):
    """Its weights are there at the first update, in the rows of their characters."""
    (tmp_path / "b.txt").write_text(text[::-1] + "012 {}" * 30, encoding="utf-8")
    seen = {}

    def watch(model, train, valid, recipe, keep, resume):
        seen.update(vars(keep), model=model)
        return History([1.0], [1.0], [1.0], [1])

    monkeypatch.setattr(cli, "train_epochs", watch)
    start = ["--init-from", tmp_path / "out", "--out", tmp_path / "next", "--dropout", "0.1"]
    run(capsys, "train", tmp_path / "b.txt", *start, "--batch-size", "8")
    old, known, _ = load_checkpoint(tmp_path / "out")
    new, vocab = seen["model"], seen["vocab"]
    assert set(vocab.itos) == {*known.itos, *"012{}"} and vocab.itos == sorted(vocab.itos)
    assert new.dropout == 0.1 and seen["made"]["init_from"] == str(tmp_path / "out")
    for one, other in zip(new.core.parameters(), old.core.parameters(), strict=True):
        assert torch.equal(one, other)
    for character in known.itos:
        i, j = vocab.stoi[character], known.stoi[character]
        assert torch.equal(new.embedding.weight[i], old.embedding.weight[j])
        assert torch.equal(new.head.weight[i], old.head.weight[j])
        assert new.head.bias[i] == old.head.bias[j]
    wide = refused(capsys, "train", tmp_path / "b.txt", *start, "--hidden-size", "99")
    assert "--hidden-size 99 is not that of" in wide and "which is 12" in wide


def test_a_lower_cased_model_starts_a_lower_cased_one(lower, tmp_path, capsys):
    start = ["--init-from", lower / "model", "--out", tmp_path / "next"]
    start += [*SMALL, "--epochs", "1"]
    _, err = run(capsys, "train", lower / "own.txt", *start)
    assert "is read in lower case" in err and cli.load_made(tmp_path / "next")["lower"]
    assert load_checkpoint(tmp_path / "next")[1] == load_checkpoint(lower / "model")[1]


HOLD = """
import sys, time
from charlm_utils.saves import lock_folder
with lock_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_takes_one_run_at_a_time(tmp_path, text_file, capsys):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "out"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with child:
        assert child.stdout.readline() == b"held\n"
        out, err = run(capsys, "train", text_file, "--out", tmp_path / "out", *SMALL, status=1)
        assert str(tmp_path / "out") in err and err.count("\n") == 1
        child.stdin.close()
    assert not has_checkpoint(tmp_path / "out")
    run(capsys, "train", text_file, "--out", tmp_path / "out", *SMALL)


# ---- short texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [200, 40, 4])
def test_short_texts_are_trained_on_and_scored(tmp_path, text, capsys, length):
    path, options = tmp_path / "short.txt", [*SMALL, "--batch-size", "2"]
    path.write_text(text[:length], encoding="utf-8")
    out, _ = run(capsys, "train", path, "--out", tmp_path / "out", *options)
    held_out = length - int(0.9 * length)
    assert f"{length - held_out} characters to train on, {held_out} held out" in out
    model, vocab, history = load_checkpoint(tmp_path / "out")
    ids = vocab.encode(text[:length])[-held_out - 1 :]
    assert history.valid[-1] == evaluate(model, StreamBatches(ids, 1, 256))  # one stream
    out, _ = run(capsys, "eval", tmp_path / "out", path, "--device", "cpu")
    assert first_loss(out) == pytest.approx(history.valid[-1], abs=6e-5)
    other = run(capsys, "eval", "gru-nietzsche", path, "--device", "cpu")[0] if length > 4 else ""
    assert math.isfinite(first_loss(other)) if other else length == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [("aaaa" * 50, "holds only 'a's"), ("ab", "1 characters to train on are too few")],
)
def test_texts_with_nothing_to_learn(tmp_path, capsys, content, words):
    (tmp_path / "dull.txt").write_text(content)
    command = ["train", tmp_path / "dull.txt", "--out", tmp_path / "out", *SMALL]
    assert words in refused(capsys, *command) and not (tmp_path / "out").exists()


# ---- words that begin with a minus, and paths with spaces ----------------------------------------


@pytest.mark.parametrize("prompt", ["--well", "-", "--", "-5", "--=", "--prompt", "- a", "=--"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_prompt_may_begin_with_a_minus(tmp_path, capsys, prompt, joined):
    (tmp_path / "dashes.txt").write_text("well, prompt - a =5 -- " * 40)
    run(capsys, "train", tmp_path / "dashes.txt", "--out", tmp_path / "out", *SMALL)
    words = [f"--prompt={prompt}"] if joined else ["--prompt", prompt]
    model, vocab, _ = load_checkpoint(tmp_path / "out")
    expected = generate(model, vocab, prompt, 5, temperature=0.8, seed=1)
    options = ["--length", "5", "--seed", "1", "--device", "cpu"]
    assert run(capsys, "sample", tmp_path / "out", *words, *options)[0] == expected + "\n"


def test_a_forgotten_prompt_is_still_noticed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sample", "gru-nietzsche", "--prompt", "--length", "5"])
    assert "--prompt: expected one argument" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help"])
    listed = capsys.readouterr().out
    found = {word.strip("[],") for word in listed.split() if word.strip("[]").startswith("-")}
    assert {word for word in found if word.strip("-")} - {"--prompt"} == {*_OPTIONS_BESIDE_PROMPT}


@pytest.mark.parametrize("word", ["--seed=--", "--betas=--", "--core=--", "--out=--", "-x=--"])
def test_two_minus_signs_are_no_value(capsys, word):
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "x.txt", word])
    assert caught.value.code == 2 and "'--' is no value" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["my novel", "it's $HOME", "-x"])
def test_the_command_that_is_suggested_works(tmp_path, text, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(text, encoding="utf-8")
    out, _ = run(capsys, "train", "t.txt", f"--out={name}", *SMALL)
    words = shlex.split(out.rpartition("try: charlm ")[2])
    assert len(run(capsys, *words, "--length", "5", "--device", "cpu")[0]) == 6


# ---- displays that fail, signals, memory ---------------------------------------------------------


class Gone:
    """A stream whose reader has gone."""

    encoding = "utf-8"

    def write(self, words):
        raise BrokenPipeError(32, "Broken pipe")

    flush = isatty = lambda self: self.write("")

    def fileno(self):
        raise OSError("no file")


@pytest.mark.parametrize("streams", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_training_goes_on_without_a_reader(text_file, tmp_path, monkeypatch, streams):
    monkeypatch.delenv("CHARLM_QUIET")
    monkeypatch.setattr(training.tqdm, "__init__", eager(training.tqdm.__init__))
    with monkeypatch.context() as patch:
        for name in streams:
            patch.setattr(sys, name, Gone())
        assert cli.main(["train", str(text_file), "--out", str(tmp_path / "out"), *SMALL]) == 0
    _, _, history = load_checkpoint(tmp_path / "out")
    assert len(history.valid) == 2 and not history.interrupted


def eager(plain):
    """A bar that shows each update at once, as one does after its first seconds."""

    def begin(self, *args, **options):
        plain(self, *args, **options | {"delay": 0, "mininterval": 0, "miniters": 1})

    return begin


def test_an_epoch_is_saved_before_it_is_shown(text_file, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CHARLM_QUIET")
    saved = []

    def say(self, line):
        saved.append(len(load_checkpoint(tmp_path / "out")[2].valid))

    monkeypatch.setattr(training.Display, "say", say)
    run(capsys, "train", text_file, "--out", tmp_path / "out", *SMALL)
    assert saved == [1, 2]


CHARLM = "import sys; from charlm_utils.__main__ import main; sys.exit(main())"


def shell(line, *words, **variables):
    """A line of bash in which `charlm` is the command and $1 … are `words`."""
    charlm = f'charlm() {{ "{sys.executable}" -c "{CHARLM}" "$@"; }}; '
    return subprocess.run(
        ["bash", "-c", charlm + line, "bash", *map(str, words)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | variables,
        capture_output=True,
        timeout=120,
        text=True,
    )


@pytest.mark.parametrize(
    ("end", "errors"),
    [
        ("| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", ""),
        (">&-", ""),
        (">&- 2>&-", ""),
        ("> /dev/full", "charlm: [Errno 28] No space left on device"),
    ],
)
def test_a_real_training_without_a_reader(text_file, tmp_path, end, errors):
    train = f'charlm train "$1" --out "$2" {" ".join(SMALL)} {end}'
    done = shell(train, text_file, tmp_path / "out", CHARLM_QUIET="")
    assert (done.returncode, done.stderr.strip()) == (0, errors)  # \r is of a bar that never was
    assert len(load_checkpoint(tmp_path / "out")[2].valid) == 2


@pytest.mark.parametrize(
    ("end", "words"), [(">&-", "standard output is closed"), ("> /dev/full", "No space left")]
)
def test_what_could_not_be_printed_is_an_error(text_file, end, words):
    done = shell(f'charlm floors "$1" {end}', text_file)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["charlm_utils", "charlm_utils.cli"])
def test_python_dash_m(module, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", module, "floors", tmp_path / "none.txt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "none.txt is no file" in done.stderr and done.stderr.count("\n") == 1


INTERRUPTED = """
import signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{name}":
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
sys.meta_path.insert(0, Interrupt())
from charlm_utils.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["torch", "numpy", "charlm_utils.cli"])
def test_ctrl_c_while_the_libraries_are_loaded(name):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name=name), "corpora"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "charlm: stopped\n")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_stops_and_saves(text_file, tmp_path, capsys, monkeypatch, ignored):
    plain, calls = training.train_step, []

    def step(*args, **options):
        calls.append(1)
        if len(calls) == 30:
            signal.raise_signal(signal.SIGHUP)
        return plain(*args, **options)

    usual = signal.SIG_IGN if ignored else signal.SIG_DFL
    before = signal.signal(signal.SIGHUP, usual)
    command = ["train", text_file, "--out", tmp_path / "out", *SMALL]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(training, "train_step", step)
            out, _ = run(capsys, *command, status=0 if ignored else 130)
        assert signal.getsignal(signal.SIGHUP) is usual
    finally:
        signal.signal(signal.SIGHUP, before)
    _, _, history = load_checkpoint(tmp_path / "out")
    assert history.interrupted is not ignored and ("--resume goes on" in out) is not ignored
    run(capsys, *command, "--resume")
    assert len(load_checkpoint(tmp_path / "out")[2].valid) == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee the manual"),
        RuntimeError("[enforce fail at x.cpp] DefaultCPUAllocator: can't allocate memory: 9"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_takes_one_line(text_file, tmp_path, capsys, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(cli, "train_epochs", fail)
    message = refused(capsys, "train", text_file, "--out", tmp_path / "o", *SMALL)
    assert "not enough memory" in message


def test_an_unforeseen_error_is_not_hidden(text_file, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("a shape that does not fit")

    monkeypatch.setattr(cli, "train_epochs", fail)
    with pytest.raises(RuntimeError, match="a shape"):
        cli.main(["train", str(text_file), "--out", str(tmp_path / "o"), *SMALL])


def test_names_can_not_steer_the_terminal(capsys):
    assert r"\x1b[2Jred.txt" in refused(capsys, "floors", "\x1b[2Jred.txt")
    assert "a b.txt is no file" in refused(capsys, "floors", "a\nb.txt")
