"""Settings of a tokenizer, the roles of special tokens, and how much unknown text is too much."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from zoo.errors import ZooError, nearest
from zoo.values import Count, Range, UserPath, check_fields

TRAINING = 3
"""Version of the training recipes below; part of every fingerprint of a trained tokenizer."""
TokenizerKind = Literal["wordpiece", "bytebpe", "unigram", "word", "file"]
SENTINEL = "<extra_id_{}>"
"""Name of the sentinel with a number (T5)."""
ROLES = ("pad", "unk", "cls", "sep", "mask")
SOME_UNKNOWN, MOST_UNKNOWN = 0.05, 0.5  # shares of unknown tokens from which a note is written, and an error raised
_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_SPECIALS: dict[str, dict[str, str]] = {
    "wordpiece": _BERT,
    "word": _BERT,
    "unigram": {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "bytebpe": {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"},
}


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer to train, or one to load.

    Args:
        kind: ``wordpiece`` (BERT's, Chinese characters split), ``bytebpe`` (GPT-2's and RoBERTa's),
            ``unigram`` (SentencePiece-style, ALBERT's clean-up), ``word``, or ``file`` (load one).
        path: for ``file``: a ``tokenizer.json``, ``vocab.txt``, a folder with one of these or with
            ``vocab.json`` and ``merges.txt``, or a hub id.
        vocab_size: entries, special tokens included; at most 2**24, for which a trainer takes gigabytes.
        lowercase: fold case; ``None`` = yes for wordpiece and unigram, no for the others.
        strip_accents: drop accents; ``None`` = as ``lowercase`` (BERT's convention).
        min_frequency: a piece or word must occur this often; a unigram model's occur twice, whatever is said here.
        character_coverage: share of the characters in the text that get an entry (not for bytebpe).
        train_bytes: upper bound on the text that is trained on; an even sample of chunks beyond it. Training a
            ``unigram`` model takes about 20 bytes of memory for each of them.
        new_tokens: tokens that are added, in this order, where the vocabulary lacks them (:func:`extend`). A role's
            ([MASK], <mask>, what ``special`` names) or the template's become special tokens; all others are found in
            text, as whole words.
        sentinels: special tokens ``<extra_id_0>``, ... that are added last, counted downwards as T5's, so that
            ``<extra_id_0>`` has the largest id.
        special: role (``pad, unk, cls, sep, mask``) to token. Order gives the ids from 0 on; the mask
            of bytebpe is the last id, as in RoBERTa. Empty = the kind's usual ones.
    """

    kind: TokenizerKind = "wordpiece"
    path: UserPath | None = None
    vocab_size: Annotated[int, Range(least=1, most=2**24)] = 8192
    lowercase: bool | None = None
    strip_accents: bool | None = None
    min_frequency: Count = 2
    character_coverage: Annotated[float, Range(above=0, most=1)] = 0.9995
    train_bytes: Count = 2**27
    new_tokens: list[str] = field(default_factory=list)
    sentinels: Annotated[int, Range(least=0, most=10_000)] = 0
    special: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ZooError if the settings fit no tokenizer."""
        check_fields(self, "tokenizer")
        kinds = (*_SPECIALS, "file")
        if self.kind not in kinds:
            raise ZooError(
                f"tokenizer.kind is {self.kind!r}; it must be one of {', '.join(kinds)}.{nearest(self.kind, kinds)}"
            )
        if self.kind == "file" and not self.path:
            raise ZooError("tokenizer.kind: file needs tokenizer.path: a tokenizer.json, a folder or a hub id.")
        if self.kind != "file" and self.path:
            raise ZooError(f"tokenizer.path is for tokenizer.kind: file; kind is {self.kind!r}, which is trained here.")
        for role in self.special:
            if role not in ROLES:
                raise ZooError(
                    f"tokenizer.special: unknown role {role!r}; roles are {', '.join(ROLES)}.{nearest(role, ROLES)}"
                )
        for token in self.new_tokens:
            if token.split() != [token]:
                raise ZooError(f"tokenizer.new_tokens: {token!r} is empty or holds white space; a token is one word.")

    @property
    def sentinel_tokens(self) -> list[str]:
        """The sentinels in the order of their ids."""
        return [SENTINEL.format(number) for number in reversed(range(self.sentinels))]

    @property
    def folds_case(self) -> bool:
        """``lowercase`` with its default filled in."""
        return self.kind in ("wordpiece", "unigram") if self.lowercase is None else self.lowercase

    @property
    def folds_accents(self) -> bool:
        """``strip_accents`` with its default filled in."""
        return self.folds_case if self.strip_accents is None else self.strip_accents

    @property
    def roles(self) -> dict[str, str]:
        """Special tokens by role, in id order."""
        return dict(self.special or _SPECIALS.get(self.kind, {}))

    def recipe(self) -> dict[str, Any]:
        """What training depends on besides the text, for fingerprints."""
        fields = dataclasses.asdict(self)
        del fields["path"], fields["new_tokens"], fields["sentinels"]
        fields |= {"lowercase": self.folds_case, "strip_accents": self.folds_accents, "version": TRAINING}
        return {**fields, "special": list(self.roles.items())}
