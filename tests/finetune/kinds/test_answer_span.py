"""Answers in passages: learned by every core, decoded over all windows, scored, kept, opened again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import SHARED
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from toys import FIRST, LAST, MEMORY, PERMUTED, POOLED, SPELT, WORDS, check_shares, make_model
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertForQuestionAnswering

import zoo.hf  # noqa: F401  makes model folders known to the Auto classes
from finetune.config import FeatureSettings, FinetuneSettings
from finetune.data.examples import TaskSplits
from finetune.data.questions import GoldAnswer, Questions
from finetune.data.tasks import KindSpec, Task, read_task_file, shipped_tasks
from finetune.kinds.answer_span import AnswerSpan, FoundAnswer
from finetune.kinds.base import open_kind
from finetune.training.loop import step_loss
from finetune.training.prepared import PreparedTask
from finetune.training.processes import Processes
from finetune.training.run import finetune
from zoo.errors import ZooError
from zoo.weights.commands import export_folder

TOYS = {"pooled": POOLED, "first": FIRST, "last": LAST, "memory": MEMORY, "permuted": PERMUTED, "spelt": SPELT}
PATH = "finetune.kinds.AnswerSpan"
QA = Task(
    name="qa",
    columns=("question", "passage"),
    kind=KindSpec(PATH, {"stride": 6}),
    metrics=("squad_em", "squad_f1"),
    max_length=24,
    epochs=8,
)
MAYBE = replace(QA, kind=KindSpec(PATH, {"stride": 6, "unanswerable": True}), metrics=())
SETTINGS = FinetuneSettings(lr=5e-3, batch_size=16, classifier_dropout=0.0)

pytestmark = pytest.mark.usefixtures("one_thread")


def questions(count: int = 48, without: float = 0.0, seed: int = 0) -> TaskSplits[Questions]:
    """Passages of letters in which a colour stands, up to three windows long; the question names its neighbour."""
    generator = np.random.default_rng(seed)
    asked, passages, answers = list[str](), list[str](), list[tuple[GoldAnswer, ...]]()
    for _ in range(count):
        words = [*generator.choice(list("abcdefghijklmn"), size=generator.integers(4, 40))]
        place = int(generator.integers(len(words)))
        asked.append(f"same {words[place]} [SEP]")  # which is text there
        there = generator.random() >= without
        if there:
            words[place:place] = [str(generator.choice(["red", "blue", "green"]))]
        start = sum(len(word) + 1 for word in words[:place])
        passages.append(" ".join(words))
        answers.append((GoldAnswer(words[place], start),) if there else ())
    numbers, ids = np.arange(count), [f"q{number}" for number in range(count)]
    rows = Questions(ids, asked, passages, answers, numbers=numbers, skipped=0, source="test")
    return TaskSplits(rows, rows)


def largest(one: torch.Tensor, two: torch.Tensor) -> float:
    assert one.shape == two.shape
    return (one - two).abs().max().item()


# ---- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_a_tiny_set_is_learned_by_every_core(name: str, toy_folders, tmp_path: Path) -> None:
    data = questions()
    result = finetune(toy_folders[name], QA, data, 1, SETTINGS, tmp_path, progress=False)
    assert result.scores == {"squad_em": 1.0, "squad_f1": 1.0}
    assert result.majority["squad_em"] < 0.6
    assert (result.train_rows, result.eval_rows, result.classes_predicted) == (48, 48, 3)
    header, *lines = (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["id", "gold", "predicted", "best_text", "score", "no_answer_score"]
    assert [line.split("\t")[:3] for line in lines] == [
        [name, own[0].text, own[0].text] for name, own in zip(data.train.ids, data.train.answers, strict=True)
    ]


@pytest.mark.parametrize("name", ["pooled", "permuted"])
def test_questions_without_answer_are_learned(name: str, toy_folders, tmp_path: Path) -> None:
    data = questions(without=0.4)
    result = finetune(toy_folders[name], MAYBE, data, 1, SETTINGS, tmp_path, progress=False)
    without = sum(not own for own in data.train.answers) / 48
    assert list(result.scores) == ["squad2_f1", "squad2_em", "squad2_best_em", "squad2_best_f1"]
    assert set(result.scores.values()) == {1.0}
    assert set(result.majority.values()) == {without}
    rows = [line.split("\t") for line in (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    assert all((row[2] == "") == (float(row[5]) > float(row[4])) for row in rows)
    assert all(row[3] for row in rows)


def test_frozen_features_answer_questions(toy_folders, tmp_path: Path) -> None:
    """Texts are read apart, so that a window has a whole row; the passage is compared with the question."""
    features = FeatureSettings(mixes=2, hidden_size=24, dropout=0.0)
    settings = replace(SETTINGS, use="features", features=features, epochs=8, lr=1e-2, max_length=32)
    data = questions(120, without=0.3)
    prepared = PreparedTask(toy_folders["spelt"], MAYBE, data, settings)
    result = finetune(toy_folders["spelt"], MAYBE, prepared, 1, settings, tmp_path, progress=False)
    assert result.scores["squad2_em"] > 0.9 > 0.5 > result.majority["squad2_em"]
    own, asked = prepared.train.sequences.texts[1].lengths, prepared.train.sequences.texts[0].lengths
    assert (own.max(), asked.max()) == (32, 7)  # same, a letter and [ SEP ], between two template tokens


@pytest.mark.parametrize("name", ["pooled", "last", "permuted"])
def test_all_of_a_task_network_is_trained(name: str, toy_folders) -> None:
    settings = replace(SETTINGS, use="features", features=FeatureSettings(mixes=2, hidden_size=8), max_length=16)
    long = replace(questions(8, without=0.3).train, questions=["a " * 70] * 8)
    prepared = PreparedTask(toy_folders[name], MAYBE, TaskSplits(long, long), settings)
    model = prepared.model(1)
    assert prepared.train.truncated == len(prepared.train) > 8
    step_loss(model, prepared, np.arange(8), (1, 0), Processes()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_two_processes_learn_what_one_does(toy_folders) -> None:
    data = questions(without=0.3)
    lost = replace(data.train, answers=[(GoldAnswer("nowhere"),), *data.train.answers[1:]])
    prepared = PreparedTask(toy_folders["pooled"], MAYBE, TaskSplits(lost, lost), replace(SETTINGS, max_length=16))
    model, rows = prepared.model(1), np.arange(11)

    check_shares(model, prepared, rows)


@pytest.mark.parametrize("name", TOYS)
def test_the_loss_is_the_mean_of_both_ends_over_each_windows_slots(name: str, toy_folders) -> None:
    """The same from a forward pass over each window alone, all states computed."""
    prepared = PreparedTask(toy_folders[name], MAYBE, questions(8, without=0.3), replace(SETTINGS, max_length=16))
    model, rows = prepared.model(1).eval(), prepared.train
    expected = 0.0
    for row in range(len(rows)):
        inputs, slots, (sizes, ends) = prepared.batch("train", np.array([row]))
        scores = model.head.output(model.head.features(model.core(inputs).last_hidden_state[0]))[slots[0]]
        assert sizes.tolist() == [len(scores)]
        expected -= scores.log_softmax(0).gather(0, ends).mean().item()
    inputs, slots, targets = prepared.batch("train", np.arange(len(rows)))
    assert prepared.kind.loss(model(inputs, slots), targets).item() == pytest.approx(expected, rel=1e-5)


# ---- decoding --------------------------------------------------------------------------------------------------------


def brute_force(prepared: PreparedTask, outputs: np.ndarray, longest: int) -> list[tuple[str, float, float]]:
    """Text and score of the best stretch of each question, and the least score of "no answer", pair by pair."""
    rows, examples = prepared.evaluation, prepared.data.evaluation
    best = [("", -np.inf, np.inf)] * len(examples)
    for row, owner in enumerate(rows.owners):
        slots = range(rows.outputs[row], rows.outputs[row + 1])
        (nothing,) = (slot for slot in slots if rows.characters[slot, 0] < 0)
        text, score, none = best[owner]
        none = min(none, outputs[nothing, 0] + outputs[nothing, 1])
        for first in slots:
            for last in range(first, min(first + longest, slots.stop)):
                if nothing not in (first, last) and outputs[first, 0] + outputs[last, 1] > score:
                    score = outputs[first, 0] + outputs[last, 1]
                    text = examples.passages[owner][rows.characters[first, 0] : rows.characters[last, 1]]
        best[owner] = (text, score, none)
    return best


@pytest.mark.parametrize("name", ["pooled", "last"])
@pytest.mark.parametrize("longest", [1, 3, 100])
def test_answers_are_the_best_of_all_windows(name: str, longest: int, toy_folders) -> None:
    prepared = PreparedTask(toy_folders[name], MAYBE, questions(20), SETTINGS)
    rows, examples = prepared.evaluation, prepared.data.evaluation
    assert len(rows) > 30
    outputs = np.random.default_rng(longest).normal(size=(rows.outputs[-1], 2))
    outputs[rows.characters[:, 0] < 0] += 2.0  # so that "no answer" often wins
    expected = brute_force(prepared, outputs, longest)
    every = AnswerSpan(max_answer_length=longest, n_best=1000, unanswerable=True)
    found = every.answers(MAYBE, examples, rows, outputs)
    assert [(a.text, a.score, a.no_answer) for a in found] == expected
    assert [a.predicted for a in found] == [text if none <= score else "" for text, score, none in expected]
    assert 0 < sum(not a.predicted for a in found) < len(found)
    for answer, passage in zip(found, examples.passages, strict=True):
        assert passage.startswith(answer.text, answer.start)
    few = AnswerSpan(max_answer_length=longest, n_best=3).answers(QA, examples, rows, outputs)
    assert all(a.predicted for a in few)  # also where none of the best ones are a pair
    assert all(a.score <= b.score for a, b in zip(few, found, strict=True))
    if longest == 100:
        assert [a.score for a in few] != [a.score for a in found]


def test_the_threshold_decides_what_is_not_answered(toy_folders) -> None:
    prepared = PreparedTask(toy_folders["pooled"], MAYBE, questions(20), SETTINGS)
    rows, examples = prepared.evaluation, prepared.data.evaluation
    outputs = np.random.default_rng(0).normal(size=(rows.outputs[-1], 2))
    shares = []
    for threshold in (-100.0, -4.0, 0, 100.0):
        found = AnswerSpan(unanswerable=True, threshold=threshold).answers(MAYBE, examples, rows, outputs)
        shares.append(np.mean([not a.predicted for a in found]))
    assert shares[0] == 1.0 > shares[1] > shares[2] >= shares[3] == 0.0


def test_answers_keep_the_passages_own_spelling(tmp_path: Path) -> None:
    """White space, case and accents that the tokenizer does not see, and tokens that are parts of words."""
    words = [*WORDS[:5], "the", "cafe", "##s", "of", "par", "##is", "?"]
    folder = make_model(tmp_path, FIRST._replace(config=FIRST.config.replace(vocab_size=len(words))), words=words)
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(strip_accents=True, lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(WORDS[:5])
    backend.save(str(folder / "tokenizer.json"))
    passage = "The  CAFÉS\u3000of\tParis"
    rows = Questions(
        ["a"], ["?"], [passage], [(GoldAnswer("CAFÉS\u3000of"),)], numbers=np.arange(1), skipped=0, source=""
    )
    prepared = PreparedTask(folder, QA, TaskSplits(rows, rows), SETTINGS)
    assert prepared.evaluation.ends.tolist() == [[2, 4]]
    outputs = np.zeros((7, 2))
    outputs[prepared.evaluation.ends[0], [0, 1]] = 9.0
    (found,) = prepared.kind.answers(QA, rows, prepared.evaluation, outputs)
    assert (found.predicted, found.start) == ("CAFÉS\u3000of", 5)


# ---- scores ----------------------------------------------------------------------------------------------------------


def told(text: str, predicted: str | None = None, score: float = 1.0, none: float = 0.0) -> FoundAnswer:
    return FoundAnswer(text if predicted is None else predicted, text, 0, score, none)


def test_scores_floors_and_collapse_are_of_the_answers() -> None:
    gold = [(GoldAnswer("the red"),), (GoldAnswer("blue b"), GoldAnswer("blue")), (GoldAnswer("red"),)]
    rows = Questions([*"abc"], ["?"] * 3, ["the red blue b"] * 3, gold, numbers=np.arange(3), skipped=0, source="")
    kind = AnswerSpan()
    found = [told("Red"), told("blue"), told("red b")]
    assert kind.scores(QA, rows, found) == pytest.approx({"squad_em": 2 / 3, "squad_f1": (1 + 1 + 2 / 3) / 3})
    assert kind.distinct(found) == 3
    train = replace(rows, answers=[(GoldAnswer("blue"),), (GoldAnswer("red"),), (GoldAnswer("blue"),)])
    assert kind.floors(QA, train, rows)["majority"]["squad_em"] == pytest.approx(1 / 3)
    chinese = replace(QA, metrics=("cmrc_em", "cmrc_f1"))
    assert list(kind.scores(chinese, rows, found)) == ["cmrc_em", "cmrc_f1"]


def test_the_best_threshold_is_of_what_could_be_answered() -> None:
    gold = [(GoldAnswer("red"),), (), (GoldAnswer("blue"),)]
    rows = Questions([*"abc"], ["?"] * 3, ["red blue"] * 3, gold, numbers=np.arange(3), skipped=0, source="")
    kind = AnswerSpan(unanswerable=True)
    found = [told("red", "", 1.0, 2.0), told("red", "", 1.0, 5.0), told("blue", "", 1.0, 3.0)]
    scores = kind.scores(MAYBE, rows, found)
    assert scores["squad2_em"] == pytest.approx(1 / 3)
    assert scores["squad2_best_em"] == scores["squad2_best_f1"] == 1.0
    assert kind.floors(MAYBE, rows, rows)["majority"] == pytest.approx(dict.fromkeys(scores, 1 / 3))


# ---- kept models -----------------------------------------------------------------------------------------------------


def test_a_kept_model_opens_and_answers_alike(toy_folders, tmp_path: Path) -> None:
    """In the zoo's Auto class, and in transformers' own BERT, from the ids of the kept tokenizer."""
    data = questions(12)
    short = replace(data.train, passages=[" ".join(text.split()[:12]) for text in data.train.passages])
    answers = [
        own if own[0].place_in(text) else (GoldAnswer(text[:1]),) for own, text in zip(short.answers, short.passages)
    ]
    short = replace(short, answers=answers)
    prepared = PreparedTask(toy_folders["pooled"], QA, TaskSplits(short, short), SETTINGS)
    finetune(toy_folders["pooled"], QA, prepared, 1, SETTINGS, tmp_path, progress=False, save_model=True)
    names = export_folder(tmp_path / "model", tmp_path / "stock")
    assert names[0].endswith("BertForQuestionAnswering")
    rows = [line.split("\t") for line in (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    inputs = tokenizer(short.questions, short.passages, padding=True, return_tensors="pt", return_offsets_mapping=True)
    places = inputs.pop("offset_mapping")
    opened = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model").eval()
    stock = BertForQuestionAnswering.from_pretrained(tmp_path / "stock").eval()
    with torch.no_grad():
        one, two = opened(**inputs), stock(**inputs)
    real = inputs["attention_mask"].bool()
    for a, b in ((one.start_logits, two.start_logits), (one.end_logits, two.end_logits)):
        assert largest(a[real], b[real]) < 1e-5
    for row, (start, end) in enumerate(zip(one.start_logits, one.end_logits, strict=True)):
        own = inputs.sequence_ids(row)
        pairs = {
            (start[i] + end[j]).item(): (i, j)
            for i, a in enumerate(own)
            for j, b in enumerate(own)
            if a == b == 1 and i <= j
        }
        score = max(pairs)
        first, last = pairs[score]
        assert short.passages[row][places[row, first, 0] : places[row, last, 1]] == rows[row][2]
        assert score == pytest.approx(float(rows[row][4]), abs=1e-4)
        assert (start[0] + end[0]).item() == pytest.approx(float(rows[row][5]), abs=1e-4)


def test_windows_are_those_of_run_qa(toy_folders, tmp_path: Path) -> None:
    """As a tokenizer of transformers cuts and repeats the second of two texts."""
    prepared = PreparedTask(toy_folders["pooled"], QA, questions(), SETTINGS)
    prepared.save(prepared.model(1), tmp_path / "model")
    data, rows = prepared.data.train, prepared.train
    stock = AutoTokenizer.from_pretrained(tmp_path / "model")(
        data.questions,
        data.passages,
        truncation="only_second",
        max_length=24,
        stride=6,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert stock["overflow_to_sample_mapping"] == rows.owners.tolist()
    assert len(rows) > 70
    for row, ids in enumerate(stock["input_ids"]):
        offsets = rows.sequences.offsets
        assert rows.sequences.ids[offsets[row] : offsets[row + 1]].tolist() == ids
        of_passage = [number for number, part in enumerate(stock.sequence_ids(row)) if part == 1]
        own = slice(rows.outputs[row], rows.outputs[row + 1])
        assert rows.slots[own].tolist() == [0, *of_passage]
        assert rows.characters[own][1:].tolist() == [[*stock["offset_mapping"][row][number]] for number in of_passage]


# ---- real rows -------------------------------------------------------------------------------------------------------


def test_real_chinese_questions_run_end_to_end(tmp_path: Path) -> None:
    """One set for training and another for evaluation, characters as tokens."""
    folder = SHARED / "clue" / "cmrc2018"
    if not folder.exists():
        pytest.skip("../shared/data/clue/cmrc2018 is not there")
    (tmp_path / "qa.yaml").write_text(
        f"name: cmrc\nkind: {PATH}\ncolumns: [question, context]\nlabel_column: answers\nindex_column: id\n"
        "metrics: [cmrc_em, cmrc_f1]\nfile_format: squad\ntrain_files: [trial.json]\neval_files: [dev.json]\n"
        "max_length: 200\nepochs: 1\n",
        encoding="utf-8",
    )
    task = read_task_file(tmp_path / "qa.yaml")["cmrc"]
    text = (folder / "trial.json").read_text(encoding="utf-8") + (folder / "dev.json").read_text(encoding="utf-8")
    words = [*WORDS[:5], *sorted({c for c in text if not c.isspace()})]
    model = make_model(
        tmp_path / "model", POOLED._replace(config=POOLED.config.replace(vocab_size=len(words))), words=words
    )
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")])
    backend.add_special_tokens(WORDS[:5])
    backend.save(str(model / "tokenizer.json"))
    settings = replace(SETTINGS, limit=40)
    prepared = PreparedTask(model, task, folder, settings)
    result = finetune(model, task, prepared, 1, settings, tmp_path / "out", progress=False)
    assert (result.train_rows, result.eval_rows) == (40, 40)
    assert len(prepared.train) > 60  # windows
    assert list(result.scores) == ["cmrc_em", "cmrc_f1"]
    assert 0.0 < result.scores["cmrc_f1"] < 1.0
    passages = dict(zip(prepared.data.evaluation.ids, prepared.data.evaluation.passages, strict=True))
    lines = (tmp_path / "out" / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    assert [row[0] for row in rows] == prepared.data.evaluation.ids
    assert all(row[2] and row[2] in passages[row[0]].replace("\n", " ") for row in rows)
    gold = prepared.data.evaluation
    perfect = [told(own[0].text) for own in gold.answers]
    assert set(prepared.kind.scores(task, gold, perfect).values()) == {1.0}


# ---- what cannot work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"stride": -1}, "stride = -1; a whole number of at least 0"),
        ({"stride": "many"}, "stride = 'many'; a whole number is needed"),
        ({"max_answer_length": 0}, "max_answer_length = 0; a whole number of at least 1"),
        ({"n_best": True}, "n_best = True; a whole number is needed"),
        ({"unanswerable": 1}, "unanswerable = 1; true or false is needed"),
        ({"threshold": float("nan")}, "threshold = nan"),
        ({"strid": 1}, "stride"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ZooError, match=why):
        open_kind(replace(QA, kind=KindSpec(PATH, options)))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"columns": ("question",)}, "names 1 columns; two are needed"),
        ({"labels": ("a", "b")}, "labels"),
        ({"metrics": ("accuracy",)}, "unknown metric 'accuracy'"),
        ({"metrics": ("squad2_em",)}, "squad2_em does not suit unanswerable: false; squad_em"),
        ({"kind": MAYBE.kind, "metrics": ("cmrc_em",)}, "cmrc_em does not suit unanswerable: true; squad2_em"),
    ],
)
def test_tasks_that_cannot_work_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ZooError, match=why):
        open_kind(replace(QA, **changes))


def test_shipped_tasks_open_and_clue_scores_exact_match() -> None:
    tasks = shipped_tasks()
    kinds = {name: open_kind(tasks[name]) for name in ("squad", "squad_v2", "cmrc2018", "drcd")}
    assert [kind.unanswerable for kind in kinds.values()] == [False, True, False, False]
    assert tasks["cmrc2018"].metrics[0] == "cmrc_em"
    assert [name for name in kinds if "clue" in tasks[name].groups] == ["cmrc2018"]
