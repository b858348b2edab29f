"""A model folder: ``config.json``, ``model.safetensors`` and the tokenizer's files. No foreign code runs to load it.

Tensors are named ``core.*``, ``heads.NAME.*`` (heads that ``config.json`` describes) and ``objectives.NAME.*`` (what
else an objective owns; a second core is at ``objectives.NAME.companion.*``, and ``config.json`` describes it). The
weights may be one file or shards with an index, as transformers writes them.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.core.build import make_core
from zoo.core.companion import Companion
from zoo.errors import ZooError
from zoo.settings.checks import import_class
from zoo.storage.files import file_digest, read_json, write_json
from zoo.storage.tensors import LazyTensors, load_state, open_tensors, save_tensors
from zoo.version import __version__
from zoo.vocabulary import Template

MODEL_TYPE = "sesame-zoo"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TRUST = "ZOO_TRUST_CODE"
"""Environment variable: 1 = classes from outside the package, which a folder's config names, may be imported."""
_RENAMED = {"visibility": ("attention", {"all": "bidirectional"})}  # old key of config.json -> new key, new values


@dataclass(frozen=True)
class ModelMetadata:
    """What a model folder says about itself beside its weights.

    Args:
        config: the core's config.
        template: layout of single texts and pairs, and pooling.
        attention: ``bidirectional``: every token attends to all of its row; ``causal``: to the past only.
        heads: config of each head by name (:func:`zoo.heads.build.build_head`).
        origin: transformers' ``model_type`` of the checkpoint that the weights came from.
        path: the folder.
        decoder_start_token_id: what a decoder reads first; ``None`` = there is none, or it is not known.
        companions: configs ``core`` and ``head`` of second cores, by the objective that trained them.
    """

    config: CoreConfig
    template: Template = field(default_factory=Template)
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    origin: str | None = None
    path: Path = field(default_factory=Path)
    decoder_start_token_id: int | None = None
    companions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "model_type": MODEL_TYPE,
            "zoo_version": __version__,
            "core": self.config.to_dict(),
            "attention": self.attention,
            "template": self.template.to_dict(),
            "heads": self.heads,
            "origin": self.origin,
            **({"companions": self.companions} if self.companions else {}),
            **({} if self.config.decoder is None else {"decoder_start_token_id": self.decoder_start_token_id}),
        }


def open_weights(folder: Path) -> LazyTensors:
    """The tensors of a model folder: ``model.safetensors``, or the shards that its index names."""
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return open_tensors(folder / WEIGHTS)
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict):
        raise ZooError(f"{index} has no weight_map, which says in which file each tensor lies.")
    found: dict[str, Path] = {}
    for file in sorted(set(named.values())):
        path = folder / Path(file).name
        found.update(dict.fromkeys(open_tensors(path), path))
    missing = sorted(set(named) - set(found))
    if missing:
        raise ZooError(f"{index} names {missing[0]!r}, which {named[missing[0]]} does not hold; is the copy complete?")
    return LazyTensors(found)


def pack_model(core: nn.Module, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Tensors of a model under a folder's names; ``heads`` are head modules or the objectives that own them."""
    tensors = {f"core.{name}": value for name, value in core.state_dict().items()}
    for name, module in heads.items():
        described = _head_of(module)
        if described is not None:
            tensors |= {f"heads.{name}.{key}": value for key, value in described.state_dict().items()}
        if described is not module:
            own = {k: v for k, v in module.state_dict().items() if described is None or not k.startswith("head.")}
            tensors |= {f"objectives.{name}.{key}": value for key, value in own.items()}
    return tensors


def head_configs(heads: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """Configs of the heads that can describe themselves; a user's own head module need not."""
    found = {name: _head_of(module) for name, module in heads.items()}
    return {name: dict(head.head_config) for name, head in found.items() if head is not None}  # type: ignore[arg-type]


def companion_configs(heads: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """Configs of the second cores that objectives train."""
    found = {name: getattr(module, "companion", None) for name, module in heads.items()}
    return {name: part.describe() for name, part in found.items() if isinstance(part, Companion)}


def companion_model(
    metadata: ModelMetadata, tensors: Mapping[str, Tensor], name: str
) -> tuple[ModelMetadata, dict[str, Tensor]]:
    """A second core as a model by itself: the tables that it shares, its own layers, its head under ``name``.

    Args:
        metadata: of the folder.
        tensors: its tensors.
        name: the objective that trained it.

    Raises:
        ZooError: no such one is there.
    """
    if name not in metadata.companions:
        have = ", ".join(metadata.companions) or "none, as the model is one core"
        raise ZooError(f"{metadata.path} has no part {name!r}; its parts beside the core: {have}.")
    described, own = metadata.companions[name], f"objectives.{name}.companion."
    shared = {f"core.embeddings.{key}": value for key, value in _below(tensors, "core.embeddings.").items()}
    found = {key: value for key, value in shared.items() if not key.startswith("core.embeddings.projection.")}
    found |= {f"core.{key}": value for key, value in _below(tensors, f"{own}core.").items()}
    found |= {f"heads.{name}.{key}": value for key, value in _below(tensors, f"{own}head.").items()}
    core, heads = CoreConfig.from_dict(described["core"]), {name: described["head"]}
    return replace(metadata, config=core, heads=heads, companions={}), found


def _head_of(module: nn.Module) -> nn.Module | None:
    """The head with a config: the module itself, or the ``head`` of the objective that it is."""
    head = module if hasattr(module, "head_config") else getattr(module, "head", None)
    return head if isinstance(head, nn.Module) and hasattr(head, "head_config") else None


def save_model_folder(
    folder: Path,
    core: nn.Module,
    heads: Mapping[str, nn.Module],
    metadata: ModelMetadata,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` atomically, the weights first.

    Args:
        folder: where to.
        core: the core.
        heads: head modules, or the objectives that own them, by name.
        metadata: everything but ``heads`` and ``companions``, which are asked themselves.
        tensors: what :func:`pack_model` makes of them; ``None`` = it is asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, pack_model(core, heads) if tensors is None else tensors)
    described = replace(metadata, heads=head_configs(heads), companions=companion_configs(heads))
    write_json(folder / "config.json", described.to_dict())


def weights_digest(folder: Path) -> str:
    """16 hex digits that change with a model folder's weights."""
    return _digest_of(sorted(folder.glob("model*.safetensors")))


def model_digest(folder: Path) -> str:
    """16 hex digits that change with the weights, the metadata or the tokenizer of a model folder."""
    names = ("config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
    others = [path for name in names if (path := Path(folder) / name).exists()]
    return _digest_of([*sorted(Path(folder).glob("model*.safetensors")), *others])


def _digest_of(paths: list[Path]) -> str:
    return hashlib.sha256("".join(file_digest(path) for path in paths).encode()).hexdigest()[:16]


def read_metadata(folder: str | Path) -> ModelMetadata:
    """Read a model folder's ``config.json``.

    Raises:
        ZooError: not a model folder, a run that is not finished, or written by something else.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ZooError(f"{path} is not a folder; a run folder with config.json and model.safetensors is needed.")
    if not (path / "config.json").exists() and (path / "run.json").exists():
        record = read_json(path / "run.json")
        if not record.get("finished"):  # otherwise the file was lost
            raise ZooError(f"{path} {_unfinished(path, record)}")
    content = read_json(path / "config.json")
    if content.get("model_type") != MODEL_TYPE:
        raise ZooError(
            f"{path / 'config.json'} describes a model of type {content.get('model_type')!r}, not one of the zoo's "
            f"({MODEL_TYPE!r}); give a run folder of `python -m pretraining`, or bring it in with `zoo import`."
        )
    return metadata_from_dict(content, path)


def _unfinished(folder: Path, record: Mapping[str, Any]) -> str:
    """How far a run came that has not written its model, and how it is brought to its end."""
    steps = [int(path.name[5:]) for path in folder.glob("checkpoints/step-*") if path.name[5:].isdecimal()]
    reached = f"its newest checkpoint is of step {max(steps):,}" if steps else "it has no checkpoint yet"
    command = record.get("command", "python -m pretraining ...")
    return (
        f"holds a run that is not finished: {reached}. Let it end first; if it was stopped, its command brings it to "
        f"its end: {command}"
    )


def foreign_classes(config: CoreConfig) -> list[str]:
    """Class paths of a core's config that are not of this package."""
    named = [str(entry["class_path"]) for entry in config.attention_layers or ()]
    return [path for path in dict.fromkeys(named) if not path.startswith("zoo.")]


def import_foreign(folder: Path) -> None:
    """Import what a folder's config names from outside the package: its reader has said that it may be."""
    content = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if isinstance(content.get("core"), dict):
        for path in foreign_classes(CoreConfig.from_dict(content["core"])):
            import_class(path, str(folder / "config.json"))


def _require_known_code(config: CoreConfig, folder: Path) -> None:
    """Raise ZooError if classes would have to be imported from outside the package, unasked."""
    unknown = [path for path in foreign_classes(config) if path.rpartition(".")[0] not in sys.modules]
    if unknown and os.environ.get(TRUST) != "1":
        raise ZooError(
            f"{folder / 'config.json'} names {', '.join(unknown)}, not the package's own code; if you trust it, set "
            f"{TRUST}=1 (some commands have --trust_code), or import its module first in Python."
        )


def metadata_from_dict(content: Mapping[str, Any], path: Path) -> ModelMetadata:
    """Metadata out of the content of a ``config.json``, which transformers may have added keys of its own to.

    Raises:
        ZooError: an old name, no core, or code from outside the package that has not been imported.
    """
    for key, (name, values) in _RENAMED.items():
        if key in content:
            old, new = content[key], values.get(content[key], content[key])
            raise ZooError(
                f"{path / 'config.json'} has an old name: {key} {old!r} is now {name} {new!r}. Write that there; "
                "CHANGELOG.md lists all."
            )
    if not isinstance(content.get("core"), dict):
        raise ZooError(f"{path / 'config.json'} has no `core`, the config of the core.")
    config = CoreConfig.from_dict(content["core"])
    _require_known_code(config, path)
    return ModelMetadata(
        config=config,
        template=Template(**content.get("template", {})),
        attention=content.get("attention", "bidirectional"),
        heads=content.get("heads", {}),
        origin=content.get("origin"),
        path=path,
        decoder_start_token_id=content.get("decoder_start_token_id"),
        companions=content.get("companions", {}),
    )


def load_core(folder: str | Path) -> tuple[Core, ModelMetadata]:
    """The core of a model folder with its weights, and the folder's metadata; heads are left out."""
    metadata = read_metadata(folder)
    core = make_core(metadata.config)
    weights = open_weights(metadata.path)
    load_state(core, _below(weights, "core."), str(metadata.path / WEIGHTS))
    return core.to(torch.float32), metadata


def load_head(folder: str | Path, name: str, module: nn.Module) -> None:
    """Fill a head module, or an objective with its head, from ``heads.NAME.*`` and ``objectives.NAME.*``."""
    weights = open_weights(Path(folder))
    tensors = _below(weights, f"heads.{name}.")
    if _head_of(module) is not module:
        tensors = {f"head.{key}": value for key, value in tensors.items()} | _below(weights, f"objectives.{name}.")
    load_state(module, tensors, str(Path(folder) / WEIGHTS))


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
