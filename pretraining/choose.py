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
from pretraining.segment import has_cjk
from pretraining.store.token_store import ENOUGH_TOKENS, SAMPLE_TOKENS, Store
from pretraining.tokenizer.flags import WORD_START
from pretraining.tokenizer.load import load_tokenizer
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

Count = Literal["nearest", "stochastic", "independent"]
COUNTS: tuple[Count, ...] = ("nearest", "stochastic", "independent")
Bools = NDArray[np.bool_]
Ints = NDArray[np.int32]
Ints64 = NDArray[np.int64]
_NEVER = np.uint64(0xFFFFFFFFFFFFFFFF)
_SPARE = 12  # groups looked at first beyond those that should fill the budget
_CHINESE = 0.5  # share of tokens that makes a text Chinese: 0.85 of the shipped sample's
_GOES_ON = 0.05  # share of Chinese tokens that go on with a word: to 0.03 without a segmenter, from 0.31 on with rjieba


class Choose(ABC):
    """Chooses the positions of a masking scheme.

    Attributes:
        needs: per-token arrays of the store that it reads.
    """

    needs: frozenset[str] = frozenset()

    @abstractmethod
    def __call__(self, rows: Rows, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L), True at chosen positions; never at padding."""

    def check(self, store: Store) -> None:
        """Refuse, before training, text of which nothing could be chosen as this says."""
        return


class Budgeted(Choose):
    """A chooser with a number of tokens per row that it must not exceed.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` rounds half to even and takes at least one (google-research/bert,
            create_pretraining_data.py); ``stochastic`` takes floor(rate * n + u) with u uniform in
            [0, 1), so that the expectation is exact (fairseq, mask_tokens_dataset.py); ``independent`` has no
            budget, every unit is taken by itself with the chance ``rate`` (PaddlePaddle/ERNIE, batching.py).
        max_predictions: upper limit per row.
        include_special: whether template tokens can be chosen.

    Raises:
        ZooError: a rate outside (0, 1], a limit below 1, or a limit of independent draws.
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
        if count not in COUNTS:
            raise ZooError(f"{type(self).__name__}: count is {count!r}; {', '.join(COUNTS)} would work.")
        if count == "independent" and max_predictions is not None:
            raise ZooError(
                f"{type(self).__name__}: max_predictions = {max_predictions} limits a budget, and `count: independent` "
                "has none; leave one of the two out."
            )
        self.rate = rate
        self.count = count
        self.max_predictions = max_predictions
        self.include_special = include_special

    @property
    def threshold(self) -> np.uint32:
        """32-bit draws below it have the chance ``rate``."""
        return np.uint32(min(round(self.rate * 2**32), 2**32 - 1))

    def candidates(self, rows: Rows) -> Bools:
        """(B, L), True where a position may be chosen."""
        return rows.real if self.include_special else ~rows.special

    def budget(self, rows: Rows, draw: Draw) -> Ints:
        """(B,) number of tokens to choose; with independent draws no number is too large."""
        share = rows.lengths * self.rate
        if self.count == "independent":
            return rows.lengths.astype(np.int32)
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
        count: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``independent``.
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
        if self.count == "independent":
            return (bits < self.threshold) & candidates
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


def word_starts(rows: Rows, candidates: Bools) -> Bools:
    """(B, L) candidates that begin a word: a template token before them ends the word, too.

    In google-research/bert a word's rest at the start of the second segment (left there by truncation) joins the
    last word of the first segment, across the separator. Here it is a word of its own: the two were never one.
    """
    start = (rows.flags & WORD_START) != 0
    start[:, 1:] |= ~candidates[:, :-1]
    start[:, :1] = True
    start &= candidates
    return start


def no_word_goes_on(store: Store) -> str:
    """Which tokens at a store's beginning all start a word: ``"no token"``, ``"no Chinese token"``, or neither.

    Of Chinese text its Chinese tokens are asked alone, because English words in it go on with or without a segmenter.
    Neither, an empty string, is also the answer where there are too few tokens to tell.
    """
    starts = (np.asarray(store.flags[:SAMPLE_TOKENS]) & WORD_START) != 0
    if len(starts) < ENOUGH_TOKENS:
        return ""
    if starts.all():
        return "no token"
    chinese = _chinese_ids(store)[np.asarray(store.tokens[:SAMPLE_TOKENS])]
    alone = chinese.mean() >= _CHINESE and 1 - starts[chinese].mean() < _GOES_ON
    return "no Chinese token" if alone else ""


def _chinese_ids(store: Store) -> Bools:
    """(V,) which entries of the store's tokenizer have a Chinese character; none where it has no tokenizer."""
    found = np.zeros(store.meta["vocab_size"], dtype=bool)
    if (store.path / "tokenizer.json").is_file():
        entries = load_tokenizer(store.path).backend.get_vocab()
        found[[index for token, index in entries.items() if has_cjk(token)]] = True
    return found


def word_groups(rows: Rows, candidates: Bools) -> Groups:
    """Whole words as groups: a piece that starts no word joins the group of the candidate before it."""
    return as_groups(word_starts(rows, candidates), candidates)


def as_groups(start: Bools, candidates: Bools) -> Groups:
    """Groups that begin at ``start``, which is True at the first candidate of every row at least."""
    rank = np.cumsum(candidates, axis=1, dtype=np.int32)
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
    total = np.cumsum(sizes, axis=1, dtype=np.int32)
    taken = total <= budget[:, None]
    taken &= sizes > 0
    left = budget - np.where(taken, sizes, 0).sum(axis=1, dtype=np.int32)
    active = np.flatnonzero(left > 0)
    open_sizes, left = np.where(taken[active], 0, sizes[active]), left[active]
    while active.size:
        limit = left[:, None]
        np.putmask(open_sizes, open_sizes > limit, 0)
        np.cumsum(open_sizes, axis=1, dtype=np.int32, out=total[: len(active)])
        fits = (open_sizes > 0) & (total[: len(active)] <= limit)
        taken[active] |= fits
        left -= np.where(fits, open_sizes, 0).sum(axis=1, dtype=np.int32)
        open_sizes[fits] = 0
        more = (left > 0) & open_sizes.any(axis=1)
        active, open_sizes, left = active[more], open_sizes[more], left[more]
    return taken


class Grouped(Budgeted):
    """Groups of adjacent tokens, each chosen wholly or not at all; the order of a row's groups is random.

    With a budget, a group that would push the total above it is skipped and the next is tried
    (google-research/bert, do_whole_word_mask). With ``count: independent`` every group is taken with the chance
    ``rate``. A group's draw is that of its first token, so groups of one token are chosen as :class:`Tokens` does.
    """

    @abstractmethod
    def starts(self, rows: Rows, draw: Draw) -> Bools:
        """(B, L), True at the first token of each group, which goes on up to the next or to a template token."""

    def __call__(self, rows: Rows, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L) chosen positions, whole groups only."""
        start, candidates = self.starts(rows, draw), self.candidates(rows)
        edge = start | ~candidates
        bits = draw.bits(rows.example, rows.shape[1], "choose.order")
        chosen = np.zeros(rows.shape, dtype=bool)
        if self.count == "independent":
            row, column = np.nonzero(start & (bits < self.threshold))
            _extend(chosen, row, column, _sizes(edge, row, column))
            return chosen
        order, counts, budget = _in_order(start, bits), start.sum(axis=1), self.budget(rows, draw)
        share = counts.sum() / max(int(candidates.sum()), 1)  # groups per token
        waiting, width = np.arange(len(order)), int(budget.max(initial=0) * share) + _SPARE
        while waiting.size:  # the first groups of the order fill nearly all rows; the others look at all of theirs
            columns = order[waiting, :width].astype(np.int64)
            rank = np.arange(columns.shape[1])[None, :]
            row = np.repeat(waiting, columns.shape[1])
            sizes = _sizes(edge, row, columns.reshape(-1)).reshape(columns.shape)
            np.putmask(sizes, rank >= counts[waiting][:, None], 0)
            taken = fill_budget(sizes, budget[waiting])
            full = np.where(taken, sizes, 0).sum(axis=1) == budget[waiting]
            done = full | (counts[waiting] <= columns.shape[1])
            taken &= done[:, None]
            where, place = np.nonzero(taken)
            _extend(chosen, waiting[where], columns[where, place], sizes[where, place])
            waiting, width = waiting[~done], order.shape[1]
        return chosen


def _in_order(start: Bools, bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(B, L) columns of each row's starts in the order of their draws; behind them, anything. Changes ``bits``.

    The low bits of a draw give way to its column, so that a sort of plain numbers brings the columns along. The
    largest number stands at columns that are no start; draws that would come to the same are made one smaller.
    """
    length = start.shape[1]
    low = max(length - 1, 1).bit_length()
    if low > 12:  # too few random bits would be left
        np.minimum(bits, np.uint32(0xFFFFFFFE), out=bits)
        return np.argsort(np.where(start, bits, 0xFFFFFFFF), axis=1, kind="stable").astype(np.uint32)
    mask = np.uint32((1 << low) - 1)
    np.minimum(bits, np.uint32(0xFFFFFFFE) - mask, out=bits)
    np.putmask(bits, ~start, np.uint32(0xFFFFFFFF))
    bits &= ~mask
    bits |= np.arange(length, dtype=np.uint32)[None, :]
    bits.sort(axis=1)
    bits &= mask
    return bits


def _sizes(edge: Bools, row: Ints64, column: Ints64) -> Ints:
    """Tokens from (row, column) up to the next edge or the row's end."""
    width = edge.shape[1]
    flat, left = row * width + column, width - 1 - column
    sizes = np.ones(len(flat), dtype=np.int32)
    edges, alive, step = edge.reshape(-1), np.flatnonzero(left > 0), 1
    while alive.size:
        alive = alive[~edges[flat[alive] + step]]
        sizes[alive] += 1
        step += 1
        alive = alive[left[alive] >= step]
    return sizes


def _extend(chosen: Bools, row: Ints64, column: Ints64, sizes: Ints) -> None:
    """Set ``sizes`` positions from each (row, column) on, in place."""
    flat, place = row * chosen.shape[1] + column, chosen.reshape(-1)
    step = 0
    while flat.size:
        place[flat + step] = True
        step += 1
        more = sizes > step
        flat, sizes = flat[more], sizes[more]


class WholeWords(Grouped):
    """Whole words in random order, as many as fit the budget (google-research/bert, do_whole_word_mask).

    Words end at template tokens. In Chinese they are the segmenter's (``data.corpus.segmenter``); a store prepared
    without one has words of one character, and is refused.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``independent``.
        max_predictions: upper limit per row, in tokens.
    """

    def __init__(self, rate: float = 0.15, count: Count = "nearest", max_predictions: int | None = None) -> None:
        super().__init__(rate, count, max_predictions, include_special=False)

    def starts(self, rows: Rows, draw: Draw) -> Bools:
        """First tokens of the words."""
        return word_starts(rows, self.candidates(rows))

    def check(self, store: Store) -> None:
        """Refuse text in which every token is a word, and Chinese text in which every character is one."""
        if which := no_word_goes_on(store):
            raise ZooError(
                f"{type(self).__name__}: {which} of {store.path} goes on with a word, so whole words would be single "
                "tokens. Chinese words need a segmenter (data.corpus.segmenter: rjieba, or `space` where spaces stand "
                "between them); where words really are tokens, pretraining.choose.Tokens does the same."
            )


class Spans(WholeWords):
    """Spans with the lengths of a row's words at random places: the control arm for whole-word masks.

    The word lengths of each segment are shuffled and laid end to end, which gives other borders; then as
    :class:`WholeWords`.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``independent``.
        max_predictions: upper limit per row, in tokens.
    """

    def starts(self, rows: Rows, draw: Draw) -> Bools:
        """First tokens of the spans."""
        candidates = self.candidates(rows)
        start = word_starts(rows, candidates)
        row, column = np.nonzero(start)  # row by row, from left to right
        sizes = _sizes(start | ~candidates, row, column)
        flat = row * rows.shape[1] + column
        first = (column == 0) | ~candidates.reshape(-1)[flat - 1]  # of a segment
        segment = np.cumsum(first)
        keys = segment.astype(np.uint64) << np.uint64(32) | draw.at(rows.example[row], column, "choose.lengths")
        before = np.append(0, np.cumsum(sizes[np.argsort(keys)]))[:-1]
        opens = np.zeros_like(start)
        opens.reshape(-1)[(flat[first] - before[first])[segment - 1] + before] = True
        return opens


class Units(Grouped):
    """Knowledge masking: phrases or entities as a whole, and single tokens or words around them (ERNIE 1.0).

    The store's array has 1 at a unit's first token and 2 at its others (``data.corpus.annotations``). With
    ``count: independent`` this is the released code of ERNIE 1.0 (PaddlePaddle/ERNIE release/r2.0, batching.py), in
    which a unit's first token takes its 80/10/10 from the draw that selected it: the shares are the same as with a
    draw of its own, which is what :class:`pretraining.fill.Replace` makes.

    Args:
        array: name of the array, ``phrase`` or ``entity``; of several, a token belongs to the first that has it in a
            unit, so put the larger or rarer units first. An empty list: no units.
        fallback: what tokens outside of units are: single ``tokens`` (Chinese) or ``words`` (English).
        rate: share of a row's real tokens, template tokens counted, in (0, 1]; or each unit's chance.
        count: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``independent``.
        max_predictions: upper limit per row, in tokens.
    """

    def __init__(
        self,
        array: str | list[str],
        fallback: Literal["tokens", "words"] = "tokens",
        rate: float = 0.15,
        count: Count = "nearest",
        max_predictions: int | None = None,
    ) -> None:
        super().__init__(rate, count, max_predictions, include_special=False)
        if fallback not in ("tokens", "words"):
            raise ZooError(f"Units: fallback is {fallback!r}; 'tokens' or 'words' would work.")
        self.array = [array] if isinstance(array, str) else list(array)
        self.fallback = fallback
        self.needs = frozenset(self.array)

    def starts(self, rows: Rows, draw: Draw) -> Bools:
        """First tokens of units, and of what is a unit by itself."""
        candidates = self.candidates(rows)
        inside = np.zeros(rows.shape, dtype=np.uint8)  # number of the array that has the token in a unit, 0 = none
        goes_on = np.zeros(rows.shape, dtype=bool)
        for number, name in enumerate(self.array, 1):
            code = rows.arrays[name]
            own = (inside == 0) & (code > 0)
            inside[own] = number
            goes_on |= own & (code == 2)
        if self.fallback == "words":
            goes_on |= (inside == 0) & ((rows.flags & WORD_START) == 0)
        # What goes on needs something of its own kind right before it: a cut unit's rest is a unit of its own.
        goes_on[:, 1:] &= candidates[:, :-1] & (inside[:, 1:] == inside[:, :-1])
        goes_on[:, :1] = False
        return candidates & ~goes_on

    def check(self, store: Store) -> None:
        """Refuse text without a unit."""
        for name in self.array:
            codes = np.asarray(store.arrays[name][:SAMPLE_TOKENS])
            if len(codes) >= ENOUGH_TOKENS and not codes.any():
                raise ZooError(
                    f"Units: the array {name!r} of {store.path} marks no unit in {len(codes):,} tokens; look at "
                    f"data.corpus.annotations.{name} (its lexicon, or the field of the records)."
                )


class NGrams(Budgeted):
    """Spans of 1 to ``n`` consecutive words (ALBERT section 4.1; create_pretraining_data.py).

    Words are tried as starts in random order. A length is drawn with p(n) proportional to 1/n, cut at the
    last word, shortened word by word until it fits the budget; a span that touches a chosen word is skipped.

    Args:
        n: longest span, in words.
        favor_shorter: p(n) proportional to 1/n; false reverses these probabilities.
        shares: the probabilities of 1 to ``n`` words instead, for example ``[0.4, 0.3, 0.2, 0.1]``.
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        count: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``independent``.
        max_predictions: upper limit per row, in tokens.
    """

    def __init__(
        self,
        n: int = 3,
        favor_shorter: bool = True,
        rate: float = 0.15,
        count: Count = "nearest",
        max_predictions: int | None = None,
        shares: list[float] | None = None,
    ) -> None:
        super().__init__(rate, count, max_predictions, include_special=False)
        if count == "independent":
            raise ZooError("NGrams: spans fill a budget; `count: nearest` or `count: stochastic` would work.")
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
