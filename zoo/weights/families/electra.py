"""ELECTRA's two halves, generator and discriminator: one core, two heads (specs: ELECTRA, section 6)."""

from zoo.weights.families.bert import DERIVED, EMBEDDINGS, FIELDS, FIXED, LAYERS, PRESUMED
from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow

_DEFAULTS = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}

FAMILY = Family(
    model_type="electra",
    title="ELECTRA",
    prefix="electra",
    attention="bidirectional",
    fixed={**FIXED, "pooler": False},
    fields=(
        *(f._replace(default=_DEFAULTS.get(f.ours, f.default)) for f in FIELDS),
        ConfigField("embedding_size", "embedding_size", 128),
    ),
    presumed=PRESUMED,
    core=(*EMBEDDINGS, WeightRow("embeddings.projection", "embeddings_project"), *LAYERS),
    heads=(
        HeadTable(
            "replaced_token",
            {"kind": "replaced", "num_labels": 1, "dense": "$hidden_act"},
            (
                WeightRow("dense", "discriminator_predictions.dense"),
                WeightRow("output", "discriminator_predictions.dense_prediction"),
            ),
        ),
        HeadTable(
            "masked_lm",
            {"kind": "token", "transform": True, "bias": True},
            (
                WeightRow("dense", "generator_predictions.dense"),
                WeightRow("norm", "generator_predictions.LayerNorm"),
                WeightRow("bias", "generator_lm_head.bias"),
                WeightRow("decoder", "generator_lm_head", tied=False),
            ),
            (Copy("generator_lm_head.weight", "electra.embeddings.word_embeddings.weight"),),
            required_fields={"hidden_act": "gelu"},
        ),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "gelu", "bias": True},
            (WeightRow("dense", "classifier.dense"), WeightRow("output", "classifier.out_proj")),
            pooling="first",
        ),
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (WeightRow("output", "classifier"),)),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
    ),
    architectures={
        "ElectraForPreTraining": ("replaced_token",),
        "ElectraForMaskedLM": ("masked_lm",),
        "ElectraForSequenceClassification": ("classifier",),
        "ElectraForTokenClassification": ("token_classifier",),
        "ElectraForQuestionAnswering": ("qa_outputs",),
        "ElectraModel": (),
    },
    derived=DERIVED,
    at_least={"type_vocab_size": 1},
)
