"""``zoo demo``: the whole line on the embedded sample, in one process, to one page."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation.config import AblationConfig, changed_settings, load_ablation
from ablation.page.arms import hidden_lines
from ablation.page.page import demo_page
from ablation.results.report import format_score, format_value, to_json
from ablation.results.runs import FinishedRun, over_seeds
from ablation.results.verdicts import summarise
from zoo.errors import ZooError, nearest
from zoo.runtime.progress import duration

CONFIG = "demo"
USAGE = """usage: zoo demo [--families A,B | --all] [--tokens N] [--output FOLDER] [--config FILE] [--KEY VALUE ...]

Trains one tokenizer on the embedded sample, pretrains every family at tiny size on the same token budget,
fine-tunes each, and writes one page with loss curves and the comparison table. Start it again to continue.
  --families   comma-separated arms of the demo's config
  --all        all of them, also those that are not shown by default
  --tokens     token budget of each family
  --output     folder for everything it makes (default runs)"""


def demo_command(argv: Sequence[str]) -> int:
    """Run the demo; see :data:`USAGE`.

    Raises:
        ZooError: an unknown family or setting.
    """
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return 0
    started = time.monotonic()
    options, rest = take_options(list(argv))
    values = {"output": options["output"]} if "output" in options else {}
    config = load_ablation(rest if "--config" in rest else ["--config", CONFIG, *rest], values)
    config = choose_families(config, options)
    if "tokens" in options:
        config = replace(config, common=with_tokens(config.common, options["tokens"]))
    page = run_demo(config, f"zoo demo {shlex.join(argv)}".strip(), started)
    print(f"\nThe page: {page.resolve()}\n(open it in a browser; everything is in that one file)", flush=True)
    return 0


def take_options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The demo's own options, and the rest of the command line."""
    options: dict[str, str] = {}
    rest: list[str] = []
    position = 0
    while position < len(argv):
        name, equals, value = argv[position].partition("=")
        position += 1
        if name == "--all":
            options["all"] = "true"
        elif name in ("--families", "--tokens", "--output"):
            if not equals:
                if position == len(argv):
                    raise ZooError(f"{name} needs a value.")
                value, position = argv[position], position + 1
            options[name[2:]] = value
        else:
            rest.append(argv[position - 1])
    return options, rest


def choose_families(config: AblationConfig, options: dict[str, str]) -> AblationConfig:
    """The arms that are asked for; by default those that the config does not mark ``extra``."""
    known = list(config.changes)
    if "families" in options:
        chosen = [name.strip() for name in options["families"].split(",") if name.strip()]
    else:
        chosen = [name for name in known if "all" in options or name not in config.extra]
    for name in chosen:
        if name not in known:
            raise ZooError(f"unknown family {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
    if not chosen:
        raise ZooError(f"--families names none; known: {', '.join(known)}.")
    reference = config.against if config.against in chosen else chosen[0]
    return replace(config, changes={name: config.changes[name] for name in chosen}, reference=reference)


def with_tokens(common: dict[str, Any], text: str) -> dict[str, Any]:
    """The shared settings with another token budget."""
    try:
        tokens = int(float(text.replace("_", "")))
    except ValueError as error:
        raise ZooError(f"--tokens {text!r}: a whole number is needed, for example 500_000.") from error
    if tokens < 1:
        raise ZooError(f"--tokens {text!r}: a budget above 0 is needed.")
    return {**common, "train": {**common.get("train", {}), "tokens": tokens}}


def run_demo(config: AblationConfig, command: str, started: float) -> Path:
    """Every family in turn, in this process, then the page."""
    from ablation.grid import (  # torch, which --help does without
        ablation_folder,
        cells,
        read_cell,
        run_cell,
        shown_arms,
    )
    from zoo.storage.files import write_atomic, write_json

    grid = cells(config)
    runs = []
    for number, cell in enumerate(grid, start=1):
        before = time.monotonic()
        print(f"\n[{number}/{len(grid)}] {cell.arm.name}", flush=True)
        if not cell.done.exists():
            run_cell(config, cell, None, show=True)
        run = read_cell(cell)
        assert run is not None
        runs.append(run)
        print(f"[{number}/{len(grid)}] {summary_line(run)}, {duration(time.monotonic() - before)}", flush=True)
    folder = ablation_folder(config)
    if all(config.primary.measure not in run.measures for run in runs):  # families of another language only
        config = replace(config, primary=replace(config.primary, measure=next(iter(runs[0].measures)), floor=None))
    results, changed = summarise(config, runs), changed_settings(config)
    hidden = hidden_lines(shown_arms(grid, runs))
    seconds = time.monotonic() - started
    write_json(folder / "report.json", {"command": command, "changes": changed, **to_json(results)})
    page = folder / f"{config.name}.html"
    write_atomic(page, demo_page(results, changed, command, seconds, hidden))
    print(f"\n{len(grid)} families in {duration(seconds)}.", flush=True)
    return page


def summary_line(run: FinishedRun) -> str:
    """One line about a finished family."""
    last = run.validation[-1][1] if run.validation else {}
    parts = [
        f"{name.removeprefix('validation.')} {v:.3f}" for name, v in last.items() if name.startswith("validation.")
    ]
    for name, by_seed in run.scores.items():
        majority = f", majority {format_value(name, run.baselines[name])}" if name in run.baselines else ""
        parts.append(f"{name} {format_score(name, over_seeds(by_seed))}{majority}")
    return f"{run.arm}: " + ", ".join(parts)
