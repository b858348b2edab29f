"""Finished runs to results: scores per arm, paired differences, Holm's correction, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablation.config import AblationConfig, PrimaryConfig
from ablation.results.report import STANDARD_ERRORS, format_effect, format_lead, smallest_in
from ablation.results.runs import Comparison, FinishedRun, Floor, NotFinite, Results, Score, over_seeds
from finetune.results.statistics import FEWEST_SEEDS, holm, mean_sd, paired
from zoo.errors import ZooError, nearest

LEVEL = 0.05


def summarise(config: AblationConfig, runs: Sequence[FinishedRun]) -> Results:
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
        smallest_in(primary, config.primary.smallest_effect),
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


def floor_of(arm: str, runs: Sequence[FinishedRun], primary: PrimaryConfig) -> Floor:
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
        result.p_t,
        None,
        result.p_sign_flip,
        {seed: a[seed] - b[seed] for seed in sorted(set(a) & set(b))},
        "" if is_primary else "exploratory",
        is_primary,
    )


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
        return f"equivalent within ±{format_effect(c.measure, smallest)}"
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
            smallest = smallest_in(c.measure, config.primary.smallest_effect)
            c = replace(c, verdict=verdict(c, config.primary.better, smallest, floor))
        result.append(c)
    return result
