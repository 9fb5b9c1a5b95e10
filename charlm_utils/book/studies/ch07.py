"""Chapter 7: the LSTM."""

from pathlib import Path

from charlm_utils.book.studies.points import (
    Line,
    Study,
    all_done,
    best_lr,
    best_of,
    grid,
    lowest,
    searched,
)
from charlm_utils.book.studies.runs import load_batches
from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.corpora import load_corpus
from charlm_utils.data import split_text
from charlm_utils.device import pick_device
from charlm_utils.memory import closing_marks
from charlm_utils.models import Ensemble
from charlm_utils.training import evaluate

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


TENTH = {"label": "tenth", "data_share": 0.1, "epochs": 3}


# the fast.ai lesson as published: 8 characters a step, Adam at 1e-2, then cosine with warm restarts
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
    """The fast.ai lesson's LSTM: 2 epochs, cycles of 1+2+4+8, then of 1+2+4+8+16 and 32.

    Twice, since it says "weight decay": as AdamW means it today, which stops after 17 epochs,
    and as Adam meant it then (`l2`). `tenth`, of this study and the next, reads a tenth of
    the text: short enough to be repeated. `mean` is our own last epoch, on the lesson's network.
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
    has the lesson's dropout between the layers, one on the output, and no other.
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


SPANS = [(0, 8), (8, 16), (16, 40), (40, 160)]  # lengths of quotations, in characters


def quotation_run(
    settings: dict,
    *,
    folder: Path | None = None,
    stop_after: int | None = None,
    fallback: str | None = None,
) -> dict:
    """What a checkpoint of another study makes of quotations (`closing_marks`, by `SPANS`).

    `settings` name it: `of` (the study), `label` and `cycle`; it is looked for beside `folder`,
    where that study left it. Returns `marks` and `valid`, its held-out loss, on the lower-cased
    Nietzsche. Raises `CheckpointError` where the study has not been run, and `ValueError` without
    a `folder`. Nothing is trained: `stop_after` and `fallback` are not used.
    """
    s, device, runs = settings, pick_device(), _other_studies(folder)
    model, vocab, _ = load_checkpoint(runs / s["of"] / s["label"] / f"cycle-{s['cycle']}")
    assert vocab is not None  # `train_run` saves it
    _, valid, _ = load_batches({}, device)
    text = load_corpus("nietzsche").text.lower()
    held_out = split_text(text, (0.8, 0.2))[1]
    loss = evaluate(model.to(device), valid)
    return {"valid": [loss], "marks": closing_marks(model, vocab, held_out, SPANS)}


def average_run(
    settings: dict,
    *,
    folder: Path | None = None,
    stop_after: int | None = None,
    fallback: str | None = None,
) -> dict:
    """The held-out loss of the mean answer (`Ensemble`) of checkpoints of other studies.

    `settings["members"]` name them, as "study/label" or "study/label/cycle-1"; they are looked
    for beside `folder`, where those studies left them. Returns `valid`, on the lower-cased
    Nietzsche. Raises `CheckpointError` where a study has not been run, and `ValueError` without
    a `folder`. Nothing is trained: `stop_after` and `fallback` are not used.
    """
    device, runs = pick_device(), _other_studies(folder)
    models = [load_checkpoint(runs / name)[0].to(device) for name in settings["members"]]
    _, valid, _ = load_batches({}, device)
    return {"valid": [evaluate(Ensemble(models).eval(), valid)]}


def _other_studies(folder: Path | None) -> Path:
    """The folder in which each study has its own, seen from one run's."""
    if folder is None:
        raise ValueError(
            "this run reads checkpoints of other studies, which lie beside its own study's "
            "folder: it can't be run again by itself"
        )
    return folder.parents[1]


def lstm_live(lines: list[Line]) -> list[dict]:
    """Chapter 7's LSTM, two cycles of 2 + 4 epochs."""
    common = {"core": "dropout-lstm", "hidden_size": 512, "num_layers": 2, "batch_size": 32}
    common |= {"seq_len": 16, "epochs": 6, "schedule": [2, 2, 2], "forget_bias": 1.0}
    common |= {"input_dropout": 0.05, "dropout": 0.3, "weight_decay": 0.02}
    return searched(lines, grid(common, {"lr": (4e-3, 6e-3), "between": (0.15, 0.25)}))


def lstm_recipes() -> dict[str, dict]:
    """The recipes between which `lstm_chosen` chooses, by name."""
    weights = LSTM_OURS | {"recurrent": 0.2, "lr": 8e-3, "l2": 2e-5}
    short = {"seq_len": 8, "lr": 1e-2, "l2": 1e-5, "dropout": 0.3}
    plain = {"core": "lstm", "hidden_size": 512, "num_layers": 2, "core_dropout": 0.5}
    return {
        "dropped weights": weights,
        "stronger decay": weights | {"l2": 5e-5},
        "twice the updates": LSTM_OURS | {"recurrent": 0.2} | short,
        "no dropped weights": plain | short,
    }


def lstm_chosen(lines: list[Line]) -> list[dict]:
    """Our LSTM: searched on the development part, then trained once on the whole training part.

    Four recipes for 16 epochs; the two best of them for 48, in cycles of 16 and 32; the better
    of these for 32 more, from half its rate; then, from the lowest, one epoch or three with the
    mean of the weights kept. The phases that led to the lowest loss are the final run.
    """
    search = [
        recipe | {"label": f"search {name}", "epochs": 16, "schedule": [16, 1, 1], "tune": True}
        for name, recipe in lstm_recipes().items()
    ]
    if not all_done(search, lines):
        return search
    finalists = [_for_48_epochs(point) for point in lowest(lines, search)[:2]]
    search += finalists
    if not all_done(finalists, lines):
        return search
    cycles = best_of(lines, finalists)
    half = {"epochs": 32, "schedule": [32, 1, 1], "lr": cycles["lr"] / 2}
    longer = cycles | half | {"label": "search longer", "after": cycles["label"]}
    if not all_done([longer], lines):  # the first phase is settled, whatever follows
        return [*search, *_final([cycles]), longer]
    kept = best_of(lines, [cycles, longer])
    endings = _endings(kept)
    if not all_done(endings, lines):
        return [*search, *_final([cycles]), longer, *endings]
    best = best_of(lines, [kept, *endings])
    phases = [cycles] + [longer] * (kept == longer) + [best] * (best in endings)
    return [*search, longer, *endings, *_final(phases)]


def _for_48_epochs(point: dict) -> dict:
    label = point["label"].replace("search", "search 48 epochs,")
    return point | {"label": label, "epochs": 48, "schedule": [16, 2, 2]}


def _endings(kept: dict) -> list[dict]:
    """One epoch without dropout inside, at three rates, or three with it, as `LSTM_MEAN`."""
    quiet = _without_dropout_inside(kept)
    tried = [(quiet, 1, lr) for lr in (1e-3, 2.5e-3, 5e-3)] + [(kept, 3, 2.5e-3)]
    return [
        network
        | LSTM_MEAN
        | {"epochs": epochs, "lr": lr, "after": kept["label"]}
        | {"label": f"search mean, {epochs} epochs at {lr:g}"}
        for network, epochs, lr in tried
    ]


def _final(phases: list[dict]) -> list[dict]:
    """Phases of a search as they are run on the whole training part."""
    labels = {"search longer": "longer"}
    final: list[dict] = []
    for phase in phases:
        last = {"after": final[-1]["label"]} if final else {"early": 100}
        name = "mean" if "average" in phase else labels.get(phase["label"], "cycles")
        settings = {key: value for key, value in phase.items() if key != "tune"}
        final.append(settings | {"label": name} | last)
    return final


def _without_dropout_inside(settings: dict) -> dict:
    inside = ("input_dropout", "between", "recurrent", "core_dropout")
    return {k: v for k, v in settings.items() if k not in inside} | {"core": "lstm"}


STUDIES = {
    "ladder": Study("At equal characters read, how far apart are RNN, GRU and LSTM?", 30, ladder),
    "lstm_half": Study("What keeps an LSTM from learning the text by heart?", 20, lstm_half),
    "lstm_live": Study("What does an LSTM of 2 x 512 units reach in minutes?", 35, lstm_live),
    "lstm_long": Study("What does an LSTM of 2 x 512 units reach?", 60, lstm_long),
    "lstm_chosen": Study("Which recipe for the LSTM, without the held-out text?", 120, lstm_chosen),
    "lstm_source": Study("What does the fast.ai lesson's LSTM reach on our cut?", 60, lstm_source),
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
