"""Questions about passages, and the stretches of the passages that answer them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.data.examples import TaskExamples, picked
from finetune.data.tables import TaskTable, shown
from finetune.data.tasks import Task
from zoo.errors import ZooError

ANSWER_START = "answer_start"
"""Name of an answer's first character, in every form of answers."""
_DIGITS = re.compile(r"-?[0-9]{1,18}")


class GoldAnswer(NamedTuple):
    """An answer as a source gives it.

    Args:
        text: what it says.
        start: its first character in the passage, as the source says; ``None`` = the source does not say.
    """

    text: str
    start: int | None = None

    def stands_in(self, passage: str) -> bool:
        """Whether it is in the passage at its start."""
        return self.start is not None and self.start >= 0 and passage.startswith(self.text, self.start)

    def place_in(self, passage: str) -> tuple[int, int] | None:
        """Characters [start, stop) of the passage where it stands, those nearest to its start; ``None`` = nowhere.

        Without a start, the first place is taken; of two equally near, the earlier one.
        """
        if self.stands_in(passage):
            assert self.start is not None
            return self.start, self.start + len(self.text)
        places, found = list[int](), passage.find(self.text)
        while found >= 0:
            places.append(found)
            found = -1 if self.start is None else passage.find(self.text, found + 1)
        if not places:
            return None
        near = min(places, key=lambda place: abs(place - (self.start or 0)))
        return near, near + len(self.text)


@dataclass(frozen=True)
class Questions(TaskExamples):
    """N questions.

    Args:
        ids: (N,) names, each once.
        questions: (N,) texts.
        passages: (N,) texts that hold the answers.
        answers: (N,) gold answers; none where there is no answer, or none is known.
    """

    ids: list[str]
    questions: list[str]
    passages: list[str]
    answers: list[tuple[GoldAnswer, ...]]

    def chosen(self, at: NDArray[np.int64]) -> Questions:
        """Some of the questions, by place."""
        ids, questions, passages = (picked(part, at) for part in (self.ids, self.questions, self.passages))
        return replace(
            self,
            ids=ids,
            questions=questions,
            passages=passages,
            answers=picked(self.answers, at),
            numbers=self.numbers[at],
        )

    def content(self) -> list[Any]:
        """Ids, texts and answers."""
        return [self.ids, self.questions, self.passages, self.answers]

    def sample_texts(self) -> list[str]:
        """Every text once."""
        return list(dict.fromkeys([*self.questions, *self.passages]))

    def gold(self) -> list[list[str]]:
        """(N,) texts of the answers."""
        return [[answer.text for answer in own] for own in self.answers]

    @cached_property
    def places(self) -> list[tuple[int, int] | None]:
        """(N,) characters [start, stop) of the first answer that is in its passage; ``None`` = there is none."""
        return [
            next((place for answer in own if (place := answer.place_in(passage)) is not None), None)
            for own, passage in zip(self.answers, self.passages, strict=True)
        ]

    def warnings(self) -> list[str]:
        """Answers that are not where they should be: how many, and what becomes of them."""
        rows = [
            (name, answer, passage)
            for name, own, passage in zip(self.ids, self.answers, self.passages, strict=True)
            for answer in own
        ]
        moved = [row for row in rows if row[1].start is not None and not row[1].stands_in(row[2])]
        sought = sum(answer.start is None for _, answer, _ in rows)
        lost = [name for name, own, at in zip(self.ids, self.answers, self.places, strict=True) if own and at is None]
        told = []
        if moved:
            name, answer, _ = moved[0]
            told.append(
                f"{self.source}: {len(moved):,} of {len(rows):,} answers do not stand at their start; training takes "
                f"the nearest place with the same text. The first is {answer.text[:40]!r} at {answer.start} "
                f"({name})."
            )
        if sought:
            told.append(
                f"{self.source}: {sought:,} of {len(rows):,} answers come without a start; the first place of each in "
                "its passage is taken."
            )
        if lost:
            told.append(
                f"{self.source}: {len(lost):,} of {len(self):,} questions have no answer that is in the passage; they "
                f"are scored, and not trained on. The first is {lost[0]}."
            )
        return told


def read_table_questions(task: Task, table: TaskTable, labelled: bool, unanswerable: bool) -> Questions:
    """The rows of a table as questions.

    Args:
        task: its first column holds questions, its second one passages, its label's column answers.
        table: the rows.
        labelled: answers are needed.
        unanswerable: a question may have none.

    Raises:
        ZooError: a passage without text, an id that occurs twice, answers in no known form, or none where one is
            needed; by row or id.
    """
    asked, passages = (table.texts(column) for column in task.columns)
    table.check_texts(task.columns, range(len(table)), task.name)
    ids = _ids(task, table)
    for name, passage in zip(ids, passages, strict=True):
        if not passage.strip():
            raise ZooError(f"{table.source}, question {name}: its passage ({task.columns[1]!r}) is empty.")
    there = task.label_column in table.columns
    starts = table.columns.get(ANSWER_START, [None] * len(table))
    cells = table.columns[task.label_column] if there else [None] * len(table)
    answers = [
        read_answers(cell, start, f"{table.source}, question {name}")
        for name, cell, start in zip(ids, cells, starts, strict=True)
    ]
    found = Questions(ids, asked, passages, answers, numbers=table.numbers, skipped=0, source=table.source)
    if not unanswerable:
        without = next((name for name, own in zip(ids, answers, strict=True) if not own), None)
        if labelled and without is not None:
            raise ZooError(
                f"{table.source}, question {without}: no answer ({task.label_column!r} is empty); where questions may "
                "have none, the task's kind needs unanswerable: true."
            )
        there = there and None not in found.places  # a test file's stand-ins are no answers
    return found if labelled or there else replace(found, answers=[() for _ in ids], labelled=False)


def _ids(task: Task, table: TaskTable) -> list[str]:
    """A name for each question: of the task's index column, or the row's number."""
    column = task.index_column
    if column is None or column not in table.columns:
        return [str(number) for number in table.numbers]
    places: dict[str, int] = {}
    for row, cell in enumerate(table.columns[column]):
        if not isinstance(cell, str | int) or isinstance(cell, bool) or not str(cell).strip():
            raise ZooError(f"{table.place(row)}: {column!r} is {shown(cell)}; the question's name is needed.")
        first = places.setdefault(str(cell), row)
        if first != row:
            raise ZooError(
                f"{table.place(row)}: {column!r} {cell!r} is that of {table.place(first)}, too; scores and files of "
                "predictions need each once."
            )
    return list(places)


def read_answers(cell: Any, start: Any, where: str) -> tuple[GoldAnswer, ...]:
    """A question's answers; empty ones are none.

    Args:
        cell: a text; a list of texts, or of objects with ``text`` and ``answer_start``; or one object with a list of
            each.
        start: of a text: the first character, also as digits; none = not known.
        where: source and question, for messages.

    Raises:
        ZooError: another form, or a text or start that is none.
    """
    if cell is None:
        pairs: list[tuple[Any, Any]] = []
    elif isinstance(cell, str):
        pairs = [(cell, start)]
    elif isinstance(cell, dict):
        texts = _listed(cell.get("text"))
        starts = _listed(cell[ANSWER_START]) if ANSWER_START in cell else [None] * len(texts)
        if len(texts) != len(starts):
            raise ZooError(f"{where}: {len(texts)} texts of answers and {len(starts)} starts; as many are needed.")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(cell, Sequence | np.ndarray):
        pairs = [(i.get("text"), i.get(ANSWER_START)) if isinstance(i, dict) else (i, None) for i in cell]
    else:
        raise ZooError(
            f"{where}: the answers are {shown(cell)}; a text, or a list of objects with 'text' and {ANSWER_START!r} "
            "is needed."
        )
    for text, _ in pairs:
        if not isinstance(text, str):
            raise ZooError(f"{where}: the text of an answer is {shown(text)}; a text is needed, in JSON in quotes.")
    return tuple(GoldAnswer(text, _start(at, where)) for text, at in pairs if text.strip())


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]


def _start(value: Any, where: str) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return int(value)
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ZooError(f"{where}: {ANSWER_START!r} is {shown(value)}; a whole number is needed, counted from 0.")
    return int(value)
