"""A grid of rates and epochs: chosen on rows held back from training, the same for every seed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from toys import POOLED, SINGLE, make_data, make_model

from finetune.config import FinetuneSettings, GridSettings
from finetune.training.grid import tuned
from finetune.training.prepared import PreparedTask
from finetune.training.processes import ALONE
from finetune.training.run import finetune
from zoo.errors import ZooError

SETTINGS = FinetuneSettings(epochs=8, batch_size=16, limit=200, held_back=0.25, grid=GridSettings(lr=[1e-6, 2e-3]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model", POOLED)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def test_the_better_rate_is_chosen_on_training_rows_and_trains_on_all(model: Path, data: Path, tmp_path: Path) -> None:
    prepared = PreparedTask(model, SINGLE, data, SETTINGS)
    chosen, told = tuned(prepared, tmp_path, False, ALONE, 0.0, None)
    assert told == {"lr": 2e-3, "epochs": 8, "of": 2, "held_back": 50, "edges": ["lr"]}
    points = json.loads((tmp_path / "grid.json").read_text())["points"]
    assert [point["lr"] for point in points] == [1e-6, 2e-3]
    assert points[1]["score"] > points[0]["score"]
    for folder in (tmp_path / "grid").iterdir():
        tried = json.loads((folder / "result.json").read_text())
        assert (tried["train_rows"], tried["eval_rows"], tried["seed"]) == (150, 50, 0)
    result = finetune(model, SINGLE, chosen, 1, chosen.settings, tmp_path / "out", progress=False)
    assert result.train_rows == 200
    plain = dataclasses.replace(SETTINGS, lr=2e-3, grid=GridSettings())
    alone = finetune(model, SINGLE, data, 1, plain, tmp_path / "alone", progress=False)
    assert alone == result  # as if the rate had been given
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "grid").glob("*/result.json"))]
    assert tuned(prepared, tmp_path, False, ALONE, 0.0, None)[1] == told
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "grid").glob("*/result.json"))]


def test_the_command_tunes_once_for_all_seeds_and_reports_the_choice(model: Path, data: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text("{name: mood, columns: [text], labels: [neg, pos]}\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "finetune", "--model", str(model), "--data", str(data), "--tasks", "mood"]
    command += ["--task_file", str(tasks), "--limit", "64", "--seeds", "1,2", "--output", str(out), "--jobs", "2"]
    command += ["--grid.lr", "[1e-3,2e-3]", "--grid.epochs", "[1,2]", "--progress", "false"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(list((out / "mood" / "grid").iterdir())) == 4
    assert "epochs, the best of 4 on 6 training rows that were held back" in done.stdout
    kept = json.loads((out / "results.json").read_text())["rows"][0]["chosen"]
    results = [json.loads((out / "mood" / f"seed-{seed}" / "result.json").read_text()) for seed in (1, 2)]
    assert [r["fingerprint"]["settings"]["lr"] for r in results] == [kept["lr"]] * 2
    assert [r["train_rows"] for r in results] == [64, 64]


def test_a_rate_at_which_training_diverges_is_not_chosen(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.training import loop

    original = loop.step_loss

    def diverging(shared, prepared, rows, key, processes):
        loss = original(shared, prepared, rows, key, processes)
        return loss * float("nan") if prepared.settings.lr > 1 else loss

    monkeypatch.setattr(loop, "step_loss", diverging)
    settings = dataclasses.replace(SETTINGS, epochs=1, grid=GridSettings(lr=[1e-3, 2.0]))
    chosen, _ = tuned(PreparedTask(model, SINGLE, data, settings), tmp_path / "one", False, ALONE, 0.0, None)
    assert chosen.settings.lr == 1e-3
    settings = dataclasses.replace(settings, grid=GridSettings(lr=[2.0, 3.0]))
    with pytest.raises(ZooError, match="no number at any rate of the grid"):
        tuned(PreparedTask(model, SINGLE, data, settings), tmp_path / "none", False, ALONE, 0.0, None)


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ZooError, match="take one of them"):
        FinetuneSettings(patience=1, grid=GridSettings(lr=[1e-3, 2e-3]))
    with pytest.raises(ZooError, match="above 0"):
        GridSettings(lr=[0.0])
