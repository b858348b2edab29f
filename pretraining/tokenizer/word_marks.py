"""How a vocabulary spells where words begin or end: ``##``, ``Ġ``, ``▁``, ``</w>``."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


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
