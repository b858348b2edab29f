"""Kept models, asked again: every kind and use answers as it was scored; what lies in their folder; what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import LAST, POOLED, SPELT, make_model

from finetune.config import FeatureSettings, FinetuneSettings
from finetune.data.tasks import TASK_FILE, KindSpec, SpanMarkers, Task, task_fields, task_of
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from finetune.training.saved import SavedModel, open_saved
from zoo.errors import ZooError

TOYS = {"pooled": POOLED, "last": LAST, "spelt": SPELT}
CLASSES = Task(name="mood", columns=("text",), labels=("neg", "pos"))
PAIRS = Task(name="pairs", columns=("text", "other"), labels=("neg", "pos"))
VALUES = Task(name="values", columns=("text",), kind=KindSpec("finetune.kinds.Regression", {"least": 0, "most": 5}))
VALUES = replace(VALUES, label_column="value")
TAGS = Task(
    name="tags", columns=("text",), label_column="tags", labels=("COL",), kind=KindSpec("finetune.kinds.Tagging")
)
SPANS = Task(name="spans", columns=("question", "text"), label_column="answer", max_length=20, index_column="name")
SPANS = replace(SPANS, kind=KindSpec("finetune.kinds.AnswerSpan", {"stride": 4, "unanswerable": True}))
CHOICES = Task(name="choices", columns=("text",), label_column="right", kind=KindSpec("finetune.kinds.Choice"))
MARKED = Task(name="marked", columns=("text",), labels=("neg", "pos"), marks=(SpanMarkers("colour", "[E]", "[/E]"),))
TASKS = [CLASSES, PAIRS, VALUES, TAGS, SPANS, CHOICES, MARKED]
SETTINGS = FinetuneSettings(lr=3e-3, epochs=1)
FEATURES = replace(SETTINGS, use="features", features=FeatureSettings(2, layer_norm=True, hidden_size=8))

pytestmark = pytest.mark.usefixtures("one_thread")


def toy_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with the columns of every task."""
    generator, rows = np.random.default_rng(seed), []
    for number in range(count):
        letters = [*generator.choice([*"abcdefgh"], size=generator.integers(2, 30))]
        place, colour = int(generator.integers(len(letters))), str(generator.choice(["red", "blue"]))
        letters.insert(place, colour)
        start = sum(len(word) + 1 for word in letters[:place])
        rows.append(
            {
                "name": f"q{number}",
                "text": " ".join(letters),
                "other": str(generator.choice(["red", "blue"])),
                "label": "pos" if colour == "red" else "neg",
                "value": 4.0 if colour == "red" else 1.0,
                "tags": " ".join("O" if n != place else "B-COL" for n in range(len(letters))),
                "question": "same",
                "answer": {"text": [colour], "answer_start": [start]},
                "choices": ["red", "blue", "green"][: 2 + number % 2],
                "right": ["red", "blue"].index(colour),
                "colour": [[start, start + len(colour)]],
            }
        )
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate((("train", 48), ("dev", 24))):
        lines = [json.dumps(row) + "\n" for row in toy_rows(count, seed)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def kept(toy_folders, data: Path, tmp_path_factory) -> Path:
    """A kept classifier."""
    return keep(toy_folders["pooled"], CLASSES, data, SETTINGS, tmp_path_factory.mktemp("kept")).folder


def keep(model: Path, task: Task, data: Path, settings: FinetuneSettings, output: Path) -> SavedModel:
    finetune(model, task, data, 1, settings, output, progress=False, save_model=True)
    return open_saved(output / "model")


def predictions(output: Path) -> list[list[str]]:
    lines = (output / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [[cell for n, cell in enumerate(line.split("\t")) if n != 1] for line in lines]


def same(found: str, wanted: str) -> bool:
    """Whether two cells are the same texts, or the same numbers but for rounding."""
    pairs = [*zip(found.split(" "), wanted.split(" "), strict=True)]
    return all(a == b or ("." in a and abs(float(a) - float(b)) < 3e-6) for a, b in pairs)


# --- answers ---------------------------------------------------------------------------------------------------------

USES = [
    *(pytest.param(task, "pooled", SETTINGS, id=f"{task.name}-pooled") for task in TASKS),
    *(pytest.param(task, "last", SETTINGS, id=f"{task.name}-last") for task in (PAIRS, TAGS, SPANS, CHOICES)),
    *(pytest.param(task, "spelt", FEATURES, id=f"{task.name}-frozen") for task in TASKS),
    pytest.param(replace(PAIRS, symmetric=True), "last", SETTINGS, id="both-orders"),
    pytest.param(CLASSES, "pooled", replace(SETTINGS, use="probe"), id="probe"),
]


@pytest.mark.parametrize(("task", "name", "settings"), USES)
def test_a_kept_model_answers_as_it_was_scored(task, name, settings, toy_folders, data: Path, tmp_path: Path) -> None:
    saved = keep(toy_folders[name], task, data, settings, tmp_path)
    assert saved.task == task.as_tested()
    examples = saved.read(data / "dev.jsonl")
    assert not examples.labelled
    found = saved.predict(examples)
    rows = saved.kind.written(saved.task, examples, found.answers)[1]
    wanted = predictions(tmp_path)
    assert len(rows) == len(wanted) == len(found.records) == 24
    for row, expected, record in zip(rows, wanted, found.records, strict=True):
        assert row[1] == ""
        assert all(same(*cells) for cells in zip([row[0], *row[2:]], expected, strict=True)), (row, expected)
        assert record["id"] == expected[0]


def test_low_rank_updates_are_in_a_kept_model(toy_folders, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    saved = keep(toy_folders["pooled"], CLASSES, data, replace(SETTINGS, use="lora"), tmp_path)
    rows = saved.kind.written(saved.task, *(e := saved.read(data / "dev.jsonl"), saved.predict(e).answers))[1]
    assert all(same(row[3], wanted[2]) for row, wanted in zip(rows, predictions(tmp_path), strict=True))


def test_texts_are_answered_like_rows_of_a_file(toy_folders, data: Path, tmp_path: Path) -> None:
    rows = toy_rows(24, 1)
    for task, texts in (
        (PAIRS, lambda row: [row["text"], row["other"]]),
        (CHOICES, lambda row: [row["text"], *row["choices"]]),
    ):
        saved = keep(toy_folders["pooled"], task, data, SETTINGS, tmp_path / task.name)
        of_file = saved.predict(saved.read(data / "dev.jsonl")).records
        assert saved.predict(saved.asked([texts(row) for row in rows])).records == of_file
        again = saved.predict(saved.asked([texts(rows[3])])).records[0]  # alone, without other rows' padding
        assert again["predicted"] == of_file[3]["predicted"]


# --- answers as JSON objects -----------------------------------------------------------------------------------------


def test_records_say_classes_numbers_words_places_and_choices(toy_folders, data: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=12, lr=5e-3, batch_size=8)
    found = {}
    for task in (CLASSES, VALUES, TAGS, SPANS, CHOICES):
        saved = keep(toy_folders["pooled"], task, data, settings, tmp_path / task.name)
        found[task.name] = saved.predict(saved.read(data / "dev.jsonl")).records
    rows = toy_rows(24, 1)
    for number, row in enumerate(rows):
        own = {name: records[number] for name, records in found.items()}
        classes = own["mood"]["probabilities"]
        assert own["mood"]["predicted"] == max(classes, key=classes.get)
        assert sum(classes.values()) == pytest.approx(1.0, abs=1e-5)
        assert 0.0 <= own["values"]["predicted"] <= 5.0
        tags = own["tags"]
        assert tags["words"] == row["text"].split()
        assert len(tags["predicted"]) == len(tags["words"])
        assert all(row["text"][e["start"] : e["end"]] == e["text"] for e in tags["entities"])
        assert len(tags["entities"]) == sum(tag.startswith("B-") for tag in tags["predicted"])
        span = own["spans"]
        assert span["id"] == row["name"]
        assert row["text"][span["start"] : span["end"]] == span["best_text"] != ""
        assert span["predicted"] == ("" if span["no_answer_score"] > span["score"] else span["best_text"])
        choice = own["choices"]
        assert choice["text"] == row["choices"][choice["predicted"]]
        assert len(choice["probabilities"]) == len(row["choices"])
    right = [row["text"].split()[row["tags"].split().index("B-COL")] for row in rows]
    told = [[e["text"] for e in record["entities"]] for record in found["tags"]]
    assert np.mean([[word] == texts for word, texts in zip(right, told, strict=True)]) > 0.9


def test_cut_texts_and_unknown_words_are_told(kept: Path, toy_folders, data: Path, tmp_path: Path) -> None:
    saved = keep(toy_folders["pooled"], CLASSES, data, replace(SETTINGS, max_length=8), tmp_path)
    assert saved.max_length == 8
    found = saved.predict(saved.asked([["a b"], ["a b c d e f g h"], ["a b c d e f"]]))
    assert found.cut.tolist() == [1]
    assert found.warnings == []
    assert "50% of the tokens are unknown" in saved.predict(saved.asked([["what never"], ["a b"]])).warnings[0]
    assert open_saved(kept).max_length == 128


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_is_read_back_from_its_fields(task: Task, tmp_path: Path) -> None:
    fields = json.loads(json.dumps(task_fields(task)))
    assert task_of(fields, tmp_path / TASK_FILE) == task
    assert "epochs" not in fields


def test_confidence_that_was_set_is_kept(toy_folders, data: Path, tmp_path: Path) -> None:
    saved = keep(toy_folders["pooled"], MARKED, data, replace(SETTINGS, confidence=0.5), tmp_path)
    assert saved.task.confidence == 0.5


def test_columns_of_a_file_may_be_named(kept: Path, tmp_path: Path) -> None:
    saved = open_saved(kept)
    (tmp_path / "in.csv").write_text('said,label\n"a, red",whatever\n', encoding="utf-8")
    assert saved.read(tmp_path / "in.csv", ["said"]).texts == ["a, red"]
    with pytest.raises(ZooError, match=r"no column 'text'.*The header has: said, label"):
        saved.read(tmp_path / "in.csv")
    with pytest.raises(ZooError, match="2 columns are named, and task 'mood' reads 1: text"):
        saved.read(tmp_path / "in.csv", ["said", "label"])


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def of_strangers(folder: Path) -> None:
    fields = {**json.loads((folder / TASK_FILE).read_text()), "kind": "strange.Kind"}
    (folder / TASK_FILE).write_text(json.dumps(fields))


def with_more_labels(folder: Path) -> None:
    fields = {**json.loads((folder / TASK_FILE).read_text()), "labels": ["a", "b", "c"]}
    (folder / TASK_FILE).write_text(json.dumps(fields))


DAMAGE = [
    (lambda folder: (folder / TASK_FILE).unlink(), "holds a fine-tuned model without task.json.*Fine-tune it again"),
    (without_tokenizer, "tokenizer"),
    (of_strangers, r"strange.Kind, not the package's own code; if you trust it, say --trust_code"),
    (lambda folder: (folder / TASK_FILE).write_text("{"), "task.json.*broken JSON"),
    (lambda folder: (folder / TASK_FILE).write_text('{"name": "x"}'), "task.json: the task lacks columns"),
    (lambda folder: (folder / TASK_FILE).write_text('{"name": "x", "kind": 3}'), "task.json.*"),
    (lambda folder: (folder / "config.json").write_text("\0\1"), "config.json"),
    (with_more_labels, "model.safetensors"),
]


@pytest.mark.parametrize(("damage", "part"), DAMAGE)
def test_damaged_folders_are_refused(damage, part: str, kept: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(ZooError, match=part):
        (saved := open_saved(folder)).predict(saved.asked([["a red"]]))


def test_other_folders_are_refused(kept: Path, toy_folders, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"is not fine-tuned; its heads are: none.*--save_model true"):
        open_saved(toy_folders["pooled"])
    with pytest.raises(ZooError, match=r"is no model folder; the fine-tuned model is in .*model"):
        open_saved(kept.parent)
    with pytest.raises(ZooError, match="is not a folder"):
        open_saved(tmp_path / "nowhere")


TOO_FEW = [
    (PAIRS, ["a"], r"reads 2 texts a row \(text, other\); 1 given"),
    (PAIRS, ["a", "b", "c"], "3 given"),
    (CLASSES, ["  "], "the texts of 'text' are all empty"),
    (CHOICES, ["a", "b"], r"reads 1 text \(text\), and two choices or more; 2 given"),
    (MARKED, ["a"], "reads the spans colour beside its texts.*--input FILE.jsonl"),
    (SPANS, ["a", ""], "empty"),
    (TAGS, [""], "no row of 'text' has a word"),
]


@pytest.mark.parametrize(("task", "texts", "part"), TOO_FEW)
def test_texts_that_make_no_row_are_refused(task: Task, texts: list[str], part: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", POOLED)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "dev"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toy_rows(4, 0)))
    prepared = PreparedTask(model, task, folder, SETTINGS)
    prepared.save(prepared.model(1), tmp_path / "kept")
    with pytest.raises(ZooError, match=part):
        open_saved(tmp_path / "kept").asked([texts])
