"""The Auto classes of transformers learn the zoo's: importing this file registers them."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from zoo.hf.base import ZooPreTrainedModel
from zoo.hf.config import ZooConfig
from zoo.hf.models import ZooForCausalLM, ZooForMaskedLM, ZooForPreTraining, ZooModel
from zoo.hf.task_models import (
    ZooForMultipleChoice,
    ZooForQuestionAnswering,
    ZooForSequenceClassification,
    ZooForTokenClassification,
)
from zoo.model_folder import MODEL_TYPE

AUTO_CLASSES: dict[Any, type[ZooPreTrainedModel]] = {
    AutoModel: ZooModel,
    AutoModelForMaskedLM: ZooForMaskedLM,
    AutoModelForCausalLM: ZooForCausalLM,
    AutoModelForPreTraining: ZooForPreTraining,
    AutoModelForSequenceClassification: ZooForSequenceClassification,
    AutoModelForTokenClassification: ZooForTokenClassification,
    AutoModelForQuestionAnswering: ZooForQuestionAnswering,
    AutoModelForMultipleChoice: ZooForMultipleChoice,
}
AutoConfig.register(MODEL_TYPE, ZooConfig)
for _auto, _own in AUTO_CLASSES.items():
    _auto.register(ZooConfig, _own)
