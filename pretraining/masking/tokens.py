"""BERT's own scheme: single tokens, of which 80 % are masked, 10 % replaced and 10 % kept (Devlin et al. 2018, 3.1).

Worked example, ``RandomTokens(rate=0.25)`` and ``Replace(mask=0.8, random=0.1, keep=0.1)`` on one row. The budget
counts all 8 real tokens: rint(0.25 * 8) = 2::

    [CLS] the cat sat on the mat [SEP] [PAD]        [CLS] the [MASK] sat on stone mat [SEP] [PAD]
      .    .   x   .   .  x   .    .     .     ->               80%          10%
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START, Bools, Ints, Ints32
from pretraining.keyed_random import Draw, scaled
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Budget, Budgeted, Replacement
from zoo.errors import ZooError
from zoo.values import Count, Share, check_shares
from zoo.vocabulary import Vocabulary


class RandomTokens(Budgeted):
    """Single tokens, uniformly and without replacement; exactly the budgeted number of them.

    BERT: the defaults, with ``max_predictions``. RoBERTa: ``budget: stochastic, include_special: true``.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        budget: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``bernoulli``.
        max_predictions: upper limit per row.
        include_special: whether template tokens can be chosen.
    """

    def __init__(
        self,
        rate: Share = 0.15,
        budget: Budget = "nearest",
        max_predictions: Count | None = None,
        include_special: bool = False,
    ) -> None:
        super().__init__(rate, budget, max_predictions, include_special)

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """The positions with the k smallest draws. Draws of a row are distinct, so ties cannot happen."""
        candidates = self.candidates(rows)
        bits = draw.bits(rows.example_ids, rows.shape[1], "choose.order")
        if self.budget == "bernoulli":
            return (bits < self.threshold) & candidates
        np.putmask(bits, ~candidates, np.uint32(0xFFFFFFFF))
        wanted = np.minimum(self.budget_of(rows, draw), candidates.sum(axis=1, dtype=np.int32))
        ranked = np.sort(bits, axis=1)
        threshold = ranked[np.arange(len(wanted)), np.maximum(wanted - 1, 0)]
        chosen: Bools = bits <= threshold[:, None]
        chosen &= candidates
        chosen[wanted == 0] = False
        return chosen


class Replace(Replacement):
    """The mask token, a random token or the token itself, by fixed shares (BERT: 80/10/10).

    Args:
        mask: share that becomes the mask token.
        random: share that becomes a uniformly drawn vocabulary entry, possibly the original.
        keep: share that stays.
        random_excludes_special: never draw the padding, unknown, opening and separating tokens. The mask
            token stays possible, as in fairseq's MaskTokensDataset. Default: every entry can be drawn, as
            in BERT.
        random_excludes_padding: never draw the padding token, all others (PaddlePaddle/ERNIE, batching.py, which
            draws from [1, V) where padding is 0).
        per: one decision for each ``token`` or for each ``word`` (random tokens are drawn per token
            either way). Whole-word masks of BERT, BERT-wwm and ERNIE decide per token.

    Raises:
        ZooError: shares that are negative or do not add up to 1.
    """

    def __init__(
        self,
        mask: Share = 0.8,
        random: Share = 0.1,
        keep: Share = 0.1,
        random_excludes_special: bool = False,
        per: Literal["token", "word"] = "token",
        random_excludes_padding: bool = False,
    ) -> None:
        check_shares("Replace", mask=mask, random=random, keep=keep)
        if per not in ("token", "word"):
            raise ZooError(f"Replace: per is {per!r}; 'token' or 'word' would work.")
        self.mask, self.random, self.keep = mask, random, keep
        self.random_excludes_special = random_excludes_special
        self.random_excludes_padding = random_excludes_padding
        self.per = per
        self.needs_mask, self.shown = mask > 0, (random, keep)
        self._mask_below = round(mask * 2**32)
        self._random_below = 2**32 if keep == 0 else round((mask + random) * 2**32)

    def __call__(self, rows: Examples, selected: Bools, draw: Draw, vocabulary: Vocabulary) -> Ints32:
        """New (B, L) input ids."""
        width = rows.shape[1]
        place = np.flatnonzero(selected)
        row = place // width
        example, position = rows.example_ids[row], place - row * width
        if self.per == "word":
            decided = draw.at(example, _word_of(rows).reshape(-1)[place], "fill")
        else:
            decided = draw.at(example, position, "fill")
        ids = rows.input_ids.reshape(-1).copy()
        if self.needs_mask:
            if vocabulary.mask is None:
                raise ZooError("Replace: the tokenizer has no mask token, which a mask share above 0 needs.")
            ids[place[decided < self._mask_below]] = vocabulary.mask
        swap = (decided >= self._mask_below) & (decided < self._random_below)
        bits = draw.at(example[swap], position[swap], "fill.random")
        ids[place[swap]] = random_ids(bits, vocabulary, self.random_excludes_special, self.random_excludes_padding)
        return ids.reshape(rows.shape)


def random_ids(
    bits: NDArray[np.uint32],
    vocabulary: Vocabulary,
    exclude_special: bool,
    exclude_padding: bool = False,
    exclude_mask: bool = False,
) -> Ints32:
    """Uniform vocabulary entries from 32-bit draws; see :class:`Replace` for what is excluded.

    ``exclude_mask`` leaves the mask token out as well, where special tokens are.
    """
    excluded = [i for i in vocabulary.special_ids if exclude_special and (exclude_mask or i != vocabulary.mask)]
    if exclude_padding and vocabulary.pad is not None and vocabulary.pad not in excluded:
        excluded = sorted([*excluded, vocabulary.pad])
    drawn = scaled(bits, vocabulary.size - len(excluded))
    for special in excluded:  # ascending: step over each excluded id
        drawn += drawn >= special
    return drawn.astype(np.int32)


def _word_of(rows: Examples) -> Ints:
    """(B, L) position at which each token's word starts."""
    columns = np.arange(rows.shape[1])
    starts = np.where((rows.token_flags & WORD_START) != 0, columns[None, :], 0)
    words: Ints = np.maximum.accumulate(starts, axis=1)
    return words
