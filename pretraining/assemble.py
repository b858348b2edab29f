"""From settings to the parts of a run: store, rows of every task, optimiser; what cannot work is refused here."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from pretraining.config import PretrainConfig, TrainConfig, differing_keys
from pretraining.corpus import resolve_sources
from pretraining.layout import Layout
from pretraining.loader import TaskData, split_documents
from pretraining.objective import Objective
from pretraining.optim import parameter_groups
from pretraining.prepare import check_beginnings, prepare, prepared_store
from pretraining.random import Draw
from pretraining.rows import Rows
from pretraining.start import check_contents, check_start
from pretraining.store import Store
from pretraining.tokenizer import TokenizerConfig, extend, load_tokenizer
from zoo.config import CoreConfig, read_json
from zoo.errors import ZooError
from zoo.folder import ModelFacts
from zoo.settings.load import Settings
from zoo.vocabulary import Vocabulary

_VALIDATION_STREAMS = 8  # whatever the batch and the number of processes, so that figures can be compared


class Stores(NamedTuple):
    """Prepared text.

    Args:
        main: the run's; its tokenizer is the run's.
        own: by task, of those with a corpus of their own.
        sources: by objective, digest of the files that it reads beside the text.
    """

    main: Store
    own: dict[str, Store]
    sources: Mapping[str, str] = MappingProxyType({})

    def of(self, task: str) -> Store:
        """What a task reads."""
        return self.own.get(task, self.main)

    @property
    def tokens(self) -> int:
        """Tokens of all of them."""
        return sum(store.num_tokens for store in (self.main, *self.own.values()))

    @property
    def fingerprints(self) -> dict[str, Any]:
        """What ``run.json`` keeps of them."""
        own = {name: store.fingerprint for name, store in self.own.items()}
        others = {"task_fingerprints": own, "source_fingerprints": dict(self.sources)}
        return {"data_fingerprint": self.main.fingerprint, **{key: found for key, found in others.items() if found}}


def claim(folder: Path, settings: Settings[PretrainConfig]) -> None:
    """Refuse a run folder that belongs to other settings, naming the keys, and a start that cannot be made."""
    config = settings.value
    if config.start is not None:
        check_start(config.start, config.model, folder)
        if not is_finished(folder) and not any((folder / "checkpoints").glob("step-*")):  # later it is needed no more
            facts = ModelFacts(config.model, config.template, common_visibility(config.objectives))
            given = config.data.tokenizer
            loaded = extend(load_tokenizer(given.path, given), given, config.template) if given.path else None
            check_contents(config.start, facts, loaded)
    if not (folder / "run.json").exists():
        return
    changed = differing_keys(read_json(folder / "run.json").get("config", {}), settings.resolved)
    if changed:
        listing = "\n  ".join(changed[:12])
        raise ZooError(
            f"{folder} holds a run with other settings:\n  {listing}\nChoose another --run_folder or --output."
        )


def check_layouts(config: PretrainConfig) -> None:
    """Refuse objectives that the rows of their tasks do not suit, as far as that can be known without the text."""
    for name, task in config.tasks.items():
        for key in task.objectives:
            config.objectives[key].check_layout(task.layout, config.data.sequence_length)
        if (lacking := unmet_needs(config, name)) is not None:
            raise lacking.error()


def check_objectives(config: PretrainConfig) -> None:
    """Refuse objectives that the core, or files that they read, do not suit, before any text is read.

    Raises:
        ZooError: naming the objective.
    """
    for name, objective in config.objectives.items():
        try:
            objective.check_model(config.model)
        except ZooError as error:
            raise ZooError(f"objectives.{name}: {error}") from error


def is_finished(folder: Path) -> bool:
    """Whether a run folder says that its run has used up its budget."""
    path = folder / "run.json"
    return path.exists() and bool(read_json(path).get("finished"))


def check_data(folder: Path, stores: Stores) -> None:
    """Refuse a run folder that was started on other data.

    Raises:
        ZooError: the fingerprints differ.
    """
    path = folder / "run.json"
    record = read_json(path) if path.exists() else stores.fingerprints
    for key, now in stores.fingerprints.items():
        if (old := record.get(key, now)) != now:
            what = "a file that an objective reads" if key == "source_fingerprints" else "the corpus or the tokenizer"
            raise ZooError(
                f"{folder} was started on other data ({key} {old}, now {now}): {what} changed. "
                "Restore it, delete the folder, or choose another --output."
            )


def check_weights(folder: Path, model: str, digest: str) -> None:
    """Refuse a run folder that was started from other weights.

    Args:
        folder: the run folder.
        model: the folder it starts from.
        digest: digest of the weights there now.

    Raises:
        ZooError: the digests differ.
    """
    path = folder / "run.json"
    old = (read_json(path).get("start") if path.exists() else None) or {}
    if old.get("digest", digest) != digest:
        raise ZooError(
            f"{folder} was started from other weights of {model} (digest {old['digest']}, now {digest}). Restore them, "
            "delete the folder, or choose another --output."
        )


def prepare_store(config: PretrainConfig, show: bool) -> Store:
    """The token store of a run's corpus, built or found finished."""
    data = config.data
    return prepare(
        data.corpus, data.tokenizer, data.stores, processes=data.processes, template=config.template, quiet=not show
    )


def prepare_stores(config: PretrainConfig, show: bool) -> Stores:
    """The token stores of a run and of those of its tasks that have a corpus of their own.

    Raises:
        ZooError: a task's text is missing or bad, naming the task; or a file that an objective reads, likewise.
    """
    sources = check_sources(config)
    data, corpora = config.data, {name: task.corpus for name, task in config.tasks.items() if task.corpus is not None}
    for name, corpus in corpora.items():  # before the run's own text, which can take hours
        try:
            found = resolve_sources(corpus)
        except ZooError as error:
            raise ZooError(
                f"tasks.{name}.corpus: {error} Give its text with --tasks.{name}.corpus.files PATH, or leave the task "
                f"out with --tasks.{name} null."
            ) from error
        try:
            check_beginnings(found, corpus)
        except ZooError as error:
            raise ZooError(f"tasks.{name}.corpus: {error}") from error
    main, own = prepare_store(config, show), {}
    tokenizer = TokenizerConfig(kind="file", path=str(main.path), special=load_tokenizer(main.path).roles)
    for name, corpus in corpora.items():
        try:
            own[name] = prepare(corpus, tokenizer, data.stores, processes=data.processes, quiet=not show)
        except ZooError as error:
            raise ZooError(f"tasks.{name}.corpus: {error}") from error
    return Stores(main, own, sources)


def check_sources(config: PretrainConfig) -> dict[str, str]:
    """By objective, digest of the files that it reads beside the text, for those that read some.

    Raises:
        ZooError: one is missing or cannot be read, naming the objective.
    """
    return {name: digest for name, objective in config.objectives.items() if (digest := _sources(name, objective))}


def _sources(name: str, objective: Objective) -> str:
    try:
        contents = [path.read_bytes() for path in objective.sources()]
    except ZooError as error:
        raise ZooError(f"objectives.{name}: {error}") from error
    digests = [hashlib.blake2b(content, digest_size=16).digest() for content in contents]
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest() if digests else ""


def make_tasks(
    config: PretrainConfig, stores: Stores, vocabulary: Vocabulary
) -> tuple[dict[str, TaskData], dict[str, TaskData]]:
    """Training and held-out rows of every task.

    Raises:
        ZooError: an objective lacks what it needs, objectives of a task contradict each other, or the documents
            cannot be laid out.
    """
    training: dict[str, TaskData] = {}
    validation: dict[str, TaskData] = {}
    for name, task in config.tasks.items():
        store = stores.of(name)
        train, held_out = split_documents(store, config.data.validation_tokens)
        own = task.own(config.objectives)
        if (lacking := unmet_needs(config, name, store)) is not None:
            raise lacking.error()
        _check_visibility(name, own)
        for objective in own.values():
            objective.check_store(store)
        _check_memory(name, task.layout, config)
        task.layout.streams = config.train.batch_size
        length, seed, copies = config.data.sequence_length, data_seed(config, name), config.data.copies
        training[name] = TaskData(store, train, task.layout, own, vocabulary, length, seed, copies, task.task_type_id)
        _check_streams(name, task.layout, len(training[name].plan(0)[0]), config.train.batch_size)
        if len(held_out):
            layout = copy.copy(task.layout)
            layout.streams = _VALIDATION_STREAMS
            validation[name] = dataclasses.replace(
                training[name], documents=held_out, layout=layout, seed=0, copies=1, _plans={}
            )
            try:
                validation[name].plan(0)
            except ZooError as error:
                wanted = config.data.validation_tokens
                raise ZooError(
                    f"task {name!r}: the training text makes rows, but the text held out for validation "
                    f"({len(held_out)} of {store.num_documents:,} documents; data.validation_tokens = {wanted}) makes "
                    f"none: {error} --data.validation_tokens 0 goes without validation; more of them, or more text, "
                    "may do, too."
                ) from error
    return training, validation


def data_seed(config: PretrainConfig, task: str) -> int:
    """What keys a task's order and masks.

    The first task has the run's own seed, so it reads what a run of it alone would. All others have their own, or tasks
    of one layout would read the same rows, with the same tokens hidden.
    """
    if task == next(iter(config.tasks)):
        return config.seed.data
    number = np.array([zlib.crc32(task.encode())], dtype=np.int64)
    return int(Draw(config.seed.data, 0).keys(number, "data")[0] >> np.uint64(1))


def _check_streams(task: str, layout: Layout, rows: int, batch_size: int) -> None:
    """Rows that go on from batch to batch need one stream for each row of a batch."""
    if layout.order == "streams" and rows % batch_size:
        raise ZooError(
            f"task {task!r}: the text makes {rows} rows, fewer than the {batch_size} streams that train.batch_size = "
            f"{batch_size} needs; take a smaller batch, shorter rows, or more text."
        )


def _check_memory(task: str, layout: Layout, config: PretrainConfig) -> None:
    """A memory needs rows that go on, and must hold the part of a row that the next one goes on from."""
    model, length = config.model, config.data.sequence_length
    if not model.mem_len:
        return
    if all(other.layout.order == "shuffled" for other in config.tasks.values()):
        raise ZooError(
            f"model.mem_len = {model.mem_len} remembers the row before, but {type(layout).__name__} of task {task!r} "
            "shuffles its rows: take a layout whose rows go on (pretraining.segments.Segments, SegmentPairs), or set "
            "model.mem_len: 0."
        )
    wanted = layout.remembered(length)
    if layout.order == "streams" and wanted is not None and (model.reuse_len or length) != wanted:
        raise ZooError(
            f"task {task!r}: {type(layout).__name__} goes on from the first {wanted} of a row's {length} tokens, but "
            f"the model remembers {model.reuse_len or 'all of them'} (model.reuse_len): set it to {wanted}, or the "
            "layout's reuse_len to the model's."
        )


class Lacking(NamedTuple):
    """What an objective of a task needs and does not get.

    Args:
        message: which, and of what.
        settings: an example of settings that make it, where there is one.
        record: an example of a record of the text that goes with them.
    """

    message: str
    settings: str
    record: str

    def error(self) -> ZooError:
        """As an error."""
        example = f" For example, with records such as {self.record}: {self.settings}" if self.settings else ""
        return ZooError(self.message + example)


def unmet_needs(config: PretrainConfig, name: str, store: Store | None = None) -> Lacking | None:
    """The first need of a task's objectives that neither its layout nor its text meets.

    Args:
        config: the settings.
        name: the task.
        store: its text; ``None`` = what its corpus will be.
    """
    task = config.tasks[name]
    corpus, text = (config.data.corpus, "data.corpus") if task.corpus is None else (task.corpus, f"tasks.{name}.corpus")
    if store is None:
        store = prepared_store(corpus)
    provided = task.layout.provides | frozenset(corpus.annotations if store is None else store.arrays)
    for key, objective in task.own(config.objectives).items():
        if objective.needs - provided:
            missing, given = ", ".join(sorted(objective.needs - provided)), ", ".join(sorted(provided))
            arrays = sorted(objective.needs - provided - {field.name for field in dataclasses.fields(Rows)})
            message = (
                f"objective {key!r} needs {missing}, which the layout {type(task.layout).__name__} of task {name!r} "
                f"does not provide (it provides {given or 'nothing beyond the tokens'})."
                + "".join(f" Annotations of the text make it: {text}.annotations.{array}." for array in arrays[:1])
            )
            return Lacking(message, *objective.example(key, text))
    return None


def _check_visibility(task: str, objectives: dict[str, Objective]) -> None:
    needed = {key: objective.visibility for key, objective in objectives.items() if objective.visibility}
    if len(set(needed.values())) > 1:
        raise ZooError(
            f"the objectives of task {task!r} contradict each other about who may see whom ({needed}); give each "
            "a task of its own, and `stages` that say when it is run."
        )


def common_visibility(objectives: dict[str, Objective]) -> Literal["all", "causal"]:
    """How tokens of the model see each other: a fact for fine-tuning and scoring."""
    needed = {objective.visibility for objective in objectives.values()} - {None}
    return "causal" if needed == {"causal"} else "all"


def make_optimizer(train: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over decayed and spared parameters."""
    groups = parameter_groups(model.named_parameters(), train.weight_decay, train.no_decay)
    if train.optimizer is None:
        return torch.optim.AdamW(groups, lr=train.lr, eps=1e-6, fused=True)
    return train.optimizer(groups)


def fit_vocabulary(config: CoreConfig, vocabulary: Vocabulary) -> CoreConfig:
    """The core's facts with the tokenizer's size and padding id.

    Raises:
        ZooError: the model has fewer rows than the tokenizer has tokens.
    """
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
        works = max(1, batch_size // (max(micro, 1) * processes)) * max(micro, 1) * processes
        raise ZooError(
            f"train.batch_size = {batch_size} is not a multiple of train.micro_batch_size = {micro} x {processes} "
            f"processes; {works} would be."
        )
    return micro, batch_size // (micro * processes)


def unigram_entropy(store: Store) -> float:
    """Entropy of the corpus' token frequencies, in nats: the loss of knowing frequencies only."""
    counts = np.asarray(store.counts, dtype=np.float64)
    shares = counts[counts > 0] / max(counts.sum(), 1.0)
    return float(-(shares * np.log(shares)).sum())
