"""Spans inside a context that is never hidden: what a permutation language model predicts (XLNet, section 3.3).

Worked example, one part of a row, goal 3: n = 2 is drawn, so the span gets a context of 12 pieces, 5 of them (drawn)
before it; the span begins at the next word start::

    cursor . . . . . x x . . . . . . . | next cursor        x chosen, 5 before, 7 behind

"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pretraining.arrays import WORD_START, Bools, Ints, Ints32
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Selector
from zoo.errors import ZooError
from zoo.values import Count, Share
from zoo.vocabulary import Vocabulary

_LAST = np.uint32(0xFFFFFFFF)


class Parts(NamedTuple):
    """Every row as one part, or as two where a layout says which tokens are reused. P parts, W the longest one's size.

    Args:
        example_ids: (P,) keys of their draws.
        row: (P,) row of each part.
        start: (P,) its first column.
        size: (P,) its tokens.
        second: (P,) whether it is a row's second part.
    """

    example_ids: Ints
    row: Ints
    start: Ints
    size: Ints
    second: Ints

    @property
    def width(self) -> int:
        """W."""
        return int(self.size.max(initial=1))


def split_parts(rows: Examples) -> Parts:
    """The parts of all rows, a row's own next to each other."""
    count = len(rows.lengths)
    if rows.reuse_length is None:
        zeros = np.zeros(count, dtype=np.int64)
        return Parts(rows.example_ids * 2, np.arange(count), zeros, rows.lengths, zeros)
    first = np.minimum(rows.reuse_length, rows.lengths)
    start = np.stack([np.zeros_like(first), first], axis=1).reshape(-1)
    size = np.stack([first, rows.lengths - first], axis=1).reshape(-1)
    second = np.tile(np.arange(2), count)
    return Parts(np.repeat(rows.example_ids * 2, 2) + second, np.repeat(np.arange(count), 2), start, size, second)


class ContextSpans(Selector):
    """Exactly so many pieces: spans of 1 to ``max_gram``, each in a context of ``alpha / beta`` times its length.

    Spans are drawn from left to right (from the text's beginning where it runs backwards) until there are enough or
    the end is reached; a span over the end is dropped. What is missing then is filled up with single pieces, uniformly.
    Both parts of a row get half of the number. (``_sample_mask`` in data_utils.py of zihangdai/xlnet.)

    Args:
        num_predict: pieces per row; ``None`` = ``rate``.
        rate: share of a row's real tokens, template tokens counted, in (0, 1]. A sixth of 512 is the published 85.
        max_gram: longest span, in pieces; p(n) proportional to 1/n.
        alpha: numerator of the context factor.
        beta: its denominator.
    """

    def __init__(
        self,
        num_predict: Count | None = None,
        rate: Share = 1 / 6,
        max_gram: Count = 5,
        alpha: Count = 6,
        beta: Count = 1,
    ) -> None:
        if num_predict is not None and num_predict < 1:
            raise ZooError(f"ContextSpans: num_predict is {num_predict}; at least 1, or null for a share.")
        if not 0.0 < rate <= 1.0:
            raise ZooError(f"ContextSpans: rate is {rate}; the share of tokens to choose must lie in (0, 1].")
        if max_gram < 1 or beta < 1 or alpha < beta:
            raise ZooError(
                f"ContextSpans: max_gram = {max_gram}, alpha = {alpha}, beta = {beta}; spans of at least 1 piece and a "
                "context of at least the span's length (alpha >= beta >= 1) are needed."
            )
        self.num_predict, self.rate = num_predict, rate
        self.max_gram, self.alpha, self.beta = max_gram, alpha, beta
        shares = np.cumsum(1.0 / np.arange(1, max_gram + 1))
        self._thresholds = [np.uint32(min(round(t * 2**32), 2**32 - 1)) for t in (shares / shares[-1])[:-1]]

    def goals(self, rows: Examples, parts: Parts) -> Ints:
        """(P,) pieces to choose: half of a row's number in each part, the odd one in the first."""
        if self.num_predict is not None:
            wanted = np.full(len(rows.lengths), self.num_predict)
        else:
            wanted = np.maximum(np.rint(rows.lengths * self.rate), 1).astype(np.int64)
        own = wanted[parts.row]
        if rows.reuse_length is not None:
            own = np.where(parts.second == 1, own // 2, own - own // 2)
        return np.minimum(own, parts.size)

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L) chosen positions, template tokens among them."""
        parts = split_parts(rows)
        place = np.arange(parts.width)[None, :]
        inside = place < parts.size[:, None]
        columns = parts.start[:, None] + place
        if rows.reversed is not None:
            mirrored = parts.start[:, None] + parts.size[:, None] - 1 - place
            columns = np.where(rows.reversed[parts.row][:, None], mirrored, columns)
        columns = np.where(inside, columns, 0)
        starts = inside & ((rows.token_flags[parts.row[:, None], columns] & WORD_START) != 0)
        goals = self.goals(rows, parts)
        taken = self.spans(starts, parts, goals, draw)
        taken |= self._fill(taken, inside, goals - taken.sum(axis=1), parts, draw)
        chosen = np.zeros(rows.shape, dtype=bool)
        part, local = np.nonzero(taken)
        chosen[parts.row[part], columns[part, local]] = True
        return chosen

    def spans(self, starts: Bools, parts: Parts, goals: Ints, draw: Draw) -> Bools:
        """(P, W) pieces in spans; all parts at once, one span of each at a time.

        Args:
            starts: (P, W) word starts.
            parts: the parts.
            goals: (P,) pieces wanted.
            draw: random numbers.
        """
        width = starts.shape[1]
        beginning = np.where(starts, np.arange(width)[None, :], width)
        beginning = np.minimum.accumulate(beginning[:, ::-1], axis=1)[:, ::-1]  # of the next word, from each piece on
        taken = np.zeros(starts.shape, dtype=bool)
        active, cursor, left, step = np.flatnonzero(goals > 0), np.zeros_like(goals), goals.copy(), 0
        while active.size:
            example_ids, number = parts.example_ids[active], np.full(len(active), step)
            drawn = draw.at(example_ids, number, "spans.length")
            n = np.ones(len(active), dtype=np.int64)
            for threshold in self._thresholds:
                n += drawn >= threshold
            n = np.minimum(n, left[active])
            context = n * self.alpha // self.beta
            before = (draw.at(example_ids, number, "spans.context").astype(np.int64) * context) >> 32
            place = cursor[active] + before
            start = np.where(place < width, beginning[active, np.minimum(place, width - 1)], width)
            fits = start + n < parts.size[active]
            active, n, start, behind = active[fits], n[fits], start[fits], (context - before)[fits]
            for piece in range(self.max_gram):
                taken[active[n > piece], start[n > piece] + piece] = True
            left[active] -= n
            cursor[active] = start + n + behind
            active = active[(left[active] > 0) & (cursor[active] < parts.size[active])]
            step += 1
        return taken

    def _fill(self, taken: Bools, inside: Bools, missing: Ints, parts: Parts, draw: Draw) -> Bools:
        """(P, W) so many more pieces of each part, uniformly among those not taken."""
        bits = draw.bits(parts.example_ids, taken.shape[1], "spans.fill")
        free = inside & ~taken
        np.putmask(bits, ~free, _LAST)
        ranked = np.sort(bits, axis=1)
        threshold = ranked[np.arange(len(missing)), np.maximum(missing - 1, 0)]
        return free & (bits <= threshold[:, None]) & (missing > 0)[:, None]


def draw_permutation_ranks(rows: Examples, selected: Bools, draw: Draw, perm_size: int | None = None) -> Ints32:
    """(B, L) rank of every position in a random order, which says what attends to what (XLNet, section 3.4).

    A position of the first stream attends to ranks up to its own, one of the second stream to ranks below its own. With
    two parts of n and m positions::

        rank 0             plain tokens of the first part, or of the only one: they attend to each other
        ranks 1 .. n       its selected and template tokens, each a rank of its own
        rank n + 1         plain tokens of the second part: they attend to the whole first part and to each other
        ranks n + 2 ..     its selected and template tokens

    So plain tokens attend to no selected or template token of their part, the first part to nothing of the second, and
    all tokens to what is remembered, which comes before all ranks.

    Args:
        rows: the batch.
        selected: (B, L) chosen positions; template tokens are ordered like them.
        draw: random numbers.
        perm_size: the order is random within blocks of so many positions, the same in every block of a part; blocks
            follow each other from left to right. ``None`` = the whole part.
    """
    parts = split_parts(rows)
    size = perm_size or parts.width
    bits = draw.bits(parts.example_ids, size, "permutation.order")
    if perm_size is None:
        np.putmask(bits, np.arange(size)[None, :] >= parts.size[:, None], _LAST)
    order = np.argsort(np.argsort(bits, axis=1, kind="stable"), axis=1)
    place = np.arange(parts.width)
    block, offset = place // size, place % size
    values = block[None, :] * size + order[:, offset]
    part, local = np.nonzero(place[None, :] < parts.size[:, None])
    row, column = parts.row[part], parts.start[part] + local
    before = np.roll(parts.size, 1) if perm_size is None else -(-np.roll(parts.size, 1) // size) * size
    base = np.where(parts.second == 1, before + 1, 0)[part]
    ranks = np.zeros(rows.shape, dtype=np.int32)
    ordered = (selected | rows.special_tokens_mask)[row, column]
    ranks[row, column] = base + np.where(ordered, 1 + values[part, local], 0)
    return ranks
