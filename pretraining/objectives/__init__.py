"""The objectives of the zoo; see ``pretraining.objective`` for the interface and CONTRIBUTING for a recipe."""

from pretraining.objectives.bilm import BidirectionalLM
from pretraining.objectives.causal import CausalLM
from pretraining.objectives.entities import EntityAutoencoder
from pretraining.objectives.labels import TokenClassification
from pretraining.objectives.masked import MaskedLM
from pretraining.objectives.pair import PairClassification, RowClassification
from pretraining.objectives.permutation import PermutationLM

__all__ = [
    "BidirectionalLM",
    "CausalLM",
    "EntityAutoencoder",
    "MaskedLM",
    "PairClassification",
    "PermutationLM",
    "RowClassification",
    "TokenClassification",
]
