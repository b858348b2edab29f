"""Types of numpy arrays, and the one array function that every room needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Ints32 = NDArray[np.int32]


def ragged_ranges(starts: Ints, sizes: Ints) -> Ints:
    """start, start + 1, ... of each range, one range behind the other.

    Args:
        starts: (R,) first number of each range.
        sizes: (R,) how many numbers it has, 0 = none.
    """
    flat: Ints = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    flat += np.arange(len(flat))
    return flat
