"""The tables of results and the console blocks: up to date, honest, and impossible to falsify."""

import json
import re

import pytest
from book_reader import NOTEBOOKS, ROOT, load_json, prose_pages, tool

pages = tool("pages")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A repository with one study, written by the function that is returned."""
    (tmp_path / "book" / "runs").mkdir(parents=True)
    monkeypatch.setattr(pages, "ROOT", tmp_path)

    def write(*lines):
        path = tmp_path / "book" / "runs" / "some.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    return write


def line(valid, **settings):
    return {"settings": settings, "valid": [] if valid is None else [9.0, valid]}


def row(**changed):
    common = {"part": "ladder", "text": "t", "chapter": "05_x", "label": "l", "key": "k"}
    return pages.Row(**common | {"chosen": pages.DEVELOPMENT, "seeds": "some"} | changed)


# ---- what stands there ------------------------------------------------------------------------


def test_pages_are_up_to_date(capsys):
    assert pages.main(["--check"]) == 0, capsys.readouterr().err


def test_rows_are_recorded():
    """A row whose notebook exists and whose study was run shows a number that is recorded."""
    results, published = load_json("results.json"), {p["key"] for p in load_json("published.json")}
    stems = {path.stem for path in NOTEBOOKS}
    for one in pages.ROWS:
        assert set(one.published) <= published
        if one.chapter in stems and (one.seeds is None or pages.seeds(one)):
            wanted = {one.key, one.same_context, one.best_table} - {None}
            assert wanted <= set(results), f"{one.label}: {wanted - set(results)} not recorded"


def test_rows_pair_like_with_like():
    published = {p["key"]: p for p in load_json("published.json")}
    units = {"nats": "nats per character", "perplexity": "perplexity"}
    corpora = {"Nietzsche": "nietzsche", "tinyshakespeare": "tinyshakespeare"}
    corpora["*The Time Machine*"] = "timemachine"
    for one in pages.ROWS:
        assert one.part in ("best", "ladder", "other") and one.chosen
        for figure in map(published.get, one.published):
            assert figure["corpus"] == corpora[one.text.split(",")[0]]
            assert figure["unit"] == units[one.unit] and figure["split"] != "training"
    assert "nanogpt.cpu.valid" not in {key for one in pages.ROWS for key in one.published}


def test_the_readme_has_at_most_ten_rows_and_the_sources_among_them():
    shown = [one.key for one in pages.ROWS if one.readme]
    assert len(shown) <= 10 and "07.study.source.mean" in shown


@pytest.mark.parametrize("path", prose_pages(), ids=lambda path: path.name)
def test_every_block_is_held_by_a_tool(path):
    """Numbers between begin and end are nobody else's business, so a tool must know the block."""
    for match in pages.BLOCK.finditer(path.read_text(encoding="utf-8")):
        if match[1].startswith("test_"):  # checklist.py
            continue
        assert match[1].startswith("console_") or match[1] in pages.TABLES
        assert path.relative_to(ROOT).as_posix() in pages.PAGES


def test_every_published_figure_is_cited():
    paths = [*NOTEBOOKS, *prose_pages(), *ROOT.glob("charlm_utils/**/*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    text += (ROOT / "book" / "tools" / "pages.py").read_text(encoding="utf-8")
    keys = [p["key"] for p in load_json("published.json")]
    assert len(keys) == len(set(keys))
    unused = [k for k in keys if not re.search(rf"(?<![\w.]){re.escape(k)}(?!\w|\.\w)", text)]
    assert unused == []


# ---- seeds and how settings were chosen -------------------------------------------------------


def test_a_study_that_is_not_there_is_one_seed(runs):
    assert pages.counted(row()) == pages.counted(row(seeds=None)) == "1"


def test_seeds_are_final_runs_of_one_recipe(runs):
    runs(
        line(1.1, lr=1, tune=True),
        line(1.2, lr=2, tune=True),
        line(1.41, lr=1),
        line(1.43, lr=1, seed=1),
        line(1.42, lr=1, seed=2),
        line(0.5, lr=2, label="tenth"),
        line(None, lr=3),
    )
    assert pages.counted(row()) == "3: 1.410 to 1.430"
    assert pages.counted(row(where=("lr", 2))) == "1"


def test_seeds_are_in_the_units_of_their_row(runs):
    runs(line(0.0), line(1.0, seed=1))
    assert pages.counted(row(unit="perplexity")) == "2: 1.00 to 2.72"
    shares = [{"exact": [0.2, 0.5]}, {"exact": [0.75]}]
    runs(*({"settings": {"seed": seed}} | found for seed, found in enumerate(shares)))
    assert pages.counted(row(unit="%")) == "2: 50.0 % to 75.0 %"


def test_nothing_passes_for_tuned_without_a_search(runs):
    assert pages.how_chosen(row()) == pages.FLATTERING  # no file
    runs(line(1.4))
    assert pages.how_chosen(row()) == pages.FLATTERING
    runs(line(1.3, tune=True))  # searched, but not yet run
    assert pages.how_chosen(row()) == pages.FLATTERING
    runs(line(1.3, tune=True), line(1.4))
    assert pages.how_chosen(row()) == pages.DEVELOPMENT
    steady = row(chosen=f"{pages.DEVELOPMENT}, the steadier of the two best")
    assert pages.how_chosen(steady) == steady.chosen
    assert pages.how_chosen(steady._replace(search="another")) == pages.FLATTERING
    assert pages.how_chosen(row(seeds=None)) == pages.DEVELOPMENT
    assert pages.how_chosen(row(chosen="as published")) == "as published"


def test_figures_of_another_split_are_marked():
    published = {
        "a": {"value": 1.5, "split": "90/10, contiguous"},
        "b": {"value": 1.25, "split": "by hand"},
    }
    assert pages.figures(row(published=("a", "b")), published) == "1.5, 1.25 †"
    assert pages.figures(row(), published) == "–"


# ---- console blocks ---------------------------------------------------------------------------

CONSOLE = """
```console
$ charlm train my.txt --epochs 2 \\
    --out runs/small
my.txt: 1,234 characters to train on, 137 held out, 9 distinct; 5,678 parameters; cpu, bf16
epoch 1: training 2.0000, validation 1.5000, 4 s
epoch 2: training 1.9000, validation 1.0000, 8 s
validation 1.0000 nats = 1.4427 bits per character, perplexity 2.718
in 8 s; the model is in runs/small; try: charlm sample runs/small
$ charlm sample runs/small --prompt "1.5"
1.5 and 2.75
$ charlm eval runs/small my.txt
the last tenth of my.txt, 137 characters
                           nats     bits  perplexity
this model               1.0000   1.4427       2.718
unigram                  0.5000   0.7213       1.649
3-gram, Kneser-Ney       0.2500   0.3607       1.284
bz2                      2.0000   2.8854       7.389
```
"""
VALUES = {
    "own_text.small.characters": 1234.0,
    "own_text.small.held_out": 137.0,
    "own_text.small.distinct": 9.0,
    "own_text.small.parameters": 5678.0,
    "own_text.small.train.1": 2.0,
    "own_text.small.train.2": 1.9,
    "own_text.small.valid.1": 1.5,
    "own_text.small.valid.2": 1.0,
    "own_text.small.valid": 1.0,
    "own_text.my.held_out": 137.0,
    "own_text.my.kn.0": 0.5,
    "own_text.my.kn.2": 0.25,
    "own_text.my.bz2": 2.0,
}


def test_a_console_block_is_known_number_by_number():
    found = pages.printed(CONSOLE, "diary")
    assert {p.key for p in found} - {"bits", "perplexity"} == set(VALUES)
    assert all(CONSOLE[p.start : p.end] == p.text for p in found)
    assert pages.refilled(CONSOLE, "diary", VALUES) == CONSOLE


def test_a_lone_number_belongs_to_the_blocks_name():
    found = pages.printed("```text\n0.2055\n a line\n```\n", "diary")
    assert [(p.key, p.text) for p in found] == [("own_text.diary.valid", "0.2055")]
    (found,) = pages.printed("0.1976 nats per character", "diary")
    assert found.key == "own_text.diary.known"


def test_a_number_that_no_pattern_knows_is_an_error():
    with pytest.raises(ValueError, match="without a key: 'loss 1.5'"):
        pages.printed("$ charlm floors my.txt\nloss 1.5\n", "my")


def falsified(text):
    """A number with one digit changed: the last but one, or the only one."""
    place = max(i for i, c in enumerate(text) if c.isdigit() and i < max(len(text) - 1, 1))
    return f"{text[:place]}{(int(text[place]) + 5) % 10}{text[place + 1 :]}"


def blocks():
    for name in pages.PAGES:
        for match in pages.BLOCK.finditer((ROOT / name).read_text(encoding="utf-8")):
            if match[1].startswith("console_"):
                yield match[1].removeprefix("console_"), match[2]


def test_no_number_of_a_console_block_can_be_changed():
    results, count = load_json("results.json"), 0
    for name, block in [("diary", CONSOLE), *blocks()]:
        values = VALUES if block is CONSOLE else results
        for found in pages.printed(block, name):
            wrong = block[: found.start] + falsified(found.text) + block[found.end :]
            assert pages.refilled(wrong, name, values) != wrong, found
            count += 1
    assert count > 100


def test_the_pages_floors_are_those_of_the_appendix():
    results = load_json("results.json")
    kinds = ("uniform", "bz2", "xz", *(f"kn.{k}" for k in range(7)))
    for kind in kinds:
        ours, theirs = (results[f"{p}.tinyshakespeare.{kind}"] for p in ("own_text", "A1"))
        assert abs(ours - theirs) <= 1e-4, kind
