"""T5: pre-norm with RMSNorm, ranges of distances, no biases, scores that are not scaled (Raffel et al. 2020).

Version 1.0 has ReLU, and one table whose states are divided by sqrt(d) before they meet it. Version 1.1 has a gated
GELU and an output matrix of its own (google-research/text-to-text-transfer-transformer). Both are
``model_type: t5``. The first layer's table of distances serves all layers of a stack. Transformers 5 takes the output
matrix of a checkpoint that has one, and writes ``scale_decoder_outputs`` beside ``tie_word_embeddings``.
"""

from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow


def _attention(ours: str, theirs: str, norm: str) -> tuple[WeightRow, ...]:
    """Rows of one attention, which stands between its norm and its output in theirs."""
    base, kind = theirs.rsplit(".", 1)
    parts = (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o"))
    rows = [WeightRow(f"{ours}.{part}", f"{base}.{kind}.{other}") for part, other in parts]
    return (*rows, WeightRow(norm, f"{base}.layer_norm"))


def _feed_forward(ours: str, theirs: str) -> tuple[WeightRow, ...]:
    """Rows of the feed-forward part; gated, its first matrix has two names there."""
    return (
        WeightRow(f"{ours}gate", f"{theirs}.DenseReluDense.wi_0"),
        WeightRow(f"{ours}intermediate", f"{theirs}.DenseReluDense.wi_1", given=f"{ours}gate.weight"),
        WeightRow(f"{ours}intermediate", f"{theirs}.DenseReluDense.wi", given=f"!{ours}gate.weight"),
        WeightRow(f"{ours}output", f"{theirs}.DenseReluDense.wo"),
        WeightRow(f"{ours}output_norm", f"{theirs}.layer_norm"),
    )


_ENCODER, _DECODER = "encoder.block.{}.layer.", "decoder.block.{}.layer."
_FIRST = "block.0.layer.0.SelfAttention.relative_attention_bias"

FAMILY = Family(
    model_type="t5",
    title="T5",
    prefix="",
    attention="bidirectional",
    fixed={
        "norm": "rms",
        "norm_position": "pre",
        "position_type": "relative_buckets",
        "scale_attention": False,
        "attention_bias": False,
        "mlp_bias": False,
        "embedding_norm": False,
        "type_vocab_size": 0,
        "pooler": False,
    },
    fields=(
        ConfigField("vocab_size", "vocab_size", 32128),
        ConfigField("hidden_size", "d_model", 512),
        ConfigField("head_dim", "d_kv", 64),
        ConfigField("intermediate_size", "d_ff", 2048),
        ConfigField("num_hidden_layers", "num_layers", 6),
        ConfigField("decoder", "num_decoder_layers", None, "decoder layers"),
        ConfigField("num_attention_heads", "num_heads", 8),
        ConfigField("relative_attention_num_buckets", "relative_attention_num_buckets", 32),
        ConfigField("relative_attention_max_distance", "relative_attention_max_distance", 128),
        ConfigField("hidden_dropout_prob", "dropout_rate", 0.1),
        ConfigField("attention_probs_dropout_prob", "dropout_rate", 0.1),
        ConfigField("activation_dropout", "dropout_rate", 0.1),
        ConfigField("final_dropout", "dropout_rate", 0.1),
        ConfigField("layer_norm_eps", "layer_norm_epsilon", 1e-6),
        ConfigField("glu", "feed_forward_proj", "relu", "gated"),
        ConfigField("hidden_act", "feed_forward_proj", "relu", "gated activation"),
        ConfigField("pad_token_id", "pad_token_id", 0),
        ConfigField("tie_word_embeddings", "tie_word_embeddings", True),
        ConfigField("scale_logits", "scale_decoder_outputs", None, "as tied unless said"),
    ),
    presumed={"is_encoder_decoder": True},
    core=(
        WeightRow("embeddings.word_embeddings", "shared"),
        WeightRow("buckets.values", f"encoder.{_FIRST}"),
        *_attention("layers.{}.attention", _ENCODER + "0.SelfAttention", "layers.{}.attention_norm"),
        *_feed_forward("layers.{}.", _ENCODER + "1"),
        WeightRow("final_norm", "encoder.final_layer_norm"),
        WeightRow("decoder.buckets.values", f"decoder.{_FIRST}"),
        *_attention("decoder.layers.{}.attention", _DECODER + "0.SelfAttention", "decoder.layers.{}.attention_norm"),
        *_attention(
            "decoder.layers.{}.cross_attention", _DECODER + "1.EncDecAttention", "decoder.layers.{}.cross_norm"
        ),
        *_feed_forward("decoder.layers.{}.", _DECODER + "2"),
        WeightRow("decoder.final_norm", "decoder.final_layer_norm"),
    ),
    copies=(
        Copy("encoder.embed_tokens.weight", "shared.weight", tied=None),
        Copy("decoder.embed_tokens.weight", "shared.weight", tied=None),
    ),
    heads=(
        HeadTable(
            "seq2seq_lm",
            {"kind": "token", "transform": False, "bias": False},
            (WeightRow("decoder", "lm_head", tied=False),),
            (Copy("lm_head.weight", "shared.weight"),),
        ),
    ),
    architectures={"T5ForConditionalGeneration": ("seq2seq_lm",), "T5Model": ()},
    # Mesh TensorFlow's conversion left a table that no layer reads.
    derived=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    single="$A {eos}",
    pair="$A {eos} $B {eos}",
    specials={"eos": "</s>"},
    pooling="last",
    decoder_start_token_id=0,
)
