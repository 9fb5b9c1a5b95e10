"""How memory is measured: gradients by lag, loss by context, copying, probes, recitation."""

import math

import pytest
import torch
import torch.nn.functional as F
from elsewhere import on_mps
from torch import nn

from charlm_utils.data import IGNORE, CharVocab, StreamBatches
from charlm_utils.memory import (
    CopyBack,
    closing_marks,
    copy_back_batch,
    gradient_by_lag,
    gradient_by_layer,
    hidden_trace,
    linear_probe,
    loss_by_context,
    recitation,
)
from charlm_utils.models import CharLM, make_core
from charlm_utils.training import evaluate, evaluating


def small_model(core="gru", vocab_size=7, dropout=0.0):
    torch.manual_seed(0)
    return CharLM(vocab_size, 5, make_core(core, 5, 11), dropout=dropout)


class LastOnly(nn.Module):
    """A core without memory: its output is its input."""

    hidden_size = 5

    def forward(self, x, state=None):
        return x, None


def test_gradient_by_lag_has_one_norm_per_step_and_dies_without_memory():
    x, y = torch.randint(7, (6, 9)), torch.randint(7, (6,))
    assert (gradient_by_lag(small_model(), x, y) > 0).all()
    blind = gradient_by_lag(CharLM(7, 5, LastOnly()), x, y)
    assert blind.shape == (9,) and blind[0] > 0 and (blind[1:] == 0).all()


@pytest.mark.parametrize("core", ["gru", "residual-gru"])
def test_gradient_by_layer_is_what_backward_leaves(core):
    torch.manual_seed(0)
    model = CharLM(7, 5, make_core(core, 5, 11, 3)).double()
    x, y = torch.randint(7, (4, 9)), torch.randint(7, (4, 9))
    found = gradient_by_layer(model, x, y)
    nn.functional.cross_entropy(model(x)[0].flatten(0, 1), y.flatten()).backward()
    grads = [p.grad for name, p in model.core.named_parameters() if "weight_ih" in name]
    expected = torch.stack([g.pow(2).mean().sqrt() for g in grads])
    torch.testing.assert_close(found, expected)
    assert found.shape == (3,) and (found > 0).all()


class NoGradientsInEval(nn.GRU):
    """As cuDNN's recurrent layers are: no backward pass outside training mode."""

    def forward(self, x, state=None):
        self.was_training = self.training
        if torch.backends.cudnn.enabled and not self.training and torch.is_grad_enabled():
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        return super().forward(x, state)


@pytest.mark.parametrize("measure", [gradient_by_lag, gradient_by_layer])
@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_are_taken_in_eval_mode_and_not_by_cudnn(measure, enabled, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "enabled", enabled)
    torch.manual_seed(0)
    model = CharLM(7, 5, NoGradientsInEval(5, 11, batch_first=True), dropout=0.5).train()
    x = torch.randint(7, (4, 9))
    y = x[:, -1] if measure is gradient_by_lag else x
    assert torch.equal(measure(model, x, y), measure(model, x, y))  # no dropout
    assert not model.core.was_training and model.training and model.core.training
    assert torch.backends.cudnn.enabled is enabled
    with pytest.raises(IndexError):
        measure(model, x + 7, y)  # no such character
    assert model.training and torch.backends.cudnn.enabled is enabled


def test_differentiable_eval_leaves_each_module_in_its_mode():
    model = small_model(dropout=0.5).train()
    model.core.eval()  # frozen, as one may
    with evaluating(model, gradients=True):
        assert not any(module.training for module in model.modules())
    assert model.training and model.head.training and not model.core.training


def test_gradient_by_lag_equals_a_finite_difference():
    model = small_model().double()
    x, y, step = torch.randint(7, (1, 4)), torch.randint(7, (1,)), 1e-6
    embedded = model.embedding(x).detach()

    def loss(e):
        return nn.functional.cross_entropy(model.head(model.core(e)[0][:, -1]), y).item()

    slopes = torch.zeros(5)
    for i in range(5):  # the character two steps back
        moved = embedded.clone()
        moved[0, 1, i] += step
        slopes[i] = (loss(moved) - loss(embedded)) / step
    assert gradient_by_lag(model, x, y)[2].item() == pytest.approx(slopes.norm().item(), rel=1e-3)


def test_loss_by_context_averages_to_the_loss_of_a_state_reset_at_each_window():
    model, ids = small_model(), torch.randint(7, (8 * 12 + 1,))
    losses = loss_by_context(model, ids, 8, rows=5)
    assert losses.shape == (8,)
    reset = StreamBatches(ids, 12, 8)  # twelve streams of one window each
    assert losses.mean().item() == pytest.approx(evaluate(model, reset), abs=1e-6)
    with pytest.raises(ValueError, match="97 characters hold no window of 97"):
        loss_by_context(model, ids, 97)


def test_loss_by_context_begins_anew_with_each_window():
    """A window begins with the last target of the one before; what is no window is left out."""
    model, ids = small_model(), torch.randint(7, (12,))
    windows = torch.stack([ids[0:5], ids[4:9]])  # the next would take 13 characters
    logits, _ = model.eval()(windows[:, :-1])
    losses = F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none").mean(dim=0)
    assert loss_by_context(model, ids, 4).tolist() == pytest.approx(losses.tolist(), abs=1e-6)
    assert len(loss_by_context(model, ids, 11)) == 11


def test_copy_back_targets_are_the_inputs_of_lag_steps_before():
    x, y = copy_back_batch(3, 10, 4, 6, torch.Generator().manual_seed(0))
    assert (y[:, :4] == IGNORE).all() and (y[:, 4:] == x[:, :6]).all()
    with pytest.raises(ValueError, match="lag must lie in"):
        copy_back_batch(3, 10, 10, 6, torch.Generator())
    batches = CopyBack(3, 10, 4, 6, 2, seed=1)
    first = [x for x, _ in batches]
    assert len(first) == len(batches) == 2 and not first[0].equal(first[1])
    assert first[0].equal(next(iter(batches))[0])
    batches.epoch = 1
    assert not first[0].equal(next(iter(batches))[0])


def test_a_core_without_memory_cannot_copy():
    model = CharLM(6, 5, LastOnly())
    assert evaluate(model, CopyBack(64, 20, 3, 6, 20)) > math.log(6) - 0.05


def test_hidden_trace_is_the_cores_output_and_leaves_the_mode_alone():
    model = small_model("lstm", dropout=0.5).train()
    ids = torch.randint(7, (13,))
    trace = hidden_trace(model, ids)
    assert trace.shape == (13, 11) and model.training
    assert trace.equal(hidden_trace(model, ids))


def test_linear_probe_finds_what_is_there_and_nothing_in_noise():
    torch.manual_seed(1)
    states = torch.randn(600, 8)
    there = linear_probe(states, (states[:, 2] > 0).long())
    assert there.accuracy > 0.93 and there.shuffled < 0.65
    noise = linear_probe(states, torch.randint(2, (600,)))
    assert 0.35 < noise.accuracy < 0.65
    assert there.weights.shape == (9, 2)
    with pytest.raises(ValueError, match="can't be probed"):
        linear_probe(states, torch.zeros(5, dtype=torch.long))


def test_linear_probe_reads_states_from_any_device():
    """Such a device has no float64, and the classifier's other parts lie on the CPU."""
    torch.manual_seed(1)
    states, labels = torch.randn(80, 4), torch.randint(3, (80,))
    here = linear_probe(states, labels)
    there = linear_probe(on_mps(states), on_mps(labels))
    assert (there.accuracy, there.shuffled) == (here.accuracy, here.shuffled)
    assert type(there.weights) is torch.Tensor and there.weights.equal(here.weights)


def test_recitation_finds_the_longest_copy_and_the_share_of_new_grams():
    source = "the quick brown fox jumps over the lazy dog"
    found = recitation("xx brown fox jumps yy", source, n=4)
    assert found.passage == " brown fox jumps " and found.longest == len(found.passage)
    assert recitation(source, source).novel == 0
    assert recitation("##########", source) == type(found)(0, "", 1.0)
    with pytest.raises(ValueError, match="no 8-gram"):
        recitation("short", source)


class Keeper(nn.Module):
    """Gives the mark 0.9 while a quotation is open, 0.1 while none is; in training it lies."""

    def __init__(self, vocab):
        super().__init__()
        self.vocab, self.one = vocab, nn.Parameter(torch.ones(()))

    def forward(self, x, state=None):
        marks = (x == self.vocab.stoi['"']).sum(dim=1)  # (B,)
        p = torch.where(marks % 2 == 1, 0.9, 0.1) if not self.training else 0.5 + 0.0 * marks
        logits = ((1 - p) / (len(self.vocab) - 1)).log()[:, None].repeat(1, len(self.vocab))
        logits[:, self.vocab.stoi['"']] = p.log()
        return logits[:, None] * self.one, state  # (B, 1, V)


def test_closing_marks_tells_who_holds_the_opening_one():
    text = 'he said "yes" and "no, never again" to it. a "word\n\nleft" open' + " " * 90
    vocab = CharVocab.from_text(text)
    found = closing_marks(Keeper(vocab), vocab, text, [(0, 8), (8, 20), (20, 40)])
    assert found[0] == pytest.approx((0.9, 0.1), abs=1e-5)  # "yes"
    assert found[1] == pytest.approx((0.9, 0.1), abs=1e-5)  # not the one across a paragraph
    assert all(math.isnan(p) for p in found[2])


def test_the_spans_of_closing_marks_end_where_they_say():
    """More than `low` and at most `high` characters: each length belongs to one span."""
    vocab = CharVocab('ab ".')
    for length, place in ((3, 0), (4, 0), (5, 1), (8, 1), (9, 2)):
        text = 'ab "' + "a" * length + '" b.'
        found = closing_marks(Keeper(vocab), vocab, text, [(2, 4), (4, 8), (8, 16)])
        assert [not math.isnan(p) for p, _ in found] == [i == place for i in range(3)], length
    for length in (2, 17):
        text = 'ab "' + "a" * length + '" b.'
        ((with_mark, _),) = closing_marks(Keeper(vocab), vocab, text, [(2, 16)])
        assert math.isnan(with_mark), length


def test_closing_marks_reads_quotations_of_up_to_160_characters_from_80_before():
    vocab, lengths = CharVocab('ab ".'), []
    model = Keeper(vocab)
    model.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    for length, there in ((159, True), (160, True), (161, False)):
        text = "b" * 90 + ' "' + "a" * length + '" b.'
        ((with_mark, _),) = closing_marks(model, vocab, text, [(40, 1_000)])
        assert math.isnan(with_mark) is not there, length
    assert lengths == [80 + 1 + 159, 80 + 159, 80 + 1 + 160, 80 + 160]


def test_closing_marks_leaves_the_mode_and_sees_nothing_where_there_is_no_memory():
    text = 'she "sings", he "hums" so ' * 3
    vocab = CharVocab.from_text(text)
    torch.manual_seed(0)
    model = CharLM(len(vocab), 5, LastOnly()).train()
    ((with_mark, without),) = closing_marks(model, vocab, text, [(0, 8)])
    assert with_mark == pytest.approx(without) and 0 < with_mark < 1 and model.training
