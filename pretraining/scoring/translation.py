"""BLEU and chrF of translations by sacrebleu, whose signature says how they were computed (Post 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.errors import ZooError

_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}  # whose words sacrebleu finds itself; others: 13a


def translation_scores(
    translations: Sequence[str], references: Sequence[str], language: str | None = None
) -> dict[str, dict[str, Any]]:
    """Corpus BLEU and chrF, each with its signature.

    Args:
        translations: of the sources, in order.
        references: one for each.
        language: of both, which decides how BLEU finds words; ``None`` = by spaces and punctuation (13a).

    Returns:
        ``bleu`` and ``chrf``, each with ``score``, from 0 to 100, and ``signature``.

    Raises:
        ZooError: sacrebleu is not installed, there is nothing to score, or not a reference for each translation.
    """
    if len(translations) != len(references):
        raise ZooError(f"{len(references):,} references of {len(translations):,} translations: each needs one.")
    if not translations:
        raise ZooError("there are no translations to score.")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise ZooError("BLEU and chrF are sacrebleu's: pip install sesame-zoo[mt] (or sacrebleu).") from error
    found = {}
    for name, metric in (
        ("bleu", BLEU(tokenize=_TOKENIZERS.get(language or "", "13a"))),
        ("chrf", CHRF()),
    ):
        score = metric.corpus_score(list(translations), [list(references)])
        found[name] = {"score": float(score.score), "signature": str(metric.get_signature())}
    return found


def scores_in_words(scores: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each figure."""
    names = {"bleu": "BLEU", "chrf": "chrF2"}
    return [f"{names[key]} {entry['score']:.2f}  {entry['signature']}" for key, entry in scores.items()]
