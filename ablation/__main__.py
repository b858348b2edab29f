"""``python -m ablation --config masking``: every arm and seed of an ablation, then its report."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from ablation.config import AblationConfig, changed_settings, load_ablation
from ablation.page.arms import hidden_lines
from ablation.page.page import ablation_page
from ablation.results.report import markdown, to_json
from ablation.results.runs import FinishedRun
from ablation.results.verdicts import summarise
from zoo.errors import ZooError, run_command
from zoo.settings.load import DRY_RUN, PRINT_CONFIG, CommandHelp, help_text, print_settings, take_switch, wants_help

PLAN = ("plan", "measure for some seconds what a run of each arm would take here, and train nothing")
HELP = CommandHelp(
    "python -m ablation",
    "ablation.config:AblationConfig",
    about="Pretrain and fine-tune every (arm, seed), skip what is finished, resume what is not, and write report.md, "
    "report.json and report.html. Shipped: --config masking, --config pair-task.",
    switches=(
        DRY_RUN,
        PLAN,
        ("report-only", "write the report from what is finished"),
    ),
)


def main(argv: list[str]) -> int:
    """Run the grid and write the report; with ``--only.*`` one cell of it (this is what the pool starts)."""
    if wants_help(argv):
        print(help_text(HELP, argv))
        return 0
    from ablation.grid import ablation_folder, cells, check_primary, plan_lines, read_cell, run_cell, run_grid  # torch

    wants_dry_run, argv = take_switch(argv, f"--{DRY_RUN[0]}")
    wants_plan, argv = take_switch(argv, f"--{PLAN[0]}")
    wants_print, argv = take_switch(argv, PRINT_CONFIG)
    rest, only, report_only = split_grid_arguments(argv)
    config = load_ablation(rest)
    grid = cells(config)
    if wants_print:
        print_settings(asdict(config))
        return 0
    if only:
        chosen = [c for c in grid if c.arm.name == only["arm"] and c.arm.seed == int(only["seed"])]
        if not chosen:
            raise ZooError(f"no cell {only['arm']}/{only['seed']} in this ablation.")
        run_cell(config, chosen[0], int(only["threads"]), show=True)
        return 0
    check_primary(config)
    if wants_dry_run:
        for cell in grid:
            state = "finished" if cell.done.exists() else "begun" if (cell.folder / "run.json").exists() else "to run"
            print(f"{cell.name}: {state}, {cell.folder}")
        print(
            f"{sum(not cell.done.exists() for cell in grid)} of {len(grid)} to run; reports: {ablation_folder(config)}"
        )
        return 0
    if wants_plan:
        print("\n".join(plan_lines(config, grid)))
        return 0
    if report_only:
        runs = [run for run in map(read_cell, grid) if run is not None]
        if not runs:
            raise ZooError(f"nothing is finished in {ablation_folder(config)}; leave --report-only away to run it.")
    else:
        runs = run_grid(config, rest, say)
    write_reports(config, runs, f"python -m ablation {shlex.join(rest)}")
    return 0


def split_grid_arguments(argv: list[str]) -> tuple[list[str], dict[str, str], bool]:
    """The ablation's own settings, the one cell asked for, and whether only the report is wanted."""
    rest, only, report_only = [], dict[str, str](), False
    words = iter(argv)
    for word in words:
        if word == "--report-only":
            report_only = True
        elif word.startswith("--only."):
            only[word.removeprefix("--only.")] = next(words, "")
        else:
            rest.append(word)
    return rest, only, report_only


def write_reports(config: AblationConfig, runs: list[FinishedRun], command: str) -> Path:
    """``report.md``, ``report.json`` and ``report.html`` in the ablation's folder."""
    from ablation.grid import ablation_folder, cells, shown_arms
    from zoo.storage.files import write_atomic, write_json

    folder = ablation_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    results, changed = summarise(config, runs), changed_settings(config)
    text, hidden = markdown(results), hidden_lines(shown_arms(cells(config), runs))
    write_json(folder / "report.json", {"command": command, "changes": changed, **to_json(results)})
    write_atomic(folder / "report.md", text)
    write_atomic(folder / "report.html", ablation_page(results, changed, command, hidden))
    print(text)
    print(f"report: {folder / 'report.html'}")
    return folder / "report.html"


def say(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
