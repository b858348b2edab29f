"""A rate of each row's own, so that one model sees nearly whole and nearly empty rows.

Worked example, ``RowRates(low=0.0, high=1.0)``: one row draws the rate 0.2 and hides each token with that chance,
another draws 0.9::

    [CLS] the [MASK] sat on the mat [SEP]        [CLS] [MASK] [MASK] [MASK] on [MASK] [MASK] [SEP]
"""

from __future__ import annotations

import numpy as np

from pretraining.arrays import Bools
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Selector
from zoo.errors import ZooError
from zoo.values import Share
from zoo.vocabulary import Vocabulary


class RowRates(Selector):
    """Single tokens, each with the chance that its row has drawn, uniformly between two rates.

    Masked diffusion hides tokens so. Its loss also weights a row by one over its rate; this selector does not weight.

    Args:
        low: smallest rate, in [0, 1). A row may come out with nothing hidden; it then has no loss.
        high: largest rate, in (low, 1].

    Raises:
        ZooError: rates outside [0, 1], or a ``high`` that is not above ``low``.
    """

    def __init__(self, low: Share = 0.0, high: Share = 1.0) -> None:
        if not 0.0 <= low < high <= 1.0:
            raise ZooError(
                f"RowRates: low is {low} and high is {high}; 0 <= low < high <= 1 is needed, for example 0 and 1."
            )
        self.low, self.high = low, high

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """Independent draws against the row's rate; template tokens are left out."""
        rates = self.low + (self.high - self.low) * draw.uniform(rows.example_ids, "row_rates.rate")
        bits = draw.bits(rows.example_ids, rows.shape[1], "choose.order")
        chosen: Bools = bits < np.rint(rates * 2**32)[:, None]
        return chosen & ~rows.special_tokens_mask
