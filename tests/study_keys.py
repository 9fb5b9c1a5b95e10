"""Which lines of book/runs a recorded number comes from, and how: computed anew, key by key.

One entry of `TABLE` is a pattern of keys and a function from what the pattern has caught to the
number. It says in the test's own words what the chapter computes, and reads the files itself.
"""

import functools
import json
import math
import re
import statistics

from book_reader import ROOT, load_json

RUNS = ROOT / "book" / "runs"


def lines(study):
    """All finished runs of a study, its search included."""
    return _read(RUNS / f"{study}.jsonl")


@functools.cache
def _read(path):
    assert path.is_file(), f"{path.name} is missing: no run has made this number"
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def runs(study, **wanted):
    """The runs that were scored on the held-out text and have these settings."""
    found = [line for line in lines(study) if not line["settings"].get("tune")]
    found = [line for line in found if wanted.items() <= line["settings"].items()]
    assert found, f"no run of {study} with {wanted}"
    return found


def one(study, **wanted):
    """The only such run."""
    (line,) = runs(study, **wanted)
    return line


def last(line, curve="valid"):
    """The last loss; infinite where the run broke off."""
    return math.inf if "diverged" in line else line[curve][-1]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


# ---- chapters 5 to 7 --------------------------------------------------------------------------


def identity(kind):
    """The lowest loss of that nonlinearity with torch's start, over the learning rates."""
    return min(map(last, runs("identity", start="torch", nonlinearity=kind)))


def seconds_to_the_source(line):
    """When an epoch of the race first ended below the published loss, or when the run ended."""
    (bar,) = (p["value"] for p in load_json("published.json") if p["key"] == "fastai.gru.valid")
    below = (s for v, s in zip(line["valid"], line["seconds"], strict=True) if v < bar)
    return next(below, line["seconds"][-1])


def race(who):
    if who == "times":
        return race("source") / race("ours")
    schedule = {"source": "step", "ours": None}[who]
    mine = [r for r in runs("gru_race") if r["settings"].get("schedule") == schedule]
    return mean(map(seconds_to_the_source, mine))


def phase(who, label, train):
    """The last loss, held out or in training, of the run with this label."""
    line = one({"source": "lstm_source", "ours": "lstm_long"}[who], label=label)
    return last(line, "train" if train else "valid")


HALF = {
    "AdamW": "AdamW's decay",
    "Adam": "Adam's decay",
    "no.recurrent.dropout": "Adam's, no recurrent dropout",
}

# ---- chapters 8 and 9, appendix A2 ------------------------------------------------------------

KINDS = {  # of the study `depth`, by key
    "plain": (False, False),
    "skips": (True, False),
    "norm": (False, True),
    "skips_and_norm": (True, True),
}
PROJECTIONS = {  # of the study `projections`: a first layer that is projected, one behind each
    "none": (False, False),
    "in_front": (True, False),
    "behind": (False, True),
    "in_front_and_behind": (True, True),
}


def width(size, source):
    """The lowest of all, or the one that is as in the source."""
    of_source = {"lr": 2e-3, "clip": None} if source else {}
    return min(map(last, runs("width", hidden_size=int(size), **of_source)))


def depth(kind, layers):
    skips, norm = KINDS[kind]
    return min(map(last, runs("depth", num_layers=int(layers), skips=skips, norm=norm)))


def projections(name):
    projected, projection = PROJECTIONS[name]
    return last(one("projections", projected=projected, projection=projection))


def data(gap, parts):
    line = one("data", data_share=1 / int(parts))
    return last(line) - line["fitted"] if gap else last(line)


def start(kind, what):
    values = (line[what] for line in runs("sums_start", start=kind))
    return mean(v[-1] if what == "exact" else v for v in values)


def order(name, early):
    """The share of exact answers after 400 updates, the second of ten rounds, or at the end."""
    reverse = {"units": True, "highest": False}[name]
    return mean(r["exact"][1 if early else -1] for r in runs("sums_order", reverse=reverse))


def share(pairs):
    """A run is known by the share of the 5,050 pairs that is held out."""
    held = round(1 - int(pairs) / 5050, 2)
    return one("sums_share", held_out=held)["exact"][-1]


def perplexities(rate):
    """Those of the grid's search at one rate that did not break off."""
    found = [r for r in lines("perplexity_grid") if r["settings"].get("tune")]
    found = [r for r in found if r["settings"]["lr"] == json.loads(rate)]
    return [math.exp(last(r)) for r in found if "diverged" not in r]


def grid(which):
    """The exercises' own sizes, or the other point that was scored on the held-out text."""
    own = one("perplexity_grid", num_hiddens=32, num_steps=32, lr=1)
    (other,) = [r for r in runs("perplexity_grid") if r != own] or [own]
    return math.exp(last(own if which == "published" else other))


def low(cut, which=None):
    """The perplexity of the mean loss of the seeds on this cut, or of its least or greatest."""
    pick = {None: mean, "min": min, "max": max}[which]
    return math.exp(pick(map(last, runs("perplexity_low", cut=CUTS[cut]))))


def low_search(width):
    (line,) = [r for r in lines("perplexity_low") if r["settings"].get("tune")
               and r["settings"]["hidden_size"] == int(width)]  # fmt: skip
    return math.exp(last(line))


def whole(book):
    return math.exp(mean(line[book] for line in runs("perplexity_low", cut="whole")))


def lesson_cut(core):
    found = [r for r in runs("lesson_cut") if r["settings"].get("core", "gru") == core]
    return mean(map(last, found))


CUTS = {"d2l": "d2l", "90": "90/10"}

TABLE = {
    r"05\.study\.bptt\.(\d+)": lambda n: last(one("bptt", seq_len=int(n))),
    r"05\.study\.identity\.(\w+)": identity,
    r"05\.study\.(rnn_steady|rnn_long)": lambda name: mean(map(last, runs(name))),
    r"06\.study\.(gru_live|gru_long)": lambda name: mean(map(last, runs(name))),
    r"06\.cut\.(rnn|gru)": lesson_cut,
    r"06\.race\.(source|ours|times)": race,
    r"07\.study\.(lstm_live)": lambda name: mean(map(last, runs(name))),
    r"07\.study\.cold": lambda: last(one("lstm_source", label="cold")),
    r"07\.study\.(source|ours)\.(.+?)(\.train)?": phase,
    r"07\.half\.(.+)": lambda name: last(one("lstm_half", label=HALF[name])),
    r"07\.average\.(one|two|three)\.runs?": lambda n: last(
        one("lstm_average", label=f"{n} run{'s' * (n != 'one')}")
    ),
    r"07\.average\.source": lambda: one("lstm_source", label="l2-4")["averages"][1],
    r"08\.study\.width\.(\d+)(\.source)?": width,
    r"08\.study\.depth\.(\w+)\.(\d+)": depth,
    r"08\.study\.dropout\.([\d.]+)": lambda p: last(one("dropout", dropout=float(p))),
    r"08\.study\.projections\.(\w+)": projections,
    r"08\.study\.source\.(\w+)": lambda label: last(one("source_deep", label=label)),
    r"08\.study\.data\.(gap\.)?(\d+)": data,
    r"08\.study\.(residual_live)": lambda name: mean(map(last, runs(name))),
    r"08\.study\.residual_long": lambda: min(map(last, runs("residual_long"))),
    r"09\.study\.start\.(\w+)\.(exact|from_zero)": start,
    r"09\.study\.order\.(\w+?)(\.400)?": order,
    r"09\.study\.share\.(\d+)": share,
    r"09\.study\.three": lambda: one("sums_three")["exact"][-1],
    r"A2\.study\.grid\.development\.([\d.]+)\.best": lambda rate: min(perplexities(rate)),
    r"A2\.study\.grid\.development\.([\d.]+)\.median": lambda rate: statistics.median(
        perplexities(rate)
    ),
    r"A2\.study\.grid\.(chosen|published)": grid,
    r"A2\.study\.low\.development\.(\d+)": low_search,
    r"A2\.study\.low\.(d2l|90)(?:\.(min|max))?": low,
    r"A2\.study\.whole\.(\w+)": whole,
}

# keys named like a study's that are measured live: `record` compares them with their spread
LIVE = {"A2.study.grid.rerun"}

# live keys and the study whose first seed makes the same network by the same recipe
REPEATED = {
    "05.rnn.valid": "rnn_steady",
    "06.gru.valid": "gru_live",
    "07.lstm.valid": "lstm_live",
    "08.residual.valid": "residual_live",
}


def entry(key):
    """The function and its arguments that a key has in `TABLE`, or None."""
    for pattern, function in TABLE.items():
        if match := re.fullmatch(pattern, key):
            return functools.partial(function, *match.groups())
    return None


def computed(key):
    """What the lines of book/runs say, to the five digits that results.json keeps."""
    return float(f"{entry(key)():.5g}")


def repeated(key):
    """The last loss of the run that repeats a live key, or None where it was not run yet."""
    study = REPEATED.get(key)
    if study is None or not (RUNS / f"{study}.jsonl").is_file():
        return None
    finals = [r for r in lines(study) if not r["settings"].get("tune")]
    first = [last(r) for r in finals if r["settings"].get("seed", 0) == 0]
    return first[0] if first else None
