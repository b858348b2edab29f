"""Folders and globs of a user: one walk through them, by one rule of what is read and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from zoo.errors import ZooError, nearest
from zoo.sample import resolve
from zoo.storage.user_files import unreadable

_HIDDEN = frozenset({"__MACOSX"})  # copies that programs keep beside the text, beside all names that begin with a dot


class Walk(NamedTuple):
    """What a walk found.

    Args:
        files: in the order of their paths, each once; links that lead nowhere among them, for their reader to name.
        passed: how many entries were passed over, by what they are.
    """

    files: list[Path]
    passed: Counter[str]


def walk(folder: Path, depth: int | None = None, hidden: bool = False) -> Walk:
    """The files below a folder.

    What is hidden is passed over: names that begin with a dot (``.ipynb_checkpoints``, ``._NAME``), ``__MACOSX``. Links
    to files and folders are followed; what is reached a second time, by a link that leads back, say, is passed over.

    Args:
        folder: where to begin.
        depth: how many folders deep; ``None`` = all.
        hidden: read what is hidden, too.

    Raises:
        ZooError: a folder cannot be read.
    """
    files: dict[Path, None] = {}
    linked: list[Path] = []
    passed: Counter[str] = Counter()
    seen: set[str] = set()
    todo = [(folder, 1)]
    later: list[tuple[Path, int]] = []
    while todo or later:
        todo, later = (todo, later) if todo else (sorted(later), [])  # folders themselves come before links to them
        place, level = todo.pop(0)
        if (real := os.path.realpath(place)) in seen:
            passed["linked a second time"] += 1
            continue
        seen.add(real)
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            raise unreadable(place, error) from error
        for entry in entries:
            if not hidden and (entry.name.startswith(".") or entry.name in _HIDDEN):
                passed["hidden"] += 1
            elif entry.is_dir():
                if depth is None or level < depth:
                    (later if entry.is_symlink() else todo).append((entry, level + 1))
            elif entry.is_symlink():
                linked.append(entry)
            else:
                files[entry] = None
    targets = {os.path.realpath(file) for file in files}
    for link in sorted(linked):
        if (real := os.path.realpath(link)) in targets:
            passed["linked a second time"] += 1
        else:
            targets.add(real)
            files[link] = None
    return Walk(sorted(files), passed)


def is_glob(entry: str) -> bool:
    """Whether a setting names files by a pattern."""
    return any(mark in entry for mark in "*?[")


def walk_glob(pattern: Path) -> Walk:
    """The files that a pattern matches; ``**`` stands for any number of folders, linked ones too."""
    parts = pattern.parts
    first = next((place for place, part in enumerate(parts) if is_glob(part)), len(parts) - 1)
    base, wanted = Path(*parts[:first]), parts[first:]
    if not base.is_dir():
        return Walk([], Counter())
    hidden = any(part.startswith(".") for part in wanted)
    found = walk(base, None if "**" in wanted else len(wanted), hidden)
    files = [file for file in found.files if _matches(file.relative_to(base).parts, wanted)]
    return Walk(files, found.passed)


def _matches(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        shown = next((n for n, part in enumerate(parts) if part.startswith(".")), len(parts))
        return any(_matches(parts[n:], wanted[1:] or ("*",)) for n in range(shown + 1))
    if not parts or (parts[0].startswith(".") and not wanted[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def matching(entry: str, path: Path, setting: str) -> list[Path]:
    """The files that a glob matches, sorted.

    Args:
        entry: the glob as it was given.
        path: the same as a path.
        setting: where it was given, for the message.

    Raises:
        ZooError: there are none.
    """
    matched = walk_glob(path).files
    if not matched:
        raise ZooError(f"{setting} nothing matches {entry!r} (searched from {Path.cwd()}).")
    return matched


def existing(value: str | list[str], what: str) -> list[Path]:
    """Files that a path, a glob, or a list of these names.

    Raises:
        ZooError: there is none, or a folder in its place.
    """
    found: list[Path] = []
    for entry in [value] if isinstance(value, str) else value:
        path = Path(resolve(entry)).expanduser()
        if path.is_file():
            found.append(path)
            continue
        if path.is_dir():
            inside = sorted(walk(path, depth=1).files, key=lambda p: (p.suffix != ".txt", p))
            example = f"; name its files, for example {inside[0]}." if inside else " without files; name a file."
            raise ZooError(f"{what}: {path} is a folder{example}")
        matched = walk_glob(path).files if is_glob(str(path)) else []
        if not matched:
            names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ZooError(f"{what}: the file {path} does not exist.{nearest(path.name, names)}")
        found += matched
    if not found:
        raise ZooError(f"{what} names no file.")
    return found
