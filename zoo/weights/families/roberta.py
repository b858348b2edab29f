"""RoBERTa: BERT's layers, positions that start after the padding's row, its own heads (specs: RoBERTa, section 7)."""

from zoo.weights.families.bert import DERIVED, EMBEDDINGS, FIELDS, FIXED, LAYERS, POOLER, PRESUMED
from zoo.weights.table import ConfigField, Copy, Family, HeadTable, WeightRow

FAMILY = Family(
    model_type="roberta",
    title="RoBERTa",
    prefix="roberta",
    attention="bidirectional",
    fixed=FIXED,
    fields=(
        *(f._replace(default=50265) if f.ours == "vocab_size" else f for f in FIELDS if f.ours != "pad_token_id"),
        ConfigField("pad_token_id", "pad_token_id", 1),
        ConfigField("position_offset", "pad_token_id", 1, "after"),
    ),
    presumed=PRESUMED,
    core=EMBEDDINGS + LAYERS + POOLER,
    heads=(
        HeadTable(
            "masked_lm",
            {"kind": "token", "transform": True, "bias": True},
            (
                WeightRow("dense", "lm_head.dense"),
                WeightRow("norm", "lm_head.layer_norm"),
                WeightRow("bias", "lm_head.bias", tied=True),
                WeightRow("bias", "lm_head.decoder.bias", tied=False),
                WeightRow("decoder", "lm_head.decoder", tied=False),
            ),
            (
                Copy("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
                Copy("lm_head.decoder.bias", "lm_head.bias"),
                Copy("lm_head.bias", "lm_head.decoder.bias", written=True, tied=False),
            ),
            required_fields={"hidden_act": "gelu"},  # their head uses the erf form whatever the layers use
        ),
        HeadTable(
            "classifier",
            {"kind": "classification", "dense": "tanh", "bias": True},
            (WeightRow("dense", "classifier.dense"), WeightRow("output", "classifier.out_proj")),
            pooling="first",
        ),
        HeadTable("token_classifier", {"kind": "tagging", "dense": "none"}, (WeightRow("output", "classifier"),)),
        HeadTable(
            "qa_outputs", {"kind": "span", "num_labels": 2, "dense": "none"}, (WeightRow("output", "qa_outputs"),)
        ),
    ),
    architectures={
        "RobertaForMaskedLM": ("masked_lm",),
        "RobertaForSequenceClassification": ("classifier",),
        "RobertaForTokenClassification": ("token_classifier",),
        "RobertaForQuestionAnswering": ("qa_outputs",),
        "RobertaModel": (),
    },
    derived=DERIVED,
    pair="{cls} $A {sep} {sep} $B {sep}",
    specials={"cls": "<s>", "sep": "</s>"},
    at_least={"type_vocab_size": 1, "pad_token_id": 0},
)
