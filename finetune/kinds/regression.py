"""A number for a text or for a pair of texts, as similarity from 0 to 5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.data.examples import LabelledTexts, TaskSplits
from finetune.data.tables import TaskTable, shown
from finetune.data.tasks import Task
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.rows import Targets, TaskRows
from finetune.kinds.base import Outputs, TaskKind, rounded
from finetune.kinds.text_rows import one_a_row, rows_of_texts
from finetune.metrics import VALUE_METRICS, mean_baseline, value_scores
from zoo.errors import ZooError
from zoo.values import Range, check_fields


@dataclass(frozen=True)
class Regression(TaskKind[LabelledTexts]):
    """A number for each text or pair; trained by the squared error of one score.

    Args:
        least: the smallest number that a row may have, and that is written; ``None`` = no bound.
        most: the largest.
    """

    least: Annotated[float, Range()] | None = None
    most: Annotated[float, Range()] | None = None

    METRICS = tuple(VALUE_METRICS)

    def check(self, task: Task) -> None:
        """Raise ZooError unless there are one or two texts, and no labels."""
        where = f"task {task.name!r}"
        check_fields(self, where)
        if len(task.columns) not in (1, 2):
            raise ZooError(f"{where} names {len(task.columns)} text columns; one (single) or two (pair) are needed.")
        if task.labels or task.span_fields:
            raise ZooError(f"{where} is a regression, which has numbers for labels and marks nothing; leave those out.")
        if self.least is not None and self.most is not None and self.least >= self.most:
            raise ZooError(f"{where}: least = {self.least} and most = {self.most}; most has to be the larger one.")

    def read(self, task: Task, table: TaskTable, labelled: bool = True) -> LabelledTexts:
        """Every row of a table."""
        if not len(table):
            raise ZooError(f"{table.source} has no row for task {task.name!r}.")
        table.check_texts(task.columns, range(len(table)), task.name)
        texts = [table.texts(column) for column in task.columns]
        there = task.label_column in table.columns
        values = np.zeros(len(table))
        if there:
            cells = table.columns[task.label_column]
            values = np.array([self._value(task, table, row, cell) for row, cell in enumerate(cells)])
        pairs = texts[1] if len(texts) == 2 else None
        return LabelledTexts(
            texts[0], pairs, values, numbers=table.numbers, skipped=0, source=table.source, labelled=there
        )

    def _value(self, task: Task, table: TaskTable, row: int, cell: Any) -> float:
        try:
            value = math.nan if isinstance(cell, bool) else float(cell)
        except (TypeError, ValueError):
            value = math.nan
        low, high = -math.inf if self.least is None else self.least, math.inf if self.most is None else self.most
        if math.isfinite(value) and low <= value <= high:
            return value
        bounds = "" if (self.least, self.most) == (None, None) else f" from {low:g} to {high:g}"
        raise ZooError(
            f"{table.place(row)}: {str(task.label_column)!r} of task {task.name!r} is {shown(cell)}; a number{bounds} "
            "is needed."
        )

    def warnings(self, task: Task, splits: TaskSplits[LabelledTexts]) -> list[str]:
        """Training rows of one value only."""
        train = splits.train
        if np.ptp(train.labels) == 0:
            return [
                f"{train.source}: all {len(train):,} rows that task {task.name!r} trains on have the value "
                f"{train.labels[0]:g}; no other can be learned."
            ]
        return []

    def head_config(self, task: Task) -> dict[str, Any]:
        """One score."""
        return {"kind": "classification", "num_labels": 1}

    def encode(self, task: Task, examples: LabelledTexts, encoder: RowEncoder) -> TaskRows:
        """A row for each example."""
        return rows_of_texts(examples, encoder)

    def targets(self, examples: LabelledTexts, rows: TaskRows, chosen: NDArray[np.int64]) -> Targets:
        """(B,) values."""
        return (torch.from_numpy(examples.labels[chosen]).float(),)

    def loss(self, scores: Tensor, targets: Targets) -> Tensor:
        """Summed squared error."""
        return functional.mse_loss(one_a_row(scores, len(targets[0])).squeeze(-1), targets[0], reduction="sum")

    def answers(self, task: Task, examples: LabelledTexts, rows: TaskRows, outputs: Outputs) -> Outputs:  # type: ignore[override]
        """(N,) numbers, inside the bounds."""
        return np.clip(one_a_row(outputs, len(examples))[:, 0], self.least, self.most)

    def scores(self, task: Task, examples: LabelledTexts, answers: Sequence[Any]) -> dict[str, float]:
        """Correlations with the gold values."""
        return value_scores(self.metrics(task), examples.labels, np.asarray(answers))

    def floors(self, task: Task, train: LabelledTexts, evaluation: LabelledTexts) -> dict[str, dict[str, float]]:
        """Always the mean of the rows that are scored: no correlation."""
        return {"majority": mean_baseline(self.metrics(task), evaluation.labels)}

    def distinct(self, answers: Sequence[Any]) -> int:
        """Different numbers."""
        return len(np.unique(np.asarray(answers)))

    def written(self, task: Task, examples: LabelledTexts, answers: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
        """Row number in the source, gold value, predicted value."""
        gold = [f"{value:g}" if examples.labelled else "" for value in examples.labels]
        rows = [
            [str(number), known, f"{value:.6f}"]
            for number, known, value in zip(examples.numbers, gold, answers, strict=True)
        ]
        return ["id", "gold", "predicted"], rows

    def submitted(self, task: Task, examples: LabelledTexts, answers: Sequence[Any]) -> list[tuple[str, Any]]:
        """Numbers inside the bounds, three digits behind the point."""
        return [(str(number), f"{value:.3f}") for number, value in zip(examples.numbers, answers, strict=True)]

    def records(self, task: Task, examples: LabelledTexts, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """The number."""
        return [{"predicted": rounded(value)} for value in np.asarray(answers)]
