"""What passes between a checkpoint of theirs and a model of ours: both as values, the families, the matched tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.config import CoreConfig
from zoo.core import make_core
from zoo.errors import ZooError, nearest
from zoo.heads import build_head
from zoo.model_folder import ModelFacts
from zoo.weights.families import FAMILIES
from zoo.weights.table import Family, HeadTable, MatchedTensors, WeightRow, match


class Model(NamedTuple):
    """A model of ours before it is a module or a folder.

    Args:
        facts: everything but the weights.
        tensors: ``core.*`` and ``heads.NAME.*``, made when asked for.
        report: what was done to it, a line each.
    """

    facts: ModelFacts
    tensors: Mapping[str, Tensor]
    report: list[str]


class Checkpoint(NamedTuple):
    """A checkpoint of theirs before it is files.

    Args:
        config: the content of their ``config.json``.
        tensors: under their names, made when asked for.
        report: what was done to it, a line each.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    report: list[str]


@lru_cache(maxsize=1)
def all_families() -> dict[str, Family]:
    """Every family by its ``model_type``; an export tries the plainest, with the fewest facts, first."""
    return {family.model_type: family for family in sorted(FAMILIES, key=lambda f: (len(f.facts), f.model_type))}


def find_family(name: Any) -> Family:
    """The family of that ``model_type``.

    Raises:
        ZooError: there are no rows for it.
    """
    known = all_families()
    if name not in known:
        raise ZooError(
            f"no weight table is written for model_type {name!r}; there is one for {', '.join(known)}."
            f"{nearest(str(name), known)}"
        )
    return known[name]


def match_core(rows: tuple[WeightRow, ...], core: CoreConfig, prefix: str) -> list[MatchedTensors]:
    """Rows of the core applied to its tensors; their names with a prefix."""
    names = core_shapes(core)
    return [
        MatchedTensors(tuple(f"core.{n}" for n in p.ours), prefix + p.theirs, p.op) for p in match(rows, names, True)
    ]


def match_head(table: HeadTable, facts: Mapping[str, Any], core: CoreConfig, name: str) -> list[MatchedTensors]:
    """Rows of a head applied to its tensors."""
    names = head_shapes(core, facts)
    parts = match(table.rows, names, core.tie_word_embeddings)
    return [MatchedTensors(tuple(f"heads.{name}.{n}" for n in p.ours), p.theirs, p.op) for p in parts]


def core_shapes(core: CoreConfig) -> dict[str, torch.Size]:
    """Shapes of a core's tensors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in make_core(core).state_dict().items()}


def head_shapes(core: CoreConfig, facts: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Shapes of a head's tensors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_head(core, dict(facts)).state_dict().items()}
