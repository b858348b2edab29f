"""Results as one HTML page: the figures, tables and charts that ``ablation.html`` and ``demo.html`` lay out.

The pages are self-contained: inline CSS and SVG, no script, nothing fetched. Whatever comes from a config or a run is
escaped by the templates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ablation.page.charts import Effect, ForestPlot, LineChart, Series, forest_plot, line_chart, value_range
from ablation.results.report import (
    floor_line,
    format_comparison,
    format_score,
    format_value,
    is_accuracy,
    not_finite_lines,
    unit_of,
)
from ablation.results.results import Comparison, Results
from ablation.results.runs import FinishedRun, curve, over_seeds, token_objectives, validation_curve
from finetune.results.statistics import FEWEST_SEEDS
from zoo.runtime.templates import render_template
from zoo.version import __version__

SHOWN_DIFFERENCES = 24
Changed = Mapping[str, Sequence[tuple[str, Any, Any]]]
"""For each arm the settings in which it differs from the reference: (key, reference's value, its value)."""


@dataclass(frozen=True)
class TextTable:
    """A table whose first column names the rows; a cell is a text, or several lines of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Sequence[str]]]
    note: str = ""


@dataclass(frozen=True)
class ArmChanges:
    """How many settings an arm changes, and the first of them."""

    name: str
    count: int
    table: TextTable


@dataclass(frozen=True)
class Provenance:
    """What made the numbers: the command, what is known of code and machine, a folder for each run."""

    command: str
    details: list[tuple[str, str]]
    folders: TextTable


def ablation_page(
    results: Results, changed: Changed, command: str, charts: Literal["together", "apart"] = "together"
) -> str:
    """The page of an ablation.

    Args:
        results: what was found.
        changed: what each arm changes.
        command: what the ablation was started with.
        charts: the setting of that name: losses of all arms in one chart, or one chart per arm.
    """
    return render_template(
        Path(__file__).with_name("ablation.html"),
        title=results.title,
        lead=_lead(results),
        claim=results.claim,
        rules=_rules(results),
        not_finite=not_finite_lines(results),
        scores=_scores(results),
        primary=_forest(results, primary=True),
        losses=one_chart(results) if charts == "together" else chart_per_arm(results),
        exploratory=_forest(results, primary=False),
        changes=changes(results.reference, changed),
        provenance=provenance(results.runs, command),
    )


def demo_page(results: Results, changed: Changed, command: str, seconds: float) -> str:
    """The page of the demo, whose call took ``seconds``."""
    return render_template(
        Path(__file__).with_name("demo.html"),
        title=results.title,
        lead=f"{results.claim} This call took {seconds / 60:.1f} minutes; finished parts are not run again.",
        not_finite=not_finite_lines(results),
        comparison=comparison_table(results.runs),
        floor=floor_line(results),
        losses=chart_per_arm(results),
        changes=changes(results.reference, changed),
        provenance=provenance(results.runs, command),
    )


def _lead(results: Results) -> str:
    seeds = sorted({run.seed for run in results.runs})
    return (
        f"{len(results.arms)} arms × {len(seeds)} seeds (n = {len(seeds)}), {len(results.runs)} finished runs. Same "
        "seed = one pair: same documents in the same order, same initial values of what arms have in common."
    )


def _rules(results: Results) -> list[tuple[str, str]]:
    smallest = "any" if results.smallest_effect is None else f"{results.smallest_effect:g}"
    return [
        ("Primary measure", f"{results.primary} ({results.better} is better)"),
        ("Smallest effect that matters", smallest),
        ("Reference", results.reference),
        *([("Floor", floor_line(results))] if results.floors else []),
        ("Intervals", "95% t intervals over per-seed paired differences; items are never resampled"),
        ("Verdict", f"from {FEWEST_SEEDS} pairs on, on the primary measure only; p values corrected by Holm"),
    ]


def _scores(results: Results) -> TextTable:
    measures = list(dict.fromkeys(score.measure for score in results.scores))
    found = {(score.arm, score.measure): score for score in results.scores}
    rows = [
        [arm, *(format_score(m, found[arm, m]) if (arm, m) in found else "—" for m in measures)] for arm in results.arms
    ]
    for name in sorted({name for run in results.runs for name in run.baselines}):
        values = [run.baselines[name] for run in results.runs if name in run.baselines]
        rows.append([f"majority ({name})", *(format_value(m, values[0]) if m == name else "" for m in measures)])
    note = "Mean ± standard deviation over pretraining seeds (n). Losses in nats per target, scores in percent."
    return TextTable(["arm", *measures], rows, note)


def _forest(results: Results, primary: bool) -> list[ForestPlot]:
    chosen = [c for c in results.comparisons if c.primary == primary]
    plots = []
    for measure in dict.fromkeys(c.measure for c in chosen):
        rows = [c for c in chosen if c.measure == measure]
        unit = unit_of(measure)
        plots.append(
            forest_plot(
                f"{measure}: arm minus {results.reference}, {unit}",
                [_effect(c) for c in rows],
                "Large dot and bar: mean and 95% t interval. Small dots: one pair (seed) each. n: pairs. r: "
                "correlation of the paired scores; near 0, pairing bought nothing."
                + (" Shaded: smaller than what matters." if primary and results.smallest_effect else ""),
                _scale(measure) * results.smallest_effect if primary and results.smallest_effect else None,
            )
        )
    return plots


def _scale(measure: str) -> float:
    return 100.0 if is_accuracy(measure) else 1.0


def _effect(c: Comparison) -> Effect:
    scale = _scale(c.measure)
    interval = None if c.interval is None else (scale * c.interval[0], scale * c.interval[1])
    note = format_comparison(c) if not c.primary else f"{c.verdict}: {format_comparison(c)}"
    note = note.replace(" = ", "\u00a0=\u00a0")
    points = [scale * value for value in c.by_seed.values()]
    return Effect(c.arm, scale * c.difference, interval, points, note, c.primary)


def entropy_line(runs: Sequence[FinishedRun]) -> list[tuple[str, float]]:
    """The unigram entropy as a reference line; several where runs have different tokenizers."""
    values = sorted({round(float(r.record["unigram_entropy"]), 3) for r in runs if r.record.get("unigram_entropy")})
    return [("unigram entropy", value) for value in values]


def one_chart(results: Results) -> list[LineChart]:
    """Training loss, and each held-out loss, with one line per arm: mean over seeds and a band of one sd."""
    figures, lines = [], entropy_line(results.runs)
    by_arm = {arm: [run for run in results.runs if run.arm == arm] for arm in results.arms}
    bands = any(len(runs) > 1 for runs in by_arm.values())
    seeds = ", ".join(f"{arm} n = {len(runs)}" for arm, runs in by_arm.items())
    note = f"Mean over seeds{', band ± 1 sd' if bands else ''}: {seeds}."
    for name in token_objectives(results.runs):
        train = [
            Series(arm, x, y, i, "line", band)
            for i, arm in enumerate(results.arms)
            for x, y, band in [curve(by_arm[arm], name)]
        ]
        figures.append(line_chart(f"Training: {name}", train, "tokens seen", "nats per target", lines, note=note))
    losses = sorted({m for run in results.runs for _, v in run.validation for m in v if m.startswith("validation.")})
    for measure in losses:
        series = []
        for i, (arm, runs) in enumerate(by_arm.items()):
            x, y, band = validation_curve(runs, measure)
            if x:
                series.append(Series(arm, x, y, i, "points", band))
        marks = lines if _term(measure) in token_objectives(results.runs) else ()
        figures.append(
            line_chart(f"Held out: {_term(measure)}", series, "tokens seen", "nats per target", marks, note=note)
        )
    return figures


def chart_per_arm(results: Results) -> list[LineChart]:
    """One chart per arm on one vertical scale: training and held-out loss of tokens, and the unigram entropy."""
    drawn: dict[str, list[Series]] = {}
    lines: dict[str, list[tuple[str, float]]] = {}
    for i, arm in enumerate(results.arms):
        runs = [run for run in results.runs if run.arm == arm]
        drawn[arm], lines[arm] = [], entropy_line(runs)
        for name in token_objectives(runs):
            x, y, band = curve(runs, name)
            drawn[arm].append(Series(f"training: {name}", x, y, i, "line", band))
            x, y, band = validation_curve(runs, f"validation.{name}")
            drawn[arm].append(Series(f"held out: {name}", x, y, i, "points", band))
    shared = value_range([one for series in drawn.values() for one in series], entropy_line(results.runs))
    return [
        line_chart(arm, series, "tokens seen", "nats per target", lines[arm], shared, _caption(results.runs, arm))
        for arm, series in drawn.items()
    ]


def _terms(runs: Sequence[FinishedRun]) -> list[str]:
    found = {m for run in runs for _, v in run.validation for m in v}
    return sorted(m for m in found if m.startswith("validation.") and m != "validation.loss")


def _term(measure: str) -> str:
    return measure.removeprefix("validation.")


def _caption(runs: Sequence[FinishedRun], arm: str) -> str:
    own = [run for run in runs if run.arm == arm]
    edge = str(own[0].record.get("config", {}).get("edge", ""))
    return f"{edge} n = {len(own)} run{'s' if len(own) > 1 else ''}.".strip()


def comparison_table(runs: Sequence[FinishedRun]) -> TextTable:
    """One row per run: size, cost, held-out loss, fine-tuned score beside the majority baseline."""
    scored = sorted({name for run in runs for name in run.scores})
    head = ["family", "parameters", "tokens seen", "targets seen", "held-out loss, nats per target", "unigram entropy"]
    for name in scored:
        head += [f"{name}, %: mean ± sd", "majority, %"]
    head += ["seconds", "tokens/s"]
    rows: list[Sequence[str | Sequence[str]]] = []
    for run in runs:
        last = run.validation[-1][1] if run.validation else {}
        losses = [_loss(_term(m), last) for m in _terms([run]) if m in last]
        row: list[str | Sequence[str]] = [
            run.arm,
            _count(run.record.get("parameters")),
            _count(run.record.get("tokens")),
            _targets(run.record.get("targets")),
            losses,
            ", ".join(f"{value:.3f}" for _, value in entropy_line([run])) or "—",
        ]
        for name in scored:
            score = over_seeds(run.scores[name]) if name in run.scores else None
            row += [format_score(name, score) if score else "—", _percent(run.baselines.get(name))]
        rows.append([*row, _seconds(run.record.get("seconds")), _count(run.tokens_per_second)])
    return TextTable(head, rows, _caution(len(scored)))


def _loss(name: str, figures: Mapping[str, float]) -> str:
    accuracy = figures.get(f"validation_accuracy.{name}")
    return f"{name} {figures[f'validation.{name}']:.3f}" + (
        "" if accuracy is None else f" ({100 * accuracy:.0f}% right)"
    )


def _caution(tasks: int) -> str:
    parts = [
        "Masked and causal losses are not comparable: a masked model sees both sides of its targets, a causal one only "
        "the left; and masks of words, spans and single tokens ask different questions. Compare each with the unigram "
        "entropy: below it, a model has learned more than word frequencies."
    ]
    if tasks:
        parts.append(
            "Fine-tuned: mean ± sd over n fine-tuning seeds of one pretrained model each. With one pretraining seed "
            "per family this table carries no verdict about the families: it shows that the whole line works."
        )
    return " ".join(parts)


def _count(value: Any) -> str:
    return "—" if value is None else f"{float(value):,.0f}".replace(",", "\u202f")


def _targets(value: Any) -> str | list[str]:
    if not isinstance(value, Mapping):
        return _count(value)
    return [f"{name} {_count(count)}" for name, count in value.items()]


def _seconds(value: Any) -> str:
    return "—" if value is None else f"{float(value):.0f}"


def _percent(value: float | None) -> str:
    return "—" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def changes(reference: str, changed: Changed) -> list[ArmChanges]:
    """For each arm the settings in which it differs from the reference."""
    found = []
    for arm, rows in changed.items():
        if arm == reference:
            continue
        cells = [[key, _value(old), _value(new)] for key, old, new in rows[:SHOWN_DIFFERENCES]]
        more = len(rows) - SHOWN_DIFFERENCES
        note = f"{more} more are in report.json." if more > 0 else ""
        found.append(ArmChanges(arm, len(rows), TextTable(["setting", reference, arm], cells, note)))
    return found


def _value(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


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
