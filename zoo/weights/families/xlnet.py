"""XLNet: relative scores with segments, a second stream, matrices stored by head (specs: XLNet, section 6)."""

from zoo.weights.families.bert import ACTIVATIONS
from zoo.weights.table import Copy, Fact, Family, HeadTable, Row

_LAYER = "layer.{}.rel_attn."
_TERMS = "layers.{}.attention.terms."

FAMILY = Family(
    model_type="xlnet",
    title="XLNet",
    prefix="transformer",
    visibility="all",
    fixed={
        "position_type": "relative",
        "untie_r": True,
        "relative_segments": True,
        "query_stream": True,
        "norm_position": "post",
        "embedding_norm": False,
        "type_vocab_size": 0,
        "attention_bias": False,
        "pooler": False,
    },
    facts=(
        Fact("vocab_size", "vocab_size", 32000),
        Fact("hidden_size", "d_model", 1024),
        Fact("num_hidden_layers", "n_layer", 24),
        Fact("num_attention_heads", "n_head", 16),
        Fact("intermediate_size", "d_inner", 4096),
        Fact("hidden_act", "ff_activation", "gelu", ACTIVATIONS),
        Fact("clamp_len", "clamp_len", -1),
        Fact("mem_len", "mem_len", 512),
        Fact("reuse_len", "reuse_len", None),
        Fact("layer_norm_eps", "layer_norm_eps", 1e-12),
        Fact("attention_probs_dropout_prob", "dropout", 0.1),
        Fact("activation_dropout", "dropout", 0.1),
        Fact("final_dropout", "dropout", 0.1),
        Fact("hidden_dropout_prob", "dropout", 0.1),
        Fact("initializer_range", "initializer_range", 0.02),
        Fact("pad_token_id", "pad_token_id", 5),
        Fact("tie_word_embeddings", "tie_word_embeddings", True),
    ),
    presumed={
        "attn_type": "bi",
        "bi_data": False,  # their rows of a batch would differ in direction; ours say it themselves
        "same_length": False,
        "summary_type": "last",
        "summary_use_proj": True,
        "summary_activation": "tanh",
    },
    core=(
        Row("embeddings.word_embeddings", "word_embedding"),
        Row("relative.start", "mask_emb"),
        Row("layers.{}.attention.query.weight", _LAYER + "q", "to heads", like=_TERMS + "content"),
        Row("layers.{}.attention.key.weight", _LAYER + "k", "to heads", like=_TERMS + "content"),
        Row("layers.{}.attention.value.weight", _LAYER + "v", "to heads", like=_TERMS + "content"),
        Row("layers.{}.attention.position.weight", _LAYER + "r", "to heads", like=_TERMS + "content"),
        Row("layers.{}.attention.output.weight", _LAYER + "o", "from heads", like=_TERMS + "content"),
        Row(_TERMS + "content", _LAYER + "r_w_bias"),
        Row(_TERMS + "position", _LAYER + "r_r_bias"),
        Row(_TERMS + "segment", _LAYER + "r_s_bias"),
        Row(_TERMS + "segments", _LAYER + "seg_embed"),
        Row("layers.{}.attention_norm", _LAYER + "layer_norm"),
        Row("layers.{}.intermediate", "layer.{}.ff.layer_1"),
        Row("layers.{}.output", "layer.{}.ff.layer_2"),
        Row("layers.{}.output_norm", "layer.{}.ff.layer_norm"),
    ),
    heads=(
        HeadTable(
            "permutation_lm",
            {"kind": "token", "transform": False, "bias": True},
            (Row("bias", "lm_loss.bias"), Row("decoder", "lm_loss", tied=False)),
            (Copy("lm_loss.weight", "transformer.word_embedding.weight"),),
        ),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "tanh", "bias": True},
            (Row("dense", "sequence_summary.summary"), Row("output", "logits_proj")),
            pooling="last",
        ),
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (Row("output", "classifier"),)),
        HeadTable("qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (Row("output", "qa_outputs"),)),
    ),
    architectures={
        "XLNetLMHeadModel": ("permutation_lm",),
        "XLNetForSequenceClassification": ("classifier",),
        "XLNetForTokenClassification": ("token_classifier",),
        "XLNetForQuestionAnsweringSimple": ("qa_outputs",),
        "XLNetModel": (),
    },
    single="$A {sep} {cls}:2",
    pair="$A {sep} $B {sep} {cls}:2",
    specials={"cls": "<cls>", "sep": "<sep>"},
    pooling="last",
    padding_side="left",
)
