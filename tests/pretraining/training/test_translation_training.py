"""Training of encoder-decoders: stock Marian's losses, exact resume, the same on two processes."""

import json
import sys

import pytest
from places import ROOT
from ranks import Ranks
from training import Killed, interrupt_at, outcome, train, write_corpus

from pretraining.training.load_config import load_pretrain_config, run_folder_of
from zoo.model_folder import read_metadata

sys.path.insert(0, str(ROOT))
from benchmarks.translation import both_curves

TINY = {
    "model.hidden_size": 32,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 64,
    "data.tokenizer.vocab_size": 600,
}
TASKS = {
    "transformer-tiny": {"train.batch_tokens": 300, "data.corpus.files": "zoo:sample/pairs/en-zh.tsv"},
    "bart-tiny": {"train.batch_size": 4, "data.sequence_length": 32},
    "t5-tiny": {"train.batch_size": 4, "data.sequence_length": 40, "model.head_dim": 16},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translation")
    write_corpus(folder, documents=6)
    return folder


def words(place, name, **more):
    values = {
        **TINY,
        "data.corpus.files": place / "text.txt",
        "data.stores": place / "stores",
        "data.processes": 1,
        "data.validation_tokens": 500,
        "train.steps": 8,
        "train.tokens": "null",
        "train.log_every": 1,
        "train.save_every": 3,
        "train.validate_every": 0,
        "train.threads": 1,
        "train.precision": "fp32",
        **TASKS[name],
        **more,
    }
    return ["--config", name, *(word for key, value in values.items() for word in (f"--{key}", str(value)))]


def test_losses_are_stock_marians_on_the_same_batches(tmp_path):
    """The same initial values and batches, dropout 0: to rounding (benchmarks/translation.py has 200 steps)."""
    found = both_curves(tmp_path, 6, {**TINY, "train.batch_tokens": 300})
    assert found.ours == pytest.approx(found.theirs, abs=2e-5)
    assert found.ours[-1] < found.ours[0]


@pytest.mark.parametrize("name", TASKS)
def test_a_killed_run_ends_bit_for_bit_the_same(place, name, monkeypatch, tmp_path):
    expected = outcome(train([*words(place, name), "--output", str(tmp_path / "whole")]))
    argv = [*words(place, name), "--output", str(tmp_path / "killed"), "--train.prefetch", "yes"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 5)
        train(argv)
    assert outcome(train(argv)) == expected
    metadata = read_metadata(run_folder_of(load_pretrain_config(argv)))
    assert metadata.decoder_start_token_id is not None


def test_two_processes_train_on_the_same_targets(place, tmp_path):
    argv = words(place, "transformer-tiny", **{"model.hidden_dropout_prob": 0.1})
    alone = train([*argv, "--output", str(tmp_path / "one")])
    with Ranks(place) as ranks:
        code, out = ranks.run([*argv, "--output", str(tmp_path / "two")])
    assert code == 0, out
    (together,) = (tmp_path / "two").iterdir()
    logs = [[json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()] for f in (alone, together)]
    for one, two in zip(*logs, strict=True):
        assert one["tokens"] == two["tokens"]
        if "loss" in one:
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
