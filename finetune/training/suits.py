"""What of a task's rows a model is trained on, and whether the two suit each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import FinetuneSettings
from finetune.data.examples import TaskExamples, TaskSplits
from finetune.data.tasks import Task
from finetune.kinds.base import TaskKind
from finetune.kinds.load import load_answered, load_task, load_test
from finetune.models.task_model import Search, WritingModel
from finetune.results.submission import check_test_rows
from pretraining.keyed_random import Draw
from zoo.core.base import Core
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.heads.token_heads import TokenHead
from zoo.model_folder import ModelMetadata, load_head
from zoo.vocabulary import Vocabulary


def read_splits(
    task: Task, data: str | Path | TaskSplits[Any], limit: int | None, test: bool, train: TaskExamples | None
) -> TaskSplits[Any]:
    """A task's examples; all of the test rows, at most ``limit`` of the others.

    Args:
        task: what to read.
        data: ``hub``, a folder, or what is already read.
        limit: training and development examples that are kept of each.
        test: read the test rows, too.
        train: what the model is trained on that answers this task's rows; ``None`` = the task's own.

    Raises:
        ZooError: what is wrong with the files, or the test file is not the whole one.
    """
    if isinstance(data, TaskSplits):
        found = data
    else:
        found = load_task(task, data) if train is None else load_answered(task, data, train)
        found = dataclasses.replace(found, test=load_test(task, data) if test else None)
    if found.test is not None:
        check_test_rows(task, found.test)
    return dataclasses.replace(found, train=found.train.limited(limit), evaluation=found.evaluation.limited(limit))


def check_leader(task: Task, leader: Task) -> None:
    """Raise ZooError if a task's rows are not what the model of another one answers."""
    for field in ("kind", "labels", "marks"):
        own, other = getattr(task, field), getattr(leader, field)
        if own != other:
            raise ZooError(
                f"task {task.name!r} is answered by the model of {leader.name!r}, and its {field} are {own!r} where "
                f"those of {leader.name!r} are {other!r}; the same are needed."
            )


def check_model(metadata: ModelMetadata, use: str, task_type_id: int) -> None:
    """Raise ZooError if a core without layers is asked to read a text by itself, or has no such task type."""
    check_task_type(task_type_id, metadata)
    if metadata.config.num_hidden_layers == 0 and use != "features":
        raise ZooError(
            f"{metadata.path} is a table of word vectors, whose state of one token says nothing of the text: "
            "--config features reads them by a task network."
        )


def check_head(metadata: ModelMetadata, settings: FinetuneSettings, head: str) -> None:
    """Raise ZooError if a model, settings and the kind of a task's head do not go together."""
    if head == "written":
        check_writes(metadata, settings)
    if settings.lm_weight:
        check_next_tokens(metadata, head)


def check_next_tokens(metadata: ModelMetadata, head: str) -> None:
    """Raise ZooError if a model and a head cannot take an auxiliary loss of the next token."""
    if metadata.attention != "causal":
        raise ZooError(
            f"lm_weight asks for the next token, and {metadata.path} attends to both sides, so that it would see it; "
            "leave lm_weight out."
        )
    if not any(own["kind"] == "token" for own in metadata.heads.values()):
        have = ", ".join(str(own["kind"]) for own in metadata.heads.values()) or "none"
        raise ZooError(f"lm_weight needs a head over tokens, and {metadata.path} has none (its heads: {have}).")
    if head not in ("classification", "choice"):
        raise ZooError(f"lm_weight goes with tasks that read one state of a row, not with {head}; leave it out.")


def check_writes(metadata: ModelMetadata, settings: FinetuneSettings) -> None:
    """Raise ZooError if a model cannot write texts, or settings are of a head that is new."""
    if metadata.config.decoder is None:
        raise ZooError(
            f"{metadata.path} has no decoder (model.decoder), so it writes no texts. A run of an encoder-decoder would "
            "work (zoo list names them), or an import of BART, T5 or Marian; for labels, this model without text to "
            "text."
        )
    if not any(own["kind"] == "token" for own in metadata.heads.values()):
        have = ", ".join(str(own["kind"]) for own in metadata.heads.values()) or "none"
        raise ZooError(f"text to text writes with the head over tokens, and {metadata.path} has none (heads: {have}).")
    if metadata.decoder_start_token_id is None:
        raise ZooError(
            f"{metadata.path} does not say which token a target starts with: set decoder_start_token_id in config.json."
        )
    if settings.use not in ("finetune", "lora"):
        raise ZooError(f"text to text has no new head, and use: {settings.use} trains that alone; leave use out.")
    for name, plain in (("lm_weight", 0.0), ("layer_decay", 1.0), ("multi_task", "none"), ("from_task", None)):
        if getattr(settings, name) != plain:
            raise ZooError(f"{name} and text to text do not go together; leave {name} out.")


def writing_model(
    core: Core, metadata: ModelMetadata, task: Task, kind: TaskKind[Any], vocabulary: Vocabulary
) -> WritingModel:
    """A core under the head over tokens that it was pretrained with.

    Args:
        core: with a decoder.
        metadata: of the model folder that holds the head.
        task: what is written.
        kind: its own, which knows how long its answers are.
        vocabulary: of the task's tokenizer.

    Raises:
        ZooError: no token ends a target; targets may be longer than the core reads; as :func:`next_token_head`.
    """
    end, most, width = vocabulary.sep, core.config.max_length, int(kind.head_config(task)["num_labels"])
    if end is None:
        raise ZooError(f"the tokenizer of {metadata.path} has no separator (sep), by which a target ends.")
    if width > most:
        raise ZooError(
            f"task {task.name!r}: targets have up to {width} tokens (kind.init_args.max_target_length), and "
            f"{metadata.path} has positions for {most}; {most} would work."
        )
    name = next(name for name, own in metadata.heads.items() if own["kind"] == "token")
    search = Search(end=end, pad=vocabulary.pad or 0, **kind.search())
    return WritingModel(core, next_token_head(core, metadata), name, metadata, search)


def next_token_head(core: Core, metadata: ModelMetadata) -> TokenHead:
    """The head over tokens that a model was pretrained with; its core may have got rows for new tokens.

    Raises:
        ZooError: new tokens have no entry in the head.
    """
    name = next(name for name, own in metadata.heads.items() if own["kind"] == "token")
    head = build_head(metadata.config, metadata.heads[name])
    assert isinstance(head, TokenHead)
    load_head(metadata.path, name, head)
    entries = len(head.matrix(core.token_embedding))
    known = entries if head.bias is None else len(head.bias)
    if core.config.vocab_size != known:
        raise ZooError(
            f"the template's new tokens have no entry in the head over tokens of {metadata.path}, whose matrix or bias "
            "is its own; leave lm_weight out, or give the tokenizer these tokens before pretraining."
        )
    return head


def held_back(examples: TaskExamples, share: float, name: str) -> tuple[TaskExamples, TaskExamples]:
    """Training examples without a share of them, chosen by hash, and that share.

    Args:
        examples: of training.
        share: how much is held back.
        name: the task's, for messages.

    Raises:
        ZooError: too few examples to divide.
    """
    count = round(share * len(examples))
    if not 0 < count < len(examples):
        raise ZooError(
            f"task {name!r}: {share:g} of {len(examples):,} training rows cannot be held back to choose by; more rows, "
            "or another held_back, would work."
        )
    order = Draw(0, 0).permutation(len(examples), "finetune.held_back")
    return examples.chosen(np.sort(order[count:])), examples.chosen(np.sort(order[:count]))


def check_task_type(number: int, metadata: ModelMetadata) -> None:
    """Raise ZooError if the core's table has no row for a pretraining task."""
    rows = metadata.config.task_type_vocab_size
    if number >= max(rows, 1):
        raise ZooError(
            f"task_type_id is {number}, and the model in {metadata.path} has a table of {rows} task types; leave it "
            "at 0."
        )


def longest_input(asked: int | None, task: Task, metadata: ModelMetadata) -> int:
    """Tokens of the longest input: what is asked for, or the task's own where the core has positions for it.

    Raises:
        ZooError: the core has not so many positions as are asked for.
    """
    longest = metadata.config.max_length
    if asked is None:
        return min(task.max_length, longest)
    if asked > longest:
        raise ZooError(
            f"max_length = {asked}, but {metadata.path} has positions for {longest} tokens; {longest} would work."
        )
    return asked
