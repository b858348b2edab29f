"""Metrics against hand-counted values, and the majority baseline."""

import math

import numpy as np
import pytest

from finetune.metrics.labels import METRICS, majority_baseline, scores

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


def counted(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The metrics from their definitions; of the correlation, Gorodkin's for any number of classes."""
    classes = sorted({*gold, *predicted})
    f1 = {}
    for one in classes:
        right = sum((gold == one) & (predicted == one))
        f1[one] = 2 * right / (sum(gold == one) + sum(predicted == one))
    one_hot = [np.array([[value == one for one in classes] for value in side], float) for side in (gold, predicted)]
    centred = [side - side.mean(axis=0) for side in one_hot]
    spread = math.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return {
        "accuracy": sum(gold == predicted) / len(gold),
        "f1": f1.get(1, 0.0),
        "macro_f1": sum(f1.values()) / len(classes),
        "matthews": (centred[0] * centred[1]).sum() / spread if spread else 0.0,
    }


@pytest.mark.parametrize("seed", range(20))
def test_metrics_follow_their_definitions_on_random_predictions(seed: int) -> None:
    draw = np.random.default_rng(seed)
    gold, predicted = draw.integers(0, 2, (2, draw.integers(2, 40)))
    assert scores(list(METRICS), gold, predicted) == pytest.approx(counted(gold, predicted))
    gold, predicted = draw.integers(0, 4, (2, 50))
    many = [name for name in METRICS if name != "f1"]
    assert scores(many, gold, predicted) == pytest.approx({name: counted(gold, predicted)[name] for name in many})


@pytest.mark.parametrize(
    ("gold", "predicted"), [((0, 0, 0), (1, 1, 1)), ((1, 1), (1, 1)), ((0,), (0,)), ((1, 0), (1, 1))]
)
def test_matthews_of_a_constant_side_is_zero(gold: tuple[int, ...], predicted: tuple[int, ...], recwarn) -> None:
    assert METRICS["matthews"](np.array(gold), np.array(predicted)) == 0.0
    assert not recwarn.list
