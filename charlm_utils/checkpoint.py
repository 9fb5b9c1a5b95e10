"""Checkpoints: a folder of tensors and JSON, never a pickle.

`model.safetensors`, `config.json` and `history.json` are all that sampling needs;
`optimizer.safetensors` and `state.json` (`resume.py`) let training go on to the last bit.
All files of a save take the place of the last ones in one step (`saves.py`). `config.json` holds
the checksums of all three, its own too; checkpoints of earlier versions have none, and load.
Tensors are saved from the CPU, so that a checkpoint made on a GPU loads anywhere.
"""

import functools
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from charlm_utils import __version__
from charlm_utils.data import CharVocab
from charlm_utils.models import CharLM, core_name, core_options, make_core
from charlm_utils.saves import (
    CheckpointError,
    Header,
    check_finite,
    check_sum,
    checksum,
    exists,
    open_file,
    parse_json,
    portable,
    read_field,
    read_file,
    read_json,
    read_signed,
    read_tensors,
    short,
    sign,
    to_json,
    write_files,
)

PRETRAINED = Path(__file__).parent / "pretrained"
FILES = ("model.safetensors", "config.json", "history.json")
FIELDS = {"charlm_utils", "vocab", "model", "made", "sha256"}  # of config.json
MODEL_FIELDS = ("core", "vocab_size", "embedding_dim", "hidden_size", "num_layers", "dropout")
OPTIONAL_FIELDS = ("core_dropout", "options")
FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass
class History:
    """What training reported: one entry per finished epoch; losses in nats per character."""

    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # since the start of training
    characters: list[int] = field(default_factory=list)  # fed forward, repeats counted
    interrupted: bool = False


# ---- saving -----------------------------------------------------------------------------------


def save_checkpoint(
    folder: str | os.PathLike,
    model: CharLM,
    vocab: CharVocab | None,
    history: History,
    *,
    half: bool = False,
    made: dict | None = None,
) -> None:
    """Write model, vocabulary and history to `folder`, which is made if missing.

    `half` stores the weights in 16 bits, for half the size; they load as 32-bit numbers.
    `made` is how the model was made, of what JSON can hold: see `load_made`.
    Whatever goes wrong, the folder holds what it held, or all of the new. Raises `OSError` where
    it can't be written, and `ValueError` for a model that could not be loaded as it is.
    """
    write_files(folder, checkpoint_files(model, vocab, history, half=half, made=made))


def checkpoint_files(
    model: CharLM,
    vocab: CharVocab | None,
    history: History,
    *,
    half: bool = False,
    made: dict | None = None,
) -> dict[str, bytes]:
    """The three files of a checkpoint, by name, as `save_checkpoint` writes them."""
    config = _config(model, vocab)
    _check_history(asdict(history), Path("history.json"))
    files = {
        "model.safetensors": to_bytes(_weights(model, config["model"], half)),
        "history.json": to_json(asdict(history)),
    }
    config |= {"made": json.loads(json.dumps(made, allow_nan=False))} if made else {}
    config |= {"sha256": {name: checksum(data) for name, data in files.items()}}
    return files | {"config.json": sign("config.json", config)}


def _weights(model: CharLM, fields: dict, half: bool) -> dict[str, torch.Tensor]:
    """The weights to be stored, if what is built from `config.json` takes just these."""
    tensors = model.state_dict()
    wanted = _shapes(fields, Path("config.json"), len(tensors))
    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name in wanted.keys() | tensors.keys():
        if name not in tensors or tuple(tensors[name].shape) != wanted.get(name):
            raise CheckpointError(f"this is no plain CharLM that could be built again: see {name}")
        if tensors[name].dtype not in types:
            raise CheckpointError(f"{name} holds {tensors[name].dtype}, not real numbers")
    check_finite(Path("model.safetensors"), tensors)
    tensors = {name: portable(tensor) for name, tensor in tensors.items()}
    if not half:
        return tensors
    for name, tensor in tensors.items():
        if torch.isinf(tensor.half()).any():
            most = tensor.abs().max().item()
            raise CheckpointError(f"{name} holds ±{most:g}, beyond the 65504 that 16 bits can hold")
    return {name: tensor.half() for name, tensor in tensors.items()}


def plain_model(model: nn.Module) -> CharLM:
    """The model, if it is a `CharLM`; raises `CheckpointError` for one of another kind."""
    if not isinstance(model, CharLM):
        raise CheckpointError(f"a {type(model).__name__} is no CharLM and could not be built again")
    return model


def _config(model: CharLM, vocab: CharVocab | None) -> dict:
    plain_model(model)
    if type(model.embedding) is not nn.Embedding or model.embedding.max_norm is not None:
        raise CheckpointError("an embedding that is no plain nn.Embedding could not be built again")
    return {
        "charlm_utils": __version__,
        "vocab": None if vocab is None else vocab.itos,
        "model": {
            "core": core_name(model.core),
            "vocab_size": model.embedding.num_embeddings,
            "embedding_dim": model.embedding.embedding_dim,
            "hidden_size": model.core.hidden_size,
            "num_layers": model.core.num_layers,
            "core_dropout": model.core.dropout,
            "dropout": model.dropout,
        }
        | ({"options": options} if (options := core_options(model.core)) else {}),
    }


# ---- loading ----------------------------------------------------------------------------------


def load_checkpoint(
    folder: str | os.PathLike,
) -> tuple[CharLM, CharVocab | None, History]:
    """Read a model (on the CPU, in eval mode), its vocabulary and its history.

    `folder` may be the name of a model that comes with the package: `gru-nietzsche`.
    Raises `CheckpointError` naming the file and the field that is missing or wrong.
    """
    folder = _find(folder)
    for _ in range(9):
        before = _stamp(folder)
        try:
            return _load(folder)
        except CheckpointError:
            if _stamp(folder) == before:
                raise
            # a run has saved in the meantime: what was read was of two saves
    return _load(folder)


def _load(folder: Path) -> tuple[CharLM, CharVocab | None, History]:
    config, path = _read_config(folder)
    vocab, history = _read_vocab(config, path), load_history(folder)
    fields = read_field(config, "model", dict, path)

    def check(header: Header) -> None:
        check_header(header, _shapes(fields, path, len(header)), folder / "model.safetensors")

    tensors = read_tensors(folder / "model.safetensors", check, config.get("sha256"))
    check_finite(folder / "model.safetensors", tensors)
    model = _build(fields, path)
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        model = model.double()
    model.load_state_dict(tensors)
    return model.eval(), vocab, history


def _find(folder: str | os.PathLike) -> Path:
    packaged = PRETRAINED / folder
    found = not Path(folder).exists() and (packaged / "config.json").is_file()
    return packaged if found else Path(folder)


def _stamp(folder: Path) -> tuple | None:
    try:
        with open_file(folder / "config.json") as file:
            status = os.fstat(file.fileno())
            return status.st_ino, status.st_mtime_ns, status.st_size
    except CheckpointError:
        return None


def load_history(folder: str | os.PathLike) -> History:
    """What training reported until this checkpoint was written."""
    path = _find(folder) / "history.json"
    config, _ = _read_config(path.parent)
    data = read_file(path)
    check_sum(path, data, config.get("sha256"), "config.json")
    saved = parse_json(data, path)
    _check_history(saved, path)
    return History(**saved)


def _check_history(saved: dict, path: Path) -> None:
    blank = asdict(History())
    for name in sorted(saved.keys() | blank.keys()):
        values, kinds = saved.get(name), (int,) if name == "characters" else (int, float)
        fits = name in blank and type(values) is type(blank[name])
        if fits and isinstance(values, list):
            fits = all(isinstance(x, kinds) and type(x) is not bool for x in values)
            fits = fits and all(-1e300 < x < 1e300 for x in values)  # a NaN is neither
        if not fits:
            raise CheckpointError(
                f"{path}: the field {short(name)} is missing, unknown or of a wrong kind"
            )


def load_made(folder: str | os.PathLike) -> dict:
    """How the model was made, as it was given to `save_checkpoint`; {} in older checkpoints."""
    config, path = _read_config(_find(folder))
    return read_field(config, "made", dict, path) if "made" in config else {}


def load_weights(model: nn.Module, folder: str | os.PathLike) -> None:
    """Copy the weights of a checkpoint into a model of the same shape."""
    model.load_state_dict(read_weights(model, folder))


def read_weights(
    model: nn.Module,
    folder: str | os.PathLike,
    sums: dict[str, str] | None = None,
    of: str = "config.json",
) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, found to fit a model of the same shape, and not yet in it.

    `sums` are checksums by file name, found in the file `of`; by default those that there are.
    """
    path = Path(folder) / "model.safetensors"
    if sums is None and exists(path.with_name("config.json")):
        sums = _read_config(path.parent)[0].get("sha256")
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check = functools.partial(check_header, wanted=wanted, path=path)
    tensors = read_tensors(path, check, sums, of)
    check_finite(path, tensors)
    return tensors


def check_header(header: Header, wanted: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raise `CheckpointError` unless a file holds real numbers of these names and shapes."""
    for name in sorted(wanted.keys() | header.keys()):
        if name not in header or name not in wanted:
            where = "file" if name not in header else "model"
            raise CheckpointError(f"{path}: the {where} has no tensor {short(name)}")
        kind, shape = header[name]
        if shape != wanted[name]:
            raise CheckpointError(
                f"{path}: {name} has shape {shape}, the model's is {wanted[name]}"
            )
        if kind not in FLOATS:
            raise CheckpointError(f"{path}: {name} holds {kind}, not one of {', '.join(FLOATS)}")


def check_config(folder: str | os.PathLike, model: CharLM, vocab: CharVocab | None) -> None:
    """Raise `CheckpointError` unless the checkpoint is of this kind of model and vocabulary."""
    saved, path = _read_config(Path(folder))
    then, now = read_field(saved, "model", dict, path), _config(model, vocab)["model"]
    if "sha256" not in saved and "options" not in then:
        now.pop("options", None)  # earlier versions stored them of a `ResidualGRU` only
    for name in now | then:
        if then.get(name) != now.get(name):
            old = short(then.get(name))
            raise CheckpointError(f"{path}: {short(name)} was {old}, now it is {now.get(name)}")
    if (before := _read_vocab(saved, path)) != vocab:
        raise CheckpointError(
            f"{path}: vocab was {len(before or '')} characters, now it is {len(vocab or '')} others"
        )


def has_checkpoint(folder: str | os.PathLike) -> bool:
    """Whether this folder holds anything of a checkpoint that a new one would overwrite.

    The untrained model that `fit` saves before its first update, to see that it can, is none.
    """
    folder = Path(folder)
    if not any(exists(folder / name) for name in (*FILES, "state.json")):
        return False
    try:
        state = read_json(folder / "state.json")
        if read_field(state, "position", dict, folder).get("step") != 0:
            return True
        sums = read_field(state, "sha256", dict, folder)
        return any(checksum(read_file(folder / name, 2**40)) != sums.get(name) for name in FILES)
    except CheckpointError:
        return True


# ---- config.json ------------------------------------------------------------------------------


def _read_config(folder: Path) -> tuple[dict, Path]:
    path = folder / "config.json"
    config = read_signed(path, {"model.safetensors", "history.json"})
    if unknown := config.keys() - FIELDS:
        raise CheckpointError(f"{path}: unknown fields {short(sorted(unknown))}")
    return config, path


def _build(fields: dict, path: Path) -> CharLM:
    """The model that the fields describe, with its first random weights."""
    core = _core(fields, path)
    try:
        return CharLM(
            fields["vocab_size"], fields["embedding_dim"], core, dropout=fields["dropout"]
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: field model: {short(error)}") from None


def _core(fields: dict, path: Path) -> nn.Module:
    for name in MODEL_FIELDS:
        if name not in fields:
            raise CheckpointError(f"{path}: the field model.{name} is missing")
    if unknown := fields.keys() - {*MODEL_FIELDS, *OPTIONAL_FIELDS}:
        raise CheckpointError(f"{path}: unknown fields of model: {short(sorted(unknown))}")
    sizes = (fields["embedding_dim"], fields["hidden_size"], fields["num_layers"])
    rates = {name: fields.get(name, 0.0) for name in ("dropout", "core_dropout")}
    try:
        if type(fields["vocab_size"]) is not int or fields["vocab_size"] < 1:
            raise ValueError(f"vocab_size is {fields['vocab_size']}")
        for name, rate in rates.items():
            if type(rate) not in (int, float) or not 0 <= rate <= 1:
                raise ValueError(f"{name} is {rate}")
        return make_core(fields["core"], *sizes, rates["core_dropout"], fields.get("options"))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: field model: {short(error)}") from None


def _shapes(fields: dict, path: Path, most_layers: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight of the model that the fields describe; nothing is allocated.

    `most_layers` is how many tensors there are: each layer has at least one.
    """
    layers = fields.get("num_layers")
    if isinstance(layers, int) and layers > most_layers:
        raise CheckpointError(
            f"{path}: field model: {short(layers)} layers in {most_layers} tensors"
        )
    with torch.device("meta"):
        core = _core(fields, path)
    V, H = fields["vocab_size"], fields["hidden_size"]
    shapes = {"embedding.weight": (V, fields["embedding_dim"])}
    shapes |= {f"core.{name}": tuple(tensor.shape) for name, tensor in core.state_dict().items()}
    return shapes | {"head.weight": (V, H), "head.bias": (V,)}


def _read_vocab(config: dict, path: Path) -> CharVocab | None:
    if "vocab" not in config:
        raise CheckpointError(f"{path}: the field 'vocab' is missing")
    if config["vocab"] is None:
        return None
    characters = read_field(config, "vocab", list, path)
    try:
        vocab = CharVocab(characters)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: field vocab: {short(error)}") from None
    size = read_field(config, "model", dict, path).get("vocab_size")
    if len(vocab) != size:
        raise CheckpointError(
            f"{path}: vocab has {len(vocab)} characters, vocab_size is {short(size)}"
        )
    return vocab
