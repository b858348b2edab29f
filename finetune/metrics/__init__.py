"""What predictions are worth: labels, numbers, entities, answers, choices and texts, as each benchmark counts them.

One file holds one kind. Every score lies in [0, 1], a correlation in [-1, 1]; tables multiply by 100.
"""

from finetune.metrics.answers import ANSWER_METRICS, BestThreshold, answer_scores, best_threshold, with_threshold
from finetune.metrics.choices import assign_idioms
from finetune.metrics.entities import EntityScore, EntityScores, entity_scores, surface_scores
from finetune.metrics.labels import METRICS, majority_baseline, scores
from finetune.metrics.tag_schemes import SCHEMES, Scheme, TaggedEntity, tagged_entities
from finetune.metrics.texts import TEXT_METRICS, exact_match, text_scores, text_signatures
from finetune.metrics.values import VALUE_METRICS, is_constant, mean_baseline, value_scores

__all__ = [
    "ANSWER_METRICS",
    "METRICS",
    "SCHEMES",
    "TEXT_METRICS",
    "VALUE_METRICS",
    "BestThreshold",
    "EntityScore",
    "EntityScores",
    "Scheme",
    "TaggedEntity",
    "answer_scores",
    "assign_idioms",
    "best_threshold",
    "entity_scores",
    "exact_match",
    "is_constant",
    "majority_baseline",
    "mean_baseline",
    "scores",
    "surface_scores",
    "tagged_entities",
    "text_scores",
    "text_signatures",
    "value_scores",
    "with_threshold",
]
