"""The token store: one folder with memory-mapped arrays, read here and written by ``prepare``.

Files, all little-endian and headerless:

- ``tokens.bin``     uint16 (vocabulary < 65,536) or uint32, one per token
- ``flags.bin``      uint8 per token, the bits below
- ``sentences.bin``  int64, S + 1 token offsets; sentence s is tokens [s, s + 1)
- ``documents.bin``  int64, D + 1 *sentence* offsets; document d is sentences [d, d + 1)
- ``counts.bin``     int64 per vocabulary entry, how often it occurs
- ``array-NAME.bin`` optional named per-token arrays (spans, entities, roles)
- ``meta.json``      schema version, fingerprint, sizes, dtypes, what built it; written last
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError
from zoo.storage.files import read_json

SCHEMA = 1
SAMPLE_TOKENS = 1_000_000
"""Tokens at the beginning of a store that are looked at to tell what it holds."""
ENOUGH_TOKENS = 10_000
"""Tokens in which words of a kind must occur where they occur at all."""
ENOUGH_FOR_CAPITALS = 1_000
"""Tokens among which a capital letter must be where the text has case."""


class Store:
    """A finished token store, opened read-only. Opening costs no memory whatever its size.

    Args:
        path: the store's folder.

    Raises:
        ZooError: not a store, another schema version, or files shorter than ``meta.json`` says.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "meta.json").exists():
            raise ZooError(f"{self.path} is not a finished token store (no meta.json); `zoo prepare` builds one.")
        self.meta: dict[str, Any] = read_json(self.path / "meta.json")
        if self.meta.get("schema") != SCHEMA:
            raise ZooError(
                f"{self.path} has store schema {self.meta.get('schema')}, this version reads {SCHEMA}; "
                "delete the folder and run `zoo prepare` again."
            )
        self.fingerprint: str = self.meta["fingerprint"]
        self.tokens = self._map("tokens", self.meta["token_dtype"], self.meta["tokens"])
        self.flags: NDArray[np.uint8] = self._map("flags", "uint8", self.meta["tokens"])
        self.sentences: NDArray[np.int64] = self._map("sentences", "int64", self.meta["sentences"] + 1)
        self.documents: NDArray[np.int64] = self._map("documents", "int64", self.meta["documents"] + 1)
        self.counts: NDArray[np.int64] = self._map("counts", "int64", self.meta["vocab_size"])
        self.arrays = {
            name: self._map(f"array-{name}", dtype, self.meta["tokens"])
            for name, dtype in self.meta.get("arrays", {}).items()
        }

    def _map(self, name: str, dtype: str, length: int) -> NDArray[Any]:
        path = self.path / f"{name}.bin"
        expected = length * np.dtype(dtype).itemsize
        found = path.stat().st_size if path.exists() else -1
        if found != expected:
            raise ZooError(
                f"{path} has {max(found, 0)} bytes where meta.json promises {expected}: the store is damaged. "
                "Delete its folder and run `zoo prepare` again."
            )
        if length == 0:
            return np.zeros(0, dtype=dtype)
        return np.memmap(path, dtype=dtype, mode="r", shape=(length,))

    @property
    def num_documents(self) -> int:
        """Documents in the store."""
        return len(self.documents) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens in the store, special tokens not included (layouts add those)."""
        return len(self.tokens)

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of the text for each token, on average; ``None`` where the store does not say."""
        size = self.meta.get("text_bytes")
        return size / self.num_tokens if size and self.num_tokens else None

    @property
    def languages(self) -> list[str]:
        """Languages of its text, numbered from 1 in the array ``language``; none where it does not say."""
        return list(self.meta.get("recipe", {}).get("languages", ()))

    @property
    def parallel(self) -> bool:
        """Whether its documents are translations: two sentences, the second in the second language."""
        return bool(self.meta.get("recipe", {}).get("parallel"))

    def document_tokens(self) -> NDArray[np.int64]:
        """(D + 1,) token offsets of the documents."""
        return np.asarray(self.sentences)[np.asarray(self.documents)]
