"""A number for a text: what is read, learned, bounded and written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import FIRST, LAST, PERMUTED, POOLED, SPELT, Toy, make_model

import zoo.hf  # noqa: F401
from finetune.config import FinetuneSettings
from finetune.data.tasks import KindSpec, Task
from finetune.kinds.base import open_kind
from finetune.kinds.load import load_task, load_test, read_file
from finetune.training.loop import predict
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from zoo.errors import ZooError
from zoo.weights.commands import export_folder

KIND = KindSpec("finetune.kinds.Regression", {"least": 0.0, "most": 5.0})
TASK = Task(name="warmth", columns=("text",), label_column="score", kind=KIND, metrics=("pearson", "spearman"))
WARMTH = {"red": 5.0, "green": 2.5, "blue": 0.0}


def write(path: Path, rows: list[tuple[str, str]], header: str = "text\tscore") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warmth")
    generator = np.random.default_rng(0)
    for name, count in (("train", 96), ("dev", 48)):
        rows = []
        for _ in range(count):
            word = str(generator.choice(list(WARMTH)))
            words = [*generator.choice(list("abcdefgh"), size=3), word]
            rows.append((" ".join(generator.permutation(words)), f"{WARMTH[word]:g}"))
        write(folder / f"{name}.tsv", rows)
    write(folder / "test.tsv", [("a red b",), ("c blue",)], "text")  # type: ignore[list-item]
    return folder


@pytest.mark.parametrize(
    "toy", [POOLED, FIRST, LAST, PERMUTED, SPELT], ids=["pooler", "first", "last", "xlnet", "elmo"]
)
def test_values_are_learned_by_every_kind_of_core(toy: Toy, data: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", toy)
    lr, epochs = (1e-3, 30) if toy is SPELT else (3e-3, 15)  # an LSTM diverges where the others learn
    settings = FinetuneSettings(lr=lr, epochs=epochs, batch_size=8)
    result = finetune(model, TASK, data, 1, settings, tmp_path / "out", progress=False)
    assert result.scores["pearson"] > 0.8
    assert result.majority == {"pearson": 0.0, "spearman": 0.0}
    lines = (tmp_path / "out" / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id\tgold\tpredicted"
    assert all(0.0 <= float(line.split("\t")[2]) <= 5.0 for line in lines[1:])


def test_features_learn_values_too(data: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", SPELT)
    settings = FinetuneSettings(lr=1e-2, epochs=15, batch_size=8, use="features")
    assert finetune(model, TASK, data, 1, settings, tmp_path / "out", progress=False).scores["pearson"] > 0.9


def test_a_kept_model_gives_the_same_numbers_in_transformers(data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = make_model(tmp_path / "model", POOLED)
    prepared = PreparedTask(model, TASK, data, FinetuneSettings(epochs=1, limit=12))
    ours = prepared.model(1)
    prepared.save(ours, tmp_path / "kept")
    expected = predict(ours, prepared)
    assert export_folder(tmp_path / "kept", tmp_path / "stock")[0].endswith("BertForSequenceClassification")
    texts = AutoTokenizer.from_pretrained(tmp_path / "kept")(
        prepared.data.evaluation.texts, return_tensors="pt", padding=True
    )
    for folder, name in (("kept", "ZooForSequenceClassification"), ("stock", "BertForSequenceClassification")):
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / folder).eval()
        assert (type(theirs).__name__, theirs.config.num_labels) == (name, 1)
        with torch.no_grad():
            found = theirs(**texts).logits[:, 0].clamp(0.0, 5.0)
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_test_files_need_no_values(data: Path) -> None:
    found = load_test(TASK, data)
    assert not found.labelled
    assert found.texts == ["a red b", "c blue"]
    assert load_task(TASK, data).train.labelled


@pytest.mark.parametrize(
    ("cell", "part"),
    [
        ("warm", r"line 3: 'score' of task 'warmth' is \"warm\"; a number from 0 to 5 is needed"),
        ("5.5", 'line 3: .* is "5.5"; a number from 0 to 5'),
        ("nan", "line 3: .* a number from 0 to 5"),
    ],
)
def test_what_is_no_value_is_told_by_line(cell: str, part: str, tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv", [("a", "1"), ("b", cell)])
    with pytest.raises(ZooError, match=part):
        read_file(TASK, path)


def test_constant_values_are_warned_of(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.tsv", [("a", "1"), ("b", "1")])
    (found,) = open_kind(TASK).warnings(TASK, load_task(TASK, tmp_path))
    assert "all 2 rows that task 'warmth' trains on have the value 1" in found


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"labels": ("a", "b")}, "numbers for labels"),
        ({"columns": ("a", "b", "c")}, "3 text columns"),
        ({"metrics": ("accuracy",)}, "unknown metric 'accuracy'"),
        ({"kind": KIND._replace(init_args={"least": 5.0, "most": 0.0})}, "most has to be the larger"),
        ({"kind": KIND._replace(init_args={"lest": 0.0})}, "Did you mean 'least'"),
        ({"kind": KIND._replace(class_path="finetune.kinds.Regresion")}, "Did you mean 'Regression'"),
    ],
)
def test_tasks_that_cannot_work(change: dict[str, object], part: str) -> None:
    with pytest.raises(ZooError, match=part):
        open_kind(replace(TASK, **change))
