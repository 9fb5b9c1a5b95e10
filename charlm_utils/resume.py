"""Stopping and going on: where a run stands, saved so that it continues to the last bit.

To the last bit on a CPU. On a CUDA GPU the random numbers of its generator are restored too, but
those of `core_dropout` there come from a state that cuDNN keeps to itself: torch seeds it once
in a process and neither hands it out nor takes it back.
"""

import contextlib
import math
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from charlm_utils.checkpoint import (
    FILES,
    History,
    check_config,
    checkpoint_files,
    load_history,
    read_weights,
)
from charlm_utils.data import CharVocab
from charlm_utils.models import CharLM, core_name
from charlm_utils.saves import (
    CheckpointError,
    Header,
    check_finite,
    check_sum,
    checksum,
    portable,
    read_field,
    read_file,
    read_signed,
    read_tensors,
    short,
    sign,
    write_files,
)

State = Tensor | tuple[Tensor, ...] | None
TENSORS = "optimizer.safetensors"
STATE_FIELDS = {"position", "state", "settings", "sha256"}
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # what Adam keeps of each weight
MEANS = {"mean", "walk"}  # see `optim.keep_mean`
CODES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}


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
    *,
    made: dict | None = None,
) -> None:
    """Write a checkpoint and, with it, moments, random generators, position, carried state.

    `state.json` holds the checksums of all five files, so that files of two different saves
    are never taken for one.
    """
    files = checkpoint_files(model, vocab, history, made=made)
    device = next(model.parameters()).device
    files[TENSORS] = to_bytes(_training_tensors(optimizer, at.state, device))
    kind = "none" if at.state is None else "tuple" if isinstance(at.state, tuple) else "tensor"
    state = {
        "position": {name: value for name, value in vars(at).items() if name != "state"},
        "state": kind,
        "settings": settings,
        "sha256": {name: checksum(data) for name, data in files.items()},
    }
    write_files(folder, files | {"state.json": sign("state.json", state)})


def load_run(
    folder: str | os.PathLike,
    model: CharLM,
    vocab: CharVocab | None,
    optimizer: torch.optim.Optimizer,
    settings: dict,
) -> tuple[Position, History]:
    """Restore model, optimizer and random generators; return position and history.

    Raises `CheckpointError` naming file and field where the files are damaged or not of
    one save, or where model, vocabulary or `settings` differ from the interrupted run's;
    model, optimizer and generators are then as they were.
    """
    folder = Path(folder)
    path = folder / "state.json"
    saved = _read_state_file(path)
    check_config(folder, model, vocab)
    for key, value in settings.items():
        if (old := saved["settings"].get(key)) != value:
            raise CheckpointError(f"{path}: {key} was {short(old)}, now it is {value}")
    for name in ("config.json", "history.json"):
        check_sum(folder / name, read_file(folder / name), saved["sha256"], path.name)
    history, weights = load_history(folder), read_weights(model, folder, saved["sha256"], path.name)
    at = _read_position(saved, history, path)

    def check(header: Header) -> None:
        _check_moments(header, optimizer, saved["settings"], at, folder / TENSORS)
        _check_state(header, model, saved, folder / TENSORS)
        _check_rest(header, folder / TENSORS)

    tensors = read_tensors(folder / TENSORS, check, saved["sha256"], path.name)
    device = next(model.parameters()).device
    _check_numbers(tensors, device, folder / TENSORS)
    model.load_state_dict(weights)
    _restore(tensors, optimizer, device)
    at.state = _carried(tensors, saved["state"], device)
    return at, history


def _training_tensors(optimizer, state: State, device: torch.device) -> dict[str, Tensor]:
    tensors = {
        f"optimizer.{i}.{name}": portable(value)
        for i, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }
    tensors["rng.cpu"] = torch.get_rng_state()
    if device.type != "cpu":
        tensors[f"rng.{device.type}"] = _generator(device).get_rng_state(*_which(device))
    parts = () if state is None else state if isinstance(state, tuple) else (state,)
    return tensors | {f"state.{i}": portable(part) for i, part in enumerate(parts)}


def _generator(device: torch.device):
    """`torch.cuda`, `torch.mps`, …: where the random numbers of a device come from."""
    return getattr(torch, device.type)


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """The device as an argument; `torch.mps` takes none, there being one only."""
    return () if device.type == "mps" else (device,)


# ---- what is read is checked before it is used ------------------------------------------------


def _read_state_file(path: Path) -> dict:
    others = {*FILES, TENSORS}
    saved = read_signed(path, others, optional=others)
    read_field(saved, "settings", dict, path)
    if saved.keys() != STATE_FIELDS:
        odd = short(sorted(saved.keys() ^ STATE_FIELDS))
        raise CheckpointError(f"{path}: fields missing or unknown: {odd}")
    return saved


def _read_position(saved: dict, history: History, path: Path) -> Position:
    fields, blank = read_field(saved, "position", dict, path), vars(Position()).copy()
    del blank["state"]
    for name in blank.keys() | fields.keys():
        value, wanted = fields.get(name), blank.get(name)
        fits = type(value) in (int, type(wanted)) and wanted is not None
        if not fits or not -1e18 < value < 1e18 or (type(wanted) is int and value < 0):
            raise CheckpointError(f"{path}: position: {short(name)} is {short(value)}")
    at, most = Position(**fields), saved["settings"].get("total_steps", math.inf)
    if not at.batch <= at.step or (type(most) in (int, float) and at.step > most):
        where = f"step {at.step} of {short(most)}, batch {at.batch} of its epoch"
        raise CheckpointError(f"{path}: position: {where}")
    if not at.epoch == len(history.train) == len(history.valid):
        done = f"{len(history.train)} and {len(history.valid)}"
        raise CheckpointError(f"{path}: position: epoch {at.epoch}, but losses of {done} epochs")
    return at


def _check_moments(header: Header, optimizer, settings: dict, at: Position, path: Path) -> None:
    """What the optimizer keeps: of each weight the same, of its shape and type.

    A fused update trusts its shapes, and writes past the end of a moment that is too small.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    found: dict[int, set[str]] = {}
    for name, entry in header.items():
        if not name.startswith("optimizer."):
            continue
        match = re.fullmatch(r"optimizer\.([0-9]{1,9})\.([a-z_]+)", name)
        if not match or int(match[1]) >= len(weights):
            raise CheckpointError(f"{path}: {short(name)} is of no weight of this model")
        weight = weights[int(match[1])]
        scalar = match[2] == "step"
        wanted = ("F32", ()) if scalar else (CODES.get(weight.dtype), tuple(weight.shape))
        if entry != wanted:
            raise CheckpointError(f"{path}: {name} is {entry}, not {wanted}")
        found.setdefault(int(match[1]), set()).add(match[2])
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        trained = {i for i, weight in enumerate(weights) if weight.requires_grad and at.step}
        _check_slots(found, trained, settings.get("average") is not None, path)


def _check_slots(found: dict[int, set[str]], trained: set[int], mean: bool, path: Path) -> None:
    least, most = (MOMENTS | {"mean"}, MOMENTS | MEANS) if mean else (MOMENTS, MOMENTS)
    for i in sorted(trained | found.keys()):
        slots = found.get(i, set())
        if i not in trained or not least <= slots <= most:
            odd = ", ".join(f"optimizer.{i}.{name}" for name in sorted(slots ^ least)) or i
            raise CheckpointError(f"{path}: missing or unknown: {short(odd)}")


def _check_state(header: Header, model: CharLM, saved: dict, path: Path) -> None:
    """The carried state: one tensor (L, B, H), or two of an LSTM, or none."""
    core, settings, kind = model.core, saved["settings"], saved["state"]
    carried = ("tuple", 2) if core_name(core) == "lstm" else ("tensor", 1)
    parts = {name for name in header if name.startswith("state.")}
    wanted = {f"state.{i}" for i in range(carried[1])} if kind == carried[0] else set()
    if kind not in ("none", carried[0]) or parts != wanted:
        odd = f"the field state is {short(kind)}, with {len(parts)} tensors"
        raise CheckpointError(f"{path.with_name('state.json')}: {odd}")
    codes = {CODES.get(next(model.parameters()).dtype)}
    codes |= {"BF16", "F16"} if settings.get("precision") == "bf16" else set()
    size = settings.get("batch_shape")
    for name in sorted(parts):
        code, shape = header[name]
        batch = size[0] if isinstance(size, list) and size else (*shape, 0, 0)[1]
        if code not in codes or shape != (core.num_layers, batch, core.hidden_size):
            want = (core.num_layers, batch, core.hidden_size)
            raise CheckpointError(f"{path}: {name} is {code} {shape}, the model's is {want}")


def _check_rest(header: Header, path: Path) -> None:
    """Random generators, and nothing else."""
    if "rng.cpu" not in header:
        raise CheckpointError(f"{path}: no tensor rng.cpu")
    for name, (code, shape) in header.items():
        if name.startswith(("optimizer.", "state.")):
            continue
        if name not in ("rng.cpu", "rng.cuda", "rng.mps", "rng.xpu"):
            raise CheckpointError(f"{path}: unknown tensor {short(name)}")
        fits = shape == tuple(torch.get_rng_state().shape) if name == "rng.cpu" else len(shape) == 1
        if code != "U8" or not fits:
            raise CheckpointError(f"{path}: {name} is {code} {shape}, no state of a generator")


def _check_numbers(tensors: dict[str, Tensor], device: torch.device, path: Path) -> None:
    check_finite(path, {name: t for name, t in tensors.items() if t.is_floating_point()})
    for name, tensor in tensors.items():
        if name.endswith("_sq") and tensor.min() < 0:
            raise CheckpointError(f"{path}: {name} holds squares below zero")
        if name.endswith(".step") and (tensor < 1 or tensor != tensor.round()):
            raise CheckpointError(f"{path}: {name} is {tensor.item()}, no number of updates")
        if name in ("rng.cpu", f"rng.{device.type}"):
            try:
                torch.Generator("cpu" if name == "rng.cpu" else device).set_state(tensor)
            except (RuntimeError, TypeError) as error:
                raise CheckpointError(f"{path}: {name}: {short(error)}") from None


def _restore(tensors: dict[str, Tensor], optimizer, device: torch.device) -> None:
    slots = optimizer.state_dict() | {"state": {}}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".")
            slots["state"].setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict(slots)
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type != "cpu" and f"rng.{device.type}" in tensors:
        _generator(device).set_rng_state(tensors[f"rng.{device.type}"], *_which(device))


def _carried(tensors: dict[str, Tensor], kind: str, device: torch.device) -> State:
    parts = tuple(tensors[f"state.{i}"].to(device) for i in range(2) if f"state.{i}" in tensors)
    return None if kind == "none" else parts[0] if kind == "tensor" else parts


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event set by the first Ctrl-C or SIGTERM; a second one acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    # None: not set from Python, and nothing that Python could put back
    before = {number: handler for number, handler in handlers.items() if handler is not None}

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
