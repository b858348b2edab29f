"""``zoo tasks``: every shipped task, rows and floors of real and of made files, one task in full, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from places import SHARED

from finetune.data.tasks import Task, read_task_file, shipped_tasks, task_fields
from finetune.tools.tasks import tasks_command
from zoo.errors import ZooError

OWN = """
- name: mood
  columns: [text]
  labels: [sad, glad]
- name: names
  kind: {class_path: finetune.kinds.Tagging, init_args: {scheme: bioes}}
  columns: [words]
  label_column: tags
  labels: [PER]
- name: mood-two
  model_of: mood
  columns: [text]
  labels: [sad, glad]
  eval_files: [dev]
"""


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert tasks_command([*words]) == 0
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict]:
    return {fact["name"]: fact for fact in json.loads(told(capsys, *words, "--json"))}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a task file, and rows of its tasks."""
    (tmp_path / "own.yaml").write_text(OWN)
    for name, lines in {
        "mood/train.csv": "text,label\nx,glad\ny,sad\nz,glad\n",
        "mood/dev.csv": "text,label\nx,glad\ny,sad\nz,glad\nw,glad\n",
        "mood/test.csv": "text\nx\n",
        "mood-two/dev.tsv": "text\tlabel\nx\tsad\n",
        "names/train.jsonl": json.dumps({"words": ["a", "b"], "tags": ["O", "S-PER"]}) + "\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(lines)
    return tmp_path


# --- the list --------------------------------------------------------------------------------------------------------


def test_every_shipped_task_is_listed(capsys) -> None:
    found = facts(capsys)
    assert [*found] == [*shipped_tasks()]
    for name, task in shipped_tasks().items():
        fact = found[name]
        assert fact["kind"] == task.kind.class_path
        assert fact["metrics"] == list(task.metrics) or not task.metrics
        assert fact["rows"] == {"train": None, "dev": None, "test": None}
        assert fact["majority"] is None
        assert {*task.folders, name} == {*fact["folders"]}
        assert (fact["hub"], fact["licence"]) == (task.hub, task.licence)
    assert found["mnli-mm"]["files"] == {"train": [], "dev": ["dev_mismatched"], "test": ["test_mismatched"]}


@pytest.mark.parametrize("width", [70, 80, 110])
def test_the_table_fits_a_terminal(width: int, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = told(capsys).splitlines()
    rows = [line for line in lines if line.startswith("  ") and not line.startswith("    ")]
    assert {row.split()[0] for row in rows} == {"task", *shipped_tasks()}
    assert max(len(line) for line in lines if line not in rows) <= width
    assert max(map(len, rows)) <= 80
    assert {"glue", "clue", "superglue", "in no group"} <= {*lines}


def test_groups_and_names_choose(capsys) -> None:
    assert {*facts(capsys, "superglue", "rte")} == {"wic", "boolq", "rte"}
    text = told(capsys, "superglue")
    assert "boolq" in text
    assert "rte" not in text


# --- rows and floors -------------------------------------------------------------------------------------------------


def test_rows_and_the_majority_are_counted(own: Path, capsys) -> None:
    found = facts(capsys, "mood,mood-two,names", "--task_file", str(own / "own.yaml"), "--data", str(own))
    assert found["mood"]["rows"] == {"train": 3, "dev": 4, "test": 1}
    assert found["mood"]["majority"] == pytest.approx(75.0)
    assert found["mood-two"]["rows"] == {"train": None, "dev": 1, "test": None}
    assert found["mood-two"]["majority"] == pytest.approx(100.0)
    assert found["names"]["rows"] == {"train": 1, "dev": None, "test": None}
    assert (found["names"]["majority"], found["names"]["metrics"]) == (None, ["entity_f1"])
    assert not any(fact["problems"] for fact in found.values())
    table = told(capsys, "mood,names", "--task_file", str(own / "own.yaml"), "--data", str(own))
    assert "mood   Classification      3    4     1  accuracy      75.00" in table
    assert "names  Tagging             1    -     -  entity_f1         -" in table


def test_rows_that_cannot_be_read_are_told_and_do_not_stop_the_list(own: Path, capsys) -> None:
    (own / "mood" / "dev.csv").write_text("text,label\nx,merry\n")
    words = ["--task_file", str(own / "own.yaml"), "--data", str(own)]
    found = facts(capsys, *words)
    assert found["mood"]["rows"] == {"train": 3, "dev": None, "test": 1}
    (problem,) = found["mood"]["problems"]
    assert "dev.csv, line 2: unknown label 'merry'" in problem
    assert problem in told(capsys, *words)
    assert all(fact["problems"] == [] for name, fact in found.items() if name != "mood")


def test_a_folder_itself_is_only_a_task_that_is_named(own: Path, capsys) -> None:
    folder = str(own / "mood")
    assert facts(capsys, "--data", folder)["sst2"]["problems"] == []
    found = facts(capsys, "mood", "--data", folder, "--task_file", str(own / "own.yaml"))
    assert found["mood"]["rows"]["dev"] == 4


@pytest.mark.parametrize(
    ("name", "dev", "floor"), [("cola", 1043, 0.0), ("rte", 277, 52.71), ("ocnli", 2950, 37.4), ("cluener", 1343, 0.0)]
)
def test_official_files(name: str, dev: int, floor: float, capsys) -> None:
    if not (SHARED).is_dir():
        pytest.skip("the shared data is not here")
    (fact,) = facts(capsys, name, "--data", str(SHARED)).values()
    if fact["rows"]["dev"] is None:
        pytest.skip(f"the shared data has no {name}")
    assert fact["rows"]["dev"] == dev
    assert fact["majority"] == pytest.approx(floor, abs=0.05)


# --- one task --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(shipped_tasks()))
def test_one_task_is_shown_with_its_yaml_and_command(name: str, capsys, tmp_path: Path) -> None:
    text = told(capsys, name)
    head, _, row = text.partition("as YAML:\n")
    task = shipped_tasks()[name]
    (tmp_path / "again.yaml").write_text(row, encoding="utf-8")
    assert read_task_file(tmp_path / "again.yaml") == {name: task}
    assert yaml.safe_load(row) == task_fields(task)
    trained = f"{task.model_of},{name}" if task.model_of else name
    assert f"python -m finetune --model RUN --tasks {trained} --data {'hub' if task.hub else 'FOLDER'}\n" in head
    assert task.licence in head


def test_a_task_of_ones_own(own: Path, capsys) -> None:
    text = told(capsys, "mood", "--task_file", str(own / "own.yaml"), "--data", str(own))
    assert "rows: train 3, dev 4, test 1" in text
    assert "metrics: accuracy; always the majority: 75.00" in text
    assert f"--tasks mood --data {own} --task_file {own / 'own.yaml'}\n" in text


def test_fields_leave_out_what_is_as_by_default() -> None:
    assert task_fields(Task(name="x", columns=(0,), header=False, label_column=1)) == {
        "name": "x",
        "columns": [0],
        "label_column": 1,
        "header": False,
    }


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["rtee"], "unknown task 'rtee'. Did you mean 'rte'"),
        (["--data", "nowhere"], "--data nowhere is not a folder"),
        (["--task_file", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--dta", "x"], "dta"),
    ],
)
def test_what_cannot_be_listed_is_refused(words: list[str], part: str) -> None:
    with pytest.raises(ZooError, match=part):
        tasks_command(words)
