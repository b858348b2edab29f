"""Pieces of a store to a padded batch of examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START, Ints, ragged_ranges
from pretraining.layouts.base import Plan
from pretraining.layouts.examples import Examples
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

# --- from a plan to rows ---------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Where the Q pieces of B rows go in a padded, flattened grid.

    Args:
        lengths: (B,) tokens of each row.
        width: columns of the grid.
        piece: (Q,) number of each piece in the plan.
        cell: (Q,) flat cell of each piece's first token.
        tokens: (Q,) tokens of each piece.
        follows: (Q,) 1 where a separator follows the piece, else 0.
    """

    lengths: Ints
    width: int
    piece: Ints
    cell: Ints
    tokens: Ints
    follows: Ints


def _grid(plan: Plan, indices: Ints, opens: bool, closes: bool) -> _Grid:
    first = plan.offsets[indices]
    counts = plan.offsets[indices + 1] - first
    piece = ragged_ranges(first, counts)
    row = np.repeat(np.arange(len(indices)), counts)
    tokens = plan.lengths[piece].astype(np.int64)
    follows = np.ones_like(tokens) if plan.separators is None else plan.separators[piece].astype(np.int64)
    ends = np.cumsum(tokens + follows)
    row_ends = np.append(0, ends)[np.cumsum(counts)]
    row_starts = np.append(0, row_ends[:-1])
    lengths = row_ends - row_starts + int(opens) + int(closes)
    width = int(lengths.max(initial=1))
    cell = row * width + ends - tokens - follows - row_starts[row] + int(opens)
    return _Grid(lengths, width, piece, cell, tokens, follows)


def build_examples(
    store: Store, plan: Plan, indices: Ints, length: int, vocabulary: Vocabulary, opens: bool, closes: bool = False
) -> Examples:
    """The named rows of a plan as one padded batch; no Python per row or token.

    Args:
        store: where the tokens are.
        plan: the table of rows.
        indices: (B,) rows wanted.
        length: longest row allowed, template tokens included.
        vocabulary: gives the template tokens and the padding id (0 where there is none).
        opens: whether rows begin with the opening token.
        closes: whether they end with it, in a segment of its own.

    Raises:
        ZooError: the plan was made for longer rows.
    """
    indices = np.asarray(indices, dtype=np.int64)
    grid = _grid(plan, indices, opens, closes)
    if grid.width > length:
        raise ZooError(f"a row of this plan has {grid.width} tokens, rows of {length} were asked for: plan again.")
    shape, size = (len(indices), grid.width), len(indices) * grid.width
    place, source = ragged_ranges(grid.cell, grid.tokens), _sources(plan, indices, grid)

    def fetched(values: NDArray[Any], fill: int, dtype: Any) -> NDArray[Any]:
        cells = np.full(size, fill, dtype=dtype)
        cells[place] = np.asarray(values)[source]
        return cells

    input_ids = fetched(store.tokens, vocabulary.pad or 0, np.int32)
    if grid.follows.any():
        input_ids[(grid.cell + grid.tokens)[grid.follows > 0]] = _id(vocabulary.sep)
    if opens:
        input_ids[:: grid.width] = _id(vocabulary.cls)
    last = np.arange(len(indices)) * grid.width + grid.lengths - 1
    if closes:
        input_ids[last] = _id(vocabulary.cls)
    special = np.ones(size, dtype=bool)
    special[place] = False
    rows = Examples(
        input_ids=input_ids.reshape(shape),
        lengths=grid.lengths,
        special_tokens_mask=special.reshape(shape),
        token_flags=fetched(store.flags, WORD_START, np.uint8).reshape(shape),
        example_ids=indices,
        document_ids=plan.documents[indices],
        next_token=None if plan.next_token is None else plan.next_token[indices],
        reversed=None if plan.reversed is None else plan.reversed[indices],
        arrays={name: fetched(values, 0, values.dtype).reshape(shape) for name, values in store.arrays.items()},
    )
    if plan.row_labels is None:
        return rows
    types = np.zeros(size, dtype=np.int32)
    later = plan.piece_types[grid.piece] != 0
    spans = (grid.tokens + grid.follows)[later]
    types[ragged_ranges(grid.cell[later], spans)] = np.repeat(plan.piece_types[grid.piece][later], spans)
    if closes:
        types[last] = 2
    return rows.replace(token_type_ids=types.reshape(shape), row_labels=plan.row_labels[indices].astype(np.int64))


def _sources(plan: Plan, indices: Ints, grid: _Grid) -> Ints:
    """Token of the store for every token of the grid, piece by piece, from the end where a row is read backwards."""
    starts = plan.piece_starts[grid.piece]
    source = ragged_ranges(starts, grid.tokens)
    if plan.reversed is None:
        return source
    backwards = np.repeat(plan.reversed[indices], plan.offsets[indices + 1] - plan.offsets[indices])
    mirrored: Ints = np.repeat(2 * starts + grid.tokens - 1, grid.tokens) - source
    return np.where(np.repeat(backwards, grid.tokens), mirrored, source)


def _id(special: int | None) -> int:
    """A special id that ``plan`` has made sure of."""
    if special is None:
        raise ZooError("this plan was made with a tokenizer that has template tokens; the one given has not.")
    return special


def examples_from_tokens(
    sentences: Sequence[tuple[Sequence[int] | NDArray[Any], Sequence[int] | NDArray[Any]]],
    vocabulary: Vocabulary,
    template_prefix: Sequence[int] = (),
    template_suffix: Sequence[int] = (),
) -> Examples:
    """Rows of texts that are already tokenised, for scoring and showing.

    Args:
        sentences: (token ids, flag bits per token) of each text.
        vocabulary: gives the padding id.
        template_prefix: special ids before each text, for example ``[cls]``.
        template_suffix: special ids after each text, for example ``[sep]``.
    """
    before, after = len(template_prefix), len(template_suffix)
    lengths = np.array([len(ids) + before + after for ids, _ in sentences], dtype=np.int64)
    shape = (len(sentences), int(lengths.max(initial=1)))
    input_ids = np.full(shape, vocabulary.pad or 0, dtype=np.int32)
    special = np.ones(shape, dtype=bool)
    flags = np.full(shape, WORD_START, dtype=np.uint8)
    for row, (ids, bits) in enumerate(sentences):
        if len(ids) != len(bits):
            raise ValueError(f"text {row} has {len(ids)} ids but {len(bits)} flags")
        end = before + len(ids)
        input_ids[row, :before], input_ids[row, before:end] = template_prefix, ids
        input_ids[row, end : end + after] = template_suffix
        special[row, before:end], flags[row, before:end] = False, bits
    number = np.arange(len(sentences), dtype=np.int64)
    return Examples(input_ids, lengths, special, flags, example_ids=number, document_ids=number)
