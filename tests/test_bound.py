"""Numbers in prose are bound to what they were measured as, and the binding can fail."""

import json
import math

import nbformat
import pytest
from book_reader import ROOT, tool

bound = tool("bound")
VALUES = {"06.gru": 1.34731, "05.rnn": 1.42519, "08.share": 0.04231, "05.count": 4798, "p.x": -0.5}
NO_CODE = frozenset()


def segment(text, *lines, constants=NO_CODE, outputs=""):
    """A piece of prose with these bindings."""
    found = bound.bindings("\n".join(lines))
    return bound.Segment("page.md", text, found, frozenset(constants), outputs)


def faults(text, *lines, **where):
    return bound.faults(segment(text, *lines, **where), VALUES)


# ---- the book ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def values():
    return bound.known_values()


each_page = pytest.mark.parametrize(
    "path", bound.pages(), ids=lambda path: path.relative_to(ROOT).as_posix()
)


@each_page
def test_numbers_are_what_they_are_bound_to(path, values, record_property):
    segments = bound.segments(path)
    assert [line for part in segments for line in bound.faults(part, values)] == []
    record_property("counted", f"{sum(len(part.bindings) for part in segments)} numbers bound")


@each_page
def test_a_bound_number_that_is_moved_is_noticed(path, values):
    """By one unit of its last place, up or down, whatever key or expression it is bound to."""
    missed = []
    for part in bound.segments(path):
        for number, meaning in part.bindings:
            if meaning in ("code", "output") or not settled(number, meaning, values):
                continue
            digits, unit = plain(number)
            for moved in (digits + unit, digits - unit):
                text = number.replace(plain_text(number), shown_like(moved, number))
                if bound.agrees(bound.Binding(text, meaning), part, values):
                    missed.append(f"{part.where}: {text} = {meaning}")
    assert missed == []


def plain_text(number):
    return number.rstrip(" %")


def plain(number):
    """Value and unit of the last place of "4,798" or "4.2 %"."""
    digits = plain_text(number).replace(",", "")
    return float(digits), 10.0 ** -len(digits.partition(".")[2])


def shown_like(value, number):
    return f"{value:.{len(plain_text(number).partition('.')[2])}f}"


def settled(number, meaning, values):
    """Whether there is one right way to round: not where five stored digits end in a 5."""
    try:
        value = abs(bound.evaluate(meaning, values))
    except (ValueError, SyntaxError):
        return False  # a fault, which the test above names
    digits, unit = plain(number)
    return abs(value - digits) < 0.499 * unit


@each_page
def test_filling_in_a_second_time_changes_nothing(path, values):
    if path.suffix == ".md":
        texts = [path.read_text(encoding="utf-8")]
    else:
        cells = nbformat.read(path, as_version=4).cells
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    for text in texts:
        try:
            once = bound.filled(text, values)
        except (ValueError, SyntaxError):
            continue  # a fault, which the test above names
        assert bound.filled(once, values) == once


def test_every_page_of_the_book_is_looked_at():
    names = {path.name for path in bound.pages()}
    assert {"README.md", "index.md", "own_text.md", "results.md", "reproducibility.md"} <= names
    assert len([name for name in names if name.endswith(".ipynb")]) >= 12


# ---- what counts as a number in prose ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("loss 1.70 here", ["1.70"]),
        ("(1.70), 1.71; 1.72.", ["1.70", "1.71", "1.72"]),
        ("from 1.70–1.72 to ≈1.74, −0.5", ["1.70", "1.72", "1.74", "0.5"]),
        ("`1.70` and $1.71$ and **1.72**", ["1.70", "1.71", "1.72"]),
        ("`lr=1.70`, $x = 1.71$, [a](b1.72.md), https://a.b/1.73", []),
        ("`--lr 1.70`, charlm train --dropout 0.3 --lr 4e-3", []),
        ("torch 2.13, torch 2.13.0, Python 3.11, PyTorch ≥ 2.6, arXiv 1504.00941", []),
        ("Exercise 3.1, section 9.5, Apache 2.0, CC BY 4.0", []),
        ("97.3 % of 1,003,854, and 12 % of 40", ["97.3 %", "12 %"]),
        ("97.3% and 97.3\u00a0% and 97.3\u202f%", ["97.3 %"] * 3),
        ("```\nloss 1.70\n```\nand 1.71", ["1.70", "1.71"]),  # what a fenced block shows, too
        ("| GRU | 1.347 |", ["1.347"]),
        ("<!-- begin:results -->\n| 1.347 |\n<!-- end:results -->\n1.5", ["1.5"]),  # pages.py's
        ("below the best table by 0.12 nats", ["0.12"]),  # no licence
        ("the best tables 4.58 and 6.88", ["4.58", "6.88"]),  # no cross-reference
        ("the figures 1.25 and 1.27 of two chapters", ["1.25", "1.27"]),
    ],
)
def test_numbers_in_prose(text, numbers):
    assert sorted(bound.printed_numbers(text)) == sorted(numbers)


def test_a_comment_is_no_prose():
    text = "a 1.5\n<!-- numbers\n1.5 = {06.gru}\n2.5 = code\n-->\nb 3.5"
    assert bound.printed_numbers(text) == ["1.5", "3.5"]


# ---- reading ----------------------------------------------------------------------------------


def test_a_comment_binds_what_stands_before_it():
    text = (
        "a 1.5\n\n<!-- numbers\n1.5 = {06.gru}\n-->\n\nb 2.5 %\n<!-- numbers\n2.5 % = code\n-->\nc"
    )
    assert [(t.strip(), found) for t, found in bound.parts(text)] == [
        ("a 1.5", [("1.5", "{06.gru}")]),
        ("b 2.5 %", [("2.5 %", "code")]),
        ("c", []),
    ]
    assert list(bound.parts("no comment 1.5")) == [("no comment 1.5", [])]


def test_lines_of_a_comment():
    lines = "1.5 = {a}\n\n0.08 = {a} - {b}\n4.2% = 100 * {c}\n28 = output\n"
    assert bound.bindings(lines) == [
        ("1.5", "{a}"),
        ("0.08", "{a} - {b}"),
        ("4.2 %", "100 * {c}"),
        ("28", "output"),
    ]
    for line in ("1.5", "1.5: {a}", "1.5={a}"):
        with pytest.raises(ValueError, match="no binding"):
            bound.bindings(line)


def notebook(*cells):
    """Cells as ("text" or "code", source, printed text, tags) in a notebook."""
    v4, made = nbformat.v4, []
    for kind, source, printed, *tags in cells:
        if kind == "text":
            made.append(v4.new_markdown_cell(source))
        else:
            outputs = [v4.new_output("stream", name="stdout", text=printed)] if printed else []
            made.append(v4.new_code_cell(source, outputs=outputs, metadata={"tags": tags}))
    return v4.new_notebook(cells=made)


def written(tmp_path, *cells):
    path = tmp_path / "x.ipynb"
    nbformat.write(notebook(*cells), path)
    return path


def test_a_notebook_is_read_with_its_code_and_outputs(tmp_path):
    comment = "\n<!-- numbers\n0.27 = output\n0.3 = code\n-->"
    path = written(
        tmp_path,
        ("code", "rate = 0.3", "0.27\n"),
        ("text", f"At 0.3 it is 0.27.{comment}", ""),
        ("code", "print(draw)", "0.99\n", "nbval-ignore-output"),
    )
    (part, rest) = bound.segments(path)
    assert part.where == "x.ipynb [1]" and rest.bindings == []
    assert part.constants == {0.3} and "0.27" in part.outputs
    assert "0.99" not in part.outputs  # a tagged cell is not compared
    assert bound.faults(part, {}) == []


def test_an_output_is_looked_for_nearby_only(tmp_path):
    far = [("code", f"{i}", f"0.{i}7\n") for i in range(12)]
    path = written(tmp_path, *far[:6], ("text", "here", ""), *far[6:])
    (part,) = bound.segments(path)
    near = {f"0.{i}7" for i in range(2, 10)}
    assert set(part.outputs.split()) == near


def test_constants_of_code():
    cells = notebook(
        ("code", "a, b = 0.3, -2\nc = True\nd = '0.9'", ""),
        ("code", "%matplotlib inline", ""),
        ("text", "0.7", ""),
    ).cells
    assert set(bound.constants(cells)) == {0.3, 2.0}


# ---- expressions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("{06.gru}", 1.34731),
        ("{05.rnn} - {06.gru}", 1.42519 - 1.34731),
        ("100 * ({05.rnn} / {06.gru} - 1)", 100 * (1.42519 / 1.34731 - 1)),
        ("exp({06.gru})", math.exp(1.34731)),
        ("log(85)", math.log(85)),
        ("log2(8) + sqrt(9) ** 2", 12.0),
        ("abs({p.x}) + -{p.x}", 1.0),
        ("min({06.gru}, {05.rnn}) + max(1, 2.5, 2)", 1.34731 + 2.5),
        ("{06.gru}*{06.gru}", 1.34731**2),
    ],
)
def test_expressions(expression, value):
    assert bound.evaluate(expression, VALUES) == pytest.approx(value)


@pytest.mark.parametrize(
    "expression",
    [
        "{no.such}",
        "{06.gru",
        "x",
        "_0 + 1",
        "'1.5'",
        "True",
        "{06.gru} if 1 else 2",
        "{06.gru} < 2",
        "{06.gru} % 1",
        "{06.gru} // 1",
        "~1",
        "[1][0]",
        "(1).real",
        "__import__('os')",
        "open('x')",
        "sum((1, 2))",
        "log(8, base=2)",
        "max(1, default=2)",
        "max(*{06.gru})",
        "(lambda: 1)()",
        "exp",
        "",
        "1 +",
        "1; 2",
        "1 / 0",
        "exp(1e6)",
        "log(-1)",
        "log()",
        "(-8) ** 0.5 * 1",
    ],
)
def test_nothing_else_is_evaluated(expression):
    """It is refused as a fault of the page: the tool does not break off, nothing is run."""
    with pytest.raises((ValueError, SyntaxError)):
        bound.evaluate(expression, VALUES)
    assert len(faults("of 1.5", f"1.5 = {expression}")) == 1


# ---- agreeing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "meaning", "good"),
    [
        ("1.347", "{06.gru}", True),
        ("1.35", "{06.gru}", True),
        ("1.3", "{06.gru}", True),
        ("1.346", "{06.gru}", False),
        ("1.348", "{06.gru}", False),
        ("1.34", "{06.gru}", False),  # rounded, not cut off
        ("1.3473", "{06.gru}", True),
        ("1.3474", "{06.gru}", False),
        ("0.08", "{05.rnn} - {06.gru}", True),
        ("0.08", "{06.gru} - {05.rnn}", True),  # prose says which is below
        ("0.07", "{05.rnn} - {06.gru}", False),
        ("4.2 %", "100 * {08.share}", True),
        ("4.2 %", "{08.share}", False),
        ("4 %", "100 * {08.share}", True),
        ("5 %", "100 * {08.share}", False),
        ("0.5", "{p.x}", True),
        ("4.44", "log(85)", True),
        ("4798", "{05.count}", True),
        ("4,798", "{05.count}", True),
        ("4,799", "{05.count}", False),
        ("1.425", "{06.gru}", False),  # another key's number
    ],
)
def test_a_number_agrees_with_its_key(printed, meaning, good):
    assert bound.agrees(bound.Binding(printed, meaning), segment(""), VALUES) is good


@pytest.mark.parametrize(
    ("printed", "good"),
    [("0.3", True), ("0.30", True), ("30 %", True), ("0.03", False), ("3 %", False), ("64", True)],
)
def test_a_setting_is_a_constant_of_the_code(printed, good):
    part = segment("", constants=(0.3, 64))
    assert bound.agrees(bound.Binding(printed, "code"), part, VALUES) is good
    assert not bound.agrees(bound.Binding(printed, "code"), segment(""), VALUES)  # a page has none


@pytest.mark.parametrize(
    ("printed", "good"),
    [
        ("1.35", True),
        ("1.3", False),
        ("1.351", False),
        ("0.35", False),
        ("11.35", False),
        ("74", True),
        ("4", False),
        ("97.3 %", True),
        ("7.3 %", False),
        ("4,798", True),
        ("798", False),
    ],
)
def test_an_output_holds_the_very_number(printed, good):
    part = segment("", outputs="loss 1.35, 74 of 90, 97.3% of 4,798")
    assert bound.agrees(bound.Binding(printed, "output"), part, VALUES) is good


@pytest.mark.parametrize(
    ("printed", "name", "good"),
    [
        ("1.5", "charlm_utils/ngram.py", True),  # a fallback discount
        ("1.6", "charlm_utils/ngram.py", False),
        ("2 %", "conftest.py", True),  # Decimal("0.02")
        ("7 %", "conftest.py", False),
        ("3.11", "pyproject.toml", True),
        ("3.12345", "pyproject.toml", False),
        ("3 %", "notebooks/08_residual_gru.ipynb", True),
    ],
)
def test_a_setting_may_stand_in_a_file(printed, name, good):
    assert bound.agrees(bound.Binding(printed, name), segment(""), VALUES) is good


def test_a_file_that_is_not_there_is_a_fault():
    (fault,) = faults("at 0.5", "0.5 = charlm_utils/no_such_file.py")
    assert "no file" in fault


@pytest.mark.parametrize("meaning", ["0.5", "100 * 0.005", "0.50"])
def test_a_number_bound_to_itself_is_a_fault(meaning):
    (fault,) = faults("at 0.5", f"0.5 = {meaning}")
    assert "bound to itself" in fault


def test_a_spread_has_a_key(values):
    key = next(
        key
        for key, spread in json.loads(
            (ROOT / "book" / "spreads.json").read_text(encoding="utf-8")
        ).items()
        if spread
    )
    assert values[f"±{key}"] > 0 and bound.evaluate(f"{{±{key}}}", values) == values[f"±{key}"]


def test_python_that_a_page_shows_needs_no_binding():
    shown = "```python\ncore = dropout(0.3)\n```\n"
    assert bound.printed_numbers(shown + "loss 1.35") == ["1.35"]
    assert bound.printed_numbers("```console\nloss 1.35\n```") == ["1.35"]


# ---- faults -----------------------------------------------------------------------------------


def test_what_is_right_has_no_fault():
    assert faults("GRU 1.347, share 4.2%, 28 times", "1.347 = {06.gru}", "4.2 % = 100*{08.share}",
                  "28 = output", outputs="28 times") == []  # fmt: skip
    assert faults("no number in 2024") == []


@pytest.mark.parametrize(
    ("text", "lines", "word"),
    [
        ("GRU 1.347", [], "is not bound"),
        ("GRU 1.347 and 1.5", ["1.347 = {06.gru}"], "1.5 is not bound"),
        ("GRU 4.2 %", ["4.2 = 100 * {08.share}"], "is not bound"),  # the sign is part of it
        ("GRU 1.348", ["1.348 = {06.gru}"], "is something else"),
        ("GRU 1.347", ["1.347 = {05.rnn}"], "is something else"),
        ("GRU 1.347", ["1.347 = {06.gur}"], "no key 06.gur"),
        ("GRU 1.347", ["1.347 = {06.gru} +"], "invalid syntax"),
        ("GRU 1.347", ["1.347 = code"], "is something else"),
        ("GRU 1.347", ["1.347 = output"], "is something else"),
        ("GRU", ["1.347 = {06.gru}"], "is not in the text"),
        ("GRU 11.347", ["1.347 = {06.gru}", "11.347 = 10 + {06.gru}"], "is not in the text"),
    ],
)
def test_faults_are_named(text, lines, word):
    found = faults(text, *lines)
    assert len(found) >= 1 and all(line.startswith("page.md: ") for line in found)
    assert any(word in line for line in found), found


@pytest.mark.parametrize(
    ("printed", "text", "there"),
    [
        ("1.5", "it is 1.5.", True),
        ("1.5", "it is 1.5, and", True),
        ("1.5", "1.55", False),
        ("1.5", "11.5", False),
        ("1.5", "1.5.2", False),
        ("4,798", "4,798 pairs", True),
        ("798", "4,798 pairs", False),
        ("4", "4,798 pairs", False),
        ("28", "28 characters", True),
        ("28", "128 characters", False),
        ("4.2 %", "4.2% of it", True),
        ("4.2 %", "4.2 of it", False),
        ("1.5", "<!-- numbers\n1.5 = code\n-->", False),
    ],
)
def test_stands_in(printed, text, there):
    assert bound.stands_in(printed, text) is there


# ---- filling in -------------------------------------------------------------------------------


def with_comment(text, *lines):
    return f"{text}\n\n<!-- numbers\n" + "\n".join(lines) + "\n-->\n"


def test_new_values_are_filled_in_with_as_many_places():
    old = with_comment("GRU 1.35 (1.3512), 5 %", "1.35 = {06.gru}", "1.3512 = {06.gru}",
                       "5 % = 100 * {08.share}", "0.3 = code")  # fmt: skip
    new = with_comment("GRU 1.35 (1.3473), 4 %", "1.35 = {06.gru}", "1.3473 = {06.gru}",
                       "4 % = 100 * {08.share}", "0.3 = code")  # fmt: skip
    assert bound.filled(old, VALUES) == new and bound.filled(new, VALUES) == new


def test_filling_in_goes_back_to_the_last_comment_only():
    first, second = with_comment("1.5", "1.5 = code"), with_comment("1.5", "1.5 = {06.gru}")
    assert bound.filled(first + second + "1.5", VALUES) == (
        first + with_comment("1.3", "1.3 = {06.gru}") + "1.5"
    )


def test_numbers_that_change_places_are_not_mixed_up():
    """One gets the value that another had: each keeps its own."""
    old = with_comment("first 1.34, then 1.35", "1.34 = {a}", "1.35 = {b}")
    new = with_comment("first 1.35, then 1.36", "1.35 = {a}", "1.36 = {b}")
    assert bound.filled(old, {"a": 1.35, "b": 1.36}) == new
    swapped = with_comment("first 1.35, then 1.34", "1.35 = {a}", "1.34 = {b}")
    assert bound.filled(old, {"a": 1.35, "b": 1.34}) == swapped


def test_alt_texts_are_bound_by_the_text_before_them(tmp_path, monkeypatch):
    comment = "\n<!-- numbers\n1.5 = {06.gru}\n-->"
    path = written(
        tmp_path,
        ("text", f"A plot.{comment}", ""),
        ("code", "rate = 1.5", ""),
        ("code", "# alt: It falls to 1.5, then to 2.5.\nplot()", ""),
        ("text", "no plot here", ""),
    )
    wrong = [line for part in bound.segments(path) for line in bound.faults(part, VALUES)]
    assert len(wrong) == 2 and "2.5 is not bound" in wrong[0] and "something else" in wrong[1]
    assert bound.fill(path, VALUES)
    cells = nbformat.read(path, as_version=4).cells
    assert cells[2].source == "# alt: It falls to 1.3, then to 2.5.\nplot()"
    assert cells[1].source == "rate = 1.5"  # code is no prose


def test_the_command_checks_and_fills(tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(with_comment("GRU 1.5", "1.5 = {06.gru}"), encoding="utf-8")
    path = written(tmp_path, ("text", with_comment("0.9", "0.9 = {05.rnn} - {06.gru}"), ""))
    monkeypatch.setattr(bound, "known_values", lambda: VALUES)
    assert bound.main([str(page), str(path)]) == 1
    err = capsys.readouterr().err
    assert "page.md: 1.5 = {06.gru}: is something else" in err and "x.ipynb [0]: 0.9" in err
    assert bound.main(["--fill", str(page), str(path)]) == 0
    assert "page.md: numbers written" in capsys.readouterr().out
    assert bound.main([str(page), str(path)]) == 0 and "GRU 1.3\n" in page.read_text()
    assert bound.segments(path)[0].bindings == [("0.1", "{05.rnn} - {06.gru}")]


def test_suggestions_are_keys_that_round_to_it(tmp_path, capsys, monkeypatch):
    path = written(tmp_path, ("code", "x = 0.3", "1.4\n"), ("text", "1.347, 4.2 %, 0.3, 9.9", ""))
    monkeypatch.setattr(bound, "known_values", lambda: VALUES)
    assert bound.main(["--suggest", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1.347 = {06.gru}" in out and "4.2 % = 100 * {08.share}" in out
    assert "0.3 = code" in out and "9.9 = ?" in out
