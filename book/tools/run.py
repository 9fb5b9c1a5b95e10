"""Execute notebooks in place and store them in one normal form.

    python book/tools/run.py notebooks/03_looped_rnn.ipynb …     run, normalise, store
    python book/tools/run.py --keep notebooks/03_looped_rnn.ipynb
                                                                 run, and store what has changed
    python book/tools/run.py --normalise-only notebooks/*.ipynb  tidy without running
    python book/tools/run.py --check notebooks/*.ipynb           are the outputs as new as the code?

A notebook that fails stays as it was. Outputs made with the stand-in corpus are never stored.
`--keep` is for changes of form, on whatever machine: numbers are checked against the book's as in
the tests, and a cell whose output agrees with what is stored keeps it. So none of them moves.
"""

import argparse
import ast
import base64
import contextlib
import hashlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[2]
CELL_SECONDS = 30 * 60
LARGE = 40_000  # characters of an encoded picture; larger ones are stored with a palette
OVERWRITTEN = re.compile(r"^.*\r(?=[^\n])", re.MULTILINE)  # a progress line written over
BARE_REPR = re.compile(r"<[\w.]+ object( at 0x[0-9a-f]+)?>")  # text that shows nothing


# ---- code of a notebook -----------------------------------------------------------------------


def code_cells(nb):
    """The code cells of a notebook, in order."""
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def cell_tree(source):
    """Syntax tree of a cell; IPython's magics become the function calls they stand for."""
    try:
        return ast.parse(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        return ast.parse(TransformerManager().transform_cell(source))


def stable_dump(node):
    """`ast.dump`, but equal on every Python: fields that are empty or None are left out."""
    if isinstance(node, ast.Constant):
        return f"Constant({node.value!r})"
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node))
        kept = sorted((n, stable_dump(v)) for n, v in fields if v is not None and v != [])
        return f"{type(node).__name__}({', '.join(f'{n}={v}' for n, v in kept)})"
    if isinstance(node, list):
        return f"[{', '.join(map(stable_dump, node))}]"
    return repr(node)


def code_hash(nb):
    """Freshness hash: sha256 (16 hex digits) over the syntax trees of all code cells in order.

    Comments, blank lines and formatting do not change it; any change of meaning does.
    """
    trees = [stable_dump(cell_tree(cell.source)) for cell in code_cells(nb)]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()[:16]


def is_fresh(nb):
    """Whether the stored outputs were made by the code that now stands in the notebook."""
    return nb.metadata.get("charlm", {}).get("code_hash") == code_hash(nb)


def corpora_needed(nb):
    """Known corpora that the notebook hands to `load_corpus`, sorted.

    Literal first arguments count. Where an argument is computed, every string of the notebook's
    code that names a known corpus counts. A cell that is no Python names none: running it fails.
    """
    nodes = []
    for cell in code_cells(nb):
        with contextlib.suppress(SyntaxError):
            nodes += ast.walk(cell_tree(cell.source))
    calls = [n for n in nodes if isinstance(n, ast.Call) and _called(n) == "load_corpus" and n.args]
    if not calls:
        return []
    from charlm_utils.corpora import KNOWN

    computed = any(not isinstance(call.args[0], ast.Constant) for call in calls)
    constants = nodes if computed else [call.args[0] for call in calls]
    strings = {node.value for node in constants if isinstance(node, ast.Constant)}
    return sorted(name for name in KNOWN if name in strings)


def _called(call):
    function = call.func
    return getattr(function, "id", None) or getattr(function, "attr", None)


def missing_corpora(names):
    """The corpora among `names` that can't be had here, each with the reason: {name: reason}."""
    if not names:
        return {}
    from charlm_utils.corpora import CorpusUnavailable, load_corpus

    missing = {}
    for name in names:
        try:
            load_corpus(name)
        except CorpusUnavailable as error:
            missing[name] = error.reason or str(error)
    return missing


# ---- the normal form --------------------------------------------------------------------------


def normalise(nb):
    """Bring a notebook into its stored form, in place: nothing in it depends on when it ran."""
    taken = set()
    for cell in nb.cells:
        cell.id = _cell_id(cell.source, taken)
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    for count, cell in enumerate(code_cells(nb), 1):
        cell.execution_count = count
        cell.outputs = tidy_outputs(cell.outputs, count)
    charlm = nb.metadata.get("charlm", {})
    nb.metadata = nbformat.from_dict(
        {
            "charlm": {key: charlm[key] for key in ("code_hash",) if key in charlm},
            "kernelspec": {"display_name": "Python 3", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    nb.nbformat, nb.nbformat_minor = 4, 5


def _cell_id(source, taken):
    digest, copy = hashlib.sha1(source.encode()).hexdigest()[:8], 0
    while digest in taken:
        copy += 1
        digest = hashlib.sha1(f"{source}\n{copy}".encode()).hexdigest()[:8]
    taken.add(digest)
    return digest


def tidy_outputs(outputs, count):
    """One stream per cell without stderr; pictures and text kept; HTML only where no text says it.

    An output whose plain text is a bare `<… object>` keeps its HTML: that text shows nothing.
    """
    tidy, stdout = [], None
    for out in outputs:
        if out.output_type == "stream" and out.name == "stdout":
            if stdout is None:
                stdout = nbformat.v4.new_output("stream", name="stdout", text="")
                tidy.append(stdout)
            stdout.text += out.text
        elif out.output_type in ("display_data", "execute_result"):
            _tidy_data(out, count)
            tidy += [out] if out.data else []
        elif out.output_type == "error":
            tidy.append(out)
    if stdout is not None:
        stdout.text = OVERWRITTEN.sub("", stdout.text)
    return tidy


def _tidy_data(out, count):
    out.metadata = nbformat.from_dict({})
    out.data.pop("application/vnd.jupyter.widget-view+json", None)
    plain = out.data.get("text/plain")
    if plain is not None and not BARE_REPR.fullmatch(plain):
        out.data.pop("text/html", None)
    if "image/png" in out.data:
        out.data["image/png"] = _with_palette(out.data["image/png"])
    if out.output_type == "execute_result":
        out.execution_count = count


def _with_palette(encoded):
    """A large picture in 256 colours, which takes half the room and looks the same."""
    if len(encoded) <= LARGE:
        return encoded
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if image.mode == "P":  # done before
        return encoded
    out = io.BytesIO()
    colours = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")


def store(nb, path):
    """Write `nb` to `path` in one step: a reader sees the old file or the new one."""
    nbformat.validate(nb)
    part = path.with_name(f".{path.name}.part")
    part.write_text(nbformat.writes(nb) + "\n", encoding="utf-8")
    os.replace(part, path)


# ---- what has not changed ---------------------------------------------------------------------


def kept(stored, new):
    """Tidy outputs, each as it is stored where the new one agrees: the tests' comparison of texts.

    Pictures agree if they are of one size and hardly a pixel differs, as by rounding. Where there
    are others than before, all are new.
    """
    if [_kinds(out) for out in stored] != [_kinds(out) for out in new]:
        return new
    spec = importlib.util.spec_from_file_location("book_conftest", ROOT / "conftest.py")
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    return [
        a if tests.Tolerant(_text(a)) == tests.Tolerant(_text(b)) and _look_alike(a, b) else b
        for a, b in zip(stored, new, strict=True)
    ]


def _kinds(out):
    return out.output_type, sorted(out.get("data", {}))


def _text(out):
    return out.get("text") or out.get("ename") or out.get("data", {}).get("text/plain", "")


def _look_alike(stored, new):
    one, other = (out.get("data", {}).get("image/png") for out in (stored, new))
    if one == other:
        return True
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in (one, other)
    ]
    if pictures[0].size != pictures[1].size:
        return False
    differ = ImageChops.difference(*pictures).convert("L").point(lambda value: 255 * (value > 40))
    return differ.histogram()[255] <= 0.001 * differ.width * differ.height


# ---- running ----------------------------------------------------------------------------------


def kernel_environment(keep):
    """Set what a run needs that records numbers, or checks them (`keep`); kernels inherit it."""
    purpose, other = ("CHECK", "RECORD") if keep else ("RECORD", "CHECK")
    os.environ.update({"CHARLM_QUIET": "1", f"CHARLM_{purpose}": "1", "PYTHONHASHSEED": "0"})
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    os.environ.pop(f"CHARLM_{other}", None)
    data = os.environ.get("CHARLM_DATA")
    if data:  # kernels start in the notebook's folder
        os.environ["CHARLM_DATA"] = str((ROOT / data).resolve())


def execute(nb, folder):
    """Run all cells in a fresh kernel started in `folder`; a failing cell raises."""
    from nbclient import NotebookClient

    client = NotebookClient(
        nb,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute(stderr=subprocess.DEVNULL)  # the kernel process's own chatter


def run_one(path, keep=False):
    """Execute, normalise, hash and store one notebook. Returns an error text or None."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    nb = nbformat.read(path, as_version=4)
    before = [cell.outputs for cell in code_cells(nb)]
    missing = missing_corpora(corpora_needed(nb))
    if missing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        return f"{path}: outputs made with a stand-in are not stored. {reasons}"
    try:
        execute(nb, path.resolve().parent)
    except (CellExecutionError, CellTimeoutError, RuntimeError) as error:  # or the kernel died
        return f"{path}: failed, left as it was\n{error}"
    nb.metadata["charlm"] = {"code_hash": code_hash(nb)}
    normalise(nb)
    for cell, stored in zip(code_cells(nb), before if keep else [], strict=keep):
        cell.outputs = tidy_outputs(kept(stored, cell.outputs), cell.execution_count)
    store(nb, path)
    return None


def keep_one(path):
    """Execute one notebook, and store what differs from what is stored."""
    return run_one(path, keep=True)


def normalise_one(path):
    """Normalise one notebook without running it; its hash stays what it was."""
    nb = nbformat.read(path, as_version=4)
    normalise(nb)
    store(nb, path)
    return None


def check_one(path):
    """Error text if the outputs are older than the code, else None."""
    fresh = is_fresh(nbformat.read(path, as_version=4))
    return None if fresh else f"{path}: outputs are older than the code; run `make run NB={path}`"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--normalise-only", action="store_true", help="tidy, do not run")
    mode.add_argument("--keep", action="store_true", help="run, store what has changed")
    mode.add_argument("--check", action="store_true", help="exit 1 where outputs are stale")
    options = parser.parse_args(argv)
    job = normalise_one if options.normalise_only else check_one if options.check else run_one
    job = keep_one if options.keep else job
    runs = job in (run_one, keep_one)
    if runs:
        kernel_environment(options.keep)
    failed = False
    for path in options.notebooks:
        start = time.monotonic()
        error = job(path) if path.is_file() else f"{path}: there is no such notebook"
        failed |= error is not None
        if error:
            print(error, file=sys.stderr, flush=True)
        elif runs:
            print(f"{path}  {time.monotonic() - start:.1f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
