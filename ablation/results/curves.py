"""Logs of several runs to one curve: the mean over seeds, and its standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ablation.results.runs import FinishedRun, over_seeds
from finetune.results.statistics import mean_sd


def token_objectives(runs: Iterable[FinishedRun]) -> list[str]:
    """Objectives that predict tokens: their training loss starts above half the unigram entropy."""
    found: dict[str, None] = {}
    for run in runs:
        for name in (name for _, terms in run.train[:3] for name in terms):
            first = next(terms[name] for _, terms in run.train if name in terms)
            if first > 0.5 * float(run.facts.get("unigram_entropy") or 0.0):
                found[name] = None
    return list(found)


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
