"""Test rows are answered by the model that was trained, also those of tasks that share it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import POOLED, SINGLE, make_model
from training import finish
from warm import Warm

from finetune.__main__ import main
from finetune.config import FinetuneConfig, FinetuneSettings
from finetune.data.tasks import Task, read_task_file
from finetune.results.report import stored_result
from finetune.training.all_tasks import prepare_tasks
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from zoo.errors import ZooError

pytestmark = pytest.mark.usefixtures("one_thread")
YAML = """
- name: mood
  groups: [moods]
  columns: [text]
  index_column: index
  labels: [neg, pos]
  submit: {format: glue, file: Mood.tsv}
- name: mood-mm
  groups: [moods]
  model_of: mood
  columns: [text]
  labels: [neg, pos]
  folders: [mood]
  eval_files: [dev_mm]
  test_files: [test_mm]
  submit: {format: clue, file: mood_mm.json}
- name: mood-ax
  groups: [moods]
  model_of: mood
  columns: [text]
  labels: [neg, pos]
  eval_files: []
  submit: {format: glue, file: AX.tsv, rows: 3}
"""
SETTINGS = FinetuneSettings(lr=3e-3, epochs=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), POOLED)


@pytest.fixture
def data(toy_data: Path, tmp_path: Path) -> Path:
    """The toy task with test rows, a second pair of dev and test, and a set of test rows alone."""
    folder = tmp_path / "data"
    for name in ("mood", "mood-ax"):
        (folder / name).mkdir(parents=True)
    for name in ("train", "dev"):
        (folder / f"mood/{name}.tsv").write_bytes((toy_data / f"mood/{name}.tsv").read_bytes())
    texts = ["a good b", "c bad", "good", "bad a a a", "d e f good g"]
    test = ["index\ttext", *(f"{number}\t{text}" for number, text in enumerate(texts))]
    (folder / "mood/test.tsv").write_text("\n".join(test) + "\n", encoding="utf-8")
    (folder / "mood/dev_mm.tsv").write_text("text\tlabel\nbad c\tneg\nc good\tpos\n", encoding="utf-8")
    (folder / "mood/test_mm.jsonl").write_text('{"text": "bad"}\n{"text": "good d"}\n', encoding="utf-8")
    (folder / "mood-ax/test.tsv").write_text("text\nbad\ngood\nbad f\n", encoding="utf-8")
    (tmp_path / "moods.yaml").write_text(YAML, encoding="utf-8")
    return folder


def prepared(model: Path, data: Path) -> list[PreparedTask]:
    tasks = read_task_file(data.parent / "moods.yaml")
    config = FinetuneConfig(model=str(model), data=str(data), predict="test", lr=3e-3, epochs=6)
    return prepare_tasks(config, list(tasks.values()), show=False)


def test_test_rows_are_predicted_in_their_order_by_the_same_model(model: Path, data: Path, tmp_path: Path) -> None:
    mood, other, alone = prepared(model, data)
    place = {one.task.name: tmp_path / one.task.name for one in (mood, other, alone)}
    also = [(one, place[one.task.name]) for one in (other, alone)]
    result = finetune(model, mood.task, mood, 1, SETTINGS, place["mood"], progress=False, also=also)
    assert result.scores["accuracy"] > 0.95
    table = "index\tprediction\n0\tpos\n1\tneg\n2\tpos\n3\tneg\n4\tpos\n"
    assert (place["mood"] / "test/Mood.tsv").read_text(encoding="utf-8") == table
    assert (place["mood-mm"] / "test/mood_mm.json").read_text(encoding="utf-8") == (
        '{"id": 0, "label": "neg"}\n{"id": 1, "label": "pos"}\n'
    )
    assert (place["mood-ax"] / "test/AX.tsv").read_text(encoding="utf-8") == (
        "index\tprediction\n0\tneg\n1\tpos\n2\tneg\n"
    )
    rows = (place["mood"] / "test/predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert rows[0].split("\t") == ["id", "gold", "predicted", "p(neg)", "p(pos)"]
    assert rows[1].split("\t")[:3] == ["0", "", "pos"]
    scored = stored_result(place["mood-mm"], {**other.fingerprint, "seed": 1})
    assert scored is not None
    assert (scored.scores["accuracy"], scored.eval_rows, scored.steps) == (1.0, 2, result.steps)
    assert not (place["mood-ax"] / "result.json").exists()  # nothing to score


def test_what_is_there_is_not_trained_again_and_what_is_missing_is(model: Path, data: Path, tmp_path: Path) -> None:
    plain = PreparedTask(model, read_task_file(data.parent / "moods.yaml")["mood"], data, SETTINGS)
    place = tmp_path / "mood"
    first = finetune(model, SINGLE, plain, 1, SETTINGS, place, progress=False)
    assert not (place / "test").exists()
    mood, other, _ = prepared(model, data)
    also = [(other, tmp_path / "mood-mm")]
    assert finetune(model, SINGLE, mood, 1, SETTINGS, place, progress=False, also=also) == first  # bit for bit
    files = [place / "test/Mood.tsv", place / "result.json", tmp_path / "mood-mm/result.json"]
    times = [path.stat().st_mtime_ns for path in files]
    assert finetune(model, SINGLE, mood, 1, SETTINGS, place, progress=False, also=also) == first
    assert [path.stat().st_mtime_ns for path in files] == times
    (tmp_path / "mood-mm/result.json").unlink()
    finetune(model, SINGLE, mood, 1, SETTINGS, place, progress=False, also=also)
    assert (tmp_path / "mood-mm/result.json").exists()
    with (data / "mood/test.tsv").open("a", encoding="utf-8") as stream:
        stream.write("5\tgood\n")
    mood, *_ = prepared(model, data)
    with pytest.raises(ZooError, match="holds predictions of other test rows"):
        finetune(model, SINGLE, mood, 1, SETTINGS, place, progress=False)


def test_the_limit_leaves_the_test_rows_alone(model: Path, data: Path) -> None:
    task = read_task_file(data.parent / "moods.yaml")["mood"]
    ready = PreparedTask(model, task, data, FinetuneSettings(limit=2), test=True)
    assert (len(ready.data.train), len(ready.data.evaluation), len(ready.parts["test"])) == (2, 2, 5)
    assert len(ready.rows("test")) == 5


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("mood-ax/test.tsv", "text\nbad\n", r"test\.tsv has 1 rows, and the test file of task 'mood-ax' 3"),
        ("mood/test.tsv", "index\ttext\n1\tgood\n", r"line 2: 'index' is \"1\", and this is row 0, counted from 0"),
        ("mood/test.tsv", "index\ttexts\n0\tgood\n", r"no column 'text'\. Did you mean 'texts'"),
        ("mood/test.tsv", None, r"has no test file test that is read"),
        ("mood/dev_mm.tsv", "text\tlabel\nbad\tnegative\n", "unknown label 'negative'"),
    ],
)
def test_mistakes_in_test_files_are_told_before_training(
    model: Path, data: Path, name: str, content: str | None, part: str
) -> None:
    if content is None:
        (data / name).unlink()
    else:
        (data / name).write_text(content, encoding="utf-8")
    with pytest.raises(ZooError, match=part):
        prepared(model, data)


def test_a_task_is_answered_by_a_model_of_the_same_labels_only(model: Path, data: Path) -> None:
    mood, *_ = prepared(model, data)
    other = Task(name="other", columns=("text",), labels=("pos", "neg"), model_of="mood", folders=("mood",))
    with pytest.raises(
        ZooError, match=r"'other' is answered by the model of 'mood', and its labels are \('pos', 'neg'"
    ):
        PreparedTask(model, other, data, SETTINGS, leader=mood)


def test_rows_for_tests_alone_are_left_out_where_none_are_asked_for(
    model: Path, data: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    words = ["--model", model, "--tasks", "mood,mood-mm,mood-ax", "--data", data, "--output", tmp_path / "out"]
    words += ["--task_file", data.parent / "moods.yaml", "--seeds", "1", "--limit", "8", "--dry_run"]
    monkeypatch.setattr(sys, "argv", ["finetune", *map(str, words)])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "left out, since test rows are all that they have (--predict test): mood-ax"
    assert "mood-mm: 2 development rows, answered by the model of mood" in lines
    assert "1 of 1 trainings to run, 1 at a time" in lines
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--predict", "test"])
    assert main() == 0
    assert "test rows to answer: mood 5, mood-mm 2, mood-ax 3" in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_the_command_writes_a_zip_for_each_seed_alone_and_side_by_side(
    model: Path, data: Path, tmp_path: Path, warm: Warm
) -> None:
    words = ["--model", model, "--tasks", "moods", "--data", data, "--task_file", data.parent / "moods.yaml"]
    words += ["--epochs", "1", "--seeds", "1,2", "--threads", "1", "--predict", "test", "--output"]
    shown = finish(warm.start("finetune", *words, tmp_path / "one"))
    assert f"for the benchmark's site: {tmp_path / 'one/submission-moods-seed-2.zip'}" in shown
    assert "mood-mm  accuracy" in shown
    finish(warm.start("finetune", *words, tmp_path / "two", "--jobs", "2"))
    again = finish(warm.start("finetune", *words, tmp_path / "two", "--jobs", "2"))
    assert "step" not in again
    for seed in (1, 2):
        one, two = (tmp_path / place / f"submission-moods-seed-{seed}.zip" for place in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    rows = json.loads((tmp_path / "two/results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["task"] for row in rows] == ["mood", "mood-mm"]
    assert np.isfinite(rows[1]["mean"])


def test_rows_that_were_left_out_are_warned_of(model: Path, data: Path) -> None:
    task = replace(read_task_file(data.parent / "moods.yaml")["mood"], drop_broken_rows=True)
    with (data / "mood/train.tsv").open("a", encoding="utf-8") as stream:
        stream.write("good a\nbad\t\n\t\tneg\n")
    with pytest.raises(ZooError, match="1 tab-separated columns where line 1 has 2"):
        PreparedTask(model, replace(task, drop_broken_rows=False), data, SETTINGS)
    task = replace(task, skip_labels=("",))
    (warning,) = PreparedTask(model, task, data, SETTINGS).warnings
    assert "train.tsv: 2 lines have more or fewer cells than the first; they are left out" in warning


@pytest.mark.slow
def test_processes_and_another_start_answer_test_rows_too(model: Path, data: Path, tmp_path: Path, warm: Warm) -> None:
    words = ["--model", model, "--data", data, "--task_file", data.parent / "moods.yaml", "--predict", "test"]
    words += ["--epochs", "1", "--seeds", "1", "--tasks"]
    finish(warm.start("finetune", *words, "mood,mood-mm", "--output", tmp_path / "one"))
    finish(warm.launch([*words, "mood,mood-mm", "--output", tmp_path / "two"], processes=2, module="finetune"))
    for name in ("mood/seed-1/test/predictions.tsv", "mood-mm/seed-1/test/predictions.tsv"):
        both = [np.loadtxt(tmp_path / place / name, skiprows=1, usecols=-1) for place in ("one", "two")]
        np.testing.assert_allclose(*both, atol=1e-3)
    with (data.parent / "moods.yaml").open("a", encoding="utf-8") as stream:
        stream.write("- {name: again, columns: [text], labels: [neg, pos], folders: [mood]}\n")
    shown = finish(
        warm.start(
            "finetune",
            *words,
            "again,mood,mood-mm",
            "--from_task",
            "mood",
            "--output",
            tmp_path / "from",
            "--jobs",
            "2",
        )
    )
    assert "again (from mood)" in shown
    for name in ("mood", "mood-mm", "again"):
        assert (tmp_path / "from" / name / "seed-1/test/predictions.tsv").exists()
    first = (tmp_path / "from/mood/seed-1/test/predictions.tsv").read_bytes()
    assert first == (tmp_path / "one/mood/seed-1/test/predictions.tsv").read_bytes()
