"""Rows that lose tokens, get others and change their order: what noises that change a row's length share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START, Bools, Ints, Ints32
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples

_NEVER = np.uint32(0xFFFFFFFF)


class Insertions(NamedTuple):
    """Tokens that are put into rows, row by row and from left to right. I = their number.

    Args:
        row: (I,) row of each, ascending.
        cell: (I,) flat cell, row * L + column, before which it stands; row * L + L = at the end of a full row.
        ids: (I,) token ids.
        flags: (I,) flags of the tokens.
        special: whether they are template tokens.
    """

    row: Ints
    cell: Ints
    ids: Ints32
    flags: NDArray[np.uint8]
    special: bool = False


def splice(rows: Examples, kept: Bools, inserted: Insertions, pad: int) -> Examples:
    """Rows with some of their tokens and with others put in, closed up.

    Args:
        rows: B rows.
        kept: (B, L) tokens that stay, which no padding is among.
        inserted: what is put in; of the store's arrays, an inserted token has 0.
        pad: id that stands behind a row's end.
    """
    count, width = rows.shape
    stays = kept.reshape(-1)
    cells = np.flatnonzero(stays)
    before = np.bincount(inserted.cell, minlength=len(stays) + 1)
    lengths = kept.sum(axis=1) + np.bincount(inserted.row, minlength=count)
    # Place of each token where all rows stand one behind the other, then in the new grid.
    place = np.arange(len(cells)) + np.cumsum(before)[cells]
    kept_before = np.append(0, np.cumsum(stays))
    new_place = np.arange(len(inserted.cell)) + kept_before[inserted.cell]
    new_width = int(lengths.max(initial=1))
    shift = np.arange(count) * new_width - (np.cumsum(lengths) - lengths)
    place += shift[cells // width]
    new_place += shift[inserted.row]

    def moved(values: NDArray[Any], fill: int | bool, new: Any) -> NDArray[Any]:
        grid = np.full(count * new_width, fill, dtype=values.dtype)
        grid[place] = values.reshape(-1)[cells]
        grid[new_place] = new
        return grid.reshape(count, new_width)

    types, documents = rows.token_type_ids, rows.token_document
    return rows.replace(
        input_ids=moved(rows.input_ids, pad, inserted.ids),
        lengths=lengths,
        special_tokens_mask=moved(rows.special_tokens_mask, True, inserted.special),
        token_flags=moved(rows.token_flags, WORD_START, inserted.flags),
        token_type_ids=None if types is None else moved(types, 0, _beside(types, inserted)),
        token_document=None if documents is None else moved(documents, 0, _beside(documents, inserted)),
        next_token=None,
        arrays={name: moved(values, 0, 0) for name, values in rows.arrays.items()},
    )


def _beside(values: NDArray[Any], inserted: Insertions) -> NDArray[Any]:
    """What the token has before which another one is put, or the row's last cell."""
    found: NDArray[Any] = values.reshape(-1)[
        np.minimum(inserted.cell, inserted.row * values.shape[1] + values.shape[1] - 1)
    ]
    return found


def closed(rows: Examples, token: int, pad: int) -> Examples:
    """Rows with a template token behind their last one, where it is not there already."""
    count, width = rows.shape
    last = rows.input_ids[np.arange(count), np.maximum(rows.lengths - 1, 0)]
    row = np.flatnonzero((last != token) | (rows.lengths == 0))
    flags = np.full(len(row), WORD_START, dtype=np.uint8)
    end = Insertions(
        row, row * width + rows.lengths[row], np.full(len(row), token, dtype=np.int32), flags, special=True
    )
    return splice(rows, rows.real, end, pad)


def rearranged(rows: Examples, into: Ints, source: Ints) -> Examples:
    """Rows whose tokens change places: flat cell ``into[i]`` gets what stood at flat cell ``source[i]``."""

    def moved(values: NDArray[Any]) -> NDArray[Any]:
        grid = values.copy()
        grid.reshape(-1)[into] = values.reshape(-1)[source]
        return grid

    types, documents = rows.token_type_ids, rows.token_document
    return rows.replace(
        input_ids=moved(rows.input_ids),
        token_flags=moved(rows.token_flags),
        token_type_ids=None if types is None else moved(types),
        token_document=None if documents is None else moved(documents),
        next_token=None,
        arrays={name: moved(values) for name, values in rows.arrays.items()},
    )


def drawn_places(draw: Draw, examples: Ints, places: Ints, wanted: Ints, stream: str) -> Bools:
    """(B, P) so many of each row's places, uniformly and without replacement.

    Args:
        draw: random numbers.
        examples: (B,) whose they are.
        places: (B,) places that there are; P = the most of any row.
        wanted: (B,) how many are chosen, at most ``places``.
        stream: name of the draws.
    """
    width = int(places.max(initial=0))
    bits = draw.bits(examples, max(width, 1), stream)
    np.putmask(bits, np.arange(bits.shape[1])[None, :] >= places[:, None], _NEVER)
    ranked = np.sort(bits, axis=1)
    threshold = ranked[np.arange(len(wanted)), np.maximum(wanted - 1, 0)]
    chosen: Bools = bits <= threshold[:, None]
    chosen[wanted == 0] = False
    return chosen[:, :width]
