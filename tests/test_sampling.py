"""Sampling: each character read once, the settings obeyed, the frequencies those of the model."""

import math

import pytest
import torch
from elsewhere import on_mps
from torch import nn

from charlm_utils.data import CharVocab
from charlm_utils.models import CharLM, ConcatLoopModel, LoopModel, make_core
from charlm_utils.sampling import (
    generate,
    next_char_probs,
    sample_next,
    scaled_probs,
    stream,
)
from charlm_utils.training import evaluating

VOCAB = CharVocab("abcdefg🙂")
V, E, H = len(VOCAB), 5, 16


def new_model(core="gru", dropout=0.0):
    """A model with opinions: its head is scaled up, so that characters differ in probability."""
    torch.manual_seed(1)
    if isinstance(core, str):
        model = CharLM(V, E, make_core(core, E, H), dropout=dropout)
        head = model.head
    else:
        model = core(V, E, H)
        head = model.hidden_to_output
    with torch.no_grad():
        head.weight.mul_(8)
    return model.eval()


def record_reads(model):
    """The texts handed to `forward`, call by call."""
    reads = []
    model.register_forward_pre_hook(lambda module, args: reads.append(VOCAB.decode(args[0][0])))
    return reads


# ---- the settings -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 0.0, -1, -0.001, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("greedy", [False, True])
def test_temperature_must_be_a_positive_number(temperature, greedy):
    with pytest.raises(ValueError, match=f"positive number, not {temperature}; .*greedy=True"):
        generate(new_model(), VOCAB, "a", 1, temperature=temperature, greedy=greedy)
    with pytest.raises(ValueError, match="positive number"):
        next_char_probs(new_model(), VOCAB, "a", temperature=temperature)
    with pytest.raises(ValueError, match="positive number"):
        sample_next(torch.zeros(1, V), temperature=temperature)


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_must_be_at_least_one(top_k):
    with pytest.raises(ValueError, match=f"top_k must be at least 1, not {top_k}"):
        generate(new_model(), VOCAB, "a", 1, top_k=top_k)


def test_length_must_not_be_negative():
    with pytest.raises(ValueError, match="length must be at least 0, not -1"):
        generate(new_model(), VOCAB, "a", -1)
    assert generate(new_model(), VOCAB, "ab🙂", 0) == "ab🙂"


def test_bad_settings_fail_before_anything_is_read():
    model = new_model()
    reads = record_reads(model)
    for bad in ({"temperature": 0}, {"top_k": 0}, {"length": -1}):
        with pytest.raises(ValueError):
            generate(model, VOCAB, **({"prompt": "a", "length": 3} | bad))
    assert reads == []


def test_prompts():
    model = new_model()
    with pytest.raises(ValueError, match="empty .0 characters.*start_empty=True"):
        generate(model, VOCAB, "", 3)
    with pytest.raises(ValueError, match="empty"):
        next_char_probs(model, VOCAB, "")
    with pytest.raises(ValueError, match=r"'z' \(U\+007A\) at position 1 "):
        generate(model, VOCAB, "az", 3)
    text = generate(model, VOCAB, "", 5, greedy=True, start_empty=True)
    assert len(text) == 5 and "a" + text == generate(model, VOCAB, "a", 5, greedy=True)
    reads = record_reads(model)
    written = generate(model, VOCAB, "b", 5, greedy=True)
    assert generate(model, VOCAB, "b", 5, greedy=True, start_empty=True) == written
    assert [reads[0], reads[len(reads) // 2]] == ["b", "b"]  # a prompt is read as it is
    assert generate(model, VOCAB, "", 0, start_empty=True) == ""


# ---- probabilities ----------------------------------------------------------------------------


def test_temperature_is_a_power_of_the_probabilities():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    for t in (0.1, 0.5, 1.0, 2.0, 30.0):
        expected = p ** (1 / t) / (p ** (1 / t)).sum()
        torch.testing.assert_close(scaled_probs(p.log(), t), expected, rtol=1e-5, atol=1e-9)


def test_colder_is_sharper():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    sharpness = [scaled_probs(logits, t).max(-1).values for t in (3.0, 1.0, 0.5, 0.1, 0.01)]
    assert all((b > a).all() for a, b in zip(sharpness[:-2], sharpness[1:-1], strict=True))
    assert (sharpness[-1] > 0.9).all()


def test_extreme_settings_stay_finite():
    logits = torch.tensor([1e4, -1e4, 9.9e3])
    for t in (1e-310, 1e-8, 1e300):
        probs = scaled_probs(logits, t)
        assert probs.isfinite().all() and probs.sum() == pytest.approx(1)
    assert scaled_probs(logits, 1e-310).tolist() == [1, 0, 0]


@pytest.mark.parametrize("k", [1, 3, V - 1, V, V + 5, None])
def test_top_k_keeps_the_k_likeliest_and_their_ratios(k):
    logits = torch.randn(5, V, generator=torch.Generator().manual_seed(0))
    probs, plain = scaled_probs(logits, 0.7, k), scaled_probs(logits, 0.7)
    kept = min(k or V, V)
    assert ((probs > 0).sum(-1) == kept).all()
    places = plain.topk(kept).indices
    raw = plain.gather(-1, places)
    torch.testing.assert_close(probs.gather(-1, places), raw / raw.sum(-1, keepdim=True))


def test_top_k_keeps_k_of_equals_too():
    for k in range(1, V + 1):
        probs = scaled_probs(torch.zeros(2, V), top_k=k)
        assert ((probs > 0).sum(-1) == k).all() and probs.max() == pytest.approx(1 / k)


@pytest.mark.parametrize("top_k", [None, 3, V])
def test_probabilities_where_the_device_has_no_float64(top_k):
    logits = torch.randn(4, V, generator=torch.Generator().manual_seed(0))
    there = scaled_probs(on_mps(logits), 0.7, top_k)
    assert type(there) is torch.Tensor and torch.equal(there, scaled_probs(logits, 0.7, top_k))


def test_next_char_probs_are_the_models():
    model = new_model(dropout=0.5)
    probs = next_char_probs(model, VOCAB, "abca")
    logits, _ = model(VOCAB.encode("abca")[None])
    expected = logits[0, -1].softmax(-1)
    assert sum(probs.values()) == pytest.approx(1) and len(probs) == V
    assert all(
        probs[c] == pytest.approx(expected[i].item(), rel=1e-5) for c, i in VOCAB.stoi.items()
    )
    assert list(probs.values()) == sorted(probs.values(), reverse=True)
    assert next_char_probs(model.train(), VOCAB, "abca") == probs  # without dropout all the same
    assert model.training


# ---- text -------------------------------------------------------------------------------------

KINDS = ["gru", "lstm", "rnn", LoopModel, ConcatLoopModel]


@pytest.mark.parametrize("kind", KINDS)
def test_each_character_is_read_exactly_once(kind):
    model = new_model(kind)
    reads = record_reads(model)
    text = generate(model, VOCAB, "abc", 20, seed=0)
    assert reads[0] == "abc" and all(len(read) == 1 for read in reads[1:])
    read = "".join(reads)
    assert text.startswith(read) and len(text) - len(read) in (0, 1)  # the last one may go unread


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_is_one_pass(kind):
    """Greedy text from carried state = the likeliest character after each whole prefix."""
    model = new_model(kind)
    text = generate(model, VOCAB, "ab", 25, greedy=True)
    for end in range(2, len(text)):
        logits, _ = model(VOCAB.encode(text[:end])[None])
        logits = logits[:, -1] if logits.dim() == 3 else logits
        assert VOCAB.itos[int(logits.argmax())] == text[end]


@pytest.mark.parametrize("core", ["gru", "lstm", "rnn"])
def test_logits_step_by_step_are_those_of_one_pass(core):
    model, stepped = new_model(core).double(), []
    handle = model.head.register_forward_hook(lambda module, args, out: stepped.append(out[0]))
    text = generate(model, VOCAB, "abc", 30, seed=3)
    handle.remove()
    logits, _ = model(VOCAB.encode(text)[None])
    stepped = torch.cat(stepped)
    torch.testing.assert_close(stepped, logits[0, : len(stepped)], rtol=0, atol=1e-10)
    assert len(set(text)) > 3


def test_greedy_is_deterministic_and_ignores_the_seed():
    model = new_model()
    texts = {generate(model, VOCAB, "a", 40, greedy=True, seed=s) for s in (None, 0, 1)}
    texts |= {generate(model, VOCAB, "a", 40, top_k=1, seed=4)}
    texts |= {generate(model, VOCAB, "a", 40, temperature=1e-9, seed=5)}
    assert len(texts) == 1


def test_seeds():
    model = new_model()
    first = generate(model, VOCAB, "a", 60, seed=7)
    torch.manual_seed(0)
    assert generate(model, VOCAB, "a", 60, seed=7) == first
    assert generate(model, VOCAB, "a", 60, seed=8) != first
    before = torch.get_rng_state()
    generate(model, VOCAB, "a", 60, seed=7)
    assert torch.equal(before, torch.get_rng_state())  # a seed of its own leaves torch's alone
    torch.manual_seed(3)
    free = generate(model, VOCAB, "a", 60)
    assert generate(model, VOCAB, "a", 60) != free
    torch.manual_seed(3)
    assert generate(model, VOCAB, "a", 60) == free


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_the_model_as_it_was(training):
    model = new_model(dropout=0.9).train(training)
    text = generate(model, VOCAB, "a", 30, greedy=True)
    assert text == generate(new_model(), VOCAB, "a", 30, greedy=True)  # no dropout inside
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError):
        generate(model, VOCAB, "z", 3)
    assert model.training is training


def test_evaluating_leaves_each_module_in_its_mode():
    model = new_model(dropout=0.9).train()
    model.core.eval()  # frozen, as one may
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert model.training and model.head.training and not model.core.training


# ---- as it is written -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"seed": 3}, {"greedy": True}, {"seed": 3, "top_k": 2}])
@pytest.mark.parametrize("prompt", ["abc", ""])
def test_a_stream_is_what_generate_writes(options, prompt):
    options, model = options | {"start_empty": not prompt}, new_model()
    pieces = list(stream(model, VOCAB, prompt, 30, **options))
    assert {len(piece) for piece in pieces} == {1}
    assert prompt + "".join(pieces) == generate(model, VOCAB, prompt, 30, **options)


def test_a_stream_gives_each_character_before_it_draws_the_next():
    model = new_model(dropout=0.9).train()
    reads = record_reads(model)
    characters = stream(model, VOCAB, "abc", 10**9, seed=0)
    assert reads == [] and model.training
    first, second = next(characters), next(characters)
    assert reads == ["abc", first] and second in VOCAB.itos
    assert torch.is_grad_enabled() and not model.training
    characters.close()
    assert model.training


def test_a_stream_refuses_at_once():
    model = new_model()
    for bad in ({"temperature": 0}, {"top_k": 0}, {"length": -1}, {"prompt": ""}, {"prompt": "z"}):
        with pytest.raises(ValueError):
            stream(model, VOCAB, **({"prompt": "a", "length": 3} | bad))


def test_top_k_restricts_the_text():
    model, seen = new_model(), []
    text = generate(model, VOCAB, "a", 200, top_k=2, temperature=5.0, seed=0)
    for end in range(1, len(text)):
        likeliest = list(next_char_probs(model, VOCAB, text[:end]))[:2]
        assert text[end] in likeliest
        seen.append(likeliest.index(text[end]))
    assert 30 < sum(seen) < 170  # both of them


class Fixed(nn.Module):
    """Gives the same logits after every character."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x, state=None):
        return self.logits.expand(*x.shape, -1), state


def chi_square(counts, probs):
    expected = probs * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("temperature", "top_k"), [(1.0, None), (0.6, None), (1.7, None), (1.0, 4)]
)
def test_frequencies_are_the_probabilities(temperature, top_k):
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, 1.2])
    model = Fixed(logits)
    text = generate(model, VOCAB, "a", 4000, temperature=temperature, top_k=top_k, seed=0)
    counts = torch.bincount(VOCAB.encode(text[1:]), minlength=V).double()
    probs = (logits.double() / temperature).softmax(-1)
    if top_k:
        probs[logits < logits.sort(descending=True).values[top_k - 1]] = 0
        probs /= probs.sum()
    support = probs > 0
    assert counts[~support].sum() == 0
    assert chi_square(counts[support], probs[support]) < 24.3  # p = 0.001 with 7 degrees of freedom
    wrong = scaled_probs(logits, temperature * 1.3)
    assert chi_square(counts, wrong) > 24.3  # and 4,000 draws would tell the difference


def test_rows_are_drawn_each_for_itself():
    logits = torch.full((3, V), -torch.inf)
    for row, i in enumerate((5, 0, 2)):
        logits[row, i] = 0.0
    assert sample_next(logits).tolist() == sample_next(logits, greedy=True).tolist() == [5, 0, 2]
    many = sample_next(torch.zeros(4000, V), generator=torch.Generator().manual_seed(0))
    assert many.shape == (4000,) and many.dtype == torch.int64
    assert chi_square(torch.bincount(many, minlength=V).double(), torch.full((V,), 1 / V)) < 24.3
