"""Labelled texts in memory, and a task's two parts of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finetune.data.spans import RowSpans
from finetune.data.tasks import Task
from pretraining.random import Draw


@dataclass(frozen=True)
class LabelledTexts:
    """N labelled rows.

    Args:
        texts: (N,) first texts.
        pairs: (N,) second texts, or ``None`` for a task of single texts.
        labels: (N,) int64 class numbers.
        numbers: (N,) int64 row numbers in the source, counted from 0 without the header; dropped rows leave gaps.
        skipped: rows dropped because their label says there is no gold answer.
        source: where they come from.
        spans: (N,) each row's spans, or ``None`` for a task without.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    skipped: int
    source: str
    spans: list[RowSpans] | None = None

    def __len__(self) -> int:
        """Rows."""
        return len(self.texts)

    def limited(self, limit: int | None) -> LabelledTexts:
        """At most ``limit`` rows, the same ones always, chosen by hash (files are often sorted by source)."""
        if limit is None or limit >= len(self):
            return self
        chosen = np.sort(Draw(0, 0).permutation(len(self), "finetune.limit")[:limit])
        pairs, spans = (None if part is None else [part[i] for i in chosen] for part in (self.pairs, self.spans))
        texts, labels, numbers = [self.texts[i] for i in chosen], self.labels[chosen], self.numbers[chosen]
        return replace(self, texts=texts, pairs=pairs, labels=labels, numbers=numbers, spans=spans)

    def digest(self) -> str:
        """16 hex digits that change with any text, label or span."""
        hashed = hashlib.sha256(self.labels.tobytes())
        for texts in (self.texts, self.pairs or []):
            hashed.update(json.dumps(texts, ensure_ascii=False).encode())
        if self.spans is not None:
            hashed.update(json.dumps(self.spans, ensure_ascii=False).encode())
        return hashed.hexdigest()[:16]


@dataclass(frozen=True)
class TaskSplits:
    """A task's training rows and labelled development rows."""

    train: LabelledTexts
    evaluation: LabelledTexts

    def warnings(self, task: Task) -> list[str]:
        """What cannot be meant, and can be trained on."""
        if len(self.train) and len(classes := np.unique(self.train.labels)) == 1:
            return [
                f"{self.train.source}: all {len(self.train):,} rows that task {task.name!r} trains on have the label "
                f"{task.labels[classes[0]]!r}; no other can be learned."
            ]
        return []

    def digest(self) -> str:
        """Hex digits that change with any row of either."""
        return f"{self.train.digest()}-{self.evaluation.digest()}"
