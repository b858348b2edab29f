"""What a run folder tells of its run: versions, commit and machine; and the list of runs that ``zoo runs`` prints."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import ZooError, for_terminal
from zoo.storage.files import read_json
from zoo.values import user_path

_PACKAGES = ("torch", "numpy", "tokenizers", "accelerate", "safetensors", "sesame-zoo")


def surroundings() -> dict[str, Any]:
    """``versions``, ``commit`` and ``machine`` for ``run.json``; no host names, no paths."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "commit": _commit(), "machine": _machine()}


def _commit() -> str | None:
    """Commit of the source tree this package runs from, with ``+`` where it was changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else None


def _machine() -> dict[str, Any]:
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"cpu": name, "cores": os.cpu_count(), "gpu": gpu, "system": platform.system()}


# ---- zoo runs --------------------------------------------------------------------------------------------------------

_TAIL = 2**16  # bytes at the end of a log in which its last line lies


class RunRow(NamedTuple):
    """What is told of one run.

    Args:
        folder: its name.
        config: the name that its settings have.
        steps: steps done, and of how many.
        state: ``finished`` or ``not finished``; or what is wrong with its ``run.json``.
        loss: of the last line of the log.
        size: of all its files.
        date: when it was last written to.
    """

    folder: str
    config: str
    steps: str
    state: str
    loss: str
    size: str
    date: str


def read_run_row(folder: Path) -> RunRow:
    """One run, from its ``run.json`` and its log."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    size = f"{sum(file.st_size for file in files) / 1e6:,.1f} MB"
    newest = max((path.stat().st_mtime for path in folder.glob("*.json*")), default=folder.stat().st_mtime)
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(newest))
    try:
        record = read_json(folder / "run.json")
        last = _last_line(folder / "log.jsonl")
        step, tokens = (int(last.get(key) or record.get(key) or 0) for key in ("step", "tokens"))
        loss = f"{float(last['loss']):.3f}" if "loss" in last else ""
        state = "finished" if record.get("finished") else "not finished"
        steps = f"{step:,}{_total(record, step, tokens)}"
        return RunRow(folder.name, str(record.get("name", "")), steps, state, loss, size, date)
    except (ZooError, ValueError, TypeError, AttributeError):
        return RunRow(folder.name, "", "", "run.json is damaged", "", size, date)


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of training in a log; empty where there is none."""
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        lines = stream.read().splitlines()
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(value, dict) and "loss" in value:
            return value
    return {}


def _total(record: dict[str, Any], step: int, tokens: int) -> str:
    """The steps of a run's whole budget, for people; from the tokens so far where the budget is one of tokens."""
    train = record["config"]["train"]
    if steps := train.get("steps") or (record.get("budget") or {}).get("steps"):
        return f" of {steps:,}"
    if train.get("tokens") and tokens and not record.get("finished"):
        return f" of about {max(step, round(step * train['tokens'] / tokens)):,}"
    return ""


def runs_command(argv: list[str]) -> int:
    """``zoo runs [FOLDER]``: the runs in a folder, the one that was written to last at the end."""
    if {"-h", "--help"} & set(argv):
        print(
            "usage: zoo runs [FOLDER]\n\nThe runs in a folder (runs), oldest first: steps done, state, last loss, size."
        )
        return 0
    unknown = [word for word in argv if word.startswith("-")]
    if unknown or len(argv) > 1:
        raise ZooError(f"zoo runs takes one folder, not {' '.join(unknown or argv)}: zoo runs runs")
    folder = user_path(argv[0] if argv else "runs")
    if not folder.is_dir():
        raise ZooError(f"{folder} is no folder; runs are written to runs, or to where --output says: zoo runs FOLDER.")
    found = [path for path in (folder, *folder.iterdir()) if (path / "run.json").is_file()]
    rows = sorted(map(read_run_row, found), key=lambda row: (row.date, row.folder))
    if not rows:
        raise ZooError(f"{folder} has no run in it: a run is a folder with run.json.")
    table = [tuple(name if name != "folder" else "run" for name in RunRow._fields), *rows]
    texts = [list(map(for_terminal, row)) for row in table]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0
