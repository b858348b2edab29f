"""All tasks of a command: their rows, read and checked, and their trainings, alone or under one core."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.config import FinetuneConfig, FinetuneSettings
from finetune.data.tasks import Task
from finetune.inputs.row_cache import RowCache, user_cache
from finetune.results.report import Result, read_result
from finetune.training.grid import tuned
from finetune.training.places import folder_of, keeps_model, source_folder, task_folder, together_folder
from finetune.training.prepared import PreparedTask
from finetune.training.processes import Processes
from finetune.training.run import Training, finetune, run_training
from zoo.errors import ZooError

Family = tuple[PreparedTask, list[PreparedTask]]
"""A task that is trained, and those that its model answers."""


def task_settings(config: FinetuneConfig, task: Task) -> FinetuneSettings:
    """How a task is fine-tuned; the source of the others starts from the pretrained core itself."""
    is_source = task.name == config.from_task
    return dataclasses.replace(config.settings, from_task=None) if is_source else config.settings


def prepare_tasks(config: FinetuneConfig, tasks: list[Task], show: bool = True) -> list[PreparedTask]:
    """The rows of every task, all of them read and checked: a mistake in the last must not cost the others' training.

    Args:
        config: the command.
        tasks: its tasks.
        show: print what should be known before they are trained.

    Raises:
        ZooError: what is wrong with a task's rows, or between them and the model.
    """
    found, cache = [], row_cache(config)
    leaders = dict[str | None, PreparedTask]()
    for task in tasks:
        settings, leader = task_settings(config, task), leaders.get(task.model_of)
        test = config.predict == "test"
        found.append(
            PreparedTask(Path(config.model), task, config.data, settings, test=test, leader=leader, cache=cache)
        )
        leaders[task.name] = found[-1]
        found[-1].check()
        for warning in found[-1].warnings if show else ():
            print(f"warning: {warning}", file=sys.stderr)
    return found


def row_cache(config: FinetuneConfig) -> RowCache | None:
    """Where encoded rows are kept; ``None`` = nowhere."""
    if not config.rows_cache_mb:
        return None
    return RowCache(Path(config.rows_cache) if config.rows_cache else user_cache(), config.rows_cache_mb)


def families_of(prepared: list[PreparedTask]) -> list[Family]:
    """Each task that is trained, with those that its model answers."""
    return [
        (ready, [other for other in prepared if other.leader is ready]) for ready in prepared if ready.leader is None
    ]


def trainings_of(
    config: FinetuneConfig, families: list[Family], seeds: list[int], output: Path, processes: Processes
) -> Iterator[tuple[int, int, list[Result]]]:
    """Train what is not finished, one thing after the other.

    Args:
        config: the command.
        families: each task that is trained, with those that its model answers; a task's tokens go when it is done.
        seeds: of the trainings.
        output: of all tasks.
        processes: who shares the work.

    Yields:
        How many trainings are done, of how many, and the results of the last one, its own first.
    """
    joint, alone = config.multi_task != "none", config.multi_task != "only"
    trainings, done = len(seeds) * (joint + alone * len(families)), 0
    for seed in seeds if joint else ():
        found = trained_together(config, families, seed, output, processes)
        done += 1
        if not alone:
            yield done, trainings, found
    while alone and families:
        prepared, followers = families.pop(0)
        for found in trained_alone(config, prepared, followers, seeds, output, processes):
            done += 1
            yield done, trainings, found


def trained_together(
    config: FinetuneConfig, families: list[Family], seed: int, output: Path, processes: Processes
) -> list[Result]:
    """One training of all tasks under one core, and the results of the tasks."""
    place = together_folder(output, seed)
    where = place if config.multi_task == "first" else None
    common = joint_settings(config, [ready for ready, _ in families])
    trainings = [
        Training(
            ready.with_settings(common.lr, common.epochs or 1),
            task_folder(output, ready.task, seed, where),
            [
                (one.with_settings(common.lr, common.epochs or 1), task_folder(output, one.task, seed, where))
                for one in also
            ],
        )
        for ready, also in families
    ]
    shown, saves = config.progress, config.save_model or config.multi_task == "first"
    found = run_training(trainings, seed, place, shown, processes, saves, config.checkpoint_minutes)
    others = [read_result(folder) for one in trainings for ready, folder in one.also if len(ready.data.evaluation)]
    return [*found, *others]


def trained_alone(
    config: FinetuneConfig,
    prepared: PreparedTask,
    followers: list[PreparedTask],
    seeds: list[int],
    output: Path,
    processes: Processes,
) -> Iterator[list[Result]]:
    """Every seed of one task, and after each the results of it and of the tasks that its model answers."""
    task, minutes = prepared.task, config.checkpoint_minutes
    chosen: tuple[PreparedTask, dict[str, Any] | None] | None = None
    for seed in seeds:
        start = source_folder(config, task, seed, output)
        if chosen is None:
            chosen = tuned(prepared, output / task.name, config.progress, processes, minutes, start)
        own = chosen[0].settings
        also = [
            (one.with_settings(own.lr, own.epochs or 1), folder_of(output, one.task.name, seed)) for one in followers
        ]
        result = finetune(
            config.model,
            task,
            chosen[0],
            seed,
            own,
            folder_of(output, task.name, seed),
            config.progress,
            processes,
            keeps_model(config, task),
            minutes,
            start,
            also,
        )
        others = [read_result(folder) for one, folder in also if len(one.data.evaluation)]
        yield [dataclasses.replace(result, chosen=chosen[1]), *others]


def joint_settings(config: FinetuneConfig, tasks: list[PreparedTask]) -> FinetuneSettings:
    """How several tasks are trained under one core: the command's settings, and the fewest epochs of any of them.

    Raises:
        ZooError: there is one task only, or new tokens are marks of one of them.
    """
    if len(tasks) < 2:
        raise ZooError(f"multi_task: {config.multi_task} needs several tasks, as in --tasks rte,mrpc,sst2.")
    for ready in tasks:
        if ready.tokenizer.backend.get_vocab_size() != tasks[0].tokenizer.backend.get_vocab_size():
            raise ZooError(
                f"multi_task: the marks of task {ready.task.name!r} or of {tasks[0].task.name!r} are new tokens, which "
                "the others would not have; fine-tune it alone, or mark spans by tokens that the model has."
            )
    epochs = config.epochs or min(ready.task.epochs for ready in tasks)
    return dataclasses.replace(config.settings, epochs=epochs)
