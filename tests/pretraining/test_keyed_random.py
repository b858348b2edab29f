"""The keyed draws are uniform and unrelated across positions, examples, epochs, streams and seeds."""

import numpy as np
import pytest
from scipy import stats

from pretraining.keyed_random import Draw, scaled

ROWS, LENGTH = 60_000, 32
EXAMPLES = np.arange(ROWS)
FAR = 4.5  # standard deviations; all seeds are fixed, so a pass stays a pass


@pytest.fixture(scope="module")
def bits():
    return Draw(seed=1, epoch=0).bits(EXAMPLES, LENGTH, "test")


def correlation_z(a, b):
    return np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1] * np.sqrt(a.size)


def test_each_bit_is_fair(bits):
    for place in range(32):
        share = ((bits >> np.uint32(place)) & 1).mean()
        assert abs(share - 0.5) * 2 * np.sqrt(bits.size) < FAR, place


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_bytes_are_uniform(bits, shift):
    counts = np.bincount(((bits >> np.uint32(shift)) & 255).ravel(), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (0, 16), (3, 7), (1, 31)])
def test_two_positions_are_jointly_uniform(bits, first, second):
    pair = (bits[:, first] >> np.uint32(28)).astype(int) * 16 + (bits[:, second] >> np.uint32(28))
    assert stats.chisquare(np.bincount(pair, minlength=256)).pvalue > 1e-4


def test_three_positions_are_jointly_uniform(bits):
    code = (bits[:, :3] >> np.uint32(29)).astype(int) @ np.array([64, 8, 1])
    assert stats.chisquare(np.bincount(code, minlength=512)).pvalue > 1e-4


def test_orders_of_four_positions_are_uniform(bits):
    code = np.argsort(bits[:, 8:12], axis=1) @ np.array([64, 16, 4, 1])
    counts = np.unique(code, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_joint_choice_of_two_positions_is_uniform(bits):
    """The five smallest of 32: every pair of positions is chosen together equally often."""
    chosen = (bits <= np.sort(bits, axis=1)[:, 4:5]).astype(np.float32)
    i, j = np.triu_indices(LENGTH, 1)
    share = 5 * 4 / (LENGTH * (LENGTH - 1))
    z = ((chosen.T @ chosen)[i, j] / ROWS - share) / np.sqrt(share * (1 - share) / ROWS)
    assert np.abs(z).max() < FAR
    assert 0.85 < z.std() < 1.15


@pytest.mark.parametrize("lag", [1, 2, 3, 5, 16])
def test_neighbouring_positions_are_unrelated(bits, lag):
    assert abs(correlation_z(bits[:, lag:], bits[:, :-lag])) < FAR


@pytest.mark.parametrize("lag", [1, 2, 7, 1024])
def test_neighbouring_examples_are_unrelated(bits, lag):
    assert abs(correlation_z(bits[lag:], bits[:-lag])) < FAR


@pytest.mark.parametrize(
    "other",
    [
        Draw(1, 1).bits(EXAMPLES, LENGTH, "test"),
        Draw(2, 0).bits(EXAMPLES, LENGTH, "test"),
        Draw(0, 1).bits(EXAMPLES, LENGTH, "test"),
        Draw(1, 0).bits(EXAMPLES, LENGTH, "tesu"),
        Draw(1, 0).bits(EXAMPLES + ROWS, LENGTH, "test"),
        Draw(-1, 0).bits(EXAMPLES, LENGTH, "test"),
    ],
    ids=["next epoch", "next seed", "seed and epoch swapped", "other stream", "other examples", "negative seed"],
)
def test_other_keys_give_unrelated_numbers(bits, other):
    assert abs(correlation_z(bits, other)) < FAR
    differing = np.bitwise_count(bits ^ other).mean()
    assert abs(differing - 16) / np.sqrt(8 / bits.size) < FAR


def test_a_row_has_no_ties():
    bits = Draw(5, 5).bits(np.arange(500), 512, "test")
    assert (np.diff(np.sort(bits, axis=1), axis=1) > 0).all()


def test_numbers_depend_on_the_key_alone(bits):
    some = np.array([7, 3, 59_999, 3])
    assert (Draw(1, 0).bits(some, 5, "test") == bits[some, :5]).all()
    assert (Draw(1, 0).at(some, np.array([0, 1, 31, 1]), "test") == bits[some, [0, 1, 31, 1]]).all()


def test_keys_do_not_collide():
    keys = np.concatenate([Draw(s, e).keys(np.arange(100_000), t) for s in (0, 1) for e in (0, 1) for t in "ab"])
    assert len(np.unique(keys)) == len(keys)


def test_one_number_per_example():
    draw = Draw(3, 2)
    uniform = draw.uniform(EXAMPLES, "u")
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    assert stats.chisquare(np.bincount(draw.integers(EXAMPLES, 77, "i"), minlength=77)).pvalue > 1e-4
    high = np.arange(1, ROWS + 1)
    assert (draw.integers(EXAMPLES, high, "i") < high).all()


def test_permutation_is_one_and_changes():
    first, second = Draw(0, 0).permutation(1000, "rows"), Draw(0, 1).permutation(1000, "rows")
    assert (np.sort(first) == np.arange(1000)).all()
    assert (first == second).mean() < 0.02
    spots = [Draw(seed, 0).permutation(10, "rows")[0] for seed in range(5000)]
    assert stats.chisquare(np.bincount(spots, minlength=10)).pvalue > 1e-4


def test_scaled(bits):
    numbers = scaled(bits, 30_522)
    assert numbers.min() >= 0
    assert numbers.max() < 30_522
    assert stats.chisquare(np.bincount(scaled(bits, 101).ravel(), minlength=101)).pvalue > 1e-4
