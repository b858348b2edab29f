"""A task's rows as a model reads them: what is checked, tokenised, batched and saved for it, whatever the seed."""

from __future__ import annotations

import copy
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.config import FinetuneSettings, GridSettings
from finetune.data.examples import TaskExamples, TaskSplits
from finetune.data.tasks import CLASSIFICATION, TASK_FILE, Task, task_fields
from finetune.inputs.batches import EncodedRows, collate_rows
from finetune.inputs.encode import spaced, template_tokens, tokenize
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.entities import task_entities
from finetune.inputs.features import FeatureBatch, TextFeatures, TextRows, known_template
from finetune.inputs.row_cache import RowCache, encoded_rows
from finetune.inputs.rows import TaskBatch, TaskRows, WritingBatch, WrittenRows
from finetune.inputs.task_tokenizer import (
    CharacterTokenizer,
    make_marker,
    new_marks,
    open_character_tokenizer,
    stored_tokenizer,
    task_tokenizer,
)
from finetune.kinds.base import TaskKind, open_kind
from finetune.kinds.text_to_text import as_text
from finetune.models.adapt import add_lora
from finetune.models.task_model import FeatureModel, TaskModel, WritingModel
from finetune.training.suits import (
    check_head,
    check_leader,
    check_model,
    held_back,
    longest_input,
    next_token_head,
    read_splits,
    writing_model,
)
from pretraining.text.segmenter import SegmenterName
from pretraining.tokenizer.config import MOST_UNKNOWN, SOME_UNKNOWN
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.core.base import Core
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.heads.sequence_head import check_template
from zoo.inputs import CoreInputs
from zoo.model_folder import ModelMetadata, load_core, model_digest, read_metadata, save_model_folder
from zoo.runtime.processes import autocast, resolve_precision, to_device
from zoo.storage.entity_table import NAMES, keep_entities, table_digest
from zoo.storage.files import read_json, whole_folder, write_json

_SAMPLE = 1000  # rows of each part in which unknown tokens are counted
Part = Literal["train", "validation", "evaluation", "test"]
"""What a model is trained on; what of the training examples is held back; what it is scored on; what has no answers."""

AnyTaskModel = TaskModel | FeatureModel | WritingModel

Keys = tuple[int, int, NDArray[np.int64]]
"""Seed, step and (sequences,) places in the global batch, for dropout."""


class PreparedTask:
    """A task's rows for one model; read once, tokenised when first needed, shared by all seeds.

    Args:
        model_folder: the pretrained run.
        task: its labels, columns and metrics.
        data: ``hub``, a folder, or rows already read.
        settings: how it is fine-tuned.
        test: read the test rows, too.
        leader: the task whose model answers this one's rows, which has no training rows of its own then.
        cache: keeps the ids of large parts in files; ``None`` = all stay in memory.
    """

    def __init__(
        self,
        model_folder: Path,
        task: Task,
        data: str | Path | TaskSplits[Any],
        settings: FinetuneSettings,
        *,
        test: bool = False,
        leader: PreparedTask | None = None,
        cache: RowCache | None = None,
    ) -> None:
        self.leader, self.cache = leader, cache
        if leader is not None:
            check_leader(task, leader.task)
            settings = leader.settings
        self.metadata: ModelMetadata = read_metadata(model_folder)
        task = as_text(task) if settings.text_to_text else task
        self.task: Task = task
        self.kind: TaskKind[Any] = open_kind(task)
        check_template(self.metadata.template, self.metadata.config, self.metadata.attention)
        check_model(self.metadata, settings.use, settings.task_type_id)
        self.features = settings.features if settings.use == "features" else None
        if self.features is not None:
            known = self.stored_tokenizer.backend.token_to_id
            template = known_template(self.metadata.template, lambda word: known(word) is not None)
            self.metadata = dataclasses.replace(self.metadata, template=template)
        head = self.kind.head_config(task)["kind"]
        self.writes: bool = head == "written"
        check_head(self.metadata, settings, head)
        template_tokens(self.metadata.template, self.kind.pair(task) and self.features is None)
        self.max_length = longest_input(settings.max_length, task, self.metadata)
        self.settings: FinetuneSettings = dataclasses.replace(
            settings,
            epochs=settings.epochs or task.epochs,
            max_length=self.max_length,
            precision=cast(Literal["fp32", "bf16"], resolve_precision(settings.precision)),
        )
        found = read_splits(task, data, settings.limit, test, None if leader is None else leader.data.train)
        train, evaluation = found.train, found.evaluation
        self.parts: dict[Part, Any] = {"evaluation": evaluation}
        self._encoded: dict[Part, TaskRows] = {}
        if leader is None:
            if settings.patience is not None:
                train, self.parts["validation"] = held_back(train, settings.held_back, task.name)
            self.parts["train"] = train
        if found.test is not None:
            self.parts["test"] = found.test
        self.data: TaskSplits[Any] = TaskSplits(train, evaluation, found.test)
        if settings.class_weights == "balanced":
            self.kind = self.kind.balanced(task, train)
        parts = (train, evaluation)
        if task.span_fields and not all(getattr(part, "spans", None) is not None for part in parts):
            raise ZooError(f"task {task.name!r} reads the spans {', '.join(task.span_fields)}, and its rows have none.")
        self.confidence = task.confidence if settings.confidence is None else settings.confidence
        self.entities = task_entities(task, self.data, self.metadata, settings.entities, self.confidence)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a result, but for its seed: weights, task, rows and settings."""
        task = self.task
        described: dict[str, Any] = {"labels": list(task.labels), "metrics": list(self.kind.metrics(task))}
        if task.kind != CLASSIFICATION:
            described["kind"] = [task.kind.class_path, dict(task.kind.init_args)]
        if task.span_fields:
            described |= {"marks": [" ".join(mark) for mark in task.marks], "mentions": list(task.mentions)}
        found: dict[str, Any] = {
            "model": model_digest(self.metadata.path),
            "task": described,
            "data": self.data.digest(),
            "settings": self.settings.to_dict(),
        }
        if self.entities.table is not None:
            found["entities"] = [table_digest(self.entities.table.folder), self.confidence]
        return found

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
    def encoder(self) -> RowEncoder:
        """How the model lays texts out."""
        entities, tokenizer, characters = self.entities, self.tokenizer, self.character_tokenizer
        made = RowEncoder(
            tokenizer=tokenizer,
            template=self.metadata.template,
            max_length=self.max_length,
            pad=self.pad,
            characters=characters,
            marker=make_marker(self.task, tokenizer, characters, entities.numbers, entities.confidence),
            segmenter=self._segmenter,
            both_orders=self.task.symmetric and self.features is None and self._reads_extracts,
            apart=self.features is not None,
        )
        self.kind.bind_encoder(self.task, made)
        return made

    @property
    def _reads_extracts(self) -> bool:
        """Whether the core reads forward and is asked at a row's last token, so that the order of two texts counts."""
        return self.metadata.attention == "causal" and self.metadata.template.pooling == "last"

    @property
    def _segmenter(self) -> SegmenterName:
        return self.tokenizer.segmenter if self.tokenizer.whole_words else "none"

    @property
    def segments(self) -> bool:
        """Whether the core tells two texts apart, by their table or in its scores."""
        return self.metadata.config.type_vocab_size > 1 or self.metadata.config.relative_segments

    @property
    def pad(self) -> int:
        """Padding id; any would do, since nothing attends to padding."""
        found = self.tokenizer.vocabulary.pad
        return (self.metadata.config.pad_token_id or 0) if found is None else found

    def with_settings(self, lr: float, epochs: int) -> PreparedTask:
        """The same rows, shared, to be trained on with another rate and other epochs."""
        made = copy.copy(self)
        made.settings = dataclasses.replace(self.settings, lr=lr, epochs=epochs, grid=GridSettings())
        made.fingerprint = {**self.fingerprint, "settings": made.settings.to_dict()}
        return made

    def rows(self, part: Part) -> TaskRows:
        """A part's rows as ids; made when first asked for."""
        if self.leader is not None and part == "train":
            return self.leader.rows(part)
        if part not in self._encoded:
            examples, cache = self.parts[part], self.cache
            self._encoded[part] = encoded_rows(self.task, self.kind, examples, self.encoder, self.entities, cache)
        return self._encoded[part]

    @property
    def train(self) -> TaskRows:
        """Training rows as ids."""
        return self.rows("train")

    @property
    def evaluation(self) -> TaskRows:
        """Development rows as ids."""
        return self.rows("evaluation")

    @cached_property
    def unknown(self) -> float:
        """Share of unknown tokens in a sample of the rows; 0 where words are read by their characters."""
        unk = self.tokenizer.vocabulary.unk
        if unk is None or self.character_tokenizer is not None:
            return 0.0
        parts: tuple[TaskExamples, ...] = (self.data.train, self.data.evaluation)
        texts = spaced([text for part in parts for text in part.limited(_SAMPLE).sample_texts()], self._segmenter)
        ids, _ = tokenize(texts, self.tokenizer.backend, self.max_length)
        return float(np.mean(ids == unk)) if len(ids) else 0.0

    @property
    def warnings(self) -> list[str]:
        """What a user should know before the task is trained."""
        parts: tuple[TaskExamples, ...] = (self.data.train, self.data.evaluation)
        warnings = [
            f"{part.source}: {part.broken:,} lines have more or fewer cells than the first; they are left out."
            for part in parts
            if part.broken
        ]
        _ = self.encoder  # some kinds warn of what the tokenizer makes of texts
        warnings += self.kind.warnings(self.task, self.data)
        new = self.tokenizer.vocabulary.size - self.stored_tokenizer.vocabulary.size
        if new > 0 and self.settings.use in ("probe", "lora"):
            warnings.append(
                f"task {self.task.name!r}: {new} tokens of the template or of marks are new to {self.metadata.path}, "
                f"and use: {self.settings.use} leaves their vectors as they were drawn."
            )
        if self.unknown > SOME_UNKNOWN:
            warnings.append(
                f"task {self.task.name!r}: {self.unknown:.0%} of its tokens are unknown to the tokenizer of "
                f"{self.metadata.path}."
            )
        return warnings

    def check(self) -> None:
        """Tell before training what is wrong with spans in any row.

        Raises:
            ZooError: that; no room for texts; or most of the texts is unknown to the model's tokenizer.
        """
        self.encoder.room(self.kind.pair(self.task) and self.features is None)
        if self.unknown > MOST_UNKNOWN:
            text = self.data.train.sample_texts()[0]
            raise ZooError(
                f"task {self.task.name!r}: {self.unknown:.0%} of its tokens, as in {text[:40]!r}, "
                f"are unknown to the tokenizer of {self.metadata.path}, so that most of the texts could not be told "
                "apart. A model pretrained on text of the task's language and spelling would work, or one whose "
                "tokenizer knows every byte (kind: bytebpe)."
            )
        if self.task.span_fields:
            _ = self.train, self.evaluation

    def model(self, seed: int, start: Path | None = None) -> AnyTaskModel:
        """The pretrained core, with rows for new special tokens, under a new head, or the one that writes.

        Args:
            seed: keys what is new.
            start: folder of a model that was fine-tuned on another task; the core is its.
        """
        core, metadata = load_core(self.metadata.path if start is None else start)
        if self.settings.task_type_id:
            table = core.get_parameter("embeddings.task_type_embeddings.weight").data
            table[0] = table[self.settings.task_type_id]
        if self.features is not None:
            return self.headed(core, seed)
        known, size = self.stored_tokenizer.vocabulary.size, self.tokenizer.vocabulary.size
        if size > known:
            core.resize_token_embeddings(known, seed)  # spare rows go: what a new token starts from follows its number
            core.resize_token_embeddings(size, seed)
        made = self.headed(core, seed)
        if self.settings.lm_weight:
            assert isinstance(made, TaskModel)
            made.token_head = next_token_head(core, metadata)
        if self.settings.use == "lora":
            add_lora(core, self.settings.lora, seed)
        return made

    def headed(self, core: Core, seed: int) -> AnyTaskModel:
        """The task's new head on a core, or the pretrained one that writes."""
        if self.writes:
            _ = self.encoder  # which tells the kind how long its answers are
            return writing_model(core, self.metadata, self.task, self.kind, self.tokenizer.vocabulary)
        head, dropout = self.kind.head_config(self.task), self.settings.classifier_dropout
        if self.features is not None:
            return FeatureModel(core, head, self.features, dropout, self.kind.pair(self.task), seed)
        made = TaskModel(core, self.metadata, head, dropout, seed)
        if self.settings.use == "probe":
            made.freeze_core()
        return made

    def save(self, model: AnyTaskModel, folder: Path) -> None:
        """Write a fine-tuned model as a model folder, whose tokenizer lays texts out as it was trained."""
        metadata = dataclasses.replace(self.metadata, config=model.core.config)
        with whole_folder(folder) as made:
            save_model_folder(made, model.core, model.heads, metadata)
            self.tokenizer.save(made)
            path = made / "tokenizer_config.json"
            as_trained = {"model_max_length": self.max_length, "split_special_tokens": True}
            write_json(path, {**read_json(path), **as_trained})
            task = dataclasses.replace(self.task, confidence=self.confidence)
            write_json(made / TASK_FILE, task_fields(task))
            if self.entities.table is not None:
                keep_entities(self.entities.table.folder, made)
            elif (self.metadata.path / NAMES).exists() and self.settings.entities is None:  # texts did not name any
                keep_entities(self.metadata.path, made)

    def batch(self, part: Part, rows: NDArray[np.int64], keys: Keys | None = None) -> TaskBatch:
        """Padded inputs, slots and targets of some rows.

        Args:
            part: which.
            rows: (B,) which of its rows.
            keys: for dropout; ``None`` = none.
        """
        data = self.rows(part)
        numbers = data.sequences_of(rows)
        inputs: Any = self._inputs(data.sequences, numbers, keys)
        if isinstance(data, WrittenRows):
            inputs = WritingBatch(inputs, data.labels(rows))
        return TaskBatch(inputs, data.slots_of(numbers), self.kind.targets(self.parts[part], data, rows))

    def _inputs(
        self, data: EncodedRows | TextRows, numbers: NDArray[np.int64], keys: Keys | None
    ) -> CoreInputs | FeatureBatch:
        if isinstance(data, EncodedRows):
            return self._collated(data, numbers, keys)
        texts = tuple(
            data.kept(number, numbers) if data.layers else self._text(data, text, numbers)
            for number, text in enumerate(data.texts)
        )
        return FeatureBatch(texts, None if keys is None else row_keys(*keys))

    def _collated(self, data: EncodedRows, numbers: NDArray[np.int64], keys: Keys | None = None) -> CoreInputs:
        return collate_rows(
            data, numbers, self.pad, self.metadata.attention == "causal", self.segments, keys, self.entities.table
        )

    def _text(self, data: TextRows, text: EncodedRows, rows: NDArray[np.int64]) -> TextFeatures:
        lengths, start = (torch.from_numpy(part[rows]) for part in data.own(text))
        return TextFeatures(lengths, self._collated(text, rows), start)

    def keep_layers(self, model: AnyTaskModel, device: torch.device) -> None:
        """Run a frozen core on every text once, where the layers have room in memory; seeds share them."""
        if not isinstance(model, FeatureModel) or self.features is None:
            return
        every = [self.rows(part).sequences for part in self.parts]
        parts = [part for part in every if isinstance(part, TextRows)]
        config = self.metadata.config
        needed = 4 * (config.num_hidden_layers + 1) * config.output_width * sum(part.tokens() for part in parts)
        if needed > self.features.cache_mb * 2**20 or any(part.layers for part in parts):
            return
        for part in parts:

            def read(text: EncodedRows, rows: NDArray[np.int64], part: TextRows = part) -> Tensor:
                with autocast(self.settings.precision, device):
                    return model.read(to_device(self._text(part, text, rows), device))

            part.fill(read)
