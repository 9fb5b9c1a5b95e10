"""Checkpoints: whole, readable anywhere, refused by file and field, never half overwritten."""

import errno
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from charlm_utils.checkpoint import (
    CheckpointError,
    History,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from charlm_utils.models import CharLM, core_options, make_core
from charlm_utils.vocab import CharVocab

VOCAB = CharVocab.from_text('\0\n\r\t ab"\\é🙂\u2028')
HISTORY = History([1.5, 1.25], [1.75, 0.1 + 0.2], [3.5, 7.25], [100, 200], True)
FILES = ["config.json", "history.json", "model.safetensors"]


def new_model(core="gru", layers=1, seed=0):
    torch.manual_seed(seed)
    return CharLM(len(VOCAB), 5, make_core(core, 5, 8, layers), dropout=0.3)


@pytest.fixture
def folder(tmp_path):
    """A good checkpoint."""
    save_checkpoint(tmp_path / "good", new_model(), VOCAB, HISTORY)
    return tmp_path / "good"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(folder, *words):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    return message


# ---- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 3])
def test_there_and_back(tmp_path, core, layers):
    model = new_model(core, layers)
    save_checkpoint(tmp_path / "a" / "new" / "folder", model, VOCAB, HISTORY)
    loaded, vocab, history = load_checkpoint(str(tmp_path / "a" / "new" / "folder"))
    assert vocab == VOCAB and history == HISTORY and loaded.dropout == 0.3
    assert not loaded.training and model.training
    x = torch.arange(len(VOCAB))[None]
    assert torch.equal(loaded(x)[0], model.eval()(x)[0])
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}


def test_switches_of_a_residual_stack_come_back(tmp_path):
    options = {"skips": False, "projected": False, "norm": True, "projection": True}
    core = make_core("residual-gru", 5, 8, 3, 0.25, options)
    model = CharLM(len(VOCAB), 5, core)
    save_checkpoint(tmp_path, model, VOCAB, HISTORY)
    loaded, _, _ = load_checkpoint(tmp_path)
    assert core_options(loaded.core) == options and loaded.core.dropout == 0.25
    x = torch.arange(len(VOCAB))[None]
    assert torch.equal(loaded(x)[0], model.eval()(x)[0])


def test_files_are_json_and_tensors_and_nothing_else(folder):
    assert sorted(contents(folder)) == FILES
    assert json.loads((folder / "history.json").read_text(encoding="utf-8")) == asdict(HISTORY)
    config = (folder / "config.json").read_text(encoding="utf-8")
    assert '"é"' in config and '"🙂"' in config  # a person can read it
    assert set(load_file(folder / "model.safetensors")) == set(new_model().state_dict())


def test_without_a_vocabulary(tmp_path):
    save_checkpoint(tmp_path, new_model(), None, History())
    _, vocab, history = load_checkpoint(tmp_path)
    assert vocab is None and history == History()


def test_saving_again_replaces(folder):
    other = new_model("lstm", seed=1)
    save_checkpoint(folder, other, VOCAB, History())
    loaded, _, history = load_checkpoint(folder)
    assert torch.equal(loaded.head.weight, other.head.weight) and history == History()
    assert sorted(contents(folder)) == FILES


def test_what_was_saved_is_a_copy(folder):
    model = new_model()
    save_checkpoint(folder, model, VOCAB, HISTORY)
    before = load_checkpoint(folder)[0].head.weight.clone()
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(load_checkpoint(folder)[0].head.weight, before) and before.abs().max() > 0


def test_has_checkpoint(folder, tmp_path):
    assert has_checkpoint(folder) and not has_checkpoint(tmp_path)
    assert not has_checkpoint(tmp_path / "none") and not has_checkpoint(folder / "config.json")


# ---- damaged and foreign files ----------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refused(folder, str(folder / name), "no such file")


def test_missing_folder_is_named(tmp_path):
    refused(tmp_path / "none", str(tmp_path / "none"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.98])
def test_truncated_file_is_named(folder, name, share):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])
    refused(folder, str(folder / name))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "data",
    [b"\x80\x04\x95pickle", b"PK\x03\x04" + b"x" * 99, b"\xff\xfe" * 50, b"[1, 2]", b"null", b"3"],
)
def test_foreign_file_is_named(folder, name, data):
    (folder / name).write_bytes(data)
    refused(folder, str(folder / name))


@pytest.mark.parametrize("name", FILES)
def test_folder_in_place_of_a_file_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, str(folder / name))


def test_corrupted_header_is_named(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[12] ^= 0xFF
    path.write_bytes(data)
    refused(folder, str(path))


MODEL_FIELDS = ["core", "vocab_size", "embedding_dim", "hidden_size", "num_layers", "dropout"]


def change(folder, **fields):
    """Change config.json; `None` takes a field of `model` out."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, value in fields.items():
        inner = config["model"] if name in MODEL_FIELDS else config
        inner[name] = value
        if value is None:
            del inner[name]
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", MODEL_FIELDS)
def test_missing_field_is_named(folder, name):
    refused(folder, change(folder, **{name: None}), name)


@pytest.mark.parametrize("name", ["model", "vocab"])
def test_missing_part_is_named(folder, name):
    refused(folder, change(folder, **{name: None}), name)


@pytest.mark.parametrize("value", [3, "gru", [1], {}])
def test_model_that_is_no_model(folder, value):
    refused(folder, change(folder, model=value), "model")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("core", "transformer"),
        ("core", 3),
        ("hidden_size", "8"),
        ("hidden_size", 0),
        ("hidden_size", -8),
        ("hidden_size", 8.5),
        ("num_layers", 0),
        ("embedding_dim", -1),
        ("dropout", "some"),
        ("dropout", 1.5),
    ],
)
def test_field_that_makes_no_sense(folder, field, value):
    message = refused(folder, change(folder, **{field: value}))
    assert field.split("_")[0] in message or "model" in message


@pytest.mark.parametrize(
    ("field", "value", "tensor"),
    [
        ("hidden_size", 9, "core.bias_hh_l0"),
        ("embedding_dim", 6, "core.weight_ih_l0"),
        ("num_layers", 2, "core.bias_hh_l1"),
        ("core", "lstm", "core.bias_hh_l0"),
    ],
)
def test_shape_mismatch_names_the_tensor(folder, field, value, tensor):
    change(folder, **{field: value})
    refused(folder, str(folder / "model.safetensors"), tensor)


@pytest.mark.parametrize(
    "value", [5, ["ab"], ["a", "a"], [["a"]], [1, 2], "abc", ["a", "b"], {"a": 1}]
)
def test_vocabulary_that_does_not_fit(folder, value):
    refused(folder, change(folder, vocab=value), "vocab")


def test_vocabulary_and_model_of_different_sizes_say_both(folder):
    refused(folder, change(folder, vocab=VOCAB.itos[:-1]), "11", "12", "vocab_size")


@pytest.mark.parametrize("change_tensors", ["gone", "new", "shape"])
def test_tensors_that_do_not_fit_are_named(folder, change_tensors):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    bias = tensors.pop("head.bias")
    if change_tensors == "new":
        tensors |= {"head.bias": bias, "head.scale": bias.clone()}
    if change_tensors == "shape":
        tensors["head.bias"] = torch.zeros(3)
    save_file(tensors, path)
    name = "head.scale" if change_tensors == "new" else "head.bias"
    message = refused(folder, str(path), name)
    assert change_tensors != "shape" or ("(3,)" in message and "(12,)" in message)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"train": 3}, "train"),
        ({"valid": None}, "valid"),
        ({"interrupted": "no"}, "interrupted"),
        ({"losses": [1]}, "losses"),
    ],
)
def test_foreign_history_names_the_field(folder, fields, name):
    path = folder / "history.json"
    path.write_text(json.dumps(asdict(HISTORY) | fields), encoding="utf-8")
    refused(folder, str(path), name)
    path.write_text("{}", encoding="utf-8")
    refused(folder, str(path))


# ---- saves that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 2])
def test_full_disk_leaves_the_old_checkpoint_untouched(folder, monkeypatch, at):
    before, plain, calls = contents(folder), Path.write_bytes, []

    def full(self, data):
        calls.append(self)
        if len(calls) - 1 == at:
            plain(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return plain(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, new_model("lstm", seed=1), VOCAB, History())
    assert len(calls) == at + 1 and contents(folder) == before


def test_ctrl_c_while_saving_leaves_the_old_checkpoint_untouched(folder, monkeypatch):
    before = contents(folder)

    def interrupt(self, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, new_model("lstm", seed=1), VOCAB, History())
    assert contents(folder) == before


def test_a_core_nobody_can_rebuild_is_refused_before_anything_is_written(folder, tmp_path):
    class Core(nn.GRU):
        pass

    before = contents(folder)
    model = CharLM(len(VOCAB), 5, Core(5, 8, batch_first=True))
    for where in (folder, tmp_path / "new"):
        with pytest.raises(ValueError, match="Core is none of the cores"):
            save_checkpoint(where, model, VOCAB, HISTORY)
    assert contents(folder) == before and not (tmp_path / "new").exists()


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError):
        save_checkpoint(tmp_path / "out", new_model(), VOCAB, HISTORY)
    assert (tmp_path / "out").read_text() == "mine"
