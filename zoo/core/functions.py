"""Activations, fixed positions and norms that the layers of a core use, and how a layer is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.config import CoreConfig

LayerOutput = tuple[Tensor, Tensor | None, Tensor | None]
"""(B, L, W) states; attention probabilities where they are wanted; entities, or a decoder's cross-attention."""

LayerCall = Callable[..., LayerOutput]


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of that name: ``gelu`` is the erf form, ``gelu_new`` the tanh form."""
    table: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": functional.gelu,
        "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
        "relu": functional.relu,
        "silu": functional.silu,
        "tanh": torch.tanh,
    }
    return table[name]


def call_layer(layer: nn.Module, *arguments: Any) -> LayerOutput:
    """The layer's output; also the whole of a compiled graph, so that all layers of a kind are one."""
    output: LayerOutput = layer(*arguments)
    return output


def sinusoids(count: int, width: int, layout: str = "interleaved") -> Tensor:
    """(count, width) fixed positions (Vaswani et al. 2017, 3.5; specs: Transformer, section 2).

    Args:
        count: positions.
        width: columns.
        layout: ``interleaved``: sines in even, cosines in odd columns; ``halves``: sines first, then cosines;
            ``halves_inclusive``: the same, and the last frequency is 1/10000 itself (tensor2tensor, fairseq).
    """
    steps = max(1, width // 2 - 1) * 2 if layout == "halves_inclusive" else width
    angles = torch.arange(count)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / steps))[None]
    sines, cosines = angles.sin(), angles.cos()[:, : width // 2]
    if layout != "interleaved":
        return torch.cat([sines, cosines], dim=1)
    table = torch.zeros(count, width)
    table[:, 0::2], table[:, 1::2] = sines, cosines
    return table


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, statistics in fp32 (Zhang & Sennrich 2019; specs: LLaMA block, section 2)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``; cast back before the gain, as the original does."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def make_norm(config: CoreConfig, width: int) -> nn.Module:
    """The norm that the config names."""
    kind = {"layer": nn.LayerNorm, "rms": RMSNorm}[config.norm]
    return kind(width, eps=config.layer_norm_eps)
