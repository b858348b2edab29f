"""The throughput benchmark compares like with like, and that for a GPU runs. Nothing here asserts a time."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from places import ROOT

from zoo.config import CoreConfig
from zoo.core.flops import core_flops, token_head_flops, training_flops

SCRIPT = ROOT / "benchmarks" / "throughput.py"
TINY = {"layers": 1, "hidden": 32, "heads": 2, "vocab": 400, "length": 32, "batch": 8, "steps": 8, "warmup": 2}
ARGV = [text for key, value in TINY.items() for text in (f"--{key}", str(value))] + ["--threads", "1", "--lr", "5e-3"]


def load(name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def throughput():
    return load("throughput")


@pytest.fixture
def options(throughput):
    threads = torch.get_num_threads()
    yield throughput.parse([*ARGV, "--precision", "fp32"])
    torch.set_num_threads(threads)


def test_both_arms_do_the_same_work(throughput, options, tmp_path):
    store = throughput.make_store(tmp_path / "stores", options.vocab, 200, options.length)
    (tmp_path / "ours").mkdir()
    (tmp_path / "peer").mkdir()
    ours = throughput.run_ours(options, store, tmp_path / "ours")
    peer = throughput.run_peer(options, store, tmp_path / "peer", "fp32")
    assert ours["parameters"] == peer["parameters"]
    assert ours["steps"] == peer["steps"] == 10
    assert ours["threads"] == peer["threads"] == 1
    for arm in (ours, peer):
        # Ours is exact to a row; the peer hides each token with probability 0.15: two steps, six deviations.
        tokens = options.batch * options.length
        assert abs(arm["targets_per_step"] - 0.15 * tokens) < 6 * (0.15 * 0.85 * tokens / 2) ** 0.5
        assert abs(arm["first_loss"] - np.log(options.vocab)) < 1.0
        assert arm["last_loss"] < arm["first_loss"]
        assert arm["peak_mb"] >= arm["before_mb"] > 0


def test_both_arms_read_the_same_rows(throughput, options, tmp_path):
    from pretraining.keyed_random import Draw
    from pretraining.layouts.blocks import Blocks
    from pretraining.tokenizer.load import load_tokenizer

    store = throughput.make_store(tmp_path, options.vocab, 60, options.length)
    vocabulary = load_tokenizer(store.path).vocabulary
    assert vocabulary.size == options.vocab
    layout = Blocks()
    plan = layout.plan(store, np.arange(store.num_documents), options.length, vocabulary, Draw(0, 0))
    rows = layout.rows(store, plan, np.arange(len(plan)), options.length, vocabulary)
    assert np.array_equal(rows.input_ids, throughput.blocks(store, options.length))
    counts = np.asarray(store.counts)
    assert counts[:5].sum() == 0  # no special tokens
    assert counts[5] > 4 * counts[25]  # Zipf


def test_products_are_the_steps_counted_operations(throughput, options):
    config = CoreConfig(**throughput.core_fields(options), pooler=False)
    targets = round(throughput.MASK_RATE * options.batch * options.length)
    core = core_flops(config, options.batch, options.length, outputs=options.batch * throughput.outputs(options))
    forward = core + token_head_flops(config, targets, transform=True)
    timed = sum(2 * times * batch * m * k * n for times, batch, m, k, n in throughput.products(options))
    assert timed == training_flops(forward) == throughput.step_flops(options)


def arm(speed, peak=500.0, **changes):
    facts = {
        "tokens_per_second": speed, "seconds_per_step": 100 / speed, "cpu_seconds_per_step": 100 / speed,
        "peak_mb": peak, "before_mb": 100.0, "device_mb": None, "parameters": 7, "targets_per_step": 15.0,
        "first_loss": 6.0, "last_loss": 5.0, "product_rate": 1000.0,
    }  # fmt: skip
    return {**facts, **changes}


def test_summary(throughput):
    rounds = [
        {"ours": arm(speed), "peer-fp32": arm(peer, 900.0)} for speed, peer in ((300, 100), (400, 100), (330, 110))
    ]
    found = throughput.summarise(rounds, flops=100)
    ratio = found["ratios"]["peer-fp32"]
    assert ratio["of_medians"] == pytest.approx(3.3)
    assert ratio["pairs"] == pytest.approx({"median": 3.0, "min": 3.0, "max": 4.0})
    assert ratio["cpu_time"] == pytest.approx(3.0)
    assert ratio["peak_memory"] == pytest.approx(5 / 9)
    assert ratio["memory_of_training"] == pytest.approx(0.5)
    assert found["share_of_product_rate"] == pytest.approx({"median": 0.33, "min": 0.3, "max": 0.4})
    assert throughput.problems(found) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last_loss": 6.0}, "did not fall"),
        ({"parameters": 8}, "8 parameters"),
        ({"targets_per_step": 10.0}, "predicts 10 tokens"),
    ],
)
def test_an_arm_that_does_less_is_reported(throughput, changes, message):
    found = throughput.summarise([{"ours": arm(3), "peer-bf16": arm(1, **changes)}], flops=100)
    assert message in throughput.problems(found)[0]
    assert "WARNING" in throughput.report(found)


def test_steps_that_were_not_done_are_an_error(throughput, options):
    clock = throughput.Clock(options.warmup, options.steps)
    for _ in range(options.steps):
        clock.step_ended()
    with pytest.raises(SystemExit, match="8 steps were done instead of 10"):
        clock.result(options, [1.0], 1, 1.0)


@pytest.mark.slow
def test_the_command(throughput, tmp_path, capsys):
    """Its parent in this process, each arm in one of its own."""
    output = tmp_path / "figures.json"
    throughput.main([*ARGV, "--rounds", "1", "--peer-precision", "fp32", "--output", str(output)])
    assert "bf16 in hardware: " in capsys.readouterr().out
    record = json.loads(output.read_text())
    assert set(record["arms"]) == {"ours", "peer-fp32"}
    assert record["rounds"][0]["ours"]["steps"] == 10


# ---- one call on a GPU -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_gpu_benchmark_runs_every_part_at_toy_size(tmp_path, capsys):
    """On any machine; what fails is told in the file instead of ending it, so that is looked for."""
    gpu, threads = load("gpu"), torch.get_num_threads()
    output = tmp_path / "gpu.json"
    try:
        gpu.main(["--toy", "--threads", "1", "--output", str(output)])
    finally:
        torch.set_num_threads(threads)
    record = json.loads(output.read_text())
    arms = record["4/256"]
    measured = {name: one for name, one in arms.items() if isinstance(one, dict) and "tokens_per_second" in one}
    assert {"ours", "ours, fp32", "trainer, as shipped", "trainer, bf16", "trainer, best tuning"} <= set(measured)
    assert len({one["parameters"] for one in measured.values()}) == 1
    assert measured["ours"]["mfu"] > 0
    assert arms["best_of_ours_by"]["trainer, as shipped"] > 0
    assert set(record["loader"]) == {"token masks", "took_seconds"}
    assert record["host_waits"]["operations"] == []
    assert record["document_masks"]["apart"] < 1e-3
    assert "error" not in json.dumps(record)


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--toy runs every part"):
        load("gpu").main([])


def test_minutes_that_are_used_up_skip_what_is_left():
    gpu = load("gpu")
    assert gpu.attempt(lambda: {"figure": 1}, lambda: 0.0) == {"skipped": "the minutes are used up"}
    assert gpu.attempt(lambda: 1 / 0, lambda: 1.0) == {"error": "ZeroDivisionError: division by zero"}


@pytest.mark.parametrize(
    ("task", "peer", "loss"),
    [("rte", "run_glue", np.log(2)), ("squad", "run_qa", 5.4), ("conll", "run_ner", np.log(9))],
)
def test_both_arms_fine_tune_the_same_rows(task, peer, loss, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    finetuning, threads = load("finetuning"), torch.get_num_threads()
    shape = {"layers": 1, "hidden": 32, "heads": 2, "vocab": 200, "rows": 72, "rounds": 1, "threads": 1}
    argv = [text for key, value in shape.items() for text in (f"--{key}", str(value))]
    finetuning.main([*argv, "--tasks", task, "--output", str(tmp_path / "figures.json")])
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "figures.json").read_text())["found"][task]
    assert set(found["arms"]) == {"ours", "ours-fp32", peer}
    for arm, one in found["arms"].items():
        assert len(one["seconds"]) == len(one["losses"]) == 1
        assert all(
            abs(own - loss) < 0.2 * loss for own in one["losses"]
        )  # random labels; the peer's windows score padding, too
        speed = found["times_peer"][arm]["examples_per_second"]
        assert speed["max"] == pytest.approx(72 / min(clock for clock, _ in one["seconds"]))
    assert found["times_peer"][peer]["clock"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    lengths = finetuning.row_lengths("rte", 4000)
    assert lengths.max() == 128
    assert 60 < lengths.mean() < 66
