"""Device, precision and seed are chosen as promised."""

import random

import numpy as np
import pytest
import torch

from charlm_utils import device as module
from charlm_utils.device import autocast, pick_device, pick_precision, seed_everything


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with so many CUDA devices, with or without MPS."""

    def pretend(cuda=0, mps=False, capability=(8, 0), bf16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
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


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu0"])
def test_no_device_by_that_name(name):
    with pytest.raises(ValueError, match=f"'{name}' is no device"):
        pick_device(name)


def test_devices_that_are_not_there(machine):
    machine()
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ValueError, match=f"no {name.split(':')[0].upper()} device here"):
            pick_device(name)
    machine(cuda=1)
    with pytest.raises(ValueError, match="cuda:1.* 1 "):
        pick_device("cuda:1")


def test_precision_follows_the_hardware(machine):
    machine(cuda=1, capability=(8, 0))
    assert pick_precision("cuda") == "bf16"
    machine(cuda=1, capability=(7, 5))
    assert pick_precision(torch.device("cuda")) == "float32"
    machine(bf16=True)
    assert pick_precision("cpu") == "bf16" and pick_precision("mps") == "float32"
    machine(bf16=False)
    assert pick_precision("cpu") == "float32"


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
