"""Masking schemes: which positions are selected, what stands there instead, and what is predicted."""

from pretraining.masking.base import All, Budgeted, Prediction, Replacement, Selected, Selector
from pretraining.masking.context_spans import ContextSpans
from pretraining.masking.groups import Grouped
from pretraining.masking.ngrams import NGrams
from pretraining.masking.similar_words import SimilarWords
from pretraining.masking.tokens import RandomTokens, Replace
from pretraining.masking.words import KnowledgeUnits, RandomSpans, WholeWords

__all__ = [
    "All",
    "Budgeted",
    "ContextSpans",
    "Grouped",
    "KnowledgeUnits",
    "NGrams",
    "Prediction",
    "RandomSpans",
    "RandomTokens",
    "Replace",
    "Replacement",
    "Selected",
    "Selector",
    "SimilarWords",
    "WholeWords",
]
