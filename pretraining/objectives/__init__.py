"""The objectives; class paths such as ``pretraining.objectives.MaskedLM`` name this room."""

from pretraining.objectives.base import Batch, CoreRunner, LossTerm, Objective, Targets
from pretraining.objectives.bidirectional_lm import BidirectionalLM
from pretraining.objectives.causal_lm import CausalLM
from pretraining.objectives.entity_autoencoder import EntityAutoencoder
from pretraining.objectives.generator import GeneratorLM
from pretraining.objectives.masked_lm import MaskedLM
from pretraining.objectives.permutation_lm import PermutationLM
from pretraining.objectives.replaced_tokens import OriginalTokens, ReplacedTokens
from pretraining.objectives.row_classification import PairClassification, RowClassification
from pretraining.objectives.sequence_to_sequence import SequenceToSequence
from pretraining.objectives.skip_gram import ContinuousBagOfWords, SkipGram
from pretraining.objectives.token_classification import (
    ArrayLabels,
    CapitalisationLabels,
    TokenClassification,
    TokenLabels,
)
from pretraining.objectives.token_scoring import MaskedModel

__all__ = [
    "ArrayLabels",
    "Batch",
    "BidirectionalLM",
    "CapitalisationLabels",
    "CausalLM",
    "ContinuousBagOfWords",
    "CoreRunner",
    "EntityAutoencoder",
    "LossTerm",
    "GeneratorLM",
    "MaskedLM",
    "MaskedModel",
    "Objective",
    "OriginalTokens",
    "PairClassification",
    "PermutationLM",
    "ReplacedTokens",
    "RowClassification",
    "SequenceToSequence",
    "SkipGram",
    "Targets",
    "TokenClassification",
    "TokenLabels",
]
