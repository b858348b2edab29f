"""What objectives that predict tokens share: targets, the tied head's loss, log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.objective import LossTerm, Targets
from zoo.heads import TokenHead
from zoo.loss import TokenLoss, linear_cross_entropy

_LOGIT_BYTES = 128 * 2**20


def token_targets(positions: NDArray[np.int64], labels: NDArray[np.integer]) -> Targets:
    """Flat positions (row * L + column) to read, ascending, and the ids expected there."""
    tensors = {
        "positions": torch.from_numpy(positions),
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }
    return Targets(tensors, len(positions))


def token_loss(head: TokenHead, hidden: Tensor, embedding: Tensor, batch: Targets, weight: float) -> LossTerm:
    """Cross-entropy at the target positions.

    States are gathered before the head's first matrix product, so nothing is computed elsewhere.

    Args:
        head: the objective's head.
        hidden: (B, L, W) states.
        embedding: (V, E) the core's token embedding.
        batch: what :func:`token_targets` made.
        weight: factor of the term.
    """
    rows, length, width = hidden.shape
    positions, labels = batch.tensors["positions"], batch.tensors["labels"]
    states = hidden.reshape(rows * length, width).index_select(0, positions)
    loss = linear_cross_entropy(head.features(states), head.matrix(embedding), head.bias, labels)
    return loss_term(loss, positions // length, rows, batch.count, weight)


def loss_term(loss: TokenLoss, row: Tensor, rows: int, count: int, weight: float) -> LossTerm:
    """The loss with its sums by row.

    Args:
        loss: of T targets.
        row: (T,) row of each.
        rows: B.
        count: losses summed, as announced.
        weight: factor of the term.
    """
    zeros = torch.zeros(rows, dtype=torch.float32, device=row.device)
    return LossTerm(
        total=loss.total,
        count=count,
        weight=weight,
        row_total=zeros.index_add(0, row, loss.nll.detach().float()),
        row_count=zeros.index_add(0, row, torch.ones_like(loss.nll, dtype=torch.float32)),
        correct=loss.correct,
    )


def token_log_probabilities(head: TokenHead, states: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
    """(T,) log-probability of each label; see :func:`token_answers`."""
    return token_answers(head, states, embedding, labels)[0]


@torch.no_grad()
def token_answers(head: TokenHead, states: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each label, and the most probable id, computed in fp32 whatever the core's precision.

    Args:
        head: the objective's head.
        states: (T, W) states that predict.
        embedding: (V, E) the core's token embedding.
        labels: (T,) ids.

    Returns:
        (T,) log-probabilities in nats, and (T,) ids.
    """
    found, best = [], []
    with torch.autocast(states.device.type, enabled=False):
        matrix = head.matrix(embedding).float()
        chunk = max(1, _LOGIT_BYTES // (4 * len(matrix)))
        dtype = next((p.dtype for p in head.parameters() if p.ndim > 1), torch.float32)
        for part, expected in zip(states.split(chunk), labels.split(chunk), strict=True):
            logits = head.features(part.to(dtype)).float() @ matrix.t()
            if head.bias is not None:
                logits = logits + head.bias.float()
            found.append(torch.log_softmax(logits, dim=-1).gather(1, expected[:, None]).squeeze(1))
            best.append(logits.argmax(dim=-1))
    if not found:
        return states.new_zeros(0, dtype=torch.float32), labels
    return torch.cat(found), torch.cat(best)
