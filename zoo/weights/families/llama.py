"""LLaMA's block: RMSNorm, gated feed-forward, rotary positions, no biases (specs: LLaMA block, section 6)."""

from zoo.weights.families.bert import ACTIVATIONS
from zoo.weights.families.gpt import SCORE_HEAD, causal_head
from zoo.weights.table import ConfigField, Family, WeightRow

_LAYER = "layers.{}."

FAMILY = Family(
    model_type="llama",
    title="LLaMA",
    prefix="model",
    attention="causal",
    fixed={
        "norm": "rms",
        "norm_position": "pre",
        "glu": True,
        "position_type": "rotary",
        "embedding_norm": False,
        "type_vocab_size": 0,
        "pooler": False,
        "hidden_dropout_prob": 0.0,
    },
    fields=(
        ConfigField("vocab_size", "vocab_size", 32000),
        ConfigField("hidden_size", "hidden_size", 4096),
        ConfigField("num_hidden_layers", "num_hidden_layers", 32),
        ConfigField("num_attention_heads", "num_attention_heads", 32),
        ConfigField("num_key_value_heads", "num_key_value_heads", None),
        ConfigField("intermediate_size", "intermediate_size", 11008),
        ConfigField("hidden_act", "hidden_act", "silu", ACTIVATIONS),
        ConfigField("max_position_embeddings", "max_position_embeddings", 2048),
        ConfigField("layer_norm_eps", "rms_norm_eps", 1e-6),
        ConfigField("attention_probs_dropout_prob", "attention_dropout", 0.0),
        ConfigField("initializer_range", "initializer_range", 0.02),
        ConfigField("attention_bias", "attention_bias", False),
        ConfigField("mlp_bias", "mlp_bias", False),
        ConfigField("rope_theta", "rope_parameters", 10000.0, "rope"),
        ConfigField("pad_token_id", "pad_token_id", None),
        ConfigField("tie_word_embeddings", "tie_word_embeddings", False),
    ),
    core=(
        WeightRow("embeddings.word_embeddings", "embed_tokens"),
        WeightRow("layers.{}.attention.query", _LAYER + "self_attn.q_proj"),
        WeightRow("layers.{}.attention.key", _LAYER + "self_attn.k_proj"),
        WeightRow("layers.{}.attention.value", _LAYER + "self_attn.v_proj"),
        WeightRow("layers.{}.attention.output", _LAYER + "self_attn.o_proj"),
        WeightRow("layers.{}.attention_norm", _LAYER + "input_layernorm"),
        WeightRow("layers.{}.gate", _LAYER + "mlp.gate_proj"),
        WeightRow("layers.{}.intermediate", _LAYER + "mlp.up_proj"),
        WeightRow("layers.{}.output", _LAYER + "mlp.down_proj"),
        WeightRow("layers.{}.output_norm", _LAYER + "post_attention_layernorm"),
        WeightRow("final_norm", "norm"),
    ),
    heads=(causal_head("model.embed_tokens"), SCORE_HEAD),
    architectures={
        "LlamaForCausalLM": ("causal_lm",),
        "LlamaForSequenceClassification": ("classifier",),
        "LlamaModel": (),
    },
    derived=(r"rotary_emb\.inv_freq", r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
    single="{bos} $A {eos}",
    pair="{bos} $A {eos} $B {eos}",
    specials={"bos": "<s>", "eos": "</s>"},
    pooling="last",
)
