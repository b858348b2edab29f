"""Labelled texts of a task, read from files or the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.spans import RowSpans, read_row_spans
from finetune.data.tasks import FORMATS, GROUPS, Task
from pretraining.keyed_random import Draw
from zoo.errors import ZooError, nearest
from zoo.sample import resolve
from zoo.storage.files import hub_answers, hub_problem
from zoo.storage.user_files import (
    check_record,
    check_surrogates,
    column_place,
    parse_json,
    parse_record,
    read_lines,
    read_parquet,
    read_table,
    record_text,
    unreadable,
)

HUB = "hub"

EXTENSIONS = tuple(f".{one}" for one in FORMATS)
"""What says how a file is read; all but Parquet also with ``.gz`` behind."""

_READABLE = ".tsv, .csv, .jsonl and .json, each also with .gz, and .parquet"

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
    wanted, also = (
        " or ".join(name if _extension(Path(name)) else f"{name}.*" for name in names)
        for names in (task.train_files, task.eval_files)
    )
    for folder in candidates:
        train, evaluation = _first_file(task.train_files, folder), _first_file(task.eval_files, folder)
        if train and evaluation:
            return train, evaluation
        if (train or evaluation) and folder != data:
            missing = also if train else wanted
            raise ZooError(
                f"task {task.name!r}: {folder} has {train or evaluation} but no {missing} that is read ({_READABLE})."
            )
    raise ZooError(
        f"task {task.name!r}: no {wanted} with {also} that is read ({_READABLE}) in {data} or in its folders "
        f"{', '.join(names)}. Give the folder that holds them with --data, or `--data hub`."
    )


def _first_file(names: Sequence[str], folder: Path) -> Path | None:
    """The first of these files that a folder has; ZooError where two have one name and different extensions."""
    for name in names:
        path = folder / name
        if path.is_file():
            return path
        if _extension(path):
            continue
        try:
            beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        except OSError as error:
            raise unreadable(path.parent, error) from error
        found = [p for p in beside if p.name == path.name + (_extension(p) or "/") and p.is_file()]
        if len(found) > 1:
            both = " and ".join(p.name for p in found)
            raise ZooError(f"{path.parent} has {both}; keep one, or name it in the task's train_files or eval_files.")
        if found:
            return found[0]
    return None


def _extension(path: Path) -> str:
    """The end of a file's name that says how it is read, as it stands there; none for a file that is not read."""
    end = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    known = (*EXTENSIONS, *(f"{one}.gz" for one in EXTENSIONS if one != ".parquet"))
    return end if end.lower() in known else ""


def read_file(task: Task, path: Path) -> LabelledTexts:
    """Read one file, as the task or the file's extension says.

    Raises:
        ZooError: an extension that no reader knows; a missing column, an unknown label, broken text; by line or row.
    """
    kind = f".{task.file_format}" if task.file_format else _extension(path).lower().removesuffix(".gz")
    if kind in (".tsv", ".csv"):
        return _from_table(task, path, quoted=kind == ".csv")
    if kind not in EXTENSIONS:
        raise ZooError(f"{path}: no reader knows the extension {path.suffix!r}; readable are {_READABLE}.")
    wanted = [*task.columns, task.label_column, *task.span_fields]
    fields = [str(column) for column in wanted if isinstance(column, str)]
    if len(fields) < len(wanted):
        raise ZooError(
            f"{path}: task {task.name!r} gives columns by number, which only .tsv and .csv have; name them in columns "
            "and label_column."
        )
    if kind == ".parquet":
        values: list[dict[str, Any] | None] = list(read_parquet(path, fields))
        where: Callable[[int], str] = partial("{}, row {}".format, path)
    else:
        values, where = _json(path, fields, listed=kind == ".json")
    found = _examples(task, _record_rows(task, values, where), str(path), where)
    return replace(found, spans=_spans(task, found, values, where)) if task.span_fields else found


def _spans(
    task: Task, examples: LabelledTexts, values: Sequence[dict[str, Any] | None], where: Callable[[int], str]
) -> list[RowSpans]:
    spans = []
    for place, number in enumerate(examples.numbers):
        texts = [examples.texts[place], *([] if examples.pairs is None else [examples.pairs[place]])]
        spans.append(read_row_spans(task, values[number] or {}, texts, where(number + 1)))
    return spans


def _from_table(task: Task, path: Path, quoted: bool) -> LabelledTexts:
    """Rows of a TSV or CSV."""
    if task.span_fields:
        raise ZooError(f"{path}: marks and mentions of task {task.name!r} are read from .jsonl, .json or .parquet.")
    table = list(read_table(path, quoted))
    if not table:
        raise ZooError(f"{path} is empty.")
    header, rows = (table[0][1], table[1:]) if task.header else ([], table)
    places = [_place(task, column, header, table[0][1], path) for column in (*task.columns, task.label_column)]
    cells = [tuple(row[place] for place in places) for _, row in rows]
    return _examples(task, cells, str(path), lambda number: f"{path}, line {rows[number - 1][0]}")


def _place(task: Task, column: str | int, header: list[str], first: list[str], path: Path) -> int:
    if isinstance(column, str):
        return column_place(column, header, path)
    if 0 <= column < len(first):
        return column
    raise ZooError(f"{path}: task {task.name!r} reads column {column}, but line 1 has columns 0 to {len(first) - 1}.")


def _json(path: Path, wanted: list[str], listed: bool) -> tuple[list[dict[str, Any] | None], Callable[[int], str]]:
    """One JSON object per line, blank lines passed over; or one list of objects where the file may be ``listed``."""
    lines = list(read_lines(path))
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ZooError(f"{path} is empty.")
    if listed and next(line for line in lines if line.strip()).lstrip().startswith("["):
        where = partial("{}, item {}".format, path)
        items = [
            check_record(item, where(number), wanted)
            for number, item in enumerate(parse_json("\n".join(lines), str(path)), start=1)
        ]
        for number, item in enumerate(items, start=1):
            check_surrogates([item[name] for name in wanted], where(number))
        return list(items), where
    where = partial("{}, line {}".format, path)
    return [parse_record(line, where(n), wanted) if line.strip() else None for n, line in enumerate(lines, 1)], where


def _record_rows(task: Task, values: Sequence[dict[str, Any] | None], where: Callable[[int], str]) -> list[Row | None]:
    """Texts and labels of records. A number may be a label; as a text, it is the wrong key's value."""
    columns = [str(column) for column in task.columns]
    rows: list[Row | None] = []
    for number, value in enumerate(values, start=1):
        if value is None:
            rows.append(None)
            continue
        place, label = where(number), value[str(task.label_column)]
        if not isinstance(label, str | int) or isinstance(label, bool):
            known = ", ".join([*task.labels, *task.skip_labels])
            raise ZooError(
                f"{place}: the label {task.label_column!r} is {_shown(label)}; one of these is needed: {known}."
            )
        rows.append((*(_text(value[key], key, place) for key in columns), str(label)))
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
    return _examples(task, rows, source, lambda number: f"{source}, row {number - 1}")


# ---- rows ------------------------------------------------------------------------------------------------------------


def _text(value: Any, key: str, where: str, also: tuple[type, ...] = ()) -> str:
    """A text that is to be read, and not how Python writes something else."""
    return str(value) if type(value) in also else record_text(value, key, where)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)[:80]
    except TypeError:  # a dataset's picture or date
        return f"of type {type(value).__name__}"


def _examples(task: Task, rows: Sequence[Row | None], source: str, where: Callable[[int], str]) -> LabelledTexts:
    """The labelled ones of some rows; ``where`` tells messages the place of a row, counted from 1."""
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
            raise ZooError(f"{where(number + 1)}: unknown label {row[-1]!r} for task {task.name!r}; known: {known}.")
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
