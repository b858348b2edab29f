"""Choices that are made together: every idiom fills one blank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign_idioms(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The candidates of blanks that share one list, each used once: the assignment with the largest sum of scores.

    ChID's lines have one list of candidates for all blanks of their passages. Accuracy is counted per blank,
    whichever way the candidates were chosen. CLUE's baseline takes the best pair of blank and candidate that is left,
    again and again; the sum here is at least as large.

    Args:
        scores: (B, C) of blank and candidate: logarithms of probabilities, finite.

    Returns:
        (B,) candidate numbers. Where there are more blanks than candidates, the blanks that went without one get
        their own best.
    """
    from scipy.optimize import linear_sum_assignment

    chosen = scores.argmax(axis=1).astype(np.int64)
    blanks, candidates = linear_sum_assignment(scores, maximize=True)
    chosen[blanks] = candidates
    return chosen
