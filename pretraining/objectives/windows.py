"""Words and the words near them: what is kept of a text, how far each word looks, and noise words beside them.

Shapes: B rows of L tokens; N blocks of C centres, each with w words to either side, C + 2w context words in all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import Bools, Ints, Ints32
from pretraining.keyed_random import Draw, scaled
from pretraining.layouts.examples import Examples

_POWER = 0.75  # of the counts, in the noise (Mikolov et al. 2013b, section 2.2)


class WordFrequencies:
    """How often words occur in a text: which occurrences are kept, and what noise is drawn.

    Args:
        counts: (V,) occurrences of each token; 0 = it is no word.
        subsample: t, share of the text above which a word is thinned out; 0 = none is.
    """

    def __init__(self, counts: NDArray[np.integer], subsample: float) -> None:
        self.counts = np.asarray(counts, dtype=np.float64)
        share = self.counts / max(self.counts.sum(), 1.0)
        ratio = subsample / np.where(share > 0, share, 1.0) if subsample else np.ones_like(share)
        self.kept = np.where(share > 0, np.minimum(np.sqrt(ratio) + ratio, 1.0), 0.0)  # as word2vec.c has it
        self._cumulative = np.cumsum(self.counts**_POWER)

    def keep(self, rows: Examples, draw: Draw) -> Bools:
        """(B, L) whether a token is a word that stays."""
        bits = draw.bits(rows.example_ids, rows.shape[1], "windows.subsample")
        chance = np.where(rows.real & ~rows.special_tokens_mask, self.kept[rows.input_ids], 0.0)
        found: Bools = bits < chance * 2.0**32
        return found

    def noise(self, rows: Examples, kept: Bools, draw: Draw) -> Ints32:
        """(B, L) a word for each one that stays, by its count to the power of 0.75; 0 elsewhere."""
        row, column = np.nonzero(kept)
        bits = draw.at(rows.example_ids[row], column, "windows.noise")
        places = (bits + 0.5) * (self._cumulative[-1] / 2.0**32)
        found = np.zeros(rows.shape, dtype=np.int32)
        found[row, column] = np.searchsorted(self._cumulative, places, side="right")
        return found


def draw_reach(rows: Examples, window: int, draw: Draw) -> NDArray[np.int32]:
    """(B, L) how many words to either side a word looks at, from 1 to ``window``, each as likely."""
    return (window - scaled(draw.bits(rows.example_ids, rows.shape[1], "windows.reach"), window)).astype(np.int32)


class WindowBlocks(NamedTuple):
    """The words of rows that stay, in blocks of centres, so that scores are products of small matrices.

    Args:
        words: (U,) different tokens among them, ascending.
        context: (N, C + 2w) place in ``words`` of the words of each block and around it.
        centres: (N, C) token of each centre.
        noise: (N, C) noise word drawn with each centre.
        real: (N, C) whether there is such a centre, or the block is the end of a row.
        left: (N, C) how many words to the left a centre looks at.
        right: (N, C) likewise to the right.
        row: (N,) row of each block.
        rows: B.
    """

    words: Ints
    context: Ints
    centres: Ints
    noise: Ints
    real: Bools
    left: Ints
    right: Ints
    row: Ints
    rows: int


def window_blocks(rows: Examples, window: int, size: int, vocabulary: int) -> WindowBlocks:
    """Blocks of rows whose ``targets`` hold ``kept``, ``reach`` and ``noise``.

    Args:
        rows: corrupted.
        window: w.
        size: C.
        vocabulary: V.
    """
    kept = rows.targets["kept"]
    flat = np.flatnonzero(kept)
    ids, reach, noise = (x.reshape(-1)[flat] for x in (rows.input_ids, rows.targets["reach"], rows.targets["noise"]))
    counts = kept.sum(axis=1)
    ends = np.cumsum(counts)
    blocks = -(-counts // size)
    row = np.repeat(np.arange(len(counts)), blocks)
    number = np.arange(len(row)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    first, end = (ends - counts)[row, None], ends[row, None]
    start = first + number[:, None] * size
    place = start + np.arange(size)
    real = place < end
    place = np.where(real, place, 0)
    around = start + np.arange(-window, size + window)
    around = np.where((around >= first) & (around < end), around, 0)
    words, local = distinct(ids, vocabulary)
    near = np.where(real, reach[place], 0)
    return WindowBlocks(
        words=words,
        context=local[around],
        centres=ids[place].astype(np.int64),
        noise=noise[place].astype(np.int64),
        real=real,
        left=np.minimum(near, np.maximum(place - first, 0)),
        right=np.minimum(near, np.maximum(end - 1 - place, 0)),
        row=row,
        rows=len(counts),
    )


def distinct(ids: NDArray[np.integer], size: int) -> tuple[Ints, Ints]:
    """(U,) different ones among ``ids``, all below ``size``, ascending, and the place of each of ``ids`` among them."""
    seen = np.zeros(size, dtype=bool)
    seen[ids] = True
    found = np.flatnonzero(seen)
    place = np.zeros(size, dtype=np.int64)
    place[found] = np.arange(len(found))
    return found, place[ids]
