"""Exact match and F1 of a Chinese answer as CMRC 2018's official script counts them; DRCD is scored by the same."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from finetune.metrics.english_words import treebank_words

_LEFT_OUT = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""The marks of the script's list. ``‘`` and ``…`` are not in it (it has ``……``, which no single character is), nor are
ASCII commas, periods, brackets and quotes."""


def cmrc_em(answers: Sequence[str], predicted: str) -> float:
    """1 if the prediction equals any answer, both in lower case and without the marks; spaces inside count.

    Source: ymcui/cmrc2018, ``squad-style-data/cmrc2018_evaluate.py`` (v5).

    Args:
        answers: the gold answers, at least one.
        predicted: the predicted text.
    """
    return float(_without_marks(predicted) in {_without_marks(answer) for answer in answers})


def cmrc_f1(answers: Sequence[str], predicted: str) -> float:
    """F1 of the longest common *substring* in segments, the best over the answers; 0 where nothing is common.

    Precision is its length over the prediction's, recall over the answer's. Source as of :func:`cmrc_em`.

    Args:
        answers: the gold answers, at least one.
        predicted: the predicted text.
    """
    segments = mixed_segments(predicted)
    return max(_substring_f1(mixed_segments(answer), segments) for answer in answers)


def mixed_segments(text: str) -> list[str]:
    """Each Chinese character (U+4E00 to U+9FA5) alone, all else as English words, in lower case, without the marks."""
    segments: list[str] = []
    rest = ""
    for character in _without_marks(text):
        if "\u4e00" <= character <= "\u9fa5":
            segments += [*treebank_words(rest), character]
            rest = ""
        else:
            rest += character
    return segments + treebank_words(rest)


def _without_marks(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _LEFT_OUT)


def _substring_f1(gold: list[str], predicted: list[str]) -> float:
    common = SequenceMatcher(None, gold, predicted, autojunk=False).find_longest_match().size
    return 2 * common / (len(gold) + len(predicted)) if common else 0.0
