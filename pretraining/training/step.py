"""The training step, from rows to new weights: micro-batches, global counts, loss, backward, clip, step.

Draws are keyed by seed, epoch, step and global row: a step is a function of weights, moments and :class:`TrainState`.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from pretraining.objectives.base import Batch, LossTerm, Objective
from pretraining.optim.gradients import clip_gradients
from pretraining.optim.learning_rate import Schedule
from pretraining.training.batches import BatchMaker, StepRows
from pretraining.training.checks import accumulation_of
from pretraining.training.config import PretrainConfig
from pretraining.training.loader import TaskLoader
from pretraining.training.model import PretrainingModel
from pretraining.training.state import TrainState, budget_used, stage_at
from zoo.attention.mixer import penalty_of
from zoo.runtime.signals import StopRequest


class StepResult(NamedTuple):
    """Learning rate, 0-d gradient norm (on the device), and whether any process was asked to stop."""

    lr: float
    gradient_norm: Tensor
    stopping: bool


class Trainer:
    """Takes training steps.

    Args:
        config: the run's.
        accelerator: this process and its companions.
        raw_model: the model; :attr:`model` is the same, wrapped for its processes.
        data: rows by task.
        optimizer: of the model's parameters.
        schedule: of the learning rate.
        state: how far the run is; every step moves it on.
    """

    def __init__(
        self,
        config: PretrainConfig,
        accelerator: Accelerator,
        raw_model: PretrainingModel,
        data: dict[str, TaskLoader],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        state: TrainState,
    ) -> None:
        self.config, self.accelerator, self.data, self.state = config, accelerator, data, state
        self.raw_model, self.optimizer, self.schedule = raw_model, optimizer, schedule
        self.model: nn.Module = raw_model
        sizes = config.train.batch_size, config.train.micro_batch_size
        self.micro_batch_size, self.accumulation = accumulation_of(*sizes, accelerator.num_processes)
        self.batches = BatchMaker(data, accelerator, config.seed.data, config.train.prefetch)

    def train_step(self, stop: StopRequest) -> StepResult:
        """One optimiser step."""
        config, counters, names = self.config, self.state.counters, list(self.config.objectives)
        progress, rows = budget_used(config.train, counters), self.next_rows()
        task = rows.task
        torch.manual_seed(config.seed.data * 1_000_003 + counters.step)  # for objectives that use torch's generator

        # This process's rows, and over all processes how many losses, tokens and operations they make.
        batches = self.micro_batches(rows)
        amounts = [float(sum(batch.counts.get(name, 0) for batch in batches)) for name in names]
        flops = sum(map(self.raw_model.flops, batches, self.state.memory_lengths(task, len(batches))))
        amounts += [sum(batch.tokens for batch in batches), flops, float(stop.asked)]
        *counted, tokens, flops, stopping = self.over_processes(torch.tensor(amounts, dtype=torch.float64)).tolist()
        counts = dict(zip(names, counted, strict=True))
        if config.stages is not None:
            counters.stage = stage_at(config.stages, progress)
            counters.tasks[task] = counters.tasks.get(task, 0) + 1
        counters.add_step(int(tokens), int(flops), counts)
        if budget_used(config.train, counters) < 1.0:  # the rest of this step is time to make the next one's rows
            self.batches.prepare(self.next_rows())

        lr = config.train.lr * self.schedule.factor(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        loss_sums = torch.zeros_like(self.state.log_window[:, 0])
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1  # gradients are exchanged once
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                terms = self.loss_terms(batch, task, number)
                price = penalty_of(self.raw_model.core) / self.accelerator.num_processes if last else 0.0
                loss = weighted_loss(terms, counts, config.objectives) + price
                self.accelerator.backward(loss * self.accelerator.num_processes)  # data parallelism averages
            for name, term in terms.items():
                loss_sums[names.index(name)] += term.total.detach()
        norm = clip_gradients(self.raw_model, config.train.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        numbers = torch.tensor(counted, dtype=loss_sums.dtype).to(loss_sums.device, non_blocking=True)
        self.state.log_window += torch.stack([self.over_processes(loss_sums), numbers], 1)
        return StepResult(lr, norm, stopping > 0)

    def next_rows(self) -> StepRows:
        """Those of the step after what the state counts."""
        return StepRows.next(self.config, self.state, self.micro_batch_size, self.data)

    def micro_batches(self, rows: StepRows) -> list[Batch]:
        """This process's micro-batches of a step; its task has read them now."""
        made = self.batches.take(rows)
        self.state.cursors[rows.task] = made.cursor
        if rows.task in self.state.recurrent:
            self.state.recurrent[rows.task].begin(made.epoch)
        return made.batches

    def loss_terms(self, batch: Batch, task: str, number: int) -> dict[str, LossTerm]:
        """Forward pass of micro-batch ``number``, which goes on from what the core remembers of its rows."""
        recurrent = self.state.recurrent.get(task)
        before = recurrent.states[number] if recurrent else None
        terms, after = self.model(send_to_device(batch, self.accelerator.device, non_blocking=True), before)
        if recurrent:
            recurrent.keep(number, after)
        return terms

    def over_processes(self, values: Tensor) -> Tensor:
        """Sums over processes."""
        if self.accelerator.num_processes == 1:
            return values
        return self.accelerator.reduce(values.to(self.accelerator.device), "sum")


def weighted_loss(terms: dict[str, LossTerm], counts: dict[str, float], objectives: dict[str, Objective]) -> Tensor:
    """The weighted sum of the terms, each divided by its global count where its objective's losses are averaged."""
    parts = []
    for name, term in terms.items():
        divisor = max(counts[name], 1.0) if objectives[name].normalise == "count" else 1.0
        parts.append(term.weight * term.total / divisor)
    return torch.stack(parts).sum()
