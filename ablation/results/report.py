"""The report as Markdown and JSON; and its figures in words: values in their unit, intervals, the floor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ablation.results.runs import Comparison, Floor, Results, Score
from finetune.results.statistics import MeanSd
from zoo.runtime.templates import markdown_code, markdown_text

STANDARD_ERRORS = 2.0
"""How far beyond its floor the reference has to be before anything is decided."""


# --- the whole report ------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """The report as Markdown; nothing in a title, a claim or a name is markup."""
    lines = [f"# {markdown_text(results.title)}", ""]
    if results.claim:
        lines += [markdown_text(results.claim), ""]
    unit, reference, smallest = unit_of(results.primary), markdown_code(results.reference), results.smallest_effect
    matters = f", smallest effect that matters {format_effect(results.primary, smallest)}" if smallest else ""
    lines += [
        f"Primary measure: {markdown_code(results.primary)} ({results.better} is better{matters}). Reference: "
        f"{reference}. Losses in nats per target, scores in percent, their differences in points.",
        "",
        *([f"Floor: {markdown_text(floor_line(results))}", ""] if results.floors else []),
        *(text for line in not_finite_lines(results) for text in (markdown_text(line), "")),
        "## Scores (mean ± sd over seeds)",
        "",
    ]
    measures = list(dict.fromkeys(score.measure for score in results.scores))
    lines += _table(["arm", *measures], map(_escaped, score_rows(results, measures)))
    lines += ["", f"## Paired differences from {reference} (same seed = pair, 95% t interval)", ""]
    if not results.comparisons:
        lines += ["There is nothing to compare yet.", ""]
    rows = [
        [markdown_text(c.arm), markdown_code(c.measure), format_comparison(c), markdown_text(c.verdict)]
        for c in results.comparisons
    ]
    if rows:
        lines += _table(["arm", "measure", f"difference ({unit} for the primary)", "verdict"], rows)
    lines += ["", "## Runs", ""]
    runs = [[markdown_text(r.arm), str(r.seed), markdown_code(str(r.folder))] for r in results.runs]
    lines += _table(["arm", "seed", "run folder"], runs)
    return "\n".join(lines) + "\n"


def score_rows(results: Results, measures: Sequence[str]) -> list[list[str]]:
    """A row for each arm with its score on each measure; then what always answering the majority would score."""
    found = {(score.arm, score.measure): score for score in results.scores}
    rows = [
        [arm, *(format_score(m, found[arm, m]) if (arm, m) in found else "—" for m in measures)] for arm in results.arms
    ]
    majority: dict[str, set[str]] = {}
    for run in results.runs:
        for name, value in run.baselines.items():
            majority.setdefault(name, set()).add(format_value(name, value))
    if majority:
        rows.append(["majority class", *(" or ".join(sorted(majority.get(m, ()))) for m in measures)])
    return rows


def _escaped(cells: Sequence[str]) -> list[str]:
    return [markdown_text(cell) for cell in cells]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table. Cells are Markdown of one line."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(_escaped(head)), line(["---"] * len(head)), *map(line, rows)]


def to_json(results: Results) -> dict[str, Any]:
    """The report as JSON values; curves stay in the run folders, which are named. ``null`` for what is not finite."""
    values = asdict(results)
    values["runs"] = [
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
    return values


def _or_null(values: Mapping[Any, float]) -> dict[Any, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


# --- values in words -------------------------------------------------------------------------------


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


def smallest_in(measure: str, shown: float | None) -> float | None:
    """A setting in the unit that is printed, points or nats, as a difference of the measure's own values."""
    return shown / 100 if shown is not None and is_accuracy(measure) else shown


def format_effect(measure: str, effect: float) -> str:
    """A difference of a measure's values with all the digits that it was given in, and its unit."""
    return f"{100 * effect if is_accuracy(measure) else effect:g} {unit_of(measure)}"


def format_score(measure: str, score: MeanSd | Score) -> str:
    """Mean ± sd with the number of seeds beside it."""
    spread = "" if score.sd is None else f" ± {format_value(measure, score.sd)}"
    return f"{format_value(measure, score.mean)}{spread} (n = {score.n})"


# --- verdicts and floors in words ------------------------------------------------------------------


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
