"""Encoded rows to padded batches of like length."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.inputs.encoded import EncodedRows
from pretraining.random import Draw
from zoo.characters import spelt
from zoo.dropout import row_keys
from zoo.inputs import CoreInputs, pack_inputs
from zoo.storage.entity_table import Entities

_GROUP = 64  # batches whose rows are sorted by length together


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
) -> tuple[CoreInputs, Tensor]:
    """Rows padded to the longest of them, and their labels.

    Args:
        data: the encoded rows.
        rows: (B,) which of them.
        pad: padding id.
        causal: positions see the past only.
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
    if data.spelt is not None:
        characters = spelt(data.spelt.table[torch.from_numpy(np.where(real, data.spelt.words[at], 0))])
        characters = characters.masked_fill(~torch.from_numpy(real)[..., None], 0)
    entity_ids = entity_vectors = None
    if table is not None:
        read = np.where(real, data.entities[at], 0)
        known = np.unique(read[read > 0]).astype(np.int64)
        local = np.where(read > 0, np.searchsorted(known, read) + 1, 0)
        entity_ids = torch.from_numpy(local)
        entity_vectors = torch.from_numpy(table.rows(known - 1))
    inputs = pack_inputs(
        ids,
        lengths,
        causal=causal,
        token_types=types if segments else None,
        dropout_keys=None if keys is None else row_keys(*keys),
        character_ids=characters,
        entity_ids=entity_ids,
        entity_vectors=entity_vectors,
    )
    return inputs, torch.from_numpy(data.labels[rows])
