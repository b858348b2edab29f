"""Types of numpy arrays, the flags of a token, and the one array function that every room needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Ints32 = NDArray[np.int32]

# Flags of a token: bits of the uint8 that the store keeps beside each id.
WORD_START = 1
"""A word starts here."""
SENTENCE_START = 2
"""A sentence starts here."""
CAPITALISED = 4
"""Part of a word whose first letter was upper case."""


def ragged_ranges(starts: Ints, sizes: Ints) -> Ints:
    """start, start + 1, ... of each range, one range behind the other.

    Args:
        starts: (R,) first number of each range.
        sizes: (R,) how many numbers it has, 0 = none.
    """
    flat: Ints = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    flat += np.arange(len(flat))
    return flat
