"""Run the commands of a page, write what they print into it and record their numbers.

    python book/tools/own_text.py book/own_text.md    half an hour or more on one core
    python book/tools/own_text.py book/index.md       some minutes

From top to bottom, every ```python and ```console fence is run, in a folder of its own. Between
`<!-- begin:console_… -->` and `<!-- end:console_… -->` the new output takes the place of the old,
of a training only the lines that stood there before. The numbers go to results.json under
`own_text.…`, and `pages.py --check` compares the page with them. A line
`<!-- stop after epoch 10 -->` in front of a block means that Ctrl-C is pressed then.
"""

import argparse
import html
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pages import UNITS, printed

from charlm_utils.book.results import record

PYTHON = [sys.executable]
CHARLM = [str(Path(sys.executable).with_name("charlm"))]
FENCE = re.compile(
    r"(?:<!-- stop after epoch (?P<stop>\d+) -->\n)?"
    r"(?:<!-- begin:console_(?P<name>\w+) -->\n\n)?"
    r"^```(?P<kind>python|console|text)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
WRITTEN = re.compile(r'(<span class="written">).*?(</span>)', re.DOTALL)  # of the first page
# what the page calls equal byte for byte: the run, and a command that makes another like it
TWICE = {"diary": "charlm train diary.txt --hidden-size 128 --batch-size 16 --epochs 12 "
                  "--dropout 0.1 --out runs/diary-whole"}  # fmt: skip


def run(command, folder, stop=None):
    """What a command prints; once it has printed epoch `stop`, it gets a Ctrl-C."""
    options = {"cwd": folder, "env": os.environ | {"PYTHONUNBUFFERED": "1"}, "encoding": "utf-8"}
    options |= {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    lines = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:  # progress bars fill a pipe
        options |= {"stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, **options) as process:
            for line in process.stdout:
                lines.append(line)
                if stop and line.startswith(f"epoch {stop}:"):
                    process.send_signal(signal.SIGINT)
        errors.seek(0)
        said = errors.read().splitlines()
    if process.returncode == 1:
        shown = [line + "\n" for line in said if line.startswith("charlm: ")]
        if not shown:
            raise RuntimeError("\n".join(said))
        lines += shown  # an error that the page shows
    return "".join(lines)


def arguments(command):
    """A command of the page as a list, with the paths of this environment."""
    first, *rest = shlex.split(command)
    return [*{"charlm": CHARLM, "python": PYTHON}[first], *rest]


def commands(body):
    """(command, as it stands, and its old output) for each command of a console fence."""
    for piece in filter(None, re.split(r"^(?=\$ )", body, flags=re.MULTILINE)):
        lines, size = piece.splitlines(keepends=True), 1
        while lines[size - 1].endswith("\\\n"):
            size += 1
        yield "".join(lines[:size]), "".join(lines[size:])


def kept(old, new):
    """Of a training's output the lines that stood there before, told by how they begin."""

    def label(line):
        return line.split(":")[0] if line.startswith("epoch") else re.split(r"\d", line)[0]

    labels = {label(line) for line in old.splitlines()}
    return "".join(line for line in new.splitlines(True) if label(line.rstrip("\n")) in labels)


def run_console(body, folder, stop):
    """(the fence with what its commands print now, what the last one printed)."""
    out, new = [], ""
    for command, old in commands(body):
        words = command.removeprefix("$ ").replace("\\\n", " ")
        new = run(arguments(words), folder, stop)
        print(command + new, end="", flush=True)
        out += [command, kept(old, new) if words.startswith("charlm train") else new]
    return "".join(out), new


def record_all(body, name):
    """The numbers of a block, to results.json."""
    for found in printed(body, name):
        if found.key not in UNITS:
            record(found.key, float(found.text.replace(",", "")))


def check_equal(folder):
    """Raise `RuntimeError` where checkpoints differ that the page calls equal."""
    for name, command in TWICE.items():
        weights = folder / "runs" / name / "model.safetensors"
        if weights.is_file():
            run(arguments(command), folder)
            for other in sorted(folder.glob(f"runs/{name}-*/{weights.name}")):
                if other.read_bytes() != weights.read_bytes():
                    raise RuntimeError(f"{other} is not equal to {weights}")
                print(f"{other.parent.name} is equal to {name}")


def rewrite(page, folder):
    """Run a page from top to bottom and write it anew."""
    text, place, last, sampled = page.read_text(encoding="utf-8"), 0, "", None
    while match := FENCE.search(text, place):
        body, kind, name = match["body"], match["kind"], match["name"]
        if kind == "python":
            last = run([*PYTHON, "-c", body], folder)
        elif kind == "console":
            shown, new = run_console(body, folder, match["stop"])
            if name:
                body = shown
            elif "charlm sample" in body:
                sampled = new
        elif name:  # what the Python above has printed
            body = last
        if name:
            record_all(body, name)
        text = text[: match.start("body")] + body + text[match.end("body") :]
        place = match.start("body") + len(body) + len("```\n")
        page.write_text(text, encoding="utf-8")
    if sampled and (given := re.search(r'<span class="given">(.*?)</span>', text)):
        new = html.escape(sampled.removeprefix(given[1]).removesuffix("\n"), quote=False)
        text = WRITTEN.sub(lambda m: m[1] + new + m[2], text)
        page.write_text(text, encoding="utf-8")
    check_equal(folder)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--folder", type=Path, help="where to run; by default one that goes")
    options = parser.parse_args(argv)
    os.environ["CHARLM_RECORD"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        folder = options.folder or Path(folder)
        folder.mkdir(exist_ok=True)
        rewrite(options.page, folder)


if __name__ == "__main__":
    main()
