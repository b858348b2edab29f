"""Pairs whose order means nothing, read in both orders by a core that reads forward (specs: GPT, check 6)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import LAST, PAIR, POOLED, make_data, make_model, rows_of

from finetune.config import FinetuneSettings
from finetune.data.tasks import KindSpec, Task
from finetune.training.loop import predict, step_loss
from finetune.training.prepared import PreparedTask
from finetune.training.processes import ALONE
from finetune.training.run import finetune
from zoo.errors import ZooError

SYMMETRIC = replace(PAIR, symmetric=True)
SETTINGS = FinetuneSettings(lr=2e-3, limit=64)


def swapped(task: Task, model: Path) -> float:
    """The largest difference that the order of the two texts makes to an answer."""
    first, second = ["a red b", "blue", "c d e f"], ["green", "a good day", "bad"]
    one = PreparedTask(model, task, rows_of(first, second), SETTINGS)
    other = PreparedTask(model, task, rows_of(second, first), SETTINGS)
    made = one.model(1)
    return float(np.abs(np.asarray(predict(made, one)) - np.asarray(predict(made, other))).max())


def test_the_order_of_a_symmetric_pair_changes_nothing(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", LAST)
    assert swapped(SYMMETRIC, model) < 1e-7
    assert swapped(PAIR, model) > 1e-4
    number = Task(name="near", columns=("a", "b"), kind=KindSpec("finetune.kinds.Regression"))
    assert swapped(replace(number, symmetric=True), model) < 1e-7 < swapped(number, model)


def test_both_orders_are_added_before_the_softmax(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", LAST)
    data = rows_of(["a red b", "blue"], ["green", "good day"])
    both, there = PreparedTask(model, SYMMETRIC, data, SETTINGS), PreparedTask(model, PAIR, data, SETTINGS)
    back = PreparedTask(model, PAIR, rows_of(["green", "good day"], ["a red b", "blue"]), SETTINGS)
    made = both.model(1).eval()
    rows = np.arange(2)
    logits = sum(made(part.batch("train", rows).inputs).detach().double() for part in (there, back))
    np.testing.assert_allclose(predict(made, both), logits.softmax(-1).numpy(), atol=1e-7)
    assert both.train.sizes is not None
    assert both.train.sizes.tolist() == [2, 2]


def test_a_core_that_reads_both_sides_reads_a_pair_once(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", POOLED)
    assert PreparedTask(model, SYMMETRIC, rows_of(["a"], ["b"]), SETTINGS).train.sizes is None


def test_symmetric_pairs_are_learned_and_processes_agree(tmp_path: Path) -> None:
    from toys import Share

    model, data = make_model(tmp_path / "model", LAST), make_data(tmp_path / "data")
    settings = FinetuneSettings(lr=2e-3, epochs=12, batch_size=16)
    result = finetune(model, SYMMETRIC, data, 1, settings, tmp_path / "out", progress=False)
    assert result.scores["accuracy"] > 0.9
    prepared = PreparedTask(model, SYMMETRIC, data, SETTINGS)
    made, rows = prepared.model(1), np.arange(7)
    whole = step_loss(made, prepared, rows, (1, 0), ALONE)
    parts = [step_loss(made, prepared, rows, (1, 0), Share(rank, 2)) for rank in (0, 1)]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_a_single_text_cannot_be_symmetric() -> None:
    with pytest.raises(ZooError, match="is symmetric and has no pair"):
        Task(name="x", columns=("a",), symmetric=True)
