"""What training steps take on this machine, measured on steps that are thrown away: budgets of minutes, and estimates.

The steps are those of :class:`pretraining.training.step.Trainer`, on the run's own rows. Weights, the optimiser's
moments and the state of the run are afterwards what they were before, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from pretraining.optim.learning_rate import WarmupDecay
from pretraining.training.assemble import make_optimizer
from pretraining.training.config import PretrainConfig
from pretraining.training.loader import TaskLoader
from pretraining.training.model import PretrainingModel
from pretraining.training.state import TrainState
from pretraining.training.step import Trainer
from zoo.runtime.signals import StopRequest

WARM_UP_STEPS = 3
"""Steps that are not counted: the first ones allocate memory, and compile where a run is compiled."""
MEASURED_STEPS = 10
"""Steps whose mean time turns minutes into steps; fewer, but one, where they would take a tenth of the minutes."""
_SHARE = 0.1
_MOST_STEPS = 200  # of one size


def make_trainer(
    config: PretrainConfig, accelerator: Accelerator, model: PretrainingModel, data: dict[str, TaskLoader]
) -> Trainer:
    """What takes a run's steps, before the first of them.

    Args:
        config: the run's.
        accelerator: this process and its companions.
        model: on its device.
        data: rows by task.
    """
    schedule = config.train.schedule or WarmupDecay()
    schedule.begin([0.0, *sorted(stage.until for stage in (config.stages or {}).values())[:-1]])
    state = TrainState.first(config, data, accelerator)
    return Trainer(config, accelerator, model, data, make_optimizer(config.train, model), schedule, state)


# ---- measured steps --------------------------------------------------------------------------------------------------


class MeasuredSteps(NamedTuple):
    """Steps of one size.

    Args:
        seconds: of each step.
        tokens: non-padding input tokens of a step, on average over the steps, of all processes.
        flops: operations of the matrix products, likewise.
    """

    seconds: list[float]
    tokens: float
    flops: float

    @property
    def mean(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds) / len(self.seconds)


@contextlib.contextmanager
def _thrown_away(trainer: Trainer) -> Iterator[None]:
    """Steps within the block leave no trace."""
    kept = trainer.config, trainer.state, trainer.micro_batch_size, trainer.accumulation
    weights = {name: tensor.detach().cpu().clone() for name, tensor in trainer.raw_model.state_dict().items()}
    moments = copy.deepcopy(trainer.optimizer.state_dict())
    try:
        yield
    finally:
        trainer.config, trainer.state, trainer.micro_batch_size, trainer.accumulation = kept
        trainer.raw_model.load_state_dict(weights)
        trainer.optimizer.load_state_dict(moments)
        trainer.optimizer.zero_grad(set_to_none=True)


def take_steps(trainer: Trainer, count: int) -> MeasuredSteps:
    """A whole run of so many steps from its first row, so that its stages have their shares of them.

    Args:
        trainer: takes them; weights and moments change.
        count: how many.
    """
    accelerator, seconds = trainer.accelerator, list[float]()
    trainer.config = trainer.config.with_steps(count)
    trainer.state = TrainState.first(trainer.config, trainer.data, accelerator)
    for _ in range(count):
        _wait(accelerator.device)
        start = time.perf_counter()
        trainer.train_step(StopRequest())
        _wait(accelerator.device)
        seconds.append(time.perf_counter() - start)
    if accelerator.num_processes > 1:  # all of them go by the slowest, and so take the same decisions
        times = torch.tensor([seconds], dtype=torch.float32, device=accelerator.device)
        seconds = accelerator.gather(times).max(dim=0).values.tolist()
    counters = trainer.state.counters
    return MeasuredSteps(seconds, counters.tokens / count, counters.flops / count)


def _wait(device: torch.device) -> None:
    """Until the device has done what it was asked to."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def _filling_steps(trainer: Trainer) -> int:
    """Steps after which a memory of earlier rows is full: until then steps cost less, and have other shapes."""
    remembered = trainer.raw_model.core.config.mem_len or 0
    return math.ceil(remembered / trainer.config.data.sequence_length)


def minutes_in_steps(trainer: Trainer, minutes: float) -> dict[str, Any]:
    """How many steps minutes make, and how that was measured, as ``run.json`` keeps it; every process takes part.

    Args:
        trainer: of a run before its first step.
        minutes: of training steps, without what comes before, between and after them.
    """
    filling = _filling_steps(trainer)
    with _thrown_away(trainer):
        if trainer.raw_model.compiled is not None:  # all shapes of the measured steps are compiled before
            take_steps(trainer, filling + MEASURED_STEPS)
        warm = min(take_steps(trainer, filling + WARM_UP_STEPS).seconds)
        count = min(MEASURED_STEPS, max(1, int(_SHARE * 60 * minutes / warm)))
        measured = take_steps(trainer, filling + count).seconds[filling:]
        seconds = sum(measured) / count
    return {
        "minutes": minutes,
        "steps": max(1, round(60 * minutes / seconds)),
        "seconds_per_step": seconds,
        "warm_up_steps": WARM_UP_STEPS,
        "measured_steps": count,
        "processes": trainer.accelerator.num_processes,
    }


# ---- an estimate for any batch ---------------------------------------------------------------------------------------


class StepCost(NamedTuple):
    """What a step takes by its rows, fitted to measured steps: a fixed part (the optimiser's), and one for each row.

    Args:
        fixed: seconds of a step, whatever its rows.
        per_row: seconds of a row of a process.
        tokens: non-padding input tokens of a row.
        flops: operations of the matrix products of a row.
        passes: by rows in one forward pass, seconds of a step of one pass.
        spread: by how much steps of one size differ, as a share of their time.
        memory: by rows in one pass, bytes at their peak; empty where the device does not say.
    """

    fixed: float
    per_row: float
    tokens: float
    flops: float
    passes: dict[int, float]
    spread: float
    memory: dict[int, int]

    def seconds(self, rows: int, micro: int) -> float:
        """Of a step of one process on ``rows`` rows, ``micro`` in one pass."""
        if rows in self.passes and micro == rows:
            return self.passes[rows]
        return self.fixed + rows * self._of_row(micro)

    def _of_row(self, micro: int) -> float:
        """Seconds of a row in a pass of so many; the largest measured pass stands for larger ones."""
        if micro in self.passes:
            return max(self.passes[micro] - self.fixed, 0.0) / micro
        return self.per_row

    def best_micro(self, allowed: list[int]) -> int:
        """Of numbers of rows, the smallest whose passes cost little more for a row than the cheapest.

        The fixed part counts for every pass here: how much of it is the pass's own was not measured.
        """
        costs = {rows: self.passes[rows] / rows for rows in allowed if rows in self.passes}
        return min((n for n, cost in costs.items() if cost <= 1.05 * min(costs.values())), default=min(allowed))


def measure_costs(trainer: Trainer, seconds: float, most: int, every: bool = False) -> StepCost:
    """Measure steps of one pass on one row and on the most rows that the time allows, and those again while it lasts.

    Args:
        trainer: of a run before its first step.
        seconds: about how long; two sizes are measured in any case, since one does not tell what a row costs.
        most: rows of the largest pass.
        every: measure all sizes between, each twice the one before, as long as the time allows.
    """
    processes, device = trainer.accelerator.num_processes, trainer.accelerator.device
    found, memory, end = dict[int, MeasuredSteps](), dict[int, int](), time.perf_counter() + seconds
    sizes = sorted({2**power for power in range(most.bit_length()) if 2**power < most} | {most})
    filling = _filling_steps(trainer)
    with _thrown_away(trainer):
        while sizes:
            rows = sizes.pop(0)
            _of_one_pass(trainer, rows, processes)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                warm = take_steps(trainer, 1).seconds[0]
                left = end - time.perf_counter()
                # A row costs no more in a larger pass: so much at most the three steps of the next size take.
                payable = [size for size in sizes if 3 * warm * size / rows <= left + seconds / 2]
                sizes = sizes[: len(payable)] if found or payable else sizes[:1]
                sizes = sizes if every else sizes[-1:]
                count = 2 if sizes else max(1, min(int(left / warm), _MOST_STEPS))
                taken = take_steps(trainer, filling + count)
                found[rows] = taken._replace(seconds=taken.seconds[filling:])
            except torch.OutOfMemoryError:
                if not found:
                    raise
                break
            if device.type == "cuda":
                memory[rows] = torch.cuda.max_memory_allocated()
    return _fitted(found, memory, processes)


def _of_one_pass(trainer: Trainer, rows: int, processes: int) -> None:
    """Let a trainer take steps of one pass of so many rows in each process."""
    trainer.micro_batch_size, trainer.accumulation = rows, 1
    made = copy.copy(trainer.config)
    train = dataclasses.replace(made.train, batch_size=rows * processes, batch_tokens=None, micro_batch_size=rows)
    object.__setattr__(made, "train", train)
    trainer.config = made


def _fitted(found: dict[int, MeasuredSteps], memory: dict[int, int], processes: int) -> StepCost:
    """A line through what was measured, neither part of it below nothing."""
    largest = max(found)
    passes = {rows: float(np.median(steps.seconds)) for rows, steps in found.items()}
    per_row, fixed = passes[largest] / largest, 0.0
    if len(passes) > 1:
        slope, start = np.polyfit(list(passes), list(passes.values()), 1)
        fixed = min(max(float(start), 0.0), 0.5 * min(passes.values()))  # where noise bends the line, a row costs still
        per_row = float(slope) if slope > 0 else (passes[largest] - fixed) / largest
    times, all_rows = found[largest].seconds, largest * processes
    error = float(np.std(times)) / math.sqrt(len(times)) / passes[largest] if len(times) > 1 else 0.5
    cost = found[largest]
    return StepCost(fixed, per_row, cost.tokens / all_rows, cost.flops / all_rows, passes, error, memory)
