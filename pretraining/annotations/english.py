"""Names and phrases of English text by rule. No recogniser and no chunker: what they cannot do is said with each.

For entities and phrases that somebody else found, see :class:`pretraining.annotations.RecordField` and ``Lexicon``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pretraining.annotations.base import TextAnnotator
from zoo.errors import ZooError

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

    def __init__(self, min_words: int = 2, max_words: int = 4) -> None:
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
