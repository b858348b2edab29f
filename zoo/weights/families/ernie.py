"""Two models called ERNIE, both BERT's rows and more.

Baidu's, 1.0 to 3.0, may have a table of task types (specs: ERNIE 2.0, section 7). Tsinghua's has entities (specs:
ERNIE-THU, section 6), and no library has a class for it: its folders hold ``ernie_config.json`` and
``pytorch_model.bin``, and vectors of the entities come apart.
"""

from zoo.weights.families.bert import (
    DERIVED,
    EMBEDDINGS,
    FIELDS,
    FIXED,
    LAYERS,
    POOLER,
    PRESUMED,
    architectures,
    heads,
)
from zoo.weights.table import ConfigField, Family, HeadTable, WeightRow

FAMILY = Family(
    model_type="ernie",
    title="ERNIE",
    prefix="ernie",
    attention="bidirectional",
    fixed=FIXED,
    fields=(*FIELDS, ConfigField("task_type_vocab_size", "task_type_vocab_size", 3, "optional")),
    presumed=PRESUMED,
    core=(
        *EMBEDDINGS,
        WeightRow("embeddings.task_type_embeddings", "embeddings.task_type_embeddings"),
        *LAYERS,
        *POOLER,
    ),
    heads=heads("ernie"),
    architectures=architectures("Ernie"),
    derived=DERIVED,
    at_least={"type_vocab_size": 1},
)
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

TSINGHUA = Family(
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
        "ErnieForMultipleChoice": ("choice_classifier", "choice_classifier_with_dense"),
        "ErnieForTokenClassification": ("token_classifier",),
        "ErnieForQuestionAnswering": ("qa_outputs",),
        "ErnieModel": (),
    },
    derived=DERIVED,
    at_least={"type_vocab_size": 1},
    config_file="ernie_config.json",
)
