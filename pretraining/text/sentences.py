"""A recorded rule splitter: running text to sentences, for English, Chinese and their neighbours.

Rules, in the order in which they are asked (``VERSION`` goes into every store's fingerprint):

1. ``。！？`` and their relatives end a sentence, after any closing quotes and brackets, unless a
   comma, a colon or another end mark follows.
2. ``.``, ``!``, ``?``, ``…`` (and their closers) end one where white space follows and the next word
   does not begin with a lower-case letter. Text without any capital is split before lower case, too.
3. A single ``.`` does not end one after an abbreviation, an initial, a dotted acronym (unless a
   typical first word follows), or before a number where the abbreviation takes numbers (``No. 5``).
4. Nothing longer than ``MAX_CHARACTERS`` stays whole: it is cut at white space where there is some.
"""

from __future__ import annotations

import re

VERSION = 1
MAX_CHARACTERS = 10_000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CLOSERS = "\"'”’»›」』〉》】〗)）\\]］}"
_OPENERS = "\"'“‘«‹「『〈《【〖(（[［{¿¡—–-"
_END = re.compile(
    rf"(?P<wide>[。！？｡।؟]+[{_CLOSERS}]*(?![，、；：,;:。！？…]))"
    rf"|(?P<wide_dots>(?:……|\.{{6}})[{_CLOSERS}]*(?=[\u3400-\u9fff“「『《]))"
    rf"|(?P<narrow>(?:[.!?…]+)[{_CLOSERS}]*)(?=\s)"
)
_NEXT = re.compile(rf"\s+[{re.escape(_OPENERS)}]*(\S)")
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]?$")

_ABBREVIATIONS = _words(
    "mr mrs ms messrs mme mlle dr prof rev fr hon gov sen rep pres gen col lt capt cmdr adm maj sgt cpl pvt supt "
    "insp st ste mt ft jr sr esq bros vs v al approx ca cf viz resp est dept univ assn inc ltd co corp jan feb mar "
    "apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun ave blvd rd e.g i.e eg ie"
)
_BEFORE_NUMBER = _words(
    "no nos nr p pp vol vols ch chap sec sect fig figs art eq eqs app ed eds op bk pt c para ver cap"
)
_STARTERS = _words(
    "the a an he she it they we i you this that these those in on at by for from as after before when while if but "
    "and or so however there his her its their our my what who where why how since although during then"
)


def _ends(text: str, mark: re.Match[str], relaxed: bool) -> bool:
    """Whether a narrow end mark with white space behind it closes a sentence."""
    follower = _NEXT.match(text, mark.end())
    if follower is None:
        return False
    following = follower.group(1)
    if following.islower() and not relaxed:
        return False
    start = mark.start()
    if text[start] != "." or text.startswith("..", start):
        return True
    word = text[max(text.rfind(" ", max(0, start - 40), start) + 1, start - 40, 0) : start].lstrip(_OPENERS)
    if len(word) == 1 and word.isupper() and word != "I":
        return False  # an initial
    if "." in word and _ACRONYM.fullmatch(word):
        return _starts_typically(text, follower.start(1)) and word.lower() not in _ABBREVIATIONS
    plain = word.strip("'’-&").lower()
    if plain in _ABBREVIATIONS:
        return False
    numbered = following.isdigit() or (following in "IVXLC" and plain not in ("no", "art"))
    return not (numbered and plain in _BEFORE_NUMBER)


def _starts_typically(text: str, start: int) -> bool:
    """Whether the word at ``start`` is one that often opens a sentence."""
    end = start
    while end < len(text) and end - start < 12 and text[end].isalpha():
        end += 1
    return text[start:end].lower() in _STARTERS


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence, surrounding white space left out.

    Args:
        text: one paragraph.

    Returns:
        spans in order, none of them empty and none longer than ``MAX_CHARACTERS``.
    """
    relaxed = text == text.lower()
    spans: list[tuple[int, int]] = []
    start = 0
    for mark in _END.finditer(text):
        if mark.lastgroup != "narrow" or _ends(text, mark, relaxed):
            _append(spans, text, start, mark.end())
            start = mark.end()
    _append(spans, text, start, len(text))
    return spans


def line_spans(text: str) -> list[tuple[int, int]]:
    """The whole line as one sentence, cut only where it passes ``MAX_CHARACTERS``."""
    spans: list[tuple[int, int]] = []
    _append(spans, text, 0, len(text))
    return spans


def split_sentences(text: str) -> list[str]:
    """Sentences of one paragraph, surrounding white space left out."""
    return [text[start:end] for start, end in sentence_spans(text)]


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    """Add [start, end) without its outer white space, cut into pieces that are not too long."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while end - start > MAX_CHARACTERS:
        space = text.rfind(" ", start + MAX_CHARACTERS // 2, start + MAX_CHARACTERS)
        cut = space if space > 0 else start + MAX_CHARACTERS
        spans.append((start, cut))
        start = cut
        while start < end and text[start].isspace():
            start += 1
    if end > start:
        spans.append((start, end))
