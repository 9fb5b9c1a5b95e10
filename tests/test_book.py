"""The structure of the book: what STYLE can state as a test, over however many notebooks exist."""

import ast
import base64
import io
import re
import statistics

import nbformat
import pytest
from book_reader import (
    LONG,
    NOTEBOOKS,
    ROOT,
    code_cells,
    headings,
    is_chapter,
    markdown,
    notebook,
    number,
    prose_pages,
    table_of_contents,
    toc_files,
    tool,
    walk,
    without_code,
)

TAGS = {
    "nbval-ignore-output",
    "raises-exception",
    "hide-input",
    "hide-output",
    "hide-cell",
    "remove-input",
    "remove-output",
    "remove-cell",
    "scroll-output",
}
BOX = ("**You will build**", "**You will be able to**", "**You need**", "**Run time**")
CLOSING = ["Exercises", "References", "Summary"]
IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<target>[^)\s]+)[^)]*\)")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_page = pytest.mark.parametrize(
    "path", NOTEBOOKS + prose_pages(), ids=lambda path: path.relative_to(ROOT).as_posix()
)


# ---- table of contents ------------------------------------------------------------------------


def test_every_page_of_the_contents_exists_and_the_other_way_round():
    files = toc_files()
    assert len(files) == len(set(files)), "a page stands twice in _toc.yml"
    notebooks = {f"notebooks/{path.stem}" for path in NOTEBOOKS}
    pages = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")}
    assert set(files) == notebooks | pages


def test_chapters_are_numbered_as_they_stand():
    _, parts = table_of_contents()
    chapters = [name.split("/")[1].split("_")[0] for name in parts["Chapters"]]
    assert chapters == [f"{count:02}" for count in range(1, len(chapters) + 1)]
    appendices = [name.split("/")[1].split("_")[0] for name in parts.get("Appendices", [])]
    assert appendices == sorted(appendices) and all(re.fullmatch(r"A\d", a) for a in appendices)


# ---- shape of a chapter -----------------------------------------------------------------------


@each_notebook
def test_title_is_the_files_name(path):
    first = notebook(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    (title,) = headings(path, 1)
    if not is_chapter(path):
        letter, title = title.split(". ", 1)
        assert letter == number(path)
    slug = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
    assert f"{number(path)}_{slug}" == path.stem


@each_notebook
def test_opens_with_the_box(path):
    opening = [c.source for c in notebook(path).cells[:4] if c.cell_type == "markdown"]
    boxes = [text for text in opening if ":::{admonition} In this chapter" in text]
    assert len(boxes) == 1
    box = boxes[0].split(":::{admonition} In this chapter")[1].split("\n:::")[0]
    assert [label for label in BOX if label not in box] == []
    assert re.search(r"\d", box.split("**Run time**")[1]), "no run time"


@each_notebook
def test_closes_with_exercises_summary_and_references(path):
    seconds = headings(path, 2)
    assert sorted(seconds[-3:]) == CLOSING
    assert seconds[-1] == "References"
    assert all(seconds.count(name) == 1 for name in CLOSING)
    if is_chapter(path):
        summary = "\n".join(markdown(path)).split("\n## Summary", 1)[1].split("\n## ")[0]
        assert "still fails" in summary, "the summary does not say what still fails"


@each_notebook
def test_references_are_few_and_annotated(path):
    section = "\n".join(markdown(path)).split("\n## References", 1)[1]
    items = [re.sub(r"\s+", " ", item) for item in re.split(r"^- ", section, flags=re.M)[1:]]
    assert 3 <= len(items) <= 6
    for item in items:
        assert re.search(r"https?://|arXiv|doi", item), f"no address: {item}"
        assert len(re.sub(r"\(https?://[^)]*\)", "", item).split()) >= 10, f"not annotated: {item}"


@each_notebook
def test_size(path):
    cells = notebook(path).cells
    most, words, kilobytes = (110, 5000, 800) if number(path) in LONG else (70, 3500, 500)
    assert 35 <= len(cells) <= most
    assert len(" ".join(markdown(path)).split()) <= words
    assert path.stat().st_size <= kilobytes * 1000
    assert [i for i, cell in enumerate(cells) if not cell.source.strip()] == [], "empty cells"


@each_notebook
def test_code_cells_are_short(path):
    lengths = [code_lines(cell.source) for cell in code_cells(path)]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 40


def code_lines(source):
    """Lines that are not blank; what `# alt:` says about a picture is no code."""
    return sum(bool(li.strip()) and not li.startswith("# alt:") for li in source.splitlines())


# ---- stored outputs ---------------------------------------------------------------------------


@each_notebook
def test_stored_outputs_are_as_new_as_the_code(path):
    assert tool("run").is_fresh(notebook(path)), f"run `make run NB=notebooks/{path.name}`"


@each_notebook
def test_notebook_is_in_normal_form(path):
    again = nbformat.from_dict(notebook(path))
    again = nbformat.reads(nbformat.writes(again), as_version=4)
    tool("run").normalise(again)
    stored = path.read_text(encoding="utf-8")
    assert nbformat.writes(again) + "\n" == stored, "run book/tools/run.py --normalise-only"


@each_notebook
def test_execution_counts(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_outputs_hold_something_and_no_noise(path):
    for cell in code_cells(path):
        for out in cell.outputs:
            raises = "raises-exception" in cell.metadata.get("tags", [])
            assert out.output_type != "error" or raises, cell.source
            if out.output_type == "stream":
                assert out.name == "stdout" and out.text.strip(), cell.source
            elif out.output_type != "error":
                assert out.data and not any("widget" in mime for mime in out.data), cell.source


@each_notebook
def test_compared_outputs_hold_no_addresses(path):
    for cell in code_cells(path):
        if "nbval-ignore-output" not in cell.metadata.get("tags", []):
            assert not re.search(r"0x[0-9a-f]{6,}", output_text(cell)), cell.source


def output_text(cell):
    """All text a code cell has stored."""
    data = [out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return "\n".join([out.get("text", "") for out in cell.outputs] + data)


# ---- tags and code ----------------------------------------------------------------------------


@each_notebook
def test_tags(path):
    cells = notebook(path).cells
    assert {tag for cell in cells for tag in cell.metadata.get("tags", [])} <= TAGS
    assert not any(re.search(r"#\s*NBVAL_", cell.source) for cell in code_cells(path))


@each_notebook
def test_few_cells_are_left_uncompared_and_each_asserts(path):
    cells = code_cells(path)
    ignored = [c for c in cells if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert len(ignored) <= 0.15 * len(cells)
    for cell in ignored:
        nodes = ast.walk(tool("run").cell_tree(cell.source))
        claims = [n for n in nodes if isinstance(n, ast.Assert)]
        assert any(not isinstance(claim.test, ast.Constant) for claim in claims), cell.source


@each_notebook
def test_imports_are_plain(path):
    for node in walk(path):
        if isinstance(node, ast.ImportFrom):
            assert "*" not in [alias.name for alias in node.names]
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "sys.path"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("exec", "eval")


# ---- exercises --------------------------------------------------------------------------------


def exercises(path):
    """[(title, label)] of a notebook's exercises."""
    text = "\n".join(markdown(path))
    return re.findall(r"^:::+\{exercise\} *(.*)\n:label: *(\S+)$", text, re.MULTILINE)


@each_notebook
def test_exercises_have_stars_labels_and_solutions(path):
    text = "\n".join(markdown(path))
    found = exercises(path)
    assert 3 <= len(found) <= 6
    assert len(found) == len(re.findall(r"\{exercise\}", text)), "an exercise without a label"
    assert len({label for _, label in found}) == len(found)
    solved = re.findall(r"^:::+\{solution(?:-start)?\} *(\S+)$", text, re.MULTILINE)
    assert sorted(solved) == sorted(label for _, label in found)
    assert text.count("{solution-start}") == text.count("{solution-end}")
    for title, label in found:
        assert re.search(r"★{1,3}$", title), title
        assert label.startswith(f"ex-{number(path).lower()}-"), label
        at = text.index(f":label: {label}\n")
        assert re.search(rf"\{{solution(-start)?\}} *{label}\b", text[at:]), "solved before asked"


@each_notebook
def test_solutions_are_folded(path):
    text = "\n".join(markdown(path))
    for head in re.findall(r"^:::+\{solution(?:-start)?\}[^\n]*\n((?::\w+:.*\n)*)", text, re.M):
        assert ":class: dropdown" in head


@each_notebook
def test_the_first_cell_is_short(path):
    """A few imports by room; what one section needs is imported there."""
    shown = [c for c in code_cells(path) if "remove-cell" not in c.metadata.get("tags", [])]
    assert len(shown[0].source.splitlines()) <= 12
    assert "charlm_utils" in shown[0].source


@each_notebook
def test_first_exercise_has_a_checker(path):
    if not is_chapter(path):
        pytest.skip("an appendix")
    name = f"check_ch{number(path)}"
    trees = [
        ast.parse(module.read_text(encoding="utf-8"))
        for module in (ROOT / "charlm_utils" / "book" / "exercises").glob("*.py")
    ]
    defined = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert name in [node.name for node in defined]
    called = [n.func.id for n in walk(path) if isinstance(n, ast.Call) and hasattr(n.func, "id")]
    assert name in called
    assert any("not solved yet" in output_text(cell) for cell in code_cells(path))


# ---- pictures and links -----------------------------------------------------------------------


@each_notebook
def test_pictures(path):
    drawings = [m for text in markdown(path) for m in IMAGE.finditer(without_code(text))]
    plots = 0
    for cell in code_cells(path):
        pictures = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
        described = re.findall(r"^# alt: *(\S.*)$", cell.source, re.MULTILINE)
        assert len(described) == len(pictures), f"alt text of a plot: {cell.source}"
        assert all(len(text.split()) >= 4 for text in described), cell.source
        assert all(dots_per_inch(picture) <= 100.5 for picture in pictures), cell.source
        plots += len(pictures)
    assert len(drawings) + plots >= 2


def dots_per_inch(png):
    """Resolution that a base64-encoded PNG states; 0 if it states none."""
    from PIL import Image

    return max(Image.open(io.BytesIO(base64.b64decode(png))).info.get("dpi", (0, 0)))


@each_page
def test_images_have_alt_text_and_exist(path):
    for text in map(without_code, markdown(path)):
        for match in IMAGE.finditer(text):
            assert len(match["alt"].split()) >= 3, f"alt text of {match['target']}"
            if not match["target"].startswith("http"):
                assert (path.parent / match["target"]).is_file(), match["target"]
        for tag in HTML_IMAGE.findall(text):
            assert re.search(r'alt="[^"]+"', tag), tag


def test_every_figure_is_used():
    pages = [path for path in NOTEBOOKS + prose_pages()]
    text = "\n".join(text for path in pages for text in markdown(path))
    figures = [path.name for path in (ROOT / "book" / "figures").glob("*") if path.is_file()]
    assert [name for name in figures if f"figures/{name}" not in text] == []


@each_page
def test_links_inside_the_book_resolve(path):
    for text in map(without_code, markdown(path)):
        for match in LINK.finditer(text):
            target = match["target"].split("#")[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (path.parent / target).exists(), match[0]


def test_the_repositorys_address_is_one():
    import yaml

    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address = config["repository"]["url"]
    owner = address.rsplit("/", 1)[0].removeprefix("https://")
    named = [text for path in NOTEBOOKS + prose_pages() for text in markdown(path)]
    named += [cell.source for path in NOTEBOOKS for cell in code_cells(path)]
    for text in named:
        for found in re.findall(rf"{re.escape(owner)}/[\w.-]*\w", text):
            assert f"https://{found}".removesuffix(".git") == address


# ---- the tools --------------------------------------------------------------------------------


def test_code_hash_sees_meaning_and_not_layout():
    v4, run = nbformat.v4, tool("run")

    def hashed(*sources):
        return run.code_hash(v4.new_notebook(cells=[v4.new_code_cell(s) for s in sources]))

    assert hashed("x = 1  # one") == hashed("x=1\n")
    assert hashed("x = 1") != hashed("x = 2")
    assert hashed("x = 1", "y = 2") != hashed("y = 2", "x = 1")
    assert hashed("x = None") != hashed("x = []")


def test_corpora_of_a_notebook_are_found():
    v4, run = nbformat.v4, tool("run")

    def named(source):
        return run.corpora_needed(v4.new_notebook(cells=[v4.new_code_cell(source)]))

    assert named("c = load_corpus('nietzsche', fallback='python-docs')") == ["nietzsche"]
    assert named("for n in ('timemachine', 'x'):\n    corpora.load_corpus(n)") == ["timemachine"]
    assert named("load_corpus('my.txt')") == named("'nietzsche'") == []


def test_a_run_that_agrees_moves_nothing():
    """`run.py --keep`: by each output, as the tests compare it."""
    out, run = nbformat.v4.new_output, tool("run")
    stored = [out("stream", text="loss 1.412 ± 0.009"), out("stream", text="12 cells, 0.50")]
    new = [out("stream", text="loss 1.418 ± 0.009"), out("stream", text="13 cells, 0.50")]
    assert run.kept(stored, new) == [stored[0], new[1]]
    assert run.kept(stored, new[:1]) == new[:1] and run.kept([], new) == new
