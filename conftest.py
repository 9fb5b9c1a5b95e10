"""Defaults for `pytest --nbval notebooks/`; nbval has no ini options of its own.

Numbers may differ a little, words and integers not at all. Corpora are resolved once, here; a
notebook whose corpus can't be had runs lax: its cells run, its stored outputs are not compared.
Without `--nbval` nothing in this file has any effect.
"""

import importlib.util
import json
import os
import re
import time
from decimal import Decimal
from pathlib import Path
from queue import Empty

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent
CELL_SECONDS = 30 * 60
LAX = "CHARLM_LAX"  # {notebook: its missing corpora} as JSON, for xdist's workers
DECIMAL = r"(?<![\d.])[-+]?\d+\.\d+(?:[eE][-+]?\d+)?(?!\.?\d)"
SPREAD = r"(?<![\d.])[-+]?\d+(?:\.\d+)? ± \d+(?:\.\d+)?(?!\.?\d)"  # `1.35 ± 0.03`, `74 ± 3`
NUMBER = re.compile(f"{SPREAD}|{DECIMAL}")
PADDED = re.compile(f" *(?:{SPREAD}|{DECIMAL}) *")  # a column's padding depends on the digits


# ---- numbers ----------------------------------------------------------------------------------


def close(stored, new):
    """Whether two printed decimals agree.

    Within 2 %, or, where both print at least three decimals, within one unit of the last place.
    Decimals printed with their spread, `1.35 ± 0.03`, agree within that spread, which must be
    the same on both sides.
    """
    if "±" in stored or "±" in new:
        return close_within(stored, new)
    a, b = Decimal(stored), Decimal(new)
    if abs(a - b) <= Decimal("0.02") * max(abs(a), abs(b)):
        return True
    places = min(len(re.split("[.eE]", text)[1]) for text in (stored, new))
    unit = Decimal(1).scaleb(min(a.as_tuple().exponent, b.as_tuple().exponent))
    return places >= 3 and abs(a - b) <= unit


def close_within(stored, new):
    """Whether two numbers with a spread agree; one without never agrees with one that has it."""
    parts = [[Decimal(part) for part in text.split(" ± ")] for text in (stored, new)]
    if [len(part) for part in parts] != [2, 2]:
        return False
    (a, spread), (b, other) = parts
    return spread == other and abs(a - b) <= spread


class Tolerant(str):
    """A text that equals another when the words and integers agree and each decimal is close."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        if PADDED.sub("#", self) != PADDED.sub("#", other):
            return False
        pairs = zip(NUMBER.findall(self), NUMBER.findall(other), strict=True)
        return all(close(a, b) for a, b in pairs)

    def __ne__(self, other):
        return not self == other


# ---- corpora ----------------------------------------------------------------------------------


def load_run_tool():
    """The module book/tools/run.py, which knows what corpora a notebook names."""
    spec = importlib.util.spec_from_file_location("book_run", ROOT / "book" / "tools" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebooks_in(arguments):
    """The notebooks that pytest's command-line arguments name, sorted.

    Those that are not there are left to pytest, which says so in a line of its own.
    """
    found = set()
    for argument in arguments:
        path = Path(str(argument).split("::")[0]).resolve()
        if path.is_dir():
            found |= set(path.rglob("*.ipynb"))
        elif path.is_file():
            found.add(path)
    hidden = (".ipynb_checkpoints", "_build", ".venv")
    return sorted(p for p in found if p.suffix == ".ipynb" and not set(hidden) & set(p.parts))


def resolve_corpora(notebooks):
    """Look for every corpus the notebooks name. Returns {notebook: [missing corpora]}.

    Under `CHARLM_STRICT=1` a missing corpus ends the run.
    """
    run = load_run_tool()
    needed = {path: run.corpora_needed(read_notebook(path)) for path in notebooks}
    try:
        missing = run.missing_corpora(sorted({n for names in needed.values() for n in names}))
    except NotADirectoryError as error:  # what CHARLM_DATA says
        raise pytest.UsageError(str(error)) from None
    if missing and os.environ.get("CHARLM_STRICT", "0") not in ("", "0"):
        reasons = "; ".join(f"{name} ({reason})" for name, reason in missing.items())
        raise pytest.UsageError(f"CHARLM_STRICT is set and a corpus is missing: {reasons}")
    lax = {str(path): [n for n in names if n in missing] for path, names in needed.items()}
    return {path: names for path, names in lax.items() if names}


def read_notebook(path):
    """A notebook; a file that is none ends the run in one line."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises whatever it stumbles on
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise pytest.UsageError(f"{path} is no notebook: {why}") from None


def lax_notebooks():
    """{notebook: [missing corpora]} as the controlling process found it."""
    return json.loads(os.environ.get(LAX, "{}"))


# ---- nbval ------------------------------------------------------------------------------------


def uses_nbval(config):
    return getattr(config.option, "nbval", False) or getattr(config.option, "nbval_lax", False)


def set_defaults(option):
    """nbval's options, where the command line left them alone."""
    if not option.nbval_kernel_name:
        option.nbval_current_env = True
    if option.nbval_cell_timeout == 2000:  # nbval's own default
        option.nbval_cell_timeout = CELL_SECONDS
    if getattr(option, "dist", "no") in ("load", "worksteal", "loadgroup"):
        option.dist = "loadfile"  # `-n 2` alone deals out cells, which need the cells before them


def set_environment(config):
    """What kernels inherit."""
    os.environ.update(CHARLM_QUIET="1", CHARLM_CHECK="1", PYTHONHASHSEED="0")
    os.environ.pop("CHARLM_RECORD", None)
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    data = os.environ.get("CHARLM_DATA")
    if data:  # kernels start in the notebook's folder
        os.environ["CHARLM_DATA"] = str((ROOT / data).resolve())


def execute_cell_input(self, cell_input, allow_stdin=None):
    """nbval's own passes store_history=False, and then IPython ignores a closing `;`."""
    return self.kc.execute(cell_input, allow_stdin=allow_stdin, stop_on_error=False)


def await_reply(self, msg_id, timeout=None):
    """nbval's own waits out the whole time-out for a kernel that was killed; this one looks."""
    deadline = time.monotonic() + (CELL_SECONDS if timeout is None else timeout)
    while True:
        try:
            message = self.get_message(stream="shell", timeout=1)
        except Empty:
            if not self.is_alive():
                raise RuntimeError("the kernel died (out of memory?)") from None
            if time.monotonic() > deadline:
                raise
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            return


def compared_as_run(self, runtest):
    """Run a cell, and compare what nbval would let pass: its error, and a cell never run before.

    nbval compares nothing where the stored cell has no execution count, not even that a cell
    tagged `raises-exception` has no error stored; under `nbval-ignore-output` it accepts any.
    """
    never_run = self.cell.execution_count is None and not self.cell.outputs
    if self.options["check"] and never_run:
        self.cell.execution_count = 0
    runtest()
    if self.is_lax:
        return
    stored, new = (
        [out.ename for out in outputs if out.output_type == "error"]
        for outputs in (self.cell.outputs, self.test_outputs)
    )
    if stored != new:
        names = [", ".join(names) or "no error" for names in (stored, new)]
        self.raise_cell_error(f"Cell raised {names[1]}; {names[0]} is stored", "")


NUDGE = "from charlm_utils.device import nudge_trainings; nudge_trainings({seed})"


def persistent(start_new_kernel, attempts=3):
    """A starter of kernels that tries again, and nudges (`CHARLM_NUDGE`, for `make anywhere`).

    Ports are picked before the kernel binds them: two workers may pick the same, and one dies.
    """

    def start(startup_timeout, kernel_name, stderr, cwd):
        for left in reversed(range(attempts)):
            try:
                kernel = start_new_kernel(startup_timeout, kernel_name, stderr=stderr, cwd=cwd)
                if seed := int(os.environ.get("CHARLM_NUDGE", "0")):
                    nudge = NUDGE.format(seed=seed)
                    reply = kernel[1].execute_interactive(nudge, store_history=False)["content"]
                    if reply["status"] != "ok":  # an unnudged run would pass for a nudged one
                        raise RuntimeError(f"not nudged: {reply.get('evalue')}")
                return kernel
            except RuntimeError:
                if not left:
                    raise

    return start


def patch_nbval():
    from nbval import kernel, plugin

    kernel.start_new_kernel = persistent(kernel.start_new_kernel)
    kernel.RunningKernel.execute_cell_input = execute_cell_input
    kernel.RunningKernel.await_reply = await_reply
    plain = plugin.IPyNbCell.sanitize

    def sanitize(self, text):
        clean = plain(self, text)
        return Tolerant(clean) if isinstance(clean, str) else clean

    plugin.IPyNbCell.sanitize = sanitize
    runtest = plugin.IPyNbCell.runtest
    plugin.IPyNbCell.runtest = lambda self: compared_as_run(self, lambda: runtest(self))


# ---- pytest's hooks ---------------------------------------------------------------------------


def pytest_configure(config):
    if not uses_nbval(config):
        return
    set_defaults(config.option)
    set_environment(config)
    patch_nbval()
    if not hasattr(config, "workerinput"):  # the controlling process, not a worker of xdist
        os.environ[LAX] = json.dumps(resolve_corpora(notebooks_in(config.args)))
        os.environ["CHARLM_OFFLINE"] = "1"


def pytest_report_header(config):
    if not uses_nbval(config) or not lax_notebooks():
        return None
    names = (f"{Path(path).name} ({', '.join(n)})" for path, n in lax_notebooks().items())
    return f"lax, stored outputs not compared, corpus missing: {'; '.join(names)}"


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook of nbval's
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml")


def pytest_collection_modifyitems(config, items):
    if not uses_nbval(config):
        return
    lax = lax_notebooks()
    for item in items:
        if not hasattr(item, "output_timeout"):  # not a cell
            continue
        item.output_timeout = 60  # nbval's own is 5 seconds
        kind = "compared" if item.options["check"] else "tagged"
        item.is_lax = str(item.path.resolve()) in lax or config.option.nbval_lax
        if str(item.path.resolve()) in lax:
            item.options["check"], kind = False, "lax"
        item.user_properties.append(("cell", f"{kind} {item.path.name}"))


KINDS = {"compared": "compared", "tagged": "tagged and run only", "lax": "lax"}


def pytest_terminal_summary(terminalreporter):
    rows, seen = {}, set()
    reports = [r for group in terminalreporter.stats.values() for r in group]
    for report in reports:
        cell = dict(getattr(report, "user_properties", ())).get("cell")
        if cell is None:
            continue
        kind, notebook = cell.split(" ", 1)
        row = rows.setdefault(notebook, {"seconds": 0.0} | dict.fromkeys(KINDS, 0))
        row["seconds"] += report.duration
        row[kind] += report.nodeid not in seen
        seen.add(report.nodeid)
    if rows:
        terminalreporter.section("notebooks")
        terminalreporter.line(f"{'seconds':>8} {'compared':>9} {'tagged':>7} {'lax':>5}  notebook")
    for notebook, row in sorted(rows.items()):
        counts = f"{row['compared']:9} {row['tagged']:7} {row['lax']:5}"
        terminalreporter.line(f"{row['seconds']:8.1f} {counts}  {notebook}")
    if rows:
        kinds = {kind: sum(row[kind] for row in rows.values()) for kind in KINDS}
        what = ", ".join(f"{count} {KINDS[kind]}" for kind, count in kinds.items())
        terminalreporter.line(f"{sum(kinds.values())} cells: {what}")
