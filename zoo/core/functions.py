"""Activations and fixed positions that the layers of a core use, and how a layer is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        "sigmoid": torch.sigmoid,
        "linear": lambda x: x,
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
