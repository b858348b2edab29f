"""How far two float32 computations of one number may lie apart."""

from __future__ import annotations

import math

UNIT = 2.0**-24  # the largest relative error of one float32 rounding


def rounding(magnitude: float, terms: int, stages: int = 1) -> float:
    """The bound for two float32 results of the same sums, each computed in an order of its own.

    A sum of n products rounds n times, each time by at most ``UNIT`` of the partial sum, evenly spread over both signs:
    a standard deviation of ``UNIT / sqrt(3)`` of it. Partial sums grow to the result's magnitude M as in a random walk,
    so that together they miss by ``UNIT * M * sqrt(n / 6)``; a chain of k such sums, each of the same magnitude, by
    ``sqrt(k)`` times as much. The bound is 3.5 standard deviations for each of the two results (one in 2,000 values is
    farther off, if the sum is taken one by one; processors sum in 4 to 16 lanes, which rounds less):
    ``2 * 3.5 / sqrt(6) < 3``.

    A result that was *stored* as float32 is such a computation too, and is no better than that, however exactly the
    other side computes.

    Args:
        magnitude: the largest absolute value, of the results or of the partial sums where those are larger.
        terms: products of each sum.
        stages: sums that follow one another.
    """
    return 3.0 * UNIT * magnitude * math.sqrt(terms * stages)
