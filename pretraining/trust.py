"""Whose code a run folder names: reading its settings imports every class in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.errors import ZooError

KNOWN_CODE = ("pretraining.", "torch.optim.")
"""Beginnings of the class paths that are safe to import."""


def class_paths(value: Any) -> Iterator[str]:
    """Every class that settings name, at any depth."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield str(value["class_path"])
        for item in value.values():
            yield from class_paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from class_paths(item)


def refuse_foreign_code(folder: Path, settings: Any, trusted: bool) -> None:
    """Refuse settings that name code from outside the package, unless the user trusts it.

    Args:
        folder: the run folder, for the message.
        settings: what its ``run.json`` keeps of them.
        trusted: the user said ``--trust_code``.
    """
    foreign = [path for path in class_paths(settings) if not path.startswith(KNOWN_CODE)]
    if foreign and not trusted:
        raise ZooError(
            f"{folder} was trained with {', '.join(foreign)}, not the package's own code; if you trust it, say "
            "--trust_code."
        )
