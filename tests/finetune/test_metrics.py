"""Metrics against hand-counted values, and the majority baseline."""

import math

import numpy as np
import pytest

from finetune.metrics import METRICS, majority_baseline, scores

GOLD = np.array([1, 1, 1, 0, 0, 1, 0, 1])
PREDICTED = np.array([1, 0, 1, 0, 1, 1, 0, 1])  # tp 4, fp 1, fn 1, tn 2


def test_binary_metrics_match_hand_counts() -> None:
    found = scores(("accuracy", "f1", "matthews"), GOLD, PREDICTED)
    assert found["accuracy"] == pytest.approx(6 / 8)
    assert found["f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    assert found["matthews"] == pytest.approx((4 * 2 - 1 * 1) / math.sqrt(5 * 5 * 3 * 3))


def test_f1_is_of_the_second_class_only() -> None:
    assert METRICS["f1"](GOLD, PREDICTED) != pytest.approx(METRICS["f1"](1 - GOLD, 1 - PREDICTED))


def test_macro_f1_averages_classes() -> None:
    gold, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    assert METRICS["macro_f1"](gold, predicted) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize("metric", METRICS)
def test_perfect_predictions_score_one(metric: str) -> None:
    assert METRICS[metric](GOLD, GOLD) == pytest.approx(1.0)


def test_constant_predictions_are_defined_and_quiet(recwarn) -> None:
    zeros = np.zeros_like(GOLD)
    assert METRICS["matthews"](GOLD, zeros) == 0.0
    assert METRICS["f1"](GOLD, zeros) == 0.0
    assert not recwarn.list


def test_majority_is_that_of_the_rows_that_are_scored() -> None:
    """The best that one answer gets there: of few rows others can be frequent than in training."""
    assert majority_baseline(("accuracy", "f1"), GOLD) == pytest.approx({"accuracy": 5 / 8, "f1": 10 / 13})
    assert majority_baseline(("accuracy",), np.array([15, 3, 3, 0]))["accuracy"] == pytest.approx(1 / 2)
