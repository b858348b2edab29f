"""The few statistics behind every verdict: seeds are the unit, arms are paired by seed.

Items (dev rows) are never resampled: with few seeds that finds effects that are not there. The t interval on
per-seed paired differences keeps its nominal coverage at every number of seeds (``test_statistics.py``).
scipy does the tests. It is imported where it is called: it takes half a second, and most commands need none of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError

FEWEST_SEEDS = 5
"""Fewest pairs that may carry a verdict."""
_SIGN_PATTERNS = 2**16
"""Most sign patterns that are looked at: all of them up to 16 pairs (in a second), a sample of them beyond that."""


class MeanSd(NamedTuple):
    """Mean, sample standard deviation (``None`` for one value) and number of values."""

    mean: float
    sd: float | None
    n: int


class Interval(NamedTuple):
    """A confidence interval's ends."""

    low: float
    high: float


class Paired(NamedTuple):
    """Comparison of two arms over the seeds that both have; differences are a - b.

    Args:
        n: pairs.
        mean_difference: mean of a - b.
        sd: standard deviation of the differences, ``None`` for one pair.
        interval: 95% t interval, ``None`` for one pair.
        correlation: of the paired scores; near 0, pairing bought nothing. ``None`` below 3 pairs or where
            an arm does not vary.
        p_t: two-sided p value of Student's t test, ``None`` for one pair.
        p_sign_flip: two-sided sign-flip p value; exact up to 16 pairs.
        verdict: ``a higher``, ``b higher`` or ``no difference shown``; below 5 pairs, that there is none.
        unpaired: seeds that only one arm has, left out.
    """

    n: int
    mean_difference: float
    sd: float | None
    interval: Interval | None
    correlation: float | None
    p_t: float | None
    p_sign_flip: float
    verdict: str
    unpaired: tuple[int, ...] = ()


def mean_sd(values: Sequence[float]) -> MeanSd:
    """Mean and sample standard deviation (n - 1).

    Raises:
        ZooError: no value, or one that is not finite.
    """
    array = _finite(values)
    return MeanSd(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def paired_t_test(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> tuple[Interval, float]:
    """Student's t test for the mean of a - b: its interval, and the two-sided p value of a mean of 0.

    Args:
        a: scores of one arm, (n,).
        b: scores of the other with the same seeds, (n,).
        level: coverage of the interval.

    Raises:
        ZooError: fewer than two pairs, or a level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ZooError(f"the level of an interval is {level}; a number between 0 and 1 is needed, 0.95 by habit.")
    left, right = _finite(a), _finite(b)
    if len(left) == 1:
        raise ZooError("one difference has no interval; at least two seeds are needed.")
    from scipy.stats import ttest_rel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of differences that are all alike, which are seen to below
        test = ttest_rel(left, right)
    low, high = test.confidence_interval(level)
    p = 1.0 if np.array_equal(left, right) else float(test.pvalue)  # scipy has nan for a mean of 0 without spread
    return Interval(float(low), float(high)), p


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare two arms, given as score by seed, over the seeds they share.

    Raises:
        ZooError: no seed in common.
    """
    seeds = sorted(set(a) & set(b))
    if not seeds:
        raise ZooError(f"the two arms share no seed ({sorted(a)} against {sorted(b)}); run both with the same seeds.")
    left, right = _finite([a[seed] for seed in seeds]), _finite([b[seed] for seed in seeds])
    differences = left - right
    mean, sd, n = mean_sd(differences.tolist())
    interval, p_t = paired_t_test(left.tolist(), right.tolist()) if n > 1 else (None, None)
    correlation = None
    if n > 2 and np.ptp(left) > 0 and np.ptp(right) > 0:
        correlation = float(np.corrcoef(left, right)[0, 1])
    unpaired = tuple(sorted(set(a) ^ set(b)))
    p_sign_flip = sign_flip(differences.tolist())
    return Paired(n, mean, sd, interval, correlation, p_t, p_sign_flip, _verdict(n, interval), unpaired)


def _verdict(n: int, interval: Interval | None) -> str:
    if n < FEWEST_SEEDS or interval is None:
        return f"no verdict from fewer than {FEWEST_SEEDS} seeds (n = {n})"
    if interval.low > 0:
        return "a higher"
    return "b higher" if interval.high < 0 else "no difference shown"


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided sign-flip p value of mean difference 0: the share of sign patterns at least as extreme.

    All 2^n patterns up to 16 differences, so the smallest possible value is 2 / 2^n; above that, 2^16 patterns
    drawn from a fixed key, the observed one counted.
    """
    array = _finite(differences)
    if len(array) == 1:
        return 1.0  # both patterns are as extreme; scipy takes two observations or more
    slack = 1e-9 * float(np.abs(array).sum())  # equal sums must compare as equal in floating point
    observed = abs(float(array.sum())) - slack

    def as_extreme(flipped: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return (np.abs(flipped.sum(axis=axis)) >= observed).astype(np.float64)

    from scipy.stats import permutation_test

    test = permutation_test(
        (array,),
        as_extreme,
        permutation_type="samples",  # of one sample: flips signs
        alternative="greater",
        n_resamples=_SIGN_PATTERNS,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given (family-wise error over all of them)."""
    array = _finite(pvalues) if len(pvalues) else np.zeros(0)
    order = np.argsort(array, kind="stable")
    factors = np.arange(len(array), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(array[order] * factors))
    result = np.empty(len(array))
    result[order] = adjusted
    return [float(value) for value in result]


def _finite(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ZooError("a list of at least one score is needed, found none.")
    if not np.isfinite(array).all():
        raise ZooError(f"score number {int(np.argmin(np.isfinite(array))) + 1} of {len(array)} is not finite.")
    return array
