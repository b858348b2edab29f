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
    pieces = _tokens(encoder, passages, where)
    seconds = _tokens(encoder, choices, where)
    room = encoder.room(True) - len(this)
    if room < 1:
        raise ZooError(f"max_length = {encoder.max_length} leaves no room for a choice beside a blank.")
    firsts, kept, cut = list[Ids](), list[Ids](), list[bool]()
    for own, blank, choice_ids in zip(pieces, asked.tolist(), seconds, strict=True):
        left, right = _joined(own[: blank + 1], other), _joined(own[blank + 1 :], other)
        made: dict[int, Ids] = {}
        for choice in choice_ids:
            size = min(len(choice), room)
            if size not in made:
                made[size] = _around(left, this, right, room - size)
            firsts.append(made[size])
            kept.append(choice[:size])
            cut.append(size < len(choice) or len(made[size]) < len(left) + len(this) + len(right))
    pair = _texts(firsts), _texts(kept)
    if encoder.apart:
        rows = encoder.laid_out_apart(pair)
        return replace(rows, texts=(replace(rows.texts[0], cut=np.array(cut, bool)), *rows.texts[1:]))
    return replace(encoder.laid_out(*pair)[0], cut=np.array(cut, bool))


def _stand_ins(encoder: RowEncoder) -> tuple[Ids, Ids]:
    """Ids for the blank that is asked about, and for others."""
    mask = encoder.tokenizer.vocabulary.mask
    if mask is not None:
        return np.full(1, mask, np.int32), np.full(_OTHER, mask, np.int32)
    found = encoder.tokens(["_", "_" * _OTHER], ["a blank"] * 2)
    one = int(found.lengths[0])
    return found.ids[:one], found.ids[one:]


def _tokens(encoder: RowEncoder, rows: Sequence[Sequence[str]], where: Sequence[str]) -> list[list[Ids]]:
    """Ids of every text of N rows of texts."""
    counts = [len(row) for row in rows]
    places = [place for place, count in zip(where, counts, strict=True) for _ in range(count)]
    found = encoder.tokens([text for row in rows for text in row], places)
    parts, made, first = np.split(found.ids, np.cumsum(found.lengths)[:-1]), list[list[Ids]](), 0
    for count in counts:
        made.append(parts[first : first + count])
        first += count
    return made


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
