"""A model folder: ``config.json``, ``model.safetensors`` and the tokenizer's files. No class is executed to load it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo import __version__
from zoo.config import CoreConfig, read_json
from zoo.core import Transformer
from zoo.errors import ZooError, nearest
from zoo.vocabulary import Template

MODEL_TYPE = "sesame-zoo"
_OWN_KEYS = ("model_type", "zoo_version", "template", "visibility")


class ModelFacts(NamedTuple):
    """What a model folder says about itself beside its weights.

    Args:
        config: the core's facts.
        template: layout of single texts and pairs, and pooling.
        visibility: how tokens see each other: ``all`` or ``causal``.
        path: the folder.
    """

    config: CoreConfig
    template: Template
    visibility: Literal["all", "causal"]
    path: Path


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that readers see the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically. Shared storage must have been dropped before (tied weights)."""
    temporary = path.with_name(f".{path.name}.tmp")
    content = {k: v.detach().contiguous() for k, v in tensors.items()}
    try:
        save_file(content, temporary, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        if f"os error {errno.ENOSPC}" in str(error):  # the library hides the kernel's error number in a text
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; a damaged or missing one is named."""
    if not path.exists():
        raise ZooError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ZooError(f"{path} is not a readable safetensors file ({error}); is the copy complete?") from error


def save_model_folder(
    folder: Path,
    core: nn.Module,
    heads: dict[str, nn.Module],
    config: CoreConfig,
    template: Template,
    visibility: Literal["all", "causal"],
) -> None:
    """Write ``config.json`` and ``model.safetensors`` (``core.*``, ``heads.NAME.*``) atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"core.{name}": value for name, value in core.state_dict().items()}
    for head, module in heads.items():
        tensors.update({f"heads.{head}.{name}": value for name, value in module.state_dict().items()})
    save_tensors(folder / "model.safetensors", tensors)
    facts = {
        "model_type": MODEL_TYPE,
        "zoo_version": __version__,
        **config.to_dict(),
        "visibility": visibility,
        "template": template.to_dict(),
    }
    write_json(folder / "config.json", facts)


def read_facts(folder: str | Path) -> ModelFacts:
    """Read a model folder's ``config.json``.

    Raises:
        ZooError: not a model folder, or written by something else.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ZooError(f"{path} is not a folder; a run folder with config.json and model.safetensors is needed.")
    facts = read_json(path / "config.json")
    if facts.get("model_type") != MODEL_TYPE:
        raise ZooError(
            f"{path / 'config.json'} describes a model of type {facts.get('model_type')!r}, not one of the zoo's "
            f"({MODEL_TYPE!r}); give a run folder of `python -m pretraining`."
        )
    core = {key: value for key, value in facts.items() if key not in _OWN_KEYS}
    template = Template(**facts.get("template", {}))
    return ModelFacts(CoreConfig.from_dict(core), template, facts.get("visibility", "all"), path)


def load_state(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fill ``module`` from ``tensors`` exactly: missing, unknown and misshapen tensors are errors by name."""
    expected = module.state_dict()
    problems = []
    for name in expected.keys() - tensors.keys():
        problems.append(f"missing {name}.{nearest(name, tensors.keys() - expected.keys())}")
    for name in tensors.keys() - expected.keys():
        problems.append(f"unknown {name}.{nearest(name, expected.keys() - tensors.keys())}")
    for name in expected.keys() & tensors.keys():
        if expected[name].shape != tensors[name].shape:
            problems.append(f"{name} has shape {tuple(tensors[name].shape)}, {tuple(expected[name].shape)} is needed")
    if problems:
        listing = "\n  ".join(sorted(problems)[:12]) + ("\n  ..." if len(problems) > 12 else "")
        raise ZooError(f"{source} does not fit this model ({len(problems)} differences):\n  {listing}")
    module.load_state_dict(tensors)


def load_core(folder: str | Path) -> tuple[Transformer, ModelFacts]:
    """The core of a model folder with its weights, and the folder's facts; heads are left out."""
    facts = read_facts(folder)
    core = Transformer(facts.config)
    path = facts.path / "model.safetensors"
    tensors = {k.removeprefix("core."): v for k, v in load_tensors(path).items() if k.startswith("core.")}
    load_state(core, tensors, str(path))
    return core.to(torch.float32), facts


def load_head(folder: str | Path, name: str, module: nn.Module) -> None:
    """Fill a head module from ``heads.NAME.*`` of a model folder."""
    path = Path(folder) / "model.safetensors"
    prefix = f"heads.{name}."
    tensors = {k.removeprefix(prefix): v for k, v in load_tensors(path).items() if k.startswith(prefix)}
    load_state(module, tensors, str(path))
