"""Scores of sentences where no run.json names an objective: the head's facts and the attention say enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from training import FAMILIES

from pretraining.scoring.score import score_command
from pretraining.scoring.scorer import Scorer
from zoo.errors import ZooError
from zoo.weights.commands import export_folder, import_folder

SENTENCES = ["A dog barks.", "Dog a barks.", "The river flows through the town and past its old mill.", "town"]


@pytest.fixture(scope="module")
def runs(shared) -> dict[str, Path]:
    return {family: shared.finished_run(family) for family in FAMILIES}


def without_record(run: Path, target: Path) -> Path:
    """The run as a model folder and no more."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("checkpoints", "run.json", "*.jsonl"))
    return target


def changed_facts(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("family", ["xlnet", "elmo"])
def test_heads_of_other_kinds_are_asked_as_they_were_trained(shared, tmp_path, family):
    """A core with a second stream, never by masks; two halves of states, each for its own direction."""
    run = shared.finished_run(family)
    expected = Scorer(run)
    bare = Scorer(without_record(run, tmp_path / "bare"))
    assert type(bare.objective) is type(expected.objective)
    assert np.array_equal(bare.score(SENTENCES), expected.score(SENTENCES))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_a_record_scores_as_its_run_does(runs, family, tmp_path):
    expected = Scorer(runs[family]).score(SENTENCES)
    assert np.array_equal(Scorer(without_record(runs[family], tmp_path / "bare")).score(SENTENCES), expected)
    export_folder(runs[family], tmp_path / "out")
    import_folder(tmp_path / "out", tmp_path / "in")
    assert np.array_equal(Scorer(tmp_path / "in").score(SENTENCES), expected)
    assert len(set(expected.tolist())) == len(SENTENCES)


def test_the_rule_follows_from_visibility(runs, tmp_path):
    """A token head is described alike on both sides; the attention pattern decides how it is asked."""
    folder = without_record(runs["gpt"], tmp_path / "model")
    causal = Scorer(folder)
    other = Scorer(changed_facts(folder, attention="bidirectional"))
    assert type(causal.objective) is not type(other.objective)
    assert (other.score(SENTENCES) != causal.score(SENTENCES)).all()


def test_the_command_takes_an_imported_model(runs, tmp_path, capsys):
    export_folder(runs["bert"], tmp_path / "out")
    import_folder(tmp_path / "out", tmp_path / "in")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "order.jsonl").write_text(json.dumps({"sentence_good": SENTENCES[0], "sentence_bad": SENTENCES[1]}) + "\n")
    assert score_command([str(tmp_path / "in"), "--pairs", str(pairs)]) == 0
    good, bad = Scorer(tmp_path / "in").score(SENTENCES[:2])
    stored = json.loads((tmp_path / "in" / "scores.json").read_text())
    assert stored["objective"] == "masked_lm"
    assert stored["pairs"]["paradigms"]["order"] == {"accuracy": float(good > bad), "pairs": 1}
    assert "by masked_lm" in capsys.readouterr().out


def test_a_model_that_cannot_score_says_why(runs, tmp_path):
    folder = without_record(runs["bert"], tmp_path / "model")
    with pytest.raises(ZooError, match=r"head 'mask_lm' of .* these do: \['masked_lm'\]. Did you mean 'masked_lm'"):
        Scorer(folder, "mask_lm")
    with pytest.raises(ZooError, match=r"head 'next_sentence' of .* does not score"):
        Scorer(folder, "next_sentence")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("[MASK]", "[HIDE]"))
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ZooError, match="no mask token"):
        Scorer(folder)
    pair = {"kind": "pair", "num_labels": 2, "dense": "pooler", "bias": True}
    with pytest.raises(ZooError, match=r"no head that scores sentences; .* its heads are: next_sentence \(pair\)"):
        Scorer(changed_facts(folder, heads={"next_sentence": pair}))
    with pytest.raises(ZooError, match="its heads are: none"):
        Scorer(changed_facts(folder, heads={}))
