"""Labelled rows as token ids, and the batches that are made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.inputs.task_tokenizer import WordCharacters
from pretraining.keyed_random import Draw
from zoo.core.characters import character_ids_of, character_table
from zoo.dropout import row_keys
from zoo.inputs import CoreInputs, pack_inputs
from zoo.storage.entity_table import Entities

_GROUP = 64  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class EncodedRows:
    """N rows of token ids, one after the other.

    Args:
        ids: (T,) int32 all rows' tokens, template tokens in place.
        types: (T,) int8 segment of each token.
        offsets: (N + 1,) int64; row n is tokens [n, n + 1).
        cut: (N,) rows that lost tokens.
        lost: (N,) rows that lost a part of what is marked in them.
        entities: (T,) int32 entity number + 1 at the first token of a mention, 0 elsewhere.
        characters: of the words, for cores that read characters; ``None`` = others.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    offsets: NDArray[np.int64]
    cut: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    entities: NDArray[np.int32]
    characters: WordCharacters | None = None

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
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each row."""
        return np.diff(self.offsets)


def filled(rows: EncodedRows, pad: int) -> EncodedRows:
    """The rows with one token of padding in those that have none at all, so that there is something to read."""
    at = rows.offsets[:-1][rows.lengths == 0]
    offsets = np.append(0, np.cumsum(np.maximum(rows.lengths, 1)))
    characters = rows.characters
    if characters is not None:
        table = torch.cat([characters.table, character_table([""], characters.table.shape[1])])
        characters = WordCharacters(np.insert(characters.words, at, len(table) - 1), table)
    ids, types, entities = np.insert(rows.ids, at, pad), np.insert(rows.types, at, 0), np.insert(rows.entities, at, 0)
    return replace(rows, ids=ids, types=types, offsets=offsets, entities=entities, characters=characters)


def training_batches(lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """One epoch's batches: every row once, rows of like length together, a pure function of the arguments.

    Rows are shuffled, sorted by length within groups of 64 batches, cut into batches (the last of the epoch may
    be smaller), and the batches shuffled.
    """
    draw = Draw(seed, epoch)
    order = draw.permutation(len(lengths), "finetune.rows")
    group = batch_size * _GROUP
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), group):
        rows = order[start : start + group]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches.extend(rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
    return [batches[i] for i in draw.permutation(len(batches), "finetune.batches")]


def evaluation_batches(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Batches of like length, in order of length."""
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def collate_rows(
    data: EncodedRows,
    rows: NDArray[np.int64],
    pad: int,
    causal: bool,
    segments: bool,
    keys: tuple[int, int, NDArray[np.int64]] | None = None,
    table: Entities | None = None,
) -> CoreInputs:
    """Rows padded to the longest of them.

    Args:
        data: the encoded rows.
        rows: (B,) which of them.
        pad: padding id.
        causal: positions attend to the past only.
        segments: the core tells segments apart.
        keys: seed, step and (B,) places in the global batch for dropout; ``None`` = no dropout.
        table: vectors of the entities, for a core that reads them.
    """
    starts, lengths = data.offsets[rows], data.lengths[rows]
    columns = np.arange(int(lengths.max()))
    real = columns[None, :] < lengths[:, None]
    at = np.where(real, starts[:, None] + columns[None, :], 0)
    ids = np.where(real, data.ids[at], pad)
    types = np.where(real, data.types[at], 0)
    characters = None
    if data.characters is not None:
        words = torch.from_numpy(np.where(real, data.characters.words[at], 0))
        characters = character_ids_of(data.characters.table[words])
        characters = characters.masked_fill(~torch.from_numpy(real)[..., None], 0)
    entity_ids = entity_vectors = None
    if table is not None:
        read = np.where(real, data.entities[at], 0)
        known = np.unique(read[read > 0]).astype(np.int64)
        local = np.where(read > 0, np.searchsorted(known, read) + 1, 0)
        entity_ids = torch.from_numpy(local)
        entity_vectors = torch.from_numpy(table.rows(known - 1))
    return pack_inputs(
        ids,
        lengths,
        causal=causal,
        token_types=types if segments else None,
        dropout_keys=None if keys is None else row_keys(*keys),
        character_ids=characters,
        entity_ids=entity_ids,
        entity_vectors=entity_vectors,
    )
