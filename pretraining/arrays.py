"""Small helpers on numpy arrays that rooms share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ragged_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenated ranges [start, start + length).

    Args:
        starts: (n,) first number of each range.
        lengths: (n,) how many numbers it has.

    Returns:
        (sum of the lengths,) one range after the other.
    """
    before = np.cumsum(lengths) - lengths
    flat: NDArray[np.int64] = np.repeat(starts - before, lengths)
    flat += np.arange(len(flat))
    return flat
