"""GPT-2: GPT's rows with the norm before each part (specs: GPT, section 7)."""

from zoo.weights.families.gpt import DERIVED, FIXED, SCORE_HEAD, causal_head, layers, width_fields
from zoo.weights.table import ConfigField, Family, HeadTable, WeightRow

FAMILY = Family(
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
