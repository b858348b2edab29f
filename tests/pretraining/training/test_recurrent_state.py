"""What a core remembers between steps: carried by the loop, kept in checkpoints, the same in 1 and 2 processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stores import BERT_LIKE, synthetic_store
from training import Killed, arguments, finish, interrupt_at, log_lines, outcome, train

from pretraining.keyed_random import Draw
from pretraining.layouts.segments import Segments
from pretraining.objectives.base import base_inputs
from pretraining.training.state import RecurrentState
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.model_folder import open_weights

FAMILIES = ("transformer-xl", "xlnet", "apart")  # the last one: documents that do not see each other


def remembering(folder: Path, family: str, **more: object) -> list[str]:
    """A tiny run whose core remembers."""
    facts = {"model.mem_len": 24, "data.sequence_length": 48, "train.batch_size": 4, "train.micro_batch_size": 2}
    if family == "xlnet":
        facts |= {"model.reuse_len": 24}
    if family == "apart":
        family = "transformer-xl"
        facts |= {"tasks.segments.layout.init_args.across_documents": "false"}
    return arguments(folder, family, **{**facts, "steps": 10, "train.save_every": 4, **more})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("carry")


@pytest.fixture(scope="module")
def runs(place):
    return {family: train(remembering(place, family, output=place / "whole")) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_goes_on_with_what_it_remembered(place, runs, monkeypatch, family, tmp_path):
    argv = remembering(place, family, output=tmp_path, **{"train.prefetch": "yes"})
    for step in (3, 6, 9):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(Killed):
                train(argv)
    assert outcome(train(argv)) == outcome(runs[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_forgetting_changes_the_losses(place, runs, family, tmp_path):
    without = train(remembering(place, family, output=tmp_path, **{"model.mem_len": 0, "model.reuse_len": "null"}))
    first, second = ([row["loss"] for row in log_lines(run) if "terms" in row] for run in (runs[family], without))
    assert first[1:] != second[1:]


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoints_hold_every_global_row(runs, family):
    found = load_file(next((runs[family] / "checkpoints").glob("step-*8")) / "recurrent_state.safetensors")
    assert found
    assert {len(tensor) for tensor in found.values()} == {4}
    assert any(tensor.is_floating_point() and tensor.abs().max() > 0 for tensor in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_remember_the_same(place, runs, family, warm, tmp_path):
    assert "2 processes" in finish(warm.launch(remembering(place, family, output=tmp_path), processes=2))
    two = next(tmp_path.iterdir())
    first, second = open_weights(runs[family]), open_weights(two)
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-5
    losses = [
        [row["validation"]["loss"] for row in log_lines(run) if "validation" in row] for run in (runs[family], two)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_too_few_rows_for_the_streams(place, tmp_path):
    with pytest.raises(ZooError, match="parallel rows"):
        train(remembering(place, "transformer-xl", output=tmp_path, **{"train.batch_size": 4096}))


class _Several:
    """Stands for one of several processes."""

    def __init__(self, rank: int, count: int) -> None:
        self.process_index, self.num_processes, self.device = rank, count, torch.device("cpu")


def test_any_number_of_processes_takes_its_share():
    rows = {"memory": torch.arange(24.0).view(12, 2)}
    seen = []
    for rank in range(3):
        kept = RecurrentState(2, _Several(rank, 3))  # type: ignore[arg-type]
        kept.unpack(rows, epoch=5)
        for number, state in enumerate(kept.states):
            start = (number * 3 + rank) * 2
            assert torch.equal(state["memory"], rows["memory"][start : start + 2])
            seen += range(start, start + 2)
        kept.begin(5)
        assert kept.states[0] is not None
        kept.begin(6)
        assert kept.states == [None, None]
    assert sorted(seen) == list(range(12))
    with pytest.raises(ZooError, match="cannot share"):
        RecurrentState(5, _Several(0, 1)).unpack(rows, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("separator", [False, True])
def test_documents_apart_are_read_as_if_each_stood_alone(tmp_path, separator):
    """Row after row with memory, against each document in one row: the same states, whatever stood before."""
    store = synthetic_store(tmp_path, count=12, sentences=(1, 5), length=(1, 9))
    config = CoreConfig(
        vocab_size=BERT_LIKE.size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        position_type="relative",
        mem_len=400,
        type_vocab_size=0,
    )
    core = build_core(config, 0).double().eval()
    layout, vocabulary = Segments(separator=separator, across_documents=False), BERT_LIKE
    layout.parallel_rows = 1
    plan = layout.plan(store, np.arange(12), 10, vocabulary, Draw(0, 0))
    state, found, documents = None, [], []
    with torch.no_grad():
        for number in range(len(plan)):
            rows = layout.rows(store, plan, np.array([number]), 10, vocabulary)
            inputs = base_inputs(rows)
            output = core(inputs._replace(attention_pattern=inputs.attention_pattern._replace(causal=True)), state)
            state = output.state
            found.append(output.last_hidden_state[0])
            documents.append(rows.token_document[0])
        found, documents = torch.cat(found), np.concatenate(documents)
        bounds = store.document_tokens()
        for number in range(documents[-1]):  # the last one may be cut
            ids = store.tokens[bounds[number] : bounds[number + 1]].tolist() + [vocabulary.sep] * separator
            alone = core(CoreInputs(torch.tensor([ids]), AttentionPattern(causal=True))).last_hidden_state[0]
            assert (documents == number).sum() == len(ids)
            torch.testing.assert_close(found[documents == number], alone, rtol=0, atol=1e-12)
    with pytest.raises(ZooError, match="tell their documents apart"):
        core(CoreInputs(torch.tensor([[7, 8]]), AttentionPattern(causal=True)), state)
