"""`train_epochs` with all of its settings as keywords, as many tests want it."""

from pathlib import Path

from charlm_utils.optim import Recipe
from charlm_utils.training import Keep, train_epochs

OPTIONS = ("resume", "progress", "stop_after")


def fit(model, train, valid, *, checkpoint_dir=None, vocab=None, made=None, **settings):
    """Settings of `Recipe`, of `Keep` and of `train_epochs`, told apart."""
    options = {name: settings.pop(name) for name in OPTIONS if name in settings}
    keep = None if checkpoint_dir is None else Keep(Path(checkpoint_dir), vocab, made)
    return train_epochs(model, train, valid, Recipe(**settings), keep=keep, **options)
