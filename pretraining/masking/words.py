"""Whole words, spans with the lengths of words, and knowledge units: which groups of tokens are hidden together."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pretraining.arrays import WORD_START, Bools, Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Budget
from pretraining.masking.groups import Grouped, word_starts
from pretraining.store.token_store import ENOUGH_TOKENS, SAMPLE_TOKENS, Store
from pretraining.text.segmenter import has_cjk
from pretraining.tokenizer.load import load_tokenizer
from zoo.errors import ZooError
from zoo.values import Count, Share

_CHINESE = 0.5  # share of tokens that makes a text Chinese: 0.85 of the shipped sample's
_GOES_ON = 0.05  # share of Chinese tokens that go on with a word: to 0.03 without a segmenter, from 0.31 on with rjieba


class WholeWords(Grouped):
    """Whole words in random order, as many as fit the budget (google-research/bert, do_whole_word_mask).

    Words end at template tokens. In Chinese they are the segmenter's (``data.corpus.segmenter``); a store prepared
    without one has words of one character, which is an error.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        budget: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``bernoulli``.
        max_predictions: upper limit per row, in tokens.
    """

    def __init__(self, rate: Share = 0.15, budget: Budget = "nearest", max_predictions: Count | None = None) -> None:
        super().__init__(rate, budget, max_predictions, include_special=False)

    def starts(self, rows: Examples, draw: Draw) -> Bools:
        """First tokens of the words."""
        return word_starts(rows, self.candidates(rows))

    def check(self, store: Store) -> None:
        """Raise ZooError if every token of a text is a word, or, in Chinese text, every character."""
        if which := no_word_goes_on(store):
            raise ZooError(
                f"{type(self).__name__}: {which} of {store.path} goes on with a word, so whole words would be single "
                "tokens. Chinese words need a segmenter (data.corpus.segmenter: rjieba, or `space` where spaces stand "
                "between them); where words really are tokens, pretraining.masking.RandomTokens does the same."
            )


class RandomSpans(WholeWords):
    """Spans with the lengths of a row's words at random places: the control arm for whole-word masks.

    The word lengths of each segment are shuffled and laid end to end, which gives other borders; then as
    :class:`WholeWords`.

    Args:
        rate: share of a row's real tokens, template tokens counted, in (0, 1].
        budget: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``bernoulli``.
        max_predictions: upper limit per row, in tokens.
    """

    def starts(self, rows: Examples, draw: Draw) -> Bools:
        """First tokens of the spans."""
        candidates = self.candidates(rows)
        start = word_starts(rows, candidates).reshape(-1)
        edges = np.flatnonzero(start | ~candidates.reshape(-1))  # a row's first token is one of them
        is_start = start[edges]
        flat, sizes = edges[is_start], np.diff(edges, append=len(start))[is_start]
        first = (flat % rows.shape[1] == 0) | ~candidates.reshape(-1)[flat - 1]  # of a segment
        before = np.append(0, np.cumsum(self._shuffled(sizes, np.cumsum(first), flat, rows, draw)))[:-1]
        opens = np.zeros_like(candidates)
        opens.reshape(-1)[(flat[first] - before[first])[np.cumsum(first) - 1] + before] = True
        return opens

    def _shuffled(self, sizes: Ints, segment: Ints, flat: Ints, rows: Examples, draw: Draw) -> Ints:
        """Sizes in another order within each segment.

        The low bits of a draw give way to its size, so that a sort of plain numbers brings the sizes along.
        """
        low = np.uint64((1 << int(sizes.max(initial=1)).bit_length()) - 1)
        keys = draw.bits(rows.example_ids, rows.shape[1], "choose.lengths").reshape(-1)[flat].astype(np.uint64)
        keys &= ~low
        keys |= sizes.astype(np.uint64)
        keys |= segment.astype(np.uint64) << np.uint64(32)
        keys.sort()
        return (keys & low).astype(np.int64)


class KnowledgeUnits(Grouped):
    """Knowledge masking: phrases or entities as a whole, and single tokens or words around them (ERNIE 1.0).

    The store's array has 1 at a unit's first token and 2 at its others (``data.corpus.annotations``). With
    ``budget: bernoulli`` this is the released code of ERNIE 1.0 (PaddlePaddle/ERNIE release/r2.0, batching.py), in
    which a unit's first token takes its 80/10/10 from the draw that selected it: the shares are the same as with a
    draw of its own, which is what :class:`pretraining.masking.Replace` makes.

    Args:
        array: name of the array, ``phrase`` or ``entity``; of several, a token belongs to the first that has it in a
            unit, so put the larger or rarer units first. An empty list: no units.
        fallback: what tokens outside of units are: single ``tokens`` (Chinese) or ``words`` (English).
        rate: share of a row's real tokens, template tokens counted, in (0, 1]; or each unit's chance.
        budget: ``nearest`` (half to even, at least one), ``stochastic`` (floor(rate * n + u)) or ``bernoulli``.
        max_predictions: upper limit per row, in tokens.
    """

    def __init__(
        self,
        array: str | list[str],
        fallback: Literal["tokens", "words"] = "tokens",
        rate: Share = 0.15,
        budget: Budget = "nearest",
        max_predictions: Count | None = None,
    ) -> None:
        super().__init__(rate, budget, max_predictions, include_special=False)
        if fallback not in ("tokens", "words"):
            raise ZooError(f"KnowledgeUnits: fallback is {fallback!r}; 'tokens' or 'words' would work.")
        self.array = [array] if isinstance(array, str) else list(array)
        self.fallback = fallback
        self.required_fields = frozenset(self.array)

    def starts(self, rows: Examples, draw: Draw) -> Bools:
        """First tokens of units, and of what is a unit by itself."""
        candidates = self.candidates(rows)
        inside = np.zeros(rows.shape, dtype=np.uint8)  # number of the array that has the token in a unit, 0 = none
        goes_on = np.zeros(rows.shape, dtype=bool)
        for number, name in enumerate(self.array, 1):
            code = rows.arrays[name]
            own = (inside == 0) & (code > 0)
            inside[own] = number
            goes_on |= own & (code == 2)
        if self.fallback == "words":
            goes_on |= (inside == 0) & ((rows.token_flags & WORD_START) == 0)
        # What goes on needs something of its own kind right before it: a cut unit's rest is a unit of its own.
        goes_on[:, 1:] &= candidates[:, :-1] & (inside[:, 1:] == inside[:, :-1])
        goes_on[:, :1] = False
        return candidates & ~goes_on

    def check(self, store: Store) -> None:
        """Raise ZooError if a text has no unit."""
        for name in self.array:
            codes = np.asarray(store.arrays[name][:SAMPLE_TOKENS])
            if len(codes) >= ENOUGH_TOKENS and not codes.any():
                raise ZooError(
                    f"KnowledgeUnits: the array {name!r} of {store.path} marks no unit in {len(codes):,} tokens; look "
                    f"at data.corpus.annotations.{name} (its lexicon, or the field of the records)."
                )


def no_word_goes_on(store: Store) -> str:
    """Which tokens at a store's beginning all start a word: ``"no token"``, ``"no Chinese token"``, or neither.

    Of Chinese text its Chinese tokens are asked alone, because English words in it go on with or without a segmenter.
    Neither, an empty string, is also the answer where there are too few tokens to tell.
    """
    starts = (np.asarray(store.flags[:SAMPLE_TOKENS]) & WORD_START) != 0
    if len(starts) < ENOUGH_TOKENS:
        return ""
    if starts.all():
        return "no token"
    chinese = _chinese_ids(store)[np.asarray(store.tokens[:SAMPLE_TOKENS])]
    alone = chinese.mean() >= _CHINESE and 1 - starts[chinese].mean() < _GOES_ON
    return "no Chinese token" if alone else ""


def _chinese_ids(store: Store) -> Bools:
    """(V,) which entries of the store's tokenizer have a Chinese character; none where it has no tokenizer."""
    found = np.zeros(store.meta["vocab_size"], dtype=bool)
    if (store.path / "tokenizer.json").is_file():
        entries = load_tokenizer(store.path).backend.get_vocab()
        found[[index for token, index in entries.items() if has_cjk(token)]] = True
    return found
