"""What a run would be: one estimator behind ``--dry_run``, ``zoo plan`` and an ablation's ``--plan``."""

from __future__ import annotations

import re

import pytest
from accelerate import Accelerator
from training import arguments, train

from pretraining.tokenizer.load import load_tokenizer
from pretraining.tools.plan import advice, plan_command, plan_run, random_store, steps_of
from pretraining.training.assemble import make_tasks, with_vocabulary
from pretraining.training.budget import StepCost, make_trainer, measure_costs
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.model import build_model
from pretraining.training.stores import run_stores
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

COST = StepCost(0.1, 0.05, 100.0, 1e9, {1: 0.3, 4: 0.5, 16: 0.9}, 0.02, {})


def trainer_of(argv):
    config = load_pretrain_config(argv).value
    stores = run_stores(config, False)
    tokenizer = load_tokenizer(stores.main.path)
    core = with_vocabulary(config.model, tokenizer.vocabulary)
    model = build_model(core, config.objectives, tokenizer.vocabulary, 0, tokenizer).train()
    return make_trainer(config, Accelerator(cpu=True), model, make_tasks(config, stores, tokenizer.vocabulary)[0])


def test_costs_are_measured_at_all_sizes_and_leave_no_trace(tmp_path):
    trainer = trainer_of(arguments(tmp_path))
    before = {name: tensor.clone() for name, tensor in trainer.raw_model.state_dict().items()}
    cost = measure_costs(trainer, 60.0, 6, every=True)
    assert list(cost.passes) == [1, 2, 4, 6]
    assert 0 < cost.tokens <= 48
    assert cost.flops > 0
    assert cost.seconds(6, 6) == cost.passes[6]
    assert cost.seconds(12, 6) > cost.seconds(6, 6)
    after = trainer.raw_model.state_dict()
    assert all(tensor.equal(after[name]) for name, tensor in before.items())
    assert (trainer.micro_batch_size, trainer.accumulation) == (8, 1)
    assert trainer.config.train.batch_size == 8
    assert trainer.state.counters.step == 0
    assert not trainer.optimizer.state_dict()["state"]
    assert set(measure_costs(trainer, 60.0, 8).passes) == {1, 8}
    assert set(measure_costs(trainer, 1e-9, 8).passes) == {1, 2}  # two sizes in any case


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "gpt", "xlnet", "transformer-xl", "elmo"])
def test_a_text_that_is_not_prepared_is_stood_in_for(family, tmp_path):
    argv = ["--config", f"{family}-tiny", "--train.batch_size", "2"]
    argv += ["--data.stores", str(tmp_path / "stores"), "--output", str(tmp_path / "runs")]
    found = plan_run(load_pretrain_config(argv), measure=1e-9)
    assert found.cost is not None
    assert found.tokens == 0
    assert found.steps * found.cost.tokens * 2 == pytest.approx(20_000_000, rel=0.01)
    assert any(
        re.match(r"time: about .* s a step, .* tokens/s: measured on random text, since", x) for x in found.lines
    )
    assert list(tmp_path.iterdir()) == []


def test_a_text_whose_annotations_are_read_is_not_stood_in_for(tmp_path):
    argv = ["--config", "ernie-1-tiny", "--data.stores", str(tmp_path / "stores")]
    found = plan_run(load_pretrain_config(argv), measure=1e-9)
    assert (found.cost, found.seconds) == (None, None)
    assert any(line.startswith("time: unknown: it is measured once the text is prepared") for line in found.lines)


def test_random_text_has_a_store_s_parts(tmp_path):
    store = random_store(tmp_path / "store", Vocabulary(100, pad=0, unk=1, cls=2, sep=3, mask=4), 8, 48).main
    assert store.num_documents == 20
    assert store.num_tokens >= 8 * 48
    assert store.tokens.min() >= 5
    assert store.tokens.max() < 100
    assert store.counts[5] > store.counts[50]


@pytest.mark.parametrize(
    ("budget", "steps"), [("steps 7", 7), ("tokens 10000", 13), ("flops 1e11", 13), ("minutes 2", 240)]
)
def test_every_budget_makes_steps(budget, steps, tmp_path):
    key, value = budget.split()
    config = load_pretrain_config(arguments(tmp_path, **{"train.steps": "null", f"train.{key}": value})).value
    assert steps_of(config, tmp_path, COST, 0.5) == steps
    assert steps_of(config, tmp_path, None, None) == (steps if key == "steps" else None)


def test_a_run_by_minutes_keeps_its_steps(tmp_path):
    argv = arguments(tmp_path, **{"train.steps": "null", "train.minutes": 0.002})
    folder = train(argv)
    settings = load_pretrain_config(argv)
    found = plan_run(settings, measure=1e-9)
    assert found.cost is None  # it is finished
    assert steps_of(settings.value, folder, COST, 0.001) == found.steps >= 1


def test_advice_fits_the_hours(tmp_path):
    config = load_pretrain_config(arguments(tmp_path, **{"train.batch_size": 64})).value
    assert advice(config, COST, 0, None) == ["suggested: --train.micro_batch_size 16"]
    lines = advice(config, COST, 1_000_000, 10.0)
    assert lines[0] == "in 10 hours: about 10,909 steps of 64 rows, 69,817,600 tokens, 69.82 times the text"
    assert lines[-1] == "suggested: --train.batch_size 64 --train.micro_batch_size 16 --train.minutes 600"
    short = advice(config, COST, 0, 0.25)
    assert short[0].startswith("in 0.25 hours: about 1,000 steps of 16 rows")
    assert "batch: 64 rows would make fewer than 1,000 steps in that time" in short


def test_zoo_plan_says_what_fits(tmp_path, capsys):
    assert plan_command([*arguments(tmp_path), "--hours", "0.01", "--measure", "0.001"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("text: 1 file of ")
    assert shown[-1].startswith("suggested: --train.batch_size 8 --train.micro_batch_size ")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ZooError, match=r"hours.*above 0"):
        plan_command([*arguments(tmp_path), "--hours", "0"])
