"""Which words and units of a text are hidden and asked for, and what they are compared with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START, Bools, Ints, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError

_DECILES = 10
_PORTION = 2**20  # tokens of the training text that are in memory at a time


class SentenceTokens(NamedTuple):
    """Sentences of some documents, one after the other. N tokens.

    Args:
        ids: (N,) tokens.
        starts: (N + 1,) whether a word starts here; the end is one.
        sentence: (N,) number of each token's sentence.
        bounds: (S + 1,) first token of each sentence.
        good: (N,) whether the token's word is of letters alone, so that it may be asked about.
        codes: (N,) unit codes of the entities, where they are asked about.
    """

    ids: Ints
    starts: Bools
    sentence: Ints
    bounds: Ints
    good: Bools
    codes: NDArray[np.uint8] | None


class DocumentTokens:
    """Tokens of some documents of a store, end to end as if they were one array; a slice is read when it is taken.

    Args:
        store: the text.
        documents: their numbers.
    """

    def __init__(self, store: Store, documents: Ints) -> None:
        offsets = store.document_tokens()
        sizes = offsets[documents + 1] - offsets[documents]
        self._tokens = np.asarray(store.tokens)
        self._ends = np.cumsum(sizes)
        self._shift = offsets[documents] - (self._ends - sizes)

    def __len__(self) -> int:
        """Tokens."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """(n,) the tokens of a slice."""
        place = np.arange(*part.indices(len(self)))
        place += self._shift[np.searchsorted(self._ends, place, side="right")]
        return self._tokens[place]


class Items(NamedTuple):
    """Stretches to hide. (I,) each: first token in the text, number of tokens."""

    start: Ints
    size: Ints


def read_text(store: Store, documents: Ints, tokenizer: ZooTokenizer, entity: str | None) -> SentenceTokens:
    """The sentences of ``documents``.

    Raises:
        ZooError: the store has no array of entities.
    """
    if entity is not None and entity not in store.arrays:
        raise ZooError(
            f"cloze: {store.path} has no array {entity!r} (it has {', '.join(store.arrays) or 'none'}); it is made by "
            f"corpus.annotations.{entity}, for example a pretraining.annotations.Lexicon."
        )
    offsets, edges = np.asarray(store.documents), np.asarray(store.sentences)
    sentences = ragged_ranges(offsets[documents], offsets[documents + 1] - offsets[documents])
    sizes = edges[sentences + 1] - edges[sentences]
    place = ragged_ranges(edges[sentences], sizes)
    ids = np.asarray(store.tokens)[place].astype(np.int64)
    starts = np.ones(len(ids) + 1, dtype=bool)
    starts[:-1] = (np.asarray(store.flags)[place] & WORD_START) != 0
    bounds = np.append(0, np.cumsum(sizes))
    starts[bounds] = True
    word = np.flatnonzero(starts)
    good = np.repeat(of_letters(ids, word[:-1], np.diff(word), tokenizer), np.diff(word))
    codes = None if entity is None else np.asarray(store.arrays[entity])[place]
    return SentenceTokens(ids, starts, np.repeat(np.arange(len(sizes)), sizes), bounds, good, codes)


def of_letters(ids: Ints, start: Ints, size: Ints, tokenizer: ZooTokenizer) -> Bools:
    """(W,) whether each word, its tokens decoded together, is of letters alone.

    How a vocabulary marks words (``##``, ``▁``, ``Ġ``, ``</w>``) its decoder knows; and only a whole word has whole
    characters where the units are bytes.

    Args:
        ids: (N,) tokens of a text.
        start: (W,) first token of each word.
        size: (W,) its number of tokens.
        tokenizer: what the ids belong to.
    """
    good = np.zeros(len(start), dtype=bool)
    special = list(tokenizer.vocabulary.special_ids)
    for length in np.unique(size).tolist():
        own = np.flatnonzero(size == length)
        words, numbers = np.unique(ids[start[own][:, None] + np.arange(length)], axis=0, return_inverse=True)
        spelt = tokenizer.backend.decode_batch(words.tolist(), skip_special_tokens=False)
        letters = np.array(["".join(text.split()).isalpha() for text in spelt])  # a decoder parts Chinese characters
        good[own] = (letters & ~np.isin(words, special).any(axis=1))[numbers.reshape(-1)]
    return good


def choose_words(text: SentenceTokens, longest: int, items: int, draw: Draw) -> dict[int, Items]:
    """Words of letters, by their number of tokens: at most ``items`` of each, drawn by their place."""
    start = np.flatnonzero(text.starts)
    start, size = start[:-1], np.diff(start)
    good = np.logical_and.reduceat(text.good, start) if len(start) else np.zeros(0, dtype=bool)
    found = {}
    for length in range(1, longest + 1):
        own = _sample(start[good & (size == length)], items, draw)
        found[length] = Items(own, np.full(len(own), length))
    return found


def _sample(places: Ints, count: int, draw: Draw) -> Ints:
    """At most ``count`` of the places, ascending."""
    if len(places) <= count:
        return places
    order = np.argsort(draw.keys(places, "cloze"), kind="stable")
    return np.sort(places[order[:count]])


def choose_entities(
    text: SentenceTokens,
    training: NDArray[Any] | DocumentTokens,
    shortest: int,
    items: int,
    draw: Draw,
    portion: int = _PORTION,
) -> tuple[Items, Items]:
    """Units and control stretches of the same lengths and tenths of training frequency, equally many of each.

    Args:
        text: what is asked about.
        training: tokens of the training text, for frequencies.
        shortest: least tokens of a unit.
        items: most units.
        draw: random numbers.
        portion: training tokens that are in memory at a time.

    Raises:
        ZooError: there is no unit so long.
    """
    assert text.codes is not None
    inside = text.codes > 0
    start = np.flatnonzero(text.codes == 1)
    after = np.append(np.flatnonzero(text.codes != 2), len(text.codes))
    size = after[np.searchsorted(after, start, side="right")] - start
    kept = (size >= shortest) & (text.sentence[start] == text.sentence[start + size - 1])
    start, size = start[kept], size[kept]
    if not len(start):
        raise ZooError(f"cloze: no unit of {shortest} tokens or more in the text that is asked about.")
    chosen = np.isin(start, _sample(start, items, draw))
    start, size = start[chosen], size[chosen]
    pairs: list[tuple[Ints, Ints, int]] = []
    for length in np.unique(size).tolist():
        own, control = start[size == length], _stretches(text, inside, length)
        if not len(control):
            continue
        often = ngram_frequency(text.ids, np.append(own, control), length, training, portion)
        edges = np.quantile(often[: len(own)], np.arange(1, _DECILES) / _DECILES)
        tenth, tenth_of_control = np.split(np.searchsorted(edges, often, side="left"), [len(own)])
        for number in np.unique(tenth):
            first, second = own[tenth == number], control[tenth_of_control == number]
            count = min(len(first), len(second))
            pairs.append((_sample(first, count, draw), _sample(second, count, draw), length))
    sizes = np.concatenate([np.full(len(first), length) for first, _, length in pairs] or [np.zeros(0, np.int64)])
    if not len(sizes):
        raise ZooError("cloze: no stretch outside of the units is as long and as frequent as one of them.")
    return (
        Items(np.concatenate([first for first, _, _ in pairs]), sizes),
        Items(np.concatenate([second for _, second, _ in pairs]), sizes),
    )


def _stretches(text: SentenceTokens, inside: Bools, length: int) -> Ints:
    """First tokens of all stretches of whole words with ``length`` tokens, of letters and outside of units."""
    start = np.flatnonzero(text.starts[:-1])
    start = start[start + length <= len(text.ids)]
    bad = np.append(0, np.cumsum(~text.good | inside))
    fits = text.starts[start + length] & (bad[start + length] == bad[start])
    return start[fits & (text.sentence[start] == text.sentence[start + length - 1])]


def ngram_frequency(
    ids: Ints, start: Ints, length: int, training: NDArray[Any] | DocumentTokens, portion: int = _PORTION
) -> Ints:
    """How often each stretch stands in the training tokens, by a 64-bit hash of its tokens.

    Args:
        ids: (N,) tokens of a text.
        start: (I,) first tokens of the stretches there.
        length: number of tokens of each.
        training: tokens of the training text.
        portion: how many of these are in memory at a time.

    Returns:
        (I,) counts.
    """
    wanted, numbers = np.unique(_ngram_hashes(ids, length)[start], return_inverse=True)
    counts = np.zeros(len(wanted), dtype=np.int64)
    for begin in range(0, len(training) - length + 1, portion):  # a stretch counts where its first token is
        hashes = _ngram_hashes(training[begin : begin + portion + length - 1], length)
        place = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        counts += np.bincount(place[wanted[place] == hashes], minlength=len(wanted))
    found: Ints = counts[numbers]
    return found


def _ngram_hashes(ids: NDArray[Any], length: int) -> NDArray[np.uint64]:
    """Of the ``length`` tokens from each place on."""
    count = max(len(ids) - length + 1, 0)
    with np.errstate(over="ignore"):
        found = np.zeros(count, dtype=np.uint64)
        for step in range(length):
            found = found * np.uint64(0x9E3779B97F4A7C15) + ids[step : step + count].astype(np.uint64) + np.uint64(1)
            found ^= found >> np.uint64(29)
    return found
