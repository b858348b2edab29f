"""The joint choice of idioms against a search through all of them."""

import itertools

import numpy as np
import pytest

from finetune.metrics.choices import assign_idioms


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_of_scores_is_the_largest(seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(4, 6))
    chosen = assign_idioms(scores)
    assert len(set(chosen.tolist())) == 4
    best = max(itertools.permutations(range(6), 4), key=lambda way: scores[range(4), way].sum())
    assert chosen.tolist() == list(best)


def test_an_idiom_that_two_blanks_want_goes_where_the_sum_gains() -> None:
    scores = np.log([[0.6, 0.39, 0.01], [0.7, 0.02, 0.28]])
    assert scores.argmax(axis=1).tolist() == [0, 0]
    assert assign_idioms(scores).tolist() == [1, 0]


def test_more_blanks_than_candidates_all_get_one() -> None:
    scores = np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert assign_idioms(scores).tolist() == [0, 0, 1]
