"""How far a run is: what its steps change beside weights and moments, and which stage and task that makes of a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from pretraining.keyed_random import Draw
from pretraining.training.checks import accumulation_of
from pretraining.training.config import PretrainConfig, StageConfig, TrainConfig
from pretraining.training.loader import Cursor, TaskLoader
from pretraining.training.record import Counters
from zoo.errors import ZooError
from zoo.runtime.processes import sums_type

_SOME_ROWS = 64  # whose lengths tell how many steps a budget of tokens makes
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio

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


# --- which stage and task a step belongs to, by the share of the budget that is used up ---------------


def budget_used(train: TrainConfig, counters: Counters) -> float:
    """Share of the budget that is used up: of steps, tokens or operations, whichever the settings give.

    A run turns a budget of minutes into steps before its first one.
    """
    if train.steps is not None:
        return counters.step / train.steps
    if train.tokens is not None:
        return counters.tokens / train.tokens
    assert train.flops is not None
    return counters.flops / train.flops


def planned_steps(train: TrainConfig, data: TaskLoader) -> str:
    """How many steps the budget makes, as far as that is known before the first: from the settings, or from some rows.

    Args:
        train: the budget and the batch.
        data: rows of the first task.
    """
    if train.steps is not None:
        return f"{train.steps:,}"
    if train.tokens is None:
        return ""
    count = len(data.plan(0)[0])
    rows, _ = data.rows(0, np.arange(min(_SOME_ROWS, count)))
    tokens = rows.lengths.mean() + rows.targets.get("target_lengths", np.zeros(1)).mean()
    of_step = train.batch_size if train.batch_tokens is None else count / data.num_batches(0)
    return f"about {math.ceil(train.tokens / (float(tokens) * of_step)):,}"


def stage_at(stages: dict[str, StageConfig], progress: float) -> str:
    """The stage of a step that begins at this share of the budget."""
    ordered = sorted(stages, key=lambda name: stages[name].until)
    return next((name for name in ordered if progress < stages[name].until), ordered[-1])


def task_at(stages: dict[str, StageConfig] | None, tasks: list[str], step: int, progress: float, seed: int) -> str:
    """The task of a step: the same answer in every process and after every resume.

    Steps go round a circle that the tasks divide by their shares, each a golden section of it from the one before, from
    a place that the seed draws. So every stretch of steps, whenever it begins, has its shares but for a few steps,
    where independent draws would miss them by the root of their number.
    """
    if stages is None:
        return tasks[0]
    stage = stages[stage_at(stages, progress)]
    names, shares = list(stage.tasks), np.cumsum(list(stage.tasks.values()))
    begin = int(Draw(seed, 0).keys(np.zeros(1, dtype=np.int64), "task")[0])
    point = (begin + step * _GOLDEN) % 2**64 / 2**64
    return names[int(np.searchsorted(shares[:-1], point * shares[-1], side="right"))]


def idle_notes(config: PretrainConfig) -> list[str]:
    """Lines on what is probably not meant: stages that get no step, and what objectives say of the model."""
    lines = [f"note: {line}" for o in config.objectives.values() for line in o.notes(config.model)]
    if not (idle := config.idle_stages()):
        return lines
    ends = f"{', '.join(idle)} {'gets' if len(idle) == 1 else 'get'} no step of {config.train.steps}"
    return [*lines, f"note: {ends}: more steps (train.steps), or other ends of the stages (until), would change that."]
