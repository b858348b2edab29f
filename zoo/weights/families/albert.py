"""ALBERT: factorised embeddings, sets of shared layer weights (specs: ALBERT, section 7)."""

from typing import Any

from zoo.weights.families.bert import DERIVED, EMBEDDINGS, FIELDS, FIXED
from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow

_LAYER = "encoder.albert_layer_groups.{}.albert_layers.0."
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30000,
    "hidden_size": 4096,
    "num_attention_heads": 64,
    "intermediate_size": 16384,
}
_DEFAULTS |= {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

FAMILY = Family(
    model_type="albert",
    title="ALBERT",
    prefix="albert",
    attention="bidirectional",
    fixed={**FIXED, "embedding_projection": True},
    fields=(
        *(f._replace(default=_DEFAULTS.get(f.ours, f.default)) for f in FIELDS),
        ConfigField("embedding_size", "embedding_size", 128),
        ConfigField("num_hidden_groups", "num_hidden_groups", 1, "groups"),
    ),
    presumed={"inner_group_num": 1, "position_embedding_type": "absolute"},
    core=(
        *EMBEDDINGS,
        WeightRow("embeddings.projection", "encoder.embedding_hidden_mapping_in"),
        WeightRow("layers.{}.attention.query", _LAYER + "attention.query"),
        WeightRow("layers.{}.attention.key", _LAYER + "attention.key"),
        WeightRow("layers.{}.attention.value", _LAYER + "attention.value"),
        WeightRow("layers.{}.attention.output", _LAYER + "attention.dense"),
        WeightRow("layers.{}.attention_norm", _LAYER + "attention.LayerNorm"),
        WeightRow("layers.{}.intermediate", _LAYER + "ffn"),
        WeightRow("layers.{}.output", _LAYER + "ffn_output"),
        WeightRow("layers.{}.output_norm", _LAYER + "full_layer_layer_norm"),
        WeightRow("pooler", "pooler"),
    ),
    heads=(
        HeadTable(
            "masked_lm",
            {"kind": "token", "transform": True, "bias": True},
            (
                WeightRow("dense", "predictions.dense"),
                WeightRow("norm", "predictions.LayerNorm"),
                WeightRow("bias", "predictions.bias", tied=True),
                WeightRow("bias", "predictions.decoder.bias", tied=False),
                WeightRow("decoder", "predictions.decoder", tied=False),
            ),
            (
                Copy("predictions.decoder.weight", "albert.embeddings.word_embeddings.weight"),
                Copy("predictions.decoder.bias", "predictions.bias"),
                Copy("predictions.bias", "predictions.decoder.bias", written=True, tied=False),
            ),
        ),
        HeadTable(
            "sentence_order",
            {"kind": "pair", "num_labels": 2, "dense": "pooler", "bias": True},
            (WeightRow("output", "sop_classifier.classifier"),),
        ),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "pooler", "bias": True},
            (WeightRow("output", "classifier"),),
            pooling="first",
        ),
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (WeightRow("output", "classifier"),)),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
    ),
    architectures={
        "AlbertForPreTraining": ("masked_lm", "sentence_order"),
        "AlbertForMaskedLM": ("masked_lm",),
        "AlbertForSequenceClassification": ("classifier",),
        "AlbertForTokenClassification": ("token_classifier",),
        "AlbertForQuestionAnswering": ("qa_outputs",),
        "AlbertModel": (),
    },
    derived=DERIVED,
    at_least={"type_vocab_size": 1},
)
