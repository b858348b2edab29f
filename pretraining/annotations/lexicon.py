"""Units found in a text: entries of a word list, and words of the segmenter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain, compress, count
from operator import add
from pathlib import Path

from pretraining.annotations.base import TextAnnotator
from pretraining.text.cjk import inside_word
from pretraining.text.files import read_lines
from zoo.errors import ZooError


class Lexicon(TextAnnotator):
    """Entries of a word list, the longest at each place, from left to right.

    In scripts that put spaces between words an entry begins and ends where a word does. Case counts, unless the
    tokenizer folds it.

    Args:
        files: word lists, one entry per line, UTF-8; what follows a tab is ignored. A file, a glob, or a list of them.
    """

    paths = frozenset({"files"})

    def __init__(self, files: str | list[str]) -> None:
        self.files = files
        self._lowercase = False
        self._entries: frozenset[str] = frozenset()
        self._lengths: dict[str, list[int]] = {}
        self._single: frozenset[str] = frozenset()

    def ready(self, lowercase: bool) -> None:
        """Read the lists.

        Raises:
            ZooError: a list is not UTF-8 (naming file and line), is JSON or CSV, or there is no entry at all.
        """
        self._lowercase = lowercase
        paths = self.sources()["files"]
        lists = {path: [e for line in read_lines(path) if (e := line.split("\t", 1)[0].strip())] for path in paths}
        for path, own in lists.items():
            _check_entries(path, own)
        entries = set(chain.from_iterable(lists.values()))
        if not entries:
            raise ZooError(f"Lexicon: {', '.join(map(str, paths))} holds no entries; one per line is needed.")
        self._entries = frozenset(map(_lower, entries)) if lowercase else frozenset(entries)
        self._single = frozenset(entry for entry in self._entries if len(entry) == 1)
        lengths: dict[str, set[int]] = {}
        for entry in self._entries:
            lengths.setdefault(entry[:2], set()).add(len(entry))
        self._lengths = {head: sorted(found, reverse=True) for head, found in lengths.items()}

    def find(self, text: str, words: Sequence[int] | None) -> list[tuple[int, int]]:
        """Entries in the text, found by the first two characters and then by length."""
        if self._lowercase:
            text = _lower(text)
        pairs = map(add, text, text[1:] + "\n")
        places: Iterable[int] = compress(count(), map(self._lengths.__contains__, pairs))
        if self._single:
            places = sorted({*places, *compress(count(), map(self._single.__contains__, text))})
        found: list[tuple[int, int]] = []
        behind = 0
        for start in places:
            if start < behind:
                continue
            for length in (*self._lengths.get(text[start : start + 2], ()), 1):
                end = start + length
                if text[start:end] in self._entries and not (inside_word(text, start) or inside_word(text, end)):
                    found.append((start, end))
                    behind = end
                    break
        return found


class Words(TextAnnotator):
    """Words of the segmenter.

    Args:
        min_length: least number of characters.
    """

    needs_words = True

    def __init__(self, min_length: int = 2) -> None:
        if min_length < 1:
            raise ZooError(f"Words: min_length is {min_length}; 1 or more.")
        self.min_length = min_length

    def find(self, text: str, words: Sequence[int] | None) -> list[tuple[int, int]]:
        """Words that are long enough and hold a letter or digit."""
        if words is None:
            return []
        found = []
        for start, end in zip(words, [*words[1:], len(text)]):
            if end - start >= self.min_length:
                word = text[start:end]
                end -= len(word) - len(word.rstrip())
                if end - start >= self.min_length and any(map(str.isalnum, word)):
                    found.append((start, end))
        return found


_IN_RECORDS = re.compile(r"[{\[]\s*[\"\[{].*[}\]],?|[^\s,][^,]*,[^\s,].*")


def _check_entries(path: Path, entries: list[str]) -> None:
    """Raise ZooError if most lines are JSON or CSV; those of entries have no comma, or a space behind it."""
    records = [entry for entry in entries if _IN_RECORDS.fullmatch(entry)]
    if len(records) * 2 > len(entries):
        raise ZooError(
            f"Lexicon: {path} holds lines such as {records[0][:60]!r}, which look like JSON or CSV. One entry per line "
            "is needed, as plain text; what follows a tab is ignored, so a tab may stand in the place of a comma."
        )


def _lower(text: str) -> str:
    """Lower case, character by character where the whole would change its length (``İ``)."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)
