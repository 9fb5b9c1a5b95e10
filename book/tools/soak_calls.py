"""Command lines drawn at random: each must end in a result or in one line, never in a traceback.

    python book/tools/soak_calls.py --calls 1000

The words make sense, or don't, or are what nobody expects. A call may take `SECONDS`; one that
goes on for longer is a runaway. `Calls` and `problem` are the tests' too.
"""

import argparse
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from charlm_utils import cli

SECONDS = 20

ODD = ["", "-", "--", "-1", "0", "1e400", "nan", "-inf", "10" * 30, "x", "é", "\0", "a b", "1_0"]
ODD += ["0x10", "\x1b[2J", "\ud800", "9" * 5000, "--lr", "*", "1.5", "٣"]
NUMBERS = {  # a few that do, so that some calls get to the end
    "--hidden-size": ["4", "1", "4000000", "999999"],
    "--num-layers": ["1", "2", "1000000"],
    "--embedding-dim": ["3", "1000000000"],
    "--batch-size": ["8", "1", "1000000"],
    "--seq-len": ["20", "100000"],
    "--epochs": ["1", "2", "100000000"],
    "--seed": ["3", "-1", str(2**64)],
    "--length": ["5", "100000000"],
    "--top-k": ["2", "1000"],
    "--warmup-steps": ["0", "7", "10000"],
    "--lr": ["0.01", "1e38", "1e-300"],
    "--dropout": ["0.5", "0.999"],
    "--clip": ["0", "1e-30", "inf"],
    "--weight-decay": ["0.1", "1e30"],
    "--temperature": ["1", "1e-300", "1e300"],
    "--train-share": ["0.5", "0.001", "0.9999"],
}
CHOICES = {
    "--core": ["gru", "rnn", "lstm", "relu-gru", "residual-gru"],
    "--schedule": ["cosine", "constant", "step"],
    "--precision": ["bf16", "float32", "float16"],
    "--device": ["cpu", "cpu:7", "cuda:99", "meta", "xpu", "mps", "vulkan"],
    "--prompt": ["abc", "ABC", "€", "--well"],
}
FLAGS = ["--lower", "--no-carry-state", "--resume", "--greedy", "--fetch", "--search", "--help"]
OF = {
    "train": ["--lower", "--train-share", "--core", "--hidden-size", "--num-layers", "--dropout"]
    + ["--embedding-dim", "--batch-size", "--seq-len", "--epochs", "--lr", "--warmup-steps"]
    + ["--schedule", "--weight-decay", "--clip", "--no-carry-state", "--resume", "--precision"]
    + ["--seed", "--device", "--betas", "--init-from", "--out"],
    "sample": [
        "--prompt",
        "--length",
        "--temperature",
        "--top-k",
        "--greedy",
        "--seed",
        "--device",
    ],
    "eval": ["--train-share", "--device"],
    "floors": [],
    "pack": [],
    "corpora": [],
    "study": ["--search"],
}


def make_place(folder: Path) -> Path:
    """Fill a folder with texts, a model, and things that are neither."""
    words = "the quick brown fox jumps over the lazy dog, again and again.\n"
    (folder / "text.txt").write_text(words * 9, encoding="utf-8")
    (folder / "other.txt").write_text("Ünlike (it) 5 " * 30, encoding="utf-8")
    (folder / "tiny.txt").write_text("abc", encoding="utf-8")
    (folder / "dull.txt").write_text("a" * 300, encoding="utf-8")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "folder").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("[" * 9, encoding="utf-8")
    options = ["--hidden-size=4", "--batch-size=8", "--epochs=1", "--device=cpu"]
    train = ["train", str(folder / "text.txt"), "--out", str(folder / "model"), *options]
    if cli.main(train):
        raise RuntimeError("the model of the calls could not be trained")
    return folder


class Calls:
    """Draws command lines, with the files of a folder in them."""

    def __init__(self, folder, seed):
        self.draw, self.folder = random.Random(seed), folder
        self.files = [str(path) for path in sorted(folder.iterdir())] + ["gru-sums", "nowhere"]

    def path(self):
        return self.draw.choice([self.draw.choice(self.files)] * 6 + [self.draw.choice(ODD)])

    def value(self, name):
        if name in ("--init-from", "--out"):
            return self.path()
        known = NUMBERS.get(name) or CHOICES.get(name) or ["0.9"]
        return self.draw.choice(ODD if self.draw.random() < 0.25 else known)

    def option(self, command):
        usual = OF[command]
        every = [*NUMBERS, *CHOICES, *FLAGS, "--out", "--init-from", "--betas", "--none", "-h"]
        name = self.draw.choice(usual if usual and self.draw.random() < 0.9 else every)
        if name in FLAGS or name == "-h":
            return [name]
        if name == "--betas":
            return [name, *(self.value(name) for _ in range(self.draw.choice([1, 2, 2, 2, 3])))]
        value = self.value(name)
        return [f"{name}={value}"] if self.draw.random() < 0.5 else [name, value]

    def call(self, number):
        """A command line. What trains does so briefly unless it asks for something else."""
        command = self.draw.choice(["train"] * 4 + ["sample", "sample", "eval", *OF])
        words = [command]
        if command == "train":
            small = ["--hidden-size=4", "--epochs=1", "--batch-size=8", "--device=cpu"]
            text = self.path() if self.draw.random() < 0.5 else str(self.folder / "text.txt")
            words += [text, *small, "--out", str(self.folder / f"run {number}")]
        elif command == "study":
            words += self.draw.choice([[], ["no-study"], [self.draw.choice(ODD[5:])]])
        elif command != "corpora":
            model = self.path() if self.draw.random() < 0.4 else str(self.folder / "model")
            count = {"sample": 1, "floors": 1}.get(command, 2) + self.draw.choice([0] * 9 + [-1, 1])
            words += [model, self.path(), self.path()][:count] if command != "floors" else []
            words += [self.path()] if command == "floors" else []
            words += [str(self.folder / f"packed {number}")] if command == "pack" else []
        if command == "sample":
            words.append("--length=5")
        for _ in range(self.draw.choice([0, 1, 1, 2, 3])):
            words += self.option(command)
        if self.draw.random() < 0.1:
            words.insert(self.draw.randrange(len(words) + 1), self.draw.choice(ODD))
        return words


@contextlib.contextmanager
def deadline(words):
    """An error in what takes more than `SECONDS`, where the system has alarms."""

    def late(*_):
        raise AssertionError(f"more than {SECONDS} s: charlm {words}")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def status_of(words):
    try:
        return cli.main(words)
    except SystemExit as end:  # argparse's
        return end.code


def problem(status: int, out: str, err: str) -> str | None:
    """What is wrong with how a call ended, or None."""
    if status not in (0, 1, 2):
        return f"status {status}"
    if "Traceback" in out + err:
        return "a traceback"
    lines = err.splitlines()
    if status == 1:  # a missing corpus names its three cures, each in a line
        wanted = 5 if "Three cures" in err else 1 + sum("lower case" in line for line in lines)
        if not lines or not lines[-1] or len(lines) > max(wanted, 2):
            return f"{len(lines)} lines"
        if wanted != 5 and not all(line.startswith("charlm: ") for line in lines):
            return "a line that is not charlm's"
        if not err.replace("\n", "").isprintable():
            return "characters that steer a terminal"
    if status == 2 and not ("usage: charlm" in err and "error: " in lines[-1]):
        return "wrong usage that is not named"
    return None


def campaign(count: int, seed: int, folder: Path) -> tuple[int, list[str]]:
    """So many calls; returns how many were tried, and of each that broke a line."""
    here, broke = Path.cwd(), []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        calls = Calls(make_place(folder), seed)
    os.chdir(folder)  # what a call makes by a relative name stays there
    try:
        for number in range(count):
            words, out, err = calls.call(f"{seed}-{number}"), io.StringIO(), io.StringIO()
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    with deadline(words):
                        status = status_of(words)
                found = problem(status, out.getvalue(), err.getvalue())
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            if found:
                broke.append(f"charlm {words}: {found}")
    finally:
        os.chdir(here)
    return count, broke


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.update(CHARLM_OFFLINE="1", CHARLM_QUIET="1")
    with tempfile.TemporaryDirectory() as folder:
        tried, broke = campaign(options.calls, options.seed, Path(folder))
    print("\n".join([*broke, f"{tried} calls, {len(broke)} broke"]))
    return int(bool(broke))


if __name__ == "__main__":
    sys.exit(main())
