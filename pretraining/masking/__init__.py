"""What is hidden, what stands there instead, what is predicted; class paths name this room."""

from pretraining.masking.base import Budgeted, Prediction, Replacement, Selected, Selector
from pretraining.masking.context_spans import ContextSpans, Parts
from pretraining.masking.groups import Grouped, Groups
from pretraining.masking.ngrams import NGrams
from pretraining.masking.noise import Noise
from pretraining.masking.noises import (
    DocumentRotation,
    SentencePermutation,
    TextInfilling,
    TokenDeletion,
    TokenMasking,
)
from pretraining.masking.predictions import All
from pretraining.masking.repeated import RepeatedTokens
from pretraining.masking.row_rates import RowRates
from pretraining.masking.sentinels import PartitionedSpans, SpanCorruption
from pretraining.masking.similar_words import SimilarWords
from pretraining.masking.tokens import RandomTokens, Replace
from pretraining.masking.words import KnowledgeUnits, RandomSpans, WholeWords

__all__ = [
    "All",
    "Budgeted",
    "ContextSpans",
    "DocumentRotation",
    "Grouped",
    "Groups",
    "KnowledgeUnits",
    "NGrams",
    "Noise",
    "PartitionedSpans",
    "Parts",
    "Prediction",
    "RandomSpans",
    "RandomTokens",
    "RepeatedTokens",
    "Replace",
    "Replacement",
    "RowRates",
    "Selected",
    "Selector",
    "SentencePermutation",
    "SimilarWords",
    "SpanCorruption",
    "TextInfilling",
    "TokenDeletion",
    "TokenMasking",
    "WholeWords",
]
