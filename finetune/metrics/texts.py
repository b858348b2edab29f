"""Scores of written texts: exact match, and BLEU and chrF by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretraining.scoring.translation import translation_scores

TEXT_METRICS = ("bleu", "chrf", "exact_match")
"""Names of metrics of texts; every score lies in [0, 1], a hundredth of what sacrebleu says."""


def text_scores(
    metrics: Sequence[str], gold: Sequence[str], written: Sequence[str], language: str | None = None
) -> dict[str, float]:
    """The named metrics of texts, each against one reference.

    Args:
        metrics: of :data:`TEXT_METRICS`.
        gold: the references.
        written: as many texts.
        language: of both, which decides how BLEU finds words; ``None`` = by spaces and punctuation (13a).

    Raises:
        ZooError: sacrebleu is not installed, and BLEU or chrF is asked for.
    """
    found = {"exact_match": exact_match(gold, written)}
    if {"bleu", "chrf"} & {*metrics}:
        scored = translation_scores(written, gold, language)
        found |= {name: entry["score"] / 100 for name, entry in scored.items()}
    return {name: found[name] for name in metrics}


def text_signatures(metrics: Sequence[str], language: str | None = None) -> dict[str, str]:
    """What sacrebleu says about how it computes each of the metrics that are its own.

    Raises:
        ZooError: it is not installed, and one is asked for.
    """
    if not {"bleu", "chrf"} & {*metrics}:
        return {}
    scored = translation_scores(["a"], ["a"], language)
    return {name: entry["signature"] for name, entry in scored.items() if name in metrics}


def exact_match(gold: Sequence[str], written: Sequence[str]) -> float:
    """Share of texts that are the reference, but for white space."""
    pairs = zip(gold, written, strict=True)
    return float(np.mean([reference.split() == text.split() for reference, text in pairs]))
