"""BART, and Marian, which has its layers: post-norm, an encoder and a decoder over one table.

Facts that are in no specification, with their sources: BART's positions start at row 2 (transformers,
``BartLearnedPositionalEmbedding``). Both sides have a norm after the embeddings (facebookresearch/fairseq,
``layernorm_embedding``), which Marian has not. Marian's fixed positions are rebuilt and never read (transformers,
``MarianSinusoidalPositionalEmbedding``: all sines, then all cosines). Norms have torch's epsilon.
``final_logits_bias`` is a row of a bias, which some files leave out.
"""

from typing import Any

from zoo.weights.families.bert import ACTIVATIONS
from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow

# Published translation models say "swish" for what both libraries call silu today.
_ACTIVATIONS = (("silu", "swish"), *ACTIVATIONS)


def _layer(side: str, ours: str, cross: bool) -> tuple[WeightRow, ...]:
    """Rows of a layer of one side."""
    theirs, rows = f"{side}.layers.{{}}.", []
    kinds = [("attention", "attention_norm", "self_attn"), ("cross_attention", "cross_norm", "encoder_attn")]
    for own, norm, name in kinds if cross else kinds[:1]:
        parts = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj"))
        rows += [WeightRow(f"{ours}{own}.{part}", f"{theirs}{name}.{other}") for part, other in parts]
        rows.append(WeightRow(ours + norm, f"{theirs}{name}_layer_norm"))
    rows += [
        WeightRow(f"{ours}intermediate", f"{theirs}fc1"),
        WeightRow(f"{ours}output", f"{theirs}fc2"),
        WeightRow(f"{ours}output_norm", f"{theirs}final_layer_norm"),
    ]
    return tuple(rows)


LAYERS = (*_layer("encoder", "layers.{}.", cross=False), *_layer("decoder", "decoder.layers.{}.", cross=True))

FIXED: dict[str, Any] = {
    "norm_position": "post",
    "type_vocab_size": 0,
    "pooler": False,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def fields(vocab_size: int, pad_token_id: int) -> tuple[ConfigField, ...]:
    """Config fields that the two name alike, with defaults that differ."""
    return (
        ConfigField("vocab_size", "vocab_size", vocab_size),
        ConfigField("hidden_size", "d_model", 1024),
        ConfigField("num_hidden_layers", "encoder_layers", 12),
        ConfigField("num_attention_heads", "encoder_attention_heads", 16),
        ConfigField("intermediate_size", "encoder_ffn_dim", 4096),
        ConfigField("decoder", "decoder_layers", 12, "decoder sizes"),
        ConfigField("hidden_act", "activation_function", "gelu", _ACTIVATIONS),
        ConfigField("hidden_dropout_prob", "dropout", 0.1),
        ConfigField("attention_probs_dropout_prob", "attention_dropout", 0.0),
        ConfigField("activation_dropout", "activation_dropout", 0.0),
        ConfigField("initializer_range", "init_std", 0.02),
        ConfigField("scale_embedding", "scale_embedding", False),
        ConfigField("pad_token_id", "pad_token_id", pad_token_id),
    )


PRESUMED = {
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    "normalize_before": False,
    "add_final_layer_norm": False,
}

LANGUAGE_HEAD = HeadTable(
    "seq2seq_lm",
    {"kind": "token", "transform": False, "bias": "?final_logits_bias"},
    (WeightRow("bias", "final_logits_bias", "row"),),
    (Copy("lm_head.weight", "model.shared.weight"),),
)
COPIES = (
    Copy("encoder.embed_tokens.weight", "shared.weight"),
    Copy("decoder.embed_tokens.weight", "shared.weight"),
)

FAMILY = Family(
    model_type="bart",
    title="BART",
    prefix="model",
    attention="bidirectional",
    fixed={**FIXED, "embedding_norm": True, "position_type": "learned", "position_offset": 2},
    fields=(*fields(50265, 1), ConfigField("max_position_embeddings", "max_position_embeddings", 1024, "two more")),
    presumed=PRESUMED,
    core=(
        WeightRow("embeddings.word_embeddings", "shared"),
        WeightRow("embeddings.position_embeddings", "encoder.embed_positions"),
        WeightRow("embeddings.norm", "encoder.layernorm_embedding"),
        WeightRow("decoder.embeddings.position_embeddings", "decoder.embed_positions"),
        WeightRow("decoder.embeddings.norm", "decoder.layernorm_embedding"),
        *LAYERS,
    ),
    copies=COPIES,
    heads=(
        LANGUAGE_HEAD,
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "tanh"},
            (WeightRow("dense", "classification_head.dense"), WeightRow("output", "classification_head.out_proj")),
            pooling="last",
        ),
    ),
    architectures={
        "BartForConditionalGeneration": ("seq2seq_lm",),
        "BartForSequenceClassification": ("classifier",),
        "BartModel": (),
    },
    derived=(r"encoder\.version", r"decoder\.version"),
    single="{bos} $A {eos}",
    pair="{bos} $A {eos} {eos} $B {eos}",
    specials={"bos": "<s>", "eos": "</s>"},
    pooling="last",
    decoder_start_token_id=2,
)

MARIAN = Family(
    model_type="marian",
    title="Marian",
    prefix="model",
    attention="bidirectional",
    fixed={**FIXED, "embedding_norm": False, "position_type": "sinusoidal", "sinusoid_layout": "halves"},
    fields=(*fields(58101, 58100), ConfigField("max_position_embeddings", "max_position_embeddings", 1024)),
    presumed={**PRESUMED, "share_encoder_decoder_embeddings": True, "normalize_embedding": False},
    core=(WeightRow("embeddings.word_embeddings", "shared"), *LAYERS),
    copies=COPIES,
    heads=(LANGUAGE_HEAD,),
    architectures={"MarianMTModel": ("seq2seq_lm",), "MarianModel": ()},
    derived=(r"encoder\.embed_positions\.weight", r"decoder\.embed_positions\.weight"),
    single="$A {eos}",
    pair="$A {eos} $B {eos}",
    specials={"eos": "</s>"},
    pooling="last",
    decoder_start_token_id=58100,
)
