"""One task, one seed: from a model folder and labelled rows to scores and predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.config import FinetuneSettings
from finetune.data.examples import TaskSplits
from finetune.data.tasks import Task
from finetune.inputs.batches import evaluation_batches, training_batches
from finetune.inputs.rows import Targets, TaskBatch
from finetune.kinds.base import Outputs
from finetune.models.task_model import FeatureModel, TaskModel
from finetune.results.report import RESULT, Result, stored_result, write_predictions
from finetune.training.prepared import PreparedTask, sequence_places
from pretraining.optim.learning_rate import WarmupDecay
from pretraining.optim.optimizers import parameter_groups
from zoo.errors import ZooError
from zoo.runtime.locks import run_lock
from zoo.runtime.processes import autocast, raise_on_all_ranks, to_device
from zoo.runtime.progress import Progress
from zoo.storage.files import write_json

MODEL = "model"
_EVALUATION_BATCH = 64
_SHOW_EVERY = 10  # steps between progress lines at most; reading the loss waits for a GPU


@dataclass(frozen=True)
class Processes:
    """The processes that share a run. The default is one process, and needs no launcher.

    Args:
        accelerator: accelerate's handle where a launcher started several.
    """

    accelerator: Any = None

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(self.accelerator.process_index) if self.accelerator else 0

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes) if self.accelerator else 1

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        if self.accelerator:
            return torch.device(self.accelerator.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def share(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes."""
        return self.accelerator.prepare(model) if self.world > 1 else model

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes."""
        return self.accelerator.reduce(value, reduction="sum") if self.world > 1 else value

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            self.accelerator.wait_for_everyone()


ALONE = Processes()


def finetune(
    model_folder: str | Path,
    task: Task,
    data: str | Path | TaskSplits[Any] | PreparedTask,
    seed: int,
    settings: FinetuneSettings,
    output: str | Path,
    progress: bool = True,
    processes: Processes = ALONE,
    save_model: bool = False,
) -> Result:
    """Fine-tune once and score on the development rows; a finished result in ``output`` is read back instead.

    Args:
        model_folder: a run folder with ``config.json``, ``model.safetensors`` and its tokenizer.
        task: its labels, columns and metrics.
        data: ``hub``, a folder in the official layout, rows already read, or all of it prepared.
        seed: keys the new weights, the order of the rows and dropout; independent of pretraining's seeds.
        settings: learning rate and the like (ignored where ``data`` is prepared: those are taken).
        output: folder of this task and seed: ``predictions.tsv`` and, last, ``result.json``.
        progress: show a line with rate and time left.
        processes: who shares the work.
        save_model: also write the fine-tuned model, as the model folder ``output/model``; where the result is finished
            but the model was not kept, it is trained again.

    Raises:
        ZooError: unusable model or data, ``output`` holds a result of something else, or another process
            writes there.
    """
    prepared = data if isinstance(data, PreparedTask) else PreparedTask(Path(model_folder), task, data, settings)
    output = Path(output)
    fingerprint = {**prepared.fingerprint, "seed": seed}
    stored = stored_result(output, fingerprint)
    if save_model and not (output / MODEL).exists():
        stored = None
    processes.wait()  # everybody has looked before anybody writes
    if stored is not None:
        return stored
    prepared.check(save_model)
    with _writer(output, processes):
        if processes.rank == 0:
            shutil.rmtree(output / MODEL, ignore_errors=True)  # left by a run that ended before its result was there
        model = prepared.model(seed).to(processes.device)
        prepared.keep_layers(model, processes.device)
        losses, steps = _train(
            model, prepared, seed, processes, Progress(f"{task.name} seed {seed}", progress and processes.rank == 0)
        )
        answers = predict(model, prepared, processes)
        result = _result(prepared, seed, answers, losses, steps, fingerprint)
        if isinstance(model, FeatureModel):
            result = dataclasses.replace(result, mixes=model.features.mixes.shares())
        if processes.rank == 0:
            written = prepared.kind.written(task, prepared.data.evaluation, answers)
            write_predictions(output / "predictions.tsv", *written)
            if save_model:
                prepared.save(model, output / MODEL)
            write_json(output / RESULT, dataclasses.asdict(result))
    processes.wait()
    return result


@contextlib.contextmanager
def _writer(folder: Path, processes: Processes) -> Iterator[None]:
    """The main process holds the folder's lock; where it cannot have it, all processes leave."""
    with contextlib.ExitStack() as stack:
        problem: ZooError | None = None
        if processes.rank == 0:
            try:
                stack.enter_context(run_lock(folder))
            except ZooError as error:
                problem = error
        if processes.world > 1:
            raise_on_all_ranks(processes.accelerator, problem)
        elif problem is not None:
            raise problem
        yield


def _train(
    model: TaskModel | FeatureModel, prepared: PreparedTask, seed: int, processes: Processes, progress: Progress
) -> tuple[list[float], int]:
    """Train in place; mean loss by epoch and number of steps."""
    settings, data = prepared.settings, prepared.train
    assert settings.epochs is not None
    targets = prepared.kind.count(data, np.arange(len(data)))
    per_epoch = math.ceil(len(data) / settings.batch_size)
    total, step = settings.epochs * per_epoch, 0
    optimizer = _optimizer(model, settings)
    schedule = WarmupDecay(warmup=settings.warmup, decay="linear", decay_from="warmup_end")
    shared = processes.share(model)
    shared.train()
    losses: list[float] = []
    for epoch in range(settings.epochs):
        summed, seen = torch.zeros((), device=processes.device), 0
        for rows in training_batches(data.lengths, settings.batch_size, seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * schedule.factor((step + 1) / (total + 1))
            summed += _step(shared, model, optimizer, prepared, rows, (seed, step), processes)
            seen += prepared.kind.count(data, rows[processes.rank :: processes.world])
            step += 1
            if step % _SHOW_EVERY == 0 or step == total:
                mean = float(summed) / max(seen, 1)  # over this process's own targets, which stand for all
                progress.show(step / total, f"step {step}/{total}  loss {mean:.3f}", last=step == total)
        losses.append(float(processes.total(summed)) / max(targets, 1))
        if not math.isfinite(losses[-1]):
            raise ZooError(f"the loss is no longer a number in epoch {epoch + 1} (lr = {settings.lr}); lower --lr.")
    return losses, step


def _optimizer(model: nn.Module, settings: FinetuneSettings) -> torch.optim.Optimizer:
    groups = parameter_groups(model.named_parameters(), settings.weight_decay, ["bias", "norm", "mixes"])
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.999), eps=1e-6, fused=True)


def _step(
    shared: nn.Module,
    model: TaskModel | FeatureModel,
    optimizer: torch.optim.Optimizer,
    prepared: PreparedTask,
    rows: NDArray[np.int64],
    key: tuple[int, int],
    processes: Processes,
) -> Tensor:
    """One step of ``model``, called through ``shared``; the summed loss of this process's rows."""
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
    optimizer, times = _optimizer(model, settings), list[float]()
    begun = time.perf_counter()
    for step, rows in enumerate(training_batches(prepared.train.lengths, settings.batch_size, seed, 0)):
        start = time.perf_counter()
        float(_step(model, model, optimizer, prepared, rows, (seed, step), ALONE))  # reading it waits for a GPU
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
    batch = prepared.batch("train", rows[places], keys)
    scores, targets = _forward(model, batch, prepared, processes.device)
    return weight * prepared.kind.loss(scores, targets)


def _forward(
    model: nn.Module, batch: TaskBatch, prepared: PreparedTask, device: torch.device
) -> tuple[Tensor, Targets]:
    """Scores of a batch's states, and its targets beside them."""
    with autocast(prepared.settings.precision, device):
        inputs, slots, targets = to_device(batch, device)
        scores: Tensor = model(inputs) if slots is None else model(inputs, slots)
    return scores.float(), targets


def predict(model: TaskModel | FeatureModel, prepared: PreparedTask, processes: Processes = ALONE) -> Sequence[Any]:
    """The kind's answers for the development examples, in their order."""
    data = prepared.evaluation
    model.eval()
    width = int(prepared.kind.head_config(prepared.task)["num_labels"])
    outputs = torch.zeros(int(data.outputs[-1]), width, device=processes.device)
    batches = evaluation_batches(data.lengths, _EVALUATION_BATCH)
    with torch.inference_mode():
        for rows in batches[processes.rank :: processes.world]:
            scores, _ = _forward(model, prepared.batch("evaluation", rows), prepared, processes.device)
            outputs[torch.from_numpy(data.outputs_of(rows)).to(outputs.device)] = scores
    found: Outputs = processes.total(outputs.clone()).cpu().double().numpy()
    return prepared.kind.answers(prepared.task, prepared.data.evaluation, data, found)


def _result(
    prepared: PreparedTask,
    seed: int,
    answers: Sequence[Any],
    losses: list[float],
    steps: int,
    fingerprint: dict[str, Any],
) -> Result:
    task, train, evaluation = prepared.task, prepared.train, prepared.evaluation
    kind, examples = prepared.kind, prepared.data
    floors = kind.floors(task, examples.train, examples.evaluation)
    return Result(
        task=task.name,
        seed=seed,
        scores=kind.scores(task, examples.evaluation, answers),
        majority=floors["majority"],
        train_rows=len(examples.train),
        eval_rows=len(examples.evaluation),
        classes_predicted=kind.distinct(answers),
        truncated=(train.truncated + evaluation.truncated) / (len(train) + len(evaluation)),
        steps=steps,
        train_loss=losses,
        fingerprint=fingerprint,
        marks_cut=train.sequences.marks_cut + evaluation.sequences.marks_cut,
        mentions=prepared.entities.mentions,
    )
