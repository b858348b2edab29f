"""Batches by tokens: every row once, little padding, the same after a kill and on two processes."""

import json

import numpy as np
import pytest
from ranks import Ranks
from training import Killed, arguments, interrupt_at, outcome, train, write_corpus

from pretraining.keyed_random import Draw
from pretraining.layouts.buckets import batches_by_tokens
from pretraining.training.checkpoint import find_checkpoint
from pretraining.training.config import TrainConfig
from pretraining.training.load_config import load_pretrain_config
from zoo.errors import ZooError

BY_TOKENS = {
    "train.batch_tokens": 500,
    "data.sequence_length": 40,
    "tasks.pairs.layout.class_path": "pretraining.layouts.FullSentences",
    "tasks.pairs.layout.init_args.cross_documents": "false",
    "objectives.next_sentence": "null",
    "tasks.pairs.objectives": "[masked_lm]",
    "train.validate_every": 0,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("buckets")
    write_corpus(folder, documents=8)
    return folder


@pytest.fixture(scope="module")
def ranks(place):
    with Ranks(place) as started:
        yield started


def parts(batches):
    return np.split(batches.order, batches.ends[:-1])


# --- the rule ---


@pytest.mark.parametrize(("count", "tokens"), [(1000, 400), (1000, 2000), (37, 90), (5, 1000), (1, 10)])
def test_every_row_is_in_one_batch_of_no_more_tokens(count, tokens):
    lengths = np.random.default_rng(0).integers(3, 50, count)
    batches = batches_by_tokens(lengths, tokens, Draw(1, 0))
    assert sorted(batches.order.tolist()) == list(range(count))
    assert batches.ends[-1] == count
    sizes = [len(part) for part in parts(batches)]
    padded = [len(part) * lengths[part].max() for part in parts(batches)]
    assert sum(size % 8 > 0 for size in sizes if size > 8) <= 1  # the one with the rows left over
    assert sum(number > max(tokens, 50) for number in padded) <= 1


def test_rows_of_like_length_come_together():
    lengths = np.random.default_rng(0).integers(3, 50, 4000)
    found = parts(batches_by_tokens(lengths, 1000, Draw(1, 0)))
    padding = 1 - lengths.sum() / sum(len(part) * lengths[part].max() for part in found)
    assert padding < 0.02
    longest = [lengths[part].max() for part in found]
    assert longest != sorted(longest)  # batches are not read from short to long


def test_epochs_differ_and_repeat():
    lengths = np.random.default_rng(0).integers(3, 50, 400)
    first = batches_by_tokens(lengths, 400, Draw(1, 0))
    assert (first.order == batches_by_tokens(lengths, 400, Draw(1, 0)).order).all()
    for other in (Draw(1, 1), Draw(2, 0)):
        assert (first.order != batches_by_tokens(lengths, 400, other).order).any()


# --- runs ---


def test_a_killed_run_ends_bit_for_bit_the_same(place, monkeypatch, tmp_path):
    argv = arguments(place, "bert", steps=25, **BY_TOKENS)
    expected = outcome(train([*argv, "--output", str(tmp_path / "whole")]))
    argv = [*argv, "--output", str(tmp_path / "killed"), "--train.prefetch", "yes"]
    for step in (4, 20):  # an epoch has fewer steps
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt_at(patch, step)
            train(argv)
    folder = train(argv)
    assert outcome(folder) == expected
    state = json.loads((find_checkpoint(folder) / "state.json").read_text())
    assert state["cursors"]["pairs"]["epoch"] > 0


def test_two_processes_read_the_same_rows(place, ranks, tmp_path):
    argv = arguments(place, "bert", steps=8, **BY_TOKENS)
    alone = train([*argv, "--output", str(tmp_path / "one")])
    code, out = ranks.run([*argv, "--output", str(tmp_path / "two")])
    assert code == 0, out
    (together,) = (tmp_path / "two").iterdir()
    logs = [[json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()] for f in (alone, together)]
    for one, two in zip(*logs, strict=True):
        if "loss" not in one:
            continue
        assert one["tokens"] == two["tokens"]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_more_processes_than_rows(place, ranks, tmp_path):
    more = {**BY_TOKENS, "train.batch_tokens": 20}
    code, out = ranks.run([*arguments(place, "bert", steps=8, **more), "--output", str(tmp_path / "two")])
    assert code != 0
    assert "raise train.batch_tokens" in out


def test_settings_that_do_not_go_together(place):
    with pytest.raises(ZooError, match="micro_batch_size = 4 has no meaning"):
        TrainConfig(steps=1, batch_tokens=100, micro_batch_size=4)
    memory = {
        "train.batch_tokens": 500,
        "train.steps": 2,
        "train.tokens": "null",
        "data.corpus.files": place / "text.txt",
    }
    argv = [part for key, value in memory.items() for part in (f"--{key}", str(value))]
    with pytest.raises(ZooError, match="cannot be put together by their lengths"):
        train(["--config", "transformer-xl-tiny", *argv, "--output", str(place / "memory")])
    assert load_pretrain_config(arguments(place)).value.train.batch_tokens is None
