"""``accelerate launch -m finetune --model RUN --tasks cola,rte --seeds 1,2,3``, with ``--data FOLDER`` or ``hub``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config import FinetuneConfig
from finetune.data.tasks import Task, read_task_file, tasks_named
from zoo.errors import ZooError, run_command
from zoo.runtime.pool import Job, run_pool
from zoo.runtime.signals import usable_cpus
from zoo.settings.load import DRY_RUN, CommandHelp, help_text, load_settings, print_once, take_switch, wants_help
from zoo.settings.yaml_files import flatten

if TYPE_CHECKING:
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
    tasks, seeds = tasks_named(config.tasks, extra), config.seed_list
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if config.jobs > 1 and launched > 1:
        raise ZooError(f"--jobs {config.jobs} under a launcher with {launched} processes; use one or the other.")
    output = output_folder(config)
    if wants_dry_run:
        import torch

        torch.set_num_threads(config.threads or max(1, usable_cpus() // max(config.jobs, launched)))
        print_once("\n".join(dry_run_lines(config, tasks, seeds, output)))
        return 0
    if config.jobs > 1:
        prepare_tasks(config, tasks)  # before the first child trains; this process reads them again for the report
        run_pool(jobs_of(config, tasks, seeds, output), config.jobs, "finetune", warm=HEAVY)
    return run_all(config, tasks, seeds, output)


def output_folder(config: FinetuneConfig) -> Path:
    """``--output``, or a folder in the model's own whose name changes with weights and settings."""
    from zoo.model_folder import model_digest, read_metadata

    metadata = read_metadata(config.model)
    if config.output:
        return Path(config.output)
    decides = json.dumps([model_digest(metadata.path), config.to_dict(), config.data], sort_keys=True)
    return metadata.path / f"finetune-{hashlib.sha256(decides.encode()).hexdigest()[:8]}"


def prepare_tasks(config: FinetuneConfig, tasks: list[Task], show: bool = True) -> list[PreparedTask]:
    """The rows of every task, all of them read and checked: a mistake in the last must not cost the others' training.

    Args:
        config: the command.
        tasks: its tasks.
        show: print what should be known before they are trained.

    Raises:
        ZooError: what is wrong with a task's rows, or between them and the model.
    """
    from finetune.training.prepared import PreparedTask

    found = []
    for task in tasks:
        found.append(PreparedTask(Path(config.model), task, config.data, config.settings))
        found[-1].check(config.save_model)
        for warning in found[-1].warnings if show else ():
            print(f"warning: {warning}", file=sys.stderr)
    return found


def dry_run_lines(config: FinetuneConfig, tasks: list[Task], seeds: list[int], output: Path) -> list[str]:
    """What would be fine-tuned, in lines; everything that needs no training is checked, and nothing is written.

    Raises:
        ZooError: as :func:`prepare_tasks`, or a folder holds a result of something else.
    """
    from finetune.results.report import stored_result
    from finetune.training.run import MODEL
    from zoo.core.flops import training_bytes
    from zoo.runtime.processes import device_memory

    lines, needed, to_run, prepared = list[str](), 0.0, 0, prepare_tasks(config, tasks)
    runs_left = list[int]()
    for task, ready in zip(tasks, prepared, strict=True):
        own, core = ready.settings, ready.metadata.config
        epochs, train, development = own.epochs or 1, len(ready.data.train), len(ready.data.evaluation)
        steps = math.ceil(len(ready.train) / own.batch_size)  # an example may have several rows
        done = []
        for seed in seeds:
            folder = folder_of(output, task.name, seed)
            result = stored_result(folder, {**ready.fingerprint, "seed": seed})
            done += [seed] * (result is not None and (not config.save_model or (folder / MODEL).exists()))
        runs_left.append(len(seeds) - len(done))
        to_run += runs_left[-1]
        finished = f"; finished: seed {', '.join(map(str, done))}" if done else ""
        lines.append(
            f"{task.name}: {train:,} training rows, {development:,} development rows, {epochs} epochs of "
            f"{steps:,} steps, batch {own.batch_size}, at most {ready.max_length} tokens, "
            f"lr {own.lr}, {own.precision}; seeds {', '.join(map(str, seeds))}{finished}"
        )
        parts = training_bytes(core, core.vocab_size or 0, own.batch_size, ready.max_length)
        needed = max(needed, sum(parts.values()))
    parts_of_model = dict(ready.model(seeds[0]).named_parameters())  # the weights are read, and so checked
    size = sum(parameter.numel() for parameter in parts_of_model.values())
    memory = f"memory: about {needed / 1e6:,.0f} MB a process, of {device_memory() / 1e6:,.0f} MB here"
    jobs = f"{to_run} of {len(tasks) * len(seeds)} trainings to run, {config.jobs} at a time"
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
    from finetune.training.run import measured_step
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


def folder_of(output: Path, task: str, seed: int) -> Path:
    """Where one task's and seed's result lies."""
    return output / task / f"seed-{seed}"


def jobs_of(config: FinetuneConfig, tasks: list[Task], seeds: list[int], output: Path) -> list[Job]:
    """One child process per task and seed, each with its share of the cores."""
    from finetune.results.report import RESULT
    from finetune.training.run import MODEL

    threads = config.threads or max(1, usable_cpus() // config.jobs)
    fixed = {"model": config.model, "data": config.data, "task_file": config.task_file, **config.to_dict()}
    fixed["save_model"] = config.save_model
    flat = flatten(fixed)
    options = [word for key, value in flat.items() if value is not None for word in (f"--{key}", str(value))]
    jobs = []
    for task in tasks:
        for seed in seeds:
            own = ["--tasks", task.name, "--seeds", str(seed), "--output", str(output), "--threads", str(threads)]
            folder = folder_of(output, task.name, seed)
            kept = not config.save_model or (folder / MODEL).exists()  # a result without its model is not done
            argv = (sys.executable, "-m", "finetune", *options, *own, "--report", "false")
            environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
            jobs.append(
                Job(f"{task.name}/{seed}", argv, folder / (RESULT if kept else MODEL), folder / "log.txt", environment)
            )
    return jobs


def run_all(config: FinetuneConfig, tasks: list[Task], seeds: list[int], output: Path) -> int:
    """Every task and seed in this process (or this group of processes), one after the other, then the report."""
    import torch

    from finetune.results.report import write_report
    from finetune.training.run import Processes, finetune
    from zoo.runtime.processes import leave_group_together, resolve_precision, start_processes
    from zoo.runtime.sharding import requested_sharding

    if requested_sharding():
        raise ZooError(
            "fine-tuning holds whole weights in every process, and the launcher's config asks for FSDP2: take "
            "configs/accelerate/ddp-8.yaml."
        )
    precision = resolve_precision(config.precision)
    accelerator = start_processes(precision, config.threads, [], output)
    processes = Processes(accelerator)
    if config.progress and processes.rank == 0:
        several = "processes" if processes.world > 1 else "process"
        print(
            f"{processes.world} {several} x {torch.get_num_threads()} threads, precision {precision}", file=sys.stderr
        )
    with leave_group_together():
        results, ready = [], prepare_tasks(config, tasks, show=config.jobs == 1 and processes.rank == 0)
        for task in tasks:
            prepared = ready.pop(0)  # a task's tokens go when it is done
            for seed in seeds:
                folder = folder_of(output, task.name, seed)
                results.append(
                    finetune(
                        config.model,
                        task,
                        prepared,
                        seed,
                        config.settings,
                        folder,
                        config.progress,
                        processes,
                        config.save_model,
                    )
                )
        if config.report and processes.rank == 0:
            print(write_report(output, config.model, config.to_dict(), results))
            print(f"\nresults and predictions: {output}")
    return 0


if __name__ == "__main__":
    run_command(main)
