"""GPT-1, post-norm with query, key and value in one input-first matrix; GPT-2, pre-norm (specs: GPT, section 7)."""

from typing import Any

from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow

SCORE_HEAD = HeadTable(
    "classifier",
    {"kind": "classification", "dense": "none", "bias": False},
    (WeightRow("output", "score"),),
    pooling="last",
)
FIXED: dict[str, Any] = {"embedding_norm": False, "position_type": "learned", "type_vocab_size": 0, "pooler": False}
DERIVED = (r"h\.\d+\.attn\.bias", r"h\.\d+\.attn\.masked_bias", r"position_ids")


def causal_head(embedding: str) -> HeadTable:
    """The token head over a table called ``embedding``."""
    return HeadTable(
        "causal_lm",
        {"kind": "token", "transform": False, "bias": False},
        (WeightRow("decoder", "lm_head", tied=False),),
        (Copy("lm_head.weight", f"{embedding}.weight"),),
    )


def width_fields() -> tuple[ConfigField, ...]:
    """Config fields that GPT-1 and GPT-2 name alike."""
    return (
        ConfigField("hidden_size", "n_embd", 768),
        ConfigField("num_hidden_layers", "n_layer", 12),
        ConfigField("num_attention_heads", "n_head", 12),
        ConfigField("hidden_dropout_prob", "resid_pdrop", 0.1),
        ConfigField("hidden_dropout_prob", "embd_pdrop", 0.1),
        ConfigField("attention_probs_dropout_prob", "attn_pdrop", 0.1),
        ConfigField("layer_norm_eps", "layer_norm_epsilon", 1e-5),
        ConfigField("initializer_range", "initializer_range", 0.02),
        ConfigField("pad_token_id", "pad_token_id", None),
        ConfigField("tie_word_embeddings", "tie_word_embeddings", True),
    )


def layers() -> tuple[WeightRow, ...]:
    """Rows of a layer, which the two name alike."""
    return (
        WeightRow(
            ("layers.{}.attention.query", "layers.{}.attention.key", "layers.{}.attention.value"),
            "h.{}.attn.c_attn",
            "fused",
        ),
        WeightRow("layers.{}.attention.output", "h.{}.attn.c_proj", "transpose"),
        WeightRow("layers.{}.attention_norm", "h.{}.ln_1"),
        WeightRow("layers.{}.intermediate", "h.{}.mlp.c_fc", "transpose"),
        WeightRow("layers.{}.output", "h.{}.mlp.c_proj", "transpose"),
        WeightRow("layers.{}.output_norm", "h.{}.ln_2"),
    )


FAMILY = Family(
    model_type="openai-gpt",
    title="GPT",
    prefix="transformer",
    attention="causal",
    fixed={**FIXED, "norm_position": "post"},
    fields=(
        ConfigField("vocab_size", "vocab_size", 40478),
        ConfigField("max_position_embeddings", "n_positions", 512),
        ConfigField("hidden_act", "afn", "gelu", (("gelu_new", "gelu"), ("relu", "relu"), ("silu", "silu"))),
        ConfigField("intermediate_size", "n_embd", 768, "four times"),
        *width_fields(),
    ),
    core=(
        WeightRow("embeddings.word_embeddings", "tokens_embed"),
        WeightRow("embeddings.position_embeddings", "positions_embed"),
        *layers(),
    ),
    heads=(causal_head("transformer.tokens_embed"), SCORE_HEAD),
    architectures={
        "OpenAIGPTLMHeadModel": ("causal_lm",),
        "OpenAIGPTForSequenceClassification": ("classifier",),
        "OpenAIGPTModel": (),
    },
    derived=DERIVED,
    single="<start> $A <extract>",
    pair="<start> $A <delimiter> $B <extract>",
    specials={},
    pooling="last",
)

GPT2 = Family(
    model_type="gpt2",
    title="GPT-2",
    prefix="transformer",
    attention="causal",
    fixed={**FIXED, "norm_position": "pre"},
    fields=(
        ConfigField("vocab_size", "vocab_size", 50257),
        ConfigField("max_position_embeddings", "n_positions", 1024),
        ConfigField(
            "hidden_act",
            "activation_function",
            "gelu_new",
            (("gelu_new", "gelu_new"), ("gelu", "gelu"), ("relu", "relu"), ("silu", "silu")),
        ),
        *width_fields(),
        ConfigField("intermediate_size", "n_inner", None, "four times unless said"),
    ),
    presumed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    core=(
        WeightRow("embeddings.word_embeddings", "wte"),
        WeightRow("embeddings.position_embeddings", "wpe"),
        *layers(),
        WeightRow("final_norm", "ln_f"),
    ),
    heads=(
        causal_head("transformer.wte"),
        SCORE_HEAD,
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (WeightRow("output", "classifier"),)),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
    ),
    architectures={
        "GPT2LMHeadModel": ("causal_lm",),
        "GPT2ForSequenceClassification": ("classifier",),
        "GPT2ForTokenClassification": ("token_classifier",),
        "GPT2ForQuestionAnswering": ("qa_outputs",),
        "GPT2Model": (),
    },
    derived=DERIVED,
    single="{bos} $A {eos}",
    pair="{bos} $A {eos} $B {eos}",
    specials={"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
    pooling="last",
)
