"""Exact match and F1 of an answer's text as SQuAD's official scripts count them, versions 1.1 and 2.0."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def squad_em(answers: Sequence[str], predicted: str) -> float:
    """1 if the plain prediction equals any plain answer. Source: SQuAD's ``evaluate-v1.1.py``.

    Args:
        answers: the gold answers, at least one.
        predicted: the predicted text.
    """
    return float(plain_answer(predicted) in {plain_answer(answer) for answer in answers})


def squad_f1(answers: Sequence[str], predicted: str) -> float:
    """F1 of the bags of plain words, the best over the answers; 0 where no word is common (``evaluate-v1.1.py``).

    Args:
        answers: the gold answers, at least one.
        predicted: the predicted text.
    """
    return max(_word_f1(plain_answer(answer).split(), plain_answer(predicted).split()) for answer in answers)


def squad2_em(answers: Sequence[str], predicted: str) -> float:
    """Exact match with questions that have no answer. Source: SQuAD's ``evaluate-v2.0.py``.

    Answers of which nothing is left when they are plain do not count. Where none is left, empty text is right.

    Args:
        answers: the gold answers; none for a question without answer.
        predicted: the predicted text; empty for none.
    """
    return float(plain_answer(predicted) in _gold_of(answers))


def squad2_f1(answers: Sequence[str], predicted: str) -> float:
    """F1 with questions that have no answer: 1 if both have no word, 0 if one has none (``evaluate-v2.0.py``).

    Args:
        answers: the gold answers; none for a question without answer.
        predicted: the predicted text; empty for none.
    """
    words = plain_answer(predicted).split()
    pairs = [(gold.split(), words) for gold in _gold_of(answers)]
    return max(_word_f1(gold, found) if gold and found else float(gold == found) for gold, found in pairs)


def _gold_of(answers: Sequence[str]) -> set[str]:
    return {plain for answer in answers if (plain := plain_answer(answer))} or {""}


def _word_f1(gold: list[str], predicted: list[str]) -> float:
    common = (Counter(gold) & Counter(predicted)).total()
    return 2 * common / (len(gold) + len(predicted)) if common else 0.0
