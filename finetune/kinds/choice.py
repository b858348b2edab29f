"""The right one of several choices, to a passage, a question or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.data.choices import AnswerForm, ChoiceColumns, Choices, read_choices
from finetune.data.examples import LabelledTexts
from finetune.data.tables import Column, TaskTable
from finetune.data.tasks import Task
from finetune.inputs.blanks import blank_rows
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.rows import Targets, TaskRows, padded
from finetune.kinds.base import Outputs, TaskKind, rounded
from finetune.metrics import assign_idioms
from finetune.metrics import scores as label_scores
from pretraining.text.segmenter import SPACE_AT_CJK
from zoo.errors import ZooError


class ChosenAnswer(NamedTuple):
    """What is answered to one row.

    Args:
        choice: number of the choice.
        probabilities: (C,) of each choice.
    """

    choice: int
    probabilities: NDArray[np.float64]


class Choice(TaskKind[Choices]):
    """One score for each choice; the loss is the cross-entropy over a row's choices, of which there may be any number.

    A choice is a pair of texts: first the passage, then question and choice with a space between them (none at Chinese
    characters), as in SWAG and RACE; CLUE's baseline for C3 has a separator there. With one column: first that, then
    the choice.

    Args:
        choices: name of a column of lists, or a name for each choice's column.
        answer: how the label names the right choice: ``index``, counted from 0, ``letter`` or ``text``.
        group: column that names the rows that share their choices, such as the blanks of one passage.
        distinct: rows of a group get different choices, those with the largest product of probabilities.
        blank: column with the number, from 0, of the blank that is asked about; the first column then holds lists of
            the texts around the blanks.

    Raises:
        ZooError: options that do not fit together.
    """

    METRICS = ("accuracy",)

    def __init__(
        self,
        choices: list[str] | None = None,
        answer: AnswerForm = "index",
        group: str | None = None,
        distinct: bool = False,
        blank: str | None = None,
    ) -> None:
        named = tuple(choices or ["choices"])
        if answer not in ("index", "letter", "text"):
            raise ZooError(f"kind.init_args.answer is {answer!r}; one of index, letter, text is needed.")
        if distinct and group is None:
            raise ZooError("kind.init_args.distinct needs group, the column that names rows with the same choices.")
        if len(set(named)) < len(named):
            raise ZooError(f"kind.init_args.choices names a column twice: {list(named)}.")
        self._columns = ChoiceColumns(named, answer, group, distinct, blank)

    def check(self, task: Task) -> None:
        """Raise ZooError unless there are one or two texts, and nothing that this kind does not read."""
        where = f"task {task.name!r}"
        if len(task.columns) not in (1, 2):
            raise ZooError(
                f"{where} names {len(task.columns)} columns; one or two (passage, question) are needed, and the "
                "choices in kind.init_args.choices."
            )
        if task.labels or task.skip_labels:
            raise ZooError(f"{where}: multiple choice has no labels or skip_labels, since each row has its choices.")
        if task.span_fields:
            raise ZooError(f"{where}: multiple choice knows no marks or mentions; leave them out.")

    def columns(self, task: Task) -> tuple[Column, ...]:
        """Texts, choices, and the columns that the options name."""
        own = self._columns
        return (*task.columns, *own.choices, *(name for name in (own.group, own.blank) if name is not None))

    def pair(self, task: Task) -> bool:
        """Always: the second text is the choice."""
        return True

    def read(self, task: Task, table: TaskTable, labelled: bool = True) -> Choices:
        """A table's rows with their choices."""
        return read_choices(task, table, labelled, self._columns)

    def head_config(self, task: Task) -> dict[str, Any]:
        """One score for each sequence."""
        return {"kind": "choice", "num_labels": 1}

    def encode(self, task: Task, examples: Choices, encoder: RowEncoder) -> TaskRows:
        """A row for each example, with a sequence for each choice."""
        sizes, asked = examples.sizes, examples.questions or [""] * len(examples)
        seconds = [[asked_with(q, choice) for choice in own] for q, own in zip(asked, examples.choices, strict=True)]
        owners = np.arange(len(examples))
        if examples.blanks is not None:
            where = [f"{examples.source}, line {number + 1}" for number in examples.numbers]
            rows = blank_rows(encoder, examples.passages, examples.blanks, seconds, where)
            return TaskRows(rows, owners, sizes)
        texts = [text for (text,), own in zip(examples.passages, examples.choices, strict=True) for _ in own]
        pairs = LabelledTexts(
            texts,
            [second for row in seconds for second in row],
            np.zeros(len(texts), np.int64),
            numbers=np.repeat(examples.numbers, sizes),
            skipped=0,
            source=examples.source,
        )
        return TaskRows(encoder.rows(pairs), owners, sizes)

    def targets(self, examples: Choices, rows: TaskRows, chosen: NDArray[np.int64]) -> Targets:
        """(B,) numbers of the right choices, and (B,) how many there are."""
        return torch.from_numpy(examples.labels[chosen]), torch.from_numpy(examples.sizes[chosen])

    def loss(self, scores: Tensor, targets: Targets) -> Tensor:
        """Summed cross-entropy over the choices of each row."""
        labels, sizes = targets
        return functional.cross_entropy(padded(scores[:, 0], sizes, float("-inf")), labels, reduction="sum")

    def answers(self, task: Task, examples: Choices, rows: TaskRows, outputs: Outputs) -> list[ChosenAnswer]:
        """The likeliest choice of each row; with ``distinct``, the likeliest different ones of each group."""
        parts = np.split(outputs[:, 0], rows.firsts[1:-1])
        likely = [torch.from_numpy(part).log_softmax(0).numpy() for part in parts]
        best = [int(part.argmax()) for part in likely]
        if self._columns.distinct and examples.groups is not None:
            members: dict[str, list[int]] = {}
            for row, name in enumerate(examples.groups):
                members.setdefault(name, []).append(row)
            for own in members.values():
                for row, choice in zip(own, assign_idioms(np.stack([likely[row] for row in own])), strict=True):
                    best[row] = int(choice)
        return [ChosenAnswer(choice, np.exp(part)) for choice, part in zip(best, likely, strict=True)]

    def scores(self, task: Task, examples: Choices, answers: Sequence[Any]) -> dict[str, float]:
        """Share of rows with the right choice."""
        found = np.array([answer.choice for answer in answers], np.int64)
        return label_scores(self.metrics(task), examples.labels, found)

    def floors(self, task: Task, train: Choices, evaluation: Choices) -> dict[str, dict[str, float]]:
        """Always the place that is right most often in the rows that are scored; and any choice by chance."""
        place = int(np.bincount(evaluation.labels).argmax())
        by_place, by_chance = (evaluation.labels == place).mean(), (1.0 / evaluation.sizes).mean()
        return {"majority": {"accuracy": float(by_place)}, "random": {"accuracy": float(by_chance)}}

    def distinct(self, answers: Sequence[Any]) -> int:
        """Different places among the answers."""
        return len({answer.choice for answer in answers})

    def written(self, task: Task, examples: Choices, answers: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
        """Name, numbers of the right and of the predicted choice, and each choice's probability."""
        gold = [str(label) if examples.labelled else "" for label in examples.labels]
        rows = [
            [name, known, str(answer.choice), " ".join(f"{value:.6f}" for value in answer.probabilities)]
            for name, known, answer in zip(examples.ids, gold, answers, strict=True)
        ]
        return ["id", "gold", "predicted", "probabilities"], rows

    def submitted(self, task: Task, examples: Choices, answers: Sequence[Any]) -> list[tuple[str, Any]]:
        """Name and the number of the choice, from 0."""
        return [(name, answer.choice) for name, answer in zip(examples.ids, answers, strict=True)]

    def asked(self, task: Task, texts: Sequence[str]) -> dict[Column, Any]:
        """A text for each of the task's columns, then the choices."""
        own, first = self._columns, len(task.columns)
        if own.blank is not None:
            raise ZooError(
                f"task {task.name!r} asks about blanks of a text; a file with the texts around them would work: "
                "--input FILE.jsonl."
            )
        if len(texts) < first + 2:
            named = ", ".join(map(str, task.columns))
            raise ZooError(
                f"task {task.name!r} reads {first} text{'s' * (first != 1)} ({named}), and two choices or more; "
                f"{len(texts)} given. Each stands between quotes."
            )
        cells: dict[Column, Any] = dict(zip(task.columns, texts, strict=False))
        choices = list(texts[first:])
        if len(own.choices) > 1 and len(choices) > len(own.choices):
            raise ZooError(f"task {task.name!r} has {len(own.choices)} choices at most; {len(choices)} given.")
        listed = [choices] if len(own.choices) == 1 else [*choices, *[None] * len(own.choices)]
        cells |= dict(zip(own.choices, listed, strict=False))
        return cells if own.group is None else {**cells, own.group: "0"}

    def records(self, task: Task, examples: Choices, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """Number and text of the choice, and each one's probability."""
        return [
            {
                "predicted": answer.choice,
                "text": own[answer.choice],
                "probabilities": [rounded(value) for value in answer.probabilities],
            }
            for own, answer in zip(examples.choices, answers, strict=True)
        ]


def asked_with(question: str, choice: str) -> str:
    """Question and choice as one text."""
    if not question:
        return choice
    joined = f"{question} {choice}"
    return f"{question}{choice}" if SPACE_AT_CJK.match(joined, len(question)) else joined
