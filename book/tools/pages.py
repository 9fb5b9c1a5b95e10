"""Write the tables of results and the console blocks from results.json and published.json.

    python book/tools/pages.py            rewrite them in the pages
    python book/tools/pages.py --check    exit 1 if one of them is out of date

A table stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`; the rest of a page is left
alone. What a table shows is decided by ROWS. A row whose own number is not recorded yet is left
out; a floor that is not recorded is shown as a dash.

A block whose NAME begins with `console_` is what a command has printed. Its words stay, its numbers
are those that book/tools/own_text.py has recorded under `own_text.…`; a decimal in it that has no
key is an error. Seconds are no results and are left alone, and so is what a model has written.
"""

import argparse
import json
import math
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from charlm_utils.book.studies import STUDIES, looks

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "book/index.md",
    "book/own_text.md",
    "book/results.md",
    "book/reproducibility.md",
    "README.md",
)
BLOCK = re.compile(r"<!-- begin:(\w+) -->(.*?)<!-- end:\1 -->", re.DOTALL)

# how the settings of a row were chosen
DEVELOPMENT = "development part"
FLATTERING = "held-out text (flattering)"
PUBLISHED = "as published"
OTHER_LETTERS = "other letters of the book, the search not recorded"
NOTHING = "nothing to choose"
UNTUNED = "not tuned"

LIKE_OURS = (  # splits of others that are ours, too
    "90/10, contiguous",
    "d2l's: trained on the first 10,032 letters, 5,032 held out",
)


class Row(NamedTuple):
    """One line of the results tables; keys are those of results.json and published.json."""

    part: str  # "best": the lowest of its text; "ladder": a chapter's own; "other": no loss
    text: str
    chapter: str  # file name of the notebook, without ending
    label: str
    key: str  # this book's number
    chosen: str  # how its settings were chosen
    seeds: str | None = None  # the study whose final runs say how many seeds; without one, 1
    where: tuple[str, str | None] | None = None  # of them, those with this setting
    search: str | None = None  # the study of the search, where it is another
    same_context: str | None = None  # count table of the same context
    best_table: str | None = None  # best Kneser-Ney table on the same split, scored likewise
    published: tuple[str, ...] = ()
    unit: str = "nats"  # or "perplexity", "%"
    readme: bool = False


NIETZSCHE, LOWER = "Nietzsche", "Nietzsche, lower case"
LESSON = f"{LOWER}, the lesson's cut"
SHAKESPEARE, MACHINE, SUMS = "tinyshakespeare", "*The Time Machine*", "sums"
MIXED_TABLE, LOWER_TABLE = "A1.nietzsche.best", "A1.nietzsche_lower.best"
SHAKESPEARE_TABLE = "A1.tinyshakespeare.best"

ROWS = (
    # the lowest of each text, and what others' recipes reach there
    Row(
        part="best",
        text=LOWER,
        chapter="07_lstm",
        label="LSTM 2 × 512, recorded",
        key="07.study.ours.mean",
        chosen=DEVELOPMENT,
        seeds="lstm_long",
        best_table=LOWER_TABLE,
        published=("fastai.lstm.valid",),
        readme=True,
    ),
    Row(
        part="best",
        text=LOWER,
        chapter="07_lstm",
        label="LSTM 2 × 512, settings searched anew, recorded",
        key="07.study.chosen.mean",
        chosen=DEVELOPMENT,
        seeds="lstm_chosen",
        best_table=LOWER_TABLE,
        readme=True,
    ),
    Row(
        part="best",
        text=LOWER,
        chapter="07_lstm",
        label="the fast.ai lesson's LSTM with our last epoch, recorded",
        key="07.study.source.mean",
        chosen=f"{PUBLISHED}; the last epoch on {FLATTERING}",
        seeds="lstm_source",
        best_table=LOWER_TABLE,
        readme=True,
    ),
    Row(
        part="best",
        text=LOWER,
        chapter="07_lstm",
        label="the fast.ai lesson's LSTM recipe, 80 epochs, recorded",
        key="07.study.source.l2-4",
        chosen=PUBLISHED,
        seeds="lstm_source",
        best_table=LOWER_TABLE,
        published=("fastai.lstm.valid",),
        readme=True,
    ),
    Row(
        part="best",
        text=LOWER,
        chapter="07_lstm",
        label="the same after 48 epochs, where it was lowest",
        key="07.study.source.l2-3",
        chosen=f"{PUBLISHED}; the epoch on {FLATTERING}",
        seeds="lstm_source",
        best_table=LOWER_TABLE,
    ),
    Row(
        part="best",
        text=LOWER,
        chapter="07_lstm",
        label="the same, the answers of its last three cycles averaged",
        key="07.average.source",
        chosen=f"{PUBLISHED}; the average on {FLATTERING}",
        seeds="lstm_source",
        best_table=LOWER_TABLE,
    ),
    Row(
        part="best",
        text=SHAKESPEARE,
        chapter="08_residual_gru",
        label="residual GRU 8 × 256, recorded",
        key="08.study.residual_long",
        chosen=FLATTERING,
        seeds="residual_long",
        best_table=SHAKESPEARE_TABLE,
        published=("nanogpt.gpu.valid",),
        readme=True,
    ),
    Row(
        part="best",
        text=f"{MACHINE}, nine tenths",
        chapter="A2_perplexity_lab",
        label="plain RNN, recorded",
        key="A2.study.low.90",
        chosen=DEVELOPMENT,
        seeds="perplexity_low",
        where=("cut", "90/10"),
        best_table="A2.table.90",
        unit="perplexity",
    ),
    Row(
        part="best",
        text=f"{MACHINE}, 10,032 letters",
        chapter="A2_perplexity_lab",
        label="plain RNN, recorded",
        key="A2.study.low.d2l",
        chosen=OTHER_LETTERS,
        seeds="perplexity_low",
        where=("cut", "d2l"),
        best_table="A2.table.d2l",
        unit="perplexity",
    ),
    # one chapter after the other
    Row(
        part="ladder",
        text=NIETZSCHE,
        chapter="01_one_hot_and_embedding",
        label="bigram table, trained",
        key="01.bigram.trained",
        chosen=NOTHING,
        same_context="A1.nietzsche.wb.1",
        best_table=MIXED_TABLE,
    ),
    Row(
        part="ladder",
        text=NIETZSCHE,
        chapter="02_three_char_model",
        label="three characters in, one out",
        key="02.model.valid",
        chosen=DEVELOPMENT,
        same_context="A1.nietzsche.wb.3",
        best_table=MIXED_TABLE,
    ),
    Row(
        part="ladder",
        text=NIETZSCHE,
        chapter="03_looped_rnn",
        label="the loop, input concatenated",
        key="03.concat.valid",
        chosen=DEVELOPMENT,
        same_context="03.table.wb8",
        best_table=MIXED_TABLE,
        published=("fastai.concat.valid",),
    ),
    Row(
        part="ladder",
        text=NIETZSCHE,
        chapter="03_looped_rnn",
        label="nn.RNN",
        key="03.rnn.valid",
        chosen=DEVELOPMENT,
        same_context="03.table.wb8",
        best_table=MIXED_TABLE,
        published=("fastai.rnn.valid",),
    ),
    Row(
        part="ladder",
        text=NIETZSCHE,
        chapter="04_multi_output",
        label="a loss at every step, the last step",
        key="04.last.valid",
        chosen=f"{UNTUNED}, chapter 3's rate",
        same_context="04.table8",
        best_table=MIXED_TABLE,
    ),
    Row(
        part="ladder",
        text=NIETZSCHE,
        chapter="04_multi_output",
        label="the same, mean of the eight steps",
        key="04.mean.valid",
        chosen=f"{UNTUNED}, chapter 3's rate",
        same_context="04.tables.mean",
        published=("fastai.multi.valid", "fastai.identity.valid"),
    ),
    Row(
        part="ladder",
        text=LOWER,
        chapter="05_stateful",
        label="RNN 256, state carried",
        key="05.rnn.valid",
        chosen=f"{DEVELOPMENT}, the steadier of the two best",
        seeds="rnn_steady",
        search="rnn_live",
        best_table=LOWER_TABLE,
        readme=True,
    ),
    Row(
        part="ladder",
        text=LESSON,
        chapter="06_gru",
        label="RNN 256 on the fast.ai lesson's cut, mean of the seeds",
        key="06.cut.rnn",
        chosen=f"{DEVELOPMENT} of our cut",
        seeds="lesson_cut",
        where=("core", "rnn"),
        search="rnn_live",
        best_table="A1.fastai_cut.best",
        published=("fastai.stateful.valid",),
    ),
    Row(
        part="ladder",
        text=LOWER,
        chapter="05_stateful",
        label="RNN 256, 20 epochs, recorded, mean of the seeds",
        key="05.study.rnn_long",
        chosen=DEVELOPMENT,
        seeds="rnn_long",
        best_table=LOWER_TABLE,
    ),
    Row(
        part="ladder",
        text=LOWER,
        chapter="06_gru",
        label="GRU 256",
        key="06.gru.valid",
        chosen=DEVELOPMENT,
        seeds="gru_live",
        best_table=LOWER_TABLE,
        readme=True,
    ),
    Row(
        part="ladder",
        text=LESSON,
        chapter="06_gru",
        label="GRU 256 on the fast.ai lesson's cut, mean of the seeds",
        key="06.cut.gru",
        chosen=f"{DEVELOPMENT} of our cut",
        seeds="lesson_cut",
        where=("core", None),
        search="gru_live",
        best_table="A1.fastai_cut.best",
        published=("fastai.gru.valid",),
        readme=True,
    ),
    Row(
        part="ladder",
        text=LOWER,
        chapter="06_gru",
        label="GRU 256, 14 epochs, recorded, mean of the seeds",
        key="06.study.gru_long",
        chosen=DEVELOPMENT,
        seeds="gru_long",
        best_table=LOWER_TABLE,
    ),
    Row(
        part="ladder",
        text=LOWER,
        chapter="07_lstm",
        label="LSTM 2 × 512, six epochs",
        key="07.lstm.valid",
        chosen=DEVELOPMENT,
        seeds="lstm_live",
        best_table=LOWER_TABLE,
        readme=True,
    ),
    Row(
        part="ladder",
        text=SHAKESPEARE,
        chapter="08_residual_gru",
        label="residual GRU, trained in the chapter",
        key="08.residual.valid",
        chosen=DEVELOPMENT,
        seeds="residual_live",
        best_table=SHAKESPEARE_TABLE,
        readme=True,
    ),
    # whole answers, and perplexities of the appendix
    Row(
        part="other",
        text=f"{SUMS} to two digits",
        chapter="09_arithmetic_tutor",
        label="GRU, pairs never taught: exact answers",
        key="09.gru.exact",
        chosen=UNTUNED,
        unit="%",
    ),
    Row(
        part="other",
        text=f"{SUMS} to three digits",
        chapter="09_arithmetic_tutor",
        label="GRU, pairs never taught, recorded: exact answers",
        key="09.study.three",
        chosen=UNTUNED,
        seeds="sums_three",
        unit="%",
    ),
    Row(
        part="other",
        text=f"{MACHINE}, 10,032 letters",
        chapter="A2_perplexity_lab",
        label="plain RNN 128, windows of 32 letters, as d2l scores; mean of three seeds",
        key="A2.rnn.home.windows.mean",
        chosen=OTHER_LETTERS,
        published=("d2l.embedding.valid",),
        unit="perplexity",
    ),
    Row(
        part="other",
        text=f"{MACHINE}, 10,032 letters",
        chapter="A2_perplexity_lab",
        label="the same networks, one stream; mean of three seeds",
        key="A2.rnn.home.mean",
        chosen=OTHER_LETTERS,
        best_table="A2.home.table",
        unit="perplexity",
    ),
    Row(
        part="other",
        text="*The War of the Worlds*",
        chapter="A2_perplexity_lab",
        label="the same network, one stream",
        key="A2.worlds.rnn",
        chosen=OTHER_LETTERS,
        best_table="A2.worlds.table",
        unit="perplexity",
    ),
    Row(
        part="other",
        text="*The Court of Spain*",
        chapter="A2_perplexity_lab",
        label="the same network, one stream",
        key="A2.spain.rnn",
        chosen=OTHER_LETTERS,
        best_table="A2.spain.table",
        unit="perplexity",
    ),
)


# ---- reading ----------------------------------------------------------------------------------


def load(name):
    return json.loads((ROOT / "book" / name).read_text(encoding="utf-8"))


def runs(study):
    """The lines of a recorded study; none where it has no file."""
    path = ROOT / "book" / "runs" / f"{study}.jsonl"
    texts = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(text) for text in texts]


def is_search(line):
    """Whether a run was scored on the development part only."""
    return bool(line["settings"].get("tune"))


def seeds(row):
    """One number for each seed of the final runs behind a row, in its unit.

    They differ in nothing but the seed; where several recipes were run, they are those of the
    recipe with the most seeds.
    """
    groups = {}
    for line in runs(row.seeds) if row.seeds else []:
        settings = dict(line["settings"])
        seed, ends = settings.pop("seed", 0), line.get("exact" if row.unit == "%" else "valid")
        wanted = row.where is None or settings.get(row.where[0]) == row.where[1]
        if ends and wanted and not is_search(line):
            end = math.exp(ends[-1]) if row.unit == "perplexity" else ends[-1]
            groups.setdefault(json.dumps(settings, sort_keys=True), {})[seed] = end
    return list(max(groups.values(), key=len, default={}).values())


def how_chosen(row):
    """How a row's settings were chosen; nothing passes for tuned whose search is not on record."""
    if row.seeds and row.chosen.startswith(DEVELOPMENT):
        searched = any(map(is_search, runs(row.search or row.seeds)))
        return row.chosen if searched and seeds(row) else FLATTERING
    return row.chosen


# ---- tables of results ------------------------------------------------------------------------


def number(value, unit="nats"):
    """A result as the tables print it."""
    if value is None:
        return "–"
    shown = {"nats": f"{value:.3f}", "perplexity": f"{value:.2f}", "%": f"{100 * value:.1f} %"}
    return shown[unit]


def table(header, rows):
    """A Markdown table; columns of numbers are for the caller to mark in `header` with a `:`."""
    rules = ["---:" if name.endswith(":") else "---" for name in header]
    lines = [[name.rstrip(":") for name in header], rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def chapter(row):
    return row.chapter.split("_")[0]


def counted(row):
    """How many seeds, and the range of their losses where there is more than one."""
    values = seeds(row)
    if len(values) < 2:
        return "1"
    low, high = number(min(values), row.unit), number(max(values), row.unit)
    return f"{len(values)}: {low} to {high}"


def figures(row, published):
    """The published figures without a word; † where they belong to another split than ours."""
    found = (published[key] for key in row.published)
    same = row.text == LESSON
    marks = [f"{p['value']}{'' if same or p['split'] in LIKE_OURS else ' †'}" for p in found]
    return ", ".join(marks) or "–"


def chosen_rows(results, part):
    return [row for row in ROWS if row.part == part and row.key in results]


def losses(results, row):
    """This book's number and its tables', as a row shows them."""
    keys = (row.key, row.same_context, row.best_table)
    return [number(results.get(key), row.unit) for key in keys]


def best_table(results, published):
    """The lowest loss of each text, what the sources' recipes reach, and what is published."""
    header = ["Model", "This book:", "Best table:", "Published:"]
    header += ["Settings chosen on", "Seeds", "Chapter"]
    rows = []
    for row in chosen_rows(results, "best"):
        mine, _, best = losses(results, row)
        unit = " (perplexity)" if row.unit == "perplexity" else ""
        where = [figures(row, published), how_chosen(row), counted(row), chapter(row)]
        rows.append([f"{row.text}: {row.label}", mine + unit, best + unit, *where])
    return table(header, rows)


def ladder_table(results, published):
    """Every chapter's own loss beside its floors and the published figures."""
    header = ["Chapter", "Model", "This book:", "Table, same context:", "Best table:"]
    header += ["Published:", "Settings chosen on", "Seeds"]
    rows = [
        [chapter(row), row.label, *losses(results, row)]
        + [figures(row, published), how_chosen(row), counted(row)]
        for row in chosen_rows(results, "ladder")
    ]
    return table(header, rows)


def other_table(results, published):
    """Headline numbers that are no losses: exact answers in percent, perplexities."""
    header = ["Chapter", "Text", "Model", "This book:", "Best table:", "Published:"]
    header += ["Settings chosen on", "Seeds"]
    rows = []
    for row in chosen_rows(results, "other"):
        mine, _, best = losses(results, row)
        theirs = figures(row, published)
        start = [chapter(row), row.text, row.label]
        rows.append([*start, mine, best, theirs, how_chosen(row), counted(row)])
    return table(header, rows)


def readme_table(results, published):
    """Ten rows: the lowest of each text first, then the ladder."""
    header = ["Model", "This book:", "Best count table:", "Published:"]
    header += ["Settings chosen on", "Seeds", "Chapter"]
    rows = []
    for row in (row for row in ROWS if row.readme and row.key in results):
        mine, _, best = losses(results, row)
        theirs = figures(row, published)
        label = f"{row.text.split(', the lesson')[0]}: {row.label}"
        rows.append([label, mine, best, theirs, how_chosen(row), counted(row), chapter(row)])
    return table(header, rows)


def published_table(_results, published):
    """All published figures the book quotes, with split and source."""
    header = ["Model", "Text", "Split", "Value:", "Unit", "Source", "Remark"]
    fields = ("model", "corpus", "split", "value", "unit", "source", "note")
    rows = [[str(p[field]) or "–" for field in fields] for p in published.values()]
    return table(header, rows)


def studies_table(_results, _published):
    """The recorded studies: what they ask, their runs, their looks, how long they took."""
    header = ["Command", "Question", "Search:", "Final:", "Looks:", "Minutes:"]
    rows = []
    for name, study in STUDIES.items():
        lines = runs(name)
        search = sum(map(is_search, lines))
        # `wall` of a run that was stopped and went on holds its last part only
        minutes = sum(max([line["wall"], *line.get("seconds", [])]) for line in lines) / 60
        counts = (search, len(lines) - search, looks(name))
        row = [f"`charlm study {name}`", study.question, *map(str, counts), f"{minutes:.0f}"]
        rows.append(row)
    return table(header, rows)


TEXTS = (  # label, name of the text, key of the GRU's loss after its last epoch
    ("60,000 characters of `python-docs`", "small", "own_text.small-dropout.valid.15"),
    ("`python-docs`", "python-docs", "own_text.docs.valid"),
    ("`tinyshakespeare`", "tinyshakespeare", "own_text.tinyshakespeare.valid"),
)


def texts_table(results, _published):
    """The three texts on the page about one's own: the best table beside a GRU."""
    header = ["Text", "Thousand characters to train on:", "Best table:", "GRU:"]
    rows = []
    for label, text, key in TEXTS:
        held_out = results[f"own_text.{text}.held_out"]  # a tenth of the text
        tables = [v for k, v in results.items() if k.startswith(f"own_text.{text}.kn.")]
        best = min(tables, default=None)
        rows.append([label, f"{9 * held_out / 1000:,.0f}", number(best), number(results[key])])
    return table(header, rows)


TABLES = {
    "texts": texts_table,
    "best": best_table,
    "ladder": ladder_table,
    "other": other_table,
    "readme": readme_table,
    "published": published_table,
    "studies": studies_table,
}


# ---- console blocks ---------------------------------------------------------------------------

NUM = r"(\d+\.\d+)"
LOSSES = rf" +{NUM} +{NUM} +{NUM}"
UNITS = ("bits", "perplexity")  # these follow from the loss on their line and have no key
# what a line of output looks like, and the key of each number in it but the label
PRINTED = (
    (
        rf"epoch (?P<label>\d+): training {NUM}, validation {NUM}, \d+ s",
        ("{run}.train.{label}", "{run}.valid.{label}"),
    ),
    (
        rf"validation {NUM} nats = {NUM} bits per character, perplexity {NUM}",
        ("{run}.valid", *UNITS),
    ),
    (
        r"\S+: ([\d,]+) characters to train on, ([\d,]+) held out, (\d+) distinct; "
        r"([\d,]+) parameters; .+",
        ("{run}.characters", "{run}.held_out", "{run}.distinct", "{run}.parameters"),
    ),
    (r"the last tenth of \S+, ([\d,]+) characters", ("{text}.held_out",)),
    (rf"this model{LOSSES}", ("{run}.valid", *UNITS)),
    (
        rf"(?P<label>uniform|unigram|\d-gram|bz2|xz)(?:, Kneser-Ney)?{LOSSES}",
        ("{text}.{label}", *UNITS),
    ),
    (rf"{NUM} nats per character", ("{run}.known",)),
    (NUM, ("{run}.valid",)),
)
LABELS = {"unigram": "kn.0"} | {f"{n}-gram": f"kn.{n - 1}" for n in range(2, 10)}  # as A1's keys


class Printed(NamedTuple):
    """A number in a console block: where it stands and what it is."""

    start: int
    end: int
    text: str
    key: str  # of results.json, or one of UNITS
    loss: str  # the key of the first number on its line


def names_of(command, before):
    """(run, text) that a `charlm` command is about; what it doesn't say is as before."""
    run, text = before
    words = shlex.split(command)
    if words[:2] == ["charlm", "train"]:
        text = Path(words[2]).stem
        run = Path(words[words.index("--out") + 1]).name if "--out" in words else text
    elif words[:2] == ["charlm", "eval"]:
        run, text = Path(words[2]).name, Path(words[3]).stem
    elif words[:2] == ["charlm", "floors"]:
        text = Path(words[2]).stem
    return run, text


def printed(block, name):
    """Every number of a console block that is a result. `name` is what it is about at first.

    Raises `ValueError` for a line with a decimal that no pattern of PRINTED knows.
    """
    found, names, writes, place = [], (name, name), False, 0
    for line in block.splitlines(keepends=True):
        text = line.rstrip("\n")
        if text.startswith("$ "):
            names, writes = names_of(text[2:].rstrip(" \\"), names), "charlm sample" in text
        elif text.startswith("    --out "):  # the second line of a command
            names = Path(text.split()[1]).name, names[1]
        elif not writes and not text.startswith("```"):
            found += [p._replace(start=p.start + place, end=p.end + place)
                      for p in numbers_of(text, names)]  # fmt: skip
        place += len(line)
    return found


def numbers_of(line, names):
    """The numbers of one line of output, with their keys."""
    run, text = names
    for pattern, keys in PRINTED:
        match = re.fullmatch(pattern, line)
        if match is None:
            continue
        label = match.groupdict().get("label")
        label = LABELS.get(label, label)
        keys = [
            key if key in UNITS else "own_text." + key.format(run=run, text=text, label=label)
            for key in keys
        ]
        groups = set(range(1, match.re.groups + 1)) - set(match.re.groupindex.values())
        places = zip(sorted(groups), keys, strict=True)
        return [Printed(*match.span(i), match[i], key, keys[0]) for i, key in places]
    if re.search(r"\d\.\d", line):
        raise ValueError(f"a number without a key: {line!r}")
    return []


def refilled(block, name, results):
    """A console block with its numbers as they are recorded."""
    pieces, place = [], 0
    for found in printed(block, name):
        pieces += [block[place : found.start], as_recorded(found, results)]
        place = found.end
    return "".join([*pieces, block[place:]])


def as_recorded(found, results):
    """The text of a number's recorded value, as wide as what stands there."""
    if found.key not in UNITS:
        value = results[found.key]
        places = len(found.text.split(".")[1]) if "." in found.text else 0
        agrees = float(f"{float(found.text.replace(',', '')):.5g}") == value  # as it is stored
    else:
        loss = results[found.loss]
        value, slope, places = loss / math.log(2), 1 / math.log(2), 4
        if found.key == "perplexity":
            value, slope, places = math.exp(loss), math.exp(loss), 3
        off = 0.5 * 10**-places + slope * 0.5e-4  # the loss is known to four places
        agrees = abs(float(found.text) - value) <= off * (1 + 1e-6)
    shown = found.text if agrees else f"{value:,.{places}f}"
    return shown.rjust(len(found.text))


# ---- pages ------------------------------------------------------------------------------------


def fill(text, tables, results=None):
    """`text` with what stands between each pair of markers replaced. Unknown names raise."""

    def block(match):
        name, old = match[1], match[2]
        if name.startswith("console_"):
            new = refilled(old, name.removeprefix("console_"), results)
        else:
            new = f"\n\n{tables[name]}\n\n"
        return f"<!-- begin:{name} -->{new}<!-- end:{name} -->"

    return BLOCK.sub(block, text)


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
        new = fill(old, tables, results)
        if new != old and not check:
            path.write_text(new, encoding="utf-8")
            print(f"{name}: rewritten")
        stale += [name] if new != old else []
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run `python book/tools/pages.py`", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
