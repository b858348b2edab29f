"""Scores of predicted numbers: the correlations that GLUE reports for STS-B."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def pearson(gold: Values, predicted: Values) -> float:
    """Pearson's correlation; 0, not NaN, where either side is constant or there are fewer than two rows.

    Args:
        gold: (N,) targets.
        predicted: (N,) predictions, finite.

    Returns:
        The correlation in [-1, 1].
    """
    from scipy.stats import pearsonr

    return 0.0 if is_constant(gold) or is_constant(predicted) else _quiet(pearsonr, gold, predicted)


def spearman(gold: Values, predicted: Values) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0, not NaN, where either side is constant.

    Args:
        gold: (N,) targets.
        predicted: (N,) predictions, finite.

    Returns:
        The correlation in [-1, 1].
    """
    from scipy.stats import spearmanr

    return 0.0 if is_constant(gold) or is_constant(predicted) else _quiet(spearmanr, gold, predicted)


VALUE_METRICS: dict[str, Callable[[Values, Values], float]] = {"pearson": pearson, "spearman": spearman}
"""Metric functions of (gold, predicted), both (N,) numbers; scipy is imported when one is called."""


def is_constant(values: Values) -> bool:
    """Whether all values are the same, so that no correlation is defined: a report says so beside the 0."""
    return len(values) < 2 or bool((values == values[0]).all())


def value_scores(metrics: Sequence[str], gold: Values, predicted: Values) -> dict[str, float]:
    """The named correlations of one set of predictions."""
    return {name: VALUE_METRICS[name](gold, predicted) for name in metrics}


def mean_baseline(metrics: Sequence[str], gold: Values) -> dict[str, float]:
    """The named correlations of always answering the mean of the rows that are scored: 0, since it is constant."""
    return value_scores(metrics, gold, np.full_like(gold, gold.mean()))


def _quiet(correlation: Callable[..., tuple[float, float]], gold: Values, predicted: Values) -> float:
    with warnings.catch_warnings():  # of values that are constant up to rounding
        warnings.simplefilter("ignore")
        value = float(correlation(gold, predicted)[0])
    return value if np.isfinite(value) else 0.0
