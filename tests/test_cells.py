"""The cells written by hand are torch's, value for value and gradient for gradient."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from charlm_utils.cells import DropoutLSTM, GRUCell, LSTMCell
from charlm_utils.models import CharLM, Ensemble, core_name

E, H, B, T = 5, 8, 3, 7
PAIRS = [(GRUCell, nn.GRUCell), (LSTMCell, nn.LSTMCell)]


def same(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def steps(cell, x, state):
    for t in range(x.shape[1]):
        state = cell(x[:, t], state)
    return state


def total(state):
    return sum(part.square().sum() for part in (state if isinstance(state, tuple) else (state,)))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("carried", [False, True])
def test_hand_cells_are_torchs(ours, theirs, carried):
    torch.manual_seed(0)
    hand, torchs = ours(E, H).double(), theirs(E, H).double()
    torchs.load_state_dict(hand.state_dict())  # strict: the names agree too
    x = torch.randn(B, T, E, dtype=torch.float64)
    state = torch.randn(2, B, H, dtype=torch.float64).unbind() if carried else None
    state = state[0] if carried and ours is GRUCell else state
    ends = [steps(cell, x, state) for cell in (hand, torchs)]
    same(ends[0], ends[1])
    for end in ends:
        total(end).backward()
    for one, other in zip(hand.parameters(), torchs.parameters(), strict=True):
        assert one.grad.abs().max() > 0
        same(one.grad, other.grad)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_hand_cells_start_as_torchs_do(ours, theirs):
    for cell in (ours(40, 100), theirs(40, 100)):
        for weights in cell.parameters():
            assert 0.095 < weights.abs().max() <= 0.1  # 1 / sqrt(hidden_size)


def test_an_update_gate_of_one_keeps_the_state():
    cell = GRUCell(E, H).double()
    with torch.no_grad():
        cell.bias_ih[H : 2 * H] = 1e3
    h = torch.randn(B, H, dtype=torch.float64)
    assert torch.equal(cell(torch.randn(B, E, dtype=torch.float64), h), h)


def test_forget_one_and_input_zero_keep_the_cell():
    cell = LSTMCell(E, H).double()
    with torch.no_grad():
        cell.bias_ih[:H], cell.bias_ih[H : 2 * H] = -1e3, 1e3
    h, c = torch.randn(2, B, H, dtype=torch.float64).unbind()
    assert torch.equal(cell(torch.randn(B, E, dtype=torch.float64), (h, c))[1], c)


# ---- the LSTM with dropout --------------------------------------------------------------------


def twins(layers, **rates):
    torch.manual_seed(0)
    ours = DropoutLSTM(E, H, layers, **rates).double()
    theirs = nn.LSTM(E, H, layers, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("carried", [False, True])
def test_without_dropout_it_is_torchs_lstm(layers, carried):
    ours, theirs = twins(layers)
    x = torch.randn(B, T, E, dtype=torch.float64)
    state = torch.randn(2, layers, B, H, dtype=torch.float64).unbind() if carried else None
    for model in (ours.train(), theirs):
        out, (h, c) = model(x, state)
        model.found = (out, h, c)
        (out.square().sum() + h.sum() + c.sum()).backward()
    same(ours.found, theirs.found)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        same(one.grad, other.grad)


def test_in_eval_mode_it_is_torchs_lstm():
    ours, theirs = twins(2, input_dropout=0.5, between=0.5, recurrent=0.5)
    x = torch.randn(B, T, E, dtype=torch.float64)
    (out, state), (their_out, their_state) = ours.eval()(x), theirs(x)
    assert torch.equal(out, their_out) and torch.equal(state[1], their_state[1])


def test_input_mask_is_held_over_time(monkeypatch):
    """With the recurrence cut and an input of ones, equal steps mean equal masks."""
    ours, _ = twins(1, input_dropout=0.5)
    with torch.no_grad():
        ours.weight_hh_l0.zero_()
        ours.bias_hh_l0[H : 2 * H] = -1e3  # forget all
    out, _ = ours.train()(torch.ones(50, T, E, dtype=torch.float64))
    same(out, out[:, :1].expand_as(out))
    assert len({tuple(row) for row in out[:, 0].tolist()}) > 15  # each stream its own mask


@pytest.mark.parametrize("rate", ["input_dropout", "between", "recurrent"])
def test_each_rate_acts_in_training_only(rate):
    ours, _ = twins(2, **{rate: 0.5})
    x = torch.randn(B, T, E, dtype=torch.float64)
    assert not torch.equal(ours.train()(x)[0], ours(x)[0])
    assert torch.equal(ours.eval()(x)[0], ours(x)[0])


def test_recurrent_dropout_leaves_the_first_step_alone():
    ours, theirs = twins(1, recurrent=0.9)
    x = torch.randn(B, T, E, dtype=torch.float64)
    out, their_out = ours.train()(x)[0], theirs(x)[0]
    same(out[:, 0], their_out[:, 0])  # the state is still zero
    assert not torch.allclose(out[:, 1], their_out[:, 1])


def cudnn_warns(monkeypatch, message):
    """`torch.lstm` with a warning, as cuDNN gives one at each call."""
    real = torch.lstm

    def warns(*args):
        warnings.warn(message, stacklevel=1)
        return real(*args)

    monkeypatch.setattr(torch, "lstm", warns)


def test_no_warning_that_dropped_weights_do_not_lie_together(monkeypatch):
    """Warnings are errors here, as they are in the notebooks' tests."""
    ours, _ = twins(2, recurrent=0.5)
    x = torch.randn(B, T, E, dtype=torch.float64)
    torch.manual_seed(0)
    expected = ours.train()(x)[0]
    words = "contiguous chunk of memory. This means they need to be compacted at every call"
    cudnn_warns(monkeypatch, f"RNN module weights are not part of single {words}, possibly …")
    torch.manual_seed(0)
    assert torch.equal(ours(x)[0], expected)
    cudnn_warns(monkeypatch, "something else")
    with pytest.raises(UserWarning, match="something else"):
        ours(x)


def test_it_is_saved_as_an_lstm():
    assert core_name(DropoutLSTM(E, H, 2, between=0.3)) == "lstm"


# ---- several models asked together ------------------------------------------------------------


def test_ensemble_is_the_mean_of_probabilities():
    torch.manual_seed(0)
    models = [CharLM(11, E, nn.GRU(E, H, batch_first=True)).double().eval() for _ in range(3)]
    x = torch.randint(11, (B, T))
    together = Ensemble(models)
    log_probs, states = together(x)
    mean = torch.stack([F.softmax(model(x)[0], dim=-1) for model in models]).mean(dim=0)
    same(log_probs.exp().double(), mean, atol=1e-6)
    first, states = together(x[:, :3])
    second, _ = together(x[:, 3:], states)
    same(torch.cat([first, second], dim=1), log_probs, atol=1e-5)


def test_ensemble_does_not_underflow():
    """Where every model gives a character less than float32 can hold, its logarithm is finite."""
    torch.manual_seed(0)
    models = [CharLM(11, E, nn.GRU(E, H, batch_first=True)).eval() for _ in range(3)]
    for model in models:
        model.head.weight.data.mul_(2_000)
    x = torch.randint(11, (B, T))
    log_probs, _ = Ensemble(models)(x)
    each = torch.stack([model(x)[0].double().log_softmax(dim=-1) for model in models])
    assert each.max(dim=0).values.min() < -200  # exp of it is 0 in float32
    torch.testing.assert_close(
        log_probs.double(), each.logsumexp(dim=0) - torch.tensor(3.0).double().log()
    )
    alone, _ = Ensemble(models[:1])(x)
    torch.testing.assert_close(alone.double(), each[0])
    with pytest.raises(ValueError, match="0 models"):
        Ensemble([])
