"""What a report sets beside its rows: a benchmark's average, and published scores of other models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml

from finetune.data.tasks import Task
from finetune.results.statistics import mean_sd
from zoo.settings.yaml_files import shipped_configs


class Average(NamedTuple):
    """A benchmark's average over its tasks.

    Args:
        group: the benchmark.
        lacking: tasks without a result; an average is given only when there are none.
        mean: over tasks, then over seeds; ``None`` = some task lacks.
        sd: over the seeds that all tasks have; ``None`` = fewer than two.
        n: seeds that all tasks have.
        note: what the average is made of.
    """

    group: str
    lacking: tuple[str, ...]
    mean: float | None = None
    sd: float | None = None
    n: int = 0
    note: str = ""


class OutsideLine(NamedTuple):
    """A published score.

    Args:
        model: whose.
        task: of which task.
        metric: which metric.
        score: x 100.
        split: on which rows.
        training: what it was trained on.
        source: where it stands.
    """

    model: str
    task: str
    metric: str
    score: float
    split: str
    training: str
    source: str


def averages(tasks: Mapping[str, Task], scores: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[Average]:
    """The averages of whole benchmarks of which at least half of the tasks have results.

    A task's score is the mean of its metrics that count (``average``), and of the tasks that are averaged into it, as
    GLUE does with MNLI's two sets; a group's is the mean over its tasks that are trained.

    Args:
        tasks: all known tasks by name.
        scores: task, seed, metric: score x 100.
    """
    groups: dict[str, list[Task]] = {}
    averaged = set(_benchmarks()["averaged"])
    for task in (task for task in tasks.values() if task.model_of is None):
        for group in averaged.intersection(task.groups):
            groups.setdefault(group, []).append(task)
    found = []
    for group, members in groups.items():
        lacking = tuple(task.name for task in members if task.name not in scores)
        if 2 * len(lacking) > len(members):
            continue
        if lacking:
            found.append(Average(group, lacking))
            continue
        parts = {task.name: _parts(task, tasks, scores) for task in members}
        every = {name for own in parts.values() for name in own}
        seeds = sorted(set.intersection(*(set(scores[name]) for name in every)))
        by_seed = [float(np.mean([_score(parts[task.name], tasks, scores, s) for task in members])) for s in seeds]
        if not seeds:
            found.append(Average(group, ("seeds that all tasks have",)))
            continue
        mean, sd, n = mean_sd(by_seed)
        also = [f"{name} with {' and '.join(own[1:])}" for name, own in parts.items() if len(own) > 1]
        note = f"mean over {len(members)} tasks" + (f"; {', '.join(also)}" if also else "")
        found.append(Average(group, (), mean, sd, n, note))
    return found


def _parts(task: Task, tasks: Mapping[str, Task], scores: Mapping[str, Any]) -> list[str]:
    return [task.name, *(t.name for t in tasks.values() if t.averaged_into == task.name and t.name in scores)]


def _score(
    parts: Sequence[str],
    tasks: Mapping[str, Task],
    scores: Mapping[str, Mapping[int, Mapping[str, float]]],
    seed: int,
) -> float:
    """A task's own share of an average, for one seed."""
    means = []
    for name in parts:
        own = scores[name][seed]
        means.append(np.mean([own[metric] for metric in tasks[name].average or list(own)[:1]]))
    return float(np.mean(means))


def outside_lines(rows: Sequence[tuple[str, str]]) -> list[OutsideLine]:
    """Published scores for some tasks and metrics, in that order.

    Args:
        rows: task and metric.
    """
    published: list[dict[str, Any]] = _benchmarks()["published"]
    return [
        OutsideLine(
            model=entry["model"],
            task=task,
            metric=metric,
            score=float(entry["scores"][task][metric]),
            split=entry["split"],
            training=entry["training"],
            source=entry["source"],
        )
        for task, metric in rows
        for entry in published
        if metric in entry["scores"].get(task, {})
    ]


def _benchmarks() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((shipped_configs() / "benchmarks.yaml").read_text(encoding="utf-8"))
    return found
