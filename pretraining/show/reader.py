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

_COLUMN = "column of the clean row"  # an array that noise moves along with the tokens


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
        original: (L,) ids before corruption; where noise put a token in, that token.
        columns: (L,) place in the clean row of each token, -1 = noise put it in; absent = nothing was moved.
        written: what a decoder reads of its target, which is no piece of the plan.
    """

    source: TextSource
    epoch: int
    number: int
    rows: Examples
    inputs: CoreInputs
    original: Ints
    columns: Ints | None = None
    written: bool = False

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
        as_laid_out = all(objective.reads_rows for objective in self.source.task.objectives.values())
        ids: Ints = (self.inputs.input_ids[0].numpy() if as_laid_out else self.rows.input_ids[0])[: self.length]
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
        """(L,) where in the store each token is, -1 at template tokens and at those of noise or a decoder."""
        if self.written:
            return np.full(self.length, -1, dtype=np.int64)
        if self.columns is not None:
            clean, _ = self.source.task.rows(self.epoch, np.array([self.number]))
            before = RowReading(self.source, self.epoch, self.number, clean, self.inputs, clean.input_ids[0]).places
            return np.where(self.columns < 0, -1, before[self.columns])
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
        found = np.searchsorted(self.source.store.document_tokens(), self.places, side="right")
        if self.columns is None:
            return found
        # What noise put in belongs to the document of the token before it.
        known = np.where((self.columns >= 0) | self.special_tokens_mask, np.arange(self.length), 0)
        return found[np.maximum.accumulate(known)]

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
        put_in = np.zeros(self.length, dtype=bool) if self.columns is None else self.columns < 0
        for place in range(self.length):
            if put_in[place] and not self.special_tokens_mask[place]:
                outcomes.append("masked")
            elif changed[place]:
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
    numbers = np.arange(1, clean.shape[1] + 1, dtype=np.int32)[None, :]
    rows = corrupt(clean.replace(arrays={**clean.arrays, _COLUMN: numbers}), draw, task.objectives)
    length, arrays = int(rows.lengths[0]), dict(rows.arrays)
    columns = arrays.pop(_COLUMN)[0, :length].astype(np.int64) - 1
    rows = rows.replace(arrays=arrays)
    inputs = collate(rows, task.objectives).inputs
    if length == clean.lengths[0] and (columns == np.arange(length)).all():
        return RowReading(source, epoch, number, rows, inputs, clean.input_ids[0, :length])
    original = np.where(columns < 0, rows.input_ids[0, :length], clean.input_ids[0, columns])
    return RowReading(source, epoch, number, rows, inputs, original, columns)


def read_target(row: RowReading) -> RowReading:
    """What the decoder reads of a row whose encoder reads another one."""
    assert row.inputs.decoder is not None
    targets, decoder = row.rows.targets, row.inputs.decoder
    ids, length = targets["decoder_input_ids"], int(targets["target_lengths"][0])
    special = np.isin(ids, row.source.task.vocabulary.special_ids) | (np.arange(ids.shape[1]) >= length)
    rows = Examples(
        input_ids=ids,
        lengths=targets["target_lengths"],
        special_tokens_mask=special,
        token_flags=np.full(ids.shape, WORD_START, dtype=np.uint8),
        example_ids=row.rows.example_ids,
        document_ids=row.rows.document_ids,
        targets=targets,
    )
    inputs = row.inputs._replace(input_ids=decoder.input_ids, attention_pattern=decoder.attention_pattern, decoder=None)
    return RowReading(row.source, row.epoch, row.number, rows, inputs, ids[0, :length], written=True)
