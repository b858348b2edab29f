"""Run folders to figures: curves, scores per seed, paired differences; and the report as Markdown and JSON."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ablation.config import AblationConfig
from finetune.statistics import FEWEST_SEEDS, MeanSd, holm, mean_sd, paired
from zoo.config import read_json
from zoo.errors import ZooError

Log = list[tuple[float, dict[str, float]]]


@dataclass(frozen=True)
class Run:
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
            **{name: mean_sd(list(s.values())).mean for name, s in self.scores.items()},
        }


LEVEL = 0.05


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
    runs: list[Run]
    scores: list[Score]
    comparisons: list[Comparison]


def read_run(arm: str, seed: int, folder: Path) -> Run:
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
    return Run(arm, seed, folder, facts, train, validation, tokens_per_second=_speed(folder / "timing.jsonl", facts))


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


def summarise(config: AblationConfig, runs: Sequence[Run]) -> Results:
    """Scores per arm and paired comparisons with the reference.

    Only the primary measure's comparisons are corrected together (Holm); all others are exploratory.
    """
    names = [name for name in config.changes if any(run.arm == name for run in runs)]
    reference = config.against
    primary = config.primary.measure
    measures = sorted({m for run in runs for m in run.measures}, key=lambda m: (m != primary, m))
    values = {
        (arm, measure): {r.seed: r.measures[measure] for r in runs if r.arm == arm and measure in r.measures}
        for arm in names
        for measure in measures
    }
    if runs and primary not in measures:
        raise ZooError(
            f"primary measure {primary!r} was not found in the runs; found: {', '.join(measures) or 'none'}."
        )
    scores = [
        Score(arm, m, *mean_sd(list(by_seed.values())), by_seed=by_seed)
        for (arm, m), by_seed in values.items()
        if by_seed and all(math.isfinite(v) for v in by_seed.values())
    ]
    comparisons = [
        compare(arm, reference, m, values[arm, m], values[reference, m], config)
        for m in measures
        for arm in names
        if arm != reference and reference in names and set(values[arm, m]) & set(values[reference, m])
    ]
    return Results(
        config.name,
        config.title or config.name,
        config.claim,
        reference,
        primary,
        config.primary.better,
        config.primary.smallest_effect,
        names,
        list(runs),
        scores,
        _decide(comparisons, config),
    )


def compare(
    arm: str,
    reference: str,
    measure: str,
    a: Mapping[int, float],
    b: Mapping[int, float],
    config: AblationConfig,
) -> Comparison:
    """One paired comparison, arm minus reference."""
    result = paired(a, b)
    is_primary = measure == config.primary.measure
    interval = None if result.interval is None else (result.interval.low, result.interval.high)
    return Comparison(
        arm,
        reference,
        measure,
        result.n,
        result.mean_difference,
        result.sd,
        interval,
        result.correlation,
        t_p_value(result.mean_difference, result.sd, result.n),
        None,
        result.p,
        {seed: a[seed] - b[seed] for seed in sorted(set(a) & set(b))},
        "" if is_primary else "exploratory",
        is_primary,
    )


def t_p_value(mean: float, sd: float | None, n: int) -> float | None:
    """Two-sided p value of mean difference 0 by Student's t; ``None`` for one pair."""
    if sd is None:
        return None
    if sd == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    from scipy.stats import t  # half a second, and not needed before here

    return float(2 * t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1))


def verdict(c: Comparison, better: str, smallest_effect: float | None) -> str:
    """What the primary measure allows to say (docs: rules of fair comparison).

    A direction needs a Holm-adjusted p below 0.05 and an estimate of at least the smallest effect that matters;
    equivalence needs the whole interval within it; the rest is undecided.
    """
    if c.n < FEWEST_SEEDS or c.interval is None or c.p_holm is None:
        return f"no verdict: n = {c.n}, at least {FEWEST_SEEDS} seeds are needed"
    smallest = smallest_effect or 0.0
    if c.p_holm < LEVEL and abs(c.difference) >= smallest:
        return "better" if (c.difference > 0) == (better == "higher") else "worse"
    if -smallest < c.interval[0] and c.interval[1] < smallest:
        return f"equivalent within ±{smallest:g}"
    return "undecided at this budget"


def _decide(comparisons: list[Comparison], config: AblationConfig) -> list[Comparison]:
    """Holm over the primary measure's comparisons, then their verdicts."""
    chosen = [c for c in comparisons if c.primary]
    tested = [c for c in chosen if c.p is not None]
    adjusted = dict(zip([c.arm for c in tested], holm([c.p or 0.0 for c in tested]), strict=True))
    result = []
    for c in comparisons:
        if c.primary:
            c = replace(c, p_holm=adjusted.get(c.arm))
            c = replace(c, verdict=verdict(c, config.primary.better, config.primary.smallest_effect))
        result.append(c)
    return result


def token_objectives(runs: Iterable[Run]) -> list[str]:
    """Objectives that predict tokens: their training loss starts above half the unigram entropy."""
    found: dict[str, None] = {}
    for run in runs:
        for name in (name for _, terms in run.train[:3] for name in terms):
            first = next(terms[name] for _, terms in run.train if name in terms)
            if first > 0.5 * float(run.facts.get("unigram_entropy") or 0.0):
                found[name] = None
    return list(found)


def curve(runs: Iterable[Run], name: str, points: int = 60) -> tuple[list[float], list[float], list[float] | None]:
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


def validation_curve(runs: Iterable[Run], measure: str) -> tuple[list[float], list[float], list[float] | None]:
    """Mean validation value over runs at each validation, with its sd where there are several runs."""
    logs = [[(t, v[measure]) for t, v in run.validation if measure in v] for run in runs]
    logs = [log for log in logs if log]
    if not logs:
        return [], [], None
    steps = list(zip(*logs, strict=False))  # as many validations as every run has
    summaries = [mean_sd([value for _, value in step]) for step in steps]
    x = [mean_sd([tokens for tokens, _ in step]).mean for step in steps]
    return x, [s.mean for s in summaries], [s.sd or 0.0 for s in summaries] if len(logs) > 1 else None


def is_accuracy(measure: str) -> bool:
    """Whether a measure is a share or a correlation (shown in percent) and not a loss."""
    return not measure.startswith(("validation.", "reference_masks.", "cloze.nats", "cloze.unigram."))


def format_value(measure: str, value: float, sign: bool = False) -> str:
    """A value in its measure's unit: percent with one digit, nats with three."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f}" if is_accuracy(measure) else f"{value:{plus}.3f}"


def format_score(measure: str, score: MeanSd | Score) -> str:
    """Mean ± sd with the number of seeds beside it."""
    spread = "" if score.sd is None else f" ± {format_value(measure, score.sd)}"
    return f"{format_value(measure, score.mean)}{spread} (n = {score.n})"


def format_comparison(c: Comparison) -> str:
    """Difference, interval, number of pairs, correlation, p and verdict in one line."""
    parts = [f"{format_value(c.measure, c.difference, sign=True)}"]
    if c.interval is not None:
        low, high = (format_value(c.measure, v, sign=True) for v in c.interval)
        parts.append(f"[{low}, {high}]")
    parts.append(f"n = {c.n}")
    if c.correlation is not None:
        parts.append(f"r = {c.correlation:.2f}")
    if c.p is not None:
        parts.append(f"p = {c.p:.3g}" + (f", Holm {c.p_holm:.3g}" if c.p_holm is not None else ""))
    return " · ".join(parts)


def markdown(results: Results) -> str:
    """The report as Markdown."""
    lines = [f"# {results.title}", ""]
    if results.claim:
        lines += [results.claim, ""]
    unit = "points" if is_accuracy(results.primary) else "nats"
    lines += [
        f"Primary measure: `{results.primary}` ({results.better} is better"
        + (f", smallest effect that matters {results.smallest_effect:g}" if results.smallest_effect else "")
        + f"). Reference: `{results.reference}`. Losses in nats per target, scores in percent.",
        "",
        "## Scores (mean ± sd over seeds)",
        "",
    ]
    measures = list(dict.fromkeys(score.measure for score in results.scores))
    lines += _table(["arm", *measures], [[arm, *(_cell(results, arm, m) for m in measures)] for arm in results.arms])
    lines += ["", f"## Paired differences from `{results.reference}` (same seed = pair, 95% t interval)", ""]
    if not results.comparisons:
        lines += ["There is nothing to compare yet.", ""]
    rows = [[c.arm, f"`{c.measure}`", format_comparison(c), c.verdict] for c in results.comparisons]
    if rows:
        lines += _table(["arm", "measure", f"difference ({unit} for the primary)", "verdict"], rows)
    lines += ["", "## Runs", ""]
    lines += _table(["arm", "seed", "run folder"], [[r.arm, str(r.seed), f"`{r.folder}`"] for r in results.runs])
    return "\n".join(lines) + "\n"


def _cell(results: Results, arm: str, measure: str) -> str:
    found = [s for s in results.scores if s.arm == arm and s.measure == measure]
    return format_score(measure, found[0]) if found else "—"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), line(["---"] * len(head)), *(line(row) for row in rows)]


def to_json(results: Results) -> dict[str, Any]:
    """The report as JSON values; curves stay in the run folders, which are named."""
    facts = asdict(results)
    facts["runs"] = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "folder": str(run.folder),
            "measures": run.measures,
            "finetune": run.scores,
            "baselines": run.baselines,
        }
        for run in results.runs
    ]
    return facts
