"""Shards: one chunk of a corpus, tokenised, as a file."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.storage.files import replaced_file


def token_dtype(vocab_size: int) -> str:
    """Smallest type of the store's tokens that holds every id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class ShardArrays(NamedTuple):
    """One chunk, tokenised.

    Args:
        tokens: (n,) ids.
        flags: (n,) bits of :mod:`pretraining.arrays`.
        sentences: (s,) tokens per sentence, none 0.
        documents: (d,) sentences per document; 0 where nothing was left of it.
        continues: the first document goes on from the shard before.
        arrays: (n,) annotations by name.
        left_out: spans that were left out of them, by name and reason.
        text_bytes: of the lines that became the tokens, in UTF-8, without what ends them.
    """

    tokens: NDArray[Any]
    flags: NDArray[np.uint8]
    sentences: NDArray[np.int64]
    documents: NDArray[np.int64]
    continues: bool
    arrays: dict[str, NDArray[Any]] = {}  # noqa: RUF012
    left_out: dict[str, dict[str, int]] = {}  # noqa: RUF012
    text_bytes: int = 0


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Args:
        path: its file.
        tokens: how many it holds.
        continues: its first document goes on from the shard before.
    """

    path: Path
    tokens: int
    continues: bool


_HEADER = struct.Struct("<8sq")
_MAGIC = b"ZOOSHRD3"


def write_shard(path: Path, shard: ShardArrays) -> None:
    """Write one shard atomically: magic, length of a JSON header with all sizes, the header, the arrays."""
    parts = [*shard[:4], *shard.arrays.values()]
    names = ["tokens", "flags", "sentences", "documents", *(f"array-{name}" for name in shard.arrays)]
    head = {
        "parts": {name: [array.dtype.str, len(array)] for name, array in zip(names, parts)},
        "continues": shard.continues,
        "left_out": shard.left_out,
        "text_bytes": shard.text_bytes,
    }
    written = json.dumps(head).encode()
    with replaced_file(path, shared=True) as file:
        file.write(_HEADER.pack(_MAGIC, len(written)) + written)
        for array in parts:
            file.write(array.tobytes())


def _shard_head(file: IO[bytes]) -> dict[str, Any] | None:
    """A shard's header, or ``None`` where it is not whole or of another version."""
    try:
        magic, length = _HEADER.unpack(file.read(_HEADER.size))
        head: dict[str, Any] | None = json.loads(file.read(length)) if magic == _MAGIC else None
    except (struct.error, ValueError):
        return None
    return head


def shard_info(path: Path) -> Shard | None:
    """What a finished shard holds, or ``None`` where it is missing or not whole."""
    try:
        with path.open("rb") as file:
            head = _shard_head(file)
            if head is None:
                return None
            whole = file.tell() + sum(np.dtype(dtype).itemsize * size for dtype, size in head["parts"].values())
            if os.fstat(file.fileno()).st_size != whole:
                return None
    except FileNotFoundError:
        return None
    return Shard(path, head["parts"]["tokens"][1], head["continues"])


def read_shard(path: Path) -> ShardArrays:
    """A finished shard."""
    with path.open("rb") as file:
        head = _shard_head(file)
        assert head is not None
        parts = {
            name: np.frombuffer(file.read(np.dtype(dtype).itemsize * size), dtype=dtype)
            for name, (dtype, size) in head["parts"].items()
        }
    arrays = {name.removeprefix("array-"): part for name, part in parts.items() if name.startswith("array-")}
    tokens, flags, sentences, documents = (parts[name] for name in ("tokens", "flags", "sentences", "documents"))
    facts = head["continues"], arrays, head["left_out"], head["text_bytes"]
    return ShardArrays(tokens, flags, sentences, documents, *facts)
