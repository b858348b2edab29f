"""Full attention under a rule of places: what patterns have in common that are a mask, or add to the scores.

They compute every score, so none of them saves time or memory. Shapes: see the legend in ``zoo.inputs``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.attention.attention import Attention
from zoo.attention.context import AttentionContext
from zoo.attention.masks import Mask
from zoo.config import CoreConfig
from zoo.errors import ZooError


class Pattern(Attention):
    """Attention to those tokens that the rule of a subclass lets a token see, with what it adds to the scores."""

    def sees(self, query: Tensor, key: Tensor, causal: bool) -> Tensor | None:
        """Boolean that broadcasts to (B, H, Q, K), True = attends; ``None`` = to all; later tokens are hidden anyway.

        Args:
            query: (1 or B, 1, Q, 1) places of the tokens that ask.
            key: (K,) places of all tokens.
            causal: whether rows attend to earlier tokens only.
        """
        return None

    def prior(self, query: Tensor, key: Tensor) -> Tensor | None:
        """(1 or B, H, Q, K) added to the scores, very low where a token is out of sight; ``None`` = nothing."""
        return None

    def _attended(
        self, query: Tensor, key: Tensor, value: Tensor, shared: AttentionContext, site: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """As full attention under the rule's mask, and with the prior as a bias."""
        places = torch.arange(key.shape[2], device=query.device)
        asking = places[None, key.shape[2] - query.shape[2] :] if shared.rows is None else shared.rows
        asking = asking[:, None, :, None]
        seen, prior = self.sees(asking, places, shared.causal), self.prior(asking, places)
        return super()._attended(query, key, value, restricted(shared, asking, places, seen, prior), site)


def restricted(
    shared: AttentionContext, query: Tensor, key: Tensor, seen: Tensor | None, prior: Tensor | None = None
) -> AttentionContext:
    """The context with all else hidden; each token keeps itself, since padding may see nothing else.

    Args:
        shared: what all layers have in common.
        query: (1 or B, 1, Q, 1) places of the tokens that ask.
        key: (K,) places of all tokens.
        seen: True where a token attends; ``None`` = everywhere.
        prior: added to the scores.
    """
    itself, allowed = query == key, seen
    if shared.mask.causal:
        allowed = query >= key if allowed is None else allowed & (query >= key)
    if shared.mask.allowed is not None:
        allowed = shared.mask.allowed if allowed is None else allowed & shared.mask.allowed
    bias = shared.bias if prior is None else prior if shared.bias is None else shared.bias + prior
    if bias is not None and prior is not None:
        bias = bias.clamp(min=torch.finfo(bias.dtype).min)  # a sum of two very low numbers stays finite
    if allowed is None:
        return shared if bias is None else shared._replace(mask=Mask(None, False), bias=bias)
    if bias is None:
        return shared._replace(mask=Mask(allowed | itself, False))
    # A mask of the scores' own type: kernels take one only, and a boolean beside it would be lost.
    bias = bias.masked_fill(~(allowed | itself if shared.bias is None else allowed), torch.finfo(bias.dtype).min)
    return shared._replace(mask=Mask(None, False), bias=bias)


def refuse_block_facts(name: str, config: CoreConfig, *fields: str) -> None:
    """Raise ZooError if the config has one of these facts, which a class's scores do not go with."""
    for field in fields:
        if found := getattr(config, field):
            raise ZooError(f"{name} does not go with model.{field} = {found}: leave it out, or use another class.")
