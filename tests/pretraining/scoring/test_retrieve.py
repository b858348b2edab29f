"""Retrieval of translations: the measure itself, whose states it reads, and which pairs are compared."""

import json

import numpy as np
import pytest
import torch
from pair_toys import sentences, translation_arguments
from training import train

from pretraining.layouts.gather import examples_from_tokens
from pretraining.objectives.base import base_inputs
from pretraining.scoring.retrieve import distinct_pairs, retrieval, retrieve_command, sentence_states
from pretraining.tokenizer.load import load_tokenizer
from zoo.errors import ZooError
from zoo.model_folder import load_core


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A few steps of a translation language model, both tasks on one parallel corpus."""
    folder = tmp_path_factory.mktemp("run")
    return train(translation_arguments(folder, 4, run_folder=folder / "run"))


def test_the_measure_on_states_that_are_known():
    rng = np.random.default_rng(1)
    states = rng.normal(size=(300, 16))
    same = retrieval(states, 3 * states + 5.0)
    assert same == {"forward": 1.0, "backward": 1.0, "mean": 1.0, "chance": 1 / 300}
    unlike = retrieval(states, rng.normal(size=(300, 16)))
    assert unlike["mean"] < 0.03
    assert retrieval(states, states + 50.0, center=False)["mean"] < 0.9  # what all have in common drowns the rest
    assert retrieval(np.ones((5, 3)), np.ones((5, 3)))["mean"] == pytest.approx(0.2)  # all alike: guessing


def test_directions_are_told_apart():
    queries = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    candidates = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    found = retrieval(queries, candidates, center=False)
    assert found["forward"] == 1.0
    assert found["backward"] == pytest.approx(2 / 3)


def test_states_are_means_over_the_text_alone(run):
    core, metadata = load_core(run)
    core.eval()
    tokenizer = load_tokenizer(run)
    texts = [ids for ids, _ in tokenizer.encode_batch(["the red dog runs", "the cat"])]
    for layer in (None, 0, 1):
        found = sentence_states(core, tokenizer, metadata.template.single, texts, 1, layer, batch_size=1)
        both = sentence_states(core, tokenizer, metadata.template.single, texts, 1, layer)
        assert np.abs(found - both).max() < 1e-5
        v = tokenizer.vocabulary
        rows = examples_from_tokens([(texts[0], np.zeros(len(texts[0])))], v, [v.cls], [v.sep])
        rows = rows.replace(token_type_ids=np.ones(rows.shape, dtype=np.int32))
        with torch.no_grad():
            output = core(base_inputs(rows), output_hidden_states=True)
        states = output.last_hidden_state if layer is None else output.hidden_states[layer]
        assert np.abs(found[0] - states[0, 1:-1].mean(0).numpy()).max() < 1e-5
    with pytest.raises(ZooError, match="this model has 2 layers"):
        sentence_states(core, tokenizer, metadata.template.single, texts, 1, 3)


def test_a_sentence_is_compared_once():
    ids = [np.array(x) for x in ([1, 2], [3], [1, 2], [4], [5])]
    other = [np.array(x) for x in ([6], [7], [8], [7], [9])]
    assert distinct_pairs(ids, other) == [0, 1, 4]


def test_pairs_that_a_run_held_out_and_pairs_of_a_file(run, tmp_path, capsys):
    assert retrieve_command([str(run)]) == 0
    held_out = json.loads((run / "retrieval.json").read_text())
    assert 5 < held_out["pairs"] < 40
    assert held_out["chance"] == 1 / held_out["pairs"]
    table = tmp_path / "pairs.tsv"
    table.write_text("".join(f"{one}\t{other}\n" for one, other in sentences()[:50]), encoding="utf-8")
    output = tmp_path / "out.json"
    argv = [str(run), "--pairs", str(table), "--layer", "1", "--limit", "30", "--output", str(output)]
    assert retrieve_command(argv) == 0
    assert json.loads(output.read_text())["pairs"] == 30
    assert "among 30 pairs" in capsys.readouterr().out
    same = tmp_path / "same.tsv"
    same.write_text("".join(f"{one}\t{one}\n" for one, _ in sentences()[:50]), encoding="utf-8")
    assert retrieve_command([*argv[:2], str(same), *argv[3:], "--languages", "[en, en]"]) == 0
    assert json.loads(output.read_text())["mean"] == 1.0


def test_what_cannot_be_compared_is_refused(run, tmp_path):
    table = tmp_path / "pairs.tsv"
    table.write_text("a cat\teine katze\na cat\tein hund\n")
    with pytest.raises(ZooError, match="there are 1 pairs of different sentences"):
        retrieve_command([str(run), "--pairs", str(table)])
    with pytest.raises(ZooError, match=r"two of the run's are needed \(en, de\)"):
        retrieve_command([str(run), "--languages", "[en, fr]"])
