"""A task's examples, from files or the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.examples import TaskExamples, TaskSplits
from finetune.data.submit import COUNTED_FORMATS
from finetune.data.tables import READABLE, Column, TaskTable, extension_of, hub_rows, read_rows, shown
from finetune.data.tasks import Task, group_names, without_training
from finetune.kinds.base import TaskKind, open_kind
from zoo.errors import ZooError, nearest
from zoo.sample import resolve
from zoo.storage.files import hub_answers, hub_problem
from zoo.storage.user_files import unreadable

HUB = "hub"


def load_task(task: Task, data: str | Path, limit: int | None = None) -> TaskSplits[Any]:
    """Read a task's training and development examples.

    Args:
        task: what to read.
        data: ``hub``, or a folder: the task's own, or one that holds it (``CoLA`` in ``glue_data``).
        limit: keep at most so many examples of each part.

    Raises:
        ZooError: a missing file or column, an unknown label, broken text, no rows; by file and line.
    """
    if limit is not None and limit < 1:
        raise ZooError(f"limit is {limit}; at least 1 row is needed, or leave it out for all rows.")
    if task.model_of is not None:
        raise without_training(task)
    kind = open_kind(task)
    if str(data) == HUB:
        parts = [_of_hub(task, kind, split) for split in (task.hub_train, task.hub_eval)]
    else:
        parts = [_of_file(task, kind, path) for path in find_files(task, Path(resolve(data)))]
    return TaskSplits(*(part.limited(limit) for part in parts))


def load_evaluation(task: Task, data: str | Path) -> TaskExamples | None:
    """Read the development examples of a task that another one's model answers; ``None`` where it has none.

    Args:
        task: what to read.
        data: as in :func:`load_task`.

    Raises:
        ZooError: as :func:`load_task`.
    """
    if not task.eval_files:
        return None
    kind = open_kind(task)
    if str(data) == HUB:
        return _of_hub(task, kind, task.hub_eval)
    return _of_file(task, kind, _find(task, Path(resolve(data)), [task.eval_files])[1][0])


def load_answered(task: Task, data: str | Path, train: Any) -> TaskSplits[Any]:
    """The splits of a task that another one's model answers; its development rows are none where it has none.

    Args:
        task: what to read.
        data: as in :func:`load_task`.
        train: the examples that the model is trained on.

    Raises:
        ZooError: as :func:`load_task`.
    """
    found = load_evaluation(task, data)
    return TaskSplits(train, train.chosen(np.zeros(0, np.int64)) if found is None else found)


def load_test(task: Task, data: str | Path) -> TaskExamples:
    """Read a task's test examples, which need no gold answers.

    Args:
        task: what to read.
        data: as in :func:`load_task`.

    Raises:
        ZooError: as :func:`load_task`; there is no test file, or its rows are not numbered in their order.
    """
    kind = open_kind(task)
    if str(data) == HUB:
        return _of_hub(task, kind, task.hub_test, labelled=False)
    roles = [task.test_files] if task.model_of else [task.train_files, task.eval_files]
    folder, _ = _find(task, Path(resolve(data)), roles)
    path = _first_file(task.test_files, folder)
    if path is None:
        wanted = " or ".join(task.test_files)
        raise ZooError(f"task {task.name!r}: {folder} has no test file {wanted} that is read ({READABLE}).")
    return _of_file(task.as_tested(), kind, path, labelled=False)


def read_parts(task: Task, data: str | Path, own: bool) -> tuple[dict[str, TaskExamples], list[str]]:
    """What is there of a task's rows.

    Args:
        task: whose.
        data: as in :func:`load_task`.
        own: whether the folder itself may be the task's; else only those below it that are called so.

    Returns:
        Examples of ``train``, ``dev`` and ``test``, as far as they are there and can be read; and what is wrong with
        others.

    Raises:
        ZooError: the folder is none.
    """
    kind, found, problems = open_kind(task), dict[str, TaskExamples](), list[str]()
    readers: dict[str, Callable[[], TaskExamples]] = {}
    if str(data) == HUB:
        splits = {"train": task.hub_train, "dev": task.hub_eval, "test": task.hub_test} if task.hub else {}
        if task.model_of:
            splits.pop("train", None)
        readers = {part: partial(_of_hub, task, kind, split, part != "test") for part, split in splits.items()}
    else:
        for part, path in _files_there(task, Path(resolve(data)), own).items():
            tested = part == "test"
            readers[part] = partial(_of_file, task.as_tested() if tested else task, kind, path, not tested)
    for part, read in readers.items():
        try:
            found[part] = read()
        except ZooError as error:
            if str(data) != HUB or part != "test":  # few hub data sets have one
                problems.append(str(error))
    return found, list(dict.fromkeys(problems))


def read_file(task: Task, path: Path) -> Any:
    """The examples of one labelled file.

    Raises:
        ZooError: as :func:`load_task`.
    """
    return _of_file(task, open_kind(task), path)


def read_asked(task: Task, path: Path) -> Any:
    """The examples of a file that a model is asked about; gold answers, where it has any, are not read.

    Raises:
        ZooError: as :func:`load_task`.
    """
    kind = open_kind(task)
    index = () if task.index_column is None else (task.index_column,)
    return examples_of(task, kind, read_rows(task, path, kind.columns(task), index), labelled=False)


def _of_file(task: Task, kind: TaskKind[Any], path: Path, labelled: bool = True) -> TaskExamples:
    return examples_of(task, kind, read_rows(task, path, *_columns(task, kind, labelled)), labelled)


def _columns(task: Task, kind: TaskKind[Any], labelled: bool) -> tuple[list[Column], list[Column]]:
    """Columns that a table must have, and those that are read where it has them."""
    needed, gold = kind.columns(task), kind.label_columns(task)
    index = () if task.index_column is None else (task.index_column,)
    also = (*index, *kind.optional_columns(task))
    return [*needed, *(gold if labelled else ())], [*also, *(() if labelled else gold)]


def _check_numbering(task: Task, table: TaskTable) -> None:
    """Raise ZooError if the column by which files of predictions name rows names one twice, or miscounts them."""
    column = task.index_column
    counted = task.submit is not None and task.submit.format in COUNTED_FORMATS
    places: dict[str, int] = {}
    for row, cell in enumerate([] if column is None else table.columns.get(column, [])):
        first = places.setdefault(str(cell), row)
        if first != row:
            raise ZooError(f"{table.place(row)}: {column!r} is {shown(cell)}, as in {table.place(first)}.")
        if counted and str(cell) != str(row):
            raise ZooError(
                f"{table.place(row)}: {column!r} is {shown(cell)}, and this is row {row}, counted from 0. The site of "
                f"task {task.name!r} takes predictions in the order of the official file."
            )


def _said(cells: Sequence[Any]) -> bool:
    """Whether the hub's cells of a gold column say anything: test splits hold -1, or nothing."""
    return not all(cell is None or (isinstance(cell, int | float) and cell < 0) for cell in cells)


def examples_of(task: Task, kind: TaskKind[Any], table: TaskTable, labelled: bool) -> TaskExamples:
    """The examples of a table.

    Args:
        task: says which columns.
        kind: its own.
        table: the rows.
        labelled: gold answers are needed.

    Raises:
        ZooError: as :func:`load_task`.
    """
    if not labelled:
        _check_numbering(task, table)
    if task.joiner is not None:
        table = table.joined(task.columns, task.joiner)
    found: TaskExamples = kind.read(task, table, labelled)
    return replace(found, broken=table.broken) if table.broken else found


# ---- files -----------------------------------------------------------------------------------------------------------


def find_files(task: Task, data: Path) -> tuple[Path, Path]:
    """The task's training and development file below ``data``."""
    train, evaluation = _find(task, data, [task.train_files, task.eval_files])[1]
    return train, evaluation


def _files_there(task: Task, data: Path, own: bool) -> dict[str, Path]:
    """The files of the first folder that may be the task's and has any of them."""
    roles = {"train": () if task.model_of else task.train_files, "dev": task.eval_files, "test": task.test_files}
    for folder in _folders(task, data):
        if folder == data and not own:
            continue
        files = {part: _first_file(names, folder) for part, names in roles.items()}
        if found := {part: path for part, path in files.items() if path is not None}:
            return found
    return {}


def _folders(task: Task, data: Path) -> list[Path]:
    """Folders in which a task's files may lie, in the order in which they are looked for."""
    if not data.is_dir():
        raise ZooError(f"--data {data} is not a folder; give a folder of task files, or `hub`.")
    groups = ("", *group_names(), *task.groups)
    return [*(data / group / name for group in groups for name in _names(task)), data]


def _names(task: Task) -> list[str]:
    """Names that a task's folder may have."""
    return list(dict.fromkeys((*task.folders, task.name)))


def _find(task: Task, data: Path, roles: Sequence[Sequence[str]]) -> tuple[Path, list[Path]]:
    """The folder that has a file of each role, by the names that it may have there, and these files."""
    wanted = [" or ".join(name if extension_of(Path(name)) else f"{name}.*" for name in role) for role in roles]
    for folder in _folders(task, data):
        files = [_first_file(role, folder) for role in roles]
        found = [file for file in files if file is not None]
        if len(found) == len(roles):
            return folder, found
        if found and folder != data:
            missing = next(one for one, file in zip(wanted, files, strict=True) if file is None)
            raise ZooError(f"task {task.name!r}: {folder} has {found[0]} but no {missing} that is read ({READABLE}).")
    raise ZooError(
        f"task {task.name!r}: no {' with '.join(wanted)} that is read ({READABLE}) in {data} or in its folders "
        f"{', '.join(_names(task))}. Give the folder that holds them with --data, or `--data hub`."
    )


def _first_file(names: Sequence[str], folder: Path) -> Path | None:
    """The first of these files that a folder has; ZooError where two have one name and different extensions."""
    for name in names:
        path = folder / name
        if path.is_file():
            return path
        if extension_of(path):
            continue
        try:
            beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        except OSError as error:
            raise unreadable(path.parent, error) from error
        found = [p for p in beside if p.name == path.name + (extension_of(p) or "/") and p.is_file()]
        if len(found) > 1:
            both = " and ".join(p.name for p in found)
            raise ZooError(f"{path.parent} has {both}; keep one, or name it in the task's train_files or eval_files.")
        if found:
            return found[0]
    return None


# ---- the hub ---------------------------------------------------------------------------------------------------------


def _of_hub(task: Task, kind: TaskKind[Any], split: str, labelled: bool = True) -> TaskExamples:
    """A split from the ``datasets`` hub, or its cache."""
    if task.hub is None:
        raise ZooError(f"task {task.name!r} names no hub dataset; give its folder with --data.")
    source = task.hub if task.hub_config is None else f"{task.hub}/{task.hub_config}"
    try:
        import datasets

        hub_answers()
        found = datasets.load_dataset(task.hub, task.hub_config)
    except Exception as error:  # the library raises many kinds, for a missing network as for a wrong name
        raise ZooError(
            f"task {task.name!r}: could not load {source} from the hub ({hub_problem(error)}). "
            "With a local copy, give --data FOLDER."
        ) from error
    if split not in found:
        raise ZooError(f"{source} has no split {split!r}.{nearest(split, found)}")
    return from_dataset(task, found[split], f"{source}:{split}", labelled)


def from_dataset(task: Task, dataset: Any, source: str, labelled: bool = True) -> Any:
    """The examples of a ``datasets.Dataset``: labels are class numbers with names, or the labels themselves.

    Args:
        task: what the rows are of.
        dataset: the rows.
        source: what they are, for messages.
        labelled: gold answers are needed.

    Raises:
        ZooError: a missing column, or label names that are not this task's (their order would be a guess).
    """
    kind = open_kind(task)
    table = hub_rows(task, dataset, source, *_columns(task, kind, labelled))
    if not labelled:
        gold = kind.label_columns(task)
        table = replace(
            table, columns={name: cells for name, cells in table.columns.items() if name not in gold or _said(cells)}
        )
    return examples_of(task, kind, table, labelled)
