"""Encoding whole texts by the backend, with the flags of their tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pretraining.arrays import CAPITALISED, WORD_START
from pretraining.tokenizer.characters import SPACE, code_points, count_between, is_cjk, is_upper
from pretraining.tokenizer.entries import LONGEST_TEXT, Entries, pack
from pretraining.tokenizer.units import WordMarks

Boundaries = Sequence[Sequence[int] | None]
"""For each text the characters at which a segmenter's words start, or ``None`` for the script's own words."""


class _Texts(NamedTuple):
    """Texts side by side, a line feed behind each.

    Args:
        codes: (characters,) code points.
        lengths: (texts,) characters of each text.
        shift: (texts,) its first character.
    """

    codes: NDArray[np.uint32]
    lengths: NDArray[np.int64]
    shift: NDArray[np.int64]


class WholeTexts:
    """Encodes texts by the backend: ids from it, flags from spelling, places and boundaries.

    Args:
        backend: a tokenizer that takes special tokens in a text as text, and neither pads nor cuts.
        marks: where its vocabulary's words begin.
    """

    def __init__(self, backend: Tokenizer, marks: WordMarks) -> None:
        self._backend, self._marks = backend, marks

    def encode(self, texts: Sequence[str], boundaries: Boundaries) -> Entries:
        """An entry for each text."""
        if not texts:
            return Entries.none()
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        sizes = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        side = _Texts(code_points(texts), lengths, np.cumsum(lengths + 1) - lengths - 1)
        chain = itertools.chain.from_iterable
        ids = np.fromiter(chain(encoding.ids for encoding in encodings), dtype=np.int32, count=sizes.sum())
        flat = chain(chain(encoding.offsets for encoding in encodings))
        offsets = np.fromiter(flat, dtype=np.int64, count=2 * len(ids)).reshape(-1, 2)
        first = np.zeros(len(ids), dtype=bool)
        edges = np.cumsum(sizes) - sizes
        first[edges[sizes > 0]] = True
        flags = self._flags(ids, offsets + np.repeat(side.shift, sizes)[:, None], first, side, boundaries)
        begin, end = np.minimum(offsets, LONGEST_TEXT).T
        return Entries(pack(ids.astype(np.int64), flags, begin, end), sizes, lengths)

    def is_marker(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(n,) tokens that are the mark of a word's start and nothing else."""
        lone = self._backend.token_to_id(self._marks.marker) if self._marks.marks_space else None
        return np.zeros(len(ids), dtype=bool) if lone is None else ids == lone

    def _flags(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        first: NDArray[np.bool_],
        side: _Texts,
        boundaries: Boundaries,
    ) -> NDArray[np.uint8]:
        """(n,) where words start, and which tokens are of a word whose first letter is upper case."""
        begin = self._word_starts(ids, offsets, side, boundaries) | first
        initial = np.minimum(offsets[:, 0], len(side.codes) - 1)
        initial = initial + (side.codes[initial] == SPACE)  # a byte-level token holds the space before it
        upper = is_upper(side.codes[np.minimum(initial, len(side.codes) - 1)][begin])
        flags = begin * np.uint8(WORD_START)
        if len(ids):
            flags = flags + upper[np.cumsum(begin) - 1] * np.uint8(CAPITALISED)
        return flags.astype(np.uint8)

    def _word_starts(
        self, ids: NDArray[np.int32], offsets: NDArray[np.int64], side: _Texts, boundaries: Boundaries
    ) -> NDArray[np.bool_]:
        """(n,) where a word starts: by spelling, and in words with Chinese characters by boundaries."""
        begin = self._marks.begin(ids)
        cjk = is_cjk(side.codes)
        if not cjk.any() or not len(ids):
            return begin
        bounds, mixed = _bounds(cjk, boundaries, side)
        previous = np.concatenate([[0], np.maximum.accumulate(offsets[:, 1])[:-1]])
        fresh = np.maximum(offsets[:, 0], previous)  # the later bytes of one character start nothing
        end = np.maximum(offsets[:, 1], fresh)
        holds = count_between(bounds, fresh, end) > 0
        touches = count_between(mixed, offsets[:, 0], offsets[:, 1]) > 0
        after = cjk[np.maximum(offsets[:, 0] - 1, 0)]
        marked = np.concatenate([[False], self.is_marker(ids[:-1])])  # the lone marker began the word
        return np.where(touches, holds & ~marked, begin | (after & holds))


def _bounds(
    cjk: NDArray[np.bool_], boundaries: Boundaries, side: _Texts
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(characters,) where a segmenter, or the script, starts a word, and which are part of a word with Chinese.

    In words of the second kind, word starts by spelling count for nothing.
    """
    bound = cjk | np.concatenate([[False], cjk[:-1]])
    given = np.array([starts is not None for starts in boundaries], dtype=bool)
    segmented = np.repeat(given, side.lengths + 1)
    segmented[side.shift + side.lengths] = False
    own = [starts for starts in boundaries if starts is not None]
    first = np.fromiter(itertools.chain.from_iterable(own), dtype=np.int64)
    bound[segmented] = False
    bound[first + np.repeat(side.shift[given], [len(starts) for starts in own])] = True
    edges = bound.copy()
    edges[side.shift] = edges[side.shift + side.lengths] = True
    word = np.cumsum(edges)
    holds = np.bincount(word, weights=cjk)[word] > 0
    return bound, np.where(segmented, holds, cjk)
