"""The whole command line under generated calls: one line or a result, never a traceback.

The calls are drawn from a seed: words that make sense, that don't, and that nobody expects. A
call may take `SECONDS`; one that goes on for longer is a runaway and fails.
"""

import contextlib
import random
import signal

import pytest

from charlm_utils import cli
from charlm_utils.checkpoint import has_checkpoint

SECONDS = 20
CALLS = 400

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

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with texts, a model, and things that are neither."""
    folder = tmp_path_factory.mktemp("parser")
    words = "the quick brown fox jumps over the lazy dog, again and again.\n"
    (folder / "text.txt").write_text(words * 9, encoding="utf-8")
    (folder / "other.txt").write_text("Ünlike (it) 5 " * 30, encoding="utf-8")
    (folder / "tiny.txt").write_text("abc", encoding="utf-8")
    (folder / "dull.txt").write_text("a" * 300, encoding="utf-8")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "folder").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("[" * 9)
    options = ["--hidden-size=4", "--batch-size=8", "--epochs=1", "--device=cpu"]
    train = ["train", str(folder / "text.txt"), "--out", str(folder / "model"), *options]
    assert cli.main(train) == 0
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


@pytest.mark.parametrize("seed", range(4))
def test_every_call_ends_in_a_result_or_one_line(
    place, seed, capsys, monkeypatch, tmp_path, record_property
):
    monkeypatch.chdir(tmp_path)  # what a call makes by a relative name stays here
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    calls, found = Calls(place, seed), {}
    for number in range(CALLS // 4):
        words = calls.call(f"{seed}-{number}")
        with deadline(words):
            status = status_of(words)
        out, err = capsys.readouterr()
        found[status] = found.get(status, 0) + 1
        assert status in (0, 1, 2), words
        assert "Traceback" not in out + err, words
        if status == 1:  # a missing corpus names its three cures, each in a line
            lines = err.splitlines()
            wanted = 5 if "Three cures" in err else 1 + sum("lower case" in line for line in lines)
            assert lines[-1] and len(lines) <= max(wanted, 2), (words, err)
            assert all(line.startswith("charlm: ") for line in lines) or wanted == 5, (words, err)
            assert err.replace("\n", "").isprintable(), (words, err)
        if status == 2:
            assert "usage: charlm" in err and "error: " in err.splitlines()[-1], (words, err)
    assert min(found.get(status, 0) for status in (0, 1, 2)) >= 5, found  # all three kinds occur
    record_property("counted", f"{CALLS // 4} generated command lines")


def test_the_calls_know_every_option():
    """An option that is new is drawn, too."""
    for name, options in OF.items():
        parser = cli._parser()._subparsers._group_actions[0].choices[name]
        known = {word for word in parser._option_string_actions if word.startswith("--")}
        assert known - {"--help"} == {*options} | ({"--fetch"} if name == "corpora" else set())


def test_a_call_that_trains_leaves_a_model(place, capsys):
    out = place / "last"
    words = ["train", str(place / "text.txt"), "--hidden-size=4", "--epochs=1", "--batch-size=8"]
    assert status_of([*words, "--out", str(out)]) == 0 and has_checkpoint(out)
