"""Training: each step as PyTorch would have it, every character counted once, nothing lost."""

import copy
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from fitting import fit
from test_resume import Stopped
from torch.utils.data import DataLoader

from charlm_utils import training
from charlm_utils.checkpoint import History, has_checkpoint, load_checkpoint, load_made
from charlm_utils.data import (
    IGNORE,
    CharVocab,
    RandomWindows,
    ShuffledBatches,
    StreamBatches,
    context_windows,
)
from charlm_utils.models import CharLM, LoopModel, make_core
from charlm_utils.optim import Cycles, decay_groups, learning_rate
from charlm_utils.saves import CheckpointError
from charlm_utils.training import (
    TrainingDiverged,
    detach_state,
    evaluate,
    mean_loss,
    train_epoch,
    train_step,
)

V, E, H = 7, 4, 6

pytestmark = pytest.mark.usefixtures("clean")


def ids(n, seed=0):
    return torch.randint(V, (n,), generator=torch.Generator().manual_seed(seed))


def new_model(core="gru", dropout=0.0, kind=CharLM, seed=0):
    torch.manual_seed(seed)
    return kind(V, E, make_core(core, E, H), dropout=dropout)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- the learning rate ------------------------------------------------------------------------


def rates(total, lr=1.0, **options):
    return [learning_rate(step, total, lr, **options) for step in range(total + 1)]


@pytest.mark.parametrize("total", [1000, 251, 250])
def test_cosine_after_a_linear_warm_up(total):
    rate = rates(total, lr=0.3)
    assert rate[:50] == pytest.approx([0.3 * (i + 1) / 50 for i in range(50)])
    assert max(rate) == pytest.approx(0.3) == pytest.approx(rate[50])
    assert all(a > b for a, b in zip(rate[50:-1], rate[51:], strict=True))
    assert rate[total] == pytest.approx(0.02 * 0.3)  # ends at 2 %
    assert rate[total - 1] < 0.0202 * 0.3
    middle = learning_rate((50 + total) // 2, total, 0.3)
    assert middle == pytest.approx(0.51 * 0.3, rel=0.02)


@pytest.mark.parametrize("total", [1, 2, 4, 5, 9, 40, 249])
def test_warm_up_takes_at_most_a_fifth(total):
    rate = rates(total)
    top = rate.index(pytest.approx(1.0))
    assert top <= total / 5 and all(0 < r <= 1 for r in rate)
    assert all(a >= b for a, b in zip(rate[top:-1], rate[top + 1 :], strict=True))


def test_other_schedules():
    assert rates(100, warmup_steps=0, schedule="constant") == [1.0] * 101
    assert rates(100, warmup_steps=10, schedule="constant")[9:] == [1.0] * 92
    line = rates(100, warmup_steps=0, schedule=lambda progress: 1 - progress)
    assert line == pytest.approx([1 - i / 100 for i in range(101)])
    with pytest.raises(ValueError, match="constant, step, cosine, not 'cosin'"):
        learning_rate(0, 10, 1.0, schedule="cosin")


# ---- the loss ---------------------------------------------------------------------------------


def test_mean_loss_is_nats_per_character_that_counts():
    logits = torch.randn(2, 3, V, dtype=torch.float64)
    y = torch.tensor([[1, 2, IGNORE], [0, IGNORE, 4]])
    log_p = logits.log_softmax(-1)
    plain = [-log_p[b, t, y[b, t]] for b in range(2) for t in range(3) if y[b, t] != IGNORE]
    torch.testing.assert_close(mean_loss(logits, y), torch.stack(plain).mean(), rtol=0, atol=1e-15)
    torch.testing.assert_close(mean_loss(logits[:, 0], y[:, 0]), (plain[0] + plain[2]) / 2)
    assert mean_loss(torch.zeros(4, V), torch.arange(4)).item() == pytest.approx(math.log(V))


def test_mean_loss_of_bf16_logits_is_taken_in_float32():
    logits = torch.randn(5, 9, V)
    rough = logits.bfloat16()
    y = ids(45).view(5, 9)
    assert mean_loss(rough, y).dtype == torch.float32
    assert torch.equal(mean_loss(rough, y), mean_loss(rough.float(), y))


# ---- one step ---------------------------------------------------------------------------------


def plain_step(model, x, y, optimizer, state, clip):
    """The step, written out with nothing but PyTorch."""
    logits, state = model(x, state)
    loss = F.cross_entropy(logits.reshape(-1, V), y.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        for p in model.parameters():
            p.grad.mul_(min(1.0, clip / (norm.item() + 1e-6)))
    optimizer.step()
    return loss.item(), state.detach()


@pytest.mark.parametrize("clip", [None, 0.05, 1e6])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_step_is_pytorchs(clip, optimizer):
    ours = new_model().double()
    theirs = copy.deepcopy(ours)
    kind = getattr(torch.optim, optimizer)
    our_optimizer, their_optimizer = (kind(m.parameters(), lr=0.1) for m in (ours, theirs))
    our_state = their_state = None
    for x, y in StreamBatches(ids(121), 4, 5):
        a, our_state = train_step(ours, x, y, our_optimizer, our_state, clip=clip)
        b, their_state = plain_step(theirs, x, y, their_optimizer, their_state, clip)
        assert a == pytest.approx(b, abs=1e-12)
        torch.testing.assert_close(our_state, their_state, rtol=0, atol=1e-12)
        torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-10)
    assert (weights(ours) - weights(new_model().double())).abs().max() > 1e-3  # it did move


def test_epoch_is_its_steps():
    ours = new_model()
    theirs = copy.deepcopy(ours)
    batches, optimizer = StreamBatches(ids(121), 4, 5), torch.optim.AdamW(ours.parameters(), 0.01)
    train_epoch(ours, batches, optimizer)
    optimizer, state = torch.optim.AdamW(theirs.parameters(), 0.01), None
    for x, y in batches:
        _, state = train_step(theirs, x, y, optimizer, state)
    assert torch.equal(weights(ours), weights(theirs))


@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_no_gradient_crosses_the_cut(core):
    model = new_model(core)
    (x, y), (x2, y2) = list(StreamBatches(ids(41), 4, 5))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    _, state = train_step(model, x, y, optimizer)
    parts = state if core == "lstm" else (state,)
    assert all(part.grad_fn is None and not part.requires_grad for part in parts)
    train_step(model, x2, y2, optimizer, state)  # would fail on a freed graph


def test_detach_state_keeps_the_values():
    a = torch.randn(3, requires_grad=True) * 2
    assert detach_state(None) is None
    assert torch.equal(detach_state(a), a) and not detach_state(a).requires_grad
    pair = detach_state((a, a + 1))
    assert isinstance(pair, tuple) and [p.requires_grad for p in pair] == [False, False]
    assert torch.equal(pair[1], a + 1)


def test_clipping_holds_the_gradients_norm():
    model, seen = new_model(), []
    with torch.no_grad():
        model.head.weight.mul_(30)

    class Watch(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad.flatten() for p in model.parameters()]
            seen.append(torch.cat(grads).norm().item())

    x, y = next(iter(StreamBatches(ids(41), 4, 10)))
    for clip in (None, 1e9, 0.25):
        train_step(model, x, y, Watch(model.parameters(), 0.0), clip=clip)
    assert seen[0] == seen[1] > 0.5
    assert seen[2] == pytest.approx(0.25, rel=1e-4)


def test_bf16_is_used_where_asked_for():
    model, dtypes = new_model(), []
    model.head.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    x, y = next(iter(StreamBatches(ids(41), 4, 10)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for precision in ("bf16", "float32"):
        train_step(model, x, y, optimizer, precision=precision)
    assert dtypes == [torch.bfloat16, torch.float32]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


# ---- one epoch --------------------------------------------------------------------------------


class Watched(CharLM):
    """Notes the states that come in and go out, and whether it is in training mode."""

    def forward(self, x, state=None):
        logits, new_state = super().forward(x, state)
        if not hasattr(self, "calls"):
            self.calls = []
        self.calls.append((self.training, state, new_state.detach()))
        return logits, new_state


@pytest.mark.parametrize("carry_state", [True, False])
def test_state_is_carried_if_asked_for(carry_state):
    model = new_model(kind=Watched)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train_epoch(model, StreamBatches(ids(81), 4, 5), optimizer, carry_state=carry_state)
    states = [state for _, state, _ in model.calls]
    assert states[0] is None and len(states) == 4
    if not carry_state:
        assert states == [None] * 4
        return
    for state, (_, _, end) in zip(states[1:], model.calls, strict=False):
        assert torch.equal(state, end)


@pytest.mark.parametrize("kind", ["windows", "shuffled"])
def test_no_state_crosses_between_windows(kind):
    text = ids(200)
    batches = RandomWindows(text, 4, 6, 5)
    if kind == "shuffled":
        x, _ = context_windows(text, 6)
        batches = ShuffledBatches(x[:-1], x[1:], 40)
    model = new_model(kind=Watched)
    train_epoch(model, batches, torch.optim.SGD(model.parameters(), 0.1), carry_state=True)
    evaluate(model, batches)
    assert len(model.calls) == 10 and all(state is None for _, state, _ in model.calls)


@pytest.mark.parametrize(("n", "batch_size", "seq_len"), [(122, 4, 7), (100, 7, 9), (30, 29, 4)])
def test_training_loss_is_weighted_by_characters(n, batch_size, seq_len):
    model, batches = new_model(), StreamBatches(ids(n), batch_size, seq_len)
    frozen = torch.optim.SGD(model.parameters(), 0.0)
    assert train_epoch(model, batches, frozen) == pytest.approx(evaluate(model, batches), rel=1e-6)


def test_stop_ends_the_pass_after_the_current_update():
    model, stop = new_model(kind=Watched), threading.Event()
    stop.set()
    at = training.Position()
    train_epoch(
        model,
        StreamBatches(ids(81), 4, 5),
        torch.optim.SGD(model.parameters(), 0.1),
        at=at,
        stop=stop,
    )
    assert (at.batch, at.step, at.characters, at.targets, len(model.calls)) == (1, 1, 20, 20, 1)


# ---- evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "batch_size", "seq_len"), [(122, 4, 7), (100, 7, 9), (30, 29, 4), (9, 1, 100)]
)
@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_evaluate_is_a_plain_computation_over_each_stream(n, batch_size, seq_len, core):
    model, text = new_model(core, dropout=0.5).double(), ids(n)
    batches, total, start = StreamBatches(text, batch_size, seq_len), 0.0, 0
    model.eval()
    for i in range(batch_size):
        length = (n - 1) // batch_size + (i < (n - 1) % batch_size)
        stream = text[start : start + length + 1]
        logits, _ = model(stream[None, :-1])
        log_p = logits[0].log_softmax(-1)
        total -= sum(log_p[t, stream[t + 1]].item() for t in range(length))
        start += length
    assert start == n - 1
    assert evaluate(model.train(), batches) == pytest.approx(total / (n - 1), abs=1e-12)


def test_evaluate_does_not_depend_on_the_chunks():
    model, text = new_model().double(), ids(333)
    losses = [
        evaluate(model, StreamBatches(text, 5, seq_len)) for seq_len in (1, 2, 13, 66, 67, 500)
    ]
    assert losses == pytest.approx([losses[0]] * 6, abs=1e-12)


def test_evaluate_weighs_a_short_last_batch_by_its_characters():
    torch.manual_seed(0)
    model = LoopModel(V, E, H).double()
    x, y = context_windows(ids(113), 5)
    log_p = model(x)[0].log_softmax(-1)
    plain = -log_p[torch.arange(len(y)), y].mean().item()
    for batch_size in (1, 10, 107, 1000):  # 108 rows
        batches = ShuffledBatches(x, y, batch_size, seed=None)
        assert evaluate(model, batches) == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_leaves_the_model_as_it_was(mode):
    model = new_model(dropout=0.5, kind=Watched).train(mode)
    before = weights(model).clone()
    first = evaluate(model, StreamBatches(ids(81), 4, 5))
    assert first == evaluate(model, StreamBatches(ids(81), 4, 5))  # no dropout, no state left
    assert model.training is mode and not any(training for training, _, _ in model.calls)
    assert torch.equal(before, weights(model)) and all(p.grad is None for p in model.parameters())


# ---- fit --------------------------------------------------------------------------------------


def run(model, epochs=3, train=None, **options):
    train = StreamBatches(ids(121), 4, 5) if train is None else train  # 6 batches
    options = {"lr": 0.01, "precision": "float32"} | options
    return fit(model, train, StreamBatches(ids(61, seed=1), 2, 9), epochs=epochs, **options)


def test_history_has_an_entry_for_each_epoch():
    model = new_model()
    history = run(model)
    assert len(history.train) == len(history.valid) == len(history.seconds) == 3
    assert history.characters == [120, 240, 360] and not history.interrupted
    assert history.seconds == sorted(history.seconds)
    assert history.valid[-1] == evaluate(model, StreamBatches(ids(61, seed=1), 2, 9))


def test_training_learns_what_can_be_learnt():
    text = torch.arange(V).repeat(200)  # the next character is certain
    model = new_model()
    history = run(model, epochs=12, train=StreamBatches(text, 10, 7), lr=0.05)
    assert history.train[0] > 1 and history.train[-1] < 0.05


def test_same_seed_same_weights():
    first, again, other = (new_model(dropout=0.5) for _ in range(3))
    histories = [run(m, seed=s) for m, s in ((first, 1), (again, 1), (other, 2))]
    assert torch.equal(weights(first), weights(again))
    assert histories[0].valid == histories[1].valid != histories[2].valid
    assert not torch.equal(weights(first), weights(other))


def test_epochs_draw_anew_and_a_run_repeats():
    seen = []

    class Noted(RandomWindows):
        def __iter__(self):
            for x, y in super().__iter__():
                seen.append((self.epoch, x.clone()))
                yield x, y

    run(new_model(), train=Noted(ids(121), 4, 5, 6))
    by_epoch = [torch.cat([x for e, x in seen if e == epoch][-6:]) for epoch in range(3)]
    assert not torch.equal(by_epoch[0], by_epoch[1]) and not torch.equal(by_epoch[1], by_epoch[2])


def test_each_update_has_its_rate(monkeypatch):
    seen, plain = [], training.train_step

    def watch(model, x, y, optimizer, *args, **kwargs):
        seen.append([group["lr"] for group in optimizer.param_groups])
        return plain(model, x, y, optimizer, *args, **kwargs)

    monkeypatch.setattr(training, "train_step", watch)
    run(new_model(), lr=0.07, warmup_steps=3)
    assert seen == [[learning_rate(step, 18, 0.07, warmup_steps=3)] for step in range(18)]


def test_settings_reach_the_optimizer(monkeypatch):
    made, plain = [], torch.optim.Adam

    def watch(*args, **kwargs):
        made.append(plain(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(torch.optim, "Adam", watch)
    run(new_model(), betas=(0.8, 0.95), weight_decay=0.3)
    (group,) = made[0].param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.95), 0.3)


def test_clip_and_carry_state_reach_the_steps(monkeypatch):
    seen, plain = [], training.train_step

    def watch(model, x, y, optimizer, state, **options):
        seen.append((state is None, options["clip"], options["precision"]))
        return plain(model, x, y, optimizer, state, **options)

    monkeypatch.setattr(training, "train_step", watch)
    run(new_model(), epochs=2, clip=0.5)
    assert seen == ([(True, 0.5, "float32")] + [(False, 0.5, "float32")] * 5) * 2
    seen.clear()
    run(new_model(), epochs=1, clip=None, carry_state=False, precision="bf16")
    assert seen == [(True, None, "bf16")] * 6


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"lr": 0},
        {"lr": -1e-3},
        {"lr": math.nan},
        {"lr": math.inf},
        {"clip": 0},
    ]
    + [{"clip": -1.0}, {"clip": math.nan}, {"precision": "fp16"}, {"schedule": "cosin"}]
    + [{"warmup_steps": -1}, {"weight_decay": -0.1}, {"weight_decay": math.inf}]
    + [{"seed": 2**64}, {"seed": -(2**63) - 1}],
)
def test_settings_that_make_no_sense(bad, tmp_path):
    model = new_model()
    before = weights(model).clone()
    value = str(next(iter(bad.values())))
    with pytest.raises(ValueError, match=value):
        run(model, checkpoint_dir=tmp_path / "out", **bad)
    assert torch.equal(before, weights(model)) and not (tmp_path / "out").exists()


def test_progress_is_said_or_not(capsys, monkeypatch):
    run(new_model())
    assert capsys.readouterr() == ("", "")  # CHARLM_QUIET=1
    monkeypatch.delenv("CHARLM_QUIET")
    run(new_model(), progress=False)
    assert capsys.readouterr() == ("", "")
    history = run(new_model())
    out = capsys.readouterr().out
    assert out.count("epoch") == 3
    assert f"epoch 3: training {history.train[2]:.4f}, validation {history.valid[2]:.4f}" in out


# ---- losses that are no number ----------------------------------------------------------------


class Poisoned(CharLM):
    """A language model with `bad` among its logits from training pass `at` (from 0) on."""

    at, bad, count = 10**9, math.nan, 0

    def forward(self, x, state=None):
        logits, state = super().forward(x, state)
        if self.training:
            logits = spoilt(logits, self.bad) if self.count >= self.at else logits
            self.count += 1
        return logits, state


def spoilt(logits, bad):
    """All but the first logit `bad`: -inf makes the loss infinite, others make it no number."""
    return torch.cat([logits[..., :1], torch.full_like(logits[..., 1:], bad)], dim=-1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("at", "epochs_done"), [(0, 0), (1, 0), (6, 1), (8, 1), (17, 2)])
def test_a_loss_that_is_not_finite_stops_training(tmp_path, bad, at, epochs_done):
    plain, model = new_model(), new_model(kind=Poisoned)
    model.at, model.bad = at, bad
    good = run(plain, progress=False)
    vocab = CharVocab("abcdefg")
    with pytest.raises(TrainingDiverged) as caught:
        run(model, checkpoint_dir=tmp_path / "out", vocab=vocab)
    message, history = str(caught.value), caught.value.history
    assert f"step {at} " in message
    assert f"the loss is {'inf' if bad == -math.inf else 'nan'};" in message
    kept = f"the last good checkpoint is in {tmp_path / 'out'}"
    assert message.endswith(kept if epochs_done else "nothing was saved")
    assert has_checkpoint(tmp_path / "out") is bool(epochs_done)
    assert history.train == good.train[:epochs_done] and history.valid == good.valid[:epochs_done]
    assert weights(model).isfinite().all()
    saved, saved_vocab, saved_history = load_checkpoint(tmp_path / "out")
    assert weights(saved).isfinite().all() and saved_vocab == vocab
    assert saved_history.train == good.train[:epochs_done]
    if epochs_done == 0:  # nothing in the way of another try
        assert torch.equal(weights(saved), weights(new_model()))
        assert run(new_model(), checkpoint_dir=tmp_path / "out", vocab=vocab).valid == good.valid


def test_the_last_good_loss_is_told():
    model, plain = new_model(kind=Poisoned), new_model()
    model.at = 8
    optimizer = torch.optim.AdamW(plain.parameters(), 0.01, (0.9, 0.99), weight_decay=0.0)
    at = training.Position()
    options = {"rate": lambda step: learning_rate(step, 18, 0.01)}
    train_epoch(plain, StreamBatches(ids(121), 4, 5), optimizer, at=at, **options)
    at = training.Position(step=6)
    two = list(StreamBatches(ids(121), 4, 5))[:2]
    first_two = type("Two", (), {"contiguous": True, "__iter__": lambda self: iter(two)})()
    mean = train_epoch(plain, first_two, optimizer, at=at, **options)
    with pytest.raises(TrainingDiverged, match=rf"step 8 \(epoch 2\).* {mean:.4f}$"):
        run(model)
    model = new_model(kind=Poisoned)
    model.at = 0
    with pytest.raises(TrainingDiverged, match="none$"):
        run(model)


@pytest.mark.parametrize("step", [2, 5, 11])
def test_weights_spoilt_by_an_update_are_never_saved(tmp_path, step):
    """A gradient can overflow where the loss does not: at the end of an epoch nobody notices."""
    model, calls = new_model(), []

    def spoil(grad):
        calls.append(len(calls))
        return grad * math.nan if calls[-1] == step else grad

    model.head.bias.register_hook(spoil)
    with pytest.raises(TrainingDiverged) as caught:
        run(model, checkpoint_dir=tmp_path)
    done = (step + 1) // 6 if (step + 1) % 6 else (step + 1) // 6 - 1
    saved, _, history = load_checkpoint(tmp_path)
    assert weights(saved).isfinite().all()
    assert len(history.valid) == len(caught.value.history.valid) == done
    assert all(math.isfinite(loss) for loss in history.valid)


class Blind(CharLM):
    """Trains well and has `bad` among its logits when it is evaluated."""

    bad = math.nan

    def forward(self, x, state=None):
        logits, state = super().forward(x, state)
        return logits if self.training else spoilt(logits, self.bad), state


@pytest.mark.parametrize(("bad", "said"), [(math.nan, "nan"), (-math.inf, "inf")])
def test_a_validation_loss_that_is_not_finite_stops_training(tmp_path, bad, said):
    model = new_model(kind=Blind)
    model.bad = bad
    with pytest.raises(TrainingDiverged, match=f"step 6 .*validation loss is {said}") as caught:
        run(model, checkpoint_dir=tmp_path)
    saved, _, history = load_checkpoint(tmp_path)
    assert history == caught.value.history == History()
    assert torch.equal(weights(saved), weights(new_model()))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_stop_training(bad):
    """Also such as no loss shows."""
    model = new_model()
    model.spare = torch.nn.Parameter(torch.tensor([0.0, bad]))
    with pytest.raises(TrainingDiverged, match="step 6 .*spare holds numbers that are not finite"):
        run(model)


def test_diverging_in_earnest(tmp_path):
    """No trick: a learning rate that throws the weights out of all bounds."""
    torch.manual_seed(0)
    model = CharLM(V, E, make_core("rnn", E, H))
    with pytest.raises(TrainingDiverged, match="step"):
        run(model, epochs=20, lr=1e37, clip=None, warmup_steps=0, checkpoint_dir=tmp_path)
    saved, _, _ = load_checkpoint(tmp_path)
    assert weights(saved).isfinite().all()


# ---- what ends otherwise -------------------------------------------------------------------------


def ignoring(batches, columns):
    """The batches with all targets of some of them ignored."""
    pairs = [(x, y.clone()) for x, y in batches]
    for number in columns:
        pairs[number][1].fill_(IGNORE)
    kind = {"contiguous": batches.contiguous, "__iter__": lambda self: iter(pairs)}
    return type("Ignoring", (), kind)()


def test_a_batch_without_targets_does_not_spoil_the_loss():
    model, batches = new_model(), StreamBatches(ids(81), 4, 5)
    model.eval()
    logits, _ = model(torch.cat([x for x, _ in batches], dim=1))
    losses = F.cross_entropy(
        logits.transpose(1, 2), torch.cat([y for _, y in batches], dim=1), reduction="none"
    )
    expected = torch.cat([losses[:, :5], losses[:, 10:]], dim=1).mean().item()
    assert evaluate(model, ignoring(batches, [1])) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="no target"):
        evaluate(model.train(), ignoring(batches, range(4)))
    assert model.training


def test_a_batch_without_targets_is_not_learnt_from():
    model = new_model()
    before, optimizer = weights(model).clone(), torch.optim.SGD(model.parameters(), 0.1)
    x, y = next(iter(StreamBatches(ids(41), 4, 10)))
    with pytest.raises(ValueError, match="without a target"):
        train_step(model, x, torch.full_like(y, IGNORE), optimizer)
    assert torch.equal(before, weights(model))


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_that_fails_leaves_the_mode(mode):
    model = new_model().train(mode)
    x, y = next(iter(StreamBatches(ids(41), 4, 10)))
    broken = type("Broken", (), {"contiguous": True, "__iter__": lambda self: iter([(x + V, y)])})
    with pytest.raises(IndexError):
        evaluate(model, broken())
    assert model.training is mode


def test_seconds_never_run_backwards(monkeypatch):
    """As where a virtual machine's clock is set back in mid-run."""
    clock = iter([100.0, 107.0, 50.0, 20.0, 10.0, 15.0, *range(100, 200)])
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    assert run(new_model(), epochs=3).seconds == [7.0, 7.0, 12.0]


def test_more_epochs_are_the_same_run_however_often_it_is_stopped(tmp_path):
    """From where the first run ended; the rate follows the schedule of the longer one."""
    run(new_model(dropout=0.3), checkpoint_dir=tmp_path / "whole", epochs=2)
    run(new_model(dropout=0.3), checkpoint_dir=tmp_path / "parts", epochs=2)
    more = {"epochs": 5, "resume": True}
    models = {"whole": new_model(dropout=0.3), "parts": new_model(dropout=0.3)}
    expected = run(models["whole"], checkpoint_dir=tmp_path / "whole", **more)
    for last in (3, 4, None):
        models["parts"] = new_model(dropout=0.3)
        options = more | {"stop_after": last}
        history = run(models["parts"], checkpoint_dir=tmp_path / "parts", **options)
    assert history.train == expected.train and history.valid == expected.valid
    assert torch.equal(weights(models["whole"]), weights(models["parts"]))
    assert len(history.valid) == 5 and not history.interrupted
    with pytest.raises(CheckpointError, match="5 epochs were begun, which is more than 4"):
        run(new_model(dropout=0.3), checkpoint_dir=tmp_path / "whole", **more | {"epochs": 4})
    longer = more | {"train": StreamBatches(ids(141), 4, 5)}
    with pytest.raises(CheckpointError, match="had not 7 updates"):
        run(new_model(dropout=0.3), checkpoint_dir=tmp_path / "whole", **longer)


def test_the_rate_of_more_epochs(monkeypatch, tmp_path):
    seen, plain = [], training.train_step

    def watch(model, x, y, optimizer, *args, **kwargs):
        seen.append(optimizer.param_groups[0]["lr"])
        return plain(model, x, y, optimizer, *args, **kwargs)

    run(new_model(), checkpoint_dir=tmp_path, epochs=2)
    monkeypatch.setattr(training, "train_step", watch)
    run(new_model(), checkpoint_dir=tmp_path, epochs=4, resume=True)
    assert seen == [learning_rate(step, 24, 0.01) for step in range(12, 24)]


def test_how_it_was_made_is_saved_with_each_checkpoint(tmp_path):
    made = {"text": "any", "cut": 3}
    run(new_model(), checkpoint_dir=tmp_path, epochs=3, schedule=Cycles(1, 2, 2), made=made)
    assert [load_made(tmp_path / name) for name in (".", "cycle-1", "cycle-2")] == [made] * 3


def test_a_display_that_fails_is_no_failure_of_the_run(monkeypatch, tmp_path):
    def fail(*args, **options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.delenv("CHARLM_QUIET")
    expected = run(new_model(), progress=False)
    for name in ("update", "clear"):
        monkeypatch.setattr(training.tqdm, name, fail)
    monkeypatch.setattr("builtins.print", fail)
    assert run(new_model(), checkpoint_dir=tmp_path, progress=True).valid == expected.valid
    assert len(load_checkpoint(tmp_path)[2].valid) == 3


@pytest.mark.parametrize("schedule", ["step", "constant", lambda progress: 1 - progress])
@pytest.mark.parametrize("core", ["rnn", "gru", "lstm", "residual-gru"])
def test_dropout_between_layers_goes_on_where_it_was(tmp_path, core, schedule):
    """Stopped and resumed with groups of its own, under each schedule, to the last bit."""

    def begin(rate=0.4):
        torch.manual_seed(0)
        return CharLM(V, E, make_core(core, E, H, 2, rate), dropout=0.2)

    def go(model, train=None, **options):
        options |= {"groups": decay_groups(model, 0.3), "schedule": schedule}
        return run(model, train=train, **options)

    whole, again = begin(), begin()
    expected = go(whole)
    first = go(begin(), Stopped(StreamBatches(ids(121), 4, 5), 9), checkpoint_dir=tmp_path)
    assert first.interrupted and len(first.valid) == 1
    torch.manual_seed(99)
    history = go(again, checkpoint_dir=tmp_path, resume=True)
    assert (history.train, history.valid) == (expected.train, expected.valid)
    assert torch.equal(weights(again), weights(whole))
    assert go(begin(0.0)).train != expected.train  # the rate does something


@pytest.mark.parametrize("batches", [[(ids(4)[None], ids(4)[None])], DataLoader(ids(8).view(2, 4))])
def test_what_are_no_batches_is_named(batches):
    """Without the word whether the state goes on, a model would be judged by a wrong number."""
    kind = type(batches).__name__
    for call in (
        lambda: evaluate(new_model(), batches),
        lambda: run(new_model(), train=batches),
        lambda: train_epoch(new_model(), batches, None),
    ):
        with pytest.raises(TypeError, match=f"a {kind} does not say .*`contiguous`"):
            call()
