"""Rows of token ids, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.inputs.character_tokenizer import SpeltWords
from zoo.characters import spelling_table


@dataclass(frozen=True)
class EncodedRows:
    """N rows of token ids, one after the other.

    Args:
        ids: (T,) int32 all rows' tokens, template tokens in place.
        types: (T,) int8 segment of each token.
        offsets: (N + 1,) int64; row n is tokens [n, n + 1).
        labels: (N,) int64 class numbers.
        numbers: (N,) int64 row numbers in the source.
        cut: (N,) rows that lost tokens.
        lost: (N,) rows that lost a part of what is marked in them.
        entities: (T,) int32 entity number + 1 at the first token of a mention, 0 elsewhere.
        spelt: how the words are spelt, for cores that read characters; ``None`` = others.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    cut: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    entities: NDArray[np.int32]
    spelt: SpeltWords | None = None

    @property
    def truncated(self) -> int:
        """Rows that lost tokens."""
        return int(self.cut.sum())

    @property
    def marks_cut(self) -> int:
        """Rows that lost a part of what is marked in them."""
        return int(self.lost.sum())

    def __len__(self) -> int:
        """Rows."""
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each row."""
        return np.diff(self.offsets)


def filled(rows: EncodedRows, pad: int) -> EncodedRows:
    """The rows with one token of padding in those that have none at all, so that there is something to read."""
    at = rows.offsets[:-1][rows.lengths == 0]
    offsets = np.append(0, np.cumsum(np.maximum(rows.lengths, 1)))
    spelt_words = rows.spelt
    if spelt_words is not None:
        table = torch.cat([spelt_words.table, spelling_table([""], spelt_words.table.shape[1])])
        spelt_words = SpeltWords(np.insert(spelt_words.words, at, len(table) - 1), table)
    ids, types, entities = np.insert(rows.ids, at, pad), np.insert(rows.types, at, 0), np.insert(rows.entities, at, 0)
    return replace(rows, ids=ids, types=types, offsets=offsets, entities=entities, spelt=spelt_words)
