"""What models and objectives need to know about a tokenizer: its size and its special ids."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Template:
    """How single texts and pairs are laid out, and where a sequence-level head reads.

    A fact of the run, kept in its ``config.json``, so that fine-tuning needs no test on a model's name.
    ``$A`` and ``$B`` stand for the texts; every other word is a special token. A special token that
    the tokenizer lacks is added when fine-tuning starts (GPT's start, delimiter and extract tokens).

    Args:
        single: layout of one text, for example ``[CLS] $A [SEP]``.
        pair: layout of two texts, for example ``[CLS] $A [SEP] $B [SEP]``.
        pooling: state that sequence-level heads read: ``first`` token or ``last`` real token.
        padding_side: side that padding goes to.
    """

    single: str = "[CLS] $A [SEP]"
    pair: str = "[CLS] $A [SEP] $B [SEP]"
    pooling: Literal["first", "last"] = "first"
    padding_side: Literal["right"] = "right"

    @property
    def tokens(self) -> list[str]:
        """The special tokens that it names, each once, in order."""
        words = f"{self.single} {self.pair}".split()
        return [word for word in dict.fromkeys(words) if word not in ("$A", "$B")]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


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
