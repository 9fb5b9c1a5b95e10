"""The running mean of the weights: against a sum by hand, put in and taken out, and in `fit`."""

import copy

import pytest
import torch
from fitting import fit
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.data import StreamBatches
from charlm_utils.models import CharLM
from charlm_utils.optim import Cycles, keep_mean, mean_for_saving, mean_weights, take_mean, walk_on
from charlm_utils.training import evaluate


def walk(optimizer, weights, steps, seed=0):
    """Steps with gradients drawn at random; returns the weights after each."""
    torch.manual_seed(seed)
    seen = []
    for _ in range(steps):
        weights.grad = torch.randn_like(weights)
        optimizer.step()
        seen.append(weights.detach().clone())
    return seen


def by_hand(seen, decay):
    """The first weights and all later ones, each with its share."""
    shares = [(1 - decay) * decay ** (len(seen) - 1 - i) for i in range(len(seen))]
    shares[0] = decay ** (len(seen) - 1)
    assert sum(shares) == pytest.approx(1)
    return sum(share * weights for share, weights in zip(shares, seen, strict=True))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_mean_is_the_weighted_sum_of_all_weights(kind, decay):
    weights = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
    optimizer = kind([weights], lr=0.1)
    keep_mean(optimizer, decay)
    seen = walk(optimizer, weights, 7)
    mean = optimizer.state[weights]["mean"]
    torch.testing.assert_close(mean, by_hand(seen, decay), rtol=0, atol=1e-14)
    assert torch.equal(weights, seen[-1])  # the walk itself is not disturbed


def test_mean_is_torchs():
    net = nn.LSTM(3, 4, 2)
    torchs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    keep_mean(optimizer, 0.9)
    for _ in range(6):
        net(torch.randn(5, 2, 3))[0].square().sum().backward()
        optimizer.step()
        torchs.update_parameters(net)
    take_mean(optimizer)
    for mine, theirs in zip(net.parameters(), torchs.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decay", [0, 1, -0.1, 1.5])
def test_decay_must_lie_between(decay):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="above 0 and below 1"):
        keep_mean(optimizer, decay)


def test_mean_is_put_in_for_the_block_only():
    weights = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([weights], lr=0.1)
    keep_mean(optimizer, 0.9)
    last, mean = walk(optimizer, weights, 5)[-1], optimizer.state[weights]["mean"].clone()
    assert not torch.equal(last, mean)
    with pytest.raises(KeyError), mean_weights(optimizer):
        assert torch.equal(weights, mean)
        raise KeyError
    assert torch.equal(weights, last) and torch.equal(optimizer.state[weights]["mean"], mean)
    take_mean(optimizer)
    assert torch.equal(weights, mean)


def test_without_a_mean_nothing_changes():
    weights = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([weights], lr=0.1)
    last = walk(optimizer, weights, 3)[-1]
    with mean_weights(optimizer):
        assert torch.equal(weights, last)
    take_mean(optimizer)
    assert torch.equal(weights, last)


def new_run(tmp_path=None, **options):
    torch.manual_seed(0)
    model = CharLM(5, 4, nn.GRU(4, 6, batch_first=True))
    ids = torch.randint(5, (161,), generator=torch.Generator().manual_seed(1))
    train, valid = StreamBatches(ids, 4, 5), StreamBatches(ids, 1, 40)
    options = {"epochs": 3, "lr": 0.03, "precision": "float32", "schedule": "constant"} | options
    history = fit(model, train, valid, checkpoint_dir=tmp_path, **options)
    return model, history, valid


def test_fit_judges_and_leaves_the_mean():
    plain, plain_history, valid = new_run()
    model, history, _ = new_run(average=0.8)
    assert history.train == plain_history.train  # the same walk
    assert all(a != b for a, b in zip(history.valid, plain_history.valid, strict=True))
    assert history.valid[-1] == evaluate(model, valid)
    assert not torch.equal(model.head.weight, plain.head.weight)
    close, _, _ = new_run(average=1e-9)  # forgets all but the last weights
    torch.testing.assert_close(close.head.weight, plain.head.weight)


def test_a_cycle_keeps_the_mean(tmp_path):
    model, history, valid = new_run(tmp_path, average=0.8, schedule=Cycles(1, 2, 2))
    for number, epoch in ((1, 1), (2, 3)):
        kept, _, _ = load_checkpoint(tmp_path / f"cycle-{number}")
        assert evaluate(kept, valid) == history.valid[epoch - 1]
    for folder in (tmp_path, tmp_path / "cycle-2"):
        kept = load_checkpoint(folder)[0]
        assert torch.equal(kept.head.weight, model.head.weight)


def test_fit_refuses_a_decay_of_one():
    with pytest.raises(ValueError, match="decay of the mean"):
        new_run(average=1.0)


def test_mean_comes_back_with_the_optimizer():
    weights = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([weights], lr=0.1)
    keep_mean(optimizer, 0.9)
    walk(optimizer, weights, 3)
    twin = copy.deepcopy(weights)
    again = torch.optim.AdamW([twin], lr=0.1)
    keep_mean(again, 0.9)
    again.load_state_dict(optimizer.state_dict())
    walk(optimizer, weights, 2, seed=1), walk(again, twin, 2, seed=1)
    assert torch.equal(again.state[twin]["mean"], optimizer.state[weights]["mean"])


def test_the_walk_is_kept_beside_the_mean_that_is_saved():
    weights = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([weights], lr=0.1)
    keep_mean(optimizer, 0.9)
    with mean_for_saving(optimizer):  # before the first update there is no mean
        assert optimizer.state_dict()["state"] == {}
    last, mean = walk(optimizer, weights, 5)[-1], optimizer.state[weights]["mean"].clone()
    with pytest.raises(KeyError), mean_for_saving(optimizer):
        assert torch.equal(weights, mean)
        assert torch.equal(optimizer.state[weights]["walk"], last)
        kept = copy.deepcopy(optimizer.state_dict())
        raise KeyError
    assert torch.equal(weights, last) and "walk" not in optimizer.state[weights]
    take_mean(optimizer)
    optimizer.load_state_dict(kept)
    walk_on(optimizer)
    assert torch.equal(weights, last) and "walk" not in optimizer.state[weights]


@pytest.mark.parametrize("done", [1, 2, 3])
def test_what_is_saved_and_left_is_what_the_history_speaks_of(tmp_path, done):
    """Also where the run was stopped, and it goes on from there as if it had not been."""
    options = {"average": 0.8, "epochs": 3}
    model, history, valid = new_run(tmp_path, stop_after=done, **options)
    saved = load_checkpoint(tmp_path)[0]
    assert evaluate(saved, valid) == evaluate(model, valid) == history.valid[-1]
    whole, expected, _ = new_run(**options)
    again, history, _ = new_run(tmp_path, resume=True, **options)
    assert history.train == expected.train and history.valid == expected.valid
    assert torch.equal(again.head.weight, whole.head.weight)


def test_a_finished_run_with_a_mean_goes_on_from_its_walk(tmp_path):
    new_run(tmp_path, average=0.8, epochs=1)
    options = {"resume": True}
    model, history, _ = new_run(tmp_path, average=0.8, epochs=3, **options)
    whole, expected, _ = new_run(average=0.8, epochs=3, warmup_steps=0)
    plain = new_run(tmp_path / "plain", average=0.8, epochs=1, warmup_steps=0)
    assert len(history.valid) == 3 and plain[1].valid == expected.valid[:1]
    more = {"epochs": 3, "warmup_steps": 0, **options}
    again, history, _ = new_run(tmp_path / "plain", average=0.8, **more)
    assert history.valid == expected.valid  # the schedule is constant: no seam
    assert torch.equal(again.head.weight, whole.head.weight) and model is not whole


def test_a_weight_without_a_gradient_has_no_mean_and_stays():
    """As an embedding that is frozen: it does not move, and nothing is averaged of it."""
    moved, frozen = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([moved, frozen], lr=0.1)
    keep_mean(optimizer, 0.5)
    walk(optimizer, moved, 4)
    assert "mean" in optimizer.state[moved] and "mean" not in optimizer.state[frozen]
    take_mean(optimizer)
    assert torch.equal(frozen, torch.ones(3)) and not torch.equal(moved, torch.zeros(3))
