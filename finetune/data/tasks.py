"""Labelled tasks: what one is, the shipped ones (``configs/tasks``), and a user's own, all read from YAML."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml

from finetune.data.formats import RECORD_FORMATS
from finetune.data.submit import SubmitSpec, read_submit
from finetune.data.yaml_values import fits, label_text, needed
from zoo.errors import ZooError, nearest
from zoo.sample import resolve
from zoo.settings.yaml_files import shipped_configs
from zoo.storage.user_files import whole_text
from zoo.values import Count, Name, NotNegative, check_fields, check_name


class SpanMarkers(NamedTuple):
    """Tokens that stand around the spans of a field.

    Args:
        field: the row's field that holds the spans (:mod:`finetune.data.spans`).
        before: token before each; one that the tokenizer has, or a new one, which gets a row of the embedding.
        behind: token behind each.
    """

    field: str
    before: str
    behind: str


class KindSpec(NamedTuple):
    """The class that reads, trains, decodes and scores a kind of task, by its path.

    Args:
        class_path: such as ``finetune.kinds.Classification``.
        init_args: its options.
    """

    class_path: str = "finetune.kinds.Classification"
    init_args: Mapping[str, Any] = {}


CLASSIFICATION = KindSpec()

TASK_FILE = "task.json"
"""Where the folder of a fine-tuned model keeps its task."""

FORMATS = ("tsv", "csv", "jsonl", "json", "parquet")
"""How a task's files can be read; a ``.json`` holds a record a line, or one list of them."""


@dataclass(frozen=True)
class Task:
    """One labelled task: where its rows lie, what their columns mean, how predictions are scored.

    Args:
        name: what ``--tasks`` calls it.
        columns: the columns of texts: names, or numbers from 0 in a table without header; how many a task has, and what
            they hold, is its kind's to say (:mod:`finetune.kinds`).
        labels: all labels as they stand in the file, in class order; the second is the positive class of F1.
        metrics: names of the kind's metrics; the first is the primary one; empty = the kind's own.
        kind: the class of the kind of task, in YAML a class path, or ``class_path`` with ``init_args``.
        label_column: name, or number, of the label's column.
        index_column: name of the column that numbers the rows, where files of predictions repeat it.
        joiner: what stands between the items of a column that holds lists of texts; ``None`` = such a column is none.
        header: whether the first line of a TSV or CSV names the columns.
        test_columns: the columns of texts in the test file, in the order of ``columns``; empty = the same.
        test_header: whether the test file has a header; ``None`` = as ``header``.
        drop_broken_rows: leave out, and count, the rows of a TSV or CSV that have more or fewer cells than its first
            line; otherwise, and in a test file, such a row is an error.
        model_of: name of the task whose model answers this one's rows, with its labels; this one has no training rows
            then, and may lack labelled rows (``eval_files: []``).
        symmetric: the order of a pair's texts means nothing; a core that reads forward and is asked at the last token,
            as GPT is, then reads both orders.
        skip_labels: rows with these labels carry no gold answer and are dropped.
        average: metrics whose mean is the task's part of a benchmark's average; empty = the primary one.
        averaged_into: task whose part this one's is averaged into, as MNLI's mismatched rows are.
        groups: names that stand for all their tasks in ``--tasks``.
        folders: names the task's folder may have below ``--data``; it may also be ``--data`` itself.
        train_files: possible names of the training file, first found wins; one without an extension stands for the
            same name with any that is read (:data:`finetune.data.tables.EXTENSIONS`).
        eval_files: possible names of the labelled development file.
        test_files: possible names of the test file, whose rows need no labels.
        file_format: one of :data:`FORMATS`, for files whose extension says nothing, or a benchmark's own layout
            (:mod:`finetune.data.formats`); null = as each extension says.
        hub: dataset id for ``--data hub``.
        hub_config: its configuration.
        hub_columns: the text columns' names there; empty = ``columns``.
        hub_label_column: the label's column there.
        hub_labels: the labels' names there, in the order of ``labels``; empty = the same names.
        hub_train: name of the training split there.
        hub_eval: name of the labelled development split there.
        hub_test: name of the test split there.
        max_length: default input length in tokens.
        epochs: default passes over the training rows.
        marks: what stands around the spans of which fields; in YAML ``marks: {FIELD: [BEFORE, BEHIND]}``.
        mentions: further fields with spans, of which only the entities are read.
        confidence: least confidence of a linker with which a span's entity is read.
        submit: the file of predictions that its site takes, in YAML ``{format: ..., file: ..., rows: ...}``.
        licence: what is known of the licence of its rows, for ``zoo tasks``.
    """

    name: Name
    columns: tuple[str | int, ...]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    kind: KindSpec = CLASSIFICATION
    label_column: str | int = "label"
    index_column: str | None = None
    joiner: str | None = None
    header: bool = True
    test_columns: tuple[str | int, ...] = ()
    test_header: bool | None = None
    drop_broken_rows: bool = False
    model_of: str | None = None
    symmetric: bool = False
    skip_labels: tuple[str, ...] = ()
    average: tuple[str, ...] = ()
    averaged_into: str | None = None
    groups: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    train_files: tuple[str, ...] = ("train",)
    eval_files: tuple[str, ...] = ("dev",)
    test_files: tuple[str, ...] = ("test",)
    file_format: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    hub_columns: tuple[str, ...] = ()
    hub_label_column: str = "label"
    hub_labels: tuple[str, ...] = ()
    hub_train: str = "train"
    hub_eval: str = "validation"
    hub_test: str = "test"
    max_length: Count = 128
    epochs: Count = 3
    marks: tuple[SpanMarkers, ...] = ()
    mentions: tuple[str, ...] = ()
    confidence: NotNegative = 0.0
    submit: SubmitSpec | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        """Raise ZooError if the rows could not be read; what a kind needs, it checks itself."""
        check_name(self.name, "the name of a task")
        where = f"task {self.name!r}"
        check_fields(self, where)
        if not self.columns:
            raise ZooError(f"{where} names no column of texts.")
        if len(set(self.labels)) != len(self.labels):
            raise ZooError(f"{where} names a label twice: {list(self.labels)}.")
        if not (self.train_files or self.model_of) or not (self.eval_files or self.model_of):
            raise ZooError(f"{where} names no {'eval_files' if self.train_files else 'train_files'}; a name is needed.")
        known = (*FORMATS, *RECORD_FORMATS)
        if self.file_format not in (None, *known):
            raise ZooError(
                f"{where}: file_format = {self.file_format!r}; one of {', '.join(known)} is needed, or none where "
                "the files' extensions say it."
            )
        if self.hub_labels and len(self.hub_labels) != len(self.labels):
            raise ZooError(f"{where} has {len(self.labels)} labels and {len(self.hub_labels)} hub_labels.")
        for name in ("hub_columns", "test_columns"):
            if (others := getattr(self, name)) and len(others) != len(self.columns):
                raise ZooError(f"{where} has {len(self.columns)} columns and {len(others)} {name}.")
        numbers = [c for c in (*self.columns, self.label_column) if isinstance(c, int)]
        if self.symmetric and len(self.columns) != 2:
            raise ZooError(f"{where} is symmetric and has no pair of texts; leave symmetric out.")
        if not self.header and len(numbers) != len(self.columns) + 1:
            raise ZooError(f"{where}: without a header, columns and label_column are numbers counted from 0.")
        self._check_spans(where)

    def _check_spans(self, where: str) -> None:
        fields = self.span_fields
        if fields and self.hub is not None and self.file_format not in RECORD_FORMATS:
            raise ZooError(f"{where}: marks and mentions are read from files, and the task names a hub dataset.")
        twice = next((field for field in fields if fields.count(field) > 1), None)
        if twice is not None:
            raise ZooError(f"{where} names the field {twice!r} of spans more than once in marks and mentions.")
        wrong = next((token for token in self.mark_tokens if not token or token.split() != [token]), None)
        if wrong is not None:
            raise ZooError(f"{where}: {wrong!r} cannot be a mark; one token without spaces is needed, such as [HD].")

    @property
    def span_fields(self) -> tuple[str, ...]:
        """Fields that hold spans, the marked ones first."""
        return (*(mark.field for mark in self.marks), *self.mentions)

    @property
    def mark_tokens(self) -> tuple[str, ...]:
        """Tokens of all marks, each once."""
        return tuple(dict.fromkeys(token for mark in self.marks for token in (mark.before, mark.behind)))

    def as_tested(self) -> Task:
        """The task as its test file writes it: columns and header of that file, and every row of it."""
        header = self.header if self.test_header is None else self.test_header
        label = "label" if header and not self.header else self.label_column  # a number is that of another column there
        return dataclasses.replace(
            self,
            columns=self.test_columns or self.columns,
            label_column=label,
            header=header,
            test_columns=(),
            test_header=None,
            drop_broken_rows=False,
        )

    @property
    def pair(self) -> bool:
        """Whether a row of texts holds two."""
        return len(self.columns) == 2


# ---- the shipped tasks -----------------------------------------------------------------------------------------------


@functools.cache
def shipped_tasks() -> dict[str, Task]:
    """The tasks of ``configs/tasks`` by name."""
    tasks: dict[str, Task] = {}
    for path in sorted((shipped_configs() / "tasks").glob("*.yaml")):
        tasks |= read_task_file(path)
    return tasks


def without_training(task: Task) -> ZooError:
    """What is said of a task that another one's model answers, where that one is missing."""
    return ZooError(
        f"task {task.name!r} has no training rows: the model of task {task.model_of!r} answers its rows. Name both, as "
        f"in --tasks {task.model_of},{task.name}."
    )


def group_names() -> tuple[str, ...]:
    """Names of groups of shipped tasks."""
    return tuple(dict.fromkeys(group for task in shipped_tasks().values() for group in task.groups))


def tasks_named(names: str, extra: dict[str, Task] | None = None) -> list[Task]:
    """The tasks that a comma-separated list names, as they are trained.

    A task that another one's model answers stands right behind that one.

    Raises:
        ZooError: as :func:`find_tasks`; or a task without the one whose model answers its rows.
    """
    chosen = find_tasks(names, extra)
    for task in chosen.values():
        if task.model_of is not None and task.model_of not in chosen:
            raise without_training(task)
    trained = [task for task in chosen.values() if task.model_of is None]
    return [one for task in trained for one in (task, *(own for own in chosen.values() if own.model_of == task.name))]


def find_tasks(names: str, extra: dict[str, Task] | None = None) -> dict[str, Task]:
    """The tasks that a comma-separated list names, by name; a group's name stands for all its tasks.

    Raises:
        ZooError: an unknown task, with the nearest known name, or none at all.
    """
    table = {**shipped_tasks(), **(extra or {})}
    groups: dict[str, list[str]] = {}
    for task in table.values():
        for group in task.groups:
            groups.setdefault(group, []).append(task.name)
    chosen: dict[str, Task] = {}
    for name in (part.strip() for part in names.split(",")):
        for member in groups.get(name.lower(), [name]) if name else ():
            if member not in table:
                known = ", ".join([*table, *groups])
                raise ZooError(f"unknown task {member!r}.{nearest(member, [*table, *groups])} Known: {known}.")
            chosen[member] = table[member]
    if not chosen:
        raise ZooError(f"no task is named; --tasks takes a comma-separated list of: {', '.join([*table, *groups])}.")
    return chosen


# ---- tasks from YAML -------------------------------------------------------------------------------------------------


def read_task_file(path: str | Path) -> dict[str, Task]:
    """Tasks of a file: a YAML mapping of :class:`Task`'s fields, or a list of such mappings.

    Raises:
        ZooError: not YAML, an unknown field (with the nearest), or a row that cannot work.
    """
    path = Path(resolve(str(path)))
    try:
        rows = yaml.safe_load(whole_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise ZooError(f"{path} is not valid YAML: {error}") from error
    tasks = [task_of(row, path) for row in (rows if isinstance(rows, list) else [rows])]
    return {task.name: task for task in tasks}


def task_fields(task: Task) -> dict[str, Any]:
    """A task as the mapping that a YAML file of it holds, without what is as by default."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(Task):
        value = getattr(task, item.name)
        if value == item.default:
            continue
        if isinstance(value, KindSpec):
            value = {"class_path": value.class_path, "init_args": dict(value.init_args)}
            value = value if value["init_args"] else value["class_path"]
        elif isinstance(value, SubmitSpec):
            value = {name: part for name, part in value._asdict().items() if part is not None}
        elif item.name == "marks":
            value = {mark.field: [mark.before, mark.behind] for mark in value}
        found[item.name] = list(value) if isinstance(value, tuple) else value
    return found


def task_of(row: Any, path: Path) -> Task:
    """A task of the mapping that a file holds.

    Args:
        row: the mapping.
        path: the file, for messages.

    Raises:
        ZooError: as :func:`read_task_file`.
    """
    fields = {field.name: field for field in dataclasses.fields(Task)}
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    if not isinstance(row, dict):
        raise ZooError(f"{path}: a task is a mapping with at least {', '.join(required)}; found {type(row).__name__}.")
    for key in row:
        if key not in fields:
            raise ZooError(
                f"{path}: unknown field {key!r} of a task.{nearest(str(key), fields)} Known: {', '.join(fields)}."
            )
    missing = [name for name in required if name not in row]
    if missing:
        raise ZooError(f"{path}: the task lacks {', '.join(missing)}.")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    values["marks"] = _marks(row.get("marks", {}), path)
    values["submit"] = read_submit(row.get("submit"), path)
    values["kind"] = _kind(row.get("kind", CLASSIFICATION.class_path), path)
    for key, value in values.items():
        if str(fields[key].type).startswith("tuple") and not isinstance(value, tuple):  # `columns: text` = one column
            values[key] = (value,)
    for key in ("labels", "skip_labels", "hub_labels"):  # YAML reads 0 and 1 as numbers; a file holds text
        values[key] = tuple(label_text(value, path) for value in values.get(key, ()))
    hints = get_type_hints(Task)
    for key, value in values.items():
        if key not in ("kind", "submit") and not fits(hints[key], value):
            raise ZooError(f"{path}: {key} of task {row['name']!r} is {row[key]!r}; {needed(hints[key])} is needed.")
    return Task(**values)


def _kind(value: Any, path: Path) -> KindSpec:
    """A class path, or ``{class_path: ..., init_args: {...}}``."""
    if isinstance(value, str):
        return KindSpec(value)
    if isinstance(value, dict) and isinstance(value.get("class_path"), str) and value.keys() <= {*KindSpec._fields}:
        options = value.get("init_args") or {}
        if isinstance(options, dict):
            return KindSpec(value["class_path"], options)
    raise ZooError(
        f"{path}: kind is {value!r}; a class path such as finetune.kinds.Classification is needed, or a mapping of "
        "class_path and init_args."
    )


def _marks(value: Any, path: Path) -> tuple[SpanMarkers, ...]:
    """``{FIELD: [BEFORE, BEHIND]}``; an unquoted ``[HD]`` is a list of one word to YAML."""
    if not isinstance(value, dict):
        raise ZooError(f"{path}: marks is {value!r}; a mapping from fields to two tokens is needed.")
    for field, pair in value.items():
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(token, str) for token in pair):
            raise ZooError(
                f"{path}: marks of {field!r} are {pair!r}; two tokens in quotes are needed, before and behind a span, "
                'as in ["[HD]", "[HD]"].'
            )
    return tuple(SpanMarkers(str(field), *pair) for field, pair in value.items())
