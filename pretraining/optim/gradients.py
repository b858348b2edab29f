"""Gradients before the step: their norm, and its limit."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients down to the norm ``limit``, 0 = leave them; the norm before, 0-d."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    if not any(p.grad.is_sparse for p in parameters if p.grad is not None):
        return torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf, foreach=True)
    values = [_values(p) for p in parameters]
    norm = torch.nn.utils.get_total_norm(values, foreach=True)
    if limit > 0:
        torch._foreach_mul_(values, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _values(parameter: nn.Parameter) -> Tensor:
    """A parameter's gradient, of a sparse one the rows that it has, each once."""
    assert parameter.grad is not None
    if not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad._values()
