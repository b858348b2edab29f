"""The report as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ablation.results.formats import floor_line, format_comparison, format_score, not_finite_lines, unit_of
from ablation.results.results import Results


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
