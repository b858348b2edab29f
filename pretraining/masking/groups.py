"""Groups of adjacent tokens that are chosen wholly or not at all: words, phrases, spans."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START, Bools, Ints, Ints32
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Budgeted
from zoo.vocabulary import Vocabulary

_NEVER = np.uint64(0xFFFFFFFFFFFFFFFF)
_SPARE = 12  # groups looked at first beyond those that should fill the budget


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
    number: Ints32
    bounds: Ints32
    counts: Ints32

    def spread(self, chosen: Bools) -> Bools:
        """(B, G) chosen groups to (B, L) chosen positions."""
        if not chosen.shape[1]:
            return np.zeros_like(self.candidates)
        flat = self.number + (np.arange(len(chosen), dtype=np.int32) * chosen.shape[1])[:, None]
        return np.take(chosen.reshape(-1), flat) & self.candidates


def word_starts(rows: Examples, candidates: Bools) -> Bools:
    """(B, L) candidates that begin a word: a template token before them ends the word, too.

    In google-research/bert a word's rest at the start of the second segment (left there by truncation) joins the
    last word of the first segment, across the separator. Here it is a word of its own: the two were never one.
    """
    start = (rows.token_flags & WORD_START) != 0
    start[:, 1:] |= ~candidates[:, :-1]
    start[:, :1] = True
    start &= candidates
    return start


def word_groups(rows: Examples, candidates: Bools) -> Groups:
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


def shuffled(groups: Groups, rows: Examples, draw: Draw, stream: str = "choose.order") -> Ints32:
    """(B, G) group numbers of each row in random order; numbers that do not exist come last."""
    most = groups.bounds.shape[1] - 1
    keys = draw.bits(rows.example_ids, most, stream).astype(np.uint64)
    keys <<= np.uint64(32)
    numbers = np.arange(most, dtype=np.uint64)
    keys |= numbers[None, :]
    np.putmask(keys, numbers[None, :] >= groups.counts.astype(np.uint64)[:, None], _NEVER)
    keys.sort(axis=1)
    # the low half is the group's number; where there is none, any number will do
    return np.minimum(keys & np.uint64(0xFFFFFFFF), np.uint64(max(most - 1, 0))).astype(np.int32)


def fill_budget(sizes: Ints32, budget: Ints32) -> Bools:
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
    (google-research/bert, do_whole_word_mask). With ``budget: bernoulli`` every group is taken with the chance
    ``rate``. A group's draw is that of its first token, so groups of one token are chosen as ``RandomTokens`` does.
    """

    @abstractmethod
    def starts(self, rows: Examples, draw: Draw) -> Bools:
        """(B, L), True at the first token of each group, which goes on up to the next or to a template token."""

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L) chosen positions, whole groups only."""
        start, candidates = self.starts(rows, draw), self.candidates(rows)
        edge = start | ~candidates
        bits = draw.bits(rows.example_ids, rows.shape[1], "choose.order")
        chosen = np.zeros(rows.shape, dtype=bool)
        if self.budget == "bernoulli":
            row, column = np.nonzero(start & (bits < self.threshold))
            _extend(chosen, row, column, group_sizes(edge, row, column))
            return chosen
        order, counts, budget = _in_order(start, bits), start.sum(axis=1), self.budget_of(rows, draw)
        share = counts.sum() / max(int(candidates.sum()), 1)  # groups per token
        waiting, width = np.arange(len(order)), int(budget.max(initial=0) * share) + _SPARE
        while waiting.size:  # the first groups of the order fill nearly all rows; the others look at all of theirs
            columns = order[waiting, :width].astype(np.int64)
            rank = np.arange(columns.shape[1])[None, :]
            row = np.repeat(waiting, columns.shape[1])
            sizes = group_sizes(edge, row, columns.reshape(-1)).reshape(columns.shape)
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


def group_sizes(edge: Bools, row: Ints, column: Ints) -> Ints32:
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


def _extend(chosen: Bools, row: Ints, column: Ints, sizes: Ints32) -> None:
    """Set ``sizes`` positions from each (row, column) on, in place."""
    flat, place = row * chosen.shape[1] + column, chosen.reshape(-1)
    step = 0
    while flat.size:
        place[flat + step] = True
        step += 1
        more = sizes > step
        flat, sizes = flat[more], sizes[more]
