"""A model of ours as a checkpoint of theirs: config and tensors, no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.model_folder import ModelMetadata
from zoo.weights.config_fields import inexpressible, matching_heads, write_config
from zoo.weights.read import Checkpoint, all_families, find_family, match_core, match_head
from zoo.weights.table import Family, HeadTable, to_theirs


def write_checkpoint(metadata: ModelMetadata, tensors: Mapping[str, Tensor], family: str | None = None) -> Checkpoint:
    """A model of ours as a checkpoint of theirs.

    Args:
        metadata: everything but the weights.
        tensors: ``core.*`` and ``heads.NAME.*``.
        family: ``model_type`` to write; ``None`` = the one that the weights came from, or the first that can say it.

    Raises:
        ZooError: the family, or every family, lacks a word for some field; names the fields.
    """
    table = _choose_family(metadata, family)
    heads = matching_heads(table, metadata)
    architecture, names = _architecture(table, {head.name for head in heads.values()})
    heads = {name: head for name, head in heads.items() if head.name in names}
    prefix = f"{table.prefix}." if names and table.prefix else ""
    parts = match_core(table.core, metadata.config, prefix)
    copies: dict[str, str] = {}
    for name, head in heads.items():
        parts += match_head(head, metadata.heads[name], metadata.config, name)
        wanted = [c for c in head.copies if c.written and c.tied in (None, metadata.config.tie_word_embeddings)]
        copies |= {copy.theirs: copy.of for copy in wanted}
    made = to_theirs(tensors, parts)
    for name, original in copies.items():
        made.recipes[name] = made.recipes[original]
    config = {**write_config(table, metadata.config), "architectures": [architecture], **_labels(metadata, heads)}
    if table.causal_key:
        config[table.causal_key] = metadata.attention == "causal"
    if metadata.decoder_start_token_id is not None:
        config["decoder_start_token_id"] = metadata.decoder_start_token_id
    caveats = [f"{architecture}: {head.caveat}" for head in heads.values() if head.caveat]
    left = [name for name in metadata.heads if name not in heads]
    report = [f"left out, {architecture} has no place for it: head {name}" for name in left]
    report += caveats + _gaps(table, architecture, metadata.config, set(made))
    return Checkpoint(config, made, report)


def _gaps(family: Family, architecture: str, core: CoreConfig, written: set[str]) -> list[str]:
    """What the class has and the file has not, or the other way round: it opens all the same, with a warning."""

    def present(name: str) -> bool:
        return bool({name, f"{name}.weight", f"{name}.bias"} & written)

    report = []
    heads = [family.head(name) for name in family.architectures[architecture]]
    for head in heads:
        if not all(present(row.theirs) for row in head.needed_rows(core.tie_word_embeddings)):
            report.append(f"{architecture} has a head that this model lacks, filled at random there: {head.name}")
    pooler = next((row.theirs for row in family.core if row.ours == "pooler"), None)
    if pooler is not None:
        wanted = not heads or any(head.config.get("dense") == "pooler" for head in heads)
        found = present(pooler) or present(f"{family.prefix}.{pooler}")
        if wanted and not found:
            report.append(f"{architecture} has a pooler, which this model lacks: filled at random there")
        if found and not wanted:
            report.append(
                f"{architecture} has no pooler; this model's is in the file, for {[*family.architectures][-1]}"
            )
    return report


def _choose_family(metadata: ModelMetadata, name: str | None) -> Family:
    known = all_families()
    first = [find_family(name)] if name else [known[metadata.origin]] if metadata.origin in known else []
    candidates = first if name else [*first, *(f for f in known.values() if f not in first)]
    reasons: dict[str, list[str]] = {}
    for family in candidates:
        reasons[family.title] = inexpressible(family, metadata)
        if not reasons[family.title]:
            return family
    stock = [f.title for f in candidates if name or f.config_file == "config.json"]
    title = min(stock, key=lambda key: len(reasons[key]))
    listing = "\n  ".join(reasons[title])
    which = f"As {title} this model cannot be expressed; in the way:"
    if not name:
        which = f"no stock transformers class can express this model. Nearest is {title}; in the way:"
    raise ZooError(
        f"{which}\n  {listing}\nThe folder itself opens with transformers' Auto classes after `import zoo.hf`."
    )


def _architecture(family: Family, heads: set[str]) -> tuple[str, set[str]]:
    """The class that keeps most of the heads, the first of equals."""
    ranked = sorted(family.architectures.items(), key=lambda item: (-len(heads & set(item[1])), len(item[1])))
    name, own = ranked[0]
    return name, heads & set(own)


def _labels(metadata: ModelMetadata, heads: Mapping[str, HeadTable]) -> dict[str, Any]:
    """Names of the classes, as their config keeps them."""
    for name, table in heads.items():
        if table.config["kind"] in ("classification", "tagging"):
            head = metadata.heads[name]
            labels = head.get("labels") or [f"LABEL_{i}" for i in range(head["num_labels"])]
            return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return {}
