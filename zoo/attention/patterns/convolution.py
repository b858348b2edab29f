"""Light and dynamic convolution in attention's place (Wu et al. 2019): time and memory grow as length times kernel.

A head's weights over its kernel are normalised by softmax. They are parameters in light convolution; in dynamic
convolution each token's state gives them. The paper's input gate (GLU) stands before them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.attention.context import AttentionContext, in_product_type
from zoo.attention.masks import Mask
from zoo.attention.mixer import TokenMixer
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.initial import normal
from zoo.linear import Linear
from zoo.values import Count


class LightConvolution(TokenMixer):
    """Each token is a weighted sum of its neighbours; the weights of a head are the same everywhere in the row.

    Args:
        config: the core's config; its attention heads share weights as the paper's heads do. Positions are not read.
        kernel: the last ``kernel`` tokens of causal rows; otherwise as many, of both sides (the odd
            one of an even number to the left).

    Raises:
        ZooError: heads do not divide the width.
    """

    def __init__(self, config: CoreConfig, kernel: Count) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        if width % config.num_attention_heads:
            raise ZooError(
                f"{type(self).__name__}: {config.num_attention_heads} heads do not divide a width of {width}."
            )
        self.heads, self.kernel, self.dropout = config.num_attention_heads, kernel, config.attention_probs_dropout_prob
        self.input = Linear(width, 2 * width, bias=bias)
        self.output = Linear(width, width, bias=bias)
        self.output.residual_output = True  # type: ignore[assignment]
        self._make_weights(config)

    def _make_weights(self, config: CoreConfig) -> None:
        self.weights = nn.Parameter(torch.empty(self.heads, self.kernel))
        self.initial = {"weights": normal(self.kernel)}

    def _logits(self, states: Tensor) -> Tensor:
        """(1 or B, H, 1 or Q, kernel) weights before the softmax, of (B, Q, W) states that went through the gate."""
        return self.weights[None, :, None]

    def forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L, W) -> (B, R, W); there are no probabilities of all tokens."""
        hidden = in_product_type(hidden)
        states = functional.glu(self.input(hidden), dim=-1)
        batch, queries = states.shape[:2]
        values = states.view(batch, queries, self.heads, -1).transpose(1, 2)
        if shared.cache is not None:
            _, values = shared.cache.update(values, values, shared.cache_layer)
        length, before = values.shape[2], self.kernel - 1 if shared.causal else self.kernel // 2
        offsets = torch.arange(self.kernel, device=hidden.device) - before
        asking = torch.arange(length - queries, length, device=hidden.device)[None]
        asking = asking if shared.rows is None else shared.rows
        weights = self._logits(shared.of_rows(states)).softmax(-1, dtype=torch.float32).to(values.dtype)
        weights = weights * seen_places(shared.mask, asking, offsets, length)[:, None]
        padded = functional.pad(values, (0, 0, before, self.kernel - 1 - before))
        if shared.rows is None:
            neighbours = [padded[:, :, length - queries + i : length + i] for i in range(self.kernel)]
        else:
            index = asking[:, None, :, None].expand(-1, self.heads, -1, values.shape[3])
            neighbours = [padded.gather(2, index + i) for i in range(self.kernel)]
        mixed = sum(
            (weights[..., i, None] * near for i, near in enumerate(neighbours)), torch.zeros((), device=hidden.device)
        )
        return self.output(mixed.to(values.dtype).transpose(1, 2).flatten(2)), None

    @classmethod
    def row_flops(cls, config: CoreConfig, length: int, **init_args: Any) -> int:
        """Forward operations of products on a row of ``length`` tokens."""
        return 2 * length * config.hidden_size * (3 * config.hidden_size + int(init_args["kernel"]))


class DynamicConvolution(LightConvolution):
    """Each token is a weighted sum of its neighbours, with weights that its own state gives.

    Args:
        config: the core's config; its attention heads share weights as the paper's heads do. Positions are not read.
        kernel: the last ``kernel`` tokens of causal rows; otherwise as many, of both sides (the odd
            one of an even number to the left).

    Raises:
        ZooError: heads do not divide the width.
    """

    def _make_weights(self, config: CoreConfig) -> None:
        self.weights_of = Linear(config.hidden_size, self.heads * self.kernel, bias=False)

    def _logits(self, states: Tensor) -> Tensor:
        return self.weights_of(states).view(*states.shape[:2], self.heads, self.kernel).transpose(1, 2)

    @classmethod
    def row_flops(cls, config: CoreConfig, length: int, **init_args: Any) -> int:
        """Forward operations of products on a row of ``length`` tokens."""
        weights = 2 * length * config.hidden_size * config.num_attention_heads * int(init_args["kernel"])
        return super().row_flops(config, length, **init_args) + weights


def seen_places(mask: Mask, asking: Tensor, offsets: Tensor, length: int) -> Tensor:
    """(1 or B, Q, kernel) True where a neighbour is in the row, of it, and attended to by the mask.

    Args:
        mask: the row's, of all queries that ask.
        asking: (1 or B, Q) their places.
        offsets: (kernel,) where neighbours stand from there.
        length: K, tokens of the row.
    """
    near = asking[..., None] + offsets
    inside, near = (near >= 0) & (near < length), near.clamp(0, length - 1)
    if mask.allowed is None:
        return inside
    allowed = mask.allowed[:, 0].expand(max(len(near), len(mask.allowed)), near.shape[1], -1)
    return inside & (allowed.gather(2, near.expand(len(allowed), -1, -1)) | (offsets == 0))
