"""Recorded studies: sweeps and long runs, too long for a page, that the chapters plot.

`charlm study NAME` runs one and appends a JSON line to `book/runs/NAME.jsonl` for each run
that is finished; started again, it does what is missing. Each chapter has a file of them.
"""

import errno
import hashlib
import json
import math
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from charlm_utils import __version__
from charlm_utils.book.results import append_line, book_folder, locked
from charlm_utils.book.studies import a2, ch04, ch05, ch06, ch07, ch08, ch09
from charlm_utils.book.studies.points import Line, Study
from charlm_utils.book.studies.runs import train_run
from charlm_utils.device import pick_device

CHAPTERS = (ch04, ch05, ch06, ch07, ch08, ch09, a2)
STUDIES = {name: study for chapter in CHAPTERS for name, study in chapter.STUDIES.items()}
ROOM = 64 * 1024  # bytes of a long line: what must fit before a run is begun


def load(name: str) -> list[Line]:
    """The finished runs of a study: settings, curve and where it was run.

    Each has `valid`, `train` (nats per character), `seconds` and `characters` by epoch.
    Raises `ValueError` for an unknown study or a line that is no finished run, and
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

    A run that diverged is none to choose. Raises `ValueError` where there is no other.
    """
    runs = [line for line in tuning(name) if not line.get("diverged") and _is_scored(line)]
    if not runs:
        raise ValueError(f"{name}: no run of its search has come to an end")
    best = min(runs, key=lambda line: line["valid"][-1])
    return {key: value for key, value in best["settings"].items() if key != "tune"}


def _is_scored(line: Line) -> bool:
    return bool(line["valid"]) and math.isfinite(line["valid"][-1])


def find(name: str) -> Study:
    """The study of this name, or `ValueError`."""
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]


def run_study(name: str, *, work: Path | None = None, search: bool = False) -> int:
    """Run what is missing of a study; returns the number of runs done now.

    `work` (default `runs/NAME`) holds the checkpoints from which a stopped run goes on.
    `search` leaves out the runs that are scored on the held-out text. In a repository such a
    run waits until the search before it is committed: `ValueError`.

    Before each run it is tried whether its line can be written: `OSError`. A study is run by one
    process at a time: `TimeoutError`. A last line that was cut off, by a lost machine or a full
    disk, is set aside with a word, and its run done again.
    """
    study, path = find(name), _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), busy=f"{name} is being run by another process"):
        _set_aside(path)
        return _run_missing(study, name, work or Path("runs") / name, search)


def _run_missing(study: Study, name: str, work: Path, search: bool) -> int:
    done = 0
    while (point := _next_point(study, lines := _finished(name), search)) is not None:
        tuning = point.get("tune", False)
        if not tuning:
            _check_search(name, lines)
        _check_writable(_path(name))
        print(f"{name}: {len(lines) + 1} of {len(study.points(lines))}: {json.dumps(point)}")
        began = _provenance(name)
        start = time.perf_counter()
        found = study.run(point, folder=work / _folder_name(point))
        line = began | {"settings": point, "wall": time.perf_counter() - start} | found
        line |= {"looks": 0 if tuning else looks(name) + 1}
        append_line(_path(name), _rounded(line))
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


def rerun(
    line: Line, epochs: int, *, fallback: str | None = None, work: Path | None = None
) -> list[float]:
    """Run the first epochs of a recorded run here and now; returns its validation losses.

    A run that went on from another (`after`) begins with that one's checkpoint, which the study
    leaves in `work` (default `runs/NAME`): `FileNotFoundError` where it is not.
    """
    settings, name = line["settings"], line["command"].split()[-1] if "command" in line else ""
    run = find(name).run if name else train_run
    if not settings.get("after"):
        return run(settings, stop_after=epochs, fallback=fallback)["valid"]
    earlier = (work or Path("runs") / name) / settings["after"]
    if not earlier.is_dir():
        raise FileNotFoundError(
            f"{earlier}: not there; this run goes on from its weights, and "
            f"`charlm study {name or 'NAME'}` leaves them there"
        )
    with tempfile.TemporaryDirectory() as folder:  # the study's own checkpoints stay as they are
        shutil.copytree(earlier, Path(folder) / settings["after"])
        again = Path(folder) / "again"
        return run(settings, folder=again, stop_after=epochs, fallback=fallback)["valid"]


# ---- the file of a study ----------------------------------------------------------------------


def _read(path: Path) -> list[Line]:
    """The lines of a file; blank ones are none. Raises `ValueError` naming one that is no run."""
    texts = path.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(texts, start=1):
        if text.strip():
            try:
                lines.append(_parse(text))
            except ValueError as error:
                last = not any(rest.strip() for rest in texts[number:])
                cure = f"; `charlm study {path.stem}` sets this last line aside" if last else ""
                raise ValueError(f"{path}, line {number}: {error}{cure}") from None
    return lines


def _parse(text: bytes) -> Line:
    line = json.loads(text)
    if not isinstance(line, dict) or not isinstance(line.get("settings"), dict):
        raise ValueError("no run with its settings")
    return line


def _set_aside(path: Path) -> None:
    """Move a last line that is no whole run into another file, and say so."""
    data = path.read_bytes() if path.is_file() else b""
    kept = data.rstrip()  # what `_check_writable` writes is blank
    start = kept.rfind(b"\n") + 1
    last, damaged = kept[start:], False
    try:
        if last:
            _parse(last)
    except ValueError:
        _write(path.with_suffix(".damaged"), last + b"\n")
        damaged, kept = True, kept[: max(0, start - 1)]
    whole = kept + b"\n" if kept else b""
    if whole != data:
        os.truncate(path, len(kept))
        _write(path, whole[len(kept) :])
    if damaged:
        print(
            f"{path}: its last line is cut off; what there is of it is now in {path.stem}.damaged"
        )


def _write(path: Path, data: bytes) -> None:
    """Add bytes to a file, on disk."""
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _check_writable(path: Path) -> None:
    """Raise `OSError` where a line could not be added: before the hours of a run, not after."""
    new = not path.exists()
    try:
        with open(path, "ab", 0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                if file.write(b" " * ROOM) < ROOM:  # blank: whoever reads now reads nothing
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            finally:
                os.ftruncate(file.fileno(), size)
    finally:
        if new:
            path.unlink(missing_ok=True)


def _finished(name: str) -> list[Line]:
    return load(name) if _path(name).is_file() else []


def _next_point(study: Study, lines: list[Line], search: bool) -> dict | None:
    points = [p for p in study.points(lines) if p.get("tune") or not search]
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
        "dirty": bool(_git("status", "--porcelain", "--", ":/charlm_utils")),
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
