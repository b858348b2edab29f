"""What training steps change beside weights and moments, as a checkpoint keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pretraining.training.checks import accumulation_of
from pretraining.training.config import PretrainConfig
from pretraining.training.loader import Cursor, TaskLoader
from pretraining.training.record import Counters
from zoo.errors import ZooError
from zoo.runtime.processes import sums_type

State = dict[str, Tensor]
"""Named tensors, the batch first."""


# --- what the core remembers -----------------------------------------------------------------------


class RecurrentState:
    """What the core remembers of the rows of one task, from step to step.

    Args:
        slices: accumulation steps; each has rows of its own.
        accelerator: this process and its companions.
    """

    def __init__(self, slices: int, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.states: list[State | None] = [None] * slices
        self.epoch = 0

    def begin(self, epoch: int) -> None:
        """Before a step on an epoch's rows: a new epoch starts with nothing remembered."""
        if epoch != self.epoch:
            self.states = [None] * len(self.states)
        self.epoch = epoch

    @property
    def lengths(self) -> list[int]:
        """Tokens that each slice remembers, so that attention looks at them."""
        return [state["memory_0"].shape[1] if state and "memory_0" in state else 0 for state in self.states]

    def keep(self, number: int, state: State | None) -> None:
        """What slice ``number`` remembers for its next rows; gradients end here."""
        self.states[number] = None if not state else {name: tensor.detach() for name, tensor in state.items()}

    def pack(self) -> State:
        """(B, ...) tensors in the order of global rows; every process takes part."""
        parts = [state for state in self.states if state is not None]
        if not parts:
            return {}
        gathered = [{n: self.accelerator.gather(t.contiguous()) for n, t in part.items()} for part in parts]
        return {name: torch.cat([part[name] for part in gathered]) for name in parts[0]}

    def unpack(self, tensors: State, epoch: int) -> None:
        """Take this process's share of what :meth:`pack` made.

        Raises:
            ZooError: the rows cannot be shared out over these slices and processes.
        """
        self.epoch = epoch
        if not tensors:
            return
        slices, processes = len(self.states), self.accelerator.num_processes
        rows = len(next(iter(tensors.values())))
        if rows % (slices * processes):
            raise ZooError(
                f"the checkpoint remembers {rows} rows, which {processes} processes with {slices} accumulation steps "
                "cannot share; take another number of processes, or another train.micro_batch_size."
            )
        rank, device = self.accelerator.process_index, self.accelerator.device
        shared = {n: t.view(slices, processes, -1, *t.shape[1:])[:, rank].to(device) for n, t in tensors.items()}
        self.states = [{name: tensor[number].clone() for name, tensor in shared.items()} for number in range(slices)]


# --- all of it -------------------------------------------------------------------------------------


@dataclass
class TrainState:
    """How far a run is.

    Args:
        objectives: their names, in the order of ``log_window``.
        counters: steps, tokens, operations and targets so far.
        cursors: how far each task has read.
        recurrent: what the core remembers from step to step, by task; of tasks that read on from row to row only.
        log_window: (objectives, 2) float64 sums of losses and numbers of targets since the last log line. They stay
            on the device, because reading them would stop a GPU at every step.
    """

    objectives: list[str]
    counters: Counters
    cursors: dict[str, Cursor]
    recurrent: dict[str, RecurrentState]
    log_window: Tensor

    @classmethod
    def first(cls, config: PretrainConfig, data: Mapping[str, TaskLoader], accelerator: Accelerator) -> TrainState:
        """Nothing is read, nothing is remembered."""
        names, train = list(config.objectives), config.train
        _, slices = accumulation_of(train.batch_size, train.micro_batch_size, accelerator.num_processes)
        contiguous = [name for name, rows in data.items() if rows.layout.order == "contiguous"]
        return cls(
            objectives=names,
            counters=Counters(targets=dict.fromkeys(names, 0)),
            cursors={name: Cursor() for name in config.tasks},
            recurrent={name: RecurrentState(slices, accelerator) for name in contiguous},
            log_window=torch.zeros(len(names), 2, dtype=sums_type(accelerator.device), device=accelerator.device),
        )

    def memory_lengths(self, task: str, micro_batches: int) -> list[int]:
        """Tokens before its rows that each micro-batch of a task looks at."""
        kept = self.recurrent.get(task)
        return [0] * micro_batches if kept is None else kept.lengths

    def read_log_window(self) -> bool:
        """The device's sums into the counters; False where one of them is not finite."""
        sums = dict(zip(self.objectives, self.log_window.tolist(), strict=True))
        self.counters.log_window = {name: values for name, values in sums.items() if values[1]}
        return bool(torch.isfinite(self.log_window).all())

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Values for JSON, and tensors by name; every process takes part."""
        tensors = {f"{t}.{n}": v for t, kept in self.recurrent.items() for n, v in kept.pack().items()}
        values = {
            "counters": dataclasses.asdict(self.counters),
            "cursors": {name: dataclasses.asdict(cursor) for name, cursor in self.cursors.items()},
            "recurrent_epochs": {name: kept.epoch for name, kept in self.recurrent.items()},
        }
        return values, tensors

    def unpack(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`pack` made; with the same settings it has the same shapes."""
        self.counters = Counters(**values["counters"])
        self.cursors = {name: Cursor(**value) for name, value in values["cursors"].items()}
        for task, kept in self.recurrent.items():
            own = {n.removeprefix(f"{task}."): t for n, t in tensors.items() if n.startswith(f"{task}.")}
            kept.unpack(own, values["recurrent_epochs"].get(task, 0))
        sums = [self.counters.log_window.get(name, [0.0, 0.0]) for name in self.objectives]
        self.log_window = torch.tensor(sums, dtype=torch.float64).to(self.log_window)
