"""Questions beside windows of their passages: a row for each window, a slot for each token of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.data.questions import Questions
from finetune.inputs.batches import EncodedRows
from finetune.inputs.encoder import PlacedTokens, RowEncoder
from finetune.inputs.features import TextRows
from finetune.inputs.rows import TaskRows
from pretraining.arrays import ragged_ranges

LONGEST_QUESTION = 64
"""Tokens of a question that are read (BERT's ``run_squad``, ``max_query_length``)."""


@dataclass(frozen=True, kw_only=True)
class PassageRows(TaskRows):
    """N windows of the passages of questions; S slots in all.

    A row's slots are its window's tokens, and one that stands for "no answer here". That one is where the template
    pools: at the row's last position, behind the tokens, or else at its first, before them. Where texts are read
    apart (frozen features), it is 0, and the tokens of the window are counted from 1.

    Args:
        characters: (S, 2) int32 characters [begin, end) of its passage that a slot stands for; -1 = "no answer".
        ends: (N, 2) int64 slots, counted in the row, of the answer's first and last token; "no answer" where the
            window lacks any of its tokens, as in BERT's ``run_squad``; -1 = nothing to learn, since no answer of the
            source is in the passage.
    """

    characters: NDArray[np.int32]
    ends: NDArray[np.int64]


class PassageWindows(NamedTuple):
    """N windows of the tokens of passages.

    Args:
        owners: (N,) int64 question.
        begins: (N,) int64 first token, in the passage.
        sizes: (N,) int64 tokens.
    """

    owners: NDArray[np.int64]
    begins: NDArray[np.int64]
    sizes: NDArray[np.int64]


def passage_windows(tokens: NDArray[np.int64], space: NDArray[np.int64], stride: int) -> PassageWindows:
    """Windows that cover each passage, from its first token to its last.

    Args:
        tokens: (Q,) tokens of each question's passage.
        space: (Q,) tokens that a window has room for, at least 1.
        stride: tokens that neighbouring windows share, but half a window at most (as ``run_qa``'s ``doc_stride``;
            BERT's own is the step from one window to the next).
    """
    step = space - np.minimum(stride, space // 2)
    counts = 1 + -(-np.maximum(tokens - space, 0) // step)
    owners = np.repeat(np.arange(len(tokens)), counts)
    begins = ragged_ranges(np.zeros_like(counts), counts) * step[owners]
    return PassageWindows(owners, begins, np.minimum(space[owners], tokens[owners] - begins))


def passage_rows(examples: Questions, encoder: RowEncoder, stride: int) -> PassageRows:
    """Every question with every window of its passage.

    A question keeps at most :data:`LONGEST_QUESTION` tokens, and at most half of the room; rows of longer ones count
    as cut. Where texts are read apart, a window has a whole row to itself.

    Args:
        examples: the questions.
        encoder: lays them out.
        stride: see :func:`passage_windows`.

    Raises:
        ZooError: no room, or a text so long that places in it are not known.
    """
    room = encoder.room(pair=not encoder.apart)
    where = [f"{examples.source}, question {name}" for name in examples.ids]
    asked = encoder.tokens(examples.questions, where)
    passages, of_question = _passages(examples, encoder, where)
    kept = np.minimum(asked.lengths, min(LONGEST_QUESTION, room // 2))
    space = np.full_like(kept, room) if encoder.apart else room - kept
    windows = passage_windows(passages.lengths[of_question], space, stride)
    owners = windows.owners
    first = asked.slices(owners, np.zeros_like(owners), kept[owners])
    second = passages.slices(of_question[owners], windows.begins, windows.sizes)
    cut = (kept < asked.lengths)[owners]
    last = not encoder.apart and encoder.template.pooling == "last"
    sequences: EncodedRows | TextRows
    if encoder.apart:
        sequences = encoder.laid_out_apart((first, second))
        sequences.texts = (dataclasses.replace(sequences.texts[0], cut=cut), sequences.texts[1])
        begins, none = np.ones_like(owners), np.zeros_like(owners)
    else:
        rows, found = encoder.laid_out(first, second)
        sequences = dataclasses.replace(rows, cut=cut)
        begins, none = found["$B"], rows.lengths - 1 if last else np.zeros_like(owners)
    places, at = _slots(begins, windows.sizes, none, last)
    characters = np.full((len(places), 2), -1, np.int32)
    firsts = np.cumsum(passages.lengths) - passages.lengths
    characters[at] = passages.places[ragged_ranges(firsts[of_question[owners]] + windows.begins, windows.sizes)]
    return PassageRows(
        sequences=sequences,
        owners=owners,
        slots=places,
        slot_sizes=windows.sizes + 1,
        characters=characters,
        ends=_ends(_answer_tokens(examples, passages, of_question), windows, last),
    )


def _passages(examples: Questions, encoder: RowEncoder, where: list[str]) -> tuple[PlacedTokens, NDArray[np.int64]]:
    """Tokens of each different passage, and which one each question is about."""
    numbers: dict[str, int] = {}
    of_question = np.array([numbers.setdefault(text, len(numbers)) for text in examples.passages], np.int64)
    _, firsts = np.unique(of_question, return_index=True)
    return encoder.tokens(list(numbers), [where[first] for first in firsts]), of_question


def _slots(
    begins: NDArray[np.int64], sizes: NDArray[np.int64], none: NDArray[np.int64], last: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in its row of each slot, and which slots are tokens.

    Args:
        begins: (N,) position of the window's first token in each row.
        sizes: (N,) tokens of the window.
        none: (N,) position that stands for "no answer".
        last: that one comes behind the tokens, else before them.
    """
    firsts = np.cumsum(sizes + 1) - (sizes + 1)
    places = np.empty(int((sizes + 1).sum()), np.int64)
    places[firsts + (sizes if last else 0)] = none
    at = ragged_ranges(firsts + (0 if last else 1), sizes)
    places[at] = ragged_ranges(begins, sizes)
    return places, at


def _answer_tokens(examples: Questions, passages: PlacedTokens, of_question: NDArray[np.int64]) -> NDArray[np.int64]:
    """(Q, 2) first and last token, in its passage, of each answer; -1 = no answer, -2 = one that is nowhere.

    A token that the answer holds any part of belongs to it.
    """
    found = np.full((len(examples), 2), -1, np.int64)
    stops = np.cumsum(passages.lengths)
    for row, (answers, place) in enumerate(zip(examples.answers, examples.places, strict=True)):
        if not answers:
            continue
        stop = stops[of_question[row]]
        own = passages.places[stop - passages.lengths[of_question[row]] : stop]
        inside = (
            np.zeros(0, np.int64) if place is None else np.nonzero((own[:, 0] < place[1]) & (own[:, 1] > place[0]))[0]
        )
        found[row] = (inside[0], inside[-1]) if len(inside) else -2
    return found


def _ends(tokens: NDArray[np.int64], windows: PassageWindows, last: bool) -> NDArray[np.int64]:
    """(N, 2) slots of the answer's ends in each window, see :class:`PassageRows`.

    Args:
        tokens: (Q, 2) see :func:`_answer_tokens`.
        windows: N of them.
        last: "no answer" stands behind the tokens, else before them.
    """
    own = tokens[windows.owners]
    inside = (own[:, 0] >= windows.begins) & (own[:, 1] < windows.begins + windows.sizes)
    nothing = windows.sizes if last else np.zeros_like(windows.sizes)
    ends = np.where(inside[:, None], own - windows.begins[:, None] + (0 if last else 1), nothing[:, None])
    return np.where(own < -1, -1, ends)
