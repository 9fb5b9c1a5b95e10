"""Stopping and going on: where a run stands, saved so that it continues to the last bit."""

import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from charlm_utils.checkpoint import (
    CheckpointError,
    History,
    check_config,
    checkpoint_files,
    load_history,
    load_weights,
    portable,
    read_field,
    read_json,
    read_tensors,
    to_json,
    write_files,
)
from charlm_utils.models import CharLM
from charlm_utils.vocab import CharVocab

State = Tensor | tuple[Tensor, ...] | None


@dataclass
class Position:
    """Where training stands: enough, with the weights, to go on as if never stopped."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch already done
    step: int = 0  # updates since the start
    loss_sum: float = 0.0  # nats, over this epoch so far
    targets: int = 0  # characters behind loss_sum
    characters: int = 0  # since the start
    seconds: float = 0.0  # since the start
    state: State = None  # the recurrent state carried into the next batch


def save_run(
    folder: str | os.PathLike,
    model: CharLM,
    vocab: CharVocab | None,
    history: History,
    optimizer: torch.optim.Optimizer,
    at: Position,
    settings: dict,
) -> None:
    """Write a checkpoint and, with it, moments, random generators, position, carried state.

    `state.json` holds the checksums of the other files, so that files of two different
    saves are never taken for one.
    """
    files = checkpoint_files(model, vocab, history)
    files["optimizer.safetensors"] = to_bytes(_training_tensors(optimizer, at.state))
    kind = "none" if at.state is None else "tuple" if isinstance(at.state, tuple) else "tensor"
    state = {
        "position": {name: value for name, value in vars(at).items() if name != "state"},
        "state": kind,
        "settings": settings,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    write_files(folder, files | {"state.json": to_json(state)})


def load_run(
    folder: str | os.PathLike,
    model: CharLM,
    vocab: CharVocab | None,
    optimizer: torch.optim.Optimizer,
    settings: dict,
) -> tuple[Position, History]:
    """Restore model, optimizer and random generators; return position and history.

    Raises `CheckpointError` naming file and field where the files are damaged or not of
    one save, or where model, vocabulary or `settings` differ from the interrupted run's.
    """
    folder = Path(folder)
    path = folder / "state.json"
    saved = read_json(path)
    check_config(folder, model, vocab)
    old = read_field(saved, "settings", dict, path)
    for key, value in settings.items():
        if old.get(key) != value:
            raise CheckpointError(f"{path}: {key} was {old.get(key)}, now it is {value}")
    _check_one_save(folder, read_field(saved, "sha256", dict, path))
    load_weights(model, folder)
    device = next(model.parameters()).device
    at = _restore(saved, read_tensors(folder / "optimizer.safetensors"), optimizer, device, path)
    return at, load_history(folder)


def _training_tensors(optimizer: torch.optim.Optimizer, state: State) -> dict[str, Tensor]:
    tensors = {
        f"optimizer.{i}.{name}": portable(value)
        for i, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    parts = state if isinstance(state, tuple) else [state] * (state is not None)
    return tensors | {f"state.{i}": portable(part) for i, part in enumerate(parts)}


def _check_one_save(folder: Path, checksums: dict[str, str]) -> None:
    for name in ("model.safetensors", "history.json", "optimizer.safetensors"):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        if hashlib.sha256(path.read_bytes()).hexdigest() != checksums.get(name):
            raise CheckpointError(
                f"{path}: damaged, or not of the same save as state.json (sha256)"
            )


def _restore(saved: dict, tensors: dict[str, Tensor], optimizer, device, path: Path) -> Position:
    slots = optimizer.state_dict() | {"state": {}}
    if "rng.cpu" not in tensors:
        raise CheckpointError(f"{path.with_name('optimizer.safetensors')}: no tensor rng.cpu")
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".")
            slots["state"].setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict(slots)
    state = _read_state(saved, tensors, device, path)
    try:
        at = Position(**read_field(saved, "position", dict, path), state=state)
    except TypeError as error:
        raise CheckpointError(f"{path}: field position: {error}") from None
    torch.set_rng_state(tensors["rng.cpu"])
    if torch.cuda.is_available() and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return at


def _read_state(saved: dict, tensors: dict[str, Tensor], device, path: Path) -> State:
    names = [f"state.{i}" for i in range(len(tensors)) if f"state.{i}" in tensors]
    parts = tuple(tensors[name].to(device) for name in names)
    kind = saved.get("state")
    if kind == "none" and not parts:
        return None
    if kind == "tensor" and len(parts) == 1:
        return parts[0]
    if kind == "tuple" and parts:
        return parts
    raise CheckpointError(f"{path}: the field state is {kind!r}, with {len(parts)} tensors")


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event set by the first Ctrl-C or SIGTERM; a second one acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
