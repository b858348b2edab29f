"""Softmax over a sample of the vocabulary, with the sampling's correction."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pretraining.keyed_random import Draw
from zoo.heads.cross_entropy import TokenLoss

# --- the sampled softmax -----------------------------------------------------------------------------------


def log_expected(ids: Tensor, size: int, draws: int) -> Tensor:
    """Logarithm of the chance that log-uniform draws from ``size`` ids contain each of ``ids`` (any shape).

    One draw finds id k with probability log((k + 2) / (k + 1)) / log(size + 1), Zipf's law.
    """
    shares = torch.log1p(1.0 / (ids.double() + 1.0)) / math.log(size + 1)
    return torch.log(-torch.expm1(draws * torch.log1p(-shares))).float()


def draw_negatives(key: int, count: int, size: int) -> tuple[NDArray[np.int64], int]:
    """``count`` different ids below ``size``, drawn log-uniformly, and how many draws that took.

    Args:
        key: of the draws; the same key, the same ids.
        count: at most half of ``size``, or the last ones would take for ever.
        size: entries of the vocabulary.
    """
    draw, found = Draw(key % 2**63, 0), np.zeros(0, dtype=np.int64)
    while True:
        numbers = np.arange(len(found), len(found) + 4 * count)
        drawn = np.exp(draw.uniform(numbers, "bilm.negatives") * math.log(size + 1)).astype(np.int64) - 1
        found = np.concatenate([found, np.minimum(drawn, size - 1)])
        first = np.sort(np.unique(found, return_index=True)[1])
        if len(first) >= count:
            return found[first[:count]], int(first[count - 1]) + 1


def sampled_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ids: NDArray[np.int64], draws: int
) -> TokenLoss:
    """Cross-entropy over each label and shared negatives, corrected for how often they are expected.

    From every logit the logarithm of the token's expected count among the draws is taken; a negative that is the label
    is left out there (Jean et al. 2015; TensorFlow's sampled_softmax_loss).

    Args:
        features: (T, E).
        weight: (V, E) output matrix.
        bias: (V,) or ``None``.
        labels: (T,) int64.
        ids: (S,) different negatives.
        draws: how many draws they took.
    """
    size, negatives = len(weight), torch.from_numpy(ids).to(features.device)
    others = functional.linear(features, weight.index_select(0, negatives)).float()
    others = others - log_expected(negatives, size, draws)
    right = (features * weight.index_select(0, labels)).sum(-1).float() - log_expected(labels, size, draws)
    if bias is not None:
        others, right = others + bias.index_select(0, negatives), right + bias.index_select(0, labels)
    others = others.masked_fill(labels[:, None] == negatives[None, :], -torch.inf)
    nll = torch.logsumexp(torch.cat([right[:, None], others], dim=1), dim=1) - right
    return TokenLoss(nll.sum(), nll.detach(), None)
