"""Validation on held-out documents: fixed masks, loss kept per document."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from pretraining.loader import TaskData
from pretraining.objective import LossTerm, collate


@torch.no_grad()
def evaluate(
    model: nn.Module, data: TaskData, accelerator: Accelerator, rows_at_once: int
) -> dict[str, dict[str, Any]]:
    """Losses of one task on its held-out documents.

    Args:
        model: the (wrapped) model; runs without dropout.
        data: held-out rows; the caller fixes their epoch key.
        accelerator: this process and its companions, who share the rows.
        rows_at_once: rows per forward pass.

    Returns:
        by objective: ``loss`` (nats per target), ``count``, ``accuracy`` where it is defined, and the lists
        ``documents``, ``totals``, ``counts``. A row that spans documents counts for its first piece's one.
    """
    model.eval()
    plan, order = data.plan(0)
    numbers = {int(d): i for i, d in enumerate(data.documents)}
    sums = {name: np.zeros((len(numbers), 2)) for name in data.objectives}
    hits = {name: np.zeros(2) for name in data.objectives}
    starts = range(accelerator.process_index * rows_at_once, len(plan), rows_at_once * accelerator.num_processes)
    for start in starts:
        rows = data.corrupted(0, np.sort(order[start : start + rows_at_once]))
        batch = collate(rows, data.objectives)
        at = np.array([numbers[int(d)] for d in rows.document])
        terms, _ = model(_to_device(batch, accelerator))
        for name, term in terms.items():
            _add(sums[name], hits[name], at, term)
    model.train()
    return {name: _figures(data, _total(sums[name], accelerator), _total(hits[name], accelerator)) for name in sums}


def _add(sums: Any, hits: Any, at: Any, term: LossTerm) -> None:
    assert term.row_total is not None
    assert term.row_count is not None
    np.add.at(sums[:, 0], at, term.row_total.double().cpu().numpy())
    np.add.at(sums[:, 1], at, term.row_count.double().cpu().numpy())
    if term.correct is not None:
        hits += np.array([float(term.correct), term.count])


def _to_device(batch: Any, accelerator: Accelerator) -> Any:
    from accelerate.utils import send_to_device

    return send_to_device(batch, accelerator.device)


def _total(values: Any, accelerator: Accelerator) -> Any:
    if accelerator.num_processes == 1:
        return values
    return accelerator.reduce(torch.from_numpy(values).to(accelerator.device), "sum").cpu().numpy()


def _figures(data: TaskData, sums: Any, hits: Any) -> dict[str, Any]:
    count = sums[:, 1].sum()
    return {
        "loss": float(sums[:, 0].sum() / max(count, 1)),
        "count": int(count),
        "accuracy": float(hits[0] / hits[1]) if hits[1] else None,
        "documents": [int(d) for d in data.documents],
        "totals": [float(v) for v in sums[:, 0]],
        "counts": [int(v) for v in sums[:, 1]],
    }
