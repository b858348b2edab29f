"""A budget of minutes: measured once, on steps that leave no trace, and the same after a resume; bits per byte."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import NamedTuple

import pytest
from training import Killed, arguments, finish, interrupt_at, log_lines, outcome, train

from pretraining.training import budget
from pretraining.training.compiled import CompiledCore
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.pretrain import pretrain
from pretraining.training.stores import TokenStores, run_stores
from zoo.errors import ZooError
from zoo.storage.files import read_json, write_json


def by_minutes(folder, family="bert", minutes=0.004, **more):
    return arguments(folder, family, **{"train.steps": "null", "train.minutes": minutes, **more})


@pytest.mark.parametrize("family", ["bert", "transformer-xl"])
def test_measuring_leaves_no_trace(family, tmp_path):
    more = {} if family == "bert" else {"model.mem_len": 24, "data.sequence_length": 24}
    folder = train(by_minutes(tmp_path, family, **more))
    record = read_json(folder / "run.json")
    made = record["budget"]
    assert record["step"] == made["steps"] >= 1
    assert made["steps"] == max(1, round(60 * 0.004 / made["seconds_per_step"]))
    assert made["warm_up_steps"] == 3
    assert 1 <= made["measured_steps"] <= 10
    other = train(arguments(tmp_path, family, steps=made["steps"], **more))
    assert other != folder
    assert outcome(other) == outcome(folder)


def test_nothing_is_compiled_while_steps_are_measured(tmp_path, monkeypatch):
    """A memory of four rows is full, so compiled for, after more steps than warm up otherwise."""
    taken = []

    def take(trainer, count):
        before = trainer.raw_model.compiled.compilations
        steps = original(trainer, count)
        taken.append((count, trainer.raw_model.compiled.compilations - before))
        return steps

    original = budget.take_steps
    monkeypatch.setattr(budget, "take_steps", take)
    monkeypatch.setattr("pretraining.training.run.CompiledCore", partial(CompiledCore, backend="eager"))
    more = {"model.mem_len": 96, "data.sequence_length": 24, "train.compile": "yes"}
    train(by_minutes(tmp_path, "transformer-xl", **more))
    assert taken[0][1] >= 1
    assert taken[1] == (4 + 3, 0)
    assert taken[2][0] >= 4 + 1
    assert taken[2][1] == 0


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Command line and folder of a run by minutes with 7 steps on record, of which 4 are done."""
    argv = by_minutes(tmp_path, minutes=0.02)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 0)  # the first warm-up step
        with pytest.raises(Killed):
            train(argv)
    folder = next((tmp_path / "runs").iterdir())
    record = read_json(folder / "run.json")
    assert "budget" not in record
    write_json(folder / "run.json", {**record, "budget": {"minutes": 0.02, "steps": 7, "seconds_per_step": 0.17}})
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)  # of the run itself: no step is measured
        patch.setattr("pretraining.training.run.minutes_in_steps", None)
        with pytest.raises(Killed):
            train(argv)
    return argv, folder


def test_a_resumed_run_measures_nothing_and_ends_alike(begun, tmp_path):
    argv, folder = begun
    (folder / "run.json").unlink()  # a checkpoint keeps it, too
    assert train(argv) == folder
    assert read_json(folder / "run.json")["step"] == 7
    assert outcome(folder) == outcome(train(arguments(tmp_path, steps=7)))


def test_more_processes_go_on_to_the_same_step(begun, warm):
    argv, folder = begun
    finish(warm.launch(argv, processes=2))
    record = read_json(folder / "run.json")
    assert (record["step"], record["processes"], record["finished"]) == (7, 2, True)


def test_several_processes_agree_on_the_steps(warm, tmp_path):
    argv = by_minutes(tmp_path, minutes=0.01, **{"run_folder": tmp_path / "run"})
    train([*arguments(tmp_path, steps=1)])  # prepares the text
    finish(warm.launch(argv, processes=2))
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


# ---- bits per byte ---------------------------------------------------------------------------------------------------


def test_losses_of_tokens_are_said_in_bits_per_byte(tmp_path, capsys):
    settings = load_pretrain_config(arguments(tmp_path, steps=2))
    folder = pretrain(settings, show=True)
    store = run_stores(settings.value, False).main
    lines = (tmp_path / "text.txt").read_bytes().split(b"\n")
    assert store.meta["text_bytes"] == sum(map(len, lines))  # of the lines, without what ends them
    each = math.log(2) * store.meta["text_bytes"] / store.num_tokens
    trained, held_out = log_lines(folder)[0], log_lines(folder)[-1]["validation"]
    assert trained["bits_per_byte"] == {"masked_lm": pytest.approx(trained["terms"]["masked_lm"] / each)}
    assert held_out["bits_per_byte"] == {"masked_lm": pytest.approx(held_out["terms"]["masked_lm"]["loss"] / each)}
    shown = capsys.readouterr().err
    loss, bits = held_out["terms"]["masked_lm"]["loss"], held_out["bits_per_byte"]["masked_lm"]
    by_frequency = json.loads((folder / "run.json").read_text())["frequency_loss"]["masked_lm"]
    assert f"masked_lm {loss:.3f} (by frequency {by_frequency:.2f}, {bits:.3f} bits per byte)" in shown


def test_a_text_of_unknown_bytes_has_no_bits_per_byte(tmp_path):
    train(arguments(tmp_path, steps=1))
    (path,) = (tmp_path / "stores").glob("*/meta.json")
    meta = read_json(path)
    del meta["text_bytes"]
    write_json(path, meta)
    folder = train(arguments(tmp_path, steps=2))
    assert all("bits_per_byte" not in line | line.get("validation", {}) for line in log_lines(folder))


def test_several_texts_have_no_common_bits_per_byte():
    stores = TokenStores(Text("a", 4.0), {"other": Text("b", 4.0), "same": Text("a", 4.0)})
    assert stores.bits_per_byte(["main", "same"], math.log(2)) == pytest.approx(0.25)
    assert stores.bits_per_byte(["main", "other"], 1.0) is None
    assert stores.bits_per_byte(["other"], math.log(2)) == pytest.approx(0.25)


class Text(NamedTuple):
    """A store, as far as bytes go."""

    fingerprint: str
    bytes_per_token: float
