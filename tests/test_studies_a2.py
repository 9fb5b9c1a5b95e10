"""The studies of appendix A2: every point of the grid, the cuts, a run that diverges."""

import math

import pytest
import torch

from charlm_utils.book.studies import a2
from charlm_utils.book.studies.a2 import NoisyStreams, grid, grid_run, lab_split, low, low_run

POINT = {"batch_size": 16, "epochs": 1, "num_hiddens": 4, "num_steps": 64, "lr": 1}
LETTERS = "the rain in the train ran down the drain and out on the plain again " * 300


@pytest.fixture(autouse=True)
def short_books(monkeypatch):
    """Three books of some 20,000 letters."""

    class Book:
        text = LETTERS

    monkeypatch.setattr(a2, "load_corpus", lambda name, fallback=None: Book)


def done(points, losses):
    """Lines as if these points were finished with these losses."""
    return [{"settings": p, "valid": [1.0, loss]} for p, loss in zip(points, losses, strict=True)]


def test_the_grid_is_that_of_the_exercises():
    points = grid([])
    names = ("num_steps", "num_hiddens", "lr")
    assert len({tuple(p[name] for name in names) for p in points}) == len(points) == 100
    sizes = {8, 16, 32, 64, 128}
    assert [{p[name] for p in points} for name in names] == [sizes, sizes, {0.01, 0.1, 1, 10}]
    assert {p["epochs"] for p in points} == {10} and all(p["tune"] for p in points)


def test_two_points_of_the_grid_read_the_held_out_text():
    search = grid([])
    lines = done(search, [2 + i % 7 for i in range(100)])
    assert grid(lines[:-1]) == search  # one is missing
    lines[41]["valid"][-1] = 1.5
    lines[13]["valid"][-1], lines[13]["diverged"] = 0.1, "epoch 3"
    best, published = grid(lines)[100:]
    assert best | {"tune": True} == search[41]
    assert [published[n] for n in ("num_hiddens", "num_steps", "lr")] == [32, 32, 1]
    lines[41]["valid"][-1] = 5.0
    lines[search.index(published | {"tune": True})]["valid"][-1] = 1.0
    assert grid(lines)[100:] == [published]


def test_the_width_is_chosen_on_the_development_part():
    search = low([])
    assert [p["hidden_size"] for p in search] == [256, 512] and all(p["tune"] for p in search)
    for losses, width in (((1.4, 1.5), 256), ((1.5, 1.4), 512)):
        final = low(done(search, losses))[2:]
        assert len(final) == 7 and not any("tune" in p for p in final)
        for cut, seeds in {"d2l": [0, 1, 2], "90/10": [0, 1, 2], "whole": [0]}.items():
            runs = [p for p in final if p["cut"] == cut]
            assert [p["seed"] for p in runs] == seeds
            assert {p["hidden_size"] for p in runs} == {256 if cut == "d2l" else width}


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


def test_tuning_never_sees_the_held_out_text(monkeypatch):
    class Book:  # no letter occurs in two of the three parts
        text = "abcdefgh " * 1_800 + "ijklmnop " * 200 + "qrstuvwx " * 222

    monkeypatch.setattr(a2, "load_corpus", lambda name, fallback=None: Book)
    whole, held_out, vocab = lab_split("90/10")
    train, development, _ = lab_split("90/10", tune=True)
    assert torch.equal(torch.cat([train, development[1:]]), whole)
    assert len(train) == len(whole) * 9 // 10 and development[0] == train[-1]
    assert not set("qrstuvwx") & set(vocab.decode(torch.cat([train, development])))
    assert set("ijklmnop") & set(vocab.decode(development))
    with pytest.raises(ValueError, match="d2l"):
        lab_split("d2l", tune=True)


def test_a_point_of_the_grid():
    found = grid_run(POINT)
    assert len(found["train"]) == len(found["valid"]) == len(found["seconds"]) == 1
    end, V = int(0.9 * len(LETTERS)), len(set(LETTERS))
    assert 0 <= found["characters"][0] - (end - 1) < 16
    assert found["parameters"] == 4 * (V + 4 + 2) + V * (4 + 1)  # no embedding among them
    assert found["valid"][0] < math.log(V)
    assert grid_run(POINT | {"epochs": 3}, stop_after=1)["valid"] == found["valid"]
    tuned = grid_run(POINT | {"tune": True})
    assert tuned["valid"] != found["valid"]
    assert tuned["characters"][0] == pytest.approx(0.9 * found["characters"][0], abs=32)


def test_a_point_that_diverges_keeps_its_curve():
    found = grid_run(POINT | {"lr": 1e38, "epochs": 3})
    assert "epoch" in found["diverged"] and len(found["valid"]) < 3
    assert len(found["valid"]) == len(found["train"])


def test_the_low_runs_are_scored_on_other_books():
    small, search = {"hidden_size": 8, "batch_size": 64, "epochs": 1}, low([])
    for point in low(done(search, (1.5, 1.4)))[2::3]:
        found = low_run(point | small)
        assert {"valid", "worlds", "spain", "parameters"} <= found.keys()
        assert len(found["valid"]) == 1 and math.isfinite(found["spain"])
        if point["cut"] == "whole":
            assert found["valid"][-1] == pytest.approx(found["worlds"])
    assert low_run(point | small | {"seed": 1})["valid"] != found["valid"]
    assert not {"worlds", "spain"} & low_run(search[0] | small).keys()


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


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_point_whose_held_out_loss_is_not_finite_diverged(bad, monkeypatch):
    losses = iter([2.0, bad])
    monkeypatch.setattr(a2, "evaluate", lambda *_: next(losses))
    found = grid_run(POINT | {"epochs": 3})
    assert found["diverged"] == f"epoch 2: the held-out loss is {bad}"
    assert found["valid"] == [2.0] and len(found["train"]) == 1
