"""What a run leaves behind and shows: logs, ``run.json``, progress, warnings. Only the main process writes."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pretraining.training.assemble import frequency_loss
from pretraining.training.config import PretrainConfig
from pretraining.training.model import PretrainingModel
from pretraining.training.stores import TokenStores
from zoo.runtime.processes import resolve_precision
from zoo.runtime.progress import Progress
from zoo.runtime.provenance import surroundings
from zoo.settings.load import Settings
from zoo.storage.files import read_json, write_json

_SENT = "trackers.json"  # in the run folder: the last step that trackers have, of the log and of each task held out
_STUCK_SHARE = 0.99  # of the loss by frequency: a run above it after half of its budget has learned nothing else


class JsonLines:
    """An append-only JSONL file that can be cut back to a checkpoint's length.

    Args:
        path: the file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("ab", buffering=0)  # a full disk is told at the write, not at the exit

    def write(self, record: dict[str, Any]) -> None:
        """Append one line and hand it to the kernel."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        while line:
            line = line[self._stream.write(line) :]

    def size(self) -> int:
        """Bytes so far, safely on disk."""
        os.fsync(self._stream.fileno())
        return self.path.stat().st_size

    def cut(self, size: int) -> None:
        """Forget what was written after a checkpoint."""
        self._stream.truncate(size)
        self._stream.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


@dataclass
class Counters:
    """How far a run is; a part of every checkpoint.

    Args:
        step: optimiser steps done.
        tokens: non-padding input tokens read.
        flops: operations of the matrix products done.
        targets: losses summed so far, by objective.
        log_window: sum and count of each objective's loss since the last log line.
        stage: of the last step, where the run has stages.
        tasks: steps of each task since the last log line, likewise.
        warned: the warning about a stuck run was given.
        averaged: steps whose weights are in the average, where the run has one.
    """

    step: int = 0
    tokens: int = 0
    flops: int = 0
    targets: dict[str, int] = field(default_factory=dict)
    log_window: dict[str, list[float]] = field(default_factory=dict)
    stage: str | None = None
    tasks: dict[str, int] = field(default_factory=dict)
    warned: bool = False
    averaged: int = 0

    def add_step(self, tokens: int, flops: int, targets: dict[str, float]) -> None:
        """One more step, and what it read, computed and predicted in all processes."""
        self.step += 1
        self.tokens += tokens
        self.flops += flops
        for name, count in targets.items():
            self.targets[name] += int(count)

    @property
    def schedule(self) -> dict[str, Any]:
        """What a log line says of stage and tasks; nothing where there are no stages."""
        return {} if self.stage is None else {"stage": self.stage, "tasks": dict(sorted(self.tasks.items()))}


class Recorder:
    """The writing side of a run.

    Args:
        settings: the run's settings.
        folder: its folder.
        accelerator: tells the main process.
        stores: the prepared text, for its fingerprints, its size and its token frequencies.
        show: progress on standard error.
    """

    def __init__(
        self,
        settings: Settings[PretrainConfig],
        folder: Path,
        accelerator: Accelerator,
        stores: TokenStores,
        show: bool,
    ) -> None:
        self.settings, self.config, self.folder, self.stores = settings, settings.value, folder, stores
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        self.progress = Progress(self.config.name, show and self.main)
        self.unigram = frequency_loss(stores.main)
        self.by_frequency = {
            name: frequency_loss(stores.common(self.config.tasks_of(name)), objective.shown)
            for name, objective in self.config.objectives.items()
            if objective.predicts_tokens and objective.shown is not None
        }
        self.started = self._clock = time.monotonic()
        self.earlier = 0.0  # seconds of the run before it was continued
        self.init_from: dict[str, Any] | None = None  # what the weights started from
        self.budget: dict[str, Any] | None = None  # steps that a budget of minutes was turned into
        self.steps = ""  # how many the budget makes, in words
        self._tokens = 0  # at the last log line; the clock stands where it was written
        self._logs: dict[str, JsonLines] = {}
        self._sent: dict[str, int] = {}  # as in the file of this name

    def open(self, sizes: dict[str, int], since_log: tuple[float, int]) -> None:
        """Open the logs, cut back to the checkpoint's ``sizes``; start trackers and the clock.

        Args:
            sizes: from :meth:`sizes`; what is not named starts empty.
            since_log: from :meth:`since_log`, or no seconds and no tokens.
        """
        if self.main:
            self._logs = {n: JsonLines(self.folder / n) for n in ("log.jsonl", "validation.jsonl", "timing.jsonl")}
            for name, log in self._logs.items():
                log.cut(sizes.get(name, 0))
        if self.config.train.trackers:
            if self.main and (self.folder / _SENT).exists():
                self._sent = read_json(self.folder / _SENT)
            self.accelerator.init_trackers(self.config.name, config={"run": str(self.folder)})
        seconds, self._tokens = since_log
        self._clock = time.monotonic() - seconds

    def seconds(self) -> float:
        """Wall seconds of the run, those before an interruption included up to the checkpoint it went on from."""
        return self.earlier + time.monotonic() - self.started

    def sizes(self) -> dict[str, int]:
        """Bytes of the logs that a resumed run keeps."""
        return {name: log.size() for name, log in self._logs.items()}

    def since_log(self) -> tuple[float, int]:
        """Seconds of training since the last log line, and the tokens that had been read by then."""
        return time.monotonic() - self._clock, self._tokens

    def announce(self, model: PretrainingModel, rows: int, accumulation: int, micro: int) -> None:
        """A run's first line: processes, threads, precision, size."""
        size = sum(p.numel() for p in model.parameters())
        processes, train = self.accelerator.num_processes, self.config.train
        batch = f"{train.batch_size} = {processes} x {accumulation} x {micro}"
        if train.batch_tokens is not None:
            batch = f"of like length, {train.batch_tokens:,} tokens"
        self.progress.note(
            f"{processes} process{'' if processes == 1 else 'es'} x {torch.get_num_threads()} threads, precision "
            f"{resolve_precision(train.precision)}, {size:,} parameters, {self.stores.tokens:,} tokens, "
            f"{rows:,} rows an epoch, batch {batch}"
            f"{f', {self.steps} steps' if self.steps else ''}\n{self.folder}"
        )
        for line in self.config.stage_lines():
            self.progress.note(line)

    def log(self, counters: Counters, done: float, figures: dict[str, Any]) -> None:
        """One line of the log from the log window's sums, which start afresh; progress; the warning if it is stuck.

        Args:
            counters: how far the run is.
            done: share of the budget.
            figures: learning rate, gradient norm, epoch.
        """
        terms = {name: total / max(count, 1.0) for name, (total, count) in counters.log_window.items() if count}
        loss = sum(self.config.objectives[name].weight * value for name, value in terms.items())
        schedule, counters.log_window, counters.tasks = counters.schedule, {}, {}
        now = time.monotonic()
        seconds, tokens = max(now - self._clock, 1e-9), counters.tokens - self._tokens
        self._clock, self._tokens = now, counters.tokens
        if self.main:
            amounts = {"step": counters.step, "tokens": counters.tokens, "flops": counters.flops, **schedule}
            self._logs["log.jsonl"].write({**amounts, "loss": loss, "terms": terms, **self._bits(terms), **figures})
            timing = {"step": counters.step, "seconds": seconds, "tokens_per_second": tokens / seconds}
            self._logs["timing.jsonl"].write(timing)
            self._track("log", counters.step, {"loss": loss, "lr": figures["lr"], **terms})
        text = self._in_words(terms, with_bits=done >= 1.0)
        total = f" of {self.steps}" if self.steps else ""
        line = f"step {counters.step}{total}  {text}  {tokens / seconds:,.0f} tokens/s"
        self.progress.show(min(done, 1.0), line, last=done >= 1.0)
        self._warn_if_stuck(counters, done, terms)

    def _bits(self, nats: dict[str, float], task: str | None = None) -> dict[str, dict[str, float]]:
        """Bits per byte of the losses that are those of tokens, for the log; empty where no bytes are known.

        Args:
            nats: losses by objective.
            task: whose rows they are of; ``None`` = of all tasks.
        """
        found = dict[str, float]()
        for name, value in nats.items():
            tasks = [key for key in self.config.tasks_of(name) if task in (None, key)]
            bits = self.stores.bits_per_byte(tasks, value) if self.config.objectives[name].predicts_tokens else None
            found |= {} if bits is None else {name: bits}
        return {"bits_per_byte": found} if found else {}

    def _in_words(self, nats: dict[str, float], task: str | None = None, with_bits: bool = True) -> str:
        """Losses by objective; those of tokens beside the loss by frequency, and in bits per byte, too."""
        bits = self._bits(nats, task).get("bits_per_byte", {}) if with_bits else {}
        told = {name: f" (by frequency {value:.2f}" for name, value in self.by_frequency.items()}
        told = {
            name: text + (f", {bits[name]:.3f} bits per byte)" if name in bits else ")") for name, text in told.items()
        }
        return "  ".join(f"{name} {value:.3f}{told.get(name, '')}" for name, value in nats.items())

    def _track(self, what: str, step: int, values: dict[str, float]) -> None:
        """Send values to the trackers, each step once: unlike the logs, they cannot be cut back to a checkpoint."""
        if not self.config.train.trackers or step <= self._sent.get(what, -1):
            return
        self.accelerator.log(values, step=step)
        self._sent[what] = step
        write_json(self.folder / _SENT, self._sent)

    def _warn_if_stuck(self, counters: Counters, done: float, terms: dict[str, float]) -> None:
        for name, value in terms.items():
            if counters.warned or done < 1 / 2 or name not in self.by_frequency:
                continue
            if value > _STUCK_SHARE * self.by_frequency[name]:
                counters.warned = True
                self.progress.note(
                    f"warning: {name} is at {value:.2f} nats after half of the budget, hardly better than guessing by "
                    f"frequency ({self.by_frequency[name]:.2f}). Usual mends: another train.lr, a longer budget."
                )

    def validation(self, counters: Counters, task: str, metrics: dict[str, dict[str, Any]], seconds: float) -> None:
        """One line for the log, one per objective with the losses of each document; it took ``seconds``."""
        self._clock += seconds  # its time is not training time
        of = f" of {task}" if len(self.config.tasks) > 1 else ""
        if not metrics:
            self.progress.note(f"validation{of} at step {counters.step}: the held-out rows have no target.")
            return
        loss = sum(self.config.objectives[name].weight * f["loss"] for name, f in metrics.items())
        terms = {name: {k: f[k] for k in ("loss", "accuracy", "count")} for name, f in metrics.items()}
        documents = max(len(figures["documents"]) for figures in metrics.values())
        if self.main:
            bits = self._bits({name: f["loss"] for name, f in metrics.items()}, task)
            summary = {"task": task, "loss": loss, "terms": terms, **bits, "documents": documents}
            stage: dict[str, Any] = {} if counters.stage is None else {"stage": counters.stage}
            stage |= {"averaged": counters.averaged} if counters.averaged else {}
            amounts = {"step": counters.step, "tokens": counters.tokens, **stage}
            self._logs["log.jsonl"].write({**amounts, "validation": summary})
            for name, f in metrics.items():
                part = {k: f[k] for k in ("documents", "totals", "counts")}
                self._logs["validation.jsonl"].write({"step": counters.step, "task": task, "objective": name, **part})
            place = f"validation/{task}"
            held_out = {"loss": loss, **{name: figures["loss"] for name, figures in terms.items()}}
            self._track(place, counters.step, {f"{place}/{name}": value for name, value in held_out.items()})
        text = self._in_words({name: f["loss"] for name, f in metrics.items()}, task)
        self.progress.note(f"validation{of} at step {counters.step}: {text}  ({documents} documents)")

    def write_run(self, counters: Counters, model: PretrainingModel, finished: bool) -> None:
        """Write ``run.json``: everything a figure of this run depends on."""
        record = {
            "finished": finished,
            "name": self.config.name,
            "command": shlex.join(["python", "-m", "pretraining", *self.settings.argv]),
            "config": self.settings.resolved,
            "init_from": self.init_from,
            **({} if self.budget is None else {"budget": self.budget}),
            **self.stores.fingerprints,
            "seed": dataclasses.asdict(self.config.seed),
            "parameters": sum(p.numel() for p in model.parameters()),
            "core_parameters": sum(p.numel() for p in model.core.parameters()),
            "unigram_entropy": self.unigram,
            "frequency_loss": self.by_frequency,
            "step": counters.step,
            "tokens": counters.tokens,
            "flops": counters.flops,
            "targets": counters.targets,
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "precision": resolve_precision(self.config.train.precision),
            "seconds": self.seconds(),
            **surroundings(),
        }
        write_json(self.folder / "run.json", record)

    def close(self) -> None:
        """Close logs and trackers."""
        for log in self._logs.values():
            log.close()
        if self.config.train.trackers:
            self.accelerator.end_training()
        self.accelerator.wait_for_everyone()
