"""The checkers of the exercises: right answers pass, each wrong one gets its hint, none raises."""

import importlib
from pathlib import Path

import answers
import pytest

CHAPTERS = sorted(
    path.stem for path in Path(answers.__file__).parent.glob("*.py") if path.stem != "__init__"
)
TABLE = {name: importlib.import_module(f"answers.{name}") for name in CHAPTERS}


def wrong_ones(chapter):
    """Pairs: what is told, and the answer."""
    wrong = TABLE[chapter].WRONG
    return list(wrong.items()) if isinstance(wrong, dict) else [(hint, a) for a, hint in wrong]


def cases(of):
    """One parameter for each answer of each chapter, with the chapter's checker."""
    return [
        pytest.param(TABLE[name].CHECK, *answer, id=f"{name}-{i}")
        for name in CHAPTERS
        for i, answer in enumerate(of(name))
    ]


def said(check, answer, capsys):
    """What the checker makes of an answer: its verdict, and the one line that it prints."""
    verdict, out = check(answer), capsys.readouterr().out
    assert out.count("\n") == 1
    return verdict, out.rstrip()


@pytest.mark.parametrize(("check", "answer"), cases(lambda name: [(a,) for a in TABLE[name].RIGHT]))
def test_right_answers_are_accepted(check, answer, capsys):
    assert said(check, answer, capsys) == (True, "right")


@pytest.mark.parametrize(("check", "hint", "answer"), cases(wrong_ones))
def test_wrong_answers_get_their_hint(check, hint, answer, capsys):
    verdict, line = said(check, answer, capsys)
    assert verdict is False and line.startswith("not yet: ") and hint in line


@pytest.mark.parametrize(
    ("check", "hint", "answer"),
    cases(lambda name: [(getattr(TABLE[name], "SAID", ""), a) for a in TABLE[name].NONSENSE]),
)
def test_nonsense_never_raises(check, hint, answer, capsys):
    verdict, line = said(check, answer, capsys)
    assert verdict is False and line.startswith("not yet: ") and hint in line


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_checker_tells_mistakes_apart(name, capsys):
    """Two wrong answers may be told the same; three different things at least are said."""
    wrong = wrong_ones(name)
    lines = {said(TABLE[name].CHECK, answer, capsys)[1] for _, answer in wrong}
    assert len(TABLE[name].RIGHT) >= 2 and len(lines) >= max(3, len(wrong) - 2)
