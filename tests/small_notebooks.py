"""Small notebooks, and projects that hold nothing else, for tests that run pytest on them."""

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = json.loads((ROOT / "tests" / "tiny.ipynb").read_text(encoding="utf-8"))


def copy_of(notebook):
    return json.loads(json.dumps(notebook))


def with_code(source, printed):
    """A notebook of one code cell whose stored output is `printed`."""
    notebook = copy_of(TINY)
    cell = notebook["cells"][1]
    cell["source"], cell["outputs"][0]["text"] = source, printed
    notebook["cells"] = [cell]
    return notebook


def with_cells(pairs):
    """A notebook in which each cell prints one text and has another one stored."""
    notebook = copy_of(TINY)
    pattern, notebook["cells"] = notebook["cells"][1], []
    for number, (printed, stored) in enumerate(pairs):
        cell = copy_of(pattern) | {"id": f"cell-{number}"}
        cell["source"], cell["outputs"][0]["text"] = f"print({printed!r})", stored + "\n"
        notebook["cells"].append(cell)
    return notebook


def with_error(stored, tags=(), source="raise KeyError('no such thing')", run=True):
    """A notebook whose one cell raises an error, which is stored by its name or not at all."""
    notebook = with_code(source, "")
    cell = notebook["cells"][0]
    error = {"output_type": "error", "ename": stored, "evalue": "'no such thing'", "traceback": []}
    cell["outputs"] = [error] if stored else []
    cell["metadata"] = {"tags": list(tags)}
    cell["execution_count"] = 1 if run else None
    return notebook


def project(folder, notebooks):
    """A temporary project: the root's conftest and what it needs, and these notebooks."""
    for name in ("conftest.py", "pyproject.toml", "book/tools/run.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("notebooks", "home", "empty"):
        (folder / name).mkdir()
    for name, notebook in notebooks.items():
        path = folder / "notebooks" / f"{name}.ipynb"
        path.write_text(json.dumps(notebook), encoding="utf-8")
    return folder
