"""Files of predictions: the forms that the benchmarks' sites take, and what is refused before it is written."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.data.choices import Choices
from finetune.data.examples import LabelledTexts
from finetune.data.submit import SUBMIT_FORMATS, SubmitSpec
from finetune.data.tasks import Task, read_task_file, shipped_tasks, tasks_named
from finetune.kinds.base import open_kind
from finetune.kinds.choice import ChosenAnswer
from finetune.kinds.load import load_task, load_test
from finetune.results.submission import check_test_rows, write_submission, zip_submissions
from zoo.errors import ZooError

TASKS = shipped_tasks()


def rows(count: int, pairs: bool = False) -> LabelledTexts:
    texts = ["a"] * count
    return LabelledTexts(
        texts,
        texts if pairs else None,
        np.zeros(count, np.int64),
        numbers=np.arange(count),
        skipped=0,
        source="test.tsv",
        labelled=False,
    )


def written(folder: Path, name: str, answers: Any) -> str:
    """What a task's kind and its form make of some answers."""
    task, examples = TASKS[name], rows(len(answers), TASKS[name].pair)
    path = write_submission(folder, task, examples, open_kind(task).submitted(task, examples, answers))
    assert path is not None
    assert task.submit is not None
    assert path.name == task.submit.file
    return path.read_text(encoding="utf-8")


def test_glues_tables_have_a_header_and_count_from_0(tmp_path: Path) -> None:
    assert written(tmp_path, "cola", np.array([[0.2, 0.8], [0.9, 0.1]])) == "index\tprediction\n0\t1\n1\t0\n"
    found = written(tmp_path, "mnli-mm", np.eye(3)[[2, 0, 1]])
    assert found == "index\tprediction\n0\tcontradiction\n1\tentailment\n2\tneutral\n"
    assert written(tmp_path, "qnli", np.eye(2)) == "index\tprediction\n0\tentailment\n1\tnot_entailment\n"


def test_similarities_stay_inside_0_to_5_with_three_digits(tmp_path: Path) -> None:
    kind = open_kind(TASKS["stsb"])
    examples = rows(3, pairs=True)
    answers = kind.answers(TASKS["stsb"], examples, None, np.array([[-0.2], [3.45678], [5.1]]))  # type: ignore[arg-type]
    assert written(tmp_path, "stsb", answers) == "index\tprediction\n0\t0.000\n1\t3.457\n2\t5.000\n"


@pytest.mark.parametrize(
    ("name", "answers", "lines"),
    [
        ("afqmc", np.eye(2)[[1, 0]], [{"id": 0, "label": "1"}, {"id": 1, "label": "0"}]),
        ("tnews", np.eye(15)[[2]], [{"id": 0, "label": "102"}]),
        ("iflytek", np.eye(119)[[118]], [{"id": 0, "label": "118"}]),
        ("cluewsc2020", np.eye(2)[[1]], [{"id": 0, "label": "true"}]),
        ("ocnli", np.eye(3)[[1]], [{"id": 0, "label": "neutral"}]),
        ("wic", np.eye(2)[[0]], [{"idx": 0, "label": "false"}]),
        ("boolq", np.eye(2)[[1]], [{"idx": 0, "label": "true"}]),
    ],
)
def test_clue_and_superglue_take_lines_of_json(tmp_path: Path, name: str, answers: Any, lines: list[Any]) -> None:
    assert [json.loads(line) for line in written(tmp_path, name, answers).splitlines()] == lines


def test_choices_are_submitted_by_their_numbers(tmp_path: Path) -> None:
    def chosen(name: str, ids: list[str]) -> str:
        examples = Choices(
            [("a", "b")] * 2,
            np.zeros(2, np.int64),
            None,
            [("x", "y", "z")] * 2,
            np.zeros(2, np.int64),
            ["1", "1"],
            ids,
            numbers=np.arange(2),
            skipped=0,
            source="test1.1.json",
            labelled=False,
        )
        answers = [ChosenAnswer(2, np.ones(3) / 3), ChosenAnswer(0, np.ones(3) / 3)]
        values = open_kind(TASKS[name]).submitted(TASKS[name], examples, answers)
        path = write_submission(tmp_path, TASKS[name], examples, values)
        assert path is not None
        return path.read_text(encoding="utf-8")

    assert chosen("c3", ["7", "8"]) == '{"id": 7, "label": 2}\n{"id": 8, "label": 0}\n'
    assert chosen("chid", ["#idiom623377#", "#idiom623378#"]) == '{"#idiom623377#": 2, "#idiom623378#": 0}\n'


def test_entities_are_submitted_as_cluener_writes_them(tmp_path: Path) -> None:
    task, text = TASKS["cluener"], "胡文和 到台湾,胡文和在。"
    (tmp_path / "test.json").write_text(json.dumps({"id": 0, "text": text}) + "\n", encoding="utf-8")
    for name in ("train", "dev"):
        row = {"text": text, "label": {"name": {"胡文和": [[0, 2], [8, 10]]}, "address": {"台湾": [[5, 6]]}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    kind, labelled, examples = open_kind(task), load_task(task, tmp_path).train, load_test(task, tmp_path)
    names = kind.tags(task)  # type: ignore[attr-defined]
    values = kind.submitted(task, examples, [[names[tag] for tag in tags] for tags in labelled.tags])
    assert values == [("0", row)]
    assert task.submit is not None
    path = write_submission(tmp_path, task, examples, values)
    assert path is not None
    assert json.loads(path.read_text(encoding="utf-8")) == {"id": 0, **row}


def test_forms_with_more_keys_and_by_id(tmp_path: Path) -> None:
    task = Task(name="x", columns=("text",), submit=SubmitSpec("clue_rows", "x.json"))
    values = [("0", {"text": "台湾", "label": {"address": {"台湾": [[0, 1]]}}})]
    path = write_submission(tmp_path, task, rows(1), values)
    assert path is not None
    assert path.read_text(encoding="utf-8") == ('{"id": 0, "text": "台湾", "label": {"address": {"台湾": [[0, 1]]}}}\n')
    task = replace(task, submit=SubmitSpec("object", "y.json"))
    path = write_submission(tmp_path, task, rows(1), [("TEST_0_QUERY_0", "第二艘"), ("007", "")])
    assert path is not None
    assert path.read_text(encoding="utf-8") == '{"TEST_0_QUERY_0": "第二艘", "007": ""}\n'


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ([], "there are none"),
        ([("0", "1"), ("0", "1")], "the id '0' stands there twice"),
        ([("0", "1"), ("2", "1")], "row 1 has the id '2'; rows are counted from 0"),
        ([("1", "1"), ("0", "1")], "row 0 has the id '1'"),
        ([("0", "1")], r"1 for 2 rows of test\.tsv"),
        ([("0", "1"), ("1", "2")], r"row 1 has '2', none of \['0', '1'\]"),
        ([("0", "1"), ("1", float("nan"))], "row 1 has nan"),
    ],
)
def test_what_a_site_would_not_take_is_not_written(tmp_path: Path, values: list[Any], part: str) -> None:
    with pytest.raises(ZooError, match=f"predictions of task 'cola': {part}"):
        write_submission(tmp_path, TASKS["cola"], rows(2), values)
    assert not list(tmp_path.iterdir())


def test_a_test_file_with_another_number_of_rows_is_told() -> None:
    with pytest.raises(ZooError, match=r"test\.tsv has 2 rows, and the test file of task 'cola' 1,063"):
        check_test_rows(TASKS["cola"], rows(2))
    check_test_rows(TASKS["cola"], rows(1063))
    check_test_rows(Task(name="x", columns=("text",)), rows(2))
    assert write_submission(Path(), Task(name="x", columns=("text",)), rows(1), [("0", "a")]) is None


def test_a_group_is_zipped_when_all_its_members_are_there(tmp_path: Path) -> None:
    for task in (task for task in TASKS.values() if "glue" in task.groups):
        assert zip_submissions(tmp_path, list(TASKS.values()), [TASKS["cola"]], 1) == []
        assert task.submit is not None
        path = tmp_path / task.name / "seed-1/test" / task.submit.file
        path.parent.mkdir(parents=True)
        path.write_text(f"{task.name}\n", encoding="utf-8")
    (made,) = zip_submissions(tmp_path, list(TASKS.values()), [TASKS["cola"]], 1)
    assert made == tmp_path / "submission-glue-seed-1.zip"
    names = {"CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX"}
    with zipfile.ZipFile(made) as archive:
        assert set(archive.namelist()) == {f"{name}.tsv" for name in names}
        assert archive.read("MNLI-mm.tsv") == b"mnli-mm\n"
    before = made.read_bytes()
    zip_submissions(tmp_path, list(TASKS.values()), [TASKS["cola"]], 1)
    assert made.read_bytes() == before
    assert zip_submissions(tmp_path, list(TASKS.values()), [TASKS["cola"]], 2) == []


def test_every_form_can_be_named_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    for form in SUBMIT_FORMATS:
        path.write_text(f"name: x\ncolumns: a\nsubmit: {{format: {form}, file: x.tsv, rows: 5}}\n", encoding="utf-8")
        assert read_task_file(path)["x"].submit == SubmitSpec(form, "x.tsv", 5)
    for text in ("x.tsv", "{format: glu, file: x}", "{format: glue}", "{format: glue, file: x, rows: many}"):
        path.write_text(f"name: x\ncolumns: a\nsubmit: {text}\n", encoding="utf-8")
        with pytest.raises(ZooError, match=r"my\.yaml: submit is .*the format one of glue, superglue, clue"):
            read_task_file(path)
    path.write_text("name: x\ncolumns: a\nsubmit: {format: glue, file: ../x.tsv}\n", encoding="utf-8")
    with pytest.raises(ZooError, match=r"the file of submit"):
        read_task_file(path)


def test_names_of_files_are_those_that_the_sites_ask_for() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
    for task in TASKS.values():
        if task.submit is not None:
            assert f"`{task.submit.file}`" in page, task.name
            assert task.submit.rows is None or f"{task.submit.rows:,}" in page, task.name
    files = [task.submit.file for task in TASKS.values() if task.submit is not None]
    assert len(files) == len(set(files))


def test_a_task_that_another_ones_model_answers_stands_behind_it() -> None:
    assert [task.name for task in tasks_named("ax,rte,mnli")] == ["rte", "mnli", "ax"]
    with pytest.raises(ZooError, match=r"'ax' has no training rows: the model of task 'mnli'.*--tasks mnli,ax"):
        tasks_named("ax,rte")
