"""Where to compute, how precisely, and from which seed."""

import contextlib
import os
import platform
import random
import weakref
from pathlib import Path

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


def pick_device(name: str | None = None) -> torch.device:
    """`cuda` where there is one, else `cpu`; any other device only by its name.

    Apple's `mps` is never picked unasked: recurrent layers with silently wrong results
    are on record there. Raises `ValueError` for a device that is not there, and for the other
    kinds that torch can name (`meta`, `xpu` …): nothing here was ever run on them.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"{name!r} is no device; use cpu, cuda, cuda:1 or mps")
    if device.type != "cuda" and device.index:
        raise ValueError(f"there is no {name}: there is only one {device.type}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here; use --device cpu, or leave it out")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"there is no {name}: this machine has {torch.cuda.device_count()} of them"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("there is no MPS device here; use --device cpu, or leave it out")
    return device


def pick_precision(device: torch.device | str) -> str:
    """`bf16` on a CPU that multiplies bfloat16, else `float32`.

    On CUDA float32: under autocast cuDNN's recurrent layers compute in half precision whatever
    type was asked for, and nothing here scales the loss as that would need. The variable
    `CHARLM_PRECISION` (`bf16` or `float32`) overrides the choice.
    """
    device = torch.device(device)
    if asked := os.environ.get("CHARLM_PRECISION"):
        autocast(device, asked)  # or ValueError
        return asked
    fast = device.type == "cpu" and _cpu_multiplies_bf16()
    return "bf16" if fast else "float32"


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager:
    """A context in which matrix products run in `precision` ("bf16" or "float32").

    Raises `ValueError` for another precision, and for bf16 on CUDA (see `pick_precision`).
    """
    if precision == "float32":
        return contextlib.nullcontext()
    if precision != "bf16":
        raise ValueError(f"precision must be bf16 or float32, not {precision!r}")
    if torch.device(device).type == "cuda":
        raise ValueError("bf16 on CUDA: its recurrent layers would compute in half; use float32")
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (all devices).

    Raises `ValueError` for a number that does not fit into 64 bits, as torch's must.
    """
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"a seed must fit into 64 bits, not {seed}")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def memory_here() -> int | None:
    """Bytes of memory that this process can hope for; None where the system does not say."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:  # a container has less than its machine
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole


def nudge_trainings(seed: int, size: float = 1e-6) -> None:
    """From now on each training starts from weights multiplied by 1 + `size` × noise.

    That is about what another processor's rounding does to it. The noise is drawn from
    `seed`, from a generator of its own, just before an optimizer's first step; models that
    are alike stay alike.
    """
    known: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()

    @torch.no_grad()
    def nudge(optimizer: torch.optim.Optimizer, *_) -> None:
        if optimizer in known:
            return
        known.add(optimizer)
        generator = torch.Generator().manual_seed(seed)
        for group in optimizer.param_groups:
            for weights in group["params"]:
                noise = torch.randn(weights.shape, generator=generator)
                weights.mul_(1 + size * noise.to(weights))

    register_optimizer_step_pre_hook(nudge)


def _cpu_multiplies_bf16() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
