"""``zoo list``: the chain of models, each with its edge, config, objective and size."""

from __future__ import annotations

import textwrap
from typing import Any

import torch

from pretraining.training.config import PretrainConfig
from pretraining.training.model import PretrainingModel
from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.settings.load import load_settings
from zoo.settings.yaml_files import read_yaml, shipped_configs
from zoo.vocabulary import Vocabulary

_UNTRAINED_VOCABULARY = 8192


def count_parameters(config: PretrainConfig) -> tuple[int, int]:
    """Parameters of the core, and of core and heads, counted on the meta device."""
    size = config.model.vocab_size or config.data.tokenizer.vocab_size or _UNTRAINED_VOCABULARY
    core_config: CoreConfig = config.model.replace(vocab_size=size)
    ids = Vocabulary(size, pad=0, unk=1, cls=2, sep=3, mask=4)
    with torch.device("meta"):
        core = make_core(core_config)
        for objective in config.objectives.values():
            objective.build(core_config, ids)
        model = PretrainingModel(core, config.objectives)
    return sum(p.numel() for p in core.parameters()), sum(p.numel() for p in model.parameters())


def describe_config(name: str) -> dict[str, Any]:
    """One row: name, chain edge, objectives, layers/width, parameters."""
    config = load_settings(PretrainConfig, ["--config", name], "zoo list", "pretrain").value
    core, whole = count_parameters(config)
    parts = []
    for key, objective in config.objectives.items():
        chooser = getattr(objective, "select", None)
        detail = f"({type(chooser).__name__})" if chooser is not None else ""
        parts.append(f"{key}: {type(objective).__name__}{detail}")
    layouts = [type(task.layout).__name__ for task in config.tasks.values()]
    return {
        "config": name,
        "edge": config.edge,
        "objectives": ", ".join(parts),
        "layouts": ", ".join(layouts),
        "stages": config.stage_lines(),
        "shape": f"{config.model.num_hidden_layers}/{config.model.hidden_size}",
        "core": core,
        "parameters": whole,
    }


def list_command(argv: list[str]) -> int:
    """Print every shipped pretraining config, grouped by its place in the chain."""
    if {"-h", "--help"} & set(argv):
        print("usage: zoo list [PART OF A NAME ...]\n\nShipped configs in the chain's order; with parts, those alone.")
        return 0
    names = sorted(p.stem for p in (shipped_configs() / "pretrain").glob("*.yaml"))
    chosen = [n for n in names if not argv or any(a in n for a in argv)]
    groups: dict[str, list[dict[str, Any]]] = {}
    for name in chosen:
        row = describe_config(name)
        groups.setdefault(row["edge"], []).append(row)
    for edge, rows in sorted(groups.items(), key=lambda item: _place(item[0])):
        print("\n" + textwrap.fill(edge or "(no edge named)", 110))
        for row in sorted(rows, key=lambda r: r["parameters"]):
            print(
                f"  {row['config']:<22} {row['shape']:>8}  {row['parameters']:>12,} parameters (core {row['core']:,})\n"
                f"  {'':<22} {row['objectives']} on {row['layouts']}"
            )
            for line in row["stages"]:
                print(f"  {'':<22} {line}")
    return 0


def _place(edge: str) -> tuple[int, str]:
    """Order of the chain: the shipped file ``configs/chain.yaml`` lists the edges' heads in order."""
    order = read_yaml(shipped_configs() / "chain.yaml", "pretrain")["order"]
    head = edge.split(":", 1)[0].rsplit("->", 1)[-1].strip()
    return (order.index(head) if head in order else len(order), edge)
