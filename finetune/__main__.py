"""``accelerate launch -m finetune --model RUN --tasks cola,rte --seeds 1,2,3``, with ``--data FOLDER`` or ``hub``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config import FinetuneConfig, GridSettings
from finetune.data.tasks import Task, read_task_file, shipped_tasks, tasks_named
from finetune.training.places import MODEL, folder_of, keeps_model, source_folder
from zoo.errors import ZooError, run_command
from zoo.runtime.pool import Job, run_pool
from zoo.runtime.signals import usable_cpus
from zoo.settings.load import DRY_RUN, CommandHelp, help_text, load_settings, print_once, take_switch, wants_help
from zoo.settings.yaml_files import flatten

if TYPE_CHECKING:
    from finetune.results.report import Result
    from finetune.training.prepared import PreparedTask

HELP = CommandHelp(
    "python -m finetune",
    "finetune.config:FinetuneConfig",
    about="Fine-tune a model folder on tasks, with several seeds, and report scores beside their floors.",
    switches=(DRY_RUN,),
)
MEASURED_SECONDS = 2.0
"""About how long ``--dry_run`` measures the steps of a task."""
HEAVY = (
    "finetune.training.run",
    "finetune.results.report",
    "sklearn.metrics",
    "jsonargparse",
    "zoo.settings.load",
    "torch._dynamo",  # which optimisers import at their first step
)
"""Modules that the children of a pool share: imported once, without starting a thread."""


def main() -> int:
    """Read the command, fine-tune what is not finished, report."""
    if wants_help(sys.argv[1:]):
        print(help_text(HELP, sys.argv[1:]))
        return 0
    wants_dry_run, argv = take_switch(sys.argv[1:], f"--{DRY_RUN[0]}")
    config = load_settings(FinetuneConfig, argv, "python -m finetune", "finetune").value
    extra = read_task_file(config.task_file) if config.task_file else {}
    tasks = answerable(config, source_first(tasks_named(config.tasks, extra), config, extra))
    seeds = config.seed_list
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if config.multi_task != "none" and config.jobs > 1:
        raise ZooError(f"--jobs {config.jobs}: tasks under one core are one training; leave --jobs out.")
    if config.jobs > 1 and launched > 1:
        raise ZooError(f"--jobs {config.jobs} under a launcher with {launched} processes; use one or the other.")
    output = output_folder(config)
    if wants_dry_run and config.multi_task != "none":
        raise ZooError("--dry_run does not know multi_task yet; without --multi_task it checks the same rows.")
    if wants_dry_run:
        import torch

        torch.set_num_threads(config.threads or max(1, usable_cpus() // max(config.jobs, launched)))
        print_once("\n".join(dry_run_lines(config, tasks, seeds, output)))
        return 0
    if config.jobs > 1:
        from finetune.training.all_tasks import prepare_tasks

        prepare_tasks(config, tasks)  # before the first child trains; this process reads them again for the report
        sources = [task for task in tasks if config.from_task and config.from_task in (task.name, task.model_of)]
        others = [task for task in tasks if task not in sources]
        for part in filter(None, (sources, others)):
            for some in (seeds[:1], seeds[1:]) if config.grid != GridSettings() else (seeds,):  # the first one tunes
                run_pool(jobs_of(config, part, some, output), config.jobs, "finetune", warm=HEAVY)
    return run_all(config, tasks, seeds, output)


def answerable(config: FinetuneConfig, tasks: list[Task]) -> list[Task]:
    """The tasks without those that have test rows only, where no test rows are asked for."""
    left_out = [task.name for task in tasks if not task.eval_files and config.predict == "none"]
    if left_out:
        print_once(f"left out, since test rows are all that they have (--predict test): {', '.join(left_out)}")
    return [task for task in tasks if task.name not in left_out]


def source_first(tasks: list[Task], config: FinetuneConfig, extra: dict[str, Task]) -> list[Task]:
    """The tasks, behind the one whose fine-tuned core they start from, where there is one.

    Raises:
        ZooError: ``from_task`` names no task, or several; or the source is the only one.
    """
    if config.from_task is None:
        return tasks
    sources = tasks_named(config.from_task, extra)
    others = [task for task in tasks if task.name != sources[0].name]
    if len(sources) != 1 or not others:
        raise ZooError(
            f"--from_task {config.from_task}: one task is needed, and --tasks that start from it, as in --from_task "
            "mnli --tasks rte,mrpc."
        )
    return [*sources, *others]


def output_folder(config: FinetuneConfig) -> Path:
    """``--output``, or a folder in the model's own whose name changes with weights and settings."""
    from zoo.model_folder import model_digest, read_metadata

    metadata = read_metadata(config.model)
    if config.output:
        return Path(config.output)
    decides = json.dumps([model_digest(metadata.path), config.to_dict(), config.data], sort_keys=True)
    return metadata.path / f"finetune-{hashlib.sha256(decides.encode()).hexdigest()[:8]}"


def dry_run_lines(config: FinetuneConfig, tasks: list[Task], seeds: list[int], output: Path) -> list[str]:
    """What would be fine-tuned, in lines; everything that needs no training is checked, and nothing is written.

    Raises:
        ZooError: as :func:`prepare_tasks`, or a folder holds a result of something else.
    """
    from finetune.training.all_tasks import families_of, prepare_tasks
    from finetune.training.run import fingerprint_of
    from finetune.training.tested import is_answered
    from zoo.core.flops import training_bytes
    from zoo.runtime.processes import device_memory

    lines, needed, to_run, everything = list[str](), 0.0, 0, prepare_tasks(config, tasks)
    runs_left, families = list[int](), families_of(everything)
    for ready, followers in families:
        task = ready.task
        own, core = ready.settings, ready.metadata.config
        epochs, train, development = own.epochs or 1, len(ready.data.train), len(ready.data.evaluation)
        steps = math.ceil(len(ready.train) / own.batch_size)  # an example may have several rows
        done = []
        for seed in seeds:
            folder = folder_of(output, task.name, seed)
            source = source_folder(config, task, seed, output)
            whole = (source is None or source.exists()) and all(
                is_answered(one, folder_of(output, one.task.name, seed), fingerprint_of(one, seed, source))
                for one in (ready, *followers)
            )
            done += [seed] * (whole and (not keeps_model(config, task) or (folder / MODEL).exists()))
        runs_left.append(len(seeds) - len(done))
        to_run += runs_left[-1]
        finished = f"; finished: seed {', '.join(map(str, done))}" if done else ""
        lines.append(
            f"{task.name}: {train:,} training rows, {development:,} development rows, {epochs} epochs of "
            f"{steps:,} steps, batch {own.batch_size}, at most {ready.max_length} tokens, "
            f"lr {own.lr}, {own.precision}; seeds {', '.join(map(str, seeds))}{finished}"
        )
        lines += [
            f"{one.task.name}: {len(one.data.evaluation):,} development rows, answered by the model of {task.name}"
            for one in followers
        ]
        parts = training_bytes(core, core.vocab_size or 0, own.batch_size, ready.max_length)
        needed = max(needed, sum(parts.values()))
    parts_of_model = dict(ready.model(seeds[0]).named_parameters())  # the weights are read, and so checked
    size = sum(parameter.numel() for parameter in parts_of_model.values())
    memory = f"memory: about {needed / 1e6:,.0f} MB a process, of {device_memory() / 1e6:,.0f} MB here"
    tests = [f"{one.task.name} {len(one.data.test):,}" for one in everything if one.data.test is not None]
    lines += [f"test rows to answer: {', '.join(tests)}"] * bool(tests)
    prepared = [ready for ready, _ in families]
    jobs = f"{to_run} of {len(families) * len(seeds)} trainings to run, {config.jobs} at a time"
    model = f"model: {config.model}, {size:,} parameters with the classifier"
    return [model, *lines, jobs, memory, time_line(prepared, runs_left, seeds[0], config.jobs), f"output: {output}"]


def time_line(prepared: list[PreparedTask], runs_left: list[int], seed: int, jobs: int) -> str:
    """How long fine-tuning would take, by measured steps of each task.

    Args:
        prepared: the tasks.
        runs_left: how many seeds of each are not finished.
        seed: of the measured steps.
        jobs: how many trainings run at a time; what they take from each other is not measured.
    """
    from finetune.training.loop import measured_step
    from zoo.runtime.progress import duration

    if not sum(runs_left):
        return "time: none, everything is finished"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "time: unknown under a launcher; without one it is measured, for one process"
    if any(ready.features is not None for ready in prepared):
        return "time: unknown, since the layers of a frozen core are computed once and kept"
    seconds, told = 0.0, list[str]()
    for ready, runs in zip(prepared, runs_left, strict=True):
        if runs:
            train, batch = len(ready.train), ready.settings.batch_size
            step = measured_step(ready, seed, MEASURED_SECONDS)
            scoring = len(ready.evaluation) / batch / 3  # a forward pass is a third of a step
            seconds += runs * step * ((ready.settings.epochs or 1) * math.ceil(train / batch) + scoring)
            told.append(f"{ready.task.name} {step:.3g} s a step")
    several = f" one after the other, and {jobs} at a time where the machine has room" if jobs > 1 else ""
    return f"time: about {duration(seconds)}{several}, by measured steps ({', '.join(told)})"


def jobs_of(config: FinetuneConfig, tasks: list[Task], seeds: list[int], output: Path) -> list[Job]:
    """One child process per task and seed, each with its share of the cores."""
    threads = config.threads or max(1, usable_cpus() // config.jobs)
    fixed = {"model": config.model, "data": config.data, "task_file": config.task_file, **config.to_dict()}
    kept = ("checkpoint_minutes", "predict", "rows_cache", "rows_cache_mb")
    fixed |= {name: getattr(config, name) for name in kept}
    flat = flatten(fixed)
    options = [word for key, value in flat.items() if value is not None for word in (f"--{key}", str(value))]
    jobs = []
    for task in (task for task in tasks if task.model_of is None):
        family = [task, *(other for other in tasks if other.model_of == task.name)]
        names = ",".join(one.name for one in family)
        for seed in seeds:
            own = ["--tasks", names, "--seeds", str(seed), "--output", str(output), "--threads", str(threads)]
            log, done = folder_of(output, task.name, seed) / "log.txt", done_file(config, family, seed, output)
            own += ["--save_model", str(keeps_model(config, task)), "--report", "false"]
            if task.name == config.from_task:
                own += ["--from_task", "null"]
            argv = (sys.executable, "-m", "finetune", *options, *own)
            environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
            jobs.append(Job(f"{task.name}/{seed}", argv, done, log, environment))
    return jobs


def done_file(config: FinetuneConfig, family: list[Task], seed: int, output: Path) -> Path:
    """What a job has still to write; the result of the task that it trains, where all else is there.

    Args:
        config: the command.
        family: the task, and those that its model answers.
        seed: of the job.
        output: of all tasks.
    """
    from finetune.results.report import RESULT
    from finetune.training.tested import ANSWERED

    folders = [folder_of(output, task.name, seed) for task in family]
    wanted = [folders[0] / MODEL] if keeps_model(config, family[0]) else []  # a result without its model is not done
    wanted += [folder / RESULT for folder, task in zip(folders, family, strict=True) if task.eval_files]
    wanted += [folder / ANSWERED for folder in folders if config.predict == "test"]
    return next((path for path in wanted if not path.exists()), folders[0] / RESULT)


def run_all(config: FinetuneConfig, tasks: list[Task], seeds: list[int], output: Path) -> int:
    """Every task and seed in this process (or this group of processes), one after the other, then the report."""
    import torch

    from finetune.results.report import write_report
    from finetune.training.all_tasks import families_of, prepare_tasks, trainings_of
    from finetune.training.processes import Processes
    from zoo.runtime.processes import leave_group_together, resolve_precision, start_processes
    from zoo.runtime.progress import Progress
    from zoo.runtime.sharding import requested_sharding

    if requested_sharding():
        raise ZooError(
            "fine-tuning holds whole weights in every process, and the launcher's config asks for FSDP2: take "
            "configs/accelerate/ddp-8.yaml."
        )
    precision = resolve_precision(config.precision)
    processes = Processes(start_processes(precision, config.threads, [], output))
    shows, reports = config.progress and processes.rank == 0, config.report and processes.rank == 0
    if shows:
        several = "processes" if processes.world > 1 else "process"
        print(
            f"{processes.world} {several} x {torch.get_num_threads()} threads, precision {precision}", file=sys.stderr
        )
    known, told = {**shipped_tasks(), **{task.name: task for task in tasks}}, Progress("", shows)
    results: list[Result] = []
    with leave_group_together():
        families = families_of(prepare_tasks(config, tasks, show=config.jobs == 1 and processes.rank == 0))
        for done, of, found in trainings_of(config, families, seeds, output, processes):
            results += found
            if reports:  # it grows as seeds finish
                table = write_report(output, config.model, config.to_dict(), results, known)
                told.note(finished_line(found[0], done, of))
        if reports:
            print(table)
            print(f"\nresults and predictions: {output}")
            for path in zips_of(config, tasks, seeds, output):
                print(f"for the benchmark's site: {path}")
    return 0


def zips_of(config: FinetuneConfig, tasks: list[Task], seeds: list[int], output: Path) -> list[Path]:
    """Zips of whole groups' files of predictions, where those are asked for."""
    from finetune.results.submission import zip_submissions

    known = {**shipped_tasks(), **(read_task_file(config.task_file) if config.task_file else {})}
    asked = seeds if config.predict == "test" else []
    return [path for seed in asked for path in zip_submissions(output, list(known.values()), tasks, seed)]


def finished_line(result: Result, done: int, of: int) -> str:
    """What one training gave, while others still run."""
    floors = result.majority
    scores = [f"{name} {100 * value:.2f} (majority {100 * floors[name]:.2f})" for name, value in result.scores.items()]
    return f"{result.task} seed {result.seed}: {', '.join(scores)}; {done} of {of} done"


if __name__ == "__main__":
    run_command(main)
