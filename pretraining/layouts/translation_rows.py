"""Translations in one row, so that a hidden token can be found in either language (XLM's TLM)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_special_tokens
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.layouts.translation_pairs import DIRECTIONS, Direction, Pairs, language_numbers, side_of_pairs
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary


class TranslationRows(Layout):
    """A source and its target side by side: ``cls source sep cls target sep`` (Lample & Conneau 2019, 3.3).

    ``token_type_ids`` are languages, and positions begin anew with the second sentence, so that tokens that stand at
    the same place of the two are alike to the model. A pair that does not fit is left out, as in XLM's code, which is
    said once.

    Args:
        direction: which language comes first: ``forward`` the corpus' first, ``backward`` its second, ``both`` makes
            two rows of each pair.
        shuffle_pairs: every source gets another's target, drawn anew in each epoch: the control that has the same
            sentences, and no translation.
        reset_positions: positions begin anew with the second sentence.
        languages: the run's languages in the order of their embeddings; ``None`` = the text's own.
    """

    provided_fields = frozenset({"token_type_ids", "position_ids"})

    def __init__(
        self,
        direction: Direction = "forward",
        shuffle_pairs: bool = False,
        reset_positions: bool = True,
        languages: list[str] | None = None,
    ) -> None:
        if direction not in DIRECTIONS:
            raise ZooError(f"TranslationRows: direction is {direction!r}; {', '.join(DIRECTIONS)} would work.")
        self.direction, self.shuffle_pairs, self.reset_positions = direction, shuffle_pairs, reset_positions
        self.languages = languages

    def languages_of(self, store: Store) -> list[str]:
        """All that the text has, or ``languages``."""
        return self.languages or store.languages

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        if length < 6:
            raise ZooError(f"TranslationRows: rows of {length} tokens have no room for two texts; 6 is the least.")

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens; the pieces of row n are 2 n and 2 n + 1."""
        check_special_tokens(vocabulary, "TranslationRows", cls=True, sep=True)
        self.check_length(length)
        pairs = Pairs.of(store, documents, "TranslationRows")
        if self.shuffle_pairs:
            pairs = pairs.shuffled(draw)
        total: Ints = pairs.lengths.sum(axis=1)
        return pairs.kept(total <= length - 4, store, "TranslationRows", length).directed(self.direction).plan()

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named pairs, each in one row."""
        sides = [
            build_examples(store, side_of_pairs(plan, place), indices, length, vocabulary, opens=True)
            for place in (0, 1)
        ]
        joined = side_by_side(sides[0], sides[1], vocabulary.pad or 0)
        first = sides[0].lengths[:, None]
        columns = np.arange(joined.shape[1])[None, :]
        sides_of_rows = plan.piece_types[2 * np.asarray(indices)[:, None] + np.arange(2)]
        languages = language_numbers(store, self.languages_of(store), "TranslationRows")[sides_of_rows]
        types = np.where(columns < first, languages[:, :1], languages[:, 1:]) * joined.real
        arrays = dict(joined.arrays)
        if self.reset_positions:
            arrays["position_ids"] = ((columns - first * (columns >= first)) * joined.real).astype(np.int32)
        return joined.replace(token_type_ids=types, arrays=arrays)


def side_by_side(left: Examples, right: Examples, pad: int) -> Examples:
    """Rows of ``left``, each followed by that of ``right``, padded to the longest with the id ``pad``."""
    lengths = left.lengths + right.lengths
    shape = (len(lengths), int(lengths.max(initial=1)))
    place = np.arange(shape[1])[None, :]
    from_left = place < left.lengths[:, None]
    from_right = ~from_left & (place < lengths[:, None])

    def joined(name: str, fill: int | bool) -> NDArray[np.generic]:
        one, other = getattr(left, name), getattr(right, name)
        cells = np.full(shape, fill, dtype=one.dtype)
        cells[from_left], cells[from_right] = one[left.real], other[right.real]
        return cells

    values = {
        name: joined(name, fill)
        for name, fill in (("input_ids", pad), ("special_tokens_mask", True), ("token_flags", left.token_flags[0, 0]))
    }
    arrays = {}
    for name, one in left.arrays.items():
        arrays[name] = np.zeros(shape, dtype=one.dtype)
        arrays[name][from_left], arrays[name][from_right] = one[left.real], right.arrays[name][right.real]
    return left.replace(lengths=lengths, arrays=arrays, **values)
