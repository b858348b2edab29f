"""A task's rows as a model reads them: what is checked, tokenised, batched and saved for it, whatever the seed."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.config import FinetuneSettings
from finetune.data.load import LabelledTexts, TaskSplits, load_task
from finetune.data.tasks import Task
from finetune.inputs.batches import EncodedRows, collate_rows, filled
from finetune.inputs.encode import encode, template_tokens, tokenize, with_word_spaces
from finetune.inputs.entities import task_entities
from finetune.inputs.features import FeatureBatch, TextFeatures, TextRows, known_template, sides
from finetune.inputs.marks import Marker
from finetune.inputs.task_tokenizer import (
    CharacterTokenizer,
    make_marker,
    new_marks,
    open_character_tokenizer,
    stored_tokenizer,
    task_tokenizer,
)
from finetune.models.classifier import Classifier, FeatureClassifier
from pretraining.tokenizer.config import MOST_UNKNOWN, SOME_UNKNOWN
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.heads.sequence_head import check_template
from zoo.inputs import CoreInputs
from zoo.model_folder import ModelMetadata, load_core, model_digest, read_metadata, save_model_folder
from zoo.runtime.processes import autocast, resolve_precision, to_device
from zoo.storage.entity_table import NAMES, keep_entities, table_digest
from zoo.storage.files import read_json, whole_folder, write_json

_SAMPLE = 1000  # rows of each part in which unknown tokens are counted
Keys = tuple[int, int, NDArray[np.int64]]
"""Seed, step and (B,) places in the global batch, for dropout."""


class PreparedTask:
    """A task's rows for one model; read once, tokenised when first needed, shared by all seeds.

    Args:
        model_folder: the pretrained run.
        task: its labels, columns and metrics.
        data: ``hub``, a folder, or rows already read.
        settings: how it is fine-tuned.
    """

    def __init__(
        self, model_folder: Path, task: Task, data: str | Path | TaskSplits, settings: FinetuneSettings
    ) -> None:
        self.metadata: ModelMetadata = read_metadata(model_folder)
        self.task = task
        check_template(self.metadata.template, self.metadata.config, self.metadata.attention)
        _check_task_type(settings.task_type_id, self.metadata)
        self.features = settings.features if settings.use == "features" else None
        if self.features is not None:
            known = self.stored_tokenizer.backend.token_to_id
            template = known_template(self.metadata.template, lambda word: known(word) is not None)
            self.metadata = dataclasses.replace(self.metadata, template=template)
        self.layout = template_tokens(self.metadata.template, task.pair and self.features is None)
        self.max_length = _max_length(settings.max_length, task, self.metadata)
        self.settings = dataclasses.replace(
            settings,
            epochs=settings.epochs or task.epochs,
            max_length=self.max_length,
            precision=cast(Literal["fp32", "bf16"], resolve_precision(settings.precision)),
        )
        loaded = data if isinstance(data, TaskSplits) else load_task(task, data)
        limit = settings.limit
        self.data = TaskSplits(loaded.train.limited(limit), loaded.evaluation.limited(limit))
        if task.span_fields and not all(part.spans is not None for part in (self.data.train, self.data.evaluation)):
            raise ZooError(f"task {task.name!r} reads the spans {', '.join(task.span_fields)}, and its rows have none.")
        described = {"labels": list(task.labels), "metrics": list(task.metrics)}
        if task.span_fields:
            described |= {"marks": [" ".join(mark) for mark in task.marks], "mentions": list(task.mentions)}
        confidence = task.confidence if settings.confidence is None else settings.confidence
        self.entities = task_entities(task, self.data, self.metadata, settings.entities, confidence)
        self.fingerprint: dict[str, Any] = {
            "model": model_digest(model_folder),
            "task": described,
            "data": self.data.digest(),
            "settings": self.settings.to_dict(),
        }
        if self.entities.table is not None:
            self.fingerprint["entities"] = [table_digest(self.entities.table.folder), confidence]

    @cached_property
    def stored_tokenizer(self) -> ZooTokenizer:
        """The model's tokenizer as its files have it."""
        return stored_tokenizer(self.metadata)

    @cached_property
    def tokenizer(self) -> ZooTokenizer:
        """The same with every token of the template and of the marks."""
        marks = new_marks(self.stored_tokenizer, self.metadata, self.task, frozen=self.features is not None)
        return task_tokenizer(self.stored_tokenizer, self.metadata, marks, self.segments)

    @cached_property
    def character_tokenizer(self) -> CharacterTokenizer | None:
        """Finds words and their characters, for a core that reads characters by words."""
        return open_character_tokenizer(self.tokenizer, self.metadata)

    @cached_property
    def _marker(self) -> Marker | None:
        entities = self.entities
        return make_marker(self.task, self.tokenizer, self.character_tokenizer, entities.numbers, entities.confidence)

    @property
    def segments(self) -> bool:
        """Whether the core tells two texts apart, by their table or in its scores."""
        return self.metadata.config.type_vocab_size > 1 or self.metadata.config.relative_segments

    @property
    def pad(self) -> int:
        """Padding id; any would do, since nothing attends to padding."""
        found = self.tokenizer.vocabulary.pad
        return (self.metadata.config.pad_token_id or 0) if found is None else found

    @cached_property
    def train(self) -> EncodedRows | TextRows:
        """Training rows as ids."""
        return self._encode(self.data.train)

    @cached_property
    def evaluation(self) -> EncodedRows | TextRows:
        """Development rows as ids."""
        return self._encode(self.data.evaluation)

    def _encode(self, examples: LabelledTexts) -> EncodedRows | TextRows:
        examples = with_word_spaces(examples, self.tokenizer.segmenter if self.tokenizer.whole_words else "none")
        if self.features is None:
            return self._rows(examples)
        before = [word for word, _ in self.layout].index("$A")
        texts = tuple(self._rows(side) for side in sides(examples))
        return TextRows(texts, (before, len(self.layout) - 1 - before))

    def _rows(self, examples: LabelledTexts) -> EncodedRows:
        rows = encode(
            examples, self.layout, self.tokenizer.backend, self.max_length, self.character_tokenizer, self._marker
        )
        return rows if rows.lengths.all() else filled(rows, self.pad)

    @cached_property
    def unknown(self) -> float:
        """Share of unknown tokens in a sample of the rows; 0 where words are read by their characters."""
        unk = self.tokenizer.vocabulary.unk
        if unk is None or self.character_tokenizer is not None:
            return 0.0
        segmenter = self.tokenizer.segmenter if self.tokenizer.whole_words else "none"
        found = [with_word_spaces(part.limited(_SAMPLE), segmenter) for part in (self.data.train, self.data.evaluation)]
        texts = [text for part in found for text in (*part.texts, *(part.pairs or []))]
        ids, _ = tokenize(texts, self.tokenizer.backend, self.max_length)
        return float(np.mean(ids == unk)) if len(ids) else 0.0

    @property
    def warnings(self) -> list[str]:
        """What a user should know before the task is trained."""
        warnings = self.data.warnings(self.task)
        if self.unknown > SOME_UNKNOWN:
            warnings.append(
                f"task {self.task.name!r}: {self.unknown:.0%} of its tokens are unknown to the tokenizer of "
                f"{self.metadata.path}."
            )
        return warnings

    def check(self, save_model: bool) -> None:
        """Tell before training what is wrong with spans in any row, or with what is to be saved.

        Raises:
            ZooError: that; or most of the texts is unknown to the model's tokenizer.
        """
        if self.unknown > MOST_UNKNOWN:
            raise ZooError(
                f"task {self.task.name!r}: {self.unknown:.0%} of its tokens, as in {self.data.train.texts[0][:40]!r}, "
                f"are unknown to the tokenizer of {self.metadata.path}, so that most of the texts could not be told "
                "apart. A model pretrained on text of the task's language and spelling would work, or one whose "
                "tokenizer knows every byte (kind: bytebpe)."
            )
        if not self.task.span_fields:
            return
        if save_model and (self.task.marks or self.entities.table) and self.features is not None:
            raise ZooError(
                "a task network on frozen layers is saved for plain texts, without marks; leave save_model out."
            )
        _ = self.train, self.evaluation

    def classifier(self, seed: int) -> Classifier | FeatureClassifier:
        """The pretrained core, with rows for new special tokens, under a new classifier."""
        core, metadata = load_core(self.metadata.path)
        if self.settings.task_type_id:
            table = core.get_parameter("embeddings.task_type_embeddings.weight").data
            table[0] = table[self.settings.task_type_id]
        dropout, labels = self.settings.classifier_dropout, self.task.labels
        if self.features is not None:
            return FeatureClassifier(core, labels, self.features, dropout, self.task.pair, seed)
        known, size = self.stored_tokenizer.vocabulary.size, self.tokenizer.vocabulary.size
        if size > known:
            core.resize_token_embeddings(known, seed)  # spare rows go: what a new token starts from follows its number
            core.resize_token_embeddings(size, seed)
        return Classifier(core, metadata, labels, dropout, seed)

    def save(self, model: Classifier | FeatureClassifier, folder: Path) -> None:
        """Write a fine-tuned model as a model folder, whose tokenizer lays texts out as it was trained."""
        metadata = dataclasses.replace(self.metadata, config=model.core.config)
        with whole_folder(folder) as made:
            save_model_folder(made, model.core, model.heads, metadata)
            self.tokenizer.save(made)
            path = made / "tokenizer_config.json"
            as_trained = {"model_max_length": self.max_length, "split_special_tokens": True}
            write_json(path, {**read_json(path), **as_trained})
            if self.entities.table is not None:
                keep_entities(self.entities.table.folder, made)
            elif (self.metadata.path / NAMES).exists() and self.settings.entities is None:  # texts did not name any
                keep_entities(self.metadata.path, made)

    def batch(
        self, data: EncodedRows | TextRows, rows: NDArray[np.int64], keys: Keys | None = None
    ) -> tuple[CoreInputs | FeatureBatch, Tensor]:
        """Padded inputs and labels of some rows."""
        if isinstance(data, EncodedRows):
            return self._collated(data, rows, keys)
        texts = tuple(
            data.kept(number, rows) if data.layers else self._text(data, text, rows)
            for number, text in enumerate(data.texts)
        )
        return FeatureBatch(texts, None if keys is None else row_keys(*keys)), torch.from_numpy(data.labels[rows])

    def _collated(
        self, data: EncodedRows, rows: NDArray[np.int64], keys: Keys | None = None
    ) -> tuple[CoreInputs, Tensor]:
        return collate_rows(
            data, rows, self.pad, self.metadata.attention == "causal", self.segments, keys, self.entities.table
        )

    def _text(self, data: TextRows, text: EncodedRows, rows: NDArray[np.int64]) -> TextFeatures:
        lengths, start = (torch.from_numpy(part[rows]) for part in data.own(text))
        return TextFeatures(lengths, self._collated(text, rows)[0], start)

    def keep_layers(self, model: Classifier | FeatureClassifier, device: torch.device) -> None:
        """Run a frozen core on every text once, where the layers have room in memory; seeds share them."""
        if not isinstance(model, FeatureClassifier) or self.features is None:
            return
        parts = [part for part in (self.train, self.evaluation) if isinstance(part, TextRows)]
        config = self.metadata.config
        needed = 4 * (config.num_hidden_layers + 1) * config.hidden_size * sum(part.tokens() for part in parts)
        if needed > self.features.cache_mb * 2**20 or any(part.layers for part in parts):
            return
        for part in parts:

            def read(text: EncodedRows, rows: NDArray[np.int64], part: TextRows = part) -> Tensor:
                with autocast(self.settings.precision, device):
                    return model.read(to_device(self._text(part, text, rows), device))

            part.fill(read)


def _check_task_type(number: int, metadata: ModelMetadata) -> None:
    """Raise ZooError if the core's table has no row for a pretraining task."""
    rows = metadata.config.task_type_vocab_size
    if number >= max(rows, 1):
        raise ZooError(
            f"task_type_id is {number}, and the model in {metadata.path} has a table of {rows} task types; leave it "
            "at 0."
        )


def _max_length(asked: int | None, task: Task, metadata: ModelMetadata) -> int:
    longest = metadata.config.max_length
    if asked is None:
        return min(task.max_length, longest)
    if asked > longest:
        raise ZooError(
            f"max_length = {asked}, but {metadata.path} has positions for {longest} tokens; {longest} would work."
        )
    return asked
