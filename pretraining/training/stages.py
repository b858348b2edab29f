"""Which stage and which task a step belongs to, by the share of the budget that is used up."""

from __future__ import annotations

import math

import numpy as np

from pretraining.keyed_random import Draw
from pretraining.training.config import PretrainConfig, StageConfig, TrainConfig
from pretraining.training.loader import TaskLoader
from pretraining.training.record import Counters

_SOME_ROWS = 64  # whose lengths tell how many steps a budget of tokens makes
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio


def budget_used(train: TrainConfig, counters: Counters) -> float:
    """Share of the budget that is used up: of steps, tokens or operations, whichever the settings give.

    A run turns a budget of minutes into steps before its first one.
    """
    if train.steps is not None:
        return counters.step / train.steps
    if train.tokens is not None:
        return counters.tokens / train.tokens
    assert train.flops is not None
    return counters.flops / train.flops


def planned_steps(train: TrainConfig, data: TaskLoader) -> str:
    """How many steps the budget makes, as far as that is known before the first: from the settings, or from some rows.

    Args:
        train: the budget and the batch.
        data: rows of the first task.
    """
    if train.steps is not None:
        return f"{train.steps:,}"
    if train.tokens is None:
        return ""
    rows, _ = data.rows(0, np.arange(min(_SOME_ROWS, len(data.plan(0)[0]))))
    return f"about {math.ceil(train.tokens / (float(rows.lengths.mean()) * train.batch_size)):,}"


def stage_at(stages: dict[str, StageConfig], progress: float) -> str:
    """The stage of a step that begins at this share of the budget."""
    ordered = sorted(stages, key=lambda name: stages[name].until)
    return next((name for name in ordered if progress < stages[name].until), ordered[-1])


def task_at(stages: dict[str, StageConfig] | None, tasks: list[str], step: int, progress: float, seed: int) -> str:
    """The task of a step: the same answer in every process and after every resume.

    Steps go round a circle that the tasks divide by their shares, each a golden section of it from the one before, from
    a place that the seed draws. So every stretch of steps, whenever it begins, has its shares but for a few steps,
    where independent draws would miss them by the root of their number.
    """
    if stages is None:
        return tasks[0]
    stage = stages[stage_at(stages, progress)]
    names, shares = list(stage.tasks), np.cumsum(list(stage.tasks.values()))
    begin = int(Draw(seed, 0).keys(np.zeros(1, dtype=np.int64), "task")[0])
    point = (begin + step * _GOLDEN) % 2**64 / 2**64
    return names[int(np.searchsorted(shares[:-1], point * shares[-1], side="right"))]


def idle_notes(config: PretrainConfig) -> list[str]:
    """A line on stages that get no step, where there are some."""
    if not (idle := config.idle_stages()):
        return []
    ends = f"{', '.join(idle)} {'gets' if len(idle) == 1 else 'get'} no step of {config.train.steps}"
    return [f"note: {ends}: more steps (train.steps), or other ends of the stages (until), would change that."]
