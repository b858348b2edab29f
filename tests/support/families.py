"""Small configurations of every family that has a weight table: the grid that parity and conversion are tested on.

Data only. A family of ``zoo/weights/families`` needs one entry, its ``model_type`` with named arguments for
transformers' configuration class; which classes there are is in its table.
"""

from __future__ import annotations

from typing import Any

THREE = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
FIVE = {"vocab_size": 113, "hidden_size": 40, "num_hidden_layers": 5, "num_attention_heads": 5, "intermediate_size": 36}
ONE = {"vocab_size": 61, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 50}
WIDE = {"vocab_size": 89, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
SIX = {**THREE, "num_hidden_layers": 6, "hidden_size": 24, "num_attention_heads": 3}
XLM = {"vocab_size": 97, "emb_dim": 32, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 24}

PAIRED = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
BUCKETED = {"vocab_size": 61, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}

ENCODERS: dict[str, dict[str, Any]] = {
    "plain": {**THREE, "max_position_embeddings": 24},
    "untied": {**FIVE, "max_position_embeddings": 17, "hidden_act": "relu", "tie_word_embeddings": False},
    "one layer": {**ONE, "max_position_embeddings": 9, "hidden_act": "gelu_new", "type_vocab_size": 1},
    "other ids": {**WIDE, "max_position_embeddings": 21, "type_vocab_size": 4, "pad_token_id": 7},
    "other norm": {**FIVE, "max_position_embeddings": 12, "hidden_act": "silu", "layer_norm_eps": 1e-2},
}
"""What BERT and its nearest relatives are given alike."""

GRID: dict[str, dict[str, dict[str, Any]]] = {
    "bert": {**ENCODERS, "no padding": {**THREE, "max_position_embeddings": 19, "pad_token_id": None}},
    "ernie": {
        **ENCODERS,
        "tasks": {**THREE, "max_position_embeddings": 24, "use_task_id": True},
        "many tasks": {
            **WIDE,
            "max_position_embeddings": 13,
            "use_task_id": True,
            "task_type_vocab_size": 16,
            "type_vocab_size": 4,
            "hidden_act": "relu",
            "layer_norm_eps": 1e-5,
        },
        "tasks unread": {**ONE, "max_position_embeddings": 8, "use_task_id": False, "task_type_vocab_size": 16},
    },
    "roberta": {
        **ENCODERS,
        "published": {**THREE, "max_position_embeddings": 26, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
        "untied, erf": {**THREE, "max_position_embeddings": 13, "tie_word_embeddings": False, "pad_token_id": 2},
        "first id pads": {**WIDE, "max_position_embeddings": 18, "pad_token_id": 0},
    },
    "electra": {
        **{name: {**facts, "embedding_size": 20} for name, facts in ENCODERS.items()},
        "untied, erf": {
            **THREE,
            "max_position_embeddings": 13,
            "embedding_size": 20,
            "tie_word_embeddings": False,
            "pad_token_id": 2,
        },
        "one width": {**THREE, "max_position_embeddings": 24, "embedding_size": 32},
        "wider embeddings": {**ONE, "max_position_embeddings": 9, "embedding_size": 28},
    },
    "albert": {
        "one group": {**THREE, "max_position_embeddings": 24, "embedding_size": 16},
        "two groups": {**SIX, "max_position_embeddings": 17, "embedding_size": 20, "num_hidden_groups": 2},
        "three groups of five": {**FIVE, "max_position_embeddings": 12, "embedding_size": 8, "num_hidden_groups": 3},
        "nothing shared": {**WIDE, "max_position_embeddings": 14, "embedding_size": 48, "num_hidden_groups": 2},
        "one width": {**THREE, "max_position_embeddings": 9, "embedding_size": 32, "hidden_act": "gelu"},
        "untied": {
            **THREE,
            "max_position_embeddings": 21,
            "embedding_size": 12,
            "hidden_act": "relu",
            "tie_word_embeddings": False,
            "type_vocab_size": 1,
            "pad_token_id": 5,
            "layer_norm_eps": 1e-3,
        },
        "wider embeddings": {**ONE, "max_position_embeddings": 9, "embedding_size": 28},
    },
    "openai-gpt": {
        "plain": {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 24, "pad_token_id": 0},
        "other ids": {"vocab_size": 61, "n_embd": 40, "n_layer": 5, "n_head": 5, "n_positions": 17, "pad_token_id": 9},
        "one layer": {"vocab_size": 53, "n_embd": 12, "n_layer": 1, "n_head": 1, "n_positions": 9},
        "untied": {
            "vocab_size": 89,
            "n_embd": 24,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 13,
            "pad_token_id": 0,
            "afn": "relu",
            "layer_norm_epsilon": 1e-2,
            "tie_word_embeddings": False,
        },
    },
    "gpt2": {
        "plain": {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 24, "pad_token_id": 0},
        "inner width": {
            "vocab_size": 113,
            "n_embd": 40,
            "n_layer": 5,
            "n_head": 5,
            "n_positions": 17,
            "n_inner": 36,
            "pad_token_id": 9,
            "activation_function": "gelu",
        },
        "one layer": {"vocab_size": 53, "n_embd": 12, "n_layer": 1, "n_head": 1, "n_positions": 9, "n_inner": 50},
        "untied": {
            "vocab_size": 89,
            "n_embd": 24,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 13,
            "pad_token_id": 0,
            "activation_function": "silu",
            "layer_norm_epsilon": 1e-2,
            "tie_word_embeddings": False,
        },
    },
    "llama": {
        "plain": {**THREE, "max_position_embeddings": 24, "pad_token_id": 0},
        "grouped heads": {
            **WIDE,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 17,
            "pad_token_id": 3,
            "rms_norm_eps": 1e-5,
        },
        "one key head, tied": {
            **FIVE,
            "num_key_value_heads": 1,
            "max_position_embeddings": 12,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "hidden_act": "gelu",
        },
        "biases": {
            **SIX,
            "max_position_embeddings": 9,
            "pad_token_id": 0,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
        "biases of attention": {**ONE, "max_position_embeddings": 31, "attention_bias": True, "rms_norm_eps": 1e-2},
        "biases of the inner part": {**WIDE, "max_position_embeddings": 12, "pad_token_id": 1, "mlp_bias": True},
    },
    "xlm": {
        "plain": {**XLM, "n_langs": 3},
        "one language": {"vocab_size": 113, "emb_dim": 40, "n_layers": 5, "n_heads": 5, "max_position_embeddings": 17},
        "two languages, relu": {
            "vocab_size": 89,
            "emb_dim": 48,
            "n_layers": 2,
            "n_heads": 2,
            "n_langs": 2,
            "max_position_embeddings": 13,
            "gelu_activation": False,
            "layer_norm_eps": 1e-2,
            "pad_token_id": 7,
        },
        "untied": {**XLM, "n_langs": 15, "tie_word_embeddings": False, "pad_token_id": 5},
        "languages unread": {**XLM, "n_langs": 4, "use_lang_emb": False},
    },
    "bart": {
        "plain": {**PAIRED, "max_position_embeddings": 24},
        "another decoder": {
            **PAIRED,
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 52,
            "max_position_embeddings": 17,
            "activation_function": "relu",
            "pad_token_id": 7,
        },
        "scaled": {**PAIRED, "scale_embedding": True, "max_position_embeddings": 11, "activation_function": "gelu_new"},
    },
    "marian": {
        "plain": {**PAIRED, "max_position_embeddings": 24},
        "published": {
            **PAIRED,
            "max_position_embeddings": 19,
            "scale_embedding": True,
            "activation_function": "swish",
            "pad_token_id": 60,
        },
        "another decoder": {
            **PAIRED,
            "encoder_layers": 1,
            "decoder_attention_heads": 1,
            "decoder_ffn_dim": 20,
            "max_position_embeddings": 13,
            "activation_function": "relu",
        },
    },
    "t5": {
        "plain": {**BUCKETED, "d_kv": 8},
        "gated": {**BUCKETED, "d_kv": 8, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "wide heads": {
            **BUCKETED,
            "d_kv": 12,
            "num_decoder_layers": 3,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 11,
            "layer_norm_epsilon": 1e-3,
            "pad_token_id": 5,
        },
        "gated otherwise": {**BUCKETED, "d_kv": 5, "feed_forward_proj": "gated-silu"},
    },
    "xlnet": {
        "plain": {"vocab_size": 97, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48, "mem_len": None},
        "remembers": {"vocab_size": 61, "d_model": 12, "n_layer": 1, "n_head": 1, "d_inner": 50, "mem_len": 7},
        "clamped": {
            "vocab_size": 89,
            "d_model": 48,
            "n_layer": 2,
            "n_head": 2,
            "d_inner": 96,
            "clamp_len": 5,
            "mem_len": None,
            "reuse_len": 3,
            "ff_activation": "gelu_new",
        },
        "untied": {
            "vocab_size": 113,
            "d_model": 40,
            "n_layer": 5,
            "n_head": 5,
            "d_inner": 36,
            "mem_len": None,
            "ff_activation": "relu",
            "layer_norm_eps": 1e-2,
            "tie_word_embeddings": False,
            "pad_token_id": 7,
        },
    },
}
"""Arguments of transformers' configuration class, by ``model_type`` and a name for the test's id."""

APART = {"reformer"}
"""Families with tests of their own: layers over a pair of states, hashes, gradients in training mode alone."""

PADDED_LEFT = {"xlnet"}
"""Families whose classifiers read the last position of a row, padding or not, so that padding stands at the left."""
