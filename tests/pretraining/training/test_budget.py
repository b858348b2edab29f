"""A budget of minutes: measured once, on steps that leave no trace, and the same after a resume."""

from __future__ import annotations

import pytest
from training import Killed, arguments, interrupt_at, launch, outcome, train

from pretraining.training.load_config import load_pretrain_config
from zoo.errors import ZooError
from zoo.storage.files import read_json, write_json


def by_minutes(folder, family="bert", minutes=0.004, **more):
    return arguments(folder, family, **{"train.steps": "null", "train.minutes": minutes, **more})


@pytest.mark.parametrize("family", ["bert", "transformer-xl"])
def test_measuring_leaves_no_trace(family, tmp_path):
    more = {} if family == "bert" else {"model.mem_len": 24, "data.sequence_length": 24}
    folder = train(by_minutes(tmp_path, family, **more))
    record = read_json(folder / "run.json")
    budget = record["budget"]
    assert record["step"] == budget["steps"] >= 1
    assert budget["steps"] == max(1, round(60 * 0.004 / budget["seconds_per_step"]))
    assert budget["warm_up_steps"] == 3
    assert 1 <= budget["measured_steps"] <= 10
    other = train(arguments(tmp_path, family, steps=budget["steps"], **more))
    assert other != folder
    assert outcome(other) == outcome(folder)


def test_a_resumed_run_measures_nothing_and_ends_alike(tmp_path, monkeypatch):
    argv = by_minutes(tmp_path, minutes=0.02)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 0)  # the first warm-up step
        with pytest.raises(Killed):
            train(argv)
    folder = next((tmp_path / "runs").iterdir())
    assert "budget" not in read_json(folder / "run.json")
    record = read_json(folder / "run.json")
    write_json(folder / "run.json", {**record, "budget": {"minutes": 0.02, "steps": 7, "seconds_per_step": 0.17}})
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)  # of the run itself: no step is measured
        patch.setattr("pretraining.training.run.minutes_in_steps", None)
        with pytest.raises(Killed):
            train(argv)
    (folder / "run.json").unlink()  # a checkpoint keeps it, too
    assert train(argv) == folder
    assert read_json(folder / "run.json")["step"] == 7
    assert outcome(folder) == outcome(train(arguments(tmp_path, steps=7)))


def test_several_processes_agree_on_the_steps_and_one_goes_on_with_them(tmp_path):
    argv = by_minutes(tmp_path, minutes=0.01, **{"run_folder": tmp_path / "run"})
    train([*arguments(tmp_path, steps=1)])  # prepares the text
    done = launch(argv, processes=2)
    assert done.wait(timeout=240) == 0, done.stderr.read()
    record = read_json(tmp_path / "run" / "run.json")
    assert record["budget"]["processes"] == 2
    assert record["step"] == record["budget"]["steps"]


@pytest.mark.parametrize("minutes", ["0", "-1"])
def test_minutes_that_are_none_are_refused(minutes, tmp_path):
    with pytest.raises(ZooError, match=r"train\.minutes.*above 0"):
        load_pretrain_config(by_minutes(tmp_path, minutes=minutes))


def test_one_budget_takes_the_place_of_another(tmp_path):
    train_config = load_pretrain_config(["--config", "bert-tiny", "--train.minutes", "5"]).value.train
    assert (train_config.minutes, train_config.tokens, train_config.steps) == (5, None, None)
    with pytest.raises(ZooError, match="exactly one budget out of steps, tokens, flops and minutes; found steps and"):
        load_pretrain_config(["--config", "bert-tiny", "--train.minutes", "5", "--train.steps", "3"])
