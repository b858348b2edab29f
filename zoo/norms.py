"""The norms of a core: LayerNorm with or without its bias, and RMSNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.config import CoreConfig


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
    if config.norm == "rms":
        return RMSNorm(width, eps=config.layer_norm_eps)
    return make_layer_norm(config, width)


def make_layer_norm(config: CoreConfig, width: int) -> nn.LayerNorm:
    """LayerNorm, which the heads over tokens have whatever the core's norm is."""
    return nn.LayerNorm(width, eps=config.layer_norm_eps, bias=config.norm_bias)


def make_attention_norm(config: CoreConfig, layer_index: int) -> nn.Module:
    """The norm that goes with a layer's attention; the first layer may have none."""
    bare = layer_index == 0 and not config.first_attention_norm
    return nn.Identity() if bare else make_norm(config, config.hidden_size)


def make_head_norm(config: CoreConfig) -> nn.Module:
    """The norm of a head's queries or keys, where there is one."""
    return make_norm(config, config.head_width) if config.qk_norm else nn.Identity()
