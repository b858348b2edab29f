"""Results as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ablation import html
from ablation.html import Effect, Markup, Series
from ablation.report import (
    Comparison,
    Results,
    Run,
    curve,
    floor_line,
    format_comparison,
    format_score,
    format_value,
    is_accuracy,
    not_finite_lines,
    over_seeds,
    token_objectives,
    unit_of,
    validation_curve,
)
from finetune.results.statistics import FEWEST_SEEDS
from zoo.version import __version__

SHOWN_DIFFERENCES = 24


def ablation_page(results: Results, changed: Mapping[str, list[tuple[str, Any, Any]]], command: str) -> str:
    """The page of an ablation, its arms drawn together."""
    sections = [
        html.section("What was asked", html.paragraph(results.claim or "No claim was written down."), _rules(results)),
        html.section("Scores", _not_finite(results), _scores(results)),
        html.section("Paired differences", _forest(results, primary=True)),
        html.section("Loss", html.charts(together(results))),
        html.section("Everything else (exploratory)", _forest(results, primary=False)),
        html.section("What each arm changes", changes(results.reference, changed)),
        html.section("Where the numbers come from", provenance(results.runs, command)),
    ]
    return html.page(results.title, _lead(results), sections)


def demo_page(results: Results, changed: Mapping[str, list[tuple[str, Any, Any]]], command: str, seconds: float) -> str:
    """The page of the demo: one chart per family, because their losses are of different questions."""
    sections = [
        html.section("Comparison", _not_finite(results), comparison_table(results.runs), _floor(results)),
        html.section("Loss over tokens", html.charts(apart(results))),
        html.section("What each family changes", changes(results.reference, changed)),
        html.section("Where the numbers come from", provenance(results.runs, command)),
    ]
    lead = f"{results.claim} This call took {seconds / 60:.1f} minutes; finished parts are not run again."
    return html.page(results.title, lead, sections)


def _lead(results: Results) -> str:
    seeds = sorted({run.seed for run in results.runs})
    return (
        f"{len(results.arms)} arms × {len(seeds)} seeds (n = {len(seeds)}), {len(results.runs)} finished runs. Same "
        "seed = one pair: same documents in the same order, same initial values of what arms have in common."
    )


def _rules(results: Results) -> Markup:
    smallest = "any" if results.smallest_effect is None else f"{results.smallest_effect:g}"
    return html.facts(
        [
            ("Primary measure", f"{results.primary} ({results.better} is better)"),
            ("Smallest effect that matters", smallest),
            ("Reference", results.reference),
            *([("Floor", floor_line(results))] if results.floors else []),
            ("Intervals", "95% t intervals over per-seed paired differences; items are never resampled"),
            ("Verdict", f"from {FEWEST_SEEDS} pairs on, on the primary measure only; p values corrected by Holm"),
        ]
    )


def _floor(results: Results) -> Markup:
    return html.paragraph(f"Floor: {floor_line(results)}") if results.floors else Markup("")


def _not_finite(results: Results) -> Markup:
    return Markup("".join(html.paragraph(line) for line in not_finite_lines(results)))


def _scores(results: Results) -> Markup:
    measures = list(dict.fromkeys(score.measure for score in results.scores))
    found = {(score.arm, score.measure): score for score in results.scores}
    rows = [
        [arm, *(format_score(m, found[arm, m]) if (arm, m) in found else "—" for m in measures)] for arm in results.arms
    ]
    for name in sorted({name for run in results.runs for name in run.baselines}):
        values = [run.baselines[name] for run in results.runs if name in run.baselines]
        rows.append([f"majority ({name})", *(format_value(m, values[0]) if m == name else "" for m in measures)])
    note = "Mean ± standard deviation over pretraining seeds (n). Losses in nats per target, scores in percent."
    return html.table(["arm", *measures], rows, note)


def _forest(results: Results, primary: bool) -> Markup:
    chosen = [c for c in results.comparisons if c.primary == primary]
    if not chosen:
        return html.paragraph("Nothing to compare." if primary else "There are no other measures.")
    plots = []
    for measure in dict.fromkeys(c.measure for c in chosen):
        rows = [c for c in chosen if c.measure == measure]
        unit = unit_of(measure)
        plots.append(
            html.forest_plot(
                f"{measure}: arm minus {results.reference}, {unit}",
                [_effect(c) for c in rows],
                "Large dot and bar: mean and 95% t interval. Small dots: one pair (seed) each. n: pairs. r: "
                "correlation of the paired scores; near 0, pairing bought nothing."
                + (" Shaded: smaller than what matters." if primary and results.smallest_effect else ""),
                _scale(measure) * results.smallest_effect if primary and results.smallest_effect else None,
            )
        )
    return Markup("".join(plots))


def _scale(measure: str) -> float:
    return 100.0 if is_accuracy(measure) else 1.0


def _effect(c: Comparison) -> Effect:
    scale = _scale(c.measure)
    interval = None if c.interval is None else (scale * c.interval[0], scale * c.interval[1])
    note = format_comparison(c) if not c.primary else f"{c.verdict}: {format_comparison(c)}"
    note = note.replace(" = ", "\u00a0=\u00a0")
    points = [scale * value for value in c.by_seed.values()]
    return Effect(c.arm, scale * c.difference, interval, points, note, c.primary)


def entropy_line(runs: Sequence[Run]) -> list[tuple[str, float]]:
    """The unigram entropy as a reference line; several where runs have different tokenizers."""
    values = sorted({round(float(r.facts["unigram_entropy"]), 3) for r in runs if r.facts.get("unigram_entropy")})
    return [("unigram entropy", value) for value in values]


def together(results: Results) -> list[Markup]:
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
        figures.append(html.line_chart(f"Training: {name}", train, "tokens seen", "nats per target", lines, note=note))
    losses = sorted({m for run in results.runs for _, v in run.validation for m in v if m.startswith("validation.")})
    for measure in losses:
        series = []
        for i, (arm, runs) in enumerate(by_arm.items()):
            x, y, band = validation_curve(runs, measure)
            if x:
                series.append(Series(arm, x, y, i, "points", band))
        marks = lines if _term(measure) in token_objectives(results.runs) else ()
        figures.append(
            html.line_chart(f"Held out: {_term(measure)}", series, "tokens seen", "nats per target", marks, note=note)
        )
    return figures


def apart(results: Results) -> list[Markup]:
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
    shared = html.value_range([one for series in drawn.values() for one in series], entropy_line(results.runs))
    return [
        html.line_chart(arm, series, "tokens seen", "nats per target", lines[arm], shared, _caption(results.runs, arm))
        for arm, series in drawn.items()
    ]


def _terms(runs: Sequence[Run]) -> list[str]:
    found = {m for run in runs for _, v in run.validation for m in v}
    return sorted(m for m in found if m.startswith("validation.") and m != "validation.loss")


def _term(measure: str) -> str:
    return measure.removeprefix("validation.")


def _caption(runs: Sequence[Run], arm: str) -> str:
    own = [run for run in runs if run.arm == arm]
    chain = str(own[0].facts.get("config", {}).get("chain", ""))
    return f"{chain} n = {len(own)} run{'s' if len(own) > 1 else ''}.".strip()


def comparison_table(runs: Sequence[Run]) -> Markup:
    """One row per run: size, cost, held-out loss, fine-tuned score beside the majority baseline."""
    scored = sorted({name for run in runs for name in run.scores})
    head = ["family", "parameters", "tokens seen", "targets seen", "held-out loss, nats per target", "unigram entropy"]
    for name in scored:
        head += [f"{name}, %: mean ± sd", "majority, %"]
    head += ["seconds", "tokens/s"]
    rows = []
    for run in runs:
        last = run.validation[-1][1] if run.validation else {}
        losses = [_loss(_term(m), last) for m in _terms([run]) if m in last]
        row: list[object] = [
            run.arm,
            _count(run.facts.get("parameters")),
            _count(run.facts.get("tokens")),
            _targets(run.facts.get("targets")),
            html.join(losses, Markup("<br>")),
            ", ".join(f"{value:.3f}" for _, value in entropy_line([run])) or "—",
        ]
        for name in scored:
            score = over_seeds(run.scores[name]) if name in run.scores else None
            row += [format_score(name, score) if score else "—", _percent(run.baselines.get(name))]
        rows.append([*row, _seconds(run.facts.get("seconds")), _count(run.tokens_per_second)])
    return html.table(head, rows, _caution(len(scored)))


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


def _targets(value: Any) -> object:
    if not isinstance(value, Mapping):
        return _count(value)
    return html.join([f"{name} {_count(count)}" for name, count in value.items()], Markup("<br>"))


def _seconds(value: Any) -> str:
    return "—" if value is None else f"{float(value):.0f}"


def _percent(value: float | None) -> str:
    return "—" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def changes(reference: str, changed: Mapping[str, list[tuple[str, Any, Any]]]) -> Markup:
    """For each arm the settings in which it differs from the reference."""
    parts = []
    for arm, rows in changed.items():
        if arm == reference:
            continue
        cells = [[f"{key}", _value(old), _value(new)] for key, old, new in rows[:SHOWN_DIFFERENCES]]
        more = len(rows) - SHOWN_DIFFERENCES
        note = f"{more} more are in report.json." if more > 0 else ""
        body = html.table(["setting", reference, arm], cells, note) if cells else html.paragraph("Nothing.")
        parts.append(f"<details><summary>{html.escape(arm)}: {len(rows)} settings</summary>{body}</details>")
    return Markup("".join(parts)) if parts else html.paragraph("There is one arm only.")


def _value(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def provenance(runs: Sequence[Run], command: str) -> Markup:
    """Command, versions, commit, data, and the run folder behind every number."""
    facts = runs[0].facts if runs else {}
    versions = facts.get("versions") or {}
    listed: list[tuple[str, object]] = [("sesame-zoo", __version__)]
    listed += [(str(name), value) for name, value in versions.items() if name != "sesame-zoo"]
    for key in ("commit", "machine", "processes", "precision", "data_fingerprint"):
        if facts.get(key) is not None:
            listed.append((key.replace("_", " "), _value_of(facts[key])))
    rows = [[run.arm, run.seed, str(run.folder)] for run in runs]
    return Markup(html.code(command) + html.facts(listed) + html.table(["arm", "seed", "run folder"], rows))


def _value_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
