"""The statistics behind the verdicts: known values, and a simulated A/A test of the interval's coverage."""

import itertools

import numpy as np
import pytest

from finetune.results.statistics import holm, mean_sd, paired, paired_t_test, sign_flip
from zoo.errors import ZooError


def test_mean_sd_is_the_sample_deviation() -> None:
    mean, sd, n = mean_sd([1.0, 2.0, 4.0])
    assert (mean, n) == (pytest.approx(7 / 3), 3)
    assert sd == pytest.approx(np.sqrt(7 / 3))
    assert mean_sd([0.5]).sd is None


def test_t_interval_matches_the_table() -> None:
    # half-widths in units of sd, as design/measures.md tabulates them
    for n, half in ((3, 2.48), (5, 1.24), (8, 0.836), (10, 0.715)):
        values = np.arange(n, dtype=float)
        (low, high), _ = paired_t_test(values.tolist(), [0.0] * n)
        assert (high - low) / 2 / values.std(ddof=1) == pytest.approx(half, abs=0.005)
        assert (low + high) / 2 == pytest.approx(values.mean())


@pytest.mark.parametrize("n", [3, 5, 10])
def test_simulated_equal_arms_are_covered_at_the_nominal_rate(n: int) -> None:
    """A/A: two arms with the same mean, a seed effect in common and noise of their own."""
    generator = np.random.default_rng(20260 + n)
    runs = 1000
    covered = 0
    for _ in range(runs):
        shared = generator.normal(size=n)
        a, b = 70 + shared + generator.normal(size=n), 70 + shared + generator.normal(size=n)
        interval, _ = paired_t_test(a.tolist(), b.tolist())
        covered += interval.low <= 0 <= interval.high
    assert 0.93 <= covered / runs <= 0.97  # 0.95, give or take three standard errors of a share of 1000


def test_sign_flip_enumerates_all_patterns() -> None:
    values = [0.3, -0.1, 0.7, 0.2, 0.05]
    sums = [abs(sum(s * v for s, v in zip(signs, values))) for signs in itertools.product((1, -1), repeat=5)]
    assert sign_flip(values) == pytest.approx(np.mean([s >= sum(values) - 1e-12 for s in sums]))
    assert sign_flip([1.0, 2.0, 3.0]) == 0.25  # the least three pairs can give
    assert sign_flip([0.1] * 10) == pytest.approx(2 / 1024)  # rounding must not lose the extreme pattern
    assert sign_flip([0.0, 0.0]) == 1.0
    many = np.random.default_rng(1).normal(size=25).tolist()
    assert 0.0 < sign_flip(many) <= 1.0


def test_paired_uses_common_seeds_and_says_which_were_left_out() -> None:
    a = {1: 0.80, 2: 0.82, 3: 0.81, 4: 0.84, 5: 0.83, 9: 0.1}
    b = {1: 0.70, 2: 0.71, 3: 0.72, 4: 0.73, 5: 0.74, 8: 0.9}
    result = paired(a, b)
    assert result.n == 5
    assert result.mean_difference == pytest.approx(0.1)
    assert result.unpaired == (8, 9)
    assert result.verdict == "a higher"
    assert paired(b, a).verdict == "b higher"
    assert result.correlation == pytest.approx(
        np.corrcoef([a[i] for i in range(1, 6)], [b[i] for i in range(1, 6)])[0, 1]
    )
    assert result.p_sign_flip == pytest.approx(2 / 32)


def test_few_seeds_carry_no_verdict() -> None:
    four = paired({i: 1.0 + 0.001 * i for i in range(4)}, dict.fromkeys(range(4), 0.0))
    assert four.interval is not None
    assert four.interval.low > 0
    assert "no verdict from fewer than 5 seeds" in four.verdict
    one = paired({1: 0.5}, {1: 0.4})
    assert (one.n, one.sd, one.interval, one.correlation) == (1, None, None, None)
    assert (one.p_t, one.p_sign_flip) == (None, 1.0)


@pytest.mark.parametrize(("difference", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_differences_without_spread_have_an_interval_of_one_point(difference: float, p: float) -> None:
    result = paired({i: 1.0 + difference + i for i in range(5)}, {i: 1.0 + i for i in range(5)})
    assert result.interval == (difference, difference)
    assert result.p_t == p
    assert result.p_sign_flip == (1.0 if difference == 0.0 else 2 / 32)


def test_holm_adjusts_and_keeps_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: mean_sd([]), "at least one score"),
        (lambda: mean_sd([1.0, float("nan")]), "number 2 of 2 is not finite"),
        (lambda: paired_t_test([1.0], [0.0]), "at least two seeds"),
        (lambda: paired_t_test([1.0, 2.0], [0.0, 0.0], level=95), "between 0 and 1"),
        (lambda: paired({1: 0.1}, {2: 0.1}), "share no seed"),
    ],
)
def test_mistakes_are_told(call, part) -> None:
    with pytest.raises(ZooError, match=part):
        call()
