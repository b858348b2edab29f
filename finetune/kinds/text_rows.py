"""Rows of texts and pairs, of one sequence each, or of both orders of a pair."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TypeVar

import numpy as np
from torch import Tensor

from finetune.data.examples import LabelledTexts
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.rows import TaskRows
from finetune.kinds.base import Outputs

ScoresT = TypeVar("ScoresT", Tensor, Outputs)


def rows_of_texts(examples: LabelledTexts, encoder: RowEncoder) -> TaskRows:
    """A row for each example; where the encoder asks for both orders of a pair, of two sequences.

    GPT reads a symmetric pair in both orders and adds the two states (specs: GPT, section 5).
    """
    owners = np.arange(len(examples))
    if not encoder.both_orders or examples.pairs is None:
        return TaskRows(encoder.rows(examples), owners)
    sides = list(zip(examples.texts, examples.pairs, strict=True))
    spans = None
    if examples.spans is not None:
        spans = list(itertools.chain.from_iterable((row, row[::-1]) for row in examples.spans))
    both = replace(
        examples,
        texts=list(itertools.chain.from_iterable(sides)),
        pairs=list(itertools.chain.from_iterable((b, a) for a, b in sides)),
        labels=np.repeat(examples.labels, 2),
        numbers=np.repeat(examples.numbers, 2),
        spans=spans,
    )
    return TaskRows(encoder.rows(both), owners, sizes=np.full(len(examples), 2, np.int64))


def one_a_row(scores: ScoresT, rows: int) -> ScoresT:
    """(rows, width) scores, of (rows, width) or, for both orders, of (2 rows, width), which are added.

    The head is linear, so adding its scores is adding the states, as GPT does.
    """
    if len(scores) == rows:
        return scores
    return scores.reshape(rows, 2, scores.shape[-1]).sum(1)
