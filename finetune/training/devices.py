"""Where and how precisely a batch is computed."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

_Moved = TypeVar("_Moved")


def autocast(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.autocast:
    """The precision that is asked for; weights stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def to_device(value: _Moved, device: torch.device) -> _Moved:
    """Tensors in named tuples, at any depth, on the device."""
    if device.type == "cpu":
        return value
    return _to_device(value, device)


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "_fields"):
        return type(value)(*(_to_device(item, device) for item in value))
    return tuple(_to_device(item, device) for item in value) if isinstance(value, tuple) else value
