"""The command line: a text goes in, a model comes out, and errors take one line."""

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from charlm_utils import __version__, cli, training
from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.corpora import KNOWN
from charlm_utils.data import split_text
from charlm_utils.ngram import floors
from charlm_utils.sampling import generate

SMALL = ["--hidden-size", "16", "--embedding-dim", "6", "--batch-size", "8", "--seq-len", "20"]
SMALL += ["--epochs", "2", "--precision", "float32", "--device", "cpu", "--lr", "0.01"]

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text):
    """A model of the tests' text, made by `charlm train`; with the folder the text's file."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "own.txt").write_text(text, encoding="utf-8")
    assert cli.main(["train", str(folder / "own.txt"), "--out", str(folder / "model"), *SMALL]) == 0
    return folder


def said(capsys, *arguments, status=0):
    """What a command prints; nothing may go to stderr."""
    assert cli.main([str(a) for a in arguments]) == status
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys, *arguments, lines=1):
    """What a command prints to stderr as it ends with status 1."""
    assert cli.main([str(a) for a in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("charlm: ") and captured.err.count("\n") == lines
    return captured.err


# ---- commands ---------------------------------------------------------------------------------


def test_train_saves_what_sampling_needs(trained, text):
    model, vocab, history = load_checkpoint(trained / "model")
    assert vocab.itos == sorted(set(text)) and {"é", "🙂", "🌊", "ß"} <= set(vocab.itos)
    assert (model.core.hidden_size, model.embedding.embedding_dim) == (16, 6)
    assert model.dropout == 0.3 and len(history.valid) == 2
    assert history.valid[-1] < math.log(len(vocab))
    steps = history.characters[-1] / (8 * 20)
    assert steps >= 2 * (len(split_text(text)[0]) - 1) / (8 * 20)


def test_train_says_what_it_does(text_file, tmp_path, capsys, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    out = said(capsys, "train", text_file, *SMALL)
    model, vocab, history = load_checkpoint("runs/own text")  # the default folder
    cut = len(split_text(text)[0])
    parameters = sum(p.numel() for p in model.parameters())
    for number in (cut, len(text) - cut, len(vocab), parameters):
        assert f"{number:,}" in out
    loss = history.valid[-1]
    assert f"{loss:.4f} nats = {loss / math.log(2):.4f} bits" in out
    assert f"perplexity {math.exp(loss):.3f}" in out and "charlm sample" in out


def test_what_train_does_unasked(text_file, tmp_path, monkeypatch):
    """The defaults that `--help` and the pages state."""
    seen = {}

    def watch(model, train, valid, recipe, **options):
        sizes = {"batch": train.batch_size, "length": train.seq_len}
        core = {"hidden": model.core.hidden_size, "layers": model.core.num_layers}
        seen.update(vars(recipe) | options | sizes | core | {"dropout": model.dropout})
        return training.History([1.0], [1.0], [1.0], [1])

    monkeypatch.setattr(cli, "train_epochs", watch)
    assert cli.main(["train", str(text_file), "--out", str(tmp_path / "out")]) == 0
    wanted = {"lr": 2e-3, "epochs": 6, "warmup_steps": 50, "schedule": "cosine", "clip": 1.0}
    wanted |= {"betas": (0.9, 0.99), "weight_decay": 0.0, "carry_state": True, "seed": 0}
    wanted |= {"batch": 64, "length": 64, "hidden": 512, "layers": 1, "dropout": 0.3}
    assert {name: seen[name] for name in wanted} == wanted and not seen["resume"]


@pytest.mark.parametrize("core", ["rnn", "lstm"])
def test_train_options_reach_the_model(text_file, tmp_path, core, capsys, monkeypatch):
    seen = {}

    def watch(model, train, valid, recipe, **options):
        seen.update(
            vars(recipe), **options, batch=train.batch_size, length=train.seq_len, model=model
        )
        return training.History([1.0], [1.0], [1.0], [1])

    monkeypatch.setattr(cli, "train_epochs", watch)
    options = [
        "--core",
        core,
        "--num-layers",
        "2",
        "--dropout",
        "0.1",
        "--lr",
        "0.5",
        "--seed",
        "3",
    ]
    options += [
        "--warmup-steps",
        "7",
        "--schedule",
        "constant",
        "--weight-decay",
        "0.2",
        "--clip",
        "0",
    ]
    options += ["--betas", "0.8", "0.9", "--no-carry-state", "--epochs", "5", "--batch-size", "4"]
    options += ["--seq-len", "9", "--hidden-size", "12", "--precision", "bf16", "--device", "cpu"]
    said(capsys, "train", text_file, "--out", tmp_path / "out", *options)
    model = seen.pop("model")
    assert type(model.core) is {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[core]
    assert (model.core.num_layers, model.core.hidden_size, model.dropout) == (2, 12, 0.1)
    expected = {"epochs": 5, "lr": 0.5, "warmup_steps": 7, "schedule": "constant", "clip": None}
    expected |= {"weight_decay": 0.2, "betas": [0.8, 0.9], "carry_state": False, "seed": 3}
    expected |= {"precision": "bf16", "resume": False, "batch": 4, "length": 9}
    assert {name: seen[name] for name in expected} == expected


def test_same_seed_same_model(trained, tmp_path, capsys):
    said(capsys, "train", trained / "own.txt", "--out", tmp_path / "again", *SMALL)
    plain = ["train", trained / "own.txt", *SMALL, "--dropout", "0"]
    said(capsys, *plain, "--out", tmp_path / "seed 0")
    said(capsys, *plain, "--out", tmp_path / "seed 1", "--seed", "1")  # other initial weights
    folders = [trained / "model", *(tmp_path / name for name in ("again", "seed 0", "seed 1"))]
    first, again, seed_0, seed_1 = (load_checkpoint(f)[0].head.weight for f in folders)
    assert torch.equal(first, again) and not torch.equal(seed_0, seed_1)


def test_sample(trained, capsys):
    folder = trained / "model"
    model, vocab, _ = load_checkpoint(folder)
    options = ["--prompt", "été 🙂", "--length", 50, "--seed", 3, "--device", "cpu"]
    expected = generate(model, vocab, "été 🙂", 50, temperature=0.8, seed=3)
    assert said(capsys, "sample", folder, *options) == expected + "\n"
    expected = generate(model, vocab, "été 🙂", 50, temperature=1.5, top_k=3, seed=3)
    hot = [*options, "--temperature", 1.5, "--top-k", 3]
    assert said(capsys, "sample", folder, *hot) == expected + "\n"
    expected = generate(model, vocab, "été 🙂", 50, greedy=True)
    assert said(capsys, "sample", folder, *options, "--greedy") == expected + "\n"
    assert len(said(capsys, "sample", folder, "--length", 30)) == 31  # no prompt: from nothing


def rows(printed):
    """The losses of a table, by name, and whether bits and perplexity agree with them."""
    found = {}
    for line in printed.splitlines()[2:]:
        name, nats, bits, perplexity = re.fullmatch(
            r"(.+?) +([\d.]+) +([\d.]+) +([\d.]+)", line
        ).groups()
        assert float(bits) == pytest.approx(float(nats) / math.log(2), abs=2e-4)
        assert float(perplexity) == pytest.approx(math.exp(float(nats)), rel=1e-3)
        found[name] = float(nats)
    return found


def test_floors(text_file, text, capsys):
    table = rows(said(capsys, "floors", text_file))
    expected = floors(*split_text(text))
    assert table == pytest.approx(expected, abs=6e-5) and len(table) == 10
    assert table["uniform"] == pytest.approx(math.log(len(set(text))), abs=6e-5)


def test_eval_is_the_validation_loss_beside_the_floors(trained, text, capsys):
    printed = said(capsys, "eval", trained / "model", trained / "own.txt", "--device", "cpu")
    table, (_, _, history) = rows(printed), load_checkpoint(trained / "model")
    assert table.pop("this model") == pytest.approx(history.valid[-1], abs=6e-5)
    assert table == pytest.approx(floors(*split_text(text)), abs=6e-5)
    assert f"{len(text) - len(split_text(text)[0]):,} characters" in printed


def test_corpora(tmp_path, monkeypatch, capsys):
    (tmp_path / "nietzsche.txt").write_text("not he")
    monkeypatch.setenv("CHARLM_DATA", str(tmp_path))
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    printed = said(capsys, "corpora").splitlines()
    assert [line.split()[0] for line in printed] == [*KNOWN, "python-docs"]
    assert all(
        f"{row.length:,}" in line for row, line in zip(KNOWN.values(), printed, strict=False)
    )
    assert "SHA-256" in printed[0] and str(tmp_path) in printed[0]
    assert printed[1].endswith("not here") and printed[-1].endswith("comes with Python")
    fetched = said(capsys, "corpora", "--fetch").splitlines()
    assert len(fetched) == 6 and "CHARLM_OFFLINE=1" in fetched[1]


def test_python_docs_is_always_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(
        cli, "train_epochs", lambda *args, **options: training.History([1], [1], [1], [1])
    )
    assert "python-docs: " in said(capsys, "train", "python-docs", "--out", tmp_path / "out")


def test_version_and_help(capsys):
    for arguments, words in {
        ("--version",): __version__,
        ("--help",): "train",
        ("train", "-h"): "--clip",
    }.items():
        with pytest.raises(SystemExit) as caught:
            cli.main(list(arguments))
        assert caught.value.code == 0 and words in capsys.readouterr().out


def test_a_notebooks_stdout_will_do(trained, monkeypatch):
    class Stream(io.StringIO):
        """Like a kernel's: no encoding to change."""

    monkeypatch.setattr(sys, "stdout", Stream())
    assert cli.main(["sample", str(trained / "model"), "--length", "3"]) == 0
    assert len(sys.stdout.getvalue()) == 4


# ---- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "floors", "eval"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "no file"),
        (b"", "is empty"),
        (b"x", "1 characters"),
        (b"caf\xe9", "offset 3"),
        ("folder", "is a folder"),
    ],
    ids=["missing", "empty", "one", "latin-1", "folder"],
)
def test_texts_that_are_none(trained, tmp_path, capsys, command, data, words):
    path = tmp_path / "bad.txt"
    if data == "folder":
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    model = [trained / "model"] if command == "eval" else []
    assert words in refused(capsys, command, *model, path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch-size", "9999"], "--batch-size 9999; it can be 3,896 at most"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--seq-len", "-1"], "--seq-len must be at least 1"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--lr", "nan"], "nan"),
        (["--clip", "-1"], "-1"),
        (["--dropout", "1"], "dropout"),
        (["--dropout", "-0.1"], "dropout"),
        (["--num-layers", "0"], "--num-layers must be at least 1"),
        (["--hidden-size", "0"], "--hidden-size must be at least 1"),
        (["--embedding-dim", "-3"], "--embedding-dim must be at least 1"),
        (["--betas", "1.5", "0.9"], "--betas must be two of at least 0 and below 1, not 1.5 0.9"),
        (["--weight-decay", "-1"], "--weight-decay"),
        (["--weight-decay", "inf"], "--weight-decay"),
        (["--warmup-steps", "-1"], "--warmup-steps must be at least 0"),
        (["--clip", "nan"], "--clip must be above 0, or 0 for none, not nan"),
        (["--seed", str(2**64)], "--seed must be between"),
        (["--seed", str(-(10**30))], "--seed must be between"),
        (["--epochs", str(10**20)], "at most 1,000,000, not 1000"),
        (["--hidden-size", "999999"], "parameters takes"),
        (["--hidden-size", "4000000"], "at most 1,000,000"),
        (["--embedding-dim", "1000000", "--hidden-size", "500000"], "GiB"),
        (["--train-share", "1"], "--train-share must be above 0 and below 1, not 1.0"),
        (["--init-from", "nowhere"], "nowhere/config.json: no such file"),
        (["--resume"], "holds no checkpoint to go on from; without --resume one begins"),
        (["--device", "gpu"], "no device"),
        (["--device", "meta"], "'meta' is no device"),
        (["--device", "xpu"], "'xpu' is no device"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_settings_that_make_no_sense(text_file, tmp_path, capsys, options, words):
    assert words in refused(capsys, "train", text_file, "--out", tmp_path / "out", *SMALL, *options)
    assert not (tmp_path / "out").exists()


def test_short_text_says_how_short(tmp_path, capsys):
    path = tmp_path / "short.txt"
    path.write_text("abc" * 60)
    message = refused(capsys, "train", path, *SMALL, "--batch-size", "162")
    assert "162 characters to train on are too few for --batch-size 162; it can be 161" in message
    said(capsys, "train", path, *SMALL, "--batch-size", "161", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "0"], "--greedy"),
        (["--temperature", "nan"], "not nan"),
        (["--temperature", "-1"], "not -1"),
        (["--top-k", "0"], "--top-k must be at least 1"),
        (["--length", "-1"], "not -1"),
        (["--length", str(10**20)], "--length must be at least 0 and at most 10,000,000"),
        (["--seed", str(2**64)], "--seed must be between"),
        (["--device", "meta"], "'meta' is no device"),
        (["--prompt", "aß€"], "'€' (U+20AC) at position 2"),
        (["--device", "gpu"], "no device"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_samples_that_can_not_be(trained, capsys, options, words):
    assert words in refused(capsys, "sample", trained / "model", *options)


def test_folders_that_are_no_checkpoint(trained, tmp_path, capsys):
    assert "config.json: no such file" in refused(capsys, "sample", tmp_path)
    assert "config.json: no such file" in refused(capsys, "eval", tmp_path, trained / "own.txt")
    assert "config.json" in refused(capsys, "sample", trained / "own.txt")
    (tmp_path / "config.json").write_text("{}")
    assert "vocab" in refused(capsys, "sample", tmp_path)


def test_a_model_is_not_overwritten(trained, capsys):
    before = (trained / "model" / "model.safetensors").read_bytes()
    again = ["train", trained / "own.txt", "--out", trained / "model", *SMALL]
    assert "--resume" in refused(capsys, *again)
    assert "seed was 0, now it is 5" in refused(capsys, *again, "--resume", "--seed", "5")
    wide = [*again, "--batch-size", "10", "--seq-len", "16", "--resume"]
    assert "was" in refused(capsys, *wide)
    assert (trained / "model" / "model.safetensors").read_bytes() == before
    assert "validation" in said(capsys, *again, "--resume")  # finished: nothing left to do


def test_another_text_does_not_resume(trained, tmp_path, text, capsys):
    path = tmp_path / "own.txt"
    path.write_text(text.replace("a", "q"), encoding="utf-8")  # as long, as many characters
    again = ["train", path, "--out", trained / "model", *SMALL, "--resume"]
    message = refused(capsys, *again)
    assert f"was trained on {trained / 'own.txt'} (" in message and f"not on {path} (" in message
    assert message.count("SHA-256") == 2 and "--init-from" in message


def test_out_that_is_a_file(text_file, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert str(tmp_path / "out") in refused(
        capsys, "train", text_file, "--out", tmp_path / "out", *SMALL
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_no_corpus_names_the_cures(capsys, monkeypatch):
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    message = refused(capsys, "floors", "nietzsche", lines=5)
    assert all(cure in message for cure in ("CHARLM_DATA", "network", "python-docs"))


def test_data_folder_that_is_none(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CHARLM_DATA", str(tmp_path / "gone"))
    for command in (["floors", "nietzsche"], ["corpora"]):
        assert "gone, which is no folder" in refused(capsys, *command)


def test_diverging_is_an_error_and_keeps_the_checkpoint(text_file, tmp_path, capsys):
    folder = tmp_path / "out"
    wild = [*SMALL, "--lr", "1e36", "--clip", "0", "--warmup-steps", "0", "--core", "rnn"]
    message = refused(capsys, "train", text_file, "--out", folder, *wild)
    assert "step" in message and "nothing was saved" in message and "lower --lr" in message
    assert "no checkpoint to go on from" in refused(
        capsys, "train", text_file, "--out", folder, *wild, "--resume"
    )
    assert "holds no trained model" in refused(capsys, "sample", folder)
    assert "validation" in said(capsys, "train", text_file, "--out", folder, *SMALL)  # a lower one


def test_diverging_later_keeps_the_checkpoint_and_names_a_way_on(
    text_file, tmp_path, capsys, monkeypatch
):
    folder, plain, calls = tmp_path / "a folder", training.train_step, []

    def spoilt(*args, **options):
        calls.append(1)
        if len(calls) == 40:  # in the second epoch of 28 updates
            raise training.TrainingDiverged("the loss is nan")
        return plain(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", spoilt)
        message = refused(capsys, "train", text_file, "--out", folder, *SMALL)
    assert f"the last good checkpoint is in {folder}; " in message
    assert f"--init-from '{folder}' --out ANOTHER" in message
    assert len(load_checkpoint(folder)[2].valid) == 1
    on = ["--init-from", folder, "--out", tmp_path / "another", *SMALL, "--lr", "0.001"]
    assert "validation" in said(capsys, "train", text_file, *on)


def test_a_huge_loss_still_prints(text_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        cli, "train_epochs", lambda *args, **options: training.History([1], [1e5], [1], [1])
    )
    assert "perplexity inf" in said(capsys, "train", text_file, "--out", tmp_path / "o", *SMALL)


def test_ctrl_c_outside_training(capsys, monkeypatch):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.corpora, "load_corpus", interrupt)
    assert cli.main(["floors", "nietzsche"]) == 130
    assert capsys.readouterr().err == "charlm: stopped\n"


@pytest.mark.parametrize(
    "arguments", [[], ["tran"], ["train"], ["sample"], ["train", "x", "--core", "cnn"]]
)
def test_usage_errors_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2 and "usage: charlm" in capsys.readouterr().err


def shell(command, **variables):
    """Run a line of bash in which $CHARLM is the command."""
    main = "from charlm_utils.cli import main; raise SystemExit(main())"
    charlm = f"{sys.executable} -c '{main}'"
    return subprocess.run(
        ["bash", "-c", command.replace("$CHARLM", charlm)],
        cwd=Path(cli.__file__).parents[2],
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | variables,
        capture_output=True,
        timeout=120,
    )


def test_a_real_process_ends_with_one_line_and_status_1(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    done = shell(f"$CHARLM floors {tmp_path}/latin.txt")
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.decode().startswith("charlm: ") and done.stderr.count(b"\n") == 1


def test_a_terminal_without_unicode_and_a_reader_that_leaves(trained):
    sample = f"$CHARLM sample {trained / 'model'} --prompt 🙂 --length 3"
    done = shell(sample, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.startswith(rb"\U0001f642"), done.stderr
    done = shell(f"{sample} | head -c 0; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_checkpoint_is_readable_without_the_package(trained):
    config = json.loads((trained / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["charlm_utils"] == __version__ and "🙂" in config["vocab"]


def test_lower_case_and_the_share_to_train_on(text_file, tmp_path, capsys, text):
    text_file.write_text(text.upper(), encoding="utf-8")
    options = ["--lower", "--train-share", "0.75", "--out", tmp_path / "out", *SMALL]
    out = said(capsys, "train", text_file, *options)
    _, vocab, _ = load_checkpoint(tmp_path / "out")
    lower = text.upper().lower()
    assert vocab.itos == sorted(set(lower))
    assert f"{len(split_text(lower, (0.75, 0.25))[0]):,} characters to train on" in out


def test_pack_halves_a_model(trained, tmp_path, capsys):
    out = said(capsys, "pack", trained / "model", tmp_path / "small")
    model, vocab, history = load_checkpoint(trained / "model")
    packed, packed_vocab, packed_history = load_checkpoint(tmp_path / "small")
    assert (packed_vocab, packed_history) == (vocab, history)
    names = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert names == ["config.json", "history.json", "model.safetensors"]
    for one, other in zip(packed.parameters(), model.parameters(), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other.half().float())
    folders = (tmp_path / "small", trained / "model")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert sizes[0] < 0.7 * sizes[1]
    total = sum(path.stat().st_size for path in (tmp_path / "small").iterdir())
    assert f"{total:,} bytes" in out
    assert "holds a checkpoint already" in refused(
        capsys, "pack", trained / "model", tmp_path / "small"
    )
