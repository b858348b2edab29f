"""What a tokenizer encodes by itself, the units; and how it spells word boundaries: ``##``, ``Ġ``, ``▁``, ``</w>``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pretraining.text.segmenter import CJK, has_cjk, parted_inside

_NOT_PLAIN = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff]")
_UNITS = re.compile(f"[{CJK}]|[^ {CJK}]+")


# --- units of a text -------------------------------------------------------------------------------


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


# --- where words begin -----------------------------------------------------------------------------


class WordMarks(NamedTuple):
    """Where words begin, by the spelling of the tokens alone.

    Args:
        starts: (V,) tokens that start a word.
        ends: (V,) tokens that end one, for end-of-word vocabularies; ``None`` for others.
        marker: what says so: a prefix of tokens that go on, a suffix of those that end, or the mark of a word's start.
    """

    starts: NDArray[np.bool_]
    ends: NDArray[np.bool_] | None
    marker: str

    @property
    def marks_space(self) -> bool:
        """Whether a space is a mark at the start of the next token (byte-level and SentencePiece vocabularies)."""
        return self.marker in ("Ġ", "▁")

    def begin(self, ids: NDArray[np.integer]) -> NDArray[np.bool_]:
        """(n,) whether each token of a running text starts a word."""
        if self.ends is None:
            return self.starts[ids]
        return np.concatenate([[True], self.ends[ids]])[: len(ids)]


def word_marks(backend: Tokenizer) -> WordMarks:
    """The marks of a vocabulary; special tokens are words by themselves."""
    state = json.loads(backend.to_str())
    model = state["model"]
    vocabulary = backend.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        tokens[index] = token
    added = {entry["id"]: bool(entry.get("special")) for entry in state.get("added_tokens", [])}
    everywhere = np.array([added.get(index, False) for index in range(len(tokens))], dtype=bool)
    suffix = model.get("end_of_word_suffix")
    if suffix:  # which an added token does not carry, though it is a whole word
        ends = [token.endswith(suffix) or index in added for index, token in enumerate(tokens)]
        return WordMarks(everywhere, np.array(ends, dtype=bool), suffix)
    prefix = model.get("continuing_subword_prefix") if model["type"] in ("WordPiece", "BPE") else None
    if prefix:
        first = np.array([not token.startswith(prefix) for token in tokens], dtype=bool)
        return WordMarks(first | everywhere, None, prefix)
    parts = json.dumps(state.get("pre_tokenizer") or {})
    marker = "▁" if '"Metaspace"' in parts else "Ġ" if '"ByteLevel"' in parts else ""
    if marker and model.get("unk_id") is not None:
        everywhere[model["unk_id"]] = False  # an unknown character inside a word, not an unknown word
    first = np.array([token.startswith(marker) for token in tokens], dtype=bool)
    return WordMarks(first | everywhere, None, marker)
