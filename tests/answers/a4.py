"""Appendix A4: right answers to its first exercise, wrong ones with their hint, and nonsense."""

import torch

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
    "assert": lambda model, x: False,  # a verdict is returned, and nothing asserted
    "an honest model is accused": lambda model, x: look(model, x, compared=slice(None)),
    "reads the whole window passes": lambda model, x: None,
    "a glance at the last one": lambda model, x: look(model, x, 3, slice(None, 3)),
    "a glance at the next character": lambda model, x: look(model, x, -1, slice(0, 1)),
    "must differ from the old one": lambda model, x: look(model, x, new=0),
    "call model.eval() first": lambda model, x: look(model, x, evaluate=False),
    "changed in place": lambda model, x: look(model, x, clone=False),
}

NONSENSE = [
    None,
    3,
    "a text",
    lambda: None,
    lambda model: None,
    lambda model, x: 1 / 0,
    lambda model, x: x.no_such_thing,
    lambda model, x: model(None),
]

CHECK = check_a4
RIGHT = [right, each_place_in_turn, by_cutting]
