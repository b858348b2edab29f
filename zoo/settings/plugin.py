"""A class that a config names by its path, where the config is plain data and no command line is at hand."""

from __future__ import annotations

import functools
import json
from typing import Any

from zoo.errors import ZooError
from zoo.settings.checks import check_class, import_class


def checked_class(role: Any, entry: dict[str, Any], where: str, given: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """The class, and its arguments after all checks; nothing of it is called.

    Args:
        role: it has to be a subclass of this.
        entry: ``class_path`` and ``init_args``.
        where: dotted place of the entry, for messages.
        given: arguments that the caller brings.

    Raises:
        ZooError: there is no such class, it has another role, or an argument is unknown, missing or cannot be.
    """
    found = import_class(entry["class_path"], where, (role,))
    arguments = json.dumps(entry.get("init_args") or {}, sort_keys=True)
    return found, dict(_checked(found, arguments, where, given))


@functools.lru_cache(maxsize=256)
def _checked(found: type[Any], arguments: str, where: str, given: tuple[str, ...]) -> dict[str, Any]:
    """Arguments, checked once for all layers that have them."""
    from jsonargparse import ArgumentError, ArgumentParser

    values = json.loads(arguments)
    for name in given:
        if name in values:
            raise ZooError(f"{where}.init_args.{name} is not yours to give: the core's own config goes there.")
    path = f"{found.__module__}.{found.__qualname__}"
    values = check_class(found, {"class_path": path, "init_args": values}, where)["init_args"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(found, skip=set(given))
    try:
        parsed: dict[str, Any] = parser.parse_object(values).as_dict()
    except (ArgumentError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ZooError(f"{where}.init_args: {' '.join(lines[:4])}") from None
    return parsed
