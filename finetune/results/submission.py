"""Files of predictions as the benchmarks' sites take them; docs/tasks.md has their forms and sources."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.examples import TaskExamples
from finetune.data.submit import COUNTED_FORMATS
from finetune.data.tasks import Task
from zoo.errors import ZooError
from zoo.storage.files import replaced_file, write_atomic

TEST = "test"
"""Folder of one task and seed in which predictions of test rows lie."""

Values = Sequence[tuple[str, Any]]
"""Id and prediction of each row, in the order of the test file."""

_OLDEST = (1980, 1, 1, 0, 0, 0)  # a date that every zip can hold, so that the same files make the same zip


def _table(values: Values) -> str:
    return "".join(f"{name}\t{value}\n" for name, value in (("index", "prediction"), *values))


def _lines(key: str) -> Callable[[Values], str]:
    return lambda values: "".join(_json({key: _id(name), "label": value}) + "\n" for name, value in values)


def _rows(values: Values) -> str:
    return "".join(_json({"id": _id(name), **value}) + "\n" for name, value in values)


def _object(values: Values) -> str:
    return _json(dict(values)) + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _id(name: str) -> int | str:
    """An id as a row of JSON has it: a number where it is one."""
    return int(name) if name.isdecimal() and str(int(name)) == name else name


_WRITERS: Mapping[str, Callable[[Values], str]] = {
    "glue": _table,
    "superglue": _lines("idx"),
    "clue": _lines("id"),
    "clue_rows": _rows,
    "object": _object,
}


def check_test_rows(task: Task, examples: TaskExamples) -> None:
    """Raise ZooError unless a test file has as many rows as the benchmark's, whose site takes no other number."""
    needed = None if task.submit is None else task.submit.rows
    if needed is not None and len(examples) != needed:
        raise ZooError(
            f"{examples.source} has {len(examples):,} rows, and the test file of task {task.name!r} {needed:,}; the "
            "site takes predictions of the whole file only. Give the official file, or leave --predict test out."
        )


def write_submission(folder: Path, task: Task, examples: TaskExamples, values: Values) -> Path | None:
    """Write a task's file of predictions under the name that its site asks for; ``None`` for a task without a site.

    Args:
        folder: where it goes.
        task: says name and form.
        examples: the test rows.
        values: what its kind predicts for them.

    Raises:
        ZooError: another number of predictions than of rows, ids that are not the rows', or a prediction that is none
            of the task's labels; nothing is written then.
    """
    if task.submit is None:
        return None
    _check(task, examples, values)
    path = folder / task.submit.file
    write_atomic(path, _WRITERS[task.submit.format](values))
    return path


def _check(task: Task, examples: TaskExamples, values: Values) -> None:
    assert task.submit is not None
    where = f"predictions of task {task.name!r}"
    if not values:
        raise ZooError(f"{where}: there are none.")
    seen = set[str]()
    for place, (name, _) in enumerate(values):
        if name in seen:
            raise ZooError(f"{where}: the id {name!r} stands there twice, as row {place} and before.")
        if task.submit.format in COUNTED_FORMATS and name != str(place):
            raise ZooError(f"{where}: row {place} has the id {name!r}; rows are counted from 0 in their order.")
        seen.add(name)
    if task.submit.format == "object":
        return
    if len(values) != len(examples):
        raise ZooError(f"{where}: {len(values):,} for {len(examples):,} rows of {examples.source}.")
    for place, (_, value) in enumerate(values):
        if (task.labels and isinstance(value, str) and value not in task.labels) or not _is_finite(value):
            raise ZooError(f"{where}: row {place} has {value!r}, none of {list(task.labels) or 'all numbers'}.")


def _is_finite(value: Any) -> bool:
    """False for what is no number though it is written as one."""
    return not isinstance(value, float) or math.isfinite(value)


def zip_submissions(output: Path, tasks: Sequence[Task], named: Sequence[Task], seed: int) -> list[Path]:
    """A zip for each group of tasks of which every member's file is there, ``OUTPUT/submission-GROUP-seed-N.zip``.

    Args:
        output: holds ``TASK/seed-N/test``.
        tasks: every task that is known.
        named: those that were asked for; their groups are looked at.
        seed: of the models that predicted.
    """
    made = []
    for group in dict.fromkeys(group for task in named for group in task.groups):
        members = [task for task in tasks if group in task.groups]
        files = [
            output / task.name / f"seed-{seed}" / TEST / task.submit.file for task in members if task.submit is not None
        ]
        if len(files) == len(members) and all(file.is_file() for file in files):
            made.append(output / f"submission-{group}-seed-{seed}.zip")
            write_zip(made[-1], files)
    return made


def write_zip(path: Path, files: Sequence[Path]) -> None:
    """A zip of files without folders, the same for the same files.

    Raises:
        ZooError: two files of one name.
    """
    names = [file.name for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ZooError(f"{path} would hold {twice} twice; give each task's `submit` a file of its own.")
    with replaced_file(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(file.name, _OLDEST), file.read_bytes(), zipfile.ZIP_DEFLATED)
