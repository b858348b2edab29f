"""Similar words in the place of words: masked language modelling as correction (MacBERT; Cui et al. 2020, section 3.2).

Worked example on chosen words (x), where the list knows what is like ``cat`` and ``mat``, but nothing like ``on``::

    the cat sat on the mat        the dog sat red the mat
         x       x      x    ->        80%    80%     10%
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START, Bools, Ints, Ints32
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Replacement
from pretraining.masking.groups import word_starts
from pretraining.masking.tokens import random_ids
from pretraining.masking.words import no_word_goes_on
from pretraining.store.token_store import ENOUGH_TOKENS, SAMPLE_TOKENS, Store
from pretraining.text.segmenter import has_cjk
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.storage.folders import existing
from zoo.storage.user_files import read_lines
from zoo.values import Count, Share, UserPath, check_shares
from zoo.vocabulary import Vocabulary

Ids = tuple[int, ...]


class SimilarWords(Replacement):
    """A similar word, a random one, or the word itself, by fixed shares; one decision for each word.

    Positions do not move, so only a word of as many tokens takes a word's place. A word that has none, or of which a
    part is chosen only, becomes random tokens. These are uniform over the vocabulary without its special tokens, so
    that the mask token is never read. (Cui et al. 2020: "when there is no similar word, we will degrade to use random
    word replacement".)

    Args:
        files: lists of similar words, UTF-8: in each line a word, and, parted by tabs, those like it, best first. A
            file, a glob, or a list of them.
        similar: share that becomes a similar word, drawn uniformly from those that can be used.
        random: share that becomes random tokens.
        keep: share that stays.
        best: draw from the first so many of these only; absent = from all.

    Raises:
        ZooError: shares that are negative or do not add up to 1, or ``best`` below 1.
    """

    needs_mask = False

    def __init__(
        self,
        files: UserPath | list[UserPath],
        similar: Share = 0.8,
        random: Share = 0.1,
        keep: Share = 0.1,
        best: Count | None = None,
    ) -> None:
        check_shares("SimilarWords", similar=similar, random=random, keep=keep)
        if best is not None and best < 1:
            raise ZooError(f"SimilarWords: best is {best}; at least 1 similar word is needed, or null for all of them.")
        self.files, self.best = files, best
        self.shown = (1 - keep, keep)  # a similar word taken for a random one: its frequency loss is an upper bound
        self._similar_below = round(similar * 2**32)
        self._random_below = 2**32 if keep == 0 else round((similar + random) * 2**32)
        self._table: _Table | None = None
        self._whole_words = False

    def data_files(self) -> list[Path]:
        """The lists.

        Raises:
            ZooError: one does not exist or is not UTF-8 (naming the line); or no word has similar ones.
        """
        paths = existing(self.files, "SimilarWords: files")
        entries = read_similar(paths)
        if not any(entries.values()):
            raise ZooError(
                f"SimilarWords: none of the {len(entries)} entries in {self.files} has a similar word behind a tab "
                f"(the first is {next(iter(entries))[:40]!r}); lines of `word<TAB>similar<TAB>similar` are needed."
            )
        return paths

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Read the lists, and look their words up in the vocabulary.

        Raises:
            ZooError: as :meth:`data_files`; or no entry can be used: how many there are, and what is wrong with them.
        """
        entries = read_similar(existing(self.files, "SimilarWords: files"))
        words = list(dict.fromkeys(word for entry in entries.items() for word in (entry[0], *entry[1])))
        found: dict[Ids, dict[Ids, None]] = {}
        unknown = set(entries)
        for space in ("", " ") if tokenizer.keeps_spaces else ("",):  # there, it is part of the word behind it
            ids = _as_ids(tokenizer, words, space)
            unknown -= ids.keys()
            for own, others in ((ids[word], others) for word, others in entries.items() if word in ids):
                known = (ids[other] for other in others if other in ids)
                if fitting := [other for other in known if len(other) == len(own) and other != own]:
                    found.setdefault(own, {}).update(dict.fromkeys(fitting))
        if not found:
            alone = sum(not others for word, others in entries.items() if word not in unknown)
            raise ZooError(
                f"SimilarWords: none of the {len(entries)} entries in {self.files} can be used: {len(unknown)} words "
                f"are not one word of known tokens, {alone} have no similar word behind a tab, "
                f"{len(entries) - len(unknown) - alone} none of as many known tokens. Lines of "
                "`word<TAB>similar<TAB>similar` in the language of the vocabulary would work."
            )
        best = {own: list(others)[: self.best] for own, others in found.items()}
        self._table, self._whole_words = _Table(best, tokenizer.vocabulary.size), tokenizer.whole_words

    @property
    def table(self) -> _Table:
        """The words; there after :meth:`bind_tokenizer`."""
        if self._table is None:
            raise ZooError("SimilarWords: bind_tokenizer(tokenizer) has to look the words up before rows are filled.")
        return self._table

    def check(self, store: Store) -> None:
        """Raise ZooError if a text has no word boundaries, or none of the words occurs in it."""
        if not self._whole_words and (which := no_word_goes_on(store)):
            raise ZooError(
                f"SimilarWords: {which} of {store.path} goes on with a word, so that only words of a single token had "
                "similar ones. Chinese words need a segmenter (data.corpus.segmenter: rjieba, or `space` where spaces "
                "stand between them)."
            )
        tokens, flags = np.asarray(store.tokens[:SAMPLE_TOKENS]), np.asarray(store.flags[:SAMPLE_TOKENS])
        first = np.flatnonzero(flags & WORD_START)
        known = self.table.find(tokens, first, np.diff(np.append(first, len(tokens)))) >= 0
        if len(tokens) >= ENOUGH_TOKENS and not known.any():
            raise ZooError(
                f"SimilarWords: of {len(first):,} words in {store.path} none has an entry that can be used in "
                f"{self.files}; a list for this text, and this segmenter's words, is needed."
            )

    def __call__(self, rows: Examples, selected: Bools, draw: Draw, vocabulary: Vocabulary) -> Ints32:
        """New (B, L) input ids. W = stretches of selected tokens that are one word's."""
        table, width, old = self.table, rows.shape[1], rows.input_ids.reshape(-1)
        edge = np.append(
            (word_starts(rows, ~rows.special_tokens_mask) | rows.special_tokens_mask).reshape(-1), True
        )  # a word before it ends
        place = np.flatnonzero(selected)
        opens = np.flatnonzero(edge[place] | (np.diff(place, prepend=-2) != 1))
        first, size = place[opens], np.diff(opens, append=len(place))
        begin = first.copy()  # of the word
        while (inside := ~edge[begin]).any():
            begin -= inside
        row, column = begin // width, begin % width
        decided = draw.at(rows.example_ids[row], column, "fill")

        wanted = decided < self._similar_below
        asked = np.flatnonzero(wanted & (begin == first) & edge[first + size])  # words that are selected whole
        entry = table.find(old, first[asked], size[asked])
        asked, entry = asked[entry >= 0], entry[entry >= 0]
        bits = draw.at(rows.example_ids[row[asked]], column[asked], "fill.similar")
        ids = old.copy()
        table.put(ids, first[asked], entry, bits)

        lost = wanted | (decided < self._random_below)
        lost[asked] = False
        place = place[np.repeat(lost, size)]
        bits = draw.at(rows.example_ids[place // width], place % width, "fill.random")
        ids[place] = random_ids(bits, vocabulary, exclude_special=True, exclude_mask=True)
        return ids.reshape(rows.shape)


class _Table:
    """Words by their tokens, and the words like them. E entries.

    Args:
        similar: for each word those like it, of as many tokens each.
        size: of the vocabulary.
    """

    def __init__(self, similar: dict[Ids, list[Ids]], size: int) -> None:
        tree: dict[int, int] = {}  # (node, token) -> node, as one number; words are walked down from node 0
        ends: dict[int, int] = {}
        for number, word in enumerate(similar):
            node = 0
            for token in word:
                node = tree.setdefault(node * size + token, len(tree) + 1)
            ends[node] = number
        inner = sorted(edge for edge in tree if edge >= size)
        self._size, self._edges = size, np.array(inner, dtype=np.int64)
        self._nodes = np.array([tree[edge] for edge in inner], dtype=np.int64)
        self._roots = np.array([tree.get(token, 0) for token in range(size)], dtype=np.int64)
        self._entry = np.full(len(tree) + 1, -1, dtype=np.int64)
        self._entry[list(ends)] = list(ends.values())
        self._lengths = np.array([len(word) for word in similar], dtype=np.int64)
        self._counts = np.array([len(others) for others in similar.values()], dtype=np.uint64)
        tokens = self._lengths * self._counts.astype(np.int64)
        self._starts = np.cumsum(tokens) - tokens
        self._tokens = np.array([t for others in similar.values() for other in others for t in other], dtype=np.int32)

    def find(self, ids: NDArray[np.integer], first: Ints, sizes: Ints) -> Ints:
        """(W,) entry of each word, -1 = none. Words are ``sizes`` tokens of the flat ``ids`` from ``first`` on."""
        found, step = np.full(len(first), -1, dtype=np.int64), 1
        node = self._roots[ids[first]]
        left = np.flatnonzero((node > 0) & (sizes <= self._lengths.max()))
        while left.size:
            ended = sizes[left] == step
            found[left[ended]] = self._entry[node[left[ended]]]
            left = left[~ended]
            wanted = node[left] * self._size + ids[first[left] + step]
            at = np.minimum(np.searchsorted(self._edges, wanted), len(self._edges) - 1)
            there = self._edges[at] == wanted
            left, step = left[there], step + 1
            node[left] = self._nodes[at[there]]
        return found

    def put(self, ids: Ints32, first: Ints, entry: Ints, bits: NDArray[np.uint32]) -> None:
        """Write a similar word of each entry from ``first`` on, in place; 32-bit draws say which."""
        size = self._lengths[entry]
        number = ((bits * self._counts[entry]) >> np.uint64(32)).astype(np.int64)
        inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        source = np.repeat(self._starts[entry] + number * size, size)
        ids[np.repeat(first, size) + inside] = self._tokens[source + inside]


def read_similar(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Similar words by word; lines about the same word are joined.

    Raises:
        ZooError: a list is not UTF-8, naming file and line; or there is no entry at all.
    """
    entries: dict[str, list[str]] = {}
    for path in paths:
        for line in read_lines(path):
            word, *others = (part.strip() for part in line.split("\t"))
            if word:
                entries.setdefault(word, []).extend(filter(None, others))
    if not entries:
        names = ", ".join(map(str, paths))
        raise ZooError(f"SimilarWords: {names} holds no entries; lines of `word<TAB>similar<TAB>similar` are needed.")
    return entries


def _as_ids(tokenizer: ZooTokenizer, words: list[str], space: str) -> dict[str, Ids]:
    """Ids of those that are one word of known tokens each, with ``space`` before them."""
    whole = [[0] if has_cjk(word) else None for word in words]  # a Chinese word is what its line says
    encoded = tokenizer.encode_batch([space + word for word in words], whole)
    special = set(tokenizer.vocabulary.special_ids)
    known: dict[str, Ids] = {}
    for word, (ids, flags) in zip(words, encoded, strict=True):
        if np.count_nonzero(flags & WORD_START) == 1 and special.isdisjoint(ids.tolist()):
            known[word] = tuple(ids.tolist())
    return known
