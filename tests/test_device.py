"""Device, precision and seed are chosen as promised."""

import random

import numpy as np
import pytest
import torch
from torch.optim.optimizer import _global_optimizer_pre_hooks as HOOKS

from charlm_utils import device as module
from charlm_utils.device import (
    autocast,
    memory_here,
    nudge_trainings,
    pick_device,
    pick_precision,
    seed_everything,
)


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with so many CUDA devices, with or without MPS."""

    monkeypatch.delenv("CHARLM_PRECISION", raising=False)

    def pretend(cuda=0, mps=False, bf16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(module, "_cpu_multiplies_bf16", lambda: bf16)

    return pretend


def test_cuda_then_cpu_and_mps_only_by_name(machine):
    machine(cuda=0, mps=True)
    assert pick_device() == torch.device("cpu")
    assert pick_device("mps") == torch.device("mps")
    machine(cuda=2, mps=True)
    assert pick_device() == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    "name", ["gpu", "", "cuda:x", "cpu0", "meta", "xpu", "vulkan", "cuda:-1", f"cuda:{10**20}", "é"]
)
def test_no_device_by_that_name(name):
    with pytest.raises(ValueError, match=f"'{name}' is no device"):
        pick_device(name)


def test_devices_that_are_not_there(machine):
    machine(mps=True)
    for name in ("cpu:1", "mps:3"):
        with pytest.raises(ValueError, match=f"no {name}: there is only one"):
            pick_device(name)
    machine()
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ValueError, match=f"no {name.split(':')[0].upper()} device here"):
            pick_device(name)
    machine(cuda=1)
    with pytest.raises(ValueError, match="cuda:1.* 1 "):
        pick_device("cuda:1")


def test_precision_follows_the_hardware(machine):
    machine(cuda=1, bf16=True)
    assert pick_precision("cuda") == pick_precision(torch.device("cuda:0")) == "float32"
    machine(bf16=True)
    assert pick_precision("cpu") == "bf16" and pick_precision("mps") == "float32"
    machine(bf16=False)
    assert pick_precision("cpu") == "float32"


@pytest.mark.parametrize("bf16", [True, False])
def test_precision_can_be_asked_for(machine, monkeypatch, bf16):
    machine(cuda=1, bf16=bf16)
    for asked in ("float32", "bf16"):
        monkeypatch.setenv("CHARLM_PRECISION", asked)
        assert pick_precision("cpu") == asked
    with pytest.raises(ValueError, match="bf16 on CUDA"):
        pick_precision("cuda")
    monkeypatch.setenv("CHARLM_PRECISION", "float32")
    assert pick_precision("cuda") == "float32"
    monkeypatch.setenv("CHARLM_PRECISION", "")
    assert pick_precision("cpu") == ("bf16" if bf16 else "float32")
    for wrong in ("fp16", "BF16", "1"):
        monkeypatch.setenv("CHARLM_PRECISION", wrong)
        with pytest.raises(ValueError, match=f"not '{wrong}'"):
            pick_precision("cpu")


def test_the_processor_is_asked(monkeypatch, tmp_path):
    flags = {"flags : fma avx2 avx512_bf16": True, "flags : amx_bf16": True, "flags : avx2": False}
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    for text, expected in flags.items():
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(module, "Path", lambda path: tmp_path / "cpuinfo")
        assert module._cpu_multiplies_bf16() is expected
    monkeypatch.setattr(module, "Path", lambda path: tmp_path / "none")
    assert module._cpu_multiplies_bf16() is False
    monkeypatch.setattr(module.platform, "machine", lambda: "arm64")
    assert module._cpu_multiplies_bf16() is False


def test_autocast_does_what_it_is_told():
    a = torch.randn(4, 4)
    with autocast("cpu", "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast("cpu", "float32"):
        assert (a @ a).dtype == torch.float32
    with pytest.raises(ValueError, match="'fp16'"):
        autocast("cpu", "fp16")


def test_one_seed_for_all():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    seed_everything(-1)  # torch takes it, so NumPy must not stumble over it


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_a_seed_fits_into_64_bits(seed):
    seed_everything(2**64 - 1), seed_everything(-(2**63))
    with pytest.raises(ValueError, match="64 bits"):
        seed_everything(seed)


def test_memory_is_the_machines_or_the_containers(monkeypatch, tmp_path):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(module.os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(module, "Path", lambda path: tmp_path / "memory.max")
    assert memory_here() == 4_096_000
    for limit, expected in {"max\n": 4_096_000, "1000\n": 1000, "9999999\n": 4_096_000}.items():
        (tmp_path / "memory.max").write_text(limit)
        assert memory_here() == expected
    monkeypatch.delattr(module.os, "sysconf")
    assert memory_here() is None


# ---- nudges -----------------------------------------------------------------------------------


@pytest.fixture
def nudged():
    """`nudge_trainings`, whose hooks are taken away again after the test."""
    before = dict(HOOKS)
    yield nudge_trainings
    HOOKS.clear()
    HOOKS.update(before)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((40, 30), (50,))
    return [torch.randn(*s, generator=generator, dtype=torch.float64) for s in sizes]


def step(optimizer):
    """One step that moves nothing by itself: all rates are 0."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


KINDS = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_training_is_nudged_once_by_a_millionth(nudged, kind):
    nudged(1)
    before, now = weights(), [w.clone().requires_grad_() for w in weights()]
    optimizer = kind([{"params": now[:1]}, {"params": now[1:]}], lr=0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))  # not before a step
    step(optimizer)
    moved = torch.cat([(b / a - 1).detach().flatten() for a, b in zip(before, now, strict=True)])
    assert moved.std().item() == pytest.approx(1e-6, rel=0.1) and moved.abs().min() > 0
    assert abs(moved.mean().item()) < 1e-7 and moved.abs().max() < 6e-6
    once = [w.detach().clone() for w in now]
    step(optimizer), step(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(once, now, strict=True))
    step(kind(now, lr=0.0))  # another training, from the same weights
    assert not any(torch.equal(a, b) for a, b in zip(once, now, strict=True))


def test_a_seed_is_a_nudge(nudged):
    def first(*options):
        before = dict(HOOKS)
        nudged(*options)
        now = [w.clone().requires_grad_() for w in weights()]
        step(torch.optim.SGD(now, lr=0.0))
        HOOKS.clear()
        HOOKS.update(before)
        return torch.cat([w.detach().flatten() for w in now])

    start = torch.cat([w.flatten() for w in weights()])
    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))
    assert torch.equal(first(1, 0.0), start)
    larger, usual = ((first(1, size) / start - 1).std().item() for size in (1e-3, 1e-6))
    assert larger == pytest.approx(1000 * usual, rel=1e-3)


def test_a_nudge_draws_from_nobody_elses_numbers(nudged):
    nudged(1)
    seed_everything(0)
    state, numbers = torch.get_rng_state(), (random.getstate(), str(np.random.get_state()))
    step(torch.optim.SGD([weights()[0].requires_grad_()], lr=0.0))
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), str(np.random.get_state())) == numbers


def test_a_nudge_leaves_zeros_gradients_and_graphs_alone(nudged):
    nudged(1)
    now = torch.zeros(5, requires_grad=True)
    (now.sum() * 2).backward()
    optimizer = torch.optim.SGD([now], lr=0.5)
    optimizer.step()
    assert now.tolist() == [-1.0] * 5 and now.grad.tolist() == [2.0] * 5
    assert now.is_leaf and now.requires_grad


def test_without_a_nudge_nothing_is_nudged():
    now = [w.clone().requires_grad_() for w in weights()]
    step(torch.optim.SGD(now, lr=0.0))
    assert all(torch.equal(a, b) for a, b in zip(weights(), now, strict=True))
