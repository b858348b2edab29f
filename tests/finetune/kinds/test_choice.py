"""Multiple choice: rows of every form, official files, blanks, learning by any core, groups, kept models, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import FIRST, LAST, PERMUTED, POOLED, SPELT, check_shares
from transformers import AutoModelForMultipleChoice, AutoTokenizer, BertForMultipleChoice

import zoo.hf  # noqa: F401  makes model toy_folders known to the Auto classes
from finetune.config import FeatureSettings, FinetuneSettings
from finetune.data.tasks import KindSpec, Task, shipped_tasks
from finetune.inputs import blanks
from finetune.kinds.base import open_kind
from finetune.kinds.choice import asked_with
from finetune.kinds.load import from_dataset, load_task, load_test, read_file
from finetune.training.loop import predict
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from zoo.errors import ZooError
from zoo.model_folder import load_core, load_head, read_metadata
from zoo.weights.commands import export_folder, import_folder

TOYS = {"pooled": POOLED, "first": FIRST, "last": LAST, "permuted": PERMUTED, "spelt": SPELT}
PATH = "finetune.kinds.Choice"
TASK = Task(name="colours", columns=("seen",), kind=KindSpec(PATH), epochs=15)
BLANKS = replace(TASK, columns=("text",), kind=KindSpec(PATH, {"blank": "blank", "group": "line", "distinct": True}))
SETTINGS = FinetuneSettings(lr=3e-3)
COLOURS = ["red", "blue", "green"]

pytestmark = pytest.mark.usefixtures("one_thread")


def options(**init_args) -> Task:
    return replace(TASK, kind=KindSpec(PATH, init_args))


def toy_rows(count: int, seed: int) -> list[dict]:
    """A colour that is seen, and two or three to choose from, in any order."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(count):
        choices = [COLOURS[n] for n in generator.permutation(3)[: generator.integers(2, 4)]]
        label = int(generator.integers(len(choices)))
        rows.append({"seen": choices[label], "choices": choices, "label": label})
    return rows


def write(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("choices")
    write(folder / "train.jsonl", toy_rows(256, 0))
    write(folder / "dev.jsonl", toy_rows(64, 1))
    return folder


def sequences(prepared: PreparedTask) -> list[str]:
    """The words of each sequence of the development rows."""
    rows, word = prepared.evaluation.sequences, prepared.tokenizer.backend.id_to_token
    return [" ".join(map(word, part)) for part in np.split(rows.ids, rows.offsets[1:-1])]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_column_of_lists(tmp_path: Path) -> None:
    rows = read_file(TASK, write(tmp_path / "a.jsonl", toy_rows(9, 2)))
    assert [list(row) for row in rows.choices] == [row["choices"] for row in toy_rows(9, 2)]
    assert set(rows.sizes.tolist()) == {2, 3}
    assert rows.labels.tolist() == [row["label"] for row in toy_rows(9, 2)]
    (tmp_path / "a.tsv").write_text('seen\tchoices\tlabel\nx\t["a", "b"]\t1\n', encoding="utf-8")
    rows = read_file(TASK, tmp_path / "a.tsv")
    assert (rows.choices, rows.labels.tolist()) == ([("a", "b")], [1])


def test_a_column_for_each_choice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("seen,A,B,C,label\nx,a,b,c,C\ny,d,e,,a\n", encoding="utf-8")
    rows = read_file(options(choices=["A", "B", "C"], answer="letter"), tmp_path / "a.csv")
    assert rows.choices == [("a", "b", "c"), ("d", "e")]
    assert rows.labels.tolist() == [2, 0]
    (tmp_path / "a.csv").write_text("seen,A,B,C,label\nx,a,,c,0\n", encoding="utf-8")
    with pytest.raises(ZooError, match=r"line 2: choice 1 \(counted from 0\) of 'A, B, C' is no text"):
        read_file(options(choices=["A", "B", "C"]), tmp_path / "a.csv")


def test_the_label_may_be_a_text_of_which_the_first_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"seen": "x", "choices": ["2", "1", "1"], "label": "1"}])
    assert read_file(options(answer="text"), path).labels.tolist() == [1]
    assert read_file(TASK, path).labels.tolist() == [1]
    write(tmp_path / "a.jsonl", [{"seen": "x", "choices": ["2", "1", "1"], "label": "2"}])
    assert read_file(options(answer="text"), path).labels.tolist() == [0]
    assert read_file(TASK, path).labels.tolist() == [2]


def test_the_hub_and_parquet(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"seen": ["x", "y"], "choices": [["a", "b"], ["c", "d", "e"]], "label": [1, 2]}
    made = datasets.Dataset.from_dict(columns)
    made.to_parquet(str(tmp_path / "a.parquet"))
    classes = made.cast_column("label", datasets.ClassLabel(names=["0", "1", "2"]))
    for rows in (
        read_file(TASK, tmp_path / "a.parquet"),
        from_dataset(TASK, made, "made"),
        from_dataset(TASK, classes, "made"),
    ):
        assert rows.choices == [("a", "b"), ("c", "d", "e")]
        assert rows.labels.tolist() == [1, 2]


def test_question_and_choice_make_the_second_text() -> None:
    assert asked_with("Who came?", "Ann") == "Who came? Ann"
    assert asked_with("谁来了？", "安娜") == "谁来了？安娜"
    assert asked_with("", "Ann") == "Ann"


def test_a_passage_stands_before_question_and_choice(toy_folders, tmp_path: Path) -> None:
    task = replace(TASK, columns=("text", "question"))
    rows = [{"text": "a b", "question": "c", "choices": ["red", "blue d"], "label": 0}]
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", rows)
    assert sequences(PreparedTask(toy_folders["pooled"], task, tmp_path, SETTINGS)) == [
        "[CLS] a b [SEP] c red [SEP]",
        "[CLS] a b [SEP] c blue d [SEP]",
    ]


def test_limits_keep_the_parts_of_a_row_together(tmp_path: Path) -> None:
    rows = [blank_row([str(n), "b"], 0, label=n % 2, line=str(n), choices=["a", str(n)]) for n in range(20)]
    whole = read_file(BLANKS, write(tmp_path / "a.jsonl", rows))
    some = whole.limited(6)
    assert (len(some), some.digest() == whole.digest()) == (6, False)
    for place, number in enumerate(some.numbers):
        assert some.passages[place] == (str(number), "b")
        assert some.choices[place] == ("a", str(number))
        assert (some.labels[place], some.groups[place], some.ids[place]) == (number % 2, str(number), str(number))
    assert replace(whole, labels=1 - whole.labels).digest() != whole.digest()


# --- official files --------------------------------------------------------------------------------------------------

QUESTION = {"question": "他去哪儿？", "choice": ["北京", "上海", "北京"], "answer": "北京"}


def test_c3_as_its_files_are(tmp_path: Path) -> None:
    task = shipped_tasks()["c3"]
    other = {"question": "谁？", "choice": ["我", "你", "他", "她"], "answer": "她"}
    for part in ("train", "dev"):
        write_json(tmp_path / f"d-{part}.json", [[["男：你好", "女：好"], [QUESTION, other], "1-1"]])
        write_json(tmp_path / f"m-{part}.json", [[["一段\u2028话。"], [other], "2-1"]])
    write_json(tmp_path / "test1.1.json", [[["甲"], [{"id": 7, "question": "谁？", "choice": ["我", "你"]}], "9"]])
    found = load_task(task, tmp_path)
    assert found.train.passages == [("男：你好\n女：好",)] * 2 + [("一段\u2028话。",)]
    assert found.train.questions == ["他去哪儿？", "谁？", "谁？"]
    assert found.train.labels.tolist() == [0, 3, 3]
    assert found.train.sizes.tolist() == [3, 4, 4]
    test = load_test(task, tmp_path)
    assert (test.ids, test.labelled, test.choices) == (["7"], False, [("我", "你")])
    write_json(tmp_path / "m-dev.json", [[["一段话。"], [{**other, "answer": "它"}], "2-1"]])
    with pytest.raises(ZooError, match=r"m-dev.json, item 1, question 1: 'answer' is .它., none of the choices"):
        load_task(task, tmp_path)
    for broken in ({}, [[["x"]]], [["x", [other]]], [[[1], [other]]], [[["x"], [{"question": "q"}]]]):
        write_json(tmp_path / "m-dev.json", broken)
        with pytest.raises(ZooError, match=r"m-dev\.json"):
            load_task(task, tmp_path)
    (tmp_path / "m-train.json").unlink()
    with pytest.raises(ZooError, match=r"m-train\.json, is not beside it"):
        load_task(task, tmp_path)


CHID = {
    "content": ["他#idiom000001#地走了，#idiom000002#。", "真是#idiom000003#"],
    "candidates": ["一帆风顺", "二话不说", "三心二意", "四面楚歌"],
}
ANSWERS = {"#idiom000001#": 1, "#idiom000002#": 0, "#idiom000003#": 2}


def test_chid_as_its_files_are(tmp_path: Path) -> None:
    task = shipped_tasks()["chid"]
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.json", [CHID])
        write_json(tmp_path / f"{part}_answer.json", ANSWERS)
    write(tmp_path / "test1.1.json", [CHID])
    rows = load_task(task, tmp_path).evaluation
    assert rows.passages == [("他", "地走了，", "。")] * 2 + [("真是", "")]
    assert rows.blanks.tolist() == [0, 1, 0]
    assert (rows.ids, rows.labels.tolist(), rows.groups) == (list(ANSWERS), [1, 0, 2], ["1"] * 3)
    test = load_test(task, tmp_path)
    assert (test.labelled, test.ids, len(test)) == (False, list(ANSWERS), 3)
    for answers, part in (
        ({"#idiom000001#": 1}, r"line 1, #idiom000002#: dev_answer.json has no answer for it"),
        (
            {**ANSWERS, "#idiom000002#": 4},
            r"line 1, #idiom000002#: 'answer' is 4; choices .* a number from 0 to 3 is needed",
        ),
        ([1], r"dev_answer.json: a JSON object was expected"),
    ):
        write_json(tmp_path / "dev_answer.json", answers)
        with pytest.raises(ZooError, match=part):
            load_task(task, tmp_path)
    (tmp_path / "dev_answer.json").unlink()
    with pytest.raises(ZooError, match=r"its answers, dev_answer\.json, are not beside it"):
        load_task(task, tmp_path)


def test_the_hub_has_the_same_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    answers = [{"text": CHID["candidates"][n], "candidate_id": n} for n in ANSWERS.values()]
    chid = shipped_tasks()["chid"]
    for form in (answers, {"text": [a["text"] for a in answers], "candidate_id": [a["candidate_id"] for a in answers]}):
        made = datasets.Dataset.from_list([{"idx": 5, **CHID, "answers": form}])
        rows = from_dataset(chid, made, "made")
        assert (rows.labels.tolist(), rows.groups, rows.ids) == ([1, 0, 2], ["5"] * 3, list(ANSWERS))
        with pytest.raises(ZooError, match="3 blanks and 2 answers"):
            from_dataset(chid, datasets.Dataset.from_list([{"idx": 5, **CHID, "answers": answers[:2]}]), "made")
    c3 = shipped_tasks()["c3"]
    row = {"id": 3, "context": ["男：你好", "女：好"], **QUESTION}
    rows = from_dataset(c3, datasets.Dataset.from_list([row, row]), "made")
    assert (rows.labels.tolist(), rows.passages[0]) == ([0, 0], ("男：你好\n女：好",))
    rows = from_dataset(c3, datasets.Dataset.from_list([{**row, "answer": ""}]), "made", labelled=False)
    assert (rows.labelled, rows.ids) == (False, ["3"])


# --- blanks ----------------------------------------------------------------------------------------------------------


def blank_row(pieces: list[str], blank: int, **more) -> dict:
    return {"text": pieces, "blank": blank, "line": "1", "choices": ["red", "blue"], "label": 0, **more}


@pytest.mark.parametrize(
    ("pieces", "blank", "length", "expected"),
    [
        (["a b", "c", "d e"], 0, 40, "a b [MASK] c [MASK] [MASK] [MASK] [MASK] d e"),
        (["a b", "c", "d e"], 1, 40, "a b [MASK] [MASK] [MASK] [MASK] c [MASK] d e"),
        (["", ""], 0, 40, "[MASK]"),
        (["a b c d", "e f g h"], 0, 9, "c d [MASK] e f"),  # 9 - 3 - 1 - 1 = 4 beside the blank and the choice
        (["a b c d", "e"], 0, 9, "b c d [MASK] e"),
        (["a", "e f g h"], 0, 9, "a [MASK] e f g"),
        (["a b c d", "e f g h"], 0, 10, "c d [MASK] e f g"),
        (["a b c d", "e f g h"], 0, 5, "[MASK]"),
    ],
)
def test_a_passage_is_cut_around_its_blank(toy_folders, tmp_path, pieces, blank, length, expected) -> None:
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", [blank_row(pieces, blank)])
    prepared = PreparedTask(toy_folders["pooled"], BLANKS, tmp_path, replace(SETTINGS, max_length=length))
    assert sequences(prepared) == [f"[CLS] {expected} [SEP] {colour} [SEP]" for colour in ("red", "blue")]
    words = sum(len(piece.split()) for piece in pieces)
    kept = sum(word != "[MASK]" for word in expected.split())
    assert prepared.evaluation.truncated == (0 if words == kept else 2)


def test_a_blank_needs_room(toy_folders, tmp_path) -> None:
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", [blank_row(["a", "b"], 0, choices=["red blue green", "red"])])
    prepared = PreparedTask(toy_folders["pooled"], BLANKS, tmp_path, replace(SETTINGS, max_length=6))
    assert sequences(prepared) == ["[CLS] [MASK] [SEP] red blue [SEP]", "[CLS] [MASK] b [SEP] red [SEP]"]
    with pytest.raises(ZooError, match="max_length = 4 leaves no room"):
        _ = PreparedTask(toy_folders["pooled"], BLANKS, tmp_path, replace(SETTINGS, max_length=4)).train


@pytest.mark.parametrize("use", ["finetune", "features"])
def test_parts_of_many_rows_are_one(use: str, toy_folders, tmp_path: Path, monkeypatch) -> None:
    rows = [blank_row([*"abcdefg"[: 3 + n % 5]], n % 2, choices=["red", "blue", "a b"][: 2 + n % 2]) for n in range(9)]
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", rows)
    task, settings = replace(BLANKS, kind=KindSpec(PATH, {"blank": "blank"})), replace(SETTINGS, max_length=11, use=use)
    found = []
    for chunk in (4096, 2):
        monkeypatch.setattr(blanks, "CHUNK", chunk)
        made = PreparedTask(toy_folders["pooled"], task, tmp_path, settings).train
        assert len(made.sequences) == made.firsts[-1] == sum(len(row["choices"]) for row in rows)
        found.append(made.sequences.texts if use == "features" else (made.sequences,))
    for whole, parts in zip(*found, strict=True):
        for name in ("ids", "types", "offsets", "cut", "lost", "entities"):
            assert np.array_equal(getattr(whole, name), getattr(parts, name))
    assert found[0][0].truncated > 0


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("use", ["finetune", "features"])
def test_every_core_reads_blanks(name: str, use: str, toy_folders, tmp_path: Path) -> None:
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", [blank_row(["a", "b", ""], n % 2, label=n % 2) for n in range(4)])
    settings = replace(SETTINGS, epochs=1, use=use, features=FeatureSettings(hidden_size=8))
    result = finetune(toy_folders[name], BLANKS, tmp_path, 1, settings, tmp_path / "out", progress=False)
    assert result.train_rows == 4


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_choices_are_learned_by_any_core(name: str, toy_folders, data: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=30 if name == "spelt" else 15)  # LSTMs meet the two colours late
    result = finetune(toy_folders[name], TASK, data, 1, settings, tmp_path, progress=False)
    assert result.scores["accuracy"] > 0.95
    assert 0.3 < result.majority["accuracy"] < 0.6
    assert (result.train_rows, result.eval_rows, result.classes_predicted) == (256, 64, 3)
    header, *lines = (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["id", "gold", "predicted", "probabilities"]
    cells = [line.split("\t") for line in lines]
    assert [int(gold) for _, gold, *_ in cells] == [row["label"] for row in toy_rows(64, 1)]
    for row, (_, _, guess, said) in zip(toy_rows(64, 1), cells):
        shares = [float(value) for value in said.split()]
        assert len(shares) == len(row["choices"])
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
        assert int(guess) == int(np.argmax(shares))


def test_a_frozen_core_is_enough(toy_folders, data: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(
        lr=1e-2, epochs=8, use="features", features=FeatureSettings(hidden_size=16, dropout=0.1)
    )
    result = finetune(toy_folders["pooled"], TASK, data, 1, settings, tmp_path, progress=False)
    assert result.scores["accuracy"] > 0.95


@pytest.mark.parametrize("count", [16, 5, 1])
def test_shares_of_a_batch_add_up_to_the_whole(toy_folders, data: Path, count: int) -> None:
    prepared = PreparedTask(toy_folders["pooled"], TASK, data, SETTINGS)
    model = prepared.model(1).train()
    rows = np.arange(count) * 3

    check_shares(model, prepared, rows)


def test_the_loss_is_over_the_choices_that_a_row_has() -> None:
    kind = open_kind(TASK)
    scores = torch.tensor([[1.0], [2.0], [0.5], [0.0], [3.0]])
    found = kind.loss(scores, (torch.tensor([1, 2]), torch.tensor([2, 3])))
    first, second = torch.log_softmax(scores[:2, 0], 0)[1], torch.log_softmax(scores[2:, 0], 0)[2]
    torch.testing.assert_close(found, -(first + second))


# --- answers ---------------------------------------------------------------------------------------------------------


def test_choices_of_a_group_differ(toy_folders, tmp_path: Path) -> None:
    """The second row likes what the first has, and gets what it likes second best."""
    rows = [blank_row(["a", "b"], 0, label=n) for n in range(2)] + [blank_row(["a", "b"], 0, line="2")]
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", rows)
    scores = np.array([[3.0], [0.0], [1.0], [0.5], [1.0], [0.5]])
    alike = replace(BLANKS, kind=KindSpec(PATH, {**BLANKS.kind.init_args, "distinct": False}))
    for task, expected, accuracy in ((BLANKS, [0, 1, 0], 1.0), (alike, [0, 0, 0], 2 / 3)):
        prepared = PreparedTask(toy_folders["pooled"], task, tmp_path, SETTINGS)
        examples = prepared.data.evaluation
        found = prepared.kind.answers(task, examples, prepared.evaluation, scores)
        assert [answer.choice for answer in found] == expected
        assert prepared.kind.scores(task, examples, found) == {"accuracy": pytest.approx(accuracy)}
    assert prepared.kind.distinct(found) == 1


def test_floors(tmp_path: Path) -> None:
    rows = [{"seen": "x", "choices": ["a", "b", "c"][:n], "label": label} for n, label in ((2, 1), (3, 2), (3, 1))]
    found = read_file(TASK, write(tmp_path / "a.jsonl", rows))
    floors = open_kind(TASK).floors(TASK, found, found)
    assert floors["majority"] == {"accuracy": pytest.approx(2 / 3)}
    assert floors["random"] == {"accuracy": pytest.approx((1 / 2 + 1 / 3 + 1 / 3) / 3)}


# --- inside transformers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pooled", "last"])
def test_a_kept_chooser_answers_inside_transformers(name: str, toy_folders, data: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=2)
    finetune(toy_folders[name], TASK, data, 1, settings, tmp_path, progress=False, save_model=True)
    kept = tmp_path / "model"
    assert read_metadata(kept).heads["classifier"]["kind"] == "choice"
    model, tokenizer = AutoModelForMultipleChoice.from_pretrained(kept).eval(), AutoTokenizer.from_pretrained(kept)
    prepared = PreparedTask(toy_folders[name], TASK, data, settings)
    ours = prepared.model(1)
    ours.core, _ = load_core(kept)
    load_head(kept, "classifier", ours.head)
    answers = predict(ours, prepared)
    lines = (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    for row, line, answer in zip(toy_rows(64, 1)[:12], lines, answers):
        pairs = tokenizer([row["seen"]] * len(row["choices"]), row["choices"], return_tensors="pt", padding=True)
        with torch.inference_mode():
            found = model(**{key: value[None] for key, value in pairs.items()}).logits
        assert found.shape == (1, len(row["choices"]))
        said = [float(value) for value in line.split("\t")[3].split()]
        np.testing.assert_allclose(found.softmax(-1)[0], answer.probabilities, atol=2e-5)
        np.testing.assert_allclose(said, answer.probabilities, atol=2e-6)


@pytest.mark.parametrize("name", ["pooled", "first"])
def test_a_kept_chooser_is_exported_to_a_stock_one(name: str, toy_folders, data: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1)
    finetune(toy_folders[name], TASK, data, 1, settings, tmp_path, progress=False, save_model=True)
    assert export_folder(tmp_path / "model", tmp_path / "stock")[0].endswith("BertForMultipleChoice")
    stock = BertForMultipleChoice.from_pretrained(tmp_path / "stock").eval()
    ours = AutoModelForMultipleChoice.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "stock")
    import_folder(tmp_path / "stock", tmp_path / "again")
    again = AutoModelForMultipleChoice.from_pretrained(tmp_path / "again").eval()
    for row in toy_rows(6, 1):
        pairs = tokenizer([row["seen"]] * len(row["choices"]), row["choices"], return_tensors="pt", padding=True)
        batch = {key: value[None] for key, value in pairs.items()}
        with torch.inference_mode():
            expected = stock(**batch).logits
            for model in (ours, again):
                torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-5, atol=1e-5)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"choices": "a b"}, "'choices' is \"a b\"; a list of choices is needed"),
        ({"choices": ["a"]}, "'choices' has 1 choice; two or more are needed"),
        ({"choices": []}, "'choices' has 0 choices"),
        ({"choices": ["a", 3]}, r"choice 1 \(counted from 0\) of 'choices' is 3, which is no text"),
        ({"choices": ["a", None]}, "choice 1 .* is no text"),
        ({"label": 2}, "'label' is 2; choices of a row are counted from 0, so that a number from 0 to 1 is needed"),
        ({"label": -1}, "a number from 0 to 1 is needed"),
        ({"label": True}, "a number from 0 to 1 is needed"),
        ({"label": 0.0}, "a number from 0 to 1 is needed"),
        ({"label": None}, "'label' is null"),
        ({"label": "b"}, "kind.init_args.answer: text would read it"),
        ({"label": "A"}, "kind.init_args.answer: letter would read it"),
        ({"seen": 3}, "'seen' is 3; a text is needed"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict, part: str) -> None:
    good = {"seen": "x", "choices": ["a", "b"], "label": 0}
    path = write(tmp_path / "a.jsonl", [good, {**good, **row}])
    with pytest.raises(ZooError, match=part) as caught:
        read_file(TASK, path)
    assert str(caught.value).startswith(f"{path}, line 2")


@pytest.mark.parametrize(
    ("form", "label", "part"),
    [
        ("letter", "C", "'label' is \"C\"; a letter from A to B is needed"),
        ("letter", "", "a letter from A to B"),
        ("letter", 0, "'label' is 0; a letter is needed"),
        ("text", "c", r"'label' is \"c\", none of the choices: \[\"a\", \"b\"\]"),
        ("text", 1, "'label' is 1; a text is needed"),
    ],
)
def test_labels_of_another_form_are_named(tmp_path: Path, form: str, label: object, part: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"seen": "x", "choices": ["a", "b"], "label": label}])
    with pytest.raises(ZooError, match=part):
        read_file(options(answer=form), path)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"text": "a b"}, "a text with blanks is a list of the texts around them"),
        ({"text": ["a"]}, "a text with blanks is a list"),
        ({"text": ["a", 1]}, "'text' is 1; a text is needed"),
        ({"blank": 1}, "'blank' is 1; blanks of a row are counted from 0, so that a number from 0 to 0 is needed"),
        ({"blank": None}, "'blank' is null"),
        ({"choices": ["blue", "red"]}, "its choices are not those of .*line 1, which is of the same group '1'"),
    ],
)
def test_bad_blanks_are_named(tmp_path: Path, row: dict, part: str) -> None:
    path = write(tmp_path / "a.jsonl", [blank_row(["a", "b"], 0), {**blank_row(["a", "b"], 0), **row}])
    with pytest.raises(ZooError, match=part) as caught:
        read_file(BLANKS, path)
    assert str(caught.value).startswith(f"{path}, line 2")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"columns": ("a", "b", "c")}, "names 3 columns; one or two"),
        ({"labels": ("0", "1")}, "multiple choice has no labels"),
        ({"metrics": ("f1",)}, "unknown metric 'f1'"),
        ({"mentions": ("x",)}, "knows no marks or mentions"),
        ({"kind": KindSpec(PATH, {"answer": "number"})}, "answer"),
        ({"kind": KindSpec(PATH, {"distinct": True})}, "distinct needs group"),
        ({"kind": KindSpec(PATH, {"choices": ["a", "a"]})}, "names a column twice"),
        ({"kind": KindSpec(PATH, {"choice": ["a"]})}, "Did you mean 'choices'"),
    ],
)
def test_tasks_that_cannot_work_are_refused(change: dict, part: str) -> None:
    with pytest.raises(ZooError, match=part):
        open_kind(replace(TASK, **change))
