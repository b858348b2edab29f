"""A span of attention that each head learns (Sukhbaatar et al. 2019, "Adaptive Attention Span in Transformers").

Scores are computed everywhere and masked softly, so the span is a measurement: no time is saved here. The authors clamp
the span to its range after each step; here it is the sigmoid of a parameter, so that no step can leave the range.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.attention.pattern import Pattern, refuse_block_facts
from zoo.config import CoreConfig
from zoo.initial import constant
from zoo.values import Count, NotNegative

_START = -3.0  # sigmoid of it, a twentieth of the longest span, is where spans begin; the authors begin at 0


class AdaptiveSpan(Pattern):
    """Attention that fades out linearly, over ``ramp`` tokens, behind each head's learned span.

    Args:
        config: the core's config.
        max_span: the longest span, in tokens.
        ramp: tokens over which attention falls from full to none.
        penalty: added to the loss for each token of a layer's mean span.
    """

    def __init__(self, config: CoreConfig, max_span: Count, ramp: Count = 32, penalty: NotNegative = 2.0e-6) -> None:
        super().__init__(config)
        refuse_block_facts("AdaptiveSpan", config, "attn_logit_softcapping")  # it would cap what hides tokens, too
        self.max_span, self.ramp, self.price = max_span, ramp, penalty
        self.span = nn.Parameter(torch.empty(self.heads))
        self.initial = {"span": constant(_START)}

    def spans(self) -> Tensor:
        """(H,) learned spans, in tokens."""
        return self.max_span * self.span.float().sigmoid()

    def prior(self, query: Tensor, key: Tensor) -> Tensor:
        """As :meth:`zoo.attention.pattern.Pattern.prior`: probabilities are multiplied by the ramp, and normalised."""
        share = ((self.ramp + self.spans()[:, None, None] - (query - key).abs()) / self.ramp).clamp(max=1.0)
        return share.clamp(min=1e-9).log().masked_fill(share <= 0.0, torch.finfo(share.dtype).min)

    def penalty(self) -> Tensor:
        """0-d, in the loss of each step."""
        return self.price * self.spans().mean()

    def figures(self) -> dict[str, float]:
        """The mean and the longest span of the layer's heads, the ramp not counted."""
        spans = self.spans().detach()
        return {"span": float(spans.mean()), "longest_span": float(spans.max())}
