"""A model folder: ``config.json``, ``model.safetensors`` and the tokenizer's files. No class is executed to load it.

Tensors are named ``core.*``, ``heads.NAME.*`` (heads that ``config.json`` describes) and ``objectives.NAME.*`` (what
else an objective owns). The weights may be one file or shards with an index, as transformers writes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo.config import CoreConfig, read_json
from zoo.core import Core, make_core
from zoo.errors import ZooError, nearest
from zoo.version import __version__
from zoo.vocabulary import Template

MODEL_TYPE = "sesame-zoo"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFacts:
    """What a model folder says about itself beside its weights.

    Args:
        config: the core's facts.
        template: layout of single texts and pairs, and pooling.
        visibility: how tokens see each other: ``all`` or ``causal``.
        heads: facts of each head by name (:func:`zoo.heads.build_head`).
        origin: transformers' ``model_type`` of the checkpoint that the weights came from.
        path: the folder.
    """

    config: CoreConfig
    template: Template = field(default_factory=Template)
    visibility: Literal["all", "causal"] = "all"
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    origin: str | None = None
    path: Path = field(default_factory=Path)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "model_type": MODEL_TYPE,
            "zoo_version": __version__,
            "core": self.config.to_dict(),
            "visibility": self.visibility,
            "template": self.template.to_dict(),
            "heads": self.heads,
            "origin": self.origin,
        }


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


_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically, one tensor at a time.

    The library's own writer wants all tensors in memory at once, and hides a full disk's error number in a text; the
    format is a JSON header and the bytes behind it. Shared storage must have been dropped before (tied weights).

    Args:
        path: the file.
        tensors: by name; asked for twice, so they may be made when asked for.
    """
    width, header, end = {n: (t.element_size(), t.dtype, t.shape) for n, t in tensors.items()}, {}, 0
    names = sorted(width, key=lambda name: (-width[name][0], name))  # the widest first, so that all stay aligned
    for name in names:
        size, dtype, shape = width[name]
        start, end = end, end + size * shape.numel()
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                tensor = tensors[name].detach().cpu().contiguous()
                stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write does not name its file
    temporary.replace(path)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that appears under its name only when the block has ended well.

    Raises:
        ZooError: the target exists and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ZooError(f"{target} exists already; choose another folder, or remove it first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.writing-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Weights(Mapping[str, Tensor]):
    """Tensors by name in safetensors files, read only when asked for and mapped, not copied, on a CPU.

    Args:
        files: file of each tensor.

    Raises:
        ZooError: a file is damaged or missing.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor."""
        path = self._files[name]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            tensor: Tensor = self._open[path].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._files)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        path = self._files[name]
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        return tuple(self._open[path].get_slice(name).get_shape())


def open_tensors(path: Path) -> Weights:
    """The tensors of one safetensors file; a damaged or missing one is named."""
    if not path.exists():
        raise ZooError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as stream:
            return Weights(dict.fromkeys(stream.keys(), path))
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def open_weights(folder: Path) -> Weights:
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
    return Weights(found)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a whole safetensors file; a damaged or missing one is named."""
    return dict(open_tensors(path))


def _unreadable(path: Path, error: Exception) -> ZooError:
    return ZooError(f"{path} is not a readable safetensors file ({error}); is the copy complete?")


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


def head_facts(heads: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """Facts of the heads that can describe themselves; a user's own head module need not."""
    found = {name: _head_of(module) for name, module in heads.items()}
    return {name: dict(head.facts) for name, head in found.items() if head is not None}  # type: ignore[arg-type]


def _head_of(module: nn.Module) -> nn.Module | None:
    """The head with facts: the module itself, or the ``head`` of the objective that it is."""
    head = module if hasattr(module, "facts") else getattr(module, "head", None)
    return head if isinstance(head, nn.Module) and hasattr(head, "facts") else None


def save_model_folder(folder: Path, core: nn.Module, heads: Mapping[str, nn.Module], facts: ModelFacts) -> None:
    """Write ``config.json`` and ``model.safetensors`` atomically, the weights first.

    Args:
        folder: where to.
        core: the core.
        heads: head modules, or the objectives that own them, by name.
        facts: everything but ``heads``, which are asked themselves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, pack_model(core, heads))
    write_json(folder / "config.json", replace(facts, heads=head_facts(heads)).to_dict())


def weights_digest(folder: Path) -> str:
    """16 hex digits that change with a model folder's weights."""
    hashed = hashlib.sha256()
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()[:16]


def model_digest(folder: Path) -> str:
    """16 hex digits that change with the weights, the facts or the tokenizer of a model folder."""
    hashed = hashlib.sha256()
    names = ("config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
    others = (Path(folder) / name for name in names)
    for path in (*sorted(Path(folder).glob("model*.safetensors")), *(path for path in others if path.exists())):
        with path.open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
    return hashed.hexdigest()[:16]


def read_facts(folder: str | Path) -> ModelFacts:
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
    facts = read_json(path / "config.json")
    if facts.get("model_type") != MODEL_TYPE:
        raise ZooError(
            f"{path / 'config.json'} describes a model of type {facts.get('model_type')!r}, not one of the zoo's "
            f"({MODEL_TYPE!r}); give a run folder of `python -m pretraining`, or bring it in with `zoo import`."
        )
    return facts_from_dict(facts, path)


def _unfinished(folder: Path, record: Mapping[str, Any]) -> str:
    """How far a run came that has not written its model, and how it is brought to its end."""
    steps = [int(path.name[5:]) for path in folder.glob("checkpoints/step-*") if path.name[5:].isdecimal()]
    reached = f"its newest checkpoint is of step {max(steps):,}" if steps else "it has no checkpoint yet"
    command = record.get("command", "python -m pretraining ...")
    return (
        f"holds a run that is not finished: {reached}. Let it end first; if it was stopped, its command brings it to "
        f"its end: {command}"
    )


def facts_from_dict(facts: Mapping[str, Any], path: Path) -> ModelFacts:
    """Facts out of the content of a ``config.json``, which transformers may have added keys of its own to."""
    if not isinstance(facts.get("core"), dict):
        raise ZooError(f"{path / 'config.json'} has no `core`, the facts about the architecture.")
    return ModelFacts(
        config=CoreConfig.from_dict(facts["core"]),
        template=Template(**facts.get("template", {})),
        visibility=facts.get("visibility", "all"),
        heads=facts.get("heads", {}),
        origin=facts.get("origin"),
        path=path,
    )


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


def load_core(folder: str | Path) -> tuple[Core, ModelFacts]:
    """The core of a model folder with its weights, and the folder's facts; heads are left out."""
    facts = read_facts(folder)
    core = make_core(facts.config)
    weights = open_weights(facts.path)
    load_state(core, _below(weights, "core."), str(facts.path / WEIGHTS))
    return core.to(torch.float32), facts


def load_head(folder: str | Path, name: str, module: nn.Module) -> None:
    """Fill a head module, or an objective with its head, from ``heads.NAME.*`` and ``objectives.NAME.*``."""
    weights = open_weights(Path(folder))
    tensors = _below(weights, f"heads.{name}.")
    if _head_of(module) is not module:
        tensors = {f"head.{key}": value for key, value in tensors.items()} | _below(weights, f"objectives.{name}.")
    load_state(module, tensors, str(Path(folder) / WEIGHTS))


def _below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
