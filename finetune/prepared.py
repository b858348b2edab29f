"""A task's rows as a model reads them: what is checked, tokenised, batched and saved for it, whatever the seed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from finetune import data as task_data
from finetune.config import FinetuneSettings
from finetune.data import Examples, TaskData
from finetune.encode import Encoded, Marker, Speller, collate, encode, filled, segmented, template_words, tokenize
from finetune.features import FeatureBatch, FeatureClassifier, Text, TextRows, known_template, sides
from finetune.model import Classifier
from finetune.spans import MOST_CHARACTERS, Marked, Places, Span, chunked, place_spans
from finetune.tasks import Task
from pretraining.tokenizer.config import MOST_UNKNOWN, SOME_UNKNOWN, TokenizerConfig
from pretraining.tokenizer.load import extend, load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import read_json
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.heads import check_template
from zoo.inputs import CoreInputs
from zoo.model_folder import ModelFacts, load_core, open_weights, read_facts, save_model_folder
from zoo.runtime.processes import resolve_precision
from zoo.storage.entity_table import NAMES, VECTORS, Entities, keep_entities, open_entities
from zoo.storage.files import whole_folder, write_json

NO_ENTITIES = "none"
_SAMPLE = 1000  # rows of each part in which unknown tokens are counted
_VOCABULARY = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
Keys = tuple[int, int, NDArray[np.int64]]
"""Seed, step and (B,) places in the global batch, for dropout."""
_Moved = TypeVar("_Moved")


class Prepared:
    """A task's rows for one model; read once, tokenised when first needed, shared by all seeds.

    Args:
        model_folder: the pretrained run.
        task: the task's row of facts.
        data: ``hub``, a folder, or rows already read.
        settings: how it is fine-tuned.
    """

    def __init__(self, model_folder: Path, task: Task, data: str | Path | TaskData, settings: FinetuneSettings) -> None:
        self.facts: ModelFacts = read_facts(model_folder)
        self.task = task
        check_template(self.facts.template, self.facts.config, self.facts.visibility)
        _check_task_type(settings.task_type_id, self.facts)
        self.features = settings.features if settings.use == "features" else None
        if self.features is not None:
            known = self.stored_tokenizer.backend.token_to_id
            template = known_template(self.facts.template, lambda word: known(word) is not None)
            self.facts = dataclasses.replace(self.facts, template=template)
        self.layout = template_words(self.facts.template, task.pair and self.features is None)
        self.max_length = _max_length(settings.max_length, task, self.facts)
        self.settings = dataclasses.replace(
            settings,
            epochs=settings.epochs or task.epochs,
            max_length=self.max_length,
            precision=cast(Literal["fp32", "bf16"], resolve_precision(settings.precision)),
        )
        loaded = data if isinstance(data, TaskData) else task_data.load(task, data)
        limit = settings.limit
        self.data = TaskData(loaded.train.limited(limit), loaded.evaluation.limited(limit))
        if task.span_fields and not all(part.spans is not None for part in (self.data.train, self.data.evaluation)):
            raise ZooError(f"task {task.name!r} reads the spans {', '.join(task.span_fields)}, and its rows have none.")
        facts = {"labels": list(task.labels), "metrics": list(task.metrics)}
        if task.span_fields:
            facts |= {"marks": [" ".join(mark) for mark in task.marks], "mentions": list(task.mentions)}
        self.confidence = task.confidence if settings.confidence is None else settings.confidence
        self.table = self._table(settings.entities)
        self.fingerprint: dict[str, Any] = {
            "model": model_digest(model_folder),
            "task": facts,
            "data": self.data.digest(),
            "settings": self.settings.to_dict(),
        }
        if self.table is not None:
            self.fingerprint["entities"] = [table_digest(self.table.folder), self.confidence]

    def _table(self, asked: str | None) -> Entities | None:
        """Vectors of the entities that rows name, for a core that reads them.

        Raises:
            ZooError: there are none, they do not fit the core, or hold not one of the entities.
        """
        fusion, folder = self.facts.config.fusion, self.facts.path
        if fusion is None:
            if asked not in (None, NO_ENTITIES):
                raise ZooError(f"entities = {asked}: the model in {folder} reads no entities; leave the setting out.")
            return None
        named = self._named()
        if asked == NO_ENTITIES or (not named and asked is None):
            return None
        if asked is None and not (folder / NAMES).exists():
            raise ZooError(
                f"rows of task {self.task.name!r} name entities, {folder} reads entities, and has no {NAMES} with "
                f"{VECTORS}: give --entities FOLDER (`zoo entities` makes one), or --entities {NO_ENTITIES}."
            )
        table = open_entities(folder if asked is None else asked)
        if table.width != fusion.entity_size:
            raise ZooError(
                f"the entity vectors in {table.folder} are {table.width} wide, the model in {folder} reads "
                f"{fusion.entity_size}."
            )
        if not named:
            raise ZooError(
                f"entities = {asked}: no row of task {self.task.name!r} names an entity (confidence at least "
                f"{self.confidence:g}); its fields of spans: {', '.join(self.task.span_fields) or 'none'}."
            )
        if not named.intersection(table.names):
            raise ZooError(
                f"not one of the {len(named)} entities that rows of task {self.task.name!r} name is in {table.folder} "
                f"({min(named)!r} there, {table.names[0]!r} here); give a table with their names, or --entities "
                f"{NO_ENTITIES}."
            )
        return table

    def _named(self) -> set[str]:
        """The entities that rows name."""
        return {span.entity for span in self._mentions() if span.entity is not None}

    def _mentions(self) -> Iterator[Span]:
        """Spans of all rows that name an entity, with enough confidence."""
        for part in (self.data.train, self.data.evaluation):
            for row in part.spans or []:
                yield from (s for own in row for s in own if s.entity is not None and s.confidence >= self.confidence)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Numbers in the table of the entities that rows name."""
        if self.table is None:
            return {}
        named = self._named()
        return {name: number for number, name in enumerate(self.table.names) if name in named}

    @cached_property
    def mentions(self) -> dict[str, int] | None:
        """How many spans name an entity, and of how many it is known."""
        if self.table is None:
            return None
        names = [span.entity for span in self._mentions()]
        return {"named": len(names), "known": sum(name in self.numbers for name in names)}

    @cached_property
    def stored_tokenizer(self) -> ZooTokenizer:
        """The model's tokenizer as its files have it; its vocabulary must fit the core's."""
        try:
            tokenizer = load_tokenizer(self.facts.path)
        except ZooError as error:
            if not self.facts.config.characters:
                raise
            raise ZooError(
                f"{error} This core reads characters, and words have to be found for it: a tokenizer is needed whose "
                "unit is the word (`zoo import SRC DST --vocabulary FILE` makes one of a list of words)."
            ) from error
        size, rows = tokenizer.vocabulary.size, self.facts.config.vocab_size or 0
        if size > rows:
            raise ZooError(
                f"the tokenizer in {self.facts.path} has {size} entries, the model's embedding {rows} rows; "
                "they are not of the same run."
            )
        return tokenizer

    @cached_property
    def tokenizer(self) -> ZooTokenizer:
        """The same with every token of the template, whichever of its layouts this task needs."""
        template, stored = self.facts.template, self.stored_tokenizer
        copy = ZooTokenizer(Tokenizer.from_str(stored.backend.to_str()), stored.roles)
        copy.segmenter = stored.segmenter
        marks = self._new_marks()
        wanted = TokenizerConfig(kind="file", path=str(self.facts.path), new_tokens=[*template.tokens, *marks])
        tokenizer = extend(copy, wanted, template, special=marks)
        if self.facts.config.characters and tokenizer.vocabulary.size > stored.vocabulary.size:
            lacking = [token for token in template.tokens if stored.backend.token_to_id(token) is None]
            raise ZooError(
                f"the template's {', '.join(lacking)} are no tokens of {self.facts.path}, whose core spells words and "
                "has no table for new ones to be added to; a template of its own tokens would work: "
                f"{', '.join(stored.roles.values())}."
            )
        numbers = list(tokenizer.backend.get_vocab(with_added_tokens=True).values())
        if len(numbers) != len(set(numbers)):  # the tokenizers library counts entries to number a new one
            raise ZooError(
                f"the tokenizer in {self.facts.path} leaves out numbers, so that new tokens of the template "
                f"({', '.join(template.tokens)}) would share one with another; number its entries without gaps."
            )
        tokenizer.set_template(template, self.segments)
        tokenizer.backend.encode_special_tokens = True  # "[SEP]" written in a text is text
        return tokenizer

    def _new_marks(self) -> list[str]:
        """Marks that get a row of the embedding; to a core that reads characters by words, a mark is a word.

        Raises:
            ZooError: there is no row to be had.
        """
        stored, config = self.stored_tokenizer, self.facts.config
        lacking = [token for token in self.task.mark_tokens if stored.backend.token_to_id(token) is None]
        if not lacking or (config.characters and stored.whole_words):
            return []
        if config.characters or self.features is not None:
            reason = "whose core spells words" if config.characters else "whose core stays as it is (use: features)"
            raise ZooError(
                f"task {self.task.name!r} marks spans by {', '.join(lacking)}, no tokens of {self.facts.path}, "
                f"{reason}, so that new ones cannot be learned; tokens that it has would work, such as # and $."
            )
        return lacking

    @cached_property
    def _marker(self) -> Marker | None:
        """What makes tokens of texts with spans."""
        if not self.task.span_fields:
            return None
        tokenizer, speller = self.tokenizer, self.speller

        def number(token: str) -> int:
            found = tokenizer.backend.token_to_id(token) if speller is None else speller.number(token)
            assert found is not None
            return found

        def places(texts: list[str]) -> Places:
            if speller is not None:
                return speller.places(texts)
            (ids, _, sizes), found = tokenizer.encode_places(texts)
            return ids, sizes, found

        marks = {mark.field: (number(mark.before), number(mark.behind)) for mark in self.task.marks}

        def marker(texts: list[str], spans: list[tuple[Span, ...]], where: list[str]) -> Marked:
            long = next((number for number, text in enumerate(texts) if len(text) > MOST_CHARACTERS), None)
            if long is not None:
                raise ZooError(
                    f"{where[long]}: a text of {len(texts[long]):,} characters; where spans are, is known up to "
                    f"{MOST_CHARACTERS:,}."
                )
            parts = [
                place_spans(places(texts[at]), spans[at], marks, self.numbers, self.confidence, where[at])
                for at in chunked(len(texts))
            ]
            return Marked(*(np.concatenate(column) for column in zip(*parts, strict=True)))

        return marker

    @property
    def segments(self) -> bool:
        """Whether the core tells two texts apart, by their table or in its scores."""
        return self.facts.config.type_vocab_size > 1 or self.facts.config.relative_segments

    @property
    def pad(self) -> int:
        """Padding id; any would do, since nothing looks at padding."""
        found = self.tokenizer.vocabulary.pad
        return (self.facts.config.pad_token_id or 0) if found is None else found

    @cached_property
    def speller(self) -> Speller | None:
        """What finds and spells words, for a core that reads characters by words.

        Raises:
            ZooError: the core does not know how the tokenizer's words are spelt.
        """
        if self.facts.config.characters is None:
            return None
        spellings = open_weights(self.facts.path)["core.embeddings.word_embeddings.spellings"]
        lacking = [i for i in range(self.tokenizer.vocabulary.size) if i >= len(spellings) or not spellings[i, 0]]
        if lacking:
            raise ZooError(
                f"the core in {self.facts.path} reads characters and does not know how {len(lacking)} of its "
                f"tokenizer's {self.tokenizer.vocabulary.size} tokens are spelt, the first is "
                f"{self.tokenizer.token(lacking[0])!r}; tell it by core.spell(words, vocabulary) and save it."
            )
        if not self.tokenizer.whole_words:  # pieces of words: there are no others than those in the vocabulary
            return None
        return Speller(self.tokenizer.backend, spellings, self.tokenizer.vocabulary.unk)

    @cached_property
    def train(self) -> Encoded | TextRows:
        """Training rows as ids."""
        return self._encode(self.data.train)

    @cached_property
    def evaluation(self) -> Encoded | TextRows:
        """Development rows as ids."""
        return self._encode(self.data.evaluation)

    def _encode(self, examples: Examples) -> Encoded | TextRows:
        examples = segmented(examples, self.tokenizer.segmenter if self.tokenizer.whole_words else "none")
        if self.features is None:
            return self._rows(examples)
        before = [word for word, _ in self.layout].index("$A")
        texts = tuple(self._rows(side) for side in sides(examples))
        return TextRows(texts, (before, len(self.layout) - 1 - before))

    def _rows(self, examples: Examples) -> Encoded:
        rows = encode(examples, self.layout, self.tokenizer.backend, self.max_length, self.speller, self._marker)
        return rows if rows.lengths.all() else filled(rows, self.pad)

    @cached_property
    def unknown(self) -> float:
        """Share of unknown tokens in a sample of the rows; 0 where words are read by their characters."""
        unk = self.tokenizer.vocabulary.unk
        if unk is None or self.speller is not None:
            return 0.0
        segmenter = self.tokenizer.segmenter if self.tokenizer.whole_words else "none"
        found = [segmented(part.limited(_SAMPLE), segmenter) for part in (self.data.train, self.data.evaluation)]
        texts = [text for part in found for text in (*part.texts, *(part.pairs or []))]
        ids, _ = tokenize(texts, self.tokenizer.backend, self.max_length)
        return float(np.mean(ids == unk)) if len(ids) else 0.0

    @property
    def warnings(self) -> list[str]:
        """What a user should know before the task is trained."""
        told = self.data.warnings(self.task)
        if self.unknown > SOME_UNKNOWN:
            told.append(
                f"task {self.task.name!r}: {self.unknown:.0%} of its tokens are unknown to the tokenizer of "
                f"{self.facts.path}."
            )
        return told

    def check(self, save_model: bool) -> None:
        """Tell before training what is wrong with spans in any row, or with what is to be saved.

        Raises:
            ZooError: that; or most of the texts is unknown to the model's tokenizer.
        """
        if self.unknown > MOST_UNKNOWN:
            raise ZooError(
                f"task {self.task.name!r}: {self.unknown:.0%} of its tokens, as in {self.data.train.texts[0][:40]!r}, "
                f"are unknown to the tokenizer of {self.facts.path}, so that most of the texts could not be told "
                "apart. A model pretrained on text of the task's language and spelling would work, or one whose "
                "tokenizer knows every byte (kind: bytebpe)."
            )
        if not self.task.span_fields:
            return
        if save_model and (self.task.marks or self.table) and self.features is not None:
            raise ZooError(
                "a task network on frozen layers is saved for plain texts, without marks; leave save_model out."
            )
        _ = self.train, self.evaluation

    def classifier(self, seed: int) -> Classifier | FeatureClassifier:
        """The pretrained core, with rows for new special tokens, under a new classifier."""
        core, facts = load_core(self.facts.path)
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
        return Classifier(core, facts, labels, dropout, seed)

    def save(self, model: Classifier | FeatureClassifier, folder: Path) -> None:
        """Write a fine-tuned model as a model folder, whose tokenizer lays texts out as it was trained."""
        facts = dataclasses.replace(self.facts, config=model.core.config)
        with whole_folder(folder) as made:
            save_model_folder(made, model.core, model.heads, facts)
            self.tokenizer.save(made)
            path = made / "tokenizer_config.json"
            as_trained = {"model_max_length": self.max_length, "split_special_tokens": True}
            write_json(path, {**read_json(path), **as_trained})
            if self.table is not None:
                keep_entities(self.table.folder, made)
            elif (self.facts.path / NAMES).exists() and self.settings.entities is None:  # texts did not name any
                keep_entities(self.facts.path, made)

    def batch(
        self, data: Encoded | TextRows, rows: NDArray[np.int64], keys: Keys | None = None
    ) -> tuple[CoreInputs | FeatureBatch, Tensor]:
        """Padded inputs and labels of some rows."""
        if isinstance(data, Encoded):
            return self._collated(data, rows, keys)
        texts = tuple(
            data.kept(number, rows) if data.layers else self._text(data, text, rows)
            for number, text in enumerate(data.texts)
        )
        return FeatureBatch(texts, None if keys is None else row_keys(*keys)), torch.from_numpy(data.labels[rows])

    def _collated(self, data: Encoded, rows: NDArray[np.int64], keys: Keys | None = None) -> tuple[CoreInputs, Tensor]:
        return collate(data, rows, self.pad, self.facts.visibility == "causal", self.segments, keys, self.table)

    def _text(self, data: TextRows, text: Encoded, rows: NDArray[np.int64]) -> Text:
        lengths, start = (torch.from_numpy(part[rows]) for part in data.own(text))
        return Text(lengths, self._collated(text, rows)[0], start)

    def keep_layers(self, model: Classifier | FeatureClassifier, device: torch.device) -> None:
        """Run a frozen core on every text once, where the layers have room in memory; seeds share them."""
        if not isinstance(model, FeatureClassifier) or self.features is None:
            return
        parts = [part for part in (self.train, self.evaluation) if isinstance(part, TextRows)]
        config = self.facts.config
        needed = 4 * (config.num_hidden_layers + 1) * config.hidden_size * sum(part.tokens() for part in parts)
        if needed > self.features.cache_mb * 2**20 or any(part.layers for part in parts):
            return
        for part in parts:

            def read(text: Encoded, rows: NDArray[np.int64], part: TextRows = part) -> Tensor:
                with autocast(self, device):
                    return model.read(moved(self._text(part, text, rows), device))

            part.fill(read)


def _check_task_type(number: int, facts: ModelFacts) -> None:
    """Refuse a pretraining task that the core's table has no row for."""
    rows = facts.config.task_type_vocab_size
    if number >= max(rows, 1):
        raise ZooError(
            f"task_type_id is {number}, and the model in {facts.path} has a table of {rows} task types; leave it at 0."
        )


def _max_length(asked: int | None, task: Task, facts: ModelFacts) -> int:
    longest = facts.config.max_length
    if asked is None:
        return min(task.max_length, longest)
    if asked > longest:
        raise ZooError(
            f"max_length = {asked}, but {facts.path} has positions for {longest} tokens; {longest} would work."
        )
    return asked


def model_digest(folder: Path) -> str:
    """16 hex digits that change with the weights, the facts or the tokenizer of a model folder."""
    hashed = hashlib.sha256()
    others = (Path(folder) / name for name in ("config.json", *_VOCABULARY))
    for path in (*sorted(Path(folder).glob("model*.safetensors")), *(path for path in others if path.exists())):
        with path.open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()[:16]


def table_digest(folder: Path) -> str:
    """16 hex digits that change with the names or vectors of a table of entities."""
    hashed = hashlib.sha256()
    for name in (NAMES, VECTORS):
        with (folder / name).open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()[:16]


def autocast(prepared: Prepared, device: torch.device) -> torch.autocast:
    """The precision that is asked for."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=prepared.settings.precision == "bf16")


def moved(value: _Moved, device: torch.device) -> _Moved:
    """Tensors in named tuples, at any depth, on the device."""
    if device.type == "cpu":
        return value
    return _moved(value, device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "_fields"):
        return type(value)(*(_moved(item, device) for item in value))
    return tuple(_moved(item, device) for item in value) if isinstance(value, tuple) else value
