"""Rows of multiple choice: a passage, a question or both, some choices, and the number of the right one."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.data.examples import TaskExamples, picked
from finetune.data.tables import TaskTable, shown
from finetune.data.tasks import Task
from zoo.errors import ZooError
from zoo.storage.user_files import check_surrogates, parse_json, record_text

AnswerForm = Literal["index", "letter", "text"]


@dataclass(frozen=True)
class Choices(TaskExamples):
    """N rows with choices.

    Args:
        passages: (N,) the first column's texts, each in the pieces that its blanks leave: one piece without blanks.
        blanks: (N,) number of the blank that is asked about, between pieces n and n + 1; ``None`` = there are none.
        questions: (N,) the second column's texts; ``None`` = there is one column.
        choices: (N,) each row's choices, two or more.
        labels: (N,) int64 numbers of the right ones; zeros where they are not known.
        groups: (N,) rows of one name share their choices, each of which is right once at most; ``None`` = no groups.
        ids: (N,) names.
    """

    passages: list[tuple[str, ...]]
    blanks: NDArray[np.int64] | None
    questions: list[str] | None
    choices: list[tuple[str, ...]]
    labels: NDArray[np.int64]
    groups: list[str] | None
    ids: list[str]

    def chosen(self, at: NDArray[np.int64]) -> Choices:
        """Some of the examples, by place."""
        passages, choices, ids = (picked(part, at) for part in (self.passages, self.choices, self.ids))
        questions, groups = (None if part is None else picked(part, at) for part in (self.questions, self.groups))
        return replace(
            self,
            passages=passages,
            blanks=None if self.blanks is None else self.blanks[at],
            questions=questions,
            choices=choices,
            labels=self.labels[at],
            groups=groups,
            ids=ids,
            numbers=self.numbers[at],
        )

    def content(self) -> list[Any]:
        """Labels, texts, choices and groups."""
        blanks = [] if self.blanks is None else [self.blanks]
        return [self.labels, *blanks, self.passages, self.questions, self.choices, self.groups]

    def sample_texts(self) -> list[str]:
        """Every passage, question and choice."""
        pieces = [piece for row in self.passages for piece in row]
        return [*pieces, *(self.questions or []), *(choice for row in self.choices for choice in row)]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(N,) how many choices each row has."""
        return np.array([len(row) for row in self.choices], np.int64)


class ChoiceColumns(NamedTuple):
    """Where the parts of a row stand, beside its texts.

    Args:
        choices: one column of lists, or a column for each choice.
        answer: how the label's column names the right choice.
        group: column that names the rows that share their choices; ``None`` = none.
        distinct: every choice of a group is right once at most, so that its rows must have the same ones.
        blank: column with the number of the blank that is asked about; ``None`` = texts have no blanks.
    """

    choices: tuple[str, ...]
    answer: AnswerForm
    group: str | None
    distinct: bool
    blank: str | None


def read_choices(task: Task, table: TaskTable, labelled: bool, columns: ChoiceColumns) -> Choices:
    """A table's rows.

    Args:
        task: its one or two columns of texts.
        table: the rows.
        labelled: the right choice is needed; else it is read where it is there.
        columns: where the rest stands.

    Raises:
        ZooError: what is wrong with a row, by its place.
    """
    if not len(table):
        raise ZooError(f"{table.source} has no rows.")
    rows = range(len(table))
    cells = [table.columns[name] for name in columns.choices]
    choices = [_choices(columns.choices, [cell[row] for cell in cells], table.place(row)) for row in rows]
    passages, blanks = _passages(task, table, columns.blank)
    gold = table.columns.get(task.label_column)
    labels = np.zeros(len(table), np.int64)
    for row, cell in enumerate([] if gold is None else gold):
        if cell is not None or labelled:
            labels[row] = _answer(cell, choices[row], columns.answer, str(task.label_column), table.place(row))
    groups = None if columns.group is None else [str(cell) for cell in table.columns[columns.group]]
    if groups is not None and columns.distinct:
        _check_groups(groups, choices, table)
    index = None if task.index_column is None else table.columns.get(task.index_column)
    return Choices(
        passages,
        blanks,
        table.texts(task.columns[1]) if len(task.columns) == 2 else None,
        choices,
        labels,
        groups,
        [str(cell) for cell in (table.numbers if index is None else index)],
        numbers=table.numbers,
        skipped=0,
        source=table.source,
        labelled=gold is not None and (labelled or not any(cell is None for cell in gold)),
    )


def _listed(cell: Any, where: str) -> Any:
    """A cell, as a list where it is one, also in JSON."""
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    return parse_json(cell, where) if isinstance(cell, str) and cell.lstrip().startswith("[") else cell


def _choices(names: tuple[str, ...], cells: list[Any], where: str) -> tuple[str, ...]:
    column = ", ".join(names)
    if len(names) == 1:
        found = _listed(cells[0], where)
        if not isinstance(found, list):
            raise ZooError(f"{where}: {column!r} is {shown(cells[0])}; a list of choices is needed.")
    else:
        found = [None if isinstance(cell, str) and not cell.strip() else cell for cell in cells]
        while found and found[-1] is None:
            found.pop()
    wrong = next((number for number, choice in enumerate(found) if not isinstance(choice, str)), None)
    if wrong is not None:
        what = "no text" if found[wrong] is None else f"{shown(found[wrong])}, which is no text"
        raise ZooError(f"{where}: choice {wrong} (counted from 0) of {column!r} is {what}; each choice is a text.")
    if len(found) < 2:
        raise ZooError(f"{where}: {column!r} has {len(found)} choice{'s' * (len(found) != 1)}; two or more are needed.")
    check_surrogates(found, f"{where}: {column!r}")
    return tuple(found)


def _passages(
    task: Task, table: TaskTable, blank: str | None
) -> tuple[list[tuple[str, ...]], NDArray[np.int64] | None]:
    """The first column's texts; where they have blanks, lists of pieces, and which blank is asked about."""
    if blank is None:
        return [(text,) for text in table.texts(task.columns[0])], None
    name, found = str(task.columns[0]), list[tuple[str, ...]]()
    asked = np.zeros(len(table), np.int64)
    for row, (cell, number) in enumerate(zip(table.columns[task.columns[0]], table.columns[blank], strict=True)):
        where = table.place(row)
        pieces = _listed(cell, where)
        if not isinstance(pieces, list) or len(pieces) < 2:
            raise ZooError(
                f"{where}: {name!r} is {shown(cell)}; a text with blanks is a list of the texts around them, two or "
                "more."
            )
        found.append(tuple(record_text(piece, name, where) for piece in pieces))
        asked[row] = _whole(number, blank, len(pieces) - 1, "blanks", where)
    return found, asked


def _whole(cell: Any, name: str, count: int, what: str, where: str) -> int:
    """A number from 0 to below ``count``."""
    text = cell.strip() if isinstance(cell, str) else cell
    number = int(text) if isinstance(text, str) and text.isdecimal() and len(text) < len(str(2**31)) else text
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or not 0 <= number < count:
        raise ZooError(
            f"{where}: {name!r} is {shown(cell)}; {what} of a row are counted from 0, so that a number from 0 to "
            f"{count - 1} is needed here."
        )
    return int(number)


def _answer(cell: Any, choices: Sequence[str], form: AnswerForm, name: str, where: str) -> int:
    if form == "index":
        try:
            return _whole(cell, name, len(choices), "choices", where)
        except ZooError as error:
            if not isinstance(cell, str):
                raise
            other = "text" if cell in choices else "letter" if re.fullmatch("[A-Za-z]", cell.strip()) else ""
            hint = f" kind.init_args.answer: {other} would read it." if other else ""
            raise ZooError(f"{error}{hint}") from error
    if not isinstance(cell, str):
        raise ZooError(f"{where}: {name!r} is {shown(cell)}; a {form} is needed (kind.init_args.answer).")
    if form == "text":
        if cell not in choices:
            raise ZooError(f"{where}: {name!r} is {shown(cell)}, none of the choices: {shown(list(choices))}.")
        return list(choices).index(cell)
    letter = cell.strip().upper()
    if len(letter) != 1 or letter not in string.ascii_uppercase[: len(choices)]:
        last = string.ascii_uppercase[len(choices) - 1 : len(choices)] or "Z"
        raise ZooError(f"{where}: {name!r} is {shown(cell)}; a letter from A to {last} is needed.")
    return string.ascii_uppercase.index(letter)


def _check_groups(groups: list[str], choices: list[tuple[str, ...]], table: TaskTable) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(groups):
        one = first.setdefault(name, row)
        if choices[one] != choices[row]:
            raise ZooError(
                f"{table.place(row)}: its choices are not those of {table.place(one)}, which is of the same group "
                f"{name!r}; with distinct: true, rows of a group share their choices."
            )
