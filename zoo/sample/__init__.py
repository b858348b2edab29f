"""The embedded sample: a few megabytes of real text and two labelled tasks (``ATTRIBUTION.md``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import ZooError

FOLDER = Path(__file__).parent
PREFIX = "zoo:sample/"


def sample_path(name: str) -> Path:
    """A file or folder of the sample, such as ``en``, ``zh/wikipedia.txt`` or ``tasks``.

    Raises:
        ZooError: there is none of that name.
    """
    path = FOLDER / name
    if not path.exists():
        known = sorted(p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.suffix in {".txt", ".tsv"})
        raise ZooError(f"the embedded sample has no {name!r}; it has en, zh, tasks and {', '.join(known)}.")
    return path


def resolve(value: Any) -> Any:
    """``value`` with every string ``zoo:sample/NAME`` in it, at any depth, turned into the path."""
    if isinstance(value, dict):
        return {key: resolve(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item) for item in value]
    if isinstance(value, str) and value.startswith(PREFIX):
        return str(sample_path(value.removeprefix(PREFIX)))
    return value
