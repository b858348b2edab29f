"""The class of a text or of a pair of texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.data.examples import LabelledTexts, TaskSplits
from finetune.data.spans import read_row_spans
from finetune.data.tables import Column, TaskTable, shown
from finetune.data.tasks import Task
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.rows import Targets, TaskRows
from finetune.kinds.base import Outputs, TaskKind, rounded
from finetune.kinds.text_rows import one_a_row, rows_of_texts
from finetune.metrics import METRICS, majority_baseline, scores
from zoo.errors import ZooError


class Classification(TaskKind[LabelledTexts]):
    """One of a task's labels for each text or pair; spans of the texts may be marked."""

    METRICS = tuple(METRICS)
    _weights: NDArray[np.float32] | None = None  # (labels,) of each class, where they are not all 1

    def check(self, task: Task) -> None:
        """Raise ZooError unless there are one or two texts and at least two labels."""
        where = f"task {task.name!r}"
        if len(task.columns) not in (1, 2):
            raise ZooError(f"{where} names {len(task.columns)} text columns; one (single) or two (pair) are needed.")
        if len(task.labels) < 2:
            raise ZooError(f"{where} needs at least two different labels, found {list(task.labels)}.")
        if "f1" in task.metrics and len(task.labels) != 2:
            raise ZooError(f"{where}: f1 is defined for two labels, not {len(task.labels)}; macro_f1 would work.")

    def columns(self, task: Task) -> tuple[Column, ...]:
        """Texts, and the fields of spans."""
        return (*task.columns, *task.span_fields)

    def read(self, task: Task, table: TaskTable, labelled: bool = True) -> LabelledTexts:
        """The labelled rows of a table, all rows where labels are not needed."""
        kept, labels, skipped = labelled_rows(task, table, labelled)
        table.check_texts(task.columns, kept, task.name)
        texts = [[cells[row] for row in kept] for cells in map(table.texts, task.columns)]
        pairs = texts[1] if len(texts) == 2 else None
        spans = None
        if task.span_fields:
            spans = [
                read_row_spans(
                    task,
                    {field: table.columns[field][row] for field in task.span_fields},
                    [side[place] for side in texts],
                    table.place(row),
                )
                for place, row in enumerate(kept)
            ]
        numbers = table.numbers[np.array(kept, np.int64)]
        there = labelled or task.label_column in table.columns
        return LabelledTexts(
            texts[0], pairs, labels, spans, numbers=numbers, skipped=skipped, source=table.source, labelled=there
        )

    def warnings(self, task: Task, splits: TaskSplits[LabelledTexts]) -> list[str]:
        """Training rows of one class only."""
        train = splits.train
        if len(train) and len(classes := np.unique(train.labels)) == 1:
            return [
                f"{train.source}: all {len(train):,} rows that task {task.name!r} trains on have the label "
                f"{task.labels[classes[0]]!r}; no other can be learned."
            ]
        return []

    def head_config(self, task: Task) -> dict[str, Any]:
        """A score for each label."""
        return {"kind": "classification", "num_labels": len(task.labels), "labels": list(task.labels)}

    def encode(self, task: Task, examples: LabelledTexts, encoder: RowEncoder) -> TaskRows:
        """A row for each example."""
        return rows_of_texts(examples, encoder)

    def targets(self, examples: LabelledTexts, rows: TaskRows, chosen: NDArray[np.int64]) -> Targets:
        """(B,) class numbers, and (B,) weights where classes are weighed."""
        labels = examples.labels[chosen]
        if self._weights is None:
            return (torch.from_numpy(labels),)
        return torch.from_numpy(labels), torch.from_numpy(self._weights[labels])

    def loss(self, scores: Tensor, targets: Targets) -> Tensor:
        """Summed cross-entropy."""
        scores = one_a_row(scores, len(targets[0]))
        if len(targets) == 1:
            return functional.cross_entropy(scores, targets[0], reduction="sum")
        return (functional.cross_entropy(scores, targets[0], reduction="none") * targets[1]).sum()

    def balanced(self, task: Task, examples: LabelledTexts) -> Classification:
        """Each class weighs as the inverse of its frequency; the mean weight of the examples is 1."""
        counts = np.bincount(examples.labels, minlength=len(task.labels))
        made = copy.copy(self)
        weights = len(examples) / ((counts > 0).sum() * np.maximum(counts, 1))
        made._weights = weights.astype(np.float32)
        return made

    def answers(self, task: Task, examples: LabelledTexts, rows: TaskRows, outputs: Outputs) -> Outputs:  # type: ignore[override]
        """(N, labels) probabilities."""
        return torch.from_numpy(one_a_row(outputs, len(examples))).softmax(-1).numpy()

    def scores(self, task: Task, examples: LabelledTexts, answers: Sequence[Any]) -> dict[str, float]:
        """The metrics of the likeliest classes."""
        return scores(self.metrics(task), examples.labels, np.asarray(answers).argmax(axis=1))

    def floors(self, task: Task, train: LabelledTexts, evaluation: LabelledTexts) -> dict[str, dict[str, float]]:
        """Always the most frequent class of the rows that are scored."""
        return {"majority": majority_baseline(self.metrics(task), evaluation.labels)}

    def distinct(self, answers: Sequence[Any]) -> int:
        """Different classes among the likeliest."""
        return len(np.unique(np.asarray(answers).argmax(axis=1)))

    def written(self, task: Task, examples: LabelledTexts, answers: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
        """Row number in the source, gold label, predicted label, probability of each label."""
        best = np.asarray(answers).argmax(axis=1)
        gold = [task.labels[label] if examples.labelled else "" for label in examples.labels]
        rows = [
            [str(number), known, task.labels[guess], *(f"{value:.6f}" for value in row)]
            for number, known, guess, row in zip(examples.numbers, gold, best, answers, strict=True)
        ]
        return ["id", "gold", "predicted", *(f"p({label})" for label in task.labels)], rows

    def records(self, task: Task, examples: LabelledTexts, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """The likeliest label, and the probability of each."""
        return [
            {
                "predicted": task.labels[int(np.argmax(row))],
                "probabilities": {label: rounded(value) for label, value in zip(task.labels, row, strict=True)},
            }
            for row in np.asarray(answers)
        ]


def labelled_rows(task: Task, table: TaskTable, labelled: bool) -> tuple[list[int], NDArray[np.int64], int]:
    """Rows of a table that are kept, their class numbers, and how many were dropped for want of a gold answer.

    Args:
        task: its labels, those with a meaning and those that are skipped.
        table: the rows.
        labelled: a label is needed; else a row without one is kept, as class 0.

    Raises:
        ZooError: a label that is none of the task's, or no row is left.
    """
    if not labelled and task.label_column not in table.columns:
        return list(range(len(table))), np.zeros(len(table), np.int64), 0
    classes = {label: number for number, label in enumerate(task.labels)}
    kept, labels, skipped = list[int](), list[int](), 0
    for row, cell in enumerate(table.columns[task.label_column]):
        label = _label(task, table, row, cell)
        if label in task.skip_labels or (label is None and (not labelled or table.numbers_are_text)):
            skipped += labelled
            if not labelled:
                kept.append(row)
                labels.append(0)
            continue
        if label not in classes:
            known = ", ".join([*task.labels, *(f"{label} (skipped)" for label in task.skip_labels)])
            raise ZooError(f"{table.place(row)}: unknown label {label!r} for task {task.name!r}; known: {known}.")
        kept.append(row)
        labels.append(classes[label])
    if not kept:
        raise ZooError(
            f"{table.source} has no labelled row for task {task.name!r} ({skipped} without a gold label skipped)."
        )
    return kept, np.array(labels, np.int64), skipped


def _label(task: Task, table: TaskTable, row: int, cell: Any) -> str | None:
    """A cell as a label. A number may be one, as JSON's true and false may; as a text, it is the wrong key's value.

    ``None`` = of the hub: none.
    """
    if cell is None and table.numbers_are_text:
        return None
    if isinstance(cell, bool) and {"true", "false"} <= {*task.labels}:  # as JSON writes them
        return str(cell).lower()
    if not isinstance(cell, str | int) or isinstance(cell, bool):
        known = ", ".join([*task.labels, *task.skip_labels])
        raise ZooError(
            f"{table.place(row)}: the label {task.label_column!r} is {shown(cell)}; one of these is needed: {known}."
        )
    if table.numbers_are_text and task.hub_labels:
        return dict(zip(task.hub_labels, task.labels, strict=True)).get(str(cell), str(cell))
    return str(cell)
