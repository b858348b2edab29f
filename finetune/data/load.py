"""Labelled texts of a task, read from files or the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.spans import RowSpans, read_row_spans
from finetune.data.tasks import GROUPS, Task
from pretraining.keyed_random import Draw
from zoo.errors import ZooError, nearest
from zoo.sample import resolve
from zoo.storage.files import hub_answers, hub_problem
from zoo.storage.user_files import parse_record, read_lines, record_text

HUB = "hub"

Row = tuple[str, ...]  # text, perhaps a second text, label


@dataclass(frozen=True)
class LabelledTexts:
    """N labelled rows.

    Args:
        texts: (N,) first texts.
        pairs: (N,) second texts, or ``None`` for a task of single texts.
        labels: (N,) int64 class numbers.
        numbers: (N,) int64 row numbers in the source, counted from 0 without the header; dropped rows leave gaps.
        skipped: rows dropped because their label says there is no gold answer.
        source: where they come from.
        spans: (N,) each row's spans, or ``None`` for a task without.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    skipped: int
    source: str
    spans: list[RowSpans] | None = None

    def __len__(self) -> int:
        """Rows."""
        return len(self.texts)

    def limited(self, limit: int | None) -> LabelledTexts:
        """At most ``limit`` rows, the same ones always, chosen by hash (files are often sorted by source)."""
        if limit is None or limit >= len(self):
            return self
        chosen = np.sort(Draw(0, 0).permutation(len(self), "finetune.limit")[:limit])
        pairs, spans = (None if part is None else [part[i] for i in chosen] for part in (self.pairs, self.spans))
        texts, labels, numbers = [self.texts[i] for i in chosen], self.labels[chosen], self.numbers[chosen]
        return replace(self, texts=texts, pairs=pairs, labels=labels, numbers=numbers, spans=spans)

    def digest(self) -> str:
        """16 hex digits that change with any text, label or span."""
        hashed = hashlib.sha256(self.labels.tobytes())
        for texts in (self.texts, self.pairs or []):
            hashed.update(json.dumps(texts, ensure_ascii=False).encode())
        if self.spans is not None:
            hashed.update(json.dumps(self.spans, ensure_ascii=False).encode())
        return hashed.hexdigest()[:16]


@dataclass(frozen=True)
class TaskSplits:
    """A task's training rows and labelled development rows."""

    train: LabelledTexts
    evaluation: LabelledTexts

    def warnings(self, task: Task) -> list[str]:
        """What cannot be meant, and can be trained on."""
        if len(self.train) and len(classes := np.unique(self.train.labels)) == 1:
            return [
                f"{self.train.source}: all {len(self.train):,} rows that task {task.name!r} trains on have the label "
                f"{task.labels[classes[0]]!r}; no other can be learned."
            ]
        return []

    def digest(self) -> str:
        """Hex digits that change with any row of either."""
        return f"{self.train.digest()}-{self.evaluation.digest()}"


def load_task(task: Task, data: str | Path, limit: int | None = None) -> TaskSplits:
    """Read a task's rows.

    Args:
        task: what to read.
        data: ``hub``, or a folder: the task's own, or one that holds it (``CoLA`` in ``glue_data``).
        limit: keep at most so many rows of each part.

    Raises:
        ZooError: a missing file or column, an unknown label, broken text, no rows; by file and line.
    """
    if limit is not None and limit < 1:
        raise ZooError(f"limit is {limit}; at least 1 row is needed, or leave it out for all rows.")
    if str(data) == HUB:
        both = _from_hub(task)
    else:
        train, evaluation = find_files(task, Path(resolve(data)))
        both = TaskSplits(read_file(task, train), read_file(task, evaluation))
    return TaskSplits(both.train.limited(limit), both.evaluation.limited(limit))


# ---- files -----------------------------------------------------------------------------------------------------------


def find_files(task: Task, data: Path) -> tuple[Path, Path]:
    """The task's training and development file below ``data``."""
    if not data.is_dir():
        raise ZooError(f"--data {data} is not a folder; give a folder of task files, or `hub`.")
    names = list(dict.fromkeys((*task.folders, task.name)))
    groups = ("", *GROUPS)
    candidates = [*(data / group / name for group in groups for name in names), data]
    for folder in candidates:
        train = next((folder / name for name in task.train_files if (folder / name).is_file()), None)
        evaluation = next((folder / name for name in task.eval_files if (folder / name).is_file()), None)
        if train and evaluation:
            return train, evaluation
        if (train or evaluation) and folder != data:
            missing = task.eval_files if train else task.train_files
            raise ZooError(f"task {task.name!r}: {folder} has {train or evaluation} but no {' or '.join(missing)}.")
    raise ZooError(
        f"task {task.name!r}: no {' or '.join(task.train_files)} with {' or '.join(task.eval_files)} in {data} or in "
        f"its folders {', '.join(names)}. Give the folder that holds them with --data, or `--data hub`."
    )


def read_file(task: Task, path: Path) -> LabelledTexts:
    """Read one file in the task's layout."""
    lines = _lines(path)
    if task.file_format == "tsv":
        return _examples(task, _tsv(task, path, lines), str(path), first_line=2 if task.header else 1)
    values = _json(task, path, lines)
    found = _examples(task, _json_rows(task, path, values), str(path), first_line=1)
    return replace(found, spans=_spans(task, found, values)) if task.span_fields else found


def _spans(task: Task, examples: LabelledTexts, values: Sequence[dict[str, Any] | None]) -> list[RowSpans]:
    spans = []
    for place, number in enumerate(examples.numbers):
        texts = [examples.texts[place], *([] if examples.pairs is None else [examples.pairs[place]])]
        spans.append(read_row_spans(task, values[number] or {}, texts, f"{examples.source}, line {number + 1}"))
    return spans


def _lines(path: Path) -> list[str]:
    """A file's lines, without blank ones at its end."""
    lines = list(read_lines(path))
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ZooError(f"{path} is empty.")
    return lines


def _tsv(task: Task, path: Path, lines: list[str]) -> list[Row | None]:
    """Tab-separated rows; quotes are ordinary characters."""
    wanted = (*task.columns, task.label_column)
    header = lines[0].split("\t") if task.header else []
    width = len(header) or len(lines[0].split("\t"))
    places = [_place(task, column, header, width, path) for column in wanted]
    rows: list[Row | None] = []
    for number, line in enumerate(lines[bool(header) :], start=1 + bool(header)):
        cells = line.split("\t")
        if len(cells) != width:
            first = "the header" if header else "line 1"
            raise ZooError(
                f"{path}, line {number}: {len(cells)} tab-separated columns where {first} has {width}; "
                f"found {line[:80]!r}."
            )
        rows.append(tuple(cells[place] for place in places))
    return rows


def _place(task: Task, column: str | int, header: list[str], width: int, path: Path) -> int:
    if isinstance(column, int):
        if 0 <= column < width:
            return column
        raise ZooError(f"{path}: task {task.name!r} reads column {column}, but line 1 has columns 0 to {width - 1}.")
    if column in header:
        return header.index(column)
    raise ZooError(f"{path}: no column {column!r}.{nearest(column, header)} The header has: {', '.join(header)}.")


def _json(task: Task, path: Path, lines: list[str]) -> list[dict[str, Any] | None]:
    """One JSON object per line; blank lines are passed over."""
    wanted = [str(column) for column in (*task.columns, task.label_column, *task.span_fields)]
    rows: list[dict[str, Any] | None] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            rows.append(None)
            continue
        rows.append(parse_record(line, f"{path}, line {number}", wanted))
    return rows


def _json_rows(task: Task, path: Path, values: Sequence[dict[str, Any] | None]) -> list[Row | None]:
    """Texts and labels of JSON objects. A number may be a label; as a text, it is the wrong key's value."""
    columns = [str(column) for column in task.columns]
    rows: list[Row | None] = []
    for number, value in enumerate(values, start=1):
        if value is None:
            rows.append(None)
            continue
        where, label = f"{path}, line {number}", value[str(task.label_column)]
        if not isinstance(label, str | int) or isinstance(label, bool):
            known = ", ".join([*task.labels, *task.skip_labels])
            raise ZooError(
                f"{where}: the label {task.label_column!r} is {_shown(label)}; one of these is needed: {known}."
            )
        rows.append((*(_text(value[key], key, where) for key in columns), str(label)))
    return rows


# ---- the hub ---------------------------------------------------------------------------------------------------------


def _from_hub(task: Task) -> TaskSplits:
    """Both parts from the ``datasets`` hub (or its cache)."""
    if task.hub is None:
        raise ZooError(f"task {task.name!r} names no hub dataset; give its folder with --data.")
    try:
        import datasets

        hub_answers()
        found = datasets.load_dataset(task.hub, task.hub_config)
    except Exception as error:  # the library raises many kinds, for a missing network as for a wrong name
        raise ZooError(
            f"task {task.name!r}: could not load {task.hub}/{task.hub_config} from the hub ({hub_problem(error)}). "
            "With a local copy, give --data FOLDER."
        ) from error
    for split in ("train", task.hub_eval):
        if split not in found:
            raise ZooError(f"{task.hub}/{task.hub_config} has no split {split!r}.{nearest(split, found)}")
    return TaskSplits(
        *(
            from_dataset(task, found[split], f"{task.hub}/{task.hub_config}:{split}")
            for split in ("train", task.hub_eval)
        )
    )


def from_dataset(task: Task, dataset: Any, source: str) -> LabelledTexts:
    """Convert a ``datasets.Dataset``: labels are class numbers with names, or the labels themselves.

    Raises:
        ZooError: a missing column, or label names that are not this task's (their order would be a guess).
    """
    columns = [*(task.hub_columns or tuple(str(column) for column in task.columns)), "label"]
    for column in columns:
        if column not in dataset.column_names:
            raise ZooError(f"{source}: no column {column!r}.{nearest(column, dataset.column_names)}")
    names = getattr(dataset.features["label"], "names", None)
    here = dict(zip(task.hub_labels or task.labels, task.labels, strict=True)) | dict(
        zip(task.labels, task.labels, strict=True)
    )
    if names is not None and not set(names) <= set(here) | set(task.skip_labels):
        raise ZooError(f"{source}: label names {names} are not those of task {task.name!r}: {list(here)}.")
    missing = task.skip_labels[0] if task.skip_labels else "-1"

    def label(value: Any) -> str:
        if names is None:
            return here.get(str(value), str(value))
        return missing if value is None or value < 0 else here.get(names[value], names[value])

    # a text column of digits comes out of a CSV as numbers
    rows = [
        (*(_text(cell, key, f"{source}, row {n}", (int, float)) for key, cell in zip(columns, row)), label(row[-1]))
        for n, row in enumerate(zip(*(list(dataset[column]) for column in columns), strict=True))
    ]
    return _examples(task, rows, source, first_line=0)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _text(value: Any, key: str, where: str, also: tuple[type, ...] = ()) -> str:
    """A text that is to be read, and not how Python writes something else."""
    return str(value) if type(value) in also else record_text(value, key, where)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)[:80]
    except TypeError:  # a dataset's picture or date
        return f"of type {type(value).__name__}"


def _examples(task: Task, rows: Sequence[Row | None], source: str, first_line: int) -> LabelledTexts:
    classes = {label: number for number, label in enumerate(task.labels)}
    kept, numbers, labels, skipped = [], [], [], 0
    for number, row in enumerate(rows):
        if row is None:
            continue
        if row[-1] in task.skip_labels:
            skipped += 1
            continue
        if row[-1] not in classes:
            known = ", ".join([*task.labels, *(f"{label} (skipped)" for label in task.skip_labels)])
            raise ZooError(
                f"{source}, line {number + first_line}: unknown label {row[-1]!r} for task {task.name!r}; "
                f"known: {known}."
            )
        kept.append(row)
        numbers.append(number)
        labels.append(classes[row[-1]])
    if not kept:
        raise ZooError(f"{source} has no labelled row for task {task.name!r} ({skipped} without a gold label skipped).")
    for place, column in enumerate(task.columns):
        if not any(row[place].strip() for row in kept):
            raise ZooError(
                f"{source}: the texts of {_named(column)} are all empty ({len(kept):,} rows); check the columns of "
                f"task {task.name!r}."
            )
    pairs = [row[1] for row in kept] if task.pair else None
    places = np.array(numbers, dtype=np.int64)
    return LabelledTexts([row[0] for row in kept], pairs, np.array(labels, dtype=np.int64), places, skipped, source)


def _named(column: str | int) -> str:
    return f"column {column}" if isinstance(column, int) else repr(column)
