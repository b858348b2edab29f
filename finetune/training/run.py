"""One task, one seed: from a model folder and labelled rows to scores and predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune.config import FinetuneSettings
from finetune.data.examples import TaskSplits
from finetune.data.tasks import Task
from finetune.models.adapt import merge_lora
from finetune.models.task_model import FeatureModel, JointModel, TaskModel
from finetune.results.report import RESULT, TIMING, Result, stored_result, write_predictions
from finetune.training.loop import Checkpoints, Course, LoopState, predict, train
from finetune.training.places import MODEL
from finetune.training.prepared import AnyTaskModel, PreparedTask
from finetune.training.processes import ALONE, Processes
from finetune.training.tested import is_answered, write_answers
from zoo.errors import ZooError
from zoo.model_folder import load_core, load_head, model_digest
from zoo.runtime.locks import run_lock
from zoo.runtime.processes import peak_memory, raise_on_all_ranks
from zoo.runtime.progress import Progress, note
from zoo.storage.files import write_json


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
    own = Training(prepared, Path(output), also)
    (found,) = run_training([own], seed, own.folder, progress, processes, save_model, checkpoint_minutes, start)
    return found


class Training(NamedTuple):
    """A task that is trained on.

    Args:
        prepared: its rows.
        folder: of this task and seed.
        also: tasks that its model answers besides, each with its folder.
    """

    prepared: PreparedTask
    folder: Path
    also: Sequence[tuple[PreparedTask, Path]] = ()

    @property
    def family(self) -> list[tuple[PreparedTask, Path]]:
        """All tasks that its model answers, itself first."""
        return [(self.prepared, self.folder), *self.also]


class _Run(NamedTuple):
    """What one seed trains, of one task or of several under one core; see :func:`run_training`."""

    trainings: Sequence[Training]
    seed: int
    start: Path | None
    save_model: bool
    processes: Processes

    def fingerprint(self, prepared: PreparedTask) -> dict[str, Any]:
        """What decides the result of one of the tasks."""
        return fingerprint_of(prepared, self.seed, self.start, [one.prepared for one in self.trainings])

    def stored(self, training: Training) -> Result | None:
        """The result that lies in a task's folder, with its model where that is wanted."""
        found = stored_result(training.folder, self.fingerprint(training.prepared))
        return None if self.save_model and not (training.folder / MODEL).exists() else found

    def answered(self, training: Training) -> bool:
        """Whether all that is wanted of a task's model is there."""
        return all(is_answered(one, place, self.fingerprint(one)) for one, place in training.family)

    def model(self) -> AnyTaskModel | JointModel:
        """The pretrained core under a new head, or under one for each of several tasks."""
        first, *others = (one.prepared for one in self.trainings)
        model = first.model(self.seed, self.start)
        if not others:
            first.keep_layers(model.to(self.processes.device), self.processes.device)
            return model
        heads = {first.task.name: model, **{one.task.name: one.headed(model.core, self.seed) for one in others}}
        plain = {name: made for name, made in heads.items() if isinstance(made, TaskModel)}  # others are refused
        return JointModel(plain, whole=first.settings.use == "finetune").to(self.processes.device)

    def kept(self, training: Training) -> AnyTaskModel:
        """The model of a task that was finished."""
        prepared, folder = training.prepared, training.folder / MODEL
        model = prepared.headed(load_core(folder)[0], self.seed)
        for name, module in model.heads.items():
            load_head(folder, name, module)
        return model.to(self.processes.device)

    def write(self, model: AnyTaskModel, training: Training, state: LoopState, begun: float) -> Result:
        """Score a task that was trained on, and write all that is wanted of it."""
        prepared, folder = training.prepared, training.folder
        answers = predict(model, prepared, self.processes)
        timing = {"seconds": time.perf_counter() - begun, "peak_mb": peak_memory() / 1e6}
        result = _result(prepared, self.seed, answers, state, self.fingerprint(prepared))
        if isinstance(model, FeatureModel):
            result = dataclasses.replace(result, mixes=model.features.mixes.shares())
        if self.processes.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            _write_answers(prepared, folder, answers)
            if self.save_model:
                prepared.save(model, folder / MODEL)
            write_json(folder / TIMING, timing)
            write_json(folder / RESULT, result.kept())
        self.answer_more(model, training, state)
        return dataclasses.replace(result, timing=timing)

    def answer_more(self, model: AnyTaskModel, training: Training, state: LoopState) -> None:
        """Scores of the other tasks that a task's model answers, and answers for the test rows of all."""
        for number, (prepared, folder) in enumerate(training.family):
            fingerprint, main = self.fingerprint(prepared), self.processes.rank == 0
            if main:
                folder.mkdir(parents=True, exist_ok=True)
            if number and len(prepared.data.evaluation):
                answers = predict(model, prepared, self.processes)
                if main:
                    _write_answers(prepared, folder, answers)
                    result = _result(prepared, self.seed, answers, state, fingerprint)
                    write_json(folder / RESULT, result.kept())
            if prepared.data.test is not None:
                answers = predict(model, prepared, self.processes, "test")
                if main:
                    write_answers(prepared, folder, fingerprint, answers)


def run_training(
    trainings: Sequence[Training],
    seed: int,
    place: Path,
    progress: bool = True,
    processes: Processes = ALONE,
    save_model: bool = False,
    checkpoint_minutes: float = 0.0,
    start: Path | None = None,
) -> list[Result]:
    """Train one task, or several under one core, as :func:`finetune`; the result of each.

    What is finished is read back. Where answers alone are missing and the models were kept, these give them.

    Args:
        trainings: of the tasks; of several the first one's settings are those of all.
        seed: see there.
        place: where checkpoints lie meanwhile, and nobody else writes.
        progress: show a line.
        processes: who shares the work.
        save_model: keep a model folder of each task.
        checkpoint_minutes: see there.
        start: see there.
    """
    run = _Run(trainings, seed, start, save_model, processes)
    stored = [run.stored(one) for one in trainings]
    open_ones = [one for one in trainings if not run.answered(one)]
    kept = all((one.folder / MODEL).exists() for one in open_ones)
    processes.wait()  # everybody has looked before anybody writes
    whole = [result for result in stored if result is not None]
    finished, main = len(whole) == len(trainings), processes.rank == 0
    if finished and not open_ones:
        return whole
    for one in trainings:
        one.prepared.check()
    with _writer(place, processes):
        if finished and kept:
            for one, result in zip(trainings, whole, strict=True):
                if one in open_ones:
                    state = LoopState(result.steps, 0.0, result.train_loss, result.held_scores or [])
                    run.answer_more(run.kept(one), one, state)
            results = whole
        else:
            names = ", ".join(one.prepared.task.name for one in trainings)
            if finished:
                why = f"{names} seed {seed} is trained again, since more answers are wanted and no model was kept"
                note(f"{why} (--save_model true keeps it).", main)
            results = _train(run, place, Progress(f"{names} seed {seed}", progress and main), checkpoint_minutes)
    processes.wait()
    return results


def _train(run: _Run, place: Path, progress: Progress, checkpoint_minutes: float) -> list[Result]:
    """Train, and write what is wanted of every task."""
    if run.processes.rank == 0:
        for one in run.trainings:  # left by a run that ended before its result was there
            shutil.rmtree(one.folder / MODEL, ignore_errors=True)
    course = Course([one.prepared for one in run.trainings])
    model = run.model()
    begun = time.perf_counter()
    checkpoints = Checkpoints(place, run.fingerprint(course.tasks[0]), checkpoint_minutes)
    state = train(model, course, run.seed, run.processes, progress, checkpoints)
    if course.settings.use == "lora":
        merge_lora(model.core)
    results = [
        run.write(model.of(one.prepared.task.name) if isinstance(model, JointModel) else model, one, state, begun)
        for one in run.trainings
    ]
    if run.processes.rank == 0:
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return results


def _write_answers(prepared: PreparedTask, folder: Path, answers: Sequence[Any]) -> None:
    written = prepared.kind.written(prepared.task, prepared.data.evaluation, answers)
    write_predictions(folder / "predictions.tsv", *written)


def fingerprint_of(
    prepared: PreparedTask, seed: int, start: Path | None, together: Sequence[PreparedTask] = ()
) -> dict[str, Any]:
    """What decides a result: weights, task, rows, settings, seed, and the core that it starts from, if another.

    Args:
        prepared: the task.
        seed: of the training.
        start: folder of the model whose core it starts from.
        together: all tasks that are trained under one core, where there are several.
    """
    found = {**prepared.fingerprint, "seed": seed}
    if start is not None:
        found["start"] = model_digest(start)
    if len(together) > 1:
        found["together"] = [[one.task.name, *map(one.fingerprint.get, ("task", "data"))] for one in together]
    return found


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
        signatures=kind.signatures(task),
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
