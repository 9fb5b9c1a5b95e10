"""Write the tables of results from book/results.json and book/published.json.

    python book/tools/pages.py            rewrite the tables of results in the pages
    python book/tools/pages.py --check    exit 1 if one of them is out of date

A table stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`; the rest of a page is left
alone. What a table shows is decided by ROWS. A row whose own number is not recorded yet is left
out; a floor that is not recorded is shown as a dash.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

from charlm_utils.studies import STUDIES

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("book/index.md", "book/results.md", "book/reproducibility.md", "README.md")


class Row(NamedTuple):
    """One line of the results table; keys are those of results.json and published.json."""

    chapter: str  # file name of the notebook, without ending
    label: str
    key: str  # this book's number
    context_floor: str | None  # count table of the same context
    best_floor: str | None  # best Kneser-Ney table on the same split
    published: tuple[str, ...] = ()


ROWS = (
    Row(
        "01_one_hot_and_embedding",
        "bigram table, trained",
        "01.bigram.trained",
        "A1.nietzsche.wb.1",
        "A1.nietzsche.best",
    ),
    Row(
        "02_three_char_model",
        "three characters in, one out",
        "02.model.valid",
        "A1.nietzsche.wb.3",
        "A1.nietzsche.best",
    ),
    Row(
        "03_looped_rnn",
        "the loop, input concatenated",
        "03.concat.valid",
        "03.table.wb8",
        "A1.nietzsche.best",
        ("fastai.concat.valid",),
    ),
    Row(
        "03_looped_rnn",
        "nn.RNN",
        "03.rnn.valid",
        "03.table.wb8",
        "A1.nietzsche.best",
        ("fastai.rnn.valid",),
    ),
    Row(
        "04_multi_output",
        "a loss at every step, the last step",
        "04.last.valid",
        "04.table8",
        "A1.nietzsche.best",
    ),
    Row(
        "04_multi_output",
        "the same, mean of the eight steps",
        "04.mean.valid",
        "04.tables.mean",
        "A1.nietzsche.best",
        ("fastai.multi.valid", "fastai.identity.valid"),
    ),
    Row(
        "05_stateful",
        "RNN 256, state carried",
        "05.rnn.valid",
        None,
        "A1.nietzsche_lower.best",
        ("fastai.stateful.valid",),
    ),
    Row(
        "06_gru",
        "GRU 256",
        "06.gru.valid",
        None,
        "A1.nietzsche_lower.best",
        ("fastai.gru.valid",),
    ),
    Row(
        "06_gru",
        "GRU 256, 14 epochs, in the package",
        "06.pretrained.valid",
        None,
        "A1.nietzsche_lower.best",
    ),
    Row(
        "07_lstm",
        "LSTM 2 × 512, six epochs",
        "07.lstm.valid",
        None,
        "A1.nietzsche_lower.best",
    ),
    Row(
        "07_lstm",
        "LSTM 2 × 512, recorded, 81 epochs",
        "07.study.ours.mean",
        None,
        "A1.nietzsche_lower.best",
        ("fastai.lstm.valid",),
    ),
    Row(
        "07_lstm",
        "the same and two other runs, answers averaged",
        "07.average.three.runs",
        None,
        "A1.nietzsche_lower.best",
    ),
    Row(
        "07_lstm",
        "source 003's LSTM recipe, run here, 80 epochs",
        "07.study.source.l2-4",
        None,
        "A1.nietzsche_lower.best",
        ("fastai.lstm.valid",),
    ),
    Row(
        "07_lstm",
        "the same after 48 epochs, its lowest",
        "07.study.source.l2-3",
        None,
        "A1.nietzsche_lower.best",
    ),
    Row(
        "07_lstm",
        "the same, its last three cycles averaged",
        "07.average.source",
        None,
        "A1.nietzsche_lower.best",
    ),
    Row(
        "08_residual_gru",
        "residual GRU, live",
        "08.residual.valid",
        None,
        "A1.tinyshakespeare.best",
        ("nanogpt.cpu.valid",),
    ),
    Row(
        "08_residual_gru",
        "residual GRU 8 × 256, recorded, 12 epochs",
        "08.study.residual_long",
        None,
        "A1.tinyshakespeare.best",
        ("nanogpt.gpu.valid",),
    ),
)


class Measure(NamedTuple):
    """A headline number that is no loss: its key, what a table gets, what is published."""

    chapter: str
    label: str
    key: str
    unit: str  # "%" for a share, "" for a perplexity
    table: str | None = None
    published: tuple[str, ...] = ()


MEASURES = (
    Measure("09", "sums to 2 digits, pairs never taught: exact answers", "09.gru.exact", "%"),
    Measure("09", "sums to 3 digits, recorded: exact answers", "09.study.three", "%"),
    Measure(
        "A2",
        "*The Time Machine*, 10,032 letters: perplexity",
        "A2.home.rnn",
        "",
        "A2.home.table",
        ("d2l.embedding.valid",),
    ),
    Measure(
        "A2",
        "the same network on *The War of the Worlds*",
        "A2.worlds.rnn",
        "",
        "A2.worlds.table",
        ("d2l.war",),
    ),
    Measure(
        "A2",
        "… and on *The Court of Spain*",
        "A2.spain.rnn",
        "",
        "A2.spain.table",
        ("d2l.spain",),
    ),
    Measure("A2", "plain RNN, 10,032 letters, recorded", "A2.study.low.d2l", "", "A2.table.d2l"),
    Measure("A2", "plain RNN, 90 % of the book, recorded", "A2.study.low.90", "", "A2.table.90"),
)


def load(name):
    return json.loads((ROOT / "book" / name).read_text(encoding="utf-8"))


def number(value):
    """A loss as the tables print it."""
    return "–" if value is None else f"{value:.3f}"


def table(header, rows):
    """A Markdown table; columns of numbers are for the caller to mark in `header` with a `:`."""
    rules = ["---:" if name.endswith(":") else "---" for name in header]
    lines = [[name.rstrip(":") for name in header], rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def recorded_rows(results):
    return [row for row in ROWS if row.key in results]


def cited(row, published):
    """The published figures that belong to a row, each with its split."""
    found = (published[key] for key in row.published)
    return "; ".join(f"{p['value']} ({p['model']}; {p['split']})" for p in found) or "–"


def results_table(results, published):
    """Every headline number beside its floors and the published figures."""
    header = ["Chapter", "Model", "This book:", "Table, same context:", "Best table:", "Published"]
    rows = [
        [
            row.chapter.split("_")[0],
            row.label,
            number(results[row.key]),
            number(results.get(row.context_floor)),
            number(results.get(row.best_floor)),
            cited(row, published),
        ]
        for row in recorded_rows(results)
    ]
    return table(header, rows) if rows else "No chapter has recorded a number yet."


def readme_table(results, published):
    """The same without the published figures' splits: those stand on the results page."""
    header = ["Chapter", "Model", "This book:", "Best count table:", "Published:"]
    rows = [
        [
            row.chapter.split("_")[0],
            row.label,
            number(results[row.key]),
            number(results.get(row.best_floor)),
            ", ".join(str(published[key]["value"]) for key in row.published) or "–",
        ]
        for row in recorded_rows(results)
    ]
    return table(header, rows) if rows else "No chapter has recorded a number yet."


def measures_table(results, published):
    """Headline numbers that are no losses: exact answers in percent, perplexities."""
    header = ["Chapter", "What", "This book:", "Count table:", "Published:"]

    def shown(value, unit):
        return f"{100 * value:.1f} %" if unit else f"{value:.2f}"

    rows = [
        [
            m.chapter,
            m.label,
            shown(results[m.key], m.unit),
            shown(results[m.table], m.unit) if m.table else "–",
            ", ".join(str(published[key]["value"]) for key in m.published) or "–",
        ]
        for m in MEASURES
        if m.key in results
    ]
    return table(header, rows)


def published_table(_results, published):
    """All published figures the book quotes, with split and source."""
    header = ["Model", "Text", "Split", "Value:", "Unit", "Source", "Remark"]
    fields = ("model", "corpus", "split", "value", "unit", "source", "note")
    rows = [[str(p[field]) or "–" for field in fields] for p in published.values()]
    return table(header, rows)


def studies_table(_results, _published):
    """The recorded studies: what they ask, how many runs are in the book, how long they took."""
    header = ["Command", "Question", "Runs:", "Minutes:"]
    rows = []
    for name, study in STUDIES.items():
        path = ROOT / "book" / "runs" / f"{name}.jsonl"
        texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = [json.loads(text) for text in texts]
        # `wall` of a run that was stopped and went on holds its last part only
        minutes = sum(max([line["wall"], *line.get("seconds", [])]) for line in lines) / 60
        rows.append([f"`charlm study {name}`", study.question, str(len(lines)), f"{minutes:.0f}"])
    return table(header, rows)


TABLES = {
    "results": results_table,
    "readme": readme_table,
    "measures": measures_table,
    "published": published_table,
    "studies": studies_table,
}


def fill(text, tables):
    """`text` with what stands between each pair of markers replaced. Unknown names raise."""

    def block(match):
        name = match[1]
        return f"<!-- begin:{name} -->\n\n{tables[name]}\n\n<!-- end:{name} -->"

    return re.sub(r"<!-- begin:(\w+) -->.*?<!-- end:\1 -->", block, text, flags=re.DOTALL)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where stale")
    check = parser.parse_args(argv).check
    results, published = load("results.json"), {p["key"]: p for p in load("published.json")}
    tables = {name: make(results, published) for name, make in TABLES.items()}
    stale = []
    for name in PAGES:
        path = ROOT / name
        if not path.exists():
            continue
        old = path.read_text(encoding="utf-8")
        new = fill(old, tables)
        if new != old and not check:
            path.write_text(new, encoding="utf-8")
            print(f"{name}: tables rewritten")
        stale += [name] if new != old else []
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run `python book/tools/pages.py`", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
