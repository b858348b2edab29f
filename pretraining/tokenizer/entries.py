"""Encoded units, a token packed into one number; and from its place in its unit where in its text each token stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import ragged_ranges
from pretraining.tokenizer.characters import SPACE, code_points, is_space

FlatIds = tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]
"""All ids and all flags of some texts, end to end, and the (texts,) numbers of tokens."""
LONGEST_TEXT = 2**17 - 1
"""Characters of a text whose tokens' places are known."""
_FLAGS = 2**4 - 1
_BEGIN, _END, _ID = 4, 21, 38  # bits of a token's number: 4 of flags, twice 17 of its place, then the id


# --- a token as one number -------------------------------------------------------------------------


def pack(
    ids: NDArray[np.int64], flags: NDArray[np.integer], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n,) one number for each token; places are known up to :data:`LONGEST_TEXT`."""
    packed: NDArray[np.int64] = ids << _ID | end << _END | begin << _BEGIN | flags
    return packed


def ids_and_flags(packed: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """(n,) ids and (n,) flags of packed tokens."""
    return (packed >> _ID).astype(np.int32), (packed & _FLAGS).astype(np.uint8)


def places_of(packed: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) first character of the unit or text that each packed token stands for, and (n,) the one behind its last."""
    return (packed >> _BEGIN) & LONGEST_TEXT, (packed >> _END) & LONGEST_TEXT


# --- tokens of many units --------------------------------------------------------------------------


class Entries(NamedTuple):
    """What units or texts are encoded as.

    Args:
        tokens: all packed tokens, end to end.
        sizes: (e,) tokens of each entry.
        lengths: (e,) its characters.
    """

    tokens: NDArray[np.int64]
    sizes: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @staticmethod
    def none() -> Entries:
        """No entry."""
        nothing = np.zeros(0, dtype=np.int64)
        return Entries(nothing, nothing, nothing)

    def join(self, more: Entries) -> Entries:
        """These, and others behind them."""
        return Entries(*(np.concatenate(pair) for pair in zip(self, more)))

    def tokens_of(self, entry: NDArray[np.int64]) -> NDArray[np.int64]:
        """Packed tokens of the entries with these numbers, end to end."""
        starts = np.cumsum(self.sizes) - self.sizes
        return self.tokens[ragged_ranges(starts[entry], self.sizes[entry])]


# --- from places in units to places in texts -------------------------------------------------------


class UnitTokens(NamedTuple):
    """The tokens of all units of some texts, end to end.

    Args:
        lengths: (u,) characters of each unit.
        sizes: (u,) tokens of each unit.
        begin: (n,) first character of each token in its unit.
        end: (n,) the character behind its last one.
        marker: (n,) tokens that only mark where a word starts.
    """

    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    marker: NDArray[np.bool_]


def places_in_texts(
    texts: Sequence[str], spaced: NDArray[np.bool_], units: UnitTokens, sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n, 2) first character and end of each token in its text: see :meth:`ZooTokenizer.encode_places`.

    A unit's tokens know their places in the unit. Units of a text cover its characters in order, all of them
    (``spaced``) or all but the spaces, so the k-th character of all units is the k-th such character of the texts.

    Args:
        texts: the texts.
        spaced: (texts,) whether its units cover its spaces.
        units: their tokens.
        sizes: (texts,) tokens of each text.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    shift = np.cumsum(lengths + 1) - lengths - 1
    codes = code_points(texts)
    covered = (codes != SPACE) | np.repeat(spaced, lengths + 1)
    covered[shift + lengths] = False  # the line feed behind each text
    character = np.append(np.flatnonzero(covered), len(codes))
    first = np.repeat(np.cumsum(units.lengths) - units.lengths, units.sizes)
    begin, end = units.begin, units.end
    edges = np.stack(
        [character[first + begin], character[first + np.maximum(end, begin + 1) - 1] + (end > begin)], axis=1
    )
    return _without_space(units.marker, edges, codes) - np.repeat(shift, sizes)[:, None]


def _without_space(marker: NDArray[np.bool_], edges: NDArray[np.int64], codes: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Places without white space at their sides; lone markers have none."""
    visible = np.flatnonzero(~is_space(codes))
    if not len(visible) or not len(marker):
        return edges
    begin = np.append(visible, len(codes))[np.searchsorted(visible, edges[:, 0])]
    end = np.append(-1, visible)[np.searchsorted(visible, edges[:, 1])] + 1
    blank = begin >= end
    before = edges[:, 0] - (marker & ~blank)  # the marker of a word that no space stands before
    trimmed = np.stack([begin, end], axis=1)
    return np.where((blank | marker)[:, None], before[:, None], trimmed)
