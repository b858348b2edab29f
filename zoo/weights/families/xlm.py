"""XLM: BERT's layers over embeddings of languages in the place of segments (Lample & Conneau 2019, arXiv 1901.07291).

Facts, from facebookresearch/XLM (``xlm/model/transformer.py``) and transformers' ``models/xlm``: token, position and
language embeddings are added, then normalised; post-norm layers, four times as wide inside; biases everywhere; the
output matrix is the token embedding, with a bias and nothing before it. A model of one language has no table of
languages. The same class attends backwards alone where its config says ``causal``.
"""

from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow

FAMILY = Family(
    model_type="xlm",
    title="XLM",
    prefix="transformer",
    attention="bidirectional",
    causal_key="causal",
    fixed={"norm_position": "post", "embedding_norm": True, "position_type": "learned", "pooler": False},
    fields=(
        ConfigField("vocab_size", "vocab_size", 30145, "or n_words"),
        ConfigField("hidden_size", "emb_dim", 2048),
        ConfigField("num_hidden_layers", "n_layers", 12),
        ConfigField("num_attention_heads", "n_heads", 16),
        ConfigField("intermediate_size", "emb_dim", 2048, "four times"),
        ConfigField("hidden_act", "gelu_activation", True, (("gelu", True), ("relu", False))),
        ConfigField("max_position_embeddings", "max_position_embeddings", 512),
        ConfigField("type_vocab_size", "n_langs", 1, "languages"),
        ConfigField("layer_norm_eps", "layer_norm_eps", 1e-12),
        ConfigField("hidden_dropout_prob", "dropout", 0.1),
        ConfigField("attention_probs_dropout_prob", "attention_dropout", 0.1),
        ConfigField("initializer_range", "init_std", 0.02),
        ConfigField("pad_token_id", "pad_token_id", 2, "or pad_index"),
        ConfigField("tie_word_embeddings", "tie_word_embeddings", True),
    ),
    presumed={
        "asm": False,
        "is_encoder": True,
        "sinusoidal_embeddings": False,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": None,
        "summary_proj_to_labels": True,
    },
    core=(
        WeightRow("embeddings.word_embeddings", "embeddings"),
        WeightRow("embeddings.position_embeddings", "position_embeddings"),
        WeightRow("embeddings.token_type_embeddings", "lang_embeddings"),
        WeightRow("embeddings.norm", "layer_norm_emb"),
        WeightRow("layers.{}.attention.query", "attentions.{}.q_lin"),
        WeightRow("layers.{}.attention.key", "attentions.{}.k_lin"),
        WeightRow("layers.{}.attention.value", "attentions.{}.v_lin"),
        WeightRow("layers.{}.attention.output", "attentions.{}.out_lin"),
        WeightRow("layers.{}.attention_norm", "layer_norm1.{}"),
        WeightRow("layers.{}.intermediate", "ffns.{}.lin1"),
        WeightRow("layers.{}.output", "ffns.{}.lin2"),
        WeightRow("layers.{}.output_norm", "layer_norm2.{}"),
    ),
    heads=(
        HeadTable(
            "masked_lm",
            {"kind": "token", "transform": False, "bias": True},
            (
                WeightRow("bias", "pred_layer.proj.bias"),
                WeightRow("decoder", "pred_layer.proj", tied=False),
            ),
            (Copy("pred_layer.proj.weight", "transformer.embeddings.weight"),),
        ),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "none", "bias": True},
            (WeightRow("output", "sequence_summary.summary"),),
            pooling="first",
        ),
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (WeightRow("output", "classifier"),)),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
    ),
    architectures={
        "XLMWithLMHeadModel": ("masked_lm",),
        "XLMForSequenceClassification": ("classifier",),
        "XLMForTokenClassification": ("token_classifier",),
        "XLMForQuestionAnsweringSimple": ("qa_outputs",),
        "XLMModel": (),
    },
    derived=(r"position_ids",),
    specials={"cls": "</s>", "sep": "</s>"},
    at_least={"pad_token_id": 0},
)
