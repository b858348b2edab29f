"""Annotators that find stretches of a text: entries of word lists, the segmenter's words, English names and phrases.

The last two go by rule. They are no recogniser and no chunker; each says what it cannot do. For what somebody else
found there are word lists and :class:`pretraining.annotations.RecordField`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain, compress, count
from operator import add
from pathlib import Path

from pretraining.annotations.base import TextAnnotator
from pretraining.text.segmenter import inside_word
from zoo.errors import ZooError
from zoo.storage.user_files import read_lines
from zoo.values import Count, UserPath

# --- entries of a word list ------------------------------------------------------------------------


class Lexicon(TextAnnotator):
    """Entries of a word list, the longest at each place, from left to right.

    In scripts that put spaces between words an entry begins and ends where a word does. Case counts, unless the
    tokenizer folds it.

    Args:
        files: word lists, one entry per line, UTF-8; what follows a tab is ignored. A file, a glob, or a list of them.
    """

    paths = frozenset({"files"})

    def __init__(self, files: UserPath | list[UserPath]) -> None:
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
        paths = self.data_files()["files"]
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


# --- words of the segmenter ------------------------------------------------------------------------


class Words(TextAnnotator):
    """Words of the segmenter.

    Args:
        min_length: least number of characters.
    """

    needs_words = True

    def __init__(self, min_length: Count = 2) -> None:
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


# --- English by rule -------------------------------------------------------------------------------


_WORD = re.compile(r"[^\W_]+(?:[-'’.&][^\W_]+)*")
_INSIDE_NAMES = frozenset({"of", "the", "de", "la", "van", "von", "der", "du", "da", "di", "al"})
_LISTED = """
    a about above across after again against all almost along already also although always am among an and another any
    are around as at away back be because been before behind being below between both but by came can could did do does
    done down during each either else enough even ever every few first for from get give go had has have having he her
    here hers herself him himself his how however i if in indeed instead into is it its itself just last least less
    like made make many may me might mine more most much must my myself near neither never next no nor not nothing now
    of off often on once one only onto or other our ours out over own per perhaps quite rather said same say see she
    should since so some still such than that the their theirs them themselves then there therefore these they this
    those though through thus to together too toward towards two under until up upon us very was we well went were what
    when where whether which while who whom whose why will with within without would yet you your yours
"""
_FUNCTION_WORDS = frozenset(_LISTED.split())


class CapitalisedNames(TextAnnotator):
    """Runs of capitalised words, as names are written.

    ``of``, ``the``, ``de`` ... may stand inside a run (``Bank of England``). The first word of a sentence has a capital
    anyway: alone it is no name, and before others it is left off where it is a function word (``In London``). Nothing
    is found in sentences without any lower-case letter. So names of one word are missed where a sentence begins with
    them, and titles, months and adjectives (``German``) are taken for names.
    """

    def find(self, text: str, words: Sequence[int] | None) -> list[tuple[int, int]]:
        """Runs from left to right."""
        if text.upper() == text:
            return []
        found: list[tuple[int, int]] = []
        opening = True  # the run begins with the sentence
        start = end = before = 0
        for number, word in enumerate(_WORD.finditer(text)):
            spelt, beside = word.group(), text[before : word.start()] == " "
            if spelt[0].isupper() and spelt != "I" and not (number == 0 and spelt.lower() in _FUNCTION_WORDS):
                if end and beside:
                    end = word.end()
                else:
                    self._close(text, start, end, opening, found)
                    start, end, opening = word.start(), word.end(), number == 0
            elif not (beside and spelt in _INSIDE_NAMES):
                self._close(text, start, end, opening, found)
                end = 0
            before = word.end()
        self._close(text, start, end, opening, found)
        return found

    @staticmethod
    def _close(text: str, start: int, end: int, opening: bool, found: list[tuple[int, int]]) -> None:
        if end and not (opening and _WORD.fullmatch(text, start, end)):
            found.append((start, end))


class ContentPhrases(TextAnnotator):
    """Words between function words and punctuation (the candidates of RAKE, Rose et al. 2010): deep neural networks.

    It does not tell verbs from nouns: ``the dog chased black cats`` holds ``dog chased black cats``.

    Args:
        min_words: shortest phrase.
        max_words: longest phrase; longer runs are no phrases.
    """

    def __init__(self, min_words: Count = 2, max_words: Count = 4) -> None:
        if not 1 <= min_words <= max_words:
            raise ZooError(f"ContentPhrases: {min_words} to {max_words} words; 1 <= min_words <= max_words is needed.")
        self.min_words, self.max_words = min_words, max_words

    def find(self, text: str, words: Sequence[int] | None) -> list[tuple[int, int]]:
        """Phrases from left to right."""
        found: list[tuple[int, int]] = []
        run: list[tuple[int, int]] = []
        for word in _WORD.finditer(text):
            content = word.group().lower() not in _FUNCTION_WORDS
            if run and not (content and text[run[-1][1] : word.start()] == " "):
                self._close(run, found)
                run = []
            if content:
                run.append(word.span())
        self._close(run, found)
        return found

    def _close(self, run: list[tuple[int, int]], found: list[tuple[int, int]]) -> None:
        if self.min_words <= len(run) <= self.max_words:
            found.append((run[0][0], run[-1][1]))
