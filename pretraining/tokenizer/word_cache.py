"""Fast encoding: sentences by looking up their words, so that only words not seen before reach the backend."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pretraining.arrays import CAPITALISED, WORD_START, ragged_ranges
from pretraining.text.segmenter import CJK
from pretraining.tokenizer.characters import SPACE, code_points, count_between, is_cjk, is_upper
from pretraining.tokenizer.entries import (
    LONGEST_TEXT,
    Entries,
    FlatIds,
    UnitTokens,
    ids_and_flags,
    pack,
    places_in_texts,
    places_of,
)
from pretraining.tokenizer.units import WordMarks, unit_rules

Boundaries = Sequence[Sequence[int] | None]
"""For each text the characters at which a segmenter's words start, or ``None`` for the script's own words."""
_CACHED_WORDS = 200_000
_CHINESE_WORD = re.compile(f"[{CJK}]+").fullmatch
_WHOLE = -1  # stands for the entry of a text that has no units


@dataclass
class _Known:
    """Units that were encoded before.

    Args:
        plain: entry of each unit of plain text.
        segmented: entry of each of a segmenter's words.
        entries: what they are encoded as.
    """

    plain: dict[str, int] = field(default_factory=dict)
    segmented: dict[str, int] = field(default_factory=dict)
    entries: Entries = field(default_factory=Entries.none)

    def __len__(self) -> int:
        """Units."""
        return len(self.plain) + len(self.segmented)

    def index(self, starts: Sequence[int] | None) -> dict[str, int]:
        """The units of a text with these word boundaries."""
        return self.plain if starts is None else self.segmented

    def add(self, index: dict[str, int], units: Sequence[str], entries: Entries) -> None:
        """Remember an entry for each unit, under ``index``."""
        size = len(self.entries.sizes)
        self.entries = self.entries.join(entries)
        index.update(zip(units, range(size, size + len(units))))


class WordCache:
    """Encodes texts by their units (:class:`~pretraining.tokenizer.units.UnitRules`), or whole where they have none.

    Exact: a unit's tokens do not depend on what stands beside it.

    Args:
        backend: the tokenizer; it is copied.
        marks: where its vocabulary's words begin.

    Attributes:
        whole: what texts without units, and new units, are encoded by.
    """

    def __init__(self, backend: Tokenizer, marks: WordMarks) -> None:
        own = Tokenizer.from_str(backend.to_str())
        own.encode_special_tokens = True  # a "[MASK]" in a corpus is text
        own.no_padding()
        own.no_truncation()
        self.whole = WholeTexts(own, marks)
        self._rules = unit_rules(backend, marks.marker)
        self._known = _Known()

    def encode(
        self, texts: Sequence[str], boundaries: Boundaries, places: bool = False
    ) -> tuple[FlatIds, NDArray[np.int64] | None]:
        """All ids and flags end to end, how many belong to each text; the tokens' places, where they are asked for."""
        if len(self._known) > _CACHED_WORDS:
            self._known = _Known()
        units = [self._rules.units(text, starts) for text, starts in zip(texts, boundaries)]
        entry = self._entries_of(units, boundaries)
        direct = [place for place, found in enumerate(units) if found is None]
        entries = self._known.entries
        if direct:  # entries that are not kept
            entry[entry == _WHOLE] = len(entries.sizes) + np.arange(len(direct))
            entries = entries.join(self.whole.encode([texts[i] for i in direct], [boundaries[i] for i in direct]))
        unit_sizes = entries.sizes[entry]
        tokens = entries.tokens_of(entry)
        ids, flags = ids_and_flags(tokens)
        ends = np.cumsum([1 if found is None else len(found) for found in units], dtype=np.int64)
        sizes = np.diff(np.append(0, np.cumsum(unit_sizes))[np.append(0, ends)])
        flat = ids, flags, sizes
        if not places:
            return flat, None
        spaced = np.array([found is None or self._rules.keeps_spaces for found in units], dtype=bool)
        own = UnitTokens(entries.lengths[entry], unit_sizes, *places_of(tokens), self.whole.is_marker(ids))
        return flat, places_in_texts(texts, spaced, own, sizes)

    def _entries_of(self, units: list[list[str] | None], boundaries: Boundaries) -> NDArray[np.int64]:
        """Entries of all units, end to end, new ones learnt; ``_WHOLE`` for a text without units."""
        numbers = self._looked_up(units, boundaries)
        if None in numbers:
            for starts in (None, [0]):
                index = self._known.index(starts)
                own = [found for found, b in zip(units, boundaries) if found and (b is None) == (starts is None)]
                new = {unit for found in own for unit in found if unit not in index}
                self._learn(index, sorted(new), starts)
            numbers = self._looked_up(units, boundaries)
        return np.array(numbers, dtype=np.int64)

    def _looked_up(self, units: list[list[str] | None], boundaries: Boundaries) -> list[int | None]:
        """Entries of all units, end to end: ``None`` where a unit is new, ``_WHOLE`` for a text without units."""
        numbers: list[int | None] = []
        for found, starts in zip(units, boundaries):
            if found is None:
                numbers.append(_WHOLE)
            else:
                numbers.extend(map(self._known.index(starts).get, found))
        return numbers

    def _learn(self, index: dict[str, int], new: list[str], starts: list[int] | None) -> None:
        """Encode units that are new. ``starts = [0]``: each is one word, whatever its characters."""
        if starts is not None and self._rules.splits_cjk:
            chinese = list(filter(_CHINESE_WORD, new))
            self._learn_chinese(index, chinese)
            new = [unit for unit in new if unit not in index] if chinese else new
        self._known.add(index, new, self.whole.encode(new, [starts] * len(new)))

    def _learn_chinese(self, index: dict[str, int], new: list[str]) -> None:
        """Words of Chinese characters alone: their tokens are the characters', whichever word they are in."""
        codes = np.frombuffer("".join(new).encode("utf-32-le"), dtype=np.uint32)
        distinct, inverse = np.unique(codes, return_inverse=True)
        characters = [chr(code) for code in distinct.tolist()]
        plain = self._known.plain
        self._learn(plain, [c for c in characters if c not in plain], None)
        entry = np.array([plain[c] for c in characters], dtype=np.int64)
        entries = self._known.entries
        if not new or (entries.sizes[entry] != 1).any():
            return  # then the backend is asked
        ids = ids_and_flags(entries.tokens_of(entry))[0].astype(np.int64)[inverse]
        lengths = np.array([len(word) for word in new], dtype=np.int64)
        place = ragged_ranges(np.zeros_like(lengths), lengths)
        tokens = pack(ids, (place == 0) * np.int64(WORD_START), place, place + 1)
        self._known.add(index, new, Entries(tokens, lengths, lengths))


# --- whole texts by the backend ------------------------------------------------------------------


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
