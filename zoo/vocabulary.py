"""What models and objectives need to know about a tokenizer: its size and its special ids."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

_SEGMENTED = re.compile(r"(.+):(\d+)")


@dataclass(frozen=True)
class Template:
    """How single texts and pairs are laid out, and where a sequence-level head reads.

    Part of a model's metadata, kept in its ``config.json``, so that fine-tuning needs no test on a model's name.
    ``$A`` and ``$B`` stand for the texts; every other word is a special token. A special token that
    the tokenizer lacks is added when fine-tuning starts (GPT's start, delimiter and extract tokens). Segments are 0 up
    to the second text and 1 from there on; ``[CLS]:2`` says another one, as in the tokenizers library (XLNet's last).

    Args:
        single: layout of one text, for example ``[CLS] $A [SEP]``.
        pair: layout of two texts, for example ``[CLS] $A [SEP] $B [SEP]``.
        pooling: state that sequence-level heads read: ``first`` token, ``last`` real token, or ``ends``: where states
            are a forward and a backward half, each half where its direction has read everything, the forward one at
            the last real token and the backward one at the first.
        padding_side: side that the saved tokenizer pads at; rows of fine-tuning always have their padding at the right.
    """

    single: str = "[CLS] $A [SEP]"
    pair: str = "[CLS] $A [SEP] $B [SEP]"
    pooling: Literal["first", "last", "ends"] = "first"
    padding_side: Literal["right", "left"] = "right"

    @property
    def tokens(self) -> list[str]:
        """The special tokens that it names, each once, in order."""
        words = [word for layout in (self.single, self.pair) for word, _ in parse_layout(layout)]
        return [word for word in dict.fromkeys(words) if word not in ("$A", "$B")]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def parse_layout(layout: str) -> list[tuple[str, int]]:
    """The words of a template's layout and their segments."""
    found, segment = [], 0
    for word in layout.split():
        own = _SEGMENTED.fullmatch(word)
        name = own[1] if own else word
        segment = 1 if name == "$B" else segment
        found.append((name, int(own[2]) if own else segment))
    return found


@dataclass(frozen=True)
class Vocabulary:
    """Size and special ids of a tokenizer. An id is ``None`` where the tokenizer has no such token.

    ``cls`` opens a row and ``sep`` closes a text: [CLS] and [SEP], or <s> and </s>.
    """

    size: int
    pad: int | None = None
    unk: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None

    @property
    def special_ids(self) -> tuple[int, ...]:
        """All special ids that exist, ascending."""
        found = {self.pad, self.unk, self.cls, self.sep, self.mask} - {None}
        return tuple(sorted(i for i in found if i is not None))
