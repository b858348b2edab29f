"""Text to text: texts and labels are learned, written, scored, kept and asked again; what cannot work is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_toys import sentences
from toys import POOLED, check_shares, make_model
from training import train

from finetune.__main__ import main
from finetune.config import FinetuneSettings
from finetune.data.tasks import KindSpec, Task, shipped_tasks
from finetune.inputs.row_cache import RowCache
from finetune.kinds import TextToText
from finetune.kinds.text_to_text import as_text
from finetune.metrics.texts import exact_match
from finetune.training.loop import predict
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from finetune.training.saved import open_saved
from pretraining.scoring.translate import TranslateConfig, Translator
from zoo.errors import ZooError

PAIRS = sentences()
TEXTS = Task(
    name="swap",
    columns=("source",),
    label_column="target",
    kind=KindSpec("finetune.kinds.TextToText", {"max_target_length": 24}),
    epochs=12,
    max_length=32,
)
CLASSES = Task(name="long", columns=("source",), labels=("0", "1"), hub_labels=("short", "long"), epochs=4)
SETTINGS = FinetuneSettings(lr=3e-3, batch_size=16)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BART that was trained for a few steps on both sides of the toy language."""
    folder = tmp_path_factory.mktemp("bart")
    (folder / "text.txt").write_text("\n\n".join(" ".join(pair) + " short long" for pair in PAIRS * 3) + "\n")
    values = {
        "data.corpus.files": f"[{folder / 'text.txt'}]",
        "data.stores": folder / "stores",
        "data.processes": 1,
        "data.tokenizer.vocab_size": 300,
        "data.sequence_length": 32,
        "data.validation_tokens": 200,
        "model.hidden_size": 64,
        "model.intermediate_size": 128,
        "model.num_hidden_layers": 1,
        "model.num_attention_heads": 2,
        "model.hidden_dropout_prob": 0.0,
        "model.attention_probs_dropout_prob": 0.0,
        "train.steps": 40,
        "train.tokens": "null",
        "train.batch_size": 16,
        "train.lr": 0.003,
        "train.threads": 1,
        "train.precision": "fp32",
        "run_folder": folder / "run",
    }
    return train(
        ["--config", "bart-tiny", *(word for key, value in values.items() for word in (f"--{key}", str(value)))]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of the toy language as a table, and a class that one word of the source decides."""
    folder = tmp_path_factory.mktemp("data")
    for task in (TEXTS, CLASSES):
        (folder / task.name).mkdir()
        for part, start in (("train", 0), ("dev", 3)):
            rows = [
                f"{source}\t{target if task is TEXTS else int(source.split()[1] in ('red', 'old'))}"
                for source, target in PAIRS[start :: 1 if part == "train" else 4]
            ]
            head = f"source\t{task.label_column}"
            (folder / task.name / f"{part}.tsv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def values_of(run: Path, data: Path, task: Task, **changes: Any) -> PreparedTask:
    return PreparedTask(run, task, data, replace(SETTINGS, **changes))


@pytest.fixture(scope="module")
def kept(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that learned the texts."""
    folder = tmp_path_factory.mktemp("kept")
    result = finetune(run, TEXTS, data, 1, SETTINGS, folder, progress=False, save_model=True)
    assert result.train_loss[-1] < 0.5 * result.train_loss[0]
    assert result.scores["bleu"] > result.majority["bleu"] + 0.2
    assert result.scores["exact_match"] > 0.5
    assert set(result.signatures) == {"bleu", "chrf"}
    assert "tok:13a" in result.signatures["bleu"]
    return folder


def test_texts_are_learned_and_the_model_writes_again_what_it_was_scored_by(kept: Path, data: Path):
    lines = (kept / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id\tgold\tpredicted"
    expected = [line.split("\t")[2] for line in lines[1:]]
    saved = open_saved(kept / "model")
    found = saved.predict(saved.read(data / "swap" / "dev.tsv"))
    assert [record["predicted"] for record in found.records] == expected
    source = (data / "swap" / "dev.tsv").read_text().splitlines()[1].split("\t")[0]
    assert saved.predict(saved.asked([[source]])).records == [{"id": "0", "predicted": expected[0]}]
    search = TranslateConfig("run", "text", num_beams=1).search  # the folder is a model that writes, too
    assert dict(Translator(kept / "model").translate([source], search, None, 1)) == {0: expected[0]}


def test_beams_and_batches_of_other_sizes(run: Path, data: Path, kept: Path, monkeypatch: pytest.MonkeyPatch):
    spec = KindSpec("finetune.kinds.TextToText", {"max_target_length": 24, "num_beams": 3, "length_penalty": 0.6})
    prepared = values_of(kept / "model", data, replace(TEXTS, kind=spec))
    model = prepared.model(1)
    whole = predict(model, prepared)
    monkeypatch.setattr("finetune.training.loop.EVALUATION_BATCH", 5)
    assert predict(model, prepared) == whole
    assert prepared.kind.scores(prepared.task, prepared.data.evaluation, whole)["exact_match"] > 0.5


def test_two_processes_share_a_batch_as_one(run: Path, data: Path):
    prepared = values_of(run, data, TEXTS)
    model = prepared.model(1).train()
    check_shares(model, prepared, np.arange(7))
    labels = prepared.train.labels(np.array([0, 1]))
    assert (labels[:, 0] == prepared.tokenizer.vocabulary.cls).all()  # BART's targets open with its first token
    assert prepared.kind.count(prepared.train, np.array([0, 1])) == int((labels >= 0).sum())


def test_the_report_of_several_seeds_has_classes_as_words_and_as_a_head(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = tmp_path / "task.yaml"
    own.write_text("{name: long, columns: [source], labels: ['0', '1'], hub_labels: [short, long]}\n")
    reports = {}
    for way, epochs in (("true", 9), ("false", 3)):
        line = f"--model {run} --tasks long --task_file {own} --data {data} --lr 3e-3 --batch_size 16 --seeds 1,2"
        line += f" --text_to_text {way} --epochs {epochs} --output {tmp_path / way} --progress false --rows_cache_mb 0"
        monkeypatch.setattr("sys.argv", ["finetune", *line.split()])
        assert main() == 0
        rows = json.loads((tmp_path / way / "results.json").read_text())["rows"]
        reports[way] = {row["metric"]: row for row in rows}
    assert set(reports["true"]) == {"accuracy", "no_label"}
    assert set(reports["false"]) == {"accuracy"}
    assert all(report["accuracy"]["mean"] > report["accuracy"]["majority"] for report in reports.values())
    assert all(report["accuracy"]["n"] == 2 for report in reports.values())
    lines = (tmp_path / "true" / "long" / "seed-1" / "predictions.tsv").read_text().splitlines()
    assert lines[0] == "id\tgold\tpredicted\ttext"
    assert {tuple(line.split("\t")[2:]) for line in lines[1:]} <= {("0", "short"), ("1", "long")}


def test_answers_that_are_no_label_are_wrong_and_counted(run: Path, data: Path):
    prepared = values_of(run, data, replace(CLASSES, metrics=("f1", "accuracy")), text_to_text=True)
    _ = prepared.evaluation
    examples, kind = prepared.data.evaluation.chosen(np.arange(4)), prepared.kind
    examples = replace(examples, labels=np.array([0, 1, 1, 0]))
    found = kind.scores(prepared.task, examples, ["short", "long", "longer", ""])
    assert found == {"f1": 0.5, "accuracy": 0.5, "no_label": 0.5}
    assert next(iter(found)) == "f1"
    written = kind.written(prepared.task, examples, ["short", "long", "longer", ""])[1]
    assert [row[2] for row in written] == ["0", "1", "", ""]
    assert [name for _, name in kind.submitted(prepared.task, examples, ["short", "long", "longer", ""])] == [*"0100"]
    record = kind.records(prepared.task, examples, ["long", "x", "", ""])[:2]
    assert record == [{"predicted": "1", "text": "long"}, {"predicted": None, "text": "x"}]


def test_a_source_opens_with_the_task_s_name_as_t5_s_does():
    tasks, kind = shipped_tasks(), TextToText()
    assert kind.source(as_text(tasks["mrpc"]), ["A.", "B."]) == "mrpc sentence1: A. sentence2: B."
    assert kind.source(as_text(tasks["cola"]), ["A."]) == "cola sentence: A."
    assert kind.source(as_text(tasks["qnli"]), ["A?", "B."]) == "qnli question: A? sentence: B."
    assert kind.source(as_text(tasks["mnli-mm"]), ["A.", "B."]).startswith("mnli premise: A.")
    assert kind.source(TEXTS, ["A."]) == "A."
    assert TextToText(prefix="translate: ").source(TEXTS, ["A."]) == "translate: A."


def test_rows_in_files_are_those_in_memory(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = values_of(run, data, TEXTS)
    monkeypatch.setattr("finetune.inputs.row_cache.FEWEST", 1)
    monkeypatch.setattr("finetune.inputs.row_cache.AT_ONCE", 7)
    for _ in range(2):
        cached = PreparedTask(run, TEXTS, data, SETTINGS, cache=RowCache(tmp_path))
        chosen = np.array([0, 8, 15])
        assert torch.equal(cached.train.labels(chosen), plain.train.labels(chosen))
        assert np.array_equal(cached.train.sequences.ids, plain.train.sequences.ids)


def test_exact_match_knows_no_white_space():
    assert exact_match(["a b", "c"], ["a  b ", "d"]) == 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_target_length": 0}, "max_target_length = 0"),
        ({"num_beams": 0}, "num_beams = 0"),
        ({"length_penalty": -1}, "length_penalty = -1"),
        ({"max_target_length": 4000}, "4000 tokens .* has positions for"),
    ],
)
def test_options_that_cannot_work(run: Path, data: Path, options: dict[str, Any], said: str):
    with pytest.raises(ZooError, match=said):
        values_of(run, data, replace(TEXTS, kind=KindSpec(TEXTS.kind.class_path, options))).model(1)


def test_what_does_not_suit_text_to_text(run: Path, data: Path, tmp_path: Path):
    with pytest.raises(ZooError, match="bleu does not suit labels"):
        values_of(run, data, replace(CLASSES, metrics=("bleu",)), text_to_text=True)
    with pytest.raises(ZooError, match="accuracy does not suit texts"):
        values_of(run, data, replace(TEXTS, metrics=("accuracy",)))
    with pytest.raises(ZooError, match=r"is a finetune\.kinds\.Regression"):
        as_text(shipped_tasks()["stsb"])
    with pytest.raises(ZooError, match="use: probe trains that alone"):
        values_of(run, data, TEXTS, use="probe")
    with pytest.raises(ZooError, match="layer_decay and text to text"):
        values_of(run, data, TEXTS, layer_decay=0.9)
    with pytest.raises(ZooError, match="has no decoder"):
        values_of(make_model(tmp_path / "encoder", POOLED), data, TEXTS)
    same = replace(CLASSES, hub_labels=("short", "short "))
    with pytest.raises(ZooError, match="the same as of 'short'"):
        _ = values_of(run, data, same, text_to_text=True).encoder
    (tmp_path / "swap").mkdir()
    for part in ("train", "dev"):
        (tmp_path / "swap" / f"{part}.tsv").write_text("source\ttarget\na\tb\nc\t \n")
    with pytest.raises(ZooError, match=r"train.tsv, line 3: 'target' is empty"):
        values_of(run, tmp_path, TEXTS)
