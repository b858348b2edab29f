"""BERT, and with it BERT-wwm, MacBERT, MiniLM: whatever has ``model_type`` bert (specs: BERT, section 7).

RoBERTa has its layers, positions that start after the padding's row, and heads of its own (specs: RoBERTa, section 7).
ELECTRA is two halves, generator and discriminator: one core, two heads (specs: ELECTRA, section 6).
"""

from typing import Any

from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow

ACTIVATIONS = (("gelu", "gelu"), ("gelu_new", "gelu_new"), ("relu", "relu"), ("silu", "silu"))

FIELDS = (
    ConfigField("vocab_size", "vocab_size", 30522),
    ConfigField("hidden_size", "hidden_size", 768),
    ConfigField("num_hidden_layers", "num_hidden_layers", 12),
    ConfigField("num_attention_heads", "num_attention_heads", 12),
    ConfigField("intermediate_size", "intermediate_size", 3072),
    ConfigField("hidden_act", "hidden_act", "gelu", ACTIVATIONS),
    ConfigField("max_position_embeddings", "max_position_embeddings", 512),
    ConfigField("type_vocab_size", "type_vocab_size", 2),
    ConfigField("layer_norm_eps", "layer_norm_eps", 1e-12),
    ConfigField("hidden_dropout_prob", "hidden_dropout_prob", 0.1),
    ConfigField("attention_probs_dropout_prob", "attention_probs_dropout_prob", 0.1),
    ConfigField("initializer_range", "initializer_range", 0.02),
    ConfigField("pad_token_id", "pad_token_id", 0),
    ConfigField("tie_word_embeddings", "tie_word_embeddings", True),
)

FIXED: dict[str, Any] = {"norm_position": "post", "embedding_norm": True, "position_type": "learned"}

PRESUMED = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}

EMBEDDINGS = (
    WeightRow("embeddings.word_embeddings", "embeddings.word_embeddings"),
    WeightRow("embeddings.position_embeddings", "embeddings.position_embeddings"),
    WeightRow("embeddings.token_type_embeddings", "embeddings.token_type_embeddings"),
    WeightRow("embeddings.norm", "embeddings.LayerNorm"),
)

LAYERS = (
    WeightRow("layers.{}.attention.query", "encoder.layer.{}.attention.self.query"),
    WeightRow("layers.{}.attention.key", "encoder.layer.{}.attention.self.key"),
    WeightRow("layers.{}.attention.value", "encoder.layer.{}.attention.self.value"),
    WeightRow("layers.{}.attention.output", "encoder.layer.{}.attention.output.dense"),
    WeightRow("layers.{}.attention_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    WeightRow("layers.{}.intermediate", "encoder.layer.{}.intermediate.dense"),
    WeightRow("layers.{}.output", "encoder.layer.{}.output.dense"),
    WeightRow("layers.{}.output_norm", "encoder.layer.{}.output.LayerNorm"),
)

POOLER = (WeightRow("pooler", "pooler.dense"),)

DERIVED = (r"embeddings\.position_ids", r"embeddings\.token_type_ids")


def heads(base: str) -> tuple[HeadTable, ...]:
    """Rows of the heads over a base model called ``base``."""
    return (
        HeadTable(
            "masked_lm",
            {"kind": "token", "transform": True, "bias": True},
            (
                WeightRow("dense", "cls.predictions.transform.dense"),
                WeightRow("norm", "cls.predictions.transform.LayerNorm"),
                WeightRow("bias", "cls.predictions.bias", tied=True),
                WeightRow("bias", "cls.predictions.decoder.bias", tied=False),
                WeightRow("decoder", "cls.predictions.decoder", tied=False),
            ),
            (
                Copy("cls.predictions.decoder.weight", f"{base}.embeddings.word_embeddings.weight"),
                Copy("cls.predictions.decoder.bias", "cls.predictions.bias"),
                Copy("cls.predictions.bias", "cls.predictions.decoder.bias", written=True, tied=False),
            ),
        ),
        HeadTable(
            "next_sentence",
            {"kind": "pair", "num_labels": 2, "dense": "pooler", "bias": True},
            (WeightRow("output", "cls.seq_relationship"),),
        ),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "pooler", "bias": True},
            (WeightRow("output", "classifier"),),
            pooling="first",
        ),
        # A dense layer with tanh of the head's own is their pooler.
        HeadTable(
            "classifier_with_dense",
            {"kind": "classification", "dense": "tanh", "bias": True},
            (WeightRow("dense", f"{base}.pooler.dense"), WeightRow("output", "classifier")),
            required_fields={"pooler": False},
            pooling="first",
        ),
        HeadTable(
            "choice_classifier",
            {"kind": "choice", "num_labels": 1, "dense": "pooler", "bias": True},
            (WeightRow("output", "classifier"),),
            pooling="first",
        ),
        HeadTable(
            "choice_classifier_with_dense",
            {"kind": "choice", "num_labels": 1, "dense": "tanh", "bias": True},
            (WeightRow("dense", f"{base}.pooler.dense"), WeightRow("output", "classifier")),
            required_fields={"pooler": False},
            pooling="first",
        ),
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (WeightRow("output", "classifier"),)),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
    )


def architectures(name: str) -> dict[str, tuple[str, ...]]:
    """Class names of a family whose classes are called ``name`` + purpose."""
    return {
        f"{name}ForPreTraining": ("masked_lm", "next_sentence"),
        f"{name}ForMaskedLM": ("masked_lm",),
        f"{name}ForNextSentencePrediction": ("next_sentence",),
        f"{name}ForSequenceClassification": ("classifier", "classifier_with_dense"),
        f"{name}ForMultipleChoice": ("choice_classifier", "choice_classifier_with_dense"),
        f"{name}ForTokenClassification": ("token_classifier",),
        f"{name}ForQuestionAnswering": ("qa_outputs",),
        f"{name}Model": (),
    }


FAMILY = Family(
    model_type="bert",
    title="BERT",
    prefix="bert",
    attention="bidirectional",
    fixed=FIXED,
    fields=FIELDS,
    presumed=PRESUMED,
    core=EMBEDDINGS + LAYERS + POOLER,
    heads=heads("bert"),
    architectures=architectures("Bert"),
    derived=DERIVED,
    at_least={"type_vocab_size": 1},
)

ROBERTA = Family(
    model_type="roberta",
    title="RoBERTa",
    prefix="roberta",
    attention="bidirectional",
    fixed=FIXED,
    fields=(
        *(f._replace(default=50265) if f.ours == "vocab_size" else f for f in FIELDS if f.ours != "pad_token_id"),
        ConfigField("pad_token_id", "pad_token_id", 1),
        ConfigField("position_offset", "pad_token_id", 1, "after"),
    ),
    presumed=PRESUMED,
    core=EMBEDDINGS + LAYERS + POOLER,
    heads=(
        HeadTable(
            "masked_lm",
            {"kind": "token", "transform": True, "bias": True},
            (
                WeightRow("dense", "lm_head.dense"),
                WeightRow("norm", "lm_head.layer_norm"),
                WeightRow("bias", "lm_head.bias", tied=True),
                WeightRow("bias", "lm_head.decoder.bias", tied=False),
                WeightRow("decoder", "lm_head.decoder", tied=False),
            ),
            (
                Copy("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
                Copy("lm_head.decoder.bias", "lm_head.bias"),
                Copy("lm_head.bias", "lm_head.decoder.bias", written=True, tied=False),
            ),
            required_fields={"hidden_act": "gelu"},  # their head uses the erf form whatever the layers use
        ),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "tanh", "bias": True},
            (WeightRow("dense", "classifier.dense"), WeightRow("output", "classifier.out_proj")),
            pooling="first",
        ),
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (WeightRow("output", "classifier"),)),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
    ),
    architectures={
        "RobertaForMaskedLM": ("masked_lm",),
        "RobertaForSequenceClassification": ("classifier",),
        "RobertaForTokenClassification": ("token_classifier",),
        "RobertaForQuestionAnswering": ("qa_outputs",),
        "RobertaModel": (),
    },
    derived=DERIVED,
    pair="{cls} $A {sep} {sep} $B {sep}",
    specials={"cls": "<s>", "sep": "</s>"},
    at_least={"type_vocab_size": 1, "pad_token_id": 0},
)

_ELECTRA_SIZES = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}

ELECTRA = Family(
    model_type="electra",
    title="ELECTRA",
    prefix="electra",
    attention="bidirectional",
    fixed={**FIXED, "pooler": False},
    fields=(
        *(f._replace(default=_ELECTRA_SIZES.get(f.ours, f.default)) for f in FIELDS),
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
