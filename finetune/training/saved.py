"""A fine-tuned model that was kept, asked again: through the encoder, kind and loop that trained it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.config import FeatureSettings, FinetuneSettings
from finetune.data.examples import TaskExamples, TaskSplits
from finetune.data.tables import Column, TaskTable
from finetune.data.tasks import TASK_FILE, Task, task_of
from finetune.inputs.entities import NO_ENTITIES, entities_named
from finetune.inputs.task_tokenizer import stored_tokenizer
from finetune.kinds.base import TaskKind, open_kind
from finetune.kinds.load import examples_of, read_asked
from finetune.training.loop import predict
from finetune.training.prepared import AnyTaskModel, PreparedTask
from finetune.training.processes import ALONE
from pretraining.tokenizer.config import SOME_UNKNOWN
from pretraining.training.load_config import require_trusted_code
from zoo.errors import ZooError
from zoo.model_folder import ModelMetadata, import_foreign, load_head, read_metadata
from zoo.storage.entity_table import NAMES, open_entities
from zoo.storage.files import read_json

_OWN_KINDS = ("finetune.kinds.",)


class SavedAnswers(NamedTuple):
    """What a saved model says about N examples.

    Args:
        answers: (N,) as its kind has them: probabilities, numbers, tags, stretches, choices.
        records: (N,) the same as JSON objects, each with the row's ``id``.
        cut: numbers of the examples that were longer than the model reads, and lost their end.
        warnings: what else a user should know.
    """

    answers: Sequence[Any]
    records: list[dict[str, Any]]
    cut: NDArray[np.int64]
    warnings: list[str]


class SavedModel:
    """A model folder that fine-tuning wrote with ``--save_model true``, of any kind of task and any use.

    Args:
        folder: the folder, such as ``OUTPUT/TASK/seed-1/model``.
        trust_code: allow a kind of task that is not part of the package.

    Attributes:
        folder: the folder.
        metadata: what it says about itself.
        task: what it was fine-tuned on, with the columns that files without gold answers have.
        kind: the task's.

    Raises:
        ZooError: no fine-tuned model lies there, or its task or tokenizer is missing.
    """

    def __init__(self, folder: str | Path, trust_code: bool = False) -> None:
        self.folder = Path(folder)
        if trust_code:
            import_foreign(self.folder)
        self.metadata = _fine_tuned(self.folder)
        fields = read_json(self.folder / TASK_FILE)
        named = fields.get("kind")
        classes = {"class_path": named} if isinstance(named, str) else named
        require_trusted_code(self.folder / TASK_FILE, classes, trust_code, _OWN_KINDS)
        self.task: Task = task_of(fields, self.folder / TASK_FILE).as_tested()
        self.kind: TaskKind[Any] = open_kind(self.task)
        stored_tokenizer(self.metadata)

    def asked(self, rows: Sequence[Sequence[str]]) -> TaskExamples:
        """Examples of texts: for each row one text for each of the task's columns, then its choices where it has any.

        Raises:
            ZooError: too few texts or too many, or empty ones.
        """
        if not rows:
            raise ZooError(f"no text is given for task {self.task.name!r}.")
        cells = [self.kind.asked(self.task, texts) for texts in rows]
        columns: dict[Column, list[Any]] = {column: [row[column] for row in cells] for column in cells[0]}
        table = TaskTable(columns, np.arange(len(rows)), lambda row: f"row {row + 1}", "the text given")
        return examples_of(self.task, self.kind, table, labelled=False)

    def read(self, path: Path, columns: Sequence[str] = (), file_format: str | None = None) -> TaskExamples:
        """Examples of a file; gold answers, where it has any, are not read.

        Args:
            path: a ``.tsv``, ``.csv``, ``.jsonl``, ``.json`` or ``.parquet`` file.
            columns: names of its columns of texts, in the order of the task's; none = the task's names.
            file_format: how it is to be read, as a task says it; ``None`` = by its extension.

        Raises:
            ZooError: the file cannot be read, or lacks a column.
        """
        changed: dict[str, Any] = {"file_format": file_format, "hub": None}
        if columns:
            if len(columns) != len(self.task.columns):
                known = ", ".join(map(str, self.task.columns))
                raise ZooError(
                    f"{len(columns)} columns are named, and task {self.task.name!r} reads {len(self.task.columns)}: "
                    f"{known}."
                )
            changed |= {"columns": tuple(columns), "hub_columns": (), "header": True, "label_column": "label"}
        found: TaskExamples = read_asked(replace(self.task, **changed), path)
        return found

    def predict(self, examples: TaskExamples) -> SavedAnswers:
        """What the model says about examples of its kind.

        Raises:
            ZooError: texts that cannot be laid out.
        """
        splits, settings, warnings = TaskSplits(examples, examples), self._settings, list[str]()
        named = {*entities_named(splits, self.task.confidence)}
        if self._names is not None and named and not named & self._names:
            settings = replace(settings, entities=NO_ENTITIES)
            warnings.append(f"none of the {len(named):,} entities that are named has a vector in {self.folder}.")
        prepared = PreparedTask(self.folder, self.task, splits, settings)
        if self._model is None:
            self._model = self._open(prepared)
        answers = predict(self._model, prepared)
        ids = [row[0] for row in self.kind.written(self.task, examples, answers)[1]]
        records = self.kind.records(self.task, examples, answers)
        if prepared.unknown > SOME_UNKNOWN:
            warnings.append(f"{prepared.unknown:.0%} of the tokens are unknown to the tokenizer of {self.folder}.")
        return SavedAnswers(
            answers,
            [{"id": name, **record} for name, record in zip(ids, records, strict=True)],
            prepared.evaluation.cut_examples(),
            warnings,
        )

    _model: AnyTaskModel | None = None

    def _open(self, prepared: PreparedTask) -> AnyTaskModel:
        model = prepared.model(0)
        for name, module in model.heads.items():
            load_head(self.folder, name, module)
        return model.to(ALONE.device).eval()

    @cached_property
    def max_length(self) -> int:
        """Longest row in tokens that the model was trained on, special tokens included."""
        found = read_json(self.folder / "tokenizer_config.json").get("model_max_length")
        if not isinstance(found, int) or found < 1:
            raise ZooError(
                f"{self.folder / 'tokenizer_config.json'}: model_max_length is {found!r}; the longest row in tokens is "
                "needed, as fine-tuning writes it."
            )
        return min(found, self.metadata.config.max_length)

    @cached_property
    def _names(self) -> set[str] | None:
        """Entities that have a vector; ``None`` = the model reads none."""
        if self.metadata.config.fusion is None or not (self.folder / NAMES).exists():
            return None
        return {*open_entities(self.folder).names}

    @cached_property
    def _settings(self) -> FinetuneSettings:
        reads_none = self.metadata.config.fusion is not None and self._names is None
        settings = FinetuneSettings(max_length=self.max_length, entities=NO_ENTITIES if reads_none else None)
        mixes = self.metadata.heads.get("mixes")
        if mixes is None:
            return settings
        network = self.metadata.heads["classifier"]
        features = FeatureSettings(
            mixes=mixes["mixes"], layer_norm=mixes["layer_norm"], hidden_size=network["hidden_size"], cache_mb=0
        )
        return replace(settings, use="features", features=features)


def open_saved(folder: str | Path, trust_code: bool = False) -> SavedModel:
    """The fine-tuned model in a folder that ``--save_model true`` wrote; see :class:`SavedModel`."""
    return SavedModel(folder, trust_code)


def _fine_tuned(folder: Path) -> ModelMetadata:
    """The metadata of a folder that fine-tuning wrote."""
    if (inner := folder / "model" / TASK_FILE).exists() and not (folder / TASK_FILE).exists():
        raise ZooError(f"{folder} is no model folder; the fine-tuned model is in {inner.parent}.")
    metadata = read_metadata(folder)
    if (folder / TASK_FILE).exists() and ("classifier" in metadata.heads or metadata.config.decoder is not None):
        return metadata
    if "classifier" in metadata.heads:
        raise ZooError(
            f"{folder} holds a fine-tuned model without {TASK_FILE}, which says what it was asked (older versions "
            "wrote none). Fine-tune it again with --save_model true; or ask it in transformers, after `import zoo.hf`."
        )
    have = ", ".join(f"{name} ({head['kind']})" for name, head in metadata.heads.items()) or "none"
    raise ZooError(
        f"{folder} is not fine-tuned; its heads are: {have}. `python -m finetune --model {folder} --tasks NAME "
        "--save_model true` keeps models that are, as OUTPUT/NAME/seed-N/model."
    )
