"""Baidu's ERNIE 1.0 to 3.0: BERT's rows, with or without a table of task types (specs: ERNIE 2.0, section 7)."""

from zoo.weights.families.bert import (
    DERIVED,
    EMBEDDINGS,
    FIELDS,
    FIXED,
    LAYERS,
    POOLER,
    PRESUMED,
    architectures,
    heads,
)
from zoo.weights.table import ConfigField, Family, WeightRow

FAMILY = Family(
    model_type="ernie",
    title="ERNIE",
    prefix="ernie",
    attention="bidirectional",
    fixed=FIXED,
    fields=(*FIELDS, ConfigField("task_type_vocab_size", "task_type_vocab_size", 3, "optional")),
    presumed=PRESUMED,
    core=(
        *EMBEDDINGS,
        WeightRow("embeddings.task_type_embeddings", "embeddings.task_type_embeddings"),
        *LAYERS,
        *POOLER,
    ),
    heads=heads("ernie"),
    architectures=architectures("Ernie"),
    derived=DERIVED,
    at_least={"type_vocab_size": 1},
)
