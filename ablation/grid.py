"""The grid: every (arm, seed) is pretrained, fine-tuned and asked the reference's validation questions.

An arm's work is a chain of steps that each recognise what is finished and resume what is not, so starting the
same command again continues it. Its last act is a small JSON file, by which the grid knows it as done.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablation.config import AblationConfig, Arm, ArmFinetuning, arms
from ablation.results.runs import BY_FREQUENCY, MAJORITY, FinishedRun, by_objective, read_run
from finetune.data.tasks import Task, read_task_file, tasks_named
from pretraining.objectives.base import Objective
from pretraining.training.config import PretrainConfig
from pretraining.training.load_config import config_digest, load_pretrain_config
from zoo.errors import ZooError, nearest
from zoo.runtime.pool import Job, run_pool
from zoo.runtime.progress import duration
from zoo.runtime.signals import usable_cpus
from zoo.runtime.submitted import make_executor, run_submitted
from zoo.sample import resolve
from zoo.settings.load import Settings
from zoo.settings.yaml_files import as_yaml, merge
from zoo.storage.files import read_json, write_atomic, write_json

Say = Callable[[str], None]
HEAVY = ("ablation.__main__", "pretraining.training.pretrain", "finetune.training.run", "sklearn.metrics")
"""Modules that the children of a grid share: imported once, without starting a thread."""


@dataclass(frozen=True)
class GridCell:
    """One (arm, seed) with its settings checked and its places known.

    Args:
        arm: name, seed and values.
        folder: its pretraining run folder.
        config_file: YAML with its complete values.
        done: file that its last step leaves.
    """

    arm: Arm
    folder: Path
    config_file: Path
    done: Path

    @property
    def name(self) -> str:
        """``ARM/SEED``."""
        return f"{self.arm.name}/{self.arm.seed}"


def ablation_folder(config: AblationConfig) -> Path:
    """Where reports, the arms' config files and their results lie."""
    return Path(config.output) / f"ablation-{config.name}"


def settings_of(arm: Arm) -> Settings[PretrainConfig]:
    """An arm's pretraining settings; its objectives are new instances at every call.

    Raises:
        ZooError: they are wrong, naming the arm.
    """
    try:
        return load_pretrain_config([], arm.values)
    except ZooError as error:
        raise ZooError(f"arm {arm.name!r}: {error}") from error


def cells(config: AblationConfig) -> list[GridCell]:
    """The whole grid, checked before anything runs.

    Raises:
        ZooError: an arm's settings are wrong.
    """
    root, grid, resolved = ablation_folder(config), [], dict[str, dict[str, Any]]()
    for arm in arms(config):
        if arm.name not in resolved:  # half a second each, and seeds differ in nothing else
            resolved[arm.name] = settings_of(arm).resolved
        own = {**resolved[arm.name], "seed": arm.values["seed"], "name": arm.values["name"]}
        folder = Path(config.output) / f"{arm.values['name']}-{config_digest(own)}"
        after = [str(folder), _plain(arm), _reference_values(config, arm.seed)]
        afterwards = json.dumps(after if config.cloze is None else [*after, config.cloze], sort_keys=True)
        digest = hashlib.sha256(afterwards.encode()).hexdigest()[:8]
        stem = f"{arm.name}-seed-{arm.seed}-{digest}"
        grid.append(GridCell(arm, folder, root / "arms" / f"{stem}.yaml", root / "arms" / f"{stem}.json"))
    return grid


def check_primary(config: AblationConfig) -> None:
    """Raise ZooError if the reference arm will not have the figures that decide, before anything runs.

    Raises:
        ZooError: a measure or floor that is not known, with the nearest one that is.
    """
    measures, floors = known_figures(config)
    for where, name in config.primary.names.items():
        known = measures if where == "primary.measure" else measures | floors
        if name not in known:
            raise ZooError(
                f"{where} = {name!r} is nothing that will be measured of the reference arm, {config.against!r}."
                f"{nearest(name, known)} Known: {', '.join(sorted(known))}."
            )


def known_figures(config: AblationConfig) -> tuple[set[str], set[str]]:
    """Names of the measures that the reference arm may come to have, and of figures that can be a floor."""
    arm = next(arm for arm in arms(config) if arm.name == config.against)
    run = settings_of(arm).value
    measures = set[str]()
    known = [name for name, own in run.objectives.items() if own.predicts_tokens and own.shown is not None]
    floors = {f"{BY_FREQUENCY}{name}" for name in known}
    for task_name, task in run.tasks.items():
        for objective in task.own(run.objectives):
            for term in (objective, f"{task_name}.{objective}"):  # the second, where several tasks share it
                measures |= {f"{kind}.{term}" for kind in ("validation", "validation_accuracy", "reference_masks")}
    if config.cloze is not None:
        measures |= {f"cloze.{name}" for name in _cloze_names(config.cloze)}
    if arm.finetune is not None:
        from finetune.kinds.base import open_kind

        scores = {f"{task.name}.{metric}" for task in _tasks(arm.finetune) for metric in open_kind(task).metrics(task)}
        measures |= scores
        floors |= {f"{MAJORITY}{name}" for name in scores}
    return measures, floors


def _cloze_names(settings: dict[str, Any]) -> set[str]:
    from pretraining.scoring.cloze import ClozeConfig, measures

    asked, blank = ClozeConfig(run="", **settings), defaultdict[str, float](float)
    names = ["longer"] * (asked.longest > 1) + ["entity", "control"] * (asked.entity is not None)
    words = {str(length): blank for length in range(1, asked.longest + 1)}
    return set(measures({"words": words, **dict.fromkeys(names, blank)}))


def _plain(arm: Arm) -> Any:
    return None if arm.finetune is None else vars(arm.finetune)


def _reference_values(config: AblationConfig, seed: int) -> dict[str, Any]:
    """What decides the reference's validation questions."""
    found = next(arm for arm in arms(config) if arm.name == config.against and arm.seed == seed)
    return {key: found.values.get(key) for key in ("data", "objectives", "tasks")}


def run_cell(config: AblationConfig, cell: GridCell, threads: int | None, show: bool) -> Path:
    """Pretrain, fine-tune and validate one (arm, seed) in this process; finished steps are read back.

    Returns:
        its ``done`` file.
    """
    from pretraining.training.pretrain import pretrain

    arm = cell.arm
    if threads is not None:
        arm = arm._replace(values=merge(arm.values, {"train": {"threads": threads}}))
    folder = pretrain(settings_of(arm), show=show)
    scores, baselines = finetune_cell(arm, folder, show)
    reference = next(a for a in arms(config) if a.name == config.against and a.seed == arm.seed)
    # The reference arm too, though its log has such a figure: all arms are asked in the same precision.
    same = fixed_validation(folder, settings_of(reference))
    record = {"run": str(folder), "scores": scores, "baselines": baselines, "reference_validation": same}
    if config.cloze is not None:
        record["cloze"] = hidden_words(folder, config.cloze)
    cell.done.parent.mkdir(parents=True, exist_ok=True)
    write_json(cell.done, record)
    return cell.done


def hidden_words(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """A run's figures on hidden words, by name."""
    from pretraining.scoring.cloze import ClozeConfig, cloze_of_run, measures

    return measures(cloze_of_run(ClozeConfig(run=str(folder), **settings)))


def finetune_cell(arm: Arm, folder: Path, show: bool) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Fine-tuned scores by ``TASK.METRIC`` and seed, and the majority baselines."""
    if arm.finetune is None:
        return {}, {}
    from finetune.config import FinetuneSettings
    from finetune.training.prepared import PreparedTask
    from finetune.training.run import finetune

    wanted = arm.finetune
    data = resolve(wanted.data)
    settings = FinetuneSettings(**_known(FinetuneSettings, wanted.settings))
    scores: dict[str, dict[str, float]] = {}
    baselines: dict[str, float] = {}
    decides = json.dumps([data, settings.to_dict()], sort_keys=True)
    output = folder / f"finetune-{hashlib.sha256(decides.encode()).hexdigest()[:8]}"
    for task in (task for task in _tasks(wanted) if task.model_of is None):  # what others' models answer is left out
        prepared = PreparedTask(folder, task, data, settings)
        for seed in wanted.seeds:
            place = output / task.name / f"seed-{seed}"
            result = finetune(folder, task, prepared, seed, settings, place, progress=show)
            for metric, value in result.scores.items():
                scores.setdefault(f"{task.name}.{metric}", {})[str(seed)] = float(value)
                baselines[f"{task.name}.{metric}"] = float(result.majority[metric])
    return scores, baselines


def _tasks(wanted: ArmFinetuning) -> list[Task]:
    return tasks_named(wanted.tasks, read_task_file(resolve(wanted.task_file)) if wanted.task_file else {})


def _known(cls: Any, values: dict[str, Any]) -> dict[str, Any]:
    from zoo.settings.checks import check_keys

    checked: dict[str, Any] = check_keys(cls, values, "finetune.settings")
    return checked


def fixed_validation(folder: Path, reference: Settings[PretrainConfig]) -> dict[str, float]:
    """Held-out losses of a run on the *reference's* rows and masks, for the heads that both have.

    Arms that mask otherwise, or lay documents out otherwise, have other validation targets; a difference of
    their own losses would mix the model with the question. Empty where the two read different tokens.
    """
    from accelerate import Accelerator

    from pretraining.tokenizer.load import load_tokenizer
    from pretraining.training.evaluate import evaluate
    from pretraining.training.loader import TaskLoader, split_documents
    from pretraining.training.model import PretrainingModel
    from pretraining.training.stores import run_stores
    from zoo.model_folder import load_core, load_head, open_weights

    config, data = reference.value, reference.value.data
    stores = run_stores(config, False)
    if read_json(folder / "run.json").get("data_fingerprint") != stores.main.fingerprint:
        return {}
    tokenizer = load_tokenizer(stores.main.path)
    vocabulary = tokenizer.vocabulary
    core, metadata = load_core(folder)
    names = {key.split(".")[1] for key in open_weights(folder) if key.startswith(("heads.", "objectives."))}
    heads = {name: objective for name, objective in config.objectives.items() if name in names}
    for name, objective in heads.items():
        objective.build(metadata.config, vocabulary)
        objective.bind_tokenizer(tokenizer)
        load_head(folder, name, objective)
    accelerator = Accelerator(cpu=not _has_gpu())
    model = PretrainingModel(core, heads).to(accelerator.device)
    losses: dict[str, dict[str, float]] = {}
    for task_name, task in config.tasks.items():
        if any(name not in heads and _corrupts(config.objectives[name]) for name in task.objectives):
            continue  # without that objective these would be other rows
        own = {name: objective for name, objective in task.own(config.objectives).items() if name in heads}
        store = stores.for_task(task_name)
        _, held_out = split_documents(store, data.validation_tokens)
        if len(held_out) and own:
            length, number = data.sequence_length, task.task_type_id
            rows = TaskLoader(store, held_out, task.layout, own, vocabulary, length, 0, 1, number)
            figures = evaluate(model, rows, accelerator, 32)
            losses[task_name] = {name: float(figure["loss"]) for name, figure in figures.items()}
    return by_objective(losses)


def _corrupts(objective: Objective) -> bool:
    return type(objective).corrupt is not Objective.corrupt


def _has_gpu() -> bool:
    from zoo.runtime.processes import has_gpu

    return has_gpu()


def read_cell(cell: GridCell) -> FinishedRun | None:
    """A finished cell's figures; ``None`` where it is not done.

    Raises:
        ZooError: its run folder has no ``run.json`` or is not finished.
    """
    if not cell.done.exists():
        return None
    record = read_json(cell.done)
    run = read_run(cell.arm.name, cell.arm.seed, Path(record["run"]))
    scores = {name: {int(s): v for s, v in by_seed.items()} for name, by_seed in record["scores"].items()}
    same = {f"reference_masks.{name}": value for name, value in record["reference_validation"].items()}
    same |= {f"cloze.{name}": value for name, value in record.get("cloze", {}).items()}
    return replace(run, scores=scores, baselines=record["baselines"], same_questions=same)


def shown_arms(grid: list[GridCell], runs: list[FinishedRun]) -> dict[str, tuple[PretrainConfig, Path]]:
    """Settings, as new instances, and run folder of each arm's first finished run."""
    cell_of = {(cell.arm.name, cell.arm.seed): cell for cell in grid}
    first: dict[str, FinishedRun] = {}
    for run in runs:
        first.setdefault(run.arm, run)
    return {arm: (settings_of(cell_of[arm, run.seed].arm).value, run.folder) for arm, run in first.items()}


def run_grid(config: AblationConfig, argv: list[str], say: Say) -> list[FinishedRun]:
    """Run what is not finished, in child processes, and read everything back.

    Args:
        config: the ablation.
        argv: its own command line; children get it with one cell named.
        say: prints a line.
    """
    grid = cells(config)
    workers, threads = _shares_of_cores(config)
    waiting = [cell for cell in grid if not cell.done.exists()]
    say(
        f"{config.name}: {len(grid)} runs, {len(grid) - len(waiting)} finished, {workers} at a time x {threads} threads"
    )
    root = ablation_folder(config)
    executor = None if config.submit is None else make_executor(config.submit, root / "submitit", config.name)
    _prepare_stores(waiting)
    jobs = []
    for cell in grid:
        cell.config_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cell.config_file, as_yaml(cell.arm.values))
        own = ("--only.arm", cell.arm.name, "--only.seed", str(cell.arm.seed), "--only.threads", str(threads))
        command = (sys.executable, "-m", "ablation", *argv, *own)
        environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        jobs.append(Job(cell.name, command, cell.done, cell.done.with_suffix(".log"), environment))
    if executor is None:
        run_pool(jobs, workers, config.name, warm=HEAVY)
    else:
        run_submitted(jobs, executor, workers, say)
    return [run for run in map(read_cell, grid) if run is not None]


def _shares_of_cores(config: AblationConfig) -> tuple[int, int]:
    """How many runs at a time, and threads of each; on a cluster all at once, with the cores that are asked for."""
    if config.submit is not None:
        runs = len(config.seeds) * len(config.changes)
        return config.workers or runs, int(config.submit.get("cpus_per_task") or 1)
    workers = config.workers or (1 if _has_gpu() else max(1, usable_cpus() // 2))
    return workers, max(1, usable_cpus() // workers)


def plan_lines(config: AblationConfig, grid: list[GridCell]) -> list[str]:
    """What the runs of each arm would take on this machine, measured on one of them, in lines; nothing is trained.

    Raises:
        ZooError: what would stop an arm before it trains, naming it.
    """
    from pretraining.tools.plan import plan_run

    workers, threads = _shares_of_cores(config)
    lines, ends, unknown = list[str](), [0.0] * workers, list[str]()
    for name in config.changes:
        own = [cell for cell in grid if cell.arm.name == name]
        waiting = [cell for cell in own if not cell.done.exists()]
        told = f"{name}: {len(waiting)} of {len(own)} to run"
        if waiting:
            last = waiting[-1].arm  # of all seeds the one that has done least
            try:
                found = plan_run(settings_of(last._replace(values=merge(last.values, {"train": {"threads": threads}}))))
            except ZooError as error:
                raise ZooError(f"arm {name!r}: {error}") from error
            steps = f", {found.steps:,} steps" if found.steps else ""
            reason = next(line for line in found.lines if line.startswith("time: ")).removeprefix("time: ")
            told += f"{steps}, each: {reason}"
            for _ in waiting:  # as a pool hands them out: to who is free first
                ends[ends.index(min(ends))] += found.seconds or 0.0
            unknown += [] if found.seconds is not None else [name]
        lines.append(told)
    more = f" without {', '.join(unknown)}" if unknown else ""
    lines.append(
        f"time: about {duration(max(ends))} of pretraining{more}, {workers} at a time x {threads} threads; "
        "fine-tuning and validation come on top"
    )
    return lines


def _prepare_stores(waiting: list[GridCell]) -> None:
    """Build the token stores here, once, before the children ask for them."""
    from pretraining.training.stores import run_stores

    done = set()
    for cell in waiting:
        config = settings_of(cell.arm).value
        data, own = config.data, [task.corpus for task in config.tasks.values()]
        key = repr((data.corpus, data.tokenizer, data.stores, config.template, own))
        if key not in done:
            run_stores(config, True)
            done.add(key)
