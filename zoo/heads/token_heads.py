"""Heads that score each position: tokens, entities, labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.config import CoreConfig
from zoo.core.functions import activation
from zoo.errors import ZooError
from zoo.heads.cross_entropy import LogitFacts, TokenLoss, linear_cross_entropy
from zoo.norms import make_layer_norm


class TokenHead(nn.Module):
    """Scores over the vocabulary with the token embedding as output matrix.

    Args:
        config: the core's config.
        transform: dense W -> E, activation and LayerNorm before the output matrix (BERT's masked head);
            without it the states go in as they are (GPT).
        bias: a bias per vocabulary entry.
        half: read the first half of the states, which in a recurrent core is the forward direction's; a caller may
            also give one direction's half by itself.
        outputs: score only so many entries, the vocabulary's first; needs a matrix of its own. ``None`` = all.
    """

    def __init__(
        self,
        config: CoreConfig,
        transform: bool = True,
        bias: bool = True,
        half: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        assert config.vocab_size is not None
        self.head_config: dict[str, Any] = {"kind": "token", "transform": transform, "bias": bias}
        self.head_config |= ({"half": True} if half else {}) | ({} if outputs is None else {"outputs": outputs})
        entries = config.vocab_size if outputs is None else outputs
        if config.tie_word_embeddings and entries != config.vocab_size:
            raise ZooError(
                f"a head over the first {entries} of {config.vocab_size} tokens cannot have the token embedding as its "
                "matrix: set model.tie_word_embeddings: false, or let it score all of them."
            )
        inner = config.output_width // 2 if half else config.output_width
        # A pair of states has a matrix of its own width, unless the embedding is its matrix.
        width = inner if config.reversible and not config.tie_word_embeddings else config.embedding_width
        self.inner = inner
        # A factorised core needs the map back to the embedding width even without the transform.
        self.dense = nn.Linear(inner, width) if transform or width != inner else nn.Identity()
        self.norm = make_layer_norm(config, width) if transform else nn.Identity()
        self.activation = activation(config.hidden_act) if transform else nn.Identity()
        self.decoder = None if config.tie_word_embeddings else nn.Linear(width, entries, bias=False)
        self.bias = nn.Parameter(torch.zeros(entries)) if bias else None
        self.scale = config.hidden_size**-0.5 if config.scale_logits else None
        self.facts = LogitFacts(softcap=config.final_logit_softcapping, z_weight=config.z_loss_weight)

    def features(self, hidden: Tensor) -> Tensor:
        """(T, W) states -> (T, E) what the output matrix is multiplied with."""
        features: Tensor = self.norm(self.activation(self.dense(hidden[..., : self.inner])))
        return features if self.scale is None else features * self.scale

    def matrix(self, embedding: Tensor) -> Tensor:
        """(V, E) the output matrix: the token embedding, or an own one where the two are not tied."""
        return embedding if self.decoder is None else self.decoder.weight

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(T, W) states and the (V, E) token embedding -> (T, V) logits."""
        return self.facts.capped(functional.linear(self.features(hidden), self.matrix(embedding), self.bias))

    def loss(self, hidden: Tensor, embedding: Tensor, positions: Tensor, labels: Tensor) -> TokenLoss:
        """Summed cross-entropy at T positions; states are gathered first, so nothing is computed elsewhere.

        Args:
            hidden: (B, L, W) states.
            embedding: (V, E) the core's token embedding.
            positions: (T,) flat positions, row * L + column.
            labels: (T,) ids expected there.
        """
        states = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        return self.cross_entropy(states, embedding, labels)

    def cross_entropy(self, states: Tensor, embedding: Tensor, labels: Tensor, smoothing: float = 0.0) -> TokenLoss:
        """Summed cross-entropy of (T, W) states with (T,) labels, of which ``smoothing`` goes to the other entries."""
        facts = self.facts._replace(smoothing=smoothing)
        return linear_cross_entropy(self.features(states), self.matrix(embedding), self.bias, labels, facts=facts)


class EntityHead(nn.Module):
    """What entity vectors are multiplied with, so that a token's state scores entities (specs: ERNIE-THU, 3.2).

    Args:
        config: the core's config; it has entities.
        kind: ``entity``.
    """

    def __init__(self, config: CoreConfig, kind: str = "entity") -> None:
        super().__init__()
        if config.fusion is None:
            raise ZooError("this head scores entities, and this core has none (model.fusion).")
        self.head_config: dict[str, Any] = {"kind": kind}
        self.dense = nn.Linear(config.hidden_size, config.fusion.entity_size)
        self.activation = activation(config.hidden_act)
        self.norm = nn.LayerNorm(config.fusion.entity_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, vectors: Tensor) -> Tensor:
        """(T, W) states and (N, entity width) vectors -> (T, N) logits; a zero vector's is 0."""
        return self.norm(self.activation(self.dense(hidden))) @ vectors.to(hidden.dtype).t()


class LabelHead(nn.Module):
    """Scores of every position: tags, the two ends of an answer, replaced or not.

    Args:
        config: the core's config.
        num_labels: scores per position.
        kind: ``tagging``, ``span`` (start and end), ``replaced`` (one logit: a token that does not belong) or
            ``token_class`` (a pretraining objective's classes).
        dense: activation of a dense layer of its own before the scores; ``none`` = none.
        labels: names of the classes.
    """

    def __init__(
        self,
        config: CoreConfig,
        num_labels: int,
        kind: str = "tagging",
        dense: str = "none",
        labels: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.head_config: dict[str, Any] = {"kind": kind, "num_labels": num_labels, "dense": dense}
        if labels is not None:
            self.head_config["labels"] = list(labels)
        own = dense != "none"
        self.dense = nn.Linear(config.output_width, config.hidden_size) if own else nn.Identity()
        self.activation = activation(dense) if own else nn.Identity()
        self.output = nn.Linear(config.hidden_size if own else config.output_width, num_labels)

    def features(self, hidden: Tensor) -> Tensor:
        """(..., W) states -> (..., W) what the scores are computed of; dropout, where wanted, follows it."""
        return self.activation(self.dense(hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, num_labels)."""
        return self.output(self.features(hidden))
