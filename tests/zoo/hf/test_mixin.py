"""Transformers' own tests of a model (``ModelTesterMixin``), run on ours.

They lie in transformers' source distribution only. ``make mixin`` fetches that of the installed version; ``.ci/run``
does so, and says ``ZOO_REQUIRE_MIXIN=1``, with which a test run without them fails.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

from zoo import hf
from zoo.config import CoreConfig
from zoo.hf.config import ZooConfig
from zoo.model_folder import MODEL_TYPE, ModelMetadata

SOURCE = Path(sys.prefix) / f"transformers-{transformers.__version__}" / "tests"
PACKAGE = "transformers_source_tests"


def load_mixin() -> Any:
    """``ModelTesterMixin`` out of the source distribution; its mixins for exports and generation are empty here."""
    if not (SOURCE / "test_modeling_common.py").exists():
        reason = (
            f"{SOURCE} holds no test_modeling_common.py of transformers' source distribution: `make mixin` fetches it"
        )
        if os.environ.get("ZOO_REQUIRE_MIXIN"):
            raise FileNotFoundError(reason)
        pytest.skip(reason, allow_module_level=True)
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(SOURCE)]
    sys.modules[PACKAGE] = package
    for module, name in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        folder = module.split(".")[0]
        sys.modules[f"{PACKAGE}.{folder}"] = types.ModuleType(f"{PACKAGE}.{folder}")
        sys.modules[f"{PACKAGE}.{module}"] = made = types.ModuleType(f"{PACKAGE}.{module}")
        setattr(made, name, type(name, (), {}))
    return importlib.import_module(f"{PACKAGE}.test_modeling_common").ModelTesterMixin


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
ModelTesterMixin: Any = load_mixin()
GenerationTesterMixin: Any = sys.modules[f"{PACKAGE}.generation.test_utils"].GenerationTesterMixin
NAMES = {  # by which the mixin knows what labels a class takes
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": hf.ZooForMaskedLM,
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": hf.ZooForCausalLM,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": hf.ZooForSequenceClassification,
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": hf.ZooForTokenClassification,
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": hf.ZooForQuestionAnswering,
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": hf.ZooForMultipleChoice,
    "MODEL_MAPPING_NAMES": hf.ZooModel,
}


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our classes among those that transformers ships."""
    for name, own in NAMES.items():
        monkeypatch.setitem(getattr(modeling_auto, name), MODEL_TYPE, own.__name__)


class Toy:
    """What the mixin asks about the models: a configuration, inputs and sizes."""

    is_training = True
    num_choices = 2
    batch_size, seq_length, vocab_size = 3, 7, 99
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

    def __init__(self, attention: str, **fields: Any) -> None:
        self.attention, self.fields = attention, fields

    def get_config(self) -> ZooConfig:
        """A small model of the zoo without heads, so that every class makes its own."""
        core = CoreConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_position_embeddings=64,
            **self.fields,
        )
        return ZooConfig.of(ModelMetadata(core, attention=self.attention))

    def prepare_config_and_inputs_for_common(self) -> tuple[ZooConfig, dict[str, torch.Tensor]]:
        """A configuration and a batch."""
        ids = torch.randint(5, self.vocab_size, (self.batch_size, self.seq_length))
        mask = torch.ones_like(ids)
        mask[1, -2:] = 0
        return self.get_config(), {"input_ids": ids, "attention_mask": mask}


class TestEncoders(ModelTesterMixin, unittest.TestCase):
    """Classes over a bidirectional core."""

    all_model_classes = (
        hf.ZooForMaskedLM,
        hf.ZooForSequenceClassification,
        hf.ZooForTokenClassification,
        hf.ZooForQuestionAnswering,
        hf.ZooForMultipleChoice,
        hf.ZooModel,
    )

    def setUp(self) -> None:
        self.model_tester = Toy("bidirectional")


class TestDecoder(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    """The class over a causal core."""

    all_model_classes = (hf.ZooForCausalLM,)

    def setUp(self) -> None:
        self.model_tester = Toy("causal", pooler=False, type_vocab_size=0, norm_position="pre")
