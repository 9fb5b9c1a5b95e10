"""Learning rates by cycle and by group, and a checkpoint per cycle that nothing overwrites."""

import math

import pytest
import torch
from fitting import fit
from test_resume import (
    Stopped,
    contents,
    ids,
    new_model,
    numbers,
    run,
    same_model,
    state_of,
    streams,
)
from torch import nn

from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.data import StreamBatches
from charlm_utils.models import Ensemble
from charlm_utils.optim import (
    Cycles,
    Recipe,
    decay_groups,
    l2_groups,
    learning_rate,
    parameter_groups,
)
from charlm_utils.saves import CheckpointError
from charlm_utils.training import evaluate

pytestmark = pytest.mark.usefixtures("clean")


def rates(total, schedule, warmup=0):
    return [
        learning_rate(i, total, 1.0, warmup_steps=warmup, schedule=schedule) for i in range(total)
    ]


# ---- cycles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cycles", "ends"),
    [
        (Cycles(), [1, 3, 7, 15]),
        (Cycles(1, 2, 6), [1, 3, 7, 15, 31, 63]),
        (Cycles(3, 1, 3), [3, 6, 9]),
        (Cycles(2, 3, 2), [2, 8]),
    ],
)
def test_where_cycles_end(cycles, ends):
    assert cycles.ends == ends


def test_every_cycle_is_a_cosine_from_the_top():
    rate = rates(70, Cycles(1, 2, 3))  # 7 epochs of 10 updates
    for start, length in ((0, 10), (10, 20), (30, 40)):
        cosine = [0.02 + 0.49 * (1 + math.cos(math.pi * i / length)) for i in range(length)]
        assert rate[start : start + length] == pytest.approx(cosine)


def test_cycles_are_counted_from_the_first_update_on():
    warm, cold = rates(700, Cycles(1, 2, 3), warmup=20), rates(700, Cycles(1, 2, 3))
    assert warm[20:] == cold[20:]
    assert warm[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])


@pytest.mark.parametrize("numbers", [(0, 2, 4), (1, 0, 4), (1, 2, 0)])
def test_cycles_that_are_none(numbers):
    with pytest.raises(ValueError, match="at least 1"):
        Cycles(*numbers)


def test_cycles_must_fill_the_run():
    with pytest.raises(ValueError, match="takes 3 epochs, not 4"):
        run(new_model(), epochs=4, schedule=Cycles(1, 2, 2))


def test_a_warm_up_below_zero_is_none():
    with pytest.raises(ValueError, match="warmup_steps must be at least 0, not -1"):
        learning_rate(0, 10, 1.0, warmup_steps=-1)
    with pytest.raises(ValueError, match="not -5"):
        run(new_model(), warmup_steps=-5)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"lr": math.nan}, {"clip": 0.0}, {"weight_decay": math.nan}, {"seed": 2**64}],
)
def test_settings_are_named(wrong):
    Recipe(1, 0.1, warmup_steps=0, weight_decay=0.0, clip=None, seed=-(2**63))
    (name, value), numbers = next(iter(wrong.items())), {"epochs": 1, "lr": 0.1}
    with pytest.raises(ValueError, match=f"{name} must .*not {value}"):
        Recipe(**numbers | wrong)


def test_step_is_a_tenth_for_the_last_third():
    assert rates(9, "step") == pytest.approx([1.0] * 6 + [0.1] * 3)


# ---- a checkpoint per cycle -------------------------------------------------------------------

CYCLES = {"schedule": Cycles(1, 2, 2), "epochs": 3}


def test_each_cycle_leaves_its_model(tmp_path):
    run(new_model(), tmp_path, **CYCLES)
    first, _, history = load_checkpoint(tmp_path / "cycle-1")
    assert len(history.valid) == 1
    early = new_model()
    run(early, schedule=Cycles(1, 2, 2), epochs=3, stop_after=1)
    assert same_model(first, early)
    last, whole = load_checkpoint(tmp_path / "cycle-2")[0], load_checkpoint(tmp_path)[0]
    assert same_model(last, whole) and not same_model(first, last)
    assert sorted(p.name for p in tmp_path.glob("cycle-*")) == ["cycle-1", "cycle-2"]


@pytest.mark.parametrize("emptied", [False, True])
def test_no_later_run_overwrites_a_cycle(tmp_path, emptied):
    run(new_model(), tmp_path, **CYCLES)
    if emptied:  # the run is gone, its cycles are not
        for path in tmp_path.iterdir():
            if path.is_file():
                path.unlink()
    before = contents(tmp_path / "cycle-1")
    with pytest.raises(CheckpointError, match="cycle-1" if emptied else str(tmp_path)):
        run(new_model(), tmp_path, **CYCLES)
    assert contents(tmp_path / "cycle-1") == before


@pytest.mark.parametrize("at", [3, 7, 9, 17])
def test_resuming_between_cycles(tmp_path, at):
    whole, model = new_model(), new_model()
    expected = run(whole, tmp_path / "whole", **CYCLES)
    run(new_model(), tmp_path / "stopped", Stopped(streams(), at), **CYCLES)
    history = run(model, tmp_path / "stopped", resume=True, **CYCLES)
    assert numbers(history) == numbers(expected) and same_model(model, whole)
    for name in ("cycle-1", "cycle-2"):
        pair = [load_checkpoint(tmp_path / run / name)[0] for run in ("whole", "stopped")]
        assert same_model(*pair)


def test_other_cycles_are_another_run(tmp_path):
    run(new_model(), tmp_path, Stopped(streams(), 9), **CYCLES)
    with pytest.raises(CheckpointError, match="schedule was Cycles.*, now it is cosine"):
        run(new_model(), tmp_path, resume=True)


def test_the_cycles_answers_are_averaged(tmp_path):
    run(new_model(), tmp_path, **CYCLES)
    models = [load_checkpoint(tmp_path / f"cycle-{i}")[0] for i in (1, 2)]
    valid = StreamBatches(ids(61, seed=1), 2, 9)
    single = [evaluate(model, valid) for model in models]
    assert evaluate(Ensemble(models[:1]), valid) == pytest.approx(single[0], abs=1e-6)
    # by Jensen's inequality the mean of the probabilities is never worse than the mean loss
    assert evaluate(Ensemble(models), valid) < sum(single) / 2


# ---- instalments ------------------------------------------------------------------------------


def test_in_instalments_it_is_the_same_run(tmp_path):
    whole, model = new_model(), new_model()
    expected = run(whole)
    first = run(new_model(), tmp_path, stop_after=1)
    assert first.interrupted and len(first.valid) == 1
    history = run(model, tmp_path, resume=True)
    assert numbers(history) == numbers(expected) and same_model(model, whole)


# ---- groups -----------------------------------------------------------------------------------


def test_matrices_decay_and_biases_do_not():
    model = new_model()
    matrices, vectors = decay_groups(model, 0.3)
    assert matrices["weight_decay"] == 0.3 and vectors["weight_decay"] == 0.0
    assert all(p.ndim == 2 for p in matrices["params"]) and len(matrices["params"]) == 4
    assert all(p.ndim == 1 for p in vectors["params"]) and len(vectors["params"]) == 3


def test_groups_as_torch_has_them():
    """`fit` with groups is AdamW with the same groups, update by update."""
    ours, theirs = new_model(dropout=0.0), new_model(dropout=0.0)
    options = {"epochs": 1, "lr": 0.01, "schedule": "constant", "warmup_steps": 0, "clip": None}
    groups = [
        {"params": ours.core.parameters(), "weight_decay": 0.5},
        {"params": ours.head.parameters(), "lr": 0.1},
        {"params": ours.embedding.parameters(), "lr": 0.0},
    ]
    valid = StreamBatches(ids(61, seed=1), 2, 9)
    fit(ours, streams(), valid, groups=groups, precision="float32", **options)
    optimizer = torch.optim.AdamW(
        [
            {"params": theirs.core.parameters(), "lr": 0.01, "weight_decay": 0.5},
            {"params": theirs.head.parameters(), "lr": 0.1, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
    )
    state = None
    for x, y in streams():
        logits, state = theirs(x, state)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = state.detach()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_groups_rate_is_relative_to_the_runs():
    model = new_model()
    pairs = zip(decay_groups(model, 0.1), (0.02, 0.005), strict=True)
    groups = parameter_groups(model, [group | {"lr": lr} for group, lr in pairs], 0.01)
    assert [g["scale"] for g in groups] == [2.0, 0.5]


def test_resuming_with_groups(tmp_path):
    def options(model):
        return {"groups": decay_groups(model, 0.2)}

    whole, stopped, model = new_model(), new_model(), new_model()
    expected = run(whole, **options(whole))
    plain = new_model()
    run(plain)
    assert not same_model(whole, plain)  # the decay acts
    run(stopped, tmp_path, Stopped(streams(), 9), **options(stopped))
    with pytest.raises(CheckpointError, match="groups was"):
        run(new_model(), tmp_path, resume=True)
    history = run(model, tmp_path, resume=True, **options(model))
    assert numbers(history) == numbers(expected) and same_model(model, whole)
    assert state_of(tmp_path)["settings"]["groups"] == [[4, 1.0, 0.2], [3, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["core", "head"], "embedding.weight is in 0 parameter groups"),
        (["core", "head", "embedding", "head"], "head.weight is in 2 parameter groups"),
        (["core", "head", "embedding", "other"], "not the model's"),
    ],
)
def test_groups_hold_each_parameter_once(names, message):
    model = new_model()
    parts = {"other": new_model(), "core": model.core, "head": model.head}
    parts["embedding"] = model.embedding
    with pytest.raises(ValueError, match=message):
        run(model, groups=[{"params": parts[name].parameters()} for name in names])


def test_l2_groups_make_adamw_into_adam():
    ours = nn.Linear(3, 3)
    theirs = nn.Linear(3, 3)
    theirs.load_state_dict(ours.state_dict())
    adamw = torch.optim.AdamW(l2_groups(ours, 0.1), 1e-2, weight_decay=0.5)
    adam = torch.optim.Adam(theirs.parameters(), 1e-2, weight_decay=0.1)
    x = torch.randn(4, 3)
    for model, optimizer in ((ours, adamw), (theirs, adam)):
        for _ in range(5):
            optimizer.zero_grad()
            model(x).pow(2).sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)
