"""Texts whose words, or characters, have tags: read from lists of tags, or from spans of characters.

A row is one of three:

- a list of words and a list of as many tags;
- a text and its tags, parted by spaces, or as a list;
- a text and its entities, ``[[start, end, "TYPE"], ...]`` in characters, the end not included.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.data.examples import TaskExamples, picked
from finetune.data.tables import TaskTable, shown
from finetune.data.tasks import Task
from finetune.metrics import TaggedEntity, tagged_entities
from pretraining.text.segmenter import has_cjk
from zoo.errors import ZooError, nearest
from zoo.storage.user_files import check_surrogates, parse_json, record_text

TagScheme = Literal["bio", "bioes", "none"]
Unit = Literal["words", "characters"]
LETTERS: dict[str, str] = {"bio": "BI", "bioes": "BIES"}
OUTSIDE = "O"


@dataclass(frozen=True)
class TaggedTexts(TaskExamples):
    """N texts of words with tags.

    Args:
        texts: (N,) texts; of a list of words, the words with spaces between them (none at Chinese characters).
        words: (N,) of (W, 2) int64: where each word stands in its text, the end not included.
        tags: (N,) of (W,) int64 number of each word's tag; zeros where there are none.
    """

    texts: list[str]
    words: list[NDArray[np.int64]]
    tags: list[NDArray[np.int64]]

    def chosen(self, at: NDArray[np.int64]) -> TaggedTexts:
        """Some of the examples, by place."""
        texts, words, tags = (picked(part, at) for part in (self.texts, self.words, self.tags))
        return replace(self, texts=texts, words=words, tags=tags, numbers=self.numbers[at])

    def content(self) -> list[Any]:
        """Tags, words and texts."""
        return [*self.tags, *self.words, self.texts]

    def sample_texts(self) -> list[str]:
        """Every text."""
        return self.texts

    def surfaces(self, row: int) -> list[str]:
        """The words of one text."""
        text = self.texts[row]
        return [text[start:stop] for start, stop in self.words[row].tolist()]


# ---- tags and entities -----------------------------------------------------------------------------------------------


def tag_names(labels: Sequence[str], scheme: TagScheme) -> tuple[str, ...]:
    """The tags of a task, in class order: the labels themselves, or ``O`` and each type with the scheme's letters."""
    if scheme == "none":
        return tuple(labels)
    return (OUTSIDE, *(f"{letter}-{label}" for label in labels for letter in LETTERS[scheme]))


def tags_of(entities: Iterable[TaggedEntity], count: int, scheme: TagScheme) -> list[str]:
    """The tags of ``count`` words, some of which entities cover; no two entities overlap."""
    tags = [OUTSIDE] * count
    for start, stop, label in entities:
        tags[start:stop] = [f"I-{label}"] * (stop - start)
        tags[start] = f"B-{label}"
        if scheme == "bioes":
            tags[stop - 1] = f"E-{label}" if stop - start > 1 else f"S-{label}"
    return tags


# ---- rows ------------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A text, its words' places, and whether they came as a list of words."""

    text: str
    words: NDArray[np.int64]
    listed: bool


def read_tagged(task: Task, table: TaskTable, labelled: bool, scheme: TagScheme, unit: Unit) -> TaggedTexts:
    """A table's rows.

    Args:
        task: its one column of texts or lists of words, and its labels.
        table: the rows.
        labelled: tags are needed; else they are read where they are there.
        scheme: of the tags that are made. Files may write entities in BIO, IOB1 or BIOES: they are read as
            ``conlleval`` reads them, where an ``I-`` without a ``B-`` begins an entity.
        unit: what a text that comes without a list of words is made of: words between spaces, or characters.

    Raises:
        ZooError: what is wrong with a row, by its place; or no row has a word.
    """
    column, names = task.columns[0], tag_names(task.labels, scheme)
    numbers = {name: number for number, name in enumerate(names)}
    there = labelled or task.label_column in table.columns
    cells = table.columns[task.label_column] if there else [None] * len(table)
    read = _Reader(task, scheme, dict(zip(task.hub_labels, task.labels)) if table.numbers_are_text else {})
    rows, tags = list[_Row](), list[NDArray[np.int64]]()
    for number, (cell, gold) in enumerate(zip(table.columns[column], cells, strict=True)):
        place = table.place(number)
        row = _row(cell, str(column), unit, place)
        found = [names[0]] * len(row.words) if gold is None and not labelled else read.tags(row, gold, place)
        rows.append(row)
        tags.append(np.array([numbers[tag] for tag in found], np.int64))
    if not any(len(row.words) for row in rows):
        raise ZooError(
            f"{table.source}: no row of {str(column)!r} has a word ({len(rows):,} rows); check the columns of task "
            f"{task.name!r}."
        )
    texts, words = [row.text for row in rows], [row.words for row in rows]
    return TaggedTexts(texts, words, tags, numbers=table.numbers, skipped=0, source=table.source, labelled=there)


def _row(cell: Any, column: str, unit: Unit, where: str) -> _Row:
    value = cell.tolist() if isinstance(cell, np.ndarray) else cell
    if not isinstance(value, list):
        text = record_text(value, column, where)
        if unit == "characters":
            return _Row(text, np.stack([np.arange(len(text)), np.arange(1, len(text) + 1)], axis=1), False)
        places = [found.span() for found in re.finditer(r"\S+", text)]
        return _Row(text, np.array(places, np.int64).reshape(-1, 2), False)
    wrong = next((word for word in value if not isinstance(word, str)), None)
    if wrong is not None:
        raise ZooError(f"{where}: {column!r} is a list with {shown(wrong)}; a list of words, each a text, is needed.")
    check_surrogates(value, f"{where}: {column!r}")
    return _joined(value, unit)


def _joined(words: list[str], unit: Unit) -> _Row:
    """Words as one text, with spaces where tokenizers expect them."""
    text, places = "", list[tuple[int, int]]()
    for word in words:
        apart = unit == "words" and text and word and not (has_cjk(text[-1]) or has_cjk(word[0]))
        text += " " * bool(apart)
        places.append((len(text), len(text) + len(word)))
        text += word
    return _Row(text, np.array(places, np.int64).reshape(-1, 2), True)


class _Reader:
    """Reads the gold answers of rows."""

    def __init__(self, task: Task, scheme: TagScheme, renamed: dict[str, str]) -> None:
        self._task, self._scheme, self._renamed = task, scheme, renamed
        self._column = str(task.label_column)

    def tags(self, row: _Row, cell: Any, where: str) -> list[str]:
        """The tags of a row's words."""
        value = cell.tolist() if isinstance(cell, np.ndarray) else cell
        spaced = isinstance(value, str) and not value.lstrip().startswith("[")
        if isinstance(value, str):
            value = value.split() if spaced else parse_json(value, where)
        if not isinstance(value, list):
            raise ZooError(f"{where}: {self._column!r} is {shown(cell)}; {self._needed(row)} is needed.")
        listed = row.listed or spaced or self._scheme == "none" or any(isinstance(item, str) for item in value)
        return self._of_list(row, value, where) if listed else self._of_spans(row, value, where)

    def _needed(self, row: _Row) -> str:
        if row.listed or self._scheme == "none":
            return "a list of tags"
        return 'a list of tags, or of spans [start, end, "TYPE"],'

    def _of_list(self, row: _Row, value: list[Any], where: str) -> list[str]:
        wrong = next((tag for tag in value if not isinstance(tag, str)), None)
        if wrong is not None:
            raise ZooError(f"{where}: {self._column!r} holds {shown(wrong)}; {self._needed(row)} is needed.")
        if len(value) != len(row.words):
            raise ZooError(
                f"{where}: {self._column!r} has {len(value)} tags, and there are {len(row.words)} words; one each is "
                "needed."
            )
        if self._scheme == "none":
            return [self._type(self._renamed.get(tag, tag), where, tag) for tag in value]
        try:
            found = tagged_entities(value)
        except ZooError as error:
            raise ZooError(f"{where}: {self._column!r}: {error}") from error
        entities = [entity._replace(type=self._renamed.get(entity.type, entity.type)) for entity in found]
        for entity in sorted(entities):
            self._type(entity.type, where, value[entity.start])
        return tags_of(entities, len(value), self._scheme)

    def _type(self, name: str, where: str, written: str) -> str:
        if name not in self._task.labels:
            known = ", ".join(self._task.labels)
            raise ZooError(
                f"{where}: {self._column!r} has {written!r}, whose type is none of task {self._task.name!r}."
                f"{nearest(name, self._task.labels)} Known: {known}."
            )
        return name

    def _of_spans(self, row: _Row, value: list[Any], where: str) -> list[str]:
        spans = sorted(self._span(item, row.text, where) for item in value)
        for one, two in itertools.pairwise(spans):
            if two.start < one.stop:
                raise ZooError(
                    f"{where}: {self._column!r}: {_quoted(row.text, one)} and {_quoted(row.text, two)} overlap; a "
                    "word has one tag, so that entities must stand apart."
                )
        first = {int(start): number for number, start in enumerate(row.words[:, 0])}
        stop = {int(end): number + 1 for number, end in enumerate(row.words[:, 1])}
        entities = [TaggedEntity(first.get(s.start, -1), stop.get(s.stop, -1), s.type) for s in spans]
        off = next((span for span, entity in zip(spans, entities, strict=True) if -1 in entity[:2]), None)
        if off is not None:
            raise ZooError(
                f"{where}: {self._column!r}: {_quoted(row.text, off)} does not begin and end with a word between "
                f"spaces, in {row.text[max(off.start - 20, 0) : off.stop + 20]!r}; kind.init_args.unit: characters "
                "would read it."
            )
        return tags_of(entities, len(row.words), self._scheme)

    def _span(self, item: Any, text: str, where: str) -> TaggedEntity:
        whole = isinstance(item, list) and len(item) == 3 and isinstance(item[2], str)
        if not whole or any(not isinstance(edge, int) or isinstance(edge, bool) for edge in item[:2]):
            raise ZooError(f'{where}: {self._column!r} holds {shown(item)}; [start, end, "TYPE"] is needed.')
        start, stop, label = item
        if not 0 <= start < stop <= len(text):
            raise ZooError(
                f"{where}: {self._column!r}: {shown(item)} is no span of its text, which has {len(text)} characters: "
                f"{text[:60]!r}."
            )
        return TaggedEntity(start, stop, self._type(self._renamed.get(label, label), where, label))


def _quoted(text: str, span: TaggedEntity) -> str:
    return f"[{span.start}, {span.stop}] {text[span.start : span.stop]!r}"
