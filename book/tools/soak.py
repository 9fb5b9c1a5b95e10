"""Try to break what must hold, many times over: one table, kind · tried · held.

    python book/tools/soak.py                          all campaigns; exit 1 if anything broke
    python book/tools/soak.py --kills 3 --damage 40    in short
    python book/tools/soak.py --only kills --seed 7    one of them, with other random numbers

A campaign is a function in `CAMPAIGNS` that takes the options and a folder for its own, and
returns how many cases it tried and, of those that did not hold, a line each.
"""

import argparse
import copy
import errno
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load
from safetensors.torch import save as to_bytes

from charlm_utils import saves
from charlm_utils.checkpoint import load_checkpoint, load_history, load_made
from charlm_utils.data import CharVocab, StreamBatches
from charlm_utils.models import CharLM, make_core
from charlm_utils.optim import Recipe
from charlm_utils.resume import load_run
from charlm_utils.saves import CheckpointError, checksum, sign, to_json
from charlm_utils.training import Keep, TrainingDiverged, make_optimizer, train_epochs

VOCAB = CharVocab("abcdefg")
FILES = ["config.json", "history.json", "model.safetensors", "optimizer.safetensors", "state.json"]
Outcome = tuple[int, list[str]]  # how many were tried; what broke


def ids(n: int, seed: int) -> torch.Tensor:
    """So many random characters."""
    return torch.randint(len(VOCAB), (n,), generator=torch.Generator().manual_seed(seed))


def new_model(seed: int = 0) -> CharLM:
    """A small model with dropout, so that the random generators matter."""
    torch.manual_seed(seed)
    return CharLM(len(VOCAB), 4, make_core("gru", 4, 6), dropout=0.3)


def train(folder: Path | None, epochs: int = 2, seed: int = 0, stop_after: int | None = None):
    """Begin a run in a folder, or go on with it; returns its model and its history."""
    model = new_model()
    batches, valid = StreamBatches(ids(41, 1), 4, 5), StreamBatches(ids(41, 2), 4, 5)
    recipe = Recipe(epochs, 0.01, precision="float32", seed=seed)
    keep = None if folder is None else Keep(folder, VOCAB, {"text": "ids", "lower": False})
    options = {"progress": False, "stop_after": stop_after}
    return model, train_epochs(model, batches, valid, recipe, keep=keep, resume=True, **options)


def content(folder: Path) -> dict:
    """All that a checkpoint says of a model, in a form that compares to the last bit."""
    model, vocab, history = load_checkpoint(folder)
    tensors = {name: t.numpy().tobytes() for name, t in model.state_dict().items()}
    losses = {name: value for name, value in asdict(history).items() if name != "seconds"}
    characters = None if vocab is None else vocab.itos
    return {"weights": tensors, "vocab": characters, "dropout": model.dropout} | losses


def place(settings: dict, folder: Path) -> dict:
    """All that a run would go on from, in the same form; training itself is left untouched."""
    model, before = new_model(), torch.get_rng_state()
    groups = [{"params": list(model.parameters()), "scale": 1.0}]
    optimizer = make_optimizer(groups, 0.01, (0.9, 0.99))
    at, history = load_run(folder, model, VOCAB, optimizer, settings)
    rng, moments = torch.get_rng_state(), optimizer.state_dict()["state"]
    torch.set_rng_state(before)
    tensors = {f"{i}.{n}": t for i, slots in moments.items() for n, t in slots.items()}
    tensors |= model.state_dict() | {"rng": rng}
    state = None if at.state is None else at.state.numpy().tobytes()
    kept = {name: value.numpy().tobytes() for name, value in tensors.items()}
    return kept | vars(at) | {"state": state} | asdict(history)


# ---- a save stopped at every point ------------------------------------------------------------


class Killed(BaseException):
    """The process is dead: nothing it would still do reaches the disk."""


class Points:
    """`os` and `shutil` for `charlm_utils.saves`: they stop at one call that touches the disk.

    With an `error` it is raised there, and what follows works: a full disk, Ctrl-C. Without, the
    process is dead from there on, and the system closes its files. A write stops half-way.
    """

    CALLS = ("mkdir", "open", "write", "fsync", "rename", "replace", "rmdir", "unlink", "rmtree")

    def __init__(self, at: int, error: BaseException | None = None):
        self.at, self.error, self.count, self.dead = at, error, 0, False
        self.handles: set[int] = set()

    def __getattr__(self, name: str):
        real = getattr(shutil if name == "rmtree" else os, name)
        if name == "close":
            return self._close
        return functools.partial(self._call, name, real) if name in self.CALLS else real

    def _call(self, name: str, real: Callable, *arguments, **options):
        if self.dead:
            raise Killed
        self.count += 1
        if self.count - 1 == self.at:
            if name == "write":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            self._stop()
        result = real(*arguments, **options)
        if name == "open":
            self.handles.add(result)
        return result

    def _stop(self) -> None:
        if self.error is not None:
            raise self.error
        self.dead = True
        for handle in self.handles:
            os.close(handle)
        raise Killed

    def _close(self, handle: int) -> None:
        if not self.dead:
            self.handles.discard(handle)
            os.close(handle)

    def __enter__(self) -> "Points":
        saves.os = saves.shutil = self
        return self

    def __exit__(self, *error: object) -> None:
        saves.os, saves.shutil = os, shutil


STOPS = {
    "killed": lambda: None,
    "disk full": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "Ctrl-C": KeyboardInterrupt,
}


def stop_saves(options: argparse.Namespace, folder: Path) -> Outcome:
    """A run is stopped at each call of its saves that touches the disk, and goes on."""
    whole = folder / "whole"
    train(whole)
    wanted, tried, broke = content(whole), 0, []
    for stop in options.stops:
        at, reached = 0, True
        while reached:
            here = folder / f"{stop} {at}"
            with Points(at, STOPS[stop]()) as points:
                try:
                    train(here)
                except (Killed, OSError, KeyboardInterrupt):
                    pass
            reached = points.count > at
            tried += reached
            try:
                train(here)
                if content(here) != wanted:
                    broke.append(f"{stop} at call {at}: another result")
                if sorted(os.listdir(here)) != FILES:
                    broke.append(f"{stop} at call {at}: left {sorted(os.listdir(here))}")
            except Exception as error:
                broke.append(f"{stop} at call {at}: {error!r}")
            shutil.rmtree(here)
            at += 1
    return tried, broke


# ---- training killed at random ----------------------------------------------------------------


def in_child(function: Callable, *arguments) -> int:
    """Start a function in a process of its own; returns its number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    return child


def kill_training(options: argparse.Namespace, folder: Path) -> Outcome:
    """A run is killed again and again, at random moments, until it has come to its end."""
    chance, whole, epochs = random.Random(options.seed), folder / "whole", 20
    began = time.perf_counter()
    if os.waitpid(in_child(train, whole, epochs), 0)[1]:
        return 1, ["the run that nobody killed failed"]
    usual, wanted = time.perf_counter() - began, content(whole)
    kills, broke = 0, []
    while kills < options.kills:
        here, status, before = folder / f"from {kills}", None, kills
        while status != 0:
            child = in_child(train, here, epochs)
            time.sleep(chance.uniform(0, usual / 2) if kills < options.kills else 0)
            if kills < options.kills:
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            kills += status == signal.SIGKILL
            if status not in (0, signal.SIGKILL):
                broke += [f"after kill {n + 1}: it did not go on" for n in range(before, kills)]
                break
        else:
            if content(here) != wanted:
                broke += [f"kill {n + 1}: another result" for n in range(before, kills)]
        shutil.rmtree(here)
    return kills, broke


# ---- damaged files ----------------------------------------------------------------------------


def flip(data: bytes, chance: random.Random) -> bytes:
    """One bit is another."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, chance: random.Random) -> bytes:
    """The end is missing."""
    return data[: chance.randrange(len(data))]


def blank(data: bytes, chance: random.Random) -> bytes:
    """A range is zeros, as after a power cut."""
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + bytes(b - a) + data[b:]


def noise(data: bytes, chance: random.Random) -> bytes:
    """A few bytes are random."""
    at = chance.randrange(len(data))
    return data[:at] + chance.randbytes(8) + data[at + 8 :]


def shift(data: bytes, chance: random.Random) -> bytes:
    """A byte is missing."""
    at = chance.randrange(len(data))
    return data[:at] + data[at + 1 :]


DAMAGES = [flip, cut, blank, noise, shift, None]  # None: the file of another run


def one_of(read: Callable[[Path], dict], folder: Path, wanted: dict) -> str | None:
    """None if a damaged folder is refused in one line, or read as if undamaged."""
    try:
        return None if read(folder) == wanted else "read as something else"
    except CheckpointError as error:
        return None if "\n" not in str(error) else f"more than one line: {error}"
    except Exception as error:
        return f"{error!r}"


def damage_files(options: argparse.Namespace, folder: Path) -> Outcome:
    """A file of a checkpoint is damaged, or another's: it is noticed, or makes no difference."""
    chance, here, other = random.Random(options.seed), folder / "run", folder / "other"
    train(here, stop_after=1)
    train(other, seed=1, stop_after=1)
    settings = json.loads((here / "state.json").read_text(encoding="utf-8"))["settings"]
    run = functools.partial(place, settings)
    readers = {"model": content, "run": run, "history": lambda at: asdict(load_history(at))}
    readers |= {"made": load_made}
    wanted = {name: read(here) for name, read in readers.items()}
    broke = []
    for trial in range(options.damage):
        name, damage = FILES[trial % len(FILES)], chance.choice(DAMAGES)
        whole = (here / name).read_bytes()
        torn = damage(whole, chance) if damage else (other / name).read_bytes()
        (here / name).write_bytes(torn)
        for what, read in readers.items():
            if problem := one_of(read, here, wanted[what]):
                how = damage.__name__ if damage else "swap"
                broke.append(f"damage {trial}, {how} of {name}, {what}: {problem}")
                break
        (here / name).write_bytes(whole)
    return options.damage, broke


# ---- crafted checkpoints ----------------------------------------------------------------------

DEEP = functools.reduce(lambda inner, _: [inner], range(300), [])
ODD = [None, True, -1, 0, 1, 2.5, 10**6, 10**20, 10**400, 1e308, float("nan"), "", "x", "a\nb"]
ODD += ["\x1b[31m", [], [1], {}, {"a": 1}, DEEP, ["a"] * 3, -(10**9)]
TYPES = {"F64": torch.float64, "F16": torch.float16, "I64": torch.int64, "bool": torch.bool}
TYPES |= {"C64": torch.complex64, "U8": torch.uint8}


def resign(folder: Path) -> None:
    """Make all checksums of a folder true again, as one who crafts a checkpoint would."""
    for name in ("config.json", "state.json"):
        if not (folder / name).exists():
            continue
        value = json.loads((folder / name).read_text(encoding="utf-8"))
        others = [n for n in FILES if n != name and (n in FILES[1:3] or name == "state.json")]
        sums = {n: checksum((folder / n).read_bytes()) for n in others}
        (folder / name).write_bytes(sign(name, value | {"sha256": sums}))


def leaves(value: object, path: tuple = ()) -> list[tuple]:
    """The places in a JSON object, inner ones too."""
    inner = value.items() if isinstance(value, dict) else ()
    return [p for k, v in inner for p in ((*path, k), *leaves(v, (*path, k))) if k != "sha256"]


def crafted_json(folder: Path, chance: random.Random):
    """Every place of the JSON files, with an odd value in it, or none; yields what it is."""
    for name in ("config.json", "history.json", "state.json"):
        whole = json.loads((folder / name).read_text(encoding="utf-8"))
        for path in leaves(whole):
            for odd in [*chance.sample(ODD, 6), "gone"]:
                value = copy.deepcopy(whole)
                where = functools.reduce(lambda d, k: d[k], path[:-1], value)
                where[path[-1]] = odd
                if odd == "gone":
                    del where[path[-1]]
                (folder / name).write_bytes(to_json(value))
                yield f"{name}: {'.'.join(path)} = {str(odd)[:20] if odd is not DEEP else 'deep'}"
        for extra in ODD[:3]:
            (folder / name).write_bytes(to_json(whole | {"extra\n": extra}))
            yield f"{name}: an unknown field"
        (folder / name).write_bytes(to_json(whole))


def crafted_tensors(folder: Path, chance: random.Random):
    """Every tensor, of another shape, type or range, or gone, or under another name."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        whole = load((folder / name).read_bytes())
        for key, tensor in whole.items():
            flat = tensor.flatten()
            odd = {"short": flat[: len(flat) // 2].clone(), "empty": flat[:0].clone()}
            odd |= {"long": torch.cat([flat, flat]), "folded": tensor[None].clone()}
            odd |= {kind: tensor.to(dtype) for kind, dtype in TYPES.items()}
            if tensor.is_floating_point():
                odd |= {str(x): torch.full_like(tensor, x) for x in (torch.nan, torch.inf)}
            if tensor.is_floating_point() and name[0] == "o":
                odd |= {str(x): torch.full_like(tensor, x) for x in (-1.0, 3e38)}
            for what, value in odd.items():
                (folder / name).write_bytes(to_bytes(whole | {key: value}))
                yield f"{name}: {key} {what}"
            rest = {k: v for k, v in whole.items() if k != key}
            (folder / name).write_bytes(to_bytes(rest))
            yield f"{name}: {key} gone"
            (folder / name).write_bytes(to_bytes(rest | {f"{key}\n.{len(rest)}": tensor}))
            yield f"{name}: {key} renamed"
        (folder / name).write_bytes(to_bytes(whole))


def use(folder: Path) -> dict:
    """Read a checkpoint and train on: what was accepted must work."""
    model = load_checkpoint(folder)[0]
    model(torch.zeros(1, 3, dtype=torch.int64))
    try:
        train(folder)
    except TrainingDiverged:
        pass  # as it may with moments as large as these
    finally:
        shutil.rmtree(folder)
    return {}


def craft(options: argparse.Namespace, folder: Path) -> Outcome:
    """Odd values under true checksums: refused in one line, or of a kind one can work with."""
    chance, here, tried, broke = random.Random(options.seed), folder / "run", 0, []
    train(here, stop_after=1)
    for source in (crafted_json, crafted_tensors):
        for what in source(here, chance):
            there = shutil.copytree(here, folder / "copy", dirs_exist_ok=True)
            resign(there)
            tried += 1
            if problem := one_of(use, there, {}):
                broke.append(f"{what}: {problem}")
    return tried, broke


# ---- all of them ------------------------------------------------------------------------------


def ask_bad_servers(options: argparse.Namespace, folder: Path) -> Outcome:
    """Servers that drip, lie, break off or never end, against a cap and a deadline."""
    from soak_servers import campaign

    said: list[str] = []
    counts = campaign(options.servers, options.seed, said.append)
    return sum(tried for tried, _ in counts.values()), said


def make_calls(options: argparse.Namespace, folder: Path) -> Outcome:
    """Generated command lines: a result or one line each."""
    from soak_calls import campaign

    os.environ.update(CHARLM_OFFLINE="1", CHARLM_QUIET="1")
    return campaign(options.calls, options.seed, folder)


def try_properties(options: argparse.Namespace, folder: Path) -> Outcome:
    """What must hold of any input, by the tests' own properties, with many more cases each."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_properties.py", "-p"]
    command += [
        "no:cacheprovider",
        "--hypothesis-profile=soak",
        f"--hypothesis-seed={options.seed}",
    ]
    count = folder / "count"
    here = {"cwd": Path(__file__).parents[2], "env": os.environ | {"CHARLM_COUNT": str(count)}}
    done = subprocess.run(command, capture_output=True, text=True, **here)
    broke = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return sum(map(int, count.read_text(encoding="utf-8").split())), broke


CAMPAIGNS: dict[str, tuple[str, Callable[[argparse.Namespace, Path], Outcome]]] = {
    "stops": ("saves stopped at every point", stop_saves),
    "kills": ("training killed at random", kill_training),
    "damage": ("damaged files of checkpoints", damage_files),
    "crafted": ("crafted checkpoints", craft),
    "servers": ("downloads from bad servers", ask_bad_servers),
    "calls": ("generated command lines", make_calls),
    "properties": ("cases of properties", try_properties),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the campaigns and print the table; 1 if anything broke."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=list(CAMPAIGNS))
    parser.add_argument("--kills", type=int, default=200, help="of training, at random moments")
    parser.add_argument("--damage", type=int, default=500, help="files to damage")
    parser.add_argument("--servers", type=int, default=120, help="downloads from bad servers")
    parser.add_argument("--calls", type=int, default=1000, help="generated command lines")
    parser.add_argument("--stops", nargs="+", choices=STOPS, default=list(STOPS))
    parser.add_argument("--seed", type=int, default=0)
    options, rows, failed = parser.parse_args(arguments), [], False
    for name in options.only:
        kind, campaign = CAMPAIGNS[name]
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            tried, broke = campaign(options, Path(folder))
        rows.append((kind, tried, tried - len(broke), time.perf_counter() - began))
        failed = failed or bool(broke) or tried == 0
        for line in broke[:20]:
            print(f"{name}: {line}", file=sys.stderr)
    print(f"{'kind':32} {'tried':>7} {'held':>7} {'seconds':>8}")
    for kind, tried, held, seconds in rows:
        print(f"{kind:32} {tried:7,} {held:7,} {seconds:8.0f}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
