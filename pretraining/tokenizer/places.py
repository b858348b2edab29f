"""Where in its text each token stands, from its place in its unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.tokenizer.characters import SPACE, code_points, is_space


class UnitTokens(NamedTuple):
    """The tokens of all units of some texts, end to end.

    Args:
        lengths: (u,) characters of each unit.
        sizes: (u,) tokens of each unit.
        begin: (n,) first character of each token in its unit.
        end: (n,) the character behind its last one.
        marker: (n,) tokens that only mark where a word starts.
    """

    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    marker: NDArray[np.bool_]


def places_in_texts(
    texts: Sequence[str], spaced: NDArray[np.bool_], units: UnitTokens, sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n, 2) first character and end of each token in its text: see :meth:`ZooTokenizer.encode_places`.

    A unit's tokens know their places in the unit. Units of a text cover its characters in order, all of them
    (``spaced``) or all but the spaces, so the k-th character of all units is the k-th such character of the texts.

    Args:
        texts: the texts.
        spaced: (texts,) whether its units cover its spaces.
        units: their tokens.
        sizes: (texts,) tokens of each text.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    shift = np.cumsum(lengths + 1) - lengths - 1
    codes = code_points(texts)
    covered = (codes != SPACE) | np.repeat(spaced, lengths + 1)
    covered[shift + lengths] = False  # the line feed behind each text
    character = np.append(np.flatnonzero(covered), len(codes))
    first = np.repeat(np.cumsum(units.lengths) - units.lengths, units.sizes)
    begin, end = units.begin, units.end
    edges = np.stack(
        [character[first + begin], character[first + np.maximum(end, begin + 1) - 1] + (end > begin)], axis=1
    )
    return _without_space(units.marker, edges, codes) - np.repeat(shift, sizes)[:, None]


def _without_space(marker: NDArray[np.bool_], edges: NDArray[np.int64], codes: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Places without white space at their sides; lone markers have none."""
    visible = np.flatnonzero(~is_space(codes))
    if not len(visible) or not len(marker):
        return edges
    begin = np.append(visible, len(codes))[np.searchsorted(visible, edges[:, 0])]
    end = np.append(-1, visible)[np.searchsorted(visible, edges[:, 1])] + 1
    blank = begin >= end
    before = edges[:, 0] - (marker & ~blank)  # the marker of a word that no space stands before
    trimmed = np.stack([begin, end], axis=1)
    return np.where((blank | marker)[:, None], before[:, None], trimmed)
