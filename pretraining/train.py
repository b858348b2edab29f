"""The loop: rows to loss terms to optimiser steps, with exact resume.

Every draw is keyed by seed, epoch, step and global row, so a step is a function of the weights, the optimiser's
moments, the cursors and the step's number; that is what a checkpoint holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device

from pretraining.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from pretraining.config import PretrainConfig, StageConfig, differing_keys, run_folder
from pretraining.evaluate import evaluate
from pretraining.loader import Cursor, TaskData, split_documents
from pretraining.log import JsonLines, Progress, duration
from pretraining.model import build_model
from pretraining.objective import Batch, LossTerm, collate
from pretraining.optim import WarmupDecay, parameter_groups
from pretraining.prepare import prepare
from pretraining.processes import (
    Stopped,
    StopRequest,
    one_writer,
    resolve_precision,
    start_processes,
    stop_on_sigterm,
    together,
)
from pretraining.provenance import surroundings
from pretraining.random import Draw
from pretraining.store import Store
from pretraining.tokenizer import ZooTokenizer, load_tokenizer
from zoo.config import CoreConfig, read_json
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.flops import core_flops, training_flops
from zoo.folder import save_model_folder, write_json
from zoo.settings import Settings

_STUCK_SHARE = 0.98  # of the unigram entropy: a run above it after a third of its budget has learned frequencies only
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
    accelerator = start_processes(
        resolve_precision(config.train.precision), config.train.threads, config.train.trackers, folder
    )
    with stop_on_sigterm() as stop, contextlib.ExitStack() as stack:
        error, store = None, None
        if accelerator.is_main_process:
            try:
                stack.enter_context(one_writer(folder))
                _claim(folder, settings)
                store = _prepare(config, show)
            except ZooError as problem:
                error = problem
        together(accelerator, error)
        if (folder / "run.json").exists() and read_json(folder / "run.json").get("finished"):
            if show and accelerator.is_main_process:
                print(f"{folder} is finished already.", flush=True)
            return folder
        error = None
        try:
            run = Run(settings, folder, accelerator, store or _prepare(config, False), show)
        except ZooError as problem:
            error = problem
        together(accelerator, error)
        run.resume()
        run.loop(stop)
        run.finish()
    return folder


def _prepare(config: PretrainConfig, show: bool) -> Store:
    data = config.data
    return prepare(
        data.corpus, data.tokenizer, data.stores, processes=data.processes, template=config.template, quiet=not show
    )


def _claim(folder: Path, settings: Settings[PretrainConfig]) -> None:
    """Refuse a folder that belongs to other settings."""
    if not (folder / "run.json").exists():
        return
    changed = differing_keys(read_json(folder / "run.json").get("config", {}), settings.resolved)
    if changed:
        listing = "\n  ".join(changed[:12])
        raise ZooError(
            f"{folder} holds a run with other settings:\n  {listing}\nChoose another --run_folder or --output."
        )


def task_at(stages: dict[str, StageConfig] | None, tasks: list[str], step: int, progress: float, seed: int) -> str:
    """The task of a step: the same answer in every process and after every resume."""
    if stages is None:
        return tasks[0]
    ordered = sorted(stages.values(), key=lambda s: s.until)
    stage = next((s for s in ordered if progress < s.until), ordered[-1])
    names, shares = list(stage.tasks), np.cumsum(list(stage.tasks.values()))
    point = Draw(seed, 0).uniform(np.array([step]), "task")[0] * shares[-1]
    return names[int(np.searchsorted(shares, point, side="right"))]


class Run:
    """One run in one process of it.

    Args:
        settings: the run's settings.
        folder: its folder.
        accelerator: device, precision, process group.
        store: the prepared corpus.
        show: progress on standard error.
    """

    def __init__(
        self, settings: Settings[PretrainConfig], folder: Path, accelerator: Accelerator, store: Store, show: bool
    ) -> None:
        self.settings, self.config, self.folder, self.store = settings, settings.value, folder, store
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        train = self.config.train
        self.progress_line = Progress(self.config.name, show and self.main)
        self.tokenizer = load_tokenizer(store.path)
        self.model_config = fit_vocabulary(self.config.model, self.tokenizer)
        self.micro, self.accumulation = divide_batch(
            train.batch_size, train.micro_batch_size, accelerator.num_processes
        )
        self.objectives = self.config.objectives
        self.raw_model = build_model(
            self.model_config, self.objectives, self.tokenizer.vocabulary, self.config.seed.init
        )
        self.raw_model.core.gradient_checkpointing = train.gradient_checkpointing
        self.training_data, self.validation_data = self._task_data()
        self.raw_model.to(accelerator.device)
        self.optimizer = self._make_optimizer()
        self.unigram = unigram_entropy(store)
        self.cursors = {name: Cursor() for name in self.config.tasks}
        self.step, self.tokens, self.flops, self.started = 0, 0, 0, time.time()
        self.window: dict[str, list[float]] = {}
        self.warned = False

    def _task_data(self) -> tuple[dict[str, TaskData], dict[str, TaskData]]:
        """Training and held-out rows of every task; what cannot be laid out is refused here."""
        config, vocabulary = self.config, self.tokenizer.vocabulary
        train, held_out = split_documents(self.store, config.data.validation_tokens)
        base: dict[str, TaskData] = {}
        validation: dict[str, TaskData] = {}
        for name, task in config.tasks.items():
            own = {key: self.objectives[key] for key in task.objectives}
            provided = task.layout.provides | frozenset(self.store.arrays)
            for key, objective in own.items():
                if objective.needs - provided:
                    raise ZooError(
                        f"objective {key!r} needs {', '.join(sorted(objective.needs - provided))}, which the layout "
                        f"{type(task.layout).__name__} of task {name!r} does not provide "
                        f"(it provides {', '.join(sorted(provided)) or 'nothing beyond the tokens'})."
                    )
            needed = {key: objective.visibility for key, objective in own.items() if objective.visibility}
            if len(set(needed.values())) > 1:
                raise ZooError(
                    f"the objectives of task {name!r} contradict each other about who may see whom ({needed}); "
                    "give each a task of its own, and `stages` that say when it is run."
                )
            base[name] = TaskData(
                self.store, train, task.layout, own, vocabulary, config.data.sequence_length, config.seed.data,
                config.data.copies,
            )  # fmt: skip
            base[name].plan(0)
            if len(held_out):
                validation[name] = dataclasses.replace(base[name], documents=held_out, seed=0, copies=1, _plans={})
                validation[name].plan(0)
        return base, validation

    def _make_optimizer(self) -> torch.optim.Optimizer:
        train = self.config.train
        groups = parameter_groups(self.raw_model.named_parameters(), train.weight_decay, train.no_decay)
        if train.optimizer is None:
            return torch.optim.AdamW(groups, lr=train.lr, eps=1e-6, fused=True)
        return train.optimizer(groups)

    # ---- the step -------------------------------------------------------------------------------------------

    def progress(self) -> float:
        """Share of the budget that is used up."""
        train = self.config.train
        if train.steps is not None:
            return self.step / train.steps
        if train.tokens is not None:
            return self.tokens / train.tokens
        assert train.flops is not None
        return self.flops / train.flops

    def train_step(self, stop: StopRequest) -> tuple[float, float, bool]:
        """One optimiser step.

        Returns:
            learning rate, gradient norm, and whether any process was asked to stop.
        """
        config, progress = self.config.train, self.progress()
        task = task_at(self.config.stages, list(self.config.tasks), self.step, progress, self.config.seed.data)
        torch.manual_seed(self.config.seed.data * 1_000_003 + self.step)  # for objectives that use torch's generator
        batches = self._batches(task)
        names = list(batches[0].counts)
        counts = [sum(batch.counts[name] for batch in batches) for name in names]
        flops = sum(self._flops(batch) for batch in batches)
        figures = [*counts, sum(batch.tokens for batch in batches), flops, float(stop.asked)]
        *global_counts, tokens, flops_, stopping = self._sum(figures)

        lr = config.lr * (config.schedule or WarmupDecay()).factor(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        totals = [torch.zeros((), dtype=torch.float64) for _ in names]
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                terms, _ = self.model(send_to_device(batch, self.accelerator.device))
                loss = self._loss(terms, dict(zip(names, global_counts, strict=True)))
                # Data parallelism averages over processes; the counts are global, so undo that.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            for index, name in enumerate(names):
                totals[index] += terms[name].total.detach().double().cpu()
        norm = self._clip(config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        for name, total, count in zip(names, self._sum([float(t) for t in totals]), global_counts, strict=True):
            entry = self.window.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += count
        self.step += 1
        self.tokens += int(tokens)
        self.flops += int(flops_)
        return lr, norm, stopping > 0

    def _batches(self, task: str) -> list[Batch]:
        """This process's micro batches of the next global batch, with dropout keys by global row."""
        data, size, rank = self.training_data[task], self.config.train.batch_size, self.accelerator.process_index
        taken = data.advance(self.cursors[task], size)
        batches = []
        for number in range(self.accumulation):
            start = (number * self.accelerator.num_processes + rank) * self.micro
            batch = collate(data.rows(taken, start, start + self.micro), data.objectives)
            keys = row_keys(self.config.seed.data, self.step, np.arange(start, start + self.micro))
            batches.append(batch._replace(inputs=batch.inputs._replace(dropout_keys=keys)))
        return batches

    def _loss(self, terms: dict[str, LossTerm], counts: dict[str, float]) -> torch.Tensor:
        """The weighted sum of the terms, each divided by its global count."""
        parts = []
        for name, term in terms.items():
            divisor = max(counts[name], 1.0) if self.objectives[name].normalise == "count" else 1.0
            parts.append(term.weight * term.total / divisor)
        return torch.stack(parts).sum()

    def _flops(self, batch: Batch) -> int:
        rows, length = batch.inputs.input_ids.shape
        heads = sum(self.objectives[name].head_flops(count) for name, count in batch.counts.items())
        return training_flops(core_flops(self.model_config, rows, length) + heads)

    def _clip(self, limit: float) -> float:
        parameters = [p for p in self.raw_model.parameters() if p.grad is not None]
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf, foreach=True))

    def _sum(self, values: list[float]) -> list[float]:
        """Sums over processes, added in rank order."""
        if self.accelerator.num_processes == 1:
            return [float(v) for v in values]
        tensor = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        result: list[float] = self.accelerator.reduce(tensor, "sum").tolist()
        return result

    # ---- around the step ------------------------------------------------------------------------------------

    def loop(self, stop: StopRequest) -> None:
        """Steps until the budget is used up, with log, validation and checkpoints in between."""
        config = self.config.train
        self._announce()
        clock, tokens_before = time.monotonic(), self.tokens
        while self.progress() < 1.0:
            lr, norm, stopping = self.train_step(stop)
            if not math.isfinite(norm):
                raise ZooError(
                    f"the gradient became {norm} at step {self.step}: the run diverged. Lower train.lr (now "
                    f"{config.lr}), lengthen the warm-up, or clip gradients (train.max_grad_norm)."
                )
            ended = self.progress() >= 1.0
            if self.step % config.log_every == 0 or ended:
                now = time.monotonic()
                rate = (self.tokens - tokens_before) / max(now - clock, 1e-9)
                self._log(lr, norm, rate, now - clock, ended)
                clock, tokens_before = now, self.tokens
            if ended or (config.validate_every and self.step % config.validate_every == 0):
                self._validate()
                clock = time.monotonic()
            if ended or stopping or self.step % config.save_every == 0:
                self._save()
            if stopping and not ended:
                self.progress_line.note(f"stopped at step {self.step}, saved; the same command continues the run.")
                self.close()
                raise Stopped

    def _log(self, lr: float, norm: float, rate: float, seconds: float, ended: bool) -> None:
        terms = {name: total / max(count, 1.0) for name, (total, count) in self.window.items()}
        loss = sum(self.objectives[name].weight * value for name, value in terms.items())
        self.window = {}
        record = {
            "step": self.step, "tokens": self.tokens, "flops": self.flops, "loss": loss, "terms": terms, "lr": lr,
            "gradient_norm": norm, "epoch": max(cursor.epoch for cursor in self.cursors.values()),
        }  # fmt: skip
        if self.main:
            self.log.write(record)
            self.timing.write({"step": self.step, "seconds": seconds, "tokens_per_second": rate})
            if self.config.train.trackers:
                self.accelerator.log({"loss": loss, "lr": lr, **terms}, step=self.step)
        text = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        self.progress_line.show(
            min(self.progress(), 1.0),
            f"step {self.step}  {text}  (unigram {self.unigram:.2f})  {rate:,.0f} tokens/s",
            last=ended,
        )
        self._warn_if_stuck(terms)

    def _warn_if_stuck(self, terms: dict[str, float]) -> None:
        for name, value in terms.items():
            if self.warned or not self.objectives[name].predicts_tokens or self.progress() < 1 / 3:
                continue
            if value > _STUCK_SHARE * self.unigram:
                self.warned = True
                self.progress_line.note(
                    f"warning: {name} is at {value:.2f} nats after a third of the budget, no better than guessing by "
                    f"word frequency ({self.unigram:.2f}). Usual mends: another train.lr, a longer budget."
                )

    def _validate(self) -> None:
        for task, data in self.validation_data.items():
            figures = evaluate(self.model, data, self.accelerator, self.micro)
            weights = {name: self.objectives[name].weight for name in figures}
            loss = sum(weights[name] * f["loss"] for name, f in figures.items())
            terms = {name: {k: f[k] for k in ("loss", "accuracy", "count")} for name, f in figures.items()}
            documents = len(data.documents)
            if self.main:
                summary = {"task": task, "loss": loss, "terms": terms, "documents": documents}
                self.log.write({"step": self.step, "tokens": self.tokens, "validation": summary})
                for name, f in figures.items():
                    part = {k: f[k] for k in ("documents", "totals", "counts")}
                    self.documents.write({"step": self.step, "task": task, "objective": name, **part})
            text = "  ".join(f"{name} {f['loss']:.3f}" for name, f in figures.items())
            self.progress_line.note(f"validation at step {self.step}: {text}  ({documents} documents)")

    def _save(self) -> None:
        if not self.main:
            return
        state = {
            "step": self.step, "tokens": self.tokens, "flops": self.flops, "window": self.window, "warned": self.warned,
            "cursors": {name: dataclasses.asdict(cursor) for name, cursor in self.cursors.items()},
            "log_bytes": {log.path.name: log.size() for log in (self.log, self.documents)},
            "processes": self.accelerator.num_processes, "threads": torch.get_num_threads(),
        }  # fmt: skip
        save_checkpoint(self.folder, self.step, self.raw_model, self.optimizer, state, self.config.train.keep)

    def resume(self) -> None:
        """Continue from the newest complete checkpoint, or start; then wrap the model for its processes."""
        if self.main:
            self._write_run(finished=False)
            self.tokenizer.save(self.folder)
            self.log = JsonLines(self.folder / "log.jsonl")
            self.documents = JsonLines(self.folder / "validation.jsonl")
            self.timing = JsonLines(self.folder / "timing.jsonl")
        path = [str(find_checkpoint(self.folder) or "")] if self.main else [""]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(path, src=0)
        sizes: dict[str, int] = {"log.jsonl": 0, "validation.jsonl": 0}
        if path[0]:
            state = load_checkpoint(Path(path[0]), self.raw_model, self.optimizer)
            self.step, self.tokens, self.flops = state["step"], state["tokens"], state["flops"]
            self.window, self.warned, sizes = state["window"], state["warned"], state["log_bytes"]
            self.cursors = {name: Cursor(**value) for name, value in state["cursors"].items()}
            self.progress_line.note(f"continuing from step {self.step} ({path[0]})")
            self._warn_if_changed(state)
        if self.main:
            self.log.cut(sizes["log.jsonl"])
            self.documents.cut(sizes["validation.jsonl"])
        if self.config.train.trackers:
            self.accelerator.init_trackers(self.config.name, config={"run": str(self.folder)})
        self._wrap()

    def _wrap(self) -> None:
        model: torch.nn.Module = self.raw_model
        choice, steps = self.config.train.compile, self.config.train.steps or 0
        if choice == "yes" or (choice == "auto" and steps > _COMPILE_PAYS and self.accelerator.device.type == "cuda"):
            model.compile(dynamic=True)
        if self.accelerator.num_processes > 1:
            unused = len(self.config.tasks) > 1 or self._has_idle_parameters()
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=unused)
        self.model = self.accelerator.prepare(model)
        self.model.train()

    def _has_idle_parameters(self) -> bool:
        """Whether a part of the model gets no gradient from its only task (a pooler nobody reads)."""
        data = next(iter(self.training_data.values()))
        batch = collate(data.corrupted(0, np.arange(min(2, len(data.plan(0)[0])))), data.objectives)
        terms, _ = self.raw_model(send_to_device(batch, self.accelerator.device))
        self._loss(terms, dict.fromkeys(terms, 1.0)).backward()
        idle = any(p.grad is None for p in self.raw_model.parameters() if p.requires_grad)
        self.raw_model.zero_grad(set_to_none=True)
        return idle

    def _warn_if_changed(self, state: dict[str, Any]) -> None:
        now = {"processes": self.accelerator.num_processes, "threads": torch.get_num_threads()}
        changed = [f"{key} {state[key]} -> {value}" for key, value in now.items() if state[key] != value]
        if changed:
            self.progress_line.note(
                f"note: {', '.join(changed)}: same rows and masks, but losses will agree to rounding only."
            )

    def _announce(self) -> None:
        size = sum(p.numel() for p in self.raw_model.parameters())
        plan, _ = next(iter(self.training_data.values())).plan(0)
        processes = self.accelerator.num_processes
        self.progress_line.note(
            f"{processes} process{'' if processes == 1 else 'es'} x {torch.get_num_threads()} threads, precision "
            f"{resolve_precision(self.config.train.precision)}, {size:,} parameters, {self.store.num_tokens:,} tokens, "
            f"{len(plan):,} rows an epoch, batch {self.config.train.batch_size} = {processes} x {self.accumulation} x "
            f"{self.micro}\n{self.folder}"
        )

    def _write_run(self, finished: bool) -> None:
        old = read_json(self.folder / "run.json") if (self.folder / "run.json").exists() else {}
        if old and old.get("data_fingerprint") != self.store.fingerprint:
            raise ZooError(
                f"{self.folder} was started on other data (fingerprint {old.get('data_fingerprint')}, now "
                f"{self.store.fingerprint}): the corpus or the tokenizer changed. Restore it, or delete the folder."
            )
        record = {
            "finished": finished, "name": self.config.name, "config": self.settings.resolved,
            "data_fingerprint": self.store.fingerprint, "seed": dataclasses.asdict(self.config.seed),
            "parameters": sum(p.numel() for p in self.raw_model.parameters()),
            "core_parameters": sum(p.numel() for p in self.raw_model.core.parameters()),
            "unigram_entropy": self.unigram, "step": self.step, "tokens": self.tokens, "flops": self.flops,
            "processes": self.accelerator.num_processes, "threads": torch.get_num_threads(),
            "precision": resolve_precision(self.config.train.precision),
            "seconds": old.get("seconds", 0.0) + (time.time() - self.started if finished else 0.0),
            **surroundings(),
        }  # fmt: skip
        write_json(self.folder / "run.json", record)

    def finish(self) -> None:
        """Write the model folder's weights and mark the run finished."""
        if self.main:
            needed = {o.visibility for o in self.objectives.values()} - {None}
            heads: dict[str, torch.nn.Module] = dict(self.raw_model.heads.items())
            save_model_folder(
                self.folder, self.raw_model.core, heads, self.model_config, self.config.template,
                "causal" if needed == {"causal"} else "all",
            )  # fmt: skip
            self._write_run(finished=True)
            self.progress_line.note(f"finished after {duration(time.time() - self.started)}: {self.folder}")
        self.close()

    def close(self) -> None:
        """Close logs and trackers."""
        if self.main:
            for log in (self.log, self.documents, self.timing):
                log.close()
        if self.config.train.trackers:
            self.accelerator.end_training()
        self.accelerator.wait_for_everyone()


def fit_vocabulary(config: CoreConfig, tokenizer: ZooTokenizer) -> CoreConfig:
    """The core's facts with the tokenizer's size and padding id.

    Raises:
        ZooError: the model has fewer rows than the tokenizer has tokens.
    """
    vocabulary = tokenizer.vocabulary
    pad = vocabulary.pad if vocabulary.pad is not None else config.pad_token_id
    if config.vocab_size is not None and config.vocab_size < vocabulary.size:
        raise ZooError(
            f"the tokenizer has {vocabulary.size} tokens but model.vocab_size is {config.vocab_size}: set "
            f"model.vocab_size to {vocabulary.size} (or null), or train a tokenizer with data.tokenizer.vocab_size = "
            f"{config.vocab_size}."
        )
    return config.replace(vocab_size=config.vocab_size or vocabulary.size, pad_token_id=pad)


def divide_batch(batch_size: int, micro_batch_size: int | None, processes: int) -> tuple[int, int]:
    """Rows per forward pass and accumulation steps.

    Raises:
        ZooError: they do not divide the global batch.
    """
    micro = micro_batch_size or batch_size // processes
    if micro < 1 or batch_size % (micro * processes):
        raise ZooError(
            f"train.batch_size = {batch_size} is not a multiple of train.micro_batch_size = {micro} x {processes} "
            f"processes; {max(1, batch_size // (max(micro, 1) * processes)) * max(micro, 1) * processes} would be."
        )
    return micro, batch_size // (micro * processes)


def unigram_entropy(store: Store) -> float:
    """Entropy of the corpus' token frequencies, in nats: the loss of knowing frequencies only."""
    counts = np.asarray(store.counts, dtype=np.float64)
    shares = counts[counts > 0] / max(counts.sum(), 1.0)
    return float(-(shares * np.log(shares)).sum())
