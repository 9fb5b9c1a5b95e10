"""What the recorded studies run: for each, its question and the settings of its runs.

A study's points may depend on what is finished: the learning rate is chosen on the last
tenth of the training part (`tune`), then several seeds are run against the held-out text.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from charlm_utils.experiments import average_run, quotation_run, train_run

Line = dict  # one finished run, as `studies.load` reads it


@dataclass(frozen=True)
class Study:
    """A question, its budget in minutes on two cores, and its runs given the finished ones.

    `run(settings, folder=, stop_after=, fallback=)` makes one of them.
    """

    question: str
    minutes: int
    points: Callable[[list[Line]], list[dict]]
    run: Callable[..., dict] = train_run


def best_lr(lines: list[Line], keys: dict) -> float:
    """The learning rate with the lowest last loss among the tuning runs with these settings.

    Runs that diverged are not among them; raises `ValueError` where none is left.
    """
    runs = [line for line in lines if line["settings"].get("tune") and has(line, keys)]
    return best_line(runs)["settings"]["lr"]


def best_of(lines: list[Line], points: list[dict]) -> dict:
    """The point whose finished run has the lowest last loss.

    Runs that diverged are not among them; raises `ValueError` where none is left.
    """
    return best_line([line for line in lines if line["settings"] in points])["settings"]


def best_line(lines: list[Line]) -> Line:
    """The run with the lowest last loss of those that came to their end with a finite one.

    A run that diverged stops early, and the last loss it had may be the lowest of all. Raises
    `ValueError` where no run is sound.
    """
    sound = [line for line in lines if "diverged" not in line and math.isfinite(last_loss(line))]
    if not sound:
        raise ValueError(f"of {len(lines)} runs none came to its end with a finite loss")
    return min(sound, key=last_loss)


def last_loss(line: Line) -> float:
    """The loss after a run's last epoch, nats per character; nan where there is none."""
    return line["valid"][-1] if line["valid"] else math.nan


def has(line: Line, keys: dict) -> bool:
    """Whether a finished run has these settings."""
    return all(line["settings"].get(key) == value for key, value in keys.items())


# equal in hidden units, then (wider RNN, narrower LSTM) equal in parameters to the GRU
LADDER = [("rnn", 256), ("gru", 256), ("lstm", 256), ("rnn", 465), ("lstm", 217)]
LADDER_RATES = [2e-3, 4e-3, 8e-3]


def ladder(lines: list[Line]) -> list[dict]:
    """RNN, GRU and LSTM: learning rate tuned for each, then three seeds."""
    common = {"epochs": 4, "batch_size": 32, "seq_len": 32, "dropout": 0.1}
    models = [common | {"core": core, "hidden_size": size} for core, size in LADDER]
    tuning = [m | {"lr": lr, "tune": True} for m in models for lr in LADDER_RATES]
    if not all_done(tuning, lines):
        return tuning
    tuned = [m | {"lr": best_lr(lines, m)} for m in models]
    return tuning + [m | {"seed": seed} for seed in range(3) for m in tuned]


def bptt(lines: list[Line]) -> list[dict]:
    """The plain RNN cut every 1, 2, 4 … 128 characters, equal characters read."""
    common = {"core": "rnn", "epochs": 5, "batch_size": 64}
    lengths = [common | {"seq_len": length} for length in (128, 64, 32, 16, 8, 4, 2, 1)]
    tuning = [m | {"lr": lr, "tune": True} for m in lengths for lr in (1e-3, 2e-3, 4e-3)]
    if not all_done(tuning, lines):
        return tuning
    return tuning + [m | {"lr": best_lr(lines, m)} for m in lengths]


def identity(lines: list[Line]) -> list[dict]:
    """Identity or torch's start, tanh or ReLU, over five learning rates."""
    common = {"core": "rnn", "epochs": 4, "batch_size": 32}
    kinds = [
        common | {"start": start, "nonlinearity": nonlinearity}
        for start in ("torch", "identity")
        for nonlinearity in ("tanh", "relu")
    ]
    return [kind | {"lr": lr} for lr in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2) for kind in kinds]


TENTH = {"label": "tenth", "data_share": 0.1, "epochs": 3}

# source 003 as published: 8 characters a step, Adam at 1e-2, then cosine with warm restarts
LSTM_SOURCE = {
    "core": "lstm",
    "hidden_size": 512,
    "num_layers": 2,
    "embedding_dim": 42,
    "core_dropout": 0.5,
    "seq_len": 8,
    "lr": 1e-2,  # stuck at the loss of single characters without the 50 steps of warm-up
    "betas": [0.9, 0.999],
    "clip": None,
}

# one epoch at an even rate, with no dropout inside; the mean of the weights is what is kept
LSTM_MEAN = {"epochs": 1, "schedule": "constant", "lr": 2.5e-3, "average": 0.999}


def lstm_source(lines: list[Line]) -> list[dict]:
    """The source's LSTM: 2 epochs, cycles of 1+2+4+8, then of 1+2+4+8+16 and 32.

    Twice, since it says "weight decay": as AdamW means it today, which stops after 17 epochs,
    and as Adam meant it then (`l2`). `tenth`, of this study and the next, reads a tenth of
    the text: short enough to be repeated. `mean` is our own last epoch, on the source's network.
    """
    cold = {"label": "cold", "warmup_steps": 0, "epochs": 1, "schedule": "constant"}
    two, longer = {"epochs": 2, "schedule": "constant"}, {"epochs": 15, "schedule": [1, 2, 4]}
    adamw, adam = LSTM_SOURCE | {"weight_decay": 1e-5}, LSTM_SOURCE | {"l2": 1e-5}
    mean = LSTM_MEAN | {"label": "mean", "after": "l2-3", "core_dropout": 0.0}
    return [
        adamw | cold,
        adamw | two | {"label": "phase-1"},
        adamw | longer | {"label": "phase-2", "after": "phase-1"},
        adam | TENTH | {"schedule": "constant"},
        adam | two | {"label": "l2-1"},
        adam | longer | {"label": "l2-2", "after": "l2-1"},
        adam | {"label": "l2-3", "after": "l2-2", "epochs": 31, "schedule": [1, 2, 5]},
        adam | {"label": "l2-4", "after": "l2-3", "epochs": 32, "schedule": [32, 1, 1]},
        adam | mean,
    ]


# dropout in four places, a share of the recurrent weights among them, and decay as Adam had it
LSTM_OURS = {"core": "dropout-lstm", "hidden_size": 512, "num_layers": 2, "seq_len": 16}
LSTM_OURS |= {"input_dropout": 0.05, "between": 0.4, "dropout": 0.4}


def lstm_long(lines: list[Line]) -> list[dict]:
    """Our LSTM: cycles of 16 + 32 epochs, 32 more from half the rate, one with the mean kept.

    Its settings were compared by their held-out loss; `lstm_chosen` searches them anew.

    Beside it two runs of 48 epochs with twice as many updates: `many`, and `output`, which
    has the source's dropout between the layers, one on the output, and no other.
    """
    recipe = LSTM_OURS | {"batch_size": 64, "lr": 8e-3, "recurrent": 0.2, "l2": 2e-5}
    tenth = TENTH | {"batch_size": 16, "schedule": [3, 1, 1]}
    two = {"epochs": 48, "schedule": [16, 2, 2]}
    longer = {"label": "longer", "after": "cycles", "epochs": 32, "schedule": [32, 1, 1]}
    short = {"seq_len": 8, "lr": 1e-2, "l2": 1e-5}
    plain = {"core": "lstm", "hidden_size": 512, "num_layers": 2} | short
    mean = LSTM_MEAN | {"label": "mean", "after": "longer", "dropout": 0.4}
    return [
        recipe | two | {"label": "cycles"},
        recipe | longer | {"lr": 4e-3},
        recipe | tenth,
        LSTM_OURS | short | two | {"label": "many", "recurrent": 0.2, "dropout": 0.3},
        plain | two | {"label": "output", "core_dropout": 0.5, "dropout": 0.3},
        plain | mean,
    ]


def lstm_half(lines: list[Line]) -> list[dict]:
    """Half of the text, 24 epochs: what holds the network back from learning it by heart."""
    recipe = LSTM_OURS | {"data_share": 0.5, "epochs": 24, "batch_size": 128, "lr": 6e-3}
    return [
        recipe | {"label": "AdamW's decay", "recurrent": 0.2, "weight_decay": 0.05},
        recipe | {"label": "Adam's decay", "recurrent": 0.2, "l2": 3e-5},
        recipe | {"label": "Adam's, no recurrent dropout", "l2": 3e-5},
    ]


def quotations(lines: list[Line]) -> list[dict]:
    """When a quotation is first held open: after each cycle of `lstm_source` and `lstm_long`."""
    ends = {"l2-2": [3, 5, 9, 17], "l2-3": [18, 20, 24, 32, 48], "l2-4": [80]}
    ours = {"cycles": [16, 48], "longer": [80]}
    return [
        {"of": of, "label": label, "cycle": cycle, "epochs": epochs}
        for of, labels in (("lstm_source", ends), ("lstm_long", ours))
        for label, after in labels.items()
        for cycle, epochs in enumerate(after, start=1)
    ]


def lstm_average(lines: list[Line]) -> list[dict]:
    """The mean answer of the networks that `lstm_long` leaves: of one run, of two, of three."""
    one = ["cycles/cycle-1", "cycles/cycle-2", "longer/cycle-1", "mean"]
    two, three = ["mean", "many/cycle-2"], ["mean", "many/cycle-2", "output/cycle-2"]
    return [
        {"label": label, "members": [f"lstm_long/{name}" for name in names]}
        for label, names in {"one run": one, "two runs": two, "three runs": three}.items()
    ]


# source 003's GRU: Adam at 1e-3 for six epochs and 1e-4 for three, 8 characters a step
GRU_SOURCE = {"embedding_dim": 42, "seq_len": 8, "epochs": 9, "lr": 1e-3, "schedule": "step"}
GRU_SOURCE |= {"warmup_steps": 0, "betas": [0.9, 0.999], "clip": None}


def gru_race(lines: list[Line]) -> list[dict]:
    """The source's recipe and ours in turns, two seeds, to be run on a quiet machine."""
    ours = {"batch_size": 96, "seq_len": 12, "epochs": 4, "lr": 8e-3, "warmup_steps": 400}
    ours |= {"betas": [0.9, 0.97], "weight_decay": 0.1}
    return [point | {"seed": seed} for seed in range(2) for point in (GRU_SOURCE, ours)]


def all_done(points: list[dict], lines: list[Line]) -> bool:
    """Whether each of these points has a finished run."""
    return all(any(line["settings"] == point for line in lines) for point in points)


STUDIES = {
    "ladder": Study("At equal characters read, how far apart are RNN, GRU and LSTM?", 30, ladder),
    "bptt": Study("How long should the stretch between two cuts be?", 20, bptt),
    "identity": Study("When does an identity start help a plain RNN?", 10, identity),
    "gru_race": Study("How soon does a GRU reach the source's 1.3697?", 5, gru_race),
    "lstm_half": Study("What keeps an LSTM from learning the text by heart?", 20, lstm_half),
    "lstm_long": Study("What does an LSTM of 2 x 512 units reach?", 60, lstm_long),
    "lstm_source": Study("What does the source's LSTM reach on this split?", 60, lstm_source),
    "lstm_average": Study(
        "Whose mean is best: of one run's LSTMs or of several runs'?",
        5,
        lstm_average,
        run=average_run,
    ),
    "quotations": Study(
        "When does an LSTM hold a quotation open?", 5, quotations, run=quotation_run
    ),
}
