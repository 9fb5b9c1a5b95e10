"""Checkpoints: a folder of tensors and JSON, never a pickle.

`model.safetensors`, `config.json` and `history.json` are all that sampling needs;
`optimizer.safetensors` and `state.json` (`resume.py`) let training go on to the last bit.
All files are written under temporary names before the first is renamed: a save that fails
leaves the old checkpoint as it was. Tensors are saved from the CPU, so that a checkpoint
made on a GPU loads anywhere.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from charlm_utils import __version__
from charlm_utils.models import CharLM, core_name, core_options, make_core
from charlm_utils.vocab import CharVocab

PRETRAINED = Path(__file__).parent / "pretrained"


class CheckpointError(ValueError):
    """A checkpoint that can't be read or does not fit; the message names file and field."""


@dataclass
class History:
    """What training reported: one entry per finished epoch; losses in nats per character."""

    train: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # since the start of training
    characters: list[int] = field(default_factory=list)  # fed forward, repeats counted
    interrupted: bool = False


def save_checkpoint(
    folder: str | os.PathLike,
    model: CharLM,
    vocab: CharVocab | None,
    history: History,
    *,
    half: bool = False,
) -> None:
    """Write model, vocabulary and history to `folder`, which is made if missing.

    `half` stores the weights in 16 bits, for half the size; they load as 32-bit numbers.
    A write that fails raises `OSError` and leaves what the folder held as it was.
    """
    write_files(folder, checkpoint_files(model, vocab, history, half=half))


def checkpoint_files(
    model: CharLM, vocab: CharVocab | None, history: History, *, half: bool = False
) -> dict[str, bytes]:
    """The three files of a checkpoint, by name."""
    tensors = {name: portable(tensor) for name, tensor in model.state_dict().items()}
    tensors = {name: t.half() if half else t for name, t in tensors.items()}
    return {
        "model.safetensors": to_bytes(tensors),
        "config.json": to_json(_config(model, vocab)),
        "history.json": to_json(asdict(history)),
    }


def load_checkpoint(
    folder: str | os.PathLike,
) -> tuple[CharLM, CharVocab | None, History]:
    """Read a model (on the CPU, in eval mode), its vocabulary and its history.

    `folder` may be the name of a model that comes with the package: `gru-nietzsche`.
    Raises `CheckpointError` naming the file and the field that is missing or wrong.
    """
    folder = Path(folder)
    if not folder.exists() and (PRETRAINED / folder / "config.json").is_file():
        folder = PRETRAINED / folder
    config = read_json(folder / "config.json")
    vocab = _read_vocab(config, folder / "config.json")
    model = _build(config, folder / "config.json")
    load_weights(model, folder)
    return model.eval(), vocab, load_history(folder)


def load_history(folder: str | os.PathLike) -> History:
    """What training reported until this checkpoint was written."""
    path = Path(folder) / "history.json"
    saved, blank = read_json(path), asdict(History())
    for name in sorted(saved.keys() | blank.keys()):
        if type(saved.get(name)) is not type(blank.get(name)):
            raise CheckpointError(
                f"{path}: the field {name} is missing, unknown or of a wrong kind"
            )
    return History(**saved)


def load_weights(model: nn.Module, folder: str | os.PathLike) -> None:
    """Copy the weights of a checkpoint into a model of the same shape."""
    path = Path(folder) / "model.safetensors"
    tensors = read_tensors(path)
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors or name not in wanted:
            where = "file" if name not in tensors else "model"
            raise CheckpointError(f"{path}: the {where} has no tensor {name}")
        if tensors[name].shape != wanted[name].shape:
            have, want = tuple(tensors[name].shape), tuple(wanted[name].shape)
            raise CheckpointError(f"{path}: {name} has shape {have}, the model's is {want}")
    model.load_state_dict(tensors)


def check_config(folder: str | os.PathLike, model: CharLM, vocab: CharVocab | None) -> None:
    """Raise `CheckpointError` unless the checkpoint is of this kind of model and vocabulary."""
    path = Path(folder) / "config.json"
    saved, now = read_json(path), _config(model, vocab)
    for name, value in now["model"].items():
        if (old := read_field(saved, "model", dict, path).get(name)) != value:
            raise CheckpointError(f"{path}: {name} was {old}, now it is {value}")
    if (old := _read_vocab(saved, path)) != vocab:
        raise CheckpointError(
            f"{path}: vocab was {len(old or '')} characters, now it is {len(vocab or '')} others"
        )


def has_checkpoint(folder: str | os.PathLike) -> bool:
    """Whether this folder holds any file of a checkpoint, which a new one would overwrite."""
    names = ("model.safetensors", "config.json", "history.json", "state.json")
    return any((Path(folder) / name).exists() for name in names)


def _config(model: CharLM, vocab: CharVocab | None) -> dict:
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


def _build(config: dict, path: Path) -> CharLM:
    c = read_field(config, "model", dict, path)
    try:
        if not 0 <= c["dropout"] <= 1:
            raise ValueError(f"dropout is {c['dropout']}")
        sizes = c["embedding_dim"], c["hidden_size"], c["num_layers"]
        core = make_core(c["core"], *sizes, c.get("core_dropout", 0.0), c.get("options"))
        return CharLM(c["vocab_size"], c["embedding_dim"], core, dropout=c["dropout"])
    except KeyError as error:
        raise CheckpointError(f"{path}: the field model.{error.args[0]} is missing") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: field model: {error}") from None


def _read_vocab(config: dict, path: Path) -> CharVocab | None:
    if "vocab" not in config:
        raise CheckpointError(f"{path}: the field 'vocab' is missing")
    if config["vocab"] is None:
        return None
    characters = read_field(config, "vocab", list, path)
    try:
        vocab = CharVocab(characters)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: field vocab: {error}") from None
    size = read_field(config, "model", dict, path).get("vocab_size")
    if len(vocab) != size:
        raise CheckpointError(f"{path}: vocab has {len(vocab)} characters, vocab_size is {size}")
    return vocab


def portable(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, as safetensors wants it."""
    return tensor.detach().to("cpu").contiguous().clone()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or `CheckpointError`.

    Copied to memory of their own: in the file they lie at any address, and the last bit of a
    matrix product depends on how its operands are aligned.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None


def read_json(path: Path) -> dict:
    """The object in a JSON file, or `CheckpointError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return value


def read_field(saved: dict, name: str, kind: type, path: Path) -> Any:
    """The field `name`, which must be there and of this kind."""
    if not isinstance(saved.get(name), kind):
        raise CheckpointError(f"{path}: the field {name} is missing or no {kind.__name__}")
    return saved[name]


def to_json(value: dict) -> bytes:
    """An object as the bytes of a JSON file."""
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def write_files(folder: str | os.PathLike, files: dict[str, bytes]) -> None:
    """Write all files under temporary names, then rename them; if one fails none is renamed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f".{name}.{os.getpid()}.part" for name in files}
    try:
        for name, part in parts.items():
            part.write_bytes(files[name])
        for name, part in parts.items():
            part.replace(folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
