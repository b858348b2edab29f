"""The folder of an unfinished store: its files, its lock, and how long its shards are kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.store.shards import token_dtype
from pretraining.store.token_store import SCHEMA
from zoo.runtime.locks import LockHeld, file_lock
from zoo.runtime.progress import note
from zoo.storage.files import write_json

# --- its files -------------------------------------------------------------------------------------


class StoreWriter:
    """Writes a store into a hidden folder beside its place and renames it there when it is finished.

    Args:
        path: where the store will be.
        vocab_size: entries of the vocabulary.
        arrays: types of the named per-token arrays, by name.
    """

    def __init__(self, path: Path, vocab_size: int, arrays: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._arrays = dict(arrays or {})
        self.folder = path.with_name(f".{path.name}.partial")
        self._vocab_size, self._dtype = vocab_size, token_dtype(vocab_size)
        self._counts = np.zeros(vocab_size, dtype=np.int64)
        self._pending = self._written = 0  # sentences of the open document, and of those that are closed
        self.tokens = self.sentences = self.documents = 0

    def __enter__(self) -> StoreWriter:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        names = ("tokens", "flags", "sentences", "documents", *(f"array-{name}" for name in self._arrays))
        self._files = {name: (self.folder / f"{name}.bin").open("wb") for name in names}
        for name in ("sentences", "documents"):
            self._files[name].write(np.zeros(1, dtype=np.int64).tobytes())
        return self

    def __exit__(self, *failure: object) -> None:
        for file in self._files.values():
            file.close()
        if failure[0] is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def append(
        self,
        tokens: NDArray[Any],
        flags: NDArray[np.uint8],
        sentences: NDArray[np.int64],
        documents: NDArray[np.int64],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        continues: bool = False,
    ) -> None:
        """Add tokenised documents.

        Args:
            tokens: (n,) ids.
            flags: (n,) flag bits.
            sentences: (s,) tokens per sentence.
            documents: (d,) sentences per document; those with 0 are dropped.
            arrays: (n,) values of every named array.
            continues: the first document is the rest of the last one added.
        """
        for name, dtype in self._arrays.items():
            values = (arrays or {})[name]
            assert len(values) == len(tokens)
            self._files[f"array-{name}"].write(values.astype(dtype, copy=False).tobytes())
        self._files["tokens"].write(tokens.astype(self._dtype, copy=False).tobytes())
        self._files["flags"].write(flags.tobytes())
        self._files["sentences"].write((np.cumsum(sentences) + self.tokens).astype(np.int64).tobytes())
        self._counts += np.bincount(tokens, minlength=self._vocab_size)
        self.tokens += len(tokens)
        lengths = documents.tolist()
        if not continues:
            self._close_document()
        for place, length in enumerate(lengths):
            if place:
                self._close_document()
            self._pending += length
        self.sentences += len(sentences)

    def _close_document(self) -> None:
        """End the document that is open, where it holds anything."""
        if self._pending:
            self._written += self._pending
            self._files["documents"].write(np.array([self._written], dtype=np.int64).tobytes())
            self.documents += 1
            self._pending = 0

    def finish(self, fingerprint: str, extra: dict[str, Any]) -> None:
        """Counts and meta.json, then the rename that makes the store appear."""
        self._close_document()
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        (self.folder / "counts.bin").write_bytes(self._counts.tobytes())
        meta = {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "token_dtype": self._dtype,
            "vocab_size": self._vocab_size,
            "tokens": self.tokens,
            "sentences": self.sentences,
            "documents": self.documents,
            "arrays": self._arrays,
            **extra,
        }
        write_json(self.folder / "meta.json", meta, indent=1)
        shutil.rmtree(self.path, ignore_errors=True)  # an unfinished or damaged one: a finished one is never rebuilt
        self.folder.replace(self.path)


# --- who works on it, and for how long -------------------------------------------------------------


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
