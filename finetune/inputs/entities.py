"""The entities that a task's rows name, and the table with their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from finetune.data.examples import LabelledTexts, TaskSplits
from finetune.data.tasks import Task
from zoo.errors import ZooError
from zoo.model_folder import ModelMetadata
from zoo.storage.entity_table import NAMES, VECTORS, Entities, open_entities

NO_ENTITIES = "none"


@dataclass(frozen=True)
class TaskEntities:
    """What a core that reads entities is given beside a task's tokens.

    Args:
        table: their vectors; ``None`` = the core reads no entities, or the rows name none.
        mentioned: the entity that each mention names, in the order of the rows.
        confidence: least confidence of a linker with which an entity is read.
    """

    table: Entities | None
    mentioned: Sequence[str]
    confidence: float

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Numbers in the table of the entities that rows name."""
        if self.table is None:
            return {}
        named = set(self.mentioned)
        return {name: number for number, name in enumerate(self.table.names) if name in named}

    @cached_property
    def mentions(self) -> dict[str, int] | None:
        """How many spans name an entity, and of how many it is known."""
        if self.table is None:
            return None
        return {"named": len(self.mentioned), "known": sum(name in self.numbers for name in self.mentioned)}


def task_entities(
    task: Task, data: TaskSplits[Any], metadata: ModelMetadata, folder: str | None, confidence: float
) -> TaskEntities:
    """The entities of a task's rows for one model.

    Args:
        task: says which fields hold spans.
        data: its rows.
        metadata: the model folder's.
        folder: where the table lies; ``None`` = in the model folder, ``none`` = read no entities.
        confidence: least confidence of a linker with which an entity is read.

    Raises:
        ZooError: there are no vectors, they do not fit the core, or hold not one of the entities.
    """
    mentioned = entities_named(data, confidence)
    return TaskEntities(_table(task, set(mentioned), metadata, folder, confidence), mentioned, confidence)


def entities_named(data: TaskSplits[Any], confidence: float) -> list[str]:
    """The entity of every span that names one with enough confidence.

    Args:
        data: rows of a task.
        confidence: how much is enough.
    """
    parts = [part for part in (data.train, data.evaluation) if isinstance(part, LabelledTexts)]
    rows = (row for part in parts for row in part.spans or [])
    spans = (span for row in rows for own in row for span in own)
    return [span.entity for span in spans if span.entity is not None and span.confidence >= confidence]


def _table(
    task: Task, named: set[str], metadata: ModelMetadata, folder: str | None, confidence: float
) -> Entities | None:
    """The table that holds the named entities, checked."""
    fusion, model = metadata.config.fusion, metadata.path
    if fusion is None:
        if folder not in (None, NO_ENTITIES):
            raise ZooError(f"entities = {folder}: the model in {model} reads no entities; leave the setting out.")
        return None
    if folder == NO_ENTITIES or (not named and folder is None):
        return None
    if folder is None and not (model / NAMES).exists():
        raise ZooError(
            f"rows of task {task.name!r} name entities, {model} reads entities, and has no {NAMES} with "
            f"{VECTORS}: give --entities FOLDER (`zoo entities` makes one), or --entities {NO_ENTITIES}."
        )
    table = open_entities(model if folder is None else folder)
    if table.width != fusion.entity_size:
        raise ZooError(
            f"the entity vectors in {table.folder} are {table.width} wide, the model in {model} reads "
            f"{fusion.entity_size}."
        )
    if not named:
        raise ZooError(
            f"entities = {folder}: no row of task {task.name!r} names an entity (confidence at least "
            f"{confidence:g}); its fields of spans: {', '.join(task.span_fields) or 'none'}."
        )
    if not named.intersection(table.names):
        raise ZooError(
            f"not one of the {len(named)} entities that rows of task {task.name!r} name is in {table.folder} "
            f"({min(named)!r} there, {table.names[0]!r} here); give a table with their names, or --entities "
            f"{NO_ENTITIES}."
        )
    return table
