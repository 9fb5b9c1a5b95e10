"""The studies of appendix A2: every point of the grid, three cuts, a run that diverges."""

import math

import pytest
import torch

from charlm_utils import sweeps_lab
from charlm_utils.sweeps_lab import NoisyStreams, grid, grid_run, lab_split, low, low_run

POINT = {"batch_size": 16, "epochs": 1, "num_hiddens": 4, "num_steps": 64, "lr": 1}
LETTERS = "the rain in the train ran down the drain and out on the plain again " * 300


@pytest.fixture(autouse=True)
def short_books(monkeypatch):
    """Three books of some 20,000 letters."""

    class Book:
        text = LETTERS

    monkeypatch.setattr(sweeps_lab, "load_corpus", lambda name, fallback=None: Book)


def test_the_grid_is_the_sources():
    points = grid([])
    names = ("num_steps", "num_hiddens", "lr")
    assert len({tuple(p[name] for name in names) for p in points}) == len(points) == 100
    sizes = {8, 16, 32, 64, 128}
    assert [{p[name] for p in points} for name in names] == [sizes, sizes, {0.01, 0.1, 1, 10}]
    assert {p["epochs"] for p in points} == {10}


def test_the_cuts():
    train, held_out, vocab = lab_split("d2l")
    assert vocab.decode(train) == LETTERS[:10_032]
    assert vocab.decode(held_out[1:]) == LETTERS[10_000:15_032]
    train, held_out, _ = lab_split("90/10")
    end = int(0.9 * len(LETTERS))
    assert (len(train), len(held_out)) == (end, len(LETTERS) - end + 1)
    assert len(lab_split("whole")[0]) == len(LETTERS)
    with pytest.raises(ValueError, match="80/20"):
        lab_split("80/20")


def test_a_point_of_the_grid():
    found = grid_run(POINT)
    assert len(found["train"]) == len(found["valid"]) == len(found["seconds"]) == 1
    end, V = int(0.9 * len(LETTERS)), len(set(LETTERS))
    assert 0 <= found["characters"][0] - (end - 1) < 16
    assert found["parameters"] == 4 * (V + 4 + 2) + V * (4 + 1)  # no embedding among them
    assert found["valid"][0] < math.log(V)
    assert grid_run(POINT | {"epochs": 3}, stop_after=1)["valid"] == found["valid"]


def test_a_point_that_diverges_keeps_its_curve():
    found = grid_run(POINT | {"lr": 1e38, "epochs": 3})
    assert "epoch" in found["diverged"] and len(found["valid"]) < 3
    assert len(found["valid"]) == len(found["train"])


def test_the_low_runs_score_abroad():
    small = {"hidden_size": 8, "batch_size": 64, "epochs": 1}
    for point in low([]):
        found = low_run(point | small)
        assert {"valid", "worlds", "spain", "parameters"} <= found.keys()
        assert len(found["valid"]) == 1 and math.isfinite(found["spain"])
        if point["cut"] == "whole":
            assert found["valid"][-1] == pytest.approx(found["worlds"])


def test_noise_changes_inputs_only():
    ids = torch.arange(1_000) % 7
    noisy, plain = NoisyStreams(ids, 4, 50, 0.2), NoisyStreams(ids, 4, 50, 0.0)
    pairs = list(zip(noisy, plain, strict=True))
    assert all(torch.equal(y, v) for (_, y), (_, v) in pairs)
    share = torch.cat([(x != u).flatten() for (x, _), (u, _) in pairs]).double().mean()
    assert 0.12 < share < 0.22  # a seventh of the drawn letters are the old ones
    first = next(iter(noisy))[0]
    noisy.epoch = 1
    assert not torch.equal(next(iter(noisy))[0], first)
    with pytest.raises(ValueError, match="share"):
        NoisyStreams(ids, 4, 50, 1.0)
