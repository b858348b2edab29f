"""Small translations between transformers' conventions and the core's: decorators, masks, losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.nn import functional
from transformers.utils import can_return_tuple as untyped_can_return_tuple

from zoo.errors import ZooError

_Forward = TypeVar("_Forward", bound=Callable[..., Any])


def can_return_tuple(forward: _Forward) -> _Forward:
    """Transformers' decorator for ``return_dict``, with its type kept."""
    decorated: _Forward = untyped_can_return_tuple(forward)
    return decorated


def dense_mask(mask: Tensor | None) -> Tensor | None:
    """A mask over keys as visibility; ``None`` where everything is real (looked up on a CPU only: it costs a wait)."""
    if mask is None:
        return None
    if mask.ndim != 2:
        raise ZooError(
            f"attention_mask has {mask.ndim} axes; (batch, tokens) is read, causality follows from the model."
        )
    if mask.device.type == "cpu" and bool(mask.all()):
        return None
    return mask.bool()[:, None, :]


def mean_cross_entropy(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Mean over labels other than -100, or their sum over a given global count."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1).to(logits.device)
    if count is None:
        return functional.cross_entropy(flat, wanted)
    total = functional.cross_entropy(flat, wanted, reduction="sum")
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)
