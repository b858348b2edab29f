"""Word boundaries of text that is written without spaces: once, in preparation, never while training."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from zoo.errors import ZooError

SegmenterName = Literal["none", "rjieba", "space"]

CJK = (
    "\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f"
)
"""Character class of the eight ranges that BERT's tokenisation puts spaces around."""

has_cjk: Callable[[str], re.Match[str] | None] = re.compile(f"[{CJK}]").search
_SPACES = re.compile(r"\s+")
_SPACE_AT_CJK = re.compile(f"(?<=[{CJK}，。！？；：、（）《》“”‘’])\\s+|\\s+(?=[{CJK}，。！？；：、（）《》“”‘’])")


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
        self._dictionary = Path(user_dictionary).expanduser() if user_dictionary else None
        if self._dictionary is not None and name != "rjieba":
            raise ZooError(f"corpus.user_dictionary is for corpus.segmenter: rjieba; the segmenter is {name!r}.")
        self._cut = _load_rjieba(self._dictionary) if name == "rjieba" else None

    @property
    def facts(self) -> dict[str, Any]:
        """Name, version and dictionary, for the fingerprint."""
        facts: dict[str, Any] = {"name": self.name}
        if self.name == "rjieba":
            facts["version"] = importlib.metadata.version("rjieba")
        if self._dictionary is not None:
            facts["dictionary"] = hashlib.blake2b(self._dictionary.read_bytes(), digest_size=16).hexdigest()
        return facts

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
        starts = []
        position = 0
        for word in self._cut(text):
            starts.append(position)
            position += len(word)
        if position != len(text):
            raise ZooError(f"rjieba returned {position} characters for a text of {len(text)}: {text[:60]!r}")
        return text, starts


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
    if not dictionary.is_file():
        raise ZooError(f"corpus.user_dictionary: {dictionary} does not exist.")
    jieba = rjieba.Jieba()
    for number, line in enumerate(dictionary.read_text(encoding="utf-8-sig").split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 1 and not fields[1].isdigit():
            raise ZooError(f"{dictionary}:{number}: {line.strip()!r} is not `word [frequency [tag]]`.")
        jieba.add_word(fields[0], int(fields[1]) if len(fields) > 1 else None, fields[2] if len(fields) > 2 else None)
    cut: Callable[[str], list[str]] = jieba.cut
    return cut


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
        if not _SPACE_AT_CJK.match(text, space.start()):
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
