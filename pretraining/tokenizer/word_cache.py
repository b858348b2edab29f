"""Fast encoding: sentences by looking up their words, so that only words not seen before reach the backend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pretraining.arrays import WORD_START, ragged_ranges
from pretraining.text.segmenter import CJK
from pretraining.tokenizer.entries import Entries, FlatIds, UnitTokens, ids_and_flags, pack, places_in_texts, places_of
from pretraining.tokenizer.units import WordMarks, unit_rules
from pretraining.tokenizer.whole_texts import Boundaries, WholeTexts

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
