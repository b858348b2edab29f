"""Questions and their answers as files and data sets give them, and what is wrong with some."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import SHARED

from finetune.data.questions import GoldAnswer, Questions
from finetune.data.tasks import KindSpec, Task, shipped_tasks
from finetune.kinds.load import from_dataset, load_task, load_test, read_file
from zoo.errors import ZooError

QA = Task(name="qa", columns=("question", "passage"), label_column="answer", kind=KindSpec("finetune.kinds.AnswerSpan"))
MAYBE = replace(QA, kind=KindSpec("finetune.kinds.AnswerSpan", {"unanswerable": True}))
PASSAGE = "Oslo is the capital of Norway. Oslo lies on a fjord."


def squad(*questions: dict[str, Any], passage: str = PASSAGE) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "Oslo", "paragraphs": [{"context": passage, "qas": list(questions)}]}]}


def asked(name: str = "q1", **more: Any) -> dict[str, Any]:
    return {"id": name, "question": "What lies on a fjord?", "answers": [{"text": "Oslo", "answer_start": 31}]} | more


def written(folder: Path, value: Any, name: str = "train-v1.1.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def read(folder: Path, value: Any, task: str = "squad") -> Questions:
    return read_file(shipped_tasks()[task], written(folder, value))


def rows(folder: Path, text: str, task: Task = QA, name: str = "train.csv") -> Questions:
    return read_file(task, written(folder, text, name))


# ---- benchmarks' files -----------------------------------------------------------------------------------------------


def test_squads_first_version_is_read(tmp_path: Path) -> None:
    two = [{"text": "Norway", "answer_start": 23}, {"text": "Norway. Oslo", "answer_start": 23}]
    found = read(tmp_path, squad(asked(), asked("q2", answers=two)))
    assert (found.ids, found.passages) == (["q1", "q2"], [PASSAGE] * 2)
    assert found.answers[1] == (GoldAnswer("Norway", 23), GoldAnswer("Norway. Oslo", 23))
    assert found.places == [(31, 35), (23, 29)]
    assert found.gold() == [["Oslo"], ["Norway", "Norway. Oslo"]]
    assert found.warnings() == []


def test_squads_second_version_has_questions_without_answer(tmp_path: Path) -> None:
    plausible = [{"text": "Norway", "answer_start": 23}]
    without = asked("q2", answers=[], is_impossible=True, plausible_answers=plausible)
    value = squad(asked(is_impossible=False), without)
    found = read(tmp_path, value, "squad_v2")
    assert [len(own) for own in found.answers] == [1, 0]
    assert found.labelled
    with pytest.raises(ZooError, match=r"question q2: no answer .*unanswerable: true"):
        read(tmp_path, value)


def test_cmrcs_first_release_is_a_list_and_its_answers_have_no_start(tmp_path: Path) -> None:
    question = {"query_text": "什么湖?", "query_id": "T_0_Q_0", "answers": ["西湖", "西湖"]}
    passage = {"context_id": "T_0", "context_text": "杭州有西湖，西湖很美。", "qas": [question], "title": "西湖"}
    found = read(tmp_path, [passage], "cmrc2018")
    assert (found.ids, found.questions, found.places) == (["T_0_Q_0"], ["什么湖?"], [(3, 5)])
    assert "2 of 2 answers come without a start" in found.warnings()[0]


def test_drcd_is_read_by_its_own_file_names(tmp_path: Path) -> None:
    question = {"id": "1-1", "question": "哪裡？", "answers": [{"id": "1", "text": "臺北", "answer_start": 2}]}
    for name in ("DRCD_training.json", "DRCD_dev.json"):
        written(tmp_path, squad(question, passage="在。臺北"), name)
    found = load_task(shipped_tasks()["drcd"], tmp_path).train
    assert found.places == [(2, 4)]


def test_real_cmrc_files_read_and_their_moved_answers_are_counted() -> None:
    path = SHARED / "clue" / "cmrc2018" / "dev.json"
    if not path.exists():
        pytest.skip("../shared/data/clue/cmrc2018 is not there")
    found = read_file(shipped_tasks()["cmrc2018"], path)
    assert (len(found), len(set(found.ids)), len(set(found.passages))) == (3219, 3219, 848)
    (told,) = found.warnings()
    assert "200 of 9,657 answers do not stand at their start" in told
    for place, own, passage in zip(found.places, found.answers, found.passages, strict=True):
        assert place is not None
        assert passage[slice(*place)] in [answer.text for answer in own]


def test_test_files_need_no_answers_and_their_stand_ins_are_none(tmp_path: Path) -> None:
    task = shipped_tasks()["cmrc2018"]
    for name in ("train.json", "dev.json"):
        written(tmp_path, squad(asked()), name)
    for answers in ({}, {"answers": []}, {"answers": [{"text": "FAKE", "answer_start": -1}]}):
        question = {"id": "q", "question": "?", **answers}
        written(tmp_path, squad(question), "test.json")
        found = load_test(task, tmp_path)
        assert (found.labelled, found.answers) == (False, [()])
    written(tmp_path, squad(asked()), "test.json")
    assert load_test(task, tmp_path).labelled


# ---- a user's files, and the hub -------------------------------------------------------------------------------------


def test_a_table_holds_an_answer_and_perhaps_its_start(tmp_path: Path) -> None:
    head, row = "question,passage,answer", f'Which?,"{PASSAGE}",Oslo'
    assert rows(tmp_path, f"{head}\n{row}\n").places == [(0, 4)]
    found = rows(tmp_path, f"{head},answer_start\n{row},31\n{row},\n")
    assert found.places == [(31, 35), (0, 4)]
    assert found.ids == ["0", "1"]
    assert rows(tmp_path, f"{head}\n{row}\nWhich?,x,\n", MAYBE).answers[1] == ()


def test_other_forms_of_answers(tmp_path: Path) -> None:
    forms: list[tuple[Any, tuple[GoldAnswer, ...]]] = [
        ("Oslo", (GoldAnswer("Oslo"),)),
        (["Oslo", "Norway"], (GoldAnswer("Oslo"), GoldAnswer("Norway"))),
        ([{"text": "Oslo", "answer_start": 31}, {"text": "Norway"}], (GoldAnswer("Oslo", 31), GoldAnswer("Norway"))),
        ({"text": ["Oslo", "Oslo"], "answer_start": [0, 31]}, (GoldAnswer("Oslo", 0), GoldAnswer("Oslo", 31))),
        ({"text": ["Oslo"]}, (GoldAnswer("Oslo"),)),
        ({"text": "Oslo", "answer_start": 0}, (GoldAnswer("Oslo", 0),)),
        ({"text": [], "answer_start": []}, ()),
        ([], ()),
        (None, ()),
    ]
    lines = [json.dumps({"question": "?", "passage": PASSAGE, "answer": form}) for form, _ in forms]
    found = rows(tmp_path, "\n".join(lines) + "\n", MAYBE, "train.jsonl")
    assert found.answers == [expected for _, expected in forms]


def test_a_data_set_of_the_hub_is_read_like_a_file(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    answers = [{"text": ["Oslo"], "answer_start": [31]}, {"text": [], "answer_start": []}]
    columns = {"id": ["a", "b"], "title": ["t"] * 2, "context": [PASSAGE] * 2, "question": ["?"] * 2}
    found = from_dataset(
        shipped_tasks()["squad_v2"], datasets.Dataset.from_dict({**columns, "answers": answers}), "hub"
    )
    assert found.ids == ["a", "b"]
    assert found.answers == [(GoldAnswer("Oslo", 31),), ()]


def test_parquet_holds_ids_and_answers_as_the_hub_has_them(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    answers = [{"text": ["Oslo"], "answer_start": [31]}, {"text": ["Norway"], "answer_start": [23]}]
    columns = {"id": ["a", "b"], "question": ["?"] * 2, "passage": [PASSAGE] * 2, "answer": answers}
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    found = read_file(replace(QA, index_column="id"), tmp_path / "train.parquet")
    assert (found.ids, found.places) == (["a", "b"], [(31, 35), (23, 29)])


# ---- answers that are elsewhere --------------------------------------------------------------------------------------


def test_an_answer_is_looked_for_nearest_to_its_start() -> None:
    text = "a b a b a"
    for start, place in ((0, 0), (1, 0), (2, 4 - 4), (3, 4), (5, 4), (7, 8), (99, 8), (-1, 0), (None, 0)):
        assert GoldAnswer("a", start).place_in(text) == (place, place + 1), start
    assert GoldAnswer("c", 0).place_in(text) is None
    assert not GoldAnswer("a", -1).stands_in(text)  # which Python would count from the end


def test_moved_and_lost_answers_are_told(tmp_path: Path) -> None:
    moved = asked("q2", answers=[{"text": "Oslo", "answer_start": 30}])
    lost = asked("q3", answers=[{"text": "Bergen", "answer_start": 0}])
    found = read(tmp_path, squad(asked(), moved, lost))
    assert found.places == [(31, 35), (31, 35), None]
    one, two = found.warnings()
    assert "2 of 3 answers do not stand at their start" in one
    assert "'Oslo' at 30 (q2)" in one
    assert "1 of 3 questions have no answer that is in the passage" in two
    assert found.gold()[2] == ["Bergen"]
    assert found.chosen(np.array([0])).warnings() == []


# ---- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{", "broken JSON"),
        ({"version": "1.1"}, "no field 'data'"),
        ({"data": {}}, "'data' is a JSON object; a list is needed"),
        ({"data": [{"paragraphs": [{"qas": [asked()]}]}]}, r"data\[0\].paragraphs\[0\]: no field 'context'"),
        (squad({"id": "a"}), r"qas\[0\]: no field 'question'"),
        (squad({"question": "a"}), r"qas\[0\]: no field 'id'"),
        (squad(asked(), asked()), r"qas\[1\] \(q1\): 'id' 'q1' is that of .*qas\[0\]"),
        (squad(asked(None)), "'id' is null"),
        (squad(asked(question=3)), "'question' is 3; a text is needed"),
        (squad(asked(), passage=" "), "passage|context.*empty"),
        (squad(asked(answers=7)), "question q1: the answers are 7"),
        (squad(asked(answers=[{"text": 7, "answer_start": 0}])), "question q1: the text of an answer is 7"),
        (squad(asked(answers=[{"text": "a", "answer_start": 1.5}])), "question q1: 'answer_start' is 1.5"),
        (squad(asked(answers=[{"text": "a", "answer_start": True}])), "question q1: 'answer_start' is true"),
        (squad(asked(answers={"text": ["a"], "answer_start": []})), "question q1: 1 texts of answers and 0 starts"),
        (squad(asked(answers=[])), "question q1: no answer"),
        (squad({"id": "q1", "question": "a"}), "no field 'answers'"),
        (squad(), "no rows"),
    ],
)
def test_what_is_wrong_is_said_by_place(value: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=why):
        read(tmp_path, value)


def test_a_passage_that_is_empty_among_others(tmp_path: Path) -> None:
    value = squad(asked())
    value["data"][0]["paragraphs"].append({"context": "\n", "qas": [asked("q2")]})
    with pytest.raises(ZooError, match=r"question q2: its passage \('context'\) is empty"):
        read(tmp_path, value)


def test_a_start_in_a_table_that_is_no_number(tmp_path: Path) -> None:
    for start in ("first", "1.0", "9" * 30):
        with pytest.raises(ZooError, match=r"question 0: 'answer_start' is"):
            rows(tmp_path, f"question,passage,answer,answer_start\n?,a b,a,{start}\n")
