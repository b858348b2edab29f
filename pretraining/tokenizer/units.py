"""Which stretches of a text a tokenizer encodes by themselves, whatever stands beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from pretraining.text.cjk import CJK, has_cjk
from pretraining.text.segmenter import parted_inside

_NOT_PLAIN = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff]")
_UNITS = re.compile(f"[{CJK}]|[^ {CJK}]+")


class UnitRules(NamedTuple):
    """How a tokenizer's text falls into units.

    Every tokenizer here works on each stretch between spaces (and, for WordPiece, on each Chinese character) by
    itself. Text where that is not so plainly true (tabs, control characters, runs of spaces under a byte-level
    vocabulary, Chinese outside WordPiece) has no units.

    Args:
        by_words: the tokenizer is of a make whose words are known not to influence each other.
        splits_cjk: it takes each Chinese character by itself.
        keeps_spaces: a space is part of the word behind it.
    """

    by_words: bool
    splits_cjk: bool
    keeps_spaces: bool

    def units(self, text: str, starts: Sequence[int] | None) -> list[str] | None:
        """The units of a text, or ``None``: encode it whole.

        Args:
            text: the text.
            starts: characters at which a segmenter's words start; ``None`` = the script's own words.
        """
        if not self.by_words or _NOT_PLAIN.search(text):
            return None
        if not text.isascii() and has_cjk(text):
            if not self.splits_cjk:
                return None
            if starts is None:
                return _UNITS.findall(text)
            words = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)])]
            if parted_inside("\x02".join(words)):
                return None
            return [part for word in words for part in word.split(" ") if part] if " " in text else words
        if starts is not None and not self.splits_cjk:
            return None
        if not self.keeps_spaces:
            return [word for word in text.split(" ") if word]
        if "  " in text or text.endswith(" "):
            return None
        first, *rest = text.split(" ")
        return [*([first] if first else []), *[" " + word for word in rest]]


def unit_rules(backend: Tokenizer, marker: str) -> UnitRules:
    """The rules of a tokenizer whose words begin with ``marker``."""
    state = json.loads(backend.to_str())
    splits_cjk = state["model"]["type"] == "WordPiece" and bool(
        (state.get("normalizer") or {}).get("handle_chinese_chars")
    )
    keeps_spaces = marker == "Ġ" and not state["pre_tokenizer"].get("add_prefix_space", False)
    # An ordinary added token is cut out of the text before the rest is split into words: its neighbours matter.
    plain = all(entry.get("special") for entry in state.get("added_tokens", []))
    return UnitRules(plain and _works_by_words(state, keeps_spaces), splits_cjk, keeps_spaces)


def _works_by_words(state: dict[str, Any], keeps_spaces: bool) -> bool:
    """Whether a tokenizer is of a make whose words are known not to influence each other."""
    name = (state.get("pre_tokenizer") or {}).get("type")
    if name == "BertPreTokenizer":
        return (state.get("normalizer") or {}).get("type") in (None, "BertNormalizer")
    if name == "ByteLevel":
        use_regex = state["pre_tokenizer"].get("use_regex", True)
        return keeps_spaces and use_regex and state.get("normalizer") is None
    return name == "Metaspace" and _is_our_unigram(state)


def _is_our_unigram(state: dict[str, Any]) -> bool:
    """Whether it is a unigram model as they are trained here."""
    steps = (state.get("normalizer") or {}).get("normalizers", [])
    return bool(steps) and steps[0].get("type") == "Nmt" and state["pre_tokenizer"].get("prepend_scheme") == "always"
