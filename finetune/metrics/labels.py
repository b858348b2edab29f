"""Scores of class labels by name, and what a classifier that always gives one answer would score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Metric = Callable[[Labels, Labels], float]


def accuracy(gold: Labels, predicted: Labels) -> float:
    """Share of rows with the right class; of multiple choice, the share of questions (or blanks) with the right one."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(gold, predicted))


def binary_f1(gold: Labels, predicted: Labels) -> float:
    """F1 of class 1, GLUE's convention for MRPC and QQP; 0 where nothing is predicted positive."""
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, pos_label=1, average="binary", zero_division=0))


def macro_f1(gold: Labels, predicted: Labels) -> float:
    """Mean of the classes' F1, over the classes that either side has."""
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, average="macro", zero_division=0))


def matthews(gold: Labels, predicted: Labels) -> float:
    """Matthews correlation, 0 by definition where either side is constant, also where both are and agree."""
    from sklearn.metrics import matthews_corrcoef

    constant = any(len(np.unique(side)) < 2 for side in (gold, predicted))
    return 0.0 if constant else float(matthews_corrcoef(gold, predicted))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "f1": binary_f1, "macro_f1": macro_f1, "matthews": matthews}
"""Metric functions of (gold, predicted), both (N,) class numbers; scikit-learn is imported when one is called."""


def scores(metrics: Sequence[str], gold: Labels, predicted: Labels) -> dict[str, float]:
    """The named metrics of one set of predictions."""
    return {name: METRICS[name](gold, predicted) for name in metrics}


def majority_baseline(metrics: Sequence[str], gold: Labels) -> dict[str, float]:
    """The named metrics of always answering the most frequent class of the rows that are scored (ties: the first)."""
    answer = int(np.bincount(gold).argmax())
    return scores(metrics, gold, np.full_like(gold, answer))
