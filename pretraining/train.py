"""The loop: rows to loss terms to optimiser steps, with exact resume.

Every draw is keyed by seed, epoch, step and global row, so a step is a function of the weights, the optimiser's
moments, the cursors and the step's number; that is what a checkpoint holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device
from torch import Tensor, nn

from pretraining.assemble import (
    Stores,
    check_data,
    check_layouts,
    check_objectives,
    check_weights,
    claim,
    common_visibility,
    divide_batch,
    fit_vocabulary,
    is_finished,
    make_optimizer,
    make_tasks,
    prepare_stores,
)
from pretraining.carry import Carried
from pretraining.checkpoint import check_room, find_checkpoint, load_carried, load_checkpoint, save_checkpoint
from pretraining.config import PretrainConfig, StageConfig, run_folder
from pretraining.evaluate import evaluate
from pretraining.loader import Cursor
from pretraining.log import duration
from pretraining.model import build_model
from pretraining.objective import Batch, LossTerm, collate
from pretraining.optim import WarmupDecay
from pretraining.processes import (
    Stopped,
    StopRequest,
    agreed,
    leaving_together,
    one_writer,
    resolve_precision,
    start_processes,
    stop_on_sigterm,
)
from pretraining.random import Draw
from pretraining.record import Counters, Recorder
from pretraining.start import start_from
from pretraining.tokenizer import load_tokenizer
from zoo.config import read_json
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.flops import core_flops, training_flops
from zoo.folder import ModelFacts, save_model_folder, weights_digest
from zoo.heads import check_template
from zoo.settings.load import Settings

_COMPILE_PAYS = 2000  # steps above which `compile: auto` compiles, on a GPU


def pretrain(settings: Settings[PretrainConfig], show: bool = True) -> Path:
    """Run, or continue, or recognise as finished, the run that ``settings`` describe.

    Args:
        settings: from :func:`pretraining.config.load_pretrain_config`.
        show: progress on standard error.

    Returns:
        the run folder, which is a model folder.

    Raises:
        ZooError: anything a user can mend, before training starts.
        Stopped: SIGTERM came; the state is saved.
    """
    config, folder = settings.value, run_folder(settings)
    train = config.train
    accelerator = start_processes(resolve_precision(train.precision), train.threads, train.trackers, folder)
    with leaving_together(), stop_on_sigterm() as stop, contextlib.ExitStack() as stack:
        stores = None
        with agreed(accelerator):
            if accelerator.is_main_process:
                stack.enter_context(one_writer(folder))
                claim(folder, settings)
                check_layouts(config)
                check_objectives(config)
                divide_batch(train.batch_size, train.micro_batch_size, accelerator.num_processes)
                for line in idle_notes(config) if show else ():
                    print(line, file=sys.stderr, flush=True)
                stores = prepare_stores(config, show)
                check_data(folder, stores)
                if config.start is not None and is_finished(folder):
                    check_weights(folder, config.start.model, weights_digest(Path(config.start.model)))
        if is_finished(folder):
            if show and accelerator.is_main_process:
                print(f"{folder} is finished already.", flush=True)
            return folder
        with agreed(accelerator):
            run = Run(settings, folder, accelerator, stores or prepare_stores(config, False), show)
        run.resume()
        run.loop(stop)
        run.finish()
    return folder


def idle_notes(config: PretrainConfig) -> list[str]:
    """A line on stages that get no step, where there are some."""
    if not (idle := config.idle_stages()):
        return []
    ends = f"{', '.join(idle)} {'gets' if len(idle) == 1 else 'get'} no step of {config.train.steps}"
    return [f"note: {ends}: more steps (train.steps), or other ends of the stages (until), would change that."]


def stage_at(stages: dict[str, StageConfig], progress: float) -> str:
    """The stage of a step that begins at this share of the budget."""
    ordered = sorted(stages, key=lambda name: stages[name].until)
    return next((name for name in ordered if progress < stages[name].until), ordered[-1])


_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio


def task_at(stages: dict[str, StageConfig] | None, tasks: list[str], step: int, progress: float, seed: int) -> str:
    """The task of a step: the same answer in every process and after every resume.

    Steps go round a circle that the tasks divide by their shares, each a golden section of it from the one before, from
    a place that the seed draws. So every stretch of steps, whenever it begins, has its shares but for a few steps,
    where independent draws would miss them by the root of their number.
    """
    if stages is None:
        return tasks[0]
    stage = stages[stage_at(stages, progress)]
    names, shares = list(stage.tasks), np.cumsum(list(stage.tasks.values()))
    begin = int(Draw(seed, 0).keys(np.zeros(1, dtype=np.int64), "task")[0])
    point = (begin + step * _GOLDEN) % 2**64 / 2**64
    return names[int(np.searchsorted(shares[:-1], point * shares[-1], side="right"))]


class Run:
    """One run in one process of it.

    Args:
        settings: the run's settings.
        folder: its folder.
        accelerator: device, precision, process group.
        stores: the prepared text.
        show: progress on standard error.
    """

    def __init__(
        self, settings: Settings[PretrainConfig], folder: Path, accelerator: Accelerator, stores: Stores, show: bool
    ) -> None:
        self.config, self.folder, self.accelerator = settings.value, folder, accelerator
        train, self.objectives = self.config.train, self.config.objectives
        self.names = list(self.objectives)
        self.micro, self.accumulation = divide_batch(
            train.batch_size, train.micro_batch_size, accelerator.num_processes
        )
        self.tokenizer = load_tokenizer(stores.main.path)
        vocabulary = self.tokenizer.vocabulary
        self.model_config = fit_vocabulary(self.config.model, vocabulary)
        self.raw_model = build_model(
            self.model_config, self.objectives, vocabulary, self.config.seed.init, self.tokenizer
        )
        self.facts = ModelFacts(self.model_config, self.config.template, common_visibility(self.objectives))
        check_template(self.facts.template, self.model_config, self.facts.visibility)
        self.raw_model.core.gradient_checkpointing = train.gradient_checkpointing
        if accelerator.is_main_process:
            check_room(folder, self.raw_model, train.keep)
        self.raw_model.to(accelerator.device)
        self.model: nn.Module = self.raw_model
        self.data, self.validation_data = make_tasks(self.config, stores, vocabulary)
        self.optimizer = make_optimizer(train, self.raw_model)
        self.schedule = train.schedule or WarmupDecay()
        self.schedule.begin([0.0, *sorted(stage.until for stage in (self.config.stages or {}).values())[:-1]])
        self.recorder = Recorder(settings, folder, accelerator, stores, show)
        self.counters = Counters(targets=dict.fromkeys(self.names, 0))
        self.cursors = {name: Cursor() for name in self.config.tasks}
        streams = [name for name, data in self.data.items() if data.layout.order == "streams"]
        self.carried = {name: Carried(self.accumulation, accelerator) for name in streams}
        self.window = self._zeros(len(self.names), 2)

    # ---- the step -------------------------------------------------------------------------------------------

    def progress(self) -> float:
        """Share of the budget that is used up."""
        train, done = self.config.train, self.counters
        if train.steps is not None:
            return done.step / train.steps
        if train.tokens is not None:
            return done.tokens / train.tokens
        assert train.flops is not None
        return done.flops / train.flops

    def train_step(self, stop: StopRequest) -> tuple[float, Tensor, bool]:
        """One optimiser step.

        Returns:
            learning rate, gradient norm (on the device), and whether any process was asked to stop.
        """
        config, step, progress = self.config, self.counters.step, self.progress()
        task = task_at(config.stages, list(config.tasks), step, progress, config.seed.data)
        torch.manual_seed(config.seed.data * 1_000_003 + step)  # for objectives that use torch's generator
        batches = self._batches(task)
        figures = [float(sum(batch.counts.get(name, 0) for batch in batches)) for name in self.names]
        flops = [self._flops(batch, self._remembered(task, number)) for number, batch in enumerate(batches)]
        figures += [sum(batch.tokens for batch in batches), sum(flops), float(stop.asked)]
        *counts, tokens, operations, stopping = self._sum(torch.tensor(figures, dtype=torch.float64)).tolist()

        lr = config.train.lr * self.schedule.factor(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        totals = self._zeros(len(self.names))
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                carried = self.carried.get(task)
                state = carried.states[number] if carried else None
                terms, state = self.model(send_to_device(batch, self.accelerator.device), state)
                if carried:
                    carried.keep(number, state)
                loss = self._loss(terms, dict(zip(self.names, counts, strict=True)))
                # Data parallelism averages over processes; the counts are global, so undo that.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            for name, term in terms.items():
                totals[self.names.index(name)] += term.total.detach()
        norm = self._clip(config.train.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        # Sums stay on the device until they are logged or saved: reading them would stop a GPU at every step.
        self.window += torch.stack([self._sum(totals), torch.tensor(counts).to(totals)], dim=1)
        if config.stages is not None:
            self.counters.stage = stage_at(config.stages, progress)
            self.counters.tasks[task] = self.counters.tasks.get(task, 0) + 1
        self.counters.step += 1
        self.counters.tokens += int(tokens)
        self.counters.flops += int(operations)
        for name, count in zip(self.names, counts, strict=True):
            self.counters.targets[name] += int(count)
        return lr, norm, stopping > 0

    def _batches(self, task: str) -> list[Batch]:
        """This process's micro batches of the next global batch, with dropout keys by global row."""
        data, size, rank = self.data[task], self.config.train.batch_size, self.accelerator.process_index
        taken = data.advance(self.cursors[task], size)
        if task in self.carried:
            self.carried[task].begin(taken[0][0])
        batches = []
        for number in range(self.accumulation):
            start = (number * self.accelerator.num_processes + rank) * self.micro
            batch = collate(data.rows(taken, start, start + self.micro), data.objectives)
            keys = row_keys(self.config.seed.data, self.counters.step, np.arange(start, start + self.micro))
            batches.append(batch._replace(inputs=batch.inputs._replace(dropout_keys=keys)))
        return batches

    def _loss(self, terms: dict[str, LossTerm], counts: dict[str, float]) -> Tensor:
        """The weighted sum of the terms, each divided by its global count."""
        parts = []
        for name, term in terms.items():
            divisor = max(counts[name], 1.0) if self.objectives[name].normalise == "count" else 1.0
            parts.append(term.weight * term.total / divisor)
        return torch.stack(parts).sum()

    def _flops(self, batch: Batch, memory: int) -> int:
        inputs = batch.inputs
        rows, length = inputs.input_ids.shape
        queries = 0 if inputs.query is None else inputs.query.positions.shape[1]
        heads = sum(self.objectives[name].head_flops(count) for name, count in batch.counts.items())
        return training_flops(
            core_flops(self.model_config, rows, length, queries, memory, inputs.visible.causal) + heads
        )

    def _remembered(self, task: str, number: int) -> int:
        """Tokens before its rows that an accumulation slice looks at."""
        state = self.carried[task].states[number] if task in self.carried else None
        return state["memory_0"].shape[1] if state and "memory_0" in state else 0

    def _clip(self, limit: float) -> Tensor:
        parameters = [p for p in self.raw_model.parameters() if p.grad is not None]
        return torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf, foreach=True)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.accelerator.device)

    def _sum(self, values: Tensor) -> Tensor:
        """Sums over processes."""
        if self.accelerator.num_processes == 1:
            return values
        result: Tensor = self.accelerator.reduce(values.to(self.accelerator.device), "sum")
        return result

    # ---- around the step ------------------------------------------------------------------------------------

    def loop(self, stop: StopRequest) -> None:
        """Steps until the budget is used up, with log, validation and checkpoints in between."""
        train, counters = self.config.train, self.counters
        stop.patient = True
        plan, _ = next(iter(self.data.values())).plan(0)
        self.recorder.announce(self.raw_model, len(plan), self.accumulation, self.micro)
        while self.progress() < 1.0:
            lr, norm, stopping = self.train_step(stop)
            ended = self.progress() >= 1.0
            logging = ended or counters.step % train.log_every == 0
            saving = ended or stopping or counters.step % train.save_every == 0
            if logging or saving:
                self._read_window(norm)
            if logging:
                epoch = max(cursor.epoch for cursor in self.cursors.values())
                self.recorder.log(counters, self.progress(), {"lr": lr, "gradient_norm": float(norm), "epoch": epoch})
                self.window.zero_()
            if ended or (train.validate_every and counters.step % train.validate_every == 0):
                self._validate()
            if saving:
                with agreed(self.accelerator):
                    self._save()
            if stopping and not ended:
                self.recorder.progress.note(f"stopped at step {counters.step}, saved; the same command continues.")
                self.recorder.close()
                raise Stopped

    def _validate(self) -> None:
        """Held-out losses of every task, without a compiled graph: a second one would cost more than it saves."""
        stance = torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()
        with stance:
            for task, data in self.validation_data.items():
                start = time.monotonic()
                figures = evaluate(self.model, data, self.accelerator, self.micro)
                self.recorder.validation(self.counters, task, figures, time.monotonic() - start)

    def _read_window(self, norm: Tensor) -> None:
        """The device's sums into the counters; a diverged run is stopped before it is saved."""
        sums = dict(zip(self.names, self.window.tolist(), strict=True))
        self.counters.window = {name: values for name, values in sums.items() if values[1]}
        if not (math.isfinite(float(norm)) and bool(torch.isfinite(self.window).all())):
            raise ZooError(
                f"the loss or its gradient is not finite at step {self.counters.step} (gradient norm {float(norm)}): "
                f"the run diverged. Lower train.lr (now {self.config.train.lr}), lengthen the warm-up, or clip "
                "gradients (train.max_grad_norm). The last good checkpoint stays."
            )

    def _save(self) -> None:
        carried = {f"{t}.{n}": v for t, kept in self.carried.items() for n, v in kept.pack().items()}
        if not self.accelerator.is_main_process:
            return
        state = {
            "counters": dataclasses.asdict(self.counters),
            "cursors": {name: dataclasses.asdict(cursor) for name, cursor in self.cursors.items()},
            "carried_epochs": {name: kept.epoch for name, kept in self.carried.items()},
            "log_bytes": self.recorder.sizes(),
            "seconds": self.recorder.seconds(),
            **self._surroundings(),
        }
        step, keep = self.counters.step, self.config.train.keep
        save_checkpoint(self.folder, step, self.raw_model, self.optimizer, state, keep, carried)

    def resume(self) -> None:
        """Continue from the newest complete checkpoint, or start; then wrap the model for its processes."""
        main = self.accelerator.is_main_process
        path = [str(find_checkpoint(self.folder) or "")] if main else [""]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(path, src=0)
        with agreed(self.accelerator):
            self._start(anew=not path[0])
            if main:
                self.recorder.write_run(self.counters, self.raw_model, finished=False)
                self.tokenizer.save(self.folder, self.raw_model.core.config)
                for objective in self.objectives.values():
                    objective.save_files(self.folder)
        sizes: dict[str, int] = {}
        if path[0]:
            state = load_checkpoint(Path(path[0]), self.raw_model, self.optimizer)
            self.counters, sizes = Counters(**state["counters"]), state["log_bytes"]
            self.cursors = {name: Cursor(**value) for name, value in state["cursors"].items()}
            self._restore_carried(load_carried(Path(path[0])), state["carried_epochs"])
            sums = [self.counters.window.get(name, [0.0, 0.0]) for name in self.names]
            self.window = torch.tensor(sums, dtype=torch.float64).to(self.window)
            self.recorder.progress.note(f"continuing from step {self.counters.step} ({path[0]})")
            self._warn_if_changed(state)
            self.recorder.earlier = state.get("seconds", 0.0)
        elif main and any((self.folder / "checkpoints").glob("step-*")):
            self.recorder.progress.note(
                "note: no checkpoint is complete and undamaged; the run starts from the beginning."
            )
        self.recorder.open(sizes, self.counters.tokens)
        self._wrap()

    def _restore_carried(self, tensors: dict[str, Tensor], epochs: dict[str, int]) -> None:
        """What each task remembered; with the same settings it has the same shapes."""
        for task, kept in self.carried.items():
            own = {n.removeprefix(f"{task}."): t for n, t in tensors.items() if n.startswith(f"{task}.")}
            kept.unpack(own, epochs.get(task, 0))

    def _start(self, anew: bool) -> None:
        """Weights of the checkpoint that the settings name, unless the run goes on from one of its own."""
        record = self.folder / "run.json"
        self.recorder.start = read_json(record).get("start") if record.exists() else None
        if self.config.start is None or not anew:
            return
        report = start_from(self.config.start, self.raw_model, self.facts, self.tokenizer)
        check_weights(self.folder, self.config.start.model, report.digest)
        self.recorder.start = dataclasses.asdict(report)
        for line in report.lines():
            self.recorder.progress.note(line)

    def _wrap(self) -> None:
        train = self.config.train
        choice, row = train.compile, self.config.data.sequence_length
        steps = train.steps or (train.tokens or 0) // (train.batch_size * row)
        cuda = self.accelerator.device.type == "cuda"
        self.compiled = choice == "yes" or (choice == "auto" and steps > _COMPILE_PAYS and cuda)
        if self.compiled:
            self.raw_model.compile(dynamic=True)
        if self.accelerator.num_processes > 1:
            unused = len(self.config.tasks) > 1 or self._has_idle_parameters()
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(
                find_unused_parameters=unused, broadcast_buffers=False
            )
        self.model = self.accelerator.prepare(self.raw_model)
        self.model.train()

    def _has_idle_parameters(self) -> bool:
        """Whether a part of the model gets no gradient from its only task (a pooler nobody reads)."""
        data = next(iter(self.data.values()))
        batch = collate(data.corrupted(0, np.arange(min(2, len(data.plan(0)[0])))), data.objectives)
        terms, _ = self.raw_model(send_to_device(batch, self.accelerator.device))
        self._loss(terms, dict.fromkeys(terms, 1.0)).backward()
        idle = any(p.grad is None for p in self.raw_model.parameters() if p.requires_grad)
        self.raw_model.zero_grad(set_to_none=True)
        return idle

    def _warn_if_changed(self, state: dict[str, Any]) -> None:
        now = self._surroundings()
        changed = [f"{key} {state.get(key)} -> {value}" for key, value in now.items() if state.get(key) != value]
        if changed:
            self.recorder.progress.note(
                f"note: {', '.join(changed)}: same rows and masks, but losses will agree to rounding only."
            )

    def _surroundings(self) -> dict[str, Any]:
        """What has to stay as it is for a resumed run to repeat bit for bit."""
        return {
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "precision": resolve_precision(self.config.train.precision),
            "device": self.accelerator.device.type,
            "torch": torch.__version__,
        }

    def finish(self) -> None:
        """Write the model folder's weights and mark the run finished."""
        if self.accelerator.is_main_process:
            save_model_folder(self.folder, self.raw_model.core, dict(self.raw_model.heads.items()), self.facts)
            self.recorder.write_run(self.counters, self.raw_model, finished=True)
            self.recorder.progress.note(f"finished after {duration(self.recorder.seconds())}: {self.folder}")
        self.recorder.close()
