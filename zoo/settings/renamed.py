"""Names of settings that have changed: whoever reads an old one is told the new one, and nothing else is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from zoo.errors import ZooError

_SHOWN = 12  # lines of one message
_FOREIGN = ""

T = TypeVar("T")


@dataclass(frozen=True)
class RenamedNames:
    """Old names and their new ones.

    Keys are dotted, with ``*`` for any one part; parts before the last one are new names.

    Args:
        keys: old key -> the new name of its last part.
        values: key -> its old values and their new ones.
        class_paths: dotted path of a class -> its new path.
        package: beginning of the paths of our classes; arguments of other classes have names of their own.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    class_paths: Mapping[str, str] = field(default_factory=dict)
    package: str = ""

    def check(self, values: Mapping[str, Any], source: str = "the settings", prefix: str = "") -> None:
        """Raise ZooError if an old name occurs, at any depth.

        Args:
            values: nested plain values, as YAML, a command line or ``run.json`` says them.
            source: where they were read, for the message.
            prefix: dotted place of ``values`` in that source, for the message.

        Raises:
            ZooError: naming each old name and the new one.
        """
        lines = [f"{prefix}{old} is now {new}" for old, new in self._found(values, (), ())]
        if lines:
            more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
            listing = "\n  ".join([*lines[:_SHOWN], *more])
            raise ZooError(f"old names ({source}):\n  {listing}\nWrite the new ones; CHANGELOG.md lists all.")

    def _found(self, value: Any, where: tuple[str, ...], now: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """Old names at and below a place, with their new ones.

        Args:
            value: what stands at the place.
            where: the place, as it is written.
            now: the place, with new names.
        """
        if isinstance(value, str) and value in self.class_paths:
            yield f"{'.'.join(where)}: {value}", self.class_paths[value]
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from self._found(item, (*where, str(number)), (*now, str(number)))
        elif isinstance(value, Mapping):
            ours = str(value.get("class_path", self.package)).startswith(self.package)
            for key, item in value.items():
                place = (*where, str(key))
                then = (*now, _at(self.keys, (*now, str(key))) or str(key))
                if key == "init_args" and not ours:
                    then = (*now, _FOREIGN)  # no key below has a place in the tables; class paths there still do
                changed = (_at(self.values, then) or {}).get(item) if isinstance(item, str) else None
                if changed is not None:
                    yield f"{'.'.join(place)}: {item}", f"{'.'.join(then)}: {changed}"
                elif then[-1] not in (str(key), _FOREIGN):
                    yield ".".join(place), ".".join(then)
                yield from self._found(item, place, then)


def _at(table: Mapping[str, T], place: tuple[str, ...]) -> T | None:
    """What a table with ``*`` in its keys has for a place, ``None`` where it has nothing."""
    for pattern, found in table.items():
        parts = pattern.split(".")
        if len(parts) == len(place) and all(part in ("*", own) for part, own in zip(parts, place, strict=True)):
            return found
    return None
