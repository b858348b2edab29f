"""Words of a text where no spaces part them: segmenters, boundaries in line with tokens, Chinese characters."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from zoo.errors import ZooError
from zoo.storage.folders import existing
from zoo.storage.user_files import read_lines

SegmenterName = Literal["none", "rjieba", "space"]
ALIGNMENT = 2
"""Version of how boundaries are aligned with tokens; part of the fingerprint of every store with a segmenter."""
_DIGITS = 10  # of a frequency that is larger than any
_SPACES = re.compile(r"\s+")


# --- finding words ---------------------------------------------------------------------------------


class Segmenter:
    """Finds words, and says what it is, so that a store can record it.

    Args:
        name: ``none`` (each Chinese character is its own word), ``rjieba`` (dictionary and HMM), or
            ``space`` (the text is segmented already: spaces stand between words).
        user_dictionary: file with one word per line, optionally ``word frequency tag``; rjieba only.

    Raises:
        ZooError: rjieba is not installed, or the dictionary does not exist or does not fit.
    """

    def __init__(self, name: SegmenterName = "none", user_dictionary: str | None = None) -> None:
        self.name = name
        if user_dictionary and name != "rjieba":
            raise ZooError(f"corpus.user_dictionary is for corpus.segmenter: rjieba; the segmenter is {name!r}.")
        self._dictionary = _one_file(user_dictionary) if user_dictionary else None
        self._cut = _load_rjieba(self._dictionary) if name == "rjieba" else None

    @property
    def recipe(self) -> dict[str, Any]:
        """Name, version and dictionary, for the store's recipe and so for its fingerprint."""
        recipe: dict[str, Any] = {"name": self.name}
        if self.name != "none":
            recipe["alignment"] = ALIGNMENT
        if self.name == "rjieba":
            recipe["version"] = importlib.metadata.version("rjieba")
        if self._dictionary is not None:
            recipe["dictionary"] = hashlib.blake2b(self._dictionary.read_bytes(), digest_size=16).hexdigest()
        return recipe

    def words(self, text: str) -> tuple[str, list[int]] | None:
        """Text and the offsets at which its words start; ``None`` where there is nothing to segment.

        ``space`` takes the spaces beside Chinese characters out of the text: they are boundaries there,
        not characters. Spaces between words of other scripts stay.
        """
        if self.name == "none" or has_cjk(text) is None:
            return None
        if self.name == "space":
            return _from_spaces(text)
        assert self._cut is not None
        found = self._cut(text)
        if "".join(found) != text:
            return None
        starts = list(itertools.accumulate(map(len, found), initial=0))[:-1]
        return text, aligned(text, starts) if parted_inside("\x02".join(found)) else starts


# --- boundaries that tokenizers can keep -----------------------------------------------------------


@functools.cache
def glued() -> str:
    """Character class of what tokenizers do not part: neither Chinese nor white space nor punctuation.

    Punctuation is BERT's: all of Unicode's, and every ASCII character that is no letter or digit.
    """
    marks = [chr(code) for code in range(33, 127) if not chr(code).isalnum()]
    marks += [chr(code) for code in range(128, 0x20000) if unicodedata.category(chr(code)).startswith("P")]
    return f"[^\\s{CJK}{re.escape(''.join(marks))}]"


@functools.cache
def _parted() -> Callable[[str], re.Match[str] | None]:
    """Finds a mark between two characters that tokenizers do not part."""
    return re.compile(f"\x02(?<={glued()}\x02)(?={glued()})").search


def parted_inside(words: str) -> bool:
    """Whether any of the words, with U+0002 between them, begins inside a run that tokenizers do not part."""
    return _parted()(words) is not None


def aligned(text: str, starts: list[int]) -> list[int]:
    """Word starts without those inside a run of letters and digits; the words that meet there become characters."""
    inner = [
        number for number, start in enumerate(starts) if start and parted_inside(f"{text[start - 1]}\x02{text[start]}")
    ]
    if not inner:
        return starts
    dropped = set(inner)
    unsure = dropped | {number - 1 for number in inner}
    result: list[int] = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(text)])):
        if number not in dropped:
            result.append(start)
        if number in unsure:
            own = text[start:end]
            result += [start + k for k in range(1, len(own)) if has_cjk(own[k]) or has_cjk(own[k - 1])]
    return result


# --- segmenters and their dictionaries -------------------------------------------------------------


def _load_rjieba(dictionary: Path | None) -> Callable[[str], list[str]]:
    """Rjieba's cut, with the user's words added."""
    try:
        import rjieba
    except ImportError as error:
        raise ZooError(
            "corpus.segmenter: rjieba needs the package rjieba, which is not installed: "
            "`pip install sesame-zoo[zh]`. Without it, `corpus.segmenter: none` makes every Chinese character a word."
        ) from error
    if dictionary is None:
        plain: Callable[[str], list[str]] = rjieba.cut
        return plain
    jieba = rjieba.Jieba()
    for word, frequency, tag in _dictionary_words(dictionary):
        jieba.add_word(word, frequency, tag)
    cut: Callable[[str], list[str]] = jieba.cut
    return cut


def _one_file(user_dictionary: str) -> Path:
    found = existing(user_dictionary, "corpus.user_dictionary")
    if len(found) > 1:
        raise ZooError(f"corpus.user_dictionary: {user_dictionary} names {len(found)} files; one is needed.")
    return found[0]


def _dictionary_words(path: Path) -> list[tuple[str, int | None, str | None]]:
    """Word, frequency and tag of each line.

    Raises:
        ZooError: not UTF-8, a line that is none of these (naming it), or no word at all.
    """
    found: list[tuple[str, int | None, str | None]] = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        word, frequency, tag, *rest = [*fields, None, None]
        assert word is not None
        if any(rest) or (frequency is not None and not (frequency.isdecimal() and len(frequency) < _DIGITS)):
            raise ZooError(
                f"{path}:{number}: {line.strip()[:80]!r} is not `word [frequency [tag]]`; a line should be a word, or "
                f"with spaces between them a word, a whole number of at most {_DIGITS - 1} digits, and a tag."
            )
        if "," in word or "，" in word:  # rjieba parts the text at commas before it looks for words
            raise ZooError(
                f"{path}:{number}: the word {word[:80]!r} has a comma, and rjieba finds no word across one; spaces "
                "part word, frequency and tag, not commas."
            )
        found.append((word, None if frequency is None else int(frequency), tag))
    if not found:
        raise ZooError(f"corpus.user_dictionary: {path} holds no word; one per line is needed.")
    return found


def _from_spaces(text: str) -> tuple[str, list[int]]:
    """Boundaries of pre-segmented text; spaces that touch a Chinese character are taken out."""
    starts = []
    pieces: list[str] = []
    position = previous = 0
    for space in _SPACES.finditer(text):
        word = text[previous : space.start()]
        if word:
            starts.append(position)
            pieces.append(word)
            position += len(word)
        if not SPACE_AT_CJK.match(text, space.start()):
            pieces.append(" ")
            position += 1
        previous = space.end()
    if previous < len(text):
        starts.append(position)
        pieces.append(text[previous:])
    return "".join(pieces), starts


def join_words(text: str, starts: list[int]) -> str:
    """The text with one space between words, for tokenizers whose unit is the word."""
    ends = [*starts[1:], len(text)]
    return " ".join(word for a, b in zip(starts, ends) if (word := text[a:b].strip()))


# --- Chinese characters, and scripts without spaces ------------------------------------------------


CJK = (
    "\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f"
)
"""Character class of the eight ranges that BERT's tokenisation puts spaces around."""

has_cjk: Callable[[str], re.Match[str] | None] = re.compile(f"[{CJK}]").search
_CJK_CHARACTER = re.compile(f"[{CJK}]")
SPACE_AT_CJK = re.compile(f"(?<=[{CJK}，。！？；：、（）《》“”‘’])\\s+|\\s+(?=[{CJK}，。！？；：、（）《》“”‘’])")


def count_cjk(text: str) -> int:
    """Chinese characters in a text."""
    return len(_CJK_CHARACTER.findall(text))


def count_spaces_at_cjk(text: str) -> int:
    """Places in a text where white space touches a Chinese character or mark."""
    return len(SPACE_AT_CJK.findall(text))


_UNSPACED = f"{CJK}\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Scripts that put no spaces between words: Chinese characters, kana, Thai, Lao, Burmese, Khmer."""
_word_character = re.compile(f"[^\\W{_UNSPACED}]|[\u0300-\u036f]").match


def inside_word(text: str, place: int) -> bool:
    """Whether a word of a script with spaces goes on from the character before ``place`` to the one at it."""
    if place <= 0 or place >= len(text):
        return False
    return _word_character(text[place]) is not None and _word_character(text[place - 1]) is not None
