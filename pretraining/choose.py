"""Which positions: the first of the three parts of a masking scheme (choose, fill, predict).

A chooser reads a whole batch and answers with a (B, L) boolean. All its draws are keyed by (seed, epoch,
example, position or word), so the answer does not depend on what else is in the batch, nor on its padding.

Worked example, ``Tokens(rate=0.15)`` on one row (the budget counts all 8 real tokens: rint(1.2) = 1)::

    [CLS] the cat sat on the mat [SEP] [PAD]
      .    .   .   .   x   .   .    .     .
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.random import Draw
from pretraining.rows import Rows
from pretraining.store import WORD_START
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

Count = Literal["nearest", "stochastic"]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int32]
_NEVER = np.uint64(0xFFFFFFFFFFFFFFFF)


class Choose(ABC):
    """Chooses the positions of a masking scheme."""

    @abstractmethod
    def __call__(self, rows: Rows, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L), True at chosen positions; never at padding."""


class Budgeted(Choose):
    """A chooser with a number of tokens per row that it must not exceed.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` rounds half to even and takes at least one (google-research/bert,
            create_pretraining_data.py); ``stochastic`` takes floor(rate * n + u) with u uniform in
            [0, 1), so that the expectation is exact (fairseq, mask_tokens_dataset.py).
        max_predictions: upper limit per row.
        include_special: whether template tokens can be chosen.

    Raises:
        ZooError: a rate outside (0, 1], or a limit below 1.
    """

    def __init__(self, rate: float, count: Count, max_predictions: int | None, include_special: bool) -> None:
        if not 0.0 < rate <= 1.0:
            raise ZooError(
                f"{type(self).__name__}: rate is {rate}; the share of tokens to choose must lie in (0, 1], "
                "for example 0.15."
            )
        if max_predictions is not None and max_predictions < 1:
            raise ZooError(
                f"{type(self).__name__}: max_predictions is {max_predictions}; give a limit of at least 1, "
                "or null for none."
            )
        if count not in ("nearest", "stochastic"):
            raise ZooError(f"{type(self).__name__}: count is {count!r}; 'nearest' or 'stochastic' would work.")
        self.rate = rate
        self.count = count
        self.max_predictions = max_predictions
        self.include_special = include_special

    def candidates(self, rows: Rows) -> Bools:
        """(B, L), True where a position may be chosen."""
        return rows.real if self.include_special else ~rows.special

    def budget(self, rows: Rows, draw: Draw) -> Ints:
        """(B,) number of tokens to choose."""
        share = rows.lengths * self.rate
        if self.count == "stochastic":
            wanted = np.floor(share + draw.uniform(rows.example, "choose.count"))
        else:
            wanted = np.maximum(np.rint(share), 1)  # rint is half to even, as Python's round
        if self.max_predictions is not None:
            wanted = np.minimum(wanted, self.max_predictions)
        return wanted.astype(np.int32)


class Tokens(Budgeted):
    """Single tokens, uniformly and without replacement; exactly the budgeted number of them.

    BERT: the defaults, with ``max_predictions``. RoBERTa: ``count: stochastic, include_special: true``.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` (half to even, at least one) or ``stochastic`` (floor(rate * n + u)).
        max_predictions: upper limit per row.
        include_special: whether template tokens can be chosen.
    """

    def __init__(
        self,
        rate: float = 0.15,
        count: Count = "nearest",
        max_predictions: int | None = None,
        include_special: bool = False,
    ) -> None:
        super().__init__(rate, count, max_predictions, include_special)

    def __call__(self, rows: Rows, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """The positions with the k smallest draws. Draws of a row are distinct, so ties cannot happen."""
        candidates = self.candidates(rows)
        bits = draw.bits(rows.example, rows.shape[1], "choose.order")
        np.putmask(bits, ~candidates, np.uint32(0xFFFFFFFF))
        wanted = np.minimum(self.budget(rows, draw), candidates.sum(axis=1, dtype=np.int32))
        ranked = np.sort(bits, axis=1)
        threshold = ranked[np.arange(len(wanted)), np.maximum(wanted - 1, 0)]
        chosen: Bools = bits <= threshold[:, None]
        chosen &= candidates
        chosen[wanted == 0] = False
        return chosen


class Groups(NamedTuple):
    """Candidates of each row as consecutive groups (words). G = most groups of any row.

    Args:
        candidates: (B, L) which positions belong to a group.
        number: (B, L) group of each position; meaningful at candidates only.
        bounds: (B, G + 1) rank, among the row's candidates, of each group's first token; beyond the
            last group the row's number of candidates.
        counts: (B,) number of groups.
    """

    candidates: Bools
    number: Ints
    bounds: Ints
    counts: Ints

    def spread(self, chosen: Bools) -> Bools:
        """(B, G) chosen groups to (B, L) chosen positions."""
        if not chosen.shape[1]:
            return np.zeros_like(self.candidates)
        flat = self.number + (np.arange(len(chosen), dtype=np.int32) * chosen.shape[1])[:, None]
        return np.take(chosen.reshape(-1), flat) & self.candidates


def word_groups(rows: Rows, candidates: Bools) -> Groups:
    """Whole words as groups: a piece that starts no word joins the group of the candidate before it.

    As in the reference implementations, a word's rest at the start of the second segment (left there by
    truncation) joins the last group of the first segment: separators are no candidates.
    """
    rank = np.cumsum(candidates, axis=1, dtype=np.int32)
    start = (rows.flags & WORD_START) != 0
    start |= rank == 1
    start &= candidates
    number = np.cumsum(start, axis=1, dtype=np.int32)
    counts = number[:, -1].copy()
    np.maximum(number, 1, out=number)
    number -= 1
    most = int(counts.max(initial=0))
    bounds = np.repeat(rank[:, -1], most + 1).reshape(len(counts), most + 1)
    place = np.flatnonzero(start)
    row = place // candidates.shape[1]
    bounds.reshape(-1)[row * (most + 1) + number.reshape(-1)[place]] = rank.reshape(-1)[place] - 1
    return Groups(candidates, number, bounds, counts)


def shuffled(groups: Groups, rows: Rows, draw: Draw, stream: str = "choose.order") -> Ints:
    """(B, G) group numbers of each row in random order; numbers that do not exist come last."""
    most = groups.bounds.shape[1] - 1
    keys = draw.bits(rows.example, most, stream).astype(np.uint64)
    keys <<= np.uint64(32)
    numbers = np.arange(most, dtype=np.uint64)
    keys |= numbers[None, :]
    np.putmask(keys, numbers[None, :] >= groups.counts.astype(np.uint64)[:, None], _NEVER)
    keys.sort(axis=1)
    # the low half is the group's number; where there is none, any number will do
    return np.minimum(keys & np.uint64(0xFFFFFFFF), np.uint64(max(most - 1, 0))).astype(np.int32)


def fill_budget(sizes: Ints, budget: Ints) -> Bools:
    """Go through each row in order and take what still fits: (B, G) taken.

    The sequential rule "a group that would exceed the budget is skipped and the next is tried", for all
    rows at once: in every round the groups too large for what is left drop out for good, then the longest
    prefix that fits is taken. Three or four rounds are usual.

    Args:
        sizes: (B, G) tokens of each group, 0 = no group.
        budget: (B,) tokens to take at most.
    """
    taken = np.zeros(sizes.shape, dtype=bool)
    left = budget.astype(np.int32)
    active = np.arange(len(sizes))
    open_sizes = sizes.copy()
    while active.size:
        limit = left[active][:, None]
        np.putmask(open_sizes, open_sizes > limit, 0)
        total = np.cumsum(open_sizes, axis=1, dtype=np.int32)
        fits = (open_sizes > 0) & (total <= limit)
        taken[active] |= fits
        left[active] -= np.where(fits, open_sizes, 0).sum(axis=1, dtype=np.int32)
        open_sizes[fits] = 0
        more = (left[active] > 0) & open_sizes.any(axis=1)
        active, open_sizes = active[more], open_sizes[more]
    return taken


class WholeWords(Budgeted):
    """Whole words in random order, as many as fit the budget (google-research/bert, do_whole_word_mask).

    A word that would push the total above the budget is skipped and the next is tried.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` (half to even, at least one) or ``stochastic`` (floor(rate * n + u)).
        max_predictions: upper limit per row, in tokens.
    """

    def __init__(self, rate: float = 0.15, count: Count = "nearest", max_predictions: int | None = None) -> None:
        super().__init__(rate, count, max_predictions, include_special=False)

    def groups(self, rows: Rows, draw: Draw) -> Groups:
        """The units that are chosen as a whole."""
        return word_groups(rows, self.candidates(rows))

    def __call__(self, rows: Rows, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L) chosen positions, whole groups only."""
        groups = self.groups(rows, draw)
        order = shuffled(groups, rows, draw)
        sizes = np.take_along_axis(np.diff(groups.bounds, axis=1), order, axis=1)
        np.putmask(sizes, np.arange(sizes.shape[1])[None, :] >= groups.counts[:, None], 0)
        taken = fill_budget(sizes, self.budget(rows, draw))
        chosen = np.zeros_like(taken)
        row, column = np.nonzero(taken)
        chosen[row, order[row, column]] = True
        return groups.spread(chosen)


class Spans(WholeWords):
    """Spans with the lengths of a row's words at random places: the control arm for whole-word masks.

    The row's word lengths are shuffled and laid end to end, which gives other borders; then as
    :class:`WholeWords`.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` (half to even, at least one) or ``stochastic`` (floor(rate * n + u)).
        max_predictions: upper limit per row, in tokens.
    """

    def groups(self, rows: Rows, draw: Draw) -> Groups:
        """Words with their lengths shuffled within the row."""
        words = word_groups(rows, self.candidates(rows))
        order = shuffled(words, rows, draw, stream="choose.lengths")
        sizes = np.take_along_axis(np.diff(words.bounds, axis=1), order, axis=1)
        np.putmask(sizes, np.arange(sizes.shape[1])[None, :] >= words.counts[:, None], 0)
        bounds = np.zeros_like(words.bounds)
        np.cumsum(sizes, axis=1, out=bounds[:, 1:])
        rank = np.cumsum(words.candidates, axis=1, dtype=np.int32) - 1
        opens = np.zeros(rank.shape, dtype=bool)  # in rank space: a group starts at this rank
        row, column = np.nonzero(np.arange(sizes.shape[1])[None, :] < words.counts[:, None])
        opens[row, bounds[row, column]] = True
        by_rank = np.cumsum(opens, axis=1, dtype=np.int32) - 1
        number = np.maximum(np.take_along_axis(by_rank, np.maximum(rank, 0), axis=1), 0)
        return Groups(words.candidates, number, bounds, words.counts)


class NGrams(Budgeted):
    """Spans of 1 to ``n`` consecutive words (ALBERT section 4.1; create_pretraining_data.py).

    Words are tried as starts in random order. A length is drawn with p(n) proportional to 1/n, cut at the
    last word, shortened word by word until it fits the budget; a span that touches a chosen word is skipped.

    Args:
        n: longest span, in words.
        favor_shorter: p(n) proportional to 1/n; false reverses these probabilities.
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` (half to even, at least one) or ``stochastic`` (floor(rate * n + u)).
        max_predictions: upper limit per row, in tokens.
    """

    def __init__(
        self,
        n: int = 3,
        favor_shorter: bool = True,
        rate: float = 0.15,
        count: Count = "nearest",
        max_predictions: int | None = None,
    ) -> None:
        super().__init__(rate, count, max_predictions, include_special=False)
        if n < 1:
            raise ZooError(f"NGrams: n is {n}; the longest span must have at least 1 word.")
        self.n = n
        self.favor_shorter = favor_shorter
        shares = 1.0 / np.arange(1, n + 1)
        shares = (shares if favor_shorter else shares[::-1]) / shares.sum()
        self._thresholds = [np.uint32(min(round(t * 2**32), 2**32 - 1)) for t in np.cumsum(shares)[:-1]]

    def lengths(self, rows: Rows, most: int, draw: Draw) -> Ints:
        """(B, most) drawn span length for each start, before any cut."""
        bits = draw.bits(rows.example, most, "choose.ngram")
        lengths = np.ones(bits.shape, dtype=np.int32)
        for threshold in self._thresholds:
            lengths += bits >= threshold
        return lengths

    def __call__(self, rows: Rows, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L) chosen positions, whole words only."""
        groups = word_groups(rows, self.candidates(rows))
        most = groups.bounds.shape[1] - 1
        order = shuffled(groups, rows, draw)
        drawn = np.take_along_axis(self.lengths(rows, most, draw), order, axis=1)
        np.minimum(drawn, groups.counts[:, None] - order, out=drawn)
        np.putmask(drawn, np.arange(most)[None, :] >= groups.counts[:, None], 0)
        covered = self._take(order, drawn, groups.bounds, self.budget(rows, draw))
        return groups.spread(covered)

    def _take(self, order: Ints, drawn: Ints, bounds: Ints, budget: Ints) -> Bools:
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
