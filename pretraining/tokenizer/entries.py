"""What units and texts are encoded as: each token packed into one number, all of them end to end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import ragged_ranges

FlatIds = tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]
"""All ids and all flags of some texts, end to end, and the (texts,) numbers of tokens."""
LONGEST_TEXT = 2**17 - 1
"""Characters of a text whose tokens' places are known."""
_FLAGS = 2**4 - 1
_BEGIN, _END, _ID = 4, 21, 38  # bits of a token's number: 4 of flags, twice 17 of its place, then the id


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
