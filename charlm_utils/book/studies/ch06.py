"""Chapter 6: the GRU."""

from typing import Any

from charlm_utils.book.studies.points import SEEDS, Line, Study, grid, searched

# the fast.ai lesson's GRU: Adam at 1e-3 for six epochs and 1e-4 for three, 8 characters a step
GRU_SOURCE = {"embedding_dim": 42, "seq_len": 8, "epochs": 9, "lr": 1e-3, "schedule": "step"}
GRU_SOURCE |= {"warmup_steps": 0, "betas": [0.9, 0.999], "clip": None}


def gru_race(lines: list[Line]) -> list[dict]:
    """The fast.ai lesson's recipe and ours in turns, two seeds, to be run on a quiet machine."""
    ours: dict[str, Any] = {"batch_size": 96, "seq_len": 12, "epochs": 4, "lr": 8e-3}
    ours |= {"warmup_steps": 400, "betas": [0.9, 0.97], "weight_decay": 0.1}
    return [point | {"seed": seed} for seed in range(2) for point in (GRU_SOURCE, ours)]


def gru_live(lines: list[Line]) -> list[dict]:
    """Chapter 6's GRU, about a minute of training."""
    common = {"epochs": 9, "seq_len": 16, "warmup_steps": 400}
    choices = {"lr": (4e-3, 6e-3, 9e-3, 1.3e-2), "dropout": (0.1, 0.2), "weight_decay": (0.0, 0.05)}
    return searched(lines, grid(common, choices))


def gru_long(lines: list[Line]) -> list[dict]:
    """The recipe of the model that comes with the package."""
    common = {"epochs": 14, "seq_len": 16, "warmup_steps": 400, "weight_decay": 0.05}
    return searched(lines, grid(common, {"lr": (6e-3, 9e-3), "dropout": (0.2, 0.3)}))


# the fast.ai lesson's own cut of Nietzsche: its first 493,747 of 600,893 characters
LESSON_CUT = 493_747.5 / 600_893


def lesson_cut(lines: list[Line]) -> list[dict]:
    """What `rnn_live` and `gru_live` found, trained and scored on the fast.ai lesson's own cut."""
    rnn = {"core": "rnn", "epochs": 10, "batch_size": 32, "lr": 8e-3}
    gru = {"epochs": 9, "seq_len": 16, "warmup_steps": 400, "lr": 9e-3, "dropout": 0.1}
    recipes = (rnn, gru | {"weight_decay": 0.05})
    return [
        recipe | {"train_share": LESSON_CUT, "seed": seed} for recipe in recipes for seed in SEEDS
    ]


STUDIES = {
    "gru_race": Study("How soon does a GRU reach the fast.ai lesson's 1.3697?", 5, gru_race),
    "gru_live": Study("What does a GRU of 256 units reach in a minute?", 20, gru_live),
    "gru_long": Study("What does a GRU of 256 units reach?", 20, gru_long),
    "lesson_cut": Study("What do they reach on the fast.ai lesson's cut?", 10, lesson_cut),
}
