"""Where the results of a fine-tuning lie, and which models are kept."""

from __future__ import annotations

from pathlib import Path

from finetune.config import FinetuneConfig
from finetune.data.tasks import Task

MODEL = "model"
"""Folder of a kept model, in that of its task and seed."""
TOGETHER = "multi-task"
"""Folder of trainings of several tasks under one core."""


def keeps_model(config: FinetuneConfig, task: Task) -> bool:
    """Whether a task's fine-tuned models are kept; others start from a source's."""
    return config.save_model or task.name == config.from_task


def folder_of(output: Path, task: str, seed: int) -> Path:
    """Where one task's and seed's result lies."""
    return output / task / f"seed-{seed}"


def together_folder(output: Path, seed: int) -> Path:
    """Where several tasks' one training lies."""
    return output / TOGETHER / f"seed-{seed}"


def task_folder(output: Path, task: Task, seed: int, inside: Path | None) -> Path:
    """Where a task's part of a training of several lies: its usual folder, or one inside the training's own."""
    return folder_of(output, task.name, seed) if inside is None else inside / task.name


def source_folder(config: FinetuneConfig, task: Task, seed: int, output: Path) -> Path | None:
    """Folder of the fine-tuned model whose core a task and seed start from."""
    if config.multi_task == "first":
        return together_folder(output, seed) / task.name / MODEL
    if config.from_task is None or task.name == config.from_task:
        return None
    return folder_of(output, config.from_task, seed) / MODEL
