"""What training steps change beside weights and moments, as a checkpoint keeps it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretraining.carry import RecurrentState
from pretraining.loader import Cursor
from pretraining.record import Counters


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
            "carried_epochs": {name: kept.epoch for name, kept in self.recurrent.items()},
        }
        return values, tensors

    def unpack(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`pack` made; with the same settings it has the same shapes."""
        self.counters = Counters(**values["counters"])
        self.cursors = {name: Cursor(**value) for name, value in values["cursors"].items()}
        for task, kept in self.recurrent.items():
            own = {n.removeprefix(f"{task}."): t for n, t in tensors.items() if n.startswith(f"{task}.")}
            kept.unpack(own, values["carried_epochs"].get(task, 0))
        sums = [self.counters.log_window.get(name, [0.0, 0.0]) for name in self.objectives]
        self.log_window = torch.tensor(sums, dtype=torch.float64).to(self.log_window)
