"""Stock transformers models with random weights beside the zoo's reading of them: what parity tests share."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import transformers
from families import GRID
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, PreTrainedModel

from zoo.config import CoreConfig
from zoo.core import Transformer
from zoo.folder import ModelFacts
from zoo.heads import SequenceHead, build_head
from zoo.inputs import CoreInputs, CoreOutput, Visibility
from zoo.loss import linear_cross_entropy
from zoo.weights.convert import all_families, read_checkpoint, write_checkpoint
from zoo.weights.facts import read_config
from zoo.weights.table import Family

STD = 0.3  # of every random weight: large enough for every mistake to show
LABELS = 3  # classes of a classifier or tagger


class Case(NamedTuple):
    """A point of the grid under one of the family's classes.

    Args:
        model_type: the family.
        point: name of the configuration.
        architecture: name of the class.
    """

    model_type: str
    point: str
    architecture: str

    @property
    def id(self) -> str:
        """Name of the test."""
        return f"{self.architecture}-{self.point.replace(' ', '_').replace(',', '')}"

    @property
    def seed(self) -> int:
        """Of weights and inputs."""
        return zlib.crc32(self.id.encode())

    @property
    def family(self) -> Family:
        """Its tables."""
        return all_families()[self.model_type]


@lru_cache(maxsize=1)
def split_cases() -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Every case, and apart from them those where all heads of the class presume facts that the point has not."""
    found: tuple[list[Case], list[Case]] = ([], [])
    for model_type, points in GRID.items():
        family = all_families()[model_type]
        for point in points:
            for architecture, heads in family.architectures.items():
                case = Case(model_type, point, architecture)
                facts = read_config(family, stock_config(case).to_dict()).to_dict()
                needs = [family.head(head).needs for head in heads]
                fits = not needs or any(all(facts[k] == v for k, v in need.items()) for need in needs)
                found[0 if fits else 1].append(case)
    return tuple(found[0]), tuple(found[1])


def cases(causal: bool | None = None) -> tuple[Case, ...]:
    """The grid, or its causal or its other half."""
    return tuple(c for c in split_cases()[0] if causal in (None, c.family.visibility == "causal"))


def bare_cases(causal: bool | None = None) -> tuple[Case, ...]:
    """The grid with the class without a head."""
    return tuple(case for case in cases(causal) if not case.family.architectures[case.architecture])


# ---- theirs ---------------------------------------------------------------------------------------------------------


def stock_config(case: Case, **changes: Any) -> Any:
    """Their configuration object; classifiers and taggers get three classes."""
    heads = case.family.architectures[case.architecture]
    kinds = {case.family.head(head).facts["kind"] for head in heads}
    labels = {"num_labels": LABELS} if kinds & {"classification", "tagging"} else {}
    facts = {**GRID[case.model_type][case.point], **labels, **changes}
    inside = {"bos_token_id": 0, "eos_token_id": 0}  # their defaults lie outside these small vocabularies
    return AutoConfig.for_model(case.model_type, **{**inside, **facts})


def randomise(module: nn.Module, seed: int) -> None:
    """Normal weights and biases; gains of norms around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(0.0, STD, generator=generator)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.add_(1.0)


def make_stock(case: Case, dtype: torch.dtype = torch.float32, attention: str | None = "eager") -> PreTrainedModel:
    """A model of theirs with random weights."""
    chosen = {"attn_implementation": attention} if attention else {}
    architecture = getattr(transformers, case.architecture)
    model: PreTrainedModel = architecture._from_config(stock_config(case), dtype=dtype, **chosen)
    randomise(model, case.seed)
    return model.eval()


def stored(model: PreTrainedModel) -> dict[str, Tensor]:
    """What their ``save_pretrained`` writes: the state dict without tied tensors."""
    return {name: value for name, value in model.state_dict().items() if name not in tied_names(model)}


def tied_names(model: PreTrainedModel) -> set[str]:
    """Tensors that are another one under a second name."""
    return set(model.all_tied_weights_keys)


# ---- ours -----------------------------------------------------------------------------------------------------------


@dataclass
class Ours(nn.Module):
    """A core and its heads.

    Args:
        facts: what they were built from.
        report: what reading said.
    """

    facts: ModelFacts
    report: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.core = Transformer(self.facts.config)
        self.heads = nn.ModuleDict({name: build_head(self.facts.config, f) for name, f in self.facts.heads.items()})

    __hash__ = nn.Module.__hash__
