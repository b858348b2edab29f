"""What a layout of files is that no table reader knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple


class RecordFormat(NamedTuple):
    """A benchmark's own layout, turned into records with the columns that its task names.

    Args:
        read: a file to a place for messages and a record, for each row; raises ZooError for what is broken, by place.
        hub: one row of the hub's data set, classes already by name, to records of the same form; ``None`` = the
            hub's columns are those of a table.
    """

    read: Callable[[Path], Iterable[tuple[str, dict[str, Any]]]]
    hub: Callable[[dict[str, Any]], Iterable[dict[str, Any]]] | None = None
