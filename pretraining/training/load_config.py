"""From YAML files and a command line to a run's settings, and from these to its folder and the code that they name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from pretraining.training.config import PretrainConfig, StageConfig, TaskConfig
from pretraining.training.init_from import overlay
from pretraining.training.renamed import RENAMED
from zoo.errors import ZooError, nearest
from zoo.settings.load import Settings, load_settings
from zoo.settings.yaml_files import flatten, parse_arguments

# Keys that do not change what is computed: they take no part in a run folder's name.
_INCIDENTAL = (
    "output",
    "run_folder",
    "mirror",
    "data.stores",
    "data.processes",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "train.trackers",
    "train.prefetch",
    "train.threads",
)


# --- settings --------------------------------------------------------------------------------------


def load_pretrain_config(argv: list[str], values: dict[str, Any] | None = None) -> Settings[PretrainConfig]:
    """Settings of ``python -m pretraining`` from its command line.

    Args:
        argv: the command line.
        values: values that overlay the files.

    Raises:
        ZooError: as :func:`zoo.settings.load.load_settings`; or the files have no base.
    """
    configs, _, _ = parse_arguments(argv)

    def amend(merged: dict[str, Any], command_line: dict[str, Any]) -> dict[str, Any]:
        taken = overlay(merged, command_line)
        _check_base(configs, {**merged, **taken})
        return taken

    return load_settings(PretrainConfig, argv, "python -m pretraining", "pretrain", values, amend, RENAMED)


def _required(cls: type[Any], values: dict[str, Any]) -> list[str]:
    """Keys of a dataclass that need a value and have none."""
    needed = [item.name for item in fields(cls) if item.default is item.default_factory is MISSING]
    return [name for name in needed if name not in values]


def _check_base(configs: list[str], merged: dict[str, Any]) -> None:
    """Raise ZooError if files only change another one that is not given, or a task or stage lacks a part."""
    lacking = _required(PretrainConfig, merged)
    if configs and lacking:
        raise ZooError(
            f"{' and '.join(configs)}: no {', '.join(lacking)}. A file that only changes another (an overlay) is given "
            f"after that one, its base: --config {'+'.join(['BASE', *configs])}. `zoo list` names bases."
        )
    for key, cls in (("tasks", TaskConfig), ("stages", StageConfig)):
        parts = merged[key] if isinstance(merged.get(key), dict) else {}
        parts = {name: part for name, part in parts.items() if isinstance(part, dict)}  # others are checked later
        whole = [name for name, part in parts.items() if not _required(cls, part)]
        for name, part in parts.items():
            if lacking := _required(cls, part):
                known = f"{key} that are whole: {', '.join(whole) or 'none'}.{nearest(name, whole)}"
                works = f" Name one of those, or leave it out with --{key}.{name} null." if whole else ""
                raise ZooError(f"{key}.{name} has no {' and no '.join(lacking)}; {known}{works}")


# --- the run folder --------------------------------------------------------------------------------


def config_digest(resolved: dict[str, Any]) -> str:
    """8 hex digits of what determines a run's outcome."""
    flat = {key: value for key, value in flatten(resolved).items() if key not in _INCIDENTAL}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:8]


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys, with both values, in which two resolved configs would compute different things."""
    first, second = flatten(old), flatten(new)
    keys = sorted((first.keys() | second.keys()) - set(_INCIDENTAL))
    return [f"{k}: {first.get(k)!r} -> {second.get(k)!r}" for k in keys if first.get(k) != second.get(k)]


def run_folder_of(settings: Settings[PretrainConfig]) -> Path:
    """Where a run lives: the same settings always lead to the same folder."""
    config = settings.value
    if config.run_folder is not None:
        return Path(config.run_folder)
    return Path(config.output) / f"{config.name}-{config_digest(settings.resolved)}"


# --- whose code they name --------------------------------------------------------------------------


KNOWN_CODE = ("pretraining.", "torch.optim.", "zoo.")
"""Beginnings of the class paths that are safe to import."""


def class_paths(value: Any) -> Iterator[str]:
    """Every class that settings name, at any depth."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield str(value["class_path"])
        for item in value.values():
            yield from class_paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from class_paths(item)


def require_trusted_code(folder: Path, settings: Any, trusted: bool, known: tuple[str, ...] = KNOWN_CODE) -> None:
    """Raise ZooError if settings name code from outside the package that the user does not trust.

    Args:
        folder: the run folder, for the message.
        settings: what its ``run.json`` keeps of them.
        trusted: the user says ``--trust_code``.
        known: beginnings of the class paths of the package's own code.

    Raises:
        ZooError: they do; names the classes.
    """
    foreign = [path for path in class_paths(settings) if not path.startswith(known)]
    if foreign and not trusted:
        raise ZooError(
            f"{folder} was trained with {', '.join(foreign)}, not the package's own code; if you trust it, say "
            "--trust_code."
        )


def load_run_config(
    folder: Path, recorded: dict[str, Any], prog: str, trusted: bool, overrides: list[str] | None = None
) -> Settings[PretrainConfig]:
    """Settings that a run folder recorded.

    Args:
        folder: the run folder.
        recorded: what its ``run.json`` keeps of the settings.
        prog: the command that reads them.
        trusted: the user said ``--trust_code``.
        overrides: command line that is laid over them.

    Raises:
        ZooError: old names, code from outside the package, or settings that cannot be read.
    """
    RENAMED.check(recorded, str(folder / "run.json"))
    require_trusted_code(folder, recorded, trusted)
    return load_settings(PretrainConfig, overrides or [], prog, "pretrain", recorded, renamed=RENAMED)
