"""Runs that start from a checkpoint: exact tensors, tokens matched by name, layers dropped and stacked, resume."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from training import Killed, arguments, interrupt_at, launch, log_lines, outcome, train

from pretraining.config import load_pretrain_config
from pretraining.prepare import prepare
from pretraining.start import overlay, source_layers
from pretraining.tokenizer import TokenizerConfig, load_tokenizer
from pretraining.train import Run
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.folder import open_weights, read_facts
from zoo.weights.commands import export_folder, import_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def bert(place):
    """A finished run of three layers."""
    return train(arguments(place, "bert", steps=30, **{"model.num_hidden_layers": 3, "train.save_every": 30}))


@pytest.fixture(scope="module")
def gpt(place):
    return train(arguments(place, "gpt", steps=12, **{"model.intermediate_size": 128}))


@pytest.fixture(scope="module")
def albert(place):
    return train(arguments(place, "albert", steps=4, **{"model.num_hidden_layers": 3}))


def start_arguments(place: Path, family: str, model: Path, **more: object) -> list[str]:
    """A tiny run that starts from ``model``; only its own settings, no facts of the core."""
    argv = arguments(place, family, **{"start.model": model, **more})
    kept, words = [], iter(argv)
    for word in words:
        value = next(words)
        if not word.startswith(("--model.", "--data.tokenizer.vocab_size")) or word.removeprefix("--") in more:
            kept += [word, value]
    return kept


def first_weights(monkeypatch, argv: list[str]) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors (a folder's names) and ``start`` record of a run before its first step."""
    seen: dict[str, torch.Tensor] = {}

    def stop(self: Run, request) -> None:
        from zoo.folder import pack_model

        packed = pack_model(self.raw_model.core, dict(self.raw_model.heads.items()))
        seen.update({name: tensor.clone() for name, tensor in packed.items()})
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "loop", stop)
        with pytest.raises(Killed):
            train(argv)
    folder = next(Path(argv[argv.index("--output") + 1]).glob("*/run.json"), None)
    folders = sorted(Path(argv[argv.index("--output") + 1]).glob("*/run.json"), key=lambda p: p.stat().st_mtime)
    assert folder is not None
    return seen, json.loads(folders[-1].read_text())["start"]


def test_every_tensor_is_the_checkpoint_s(place, bert, monkeypatch, tmp_path):
    argv = start_arguments(place, "bert", bert, output=tmp_path, **{"seed.init": 7})
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(bert)
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert report["copied"] == len(weights)
    assert (report["fresh"], report["left"], report["partly"]) == ([], [], {})
    resolved = load_pretrain_config(argv).resolved
    assert resolved["model"]["num_hidden_layers"] == 3  # the checkpoint's, not bert-tiny's 2
    assert resolved["model"]["hidden_size"] == 32


def test_it_goes_on_from_where_the_other_ended(place, bert, tmp_path):
    argv = start_arguments(place, "bert", bert, output=tmp_path, steps=2, **{"train.lr": 1e-5})
    (warm, *_), (cold, *_, last) = (
        [row["terms"]["masked_lm"] for row in log_lines(run) if "terms" in row] for run in (train(argv), bert)
    )
    assert warm < cold - 0.5 * (cold - last)


def test_the_command_line_wins_over_the_checkpoint(place, bert):
    more = {"model.hidden_dropout_prob": 0.3, "template.pooling": "last"}
    config = load_pretrain_config(start_arguments(place, "roberta", bert, **more)).value
    assert config.model.hidden_dropout_prob == 0.3
    assert config.model.position_offset == 0  # bert's, though the file says roberta
    assert (config.template.pooling, config.template.single) == ("last", "[CLS] $A [SEP]")
    assert config.data.tokenizer == TokenizerConfig(kind="file", path=str(bert))


def test_without_a_start_nothing_is_laid_over():
    files = {"model": {"hidden_size": 8}}
    assert overlay(files, files) is files


@pytest.mark.parametrize(("layers", "sources"), [("[2, 0]", [2, 0]), ("1", [0]), ("5", [0, 1, 2, 0, 1])])
def test_layers_are_dropped_reordered_and_stacked(place, bert, monkeypatch, tmp_path, layers, sources):
    argv = start_arguments(place, "bert", bert, output=tmp_path, **{"start.layers": layers})
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(bert)
    numbers = {int(name.split(".")[2]) for name in found if name.startswith("core.layers.")}
    assert numbers == set(range(len(sources)))
    for number, source in enumerate(sources):
        for name in [n for n in found if n.startswith(f"core.layers.{number}.")]:
            assert torch.equal(found[name], weights[name.replace(f"layers.{number}.", f"layers.{source}.", 1)]), name
    left = {int(name.split(".")[2]) for name in report["left"]}
    assert left == {0, 1, 2} - set(sources)


def test_layers_that_share_weights_are_counted_only(place, albert, monkeypatch, tmp_path):
    argv = start_arguments(place, "albert", albert, output=tmp_path, **{"start.layers": "6"})
    found, _ = first_weights(monkeypatch, argv)
    assert load_pretrain_config(argv).value.model.num_hidden_layers == 6
    weights = open_weights(albert)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    with pytest.raises(ZooError, match="share 1 set"):
        load_pretrain_config(start_arguments(place, "albert", albert, **{"start.layers": "[0, 1]"}))


def test_a_causal_model_becomes_a_masked_one_with_new_tokens(place, gpt, monkeypatch, tmp_path):
    more = {"data.tokenizer.new_tokens": "['[BLANK]', quokka]", "output": tmp_path}
    found, report = first_weights(monkeypatch, start_arguments(place, "roberta", gpt, **more))
    weights = open_weights(gpt)
    old = weights["core.embeddings.word_embeddings.weight"]
    new = found["core.embeddings.word_embeddings.weight"]
    assert len(new) == len(old) + 2
    assert torch.equal(new[: len(old)], old)
    assert new[len(old) :].abs().max() > 0
    assert "by token" in report["partly"]["core.embeddings.word_embeddings.weight"]
    assert any(name.startswith("heads.masked_lm.") for name in report["fresh"])
    folder = train(start_arguments(place, "roberta", gpt, steps=2, **more))
    assert read_facts(folder).visibility == "all"
    tokenizer = load_tokenizer(folder)
    assert tokenizer.backend.token_to_id("[BLANK]") == len(old)
    assert tokenizer.backend.token_to_id("quokka") == len(old) + 1


def test_a_mask_token_can_be_added_where_there_is_none(tmp_path, place):
    config = TokenizerConfig(kind="wordpiece", vocab_size=300, special={"pad": "[PAD]", "unk": "[UNK]"})
    from pretraining.corpus import CorpusConfig

    corpus = CorpusConfig(files=str(place / "text.txt"))
    store = prepare(corpus, config, tmp_path / "one", processes=1, quiet=True)
    assert load_tokenizer(store.path).vocabulary.mask is None
    grown = TokenizerConfig(kind="file", path=str(store.path), new_tokens=["[MASK]", "[CLS]", "[SEP]"])
    again = prepare(corpus, grown, tmp_path / "two", processes=1, quiet=True)
    vocabulary = load_tokenizer(again.path).vocabulary
    assert (vocabulary.mask, vocabulary.cls, vocabulary.sep, vocabulary.size) == (300, 301, 302, 303)
    assert again.fingerprint != store.fingerprint
    from transformers import AutoTokenizer

    opened = AutoTokenizer.from_pretrained(again.path)
    assert opened.mask_token == "[MASK]"
    assert opened.tokenize("the [MASK] town")[1] == "[MASK]"


def test_rows_follow_their_tokens_into_another_vocabulary(place, bert, monkeypatch, tmp_path):
    more = {"data.tokenizer.kind": "wordpiece", "data.tokenizer.vocab_size": 500, "data.tokenizer.path": "null"}
    more["data.tokenizer.lowercase"] = "false"
    found, report = first_weights(monkeypatch, start_arguments(place, "bert", bert, output=tmp_path, **more))
    weights, old = open_weights(bert), load_tokenizer(bert).backend.get_vocab()
    run = next(tmp_path.glob("*/run.json")).parent
    new = load_tokenizer(run).backend.get_vocab()
    name = "core.embeddings.word_embeddings.weight"
    shared = set(old) & set(new)
    assert 50 < len(shared) < len(new)
    for token in shared:
        assert torch.equal(found[name][new[token]], weights[name][old[token]]), token
        assert found["heads.masked_lm.bias"][new[token]] == weights["heads.masked_lm.bias"][old[token]]
    assert report["partly"][name] == f"{len(shared)} of {len(new)} rows, by token"


def test_tables_grow_and_shrink(place, bert, monkeypatch, tmp_path):
    more = {"model.max_position_embeddings": 600, "model.type_vocab_size": 1, "model.pooler": "true"}
    found, report = first_weights(monkeypatch, start_arguments(place, "roberta", bert, output=tmp_path, **more))
    weights = open_weights(bert)
    positions = "core.embeddings.position_embeddings.weight"
    assert torch.equal(found[positions][:512], weights[positions])
    assert report["partly"][positions] == "the first 512 of 600 rows"
    types = "core.embeddings.token_type_embeddings.weight"
    assert torch.equal(found[types], weights[types][:1])


def test_heads_can_be_left_out(place, bert, monkeypatch, tmp_path):
    argv = start_arguments(place, "bert", bert, output=tmp_path, **{"start.heads": "false"})
    found, report = first_weights(monkeypatch, argv)
    assert all(name.startswith("heads.") for name in report["fresh"])
    assert {name for name in found if name.startswith("heads.")} == set(report["fresh"])
    assert not torch.equal(found["heads.masked_lm.dense.weight"], open_weights(bert)["heads.masked_lm.dense.weight"])


def test_an_imported_checkpoint_starts_a_run(place, bert, tmp_path, monkeypatch):
    export_folder(bert, tmp_path / "out")
    import_folder(tmp_path / "out", tmp_path / "in")
    found, report = first_weights(
        monkeypatch, start_arguments(place, "bert", tmp_path / "in", output=tmp_path / "runs")
    )
    weights = open_weights(bert)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert report["left"] == []


def test_resume_is_exact(place, bert, monkeypatch, tmp_path):
    whole = outcome(train(start_arguments(place, "bert", bert, steps=7, output=tmp_path / "whole")))
    argv = start_arguments(place, "bert", bert, steps=7, output=tmp_path / "cut")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Killed):
            train(argv)
    folder = train(argv)
    assert outcome(folder) == whole
    assert json.loads((folder / "run.json").read_text())["start"]["copied"] > 20


def test_other_weights_in_the_same_folder_are_refused(place, bert, monkeypatch, tmp_path):
    copied = Path(shutil.copytree(bert, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints")))
    argv = start_arguments(place, "bert", copied, steps=7, output=tmp_path / "runs")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(Killed):
            train(argv)
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ZooError, match="other weights"):
        train(argv)


@pytest.mark.slow
def test_two_processes_start_alike(place, bert, tmp_path):
    one = train(start_arguments(place, "bert", bert, steps=3, output=tmp_path / "one"))
    process = launch(start_arguments(place, "bert", bert, steps=3, output=tmp_path / "two"), processes=2)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:]
    assert "2 processes" in printed
    assert "tensors copied" in printed
    two = next((tmp_path / "two").iterdir())
    first, second = open_weights(one), open_weights(two)
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-5


def test_refusals(place, bert, gpt, tmp_path):
    def refused(family: str, model: object, **more: object) -> str:
        with pytest.raises(ZooError) as error:
            train(start_arguments(place, family, model, output=tmp_path / "runs", **more))  # type: ignore[arg-type]
        return str(error.value)

    assert "is not a folder" in refused("bert", tmp_path / "nowhere")
    export_folder(bert, tmp_path / "stock")
    assert "zoo import" in refused("bert", tmp_path / "stock")
    assert "from 0 to 2" in refused("bert", bert, **{"start.layers": "[0, 3]"})
    assert "at least one layer" in refused("bert", bert, **{"start.layers": 0})
    assert re.search(r"hidden_size = 32 there, 64 here", refused("bert", bert, **{"model.hidden_size": 64}))
    assert "norm_position = post there, pre here" in refused("bert", bert, **{"model.norm_position": "pre"})
    assert "Did you mean 'layers'" in refused("bert", bert, **{"start.layer": 1})
    bare = Path(shutil.copytree(bert, tmp_path / "bare"))
    for path in bare.glob("*token*"):
        path.unlink()
    assert "holds no tokenizer.json" in refused("bert", bare)


def test_layers_of_a_config():
    plain = CoreConfig(vocab_size=9, num_hidden_layers=4)
    assert source_layers(None, plain) is None
    assert source_layers(6, plain) == [0, 1, 2, 3, 0, 1]
    assert source_layers([3, 3], plain) == [3, 3]
    for wrong in ([], [4], [-1], "0,1"):
        with pytest.raises(ZooError, match="numbers from 0 to 3"):
            source_layers(wrong, plain)
