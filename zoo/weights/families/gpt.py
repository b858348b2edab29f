"""GPT-1: post-norm, query, key and value in one input-first matrix (specs: GPT, section 7)."""

from typing import Any

from zoo.weights.table import Copy, Fact, Family, HeadTable, Row

SCORE_HEAD = HeadTable(
    "classifier",
    {"kind": "classification", "dense": "none", "bias": False},
    (Row("output", "score"),),
    pooling="last",
)
FIXED: dict[str, Any] = {"embedding_norm": False, "position_type": "learned", "type_vocab_size": 0, "pooler": False}
DERIVED = (r"h\.\d+\.attn\.bias", r"h\.\d+\.attn\.masked_bias", r"position_ids")


def causal_head(embedding: str) -> HeadTable:
    """The token head over a table called ``embedding``."""
    return HeadTable(
        "causal_lm",
        {"kind": "token", "transform": False, "bias": False},
        (Row("decoder", "lm_head", tied=False),),
        (Copy("lm_head.weight", f"{embedding}.weight"),),
    )


def width_facts() -> tuple[Fact, ...]:
    """Facts that GPT-1 and GPT-2 name alike."""
    return (
        Fact("hidden_size", "n_embd", 768),
        Fact("num_hidden_layers", "n_layer", 12),
        Fact("num_attention_heads", "n_head", 12),
        Fact("hidden_dropout_prob", "resid_pdrop", 0.1),
        Fact("hidden_dropout_prob", "embd_pdrop", 0.1),
        Fact("attention_probs_dropout_prob", "attn_pdrop", 0.1),
        Fact("layer_norm_eps", "layer_norm_epsilon", 1e-5),
        Fact("initializer_range", "initializer_range", 0.02),
        Fact("pad_token_id", "pad_token_id", None),
        Fact("tie_word_embeddings", "tie_word_embeddings", True),
    )


def layers() -> tuple[Row, ...]:
    """Rows of a layer, which the two name alike."""
    return (
        Row(
            ("layers.{}.attention.query", "layers.{}.attention.key", "layers.{}.attention.value"),
            "h.{}.attn.c_attn",
            "fused",
        ),
        Row("layers.{}.attention.output", "h.{}.attn.c_proj", "transpose"),
        Row("layers.{}.attention_norm", "h.{}.ln_1"),
        Row("layers.{}.intermediate", "h.{}.mlp.c_fc", "transpose"),
        Row("layers.{}.output", "h.{}.mlp.c_proj", "transpose"),
        Row("layers.{}.output_norm", "h.{}.ln_2"),
    )


FAMILY = Family(
    model_type="openai-gpt",
    title="GPT",
    prefix="transformer",
    visibility="causal",
    fixed={**FIXED, "norm_position": "post"},
    facts=(
        Fact("vocab_size", "vocab_size", 40478),
        Fact("max_position_embeddings", "n_positions", 512),
        Fact("hidden_act", "afn", "gelu", (("gelu_new", "gelu"), ("relu", "relu"), ("silu", "silu"))),
        Fact("intermediate_size", "n_embd", 768, "four times"),
        *width_facts(),
    ),
    core=(
        Row("embeddings.word_embeddings", "tokens_embed"),
        Row("embeddings.position_embeddings", "positions_embed"),
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
