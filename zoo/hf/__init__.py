"""Any model of the zoo as a ``PreTrainedModel``, known to the Auto classes: the one room that speaks transformers.

``import zoo.hf`` registers them; a model folder then opens with ``AutoModelForMaskedLM.from_pretrained(FOLDER)`` and is
written by ``save_pretrained``: tensors have the same names on both sides (``core.*``, ``heads.NAME.*``), and
``config.json`` keeps the zoo's metadata beside transformers' own keys.
"""

from __future__ import annotations

from zoo.hf.base import ZooPreTrainedModel
from zoo.hf.config import ZooConfig
from zoo.hf.convert import AUTO_CLASSES, auto_class, from_folder, from_transformers, to_transformers
from zoo.hf.inputs import can_return_tuple
from zoo.hf.models import (
    ZooForCausalLM,
    ZooForMaskedLM,
    ZooForMultipleChoice,
    ZooForPreTraining,
    ZooForPreTrainingOutput,
    ZooForQuestionAnswering,
    ZooForSequenceClassification,
    ZooForTokenClassification,
    ZooModel,
)
from zoo.hf.seq2seq import ZooForConditionalGeneration

__all__ = [
    "ZooConfig",
    "ZooForCausalLM",
    "ZooForConditionalGeneration",
    "ZooForMaskedLM",
    "ZooForMultipleChoice",
    "ZooForPreTraining",
    "ZooForPreTrainingOutput",
    "ZooForQuestionAnswering",
    "ZooForSequenceClassification",
    "ZooForTokenClassification",
    "ZooModel",
    "ZooPreTrainedModel",
    "AUTO_CLASSES",
    "auto_class",
    "can_return_tuple",
    "from_folder",
    "from_transformers",
    "to_transformers",
]
