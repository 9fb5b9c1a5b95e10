"""Stopped and gone on: the same numbers, to the last bit, as never having stopped."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from book_reader import tool
from fitting import fit
from safetensors.torch import load_file, save_file

from charlm_utils import cli, resume, training
from charlm_utils.cells import DropoutLSTM
from charlm_utils.checkpoint import History, has_checkpoint, load_checkpoint, save_checkpoint
from charlm_utils.data import (
    CharVocab,
    RandomWindows,
    ShuffledBatches,
    StreamBatches,
    context_windows,
)
from charlm_utils.models import CharLM, make_core
from charlm_utils.optim import Cycles, decay_groups, l2_groups
from charlm_utils.resume import Position, load_run, save_run, stop_signals
from charlm_utils.saves import CheckpointError

VOCAB = CharVocab("abcdefg")
V, E, H = len(VOCAB), 4, 6
FILES = ["config.json", "history.json", "model.safetensors", "optimizer.safetensors", "state.json"]

pytestmark = pytest.mark.usefixtures("clean", "handlers")


@pytest.fixture
def handlers():
    """Ctrl-C and SIGTERM as in a terminal: under `nohup … &` Python is started without them."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ids(n, seed=0):
    return torch.randint(V, (n,), generator=torch.Generator().manual_seed(seed))


RATES = {"input_dropout": 0.2, "between": 0.3, "recurrent": 0.4}  # of `DropoutLSTM`


def new_model(core="gru", layers=1, dropout=0.3, **rates):
    torch.manual_seed(0)
    if core == "dropout-lstm":
        return CharLM(V, E, DropoutLSTM(E, H, layers, **(rates or RATES)), dropout=dropout)
    return CharLM(V, E, make_core(core, E, H, layers), dropout=dropout)


def streams():
    return StreamBatches(ids(123), 4, 5)  # 7 batches, the last one short


def windows():
    return RandomWindows(ids(123), 4, 5, 7)


def shuffled():
    x, _ = context_windows(ids(123), 5)
    return ShuffledBatches(x[:-1], x[1:], 18)  # 7 batches


class Stopped:
    """Batches that send this process a signal while batch `at` of the whole run is drawn."""

    def __init__(self, batches, at, number=signal.SIGINT):
        self.batches, self.at, self.number = batches, at, number
        self.contiguous, self.epoch, self.drawn = batches.contiguous, 0, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.batches.epoch = self.epoch
        for i, pair in enumerate(self.batches):
            if self.epoch * len(self) + i == self.at and self.drawn:
                signal.raise_signal(self.number)
            self.drawn += 1  # the very first look is fit's own
            yield pair


def run(model, folder=None, train=None, epochs=3, **options):
    options = {"lr": 0.01, "precision": "float32", "vocab": VOCAB} | options
    train, valid = train or streams(), StreamBatches(ids(61, seed=1), 2, 9)
    for name, groups in {"l2": l2_groups, "decay": decay_groups}.items():
        if name in options:
            options["groups"] = groups(model, options.pop(name))
    return fit(model, train, valid, epochs=epochs, checkpoint_dir=folder, **options)


def numbers(history):
    """What has to agree: all but the seconds."""
    return {name: value for name, value in asdict(history).items() if name != "seconds"}


def same_model(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(x == y and torch.equal(p, q) for (x, p), (y, q) in pairs)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def state_of(folder):
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


# ---- to the last bit --------------------------------------------------------------------------

CASES = [
    pytest.param(core, batches, at, {}, id=f"{core}-{batches.__name__}-{at}")
    for core in ("gru", "lstm")
    for batches in (streams, windows, shuffled)
    for at in (1, 9)
] + [
    pytest.param("rnn", streams, 4, {}, id="rnn"),
    pytest.param("gru", streams, 6, {}, id="last-batch-of-an-epoch"),
    pytest.param("gru", streams, 7, {}, id="first-batch-of-an-epoch"),
    pytest.param("gru", streams, 10, {"carry_state": False}, id="no-carry"),
    pytest.param("gru", streams, 10, {"schedule": "constant", "clip": None}, id="constant"),
    pytest.param("gru", streams, 10, {"average": 0.9}, id="average"),
    pytest.param("gru", streams, 10, {"precision": "bf16"}, id="bf16-gru"),
    pytest.param("lstm", streams, 10, {"precision": "bf16"}, id="bf16-lstm"),
    pytest.param("lstm", windows, 3, {"precision": "bf16", "seed": 5}, id="bf16-windows"),
    pytest.param("gru", streams, 10, {"decay": 0.3}, id="decay"),
    pytest.param("gru", streams, 10, {"l2": 0.3}, id="l2"),
    pytest.param("gru", streams, 6, {"l2": 0.3}, id="l2-last-batch-of-an-epoch"),
    pytest.param("dropout-lstm", streams, 10, {}, id="dropout-lstm"),
    pytest.param("dropout-lstm", streams, 10, {"l2": 0.3, "average": 0.9}, id="dropout-lstm-l2"),
    pytest.param("dropout-lstm", windows, 3, {"precision": "bf16", "l2": 0.1}, id="bf16-dropout"),
]


@pytest.mark.parametrize(("core", "batches", "at", "options"), CASES)
@pytest.mark.parametrize("layers", [1, 2])
def test_stopped_and_resumed_is_never_stopped(tmp_path, core, batches, at, options, layers):
    whole, stopped, resumed = (new_model(core, layers) for _ in range(3))
    expected = run(whole, train=batches(), **options)
    history = run(stopped, tmp_path, Stopped(batches(), at), **options)
    assert history.interrupted and len(history.train) == (at + 1) // 7
    position = state_of(tmp_path)["position"]
    assert (position["step"], position["batch"]) == (at + 1, (at + 1) % 7)
    assert not same_model(stopped, whole)
    torch.manual_seed(99)  # whatever happened in between
    torch.rand(7)
    history = run(resumed, tmp_path, batches(), resume=True, **options)
    assert numbers(history) == numbers(expected) and not history.interrupted
    assert same_model(resumed, whole)
    saved, vocab, saved_history = load_checkpoint(tmp_path)
    assert same_model(saved, whole) and numbers(saved_history) == numbers(expected)
    assert vocab == VOCAB and sorted(contents(tmp_path)) == FILES


@pytest.mark.parametrize("name", [*RATES, "dropout"])
def test_each_rate_of_dropout_resumes_where_it_was(tmp_path, name):
    """The masks that are drawn after a stop are those that would have been drawn."""
    rates = dict.fromkeys((*RATES, "dropout"), 0.0) | {name: 0.4}
    whole, stopped, resumed = (new_model("dropout-lstm", 2, **rates) for _ in range(3))
    expected = run(whole, l2=0.01)
    assert run(stopped, tmp_path, Stopped(streams(), 9), l2=0.01).interrupted
    torch.manual_seed(99)
    assert numbers(run(resumed, tmp_path, l2=0.01, resume=True)) == numbers(expected)
    assert same_model(resumed, whole)
    none = new_model("dropout-lstm", 2, **dict.fromkeys(rates, 0.0))
    assert run(none, l2=0.01).train != expected.train  # the rate does something


def test_cycles_with_decay_in_the_gradient_resume_too(tmp_path):
    options = {"l2": 0.01, "schedule": Cycles(1, 2, 2)}
    whole, resumed = (new_model("dropout-lstm", 2) for _ in range(2))
    expected = run(whole, tmp_path / "whole", **options)
    run(new_model("dropout-lstm", 2), tmp_path / "cut", Stopped(streams(), 9), **options)
    assert numbers(run(resumed, tmp_path / "cut", resume=True, **options)) == numbers(expected)
    for cycle in ("cycle-1", "cycle-2"):
        kept = [load_checkpoint(tmp_path / name / cycle)[0] for name in ("whole", "cut")]
        assert same_model(*kept)


def test_both_kinds_of_decay_differ_and_are_not_confused(tmp_path):
    models = {kind: new_model() for kind in ("l2", "decay")}
    curves = {kind: run(model, **{kind: 0.3}).train for kind, model in models.items()}
    assert curves["l2"] != curves["decay"]
    run(new_model(), tmp_path, Stopped(streams(), 9), l2=0.3)
    refused(tmp_path, "groups", decay=0.3)


def test_stopped_again_and_again(tmp_path):
    whole, model = new_model(), new_model()
    expected = run(whole)
    run(model, tmp_path, Stopped(streams(), 2))
    for at in (3, 4, 6, 11, 13, 19):
        model = new_model()
        assert run(model, tmp_path, Stopped(streams(), at), resume=True).interrupted
    history = run(model, tmp_path, resume=True)
    assert numbers(history) == numbers(expected) and same_model(model, whole)
    assert history.seconds == sorted(history.seconds) and len(history.seconds) == 3


def test_stop_in_the_last_update_of_all_is_no_interruption(tmp_path):
    model = new_model()
    history = run(model, tmp_path, Stopped(streams(), 20))
    assert len(history.valid) == 3 and not history.interrupted
    assert load_checkpoint(tmp_path)[2] == history


def test_stopped_without_a_folder_the_history_is_returned():
    history = run(new_model(), train=Stopped(streams(), 9))
    assert history.interrupted and len(history.train) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_stopped_before_the_first_update(tmp_path, monkeypatch, resume):
    if resume:
        run(new_model(), tmp_path, Stopped(streams(), 9))
    stop = threading.Event()
    stop.set()
    with monkeypatch.context() as patch:
        patch.setattr(training, "stop_signals", lambda: contextlib.nullcontext(stop))
        history = run(new_model(), tmp_path, resume=resume)
    assert history.interrupted and len(history.train) == resume
    whole, model = new_model(), new_model()
    assert numbers(run(whole)) == numbers(run(model, tmp_path, resume=True))
    assert same_model(whole, model)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    model, again = new_model(), new_model()
    history = run(model, tmp_path)
    before = contents(tmp_path)
    assert run(again, tmp_path, resume=True) == history
    assert same_model(again, model) and contents(tmp_path) == before


def test_resuming_what_never_began_begins(tmp_path):
    model, whole = new_model(), new_model()
    assert numbers(run(model, tmp_path / "new", resume=True)) == numbers(run(whole))
    assert same_model(model, whole)


def test_a_run_is_never_overwritten_unasked(tmp_path):
    run(new_model(), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="resume=True"):
        run(new_model(), tmp_path)
    assert contents(tmp_path) == before


# ---- a run goes on only as what it was --------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    """A run stopped in its second epoch."""
    run(new_model(), tmp_path / "run", Stopped(streams(), 9))
    return tmp_path / "run"


def refused(folder, *words, model=None, **options):
    before = contents(folder)
    with pytest.raises(CheckpointError) as caught:
        run(model or new_model(), folder, resume=True, **options)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert contents(folder) == before
    return message


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"lr": 0.02}, "lr was 0.01, now it is 0.02"),
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"clip": None}, "clip was 1.0, now it is None"),
        ({"betas": (0.9, 0.95)}, "betas"),
        ({"weight_decay": 0.1}, "weight_decay"),
        ({"warmup_steps": 3}, "warmup_steps"),
        ({"schedule": "constant"}, "schedule was cosine, now it is constant"),
        ({"carry_state": False}, "carry_state"),
        ({"precision": "bf16"}, "precision"),
        ({"train": StreamBatches(ids(123), 2, 9)}, "batch_shape was [4, 5], now it is [2, 9]"),
        ({"vocab": CharVocab("abcdefz")}, "vocab"),
        ({"vocab": None}, "vocab"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_settings_are_refused_by_name(stopped, options, field):
    refused(stopped, field, ".json", **options)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (new_model("lstm"), "core was gru, now it is lstm"),
        (new_model(layers=2), "num_layers was 1, now it is 2"),
        (new_model(dropout=0.1), "dropout was 0.3, now it is 0.1"),
        (CharLM(V, E, make_core("gru", E, H + 1), dropout=0.3), "hidden_size was 6, now it is 7"),
        (CharLM(V, E + 1, make_core("gru", E + 1, H), dropout=0.3), "embedding_dim was 4"),
        (CharLM(V + 1, E, make_core("gru", E, H), dropout=0.3), "vocab_size was 7, now it is 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_model_is_refused_by_name(stopped, model, field):
    refused(stopped, str(stopped / "config.json"), field, model=model)


# ---- damaged files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "foreign"])
def test_damaged_files_are_named(stopped, name, damage):
    path = stopped / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "foreign": b"[1]"}[damage])
    refused(stopped, str(path))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_one_flipped_bit_is_noticed(stopped, name):
    path = stopped / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    refused(stopped, str(path), "sha256")


@pytest.mark.parametrize("name", ["model.safetensors", "history.json", "optimizer.safetensors"])
def test_files_of_two_saves_are_not_one_run(stopped, tmp_path, name):
    """As after a power cut between two renames."""
    run(new_model(), tmp_path / "later", Stopped(streams(), 15))
    (stopped / name).write_bytes((tmp_path / "later" / name).read_bytes())
    refused(stopped, str(stopped / name), "state.json")


def test_weights_saved_over_a_run_do_not_pass_for_it(stopped):
    save_checkpoint(stopped, new_model(), VOCAB, History())
    refused(stopped, "state.json", "sha256")


def test_a_checkpoint_without_state_can_not_go_on(tmp_path):
    save_checkpoint(tmp_path, new_model(), VOCAB, History())
    refused(tmp_path, str(tmp_path / "state.json"), "no such file")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position", None),
        ("position", 3),
        ("position", {"epoch": 1, "era": 2}),
        ("settings", []),
        ("sha256", "x"),
        ("sha256", {}),
        ("state", "none"),
        ("state", "pair"),
        ("state", None),
    ],
)
def test_foreign_fields_of_the_state_are_named(stopped, field, value):
    state = state_of(stopped) | {field: value}
    (stopped / "state.json").write_text(json.dumps(state), encoding="utf-8")
    if field != "sha256":
        tool("soak").resign(stopped)  # else it is only "damaged"
    refused(stopped, str(stopped / "state.json"), field)


def test_foreign_optimizer_file_is_named(stopped):
    path = stopped / "optimizer.safetensors"
    tensors = load_file(path)
    del tensors["rng.cpu"]
    save_file(tensors, path)
    tool("soak").resign(stopped)
    refused(stopped, str(path), "rng.cpu")


@pytest.mark.parametrize("at", [0, 1, 3, 8, 16, 19])
def test_full_disk_in_the_middle_of_training(stopped, at):
    """The save fails, the run stops; what was saved before is whole, and goes on."""
    before, soak = contents(stopped), tool("soak")
    with (
        soak.Points(at, soak.STOPS["disk full"]()),
        pytest.raises(OSError, match="No space left"),
    ):
        run(new_model(), stopped, resume=True)
    assert contents(stopped) == before
    whole, resumed = new_model(), new_model()
    run(whole)
    run(resumed, stopped, resume=True)
    assert same_model(whole, resumed)


@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_the_carried_state_comes_back_as_it_was(tmp_path, core):
    model = new_model(core, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(ids(8).view(2, 4))[0].sum().backward()
    optimizer.step()
    parts = tuple(torch.rand(2, 3, H) for _ in range(2))
    for kept in (parts if core == "lstm" else parts[0], None):
        at = Position(batch=2, step=3, loss_sum=0.1, state=kept)
        save_run(tmp_path, model, VOCAB, History(), optimizer, at, {"batch_shape": [3, 4]})
        back, _ = load_run(tmp_path, model, VOCAB, optimizer, {"batch_shape": [3, 4]})
        assert type(back.state) is type(kept)
        pair = [(x,) if isinstance(x, torch.Tensor) else x or () for x in (kept, back.state)]
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
        assert (back.epoch, back.batch, back.step, back.loss_sum) == (0, 2, 3, 0.1)


@pytest.mark.parametrize(("kind", "given"), [("cuda", True), ("xpu", True), ("mps", False)])
def test_random_numbers_of_the_device_are_kept_and_given_back(monkeypatch, kind, given):
    """Of the device that the model is on, be it the second one; a stand-in plays its part."""
    device, calls = torch.device(kind, 1 if given else 0), []

    class Device:
        def get_rng_state(*where):
            calls.append(where[-1:] == (device,))
            return torch.arange(16, dtype=torch.uint8)

        def set_rng_state(state, *where):
            calls.append((state.tolist() == list(range(16)), where[-1:] == (device,)))

    monkeypatch.setattr(resume, "_generator", lambda where: Device if where == device else None)
    monkeypatch.setattr(Device, "get_rng_state", staticmethod(Device.get_rng_state))
    monkeypatch.setattr(Device, "set_rng_state", staticmethod(Device.set_rng_state))
    optimizer = torch.optim.SGD(new_model().parameters(), 0.1)
    before = torch.get_rng_state()
    tensors = resume._training_tensors(optimizer, None, device)
    assert set(tensors) == {"rng.cpu", f"rng.{kind}"} and torch.equal(tensors["rng.cpu"], before)
    resume._restore(tensors, optimizer, device)
    assert calls == [given, (True, given)]
    resume._restore(tensors, optimizer, torch.device("cpu"))  # and elsewhere they are of no use
    assert len(calls) == 2


# ---- crafted files ----------------------------------------------------------------------------


def recast(folder, name, value):
    """Another tensor in `optimizer.safetensors` (None: none of that name), checksums true."""
    path = folder / "optimizer.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    tensors[name] = value(tensors.get(name)) if callable(value) else value
    save_file({key: t.contiguous() for key, t in tensors.items() if t is not None}, path)
    tool("soak").resign(folder)


def load(folder, model):
    groups = [{"params": list(model.parameters()), "scale": 1.0}]
    optimizer = training.make_optimizer(groups, 0.01, (0.9, 0.99))
    load_run(folder, model, VOCAB, optimizer, state_of(folder)["settings"])
    return optimizer


FIRST, STEP, SQUARES = "optimizer.1.exp_avg", "optimizer.1.step", "optimizer.1.exp_avg_sq"


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        (FIRST, torch.zeros(1), "(1,)"),  # a fused update would write past its end
        (FIRST, lambda t: t.flatten(), "exp_avg"),
        (FIRST, lambda t: t.T, "exp_avg"),
        (FIRST, lambda t: torch.cat([t, t]), "exp_avg"),
        (FIRST, lambda t: t.double(), "F64"),
        (FIRST, lambda t: t.half(), "F16"),
        (FIRST, lambda t: t.long(), "I64"),
        (FIRST, lambda t: t.to(torch.complex64), "C64"),
        (FIRST, lambda t: t * torch.nan, "not finite"),
        (FIRST, None, FIRST),
        (SQUARES, lambda t: t + torch.inf, "not finite"),
        (SQUARES, lambda t: -t - 1, "below zero"),
        (STEP, lambda t: t + 0.5, "updates"),
        (STEP, lambda t: -t, "updates"),
        (STEP, lambda t: t[None], "step"),
        (STEP, None, STEP),
        ("optimizer.1.mean", torch.zeros(18, 4), "optimizer.1.mean"),  # no average was asked for
        ("optimizer.99.exp_avg", torch.zeros(3), "optimizer.99"),
        ("optimizer.x", torch.zeros(3), "optimizer.x"),
        ("optimizer.1", torch.zeros(3), "optimizer.1"),
        ("optimizer.1.a.b", torch.zeros(3), "optimizer.1.a.b"),
        ("optimizer.-1.exp_avg", torch.zeros(3), "optimizer.-1"),
        ("else", torch.zeros(3), "else"),
        ("a\nb", torch.zeros(3), "a\\nb"),
        ("rng.cpu", lambda t: t[:-1], "rng.cpu"),
        ("rng.cpu", lambda t: t.float(), "rng.cpu"),
        ("rng.cpu", lambda t: torch.full_like(t, 255), "rng.cpu"),
        ("rng.cuda", torch.zeros(2, 2), "rng.cuda"),
        ("state.0", lambda t: t[:, :1], "state.0"),
        ("state.0", lambda t: t[..., :1], "state.0"),
        ("state.0", lambda t: t[0], "state.0"),
        ("state.0", lambda t: t.double(), "F64"),
        ("state.0", lambda t: t * torch.nan, "not finite"),
        ("state.1", torch.zeros(1, 4, H), "state"),
        ("state.0", None, "state"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_crafted_tensors_are_refused_before_use(stopped, name, value, word):
    recast(stopped, name, value)
    model = new_model()
    torch.manual_seed(5)
    with pytest.raises(CheckpointError) as caught:
        load(stopped, model)
    message, drawn = str(caught.value), torch.rand(3)
    assert word in message and str(stopped) in message and "\n" not in message, message
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn) and same_model(model, new_model())  # as they were


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_running_mean_belongs_to_a_run_that_keeps_one(tmp_path, average):
    run(new_model(), tmp_path, Stopped(streams(), 9), average=average)
    slots = load(tmp_path, new_model()).state_dict()["state"]
    assert all(("mean" in slot) == (average is not None) for slot in slots.values())
    recast(tmp_path, "optimizer.1.mean", None if average else torch.zeros(18, 4))
    with pytest.raises(CheckpointError, match="optimizer.1.mean"):
        load(tmp_path, new_model())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", 0),
        ("epoch", 10**9),
        ("epoch", -1),
        ("epoch", True),
        ("epoch", 1.0),
        ("batch", 10**6),
        ("step", 10**6),
        ("step", 10**400),
        ("step", None),
        ("targets", -1),
        ("characters", "x"),
        ("loss_sum", float("nan")),
        ("loss_sum", float("inf")),
        ("seconds", []),
    ],
)
def test_a_crafted_position_is_refused(stopped, field, value):
    state = state_of(stopped)
    state["position"][field] = value
    (stopped / "state.json").write_text(json.dumps(state), encoding="utf-8")
    tool("soak").resign(stopped)
    message = refused(stopped, str(stopped / "state.json"), "position", field)
    assert len(message) < 400


@pytest.mark.parametrize("name", ["state.json", "config.json", "history.json"])
def test_one_changed_digit_of_json_is_noticed(stopped, name):
    path = stopped / name
    text = path.read_text(encoding="utf-8")
    at = next(i for i, c in enumerate(text) if c.isdigit() and i > len(text) // 3)
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :], encoding="utf-8")
    refused(stopped, str(path), "sha256")


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Without checksums in `config.json`, rates of dropout, or a checksum of `state.json`."""
    whole, resumed = (new_model("dropout-lstm") for _ in range(2))
    expected = run(whole)
    run(new_model("dropout-lstm"), tmp_path, Stopped(streams(), 9))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["sha256"], config["model"]["options"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    state = state_of(tmp_path)
    data = (tmp_path / "config.json").read_bytes()
    state["sha256"]["config.json"] = hashlib.sha256(data).hexdigest()
    del state["sha256"]["state.json"]
    (tmp_path / "state.json").write_text(json.dumps(state), encoding="utf-8")
    assert numbers(run(resumed, tmp_path, resume=True)) == numbers(expected)
    assert same_model(resumed, whole)


@pytest.mark.parametrize("name", RATES)
def test_another_rate_of_dropout_is_another_run(tmp_path, name):
    run(new_model("dropout-lstm"), tmp_path, Stopped(streams(), 9))
    other = new_model("dropout-lstm", **RATES | {name: 0.5})
    refused(tmp_path, "config.json", name, model=other)


def test_an_untrained_start_is_no_checkpoint(tmp_path):
    """What `fit` leaves when it is stopped, or fails, before the first update."""
    run(new_model(), tmp_path / "run", Stopped(streams(), 0))
    assert has_checkpoint(tmp_path / "run")  # one update
    model, start = new_model(), tmp_path / "start"
    optimizer = training.make_optimizer([{"params": list(model.parameters())}], 0.01, (0.9, 0.99))
    save_run(start, model, VOCAB, History(), optimizer, Position(), {})
    assert load_checkpoint(start) and not has_checkpoint(start)
    save_checkpoint(start, new_model("lstm"), VOCAB, History())  # asked for, and to be kept
    assert has_checkpoint(start)


# ---- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_second_acts(number):
    acted = []
    before = signal.signal(number, lambda *args: acted.append(number))
    mine = signal.getsignal(number)
    try:
        with stop_signals() as stop:
            assert not stop.is_set()
            signal.raise_signal(number)
            assert stop.is_set() and not acted
            signal.raise_signal(number)
            assert acted == [number]
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(ZeroDivisionError), stop_signals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_in_a_thread():
    done = []
    worker = threading.Thread(target=lambda: done.append(run(new_model(), epochs=1)))
    worker.start()
    worker.join(60)
    assert len(done[0].valid) == 1


def test_second_ctrl_c_ends_training_at_once_and_the_checkpoint_stays(tmp_path):
    class Twice(Stopped):
        def __iter__(self):
            for pair in super().__iter__():
                yield pair
                if self.drawn > 1 and self.epoch == 1:
                    signal.raise_signal(signal.SIGINT)
                    signal.raise_signal(signal.SIGINT)

    class Stubborn(Twice):
        contiguous = True

    with pytest.raises(KeyboardInterrupt):
        run(new_model(), tmp_path, Stubborn(streams(), -1))
    _, _, history = load_checkpoint(tmp_path)
    assert len(history.valid) == 1
    whole, resumed = new_model(), new_model()
    run(whole)
    run(resumed, tmp_path, resume=True)
    assert same_model(whole, resumed)


CHILD = """
import os
from charlm_utils import training
from charlm_utils.cli import main

plain, steps = training.train_step, []

def step(*args, **options):
    steps.append(1)
    if len(steps) == 30:
        os.kill(os.getpid(), {number})
    return plain(*args, **options)

training.train_step = step
raise SystemExit(main())
"""


@pytest.mark.parametrize(
    ("number", "core", "precision"),
    [(signal.SIGINT, "gru", "float32"), (signal.SIGTERM, "lstm", "bf16")],
    ids=["ctrl-c", "sigterm"],
)
def test_charlm_train_is_stopped_and_goes_on(tmp_path, text_file, number, core, precision, capsys):
    options = ["train", str(text_file), "--core", core, "--precision", precision, "--epochs", "4"]
    options += ["--hidden-size", "32", "--embedding-dim", "8", "--batch-size", "8"]
    options += ["--seq-len", "40", "--num-layers", "2", "--device", "cpu"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(number=int(number)), *options, "--out", str(cut)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        cwd=Path(cli.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 130, child.stderr
    assert "--resume" in child.stdout and child.stderr == ""
    _, _, history = load_checkpoint(cut)  # it is whole
    position = state_of(cut)["position"]
    assert position["step"] == 30 and position["batch"] > 0 and len(history.valid) == 2
    assert history.interrupted and sorted(contents(cut)) == FILES
    assert cli.main([*options, "--out", str(cut), "--resume"]) == 0
    assert cli.main([*options, "--out", str(whole)]) == 0
    (model, vocab, history), (model2, vocab2, history2) = map(load_checkpoint, (cut, whole))
    assert same_model(model, model2) and vocab == vocab2
    assert numbers(history) == numbers(history2) and len(history.valid) == 4
    printed = [line for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert len(printed) == 2 and printed[0] == printed[1]


def test_a_handler_that_python_can_not_put_back_is_left_alone(monkeypatch):
    """As one that a library set in C: `getsignal` gives None, which `signal` does not take."""
    known = {signal.SIGINT: signal.getsignal(signal.SIGINT), signal.SIGTERM: None}
    monkeypatch.setattr(resume.signal, "getsignal", known.get)
    set_to = []
    plain = signal.signal
    monkeypatch.setattr(
        resume.signal, "signal", lambda n, handler: set_to.append(n) or plain(n, handler)
    )
    with resume.stop_signals() as stop:
        assert not stop.is_set()
    assert set(set_to) == {signal.SIGINT}
