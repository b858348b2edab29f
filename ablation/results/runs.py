"""What an ablation found: scores, paired comparisons, floors, and what is not finite."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.results.statistics import MeanSd, mean_sd
from zoo.errors import ZooError
from zoo.storage.files import read_json
from zoo.storage.user_files import read_records

BY_FREQUENCY = "frequency_loss."
MAJORITY = "majority."
Log = list[tuple[float, dict[str, float]]]


# --- one run ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinishedRun:
    """One finished pretraining run with its fine-tuned scores.

    Args:
        arm: name of its arm.
        seed: its pretraining seed.
        folder: its run folder.
        record: its ``run.json``.
        train: (tokens, loss by objective) by log line.
        validation: (tokens, losses and accuracies by measure) by validation.
        scores: fine-tuned scores by ``TASK.METRIC``: one per fine-tuning seed.
        baselines: the majority baseline by ``TASK.METRIC``.
        same_questions: ``reference_masks.NAME``: held-out losses on the reference arm's rows and masks; and
            ``cloze.NAME``: figures on hidden words.
        tokens_per_second: over the whole run, validation left out.
    """

    arm: str
    seed: int
    folder: Path
    record: dict[str, Any]
    train: Log
    validation: Log
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    baselines: dict[str, float] = field(default_factory=dict)
    same_questions: dict[str, float] = field(default_factory=dict)
    tokens_per_second: float | None = None

    @property
    def measures(self) -> dict[str, float]:
        """One value per measure: the last validation, the reference's questions, and fine-tuned means."""
        last = self.validation[-1][1] if self.validation else {}
        return {
            **last,
            **self.same_questions,
            **{name: over_seeds(by_seed).mean for name, by_seed in self.scores.items()},
        }

    @property
    def by_frequency(self) -> dict[str, float]:
        """Of each objective that predicts tokens: the loss of knowing the tokens' frequencies only."""
        return dict(self.record.get("frequency_loss", {}))

    @property
    def figures(self) -> dict[str, float]:
        """All measures, and what can be their floor: ``frequency_loss.NAME`` and ``majority.TASK.METRIC``."""
        return {
            **self.measures,
            **{f"{BY_FREQUENCY}{name}": value for name, value in self.by_frequency.items()},
            **{f"{MAJORITY}{name}": value for name, value in self.baselines.items()},
        }


def over_seeds(by_seed: Mapping[int, float]) -> MeanSd:
    """Mean and sd; NaN where a score is not finite, since a mean of the others would be of what went well only."""
    values = list(by_seed.values())
    return mean_sd(values) if all(map(math.isfinite, values)) else MeanSd(math.nan, None, len(values))


def read_run(arm: str, seed: int, folder: Path) -> FinishedRun:
    """Read one finished run folder.

    Raises:
        ZooError: no ``run.json`` (a number must lead back to what produced it), not finished, or a log that
            cannot be read.
    """
    if not (folder / "run.json").exists():
        raise ZooError(
            f"{folder} has no run.json, so nobody can say what produced it, and the report leaves no such result in."
        )
    record = read_json(folder / "run.json")
    if not record.get("finished"):
        raise ZooError(f"{folder} is not finished; start the same command again to continue it.")
    train, validation = read_log(folder / "log.jsonl")
    return FinishedRun(
        arm, seed, folder, record, train, validation, tokens_per_second=_speed(folder / "timing.jsonl", record)
    )


def read_log(path: Path) -> tuple[Log, Log]:
    """Training losses and validations of a ``log.jsonl``, by tokens seen."""
    train: Log = []
    validation: dict[float, dict[str, Mapping[str, Any]]] = {}
    for _, entry in read_records(path):
        tokens = float(entry.get("tokens", train[-1][0] if train else 0.0))
        if "validation" in entry:
            found = entry["validation"]
            validation.setdefault(tokens, {})[str(found.get("task", ""))] = found.get("terms", {})
        elif "terms" in entry:
            train.append((tokens, {name: float(value) for name, value in entry["terms"].items()}))
    return train, [(tokens, _validation_measures(by_task)) for tokens, by_task in validation.items()]


def by_objective(by_task: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of tasks' objectives by the objective's name, or by ``TASK.NAME`` where several tasks share one."""
    tasks = Counter(name for figures in by_task.values() for name in figures)
    return {
        name if tasks[name] == 1 else f"{task}.{name}": figure
        for task, figures in by_task.items()
        for name, figure in figures.items()
    }


def _validation_measures(by_task: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    measures = {}
    for name, figures in by_objective(by_task).items():
        measures[f"validation.{name}"] = float(figures["loss"])
        if figures.get("accuracy") is not None:
            measures[f"validation_accuracy.{name}"] = float(figures["accuracy"])
    return measures


def _speed(path: Path, record: Mapping[str, Any]) -> float | None:
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    seconds = sum(float(json.loads(line)["seconds"]) for line in lines)
    return float(record["tokens"]) / seconds if seconds and record.get("tokens") else None


# --- curves over several runs ----------------------------------------------------------------------


def curve(
    runs: Iterable[FinishedRun], name: str, points: int = 60
) -> tuple[list[float], list[float], list[float] | None]:
    """Mean training loss of an objective over runs at common token counts, and its sd where there are several.

    Each run's log is averaged in equal bins of the token axis, so that a point is the mean of what was logged
    in its bin, not a chance value.
    """
    logs = [[(tokens, terms[name]) for tokens, terms in run.train if name in terms] for run in runs]
    logs = [log for log in logs if log]
    if not logs:
        return [], [], None
    last = min(log[-1][0] for log in logs)
    bins = max(1, min(points, *(len(log) for log in logs)))
    binned = [_binned(log, last, bins) for log in logs]
    x, y, sd = [], [], []
    for index in range(bins):
        there = [value for value in (b[index] for b in binned) if value is not None]
        if there:
            summary = mean_sd(there)
            x.append(last * (index + 0.5) / bins)
            y.append(summary.mean)
            sd.append(summary.sd or 0.0)
    return x, y, sd if len(logs) > 1 else None


def _binned(log: Sequence[tuple[float, float]], last: float, bins: int) -> list[float | None]:
    groups: list[list[float]] = [[] for _ in range(bins)]
    for tokens, loss in log:
        if tokens <= last and math.isfinite(loss):
            groups[max(0, math.ceil(tokens / last * bins) - 1) if last else 0].append(loss)
    return [sum(group) / len(group) if group else None for group in groups]


def validation_curve(runs: Iterable[FinishedRun], measure: str) -> tuple[list[float], list[float], list[float] | None]:
    """Mean validation value over runs at each validation, with its sd where there are several runs."""
    logs = [[(t, v[measure]) for t, v in run.validation if measure in v] for run in runs]
    logs = [log for log in logs if log]
    if not logs:
        return [], [], None
    steps = list(zip(*logs, strict=False))  # as many validations as every run has
    summaries = [over_seeds({i: value for i, (_, value) in enumerate(step)}) for step in steps]
    x = [mean_sd([tokens for tokens, _ in step]).mean for step in steps]
    return x, [s.mean for s in summaries], [s.sd or 0.0 for s in summaries] if len(logs) > 1 else None


@dataclass(frozen=True)
class Score:
    """An arm's value on a measure; ``sd`` over pretraining seeds, ``None`` for one seed."""

    arm: str
    measure: str
    mean: float
    sd: float | None
    n: int
    by_seed: dict[int, float]


@dataclass(frozen=True)
class Comparison:
    """An arm against the reference on one measure, over the seeds that both have."""

    arm: str
    reference: str
    measure: str
    n: int
    difference: float
    sd: float | None
    interval: tuple[float, float] | None
    correlation: float | None
    p: float | None
    p_holm: float | None
    p_sign_flip: float
    by_seed: dict[int, float]
    verdict: str
    primary: bool


@dataclass(frozen=True)
class Floor:
    """How far an arm is beyond the floor.

    Args:
        arm: the arm.
        measure: what has to beat the floor.
        beats: the floor.
        better: the better direction of ``measure``.
        n: seeds with both figures.
        lead: mean over seeds of how much better ``measure`` is than the floor; ``None`` for no seed.
        se: its standard error; ``None`` below two seeds.
        clears: whether the lead is above 0 and at least two standard errors.
        by_seed: the lead of each seed.
    """

    arm: str
    measure: str
    beats: str
    better: str
    n: int
    lead: float | None
    se: float | None
    clears: bool
    by_seed: dict[int, float]


@dataclass(frozen=True)
class NotFinite:
    """A run with measures that are not finite; its arm has no score and no comparison on them."""

    arm: str
    seed: int
    folder: str
    measures: list[str]


@dataclass(frozen=True)
class Results:
    """Everything a report says."""

    name: str
    title: str
    claim: str
    reference: str
    primary: str
    better: str
    smallest_effect: float | None
    arms: list[str]
    runs: list[FinishedRun]
    scores: list[Score]
    comparisons: list[Comparison]
    floors: list[Floor] = field(default_factory=list)
    not_finite: list[NotFinite] = field(default_factory=list)
