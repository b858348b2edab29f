"""The micro-batches of a step: made when they are asked for, or ahead, in a thread, while the step before runs.

Which rows a step reads is known as soon as the step before has counted its own. All draws are keyed, so rows that are
made ahead are the same. A cursor moves when rows are taken; so a checkpoint never knows of rows that nobody has read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import recursively_apply
from torch import Tensor

from pretraining.objectives.base import Batch, make_batch
from pretraining.training.config import PretrainConfig
from pretraining.training.loader import Cursor, TaskLoader
from pretraining.training.state import TrainState, budget_used, task_at
from zoo.dropout import row_keys
from zoo.errors import ZooError


class StepRows(NamedTuple):
    """Which rows a step reads, and in which parts: with the same data, equal ones make equal batches.

    Args:
        task: whose rows.
        step: number of the step, from 0; keys dropout.
        epoch: of the first row.
        offset: its place in the epoch's order.
        rows: of all processes.
        micro_batch_size: rows in one pass of one process; 0 = each process has its share of them in one.
    """

    task: str
    step: int
    epoch: int
    offset: int
    rows: int
    micro_batch_size: int

    @classmethod
    def next(
        cls, config: PretrainConfig, state: TrainState, micro_batch_size: int, data: Mapping[str, TaskLoader]
    ) -> StepRows:
        """Those of the step that comes after what ``state`` counts."""
        step, progress = state.counters.step, budget_used(config.train, state.counters)
        task = task_at(config.stages, list(config.tasks), step, progress, config.seed.data)
        cursor = state.cursors[task]
        if config.train.batch_tokens is not None:
            return cls(task, step, cursor.epoch, cursor.offset, data[task].batch_rows(cursor), 0)
        return cls(task, step, cursor.epoch, cursor.offset, config.train.batch_size, micro_batch_size)

    def shares(self, processes: int, rank: int) -> list[tuple[int, int]]:
        """First row of each pass of a process, and the row after its last one.

        Raises:
            ZooError: there are fewer rows than processes.
        """
        if self.micro_batch_size:
            size = self.micro_batch_size
            return [(first, first + size) for first in range(rank * size, self.rows, processes * size)]
        if self.rows < processes:
            raise ZooError(
                f"a batch of task {self.task!r} has {self.rows} rows for {processes} processes; raise "
                "train.batch_tokens, or start fewer processes."
            )
        return [(self.rows * rank // processes, self.rows * (rank + 1) // processes)]


class StepBatches(NamedTuple):
    """One process's micro-batches of a step.

    Args:
        batches: with dropout keys by global row.
        epoch: of the first row that is in them; an epoch that is read to its end passes on to the next.
        cursor: where the task's next rows are.
    """

    batches: list[Batch]
    epoch: int
    cursor: Cursor


class BatchMaker:
    """Makes the micro-batches of steps.

    Args:
        data: rows by task.
        accelerator: this process and its companions, who share the rows.
        seed: the run's ``seed.data``; keys dropout.
        prefetch: ``yes`` = make rows in a thread when :meth:`prepare` names them; ``no`` = when :meth:`take` asks for
            them; ``auto`` = in a thread beside a GPU, since on a CPU the step before needs the cores itself.

    Attributes:
        waited: seconds that :meth:`take` took so far.
    """

    def __init__(self, data: Mapping[str, TaskLoader], accelerator: Accelerator, seed: int, prefetch: str) -> None:
        self.data, self.accelerator, self.seed = data, accelerator, seed
        self.waited = 0.0
        ahead = prefetch == "yes" or (prefetch == "auto" and accelerator.device.type != "cpu")
        self._thread = ThreadPoolExecutor(1, "rows", self._enter) if ahead else None
        self._prepared: tuple[StepRows, Future[StepBatches]] | None = None

    def prepare(self, wanted: StepRows) -> None:
        """Begin to make the rows that :meth:`take` will be asked for next; an error is raised there."""
        if self._thread is not None:
            self._prepared = wanted, self._thread.submit(self._make, wanted)

    def take(self, wanted: StepRows) -> StepBatches:
        """The batches of a step; those that were made for another one are forgotten."""
        start, prepared, self._prepared = time.perf_counter(), self._prepared, None
        if prepared is not None and prepared[0] == wanted:
            made = prepared[1].result()
        else:
            if prepared is not None and not prepared[1].cancel():
                wait([prepared[1]])  # plans of epochs are made by one thread at a time
            made = self._make(wanted)
        self.waited += time.perf_counter() - start
        return made

    def _make(self, wanted: StepRows) -> StepBatches:
        data, cursor = self.data[wanted.task], Cursor(wanted.epoch, wanted.offset)
        taken = data.advance(cursor, wanted.rows)
        processes, rank, batches = self.accelerator.num_processes, self.accelerator.process_index, list[Batch]()
        for first, end in wanted.shares(processes, rank):
            batch = make_batch(data.parts(taken, first, end), data.objectives, data.pad)
            keys = row_keys(self.seed, wanted.step, np.arange(first, end))
            batches.append(self._pinned(batch._replace(inputs=batch.inputs._replace(dropout_keys=keys))))
        return StepBatches(batches, taken[0][0], cursor)

    def _enter(self) -> None:
        """Memory is pinned for the device that is current, and a thread begins with the first one."""
        if self.accelerator.device.type == "cuda":
            torch.cuda.set_device(self.accelerator.device)

    def _pinned(self, batch: Batch) -> Batch:
        """The batch in memory that a GPU copies from while it computes."""
        if self.accelerator.device.type != "cuda":
            return batch
        pinned: Batch = recursively_apply(Tensor.pin_memory, batch)
        return pinned
