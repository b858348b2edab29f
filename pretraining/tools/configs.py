"""``zoo list tiny`` and ``zoo prepare --config bert-tiny``: the shipped configs, and the text of a run."""

from __future__ import annotations

import difflib
import hashlib
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.settings.yaml_files import parse_yaml, read_yaml, shipped_configs
from zoo.storage.files import write_atomic

if TYPE_CHECKING:
    from pretraining.store.token_store import Store
    from pretraining.training.config import PretrainConfig

_UNTRAINED_VOCABULARY = 8192
_DECIDING = ("edge", "model", "objectives", "tasks", "stages", "curriculum")  # what a row of the list is made from

_HEADING = "# Rows of `zoo list`, made by `zoo list --recount`; a test counts them anew.\n"

LIST_USAGE = """usage: zoo list [PART OF A NAME ...]

Shipped configs in the chain's order; with parts, those that have one of them in their name.

  --recount   count every config anew and keep the rows in configs/list.yaml (after a change of a shipped config)"""


def count_parameters(config: PretrainConfig) -> tuple[int, int]:
    """Parameters of the core, and of core and heads, counted on the meta device."""
    import torch

    from pretraining.training.model import PretrainingModel
    from zoo.core.build import make_core
    from zoo.vocabulary import Vocabulary

    size = config.model.vocab_size or config.data.tokenizer.vocab_size or _UNTRAINED_VOCABULARY
    core_config = config.model.replace(vocab_size=size)
    ids = Vocabulary(size, pad=0, unk=1, cls=2, sep=3, mask=4)
    with torch.device("meta"):
        core = make_core(core_config)
        for objective in config.objectives.values():
            objective.build(core_config, ids)
        model = PretrainingModel(core, config.objectives)
    return sum(p.numel() for p in core.parameters()), sum(p.numel() for p in model.parameters())


def describe_config(config: PretrainConfig) -> dict[str, Any]:
    """One row of the list: chain edge, objectives, layers/width, parameters."""
    core, whole = count_parameters(config)
    parts = []
    for key, objective in config.objectives.items():
        chooser = getattr(objective, "select", None)
        detail = f"({type(chooser).__name__})" if chooser is not None else ""
        parts.append(f"{key}: {type(objective).__name__}{detail}")
    layouts = [type(task.layout).__name__ for task in config.tasks.values()]
    return {
        "edge": config.edge,
        "objectives": ", ".join(parts),
        "layouts": ", ".join(layouts),
        "stages": config.stage_lines(),
        "shape": f"{config.model.num_hidden_layers}/{config.model.hidden_size}",
        "core": core,
        "parameters": whole,
    }


def listed_rows() -> Path:
    """The file that keeps the rows of the shipped configs, since building a model takes seconds."""
    return shipped_configs() / "list.yaml"


def digest_of(name: str) -> str:
    """8 hex digits of what decides a shipped config's row."""
    values = read_yaml(shipped_configs() / "pretrain" / f"{name}.yaml", "pretrain")
    decides = [values.get(key) for key in _DECIDING]
    decides.append((values.get("data") or {}).get("tokenizer"))
    if values.get("curriculum"):
        decides.append((values.get("train") or {}).get("steps"))
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:8]


def listed_configs() -> list[str]:
    """The shipped pretraining configs."""
    return sorted(path.stem for path in (shipped_configs() / "pretrain").glob("*.yaml"))


def counted_row(name: str) -> dict[str, Any]:
    """A config's row, its model built anew on the meta device."""
    from pretraining.training.load_config import load_pretrain_config

    return {"of": digest_of(name), **describe_config(load_pretrain_config(["--config", name]).value)}


def row_of(name: str, kept: dict[str, Any]) -> dict[str, Any]:
    """A config's row: the kept one, or, where the config is another since, a new one."""
    row = kept.get(name)
    return row if isinstance(row, dict) and row["of"] == digest_of(name) else counted_row(name)


def list_command(argv: list[str]) -> int:
    """Print every shipped pretraining config, grouped by its place in the chain.

    Raises:
        ZooError: no config has one of the words in its name.
    """
    if {"-h", "--help"} & set(argv):
        print(LIST_USAGE)
        return 0
    names = listed_configs()
    if argv == ["--recount"]:
        rows = [f"{json.dumps(name)}: {json.dumps(counted_row(name), ensure_ascii=False)}\n" for name in names]
        write_atomic(listed_rows(), _HEADING + "".join(rows))
        return 0
    for word in argv:
        if not any(word in name for name in names):
            parts = {part for name in names for part in [name, *name.split("-")]}
            near = difflib.get_close_matches(word.lower(), sorted(parts), n=5, cutoff=0.4)
            hint = f" Near: {', '.join(near)}." if near else f" Names are such as {', '.join(names[:5])}."
            raise ZooError(f"no shipped config has {word!r} in its name.{hint} `zoo list` lists all {len(names)}.")
    kept = parse_yaml(listed_rows().read_text(encoding="utf-8")) if listed_rows().exists() else {}
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name in names:
        if not argv or any(word in name for word in argv):
            row = row_of(name, kept)
            groups.setdefault(row["edge"], []).append((name, row))
    order = read_yaml(shipped_configs() / "chain.yaml", "pretrain")["order"]
    for edge, members in sorted(groups.items(), key=lambda item: _place(item[0], order)):
        print("\n" + textwrap.fill(edge or "(no edge named)", 110))
        for name, row in sorted(members, key=lambda item: item[1]["parameters"]):
            print(
                f"  {name:<22} {row['shape']:>8}  {row['parameters']:>12,} parameters (core {row['core']:,})\n"
                f"  {'':<22} {row['objectives']} on {row['layouts']}"
            )
            for line in row["stages"]:
                print(f"  {'':<22} {line}")
    return 0


def _place(edge: str, order: list[str]) -> tuple[int, str]:
    """Order of the chain: ``configs/chain.yaml`` lists the edges' heads."""
    head = edge.split(":", 1)[0].rsplit("->", 1)[-1].strip()
    return (order.index(head) if head in order else len(order), edge)


def prepare_command(argv: list[str]) -> int:
    """Build the token stores of a run's settings, or find them finished."""
    from pretraining.training.load_config import load_pretrain_config
    from pretraining.training.stores import run_stores

    stores = run_stores(load_pretrain_config(argv).value, True)
    _print(stores.main, "")
    for name, store in stores.by_task.items():
        _print(store, f"task {name}: ")
    return 0


def _print(store: Store, title: str) -> None:
    """Sizes of a store, and what its annotations came to."""
    from pretraining.annotations.to_tokens import describe

    print(
        f"{title}{store.path}: {store.num_documents:,} documents, {len(store.sentences) - 1:,} sentences, "
        f"{store.num_tokens:,} tokens, vocabulary {store.meta['vocab_size']:,}"
    )
    for name, entry in store.meta.get("annotations", {}).items():
        print(f"  {describe(name, entry)}")
