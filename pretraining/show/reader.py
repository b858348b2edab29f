"""One row of a plan as a run would read it: laid out, corrupted, collated, and each token's place in the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.annotations.base import Annotator
from pretraining.arrays import WORD_START
from pretraining.layouts.examples import Examples
from pretraining.objectives.base import collate, corrupt
from pretraining.show.text_store import TextStore
from pretraining.show.views import Bools, Ints, TokenOutcome, TokenPrinter
from pretraining.training.loader import TaskLoader
from zoo.config import CoreConfig
from zoo.inputs import CoreInputs


@dataclass(frozen=True)
class TextSource:
    """What all rows of a task and seed have in common.

    Args:
        task: the task, under one seed.
        store: the text, and other documents behind it.
        printer: ids to tokens.
        config: of the core that will read the rows.
        annotations: what fills the text's arrays, by their names.
    """

    task: TaskLoader
    store: TextStore
    printer: TokenPrinter
    config: CoreConfig
    annotations: Mapping[str, Annotator]

    def class_name(self, array: str, number: int) -> str:
        """What the record calls the class of this number."""
        names = getattr(self.annotations.get(array), "values", None)
        if isinstance(names, list):
            return str(names[number])
        if array == getattr(self.task.layout, "role", None):
            return ("query", "response")[number] if number < 2 else f"speaker {number + 1}"
        return str(number)


@dataclass(frozen=True)
class RowReading:
    """One row. L real positions; ``rows`` and ``inputs`` hold this row alone, and may be wider.

    Args:
        source: where it comes from.
        epoch: pass over the data.
        number: its number in the plan, the key of its draws.
        rows: as the objectives' corruption left it.
        inputs: the same, collated.
        original: (L,) ids before corruption.
    """

    source: TextSource
    epoch: int
    number: int
    rows: Examples
    inputs: CoreInputs
    original: Ints

    @property
    def length(self) -> int:
        """L."""
        return len(self.original)

    @property
    def backwards(self) -> bool:
        """Whether the row's text runs from its end to its start."""
        return self.rows.reversed is not None and bool(self.rows.reversed[0])

    @cached_property
    def read(self) -> Ints:
        """(L,) ids that the core reads."""
        ids: Ints = self.inputs.input_ids[0, : self.length].numpy()
        return ids

    @cached_property
    def special_tokens_mask(self) -> Bools:
        """(L,) True at the layout's template tokens."""
        return self.rows.special_tokens_mask[0, : self.length]

    @cached_property
    def starts(self) -> Bools:
        """(L,) True where a word or a template token starts."""
        starts: Bools = (self.rows.token_flags[0, : self.length] & WORD_START != 0) | self.special_tokens_mask
        return starts

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """(L,) where in the store each token is, -1 at template tokens."""
        plan = self.source.task.plan(self.epoch)[0]
        pieces = slice(plan.offsets[self.number], plan.offsets[self.number + 1])
        way = -1 if self.backwards else 1
        both = zip(plan.piece_starts[pieces], plan.lengths[pieces], strict=True)
        flat = np.concatenate([np.arange(start, start + count)[::way] for start, count in both] or [np.zeros(0)])
        places = np.full(self.length, -1, dtype=np.int64)
        text = np.flatnonzero(~self.special_tokens_mask)
        places[text[: len(flat)]] = flat[: len(text)]
        return places

    @cached_property
    def documents(self) -> NDArray[np.int64]:
        """(L,) number of each token's document in the store, from 1 on; 0 at template tokens."""
        return np.searchsorted(self.source.store.document_tokens(), self.places, side="right")

    @cached_property
    def nearest(self) -> NDArray[np.int64]:
        """(L,) the token of the text that each position belongs to: a separator to what it closes."""
        first = int((~self.special_tokens_mask).argmax())
        nearest: NDArray[np.int64] = np.maximum.accumulate(
            np.where(self.special_tokens_mask, first, np.arange(self.length))
        )
        return nearest

    @cached_property
    def outcomes(self) -> list[TokenOutcome]:
        """(L,) what happened to each token."""
        changed = self.read != self.original
        chosen = self.rows.targets.get("selected", self.rows.special_tokens_mask & False)[0]
        outcomes: list[TokenOutcome] = []
        for place in range(self.length):
            if changed[place]:
                hidden = self.read[place] == self.source.task.vocabulary.mask
                outcomes.append("masked" if hidden else "replaced")
            elif chosen[place]:
                outcomes.append("kept")
            else:
                outcomes.append("template" if self.special_tokens_mask[place] else "plain")
        return outcomes

    def array(self, name: str) -> NDArray[Any]:
        """(L,) a named array of the store at the row's tokens."""
        return self.rows.arrays[name][0, : self.length]


def read_row(source: TextSource, epoch: int, number: int) -> RowReading:
    """Row ``number`` of the plan of an epoch, through the loader that training uses."""
    task = source.task
    clean, draw = task.rows(epoch, np.array([number]))
    rows = corrupt(clean, draw, task.objectives)
    inputs = collate(rows, task.objectives).inputs
    return RowReading(source, epoch, number, rows, inputs, clean.input_ids[0, : int(rows.lengths[0])])
