"""Results as one HTML page: the figures, tables and charts that ``ablation.html`` and ``demo.html`` lay out.

The pages are self-contained: inline CSS and SVG, no script, nothing fetched. Whatever comes from a config or a run is
escaped by the templates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.page.arms import Changed, HiddenLine, changes, lineage, looks_of, text_of
from ablation.page.charts import DotPlot, Estimate, LineChart, Series, dot_plot, line_chart, look_of
from ablation.results.report import (
    floor_line,
    format_comparison,
    format_effect,
    format_score,
    format_value,
    is_accuracy,
    not_finite_lines,
    unit_of,
)
from ablation.results.runs import (
    Comparison,
    FinishedRun,
    Results,
    curve,
    over_seeds,
    validation_curve,
)
from finetune.results.statistics import FEWEST_SEEDS, paired_t_test
from zoo.runtime.templates import TextTable, render_template
from zoo.version import __version__

COLUMNS = 6
"""Measures side by side: more are a table of their own, so that none is cut on a screen or a sheet."""


@dataclass(frozen=True)
class Provenance:
    """What made the numbers: the command, what is known of code and machine, a folder for each run."""

    command: str
    details: list[tuple[str, str]]
    folders: TextTable


def ablation_page(results: Results, changed: Changed, command: str, hidden: Sequence[HiddenLine] = ()) -> str:
    """The page of an ablation.

    Args:
        results: what was found.
        changed: what each arm changes.
        command: what the ablation was started with.
        hidden: what each arm's objective hides.
    """
    return _page(
        "ablation.html",
        results,
        changed,
        command,
        hidden,
        lead=_lead(results, changed),
        claim=results.claim,
        rules=_rules(results),
        tables=_scores(results),
        primary=_differences(results, primary=True),
        exploratory=_differences(results, primary=False),
    )


def demo_page(
    results: Results, changed: Changed, command: str, seconds: float, hidden: Sequence[HiddenLine] = ()
) -> str:
    """The page of the demo, whose call took ``seconds``."""
    return _page(
        "demo.html",
        results,
        changed,
        command,
        hidden,
        lead=f"{results.claim} This call took {seconds / 60:.1f} minutes; finished parts are not run again.",
        comparison=comparison_table(results.runs),
        floor=floor_line(results),
    )


def _page(
    template: str, results: Results, changed: Changed, command: str, hidden: Sequence[HiddenLine], **own: Any
) -> str:
    """What both pages have, and what one has of its ``own``."""
    return render_template(
        Path(__file__).with_name(template),
        title=results.title,
        not_finite=not_finite_lines(results),
        chain=lineage(results, changed),
        looks={arm: look_of(number) for number, arm in enumerate(results.arms)},
        scored=score_plots(results),
        losses=loss_charts(results),
        hidden=hidden,
        hidden_looks=looks_of(hidden),
        changes=changes(results.reference, changed),
        provenance=provenance(results.runs, command),
        **own,
    )


def _lead(results: Results, changed: Changed) -> str:
    counts = {arm: sum(run.arm == arm for run in results.runs) for arm in results.arms}
    seeds = len({run.seed for run in results.runs})
    few = [f"{arm} {count} of {seeds}" for arm, count in counts.items() if count < seeds]
    none = [arm for arm in changed if arm not in counts]
    return (
        f"{len(results.arms)} arms × {seeds} seeds (n = {seeds}), {len(results.runs)} finished runs. Same "
        "seed = one pair: same documents in the same order, same initial values of what arms have in common."
        + (f" Seeds so far: {', '.join(few)}." if few else "")
        + (f" Not finished yet: {', '.join(none)}." if none else "")
    )


def _rules(results: Results) -> list[tuple[str, str]]:
    smallest = "any" if results.smallest_effect is None else format_effect(results.primary, results.smallest_effect)
    return [
        ("Primary measure", f"{results.primary} ({results.better} is better)"),
        ("Smallest effect that matters", smallest),
        ("Reference", results.reference),
        *([("Floor", floor_line(results))] if results.floors else []),
        ("Intervals", "95% t intervals over per-seed paired differences; items are never resampled"),
        ("Verdict", f"from {FEWEST_SEEDS} pairs on, on the primary measure only; p values corrected by Holm"),
    ]


def _scores(results: Results) -> list[TextTable]:
    """All measures, at most ``COLUMNS`` side by side."""
    measures = list(dict.fromkeys(score.measure for score in results.scores))
    found = {(score.arm, score.measure): score for score in results.scores}
    majority = {name: value for run in results.runs for name, value in run.baselines.items()}
    tables = []
    for first in range(0, len(measures), COLUMNS):
        own = measures[first : first + COLUMNS]
        rows = [[arm, *(_cell(m, found.get((arm, m))) for m in own)] for arm in results.arms]
        if majority.keys() & set(own):
            rows.append(["majority class", *(format_value(m, majority[m]) if m in majority else "" for m in own)])
        tables.append(TextTable(["arm", *own], rows))
    note = "Mean ± standard deviation over pretraining seeds (n). Losses in nats per target, scores in percent."
    return [*tables[:-1], *(TextTable(table.head, table.rows, note) for table in tables[-1:])]


def _cell(measure: str, score: Any) -> str:
    return "—" if score is None else format_score(measure, score).replace(" = ", "\u00a0=\u00a0")


def score_plots(results: Results) -> list[DotPlot]:
    """A plot for the primary measure and for every fine-tuned score: a dot per seed, mean and 95% t interval."""
    tuned = sorted({name for run in results.runs for name in run.scores})
    chosen = [results.primary, *tuned] if any(s.measure == results.primary for s in results.scores) else tuned
    return [_score_plot(results, measure) for measure in dict.fromkeys(chosen)]


def _score_plot(results: Results, measure: str) -> DotPlot:
    asked = {arm: [r for r in results.runs if r.arm == arm and measure in r.measures] for arm in results.arms}
    runs = [run for own in asked.values() for run in own]
    scale = _scale(measure)
    rows = [_estimate(results.arms.index(arm), arm, own, measure) for arm, own in asked.items() if own]
    lines = [
        ("majority class", value) for value in sorted({r.baselines[measure] for r in runs if measure in r.baselines})
    ]
    texts = ", ".join(dict.fromkeys(filter(None, map(text_of, runs))))
    tuned = all(len(own) < 2 and all(measure in run.scores for run in own) for own in asked.values())
    kind = "fine-tuning" if tuned else "pretraining"
    note = f"Small: one {kind} seed (n). Large, with bar: mean and 95% t interval."
    note += f" Pretrained on {texts}." if texts else ""
    read = {text_of(run) for run in runs}
    lacking = [r.arm for r in results.runs if not asked[r.arm] and text_of(r) in read]
    if lacking:
        note += f" Not measured in {', '.join(dict.fromkeys(lacking))}."
    return dot_plot(
        f"{measure}, {'%' if is_accuracy(measure) else 'nats'}",
        rows,
        note,
        [(f"{name} {format_value(measure, value)}", scale * value) for name, value in lines[:3]],
        bounds=(-scale if min([0.0, *(r.measures[measure] for r in runs)]) < 0 else 0.0, scale)
        if is_accuracy(measure)
        else (-math.inf, math.inf),
    )


def _estimate(number: int, arm: str, runs: Sequence[FinishedRun], measure: str) -> Estimate:
    """An arm's row: over its pretraining seeds; of a single run over its fine-tuning seeds."""
    tuned = runs[0].scores.get(measure, {}) if len(runs) == 1 else {}
    by_seed = tuned or {run.seed: run.measures[measure] for run in runs}
    score, scale = over_seeds(by_seed), _scale(measure)
    points = [(scale * v, f"{arm}, seed {seed}: {format_value(measure, v)}") for seed, v in by_seed.items()]
    if not math.isfinite(score.mean):
        return Estimate(arm, None, None, points, "not finite", colour=number)
    interval = None
    if score.sd:
        low, high = paired_t_test(list(by_seed.values()), [0.0] * score.n)[0]
        interval = (scale * low, scale * high)
    return Estimate(arm, scale * score.mean, interval, points, format_score(measure, score), colour=number)


def _differences(results: Results, primary: bool) -> list[DotPlot]:
    chosen = [c for c in results.comparisons if c.primary == primary]
    plots = []
    for measure in dict.fromkeys(c.measure for c in chosen):
        plots.append(
            dot_plot(
                f"{measure}: arm minus {results.reference}, {unit_of(measure)}",
                [_effect(c, results.arms.index(c.arm)) for c in chosen if c.measure == measure],
                "Large, with bar: mean and 95% t interval. Small: one pair (seed) each. n: pairs. r: "
                "correlation of the paired scores; near 0, pairing bought nothing."
                + (" Shaded: smaller than what matters." if primary and results.smallest_effect else ""),
                [("no difference", 0.0)],
                _scale(measure) * results.smallest_effect if primary and results.smallest_effect else None,
            )
        )
    return plots


def _scale(measure: str) -> float:
    return 100.0 if is_accuracy(measure) else 1.0


def _effect(c: Comparison, number: int) -> Estimate:
    scale = _scale(c.measure)
    interval = None if c.interval is None else (scale * c.interval[0], scale * c.interval[1])
    note = format_comparison(c) if not c.primary else f"{c.verdict}: {format_comparison(c)}"
    points = [(scale * v, f"{c.arm}, seed {seed}: {format_value(c.measure, v, True)}") for seed, v in c.by_seed.items()]
    return Estimate(
        c.arm, scale * c.difference, interval, points, note.replace(" = ", "\u00a0=\u00a0"), c.primary, number
    )


def frequency_lines(runs: Sequence[FinishedRun]) -> list[tuple[str, float]]:
    """By objective, the loss of knowing token frequencies only; one line where all are the same."""
    found = {(name, round(value, 3)) for run in runs for name, value in run.by_frequency.items()}
    if len({value for _, value in found}) == 1:
        return [("by frequency", value) for _, value in found][:1]
    return [(f"by frequency, {name}", value) for name, value in sorted(found, key=lambda line: (line[1], line[0]))]


def loss_charts(results: Results) -> list[LineChart]:
    """One chart for each unit of loss: all arms that predict tokens of one text together, and all that give answers.

    Lines are training, marks are held out: means over seeds, with a band of one sd where there are several.
    """
    drawn: dict[tuple[bool, str, float], list[tuple[int, str, str]]] = {}
    tokens = {name for run in results.runs for name in run.by_frequency}
    for number, arm in enumerate(results.arms):
        runs = [run for run in results.runs if run.arm == arm]
        trained = [name for run in runs for _, terms in run.train for name in terms]
        for name in dict.fromkeys([*trained, *map(_term, _terms(runs))]):
            is_token = name in tokens or name.rsplit(".", 1)[-1] in tokens
            unit = (is_token, text_of(runs[0]), _entropy(runs[0]) if is_token else 0.0)
            drawn.setdefault(unit, []).append((number, arm, name))
    several = len({unit[1:] for unit in drawn if unit[0]}) > 1
    return [
        _loss_chart(results, unit, own, several) for unit, own in sorted(drawn.items(), key=lambda item: not item[0][0])
    ]


def _entropy(run: FinishedRun) -> float:
    """What tells texts and tokenizers apart: losses over one text with one tokenizer share a chart."""
    return round(float(run.record.get("unigram_entropy") or 0.0), 3)


def _loss_chart(
    results: Results,
    unit: tuple[bool, str, float],
    drawn: Sequence[tuple[int, str, str]],
    several: bool,
) -> LineChart:
    is_token, text, _ = unit
    shown = {arm for _, arm, _ in drawn}
    lines = frequency_lines([run for run in results.runs if run.arm in shown]) if is_token else []
    names = [arm for _, arm, _ in drawn]
    plain = len(set(names)) == len(names)  # one objective of each arm, so the arm's name is enough
    series, counts = list[Series](), dict[str, int]()
    for number, arm, name in drawn:
        runs = [run for run in results.runs if run.arm == arm]
        counts[arm], label = len(runs), arm if plain else f"{arm}: {name}"
        series.append(Series(label, *curve(runs, name)[:2], number, "line", curve(runs, name)[2]))
        x, y, band = validation_curve(runs, f"validation.{name}")
        series.append(Series(label, x, y, number, "points", band))
    note = "Lines (a filled mark, where there is one value): training. Open marks: held out."
    if max(counts.values()) > 1:
        note += f" Means over seeds, bands ± 1 sd: {', '.join(f'{arm} n = {n}' for arm, n in counts.items())}."
    elif is_token:
        note += " n = 1 run each."
    title = "Predicting tokens" if is_token else "Giving a class (pairs, order, labels)"
    return line_chart(
        f"{title}: {text}" if several and text else title,
        series,
        "tokens seen",
        "nats per target" if is_token else "nats per answer",
        lines,
        note,
    )


def _terms(runs: Sequence[FinishedRun]) -> list[str]:
    found = {m for run in runs for _, v in run.validation for m in v}
    return sorted(m for m in found if m.startswith("validation.") and m != "validation.loss")


def _term(measure: str) -> str:
    return measure.removeprefix("validation.")


def comparison_table(runs: Sequence[FinishedRun]) -> TextTable:
    """One row per run: size, cost, held-out loss beside that of knowing frequencies only."""
    head = ["family", "parameters", "tokens seen", "targets seen", "held-out loss, nats per target", "by frequency"]
    rows: list[Sequence[str | Sequence[str]]] = []
    for run in runs:
        last = run.validation[-1][1] if run.validation else {}
        rows.append(
            [
                run.arm,
                _count(run.record.get("parameters")),
                _count(run.record.get("tokens")),
                _targets(run.record.get("targets")),
                [_loss(_term(m), last) for m in _terms([run]) if m in last] or "—",
                [f"{name} {value:.3f}" for name, value in run.by_frequency.items()] or "—",
                _seconds(run.record.get("seconds")),
                _count(run.tokens_per_second),
            ]
        )
    return TextTable([*head, "seconds", "tokens/s"], rows)


def _loss(name: str, figures: Mapping[str, float]) -> str:
    accuracy = figures.get(f"validation_accuracy.{name}")
    return f"{name} {figures[f'validation.{name}']:.3f}" + (
        "" if accuracy is None else f" ({100 * accuracy:.0f}% right)"
    )


def _count(value: Any) -> str:
    return "—" if value is None else f"{float(value):,.0f}".replace(",", "\u202f")


def _targets(value: Any) -> str | list[str]:
    if not isinstance(value, Mapping):
        return _count(value)
    return [f"{name} {_count(count)}" for name, count in value.items()]


def _seconds(value: Any) -> str:
    return "—" if value is None else f"{float(value):.0f}"


def provenance(runs: Sequence[FinishedRun], command: str) -> Provenance:
    """Command, versions, commit, data, and the run folder behind every number."""
    record = runs[0].record if runs else {}
    versions = record.get("versions") or {}
    listed = [("sesame-zoo", __version__)]
    listed += [(str(name), str(value)) for name, value in versions.items() if name != "sesame-zoo"]
    for key in ("commit", "machine", "processes", "precision", "data_fingerprint"):
        if record.get(key) is not None:
            listed.append((key.replace("_", " "), _value_of(record[key])))
    rows = [[run.arm, str(run.seed), str(run.folder)] for run in runs]
    return Provenance(command, listed, TextTable(["arm", "seed", "run folder"], rows))


def _value_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
