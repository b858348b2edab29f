"""One task, one seed: from a model folder and labelled rows to scores and predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.config import FinetuneSettings
from finetune.data.examples import TaskSplits
from finetune.data.tasks import Task
from finetune.models.adapt import merge_lora
from finetune.models.task_model import FeatureModel, TaskModel
from finetune.results.report import RESULT, TIMING, Result, stored_result, write_predictions
from finetune.training.loop import Checkpoints, LoopState, predict, train
from finetune.training.prepared import PreparedTask
from finetune.training.processes import ALONE, Processes
from finetune.training.tested import is_answered, write_answers
from zoo.errors import ZooError
from zoo.model_folder import model_digest
from zoo.runtime.locks import run_lock
from zoo.runtime.processes import peak_memory, raise_on_all_ranks
from zoo.runtime.progress import Progress
from zoo.storage.files import write_json

MODEL = "model"


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
    checkpoint_minutes: float = 0.0,
    start: Path | None = None,
    also: Sequence[tuple[PreparedTask, Path]] = (),
) -> Result:
    """Fine-tune once and score on the development rows; a finished result in ``output`` is read back instead.

    Args:
        model_folder: a run folder with ``config.json``, ``model.safetensors`` and its tokenizer.
        task: its labels, columns and metrics.
        data: ``hub``, a folder in the official layout, rows already read, or all of it prepared.
        seed: keys the new weights, the order of the rows and dropout; independent of pretraining's seeds.
        settings: learning rate and the like (ignored where ``data`` is prepared: those are taken).
        output: folder of this task and seed: ``predictions.tsv``, ``result.json``, and ``test`` for prepared test rows.
        progress: show a line with rate and time left.
        processes: who shares the work.
        save_model: also write the fine-tuned model, as the model folder ``output/model``; where the result is finished
            but the model was not kept, it is trained again.
        checkpoint_minutes: how often a checkpoint is written, from which a killed training resumes; 0 = never.
        start: folder of a model that was fine-tuned on another task (``settings.from_task``), whose core this one
            starts from.
        also: tasks that this one's model answers, each with its folder. Their scores, and the answers for test rows of
            all where those are prepared, are written; where some are missing, it is trained again.

    Raises:
        ZooError: unusable model or data, ``output`` holds a result of something else, or another process
            writes there.
    """
    prepared = data if isinstance(data, PreparedTask) else PreparedTask(Path(model_folder), task, data, settings)
    output = Path(output)
    fingerprint = fingerprint_of(prepared, seed, start)
    stored = stored_result(output, fingerprint)
    family = [(prepared, output), *also]
    done = all(is_answered(one, place, fingerprint_of(one, seed, start)) for one, place in family)
    if not done or (save_model and not (output / MODEL).exists()):
        stored = None
    processes.wait()  # everybody has looked before anybody writes
    if stored is not None:
        return stored
    prepared.check()
    with _writer(output, processes):
        if processes.rank == 0:
            shutil.rmtree(output / MODEL, ignore_errors=True)  # left by a run that ended before its result was there
        model = prepared.model(seed, start).to(processes.device)
        prepared.keep_layers(model, processes.device)
        label = f"{task.name} seed {seed}"
        begun = time.perf_counter()
        state = train(
            model,
            prepared,
            seed,
            processes,
            Progress(label, progress and processes.rank == 0),
            Checkpoints(output, fingerprint, checkpoint_minutes),
        )
        if prepared.settings.use == "lora":
            merge_lora(model.core)
        answers = predict(model, prepared, processes)
        timing = {"seconds": time.perf_counter() - begun, "peak_mb": peak_memory() / 1e6}
        result = _result(prepared, seed, answers, state, fingerprint)
        if isinstance(model, FeatureModel):
            result = dataclasses.replace(result, mixes=model.features.mixes.shares())
        if processes.rank == 0:
            written = prepared.kind.written(task, prepared.data.evaluation, answers)
            write_predictions(output / "predictions.tsv", *written)
            if save_model:
                prepared.save(model, output / MODEL)
            write_json(output / TIMING, timing)
            write_json(output / RESULT, result.kept())
        _answer_more(model, family, result, state, processes, start)
        if processes.rank == 0:
            shutil.rmtree(output / "checkpoints", ignore_errors=True)
    processes.wait()
    return dataclasses.replace(result, timing=timing)


def _answer_more(
    model: TaskModel | FeatureModel,
    family: Sequence[tuple[PreparedTask, Path]],
    own: Result,
    state: LoopState,
    processes: Processes,
    start: Path | None,
) -> None:
    """Scores of the tasks that a trained model answers besides its own, and answers for the test rows of all."""
    for number, (prepared, folder) in enumerate(family):
        fingerprint = fingerprint_of(prepared, own.seed, start)
        if processes.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
        if number and len(prepared.data.evaluation):
            answers = predict(model, prepared, processes)
            if processes.rank == 0:
                written = prepared.kind.written(prepared.task, prepared.data.evaluation, answers)
                write_predictions(folder / "predictions.tsv", *written)
                result = _result(prepared, own.seed, answers, state, fingerprint)
                write_json(folder / RESULT, result.kept())
        if prepared.data.test is not None:
            answers = predict(model, prepared, processes, "test")
            if processes.rank == 0:
                write_answers(prepared, folder, fingerprint, answers)


def fingerprint_of(prepared: PreparedTask, seed: int, start: Path | None) -> dict[str, Any]:
    """What decides a result: weights, task, rows, settings, seed, and the core that it starts from, if another."""
    other = {} if start is None else {"start": model_digest(start)}
    return {**prepared.fingerprint, "seed": seed, **other}


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


def _result(
    prepared: PreparedTask,
    seed: int,
    answers: Sequence[Any],
    state: LoopState,
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
        random=floors.get("random"),
        train_rows=len(examples.train),
        eval_rows=len(examples.evaluation),
        classes_predicted=kind.distinct(answers),
        truncated=(train.truncated + evaluation.truncated) / (len(train) + len(evaluation)),
        steps=state.step,
        train_loss=state.losses,
        fingerprint=fingerprint,
        marks_cut=train.sequences.marks_cut + evaluation.sequences.marks_cut,
        mentions=prepared.entities.mentions,
        held_scores=state.held_scores or None,
    )
