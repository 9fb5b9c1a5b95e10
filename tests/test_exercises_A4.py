"""The checker of appendix A4: it judges tests, by models that look ahead and models that don't."""

import pytest
import torch
from checker_cases import accepted, rejected

from charlm_utils.book.exercises.a4 import check_a4


def look(model, x, place=-1, compared=slice(None, -1), new=None, clone=True, evaluate=True):
    """A test of the shape in the book, with a switch for each way to get it wrong."""
    if evaluate:
        model.eval()
    before, _ = model(x)
    changed = x.clone() if clone else x
    changed[:, place] = (x[:, place] + 1) % before.shape[-1] if new is None else new
    after, _ = model(changed)
    assert torch.allclose(before[:, compared], after[:, compared])


def right(model, x):
    look(model, x)


def each_place_in_turn(model, x):
    for t in range(1, x.shape[1]):
        look(model, x, t, slice(None, t))


def by_cutting(model, x):
    """The same question without another character: the second time without the last."""
    model.eval()
    assert torch.allclose(model(x)[0][:, :-1], model(x[:, :-1])[0])


WRONG = {
    "an honest model is accused": lambda model, x: look(model, x, compared=slice(None)),
    "reads the whole window passes": lambda model, x: None,
    "a glance at the last one": lambda model, x: look(model, x, 3, slice(None, 3)),
    "a glance at the next character": lambda model, x: look(model, x, -1, slice(0, 1)),
    "must differ from the old one": lambda model, x: look(model, x, new=0),
    "call model.eval() first": lambda model, x: look(model, x, evaluate=False),
    "changed in place": lambda model, x: look(model, x, clone=False),
}


@pytest.mark.parametrize("answer", [right, each_place_in_turn, by_cutting])
def test_right_answers_are_accepted(answer, capsys):
    accepted(check_a4, answer, capsys)


@pytest.mark.parametrize(("hint", "answer"), WRONG.items(), ids=list(WRONG))
def test_wrong_answers_get_their_hint(hint, answer, capsys):
    rejected(check_a4, answer, capsys, hint)


@pytest.mark.parametrize(
    "answer",
    [None, 3, "a text", lambda: None, lambda model: None, lambda model, x: 1 / 0,
     lambda model, x: x.no_such_thing, lambda model, x: model(None)],
)  # fmt: skip
def test_nonsense_never_raises(answer, capsys):
    rejected(check_a4, answer, capsys)


def test_a_test_that_returns_its_verdict_is_not_one(capsys):
    rejected(check_a4, lambda model, x: False, capsys, "assert")
