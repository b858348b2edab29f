"""Pseudo-log-likelihood of texts by a model that restores what noise hid: each word hidden by itself, then written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pretraining.arrays import Bools, Ints
from pretraining.layouts.examples import Examples
from pretraining.layouts.translation_pairs import decoder_targets
from pretraining.masking.groups import group_sizes, word_starts
from pretraining.masking.splice import Insertions, closed, splice

_TOKENS_AT_ONCE = 16_384  # input tokens of the copies that are run at once


class HiddenWords(NamedTuple):
    """Copies of rows in which one word each is hidden from the encoder.

    Args:
        row: (C,) number of the row that each is a copy of.
        copies: C rows with what the decoder reads and is asked among their targets.
        asked: (C, T) True at the word's tokens among the labels.
    """

    row: Ints
    copies: Examples
    asked: Bools


def hide_each_word(
    rows: Examples, token: int, start: int, pad: int, span_target: int | None, tokens_at_once: int = _TOKENS_AT_ONCE
) -> list[HiddenWords]:
    """Copies of rows, one for each word, in portions that can be run at once.

    Args:
        rows: clean rows.
        token: stands for the word: the mask token, or the first sentinel.
        start: what the decoder reads first.
        pad: id that stands behind a row's end.
        span_target: the closing token of a target that is ``token`` and the word alone (T5); ``None`` = the target is
            the whole text, of which the decoder knows what stands before the word (BART).
        tokens_at_once: input tokens of a portion.
    """
    candidates = ~rows.special_tokens_mask
    first = word_starts(rows, candidates)
    row, column = np.nonzero(first)
    sizes = group_sizes(first | ~candidates, row, column)
    step = max(1, tokens_at_once // rows.shape[1])
    found = []
    for begin in range(0, len(row), step):
        part = slice(begin, begin + step)
        columns = np.arange(rows.shape[1])[None, :]
        word = (columns >= column[part, None]) & (columns < (column + sizes)[part, None])
        found.append(_copies(rows, row[part], column[part], word, (token, start, pad, span_target)))
    return found


def _copies(
    rows: Examples, row: Ints, column: Ints, word: Bools, tokens: tuple[int, int, int, int | None]
) -> HiddenWords:
    """One portion; ``word`` (C, L) is the word hidden in each copy."""
    token, start, pad, end = tokens
    types, numbers = rows.token_type_ids, np.arange(len(row))
    clean = Examples(
        input_ids=rows.input_ids[row],
        lengths=rows.lengths[row],
        special_tokens_mask=rows.special_tokens_mask[row],
        token_flags=rows.token_flags[row],
        example_ids=numbers,
        document_ids=rows.document_ids[row],
        token_type_ids=None if types is None else types[row],
    )
    ids = np.full(len(row), token, dtype=np.int32)
    hidden = Insertions(numbers, numbers * word.shape[1] + column, ids, clean.token_flags[numbers, column])
    source, target, asked = splice(clean, clean.real & ~word, hidden, pad), clean, word
    if end is not None:
        source = closed(source, end, pad)
        target = closed(splice(clean, word, hidden, pad), end, pad)
        places = np.arange(target.shape[1])[None, :]
        asked = (places >= 1) & (places < target.lengths[:, None] - 1)
    return HiddenWords(row, source.with_targets(**decoder_targets(target, start, pad)), asked)
