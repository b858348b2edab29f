"""What is checked before hours of work: folder, layouts, objectives, data, weights, batch sizes."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from pretraining.layouts.base import Layout
from pretraining.layouts.examples import Examples
from pretraining.objectives.base import Objective
from pretraining.store.prepare import prepared_store
from pretraining.store.token_store import Store
from pretraining.tokenizer.load import extend, load_tokenizer
from pretraining.training.config import PretrainConfig
from pretraining.training.init_from import check_contents, check_init_from
from pretraining.training.load_config import differing_keys
from pretraining.training.renamed import RENAMED
from pretraining.training.stores import TokenStores
from zoo.core.flops import training_bytes
from zoo.errors import ZooError
from zoo.heads.sequence_head import check_template
from zoo.model_folder import ModelMetadata
from zoo.runtime.processes import device_memory
from zoo.settings.load import Settings
from zoo.storage.files import read_json
from zoo.vocabulary import Vocabulary


def check_run_folder(folder: Path, settings: Settings[PretrainConfig]) -> None:
    """Raise ZooError if the run folder belongs to other settings, naming the keys, or the start cannot be made."""
    config, path = settings.value, folder / "run.json"
    recorded = read_json(path).get("config", {}) if path.exists() else None
    if recorded is not None:
        RENAMED.check(recorded, str(path))
    if config.init_from is not None:
        check_init_from(config.init_from, config.model, folder)
        if not is_finished(folder) and not any((folder / "checkpoints").glob("step-*")):  # later it is needed no more
            metadata = ModelMetadata(config.model, config.template, common_attention(config.objectives))
            given = config.data.tokenizer
            loaded = extend(load_tokenizer(given.path, given), given, config.template) if given.path else None
            check_contents(config.init_from, metadata, loaded)
    changed = [] if recorded is None else differing_keys(recorded, settings.resolved)
    if changed:
        listing = "\n  ".join(changed[:12])
        raise ZooError(
            f"{folder} holds a run with other settings:\n  {listing}\nChoose another --run_folder or --output."
        )


def check_layouts(config: PretrainConfig) -> None:
    """Raise ZooError if a task's rows do not suit its objectives, as far as that can be known without the text."""
    for name, task in config.tasks.items():
        task.layout.check_length(config.data.sequence_length)
        for key in task.objectives:
            config.objectives[key].check_layout(task.layout, config.data.sequence_length)
        check_order(name, task.own(config.objectives))
        if (missing := missing_field(config, name)) is not None:
            raise missing.error()
        check_attention(name, task.own(config.objectives))
        check_memory(name, task.layout, config)


def check_order(task: str, objectives: dict[str, Objective]) -> None:
    """Raise ZooError if an objective of a task needs others before it."""
    for place, (name, objective) in enumerate(objectives.items()):
        try:
            objective.check_task(dict(list(objectives.items())[:place]))
        except ZooError as error:
            raise ZooError(f"task {task!r}, objective {name!r}: {error}") from error


def check_objectives(config: PretrainConfig) -> None:
    """Raise ZooError if the core, or files that they read, do not suit the objectives, before any text is read.

    Raises:
        ZooError: naming the objective.
    """
    size = config.model.vocab_size or config.data.tokenizer.vocab_size
    for name, objective in config.objectives.items():
        try:
            objective.check_model(config.model)
            with torch.device("meta"):  # heads that cannot be built say so now
                copy.deepcopy(objective).build(config.model.replace(vocab_size=size), Vocabulary(size, *range(5)))
        except ZooError as error:
            raise ZooError(f"objectives.{name}: {error}") from error
    check_template(config.template, config.model, common_attention(config.objectives))


def is_finished(folder: Path) -> bool:
    """Whether a run folder says that its run has used up its budget."""
    path = folder / "run.json"
    return path.exists() and bool(read_json(path).get("finished"))


def check_data(folder: Path, stores: TokenStores) -> None:
    """Raise ZooError if the run folder was started on other data.

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
    """Raise ZooError if the run folder was started from other weights.

    Args:
        folder: the run folder.
        model: the folder it starts from.
        digest: digest of the weights there now.

    Raises:
        ZooError: the digests differ.
    """
    path = folder / "run.json"
    old = (read_json(path).get("init_from") if path.exists() else None) or {}
    if old.get("digest", digest) != digest:
        raise ZooError(
            f"{folder} was started from other weights of {model} (digest {old['digest']}, now {digest}). Restore them, "
            "delete the folder, or choose another --output."
        )


def check_parallel_rows(task: str, layout: Layout, rows: int, batch_size: int) -> None:
    """Raise ZooError if rows that go on from batch to batch do not fill every row of a batch."""
    if layout.order == "contiguous" and rows % batch_size:
        raise ZooError(
            f"task {task!r}: the text makes {rows} rows, fewer than the {batch_size} parallel rows of "
            f"train.batch_size = {batch_size}; take a smaller batch, shorter rows, or more text."
        )


def check_languages(config: PretrainConfig, stores: TokenStores) -> None:
    """Raise ZooError if tasks number their languages differently, or the model has too few embeddings of them."""
    orders = {name: task.layout.languages_of(stores.for_task(name)) for name, task in config.tasks.items()}
    orders = {name: found for name, found in orders.items() if found}
    if len({tuple(found) for found in orders.values()}) > 1:
        raise ZooError(
            f"the tasks number their languages differently ({orders}), so one embedding would stand for several: give "
            "their texts the same corpus.languages in the same order (a layout's direction: backward turns pairs "
            "round), or each layout the same `languages`."
        )
    languages = next(iter(orders.values()), [])
    if 1 < config.model.type_vocab_size < len(languages):
        raise ZooError(
            f"model.type_vocab_size = {config.model.type_vocab_size} embeddings do not reach for {len(languages)} "
            f"languages ({', '.join(languages)}); set it to {len(languages)}, or to 0 for none."
        )


def check_memory(task: str, layout: Layout, config: PretrainConfig) -> None:
    """Raise ZooError if rows do not go on where the core has a memory, or it misses what the next row goes on from."""
    if layout.order == "contiguous" and config.train.batch_tokens is not None:
        raise ZooError(
            f"task {task!r}: rows of {type(layout).__name__} go on from batch to batch, so they cannot be put together "
            "by their lengths: set train.batch_tokens: null."
        )
    model, length = config.model, config.data.sequence_length
    if not model.mem_len:
        return
    if all(other.layout.order == "shuffled" for other in config.tasks.values()):
        raise ZooError(
            f"model.mem_len = {model.mem_len} remembers the row before, but {type(layout).__name__} of task {task!r} "
            "shuffles its rows: take a layout whose rows go on (pretraining.layouts.Segments, SegmentPairs), or set "
            "model.mem_len: 0."
        )
    wanted = layout.memory_span(length)
    if layout.order == "contiguous" and wanted is not None and (model.reuse_len or length) != wanted:
        raise ZooError(
            f"task {task!r}: {type(layout).__name__} goes on from the first {wanted} of a row's {length} tokens, but "
            f"the model remembers {model.reuse_len or 'all of them'} (model.reuse_len): set it to {wanted}, or the "
            "layout's reuse_len to the model's."
        )


class MissingField(NamedTuple):
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


def missing_field(config: PretrainConfig, name: str, store: Store | None = None) -> MissingField | None:
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
    provided = task.layout.provided_fields | frozenset(corpus.annotations if store is None else store.arrays)
    for key, objective in task.own(config.objectives).items():
        if objective.required_fields - provided:
            missing, given = ", ".join(sorted(objective.required_fields - provided)), ", ".join(sorted(provided))
            arrays = sorted(
                objective.required_fields - provided - {field.name for field in dataclasses.fields(Examples)}
            )
            message = (
                f"objective {key!r} needs {missing}, which the layout {type(task.layout).__name__} of task {name!r} "
                f"does not provide (it provides {given or 'nothing beyond the tokens'})."
                + "".join(f" Annotations of the text make it: {text}.annotations.{array}." for array in arrays[:1])
            )
            return MissingField(message, *objective.example_settings(key, text))
    return None


def memory_needed(config: PretrainConfig, processes: int) -> dict[str, float]:
    """At least how many bytes a process of a run takes, by the setting that makes most of them."""
    model, train, size = config.model, config.train, config.model.vocab_size or config.data.tokenizer.vocab_size
    rows = train.micro_batch_size or max(1, train.batch_size // processes)
    parts = training_bytes(model, size, rows, config.data.sequence_length, train.gradient_checkpointing)
    if train.average is not None:  # 4 bytes a weight beside the 16
        parts["average"] = sum(count for part, count in parts.items() if part != "rows") / 4
    names = {
        "average": "train.average",
        "layers": "model.hidden_size, num_hidden_layers and intermediate_size",
        "rows": "data.sequence_length and train.micro_batch_size",
    }
    return {names.get(part, f"model.{part}"): count for part, count in parts.items()}


def check_memory_needed(config: PretrainConfig, processes: int) -> None:
    """Raise ZooError if a run needs more memory than there is, before any of it is asked for.

    Raises:
        ZooError: how much it would need at least, how much there is, and which setting makes most of it.
    """
    needed, there = memory_needed(config, processes), device_memory()
    total, most = sum(needed.values()), max(needed, key=needed.__getitem__)
    if total > there:
        raise ZooError(
            f"this run would need at least {total / 1e9:,.1f} GB of memory, and {there / 1e9:,.1f} GB are here. Most "
            f"of it ({needed[most] / 1e9:,.1f} GB) comes from {most}: make that smaller."
        )


def check_attention(task: str, objectives: dict[str, Objective]) -> None:
    """Raise ZooError if the objectives of one task need different attention patterns."""
    needed = {key: objective.attention for key, objective in objectives.items() if objective.attention}
    if len(set(needed.values())) > 1:
        raise ZooError(
            f"the objectives of task {task!r} need different attention patterns ({needed}); give each "
            "a task of its own, and `stages` that say when it is run."
        )


def common_attention(objectives: dict[str, Objective]) -> Literal["bidirectional", "causal"]:
    """How tokens of the model attend to each other, which fine-tuning and scoring need to know."""
    needed = {objective.attention for objective in objectives.values()} - {None}
    return "causal" if needed == {"causal"} else "bidirectional"


def accumulation_of(batch_size: int, micro_batch_size: int | None, processes: int) -> tuple[int, int]:
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
