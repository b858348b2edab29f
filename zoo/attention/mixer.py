"""What a layer calls to mix its tokens' states: the seam for attention patterns and what may stand in their place.

A class of one's own is named by its path in ``model.attention_layers`` and needs no registration. A file with one class
and a few lines of YAML are a new pattern. Shapes: see the legend in ``zoo.inputs``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.attention.context import AttentionContext
from zoo.config import CoreConfig


class TokenMixer(nn.Module, ABC):
    """Base of all classes that ``model.attention_layers`` may name.

    They are made as ``cls(config, **init_args)``; arguments beside the config are annotated, and checked by their
    annotations.

    Attributes:
        caches: keys and values of earlier tokens can be kept, so that generation runs every token once.
    """

    caches: ClassVar[bool] = True

    @abstractmethod
    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L, W) -> (B, R, W), and the (B, H, R, K) probabilities where attention is eager.

        Args:
            hidden: states.
            shared: what all layers have in common.
            site: number of the place for dropout on the probabilities.
        """

    def penalty(self) -> Tensor | None:
        """0-d, added to the loss of each training step; ``None`` = nothing."""
        return None

    def figures(self) -> dict[str, float]:
        """What the log tells of the layer, by name: something that it has learned."""
        return {}

    @classmethod
    def row_flops(cls, config: CoreConfig, length: int, **init_args: Any) -> int | None:
        """Forward operations of matrix products on a row of ``length`` tokens; ``None`` = as full attention's."""
        return None


def penalty_of(core: nn.Module) -> Tensor | float:
    """0-d: what a core's layers add to the loss of a step, each set of weights once; 0.0 = nothing."""
    mixers = (part for part in core.modules() if isinstance(part, TokenMixer))
    found = [penalty for mixer in mixers if (penalty := mixer.penalty()) is not None]
    return torch.stack(found).sum() if found else 0.0


def figures_of(core: nn.Module) -> dict[str, list[float]]:
    """What the log tells of what layers have learned, by name, in the order of the layers."""
    found = dict[str, list[float]]()
    for mixer in (part for part in core.modules() if isinstance(part, TokenMixer)):
        for name, value in mixer.figures().items():
            found.setdefault(name, []).append(value)
    return found
