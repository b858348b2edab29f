"""Results of tasks and seeds: what is kept of one, and the report over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.data.tasks import Task
from finetune.results.averages import Average, OutsideLine, averages, outside_lines
from finetune.results.statistics import FEWEST_SEEDS, mean_sd
from zoo.errors import ZooError
from zoo.runtime.provenance import surroundings
from zoo.runtime.templates import TextTable, markdown_code, markdown_text, render_template
from zoo.storage.files import read_json, write_atomic, write_json

RESULT = "result.json"
TIMING = "timing.json"

_COLUMNS = (
    "task",
    "metric",
    "mean",
    "sd",
    "n",
    "majority",
    "random",
    "train rows",
    "dev rows",
    "seeds that predict one class only",
)

_DECIDING_ROWS = 2900  # OCNLI keeps 2,950 of its 3,000 development rows


# ---- one result ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What one task and seed gave.

    Args:
        task: its name.
        seed: fine-tuning seed.
        scores: metric by name on the development rows, the primary one first.
        majority: the same metrics of always answering the most frequent class of the rows that are scored.
        train_rows: rows trained on.
        eval_rows: rows scored.
        classes_predicted: different classes among the predictions; 1 = the model has collapsed.
        truncated: share of all rows that lost tokens to ``max_length``.
        steps: optimiser steps.
        train_loss: mean loss of each epoch, in nats.
        fingerprint: what decides the result: weights, task, rows, settings, seed.
        mixes: of features: for each mix its ``shares`` of the layers, the token vectors first, and its ``gamma``.
        marks_cut: rows in which ``max_length`` left no room for all that is marked.
        mentions: ``named``: spans of all rows with an entity of enough confidence; ``known``: those with a vector;
            ``None`` = the core reads no entities, or the rows name none.
        held_scores: primary metric of each epoch on training rows that were held back; ``None`` = none were.
        signatures: how a library says it computed a metric, by the metric's name.
        random: the same metrics of answering at random; ``None`` = the majority says as much.
        chosen: learning rate and epochs, where they were chosen out of a grid, and how; not kept with the result.
        timing: ``seconds`` of training and scoring, of the process that finished it, and the most memory that this
            process ever held, ``peak_mb``; kept in a file of its own, since it varies.
    """

    task: str
    seed: int
    scores: dict[str, float]
    majority: dict[str, float]
    train_rows: int
    eval_rows: int
    classes_predicted: int
    truncated: float
    steps: int
    train_loss: list[float]
    fingerprint: dict[str, Any]
    mixes: list[dict[str, Any]] | None = None
    marks_cut: int = 0
    mentions: dict[str, int] | None = None
    held_scores: list[float] | None = None
    random: dict[str, float] | None = None
    signatures: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, Any] | None = field(default=None, compare=False)
    timing: dict[str, Any] | None = field(default=None, compare=False)

    def kept(self) -> dict[str, Any]:
        """What ``result.json`` holds: all that the fingerprint decides."""
        return {name: value for name, value in asdict(self).items() if name not in ("timing", "chosen")}

    @property
    def from_task(self) -> str | None:
        """Task on which the core was fine-tuned first."""
        found: str | None = self.fingerprint.get("settings", {}).get("from_task")
        return found

    @property
    def together(self) -> str | None:
        """How it was trained with other tasks, as a report says it."""
        how = self.fingerprint.get("settings", {}).get("multi_task", "none")
        return {"only": "multi-task", "first": "multi-task first"}.get(how)


def read_result(folder: Path) -> Result:
    """The finished result in a folder."""
    result = Result(**read_json(folder / RESULT))
    if (folder / TIMING).exists():
        result = replace(result, timing=read_json(folder / TIMING))
    return result


def stored_result(output: Path, fingerprint: dict[str, Any]) -> Result | None:
    """The finished result in a folder, or ``None``.

    Raises:
        ZooError: it is a result of other weights, rows or settings; names what differs.
    """
    if not (output / RESULT).exists():
        return None
    result = read_result(output)
    found = result.fingerprint
    differing = sorted(key for key in fingerprint.keys() | found.keys() if fingerprint.get(key) != found.get(key))
    if "settings" in differing:
        old, new = found.get("settings", {}), fingerprint["settings"]
        differing.remove("settings")
        differing += [f"{k} ({old.get(k)} there, {new.get(k)} now)" for k in new if old.get(k) != new[k]]
    if differing:
        raise ZooError(
            f"{output} holds a finished result that differs in: {', '.join(differing)}. "
            "Give another --output, or delete that folder."
        )
    return result


@dataclass(frozen=True)
class Report:
    """What a fine-tuning gave, as all its files show it.

    Args:
        model: what was fine-tuned.
        rows: of each task and metric (:func:`summary`).
        notes: what a reader must know.
        averages: of benchmarks.
        outside: published scores of other models.
        timing: of each task and seed.
    """

    model: str
    rows: list[dict[str, Any]]
    notes: list[str]
    averages: list[Average]
    outside: list[OutsideLine]
    timing: list[dict[str, Any]]


def write_predictions(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A TSV with a header; white space that would part cells or rows becomes a space."""
    lines = ["\t".join(map(_one_cell, row)) for row in (columns, *rows)]
    write_atomic(path, "\n".join(lines) + "\n")


def _one_cell(text: str) -> str:
    return " ".join(text.split()) if any(mark in text for mark in "\t\n\r") else text


# ---- the report over all ---------------------------------------------------------------------------------------------


def write_report(
    output: Path, model: str, settings: dict[str, Any], results: Sequence[Result], tasks: Mapping[str, Task]
) -> str:
    """Write ``results.json``, ``results.md`` and ``results.html``, and return the table for the terminal.

    Args:
        output: folder.
        model: what was fine-tuned.
        settings: how.
        results: of all tasks and seeds that are finished.
        tasks: all known tasks by name, for averages.
    """
    rows = summary(results)
    scores = {
        task: {r.seed: {m: 100 * v for m, v in r.scores.items()} for r in results if r.task == task}
        for task in dict.fromkeys(result.task for result in results)
    }
    report = Report(
        model=model,
        rows=rows,
        notes=notes(rows),
        averages=averages(tasks, scores),
        outside=outside_lines([(row["task"], row["metric"]) for row in rows]),
        timing=[{"task": r.task, "seed": r.seed, **(r.timing or {})} for r in results],
    )
    known = surroundings()
    told = {"averages": [a._asdict() for a in report.averages], "outside": [line._asdict() for line in report.outside]}
    write_json(
        output / "results.json",
        {"model": model, "settings": settings, "rows": rows, "notes": report.notes, **told, **known},
    )
    write_atomic(output / "results.md", _markdown(report))
    write_atomic(output / "results.html", _page(report, settings, known))
    also = [average_line(average) for average in report.averages]
    return "\n".join([text_table(rows), "", *also, *report.notes])


def _markdown(report: Report) -> str:
    def table(made: TextTable, words: int) -> list[str]:
        lines = ["| " + " | ".join(made.head) + " |", "|" + "---|" * words + "---:|" * (len(made.head) - words)]
        cells = [[cell if isinstance(cell, str) else " ".join(cell) for cell in row] for row in made.rows]
        return [*lines, *("| " + " | ".join(map(markdown_text, row)) + " |" for row in cells), ""]

    lines = [f"# Fine-tuning of {markdown_code(report.model)}", "", *table(score_table(report.rows), 2)]
    lines += [f"- {markdown_text(note)}" for note in (*map(average_line, report.averages), *report.notes)]
    if report.outside:
        lines += ["", "Published scores of other models:", "", *table(outside_table(report.outside), 3)]
    return "\n".join(lines).rstrip() + "\n"


def _page(report: Report, settings: dict[str, Any], known: dict[str, Any]) -> str:
    averaged = [[a.group, *_mean_sd_n(a.mean, a.sd, a.n), a.note] for a in report.averages if a.mean is not None]
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
    machine = ", ".join(f"{name}: {value}" for name, value in (known["machine"] or {}).items())
    chosen = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    return render_template(
        Path(__file__).parent / "page.html",
        title="Fine-tuning",
        lead=f"{report.model}: each task's score on its development rows, beside what answers that read nothing score.",
        scores=score_table(report.rows),
        notes=[*map(average_line, report.averages), *report.notes],
        averages=TextTable(["benchmark", "mean", "sd", "n", "of"], averaged),
        outside=outside_table(report.outside),
        seeds=seed_table(report),
        details=[
            ("model", report.model),
            ("settings", chosen),
            ("versions", versions),
            ("commit", str(known["commit"] or "unknown")),
            ("machine", machine),
        ],
    )


def score_table(rows: Sequence[dict[str, Any]]) -> TextTable:
    """Scores of every task and metric beside their floors."""
    return TextTable(_COLUMNS, [_cells(row) for row in rows])


def outside_table(lines: Sequence[OutsideLine]) -> TextTable:
    """Published scores, each with where it stands and what it is of."""
    rows = [[o.task, o.metric, o.model, f"{o.score:.1f}", o.split, o.training, o.source] for o in lines]
    return TextTable(["task", "metric", "model", "score", "split", "trained on", "source"], rows)


def seed_table(report: Report) -> TextTable:
    """Each seed's scores, and what its training took."""
    rows = []
    for timed in report.timing:
        own = [row for row in report.rows if row["task"] == timed["task"]]
        scores = ", ".join(f"{row['metric']} {row['scores'][str(timed['seed'])]:.2f}" for row in own)
        seconds, peak = timed.get("seconds"), timed.get("peak_mb")
        rows.append(
            [
                timed["task"],
                str(timed["seed"]),
                scores,
                "-" if seconds is None else f"{seconds:,.1f}",
                "-" if peak is None else f"{peak:,.0f}",
            ]
        )
    return TextTable(["task", "seed", "scores", "seconds", "peak MB"], rows)


def average_line(average: Average) -> str:
    """A benchmark's average, or why there is none."""
    if average.mean is None:
        return f"{average.group}: no average without {', '.join(average.lacking)}."
    mean, sd, n = _mean_sd_n(average.mean, average.sd, average.n)
    return f"{average.group}: {mean}, sd {sd} over {n} seeds, {average.note}."


def _mean_sd_n(mean: float, sd: float | None, n: int) -> list[str]:
    return [f"{mean:.2f}", "-" if sd is None else f"{sd:.2f}", str(n)]


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row per task and metric, in order of first appearance; scores and majority times 100."""
    rows: list[dict[str, Any]] = []
    for task in dict.fromkeys(result.task for result in results):
        own = [result for result in results if result.task == task]
        for place, metric in enumerate(own[0].scores):
            mean, sd, n = mean_sd([100 * result.scores[metric] for result in own])
            rows.append(
                {
                    "task": task,
                    **({"from_task": own[0].from_task} if own[0].from_task else {}),
                    **({"multi_task": own[0].together} if own[0].together else {}),
                    "metric": metric,
                    "primary": place == 0,
                    "mean": mean,
                    "sd": sd,
                    "n": n,
                    "majority": 100 * own[0].majority[metric],
                    "random": None if own[0].random is None else 100 * own[0].random[metric],
                    "train_rows": own[0].train_rows,
                    "eval_rows": own[0].eval_rows,
                    "collapsed": sum(result.classes_predicted == 1 for result in own),
                    "scores": {str(result.seed): 100 * result.scores[metric] for result in own},
                }
            )
            if own[0].chosen:
                rows[-1]["chosen"] = own[0].chosen
            rows[-1] |= {"signature": own[0].signatures[metric]} if metric in own[0].signatures else {}
            if own[0].marks_cut:
                rows[-1]["marks_cut"] = own[0].marks_cut
            if own[0].mentions:
                rows[-1]["mentions"] = own[0].mentions
            if own[0].mixes:
                rows[-1]["mixes"] = {str(result.seed): result.mixes for result in own}
    return rows


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in aligned columns."""
    lines = [list(_COLUMNS), *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    aligned = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([aligned[0], "  ".join("-" * width for width in widths), *aligned[1:]])


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know to read the figures rightly."""
    lines = ["Scores x 100 on the development rows; sd over fine-tuning seeds of one pretrained model."]
    joint = [row["task"] for row in rows if row["primary"] and "multi_task" in row]
    if joint:
        lines.append(f"Tasks that were trained under one core, with a head each: {', '.join(joint)}.")
    mixed = [f"{row['task']} {_shares(row)}" for row in rows if row["primary"] and "mixes" in row]
    if mixed:
        lines.append(f"Layers in the mix in %, token vectors first, mean over seeds: {'; '.join(mixed)}.")
    lines += [_chosen(row) for row in rows if row["primary"] and "chosen" in row]
    lines += [_linked(row) for row in rows if row["primary"] and "mentions" in row]
    lines += [
        f"{row['task']}: in {row['marks_cut']:,} of {row['train_rows'] + row['eval_rows']:,} rows max_length leaves no "
        "room for all that is marked."
        for row in rows
        if row["primary"] and "marks_cut" in row
    ]
    lines += [f"{row['task']}: {row['metric']} is {row['signature']}." for row in rows if "signature" in row]
    small = list(dict.fromkeys(row["task"] for row in rows if row["eval_rows"] < _DECIDING_ROWS))
    if small:
        lines.append(f"Fewer than {_DECIDING_ROWS:,} rows, so shown and never deciding: {', '.join(small)}.")
    if any(row["n"] < FEWEST_SEEDS for row in rows):
        lines.append(f"Fewer than {FEWEST_SEEDS} seeds carry no verdict between models.")
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    sd = "-" if row["sd"] is None else f"{row['sd']:.2f}"
    collapsed = f"{row['collapsed']} of {row['n']}" if row["collapsed"] else "-"
    floor = "-" if row["random"] is None else f"{row['random']:.2f}"
    numbers = [
        f"{row['mean']:.2f}",
        sd,
        str(row["n"]),
        f"{row['majority']:.2f}",
        floor,
        str(row["train_rows"]),
        str(row["eval_rows"]),
        collapsed,
    ]
    task = f"{row['task']} (from {row['from_task']})" if "from_task" in row else row["task"]
    task = f"{task} ({row['multi_task']})" if "multi_task" in row else task
    return [task, row["metric"], *numbers]


def _shares(row: dict[str, Any]) -> str:
    """A features row's shares of the layers in each mix, means over seeds."""
    by_mix = zip(*row["mixes"].values(), strict=True)
    means = [[sum(s) / len(s) for s in zip(*(mix["shares"] for mix in mixes), strict=True)] for mixes in by_mix]
    return " and ".join(" ".join(f"{100 * share:.1f}" for share in shares) for shares in means)


def _chosen(row: dict[str, Any]) -> str:
    """Which rate and how many epochs were chosen, and how."""
    it = row["chosen"]
    edges = f"; at the grid's edge: {' and '.join(it['edges'])}" if it["edges"] else ""
    values, held = f"lr {it['lr']:g} and {it['epochs']} epochs", f"{it['held_back']:,} training rows"
    return f"{row['task']}: {values}, the best of {it['of']} on {held} that were held back{edges}."


def _linked(row: dict[str, Any]) -> str:
    """How many mentions have a vector."""
    named, known = row["mentions"]["named"], row["mentions"]["known"]
    return f"{row['task']}: {known:,} of {named:,} mentions name an entity that has a vector ({known / named:.0%})."
