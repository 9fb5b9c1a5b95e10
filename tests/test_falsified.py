"""Nobody can print a headline that no run has made.

Each number of the tables of results is made 0.02 better by hand, in a copy of the book, and in
every place at once: results.json, the tables and the prose of the pages, prose and stored outputs
of the notebooks. The copy has no seam; what objects is that a number can be computed again:

    lines    from the lines of its study in book/runs (study_keys.py)
    study    by the study that repeats a live network
    record   by the notebook that measures it: `record` compares, with the measured spread
    table    by counting again, where the corpus is at hand
"""

import functools
import json
import math
import os
import re
import shutil

import nbformat
import pytest
import study_keys
from book_reader import NOTEBOOKS, ROOT, number, prose_pages, tool, walk

from charlm_utils import corpora
from charlm_utils.book import results
from charlm_utils.corpora import CorpusUnavailable, load_corpus
from charlm_utils.data import CharVocab, letters_only, split_text
from charlm_utils.ngram import NGram

STEP = 0.02  # nats; of shares two hundredths, of perplexities two hundredths in nats
CLOSE = 0.01  # nats: what a study that repeats a live network may be off by at most
bound, pages = tool("bound"), tool("pages")


TRUE = json.loads((ROOT / "book" / "results.json").read_text(encoding="utf-8"))


def headlines():
    """{key: unit} of every number of this book in the tables of results, floors included."""
    found = {}
    for row in (row for row in pages.ROWS if row.key in TRUE):  # the others are not shown
        for key in (row.key, row.same_context, row.best_table):
            found |= {key: row.unit} if key else {}
    return found


HEADLINES = headlines()


def better(value, unit):
    """The number that somebody would rather have; more than all answers can't be right."""
    changed = value * math.exp(-STEP) if unit == "perplexity" else value - STEP
    changed = value + STEP if unit == "%" and value + STEP <= 1 else changed
    return float(f"{changed:.5g}")


# ---- count tables, counted again --------------------------------------------------------------


def nietzsche(text):
    return split_text(text, (0.8, 0.2))


def lower(text):
    return split_text(text.lower(), (0.8, 0.2))


def shakespeare(text):
    return split_text(text, (0.9, 0.1))


def machine(text):
    return split_text(letters_only(text), (0.9, 0.1))


def d2l(text):
    return letters_only(text)[:10_032], letters_only(text)[10_000:15_032]


def abroad(text, other):
    return letters_only(text)[:10_032], letters_only(other)[10_000:15_032]


WITTEN_BELL = {"smoothing": "witten-bell"}
WORLDS, SPAIN = "war_of_the_worlds", "secret_history_court_of_spain"
# key: the corpora, how they are cut, contexts (the mean of their losses), and how counts are used
COUNTED = {
    "A1.nietzsche.best": (("nietzsche",), nietzsche, (6,), {}),
    "A1.nietzsche.wb.1": (("nietzsche",), nietzsche, (1,), WITTEN_BELL),
    "A1.nietzsche.wb.3": (("nietzsche",), nietzsche, (3,), WITTEN_BELL),
    "03.table.wb8": (("nietzsche",), nietzsche, (8,), WITTEN_BELL),
    "04.table8": (("nietzsche",), nietzsche, (8,), {}),
    "04.tables.mean": (("nietzsche",), nietzsche, range(1, 9), {}),
    "A1.nietzsche_lower.best": (("nietzsche",), lower, (6,), {}),
    "A1.tinyshakespeare.best": (("tinyshakespeare",), shakespeare, (6,), {}),
    "A2.table.90": (("timemachine",), machine, (6,), {}),
    "A2.table.d2l": (("timemachine",), d2l, (7,), {}),
    "A2.home.table": (("timemachine",), d2l, (7,), {}),
    "A2.worlds.table": (("timemachine", WORLDS), abroad, (7,), {}),
    "A2.spain.table": (("timemachine", SPAIN), abroad, (5,), {}),
}


@functools.cache
def counted_table(names, cut, context):
    """A table of that context on a split, and the ids of the held-out part."""
    train, held_out = cut(*(load_corpus(name).text for name in names))
    vocab = CharVocab.from_text(train + held_out)
    return NGram(vocab.encode(train), len(vocab), context), vocab.encode(held_out).numpy()


def counted(key):
    """A floor, counted again. Raises `CorpusUnavailable`."""
    names, cut, contexts, options = COUNTED[key]
    table, ids = counted_table(names, cut, 8)
    loss = sum(table.loss(ids, context=k, **options) for k in contexts) / len(contexts)
    return math.exp(loss) if HEADLINES.get(key) == "perplexity" else loss


def is_counted(key, value):
    """Whether a floor is what counting gives, to the fifth digit (some are of rounded numbers)."""
    return abs(value - counted(key)) < 2 * results.rounding(value)


# ---- who objects ------------------------------------------------------------------------------


def lines_object(key, here):
    """The lines of its study say something else."""
    return study_keys.entry(key) is not None and here[key] != study_keys.computed(key)


def study_objects(key, here):
    """The run that repeats it, of a study, says something else."""
    again = study_keys.repeated(key)
    if again is None or not measured(key):
        return False
    return abs(again - here[key]) > min(results.tolerance(key), CLOSE)


def record_objects(key, here):
    """Its notebook, run again under the tests, gives what it gave, and `record` compares.

    Only where `make anywhere` has measured how far the number moves: otherwise the notebook
    that prints it was never run as the tests run it.
    """
    if not measured(key) or not records(key):
        return False
    try:
        results.record(key, TRUE[key])
    except AssertionError:
        return True
    return False


def table_objects(key, here):
    """A table that is counted again says something else."""
    try:
        return key in COUNTED and not is_counted(key, here[key])
    except CorpusUnavailable:
        return False


CHECKS = {
    "lines": lines_object,
    "study": study_objects,
    "record": record_objects,
    "table": table_objects,
}


def objections(key):
    """The checks to which a number of the book that is looked at is not what a run has made."""
    here = results._load("results.json")
    return [name for name, objects in CHECKS.items() if objects(key, here)]


def measured(key):
    return key in results._load("spreads.json")


@functools.cache
def recorded_strings(path):
    """What a notebook's code may pass to `record`: its strings, f-strings as patterns."""
    strings = set()
    for node in walk(path):
        if node.__class__.__name__ == "JoinedStr":
            parts = (getattr(part, "value", None) for part in node.values)
            strings.add("".join(re.escape(p) if isinstance(p, str) else r"[\w.-]+" for p in parts))
        elif isinstance(getattr(node, "value", None), str):
            strings.add(re.escape(node.value))
    return strings


def records(key):
    """The notebook of the key's chapter, if its code names the key."""
    own = [path for path in NOTEBOOKS if number(path) == key.split(".")[0]]
    named = [p for p in own if any(re.fullmatch(s, key) for s in recorded_strings(p))]
    return named[0] if named else None


# ---- a copy without a seam --------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of all that prints or holds numbers."""
    folder = tmp_path_factory.mktemp("copy")
    for path in [*prose_pages(), *NOTEBOOKS, *(ROOT / "book").glob("*.json")]:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(ROOT / "book" / "runs", folder / "book" / "runs")
    if not (folder / "book" / "spreads.json").is_file():
        (folder / "book" / "spreads.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def book(copy, monkeypatch):
    """The copy as the book that is looked at; whatever a test changes in it is put back."""
    monkeypatch.setattr(results, "_PACKAGE", copy / "charlm_utils")
    monkeypatch.setattr(corpora, "_stand_ins", [])
    monkeypatch.setattr(pages, "ROOT", copy)
    for name in ("CHARLM_RECORD", "CHARLM_MEASURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHARLM_CHECK", "1")
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    if data := os.environ.get("CHARLM_DATA"):
        monkeypatch.setenv("CHARLM_DATA", str((ROOT / data).resolve()))
    changed = {}

    def write(path, text):
        changed.setdefault(path, path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")

    yield copy, write
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")


def falsify(book, key, value):
    """Put `value` in the place of the number wherever the copy holds it or prints it."""
    copy, write = book
    path = copy / "book" / "results.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    old, known[key] = known[key], value
    write(path, json.dumps(known, indent=1) + "\n")
    values = bound.known_values(copy)
    for path in [*copy.glob("*.md"), *copy.glob("book/*.md"), *copy.glob("notebooks/*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            new = falsified_notebook(text, key, (old, value), values)
        else:
            new = refilled(text, key, values)
        if new != text:
            write(path, new)
    for name in pages.PAGES:  # as `make run` would
        write(copy / name, (copy / name).read_text(encoding="utf-8"))
    pages.main([])
    return values


def refilled(text, key, values, changes=None):
    """Prose with new values wherever the key is part of what its numbers are bound to."""
    pieces, start = [], 0
    for match in bound.COMMENT.finditer(text):
        stretch = text[start : match.end()]
        if f"{{{key}}}" in match[0]:
            stretch = bound.filled(stretch, values, changes)
        pieces.append(stretch)
        start = match.end()
    return "".join([*pieces, text[start:]])


def falsified_notebook(text, key, values, all_values):
    """A notebook with its prose filled in anew and its outputs as if it had measured the value."""
    if key not in text and f'"{key.split(".")[0]}.' not in text:
        return text
    nb = nbformat.reads(text, as_version=4)
    for place, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            changes = {}
            cell.source = refilled(cell.source, key, all_values, changes)
            for code in bound.following(nb.cells, place):
                bound.fill_alt_texts(code, changes)
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = reprinted(output.text, *values)
    return nbformat.writes(nb) + "\n"


def seams(copy, key, values):
    """Faults of the copy's prose in what is bound to the key."""
    paths = [*copy.glob("*.md"), *copy.glob("book/*.md"), *copy.glob("notebooks/*.ipynb")]
    named = [path for path in paths if f"{{{key}}}" in path.read_text(encoding="utf-8")]
    faults = (bound.faults(part, values) for path in named for part in bound.segments(path))
    return [line for found in faults for line in found if f"{{{key}}}" in line]


def reprinted(text, old, new):
    """What a cell would have printed: two to four places, or percent with one."""
    for places in (2, 3, 4):
        before, after = (f"{value:.{places}f}" for value in (old, new))
        text = re.sub(rf"(?<![\d.]){re.escape(before)}(?!\d)", after, text)
    before, after = (f"{value:.1%}" for value in (old, new))
    return text.replace(before, after)


# ---- the tests --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", HEADLINES)
def test_a_falsified_headline_is_noticed(key, book, record_property):
    copy, _ = book
    assert objections(key) == [], "nobody changed it, and still a check objects"
    value = better(TRUE[key], HEADLINES[key])
    values = falsify(book, key, value)
    assert results.result(key) == value
    assert pages.main(["--check"]) == 0 and seams(copy, key, values) == []
    noticed = objections(key)
    spread = f"its spread is {results.spread(key)}" if measured(key) else "its spread is not known"
    assert noticed, f"{key}: {value} for {TRUE[key]} passes every check; {spread}"
    print(f"{key}: {value} for {TRUE[key]} is noticed by: {', '.join(noticed)}")
    record_property("counted", "1 headlines falsified and noticed")
    if {"record", "study", "table"} & set(noticed) and study_keys.entry(key) is None:
        record_property("counted", "1 headlines repeated")


@pytest.mark.parametrize("key", COUNTED)
def test_floors_are_counted_again(key, book):
    try:
        assert is_counted(key, TRUE[key])
    except CorpusUnavailable as error:
        pytest.skip(f"the corpus is not at hand: {error}")
    assert not is_counted(key, better(TRUE[key], HEADLINES.get(key, "nats")))


def test_every_headline_is_recorded_by_its_chapter_or_its_study():
    for key in HEADLINES:
        assert records(key) or study_keys.entry(key), key
    assert set(COUNTED) <= set(HEADLINES) and len(HEADLINES) > 30


def test_the_copy_is_falsified_everywhere(book):
    """What the tests above rest on: pages, prose and outputs all say the new number."""
    copy, _ = book
    key, old, new = "06.gru.valid", TRUE["06.gru.valid"], better(TRUE["06.gru.valid"], "nats")
    name = next(path.name for path in NOTEBOOKS if number(path) == "06")
    before = (copy / "notebooks" / name).read_text(encoding="utf-8")
    assert f"{old:.3f} nats" in before
    falsify(book, key, new)
    for path in (copy / "README.md", copy / "book" / "results.md", copy / "notebooks" / name):
        text = path.read_text(encoding="utf-8")
        assert f"{new:.3f}" in text, path.name
    assert f"{old:.3f} nats" not in (copy / "notebooks" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(1.3473, "nats", 1.3273), (5.4352, "perplexity", 5.3276), (1.0, "%", 0.98), (0.9, "%", 0.92)],
)
def test_better(value, unit, expected):
    assert better(value, unit) == expected


@pytest.mark.parametrize(
    ("spread", "noticed"), [(0.0, True), (0.0199, True), (0.0201, False), (None, False)]
)
def test_record_objects_unless_the_spread_is_as_wide(book, spread, noticed):
    """A headline that moves from machine to machine by as much as the change can't be one."""
    copy, write = book
    path, key = copy / "book" / "spreads.json", "06.gru.valid"
    write(path, json.dumps({} if spread is None else {key: spread}))
    falsify(book, key, better(TRUE[key], "nats"))
    assert record_objects(key, results._load("results.json")) is noticed


def test_a_study_that_repeats_it_objects(book, monkeypatch, tmp_path):
    copy, write = book
    key, line = "06.gru.valid", {"settings": {"seed": 0}, "valid": [9.0, TRUE["06.gru.valid"]]}
    write(copy / "book" / "spreads.json", json.dumps({key: 0.05}))  # wide, but no more than 0.01
    (tmp_path / "gru_live.jsonl").write_text(json.dumps(line), encoding="utf-8")
    monkeypatch.setattr(study_keys, "RUNS", tmp_path)
    assert objections(key) == []
    falsify(book, key, better(TRUE[key], "nats"))
    assert objections(key) == ["study"]
