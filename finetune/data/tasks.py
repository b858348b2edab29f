"""Labelled tasks: what one is, the shipped ones of GLUE and CLUE, and a user's own, read from YAML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from finetune.metrics import METRICS
from zoo.errors import ZooError, nearest
from zoo.sample import resolve
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


FORMATS = ("tsv", "csv", "jsonl", "json", "parquet")
"""How a task's files can be read; a ``.json`` holds a record a line, or one list of them."""


@dataclass(frozen=True)
class Task:
    """One labelled task: where its rows lie, what their columns mean, how predictions are scored.

    Args:
        name: what ``--tasks`` calls it.
        columns: the text columns, one (single texts) or two (pairs): names, or numbers from 0 in a table
            without header.
        labels: all labels as they stand in the file, in class order; the second is the positive class of F1.
        metrics: names in :data:`finetune.metrics.METRICS`; the first is the primary one.
        label_column: name, or number, of the label's column.
        header: whether the first line of a TSV or CSV names the columns.
        skip_labels: rows with these labels carry no gold answer and are dropped.
        folders: names the task's folder may have below ``--data``; it may also be ``--data`` itself.
        train_files: possible names of the training file, first found wins; one without an extension stands for the
            same name with any that is read (:data:`finetune.data.load.EXTENSIONS`).
        eval_files: possible names of the labelled development file.
        file_format: one of :data:`FORMATS`, for files whose extension says nothing; null = as each extension says.
        hub: dataset id for ``--data hub``.
        hub_config: its configuration.
        hub_columns: the text columns' names there; empty = ``columns``.
        hub_labels: the labels' names there, in the order of ``labels``; empty = the same names.
        hub_eval: name of the labelled development split there.
        max_length: default input length in tokens.
        epochs: default passes over the training rows.
        marks: what stands around the spans of which fields; in YAML ``marks: {FIELD: [BEFORE, BEHIND]}``.
        mentions: further fields with spans, of which only the entities are read.
        confidence: least confidence of a linker with which a span's entity is read.
    """

    name: Name
    columns: tuple[str | int, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    label_column: str | int = "label"
    header: bool = True
    skip_labels: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    train_files: tuple[str, ...] = ("train",)
    eval_files: tuple[str, ...] = ("dev",)
    file_format: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    hub_columns: tuple[str, ...] = ()
    hub_labels: tuple[str, ...] = ()
    hub_eval: str = "validation"
    max_length: Count = 128
    epochs: Count = 3
    marks: tuple[SpanMarkers, ...] = ()
    mentions: tuple[str, ...] = ()
    confidence: NotNegative = 0.0

    def __post_init__(self) -> None:
        """Raise ZooError if the rows could not be read or scored."""
        check_name(self.name, "the name of a task")
        where = f"task {self.name!r}"
        check_fields(self, where)
        if len(self.columns) not in (1, 2):
            raise ZooError(f"{where} names {len(self.columns)} text columns; one (single) or two (pair) are needed.")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ZooError(f"{where} needs at least two different labels, found {list(self.labels)}.")
        if not self.train_files or not self.eval_files:
            raise ZooError(f"{where} names no {'eval_files' if self.train_files else 'train_files'}; a name is needed.")
        if self.file_format not in (None, *FORMATS):
            raise ZooError(
                f"{where}: file_format = {self.file_format!r}; one of {', '.join(FORMATS)} is needed, or none where "
                "the files' extensions say it."
            )
        for metric in self.metrics:
            if metric not in METRICS:
                raise ZooError(
                    f"{where}: unknown metric {metric!r}.{nearest(metric, METRICS)} Known: {', '.join(METRICS)}."
                )
        if not self.metrics:
            raise ZooError(f"{where} names no metric; known: {', '.join(METRICS)}.")
        if "f1" in self.metrics and len(self.labels) != 2:
            raise ZooError(f"{where}: f1 is defined for two labels, not {len(self.labels)}; macro_f1 would work.")
        numbers = [c for c in (*self.columns, self.label_column) if isinstance(c, int)]
        if not self.header and len(numbers) != len(self.columns) + 1:
            raise ZooError(f"{where}: without a header, columns and label_column are numbers counted from 0.")
        self._check_spans(where)

    def _check_spans(self, where: str) -> None:
        fields = self.span_fields
        if fields and self.hub is not None:
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

    @property
    def pair(self) -> bool:
        """Whether a row holds two texts."""
        return len(self.columns) == 2


# ---- the shipped tasks -----------------------------------------------------------------------------------------------

GLUE_HUB = "nyu-mll/glue"

CLUE_HUB = "clue/clue"

_ENTAILMENT = ("entailment", "not_entailment")

_NLI = ("entailment", "neutral", "contradiction")

_TNEWS = ("100", "101", "102", "103", "104", "106", "107", "108", "109", "110", "112", "113", "114", "115", "116")


def _glue(name: str, columns: tuple[str | int, ...], labels: tuple[str, ...], **more: Any) -> Task:
    return Task(name=name, columns=columns, labels=labels, hub=GLUE_HUB, hub_config=name, **more)


def _clue(name: str, columns: tuple[str, ...], labels: tuple[str, ...], **more: Any) -> Task:
    return Task(
        name=name,
        columns=columns,
        labels=labels,
        hub=CLUE_HUB,
        hub_config=name,
        **more,
    )


GLUE = (
    _glue(
        "cola",
        (3,),
        ("0", "1"),
        label_column=1,
        header=False,
        metrics=("matthews",),
        folders=("CoLA", "cola"),
        hub_columns=("sentence",),
        hub_labels=("unacceptable", "acceptable"),
    ),
    _glue("sst2", ("sentence",), ("0", "1"), folders=("SST-2", "sst2", "SST2"), hub_labels=("negative", "positive")),
    _glue(
        "mrpc",
        ("#1 String", "#2 String"),
        ("0", "1"),
        label_column="Quality",
        metrics=("f1", "accuracy"),
        folders=("MRPC", "mrpc"),
        hub_columns=("sentence1", "sentence2"),
        hub_labels=("not_equivalent", "equivalent"),
    ),
    _glue("rte", ("sentence1", "sentence2"), _ENTAILMENT, folders=("RTE", "rte")),
    _glue("qnli", ("question", "sentence"), _ENTAILMENT, folders=("QNLI", "qnli")),
    _glue(
        "mnli",
        ("sentence1", "sentence2"),
        _NLI,
        label_column="gold_label",
        skip_labels=("-",),
        folders=("MNLI", "mnli"),
        eval_files=("dev_matched",),
        hub_columns=("premise", "hypothesis"),
        hub_eval="validation_matched",
    ),
)

CLUE = (
    _clue(
        "ocnli",
        ("sentence1", "sentence2"),
        _NLI,
        skip_labels=("-",),
        folders=("ocnli", "OCNLI", "ocnli_public"),
        train_files=("train.50k", "train.30k", "train.10k", "train"),
    ),
    _clue("afqmc", ("sentence1", "sentence2"), ("0", "1"), folders=("afqmc", "AFQMC", "afqmc_public")),
    _clue("tnews", ("sentence",), _TNEWS, folders=("tnews", "TNEWS", "tnews_public")),
)

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, *CLUE)}

GROUPS: dict[str, tuple[str, ...]] = {
    "glue": tuple(task.name for task in GLUE),
    "clue": tuple(task.name for task in CLUE),
}


def tasks_named(names: str, extra: dict[str, Task] | None = None) -> list[Task]:
    """The tasks that a comma-separated list names; a group's name stands for all its tasks.

    Raises:
        ZooError: an unknown task, with the nearest known name, or none at all.
    """
    table = {**TASKS, **(extra or {})}
    chosen: dict[str, Task] = {}
    for name in (part.strip() for part in names.split(",")):
        for member in GROUPS.get(name.lower(), (name,)) if name else ():
            if member not in table:
                known = ", ".join([*table, *GROUPS])
                raise ZooError(f"unknown task {member!r}.{nearest(member, [*table, *GROUPS])} Known: {known}.")
            chosen[member] = table[member]
    if not chosen:
        raise ZooError(f"no task is named; --tasks takes a comma-separated list of: {', '.join([*table, *GROUPS])}.")
    return list(chosen.values())


# ---- a user's own tasks ----------------------------------------------------------------------------------------------


def read_task_file(path: str | Path) -> dict[str, Task]:
    """A user's own tasks: a YAML mapping of :class:`Task`'s fields, or a list of such mappings.

    Raises:
        ZooError: not YAML, an unknown field (with the nearest), or a row that cannot work.
    """
    path = Path(resolve(str(path)))
    try:
        rows = yaml.safe_load(whole_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise ZooError(f"{path} is not valid YAML: {error}") from error
    tasks = [_task_of(row, path) for row in (rows if isinstance(rows, list) else [rows])]
    return {task.name: task for task in tasks}


def _task_of(row: Any, path: Path) -> Task:
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
    for key, value in values.items():
        if fields[key].type.startswith("tuple") and not isinstance(value, tuple):  # `columns: text` means one column
            values[key] = (value,)
    for key in ("labels", "skip_labels", "hub_labels"):  # YAML reads 0 and 1 as numbers; a file holds text
        values[key] = tuple(_label_text(value, path) for value in values.get(key, ()))
    hints = get_type_hints(Task)
    for key, value in values.items():
        if not _fits(hints[key], value):
            raise ZooError(f"{path}: {key} of task {row['name']!r} is {row[key]!r}; {_needed(hints[key])} is needed.")
    return Task(**values)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a field's type; of the kinds of types that :class:`Task` has."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(option, value) for option in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(inner[0], item) for item in value)
    return type(value) is hint or (hint is float and type(value) is int)


def _needed(hint: Any) -> str:
    """A field's type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(_needed(option) for option in inner)
    if origin is tuple:
        return f"one or a list, each {_needed(inner[0])},"
    words = {
        str: "text (a number, yes or no in quotes)",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    return words.get(hint, "null")


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


def _label_text(value: Any, path: Path) -> str:
    if not isinstance(value, str | int | float):
        raise ZooError(f"{path}: a label is {value!r}; text is needed, in quotes where YAML reads something else.")
    if isinstance(value, bool):
        raise ZooError(f"{path}: YAML reads an unquoted yes, no, true or false as {value}; put such a label in quotes.")
    return str(value)
