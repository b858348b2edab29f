"""Correlations against their definitions, also where none is defined."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from finetune.metrics.values import VALUE_METRICS, is_constant, mean_baseline, value_scores


@pytest.mark.parametrize("seed", range(10))
def test_correlations_equal_scipys_with_ties(seed: int) -> None:
    draw = np.random.default_rng(seed)
    gold = draw.integers(0, 26, 60) / 5  # STS-B's scores have many ties
    predicted = gold + draw.normal(size=60)
    found = value_scores(("pearson", "spearman"), gold, predicted)
    assert found["pearson"] == pytest.approx(np.corrcoef(gold, predicted)[0, 1])
    assert found == pytest.approx({"pearson": pearsonr(gold, predicted)[0], "spearman": spearmanr(gold, predicted)[0]})


@pytest.mark.parametrize("metric", VALUE_METRICS)
def test_order_alone_decides_spearman_and_distance_pearson(metric: str) -> None:
    gold = np.arange(10.0)
    assert VALUE_METRICS[metric](gold, 2 * gold - 7) == pytest.approx(1)
    assert VALUE_METRICS[metric](gold, -gold) == pytest.approx(-1)
    assert (VALUE_METRICS[metric](gold, gold**5) == pytest.approx(1)) == (metric == "spearman")


@pytest.mark.parametrize("metric", VALUE_METRICS)
@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        ((0.0, 1.0, 2.0), (2.5, 2.5, 2.5)),
        ((2.0, 2.0, 2.0), (0.0, 1.0, 2.0)),
        ((3.0, 3.0), (3.0, 3.0)),
        ((1.0,), (2.0,)),
        ((), ()),
    ],
)
def test_an_undefined_correlation_is_zero_and_quiet(metric: str, gold: tuple, predicted: tuple, recwarn) -> None:
    assert VALUE_METRICS[metric](np.array(gold), np.array(predicted)) == 0.0
    assert not recwarn.list


def test_values_that_differ_by_rounding_only_give_a_number(recwarn) -> None:
    close = np.array([2.5, np.nextafter(2.5, 3), 2.5])
    assert not is_constant(close)
    assert all(-1 <= VALUE_METRICS[name](np.array([0.0, 1.0, 3.0]), close) <= 1 for name in VALUE_METRICS)
    assert not recwarn.list


def test_the_baseline_answers_the_mean() -> None:
    assert mean_baseline(("pearson", "spearman"), np.array([0.0, 5.0, 1.0])) == {"pearson": 0.0, "spearman": 0.0}
