"""Scores of answers by name, and the threshold from which a question counts as one without answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.metrics.cmrc import cmrc_em, cmrc_f1
from finetune.metrics.squad import squad2_em, squad2_f1, squad_em, squad_f1

AnswerMetric = Callable[[Sequence[str], str], float]

ANSWER_METRICS: dict[str, AnswerMetric] = {
    "squad_em": squad_em,
    "squad_f1": squad_f1,
    "squad2_em": squad2_em,
    "squad2_f1": squad2_f1,
    "cmrc_em": cmrc_em,
    "cmrc_f1": cmrc_f1,
}
"""Metric functions of one question's gold answers and the predicted text; a score is the mean over questions."""


class BestThreshold(NamedTuple):
    """The mean score in [0, 1] that is best over all thresholds, and that threshold."""

    score: float
    threshold: float


def answer_scores(metric: str, answers: Sequence[Sequence[str]], predicted: Sequence[str]) -> NDArray[np.float64]:
    """(N,) scores of N questions by the named metric.

    Args:
        metric: a name in :data:`ANSWER_METRICS`.
        answers: (N,) each question's gold answers; none for one without answer, which only ``squad2`` scores.
        predicted: (N,) predicted texts, empty for none.
    """
    score = ANSWER_METRICS[metric]
    return np.array([score(gold, text) for gold, text in zip(answers, predicted, strict=True)], np.float64)


def with_threshold(
    scores: NDArray[np.float64],
    no_answer: NDArray[np.float64],
    answerable: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.float64]:
    """(N,) scores after a question with ``no_answer > threshold`` is answered by nothing (``evaluate-v2.0.py``).

    Args:
        scores: (N,) scores of the predicted texts.
        no_answer: (N,) probabilities that there is no answer.
        answerable: (N,) whether there is one.
        threshold: above it, nothing is answered.
    """
    return np.where(no_answer > threshold, (~answerable).astype(np.float64), scores)


def best_threshold(
    scores: NDArray[np.float64],
    no_answer: NDArray[np.float64],
    answerable: NDArray[np.bool_],
    predicted: Sequence[str],
) -> BestThreshold:
    """The threshold with the best score on these very questions, as ``evaluate-v2.0.py`` finds it.

    It starts with no question answered, and answers one more at a time, the smallest ``no_answer`` first. A question
    with an answer adds its score; one without subtracts 1 if any text is predicted. The first best place wins, and 0
    if none is better than the start. It counts among equal ``no_answer``, too, as the script does, so that the score
    can be one that no threshold reaches.

    Args:
        scores: (N,) scores of the predicted texts.
        no_answer: (N,) probabilities that there is no answer, in [0, 1].
        answerable: (N,) whether there is one.
        predicted: (N,) predicted texts, empty for none.
    """
    if not len(scores):
        return BestThreshold(0.0, 0.0)
    silent = np.array([not text for text in predicted])
    order = np.argsort(no_answer, kind="stable")
    steps = np.where(answerable, scores, np.where(silent, 0.0, -1.0))[order]
    totals = (~answerable).sum() + np.concatenate([[0.0], np.cumsum(steps)])
    best = int(totals.argmax())
    return BestThreshold(float(totals[best] / len(scores)), float(no_answer[order[best - 1]]) if best else 0.0)
