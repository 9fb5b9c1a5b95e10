"""Stopping and going on: where a run stands, saved so that it continues to the last bit."""

import contextlib
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
    portable,
    read_json,
    read_tensors,
    write_file,
    write_json,
)

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


def save_training_state(
    folder: str | os.PathLike,
    optimizer: torch.optim.Optimizer,
    at: Position,
    settings: dict,
) -> None:
    """Write what resuming needs: moments, random generators, position, carried state."""
    folder = Path(folder)
    tensors = {
        f"optimizer.{i}.{name}": portable(value)
        for i, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    parts = at.state if isinstance(at.state, tuple) else [at.state] * (at.state is not None)
    tensors |= {f"state.{i}": portable(part) for i, part in enumerate(parts)}
    write_file(folder / "optimizer.safetensors", to_bytes(tensors))
    position = {k: v for k, v in vars(at).items() if k != "state"}
    kind = "none" if at.state is None else "tuple" if isinstance(at.state, tuple) else "tensor"
    write_json(
        folder / "state.json",
        {"position": position, "state": kind, "settings": settings},
    )


def load_training_state(
    folder: str | os.PathLike, optimizer: torch.optim.Optimizer, settings: dict, device
) -> Position:
    """Restore optimizer and random generators; return the position.

    Raises `CheckpointError` where `settings` differ from those of the interrupted run.
    """
    path = Path(folder) / "state.json"
    saved = read_json(path)
    for key, value in settings.items():
        if (old := saved.get("settings", {}).get(key)) != value:
            raise CheckpointError(f"{path}: {key} was {old}, now it is {value}; can't resume")
    tensors = read_tensors(Path(folder) / "optimizer.safetensors")
    slots = optimizer.state_dict()
    slots["state"] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".")
            slots["state"].setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict(slots)
    torch.set_rng_state(tensors["rng.cpu"])
    if torch.cuda.is_available() and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    parts = [tensors[f"state.{i}"].to(device) for i in range(9) if f"state.{i}" in tensors]
    state = {"none": None, "tuple": tuple(parts), "tensor": parts[0] if parts else None}
    return Position(**saved["position"], state=state[saved["state"]])


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
