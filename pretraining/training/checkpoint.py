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
from zoo.storage.files import file_digest, read_json, write_json
from zoo.storage.tensors import load_state, load_tensors, save_tensors

_WEIGHTS, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_RECURRENT, _AVERAGE = "recurrent_state.safetensors", "average.safetensors"
_FILES = (_WEIGHTS, _OPTIMIZER, _RECURRENT, _AVERAGE, _STATE)


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
) -> Path:
    """Write ``checkpoints/step-N`` and prune old ones.

    Args:
        folder: the run folder.
        step: optimiser steps done.
        model: unwrapped model.
        optimizer: its optimiser.
        state: the loop's JSON state.
        keep: checkpoints kept; the newest complete one is never removed.
        recurrent_state: what tasks remember of every global row (``pretraining.training.state``).
        average: averaged weights by name, where the run has some (``pretraining.optim.average``).
    """
    root = folder / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    final, temporary = root / f"step-{step:09d}", root / f".writing-{step:09d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors, groups = _pack_optimizer(optimizer)
    try:
        save_tensors(temporary / _WEIGHTS, dict(model.state_dict()))
        save_tensors(temporary / _OPTIMIZER, tensors)
        save_tensors(temporary / _RECURRENT, recurrent_state or {})
        save_tensors(temporary / _AVERAGE, average or {})
        write_json(temporary / _STATE, {**state, "optimizer_groups": groups})
        manifest = {n: {"bytes": (temporary / n).stat().st_size, "digest": file_digest(temporary / n)} for n in _FILES}
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
    """Fill model and optimiser from a checkpoint and return the loop's state."""
    load_state(model, load_tensors(path / _WEIGHTS), str(path / _WEIGHTS))
    state = read_json(path / _STATE)
    _unpack_optimizer(optimizer, load_tensors(path / _OPTIMIZER), state.pop("optimizer_groups"), path)
    return state


def load_recurrent_state(path: Path) -> dict[str, Tensor]:
    """What tasks remembered of every global row when a checkpoint was written."""
    return load_tensors(path / _RECURRENT)


def load_average(path: Path) -> dict[str, Tensor]:
    """Averaged weights by name, as they were when a checkpoint was written; empty where there were none yet."""
    return load_tensors(path / _AVERAGE)


def _pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimiser state as tensors ``INDEX.NAME`` and, as JSON, its groups and its values that are no tensors."""
    raw = optimizer.state_dict()
    tensors: dict[str, Tensor] = {"empty": torch.zeros(0)}
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
