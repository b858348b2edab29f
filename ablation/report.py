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

from ablation.config import AblationConfig, PrimaryConfig
from finetune.results.statistics import FEWEST_SEEDS, MeanSd, holm, mean_sd, paired
from zoo.config import read_json
from zoo.errors import ZooError, nearest

UNIGRAM_ENTROPY = "unigram_entropy"
MAJORITY = "majority."
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


LEVEL = 0.05
STANDARD_ERRORS = 2.0
"""How far beyond its floor the reference has to be before anything is decided."""


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
    runs: list[Run]
    scores: list[Score]
    comparisons: list[Comparison]
    floors: list[Floor] = field(default_factory=list)
    not_finite: list[NotFinite] = field(default_factory=list)


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

    Only the primary measure's comparisons are corrected together (Holm); all others are exploratory. A measure that
    is not finite in one of an arm's runs takes that arm's score and comparison on it away, not the report.

    Raises:
        ZooError: no run has the primary measure, or what its floor names.
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
    if runs:
        figures = {name for run in runs for name in run.figures}
        for where, name in config.primary.names.items():
            known = measures if where == "primary.measure" else sorted(figures)
            if name not in known:
                raise ZooError(
                    f"{where} = {name!r} was not found in the runs.{nearest(name, known)} "
                    f"Found: {', '.join(known) or 'none'}."
                )
    finite = {key: v for key, v in values.items() if v and all(map(math.isfinite, v.values()))}
    scores = [Score(arm, m, *over_seeds(by_seed), by_seed=by_seed) for (arm, m), by_seed in finite.items()]
    comparisons = [
        compare(arm, reference, m, finite[arm, m], finite[reference, m], config)
        for m in measures
        for arm in names
        if arm != reference and finite.get((arm, m), {}).keys() & finite.get((reference, m), {}).keys()
    ]
    lost = sum(bool(values[arm, primary]) and (arm, primary) not in finite for arm in names)
    floors = [] if config.primary.floor is None else [floor_of(arm, runs, config.primary) for arm in names]
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
        _decide(comparisons, config, lost, next((f for f in floors if f.arm == reference), None)),
        floors,
        [
            NotFinite(run.arm, run.seed, str(run.folder), names)
            for run in runs
            if (names := [m for m in measures if not math.isfinite(run.measures.get(m, 0.0))])
        ],
    )


def floor_of(arm: str, runs: Sequence[Run], primary: PrimaryConfig) -> Floor:
    """How far an arm is beyond the floor, paired within each run; figures that are not finite count as absent."""
    assert primary.floor is not None
    measure, beats = primary.floor.measure or primary.measure, primary.floor.beats
    better = primary.floor.better or primary.better
    leads = {}
    for run in runs:
        figures = run.figures
        if run.arm == arm and {measure, beats} <= figures.keys():
            lead = figures[measure] - figures[beats] if better == "higher" else figures[beats] - figures[measure]
            if math.isfinite(lead):
                leads[run.seed] = lead
    if not leads:
        return Floor(arm, measure, beats, better, 0, None, None, False, {})
    mean, sd, n = mean_sd(list(leads.values()))
    se = None if sd is None else sd / math.sqrt(n)
    clears = se is not None and mean > 0 and mean >= STANDARD_ERRORS * se
    return Floor(arm, measure, beats, better, n, mean, se, clears, leads)


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


def verdict(c: Comparison, better: str, smallest_effect: float | None, floor: Floor | None = None) -> str:
    """What the primary measure allows to say (docs: rules of fair comparison).

    Nothing is decided where ``floor``, the reference's, is not cleared. A direction needs a Holm-adjusted p below 0.05
    and an estimate of at least the smallest effect that matters; equivalence needs the whole interval within it; the
    rest is undecided.
    """
    if c.n < FEWEST_SEEDS or c.interval is None or c.p_holm is None:
        return f"no verdict: n = {c.n}, at least {FEWEST_SEEDS} seeds are needed"
    if floor is not None and not floor.clears:
        return f"undecided: the reference does not clear its floor ({floor.measure}: {format_lead(floor)})"
    smallest = smallest_effect or 0.0
    if c.p_holm < LEVEL and abs(c.difference) >= smallest:
        return "better" if (c.difference > 0) == (better == "higher") else "worse"
    if -smallest < c.interval[0] and c.interval[1] < smallest:
        return f"equivalent within ±{smallest:g}"
    return "undecided at this budget"


def _decide(comparisons: list[Comparison], config: AblationConfig, lost: int, floor: Floor | None) -> list[Comparison]:
    """Holm over the primary measure's comparisons, then their verdicts.

    ``lost`` comparisons, of arms whose measure is not finite, count among those corrected: a run that failed must not
    make the other arms' verdicts easier.
    """
    chosen = [c for c in comparisons if c.primary]
    tested = [c for c in chosen if c.p is not None]
    adjusted = dict(zip([c.arm for c in tested], holm([c.p or 0.0 for c in tested] + [1.0] * lost), strict=False))
    result = []
    for c in comparisons:
        if c.primary:
            c = replace(c, p_holm=adjusted.get(c.arm))
            c = replace(c, verdict=verdict(c, config.primary.better, config.primary.smallest_effect, floor))
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
    summaries = [over_seeds({i: value for i, (_, value) in enumerate(step)}) for step in steps]
    x = [mean_sd([tokens for tokens, _ in step]).mean for step in steps]
    return x, [s.mean for s in summaries], [s.sd or 0.0 for s in summaries] if len(logs) > 1 else None


def is_accuracy(measure: str) -> bool:
    """Whether a measure is a share or a correlation (shown in percent) and not a loss."""
    return not measure.startswith(("validation.", "reference_masks.", "cloze.nats", "cloze.unigram."))


def unit_of(measure: str) -> str:
    """The unit of a measure's differences."""
    return "points" if is_accuracy(measure) else "nats"


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


def format_lead(floor: Floor) -> str:
    """A floor's figures: the lead, its standard error, the number of seeds."""
    if floor.lead is None:
        return f"no finite figure beside {floor.beats}"
    error = "no standard error" if floor.se is None else f"se {format_value(floor.measure, floor.se)}"
    lead = f"{format_value(floor.measure, abs(floor.lead))} {unit_of(floor.measure)}"
    return f"{lead} {'better' if floor.lead >= 0 else 'worse'} than {floor.beats}, {error}, n = {floor.n}"


def floor_line(results: Results) -> str:
    """Each arm's state at the floor, in one line; empty where there is no floor."""
    if not results.floors:
        return ""
    one = results.floors[0]
    states = [f"{f.arm} {'clears it' if f.clears else 'DOES NOT clear it'} ({format_lead(f)})" for f in results.floors]
    return (
        f"{one.measure} has to beat {one.beats} by {STANDARD_ERRORS:g} standard errors over seeds ({one.better} is "
        f"better; no verdict while the reference, {results.reference}, does not): {'; '.join(states)}."
    )


def not_finite_lines(results: Results) -> list[str]:
    """One line for each run with measures that are not finite."""
    lines = []
    for one in results.not_finite:
        line = f"Not finite in {one.arm}, seed {one.seed} ({one.folder}), so left out: {', '.join(one.measures)}."
        if results.primary in one.measures:
            whom = "no arm has a verdict" if one.arm == results.reference else f"{one.arm} has no verdict"
            line += f" {results.primary} is the primary measure: {whom}."
        lines.append(line)
    return lines


def markdown(results: Results) -> str:
    """The report as Markdown."""
    lines = [f"# {results.title}", ""]
    if results.claim:
        lines += [results.claim, ""]
    unit = unit_of(results.primary)
    lines += [
        f"Primary measure: `{results.primary}` ({results.better} is better"
        + (f", smallest effect that matters {results.smallest_effect:g}" if results.smallest_effect else "")
        + f"). Reference: `{results.reference}`. Losses in nats per target, scores in percent.",
        "",
        *([f"Floor: {floor_line(results)}", ""] if results.floors else []),
        *(text for line in not_finite_lines(results) for text in (line, "")),
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
    """The report as JSON values; curves stay in the run folders, which are named. ``null`` for what is not finite."""
    facts = asdict(results)
    facts["runs"] = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "folder": str(run.folder),
            "measures": _or_null(run.measures),
            "finetune": {name: _or_null(by_seed) for name, by_seed in run.scores.items()},
            "baselines": _or_null(run.baselines),
        }
        for run in results.runs
    ]
    return facts


def _or_null(values: Mapping[Any, float]) -> dict[Any, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
