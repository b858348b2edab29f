"""XLNet: relative scores with segments, a second stream, matrices stored by head (specs: XLNet, section 6)."""

from zoo.weights.families.bert import ACTIVATIONS
from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow

_LAYER = "layer.{}.rel_attn."
_TERMS = "layers.{}.attention.terms."

FAMILY = Family(
    model_type="xlnet",
    title="XLNet",
    prefix="transformer",
    attention="bidirectional",
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
    fields=(
        ConfigField("vocab_size", "vocab_size", 32000),
        ConfigField("hidden_size", "d_model", 1024),
        ConfigField("num_hidden_layers", "n_layer", 24),
        ConfigField("num_attention_heads", "n_head", 16),
        ConfigField("intermediate_size", "d_inner", 4096),
        ConfigField("hidden_act", "ff_activation", "gelu", ACTIVATIONS),
        ConfigField("clamp_len", "clamp_len", -1),
        ConfigField("mem_len", "mem_len", 512),
        ConfigField("reuse_len", "reuse_len", None),
        ConfigField("layer_norm_eps", "layer_norm_eps", 1e-12),
        ConfigField("attention_probs_dropout_prob", "dropout", 0.1),
        ConfigField("activation_dropout", "dropout", 0.1),
        ConfigField("final_dropout", "dropout", 0.1),
        ConfigField("hidden_dropout_prob", "dropout", 0.1),
        ConfigField("initializer_range", "initializer_range", 0.02),
        ConfigField("pad_token_id", "pad_token_id", 5),
        ConfigField("tie_word_embeddings", "tie_word_embeddings", True),
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
        WeightRow("embeddings.word_embeddings", "word_embedding"),
        WeightRow("relative.start", "mask_emb"),
        WeightRow("layers.{}.attention.query.weight", _LAYER + "q", "to heads", like=_TERMS + "content"),
        WeightRow("layers.{}.attention.key.weight", _LAYER + "k", "to heads", like=_TERMS + "content"),
        WeightRow("layers.{}.attention.value.weight", _LAYER + "v", "to heads", like=_TERMS + "content"),
        WeightRow("layers.{}.attention.position.weight", _LAYER + "r", "to heads", like=_TERMS + "content"),
        WeightRow("layers.{}.attention.output.weight", _LAYER + "o", "from heads", like=_TERMS + "content"),
        WeightRow(_TERMS + "content", _LAYER + "r_w_bias"),
        WeightRow(_TERMS + "position", _LAYER + "r_r_bias"),
        WeightRow(_TERMS + "segment", _LAYER + "r_s_bias"),
        WeightRow(_TERMS + "segments", _LAYER + "seg_embed"),
        WeightRow("layers.{}.attention_norm", _LAYER + "layer_norm"),
        WeightRow("layers.{}.intermediate", "layer.{}.ff.layer_1"),
        WeightRow("layers.{}.output", "layer.{}.ff.layer_2"),
        WeightRow("layers.{}.output_norm", "layer.{}.ff.layer_norm"),
    ),
    heads=(
        HeadTable(
            "permutation_lm",
            {"kind": "token", "transform": False, "bias": True},
            (WeightRow("bias", "lm_loss.bias"), WeightRow("decoder", "lm_loss", tied=False)),
            (Copy("lm_loss.weight", "transformer.word_embedding.weight"),),
        ),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "tanh", "bias": True},
            (WeightRow("dense", "sequence_summary.summary"), WeightRow("output", "logits_proj")),
            pooling="last",
        ),
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (WeightRow("output", "classifier"),)),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
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
