"""A run: what it is made of, its loop of steps, and how it stops, is saved and goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device
from torch import Tensor, nn

from pretraining.objectives.base import make_batch
from pretraining.optim.average import AveragedWeights
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.assemble import (
    check_sharded_optimizer,
    decoder_start,
    make_optimizer,
    make_tasks,
    with_vocabulary,
)
from pretraining.training.budget import make_trainer, minutes_in_steps
from pretraining.training.checkpoint import (
    check_room,
    find_checkpoint,
    load_average,
    load_checkpoint,
    load_recurrent_state,
    save_checkpoint,
)
from pretraining.training.checks import accumulation_of, check_weights, common_attention
from pretraining.training.compiled import WHY_NOT_RECURRENT, CompiledCore
from pretraining.training.config import PretrainConfig
from pretraining.training.evaluate import evaluate
from pretraining.training.init_from import init_weights_from
from pretraining.training.loader import TaskLoader
from pretraining.training.model import PretrainingModel, build_model
from pretraining.training.record import Recorder
from pretraining.training.state import budget_used, planned_steps
from pretraining.training.step import weighted_loss
from pretraining.training.stores import TokenStores
from zoo.attention.mixer import figures_of, penalty_of
from zoo.core.transformer import Transformer
from zoo.errors import ZooError
from zoo.heads.sequence_head import check_template
from zoo.model_folder import ModelMetadata, pack_model, save_model_folder
from zoo.runtime.processes import errors_on_all_ranks, resolve_precision
from zoo.runtime.progress import duration
from zoo.runtime.sharding import gathered_tensors, gathered_weights, is_sharded, shard_model, whole
from zoo.runtime.signals import Stopped, StopRequest
from zoo.settings.load import Settings
from zoo.storage.files import read_json
from zoo.storage.object_store import RunMirror

LAST_WEIGHTS = "last_weights"
"""Model folder in a run folder: the last step's weights, where the run folder itself has averaged ones."""
_COMPILE_PAYS = 2000  # steps above which `compile: auto` compiles, on a GPU
_MINUTES_PAY = 10.0  # or minutes from which, where they are the budget: measured steps are compiled ones then


# --- the model as its processes train it -----------------------------------------------------------


def wants_compiling(config: PretrainConfig, device: str) -> bool:
    """Whether the settings, or the length of the run, ask for compiled layers on this kind of device."""
    train = config.train
    steps = train.steps or (train.tokens or 0) // (train.batch_size * config.data.sequence_length)
    pays = steps > _COMPILE_PAYS or (train.minutes or 0.0) >= _MINUTES_PAY
    return train.compile == "yes" or (train.compile == "auto" and pays and device == "cuda")


def share_model(
    config: PretrainConfig, accelerator: Accelerator, model: PretrainingModel, data: dict[str, TaskLoader]
) -> nn.Module:
    """The model as its processes train it together; the same one where there is only one, or where it is sharded."""
    if is_sharded(model):
        own: nn.Module = accelerator.prepare_model(model, evaluation_mode=True)  # precision alone
        return own.train()
    if accelerator.num_processes > 1:
        unused = len(config.tasks) > 1 or _has_idle_parameters(config, accelerator, model, next(iter(data.values())))
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=unused, broadcast_buffers=False)
    shared: nn.Module = accelerator.prepare(model)
    return shared.train()


def _has_idle_parameters(
    config: PretrainConfig, accelerator: Accelerator, model: PretrainingModel, data: TaskLoader
) -> bool:
    """Whether a part of the model gets no gradient from its only task (a pooler nobody reads)."""
    some = data.rows(0, np.arange(min(2, len(data.plan(0)[0]))))
    batch = make_batch([some], data.objectives, data.pad)
    terms, _ = model(send_to_device(batch, accelerator.device))
    weighted_loss(terms, dict.fromkeys(terms, 1.0), config.objectives).backward()
    idle = any(p.grad is None for p in model.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)
    return idle


# --- the run ---------------------------------------------------------------------------------------


class Run:
    """One run in one process of it.

    Args:
        settings: the run's settings.
        folder: its folder.
        accelerator: device, precision, process group.
        stores: the prepared text.
        show: progress on standard error.
        sharded: weights are shared out over the processes.
    """

    def __init__(
        self,
        settings: Settings[PretrainConfig],
        folder: Path,
        accelerator: Accelerator,
        stores: TokenStores,
        show: bool,
        sharded: bool = False,
    ) -> None:
        self.config, self.folder, self.accelerator = settings.value, folder, accelerator
        self.sharded = sharded and accelerator.num_processes > 1
        config, train, objectives = self.config, self.config.train, self.config.objectives
        # First of all, since it says which batch size works.
        accumulation_of(train.batch_size, train.micro_batch_size, accelerator.num_processes)
        self.tokenizer = load_tokenizer(stores.main.path)
        vocabulary = self.tokenizer.vocabulary
        core = with_vocabulary(config.model, vocabulary)
        self.raw_model = build_model(core, objectives, vocabulary, config.seed.init, self.tokenizer)
        start = decoder_start(config, vocabulary)
        attention = common_attention(objectives)
        self.metadata = ModelMetadata(core, config.template, attention, decoder_start_token_id=start)
        check_template(self.metadata.template, core, self.metadata.attention)
        self.raw_model.core.recompute_layers = train.gradient_checkpointing
        if accelerator.is_main_process:
            check_room(folder, self.raw_model, train.keep, average=train.average is not None)
        self.raw_model.to(accelerator.device)
        self.average = None if train.average is None else AveragedWeights(train.average, self.raw_model)
        self.data, self.validation_data = make_tasks(config, stores, vocabulary)
        self.trainer = make_trainer(config, accelerator, self.raw_model, self.data)
        self.optimizer, self.state = self.trainer.optimizer, self.trainer.state
        self.recorder = Recorder(settings, folder, accelerator, stores, show)
        self.mirror: RunMirror | None = None  # of the main process

    @property
    def progress(self) -> float:
        """Share of the budget that is used up."""
        return budget_used(self.config.train, self.state.counters)

    def loop(self, stop: StopRequest) -> None:
        """Steps until the budget is used up, with log, validation and checkpoints in between."""
        train, state, recorder, trainer = self.config.train, self.state, self.recorder, self.trainer
        stop.patient = True
        plan, _ = next(iter(self.data.values())).plan(0)
        recorder.steps = planned_steps(train, next(iter(self.data.values())))
        recorder.announce(self.raw_model, len(plan), trainer.accumulation, trainer.micro_batch_size)
        while self.progress < 1.0:
            lr, norm, stopping = trainer.train_step(stop)
            step, ended = state.counters.step, self.progress >= 1.0
            if self.average is not None:
                state.counters.averaged = self.average.update(state.counters.averaged, self.progress)
            logging = ended or step % train.log_every == 0
            saving = ended or stopping or step % train.save_every == 0
            if logging or saving:
                norm = whole(norm)
                self._read_log_window(norm)
            if logging:
                epoch = max(cursor.epoch for cursor in state.cursors.values())
                figures = {"lr": lr, "gradient_norm": float(norm), "epoch": epoch, **figures_of(self.raw_model.core)}
                recorder.log(state.counters, self.progress, figures)
                state.log_window.zero_()
            if ended or (train.validate_every and step % train.validate_every == 0):
                self._validate()
            if saving:
                with errors_on_all_ranks(self.accelerator):
                    self._save()
                    self._push()
            if stopping and not ended:
                recorder.progress.note(f"stopped at step {step}, saved; the same command continues.")
                recorder.close()
                raise Stopped

    def _read_log_window(self, norm: Tensor) -> None:
        """The device's sums into the counters; a diverged run is stopped before it is saved."""
        finite = self.state.read_log_window()
        if not (math.isfinite(float(norm)) and finite):
            raise ZooError(
                f"the loss or its gradient is not finite at step {self.state.counters.step} (gradient norm "
                f"{float(norm)}): the run diverged. Lower train.lr (now {self.config.train.lr}), lengthen the warm-up, "
                "or clip gradients (train.max_grad_norm). The last good checkpoint stays."
            )

    def _validate(self) -> None:
        """Held-out losses of every task, by the averaged weights where there are some."""
        with self._averaged(), gathered_weights(self.raw_model):
            self._validate_weights()

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within it the model has the averaged weights, where there are some."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def _validate_weights(self) -> None:
        for task, data in self.validation_data.items():
            start = time.monotonic()
            metrics = evaluate(self.trainer.model, data, self.accelerator, self.trainer.micro_batch_size)
            self.recorder.validation(self.state.counters, task, metrics, time.monotonic() - start)

    def _save(self) -> None:
        values, tensors = self.state.pack()
        recorder, main = self.recorder, self.accelerator.is_main_process
        if not main and not is_sharded(self.raw_model):
            return
        values |= {"log_bytes": recorder.sizes(), "since_log": recorder.since_log(), "seconds": recorder.seconds()}
        values |= {"budget": recorder.budget} | self._surroundings()
        step, keep = self.state.counters.step, self.config.train.keep
        average = None if self.average is None else self.average.averages
        save_checkpoint(self.folder, step, self.raw_model, self.optimizer, values, keep, tensors, average, main)

    def _push(self) -> None:
        """Copy the run folder; what fails is tried again at the next checkpoint, and at the end."""
        try:
            if self.mirror is not None:
                self.mirror.push()
        except ZooError as error:
            self.recorder.progress.note(f"warning: {error} It is tried again after the next checkpoint.")

    def resume(self) -> None:
        """Continue from the newest complete checkpoint, or start; then wrap the model for its processes."""
        main, note = self.accelerator.is_main_process, self.recorder.progress.note
        path = [str(find_checkpoint(self.folder, note) or "")] if main else [""]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(path, src=0)
        with errors_on_all_ranks(self.accelerator):
            self._start(anew=not path[0])
            if main:
                self.recorder.write_run(self.state.counters, self.raw_model, finished=False)
                self._save_companions(self.folder)
        if self.sharded:
            self._shard()
        sizes: dict[str, int] = {}
        since_log = (0.0, 0)
        if path[0]:
            values = load_checkpoint(Path(path[0]), self.raw_model, self.optimizer)
            self.state.unpack(values, load_recurrent_state(Path(path[0])))
            if self.average is not None:
                self.average.unpack(load_average(Path(path[0]), self.raw_model))
            sizes, since_log = values["log_bytes"], tuple(values["since_log"])
            self.recorder.earlier = values["seconds"]
            self.recorder.budget = values.get("budget")
            note(f"continuing from step {self.state.counters.step} ({path[0]})")
            self._warn_if_changed(values)
        elif main and any((self.folder / "checkpoints").glob("step-*")):
            note("note: no checkpoint is complete and undamaged; the run starts from the beginning.")
        self.trainer.model = share_model(self.config, self.accelerator, self.raw_model, self.data)
        if wants_compiling(self.config, self.accelerator.device.type):
            self._compile()
        if self.config.train.minutes is not None:
            self._fix_steps(self.config.train.minutes)
        self.recorder.open(sizes, since_log)

    def _shard(self) -> None:
        """Share weights out, before any are loaded; layers that run several times stay with the rest."""
        core, train = self.raw_model.core, self.config.train
        if not isinstance(penalty_of(core), float):
            raise ZooError(
                "layers with a penalty in the loss (AdaptiveSpan) do not train where weights are shared out (FSDP2): "
                "use data parallelism (MULTI_GPU), or set their penalty aside with another class."
            )
        once = core.config.groups == core.config.num_hidden_layers
        check_sharded_optimizer(train, self.accelerator.device)
        shard_model(self.raw_model, core.layers if once else (), self.accelerator.device)
        self.optimizer = self.trainer.optimizer = make_optimizer(train, self.raw_model)
        self.average = None if train.average is None else AveragedWeights(train.average, self.raw_model)
        processes = self.accelerator.num_processes
        self.recorder.progress.note(f"weights, gradients and moments are shared out over {processes} processes (FSDP2)")

    def _fix_steps(self, minutes: float) -> None:
        """Give the run the steps that its minutes make: those on its record, or, in a new run, measured ones."""
        recorder = self.recorder
        if recorder.budget is None:
            recorder.progress.note(f"measuring steps that are thrown away, to turn {minutes:g} minutes into steps")
            recorder.budget = minutes_in_steps(self.trainer, minutes)
            with errors_on_all_ranks(self.accelerator):
                if self.accelerator.is_main_process:
                    recorder.write_run(self.state.counters, self.raw_model, finished=False)
        self.config = self.trainer.config = self.config.with_steps(recorder.budget["steps"])
        told = "{minutes:g} minutes are {steps:,} steps of {seconds_per_step:.3g} s each, as measured".format
        recorder.progress.note(told(**recorder.budget))

    def _compile(self) -> None:
        """Let the model train with compiled layers, or say why it does not."""
        core, note = self.raw_model.core, self.recorder.progress.note
        if is_sharded(self.raw_model):
            note("note: train.compile: the layers run uncompiled: their weights are gathered as they are called.")
        elif isinstance(core, Transformer):
            self.raw_model.compiled = CompiledCore(core, self.config.data.sequence_length, note)
        else:
            note(f"note: train.compile: the layers run uncompiled: {WHY_NOT_RECURRENT}")

    def _start(self, anew: bool) -> None:
        """Weights of the checkpoint that the settings name, unless the run goes on from one of its own."""
        record = self.folder / "run.json"
        known = read_json(record) if record.exists() else {}
        self.recorder.init_from, self.recorder.budget = known.get("init_from"), known.get("budget")
        if self.config.init_from is None or not anew:
            return
        report = init_weights_from(self.config.init_from, self.raw_model, self.metadata, self.tokenizer)
        check_weights(self.folder, self.config.init_from.model, report.digest)
        self.recorder.init_from = dataclasses.asdict(report)
        for line in report.lines():
            self.recorder.progress.note(line)

    def _warn_if_changed(self, state: dict[str, Any]) -> None:
        now, state = self._surroundings(), {"sharded": False, **state}
        changed = [f"{key} {state.get(key)} -> {value}" for key, value in now.items() if state.get(key) != value]
        if changed:
            self.recorder.progress.note(
                f"note: {', '.join(changed)}: same rows and masks, but losses will agree to rounding only."
            )

    def _surroundings(self) -> dict[str, Any]:
        """What has to stay as it is for a resumed run to repeat bit for bit."""
        return {
            "processes": self.accelerator.num_processes,
            "sharded": self.sharded,
            "threads": torch.get_num_threads(),
            "precision": resolve_precision(self.config.train.precision),
            "device": self.accelerator.device.type,
            "torch": torch.__version__,
        }

    def _save_model(self, folder: Path) -> None:
        """Weights as they are now, with all that a model folder has beside them; every process takes part."""
        main, core, heads = self.accelerator.is_main_process, self.raw_model.core, dict(self.raw_model.heads.items())
        tensors = gathered_tensors(pack_model(core, heads), keep=main)
        if not main:
            return
        save_model_folder(folder, core, heads, self.metadata, tensors)
        if folder != self.folder:  # the run folder's own were written before the first step
            self._save_companions(folder)

    def _save_companions(self, folder: Path) -> None:
        """The tokenizer, and what objectives keep beside it."""
        self.tokenizer.save(folder, self.raw_model.core.config)
        for objective in self.config.objectives.values():
            objective.save_files(folder)

    def finish(self) -> None:
        """Write the model folder's weights and mark the run finished; of averaged weights keep the last ones, too."""
        if self.average is not None:
            self._save_model(self.folder / LAST_WEIGHTS)
        with self._averaged():
            self._save_model(self.folder)
        if self.accelerator.is_main_process:
            self.recorder.write_run(self.state.counters, self.raw_model, finished=True)
            if self.average is not None:  # which tells scoring of the text
                shutil.copyfile(self.folder / "run.json", self.folder / LAST_WEIGHTS / "run.json")
            self.recorder.progress.note(f"finished after {duration(self.recorder.seconds())}: {self.folder}")
        self.recorder.close()
