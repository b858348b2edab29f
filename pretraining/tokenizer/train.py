"""Training a tokenizer on a stream of paragraphs that is never held in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pretraining.tokenizer.algorithms import train_bytebpe, train_unigram, train_word, train_wordpiece, untrained
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str], *, words_given: bool = False) -> ZooTokenizer:
    """Train a tokenizer on a stream of paragraphs.

    The text is never held in memory: a one-shot iterator is spooled to a temporary file where it must
    be read twice (to choose the characters by count, which keeps the result the same on every run).

    Args:
        config: what to train; its ``new_tokens`` are for :func:`extend`.
        texts: paragraphs.
        words_given: words are separated by spaces already (a segmenter's), so Chinese characters are
            not split further; for kind ``word``.

    Raises:
        ZooError: no text, or ``vocab_size`` too small for special tokens and characters.
    """
    if config.kind == "file":
        raise ZooError("tokenizer.kind: file is loaded, not trained.")
    _check_size(config)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogatepass") as spool:
        stream = _Rereadable(texts, spool)
        stream.check()
        backend = untrained(config, words_given)
        characters = _characters(backend, stream, config) if config.kind in ("wordpiece", "unigram") else []
        train = {
            "wordpiece": train_wordpiece,
            "bytebpe": train_bytebpe,
            "unigram": train_unigram,
            "word": train_word,
        }
        trained = train[config.kind](backend, config, stream, characters)
    return ZooTokenizer(trained, config.roles)


class _Rereadable:
    """Iterates over texts any number of times, through a file where they come from a one-shot iterator."""

    def __init__(self, texts: Iterable[str], spool: Any) -> None:
        self._spool = spool
        self._texts: Iterable[str] | None = texts
        if isinstance(texts, Iterator):
            for text in texts:
                spool.write(text.replace("\n", " ") + "\n")
            self._texts = None

    def __iter__(self) -> Iterator[str]:
        if self._texts is not None:
            yield from self._texts
            return
        self._spool.seek(0)
        for line in self._spool:
            yield line[:-1]

    def check(self) -> None:
        """Raise ZooError if the stream has no text."""
        if not any(text.strip() for text in self):
            raise ZooError("there is no text to train a tokenizer on.")


def _characters(backend: Tokenizer, texts: Iterable[str], config: TokenizerConfig) -> list[str]:
    """Normalised characters that cover ``character_coverage`` of the text, most frequent first, then ASCII's.

    Counted here because the trainers break ties at the cut in the order of a randomised hash table.
    """
    counts = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
        if len(codes):
            found = np.bincount(codes)
            counts[: len(found)] += found
    folded: dict[str, int] = {}
    for code in np.flatnonzero(counts):
        for character in backend.normalizer.normalize_str(chr(code)) if backend.normalizer else chr(code):
            if not character.isspace():
                folded[character] = folded.get(character, 0) + int(counts[code])
    ordered = sorted(folded.items(), key=lambda item: (-item[1], item[0]))
    total, seen, chosen = sum(folded.values()), 0, []
    for character, count in ordered:
        if seen >= config.character_coverage * total:
            break
        chosen.append(character)
        seen += count
    have = set(chosen)
    return chosen + [c for c in map(chr, range(33, 127)) if c not in have and not (config.folds_case and c.isupper())]


def _check_size(config: TokenizerConfig) -> None:
    """Raise ZooError if a vocabulary cannot even hold the special tokens and, for bytebpe, the bytes."""
    least = len(config.roles) + (256 if config.kind == "bytebpe" else 1)
    if config.vocab_size < least:
        what = "256 bytes and " if config.kind == "bytebpe" else ""
        raise ZooError(
            f"tokenizer.vocab_size = {config.vocab_size} is too small: {what}{len(config.roles)} special "
            f"tokens need {least}."
        )
