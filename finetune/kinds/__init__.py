"""Kinds of tasks; a task's YAML names one as ``finetune.kinds.Classification``."""

from finetune.kinds.answer_span import AnswerSpan as AnswerSpan
from finetune.kinds.choice import Choice as Choice
from finetune.kinds.classification import Classification as Classification
from finetune.kinds.regression import Regression as Regression
from finetune.kinds.tagging import Tagging as Tagging
from finetune.kinds.text_to_text import TextToText as TextToText
