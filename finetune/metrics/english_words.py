"""English words by the rules of the Penn Treebank, which CMRC 2018's script counts between Chinese characters."""

from __future__ import annotations

import re

_FINAL_PERIOD = re.compile(r"(?<=[^.])\.(?=[\])}>\"'»”’ ]*$)")
_OPENING_MARKS = re.compile(r"[«“‘„]|`+")
_OPENING = re.compile(r"(?<=[ (\[{<])(?:\"|'')")
_APART = re.compile(r"\.{2,}|``|''|`+|[;@#$%&?!*()\[\]{}<>«»“”‘’„‒–—―]|[,:](?!\d)|--")
_LEADING_APOSTROPHE = re.compile(r"(?<![\w'])'(?=\w)(?!(?:re|ve|ll|m|t|s|d|n)\b)")
_CLITIC = re.compile(r"(?<=[^'])(?:'(?:s|m|d|ll|re|ve)?|n't)$", re.IGNORECASE)
_JOINED = re.compile(r"(?:can(?=not$)|d(?='ye$)|gim(?=me$)|gon(?=na$)|got(?=ta$)|lem(?=me$)|more(?='n$)|wan(?=na$))")


def treebank_words(text: str) -> list[str]:
    """Words and marks of one English sentence.

    Brackets, marks and symbols stand alone. So do a comma or colon without a digit behind it, and the last period.
    A clitic (``'s``, ``n't``, ``'ll``) parts from its word. Double quotes become two backticks or two apostrophes.
    Source: the Treebank's ``tokenizer.sed`` by Robert MacIntyre, with the marks that NLTK's ``word_tokenize`` added.
    NLTK parts sentences first; here, a period inside the text stays with its word.

    Args:
        text: one sentence, or a part of one.
    """
    text = _OPENING_MARKS.sub(r" \g<0> ", text)
    text = re.sub(r'^"', " `` ", text)
    text = _OPENING.sub(" `` ", text)
    text = _FINAL_PERIOD.sub(" . ", text)
    text = _APART.sub(r" \g<0> ", text).replace('"', " '' ")
    text = _LEADING_APOSTROPHE.sub("' ", text)
    words = (part for word in text.split() for part in _parted(word, _CLITIC))
    return [part for word in words for part in _parted(word, _JOINED, behind=True)]


def _parted(word: str, rule: re.Pattern[str], behind: bool = False) -> list[str]:
    """The word in two where the rule's match begins, or behind it."""
    found = rule.match(word) if behind else rule.search(word)
    place = (found.end() if behind else found.start()) if found else 0
    return [word[:place], word[place:]] if place else [word]
