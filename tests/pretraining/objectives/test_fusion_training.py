"""Runs with entities: the real loop, exact resume, two processes, a start from BERT, what a run folder keeps."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from entity_toys import entity_arguments, make_table
from toys import SINGLE, make_data
from training import (
    Killed,
    arguments,
    assert_same_course,
    finish,
    first_weights,
    interrupt_at,
    log_lines,
    outcome,
    train,
)

from finetune.config import FinetuneSettings
from finetune.training.run import finetune
from pretraining.scoring.scorer import Scorer
from pretraining.store.prepare import prepare_from_ids
from pretraining.store.token_store import Store
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.load_config import load_pretrain_config, run_folder_of
from pretraining.training.run import Run
from zoo.cli import dispatch
from zoo.errors import ZooError
from zoo.model_folder import load_core, open_weights, pack_model, read_metadata
from zoo.storage.entity_table import open_entities
from zoo.storage.tensors import open_tensors
from zoo.weights.commands import export_folder, import_folder

STEPS = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("entities")


@pytest.fixture(scope="module")
def own(place):
    """What entities need on the command line."""
    return entity_arguments(place, documents=40)


def argv_of(place, own, steps=STEPS, **more):
    argv = arguments(place, "bert", steps, **{"train.micro_batch_size": 2, "model.vocab_size": "null", **more})
    argv[1] = "ernie-thu-tiny"
    return [*argv, *own]


@pytest.fixture(scope="module")
def finished(place, own):
    return train(argv_of(place, own))


@pytest.fixture(scope="module")
def bert(place):
    return train(arguments(place, "bert", 2, **{"model.num_hidden_layers": 2, "train.validate_every": 0}))


def value_of(argv: list[str], key: str) -> str:
    return argv[len(argv) - argv[::-1].index(f"--{key}")]


def test_a_run_learns_of_entities_and_keeps_their_table(finished, own):
    lines = [line for line in log_lines(finished) if "terms" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert set(lines[0]["terms"]) == {"masked_lm", "next_sentence", "entities"}
    assert json.loads((finished / "run.json").read_text())["finished"]
    kept, given = open_entities(finished), open_entities(value_of(own, "objectives.entities.init_args.entities"))
    assert kept.names == given.names
    assert (kept.vectors == given.vectors).all()
    tensors = open_weights(finished)
    assert not any(tuple(tensors[name].shape) == kept.vectors.shape for name in tensors)
    saved = [open_tensors(path) for path in (finished / "checkpoints").rglob("*.safetensors")]
    assert saved
    assert not any("vectors" in name for file in saved for name in file)
    assert read_metadata(finished).heads["entities"] == {"kind": "entity"}


def test_longer_training_guesses_entities_better_than_chance(place, own, tmp_path):
    """An entity follows from its token here, so that those which were removed can be found again."""
    folder = train(argv_of(place, own, 40, output=tmp_path, **{"train.lr": 3e-3, "train.micro_batch_size": 8}))
    losses = [line["terms"]["entities"] for line in log_lines(folder) if "terms" in line]
    assert np.mean(losses[-5:]) < 0.75 * losses[0]


def test_interrupted_and_continued_is_bit_identical(place, own, finished, monkeypatch, tmp_path):
    argv = argv_of(place, own, output=tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 5)
        train(argv)
    assert outcome(train(argv)) == outcome(finished)


def test_other_vectors_cannot_continue_a_run(place, own, monkeypatch, tmp_path):
    table = tmp_path / "table"
    shutil.copytree(value_of(own, "objectives.entities.init_args.entities"), table)
    argv = [*argv_of(place, own, output=tmp_path), "--objectives.entities.init_args.entities", str(table)]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 4)
        train(argv)
    make_table(table, seed=9)
    with pytest.raises(ZooError, match="was started with other entities"):
        train(argv)


def test_accumulation_changes_nothing(place, own, finished, tmp_path):
    """Candidates are the row's own: the loss is the same however rows are put together."""
    other = train(argv_of(place, own, output=tmp_path, **{"train.micro_batch_size": 8}))
    assert_same_course(finished, other)


@pytest.mark.slow
def test_two_processes_take_the_same_course_as_one(place, own, finished, warm, tmp_path):
    argv = argv_of(place, own, output=tmp_path)
    assert "2 processes x 1 threads" in finish(warm.launch(argv, processes=2))
    folder = run_folder_of(load_pretrain_config(argv))
    assert json.loads((folder / "run.json").read_text())["processes"] == 2
    assert_same_course(folder, finished)


def test_a_run_starts_from_bert(place, own, bert, monkeypatch, tmp_path):
    """Tokens' weights are BERT's, what entities need starts afresh, with a fresh run's values."""
    pairs = list(pairwise(argv_of(place, own, output=tmp_path)))
    said = [w for key, value in pairs[::2] if not key.startswith("--model.") or "fusion" in key for w in (key, value)]
    argv = [*said, "--init_from.model", str(bert)]
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(bert)
    assert set(weights) <= set(found)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    new = set(found) - set(weights)
    assert all(".fusion." in name or name.startswith("heads.entities.") for name in new)
    assert report["left"] == []
    fresh = first_weights_of_a_new_run(monkeypatch, argv_of(place, own, output=tmp_path / "fresh"))
    assert all(torch.equal(found[name], fresh[name]) for name in new)
    config = load_pretrain_config(argv).value.model
    assert config.fusion.layer_types == ("mixed", "full")
    assert read_metadata(bert).config.initializer == "truncated_normal"
    assert config.initializer == "normal"
    shipped = load_pretrain_config(["--config", "ernie-thu-tiny", "--init_from.model", str(bert)]).value.model
    assert shipped.fusion.layer_types == ("plain", "full")  # what the files say of it stays
    assert shipped.hidden_size == config.hidden_size
    assert train([*argv, "--train.steps", "2"]).is_dir()


def first_weights_of_a_new_run(monkeypatch, argv):
    seen: dict[str, torch.Tensor] = {}

    def stop(self, request):
        packed = pack_model(self.raw_model.core, dict(self.raw_model.heads.items()))
        seen.update({name: tensor.clone() for name, tensor in packed.items()})
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "loop", stop)
        train(argv)
    return seen


def test_a_run_starts_from_one_with_entities(place, own, finished, monkeypatch, tmp_path):
    pairs = list(pairwise(argv_of(place, own, output=tmp_path)))
    argv = [w for key, value in pairs[::2] if not key.startswith("--model.") for w in (key, value)]
    argv += ["--init_from.model", str(finished)]
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(finished)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert (report["fresh"], report["left"]) == ([], [])
    with pytest.raises(ZooError, match=r"fusion: .*mixed.* there, .*full.* here"):
        train([*argv, "--model.fusion.layer_types", "[full,full]", "--output", str(tmp_path / "other")])


def test_a_moved_folder_scores_and_fine_tunes_without_entities(finished, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished, moved)
    assert len(open_entities(moved)) == 40
    scores = Scorer(moved).score(["The town lies by the river.", "River the by lies town the."])
    assert (scores < 0).all()
    data = make_data(tmp_path / "data")
    settings = FinetuneSettings(lr=1e-3, epochs=1, limit=64)
    result = finetune(moved, SINGLE, data, 1, settings, tmp_path / "out", progress=False, save_model=True)
    assert result.train_rows == 64
    core, metadata = load_core(tmp_path / "out" / "model")
    assert metadata.config.fusion == read_metadata(finished).config.fusion
    before = load_core(moved)[0].state_dict()
    after = core.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any(".fusion.intermediate.bias" in name for name in changed)  # it speaks where no entity is, too
    assert not any("layers.1.fusion.output" in name for name in changed)


def test_the_names_of_their_folder_there_and_back(place, own, tmp_path):
    wide = [*own]
    wide[wide.index("--model.fusion.entity_size") + 1] = "100"
    wide[wide.index("--model.fusion.num_attention_heads") + 1] = "4"
    table = make_table(tmp_path / "table", width=100)
    wide[wide.index("--objectives.entities.init_args.entities") + 1] = str(table)
    run = train(argv_of(place, wide, 1, output=tmp_path, **{"train.validate_every": 0}))
    report = export_folder(run, tmp_path / "out")
    assert report == ["named as in the code that reads ernie_config.json"]
    config = json.loads((tmp_path / "out" / "ernie_config.json").read_text())
    assert config["layer_types"] == ["mix", "norm"]
    config.pop("model_type")  # as released
    (tmp_path / "out" / "ernie_config.json").write_text(json.dumps(config))
    tensors = dict(open_weights(tmp_path / "out"))
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in tensors.items()
    }
    (tmp_path / "out" / "model.safetensors").unlink()
    torch.save(old, tmp_path / "out" / "pytorch_model.bin")
    import_folder(tmp_path / "out", tmp_path / "in")
    ours, back = open_weights(run), open_weights(tmp_path / "in")
    assert set(ours) == set(back)
    assert all(torch.equal(ours[name], back[name]) for name in ours)
    assert read_metadata(tmp_path / "in").heads == read_metadata(run).heads
    assert read_metadata(tmp_path / "in").config.fusion == read_metadata(run).config.fusion


def test_records_with_links_are_trained_on(place, own, tmp_path):
    """From JSON lines with spans to a step, through the annotator that reads them."""
    towns = [f"town{i}" for i in range(12)]
    lines = []
    for number in range(60):
        words = [towns[(number + i) % 12] if i % 2 else "lies near" for i in range(24)]
        text = ". ".join(" ".join(words[i : i + 6]) for i in range(0, 24, 6)) + "."
        spans = [[at, at + len(name), f"Q{n}"] for n, name in enumerate(towns) for at in _places(text, name)]
        lines.append(json.dumps({"text": text, "entity_id": sorted(spans)}))
    (tmp_path / "linked.jsonl").write_text("\n".join(lines) + "\n")
    table = make_table(tmp_path / "table", count=12)
    recipe = {
        "base": "ernie-thu-tiny",
        "data": {
            "corpus": {
                "files": str(tmp_path / "linked.jsonl"),
                "annotations": {
                    "entity_id": {
                        "class_path": "pretraining.annotations.LinkedEntities",
                        "init_args": {"entities": str(table / "entities.txt")},
                    }
                },
            }
        },
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    argv = argv_of(place, own, 2, output=tmp_path, **{"data.stores": tmp_path / "stores"})
    argv[1] = str(tmp_path / "recipe.yaml")
    pairs = [pair for pair in zip(argv[::2], argv[1::2], strict=True) if pair[0] != "--data.corpus.files"]
    argv = [word for pair in pairs for word in pair] + ["--objectives.entities.init_args.entities", str(table)]
    folder = train([*argv, "--data.tokenizer.vocab_size", "100"])
    assert all("entities" in line["terms"] for line in log_lines(folder) if "terms" in line)
    (store,) = [Store(path) for path in (tmp_path / "stores").glob("linked*") if path.is_dir()]
    assert set(np.unique(store.arrays["entity_id"])) == set(range(13))


def _places(text: str, name: str) -> list[int]:
    """Where a whole word stands."""
    padded = text.replace(".", " ") + " "
    return [i for i in range(len(text)) if padded.startswith(name + " ", i)]


def test_show_names_entities(finished, capsys):
    text = "The town lies by the river. Many people live there."
    assert dispatch(["show", text, "--run", str(finished), "--rows", "3"]) == 0
    lines = [line for line in capsys.readouterr().out.split("\n") if line.startswith("entities ")]
    assert any(re.search(r"\bQ\d+\b", line) for line in lines)


def test_what_cannot_work_is_said_before_training(place, own, tmp_path):
    def refused(words, *changes):
        argv = [*argv_of(place, own, output=tmp_path), *changes]
        with pytest.raises(ZooError, match=words):
            train(argv)
        assert not list(tmp_path.rglob("checkpoints"))

    entities = "--objectives.entities.init_args.entities"
    refused(
        "objectives.entities: .* 12 wide, model.fusion.entity_size is 16",  # told before text is read
        "--model.fusion.entity_size",
        "16",
        "--model.fusion.num_attention_heads",
        "4",
    )
    refused(
        "names entity 3., and .* has vectors of 0 to 9: the text was prepared with another list",
        entities,
        str(make_table(tmp_path / "few", count=10)),
    )
    refused(r"objectives\.entities: .*no entities\.txt", entities, str(tmp_path / "nowhere"))
    half = make_table(tmp_path / "half")
    (half / "entities.txt").write_text("Q1\n")
    refused("names 1 entities, .* has 40 vectors", entities, str(half))
    refused("needs entity_id, which the layout", "--data.corpus.files", str(place / "text.txt"))
    refused("model.fusion.layer_types", "--model.fusion", "null")


def test_ids_and_values_have_to_agree(place, own, tmp_path):
    tokenizer = load_tokenizer(value_of(own, "data.corpus.files"))
    with pytest.raises(ZooError, match="document 1: 'entity_id' does not have one value for each token"):
        prepare_from_ids([[[5, 6]], [[5, 6]]], tokenizer, tmp_path, arrays={"entity_id": [[[1, 0]], [[1]]]})
