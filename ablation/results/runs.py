"""Run folders to figures: logs by tokens, scores per seed, speed."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.results.statistics import MeanSd, mean_sd
from zoo.config import read_json
from zoo.errors import ZooError

UNIGRAM_ENTROPY = "unigram_entropy"
MAJORITY = "majority."
Log = list[tuple[float, dict[str, float]]]


@dataclass(frozen=True)
class FinishedRun:
    """One finished pretraining run with its fine-tuned scores.

    Args:
        arm: name of its arm.
        seed: its pretraining seed.
        folder: its run folder.
        facts: its ``run.json``.
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
    facts: dict[str, Any]
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
    def figures(self) -> dict[str, float]:
        """All measures, and what can be their floor: ``unigram_entropy`` and ``majority.TASK.METRIC``."""
        entropy = self.facts.get(UNIGRAM_ENTROPY)
        return {
            **self.measures,
            **({} if entropy is None else {UNIGRAM_ENTROPY: float(entropy)}),
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
            f"{folder} has no run.json, so nobody can say what produced it; the report refuses such results."
        )
    facts = read_json(folder / "run.json")
    if not facts.get("finished"):
        raise ZooError(f"{folder} is not finished; start the same command again to continue it.")
    train, validation = read_log(folder / "log.jsonl")
    return FinishedRun(
        arm, seed, folder, facts, train, validation, tokens_per_second=_speed(folder / "timing.jsonl", facts)
    )


def read_log(path: Path) -> tuple[Log, Log]:
    """Training losses and validations of a ``log.jsonl``, by tokens seen."""
    train: Log = []
    validation: dict[float, dict[str, Mapping[str, Any]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ZooError(f"{path}, line {number}, is not valid JSON: {error}") from error
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


def _speed(path: Path, facts: Mapping[str, Any]) -> float | None:
    if not path.exists():
        return None
    spent: dict[int, float] = {}  # steps repeated after a kill stand twice in the file; the last counts
    for line in path.read_text(encoding="utf-8").split("\n"):
        with contextlib.suppress(ValueError, KeyError):  # a half line that a kill left
            entry = json.loads(line)
            spent[int(entry["step"])] = float(entry["seconds"])
    seconds = sum(spent.values())
    return float(facts["tokens"]) / seconds if seconds and facts.get("tokens") else None
