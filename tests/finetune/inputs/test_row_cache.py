"""Rows that are kept in files: the same as those in memory, for every kind; found again, made anew, cleared away."""

from __future__ import annotations

import dataclasses
import os
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kind_toys import CHOICES, SPANS, TAGS, VALUES, make_kinds
from toys import FIRST, PAIR, SINGLE, SPELT, make_data, make_model

from finetune.config import FinetuneSettings
from finetune.data.tasks import Task
from finetune.inputs import row_cache
from finetune.inputs.row_cache import RowCache
from finetune.kinds import Classification
from finetune.training.prepared import PreparedTask
from zoo.errors import ZooError

SETTINGS = FinetuneSettings(epochs=1, batch_size=8)
EVERY = [SINGLE, PAIR, TAGS, SPANS, CHOICES, VALUES]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "FEWEST", 1)
    monkeypatch.setattr(row_cache, "AT_ONCE", 7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kinds(make_data(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    toys = {"first": FIRST, "spelt": SPELT}
    return {name: make_model(tmp_path_factory.mktemp(name) / "model", toy) for name, toy in toys.items()}


def batches(prepared: PreparedTask) -> list[Any]:
    """Tensors of batches over all rows."""
    numbers = np.random.default_rng(1).permutation(len(prepared.train))
    found = []
    for start in range(0, len(numbers), 8):
        batch = prepared.batch("train", numbers[start : start + 8], None)
        found += [batch.slots, *batch.targets]
        texts = [batch.inputs] if hasattr(batch.inputs, "input_ids") else [t.inputs for t in batch.inputs.texts]
        found += [
            value for inputs in texts for value in (inputs.input_ids, inputs.character_ids, inputs.token_type_ids)
        ]
    return [None if value is None else (value.dtype, value.tolist()) for value in found]


@pytest.mark.parametrize("use", ["finetune", "features"])
@pytest.mark.parametrize("model", ["first", "spelt"])
@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)
def test_rows_in_files_are_those_in_memory(
    task: Task, model: str, use: Any, models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, use=use)
    plain = PreparedTask(models[model], task, data, settings)
    kept = PreparedTask(models[model], task, data, settings, cache=RowCache(tmp_path))
    assert batches(kept) == batches(plain)
    np.testing.assert_array_equal(kept.train.outputs, plain.train.outputs)
    np.testing.assert_array_equal(kept.train.owners, plain.train.owners)
    assert (kept.train.truncated, kept.train.sequences.marks_cut) == (plain.train.truncated, 0)
    assert len(list(tmp_path.glob("*/rows.json"))) == 1
    assert not list(tmp_path.glob(".*"))


def test_the_next_run_finds_them_unless_something_else_was_asked(
    models: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[int]()
    encode = Classification.encode

    def counted(self: Any, task: Any, examples: Any, encoder: Any) -> Any:
        made.append(len(examples))
        return encode(self, task, examples, encoder)

    counted.__module__ = Classification.encode.__module__
    monkeypatch.setattr(Classification, "encode", counted)

    def new_parts(task: Task = SINGLE, **changes: Any) -> int:
        made.clear()
        settings = dataclasses.replace(SETTINGS, **changes)
        _ = PreparedTask(models["first"], task, data, settings, cache=RowCache(tmp_path)).train
        return len(made)

    assert new_parts() > 1
    assert new_parts(lr=0.1) == 0
    assert new_parts(max_length=5) > 1
    assert new_parts(limit=20) == 3
    assert new_parts(PAIR) > 1
    monkeypatch.setattr(row_cache, "code_digest", lambda: "other code")
    assert new_parts() > 1
    counted.__module__ = "a_module_of_mine"
    assert new_parts() == 1  # code of somebody's own is always run
    assert new_parts() == 1


@pytest.mark.parametrize("harm", ["index", "cut", "changed", "missing"])
def test_broken_rows_are_made_anew(harm: str, models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    def prepared() -> PreparedTask:
        return PreparedTask(models["first"], SINGLE, data, SETTINGS, cache=RowCache(tmp_path))

    good = batches(prepared())
    (folder,) = (path.parent for path in tmp_path.glob("*/rows.json"))
    ids = folder / "sequences.ids.bin"
    if harm == "index":
        (folder / "rows.json").write_text('{"format"')
    elif harm == "cut":
        ids.write_bytes(ids.read_bytes()[:-4])
    elif harm == "changed":
        ids.write_bytes(bytes([ids.read_bytes()[0] ^ 1]) + ids.read_bytes()[1:])
    else:
        ids.unlink()
    assert batches(prepared()) == good
    assert batches(prepared()) == good


def test_what_was_not_read_for_longest_goes_first(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    def keep(most: int, length: int) -> Path:
        settings = dataclasses.replace(SETTINGS, max_length=length)
        prepared = PreparedTask(models["first"], SINGLE, data, settings, cache=RowCache(tmp_path, most))
        _ = prepared.train
        return tmp_path / row_cache.rows_key(SINGLE, prepared.data.train, prepared.encoder, prepared.entities)

    old, read = keep(10, 6), keep(10, 7)
    for path in (old, read):
        os.utime(path / "rows.json", (1e9, 1e9))
    keep(10, 7)
    dead, alive = tmp_path / ".dead.1", tmp_path / ".alive.1"
    for path, age in ((dead, 1e9), (alive, None)):
        path.mkdir()
        if age:
            os.utime(path, (age, age))
    (old / "filler").write_bytes(bytes(2**20))
    new = keep(1, 8)
    assert not old.exists()
    assert read.exists()
    assert new.exists()
    assert (dead.exists(), alive.exists()) == (False, True)
    newest = keep(0, 9)
    assert [path for path in tmp_path.iterdir() if path != alive] == [newest]


def test_a_folder_that_cannot_be_written_costs_one_line(
    models: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    prepared = PreparedTask(models["first"], SINGLE, data, SETTINGS, cache=RowCache(tmp_path / "file" / "rows"))
    assert batches(prepared) == batches(PreparedTask(models["first"], SINGLE, data, SETTINGS))
    assert "encoded rows are not kept in" in capsys.readouterr().err


def test_a_mistake_in_a_row_leaves_nothing_behind(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    def parts() -> Any:
        prepared = PreparedTask(models["first"], SINGLE, data, SETTINGS)
        yield 3, prepared.train
        raise ZooError("a row that cannot be laid out")

    with pytest.raises(ZooError, match="cannot be laid out"):
        RowCache(tmp_path).rows("key", parts)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def _prepare(model: Path, data: Path, cache: Path) -> Any:
    row_cache.FEWEST, row_cache.AT_ONCE = 1, 7
    return batches(PreparedTask(model, PAIR, data, SETTINGS, cache=RowCache(cache)))


def test_two_processes_make_them_once(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    with get_context("fork").Pool(2) as pool:
        one, two = pool.starmap(_prepare, [(models["first"], data, tmp_path)] * 2)
    assert one == two == batches(PreparedTask(models["first"], PAIR, data, SETTINGS))
    assert len(list(tmp_path.glob("*/rows.json"))) == 1
