"""BART's noises: tokens masked or deleted, spans filled in, sentences shuffled, documents rotated (Lewis et al. 2020).

Each takes the rows that the one before it left. A document is a stretch of a row between template tokens. Worked
examples, with the documents' letters as tokens::

    A B C . D E .    TokenMasking          A _ C . _ E .
                     TokenDeletion         A C . E .
                     TextInfilling         A _ . D _ E .      (B C is one mask; nothing is another)
                     SentencePermutation   D E . A B C .
                     DocumentRotation      C . D E . A B
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np

from pretraining.arrays import SENTENCE_START, WORD_START, Bools, Ints, Ints32, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Replacement, Selector
from pretraining.masking.groups import group_sizes, word_starts
from pretraining.masking.noise import Noise
from pretraining.masking.splice import Insertions, drawn_places, rearranged, splice
from pretraining.masking.tokens import RandomTokens, Replace, random_ids
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.values import Probability, Range, Share
from zoo.vocabulary import Vocabulary


class TokenMasking(Noise):
    """Some tokens give way to the mask token, one for one (BERT's noise).

    Args:
        select: which tokens; default 15 % of them.
        replacement: what stands there instead; default the mask token.
    """

    def __init__(self, select: Selector | None = None, replacement: Replacement | None = None) -> None:
        self.select = select or RandomTokens(rate=0.15)
        self.replacement = replacement or Replace(mask=1, random=0, keep=0)
        self.required_fields, self.needs_mask = self.select.required_fields, self.replacement.needs_mask

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Let ``replacement`` learn the tokenizer's words."""
        self.replacement.bind_tokenizer(tokenizer)

    def check(self, store: Store) -> None:
        """Raise ZooError if nothing of a text could be chosen, or replaced as is said."""
        self.select.check(store)
        self.replacement.check(store)

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Examples:
        """The rows, as long as before."""
        selected = self.select(rows, draw, vocabulary)
        return rows.replace(input_ids=self.replacement(rows, selected, draw, vocabulary))


class TokenDeletion(Noise):
    """Some tokens are taken out; the decoder must find out where.

    Args:
        select: which tokens; default 15 % of them.
    """

    def __init__(self, select: Selector | None = None) -> None:
        self.select = select or RandomTokens(rate=0.15)
        self.required_fields = self.select.required_fields

    def check(self, store: Store) -> None:
        """Raise ZooError if nothing of a text could be chosen."""
        self.select.check(store)

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Examples:
        """Shorter rows."""
        none = np.zeros(0, dtype=np.int64)
        nothing = Insertions(none, none, none.astype(np.int32), none.astype(np.uint8))
        return splice(rows, rows.real & ~self.select(rows, draw, vocabulary), nothing, vocabulary.pad or 0)


class TextInfilling(Noise):
    """Spans of Poisson lengths give way to one mask token each; a span of length 0 is a mask token put in.

    As many spans are drawn as cover ceil(rate * words), the last one cut to fit; their places are uniform among all
    ways to lay them out without overlap. (In fairseq's denoising_dataset.py spans may run into each other, so fewer
    words than asked for are hidden.) There are never more spans than hidden words, so no row grows.

    Args:
        rate: share of the words that spans cover.
        mean_length: of the Poisson distribution (lambda), in words.
        random: share of the spans that a random token stands for instead of the mask token.
        unit: what spans are made of, whole ``words`` or single ``tokens``.
    """

    def __init__(
        self,
        rate: Share = 0.3,
        mean_length: Annotated[float, Range(above=0, most=50)] = 3.0,
        random: Probability = 0.0,
        unit: Literal["words", "tokens"] = "words",
    ) -> None:
        if not 0.0 < rate <= 1.0:
            raise ZooError(f"TextInfilling: rate is {rate}; it must lie in (0, 1], for example 0.3.")
        if not 0.0 < mean_length <= 50.0:
            raise ZooError(f"TextInfilling: mean_length is {mean_length}; it must lie in (0, 50], for example 3.")
        self.rate, self.mean_length, self.random, self.unit = rate, mean_length, random, unit
        self.needs_mask = random < 1
        chances = [np.exp(-mean_length)]
        while len(chances) < 4 * mean_length + 40:
            chances.append(chances[-1] * mean_length / len(chances))
        self._below = np.minimum(np.rint(np.cumsum(chances) * 2**32), 2**32 - 1).astype(np.uint32)

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Examples:
        """Shorter rows."""
        candidates = ~rows.special_tokens_mask
        start = word_starts(rows, candidates) if self.unit == "words" else candidates
        words = start.sum(axis=1)
        spans = self._spans(rows, words, draw)
        before = np.cumsum(words) - words  # words of the rows before
        first = before[spans.row] + spans.word
        edges = np.zeros(int(words.sum()) + 1, dtype=np.int64)
        np.add.at(edges, first, 1)
        np.add.at(edges, first + spans.length, -1)
        hidden_words = np.cumsum(edges) > 0
        word_of = np.maximum(np.cumsum(start.reshape(-1)) - 1, 0).reshape(start.shape)
        kept = rows.real & ~(hidden_words[word_of] & candidates)
        width = rows.shape[1]
        ends = np.arange(len(words)) * width + width - np.argmax(candidates[:, ::-1], axis=1)
        cells = np.append(np.flatnonzero(start), 0)
        cell = np.where(spans.word < words[spans.row], cells[first], ends[spans.row])
        covered = rows.token_flags.reshape(-1)[np.minimum(cell, rows.token_flags.size - 1)]
        flags = np.where(spans.length > 0, covered, np.uint8(WORD_START)).astype(np.uint8)
        ids = self._ids(rows, spans, draw, vocabulary)
        return splice(rows, kept, Insertions(spans.row, cell, ids, flags), vocabulary.pad or 0)

    def _spans(self, rows: Examples, words: Ints, draw: Draw) -> _Spans:
        """Where spans begin and how many words they cover, row by row and from left to right."""
        budget = np.ceil(words * self.rate - 1e-9).astype(np.int64)
        covered = self._covered(rows, budget, draw)
        counts = np.minimum((covered < budget[:, None]).sum(axis=1) + 1, budget)
        some = counts > 0
        covered[some, counts[some] - 1] = budget[some]
        # Spans and the words between them are items; any of these may be spans.
        items = drawn_places(draw, rows.example_ids, words - budget + counts, counts, "infill.place")
        row, column = np.nonzero(items)
        number = ragged_ranges(np.zeros(len(counts), dtype=np.int64), counts)
        lengths = np.diff(covered, axis=1, prepend=0)
        # Turned by a random number of spans, or the one that was cut would always be the row's last.
        turn = draw.integers(rows.example_ids, np.maximum(counts, 1), "infill.turn")
        length = lengths[row, (number + turn[row]) % counts[row]] if len(row) else number
        total = np.cumsum(length) - length
        opening = np.cumsum(counts) - counts
        earlier = total - np.append(total, 0)[opening[row]]  # words that the row's spans before cover
        return _Spans(row, number, column - number + earlier, length)

    def _covered(self, rows: Examples, budget: Ints, draw: Draw) -> Ints:
        """(B, S) words that each row's first spans cover together, never more than its budget."""
        most = int(budget.max(initial=0))
        size = max(8, most // 2 + 8)
        while True:
            bits = draw.bits(rows.example_ids, size, "infill.length")
            covered = np.cumsum(
                np.searchsorted(self._below, bits.reshape(-1), side="right").reshape(bits.shape), axis=1
            )
            if size > most or (covered[:, -1] >= budget).all():
                return np.minimum(covered, budget[:, None])
            size *= 2

    def _ids(self, rows: Examples, spans: _Spans, draw: Draw, vocabulary: Vocabulary) -> Ints32:
        """(I,) what stands for each span."""
        if self.needs_mask and vocabulary.mask is None:
            raise ZooError("TextInfilling: the tokenizer has no mask token, which a span gives way to.")
        ids = np.full(len(spans.row), vocabulary.mask or 0, dtype=np.int32)
        if self.random:
            example = rows.example_ids[spans.row]
            swap = draw.at(example, spans.number, "infill.fill") < min(round(self.random * 2**32), 2**32 - 1)
            bits = draw.at(example[swap], spans.number[swap], "infill.random")
            ids[swap] = random_ids(bits, vocabulary, exclude_special=True, exclude_mask=True)
        return ids


class _Spans(NamedTuple):
    """Spans of rows. (I,) each.

    Args:
        row: whose.
        number: of the span in its row.
        word: number, in its row, of the word that it begins before.
        length: words that it covers.
    """

    row: Ints
    number: Ints
    word: Ints
    length: Ints


class SentencePermutation(Noise):
    """The sentences of each document in random order. A row's sentences are the store's."""

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Examples:
        """The rows, as long as before."""
        candidates = ~rows.special_tokens_mask
        first = _document_starts(candidates)
        start = candidates & (first | ((rows.token_flags & SENTENCE_START) != 0))
        row, column = np.nonzero(start)
        sizes = group_sizes(start | ~candidates, row, column)
        flat = row * rows.shape[1] + column
        document = np.cumsum(first.reshape(-1)[flat]).astype(np.uint64)
        keys = document << np.uint64(32) | draw.at(rows.example_ids[row], column, "permute.sentences")
        order = np.argsort(keys)
        return rearranged(rows, np.flatnonzero(candidates), ragged_ranges(flat[order], sizes[order].astype(np.int64)))


class DocumentRotation(Noise):
    """Each document begins with a token chosen uniformly, and what stood before that follows its end.

    Args:
        share: of the documents that are rotated.
    """

    def __init__(self, share: Probability = 1.0) -> None:
        self.share = share

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Examples:
        """The rows, as long as before."""
        candidates = ~rows.special_tokens_mask
        first = _document_starts(candidates)
        row, column = np.nonzero(first)
        sizes = group_sizes(first | ~candidates, row, column).astype(np.int64)
        flat, example = row * rows.shape[1] + column, rows.example_ids[row]
        turn = (draw.at(example, column, "rotate.place").astype(np.int64) * sizes) >> 32
        turned = draw.at(example, column, "rotate.share") < min(round(self.share * 2**32), 2**32)
        turn = np.where(turned, turn, 0)
        within = ragged_ranges(turn, sizes) % np.repeat(sizes, sizes)
        return rearranged(rows, np.flatnonzero(candidates), np.repeat(flat, sizes) + within)


def _document_starts(candidates: Bools) -> Bools:
    """(B, L) first tokens of the stretches between template tokens."""
    first = candidates.copy()
    first[:, 1:] &= ~candidates[:, :-1]
    return first
