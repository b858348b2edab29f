"""``python benchmarks/prefetch.py``: how long a step waits for its rows, and what a thread that makes them ahead saves.

    python benchmarks/prefetch.py [--threads 1] [--steps 60] [--model bert-tiny] [--output FILE.json]

Each way of masking is trained twice in one process on the shipped text, by ``train.prefetch: no`` and ``yes``. Blocks
of steps take turns; the first step of a block does not count, since its rows had the other arm's time. *Waiting* is the
share of a step in which it has no rows, as ``BatchMaker.waited`` counts it. Beside it stand the step by the clock and
its processor time, those of the arm with the thread as a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from pretraining.training.load_config import load_pretrain_config
from pretraining.training.run import Run
from pretraining.training.stores import run_stores
from zoo.runtime.processes import resolve_precision, start_processes
from zoo.runtime.signals import StopRequest

SELECT = "objectives.masked_lm.init_args.select"
WAYS = {
    "token masks": ("bert-tiny", "RandomTokens"),
    "whole words": ("bert-tiny", "WholeWords"),
    "random spans": ("bert-tiny", "RandomSpans"),
    "n-grams": ("bert-tiny", "NGrams"),
    "token masks, Chinese": ("bert-tiny-zh", "RandomTokens"),
    "whole words, Chinese": ("bert-wwm-tiny-zh", "WholeWords"),
}
BLOCK = 8


def two_runs(options: argparse.Namespace, config: str, select: str, folder: Path) -> dict[str, Run]:
    """The same run without a thread and with one, before the first step."""
    runs = {}
    for prefetch in ("no", "yes"):
        values = {
            SELECT: json.dumps({"class_path": f"pretraining.masking.{select}", "init_args": {}}),
            "data.stores": folder / "stores",
            "data.validation_tokens": 0,
            "train.tokens": "null",
            "train.steps": 10_000,
            "train.batch_size": options.batch,
            "train.prefetch": prefetch,
            "train.precision": options.precision,
            "run_folder": folder / prefetch,
        }
        if options.files:
            values["data.corpus.files"] = options.files
        if options.model:
            values["model.base"] = options.model
        argv = ["--config", config, *(text for key, value in values.items() for text in (f"--{key}", str(value)))]
        settings = load_pretrain_config(argv)
        accelerator = start_processes(resolve_precision(options.precision), options.threads, [], folder)
        (folder / prefetch).mkdir(exist_ok=True)
        run = Run(settings, folder / prefetch, accelerator, run_stores(settings.value, show=False), show=False)
        run.resume()
        runs[prefetch] = run
    return runs


def block(run: Run, steps: int) -> list[tuple[float, float, float]]:
    """(seconds, processor seconds, seconds without rows) of some steps, after one that does not count."""
    stop, found, batches = StopRequest(), [], run.trainer.batches
    for _ in range(steps + 1):
        start = time.perf_counter(), time.process_time(), batches.waited
        run.trainer.train_step(stop)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        end = time.perf_counter(), time.process_time(), batches.waited
        found.append((end[0] - start[0], end[1] - start[1], end[2] - start[2]))
    return found[1:]


def measure(options: argparse.Namespace, config: str, select: str) -> dict[str, Any]:
    """Figures of one way of masking."""
    with tempfile.TemporaryDirectory() as folder:
        runs = two_runs(options, config, select, Path(folder))
        times: dict[str, list[tuple[float, float, float]]] = {arm: [] for arm in runs}
        for run in runs.values():
            block(run, 2)  # which allocates
        for number in range(max(1, options.steps // BLOCK)):
            for arm in list(runs)[:: 1 if number % 2 else -1]:
                times[arm] += block(runs[arm], min(BLOCK, options.steps))
        sums = {arm: run.state.log_window.tolist() for arm, run in runs.items()}
    if sums["no"] != sums["yes"]:
        sys.exit(f"{config}, {select}: the losses differ: {sums}")
    figures: dict[str, Any] = {}
    for arm, found in times.items():
        seconds, processor, waited = zip(*found, strict=True)
        figures[arm] = {
            "seconds": statistics.median(seconds),
            "processor_seconds": statistics.median(processor),
            "waiting_share": sum(waited) / sum(seconds),
        }
    for key in ("seconds", "processor_seconds"):
        figures[f"yes_by_no_{key}"] = figures["yes"][key] / figures["no"][key]
    return figures


def measure_all(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Figures of every way that is asked for, and the table."""
    print(f"{'':22} {'step':>9} {'waiting':>8} {'with thread':>12} {'clock':>7} {'processor':>10}", flush=True)
    found = {}
    for name in options.ways.split(";") if options.ways else WAYS:
        found[name] = one = measure(options, *WAYS[name])
        print(
            f"{name:22} {1000 * one['no']['seconds']:6.1f} ms {100 * one['no']['waiting_share']:6.1f} % "
            f"{100 * one['yes']['waiting_share']:10.1f} % {one['yes_by_no_seconds']:6.2f}x "
            f"{one['yes_by_no_processor_seconds']:9.2f}x",
            flush=True,
        )
    return found


def parse(argv: list[str]) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default="", help=f"separated by semicolons; default: {'; '.join(WAYS)}")
    parser.add_argument("--model", default="", help="a shipped model in place of the tiny one, such as bert-mini")
    parser.add_argument("--files", default="", help="a text in place of the shipped one")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=64, help=f"of each arm, in blocks of {BLOCK}")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="also write everything as JSON")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure, print, write."""
    options = parse(argv)
    found = measure_all(options)
    if options.output:
        about = {"torch": torch.__version__, "python": platform.python_version(), "threads": options.threads}
        options.output.write_text(json.dumps({**about, "found": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
