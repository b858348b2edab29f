"""Words of texts and their characters, for cores that read characters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import PreTokenizedString, Tokenizer
from torch import Tensor

from finetune.inputs.marks import Places
from zoo.core.characters import character_table


class WordCharacters(NamedTuple):
    """The words of T tokens by their characters, also those that the vocabulary lacks.

    Args:
        words: (T,) int32 row of each token's word in the table.
        table: (n, C) uint8 characters of the distinct words (:func:`zoo.core.characters.character_table`).
    """

    words: NDArray[np.int32]
    table: Tensor


class CharacterTokenizer:
    """Finds the words of texts, and their characters, for a core that reads characters.

    Args:
        tokenizer: its unit is the word.
        spellings: (V, C) uint8 the characters of each token, as the core has them.
        unknown: id of words without a token.
    """

    def __init__(self, tokenizer: Tokenizer, spellings: Tensor, unknown: int | None) -> None:
        self._normalizer, self._splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
        self._ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self._special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        self._unknown = unknown
        self._known, self._new = spellings, {}  # type: Tensor, dict[str, int]

    def words(self, text: str) -> list[str]:
        """The words as the tokenizer finds them."""
        plain = text if self._normalizer is None else self._normalizer.normalize_str(text)
        if self._splitter is None:
            return [plain]
        return [word for word, _ in self._splitter.pre_tokenize_str(plain)]

    def encode(self, texts: list[str], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(T,) ids of all texts and (N,) lengths; at most ``limit`` + 1 words are kept of each.

        A word that has no token gets a number of its own behind the vocabulary's.
        """
        ids: list[int] = []
        lengths = np.empty(len(texts), dtype=np.int64)
        for number, text in enumerate(texts):
            found = self.words(text)[: limit + 1]
            ids.extend(self.number(word) for word in found)
            lengths[number] = len(found)
        return np.array(ids, dtype=np.int32), lengths

    def places(self, texts: list[str]) -> Places:
        """All words of texts, numbered as by ``encode``, and where they stand."""
        ids: list[int] = []
        lengths = np.empty(len(texts), dtype=np.int64)
        characters: list[tuple[int, int]] = []
        normalizer, splitter = self._normalizer, self._splitter
        for number, text in enumerate(texts):
            split = PreTokenizedString(text)
            if normalizer is not None:
                split.normalize(normalizer.normalize)
            if splitter is not None:
                splitter.pre_tokenize(split)
            found = split.get_splits(offset_referential="original", offset_type="char")
            ids.extend(self.number(word) for word, _, _ in found)
            characters.extend(place for _, place, _ in found)
            lengths[number] = len(found)
        return np.array(ids, np.int32), lengths, np.array(characters, np.int64).reshape(-1, 2)

    def number(self, word: str) -> int:
        """A word's token, or a number of its own behind the vocabulary's."""
        known = None if word in self._special else self._ids.get(word)  # "[SEP]" written in a text is text
        if known is not None:
            return known
        return self._new.setdefault(word, len(self._known) + len(self._new))

    def characters_of(self, numbers: NDArray[np.int32]) -> tuple[NDArray[np.int32], WordCharacters]:
        """(T,) ids that the vocabulary has, and the characters of all tokens, of numbers as ``encode`` gives them."""
        size, width = self._known.shape
        distinct, words = np.unique(numbers, return_inverse=True)
        new = list(self._new)
        rows = [self._known[torch.from_numpy(distinct[distinct < size])]]
        rows.append(character_table([new[number - size] for number in distinct[distinct >= size]], width))
        ids = np.where(numbers < size, numbers, 0 if self._unknown is None else self._unknown)
        return ids.astype(np.int32), WordCharacters(words.astype(np.int32), torch.cat(rows))
