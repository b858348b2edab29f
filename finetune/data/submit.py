"""What a task says of the file of predictions that its site takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import ZooError
from zoo.values import check_name


class SubmitSpec(NamedTuple):
    """The file of predictions that a benchmark's site takes (:mod:`finetune.results.submission`).

    Args:
        format: its form: ``glue`` (a table of index and prediction), ``superglue`` and ``clue`` (lines of JSON with the
            row's number and its label), ``clue_rows`` (the same with more keys) or ``object`` (one JSON object, a value
            by id).
        file: its name.
        rows: how many rows the official test file has; ``None`` = any number.
    """

    format: str
    file: str
    rows: int | None = None


COUNTED_FORMATS = ("glue", "superglue")
"""Files of predictions in which rows are counted from 0."""
SUBMIT_FORMATS = (*COUNTED_FORMATS, "clue", "clue_rows", "object")
"""Every form of a file of predictions."""


def read_submit(value: Any, path: Path) -> SubmitSpec | None:
    """A YAML value ``{format: ..., file: ..., rows: ...}``, the last as wanted.

    Raises:
        ZooError: it is none.
    """
    if value is None:
        return None
    if isinstance(value, dict) and {"format", "file"} <= value.keys() <= {*SubmitSpec._fields}:
        rows = value.get("rows")
        if value["format"] in SUBMIT_FORMATS and isinstance(value["file"], str) and (rows is None or type(rows) is int):
            check_name(value["file"], f"{path}: the file of submit")
            return SubmitSpec(value["format"], value["file"], rows)
    raise ZooError(
        f"{path}: submit is {value!r}; {{format: FORMAT, file: NAME, rows: NUMBER}} is needed, the format one of "
        f"{', '.join(SUBMIT_FORMATS)}, rows as wanted."
    )
