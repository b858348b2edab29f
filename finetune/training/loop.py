"""The loop that fine-tunes: steps, rows held back to stop by, checkpoints that a killed training goes on from."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.config import FinetuneSettings
from finetune.inputs.batches import evaluation_batches, training_batches
from finetune.inputs.rows import Targets, TaskBatch, sequence_places
from finetune.kinds.base import Outputs
from finetune.models.adapt import rate_groups
from finetune.models.task_model import JointModel
from finetune.training.prepared import AnyTaskModel, Part, PreparedTask
from finetune.training.processes import ALONE, Processes
from pretraining.keyed_random import Draw
from pretraining.optim.learning_rate import WarmupDecay
from pretraining.training.checkpoint import find_checkpoint, load_average, load_checkpoint, save_checkpoint
from zoo.errors import ZooError
from zoo.runtime.processes import autocast, to_device
from zoo.runtime.progress import Progress

EVALUATION_BATCH = 64
"""Rows that are scored or answered at once."""
_SHOW_EVERY = 10  # steps between progress lines at most; reading the loss waits for a GPU


class DivergedError(ZooError):
    """The loss of a training is no longer a number."""


@dataclass
class LoopState:
    """Where a training stands.

    Args:
        step: optimiser steps done.
        summed: summed loss of the running epoch, over all processes.
        losses: mean loss of each epoch that is done, per target.
        held_scores: primary metric of each epoch on what is held back, where something is.
    """

    step: int = 0
    summed: float = 0.0
    losses: list[float] = field(default_factory=list)
    held_scores: list[float] = field(default_factory=list)

    @property
    def best_epoch(self) -> int | None:
        """The first epoch with the best score, counted from 1."""
        return 1 + int(np.argmax(self.held_scores)) if self.held_scores else None


@dataclass
class Checkpoints:
    """Checkpoints of one training, for as long as it lasts.

    Args:
        folder: of this task and seed.
        fingerprint: what decides the result; a checkpoint of something else is not read.
        minutes: how often one is written; 0 = never.
    """

    folder: Path
    fingerprint: dict[str, Any]
    minutes: float
    last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time for one."""
        return self.minutes > 0 and time.monotonic() - self.last >= 60 * self.minutes

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: LoopState, best: dict[str, Tensor], main: bool
    ) -> None:
        """Write one, in the main process."""
        if main:
            told = {"loop": asdict(state), "fingerprint": self.fingerprint}
            save_checkpoint(self.folder, state.step, model, optimizer, told, keep=1, average=best)
        self.last = time.monotonic()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, best: dict[str, Tensor]) -> LoopState:
        """Fill model, optimiser and the best epoch's weights from the newest; an empty state where there is none."""
        found = find_checkpoint(self.folder)
        if found is None:
            return LoopState()
        told = load_checkpoint(found, model, optimizer)
        if told["fingerprint"] != self.fingerprint:
            raise ZooError(
                f"{self.folder} holds a training of other weights, rows or settings that was not finished. Give "
                "another --output, or delete that folder."
            )
        best.update(load_average(found, model))
        return LoopState(**told["loop"])


class Course(NamedTuple):
    """The tasks that one training goes through, and in which order; for one task, its own batches.

    Of several tasks, each batch is of one. An epoch has as many batches as all tasks have, a task of more rows than
    ``cap`` counting as ``cap`` rows; of these each task gets a share by the power ``power`` of its batches, at least
    one. What an epoch leaves of a task's rows the next one goes on with. Their order is drawn.

    Args:
        tasks: in order; the first one's settings are those of the training.
    """

    tasks: Sequence[PreparedTask]

    @property
    def settings(self) -> FinetuneSettings:
        """Rate, epochs and the like."""
        return self.tasks[0].settings

    def shares(self) -> list[int]:
        """Batches of each task in an epoch."""
        size, mixing = self.settings.batch_size, self.settings.mixing
        own = [math.ceil(len(task.train) / size) for task in self.tasks]
        if len(own) == 1:
            return own
        capped = [min(count, math.ceil(mixing.cap / size)) if mixing.cap else count for count in own]
        weights = np.array(capped, float) ** mixing.power
        return [max(1, round(sum(capped) * share)) for share in (weights / weights.sum()).tolist()]

    def epoch(self, seed: int, epoch: int) -> list[tuple[PreparedTask, NDArray[np.int64]]]:
        """The task and the rows of each step, a pure function of the arguments."""
        size = self.settings.batch_size
        if len(self.tasks) == 1:
            return [(self.tasks[0], rows) for rows in training_batches(self.tasks[0].train.lengths, size, seed, epoch)]
        found = list[tuple[PreparedTask, NDArray[np.int64]]]()
        for task, share in zip(self.tasks, self.shares(), strict=True):
            whole, passes = math.ceil(len(task.train) / size), dict[int, list[NDArray[np.int64]]]()
            for at in range(epoch * share, (epoch + 1) * share):
                if at // whole not in passes:
                    passes[at // whole] = training_batches(task.train.lengths, size, seed, at // whole)
                found.append((task, passes[at // whole][at % whole]))
        return [found[at] for at in Draw(seed, epoch).permutation(len(found), "finetune.tasks")]

    def count(self, steps: Sequence[tuple[PreparedTask, NDArray[np.int64]]]) -> int:
        """What the summed losses of an epoch are divided by."""
        if len(self.tasks) == 1:
            data = self.tasks[0].train
            return max(self.tasks[0].kind.count(data, np.arange(len(data))), 1)
        return max(sum(task.kind.count(task.train, rows) for task, rows in steps), 1)


def train(
    model: AnyTaskModel | JointModel,
    trained: Course | PreparedTask,
    seed: int,
    processes: Processes,
    progress: Progress,
    checkpoints: Checkpoints | None = None,
) -> LoopState:
    """Train in place, for all epochs or until what is held back says that nothing is gained.

    Args:
        model: of one task, or of all tasks of a course.
        trained: the task, or the course.
        seed: of the rows' order and of dropout.
        processes: who shares the work.
        progress: shows loss and time left.
        checkpoints: what a killed training goes on from.

    Raises:
        DivergedError: the loss is no longer a number.
        ZooError: a checkpoint of another training is there.
    """
    course = trained if isinstance(trained, Course) else Course((trained,))
    settings = course.settings
    assert settings.epochs is not None
    per_epoch = sum(course.shares())
    total = settings.epochs * per_epoch
    optimizer = task_optimizer(model, settings)
    schedule = WarmupDecay(warmup=settings.warmup, decay="linear", decay_from="warmup_end")
    best: dict[str, Tensor] = {}
    state = LoopState() if checkpoints is None else checkpoints.load(model, optimizer, best)
    shared = processes.share(model, several=len(course.tasks) > 1)
    shared.train()
    while state.step < total and not _stopped(state, settings.patience):
        epoch, done = divmod(state.step, per_epoch)
        summed, seen = torch.zeros((), device=processes.device), 0
        steps = course.epoch(seed, epoch)
        for prepared, rows in steps[done:]:
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * group.get("rate", 1.0) * schedule.factor((state.step + 1) / (total + 1))
            summed += take_step(shared, model, optimizer, prepared, rows, (seed, state.step), processes)
            seen += prepared.kind.count(prepared.train, rows[processes.rank :: processes.world])
            state.step += 1
            if state.step % _SHOW_EVERY == 0 or state.step == total:
                mean = float(summed) / max(seen, 1)  # over this process's own targets, which stand for all
                last = state.step == total
                progress.show(state.step / total, f"step {state.step}/{total}  loss {mean:.3f}", last=last)
            if checkpoints and state.step % per_epoch and processes.any(processes.rank == 0 and checkpoints.due()):
                state.summed += float(processes.total(summed))
                summed.zero_()
                checkpoints.save(model, optimizer, state, best, processes.rank == 0)
        _end_epoch(state, float(processes.total(summed)), course.count(steps), settings.lr)
        if settings.patience is not None:
            _judge(model, course.tasks[0], state, best, processes)
            shared.train()
        if checkpoints and processes.any(processes.rank == 0 and checkpoints.due()):
            checkpoints.save(model, optimizer, state, best, processes.rank == 0)
    _restore(model, best)
    return state


def _restore(model: nn.Module, best: dict[str, Tensor]) -> None:
    """Put the weights of the best epoch back, where some were kept."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in best:
                parameter.copy_(best[name])


def _end_epoch(state: LoopState, summed: float, count: int, lr: float) -> None:
    """Note an epoch's mean loss, which must be a number."""
    state.losses.append((state.summed + summed) / count)
    state.summed = 0.0
    if not math.isfinite(state.losses[-1]):
        raise DivergedError(f"the loss is no longer a number in epoch {len(state.losses)} (lr = {lr}); lower --lr.")


def _judge(
    model: AnyTaskModel | JointModel,
    prepared: PreparedTask,
    state: LoopState,
    best: dict[str, Tensor],
    processes: Processes,
) -> None:
    """Score an epoch on what is held back; keep its weights where it is the best so far."""
    answers = predict(model, prepared, processes, "validation")
    scores = prepared.kind.scores(prepared.task, prepared.parts["validation"], answers)
    state.held_scores.append(next(iter(scores.values())))
    if state.best_epoch == len(state.held_scores):
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        best.update({name: parameter.detach().clone() for name, parameter in trained.items()})


def _stopped(state: LoopState, patience: int | None) -> bool:
    """Whether so many epochs went by without a better score."""
    best = state.best_epoch
    return patience is not None and best is not None and len(state.held_scores) - best >= patience


def task_optimizer(model: nn.Module, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """AdamW over what is trained."""
    groups = rate_groups(model, settings.weight_decay, settings.layer_decay)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.999), eps=1e-6, fused=True)


def take_step(
    shared: nn.Module,
    model: AnyTaskModel | JointModel,
    optimizer: torch.optim.Optimizer,
    prepared: PreparedTask,
    rows: NDArray[np.int64],
    key: tuple[int, int],
    processes: Processes,
) -> Tensor:
    """One step of ``model``, called through ``shared``; the summed loss of this process's rows."""
    if isinstance(model, JointModel):
        model.task = prepared.task.name
    loss = step_loss(shared, prepared, rows, key, processes)
    optimizer.zero_grad()
    # DDP averages: times world makes it the global mean; what comes on top is the same in every process.
    count = max(prepared.kind.count(prepared.train, rows), 1)
    (loss * (processes.world / count) + model.penalty()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), prepared.settings.grad_clip)
    optimizer.step()
    return loss.detach()


def measured_step(prepared: PreparedTask, seed: int, most: float) -> float:
    """Seconds of a training step on this machine: a mean over steps that are thrown away, on the first epoch's rows.

    Args:
        prepared: the task.
        seed: of the rows' order.
        most: about how many seconds it measures; the first step warms up, and one is counted in any case.
    """
    model, settings = prepared.model(seed).to(ALONE.device).train(), prepared.settings
    optimizer, times = task_optimizer(model, settings), list[float]()
    begun = time.perf_counter()
    for step, rows in enumerate(training_batches(prepared.train.lengths, settings.batch_size, seed, 0)):
        start = time.perf_counter()
        float(take_step(model, model, optimizer, prepared, rows, (seed, step), ALONE))  # reading it waits for a GPU
        times.append(time.perf_counter() - start)
        if step and time.perf_counter() - begun >= most:
            break
    counted = times[1:] or times
    return sum(counted) / len(counted)


def step_loss(
    model: nn.Module, prepared: PreparedTask, rows: NDArray[np.int64], key: tuple[int, int], processes: Processes
) -> Tensor:
    """Summed loss of this process's share of a global batch.

    Rows go round robin; a process left without one computes the first row with weight 0, because every process
    must take part in the exchange of gradients.
    """
    places = np.arange(len(rows))[processes.rank :: processes.world]
    weight = 1.0 if len(places) else 0.0
    places = places if len(places) else np.zeros(1, dtype=np.int64)
    keys = (*key, sequence_places(prepared.train, rows, places))
    scores, targets = _forward(model, prepared.batch("train", rows[places], keys), prepared, processes.device)
    if not prepared.settings.lm_weight:
        return weight * prepared.kind.loss(scores, targets)
    loss = prepared.kind.loss(scores[:, :-1], targets) + prepared.settings.lm_weight * scores[:, -1].sum()
    return weight * loss


def _forward(
    model: nn.Module, batch: TaskBatch, prepared: PreparedTask, device: torch.device
) -> tuple[Tensor, Targets]:
    """Scores of a batch's states, and its targets beside them."""
    with autocast(prepared.settings.precision, device):
        inputs, slots, targets = to_device(batch, device)
        scores: Tensor = model(inputs) if slots is None else model(inputs, slots)
    return scores.float(), targets


def predict(
    model: AnyTaskModel | JointModel, prepared: PreparedTask, processes: Processes = ALONE, part: Part = "evaluation"
) -> Sequence[Any]:
    """The kind's answers for the examples of a part, in their order."""
    if isinstance(model, JointModel):
        model = model.of((prepared.leader or prepared).task.name)
    data = prepared.rows(part)
    model.eval()
    width = int(prepared.kind.head_config(prepared.task)["num_labels"])
    outputs = torch.zeros(int(data.outputs[-1]), width, device=processes.device)
    batches = evaluation_batches(data.lengths, EVALUATION_BATCH)
    with torch.inference_mode():
        for rows in batches[processes.rank :: processes.world]:
            scores, _ = _forward(model, prepared.batch(part, rows), prepared, processes.device)
            outputs[torch.from_numpy(data.outputs_of(rows)).to(outputs.device)] = scores
    found: Outputs = processes.total(outputs.clone()).cpu().double().numpy()
    return prepared.kind.answers(prepared.task, prepared.parts[part], data, found)
