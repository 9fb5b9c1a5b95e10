"""What only a machine with a CUDA device can show: the same numbers there as on the CPU."""

import copy

import pytest
import torch
from fitting import fit

from charlm_utils.book.studies.ch09 import StartsFrom, teach
from charlm_utils.cells import DropoutLSTM
from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.data import CharVocab, RandomWindows, StreamBatches
from charlm_utils.device import pick_device, pick_precision
from charlm_utils.memory import (
    closing_marks,
    gradient_by_lag,
    gradient_by_layer,
    hidden_trace,
    linear_probe,
    loss_by_context,
)
from charlm_utils.models import CORES, CharLM, Ensemble, LoopModel, make_core
from charlm_utils.sampling import generate, next_char_probs, scaled_probs, stream
from charlm_utils.training import evaluate, evaluating, train_epoch
from charlm_utils.tutor import (
    SYMBOLS,
    Char2Vec,
    Lessons,
    Tao,
    Tutor,
    VanillaRNN,
    ask,
    both_orders,
    exact_match,
    lesson,
    predict_next,
    split_pairs,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.usefixtures("clean"),
]

VOCAB = CharVocab("abcdefghijk")
V, E, H = len(VOCAB), 8, 32

each_core = pytest.mark.parametrize("core", CORES)


@pytest.fixture(autouse=True)
def full_float32():
    """TF32 would round the factors of a product to 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def ids(n, seed=0):
    return torch.randint(V, (n,), generator=torch.Generator().manual_seed(seed))


def pair(core, layers=2):
    """The same model on the CPU and on the device."""
    torch.manual_seed(0)
    model = CharLM(V, E, make_core(core, E, H, layers))
    return model, copy.deepcopy(model).to("cuda")


def on_cpu(state):
    return tuple(part.cpu() for part in (state if isinstance(state, tuple) else (state,)))


def close(a, b):
    torch.testing.assert_close(on_cpu(a), on_cpu(b), rtol=1e-4, atol=1e-4)


def test_the_device_is_picked():
    assert pick_device().type == "cuda" and pick_precision("cuda") == "float32"
    with pytest.raises(ValueError, match="cuda:99"):
        pick_device("cuda:99")


@each_core
def test_logits_state_and_gradients_are_the_cpus(core):
    here, there = pair(core)
    x, y = next(iter(StreamBatches(ids(401), 8, 25)))
    for model, device in ((here, "cpu"), (there, "cuda")):
        logits, state = model(x.to(device))
        model.out = logits, state
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.to(device).flatten()).backward()
    close(here.out[0], there.out[0])
    close(here.out[1], there.out[1])
    for p, q in zip(here.parameters(), there.parameters(), strict=True):
        close(p.grad, q.grad)


def test_the_loop_model_is_the_cpus():
    torch.manual_seed(0)
    here = LoopModel(V, E, H)
    there = copy.deepcopy(here).to("cuda")
    close(here(ids(24).view(4, 6))[0], there(ids(24).view(4, 6).to("cuda"))[0])


def test_data_lies_on_the_device_and_is_the_same():
    for kind, sizes in ((StreamBatches, (4, 7)), (RandomWindows, (4, 7, 5))):
        here, there = (kind(ids(200), *sizes, device=device) for device in ("cpu", "cuda"))
        places = set()
        for (x, y), (x2, y2) in zip(here, there, strict=True):
            assert x2.device.type == y2.device.type == "cuda"
            assert torch.equal(x, x2.cpu()) and torch.equal(y, y2.cpu())
            places |= {x2.untyped_storage().data_ptr(), y2.untyped_storage().data_ptr()}
        assert kind is RandomWindows or len(places) == 1  # views of one tensor


@each_core
def test_training_and_evaluation_follow_the_cpu(core):
    here, there = pair(core, layers=1)
    losses = []
    for model, device in ((here, "cpu"), (there, "cuda")):
        batches = StreamBatches(ids(801), 8, 25, device=device)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        losses.append((train_epoch(model, batches, optimizer), evaluate(model, batches)))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@each_core
@pytest.mark.parametrize("precision", ["float32", None])  # None: what is picked there
def test_a_checkpoint_made_there_loads_here_and_goes_on_there(core, precision, tmp_path):
    _, model = pair(core)
    train = StreamBatches(ids(401), 4, 25, device="cuda")
    valid = StreamBatches(ids(101, seed=1), 4, 25, device="cuda")
    options = {"epochs": 2, "lr": 0.01, "precision": precision, "vocab": VOCAB}
    history = fit(model, train, valid, checkpoint_dir=tmp_path, **options)
    loaded, vocab, saved = load_checkpoint(tmp_path)
    assert {p.device.type for p in loaded.parameters()} == {"cpu"} and vocab == VOCAB
    assert saved.valid == history.valid
    here = StreamBatches(ids(101, seed=1), 4, 25)
    assert evaluate(loaded, here) == pytest.approx(history.valid[-1], abs=1e-4)
    _, again = pair(core)
    assert fit(again, train, valid, checkpoint_dir=tmp_path, resume=True, **options) == history
    assert {p.device.type for p in again.parameters()} == {"cuda"}


@each_core
def test_generation_runs_there_and_writes_the_same(core):
    here, there = pair(core)
    with torch.no_grad():
        for model in (here, there):
            model.head.weight.mul_(8)
    for options in ({"greedy": True}, {"seed": 3}, {"seed": 3, "top_k": 3, "temperature": 0.7}):
        text = generate(here, VOCAB, "abc", 40, **options)
        assert generate(there, VOCAB, "abc", 40, **options) == text  # the same draws everywhere
    probs, other = (next_char_probs(model, VOCAB, "abc") for model in (here, there))
    assert probs == pytest.approx(other, abs=1e-4)


def test_a_stream_writes_there_what_it_writes_here():
    here, there = pair("gru")
    texts = ["".join(stream(model, VOCAB, "abc", 40, greedy=True)) for model in (here, there)]
    assert texts[0] == texts[1]
    logits = torch.randn(5, V, generator=torch.Generator().manual_seed(0))
    probs = scaled_probs(logits.to("cuda"), 0.7, 4)
    assert probs.device.type == "cuda"
    torch.testing.assert_close(probs.cpu(), scaled_probs(logits, 0.7, 4))


# ---- gradients in eval mode, which cuDNN refuses ----------------------------------------------


@each_core
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_by_lag_and_layer_are_the_cpus(core, layers):
    here, there = pair(core, layers)
    x = ids(80).view(8, 10)
    close(gradient_by_lag(here, x, x[:, 0]), gradient_by_lag(there, x.cuda(), x[:, 0].cuda()))
    by_layer = gradient_by_layer(here, x, x), gradient_by_layer(there, x.cuda(), x.cuda())
    assert len(by_layer[0]) == layers
    close(*by_layer)


def test_a_model_can_learn_in_eval_mode():
    """As chapter 7's dynamic evaluation does."""
    here, there = pair("lstm")
    x, y = next(iter(StreamBatches(ids(401), 8, 25)))
    for model, device in ((here, "cpu"), (there, "cuda")):
        with evaluating(model, gradients=True):
            logits, _ = model(x.to(device))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.to(device).flatten())
            loss.backward()
    assert torch.backends.cudnn.enabled
    for p, q in zip(here.parameters(), there.parameters(), strict=True):
        close(p.grad, q.grad)


# ---- dropout on weights -----------------------------------------------------------------------


def dropping(**rates):
    torch.manual_seed(0)
    model = CharLM(V, E, DropoutLSTM(E, H, 2, **rates))
    return model, copy.deepcopy(model).to("cuda")


def test_the_lstm_with_dropout_is_the_cpus_without():
    here, there = dropping()
    x = ids(80).view(8, 10)
    for mode in (True, False):  # warnings are errors: that of loose weights among them
        close(here.train(mode)(x)[0], there.train(mode)(x.cuda())[0])


def test_the_lstm_with_dropout_trains_without_a_warning():
    rates = {"input_dropout": 0.1, "between": 0.2, "recurrent": 0.3}
    _, model = dropping(**rates)
    train = StreamBatches(ids(801).clamp(max=3), 8, 25, device="cuda")  # a text with a habit
    history = fit(model, train, train, epochs=3, lr=0.01)
    assert history.valid[-1] < history.valid[0] < 2.5


# ---- what is measured of a model --------------------------------------------------------------


def test_measures_of_memory_are_the_cpus():
    here, there = pair("gru")
    close(loss_by_context(here, ids(200), 8), loss_by_context(there, ids(200).cuda(), 8))
    close(hidden_trace(here, ids(30)), hidden_trace(there, ids(30).cuda()))
    vocab = CharVocab('abcdefgh "')
    torch.manual_seed(0)
    reader = CharLM(len(vocab), E, make_core("gru", E, H))
    text = 'ab "cd" ef ' * 3
    marks = closing_marks(reader, vocab, text, [(0, 8)])
    assert closing_marks(reader.to("cuda"), vocab, text, [(0, 8)])[0] == pytest.approx(
        marks[0], abs=1e-4
    )


def test_a_probe_reads_states_that_lie_there():
    states, labels = torch.randn(200, 8), torch.randint(3, (200,))
    here, there = linear_probe(states, labels), linear_probe(states.cuda(), labels.cuda())
    assert there.weights.device.type == "cpu" and torch.equal(here.weights, there.weights)
    assert here.accuracy == there.accuracy


def test_an_ensemble_is_the_cpus():
    pairs = [pair(core) for core in ("gru", "lstm")]
    here, there = (Ensemble(list(models)).eval() for models in zip(*pairs, strict=True))
    x = ids(80).view(8, 10)
    close(here(x)[0], there(x.cuda())[0])


# ---- sums -------------------------------------------------------------------------------------


def test_a_tao_listens_learns_and_speaks_there():
    torch.manual_seed(0)
    network = VanillaRNN(15, 32, 15).to("cuda")
    tao = Tao(network, Char2Vec(SYMBOLS), lr=1e-2)
    for _ in range(150):
        for question in ("1+2=?", "1+1=?"):
            tao.init_hidden().listen(*lesson(question))
        tao.descent()
    assert tao.losses[-1] < 0.1 * tao.losses[0]
    assert predict_next(tao, "1+2=?", 2, 0.05) == "3\0"
    assert tao.init_hidden(random=True).hidden.device.type == "cuda"


@pytest.mark.parametrize("start", ["zero", "random", "carried"])
def test_sums_are_taught_there(start):
    torch.manual_seed(0)
    vocab, taught = CharVocab(SYMBOLS), split_pairs(4, 0.0)[0]
    lessons, exam = Lessons(Tutor(taught), vocab, 64, 60), both_orders(taught)
    lessons.device, lessons.contiguous = "cuda", start == "carried"
    model = VanillaRNN(15, 48, 15).to("cuda")
    learner = model if start == "zero" else StartsFrom(model, start, lessons)
    found = teach(learner, lessons, exam, rounds=5, lr=1e-2)
    assert found["valid"][-1] < found["valid"][0]
    assert 0 <= exact_match(ask(model, vocab, exam), exam) <= 1
