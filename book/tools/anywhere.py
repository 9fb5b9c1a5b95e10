"""Run the notebooks as other machines would compute them, and say which cells do not hold.

    python book/tools/anywhere.py NB …                      all imitations; exit 1 if a cell fails
    python book/tools/anywhere.py --only nudge-1 avx2 NB …  some of them
    python book/tools/anywhere.py --measure NB …            then write book/spreads.json

Every imitation is one run of nbval with other settings (`IMITATIONS`). What a run found is kept in
`_build/anywhere` under the notebook's and the package's digest, so that a stopped call goes on.
"""

import argparse
import hashlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from charlm_utils.book import results

ROOT = Path(__file__).resolve().parents[2]
FOUND = ROOT / "_build" / "anywhere"

IMITATIONS = {
    "here": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "default": {"ATEN_CPU_CAPABILITY": "default"},  # no vector instructions of torch's own
    "float32": {"CHARLM_PRECISION": "float32"},
    "threads": {"OMP_NUM_THREADS": "2"},
    "nudge-1": {"CHARLM_NUDGE": "1"},
    "nudge-2": {"CHARLM_NUDGE": "2"},
    "nudge-3": {"CHARLM_NUDGE": "3"},
}
MARGIN = 3  # a spread is so many root mean squares of what the runs were off by


# ---- one run ----------------------------------------------------------------------------------


def digest(notebook):
    """Of everything that a run depends on: the code and its outputs, package and comparison."""
    code = [cell for cell in json.loads(notebook.read_text())["cells"] if "outputs" in cell]
    sha = hashlib.sha256(json.dumps([[c["source"], c["outputs"]] for c in code]).encode())
    others = [ROOT / "conftest.py", ROOT / "book" / "spreads.json"]
    for path in [*sorted((ROOT / "charlm_utils").rglob("*.py")), *others]:
        sha.update(path.read_bytes() if path.is_file() else b"")
    return sha.hexdigest()[:12]


def run(notebook, imitation):
    """Cells and recorded numbers of one notebook under one imitation, from a file if it was run.

    Returns {"cells": {number: "passed" or "failed"}, "values": {key: value}, "log": text}.
    """
    path = FOUND / f"{notebook.stem}.{imitation}.{digest(notebook)}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    FOUND.mkdir(parents=True, exist_ok=True)
    report, measured = path.with_suffix(".xml"), path.with_suffix(".jsonl")
    measured.unlink(missing_ok=True)
    settings = {"OMP_NUM_THREADS": "1"} | IMITATIONS[imitation] | {"CHARLM_MEASURE": str(measured)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval"]
    done = subprocess.run(
        [*command, str(notebook), f"--junitxml={report}"],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    if not report.is_file():
        raise RuntimeError(f"{notebook.name}, {imitation}: {done.stdout}{done.stderr}")
    texts = measured.read_text(encoding="utf-8").splitlines() if measured.is_file() else []
    values = {k: v for text in texts for k, v in json.loads(text).items()}
    found = {"cells": cells(report), "values": values, "log": done.stdout[-20_000:]}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(path)
    report.unlink(), measured.unlink(missing_ok=True)
    return found


def cells(report):
    """{cell: verdict} of nbval's JUnit report; a cell that was skipped did not fail."""
    cases = ElementTree.parse(report).iter("testcase")
    return {
        re.search(r"\d+$", case.get("name"))[0]: (
            "failed" if case.find("failure") is not None or case.find("error") is not None
            else "passed"
        )
        for case in cases
    }  # fmt: skip


# ---- what the runs say together ---------------------------------------------------------------


def spreads(found):
    """{key: spread} of the keys that the runs of one notebook recorded.

    With few runs a number may stay near its stored value by luck. So one that moved at all gets
    at least the share by which the notebook's numbers move on the whole.
    """
    known = json.loads((ROOT / "book" / "results.json").read_text(encoding="utf-8"))
    keys = sorted({key for one in found.values() for key in one["values"]} & known.keys())
    values = {key: _values(found, key) for key in keys}
    share = common_share([(known[key], values[key]) for key in keys])
    return {key: spread(known[key], values[key], share) for key in keys}


def common_share(numbers):
    """The median of the relative deviations of the numbers that moved at all."""
    off = [deviation(stored, values) / abs(stored) for stored, values in numbers
           if stored and deviation(stored, values) > results.rounding(stored)]  # fmt: skip
    return statistics.median(off) if off else 0.0


def deviation(stored, values):
    """Root mean square of the deviations from `stored`."""
    return math.sqrt(sum((value - stored) ** 2 for value in values) / len(values))


def _values(found, key):
    return [one["values"][key] for one in found.values() if key in one["values"]]


def spread(stored, values, share=0.0):
    """`MARGIN` times the deviation from `stored`, or that `share` of it, up to two digits."""
    off = deviation(stored, values)
    if MARGIN * off <= 2 * results.rounding(stored):  # what five stored digits leave out
        return 0.0
    size = MARGIN * max(off, share * abs(stored))
    places = 1 - math.floor(math.log10(size))
    return math.ceil(size * 10**places) / 10**places


def outside(found):
    """{key: imitations in which it was outside its tolerance} of the runs of one notebook."""
    known = json.loads((ROOT / "book" / "results.json").read_text(encoding="utf-8"))
    path = ROOT / "book" / "spreads.json"
    measured = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    bad = {}
    for imitation, one in found.items():
        for key, value in one["values"].items():
            checked = key in known and key in measured
            if not checked or abs(value - known[key]) > results.tolerance(key):
                bad.setdefault(key, []).append(imitation)
    return bad


def table(found):
    """The lines to print: per notebook, each cell and number that did not hold everywhere."""
    lines = []
    for name, runs in found.items():
        count = len(next(iter(runs.values()))["cells"])
        lines.append(f"{name}: {count} cells, {len(runs)} imitations")
        failed = {}
        for imitation, one in runs.items():
            for cell, verdict in one["cells"].items():
                if verdict == "failed":
                    failed.setdefault(f"cell {cell}", []).append(imitation)
        for what, where in (failed | outside(runs)).items():
            held = len(runs) - len(where)
            lines.append(f"  {what}: held in {held} of {len(runs)}, not in {', '.join(where)}")
    return lines


def store_spreads(found):
    """Merge what was measured into book/spreads.json; numbers no longer recorded go."""
    path = ROOT / "book" / "spreads.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for runs in found.values():
        known |= spreads(runs)
    recorded = json.loads((ROOT / "book" / "results.json").read_text(encoding="utf-8"))
    kept = {key: known[key] for key in sorted(known) if key in recorded}
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--only", nargs="+", choices=IMITATIONS, default=list(IMITATIONS))
    parser.add_argument("--measure", action="store_true", help="write book/spreads.json")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    options = parser.parse_args(argv)
    if os.environ.get("CHARLM_STRICT", "0") in ("", "0"):
        parser.error(
            "set CHARLM_STRICT=1 and CHARLM_DATA: on a substitute text nothing is compared"
        )
    notebooks = [path.resolve() for path in options.notebooks]
    jobs = [(path, imitation) for imitation in options.only for path in notebooks]
    found = {path.name: {} for path in notebooks}
    with ThreadPoolExecutor(options.jobs) as pool:
        for (path, imitation), one in zip(jobs, pool.map(lambda j: run(*j), jobs), strict=True):
            found[path.name][imitation] = one
            failed = [cell for cell, verdict in one["cells"].items() if verdict == "failed"]
            print(f"{path.stem} {imitation}: {len(failed)} failed {failed or ''}", flush=True)
    if options.measure:
        store_spreads(found)
    lines = table(found)
    print("\n".join(lines))
    return int(any(line.startswith("  ") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
