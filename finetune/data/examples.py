"""Rows of a task as its kind understands them."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.data.spans import RowSpans
from pretraining.keyed_random import Draw

_PIECE = 4096  # items of a list that are hashed at a time


@dataclass(frozen=True, kw_only=True)
class TaskExamples(ABC):
    """N examples of one source.

    Args:
        numbers: (N,) int64 row numbers in the source, counted from 0 without the header; dropped rows leave gaps.
        skipped: rows dropped because they carry no gold answer.
        source: where they come from.
        broken: rows left out since their cells are not those of the columns.
        labelled: whether gold answers are there; a benchmark's test files have none.
    """

    numbers: NDArray[np.int64]
    skipped: int
    source: str
    labelled: bool = True
    broken: int = 0

    def __len__(self) -> int:
        """TaskExamples."""
        return len(self.numbers)

    @abstractmethod
    def chosen(self, at: NDArray[np.int64]) -> Self:
        """Some of the examples, by place."""

    @abstractmethod
    def content(self) -> list[Any]:
        """All that decides a result, as JSON values."""

    @abstractmethod
    def sample_texts(self) -> list[str]:
        """Every text, for counts of unknown tokens."""

    def limited(self, limit: int | None) -> Self:
        """At most ``limit`` examples, the same ones always, chosen by hash (files are often sorted by source)."""
        if limit is None or limit >= len(self):
            return self
        return self.chosen(np.sort(Draw(0, 0).permutation(len(self), "finetune.limit")[:limit]))

    def digest(self) -> str:
        """16 hex digits that change with any text, label or span."""
        hashed = hashlib.sha256()
        for part in self.content():
            for piece in [part.tobytes()] if isinstance(part, np.ndarray) else json_pieces(part):
                hashed.update(piece)
        return hashed.hexdigest()[:16]


def json_pieces(value: Any) -> Iterator[bytes]:
    """A value as JSON, for a digest; a long list in pieces, so that it is never held twice."""
    if not isinstance(value, list):
        yield json.dumps(value, ensure_ascii=False).encode()
        return
    yield b"["
    for start in range(0, len(value), _PIECE):
        text = json.dumps(value[start : start + _PIECE], ensure_ascii=False)
        yield (", " * bool(start) + text[1:-1]).encode()
    yield b"]"


def picked(values: Sequence[Any], at: NDArray[np.int64]) -> list[Any]:
    """Some of a sequence's items, by place."""
    return [values[place] for place in at]


@dataclass(frozen=True)
class LabelledTexts(TaskExamples):
    """N labelled texts or pairs of texts.

    Args:
        texts: (N,) first texts.
        pairs: (N,) second texts, or ``None`` for a task of single texts.
        labels: (N,) class numbers, int64, or values, float64; zeros where there are none.
        spans: (N,) each row's spans, or ``None`` for a task without.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: NDArray[Any]
    spans: list[RowSpans] | None = None

    def chosen(self, at: NDArray[np.int64]) -> LabelledTexts:
        """Some of the examples, by place."""
        pairs, spans = (None if part is None else picked(part, at) for part in (self.pairs, self.spans))
        texts, labels, numbers = picked(self.texts, at), self.labels[at], self.numbers[at]
        return replace(self, texts=texts, labels=labels, numbers=numbers, pairs=pairs, spans=spans)

    def content(self) -> list[Any]:
        """Labels, texts and spans."""
        return [self.labels, self.texts, self.pairs or [], *([] if self.spans is None else [self.spans])]

    def sample_texts(self) -> list[str]:
        """Every text."""
        return [*self.texts, *(self.pairs or [])]


@dataclass(frozen=True)
class SourceTargets(TaskExamples):
    """N texts that a model reads, and the text that it has to write of each.

    Args:
        sources: (N,) whole, with everything that stands in front.
        targets: (N,) empty where nobody knows them.
        labels: (N,) int64 class numbers that the targets stand for; ``None`` = the targets are texts of their own.
    """

    sources: list[str]
    targets: list[str]
    labels: NDArray[np.int64] | None = None

    def chosen(self, at: NDArray[np.int64]) -> SourceTargets:
        """Some of the examples, by place."""
        labels = None if self.labels is None else self.labels[at]
        sources, targets = picked(self.sources, at), picked(self.targets, at)
        return replace(self, sources=sources, targets=targets, labels=labels, numbers=self.numbers[at])

    def content(self) -> list[Any]:
        """Sources and targets, which say the labels."""
        return [self.sources, self.targets]

    def sample_texts(self) -> list[str]:
        """Every text of both sides."""
        return [*self.sources, *(text for text in self.targets if text)]


ExamplesT = TypeVar("ExamplesT", bound=TaskExamples)


@dataclass(frozen=True)
class TaskSplits(Generic[ExamplesT]):
    """A task's training examples, labelled development examples, and test examples where they are wanted."""

    train: ExamplesT
    evaluation: ExamplesT
    test: ExamplesT | None = None

    def digest(self) -> str:
        """Hex digits that change with any example that decides a score."""
        return f"{self.train.digest()}-{self.evaluation.digest()}"
