"""Checkpoints: a folder of tensors and JSON, never a pickle.

`model.safetensors`, `config.json` and `history.json` are all that sampling needs;
`optimizer.safetensors` and `state.json` (`resume.py`) let training go on to the last bit.
Each file is written under a temporary name and renamed; tensors are saved from the
CPU, so that a checkpoint made on a GPU loads anywhere.
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from charlm_utils import __version__
from charlm_utils.models import CharLM, core_name, make_core
from charlm_utils.vocab import CharVocab


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
    folder: str | os.PathLike, model: CharLM, vocab: CharVocab | None, history: History
) -> None:
    """Write model, vocabulary and history to `folder`, which is made if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: portable(tensor) for name, tensor in model.state_dict().items()}
    write_file(folder / "model.safetensors", to_bytes(tensors))
    write_json(folder / "config.json", _config(model, vocab))
    write_json(folder / "history.json", asdict(history))


def load_checkpoint(
    folder: str | os.PathLike,
) -> tuple[CharLM, CharVocab | None, History]:
    """Read a model (on the CPU, in eval mode), its vocabulary and its history.

    Raises `CheckpointError` naming the file and the field that is missing or wrong.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    vocab = _read_vocab(config, folder / "config.json")
    model = _build(config, folder / "config.json")
    load_weights(model, folder)
    return model.eval(), vocab, load_history(folder)


def load_history(folder: str | os.PathLike) -> History:
    """What training reported until this checkpoint was written."""
    path = Path(folder) / "history.json"
    try:
        return History(**read_json(path))
    except TypeError:
        names = ", ".join(f.name for f in fields(History))
        raise CheckpointError(f"{path}: the fields must be {names}") from None


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


def has_checkpoint(folder: str | os.PathLike) -> bool:
    """Whether a model was ever saved to this folder."""
    return (Path(folder) / "model.safetensors").exists()


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
            "dropout": model.dropout,
        },
    }


def _build(config: dict, path: Path) -> CharLM:
    try:
        c = config["model"]
        core = make_core(c["core"], c["embedding_dim"], c["hidden_size"], c["num_layers"])
        return CharLM(c["vocab_size"], c["embedding_dim"], core, dropout=c["dropout"])
    except KeyError as error:
        raise CheckpointError(f"{path}: the field {error} is missing") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: field model: {error}") from None


def _read_vocab(config: dict, path: Path) -> CharVocab | None:
    if "vocab" not in config:
        raise CheckpointError(f"{path}: the field 'vocab' is missing")
    if config["vocab"] is None:
        return None
    try:
        vocab = CharVocab(config["vocab"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: field vocab: {error}") from None
    size = config.get("model", {}).get("vocab_size")
    if len(vocab) != size:
        raise CheckpointError(f"{path}: vocab has {len(vocab)} characters, vocab_size is {size}")
    return vocab


def portable(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous().clone()


def read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None


def read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return value


def write_json(path: Path, value: dict) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    write_file(path, text.encode("utf-8"))


def write_file(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
