"""A number per head for each range of distances, added to scores (Raffel et al. 2020, "T5", section 2.1).

Their code (google-research/text-to-text-transfer-transformer, through mesh_tensorflow's ``_relative_position_bucket``)
says more than the paper: half of a direction's buckets are single distances, the others grow in width by a constant
factor up to the largest distance; where tokens attend to both sides each has half of the buckets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.attention.masks import Mask
from zoo.config import CoreConfig

# Hidden scores: exp() of them is 0, a row that attends to nothing stays finite, and bf16 has the number.
_HIDDEN = float(torch.finfo(torch.bfloat16).min)


def buckets_of(distances: Tensor, count: int, farthest: int, both_sides: bool) -> Tensor:
    """The bucket of each distance, key's position less query's.

    Args:
        distances: whole numbers of any shape.
        count: all buckets.
        farthest: from this distance on all are in the last bucket.
        both_sides: keys to the right have buckets of their own; else they are in the first one.
    """
    first = torch.zeros_like(distances)
    if both_sides:
        count //= 2
        first, distances = (distances > 0).long() * count, distances.abs()
    else:
        distances = (-distances).clamp(min=0)
    single = count // 2
    ratio = (distances.clamp(min=1).float() / single).log() / math.log(farthest / single)
    wide = (single + (ratio * (count - single)).long()).clamp(max=count - 1)
    return first + torch.where(distances < single, distances, wide)


class RelativeBuckets(nn.Module):
    """The table of one stack of layers, which all of them share.

    Args:
        config: the config of the stack.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.count, self.farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
        self.values = nn.Embedding(self.count, config.num_attention_heads)

    def forward(self, mask: Mask, past: int, length: int, one_sided: bool) -> Tensor:
        """(1 or B, H, L, past + L) what is added to scores, very low where ``mask`` hides a key.

        Args:
            mask: which queries attend to which keys.
            past: tokens before the row in a cache.
            length: L.
            one_sided: attention is causal, and distances to the left have all buckets.
        """
        positions = torch.arange(past + length, device=self.values.weight.device)
        distances = positions[None, :] - positions[past:, None]
        bias = self.values(buckets_of(distances, self.count, self.farthest, not one_sided)).permute(2, 0, 1)[None]
        if mask.causal:
            bias = bias.masked_fill(distances > 0, _HIDDEN)
        return bias if mask.allowed is None else bias.masked_fill(~mask.allowed, _HIDDEN)
