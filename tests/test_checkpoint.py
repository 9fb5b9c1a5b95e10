"""Checkpoints: whole, readable anywhere, refused by file and field, never half overwritten."""

import json
import os
import shutil
from dataclasses import asdict

import pytest
import torch
from book_reader import tool
from safetensors.torch import load_file, save_file
from torch import nn

from charlm_utils.cells import DropoutLSTM, ReLUGRU
from charlm_utils.checkpoint import (
    History,
    has_checkpoint,
    load_checkpoint,
    load_history,
    load_made,
    save_checkpoint,
)
from charlm_utils.data import CharVocab
from charlm_utils.models import CharLM, core_options, make_core
from charlm_utils.saves import CheckpointError

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
    tool("soak").resign(folder)  # else it is only "damaged"
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
        ({"losses": None}, "losses"),
        ({"train": [1.5, None]}, "train"),
        ({"valid": [1.5, float("nan")]}, "valid"),
        ({"seconds": [True, 1.0]}, "seconds"),
        ({"characters": [1.5, 2.5]}, "characters"),
    ],
)
def test_foreign_history_names_the_field(folder, fields, name):
    path = folder / "history.json"
    path.write_text(json.dumps(asdict(HISTORY) | fields), encoding="utf-8")
    tool("soak").resign(folder)
    refused(folder, str(path), name)
    path.write_text("{}", encoding="utf-8")
    refused(folder, str(path))


# ---- saves that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["disk full", "Ctrl-C", "killed"])
def test_a_save_is_one_step(folder, tmp_path, stop):
    """Stopped at each call that touches the disk it leaves the old checkpoint or the new one."""
    soak, other = tool("soak"), new_model("lstm", seed=1)
    save_checkpoint(tmp_path / "new", other, VOCAB, History())
    old, new, seen = soak.content(folder), soak.content(tmp_path / "new"), []
    for at in range(99):
        here = shutil.copytree(folder, tmp_path / f"{at}")
        with soak.Points(at, soak.STOPS[stop]()) as points:
            try:
                save_checkpoint(here, other, VOCAB, History())
            except (OSError, KeyboardInterrupt, soak.Killed):
                pass
        if points.count <= at:
            break
        seen.append(soak.content(here))
        assert seen[-1] in (old, new)
        save_checkpoint(here, other, VOCAB, HISTORY)  # nothing stands in the way of the next
        assert load_checkpoint(here)[2] == HISTORY and sorted(os.listdir(here)) == FILES
    switch = seen.index(new)
    assert seen == [old] * switch + [new] * (at - switch) and 10 < switch < at < 99


@pytest.mark.parametrize("stop", ["disk full", "Ctrl-C"])
def test_a_save_that_fails_leaves_nothing_behind(folder, stop):
    soak, before = tool("soak"), contents(folder)
    error = soak.STOPS[stop]()
    with soak.Points(6, error), pytest.raises(type(error)):
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


# ---- what a model is --------------------------------------------------------------------------


def same_function(loaded, model):
    x = torch.arange(len(VOCAB))[None]
    return torch.equal(loaded(x)[0], model.eval()(x)[0])


@pytest.mark.parametrize(
    "core",
    [
        nn.RNN(5, 8, 2, batch_first=True, nonlinearity="relu", bias=False),
        nn.RNN(5, 8, batch_first=True, nonlinearity="relu"),
        nn.GRU(5, 8, batch_first=True, bias=False),
        nn.LSTM(5, 8, 2, batch_first=True, bias=False),
        ReLUGRU(5, 8, batch_first=True, bias=False),
        DropoutLSTM(5, 8, 2, input_dropout=0.1, between=0.2, recurrent=0.3),
    ],
    ids=lambda core: type(core).__name__,
)
def test_options_that_change_the_function_come_back(tmp_path, core):
    model = CharLM(len(VOCAB), 5, core)
    save_checkpoint(tmp_path, model, VOCAB, HISTORY)
    loaded = load_checkpoint(tmp_path)[0]
    assert same_function(loaded, model) and type(loaded.core) is type(core)
    for name in ("nonlinearity", "mode", "bias", "input_dropout", "between", "recurrent"):
        assert getattr(loaded.core, name, None) == getattr(core, name, None)


class Numb(nn.Embedding):
    def forward(self, x):
        return super().forward(x) * 0


def whole_numbers():
    head = nn.Linear(8, len(VOCAB))
    head.bias = nn.Parameter(torch.zeros(len(VOCAB), dtype=torch.int64), requires_grad=False)
    return head


def odd_model(core=None, embedding=None, head=None):
    model = CharLM(len(VOCAB), 5, core or nn.GRU(5, 8, batch_first=True))
    model.embedding, model.head = embedding or model.embedding, head or model.head
    return model


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (odd_model(nn.GRU(5, 8)), "batch_first"),
        (odd_model(nn.GRU(5, 8, batch_first=True, bidirectional=True)), "bidirectional"),
        (odd_model(nn.LSTM(5, 8, batch_first=True, proj_size=3)), "proj_size"),
        (odd_model(embedding=nn.Embedding(len(VOCAB), 5, max_norm=0.1)), "embedding"),
        (odd_model(embedding=Numb(len(VOCAB), 5)), "embedding"),
        (odd_model(head=nn.Linear(8, len(VOCAB), bias=False)), "head.bias"),
        (odd_model(head=nn.Sequential(nn.Linear(8, len(VOCAB)), nn.Tanh())), "head"),
        (odd_model(head=nn.Linear(8, len(VOCAB) + 1)), "head"),
        (odd_model(head=whole_numbers()), "int64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_could_not_be_built_again_is_refused(folder, model, word):
    before = contents(folder)
    with pytest.raises(ValueError, match=word):
        save_checkpoint(folder, model, VOCAB, HISTORY)
    assert contents(folder) == before


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(folder, bad):
    model, path = new_model(), folder / "model.safetensors"
    model.head.bias.data[3] = bad
    with pytest.raises(CheckpointError, match="head.bias .* not finite"):
        save_checkpoint(folder, model, VOCAB, HISTORY)
    tensors = load_file(path)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, path)
    tool("soak").resign(folder)
    refused(folder, str(path), "head.bias", "not finite")
    for dtype in (torch.int64, torch.bool, torch.complex64):
        save_file(tensors | {"head.bias": tensors["head.bias"].to(dtype)}, path)
        tool("soak").resign(folder)
        refused(folder, str(path), "head.bias")


def test_float64_stays_float64(tmp_path):
    model = new_model().double()
    save_checkpoint(tmp_path, model, VOCAB, HISTORY)
    loaded = load_checkpoint(tmp_path)[0]
    assert loaded.head.weight.dtype == torch.float64 and same_function(loaded, model)


@pytest.mark.parametrize(("value", "fits"), [(65504, True), (-65504, True), (70000, False)])
def test_sixteen_bits_hold_it_or_it_is_refused(folder, value, fits):
    model, before = new_model(), contents(folder)
    model.head.weight.data[1, 2] = value
    if fits:
        save_checkpoint(folder, model, VOCAB, HISTORY, half=True)
        assert load_checkpoint(folder)[0].head.weight[1, 2] == value
        return
    with pytest.raises(CheckpointError, match="head.weight holds ±70000"):
        save_checkpoint(folder, model, VOCAB, HISTORY, half=True)
    assert contents(folder) == before


@pytest.mark.parametrize("size", [10**5, 10**9, 10**30])
@pytest.mark.parametrize("name", ["vocab_size", "embedding_dim", "hidden_size", "num_layers"])
def test_absurd_sizes_are_refused_before_anything_is_allocated(folder, name, size):
    """10^5 units would be 120 GB; the file says that there are 8."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocab = None if name == "vocab_size" else VOCAB.itos
    config |= {"vocab": vocab, "model": config["model"] | {name: size}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tool("soak").resign(folder)
    refused(folder, str(folder))


# ---- how it was made; checksums; older checkpoints ---------------------------------------------


def test_how_a_model_was_made_comes_back(folder):
    assert load_made(folder) == {}
    made = {"text": "é", "lower": True, "cut": 0.9, "lr": 0.002, "betas": [0.9, 0.99], "x": None}
    save_checkpoint(folder, new_model(), VOCAB, HISTORY, made=made)
    assert load_made(folder) == made and load_checkpoint(folder)[2] == HISTORY
    with pytest.raises((TypeError, ValueError)):
        save_checkpoint(folder, new_model(), VOCAB, HISTORY, made={"x": {1, 2}})
    with pytest.raises((TypeError, ValueError)):
        save_checkpoint(folder, new_model(), VOCAB, HISTORY, made={"x": float("nan")})
    assert load_made(folder) == made


def unsigned(folder):
    """As an earlier version left it."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["sha256"]
    path.write_text(json.dumps(config), encoding="utf-8")


def test_checkpoints_without_checksums_load(folder):
    before = tool("soak").content(folder)
    unsigned(folder)
    assert tool("soak").content(folder) == before and load_history(folder) == HISTORY
    for name in ("gru-nietzsche", "gru-sums"):
        assert len(load_checkpoint(name)[2].train) > 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("byte", [0.2, 0.5, 0.97])
def test_one_changed_bit_is_noticed(folder, name, byte):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * byte)] ^= 1
    path.write_bytes(data)
    refused(folder, str(path))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_checkpoint_is_noticed(folder, tmp_path, name):
    save_checkpoint(tmp_path / "other", new_model(seed=1), VOCAB, History([1.0], [1.0], [1.0], [9]))
    shutil.copy(tmp_path / "other" / name, folder / name)
    named = str(folder / name) if name != "config.json" else "same save"
    refused(folder, named, "config.json")


def test_a_history_that_was_edited_is_noticed(folder):
    path = folder / "history.json"
    path.write_text(path.read_text(encoding="utf-8").replace("1.25", "1.05"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="history.json: damaged"):
        load_history(folder)


def test_checksums_under_another_name_are_no_old_checkpoint(folder):
    path = folder / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"sha256"', '"sha255"'), "utf-8")
    refused(folder, str(path), "sha255")


@pytest.mark.parametrize("name", [*FILES, "state.json"])
def test_any_file_of_a_checkpoint_is_in_the_way_of_another(tmp_path, name):
    (tmp_path / name).write_bytes(b"cut off")
    assert has_checkpoint(tmp_path)
