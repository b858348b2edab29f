"""Locks on files that go with the process that holds them, however it ends; and the one-writer lock of a run folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import ZooError

LOCK_PATIENCE = 5.0
"""Seconds that a second writer waits before it is an error: a run whose launcher was killed needs a step to notice."""
RUN_LOCK = ".lock"
"""Name of the file in a run folder that its writer holds, and writes its own name into."""
_OWN_NAME = "process {}"
_POLL = 0.2


class LockHeld(Exception):
    """Another process holds the lock; the message names it."""


@contextmanager
def file_lock(
    path: Path, patience: float | None = 0.0, on_wait: Callable[[str], None] | None = None
) -> Iterator[list[Path]]:
    """Hold a lock file, which names its holder and stays when the lock is given back.

    The block gets what was missing and made for it: nothing, the file, or the file and its folder.

    Args:
        path: the file; its folder and itself are made.
        patience: seconds to wait for another holder; ``None`` = for ever.
        on_wait: called once with who holds the lock, before it is waited for.

    Raises:
        LockHeld: another process holds it still.
    """
    end = None if patience is None else time.monotonic() + patience
    lock = FileLock(path, thread_local=False)
    while (made := _try(lock, path)) is None:
        if on_wait is not None:
            on_wait(_holder(path))
            on_wait = None
        if end is not None and time.monotonic() > end:
            raise LockHeld(_holder(path))
        time.sleep(_POLL)
    try:
        path.write_text(f"{_OWN_NAME.format(os.getpid())}\n", encoding="utf-8")
        yield made
    finally:
        lock.release()


def _try(lock: FileLock, path: Path) -> list[Path] | None:
    """Take the lock on the file that is at its place; what was made for it, or ``None`` where another holds it.

    A holder may remove file and folder: what was locked then is no lock for whoever comes next.
    """
    made = [place for place in (path, path.parent) if not place.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path in made:
            path.touch()
        before = path.stat()
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):
        return None
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(before, path.stat()):
            return made
    lock.release()
    return None


def _holder(path: Path) -> str:
    """Who wrote its name into a lock file."""
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except FileNotFoundError:
        return "another process"


@contextmanager
def run_lock(
    folder: Path, patience: float = LOCK_PATIENCE, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Be the one writer of a run folder.

    A folder that was made for this and in which nothing else was written, as by a run that fails here, goes as well.

    Args:
        folder: the run folder.
        patience: seconds to wait for another writer.
        on_wait: called once with who it is.

    Raises:
        ZooError: another process writes it.
    """
    try:
        with file_lock(folder / RUN_LOCK, patience, on_wait) as made:
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # it stays: somebody put something there, or may not remove it
                    _remove_unused(made)
    except LockHeld as error:
        raise ZooError(
            f"{folder} is being written by {error}; a run folder has one writer. Wait for it, stop it, or "
            "choose other settings or another --output."
        ) from error


def _remove_unused(made: list[Path]) -> None:
    """Remove the lock that this process has, and the folder, as far as it made them, where nothing else is in it."""
    own = bool(made) and _holder(made[0]) == _OWN_NAME.format(os.getpid())
    if own and [path.name for path in made[0].parent.iterdir()] == [RUN_LOCK]:
        made[0].unlink()
        for folder in made[1:]:
            folder.rmdir()
