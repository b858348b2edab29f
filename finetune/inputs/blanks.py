"""Passages with blanks to rows: the blank that is asked about in the middle, what stands around it, and a choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from finetune.inputs.batches import EncodedRows
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.features import TextRows
from finetune.inputs.marks import Marked
from zoo.errors import ZooError

Ids = NDArray[np.int32]
CHUNK = 4096
"""Rows that are laid out at a time."""
_OTHER = 4  # tokens in the place of another blank: characters of an idiom


def blank_rows(
    encoder: RowEncoder,
    passages: Sequence[tuple[str, ...]],
    asked: NDArray[np.int64],
    choices: Sequence[Sequence[str]],
    where: Sequence[str],
) -> EncodedRows | TextRows:
    """A row for each choice of N passages: the passage around a blank as the first text, the choice as the second.

    The blank that is asked about is one mask token, every other one four of them; ``_`` stands in for them where the
    tokenizer has no mask token. The passage is cut on both sides of the blank so that as much stays before it as
    behind it, or more on one side where the other has less (CLUE's baseline, ``CHID_preprocess.py``, which puts the
    choice before the passage, and ``[unused1]`` for the blank).

    Args:
        encoder: the model's.
        passages: (N,) texts around the blanks.
        asked: (N,) number of the blank.
        choices: (N,) second texts.
        where: (N,) places, for messages.

    Raises:
        ZooError: no room for a choice, or as the encoder.
    """
    this, other = _stand_ins(encoder)
    room = encoder.room(True) - len(this)
    if room < 1:
        raise ZooError(f"max_length = {encoder.max_length} leaves no room for a choice beside a blank.")
    pieces, seconds = _tokens(encoder, passages, where), _tokens(encoder, choices, where)
    step = CHUNK if encoder.characters is None else max(len(pieces), 1)  # characters are numbered over all rows
    parts = list[tuple[EncodedRows, ...]]()
    for start in range(0, len(pieces), step):
        firsts, kept, cut = list[Ids](), list[Ids](), list[bool]()
        for row in range(start, min(start + step, len(pieces))):
            gap = int(asked[row]) + 1
            left, right = _joined(pieces[row][:gap], other), _joined(pieces[row][gap:], other)
            whole = len(left) + len(this) + len(right)
            made: dict[int, Ids] = {}
            for choice in seconds[row]:
                size = min(len(choice), room)
                if size not in made:
                    made[size] = _around(left, this, right, room - size)
                firsts.append(made[size])
                kept.append(choice[:size])
                cut.append(size < len(choice) or len(made[size]) < whole)
        parts.append(_laid_out(encoder, _texts(firsts), _texts(kept), np.array(cut, bool)))
    stacked = tuple(_stacked(side) for side in zip(*parts, strict=True))
    return TextRows(stacked, encoder.around()) if encoder.apart else stacked[0]


def _laid_out(encoder: RowEncoder, first: Marked, second: Marked, cut: NDArray[np.bool_]) -> tuple[EncodedRows, ...]:
    """Rows of pairs; of texts that are read apart, those of each side."""
    if not encoder.apart:
        return (replace(encoder.laid_out(first, second)[0], cut=cut),)
    one, two = encoder.laid_out_apart((first, second)).texts
    return replace(one, cut=cut), two


def _stacked(parts: Sequence[EncodedRows]) -> EncodedRows:
    """Rows of several parts, one after the other; characters of words are there in one part only."""
    if len(parts) == 1:
        return parts[0]
    return EncodedRows(
        ids=np.concatenate([part.ids for part in parts]),
        types=np.concatenate([part.types for part in parts]),
        offsets=np.append(0, np.cumsum(np.concatenate([part.lengths for part in parts]))),
        cut=np.concatenate([part.cut for part in parts]),
        lost=np.concatenate([part.lost for part in parts]),
        entities=np.concatenate([part.entities for part in parts]),
    )


def _stand_ins(encoder: RowEncoder) -> tuple[Ids, Ids]:
    """Ids for the blank that is asked about, and for others."""
    mask = encoder.tokenizer.vocabulary.mask
    if mask is not None:
        return np.full(1, mask, np.int32), np.full(_OTHER, mask, np.int32)
    found = encoder.tokens(["_", "_" * _OTHER], ["a blank"] * 2)
    one = int(found.lengths[0])
    return found.ids[:one], found.ids[one:]


def _tokens(encoder: RowEncoder, rows: Sequence[Sequence[str]], where: Sequence[str]) -> list[list[Ids]]:
    """Ids of every text of N rows of texts; a text that is there again and again is read once."""
    places = {text: place for place, row in zip(where, rows, strict=True) for text in row}
    found = encoder.tokens(list(places), list(places.values()))
    parts = dict(zip(places, np.split(found.ids, np.cumsum(found.lengths)[:-1]), strict=True))
    return [[parts[text] for text in row] for row in rows]


def _joined(pieces: Sequence[Ids], between: Ids) -> Ids:
    parts = [pieces[0]]
    for piece in pieces[1:]:
        parts += [between, piece]
    return np.concatenate(parts)


def _around(left: Ids, this: Ids, right: Ids, room: int) -> Ids:
    """The blank with ``room`` tokens around it, half of them on either side where both sides have so many."""
    before = min(len(left), max(room // 2, room - len(right)))
    return np.concatenate([left[len(left) - before :], this, right[: room - before]])


def _texts(parts: list[Ids]) -> Marked:
    lengths = np.array([len(part) for part in parts], np.int64)
    ids, nothing = np.concatenate([*parts, np.zeros(0, np.int32)]), np.zeros(len(parts), np.int64)
    return Marked(ids, lengths, np.zeros_like(ids), nothing, nothing)
