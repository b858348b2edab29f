"""Translations for an encoder-decoder: the source is the row, its translation the row's target."""

from __future__ import annotations

import os
import sys
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Bools, Ints, Ints32
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan, check_documents, check_special_tokens
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import build_examples
from pretraining.store.token_store import Store
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

Direction = Literal["forward", "backward", "both"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")
_SAID: set[str] = set()  # of pairs that do not fit, once for a store


class TranslationPairs(Layout):
    """One row for each pair: its source is what an encoder reads, its target what a decoder learns to write.

    The row is ``source sep``. In ``targets``, ``labels`` are ``target sep``, and ``decoder_input_ids`` the same shifted
    right behind a start token. With ``opens``, a ``cls`` stands before source and target (BART). A pair with a side
    that is longer than the row is left out, which is said once, on standard error.

    Args:
        direction: ``forward`` translates the corpus' first language to the second, ``backward`` the other way,
            ``both`` makes two rows of each pair.
        start: what the decoder reads first: ``pad`` (Marian, T5), ``sep`` (BART) or ``cls``.
        opens: source and target begin with ``cls``.
        shuffle_pairs: every source gets another's target, drawn anew in each epoch: the control that has the same
            sentences, and no translation.
    """

    provided_fields = frozenset({"decoder_input_ids", "labels", "target_lengths"})

    def __init__(
        self,
        direction: Direction = "forward",
        start: Literal["pad", "cls", "sep"] = "pad",
        opens: bool = False,
        shuffle_pairs: bool = False,
    ) -> None:
        for name, value, known in (("direction", direction, DIRECTIONS), ("start", start, ("pad", "cls", "sep"))):
            if value not in known:
                raise ZooError(f"TranslationPairs: {name} is {value!r}; {', '.join(known)} would work.")
        self.direction, self.opens, self.shuffle_pairs = direction, opens, shuffle_pairs
        self.start = self.target_start = start

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row has no room for what it holds."""
        if length < 2 + self.opens:
            raise ZooError(f"TranslationPairs: rows of {length} tokens have no room for text beside template tokens.")

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens; the pieces of row n are 2 n, its source, and 2 n + 1, its target."""
        check_special_tokens(vocabulary, "TranslationPairs", cls=self.opens or self.start == "cls", sep=True)
        if self.start == "pad" and vocabulary.pad is None:
            raise ZooError("TranslationPairs: the tokenizer has no padding token to start with; start: sep would work.")
        self.check_length(length)
        pairs = Pairs.of(store, documents, "TranslationPairs")
        if self.shuffle_pairs:
            pairs = pairs.shuffled(draw)
        longest: Ints = pairs.lengths.max(axis=1)
        pairs = pairs.kept(longest <= length - 1 - int(self.opens), store, "TranslationPairs", length)
        return pairs.directed(self.direction).plan()

    def row_lengths(self, plan: Plan) -> Ints:
        """(N,) tokens of the longer side of each pair, with its end."""
        longer: Ints = plan.lengths.reshape(-1, 2).max(axis=1).astype(np.int64) + 1 + int(self.opens)
        return longer

    def rows(
        self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary
    ) -> Examples:
        """The named pairs: sources as rows, and the targets beside them."""
        source, target = (
            build_examples(store, side_of_pairs(plan, place), indices, length, vocabulary, self.opens)
            for place in (0, 1)
        )
        start = getattr(vocabulary, self.start)
        if start is None:
            raise ZooError("this plan was made with a tokenizer that has template tokens; the one given has not.")
        return source.with_targets(**decoder_targets(target, start, vocabulary.pad or 0))


def decoder_targets(target: Examples, start: int, pad: int) -> dict[str, NDArray[np.int32] | NDArray[np.int64]]:
    """What a decoder reads and is asked of the texts of some rows.

    Args:
        target: rows of texts, template tokens in place.
        start: what the decoder reads first.
        pad: what it reads beyond the end.

    Returns:
        ``decoder_input_ids`` and ``labels`` (-100 beyond the end), both (B, T) int32, and ``target_lengths`` (B,).
    """
    read: Ints32 = np.full_like(target.input_ids, start)
    read[:, 1:] = target.input_ids[:, :-1]
    return {
        "decoder_input_ids": np.where(target.real, read, np.int32(pad)),
        "labels": np.where(target.real, target.input_ids, np.int32(-100)),
        "target_lengths": target.lengths,
    }


def side_of_pairs(plan: Plan, place: int) -> Plan:
    """The sources (0) or the targets (1) of a plan of pairs."""
    return Plan(
        piece_starts=plan.piece_starts[place::2],
        lengths=plan.lengths[place::2],
        piece_types=np.zeros(len(plan), dtype=np.int8),
        offsets=np.arange(len(plan) + 1),
        documents=plan.documents,
    )


def language_numbers(store: Store, languages: list[str], layout: str) -> Ints32:
    """Place of each of the store's languages among those of a run.

    Raises:
        ZooError: one is not among them.
    """
    missing = [name for name in store.languages if name not in languages]
    if missing:
        raise ZooError(f"{layout}: {store.path} has text in {', '.join(missing)}, and languages are {languages}.")
    return np.array([languages.index(name) for name in store.languages], dtype=np.int32)


class Pairs:
    """Pairs of a parallel store's sentences.

    Args:
        starts: (N, 2) first token of source and target.
        lengths: (N, 2) tokens of them.
        documents: (N,) document of the source.
        languages: (N, 2) number of each side's language.
    """

    def __init__(self, starts: Ints, lengths: Ints, documents: Ints, languages: Ints) -> None:
        self.starts, self.lengths, self.documents, self.languages = starts, lengths, documents, languages

    @classmethod
    def of(cls, store: Store, documents: Ints, layout: str) -> Pairs:
        """The pairs of some documents; those of which a side came to no token are left out.

        Raises:
            ZooError: the store is not of translations, or none of these has tokens on both sides.
        """
        check_documents(store, documents, layout)
        if not store.parallel:
            raise ZooError(
                f"{layout}: {store.path} holds no translations. Its corpus needs `parallel: true`, `languages` and "
                "`files` that are aligned: [SOURCE, TARGET], or a table (.tsv)."
            )
        first, edges = np.asarray(store.documents), np.asarray(store.sentences)
        whole = documents[first[documents + 1] - first[documents] == 2]
        if not len(whole):
            raise ZooError(
                f"{layout}: none of {len(documents):,} pairs of {store.path} has a token in both languages "
                f"({', '.join(store.languages)}): the tokenizer makes nothing of one of them."
            )
        sides = first[whole][:, None] + np.arange(2)
        starts = edges[sides]
        return cls(starts, edges[sides + 1] - starts, whole, np.tile(np.arange(2), (len(whole), 1)))

    def take(self, rows: Ints | Bools) -> Pairs:
        """The named ones."""
        return Pairs(self.starts[rows], self.lengths[rows], self.documents[rows], self.languages[rows])

    def shuffled(self, draw: Draw) -> Pairs:
        """Every source with the target of a pair drawn at random, each target once."""
        order = draw.permutation(len(self.documents), "translations.shuffle")
        starts, lengths = self.starts.copy(), self.lengths.copy()
        starts[:, 1], lengths[:, 1] = starts[order, 1], lengths[order, 1]
        return Pairs(starts, lengths, self.documents, self.languages)

    def kept(self, fits: Bools, store: Store, layout: str, length: int) -> Pairs:
        """Those that fit a row; that others do not is said once.

        Raises:
            ZooError: none fits.
        """
        if not fits.any():
            raise ZooError(
                f"{layout}: none of {len(fits):,} pairs of {store.path} fits a row of {length} tokens; raise "
                "data.sequence_length."
            )
        key = f"{layout} {store.fingerprint} {length}"
        if not fits.all() and key not in _SAID and os.environ.get("RANK", "0") == "0":
            _SAID.add(key)
            print(
                f"{layout}: {len(fits) - int(fits.sum()):,} of {len(fits):,} pairs do not fit a row of {length} tokens "
                "and are left out",
                file=sys.stderr,
                flush=True,
            )
        return self.take(fits)

    def directed(self, direction: Direction) -> Pairs:
        """The same pairs, the second language first, or each once each way."""
        if direction == "forward":
            return self
        back = Pairs(self.starts[:, ::-1], self.lengths[:, ::-1], self.documents, self.languages[:, ::-1])
        if direction == "backward":
            return back
        return Pairs(
            np.concatenate([self.starts, back.starts]),
            np.concatenate([self.lengths, back.lengths]),
            np.concatenate([self.documents, back.documents]),
            np.concatenate([self.languages, back.languages]),
        )

    def plan(self) -> Plan:
        """A row for each pair, of two pieces whose types are their languages."""
        return Plan(
            piece_starts=self.starts.reshape(-1),
            lengths=self.lengths.reshape(-1).astype(np.int32),
            piece_types=self.languages.reshape(-1).astype(np.int8),
            offsets=2 * np.arange(len(self.documents) + 1),
            documents=self.documents,
        )
