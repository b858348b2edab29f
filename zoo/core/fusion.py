"""Entity vectors beside the tokens: what a layer needs to let them attend to each other and to mix them in.

As the released code does it (specs: ERNIE-THU, section 2): residual sums and norms where the paper writes an outer
activation, and a bias at tokens without an entity. One slot of the entity stream belongs to each token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.attention.attention import Attention
from zoo.attention.context import AttentionContext
from zoo.attention.masks import Mask
from zoo.config import CoreConfig
from zoo.config_parts import FusionConfig
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.inputs import CoreInputs

_SITE = 4  # of a layer's places for dropout; those before belong to the tokens


def entity_stream(inputs: CoreInputs, fusion: FusionConfig) -> tuple[Tensor, Tensor]:
    """The entity stream before the first layer.

    Without entities all vectors are zero. The first position is never masked, so that every query has a key; its vector
    is zero there, too.

    Args:
        inputs: of the core.
        fusion: their config.

    Returns:
        (B, L, entity width) vectors and (B, L) the mask, True where an entity stands.

    Raises:
        ZooError: vectors of another width, one of ``entity_ids`` and ``entity_vectors`` without the other, or rows in
            which not all tokens attend to each other.
    """
    batch, length = inputs.input_ids.shape
    own = inputs.attention_pattern
    if own.causal or any(part is not None for part in (own.documents, own.permutation_ranks, own.dense)):
        raise ZooError("a core with entities (model.fusion) reads rows in which all tokens attend to each other.")
    ids, vectors = inputs.entity_ids, inputs.entity_vectors
    if (ids is None) != (vectors is None):
        raise ZooError("entity_ids are rows of entity_vectors: give both, or neither.")
    if ids is None or vectors is None:
        device = inputs.input_ids.device
        mask = torch.zeros(batch, length, dtype=torch.bool, device=device)
        states = torch.zeros(batch, length, fusion.entity_size, device=device)
    else:
        if vectors.shape[-1] != fusion.entity_size:
            raise ZooError(
                f"the entity vectors are {vectors.shape[-1]} wide, model.fusion.entity_size is {fusion.entity_size}."
            )
        mask, states = ids > 0, functional.embedding(ids, vectors.detach())
    mask[:, 0] = True
    return states, mask


class EntityStream(nn.Module):
    """One layer's part of the entity stream.

    What the last such layer would leave for the next is read by nobody: its weights are kept, because checkpoints have
    them, but neither computed with nor trained.

    Args:
        config: the core's config.
        layer_index: of the layer.
    """

    def __init__(self, config: CoreConfig, layer_index: int) -> None:
        super().__init__()
        fusion = config.fusion
        assert fusion is not None
        width, inner, self.dropout = fusion.entity_size, config.intermediate_size, config.hidden_dropout_prob
        own = CoreConfig(
            hidden_size=width,
            num_attention_heads=fusion.num_attention_heads,
            attention_bias=config.attention_bias,
            attention_probs_dropout_prob=config.attention_probs_dropout_prob,
        )
        full = fusion.kind_of(layer_index) == "full"
        self.attention = Attention(own) if full else None
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if full else nn.Identity()
        self.intermediate = nn.Linear(width, inner, bias=config.mlp_bias)
        self.output = nn.Linear(inner, width, bias=config.mlp_bias)
        self.output.residual_output = True  # type: ignore[assignment]
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.read = layer_index != fusion.last
        for part in (self.output, self.output_norm):
            part.requires_grad_(self.read)

    def join(self, entities: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, Tensor]:
        """Let entities attend to each other, where the layer does that, and say what they add to the tokens.

        Args:
            entities: (B, L, entity width).
            shared: what all layers have in common.
            site: the layer's first place for dropout.

        Returns:
            the entities, zero where there is none, and (B, L, intermediate width) before the activation.
        """
        mask, keys = shared.entity_mask, shared.dropout_keys
        assert mask is not None
        if self.attention is not None:
            context = AttentionContext(Mask(mask[:, None, None, :], False), keys)
            attended, _ = self.attention(entities, context, site + _SITE)
            entities = self.attention_norm(entities + keyed_dropout(attended, keys, site + _SITE + 1, self.dropout))
        entities = entities * mask[..., None]
        return entities, self.intermediate(entities)

    def leave(self, entities: Tensor, inner: Tensor, keys: Tensor | None, site: int | Tensor) -> Tensor:
        """(B, L, entity width) for the next layer, out of the (B, L, intermediate width) that tokens read, too."""
        if not self.read:
            return entities
        output = keyed_dropout(self.output(inner), keys, site + _SITE + 2, self.dropout)
        return self.output_norm(entities + output)
