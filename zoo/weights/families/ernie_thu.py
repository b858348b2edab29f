"""ERNIE of Tsinghua: BERT with entities (specs: ERNIE-THU, section 6). No library has a class for it.

Their folders hold ``ernie_config.json`` and ``pytorch_model.bin``; vectors of the entities come apart.
"""

from zoo.weights.families.bert import DERIVED, EMBEDDINGS, FIELDS, FIXED, LAYERS, POOLER, PRESUMED, heads
from zoo.weights.table import ConfigField, Family, HeadTable, WeightRow

_LAYER = "encoder.layer.{}."

ENTITIES = (
    WeightRow("layers.{}.fusion.attention.query", _LAYER + "attention.self_ent.query"),
    WeightRow("layers.{}.fusion.attention.key", _LAYER + "attention.self_ent.key"),
    WeightRow("layers.{}.fusion.attention.value", _LAYER + "attention.self_ent.value"),
    WeightRow("layers.{}.fusion.attention.output", _LAYER + "attention.output_ent.dense"),
    WeightRow("layers.{}.fusion.attention_norm", _LAYER + "attention.output_ent.LayerNorm"),
    WeightRow("layers.{}.fusion.intermediate", _LAYER + "intermediate.dense_ent"),
    WeightRow("layers.{}.fusion.output", _LAYER + "output.dense_ent"),
    WeightRow("layers.{}.fusion.output_norm", _LAYER + "output.LayerNorm_ent"),
)

FAMILY = Family(
    model_type="ernie-thu",
    title="ERNIE (Tsinghua)",
    prefix="bert",
    attention="bidirectional",
    fixed=FIXED,
    fields=(*FIELDS, ConfigField("fusion", "layer_types", None, "entity layers")),
    presumed=PRESUMED,
    core=EMBEDDINGS + LAYERS + ENTITIES + POOLER,
    heads=(
        *heads("bert"),
        HeadTable(
            "entities",
            {"kind": "entity"},
            (
                WeightRow("dense", "cls.predictions_ent.transform.dense"),
                WeightRow("norm", "cls.predictions_ent.transform.LayerNorm"),
            ),
        ),
    ),
    architectures={
        "ErnieForPreTraining": ("masked_lm", "next_sentence", "entities"),
        "ErnieForMaskedLM": ("masked_lm",),
        "ErnieForSequenceClassification": ("classifier", "classifier_with_dense"),
        "ErnieForTokenClassification": ("token_classifier",),
        "ErnieForQuestionAnswering": ("qa_outputs",),
        "ErnieModel": (),
    },
    derived=DERIVED,
    at_least={"type_vocab_size": 1},
    config_file="ernie_config.json",
)
