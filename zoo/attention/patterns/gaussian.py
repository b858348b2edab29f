"""A Gaussian prior of distance on the scores (Guo et al. 2019, "Gaussian Transformer"); it saves no time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.attention.pattern import Pattern, refuse_block_facts
from zoo.config import CoreConfig
from zoo.initial import constant
from zoo.values import Positive


class GaussianPrior(Pattern):
    """Scores lose ``|w d^2 + b|`` at distance d, with a learned w and b of each head.

    Args:
        config: the core's config.
        deviation: standard deviation that all heads start from, in tokens: w = 1 / (2 deviation^2), b = 0.
    """

    def __init__(self, config: CoreConfig, deviation: Positive = 8.0) -> None:
        super().__init__(config)
        refuse_block_facts("GaussianPrior", config, "attn_logit_softcapping")  # it would cap what hides tokens, too
        self.sharpness = nn.Parameter(torch.empty(self.heads))
        self.offset = nn.Parameter(torch.empty(self.heads))
        self.initial = {"sharpness": constant(1.0 / (2.0 * deviation**2)), "offset": constant(0.0)}

    def prior(self, query: Tensor, key: Tensor) -> Tensor:
        """As :meth:`zoo.attention.pattern.Pattern.prior`."""
        square = (query - key).square().float()
        return -(self.sharpness[:, None, None] * square + self.offset[:, None, None]).abs()
