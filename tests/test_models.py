"""The models keep their contract: shapes, causality, state in and out, equality with torch."""

import itertools

import pytest
import torch
from torch import nn

from charlm_utils.cells import ReLUGRU, RNNCell
from charlm_utils.models import (
    CORES,
    CharLM,
    ConcatLoopModel,
    LoopModel,
    ResidualGRU,
    ThreeCharModel,
    core_name,
    core_options,
    count_parameters,
    make_core,
)

V, E, H, B, T = 11, 5, 8, 3, 9
WINDOW_MODELS = [ThreeCharModel, LoopModel, ConcatLoopModel]

each_core = pytest.mark.parametrize("core", CORES)
each_depth = pytest.mark.parametrize("layers", [1, 2])


def language_model(core="gru", layers=1, dropout=0.0):
    """In float64, in eval mode."""
    torch.manual_seed(0)
    model = CharLM(V, E, make_core(core, E, H, layers), dropout=dropout)
    return model.double().eval()


def ids(length=T, batch=B, seed=1):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def same(a, b, **tolerance):
    options = {"rtol": 0, "atol": 1e-12} | tolerance
    for one, other in zip(parts(a), parts(b), strict=True):
        torch.testing.assert_close(one, other, **options)


# ---- a prediction after every character -------------------------------------------------------


@each_core
@each_depth
@pytest.mark.parametrize("length", [1, T])
def test_shapes(core, layers, length):
    logits, state = language_model(core, layers)(ids(length))
    assert logits.shape == (B, length, V)
    assert isinstance(state, tuple) == (core == "lstm")
    assert all(part.shape == (layers, B, H) for part in parts(state))


@each_core
@each_depth
def test_no_look_at_what_comes(core, layers):
    model, x = language_model(core, layers), ids()
    logits, _ = model(x)
    for t in range(T - 1):
        changed = x.clone()
        changed[:, t + 1] = (x[:, t + 1] + 1) % V
        other, _ = model(changed)
        assert torch.equal(other[:, : t + 1], logits[:, : t + 1])
        assert not torch.isclose(other[:, t + 1 :], logits[:, t + 1 :]).all(dim=-1).any()


@each_core
@each_depth
@pytest.mark.parametrize("cuts", [(1,) * T, (4, 5), (2, 3, 4)])
def test_chunks_with_carried_state_are_one_pass(core, layers, cuts):
    model, x = language_model(core, layers), ids()
    whole, end = model(x)
    state, pieces = None, []
    for chunk in x.split(list(cuts), dim=1):
        logits, state = model(chunk, state)
        pieces.append(logits)
    same(torch.cat(pieces, dim=1), whole)
    same(state, end)
    alone, _ = model(x[:, 4:])
    assert not torch.allclose(alone, whole[:, 4:])  # the state does matter


@each_core
def test_no_state_is_a_zero_state(core):
    model, x = language_model(core, 2), ids()
    zeros = [torch.zeros(2, B, H, dtype=torch.float64)] * (2 if core == "lstm" else 1)
    logits, state = model(x, tuple(zeros) if core == "lstm" else zeros[0])
    same(logits, model(x)[0])
    same(state, model(x)[1])


@each_core
def test_streams_do_not_touch(core):
    model, x = language_model(core), ids()
    whole, _ = model(x)
    for i in range(B):
        same(model(x[i : i + 1])[0][0], whole[i])


def tensors_within(model):
    """Every tensor that hangs on a module, by where it hangs."""
    found = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            values = value.values() if isinstance(value, dict) else [value]
            for i, held in enumerate(v for v in values if isinstance(v, (torch.Tensor, tuple))):
                for j, tensor in enumerate(t for t in parts(held) if isinstance(t, torch.Tensor)):
                    found[name, key, i, j] = tensor.clone()
    return found


@pytest.mark.parametrize("make", [*CORES, *WINDOW_MODELS])
def test_no_module_keeps_state(make):
    model = language_model(make) if isinstance(make, str) else make(V, E, H).eval()
    x = ids(3)
    before, (logits, _) = tensors_within(model), model(x)
    model(ids(3, seed=2))
    after = tensors_within(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(model(x)[0], logits)


# ---- dropout ----------------------------------------------------------------------------------


def bare_head(p):
    """A model whose logits are the core's output after dropout."""
    torch.manual_seed(0)
    model = CharLM(H, E, make_core("gru", E, H), dropout=p).double()
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(H))
        model.head.bias.zero_()
    return model


def masks(model, x):
    """Output with dropout over output without: 0 or 1 / (1 - p), shape (B, T, H)."""
    kept, _ = model.train()(x)
    plain, _ = model.eval()(x)
    return (kept / plain).detach()


def test_one_mask_for_all_time_steps_of_a_stream():
    model = bare_head(0.4)
    mask = masks(model, ids(T, batch=50) % H)
    torch.testing.assert_close(mask, mask[:, :1].expand_as(mask))
    zero = (mask[:, 0] == 0).double()
    torch.testing.assert_close(mask[:, 0], (1 - zero) / 0.6)
    assert 0.3 < zero.mean() < 0.5
    assert len({tuple(row.tolist()) for row in zero}) > 30  # streams have masks of their own
    assert not torch.equal(mask, masks(model, ids(T, batch=50) % H))  # and each batch anew


def test_dropout_is_in_front_of_the_head_only():
    model, x = bare_head(0.4), ids() % H
    _, state = model.train()(x)
    _, without = model.eval()(x)
    assert torch.equal(state, without)  # what is carried on is whole


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_no_dropout_in_eval_or_at_zero(p):
    model, x = bare_head(p), ids() % H
    model.train(p == 0)
    before = torch.get_rng_state()
    assert torch.equal(model(x)[0], model(x)[0])
    assert torch.equal(before, torch.get_rng_state())


# ---- a prediction after three characters, and after any number ----------------------------------


@pytest.mark.parametrize("model", WINDOW_MODELS)
@pytest.mark.parametrize("length", [3, 7])
def test_window_models_shapes(model, length):
    if model is ThreeCharModel and length != 3:
        return
    logits, h = model(V, E, H)(ids(length))
    assert logits.shape == (B, V) and h.shape == (B, H)


def loop_and_three():
    torch.manual_seed(0)
    three, loop = ThreeCharModel(V, E, H).double(), LoopModel(V, E, H).double()
    loop.load_state_dict(three.state_dict())
    return three, loop


@pytest.mark.parametrize("carried", [False, True])
def test_the_loop_is_the_three_char_model(carried):
    three, loop = loop_and_three()
    start = torch.randn(B, H, dtype=torch.float64) if carried else None
    (logits, h), (loop_logits, loop_h) = three(ids(3), start), loop(ids(3), start)
    same((logits, h), (loop_logits, loop_h))
    nn.functional.cross_entropy(logits, ids(1)[:, 0]).backward()
    nn.functional.cross_entropy(loop_logits, ids(1)[:, 0]).backward()
    for one, other in zip(three.parameters(), loop.parameters(), strict=True):
        assert one.grad.abs().max() > 0
        same(one.grad, other.grad)


@pytest.mark.parametrize("kind", [LoopModel, ConcatLoopModel])
def test_window_models_carry_state(kind):
    torch.manual_seed(0)
    model, x = kind(V, E, H).double(), ids()
    whole, end = model(x)
    _, state = model(x[:, :4])
    logits, state = model(x[:, 4:], state)
    same((logits, state), (whole, end))
    assert not torch.allclose(model(x[:, 4:])[0], whole)


def test_order_of_characters_matters():
    x = torch.tensor([[1, 2, 3], [2, 1, 3]])
    for kind in WINDOW_MODELS:
        logits, _ = kind(V, E, H)(x)
        assert not torch.allclose(logits[0], logits[1])


def test_side_by_side_is_a_sum_of_two_products():
    """One matrix over [state, character] = one over the state plus one over the character."""
    torch.manual_seed(0)
    model, x = ConcatLoopModel(V, E, H).double(), ids(4)
    of_state, of_input = model.input_to_hidden.weight.split([H, E], dim=1)
    h = torch.zeros(B, H, dtype=torch.float64)
    for t in range(4):
        both = h @ of_state.T + model.embedding(x[:, t]) @ of_input.T + model.input_to_hidden.bias
        h = torch.tanh(model.hidden_to_hidden(both.relu()))
    same(model(x), (model.hidden_to_output(h), h))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("carried", [False, True])
def test_rnn_cell_is_torchs(bias, carried):
    torch.manual_seed(0)
    theirs = nn.RNNCell(E, H, bias=bias).double()
    ours = RNNCell(E, H, bias=bias).double()
    ours.load_state_dict(theirs.state_dict())  # strict: the names agree too
    x, h = torch.randn(2, B, E, dtype=torch.float64), torch.randn(2, B, H, dtype=torch.float64)
    inputs, states = x.unbind(), h.unbind() if carried else (None, None)
    for cell in (ours, theirs):
        state = states[0]
        for step in inputs:
            state = cell(step, state)
        cell.end = state
        state.square().sum().backward()
    same(ours.end, theirs.end)
    for (name, one), (other_name, other) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other_name
        same(one.grad, other.grad)


def test_rnn_cell_starts_within_torchs_bound():
    cell = RNNCell(40, 100)
    for weights in (cell.weight_ih, cell.weight_hh):
        assert 0.09 < weights.abs().max() <= 0.1  # 1 / sqrt(hidden_size)


# ---- cores by name ----------------------------------------------------------------------------


@each_core
@each_depth
def test_cores_by_name(core, layers):
    made = make_core(core, E, H, layers)
    assert core_name(made) == core
    assert (made.hidden_size, made.num_layers) == (H, layers)
    x = torch.randn(2, 7, E)
    out, state = made(x)
    assert out.shape == (2, 7, H) and torch.equal(made(x, None)[0], out)


def test_unknown_cores():
    with pytest.raises(ValueError, match="relu-gru, residual-gru, not 'transformer'"):
        make_core("transformer", E, H)
    with pytest.raises(ValueError, match="Linear is none of the cores"):
        core_name(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="none of the cores"):
        core_name(type("MyGRU", (nn.GRU,), {})(1, 1))  # it may compute anything


def test_parameters_are_counted_and_frozen_ones_not():
    model = language_model("gru")
    assert count_parameters(model) == V * E + 3 * H * (E + H + 2) + H * V + V
    model.embedding.weight.requires_grad_(False)
    assert count_parameters(model) == 3 * H * (E + H + 2) + H * V + V


# ---- the residual stack -----------------------------------------------------------------------

SWITCHES = [
    dict(zip(("skips", "projected", "norm", "projection"), on, strict=True))
    for on in itertools.product((False, True), repeat=4)
]
each_switch = pytest.mark.parametrize("switches", SWITCHES, ids=str)


@each_switch
def test_residual_gru_step_by_step_is_one_pass(switches):
    core = ResidualGRU(E, H, 3, **switches).double()
    x, state, steps = torch.randn(2, 9, E, dtype=torch.float64), None, []
    whole, last = core(x)
    for t in range(9):
        out, state = core(x[:, t : t + 1], state)
        steps.append(out)
    same(torch.cat(steps, dim=1), whole)
    same(state, last)
    assert last.shape == (3, 2, H)


@each_switch
def test_residual_gru_reads_no_future(switches):
    core = ResidualGRU(E, H, 2, **switches)
    x = torch.randn(2, 9, E)
    changed = x.clone()
    changed[:, 5:] = torch.randn(2, 4, E)
    assert torch.equal(core(changed)[0][:, :5], core(x)[0][:, :5])
    assert not torch.allclose(core(changed)[0][:, 5:], core(x)[0][:, 5:])


def test_without_skips_it_is_torchs_gru():
    ours, theirs = (
        ResidualGRU(E, H, 3, skips=False, projected=False),
        nn.GRU(E, H, 3, batch_first=True),
    )
    for layer, gru in enumerate(ours.grus):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(theirs, f"{name}_l{layer}").data.copy_(getattr(gru, f"{name}_l0"))
    x = torch.randn(2, 9, E)
    for one, other in zip(ours(x), theirs(x), strict=True):
        same(one, other)


@pytest.mark.parametrize("norm", [False, True])
def test_a_silent_branch_is_an_identity(norm):
    deep, shallow = ResidualGRU(E, H, 3, norm=norm), ResidualGRU(E, H, 2, norm=norm)
    missing = deep.load_state_dict(shallow.state_dict(), strict=False)
    assert not missing.unexpected_keys
    nn.init.zeros_(deep.grus[2].weight_hh_l0)
    for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        nn.init.zeros_(getattr(deep.grus[2], name))
    x = torch.randn(2, 9, E)
    same(deep(x)[0], shallow(x)[0])


def test_residual_dropout_holds_one_mask_over_time():
    core = ResidualGRU(E, 400, 1, dropout=0.5)
    core.first.weight.data.zero_(), core.first.bias.data.zero_()  # only the branch is left
    core.grus[0].bias_ih_l0.data.fill_(0.5)
    out, _ = core(torch.randn(2, 9, E))
    silent = out == 0
    assert (
        torch.equal(silent, silent[:, :1].expand_as(silent)) and 0.4 < silent.float().mean() < 0.6
    )
    assert not torch.equal(silent[0], silent[1])
    assert not (core.eval()(torch.randn(2, 9, E))[0] == 0).any()


def test_relu_gru_drops_the_sign():
    core = ReLUGRU(E, H, batch_first=True)
    x = torch.randn(2, 9, E)
    plain, state = nn.GRU.forward(core, x)
    same(core(x)[0], plain.clamp(min=0))
    same(core(x)[1], state)


def test_options_of_cores():
    for switches in SWITCHES:
        assert core_options(make_core("residual-gru", E, H, 2, options=switches)) == switches
    assert core_options(nn.GRU(E, H)) == {}
    with pytest.raises(ValueError, match="gru has no options skips"):
        make_core("gru", E, H, options={"skips": True})
