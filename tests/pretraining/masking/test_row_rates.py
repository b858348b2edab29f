"""Rates drawn per row: their statistics, their keys, and bad rates."""

from __future__ import annotations

import numpy as np
import pytest

from pretraining.keyed_random import Draw
from pretraining.layouts.gather import examples_from_tokens
from pretraining.masking import RowRates
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

VOCABULARY = Vocabulary(50, pad=0, unk=1, cls=2, sep=3, mask=4)
TEXTS = [(np.arange(100) % 40 + 5, np.ones(100))] * 2000
ROWS = examples_from_tokens(TEXTS, VOCABULARY, [VOCABULARY.cls], [VOCABULARY.sep])
DRAW = Draw(seed=1, epoch=0)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.3, 0.5)])
def test_rates_of_rows_are_uniform_between_the_two(low: float, high: float) -> None:
    rows = ROWS.replace(example_ids=np.arange(2000))
    chosen = RowRates(low, high)(rows, DRAW, VOCABULARY)
    assert not (chosen & rows.special_tokens_mask).any()
    shares = chosen.sum(axis=1) / 100
    rates_variance = (high - low) ** 2 / 12
    mean_square = (low**2 + low * high + high**2) / 3
    within = ((low + high) / 2 - mean_square) / 100  # of 100 independent tokens, over all rates
    assert shares.mean() == pytest.approx((low + high) / 2, abs=5 * np.sqrt((rates_variance + within) / 2000))
    assert shares.var() == pytest.approx(rates_variance + within, rel=0.2)


def test_masks_are_keyed_by_row_and_epoch() -> None:
    rows, select = ROWS.replace(example_ids=np.arange(2000)), RowRates()
    chosen = select(rows, DRAW, VOCABULARY)
    assert (select(rows, DRAW, VOCABULARY) == chosen).all()
    assert (select(rows, Draw(seed=1, epoch=1), VOCABULARY) != chosen).any()
    turned = rows.replace(example_ids=np.arange(2000)[::-1].copy())
    assert (select(turned, DRAW, VOCABULARY)[::-1] == chosen).all()  # who a row is counts, not where it stands


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.5), (-0.1, 0.5), (0.5, 0.5), (0.6, 0.2), (float("nan"), 0.5)])
def test_bad_rates_are_refused(low: float, high: float) -> None:
    with pytest.raises(ZooError, match="0 <= low < high <= 1"):
        RowRates(low, high)
