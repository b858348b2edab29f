"""Checkpoints that survive a kill at any moment: written aside, hashed, renamed into place last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.runtime.sharding import is_sharded, like_sharded
from zoo.storage.files import file_digest, read_json, write_json
from zoo.storage.shards import load_shards, save_shards, stored_tensors
from zoo.storage.tensors import check_state, load_state, load_tensors, save_tensors

_WEIGHTS, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_RECURRENT, _AVERAGE = "recurrent_state.safetensors", "average.safetensors"
_SHARDS = "shards"  # of a sharded model, in place of the files of its weights, moments and average


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
    recurrent_state: dict[str, Tensor] | None = None,
    average: dict[str, Tensor] | None = None,
    main: bool = True,
) -> Path:
    """Write ``checkpoints/step-N`` and prune old ones.

    Of a sharded model all processes write their parts. Else the main process alone is asked.

    Args:
        folder: the run folder.
        step: optimiser steps done.
        model: unwrapped model.
        optimizer: its optimiser.
        state: the loop's JSON state.
        keep: checkpoints kept; the newest complete one is never removed.
        recurrent_state: what tasks remember of every global row (``pretraining.training.state``).
        average: averaged weights by name, where the run has some (``pretraining.optim.average``).
        main: this is the main process.
    """
    root = folder / "checkpoints"
    final, temporary = root / f"step-{step:09d}", root / f".writing-{step:09d}"
    tensors, groups = _pack_optimizer(optimizer)
    files = {_WEIGHTS: dict(model.state_dict()), _OPTIMIZER: tensors, _AVERAGE: average or {}}
    if main:
        shutil.rmtree(temporary, ignore_errors=True)
    try:
        if is_sharded(model):
            parts = {
                f"{Path(file).stem}.{name}": tensor for file, named in files.items() for name, tensor in named.items()
            }
            save_shards(temporary / _SHARDS, parts)
            if not main:
                return final
            _check_shards(temporary / _SHARDS, parts)
        else:
            temporary.mkdir(parents=True, exist_ok=True)
            for file, named in files.items():
                save_tensors(temporary / file, named)
        save_tensors(temporary / _RECURRENT, recurrent_state or {})
        write_json(temporary / _STATE, {**state, "optimizer_groups": groups})
        paths = {str(path.relative_to(temporary)): path for path in sorted(temporary.rglob("*.*")) if path.is_file()}
        manifest = {n: {"bytes": path.stat().st_size, "digest": file_digest(path)} for n, path in paths.items()}
        write_json(temporary / "manifest.json", manifest)
    except (OSError, RuntimeError):
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk: give the room back, older checkpoints stay
        raise
    _sync_folder(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_folder(root)
    _prune(root, final, keep)
    return final


def _prune(root: Path, newest: Path, keep: int) -> None:
    """Keep ``newest`` and those just before it; later ones were passed over as damaged when the run was resumed."""
    found = sorted(root.glob("step-*"))
    earlier = [path for path in found if path.name <= newest.name]
    for path in [*earlier[:-keep], *(path for path in found if path.name > newest.name)]:
        shutil.rmtree(path)


def check_room(folder: Path, model: nn.Module, keep: int, average: bool = False) -> None:
    """Raise ZooError if the disk has no room for the checkpoints that a run keeps, and one being written.

    Args:
        folder: the run folder.
        model: the model; an optimiser with two moments is assumed, as in :mod:`pretraining.optim`.
        keep: checkpoints kept.
        average: the run averages its weights, and ends with both.

    Raises:
        ZooError: too little room; says how much is needed.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    there = sum(path.stat().st_size for path in folder.glob("checkpoints/step-*/*.safetensors"))
    needed = weights * (3 * (keep + 1) + 1) - there  # weights and two moments each, and the finished model
    needed += weights * (keep + 2) if average else 0
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ZooError(
            f"{folder}: about {needed / 1e6:,.1f} MB are needed for {keep} checkpoints (train.keep), one more while it "
            f"is written, and the finished model; {free / 1e6:,.1f} MB are free. Free some room, or name a folder on "
            "another disk with --output."
        )


def find_checkpoint(folder: Path, note: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest complete checkpoint; half-written or damaged ones are passed over, with a ``note`` of each."""
    for path in sorted((folder / "checkpoints").glob("step-*"), reverse=True):
        if _complete(path):
            return path
        note(f"note: {path} is incomplete or damaged, and is passed over.")
    return None


def complete_checkpoints(folder: Path) -> list[Path]:
    """All complete and undamaged checkpoints of a run folder, the oldest first."""
    return [path for path in sorted((folder / "checkpoints").glob("step-*")) if _complete(path)]


def load_weights(path: Path) -> dict[str, Tensor]:
    """The model's tensors as a checkpoint has them, in shards or not."""
    if not (path / _SHARDS).is_dir():
        return load_tensors(path / _WEIGHTS)
    found = {name: torch.zeros(like.shape, dtype=like.dtype) for name, like in _stored(path, _WEIGHTS).items()}
    load_shards(
        path / _SHARDS, {f"{Path(_WEIGHTS).stem}.{name}": tensor for name, tensor in found.items()}, together=False
    )
    return found


def _complete(path: Path) -> bool:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return all(
            (path / n).stat().st_size == m["bytes"] and file_digest(path / n) == m["digest"]
            for n, m in manifest.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill model and optimiser from a checkpoint and return the loop's state.

    A sharded one goes into a whole model, too, and a whole one into a sharded model, whatever number of processes wrote
    it. Every process takes part.
    """
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    owners = {str(number): parameter for number, parameter in enumerate(parameters)}
    if (path / _SHARDS).is_dir():
        own = dict(model.state_dict())
        check_state(model, _stored(path, _WEIGHTS), str(path))
        _fill(path, _WEIGHTS, own, model)
        moments = {
            name: _like(tensor, owners[name.split(".")[0]]) for name, tensor in _stored(path, _OPTIMIZER).items()
        }
        _fill(path, _OPTIMIZER, moments, model)
    else:
        weights, moments = load_tensors(path / _WEIGHTS), load_tensors(path / _OPTIMIZER)
        if is_sharded(model):
            check_state(model, weights, str(path / _WEIGHTS))
            weights = {name: like_sharded(weights[name], tensor) for name, tensor in model.state_dict().items()}
            model.load_state_dict(weights)
            moments = {n: like_sharded(t, owners.get(n.split(".")[0], t)) for n, t in moments.items()}
        else:
            load_state(model, weights, str(path / _WEIGHTS))
    state = read_json(path / _STATE)
    _unpack_optimizer(optimizer, moments, state.pop("optimizer_groups"), path)
    return state


def _check_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Raise ZooError if not all that processes wrote is here, on storage that lags behind, say."""
    there = {name: tensor.shape for name, tensor in stored_tensors(folder).items()}
    if there != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ZooError(
            f"{folder}: not all that the processes wrote can be seen; is --output on storage that they share?"
        )


def _stored(path: Path, file: str) -> dict[str, Tensor]:
    """Names and shapes of those tensors in a checkpoint's shards that would stand in ``file``."""
    prefix = f"{Path(file).stem}."
    return {n.removeprefix(prefix): t for n, t in stored_tensors(path / _SHARDS).items() if n.startswith(prefix)}


def _fill(path: Path, file: str, tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Fill tensors from a checkpoint's shards, which a sharded model's processes do together."""
    named = {f"{Path(file).stem}.{name}": tensor for name, tensor in tensors.items()}
    load_shards(path / _SHARDS, named, together=is_sharded(model))


def _like(stored: Tensor, parameter: Tensor) -> Tensor:
    """A place for a moment of a parameter, sharded as the parameter is; or for a value beside it, such as a step."""
    same = stored.shape == parameter.shape
    return torch.zeros_like(parameter) if same else torch.zeros(stored.shape, dtype=stored.dtype)


def load_recurrent_state(path: Path) -> dict[str, Tensor]:
    """What tasks remembered of every global row when a checkpoint was written."""
    return load_tensors(path / _RECURRENT)


def load_average(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Averaged weights of a model by name, as a checkpoint has them; empty where there were none yet."""
    parameters = dict(model.named_parameters())
    if not (path / _SHARDS).is_dir():
        return {name: like_sharded(tensor, parameters[name]) for name, tensor in load_tensors(path / _AVERAGE).items()}
    found = {name: torch.zeros_like(parameters[name]).detach() for name in _stored(path, _AVERAGE)}
    _fill(path, _AVERAGE, found, model)
    return found


def _pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimiser state as tensors ``INDEX.NAME`` and, as JSON, its groups and its values that are no tensors."""
    raw = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entries in raw["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                values[f"{index}.{name}"] = value
    return tensors, {"groups": [list(g["params"]) for g in raw["param_groups"]], "values": values}


def _unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: dict[str, Any], path: Path
) -> None:
    raw = optimizer.state_dict()
    if [list(g["params"]) for g in raw["param_groups"]] != groups["groups"]:
        raise ZooError(f"{path}: the optimiser's parameter groups differ from this run's; was the code changed?")
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *groups["values"].items()]:
        if key != "empty":
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": raw["param_groups"]})
