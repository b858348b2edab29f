"""Which characters are Chinese, and which scripts put no spaces between words."""

from __future__ import annotations

import re
from collections.abc import Callable

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
