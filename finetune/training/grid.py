"""A small grid of learning rates and epochs, the best of which is found on training rows that are held back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data.examples import TaskSplits
from finetune.training.loop import DivergedError
from finetune.training.prepared import PreparedTask
from finetune.training.processes import Processes
from finetune.training.run import finetune
from finetune.training.suits import held_back
from zoo.errors import ZooError
from zoo.storage.files import write_json

TUNING_SEED = 0


class GridPoint(NamedTuple):
    """What one point of the grid came to.

    Args:
        lr: learning rate.
        epochs: passes.
        score: primary metric on what is held back.
    """

    lr: float
    epochs: int
    score: float


def tuned(
    prepared: PreparedTask,
    output: Path,
    progress: bool,
    processes: Processes,
    checkpoint_minutes: float,
    start: Path | None,
) -> tuple[PreparedTask, dict[str, Any] | None]:
    """The same task with the rate and the epochs that do best on rows held back from training; then all rows train.

    Points that are finished are read back. No row of development has a part in the choice.

    Args:
        prepared: the task, with the settings that the grid starts from.
        output: folder of the task.
        progress: show a line.
        processes: who shares the work.
        checkpoint_minutes: of each training.
        start: folder of the model whose core the task starts from, if not the pretrained one.

    Returns:
        The task with its settings chosen, and what a report says of the choice; the task itself and ``None`` without a
        grid.

    Raises:
        ZooError: too few rows to hold any back.
    """
    grid = prepared.settings.grid
    rates, passes = grid.lr or [prepared.settings.lr], grid.epochs or [prepared.settings.epochs or 1]
    if len(rates) * len(passes) == 1:
        return prepared.with_settings(lr=rates[0], epochs=passes[0]), None
    fit, held = held_back(prepared.data.train, prepared.settings.held_back, prepared.task.name)
    base = PreparedTask(
        prepared.metadata.path, prepared.task, TaskSplits(fit, held), prepared.settings, cache=prepared.cache
    )

    def score(lr: float, epochs: int) -> float:
        own, folder = base.with_settings(lr, epochs), output / "grid" / f"lr-{lr:g}-epochs-{epochs}"
        where = own.metadata.path, own.task, own, TUNING_SEED, own.settings, folder
        try:
            result = finetune(*where, progress, processes, checkpoint_minutes=checkpoint_minutes, start=start)
        except DivergedError:
            return float("-inf")  # a rate that is too high is one answer
        return next(iter(result.scores.values()))

    points = [GridPoint(lr, epochs, score(lr, epochs)) for lr, epochs in itertools.product(rates, passes)]
    best = max(points, key=lambda point: point.score)
    if best.score == float("-inf"):
        raise ZooError(
            f"task {prepared.task.name!r}: the loss is no number at any rate of the grid; lower ones would work."
        )
    at_edge = [
        name for name, value, axis in (("lr", best.lr, rates), ("epochs", best.epochs, passes)) if _edge(value, axis)
    ]
    told = {"lr": best.lr, "epochs": best.epochs, "of": len(points), "held_back": len(held), "edges": at_edge}
    if processes.rank == 0:
        write_json(output / "grid.json", {"points": [point._asdict() for point in points], "chosen": told})
    return prepared.with_settings(lr=best.lr, epochs=best.epochs), told


def _edge(value: float, axis: list[Any]) -> bool:
    """Whether a value is the smallest or largest of several."""
    return len(axis) > 1 and value in (min(axis), max(axis))
