"""Fine-tuned models that are kept, and imported ones that are fine-tuned: the same answers inside transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from toys import FIRST, LAST, PAIR, POOLED, SINGLE, WORDS, make_model
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2Model,
    TextClassificationPipeline,
    pipeline,
)

import zoo.hf  # noqa: F401  makes model toy_folders known to the Auto classes
from finetune.config import FinetuneSettings
from finetune.data.tasks import Task
from finetune.kinds.load import read_file
from finetune.training import prepared as prepared_rows
from finetune.training import run
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from zoo.model_folder import model_digest, open_weights, read_metadata
from zoo.weights.commands import export_folder, import_folder

TOYS = {
    "pooled": POOLED,
    "first": FIRST,
    "last": LAST,
    "last of both sides": LAST._replace(attention="bidirectional"),
    "spare rows": LAST._replace(config=LAST.config.replace(vocab_size=len(WORDS) + 7)),  # more than tokens
}
HEADS = {
    "pooled": {"dense": "pooler", "bias": True},
    "first": {"dense": "tanh", "bias": True},
    "last": {"dense": "none", "bias": False},
    "last of both sides": {"dense": "tanh", "bias": True},
    "spare rows": {"dense": "none", "bias": False},
}
SETTINGS = FinetuneSettings(lr=3e-3, epochs=2, limit=160)


pytestmark = pytest.mark.usefixtures("one_thread")


def keep(folder: Path, task: Task, data: Path, output: Path, **changes) -> Path:
    """Fine-tune, and the folder of the model."""
    finetune(folder, task, data, 1, replace(SETTINGS, **changes), output, progress=False, save_model=True)
    return output / "model"


def answers(output: Path) -> np.ndarray:
    """(N, labels) the probabilities that fine-tuning wrote down."""
    lines = (output / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return np.array([[float(cell) for cell in line.split("\t")[3:]] for line in lines])


def asked(task: Task, data: Path) -> list[dict[str, str]]:
    """The development rows as a pipeline takes them."""
    rows = read_file(task, data / task.name / "dev.tsv").limited(SETTINGS.limit)
    pairs = rows.pairs or [None] * len(rows)
    return [{"text": a} if b is None else {"text": a, "text_pair": b} for a, b in zip(rows.texts, pairs)]


def answered(pipe: TextClassificationPipeline, rows: list[dict[str, str]], labels: tuple[str, ...]) -> np.ndarray:
    """(N, labels) the probabilities that a pipeline gives, one row at a time."""
    found = [{line["label"]: line["score"] for line in pipe(row, top_k=None)} for row in rows]
    return np.array([[scores[label] for label in labels] for scores in found])


# --- inside transformers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [SINGLE, PAIR], ids=lambda task: task.name)
@pytest.mark.parametrize("name", TOYS)
def test_a_kept_model_answers_in_a_pipeline_as_it_was_scored(name, task, toy_folders, toy_data, tmp_path):
    kept = keep(toy_folders[name], task, toy_data, tmp_path / "out")
    metadata, source = read_metadata(kept), read_metadata(toy_folders[name])
    labels = {"num_labels": 2, "labels": list(task.labels)}
    assert metadata.heads == {"classifier": {"kind": "classification", **HEADS[name], **labels}}
    assert (metadata.template, metadata.attention) == (source.template, source.attention)
    tokenizer = AutoTokenizer.from_pretrained(kept)
    assert len(tokenizer) == metadata.config.vocab_size == len(WORDS) + (3 if source.template.pooling == "last" else 0)
    rows, expected = asked(task, toy_data), answers(tmp_path / "out")
    np.testing.assert_allclose(
        answered(pipeline("text-classification", str(kept)), rows, task.labels), expected, atol=2e-6
    )
    if name == "last of both sides":  # no stock class says these facts together
        return
    assert export_folder(kept, tmp_path / "stock")[0].endswith("ForSequenceClassification")
    stock = pipeline("text-classification", str(tmp_path / "stock"))
    assert type(stock.model).__module__.startswith("transformers.")
    np.testing.assert_allclose(answered(stock, rows, task.labels), expected, atol=2e-6)


def test_texts_are_laid_out_as_in_training(toy_folders, toy_data, tmp_path):
    """Layout, segments, special tokens that a text spells out, and the length at which it is cut."""
    kept = keep(toy_folders["pooled"], PAIR, toy_data, tmp_path / "out", max_length=12)
    tokenizer, prepared = (
        AutoTokenizer.from_pretrained(kept),
        PreparedTask(toy_folders["pooled"], PAIR, toy_data, SETTINGS),
    )
    found = tokenizer("red [SEP] blue", "green")
    encoded = prepared.tokenizer.backend
    assert found["input_ids"] == encoded.encode("red [SEP] blue", "green").ids
    assert found["input_ids"].count(3) == 2  # the template's, and none of the text
    assert found["token_type_ids"] == [0] * found["input_ids"].index(3) + [0] + [1] * 2
    assert tokenizer.model_max_length == 12
    assert len(tokenizer("a " * 40, "b", truncation=True)["input_ids"]) == 12


def test_a_kept_model_is_fine_tuned_further(toy_folders, toy_data, tmp_path):
    """Its template tokens are there already, and its classifier stays behind: the new task has its own."""
    kept = keep(toy_folders["last"], SINGLE, toy_data, tmp_path / "one")
    prepared = PreparedTask(kept, PAIR, toy_data, SETTINGS)
    fresh = PreparedTask(toy_folders["last"], PAIR, toy_data, SETTINGS).model(1)
    model = prepared.model(1)
    assert torch.equal(model.core.token_embedding, open_weights(kept)["core.embeddings.word_embeddings.weight"])
    assert torch.equal(model.head.output.weight, fresh.head.output.weight)
    again = keep(kept, PAIR, toy_data, tmp_path / "two")
    assert read_metadata(again).heads["classifier"]["labels"] == list(PAIR.labels)
    assert read_metadata(again).config == read_metadata(kept).config


def test_what_the_folder_says_of_itself_is_carried_over(toy_data, tmp_path):
    folder = make_model(tmp_path / "model", POOLED)
    metadata = read_metadata(folder)
    config = json.loads((folder / "config.json").read_text()) | {"origin": "bert"}
    (folder / "config.json").write_text(json.dumps(config))
    kept = read_metadata(keep(folder, SINGLE, toy_data, tmp_path / "out"))
    assert kept.origin == "bert"
    assert kept.config == metadata.config


# --- whole or not at all -----------------------------------------------------------------------------------------


def test_a_model_is_kept_only_when_asked_for_and_later_by_training_again(toy_folders, toy_data, tmp_path):
    def tune(save: bool):
        return finetune(toy_folders["pooled"], SINGLE, toy_data, 1, SETTINGS, tmp_path, progress=False, save_model=save)

    first = tune(False)
    before = (tmp_path / "predictions.tsv").read_bytes()
    assert not (tmp_path / "model").exists()
    assert tune(True) == first
    assert (tmp_path / "predictions.tsv").read_bytes() == before
    stamp = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert tune(True) == tune(False) == first  # now both are there, and are taken as they are
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_model_without_its_result_is_not_taken(toy_folders, toy_data, tmp_path, monkeypatch):
    """Cut short between the two; then other settings are given the same folder."""

    def killed(path, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(run, "write_predictions", lambda *_: (tmp_path / "out" / "model").mkdir())
        cut.setattr(PreparedTask, "save", lambda *_: (tmp_path / "out" / "model" / "config.json").write_text("stale"))
        cut.setattr(run, "write_json", killed)
        keep(toy_folders["pooled"], SINGLE, toy_data, tmp_path / "out")
    kept = keep(toy_folders["pooled"], SINGLE, toy_data, tmp_path / "out", lr=1e-3)
    other = keep(toy_folders["pooled"], SINGLE, toy_data, tmp_path / "other", lr=1e-3)
    assert model_digest(kept) == model_digest(other)


def test_a_failed_save_leaves_no_folder_and_no_result(toy_folders, toy_data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared_rows, "save_model_folder", full)
    with pytest.raises(OSError, match="No space left"):
        keep(toy_folders["pooled"], SINGLE, toy_data, tmp_path)
    assert not {"model", "result.json"} & {path.name for path in tmp_path.iterdir()}
    assert not list(tmp_path.glob(".model*"))


# --- imported models ---------------------------------------------------------------------------------------------


def stock_folder(folder: Path, form: str) -> Path:
    """A stock transformers folder with random weights and a tokenizer in one of the forms that these have."""
    small = {"vocab_size": len(WORDS) + 2, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**small, intermediate_size=48, max_position_embeddings=40)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "##s", "##y"]) + "\n")
    if form == "vocab.txt":
        return folder
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink()
    if form == "padding and truncation":  # settings of another use, as sentence encoders bring them along
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.enable_padding(length=32, pad_id=0, pad_token="[PAD]")
        backend.enable_truncation(4)
        backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt", "padding and truncation"])
def test_an_imported_model_is_fine_tuned_on_rows_as_its_own_tokenizer_lays_them_out(form, toy_data, tmp_path):
    stock = stock_folder(tmp_path / "stock", form)
    theirs = BertTokenizer.from_pretrained(stock)
    import_folder(stock, tmp_path / "model")
    assert not (tmp_path / "model" / "run.json").exists()
    assert "classifier" not in read_metadata(tmp_path / "model").heads
    for task in (SINGLE, PAIR):
        encoded = PreparedTask(tmp_path / "model", task, toy_data, SETTINGS).evaluation.sequences
        for number, row in enumerate(asked(task, toy_data)):
            at = slice(*encoded.offsets[number : number + 2])
            expected = theirs(row["text"], row.get("text_pair"), truncation=False, padding=False)
            assert encoded.ids[at].tolist() == expected["input_ids"]
            assert encoded.types[at].tolist() == expected["token_type_ids"]
    kept = keep(tmp_path / "model", PAIR, toy_data, tmp_path / "out")
    pipe = pipeline("text-classification", str(kept))
    found = answered(pipe, asked(PAIR, toy_data), PAIR.labels)
    np.testing.assert_allclose(found, answers(tmp_path / "out"), atol=2e-6)


def test_a_model_folder_with_a_vocabulary_file_only(toy_data, tmp_path):
    folder = make_model(tmp_path / "model", POOLED)
    expected = PreparedTask(folder, PAIR, toy_data, SETTINGS).train.sequences.ids
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    assert np.array_equal(PreparedTask(folder, PAIR, toy_data, SETTINGS).train.sequences.ids, expected)
    digest = model_digest(folder)
    (folder / "vocab.txt").write_text("\n".join([*WORDS[:-1], "o"]) + "\n")
    assert model_digest(folder) != digest  # another vocabulary is another model


def test_a_decoder_s_end_token_opens_and_closes(toy_data, tmp_path):
    """GPT-2's single special token: known to the tokenizer, so nothing is added."""
    stock = tmp_path / "stock"
    words = ["<|endoftext|>", "good", "bad", "Ġgood", "Ġbad", *"abcdefghijklmn", *(f"Ġ{x}" for x in "abcdefghijklmn")]
    GPT2Model(GPT2Config(vocab_size=len(words), n_embd=32, n_layer=1, n_head=2, n_positions=40)).save_pretrained(stock)
    (stock / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (stock / "merges.txt").write_text("#version: 0.2\n")
    (stock / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    import_folder(stock, tmp_path / "model")
    prepared = PreparedTask(tmp_path / "model", SINGLE, toy_data, SETTINGS)
    offsets = prepared.train.sequences.offsets
    starts, ends = offsets[:-1], offsets[1:]
    assert set(prepared.train.sequences.ids[starts]) == set(prepared.train.sequences.ids[ends - 1]) == {0}
    kept = keep(tmp_path / "model", SINGLE, toy_data, tmp_path / "out")
    assert read_metadata(kept).config.vocab_size == len(words)
    pipe = pipeline("text-classification", str(kept))
    np.testing.assert_allclose(
        answered(pipe, asked(SINGLE, toy_data), SINGLE.labels), answers(tmp_path / "out"), atol=2e-6
    )
