"""Reformer: hashed and local attention in turn, layers over a pair of states, axial positions (specs: Reformer, 6)."""

from typing import Literal

from zoo.weights.families.bert import ACTIVATIONS
from zoo.weights.table import ConfigField, Family, HeadTable, WeightRow

_LAYER = "encoder.layers.{}."


def _token_head(name: str, attention: Literal["bidirectional", "causal"]) -> HeadTable:
    """The head over both states of the pair, whose matrix is its own."""
    rows = (WeightRow("decoder", "lm_head.decoder"), WeightRow("bias", "lm_head.bias"))
    caveat = "transformers 5.23 keeps lm_head.bias and never adds it to logits, which the zoo does"
    config = {"kind": "token", "transform": False, "bias": True}
    return HeadTable(name, config, rows, attention=attention, caveat=caveat)


FAMILY = Family(
    model_type="reformer",
    title="Reformer",
    prefix="reformer",
    attention="bidirectional",
    causal_key="is_decoder",
    fixed={
        "reversible": True,
        "norm_position": "pre",
        "embedding_norm": False,
        "attention_bias": False,
        "type_vocab_size": 0,
        "pooler": False,
        "tie_word_embeddings": False,
    },
    fields=(
        ConfigField("vocab_size", "vocab_size", 320),
        ConfigField("hidden_size", "hidden_size", 256),
        ConfigField("num_hidden_layers", "attn_layers", ("local", "lsh") * 3, "number of layers"),
        ConfigField("num_attention_heads", "num_attention_heads", 12),
        ConfigField("head_dim", "attention_head_size", 64),
        ConfigField("intermediate_size", "feed_forward_size", 512),
        ConfigField("hidden_act", "hidden_act", "relu", ACTIVATIONS),
        ConfigField("attention_layers", "attn_layers", ("local", "lsh") * 3, "hashed and local"),
        ConfigField("position_type", "axial_pos_embds", True, (("axial", True), ("learned", False))),
        ConfigField("axial_pos_shape", "axial_pos_shape", (64, 64), "axial"),
        ConfigField("axial_pos_embds_dim", "axial_pos_embds_dim", (64, 192), "axial"),
        ConfigField("axial_norm_std", "axial_norm_std", 1.0, "where there is one"),
        ConfigField("max_position_embeddings", "max_position_embeddings", 4096),
        ConfigField("chunk_size_feed_forward", "chunk_size_feed_forward", 0),
        ConfigField("layer_norm_eps", "layer_norm_eps", 1e-12),
        ConfigField("hidden_dropout_prob", "hidden_dropout_prob", 0.05),
        ConfigField("activation_dropout", "hidden_dropout_prob", 0.05),
        ConfigField("final_dropout", "hidden_dropout_prob", 0.05),
        ConfigField("attention_probs_dropout_prob", "local_attention_probs_dropout_prob", 0.05),
        ConfigField("initializer_range", "initializer_range", 0.02),
        ConfigField("pad_token_id", "pad_token_id", 0),
    ),
    core=(
        WeightRow("embeddings.word_embeddings", "embeddings.word_embeddings"),
        WeightRow("embeddings.axial.of_rows", "embeddings.position_embeddings.weights.0"),
        WeightRow("embeddings.axial.of_columns", "embeddings.position_embeddings.weights.1"),
        WeightRow("embeddings.position_embeddings", "embeddings.position_embeddings.embedding"),
        WeightRow("layers.{}.attention.query_key", _LAYER + "attention.self_attention.query_key"),
        WeightRow("layers.{}.attention.query", _LAYER + "attention.self_attention.query"),
        WeightRow("layers.{}.attention.key", _LAYER + "attention.self_attention.key"),
        WeightRow("layers.{}.attention.value", _LAYER + "attention.self_attention.value"),
        WeightRow("layers.{}.attention.output", _LAYER + "attention.output.dense"),
        WeightRow("layers.{}.attention_norm", _LAYER + "attention.layer_norm"),
        WeightRow("layers.{}.intermediate", _LAYER + "feed_forward.dense.dense"),
        WeightRow("layers.{}.output", _LAYER + "feed_forward.output.dense"),
        WeightRow("layers.{}.output_norm", _LAYER + "feed_forward.layer_norm"),
        WeightRow("final_norm", "encoder.layer_norm"),
    ),
    heads=(
        _token_head("causal_lm", "causal"),
        _token_head("masked_lm", "bidirectional"),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "tanh", "bias": True},
            (WeightRow("dense", "classifier.dense"), WeightRow("output", "classifier.out_proj")),
            pooling="first",
        ),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
    ),
    architectures={
        "ReformerModelWithLMHead": ("causal_lm",),
        "ReformerForMaskedLM": ("masked_lm",),
        "ReformerForSequenceClassification": ("classifier",),
        "ReformerForQuestionAnswering": ("qa_outputs",),
        "ReformerModel": (),
    },
    single="$A {eos}",
    pair="$A {eos} $B {eos}",
    specials={"eos": "</s>"},
)
