"""Recorded studies: sweeps and long runs, too long for a page, that the chapters plot.

`charlm study NAME` runs one and appends a JSON line to `book/runs/NAME.jsonl` for each run
that is finished; started again, it does what is missing. The runs stand in `sweeps.py`.
"""

import hashlib
import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import torch

from charlm_utils import __version__
from charlm_utils.device import pick_device
from charlm_utils.experiments import train_run
from charlm_utils.results import book_folder
from charlm_utils.sweeps import STUDIES as LADDER
from charlm_utils.sweeps import Line, Study
from charlm_utils.sweeps_deep import STUDIES as DEEP
from charlm_utils.sweeps_lab import STUDIES as LAB
from charlm_utils.sweeps_recipes import STUDIES as RECIPES
from charlm_utils.sweeps_sums import STUDIES as SUMS

STUDIES = LADDER | RECIPES | DEEP | LAB | SUMS


def load(name: str) -> list[Line]:
    """The finished runs of a study: settings, curve and where it was run.

    Each has `valid`, `train` (nats per character), `seconds` and `characters` by epoch.
    Raises `ValueError` for an unknown study or a line that is no JSON, and
    `FileNotFoundError` where the study was not run.
    """
    find(name)
    path = _path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; `charlm study {name}` makes it")
    return _read(path)


def tuning(name: str) -> list[Line]:
    """A study's finished runs that were scored on the development part: its search."""
    return [line for line in _finished(name) if line["settings"].get("tune")]


def final(name: str) -> list[Line]:
    """A study's finished runs that were scored on the held-out part."""
    return [line for line in _finished(name) if not line["settings"].get("tune")]


def chosen(name: str) -> dict:
    """The settings of a study's search with the lowest last loss on the development part.

    Raises `ValueError` where nothing was searched yet.
    """
    best = min(tuning(name), key=lambda line: line["valid"][-1])
    return {key: value for key, value in best["settings"].items() if key != "tune"}


def find(name: str) -> Study:
    """The study of this name, or `ValueError`."""
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]


def run_study(name: str, *, work: Path | None = None, search: bool = False) -> int:
    """Run what is missing of a study; returns the number of runs done now.

    `work` (default `runs/NAME`) holds the checkpoints from which a stopped run goes on.
    `search` ends it before the first run that is scored on the held-out text. In a
    repository such a run waits until the search before it is committed: `ValueError`.
    """
    study, done = find(name), 0
    work = work or Path("runs") / name
    while (point := _next_point(study, lines := _finished(name))) is not None:
        tuning = point.get("tune", False)
        if search and not tuning:
            break
        if not tuning:
            _check_search(name, lines)
        print(f"{name}: {len(lines) + 1} of {len(study.points(lines))}: {json.dumps(point)}")
        began = _provenance(name)
        start = time.perf_counter()
        found = study.run(point, folder=work / _folder_name(point))
        line = began | {"settings": point, "wall": time.perf_counter() - start} | found
        _append(_path(name), _rounded(line | {"looks": 0 if tuning else looks(name) + 1}))
        done += 1
    return done


def looks(name: str) -> int:
    """How many runs of a study have been scored on the held-out text, replaced ones included."""
    now = sum(not line["settings"].get("tune") for line in _finished(name))
    before = (line.get("count", 1) for line in replaced() if line["study"] == name)
    return now + sum(before)


def replaced() -> list[Line]:
    """Runs that were scored on the held-out text and whose line was later replaced."""
    path = book_folder() / "runs" / "replaced.jsonl"
    return _read(path) if path.is_file() else []


def _check_search(name: str, lines: list[Line]) -> None:
    """In a repository the search must be committed before the held-out text is read."""
    search = [line for line in lines if line["settings"].get("tune")]
    if not search or not _git("rev-parse", "HEAD"):
        return
    committed = _git("show", f"HEAD:./runs/{name}.jsonl").splitlines()
    if not all(line in map(json.loads, committed) for line in search):
        raise ValueError(f"commit the search first: {_path(name)} is not as committed")


def rerun(line: Line, epochs: int, *, fallback: str | None = None) -> list[float]:
    """Run the first epochs of a recorded run here and now; returns its validation losses."""
    run = find(line["command"].split()[-1]).run if "command" in line else train_run
    return run(line["settings"], stop_after=epochs, fallback=fallback)["valid"]


def _read(path: Path) -> list[Line]:
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return lines


def _finished(name: str) -> list[Line]:
    return load(name) if _path(name).is_file() else []


def _next_point(study: Study, lines: list[Line]) -> dict | None:
    points = study.points(lines)
    return next((p for p in points if not any(li["settings"] == p for li in lines)), None)


def _path(name: str) -> Path:
    return book_folder() / "runs" / f"{name}.jsonl"


def _folder_name(point: dict) -> str:
    digest = hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()
    return point.get("label") or digest[:12]


def _provenance(name: str) -> dict:
    """What a reader needs to run it again, and to know on what it ran."""
    device = pick_device()
    machine = f"cpu, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    return {
        "command": shlex.join(["charlm", "study", name]),
        "version": __version__,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", "charlm_utils")),
        "device": machine,
        "torch": torch.__version__,
    }


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(book_folder()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""  # no git, or no repository


def _rounded(value):
    """Floats to six digits, through lists and dicts."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    if isinstance(value, dict):
        return {k: v if k == "settings" else _rounded(v) for k, v in value.items()}
    return value


def _append(path: Path, line: Line) -> None:
    """Add one line in one write, so that a stop leaves whole lines only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (json.dumps(line) + "\n").encode()
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), "wb", 0) as file:
        file.write(data)
        os.fsync(file.fileno())
