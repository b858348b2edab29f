"""A function of single places, run on one slice of the row after the other, so that it takes less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo.attention.context import AttentionContext


def in_slices(
    function: Callable[..., tuple[Tensor, Any]], size: int, hidden: Tensor, shared: AttentionContext, *more: Any
) -> tuple[Tensor, Any]:
    """What ``function(hidden, shared, *more)`` gives, from slices; in training each one is run again for its gradient.

    Args:
        function: of (B, L, W) states, each by itself; its second result is ``None`` where there are slices.
        size: places of a slice; 0 = the whole row at once.
        hidden: (B, L, W).
        shared: what all layers have in common; dropout counts places in the whole row.
        more: further arguments.
    """
    if not size:
        return function(hidden, shared, *more)
    rows, parts = shared.rows, []
    if rows is None:
        rows = torch.arange(hidden.shape[1], device=hidden.device).expand(len(hidden), -1)
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    for part, places in zip(hidden.split(size, 1), rows.split(size, 1), strict=True):
        arguments = (part, shared._replace(rows=places), *more)
        if again:
            parts.append(checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)[0])
        else:
            parts.append(function(*arguments)[0])
    return torch.cat(parts, dim=1), None
