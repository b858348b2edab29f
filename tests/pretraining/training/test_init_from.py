"""Runs that start from a checkpoint: exact tensors, tokens matched by name, layers dropped and stacked, resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from training import Killed, arguments, finish, first_weights, interrupt_at, log_lines, outcome, train

from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.init_from import InitFromConfig, copied_and_fresh, source_groups, source_layers
from pretraining.training.load_config import load_pretrain_config, run_folder_of
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.model_folder import open_weights, read_metadata
from zoo.storage.files import write_json
from zoo.storage.tensors import load_tensors, save_tensors
from zoo.weights.commands import export_folder, import_folder

WORDS = "core.embeddings.word_embeddings.weight"
POSITIONS = "core.embeddings.position_embeddings.weight"
TYPES = "core.embeddings.token_type_embeddings.weight"
BERT_TEMPLATE = {"template.single": "<s> $A </s>", "template.pair": "<s> $A </s> $B </s>", "template.pooling": "first"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose corpus and stores the tests of this module share."""
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def bert(place):
    """A finished run of three layers."""
    more = {"model.num_hidden_layers": 3, "train.save_every": 30, "train.lr": 5e-3}
    return train(arguments(place, "bert", steps=30, **more))


@pytest.fixture(scope="module")
def gpt(shared):
    """A finished causal run with its own vocabulary, of bytes."""
    return shared.finished_run("gpt")


@pytest.fixture(scope="module")
def albert(place):
    """A finished run of three layers that share their weights."""
    return train(arguments(place, "albert", steps=4, **{"model.num_hidden_layers": 3}))


HALF = "objectives.bidirectional_lm.init_args."


@pytest.fixture(scope="module")
def elmo(place):
    """A finished two-way run that spells its words and predicts the first 400 of them."""
    more = {"data.tokenizer.vocab_size": 3000, "data.sequence_length": 20, "model.recurrent.cell_size": 24}
    return train(arguments(place, "elmo", steps=4, **more, **{f"{HALF}outputs": 400, f"{HALF}sampled": 50}))


def start_arguments(place: Path, family: str, model: Path, **more: object) -> list[str]:
    """A tiny run that starts from ``model``: without the facts of core and tokenizer that ``more`` does not name."""
    argv = arguments(place, family, **{"init_from.model": model, "train.validate_every": 0, **more})
    kept: list[str] = []
    for key, value in zip(argv[::2], argv[1::2], strict=True):
        if not key.startswith(("--model.", "--data.tokenizer.")) or key.removeprefix("--") in more:
            kept += [key, value]
    return kept


def test_a_file_without_a_model_takes_the_checkpoints(bert, tmp_path):
    values = load_pretrain_config(["--config", "bert-tiny"]).resolved
    del values["model"]
    write_json(tmp_path / "own.yaml", values)  # JSON is YAML
    argv = ["--config", str(tmp_path / "own.yaml")]
    assert load_pretrain_config([*argv, "--init_from.model", str(bert)]).value.model.num_hidden_layers == 3
    with pytest.raises(ZooError, match=r"no model\. A file that only changes another"):
        load_pretrain_config(argv)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("stages.early.tasks.pairs", r"stages\.early has no until; stages that are whole: none"),
        (
            "tasks.pair.task_type_id",
            r"tasks\.pair has no layout and no objectives; .*whole: pairs\. Did you mean 'pairs'",
        ),
        ("tasks.pairs.layout", "layout"),
        ("tasks.pairs", "tasks"),
        ("stages", "stages"),
    ],
)
def test_an_overlay_on_a_base_without_what_it_changes(key, message):
    with pytest.raises(ZooError, match=message):
        load_pretrain_config(["--config", "bert-tiny", f"--{key}", "3"])


def by_row(count: int, new, old) -> str:
    """What the report says of a table that was copied by rows."""
    return f"{count} of {len(new)} rows copied, {len(old) - count} of the checkpoint's {len(old)} left behind"


def masked_losses(folder: Path) -> list[float]:
    return [row["terms"]["masked_lm"] for row in log_lines(folder) if "terms" in row]


# ---- the checkpoint as it is ----------------------------------------------------------------------------------------


def test_every_tensor_is_the_checkpoints(place, bert, monkeypatch, tmp_path):
    argv = start_arguments(place, "bert", bert, output=tmp_path, **{"seed.init": 7})
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(bert)
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert (report["fresh"], report["left"], report["partly"]) == ([], [], {})
    assert {"core.layers.0", "core.layers.2", "heads.masked_lm", "heads.next_sentence", WORDS} <= set(report["copied"])
    assert report["layers"] == [0, 1, 2]
    assert report["model"] == bert.name
    resolved = load_pretrain_config(argv).resolved
    assert resolved["model"]["num_hidden_layers"] == 3  # the checkpoint's, not bert-tiny's 2
    assert resolved["model"]["hidden_size"] == 32
    assert load_pretrain_config([], resolved).resolved == resolved


def test_it_goes_on_from_where_the_other_ended(place, bert, tmp_path):
    settings = {"train.lr": 1e-5, "train.steps": 1}
    warm = train(start_arguments(place, "bert", bert, output=tmp_path, **settings))
    cold = train(arguments(place, "bert", output=tmp_path, **settings, **{"model.num_hidden_layers": 3}))

    def held_out(folder):
        return log_lines(folder)[-1]["validation"]["terms"]["masked_lm"]["loss"]

    ended = held_out(bert)
    assert held_out(warm) == pytest.approx(ended, abs=0.02)
    assert held_out(warm) < held_out(cold) - 0.3
    assert masked_losses(warm)[0] < masked_losses(cold)[0] - 0.3


def test_an_imported_checkpoint_starts_a_run(place, bert, tmp_path, monkeypatch):
    export_folder(bert, tmp_path / "out")
    import_folder(tmp_path / "out", tmp_path / "in")
    argv = start_arguments(place, "bert", tmp_path / "in", output=tmp_path / "runs")
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(bert)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert report["left"] == []


def test_the_command_line_wins_over_the_checkpoint_and_it_over_the_files(place, bert):
    more = {"model.hidden_dropout_prob": 0.3, "template.pooling": "last", "data.tokenizer.new_tokens": "<x>,quokka"}
    config = load_pretrain_config(start_arguments(place, "roberta", bert, **more)).value
    assert config.model.hidden_dropout_prob == 0.3
    assert config.model.position_offset == 0  # bert's, though the file says roberta
    assert (config.template.pooling, config.template.single) == ("last", "[CLS] $A [SEP]")
    assert config.data.tokenizer == TokenizerConfig("file", str(bert), new_tokens=["<x>", "quokka"])
    other = {"data.tokenizer.kind": "wordpiece", "data.tokenizer.vocab_size": 500}
    config = load_pretrain_config(start_arguments(place, "bert", bert, **other)).value
    assert config.data.tokenizer == TokenizerConfig("wordpiece", vocab_size=500, lowercase=True)


def test_a_file_of_settings_can_name_start_and_new_tokens(place, bert, tmp_path):
    recipe = f"base: roberta-tiny\ninit_from: {{model: {bert}, layers: 2}}\n"
    recipe += "data: {tokenizer: {new_tokens: [quokka]}}\nmodel: {hidden_size: 512}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    config = load_pretrain_config(["--config", str(tmp_path / "recipe.yaml")]).value
    assert (config.model.hidden_size, config.model.num_hidden_layers) == (32, 2)
    assert config.data.tokenizer == TokenizerConfig("file", str(bert), new_tokens=["quokka"])


def test_printed_settings_start_from_the_checkpoint_as_the_command_did(place, bert, tmp_path, capsys):
    more = {"model.hidden_dropout_prob": 0.3, "data.tokenizer.kind": "wordpiece", "data.tokenizer.vocab_size": 500}
    argv = start_arguments(place, "bert", bert, **more, **{"init_from.layers": "0,2"})
    with pytest.raises(SystemExit):
        load_pretrain_config([*argv, "--print_config"])
    printed = capsys.readouterr().out
    (tmp_path / "x.yaml").write_text(printed)
    again = ["--config", str(tmp_path / "x.yaml")]
    assert load_pretrain_config(again).resolved == load_pretrain_config(argv).resolved
    with pytest.raises(SystemExit):
        load_pretrain_config([*again, "--print_config"])
    assert capsys.readouterr().out == printed
    # a start that the command line names takes the place of what a file says, as ever
    config = load_pretrain_config([*again, "--init_from.model", str(bert)]).value
    assert (config.model.hidden_dropout_prob, config.data.tokenizer.kind) == (0.1, "file")


# ---- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "sources"), [("2,0", [2, 0]), ("[1]", [1]), ("1", [0]), ("5", [0, 1, 2, 0, 1])])
def test_layers_are_dropped_reordered_and_stacked(place, bert, monkeypatch, tmp_path, layers, sources):
    argv = start_arguments(place, "bert", bert, output=tmp_path, **{"init_from.layers": layers})
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(bert)
    assert {int(name.split(".")[2]) for name in found if name.startswith("core.layers.")} == set(range(len(sources)))
    for number, source in enumerate(sources):
        for name in [n for n in found if n.startswith(f"core.layers.{number}.")]:
            assert torch.equal(found[name], weights[name.replace(f"layers.{number}.", f"layers.{source}.", 1)]), name
    assert report["layers"] == sources
    assert report["left"] == [f"core.layers.{n}" for n in range(3) if n not in sources]
    assert load_pretrain_config(argv).resolved["model"]["num_hidden_layers"] == len(sources)


@pytest.mark.parametrize("layers", ["1", "6", "2,0"])
def test_layers_that_share_weights_are_run_more_or_less_often(place, albert, monkeypatch, tmp_path, layers):
    argv = start_arguments(place, "albert", albert, output=tmp_path, **{"init_from.layers": layers})
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(albert)
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert report["left"] == []


def test_layers_that_share_weights_can_part(place, albert, monkeypatch, tmp_path):
    argv = start_arguments(place, "albert", albert, output=tmp_path, **{"model.num_hidden_groups": "null"})
    found, _ = first_weights(monkeypatch, argv)
    weights = open_weights(albert)
    for name in [n for n in weights if n.startswith("core.layers.0.")]:
        for number in range(3):
            assert torch.equal(found[name.replace("layers.0", f"layers.{number}")], weights[name])


def test_layers_and_groups_of_a_config():
    assert source_layers(None, 4) == [0, 1, 2, 3]
    assert source_layers(6, 4) == [0, 1, 2, 3, 0, 1]
    assert source_layers([3, 3], 4) == [3, 3]
    for wrong in ([], [4], [-1], 0, -2, True, "all", ["x"]):
        with pytest.raises(ZooError, match="layers 0 to 3: name some"):
            source_layers(wrong, 4)
    halves = CoreConfig(vocab_size=9, num_hidden_layers=4, num_hidden_groups=2)  # layers 0 and 1, layers 2 and 3

    def groups(layers, **facts):
        return source_groups(InitFromConfig("x", layers), halves, halves.replace(**facts))

    assert groups(None) == [0, 1]
    assert groups([2, 0], num_hidden_layers=2) == [1, 0]
    assert groups([0, 1, 2], num_hidden_layers=3) == [0, 1]
    assert groups(8, num_hidden_layers=8, num_hidden_groups=4) == [0, 1, 0, 1]
    assert groups(None, num_hidden_groups=None) == [0, 0, 1, 1]
    with pytest.raises(ZooError, match="start from the checkpoint's layers 0 and 2"):
        groups([0, 2, 3], num_hidden_layers=3)
    with pytest.raises(ZooError, match="num_hidden_groups = 1 for 4 layers"):
        groups(None, num_hidden_groups=1)
    with pytest.raises(ZooError, match=r"num_hidden_layers = 3, but 4 .* say --init_from.layers 3"):
        groups(None, num_hidden_layers=3)


# ---- tokens and tables ----------------------------------------------------------------------------------------------


def test_a_causal_model_becomes_a_masked_one(place, gpt, monkeypatch, tmp_path):
    more = {"data.tokenizer.new_tokens": "[BLANK],quokka", "output": tmp_path, **BERT_TEMPLATE}
    found, report = first_weights(monkeypatch, start_arguments(place, "roberta", gpt, **more))
    old, new = open_weights(gpt)[WORDS], found[WORDS]
    assert len(new) == len(old) + 2
    assert torch.equal(new[: len(old)], old)
    assert new[len(old) :].abs().min() > 0
    assert report["partly"] == {WORDS: by_row(len(old), new, old)}
    assert report["fresh"] == ["heads.masked_lm"]
    folder = train(start_arguments(place, "roberta", gpt, steps=2, **more))
    metadata, tokenizer = read_metadata(folder), load_tokenizer(folder)
    assert (metadata.attention, metadata.template.single) == ("bidirectional", "<s> $A </s>")
    assert tokenizer.backend.token_to_id("quokka") == len(old) + 1 == metadata.config.vocab_size - 1


def test_a_model_without_special_tokens_gets_them(place, monkeypatch, tmp_path):
    """The recipe GPT -> masked: opening token, separator and mask are new, take their roles, and open rows."""
    bare = {"data.tokenizer.special": "{pad: <pad>}", "template.single": "$A", "template.pair": "$A $B"}
    model = train(arguments(tmp_path, "gpt", steps=1, **bare))
    assert load_tokenizer(model).roles == {"pad": "<pad>"}
    more = {"output": tmp_path / "masked", "data.stores": tmp_path / "stores"}
    with pytest.raises(ZooError, match=r"no mask token.*data\.tokenizer\.new_tokens"):
        train(start_arguments(tmp_path, "roberta", model, **more))
    more["data.tokenizer.new_tokens"] = "[CLS],[SEP],[MASK]"
    found, report = first_weights(monkeypatch, start_arguments(tmp_path, "roberta", model, **more))
    size = len(open_weights(model)[WORDS])
    folder = run_folder_of(load_pretrain_config(start_arguments(tmp_path, "roberta", model, **more)))
    vocabulary = load_tokenizer(folder).vocabulary
    assert (vocabulary.cls, vocabulary.sep, vocabulary.mask, vocabulary.size) == (size, size + 1, size + 2, size + 3)
    assert report["fresh"] == ["heads.masked_lm"]
    assert len(found[WORDS]) == size + 3


def test_rows_follow_their_tokens_into_another_vocabulary(place, bert, monkeypatch, tmp_path):
    more = {"data.tokenizer.kind": "wordpiece", "data.tokenizer.vocab_size": 500, "data.tokenizer.lowercase": "false"}
    argv = start_arguments(place, "bert", bert, output=tmp_path, **more)
    found, report = first_weights(monkeypatch, argv)
    weights, old = open_weights(bert), load_tokenizer(bert).backend.get_vocab()
    new = load_tokenizer(run_folder_of(load_pretrain_config(argv))).backend.get_vocab()
    shared = set(old) & set(new)
    assert 50 < len(shared) < len(new)
    for token in shared:
        assert torch.equal(found[WORDS][new[token]], weights[WORDS][old[token]]), token
        assert found["heads.masked_lm.bias"][new[token]] == weights["heads.masked_lm.bias"][old[token]]
    said = by_row(len(shared), new, old)
    assert report["partly"] == {WORDS: said, "heads.masked_lm.bias": said}
    fresh = arguments(place, "bert", output=tmp_path, **more, **{"model.num_hidden_layers": 3})
    cold, _ = first_weights(monkeypatch, fresh)
    unknown = [row for token, row in new.items() if token not in old]
    assert torch.equal(found[WORDS][unknown], cold[WORDS][unknown])  # as in a run that starts from nothing


def test_an_own_output_matrix_follows_the_tokens(place, monkeypatch, tmp_path):
    untied = {"model.tie_word_embeddings": "false", "output": tmp_path}
    model = train(arguments(place, "bert", steps=2, **untied))
    argv = start_arguments(place, "bert", model, output=tmp_path, **{"data.tokenizer.new_tokens": "quokka"})
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(model)
    for name in (WORDS, "heads.masked_lm.decoder.weight", "heads.masked_lm.bias"):
        assert torch.equal(found[name][:-1], weights[name])
        assert report["partly"][name].startswith(f"{len(weights[name])} of {len(weights[name]) + 1} rows copied")


def test_words_take_spelling_and_softmax_rows_along(place, elmo, monkeypatch, tmp_path):
    """ELMo to ELMo with another vocabulary, whose first 400 words are not quite the same ones."""
    more = {"data.tokenizer.kind": "word", "data.tokenizer.vocab_size": 2000, "data.tokenizer.min_frequency": 1}
    more |= {"data.tokenizer.special": "{pad: '[PAD]', unk: '[UNK]', sep: '[SEP]'}", "data.sequence_length": 20}
    more |= {f"{HALF}outputs": 400, f"{HALF}sampled": 50, "output": tmp_path}
    argv = start_arguments(place, "elmo", elmo, **more)
    found, report = first_weights(monkeypatch, argv)
    weights, old = open_weights(elmo), load_tokenizer(elmo).backend.get_vocab()
    new = load_tokenizer(run_folder_of(load_pretrain_config(argv))).backend.get_vocab()
    spellings, softmax = "core.embeddings.word_embeddings.spellings", "heads.bidirectional_lm.decoder.weight"
    assert len(new) == len(found[spellings]) == 2000
    shared = [token for token in new if token in old]
    assert len(shared) > 1500
    assert any(old[token] != new[token] for token in shared)
    for token in shared:
        assert torch.equal(found[spellings][new[token]], weights[spellings][old[token]]), token
    assert report["partly"][spellings] == by_row(len(shared), new, weights[spellings])
    kept = [token for token in shared if new[token] < 400 and old[token] < 400]
    assert 300 < len(kept) < 400
    for token in kept:
        assert torch.equal(found[softmax][new[token]], weights[softmax][old[token]]), token
    assert report["partly"][softmax] == by_row(len(kept), found[softmax], weights[softmax])
    for name in found:
        if name not in report["partly"]:
            assert torch.equal(found[name], weights[name]), name
    train(argv)


def test_another_objective_goes_on_with_words_that_are_spelt(place, elmo, monkeypatch, tmp_path):
    """ELMo's core under the masked and the causal objective, and back to its own; only heads are new."""
    core = {name: value for name, value in open_weights(elmo).items() if name.startswith("core.")}
    for family, new in (("roberta", {"data.tokenizer.new_tokens": "[MASK]"}), ("gpt", {"template.pooling": "last"})):
        argv = start_arguments(place, family, elmo, steps=2, output=tmp_path, **new)
        found, report = first_weights(monkeypatch, argv)
        assert [name for name in report["fresh"] if not name.startswith("heads.")] == []
        for name, value in core.items():
            assert torch.equal(found[name][: len(value)], value), name
        model = train(argv)
        metadata = read_metadata(model)
        assert metadata.config.characters is not None
        outputs = {f"{HALF}outputs": 400, f"{HALF}sampled": 50, "data.sequence_length": 20}
        back = start_arguments(place, "elmo", model, output=tmp_path, **outputs)
        found, report = first_weights(monkeypatch, back)
        weights = open_weights(model)
        assert report["fresh"] == ["heads.bidirectional_lm"]
        assert all(torch.equal(found[name], weights[name]) for name in found if name.startswith("core."))


def test_dropout_of_a_recurrent_core_may_differ(place, elmo, monkeypatch, tmp_path):
    said = {f"{HALF}outputs": 400, "data.sequence_length": 20, "output": tmp_path, "model.recurrent.dropout": 0.4}
    found, _ = first_weights(monkeypatch, start_arguments(place, "elmo", elmo, **said))
    assert torch.equal(found["core.layers.0.bias"], open_weights(elmo)["core.layers.0.bias"])
    said["model.recurrent.cell_clip"] = 2.0
    with pytest.raises(ZooError, match=r"recurrent: .*'cell_clip': 3.*'cell_clip': 2"):
        train(start_arguments(place, "elmo", elmo, **said))


def test_rows_without_a_token_keep_their_number(place, bert, monkeypatch, tmp_path):
    """A vocabulary rounded up: its extra rows are in every softmax."""
    model = Path(shutil.copytree(bert, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints")))
    tensors = load_tensors(bert / "model.safetensors")
    for name in (WORDS, "heads.masked_lm.bias"):
        tensors[name] = torch.cat([tensors[name], torch.full_like(tensors[name][:8], 3.0)])
    save_tensors(model / "model.safetensors", tensors)
    facts = json.loads((model / "config.json").read_text())
    facts["core"]["vocab_size"] += 8
    write_json(model / "config.json", facts)
    same = {"model.vocab_size": facts["core"]["vocab_size"], "output": tmp_path / "runs"}
    found, report = first_weights(monkeypatch, start_arguments(place, "bert", model, **same))
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert report["partly"] == {}
    found, report = first_weights(monkeypatch, start_arguments(place, "bert", model, output=tmp_path / "cut"))
    assert torch.equal(found[WORDS], tensors[WORDS][:-8])
    assert "8 of the checkpoint's" in report["partly"][WORDS]


def test_tables_grow_and_shrink(place, bert, monkeypatch, tmp_path):
    more = {"model.max_position_embeddings": 600, "model.type_vocab_size": 1, "model.task_type_vocab_size": 3}
    argv = start_arguments(place, "roberta", bert, output=tmp_path, **more)
    found, report = first_weights(monkeypatch, argv)
    weights = open_weights(bert)
    assert torch.equal(found[POSITIONS][:512], weights[POSITIONS])
    assert found[POSITIONS][512:].abs().max() > 0
    assert report["partly"][POSITIONS] == by_row(512, range(600), range(512))
    assert torch.equal(found[TYPES], weights[TYPES][:1])
    assert report["partly"][TYPES] == by_row(1, range(1), range(2))
    assert report["fresh"] == ["core.embeddings.task_type_embeddings.weight"]
    assert report["left"] == ["heads.next_sentence"]
    cut = {"model.max_position_embeddings": 64, "model.pooler": "false"}
    found, report = first_weights(monkeypatch, start_arguments(place, "roberta", bert, output=tmp_path, **cut))
    assert torch.equal(found[POSITIONS], weights[POSITIONS][:64])
    assert report["left"] == ["core.pooler.weight", "core.pooler.bias", "heads.next_sentence"]


def test_a_pooler_and_segments_can_be_new(place, gpt, monkeypatch, tmp_path):
    more = {"model.pooler": "true", "model.type_vocab_size": 2, **BERT_TEMPLATE}
    found, report = first_weights(monkeypatch, start_arguments(place, "bert", gpt, output=tmp_path, **more))
    new = [TYPES, "core.pooler.weight", "core.pooler.bias", "heads.masked_lm", "heads.next_sentence"]
    assert report["fresh"] == new
    assert torch.equal(found[WORDS], open_weights(gpt)[WORDS])


def test_heads_can_be_left_out(place, bert, monkeypatch, tmp_path):
    argv = start_arguments(place, "bert", bert, output=tmp_path, **{"init_from.heads": "false"})
    found, report = first_weights(monkeypatch, argv)
    assert report["fresh"] == report["left"] == ["heads.masked_lm", "heads.next_sentence"]
    assert not torch.equal(found["heads.masked_lm.dense.weight"], open_weights(bert)["heads.masked_lm.dense.weight"])


# ---- the run as any other -------------------------------------------------------------------------------------------


def test_resume_is_exact_and_needs_the_checkpoints_weights_no_more(place, bert, monkeypatch, tmp_path):
    model = Path(shutil.copytree(bert, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints")))
    whole = train(start_arguments(place, "bert", model, steps=7, output=tmp_path / "whole"))
    argv = start_arguments(place, "bert", model, steps=7, output=tmp_path / "cut")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 5)
        train(argv)
    (model / "model.safetensors").write_bytes(b"something else")
    folder = train(argv)
    assert outcome(folder) == outcome(whole)
    record = json.loads((folder / "run.json").read_text())["init_from"]
    assert record == json.loads((whole / "run.json").read_text())["init_from"]


def test_other_weights_in_the_same_folder_are_refused(place, bert, monkeypatch, tmp_path):
    model = Path(shutil.copytree(bert, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints")))
    argv = start_arguments(place, "bert", model, steps=4, output=tmp_path / "runs")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 1)
        train(argv)
    path = model / "model.safetensors"
    own = path.read_bytes()
    path.write_bytes(own[:-4] + b"\0\0\0\0")
    with pytest.raises(ZooError, match="other weights"):
        train(argv)
    path.write_bytes(own)
    folder = train(argv)
    assert train(argv) == folder
    path.write_bytes(own[:-4] + b"\0\0\0\0")
    with pytest.raises(ZooError, match="other weights"):  # nor is the finished run taken for one from these
        train(argv)


@pytest.mark.slow
def test_two_processes_start_alike(place, bert, warm, tmp_path):
    one = train(start_arguments(place, "bert", bert, steps=3, output=tmp_path / "one"))
    printed = finish(warm.launch(start_arguments(place, "bert", bert, steps=3, output=tmp_path / "two"), processes=2))
    assert "2 processes" in printed
    assert printed.count("started from") == 1
    two = next((tmp_path / "two").iterdir())
    records = [json.loads((folder / "run.json").read_text())["init_from"] for folder in (one, two)]
    assert records[0] == records[1]
    first, second = open_weights(one), open_weights(two)
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-5


# ---- refusals -------------------------------------------------------------------------------------------------------


def wrong_settings(bert, gpt, tmp_path):
    """(family, model, settings, words of the message)."""
    lacks = {"data.tokenizer.kind": "bytebpe", "data.tokenizer.vocab_size": 400}
    return [
        ("bert", tmp_path / "nowhere", {}, ["nowhere is not a folder", "finished run", "zoo import SRC DST"]),
        ("bert", tmp_path, {}, ["has no config.json", "zoo import SRC DST"]),
        ("bert", bert, {"init_from.layers": "0,3"}, ["init_from.layers = [0, 3]", "layers 0 to 2"]),
        ("bert", bert, {"init_from.layers": "0"}, ["init_from.layers = 0", "at least 1"]),
        ("bert", bert, {"init_from.layer": 1}, ["'init_from.layer'", "Did you mean 'layers'"]),
        ("bert", bert, {"init_from": "{layers: 2}"}, ["model"]),
        ("bert", bert, {"model.num_hidden_layers": 2}, ["num_hidden_layers = 2, but 3", "--init_from.layers 2"]),
        ("bert", bert, {"model.num_hidden_groups": 1}, ["layers 0 and 1", "--model.num_hidden_groups null"]),
        ("bert", bert, {"model.hidden_size": 64}, ["hidden_size: 32 there, 64 here", "embedding_size: 32 there, 64"]),
        ("bert", bert, {"model.norm_position": "pre"}, ["norm_position: post there, pre here", "Leave --model.*"]),
        ("bert", bert, {"model.position_offset": 2}, ["position_offset: 0 there, 2 here"]),
        ("bert", bert, {"run_folder": bert}, ["this run's own folder"]),
        ("bert", bert, {"data.tokenizer.new_tokens": "['New York']"}, ["'New York'", "one word"]),
        ("roberta", gpt, {}, ["<start>, <extract>, <delimiter>", "new_tokens '<start>,<extract>,<delimiter>'",
                              "--template.single '<s> $A </s>'", "--template.pooling first"]),
        ("bert", bert, lacks, ["[CLS], [SEP]", "--template.pair '<s> $A </s> $B </s>'"]),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(wrong_settings(Path(), Path(), Path()))))
def test_what_cannot_start_is_refused_before_a_step(place, bert, gpt, tmp_path, number):
    family, model, settings, words = wrong_settings(bert, gpt, tmp_path)[number]
    with pytest.raises(ZooError) as error:
        train(start_arguments(place, family, model, **{"output": tmp_path / "runs", **settings}))
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"
    assert not list(tmp_path.rglob("checkpoints"))


def without(name):
    return lambda folder: (folder / name).unlink()


def other_vocabulary(folder):
    config = json.loads((folder / "tokenizer.json").read_text())
    config["added_tokens"].append({**config["added_tokens"][0], "id": 600, "content": "[NEW]"})
    write_json(folder / "tokenizer.json", config)


def unfinished(folder):
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    write_json(folder / "run.json", {**json.loads((folder / "run.json").read_text()), "finished": False})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("tokenizer.json"), ["no tokenizer.json", "checkpoint's own"]),
        (without("model.safetensors"), ["model.safetensors does not exist"]),
        (other_vocabulary, ["601 entries, the embedding 600 rows"]),
        (unfinished, ["init_from.model", "is not finished", "Let it end first"]),
        (lambda folder: write_json(folder / "config.json", {"model_type": "bert"}), ["'bert'", "zoo import"]),
    ],
)
def test_a_damaged_folder_is_refused(place, bert, tmp_path, damage, words):
    model = Path(shutil.copytree(bert, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints")))
    damage(model)
    with pytest.raises(ZooError) as error:
        train(start_arguments(place, "bert", model, output=tmp_path / "runs"))
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def changed_weight(change):
    def damage(folder):
        tensors = load_tensors(folder / "model.safetensors")
        name = "core.layers.0.output.weight"
        save_tensors(folder / "model.safetensors", {**tensors, name: change(tensors[name]).contiguous()})

    return damage


@pytest.mark.parametrize(
    ("family", "damage", "message"),
    [
        ("bert", changed_weight(lambda x: x * float("nan")), "not finite"),
        ("bert", changed_weight(lambda x: x.to(torch.int8)), "of type int8"),
        ("bert", without("model.safetensors"), "does not exist"),
        ("bert", cut_short, "is the copy complete"),
        ("gpt", lambda folder: None, "<start>, <extract>, <delimiter>"),
    ],
)
def test_weights_and_template_are_looked_at_before_the_text(place, bert, gpt, tmp_path, family, damage, message):
    source = {"bert": bert, "gpt": gpt}[family]
    model = Path(shutil.copytree(source, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints")))
    damage(model)
    stores = tmp_path / "stores"
    with pytest.raises(ZooError, match=message):
        train(start_arguments(place, "roberta", model, output=tmp_path / "runs", **{"data.stores": stores}))
    assert not stores.exists()


def test_a_layer_is_not_both_copied_and_fresh():
    copied = ["core.layers.0.a.weight", "core.layers.1.a.weight", "core.layers.1.b.bias", "core.norm.weight"]
    fresh = ["core.layers.1.entities.weight", "core.layers.2.a.weight", "core.layers.2.b.bias", "heads.x.bias"]
    assert copied_and_fresh(copied, fresh) == (
        ["core.layers.0", "core.layers.1 (but for what is fresh)", "core.norm.weight"],
        ["core.layers.1.entities.weight", "core.layers.2", "heads.x"],
    )


def test_a_causal_model_goes_on_with_tokens_that_fine_tuning_adds(place, gpt, monkeypatch, tmp_path):
    """GPT's start and extract tokens are in no vocabulary: what a run from nothing may leave open, this one may too."""
    found, report = first_weights(monkeypatch, start_arguments(place, "gpt", gpt, output=tmp_path))
    assert report["fresh"] == report["left"] == []
    assert torch.equal(found[WORDS], open_weights(gpt)[WORDS])


def test_a_checkpoint_without_a_pooler_starts_a_run_that_reads_one(tmp_path):
    """As BertForMaskedLM's: the pooler is new, and the run says so."""
    without = {"model.pooler": "false", "objectives.next_sentence.init_args.dense": "tanh"}
    first = train(arguments(tmp_path, "bert", steps=1, run_folder=tmp_path / "first", **without))
    assert not read_metadata(first).config.pooler
    second = train(arguments(tmp_path, "bert", steps=1, run_folder=tmp_path / "second", **{"init_from.model": first}))
    assert read_metadata(second).config.pooler
    assert any("pooler" in name for name in json.loads((second / "run.json").read_text())["init_from"]["fresh"])
