"""What a kind of task decides: what rows mean, which states are read, the loss, answers, scores and their floors.

The loop knows no kind. It hands a kind the rows of a table, a model's way of laying texts out, and scores of states. A
kind of one's own is a subclass, named in a task's YAML by its class path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.examples import ExamplesT, TaskSplits
from finetune.data.tables import Column, TaskTable
from finetune.data.tasks import Task
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.rows import Targets, TaskRows
from zoo.errors import ZooError, nearest
from zoo.settings.checks import check_keys, import_class

Outputs = NDArray[np.float64]
"""(S, width) scores of the states that are read, row by row; they are logits, before any softmax."""


class TaskKind(ABC, Generic[ExamplesT]):
    """A kind of task; its constructor takes what a task's ``init_args`` give."""

    METRICS: ClassVar[tuple[str, ...]]
    """Names of its metrics; the first is what a task has that names none."""

    # ---- what a task must say, and its rows

    @abstractmethod
    def check(self, task: Task) -> None:
        """Raise ZooError if a task of this kind cannot work."""

    def metrics(self, task: Task) -> tuple[str, ...]:
        """Names of a task's metrics, the primary one first."""
        return task.metrics or self.METRICS[:1]

    def columns(self, task: Task) -> tuple[Column, ...]:
        """Columns that a table must have, the label's not among them."""
        return task.columns

    def pair(self, task: Task) -> bool:
        """Whether a sequence is made of two texts."""
        return task.pair

    def label_columns(self, task: Task) -> tuple[Column, ...]:
        """Columns of gold answers, which test files lack."""
        return (task.label_column,)

    def optional_columns(self, task: Task) -> tuple[Column, ...]:
        """Columns that are read where a table has them."""
        return ()

    @abstractmethod
    def read(self, task: Task, table: TaskTable, labelled: bool = True) -> ExamplesT:
        """A table's rows as examples.

        Args:
            task: says which columns.
            table: the rows.
            labelled: gold answers are needed; else they are read where they are there.

        Raises:
            ZooError: what is wrong with a row, by its place; or no row is left.
        """

    def asked(self, task: Task, texts: Sequence[str]) -> dict[Column, Any]:
        """The cells of a row that somebody asks about by its texts alone.

        Args:
            task: says which columns.
            texts: one for each of its columns.

        Raises:
            ZooError: too few or too many, or the task reads more than texts.
        """
        if task.span_fields:
            raise ZooError(
                f"task {task.name!r} reads the spans {', '.join(task.span_fields)} beside its texts; a file of JSON "
                "lines with them would work: --input FILE.jsonl."
            )
        if len(texts) != len(task.columns):
            named = ", ".join(map(str, task.columns))
            raise ZooError(
                f"task {task.name!r} reads {len(task.columns)} text{'s' * (len(task.columns) != 1)} a row ({named}); "
                f"{len(texts)} given. Each text stands between quotes."
            )
        return dict(zip(task.columns, texts, strict=True))

    def warnings(self, task: Task, splits: TaskSplits[ExamplesT]) -> list[str]:
        """What cannot be meant, and can be trained on."""
        return []

    def signatures(self, task: Task) -> dict[str, str]:
        """How metrics were computed, by name, where a library says it in words."""
        return {}

    # ---- the model

    def bind_encoder(self, task: Task, encoder: RowEncoder) -> None:
        """Learn how the model spells texts; called once, before rows are encoded or answered.

        Raises:
            ZooError: the model cannot spell what the task asks for.
        """

    @abstractmethod
    def head_config(self, task: Task) -> dict[str, Any]:
        """The head on the core, as :func:`zoo.heads.build.build_head` reads it: ``kind``, ``num_labels``, ``labels``.

        Kinds ``classification`` and ``choice`` score one state a sequence; ``tagging`` and ``span`` score the states
        at the slots of :class:`finetune.inputs.rows.TaskRows`. ``written`` is no new head: the model writes with the
        one over tokens that it has, ``num_labels`` tokens at most.
        """

    def search(self) -> dict[str, Any]:
        """How a model that writes does it: arguments of :class:`finetune.models.task_model.Search`."""
        return {}

    @abstractmethod
    def encode(self, task: Task, examples: ExamplesT, encoder: RowEncoder) -> TaskRows:
        """TaskExamples as rows of ids.

        Raises:
            ZooError: texts that cannot be laid out.
        """

    # ---- training

    @abstractmethod
    def targets(self, examples: ExamplesT, rows: TaskRows, chosen: NDArray[np.int64]) -> Targets:
        """What the loss of some rows compares the scores with."""

    def count(self, rows: TaskRows, chosen: NDArray[np.int64]) -> int:
        """What the summed loss of some rows is divided by; at least 1."""
        return len(chosen)

    @abstractmethod
    def loss(self, scores: Tensor, targets: Targets) -> Tensor:
        """(S, width) scores of some rows -> 0-d summed loss."""

    def balanced(self, task: Task, examples: ExamplesT) -> TaskKind[ExamplesT]:
        """The same kind with its classes weighed by the inverse of their frequency in training.

        Raises:
            ZooError: it has no classes.
        """
        raise ZooError(
            f"class_weights: balanced weighs classes, and task {task.name!r} ({type(self).__name__}) chooses none for "
            "a whole row; leave it out."
        )

    # ---- answers

    @abstractmethod
    def answers(self, task: Task, examples: ExamplesT, rows: TaskRows, outputs: Outputs) -> Sequence[Any]:
        """An answer for each example, in order, from the scores of all rows."""

    @abstractmethod
    def scores(self, task: Task, examples: ExamplesT, answers: Sequence[Any]) -> dict[str, float]:
        """The task's metrics of answers, the primary one first; 1 = perfect (but correlations)."""

    @abstractmethod
    def floors(self, task: Task, train: ExamplesT, evaluation: ExamplesT) -> dict[str, dict[str, float]]:
        """The task's metrics of answers that read nothing: ``majority``, and ``random`` where that says more."""

    @abstractmethod
    def distinct(self, answers: Sequence[Any]) -> int:
        """How many different answers there are; 1 = the model has collapsed."""

    @abstractmethod
    def written(self, task: Task, examples: ExamplesT, answers: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
        """A file of predictions: the names of its columns, and a row for each example.

        The first columns are ``id``, ``gold`` (empty where there is none) and ``predicted``.
        """

    def submitted(self, task: Task, examples: ExamplesT, answers: Sequence[Any]) -> list[tuple[str, Any]]:
        """Id and prediction of each row as the benchmark's file has them (:mod:`finetune.results.submission`)."""
        return [(row[0], row[2]) for row in self.written(task, examples, answers)[1]]

    def records(self, task: Task, examples: ExamplesT, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """Each answer as a JSON object: ``predicted``, and what else is known of it."""
        columns, rows = self.written(task, examples, answers)
        return [dict(zip(columns[2:], row[2:], strict=True)) for row in rows]


def open_kind(task: Task) -> TaskKind[Any]:
    """A task's kind, checked.

    Raises:
        ZooError: no such class, options that it does not have, or a task that it cannot work with.
    """
    where = f"task {task.name!r}: kind"
    found = import_class(task.kind.class_path, where, (TaskKind,))
    named = {"class_path": task.kind.class_path, "init_args": dict(task.kind.init_args)}
    kind = cast("TaskKind[Any]", found(**check_keys(TaskKind, named, where)["init_args"]))
    for metric in task.metrics:
        if metric not in kind.METRICS:
            known = ", ".join(kind.METRICS)
            raise ZooError(
                f"task {task.name!r}: unknown metric {metric!r}.{nearest(metric, kind.METRICS)} Known: {known}."
            )
    kind.check(task)
    return kind


def most_frequent(labels: Sequence[Any]) -> Any:
    """The most frequent of some labels; of several, the first to occur."""
    counts: dict[Any, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    return max(counts, key=counts.__getitem__)


def rounded(value: Any) -> float | None:
    """A score to six digits behind the point, as files of predictions have it; ``None`` = it is not finite."""
    return round(float(value), 6) if np.isfinite(value) else None
