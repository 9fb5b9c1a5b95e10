"""What only a machine with a CUDA device can show: the same numbers there as on the CPU."""

import copy

import pytest
import torch

from charlm_utils.batching import RandomWindows, StreamBatches
from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.device import pick_device, pick_precision
from charlm_utils.models import CORES, CharLM, LoopModel, make_core
from charlm_utils.sampling import generate, next_char_probs
from charlm_utils.training import evaluate, fit, train_epoch
from charlm_utils.vocab import CharVocab

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
    assert pick_device().type == "cuda" and pick_precision("cuda") in ("bf16", "float32")
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
@pytest.mark.parametrize("precision", ["float32", "bf16"])
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
