"""One model's way of laying texts out, as the kinds of tasks use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.data.examples import LabelledTexts
from finetune.inputs.batches import EncodedRows, filled
from finetune.inputs.encode import encode, lay_out, spaced, template_tokens, with_word_spaces
from finetune.inputs.features import TextRows, sides
from finetune.inputs.marks import MOST_CHARACTERS, Marked, Marker, Places, chunked
from finetune.inputs.task_tokenizer import CharacterTokenizer
from pretraining.arrays import ragged_ranges
from pretraining.text.segmenter import SegmenterName
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.vocabulary import Template

Layout = list[tuple[str, int]]


class PlacedTokens(NamedTuple):
    """N texts with T tokens, and where each token stands in its text.

    Args:
        ids: (T,) int32.
        lengths: (N,) int64 tokens of each text.
        places: (T, 2) int64 characters [begin, end) of its text that a token stands for.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    places: NDArray[np.int64]

    def slices(self, texts: NDArray[np.int64], begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> Marked:
        """Stretches of texts as texts of their own.

        Args:
            texts: (M,) text of each stretch.
            begins: (M,) its first token there.
            sizes: (M,) its tokens.
        """
        firsts = np.cumsum(self.lengths) - self.lengths
        ids = self.ids[ragged_ranges(firsts[texts] + begins, sizes)]
        nothing = np.zeros(len(texts), np.int64)
        return Marked(ids, sizes, np.zeros_like(ids), nothing, nothing)


@dataclass(frozen=True)
class RowEncoder:
    """Texts to rows of ids, for one model and one task.

    Args:
        tokenizer: the task's, with every token of the template.
        template: how one text and two are laid out.
        max_length: longest row, special tokens included.
        pad: id that stands in a row of no tokens.
        characters: finds words and their characters, for a core that reads characters.
        marker: makes tokens of texts that have spans.
        segmenter: puts spaces between words, for a tokenizer whose unit is the word.
        both_orders: a symmetric pair is read in both orders.
        apart: a pair's texts are encoded one by one (frozen features).
    """

    tokenizer: ZooTokenizer
    template: Template
    max_length: int
    pad: int
    characters: CharacterTokenizer | None = None
    marker: Marker | None = None
    segmenter: SegmenterName = "none"
    both_orders: bool = False
    apart: bool = False

    def layout(self, pair: bool) -> Layout:
        """Words and segments of the layout of two texts, or of one."""
        return template_tokens(self.template, pair)

    def room(self, pair: bool) -> int:
        """Tokens of text that a row has room for.

        Raises:
            ZooError: none.
        """
        words = [word for word, _ in self.layout(pair)]
        room = self.max_length - sum(not word.startswith("$") for word in words)
        if room < 1 + pair:
            raise ZooError(f"max_length = {self.max_length} leaves no room beside the template {' '.join(words)!r}.")
        return room

    def rows(self, examples: LabelledTexts) -> EncodedRows | TextRows:
        """A row for each text or pair, cut from the longer text where it is too long."""
        wide = with_word_spaces(examples, self.segmenter)
        if not self.apart:
            return self._rows(wide, self.layout(examples.pairs is not None))
        return TextRows(tuple(self._rows(side, self.layout(False)) for side in sides(wide)), self.around())

    def around(self) -> tuple[int, int]:
        """Template tokens before and after a single text."""
        words = [word for word, _ in self.layout(False)]
        before = words.index("$A")
        return before, len(words) - 1 - before

    def _rows(self, examples: LabelledTexts, layout: Layout) -> EncodedRows:
        rows = encode(examples, layout, self.tokenizer.backend, self.max_length, self.characters, self.marker)
        return rows if rows.lengths.all() else filled(rows, self.pad)

    def tokens(self, texts: list[str], where: list[str]) -> PlacedTokens:
        """All tokens of texts, and where they stand.

        Args:
            texts: N of them.
            where: their places, for messages.

        Raises:
            ZooError: a text is so long that places in it are not known.
        """
        long = next((number for number, text in enumerate(texts) if len(text) > MOST_CHARACTERS), None)
        if long is not None:
            raise ZooError(
                f"{where[long]}: a text of {len(texts[long]):,} characters; where tokens stand is known up to "
                f"{MOST_CHARACTERS:,}."
            )
        parts = [self._places(texts[at]) for at in chunked(len(texts))]
        if not parts:
            return PlacedTokens(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
        return PlacedTokens(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _places(self, texts: list[str]) -> Places:
        if self.segmenter == "none":
            return self._plain_places(texts)
        wide = spaced(texts, self.segmenter)
        ids, sizes, places = self._plain_places(wide)
        ends = np.cumsum(sizes)
        for number, (old, new) in enumerate(zip(texts, wide, strict=True)):
            if old != new:
                own = slice(ends[number] - sizes[number], ends[number])
                places[own] = _places_before(old, new, places[own])
        return ids, sizes, places

    def _plain_places(self, texts: list[str]) -> Places:
        if self.characters is not None:
            return self.characters.places(texts)
        (ids, _, sizes), places = self.tokenizer.encode_places(texts)
        return np.asarray(ids, np.int32), np.asarray(sizes, np.int64), places

    def laid_out(self, first: Marked, second: Marked | None = None) -> tuple[EncodedRows, dict[str, NDArray[np.int64]]]:
        """Rows of stretches that fit, and where each text (``$A``, ``$B``) begins in its row."""
        texts = {"$A": (first, first.lengths)} | ({} if second is None else {"$B": (second, second.lengths)})
        rows, begins = lay_out(self.layout(second is not None), texts, self.tokenizer.backend, self.characters)
        return (rows if rows.lengths.all() else filled(rows, self.pad)), begins

    def laid_out_apart(self, texts: tuple[Marked, ...]) -> TextRows:
        """Rows of stretches of one or two texts, each encoded by itself (frozen features)."""
        return TextRows(tuple(self._alone(text) for text in texts), self.around())

    def _alone(self, text: Marked) -> EncodedRows:
        return self.laid_out(text)[0]


def _places_before(old: str, new: str, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places in a text, of those in the same text with white space elsewhere."""
    solid = np.array([place for place, character in enumerate(old) if not character.isspace()], np.int64)
    before = np.cumsum([0, *(not character.isspace() for character in new)])
    if before[-1] != len(solid):
        raise ZooError(f"a segmenter changed more than the white space of {old[:60]!r}, so that places are lost.")
    if not len(solid):
        return np.zeros_like(places)
    begins, ends = before[places[:, 0]], before[places[:, 1]]
    first = solid[np.minimum(begins, len(solid) - 1)]
    stop = np.where(ends > begins, solid[np.maximum(ends - 1, 0)] + 1, first)
    return np.stack([first, stop], axis=1)
