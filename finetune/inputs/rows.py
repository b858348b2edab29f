"""What a task's examples become: rows of one or several sequences, the states that are read, the targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.inputs.batches import EncodedRows
from finetune.inputs.features import FeatureBatch, TextRows
from pretraining.arrays import ragged_ranges
from zoo.inputs import CoreInputs

Targets = tuple[Tensor, ...]
"""What a kind's loss compares the scores with."""


class TaskBatch(NamedTuple):
    """B rows for a model.

    Args:
        inputs: their sequences, one after the other.
        slots: (sequences, R) positions whose states are read, -1 = none; ``None`` = one state a sequence, the one
            that the template's pooling names.
        targets: for the kind's loss.
    """

    inputs: CoreInputs | FeatureBatch | NamedTuple
    slots: Tensor | None
    targets: Targets


@dataclass(frozen=True)
class TaskRows:
    """N rows to train on, or to score. Every row has scores: one for each of its slots, or of its sequences.

    Args:
        sequences: of all rows, one after the other.
        owners: (N,) int64 example that a row is of; an example may have several rows.
        sizes: (N,) int64 sequences of each row; ``None`` = one.
        slots: (S,) positions, in their sequence, of the states that are read; ``None`` = one state a sequence.
        slot_sizes: (sequences,) int64 slots of each sequence.
    """

    sequences: EncodedRows | TextRows
    owners: NDArray[np.int64]
    sizes: NDArray[np.int64] | None = None
    slots: NDArray[np.int64] | None = None
    slot_sizes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Rows."""
        return len(self.owners)

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """(N + 1,) first sequence of each row."""
        sizes = np.ones(len(self), np.int64) if self.sizes is None else self.sizes
        return np.append(0, np.cumsum(sizes))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each row, over its sequences."""
        tokens = self.sequences.lengths
        return tokens if self.sizes is None else np.diff(np.append(0, np.cumsum(tokens))[self.firsts])

    @cached_property
    def outputs(self) -> NDArray[np.int64]:
        """(N + 1,) first score of each row."""
        if self.slot_sizes is None:
            return self.firsts
        return np.append(0, np.cumsum(self.slot_sizes))[self.firsts]

    @property
    def truncated(self) -> int:
        """Rows that lost tokens."""
        return self.sequences.truncated

    def cut_examples(self) -> NDArray[np.int64]:
        """Examples that lost tokens, in order."""
        found: NDArray[np.int64] = np.unique(np.repeat(self.owners, np.diff(self.firsts))[self.sequences.cut])
        return found

    def sequences_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the sequences of some rows."""
        return ragged_ranges(self.firsts[rows], self.firsts[rows + 1] - self.firsts[rows])

    def outputs_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the scores of some rows."""
        return ragged_ranges(self.outputs[rows], self.outputs[rows + 1] - self.outputs[rows])

    def slots_of(self, sequences: NDArray[np.int64]) -> Tensor | None:
        """(sequences, R) positions that are read in some sequences, -1 = none."""
        if self.slots is None or self.slot_sizes is None:
            return None
        sizes = self.slot_sizes[sequences]
        firsts = (np.cumsum(self.slot_sizes) - self.slot_sizes)[sequences]
        columns = np.arange(max(int(sizes.max()), 1))
        there = columns < sizes[:, None]
        at = np.where(there, firsts[:, None] + columns, 0)
        return torch.from_numpy(np.where(there, self.slots[at].astype(np.int64), -1))


class WritingBatch(NamedTuple):
    """B sources for a model that writes.

    Args:
        inputs: the sources.
        labels: (B, T) ids of the targets, -100 beyond their end.
    """

    inputs: CoreInputs
    labels: Tensor


@dataclass(frozen=True)
class WrittenRows(TaskRows):
    """N sources, one a row, and what is to be written of each.

    Args:
        targets: ids of the targets, template tokens in place; ``None`` = nobody knows them.
    """

    targets: EncodedRows | None = None

    @property
    def truncated(self) -> int:
        """Rows that lost tokens of either side."""
        if self.targets is None:
            return self.sequences.truncated
        return int((self.sequences.cut | self.targets.cut).sum())

    def labels(self, rows: NDArray[np.int64]) -> Tensor:
        """(B, T) ids of some rows' targets, -100 beyond their end; T = 0 where nobody knows them."""
        if self.targets is None:
            return torch.zeros(len(rows), 0, dtype=torch.long)
        starts, lengths = self.targets.offsets[rows], self.targets.lengths[rows]
        columns = np.arange(int(lengths.max()))
        real = columns[None, :] < lengths[:, None]
        ids = self.targets.ids[np.where(real, starts[:, None] + columns, 0)]
        return torch.from_numpy(np.where(real, ids.astype(np.int64), -100))


def sequence_places(rows: TaskRows, batch: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places in the global batch of the sequences of some of its rows, for dropout.

    Args:
        rows: the task's.
        batch: (B,) rows of the global batch.
        own: (b,) which of them, by place.
    """
    sizes = rows.firsts[batch + 1] - rows.firsts[batch]
    return ragged_ranges((np.cumsum(sizes) - sizes)[own], sizes[own])


def padded(values: Tensor, sizes: Tensor, fill: float) -> Tensor:
    """Ragged rows one after the other to a rectangle.

    Args:
        values: (S, ...) items of all rows.
        sizes: (B,) items of each row; their sum is S.
        fill: what stands beyond a row's items.

    Returns:
        (B, the longest, ...).
    """
    there = torch.arange(int(sizes.max()), device=values.device) < sizes[:, None]
    made = values.new_full((*there.shape, *values.shape[1:]), fill)
    made[there] = values
    return made
