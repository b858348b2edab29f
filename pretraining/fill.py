"""What stands there instead: the second of the three parts of a masking scheme.

Worked example, ``Replace(mask=0.8, random=0.1, keep=0.1)`` on chosen positions (x)::

    the cat sat on the mat        the [MASK] sat on stone mat
         x           x       ->         80%           10%
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretraining.random import Draw, scaled
from pretraining.rows import Rows
from pretraining.store.token_store import Store
from pretraining.tokenizer.flags import WORD_START
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary


class Fill(ABC):
    """Says what the core reads at chosen positions.

    Attributes:
        needs_mask: whether the tokenizer must have a mask token.
    """

    needs_mask: bool = True

    @abstractmethod
    def __call__(
        self, rows: Rows, selected: NDArray[np.bool_], draw: Draw, vocabulary: Vocabulary
    ) -> NDArray[np.int32]:
        """New (B, L) input ids; positions that are not selected keep theirs."""

    def sources(self) -> list[Path]:
        """Files that it reads, checked before any text is prepared; a run goes on only with the same contents."""
        return []

    def bind(self, tokenizer: ZooTokenizer) -> None:
        """Learn the tokenizer's words; called once, before anything is filled."""
        return

    def check(self, store: Store) -> None:
        """Refuse, before training, text that it cannot fill as it says."""
        return


class Replace(Fill):
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
        mask: float = 0.8,
        random: float = 0.1,
        keep: float = 0.1,
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
        self.needs_mask = mask > 0
        self._mask_below = round(mask * 2**32)
        self._random_below = 2**32 if keep == 0 else round((mask + random) * 2**32)

    def __call__(
        self, rows: Rows, selected: NDArray[np.bool_], draw: Draw, vocabulary: Vocabulary
    ) -> NDArray[np.int32]:
        """New (B, L) input ids."""
        width = rows.shape[1]
        place = np.flatnonzero(selected)
        row = place // width
        example, position = rows.example[row], place - row * width
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


def check_shares(owner: str, **shares: float) -> None:
    """Refuse shares that are negative or do not add up to 1."""
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ZooError(
            f"{owner}: {' + '.join(shares)} = {' + '.join(map(str, shares.values()))} = {sum(shares.values()):g}; the "
            "shares must not be negative and must add up to 1, for example 0.8, 0.1, 0.1."
        )


def random_ids(
    bits: NDArray[np.uint32],
    vocabulary: Vocabulary,
    exclude_special: bool,
    exclude_padding: bool = False,
    exclude_mask: bool = False,
) -> NDArray[np.int32]:
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


def _word_of(rows: Rows) -> NDArray[np.int64]:
    """(B, L) position at which each token's word starts."""
    columns = np.arange(rows.shape[1])
    starts = np.where((rows.flags & WORD_START) != 0, columns[None, :], 0)
    words: NDArray[np.int64] = np.maximum.accumulate(starts, axis=1)
    return words
