"""Spans of 1 to n consecutive words (ALBERT, section 4.1; MacBERT)."""

from __future__ import annotations

import numpy as np

from pretraining.arrays import Bools, Ints32
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Budget, Budgeted
from pretraining.masking.groups import shuffled, word_groups
from zoo.errors import ZooError
from zoo.values import Count, Share
from zoo.vocabulary import Vocabulary


class NGrams(Budgeted):
    """Spans of 1 to ``n`` consecutive words (ALBERT section 4.1; create_pretraining_data.py).

    Words are tried as starts in random order. A length is drawn with p(n) proportional to 1/n, cut at the
    last word, shortened word by word until it fits the budget; a span that touches a chosen word is skipped.

    Args:
        n: longest span, in words.
        favor_shorter: p(n) proportional to 1/n; false reverses these probabilities.
        shares: the probabilities of 1 to ``n`` words instead, for example ``[0.4, 0.3, 0.2, 0.1]``.
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        budget: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``bernoulli``.
        max_predictions: upper limit per row, in tokens.
    """

    def __init__(
        self,
        n: Count = 3,
        favor_shorter: bool = True,
        rate: Share = 0.15,
        budget: Budget = "nearest",
        max_predictions: Count | None = None,
        shares: list[Share] | None = None,
    ) -> None:
        super().__init__(rate, budget, max_predictions, include_special=False)
        if budget == "bernoulli":
            raise ZooError("NGrams: spans fill a budget; `budget: nearest` or `budget: stochastic` would work.")
        if n < 1:
            raise ZooError(f"NGrams: n is {n}; the longest span must have at least 1 word.")
        if shares is not None and (len(shares) != n or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6):
            raise ZooError(
                f"NGrams: shares = {shares}, which are {len(shares)} and add up to {sum(shares):g}; a share for each "
                f"of the lengths 1 to {n} (n = {n}) is needed, none negative, and 1 in all."
            )
        self.n = n
        self.favor_shorter = favor_shorter
        chances = 1.0 / np.arange(1, n + 1)
        chances = (chances if favor_shorter else chances[::-1]) / chances.sum()
        ends = np.cumsum(chances if shares is None else shares)[:-1]
        self._thresholds = [np.uint32(min(round(t * 2**32), 2**32 - 1)) for t in ends]

    def lengths(self, rows: Examples, most: int, draw: Draw) -> Ints32:
        """(B, most) drawn span length for each start, before any cut."""
        bits = draw.bits(rows.example_ids, most, "choose.ngram")
        lengths = np.ones(bits.shape, dtype=np.int32)
        for threshold in self._thresholds:
            lengths += bits >= threshold
        return lengths

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L) chosen positions, whole words only."""
        groups = word_groups(rows, self.candidates(rows))
        most = groups.bounds.shape[1] - 1
        order = shuffled(groups, rows, draw)
        drawn = np.take_along_axis(self.lengths(rows, most, draw), order, axis=1)
        np.minimum(drawn, groups.counts[:, None] - order, out=drawn)
        np.putmask(drawn, np.arange(most)[None, :] >= groups.counts[:, None], 0)
        covered = self._take(order, drawn, groups.bounds, self.budget_of(rows, draw))
        return groups.spread(covered)

    def _take(self, order: Ints32, drawn: Ints32, bounds: Ints32, budget: Ints32) -> Bools:
        """The greedy pass, one start of every unfinished row per step: (B, G) covered words."""
        size, most = order.shape
        covered = np.zeros(size * most + self.n, dtype=bool)  # flat; the tail is never set
        flat_bounds = np.concatenate([bounds.reshape(-1), np.zeros(self.n, dtype=np.int32)])
        by_step, length_by_step = np.ascontiguousarray(order.T), np.ascontiguousarray(drawn.T)
        active = np.flatnonzero((budget > 0) & (drawn.max(axis=1, initial=0) > 0))
        left = budget[active]
        for step in range(most):
            if not active.size:
                break
            word, longest = by_step[step][active], length_by_step[step][active]
            place, bound = active * most + word, active * (most + 1) + word
            first = flat_bounds[bound]
            fits, tokens = np.zeros_like(word), np.zeros_like(word)
            free = np.ones(len(active), dtype=bool)
            for length in range(1, self.n + 1):
                need = flat_bounds[bound + length] - first
                good = (length <= longest) & (need <= left)
                free &= ~(good & covered[place + length - 1])
                fits += good  # needs grow with the length, so this is the longest that fits
                np.copyto(tokens, need, where=good)
            fits *= free
            for length in range(1, self.n + 1):
                covered[place[fits >= length] + length - 1] = True
            left = left - tokens * free
            if step % 8 == 7 or not left.all():
                stay = left > 0
                active, left = active[stay], left[stay]
        return covered[: size * most].reshape(size, most)
