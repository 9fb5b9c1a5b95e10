"""What a study is, and how the best of its finished runs is chosen.

A study's points may depend on what is finished. Its search is scored on the development part of
the text (`tune`: the last tenth of the training part) and committed; then what was best there is
trained on the whole training part and scored on the held-out part.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from charlm_utils.book.studies.runs import train_run

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


def all_done(points: list[dict], lines: list[Line]) -> bool:
    """Whether each of these points has a finished run."""
    return all(any(line["settings"] == point for line in lines) for point in points)


SEEDS = (0, 1, 2)


def searched(
    lines: list[Line], points: list[dict], seeds: tuple[int, ...] = SEEDS, early: int = 0
) -> list[dict]:
    """The points with `tune`; once they are done, the best of them for each seed.

    `early` is a setting of these last runs: what can be repeated of a long one in seconds.
    """
    search = [point | {"tune": True} for point in points]
    if not all_done(search, lines):
        return search
    best = {k: v for k, v in best_of(lines, search).items() if k != "tune"}
    best |= {"early": early} if early else {}
    return search + [best | {"seed": seed} for seed in seeds]


def grid(common: dict, choices: dict[str, tuple]) -> list[dict]:
    """`common` with every combination of the choices."""
    values = itertools.product(*choices.values())
    return [common | dict(zip(choices, combination, strict=True)) for combination in values]


def lowest(lines: list[Line], points: list[dict]) -> list[dict]:
    """The points whose runs are finished, by their last loss."""
    runs = [line for line in lines if line["settings"] in points]
    return [line["settings"] for line in sorted(runs, key=lambda line: line["valid"][-1])]
