"""Validation on held-out documents: fixed masks, losses kept by document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from pretraining.objectives.base import LossTerm, make_batch
from pretraining.training.loader import TaskLoader


@torch.no_grad()
def evaluate(
    model: nn.Module, data: TaskLoader, accelerator: Accelerator, rows_at_once: int
) -> dict[str, dict[str, Any]]:
    """Losses of one task on its held-out documents.

    Args:
        model: the (wrapped) model; runs without dropout.
        data: held-out rows; the caller fixes their epoch key.
        accelerator: this process and its companions, who share the rows.
        rows_at_once: rows per forward pass.

    Returns:
        by objective: ``loss`` (nats per target), ``count``, ``accuracy`` where it is defined, and the lists
        ``documents``, ``totals``, ``counts``, which are empty where the objective's :class:`LossTerm` does not say its
        losses by row. A row that spans documents counts for its first piece's one. An objective without any target
        in these rows is left out: it has no mean.
    """
    model.eval()
    plan, order = data.plan(0)
    numbers = {int(d): i for i, d in enumerate(data.documents)}
    sums = {name: np.zeros((len(numbers) + 1, 2)) for name in data.objectives}  # by document; last: of no known one
    hits = {name: np.zeros(2) for name in data.objectives}
    contiguous = data.layout.order == "contiguous"
    state = None
    rows = _contiguous_rows(data, len(plan), accelerator) if contiguous else _shares(order, rows_at_once, accelerator)
    for part in rows:
        batch = make_batch([data.rows(0, part)], data.objectives, data.pad)
        at = np.array([numbers[int(d)] for d in batch.documents])
        terms, new_state = model(_to_device(batch, accelerator), state)
        state = new_state if contiguous else None
        for name, term in terms.items():
            _add(sums[name], hits[name], at, term)
    model.train()
    totals = {name: (_total(sums[name], accelerator), _total(hits[name], accelerator)) for name in sums}
    return {name: _metrics(data, *figures) for name, figures in totals.items() if figures[0][:, 1].sum()}


def _shares(order: NDArray[np.int64], rows_at_once: int, accelerator: Accelerator) -> Iterator[NDArray[np.int64]]:
    """This process's rows, some at a time."""
    step = rows_at_once * accelerator.num_processes
    for start in range(accelerator.process_index * rows_at_once, len(order), step):
        yield np.sort(order[start : start + rows_at_once])


def _contiguous_rows(data: TaskLoader, count: int, accelerator: Accelerator) -> Iterator[NDArray[np.int64]]:
    """This process's parallel rows, batch after batch, so that what is remembered of a row meets its successor."""
    parallel_rows = min(data.layout.parallel_rows, count)
    own = np.arange(parallel_rows)[accelerator.process_index :: accelerator.num_processes]
    for start in range(0, count, parallel_rows) if len(own) else ():
        yield start + own


def _add(sums: Any, hits: Any, at: Any, term: LossTerm) -> None:
    """Add a batch's losses to those of its rows' documents (B,), or, where they are not said by row, to the last."""
    if term.row_total is None or term.row_count is None:
        sums[-1] += np.array([float(term.total), term.count])
    else:
        np.add.at(sums[:, 0], at, term.row_total.cpu().double().numpy())
        np.add.at(sums[:, 1], at, term.row_count.cpu().double().numpy())
    if term.correct is not None:
        hits += np.array([float(term.correct), term.count])


def _to_device(batch: Any, accelerator: Accelerator) -> Any:
    from accelerate.utils import send_to_device

    return send_to_device(batch, accelerator.device)


def _total(values: Any, accelerator: Accelerator) -> Any:
    if accelerator.num_processes == 1:
        return values
    return accelerator.reduce(torch.from_numpy(values).to(accelerator.device), "sum").cpu().numpy()


def _metrics(data: TaskLoader, sums: Any, hits: Any) -> dict[str, Any]:
    by_document, (rest, rest_count) = sums[:-1], sums[-1]
    count = by_document[:, 1].sum() + rest_count
    known = by_document[:0] if rest_count else by_document
    return {
        "loss": float((by_document[:, 0].sum() + rest) / count),
        "count": int(count),
        "accuracy": float(hits[0] / hits[1]) if hits[1] else None,
        "documents": [int(d) for d in data.documents[: len(known)]],
        "totals": [float(v) for v in known[:, 0]],
        "counts": [int(v) for v in known[:, 1]],
    }
