"""Head modules: what stands between hidden states and scores. Losses live in ``zoo.loss`` and the objectives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.config import CoreConfig
from zoo.core import activation


class TokenHead(nn.Module):
    """Scores over the vocabulary with the token embedding as output matrix.

    Args:
        config: the core's facts.
        transform: dense W -> E, activation and LayerNorm before the output matrix (BERT's masked head);
            without it the states go in as they are (GPT).
        bias: a bias per vocabulary entry.
    """

    def __init__(self, config: CoreConfig, transform: bool = True, bias: bool = True) -> None:
        super().__init__()
        assert config.vocab_size is not None
        width = config.embedding_width
        # A factorised core needs the map back to the embedding width even without the transform.
        self.dense = nn.Linear(config.hidden_size, width) if transform or width != config.hidden_size else nn.Identity()
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if transform else nn.Identity()
        self.activation = activation(config.hidden_act) if transform else nn.Identity()
        self.decoder = None if config.tie_word_embeddings else nn.Linear(width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if bias else None

    def features(self, hidden: Tensor) -> Tensor:
        """(T, W) states -> (T, E) what the output matrix is multiplied with."""
        return self.norm(self.activation(self.dense(hidden)))

    def matrix(self, embedding: Tensor) -> Tensor:
        """(V, E) the output matrix: the token embedding, or an own one where the two are not tied."""
        return embedding if self.decoder is None else self.decoder.weight

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(T, W) states and the (V, E) token embedding -> (T, V) logits."""
        return functional.linear(self.features(hidden), self.matrix(embedding), self.bias)


class SequenceHead(nn.Module):
    """Linear scores of a pooled state: next sentence, sentence order.

    Args:
        config: the core's facts.
        num_labels: classes.
    """

    def __init__(self, config: CoreConfig, num_labels: int = 2) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, num_labels)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, W) -> (B, num_labels)."""
        return self.classifier(pooled)
