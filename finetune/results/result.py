"""One result of one task and seed: what is kept of it, and read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.tasks import Task
from finetune.inputs.encoded import EncodedRows
from finetune.inputs.features import TextRows
from zoo.config import read_json
from zoo.errors import ZooError
from zoo.storage.files import write_atomic

RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """What one task and seed gave.

    Args:
        task: its name.
        seed: fine-tuning seed.
        scores: metric by name on the development rows, the primary one first.
        majority: the same metrics of always answering the training rows' most frequent class.
        train_rows: rows trained on.
        eval_rows: rows scored.
        classes_predicted: different classes among the predictions; 1 = the model has collapsed.
        truncated: share of all rows that lost tokens to ``max_length``.
        steps: optimiser steps.
        train_loss: mean loss of each epoch, in nats.
        fingerprint: what decides the result: weights, task, rows, settings, seed.
        mixes: of features: for each mix its ``shares`` of the layers, the token vectors first, and its ``gamma``.
        marks_cut: rows in which ``max_length`` left no room for all that is marked.
        mentions: ``named``: spans of all rows with an entity of enough confidence; ``known``: those with a vector;
            ``None`` = the core reads no entities, or the rows name none.
    """

    task: str
    seed: int
    scores: dict[str, float]
    majority: dict[str, float]
    train_rows: int
    eval_rows: int
    classes_predicted: int
    truncated: float
    steps: int
    train_loss: list[float]
    fingerprint: dict[str, Any]
    mixes: list[dict[str, Any]] | None = None
    marks_cut: int = 0
    mentions: dict[str, int] | None = None


def stored_result(output: Path, fingerprint: dict[str, Any]) -> Result | None:
    """The finished result in a folder, or ``None``.

    Raises:
        ZooError: it is a result of other weights, rows or settings; names what differs.
    """
    if not (output / RESULT).exists():
        return None
    result = Result(**read_json(output / RESULT))
    found = result.fingerprint
    differing = sorted(key for key in fingerprint.keys() | found.keys() if fingerprint.get(key) != found.get(key))
    if "settings" in differing:
        old, new = found.get("settings", {}), fingerprint["settings"]
        differing.remove("settings")
        differing += [f"{k} ({old.get(k)} there, {new.get(k)} now)" for k in new if old.get(k) != new[k]]
    if differing:
        raise ZooError(
            f"{output} holds a finished result that differs in: {', '.join(differing)}. "
            "Give another --output, or delete that folder."
        )
    return result


def write_predictions(path: Path, task: Task, data: EncodedRows | TextRows, probabilities: NDArray[np.float64]) -> None:
    """A TSV with a header: row number in the source, gold label, predicted label, probability of each label."""
    lines = ["\t".join(["id", "gold", "predicted", *(f"p({label})" for label in task.labels)])]
    predicted = probabilities.argmax(axis=1)
    for number, gold, best, row in zip(data.numbers, data.labels, predicted, probabilities, strict=True):
        cells = [str(number), task.labels[gold], task.labels[best], *(f"{value:.6f}" for value in row)]
        lines.append("\t".join(cells))
    write_atomic(path, "\n".join(lines) + "\n")
