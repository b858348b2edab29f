"""The folder of an unfinished store: its lock, and how long its shards are kept."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.runtime.locks import LockHeld, file_lock
from zoo.runtime.progress import note

_LOCK = "lock"


@contextlib.contextmanager
def work_lock(folder: Path, quiet: bool) -> Iterator[None]:
    """Hold the folder's lock; wait for another preparation of the same store, saying so."""

    def tell(holder: str) -> None:
        note(f"prepare: waiting for another process that prepares this store ({holder})", not quiet)

    with file_lock(folder / _LOCK, patience=None, on_wait=tell):
        yield


ABANDONED = 14 * 24 * 3600.0
"""Seconds after which nobody is expected to go on with an unfinished store."""


def clean_abandoned(folder: Path, own: Path, quiet: bool) -> None:
    """Remove shards and half-written stores that nobody has touched for two weeks.

    The lock of a work folder is held meanwhile and stays where it is. What is removed would only be made again.
    """
    for work in (folder / ".work").glob("*"):
        if work != own and (work / "shards").is_dir() and _age(work) > ABANDONED:
            with contextlib.suppress(LockHeld), file_lock(work / _LOCK):
                shutil.rmtree(work / "shards", ignore_errors=True)
                note(f"prepare: removed shards of an unfinished store that nobody went on with ({work})", not quiet)
    for partial in folder.glob(".*.partial"):
        if _age(partial) > ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)


def _age(folder: Path) -> float:
    """Seconds since anything in a folder changed."""
    times = [path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.exists()]
    return time.time() - max(times, default=time.time())
