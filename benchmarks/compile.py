"""``python benchmarks/compile.py count|time|outputs``: graphs that runs compile; what compiled and short layers save.

    python benchmarks/compile.py count [--configs bert-tiny,xlnet-tiny] [--steps 60] [--output FILE.json]
    python benchmarks/compile.py time [--threads 1] [--layers 4 --hidden 256 ...] [--rounds 20] [--output FILE.json]
    python benchmarks/compile.py outputs [--threads 1] [--layers 4 --hidden 256 ...] [--rounds 20] [--output FILE.json]

``count`` trains every shipped tiny config for some steps on the shipped text, with a backend that runs the graphs it is
given as they are, so that no compiler is needed. ``time`` trains one model twice in one process, compiled and not.
Their steps take turns, in alternating order. Each pair gives a ratio by processor time and one by the clock. The
compiler needs g++; what it takes is told apart from the steps. ``outputs`` does the same, uncompiled, with a last layer
that computes the states that are read, and with one that computes all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contracts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import test_repeats
import throughput
import torch
from training import SAMPLE

from pretraining.training import run as training_run
from pretraining.training.compiled import CompiledCore
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.pretrain import pretrain
from pretraining.training.stores import TokenStores
from zoo.core.transformer import Transformer
from zoo.runtime.processes import resolve_precision, start_processes
from zoo.runtime.signals import StopRequest

DOCUMENTS = 60
MOST = 3  # compilations that a run of a shipped config may need
ARMS = {"time": ("eager", "compiled"), "outputs": ("all", "read")}  # without what is measured, and with it


# ---- compilations ----------------------------------------------------------------------------------------------------


@contextmanager
def watched(backend: str) -> Iterator[list[CompiledCore]]:
    """Compiled cores of the runs inside, which use this backend of torch.compile."""
    cores: list[CompiledCore] = []
    notes: list[str] = []

    class Watched(CompiledCore):
        def __init__(self, core: Transformer, length: int, note: Any) -> None:
            super().__init__(core, length, notes.append, backend)
            cores.append(self)

    before, training_run.CompiledCore = training_run.CompiledCore, Watched  # type: ignore[misc]
    try:
        yield cores
    finally:
        training_run.CompiledCore = before  # type: ignore[misc]


def count(folder: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compilations of a run of a shipped config at its own size."""
    torch._dynamo.reset()
    changes = {
        "train.steps": options.steps,
        "train.threads": options.threads,
        "train.validate_every": 0,
        "train.save_every": options.steps,
        "data.validation_tokens": 0,
        "train.compile": "yes",
    }
    argv = test_repeats.run_arguments(folder, name)
    argv += [text for key, value in changes.items() for text in (f"--{key}", str(value))]
    with watched("eager") as cores:
        pretrain(load_pretrain_config(argv), show=False)
    if not cores:
        return {"compilations": 0, "why": "recurrent"}
    return {"compilations": cores[0].compilations, "failed": cores[0].failed}


def count_all(options: argparse.Namespace) -> dict[str, Any]:
    """The same of every config that is asked for."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for language in ("en", "zh"):
            text = (SAMPLE / language / "wikipedia.txt").read_text(encoding="utf-8").split("\n\n")[:DOCUMENTS]
            (Path(place) / f"{language}.txt").write_text("\n\n".join(text) + "\n", encoding="utf-8")
        for name in options.configs.split(",") if options.configs else test_repeats.TINY:
            found[name] = count(Path(place), name, options)
            print(f"{name:24} {found[name]}", flush=True)
    return found


# ---- time ------------------------------------------------------------------------------------------------------------


def all_states(model: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook before a model's pass: the last layer computes all states."""
    batch, *others = arguments
    return batch._replace(inputs=batch.inputs._replace(output_positions=None)), *others


def two_runs(options: argparse.Namespace, folder: Path) -> dict[str, training_run.Run]:
    """One model and text twice, without what is measured and with it."""
    precision = resolve_precision(options.precision)
    accelerator = start_processes(precision, options.threads, [], folder)
    rows = (options.rounds + options.warmup + 2) * options.batch
    store = throughput.make_store(folder / "stores", options.vocab, rows, options.length)
    runs = {}
    for arm in ARMS[options.what]:
        (folder / arm).mkdir()
        shape = argparse.Namespace(**{**vars(options), "steps": options.rounds, "compile": arm == "compiled"})
        values = {**throughput.our_values(shape), "output": str(folder / arm)}
        run = training_run.Run(
            load_pretrain_config([], values), folder / arm, accelerator, TokenStores(store, {}), show=True
        )
        run.resume()
        if arm == "all":
            run.raw_model.register_forward_pre_hook(all_states)
        runs[arm] = run
    return runs


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of both runs in turn."""
    with tempfile.TemporaryDirectory() as folder:
        runs, stop = two_runs(options, Path(folder)), StopRequest()
        start = time.monotonic()
        for run in runs.values():
            for _ in range(options.warmup):
                run.trainer.train_step(stop)
        warm, without, arm = time.monotonic() - start, *ARMS[options.what]
        core = runs[arm].raw_model.compiled
        if options.what == "time" and (not isinstance(core, CompiledCore) or core.failed):
            sys.exit("nothing was compiled")
        seconds: dict[str, list[tuple[float, float]]] = {arm: [] for arm in runs}
        for number in range(options.rounds):
            for name in list(runs)[:: 1 if number % 2 else -1]:
                begin = time.process_time(), time.perf_counter()
                runs[name].trainer.train_step(stop)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                seconds[name].append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
        losses = {arm: run.state.log_window[0].tolist() for arm, run in runs.items()}
    figures: dict[str, Any] = {"warm_up_seconds": warm, "sums_of_losses": losses}
    if isinstance(core, CompiledCore):
        figures["compilations"] = core.compilations
    for place, kind in enumerate(("processor", "clock")):
        pairs = [one[place] / other[place] for one, other in zip(seconds[arm], seconds[without], strict=True)]
        figures[kind] = {
            f"{arm}_by_{without}": throughput.spread(pairs),
            **{name: throughput.spread([one[place] for one in times]) for name, times in seconds.items()},
        }
    return figures


# ---- command ---------------------------------------------------------------------------------------------------------


def parse(argv: list[str]) -> argparse.Namespace:
    """Options; the default shape is BERT-mini."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["count", *ARMS])
    parser.add_argument("--configs", default="", help="count: names, separated by commas; default: every tiny one")
    parser.add_argument("--steps", type=int, default=60, help="count: of each run")
    shape = {"layers": 4, "hidden": 256, "heads": 4, "vocab": 30_522, "length": 128, "batch": 32}
    for name, default in shape.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="time: of the model and its rows")
    parser.add_argument("--intermediate", type=int, help="default: 4 x hidden")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--warmup", type=int, default=2, help="time: steps of each arm before")
    parser.add_argument("--rounds", type=int, default=20, help="time: pairs of steps")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="also write everything as JSON")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure, print, write; an error exit where a config compiles more often than it may, or not at all."""
    options = parse(argv)
    found = count_all(options) if options.what == "count" else compare(options)
    if options.what in ARMS:
        print(json.dumps(found, indent=1))
    if options.output:
        record = {
            "options": {key: str(value) for key, value in vars(options).items()},
            "torch": torch.__version__,
            "python": platform.python_version(),
            "found": found,
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.what == "count" and any(one["compilations"] > MOST or one.get("failed") for one in found.values()):
        sys.exit(f"a config compiles more than {MOST} times, or not at all")


if __name__ == "__main__":
    main(sys.argv[1:])
