"""Tables of a task's rows by column, read from files and from data sets of the hub."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.formats import RECORD_FORMATS
from finetune.data.tasks import FORMATS, Task
from zoo.errors import ZooError, nearest
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
)

EXTENSIONS = tuple(f".{one}" for one in FORMATS)
"""What says how a file is read; all but Parquet also with ``.gz`` behind."""

READABLE = ".tsv, .csv, .jsonl and .json, each also with .gz, and .parquet"

Column = str | int


@dataclass(frozen=True)
class TaskTable:
    """N rows of one source.

    Args:
        columns: (N,) cells of each column that is read, by its name or its number.
        numbers: (N,) int64 row numbers in the source, counted from 0 without the header.
        where: tells messages the place of a row, by its number.
        source: where the rows come from.
        broken: rows that were left out since their cells are not those of the columns.
        numbers_are_text: a number in a column of texts is meant as it is written (a CSV read by another library).
    """

    columns: dict[Column, list[Any]]
    numbers: NDArray[np.int64]
    where: Callable[[int], str]
    source: str
    numbers_are_text: bool = False
    broken: int = 0

    def __len__(self) -> int:
        """Rows."""
        return len(self.numbers)

    def place(self, row: int) -> str:
        """Where a row of this table stands in its source."""
        return self.where(int(self.numbers[row]))

    def texts(self, column: Column) -> list[str]:
        """(N,) a column's texts.

        Raises:
            ZooError: a cell that is no text; by line.
        """
        also = (int, float) if self.numbers_are_text else ()
        cells = self.columns[column]
        if all(type(cell) is str for cell in cells):
            return cells
        return [
            str(cell) if type(cell) in also else record_text(cell, str(column), self.place(row))
            for row, cell in enumerate(cells)
        ]

    def joined(self, columns: Sequence[Column], joiner: str) -> TaskTable:
        """The table with a text in the place of each list of texts in some columns; other cells stay as they are."""

        def text(cell: Any) -> Any:
            items = list(cell) if isinstance(cell, list | tuple | np.ndarray) else None
            return cell if items is None or not all(type(item) is str for item in items) else joiner.join(items)

        changed: dict[Column, list[Any]] = {column: [text(cell) for cell in self.columns[column]] for column in columns}
        return replace(self, columns={**self.columns, **changed})

    def lists(self, column: Column) -> list[list[Any]]:
        """(N,) a column's lists; text in their place is read as JSON, as a cell of a TSV has it.

        Raises:
            ZooError: a cell that is no list; by line.
        """
        found: list[list[Any]] = []
        for row, cell in enumerate(self.columns[column]):
            place = self.place(row)
            value = cell
            if isinstance(cell, str) and cell.lstrip().startswith("["):
                value = parse_json(cell, place)
            elif isinstance(cell, np.ndarray):
                value = cell.tolist()
            if not isinstance(value, list):
                raise ZooError(f"{place}: {str(column)!r} is {shown(cell)}; a list is needed.")
            found.append(value)
        return found

    def check_texts(self, columns: Sequence[Column], rows: Sequence[int], name: str) -> None:
        """Raise ZooError if a column of texts is empty in all of some rows."""
        for column in columns:
            cells = self.columns[column]
            if not any(str(cells[row]).strip() for row in rows):
                named = f"column {column}" if isinstance(column, int) else repr(column)
                raise ZooError(
                    f"{self.source}: the texts of {named} are all empty ({len(rows):,} rows); check the columns of "
                    f"task {name!r}."
                )


def shown(value: Any) -> str:
    """A value for a message."""
    try:
        return json.dumps(value, ensure_ascii=False)[:80]
    except TypeError:  # a dataset's picture or date
        return f"of type {type(value).__name__}"


def extension_of(path: Path) -> str:
    """The end of a file's name that says how it is read, as it stands there; none for a file that is not read."""
    end = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    known = (*EXTENSIONS, *(f"{one}.gz" for one in EXTENSIONS if one != ".parquet"))
    return end if end.lower() in known else ""


# ---- files -----------------------------------------------------------------------------------------------------------


def read_rows(task: Task, path: Path, columns: Sequence[Column], optional: Sequence[Column] = ()) -> TaskTable:
    """Read one file, as the task or the file's extension says.

    Args:
        task: says how.
        path: the file.
        columns: that it must have.
        optional: read where the file has them.

    Raises:
        ZooError: an extension that no reader knows, a missing column, broken text, no rows; by line or row.
    """
    if task.file_format in RECORD_FORMATS:
        return _of_records(RECORD_FORMATS[task.file_format].read(path), columns, optional, str(path))
    kind = f".{task.file_format}" if task.file_format else extension_of(path).lower().removesuffix(".gz")
    if kind in (".tsv", ".csv"):
        return _of_cells(task, path, columns, optional, quoted=kind == ".csv")
    if kind not in EXTENSIONS:
        raise ZooError(f"{path}: no reader knows the extension {path.suffix!r}; readable are {READABLE}.")
    fields = [str(column) for column in columns if isinstance(column, str)]
    if len(fields) < len(columns):
        raise ZooError(
            f"{path}: task {task.name!r} gives columns by number, which only .tsv and .csv have; name them in columns "
            "and label_column."
        )
    if kind == ".parquet":
        values: Iterable[tuple[int, dict[str, Any]]] = enumerate(read_parquet(path, fields, map(str, optional)))
        where: Callable[[int], str] = partial(_counted, path, "row")
    else:
        values, where = _json(path, fields, listed=kind == ".json")
    numbers = list[int]()

    def records() -> Iterator[dict[str, Any]]:
        for number, record in values:
            numbers.append(number)
            yield record

    return TaskTable(_gathered(records(), columns, optional), np.array(numbers, np.int64), where, str(path))


def _gathered(
    records: Iterable[dict[str, Any]], columns: Sequence[Column], optional: Sequence[Column]
) -> dict[Column, list[Any]]:
    """Columns of records, which are let go one by one; an optional column is there where all records have it."""
    needed: dict[Column, list[Any]] = {name: [] for name in columns}
    more: dict[Column, list[Any]] = {name: [] for name in optional if name not in needed}
    for record in records:
        for name, cells in needed.items():
            cells.append(record[str(name)])
        for name in list(more):
            if name in record:
                more[name].append(record[str(name)])
            else:
                del more[name]
    return needed | {name: cells for name, cells in more.items() if cells}


def _of_records(
    found: Iterable[tuple[str, dict[str, Any]]], columns: Sequence[Column], optional: Sequence[Column], source: str
) -> TaskTable:
    """Rows of a format of its own: a place and a record each."""
    places, wanted = list[str](), [str(column) for column in columns]

    def records() -> Iterator[dict[str, Any]]:
        for place, record in found:
            places.append(place)
            yield check_record(record, place, wanted)

    cells = _gathered(records(), columns, optional)
    if not places:
        raise ZooError(f"{source} has no rows.")
    return TaskTable(cells, np.arange(len(places), dtype=np.int64), places.__getitem__, source)


def _of_cells(task: Task, path: Path, columns: Sequence[Column], optional: Sequence[Column], quoted: bool) -> TaskTable:
    """Rows of a TSV or CSV; of each row no more than these columns is kept."""
    if task.span_fields:
        raise ZooError(f"{path}: marks and mentions of task {task.name!r} are read from .jsonl, .json or .parquet.")
    table = read_table(path, quoted, even=not task.drop_broken_rows)
    first = next(table, None)
    if first is None:
        raise ZooError(f"{path} is empty.")
    header, width = first[1] if task.header else [], len(first[1])
    present = [*columns, *(c for c in optional if (c in header if isinstance(c, str) else c < width))]
    places = {column: _place(task, column, header, first[1], path) for column in present}
    cells: dict[Column, list[Any]] = {column: [] for column in places}
    lines, kept = list[int](), list[int]()
    for number, (line, row) in enumerate(table if task.header else itertools.chain([first], table)):
        lines.append(line)
        if len(row) == width:
            kept.append(number)
            for column, place in places.items():
                cells[column].append(row[place])
    at = np.array(lines, np.int64)
    return TaskTable(
        cells,
        np.array(kept, np.int64),
        lambda number: f"{path}, line {at[number]}",
        str(path),
        broken=len(lines) - len(kept),
    )


def _place(task: Task, column: Column, header: list[str], first: list[str], path: Path) -> int:
    if isinstance(column, str):
        return column_place(column, header, path)
    if 0 <= column < len(first):
        return column
    raise ZooError(f"{path}: task {task.name!r} reads column {column}, but line 1 has columns 0 to {len(first) - 1}.")


def _json(
    path: Path, wanted: list[str], listed: bool
) -> tuple[Iterable[tuple[int, dict[str, Any]]], Callable[[int], str]]:
    """Number and object of each line that is not blank; or of one list of objects where the file may be ``listed``."""
    lines, blank = read_lines(path), list[str]()
    for line in lines:
        blank.append(line)
        if line.strip():
            break
    else:
        raise ZooError(f"{path} is empty.")
    every = itertools.chain(blank, lines)
    if listed and blank[-1].lstrip().startswith("["):
        items = [
            check_record(item, f"{path}, item {number}", wanted)
            for number, item in enumerate(parse_json("\n".join(every), str(path)), start=1)
        ]
        for number, item in enumerate(items, start=1):
            check_surrogates([item[name] for name in wanted], f"{path}, item {number}")
        return enumerate(items), partial(_counted, path, "item")
    where = partial(_counted, path, "line")
    return ((n, parse_record(line, where(n), wanted)) for n, line in enumerate(every) if line.strip()), where


def _counted(path: Path, what: str, number: int) -> str:
    """The place of a row, counted from 1 for people."""
    return f"{path}, {what} {number + 1}"


# ---- the hub ---------------------------------------------------------------------------------------------------------


def hub_rows(
    task: Task, dataset: Any, source: str, columns: Sequence[Column], optional: Sequence[Column] = ()
) -> TaskTable:
    """A ``datasets.Dataset`` as a table; numbers of classes become their names, those below 0 nothing.

    Args:
        task: says what the data set calls the columns and the labels.
        dataset: rows.
        source: what they are, for messages.
        columns: the task's columns that it must have.
        optional: read where it has them.

    Raises:
        ZooError: a missing column, or label names that are not this task's (their order would be a guess).
    """
    reader = RECORD_FORMATS.get(task.file_format or "")
    if reader is not None and reader.hub is not None:
        made = (
            (f"{source}, row {number}", record)
            for number, row in enumerate(dataset)
            for record in reader.hub(_named_classes(task, row, dataset.features, source))
        )
        return _of_records(made, columns, optional, source)
    theirs: dict[Column, str] = dict(zip(task.columns, task.hub_columns or map(str, task.columns), strict=True))
    theirs[task.label_column] = task.hub_label_column
    cells: dict[Column, list[Any]] = {}
    for column in (*columns, *optional):
        name = theirs.get(column, str(column))
        if name not in dataset.column_names:
            if column in optional:
                continue
            raise ZooError(f"{source}: no column {name!r}.{nearest(name, dataset.column_names)}")
        cells[column] = _decoded(task, list(dataset[name]), dataset.features[name], source)
    numbers = np.arange(len(dataset), dtype=np.int64)
    return TaskTable(cells, numbers, lambda number: f"{source}, row {number}", source, numbers_are_text=True)


def _named_classes(task: Task, row: dict[str, Any], features: Any, source: str) -> dict[str, Any]:
    return {name: _decoded(task, [value], features[name], source)[0] for name, value in row.items()}


def _decoded(task: Task, cells: list[Any], feature: Any, source: str) -> list[Any]:
    """Cells of classes, or of lists of classes, as the task's labels; others as they are."""
    inner = getattr(feature, "feature", None)
    names = getattr(feature, "names", None) or getattr(inner, "names", None)
    if names is None:
        return cells
    wanted = dict(zip(task.hub_labels or task.labels, task.labels, strict=True))
    here = wanted | dict(zip(task.labels, task.labels, strict=True))
    if task.labels and not _covers(names, [*here, *task.skip_labels]):
        raise ZooError(f"{source}: label names {names} are not those of task {task.name!r}: {list(here)}.")

    def name(value: Any) -> str | None:
        return None if value is None or value < 0 else here.get(names[value], names[value])

    if inner is None:
        return [name(value) for value in cells]
    return [[name(value) for value in cell] for cell in cells]


def _covers(names: Iterable[str], known: list[str]) -> bool:
    """Whether labels are known, tags of entities (``B-PER``) by what follows their prefix."""
    return all(name in known or name == "O" or name.partition("-")[2] in known for name in names)
