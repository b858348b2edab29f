"""``zoo tasks [NAME ...]``: the tasks that ship, their rows and floors, and where their files are looked for."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.tasks import Task, find_tasks, group_names, read_task_file, shipped_tasks, task_fields
from zoo.settings.load import load_settings
from zoo.settings.yaml_files import as_yaml
from zoo.values import UserPath

HUB = "hub"
PARTS = ("train", "dev", "test")
_HEAD = ("task", "kind", *PARTS, "metric", "majority")
_NO_GROUP = "in no group"


@dataclass(frozen=True)
class TasksConfig:
    """What ``zoo tasks`` is asked for.

    Args:
        data: ``hub``, or a folder with tasks' files: rows are counted there, and the majority's score with them.
        task_file: YAML with rows for tasks of your own.
        json: print JSON instead of a table.
    """

    data: UserPath | None = None
    task_file: UserPath | None = None
    json: bool = False


def tasks_command(argv: list[str]) -> int:
    """``zoo tasks [NAME ...] [--data FOLDER|hub] [--task_file FILE] [--json]``.

    Raises:
        ZooError: an unknown name, or a folder or task file that cannot be read.
    """
    count = next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv))
    names = ",".join(argv[:count])
    config = load_settings(TasksConfig, argv[count:], "zoo tasks", "tasks").value
    extra = read_task_file(config.task_file) if config.task_file else {}
    tasks = [*(find_tasks(names, extra) if names else {**shipped_tasks(), **extra}).values()]
    facts = [task_facts(task, config.data, bool(names) or task.name in extra) for task in tasks]
    if config.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    elif len(tasks) == 1:
        print("\n".join(one_task_lines(tasks[0], facts[0], config)))
    else:
        width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 110))
        print("\n".join(table_lines(facts, width)))
    return 0


def task_facts(task: Task, data: str | None, own: bool) -> dict[str, Any]:
    """What is known of a task, as JSON values.

    Args:
        task: the task.
        data: ``hub``, or a folder with tasks' files; ``None`` = its rows are not looked for.
        own: whether that folder itself may be the task's, too.

    Returns:
        ``name``, ``kind``, ``groups``, ``metrics``; ``rows`` of each part and ``majority`` (of the primary metric,
        times 100), ``None`` where they are not known; ``folders``, ``files`` of each part, ``hub``, ``licence``; and
        ``problems``, rows that cannot be read.
    """
    rows: dict[str, int | None] = dict.fromkeys(PARTS)
    majority, problems = None, list[str]()
    metrics = list(task.metrics)
    if data is not None or not metrics:
        from finetune.kinds.base import open_kind

        kind = open_kind(task)
        metrics = list(kind.metrics(task))
    if data is not None:
        from finetune.kinds.load import read_parts

        parts, problems = read_parts(task, data, own)
        rows |= {part: len(examples) for part, examples in parts.items()}
        scored, trained = parts.get("dev"), parts.get("dev" if task.model_of else "train")
        if scored is not None and trained is not None:
            majority = 100 * kind.floors(task, trained, scored)["majority"][metrics[0]]
    files = {"train": () if task.model_of else task.train_files, "dev": task.eval_files, "test": task.test_files}
    return {
        "name": task.name,
        "kind": task.kind.class_path,
        "groups": list(task.groups),
        "metrics": metrics,
        "rows": rows,
        "majority": majority,
        "model_of": task.model_of,
        "folders": list(dict.fromkeys((*task.folders, task.name))),
        "files": {part: list(names) for part, names in files.items()},
        "hub": task.hub,
        "hub_config": task.hub_config,
        "licence": task.licence,
        "problems": problems,
    }


# ---- the table -------------------------------------------------------------------------------------------------------


def table_lines(facts: Sequence[dict[str, Any]], width: int) -> list[str]:
    """Every task in a row of figures and a few words, under its group.

    Args:
        facts: as :func:`task_facts` gives them.
        width: of a line; names and figures alone may need more.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for fact in facts:
        groups.setdefault(next(iter(fact["groups"]), _NO_GROUP), []).append(fact)
    known = [name for name in (*group_names(), *groups) if name in groups]
    ordered = sorted(dict.fromkeys(known), key=lambda name: name == _NO_GROUP)
    rows = {fact["name"]: _figures(fact) for fact in facts}
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows.values(), strict=True)]
    lines = list[str]()
    for name in ordered:
        lines += [*[""] * bool(lines), name, _row(_HEAD, widths)]
        for fact in groups[name]:
            lines.append(_row(rows[fact["name"]], widths))
            lines += textwrap.wrap(_where(fact), width, initial_indent=" " * 4, subsequent_indent=" " * 6)
    lines += [f"{fact['name']}: {problem}" for fact in facts for problem in fact["problems"]]
    return [*lines, "", *textwrap.wrap(_NOTE, width)]


_NOTE = (
    "Rows and the majority's score (times 100) are of the files below --data FOLDER, or of --data hub. A file's name "
    "without an extension stands for .tsv, .csv, .jsonl, .json and .parquet. `zoo tasks NAME` shows one task in full."
)


def _figures(fact: dict[str, Any]) -> list[str]:
    counts = ["-" if fact["rows"][part] is None else f"{fact['rows'][part]:,}" for part in PARTS]
    floor = "-" if fact["majority"] is None else f"{fact['majority']:.2f}"
    return [fact["name"], fact["kind"].rpartition(".")[2], *counts, fact["metrics"][0], floor]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    right = (*PARTS, "majority")
    aligned = [
        cell.rjust(width) if name in right else cell.ljust(width)
        for name, cell, width in zip(_HEAD, cells, widths, strict=True)
    ]
    return f"  {'  '.join(aligned)}".rstrip()


def _where(fact: dict[str, Any]) -> str:
    """Folders, files, hub and licence in one sentence."""
    parts = [f"{', '.join(fact['folders'])}: {_files(fact)}"]
    if fact["model_of"]:
        parts.append(f"the model of {fact['model_of']} answers")
    if fact["hub"]:
        parts.append(f"hub {_hub(fact)}")
    if fact["licence"]:
        parts.append(f"licence: {fact['licence']}")
    return "; ".join(parts)


def _files(fact: dict[str, Any]) -> str:
    return ", ".join(" or ".join(names) for names in fact["files"].values() if names)


def _hub(fact: dict[str, Any]) -> str:
    return " ".join(filter(None, (fact["hub"], fact["hub_config"])))


# ---- one task --------------------------------------------------------------------------------------------------------


def one_task_lines(task: Task, fact: dict[str, Any], config: TasksConfig) -> list[str]:
    """All of one task: its facts, its row of YAML, and the command that fine-tunes on it."""
    counts = [f"{part} {fact['rows'][part]:,}" for part in PARTS if fact["rows"][part] is not None]
    floor = "" if fact["majority"] is None else f"; always the majority: {fact['majority']:.2f}"
    lines = [
        f"{task.name}: {fact['kind']}{', of ' + ', '.join(fact['groups']) if fact['groups'] else ''}",
        f"rows: {', '.join(counts) or 'not counted; --data FOLDER or --data hub counts them'}",
        f"metrics: {', '.join(fact['metrics'])}{floor}",
        f"files: {_files(fact)}; in --data FOLDER or below it in a folder called {' or '.join(fact['folders'])}",
        *([f"hub: {_hub(fact)}"] if task.hub else []),
        *([f"licence: {task.licence}"] if task.licence else []),
        *fact["problems"],
    ]
    data = config.data or (HUB if task.hub else "FOLDER")
    trained = f"{task.model_of},{task.name}" if task.model_of else task.name
    own = f" --task_file {config.task_file}" if config.task_file else ""
    command = f"python -m finetune --model RUN --tasks {trained} --data {data}{own}"
    return [*lines, "", "fine-tune on it:", f"  {command}", "", "as YAML:", _yaml(task)]


def _yaml(task: Task) -> str:
    return textwrap.indent(as_yaml(task_fields(task)).rstrip("\n"), "  ")
