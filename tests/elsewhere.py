"""Tensors that behave as if they lay on an Apple GPU, for machines that have none."""

import torch
from torch import Tensor


class OnMps(Tensor):
    """Knows no float64 and mixes with no tensor on the CPU, until `cpu()` brings it there."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name == "cpu":
            return args[0].as_subclass(Tensor)
        values = (*args, *(kwargs or {}).values())
        if name == "double" or any(value is torch.float64 for value in values):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        for other in args:
            if type(other) is Tensor and other.ndim > 0:
                raise RuntimeError("Expected all tensors to be on the same device")
        return super().__torch_function__(func, types, args, kwargs or {})

    @property
    def device(self):
        return torch.device("mps")


def on_mps(tensor: Tensor) -> OnMps:
    """The same numbers, there."""
    return tensor.as_subclass(OnMps)
