"""What the layers of one stack have in common of masks and positions, whichever of them the config has."""

from __future__ import annotations

import torch

from zoo.attention.buckets import RelativeBuckets
from zoo.attention.context import AttentionContext
from zoo.attention.masks import make_mask
from zoo.attention.positions import rotary_angles
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, DecoderInputs


def positioned(
    shared: AttentionContext,
    config: CoreConfig,
    inputs: CoreInputs | DecoderInputs,
    buckets: RelativeBuckets | None,
    past: int,
) -> AttentionContext:
    """The context of a stack of layers with its mask, and with what scores or queries and keys know of positions.

    Args:
        shared: the context so far.
        config: the stack's.
        inputs: what the stack reads.
        buckets: its table, where it has one.
        past: tokens before the row in a cache, whose keys were turned already.
    """
    pattern, positions = inputs.attention_pattern, inputs.position_ids
    length, device = inputs.input_ids.shape[1], inputs.input_ids.device
    mask = make_mask(pattern, length, device, past)
    shared = shared._replace(causal=pattern.causal, lengths=pattern.lengths)
    if buckets is not None:
        if positions is not None:
            raise ZooError("model.position_type: relative_buckets counts distances itself: position_ids are not read.")
        return shared._replace(bias=buckets(mask, past, length, pattern.causal))
    if config.position_type != "rotary":
        return shared._replace(mask=mask)
    if positions is None:
        positions = torch.arange(past, past + length, device=device)[None]
    rotation = rotary_angles(positions, config.head_width, config.rope_theta)
    return shared._replace(mask=mask, rotation=rotation, positions=positions)
