"""Words of texts as states that are read: the token of each word, and windows over texts that are too long."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.inputs.encoder import PlacedTokens, RowEncoder
from finetune.inputs.marks import MOST_CHARACTERS
from finetune.inputs.rows import TaskRows

Ints = NDArray[np.int64]


class Window(NamedTuple):
    """Tokens of a text that a row holds, and those of them whose states are read there.

    Args:
        start: the first token.
        size: tokens.
        first: the first token that is read.
        stop: the token after the last one.
    """

    start: int
    size: int
    first: int
    stop: int


def windows(length: int, room: int) -> list[Window]:
    """Windows over a text of ``length`` tokens, of ``room`` tokens at most, that read each token once.

    Two neighbours share half of their tokens. A token is read where it stands further from the window's edge, so that
    a quarter of the room is context on either side.
    """
    if length <= room:
        return [Window(0, length, 0, length)]
    step = room - room // 2
    starts = [*range(0, length - room, step), length - room]
    edges = [0, *((one + two + room) // 2 for one, two in itertools.pairwise(starts)), length]
    return [Window(start, room, *edges[number : number + 2]) for number, start in enumerate(starts)]


def word_tokens(tokens: PlacedTokens, words: Sequence[Ints]) -> list[Ints]:
    """For each of N texts (W,) the first token that holds a part of each word; -1 where none does.

    Args:
        tokens: of the texts.
        words: (N,) of (W, 2) characters [start, stop) of each word, in order.
    """
    far = MOST_CHARACTERS + 2  # texts stand so far apart that no word meets another text's tokens
    sizes = tokens.lengths
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shifted = tokens.places + np.repeat(np.arange(len(sizes)) * far, sizes)[:, None]
    solid = tokens.places[:, 1] > tokens.places[:, 0]
    begins, ends, within = shifted[solid, 0], np.maximum.accumulate(shifted[solid, 1]), within[solid]
    counts = np.array([len(own) for own in words], np.int64)
    flat = (
        np.concatenate([*words, np.zeros((0, 2), np.int64)]) + np.repeat(np.arange(len(words)) * far, counts)[:, None]
    )
    at = np.searchsorted(ends, flat[:, 0], side="right")
    there = at < len(ends)
    at[~there] = 0
    if len(ends):
        there &= begins[at] < flat[:, 1]
        at = within[at]
    return np.split(np.where(there, at, -1), np.cumsum(counts)[:-1]) if len(words) else []


@dataclass(frozen=True)
class WordRows(TaskRows):
    """Rows that read a state for every word, or for every token that words share.

    Args:
        places: (W,) number of the state that each word is read from, counted over its example; -1 = the tokenizer
            leaves nothing of the word.
        words: (E,) words of each example.
        targets: (S,) class number of each state.
    """

    places: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    words: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    targets: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def by_example(self) -> list[Ints]:
        """The places of each example's words."""
        return np.split(self.places, np.cumsum(self.words)[:-1]) if len(self.words) else []


def word_rows(encoder: RowEncoder, texts: list[str], words: Sequence[Ints], where: list[str]) -> WordRows:
    """Rows of N texts, in windows where a text is too long, with a slot for the first token of every word.

    Args:
        encoder: the model's.
        texts: N of them.
        words: (N,) of (W, 2) characters of each word.
        where: the texts' places, for messages.

    Raises:
        ZooError: as the encoder.
    """
    tokens = encoder.tokens(texts, where)
    room = encoder.room(False)
    owners, begins, sizes, counts = (list[int]() for _ in range(4))
    slots, places = [np.zeros(0, np.int64)], list[Ints]()
    for number, own in enumerate(word_tokens(tokens, words)):
        read = np.unique(own[own >= 0])
        places.append(np.where(own < 0, -1, np.searchsorted(read, own)))
        for window in windows(int(tokens.lengths[number]), room):
            first, stop = np.searchsorted(read, [window.first, window.stop])
            if first == stop and (window.start or len(read)):
                continue  # nothing is read here
            owners.append(number)
            begins.append(window.start)
            sizes.append(window.size)
            counts.append(int(stop - first))
            slots.append(read[first:stop] - window.start)
    at, slot_sizes = np.array(owners, np.int64), np.array(counts, np.int64)
    own_words = {
        "places": np.concatenate([*places, np.zeros(0, np.int64)]),
        "words": np.array([len(own) for own in places], np.int64),
    }
    stretches = tokens.slices(at, np.array(begins, np.int64), np.array(sizes, np.int64))
    if encoder.apart:
        return WordRows(
            encoder.laid_out_apart((stretches,)), at, slots=np.concatenate(slots), slot_sizes=slot_sizes, **own_words
        )
    rows, offsets = encoder.laid_out(stretches)
    read = np.concatenate(slots) + np.repeat(offsets["$A"], slot_sizes)
    return WordRows(rows, at, slots=read, slot_sizes=slot_sizes, **own_words)
