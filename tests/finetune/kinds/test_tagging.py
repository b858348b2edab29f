"""Tags of words: rows of every form, windows of long texts, every kind of core, scores, kept models, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from places import SHARED
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from toys import FIRST, LAST, MEMORY, PERMUTED, POOLED, SPELT, WORDS, check_shares, make_model
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertForTokenClassification, pipeline

import zoo.hf  # noqa: F401  makes model toy_folders known to the Auto classes
from finetune.config import FeatureSettings, FinetuneSettings
from finetune.data.tagged import TaggedTexts, tag_names, tags_of
from finetune.data.tasks import KindSpec, Task, shipped_tasks
from finetune.inputs.encoder import PlacedTokens
from finetune.inputs.windows import WordRows, windows, word_tokens
from finetune.kinds import Tagging
from finetune.kinds.base import open_kind
from finetune.kinds.load import from_dataset, load_task, load_test, read_file
from finetune.metrics import tagged_entities
from finetune.training.loop import predict
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.model_folder import load_core, load_head, read_metadata
from zoo.weights.commands import export_folder

TOYS = {"pooled": POOLED, "first": FIRST, "last": LAST, "memory": MEMORY, "permuted": PERMUTED, "spelt": SPELT}
PATH = "finetune.kinds.Tagging"
TASK = Task(
    name="names", columns=("words",), label_column="tags", labels=("COL", "MOOD"), kind=KindSpec(PATH), epochs=8
)
SPANS = replace(TASK, columns=("text",), label_column="spans", kind=KindSpec(PATH, {"unit": "characters"}))
SPEECH = replace(TASK, labels=("N", "V"), kind=KindSpec(PATH, {"scheme": "none"}))
SETTINGS = FinetuneSettings(lr=5e-3)

pytestmark = pytest.mark.usefixtures("one_thread")


def toy_rows(count: int, seed: int) -> list[dict[str, list[str]]]:
    """Colours, which a ``same`` behind them continues, and moods, among letters."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(count):
        words, tags = list[str](), list[str]()
        for _ in range(int(generator.integers(2, 7))):
            draw = generator.random()
            if draw < 0.3:
                long = generator.random() < 0.5
                words += [str(generator.choice(["red", "blue"])), *["same"] * long]
                tags += ["B-COL", *["I-COL"] * long]
            elif draw < 0.5:
                words.append(str(generator.choice(["good", "bad"])))
                tags.append("B-MOOD")
            else:
                words.append(str(generator.choice([*"abcdefgh"])))
                tags.append("O")
        rows.append({"words": words, "tags": tags})
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tagged")
    write(folder / "train.jsonl", toy_rows(192, 0))
    write(folder / "dev.jsonl", toy_rows(48, 1))
    return folder


def tags(task: Task, rows: TaggedTexts) -> list[list[str]]:
    names = open_kind(task).head_config(task)["labels"]
    return [[names[tag] for tag in own] for own in rows.tags]


def right_outputs(prepared: PreparedTask) -> np.ndarray:
    """Scores of a model that is always right at its states."""
    return np.eye(prepared.kind.head_config(prepared.task)["num_labels"])[prepared.evaluation.targets]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_lists_of_words_and_of_tags(tmp_path: Path) -> None:
    rows = read_file(TASK, write(tmp_path / "a.jsonl", [{"words": ["Anna", "ist", "da"], "tags": ["B-COL", "O", "O"]}]))
    assert (rows.texts, rows.surfaces(0)) == (["Anna ist da"], ["Anna", "ist", "da"])
    assert tags(TASK, rows) == [["B-COL", "O", "O"]]


def test_a_table_has_words_and_tags_with_spaces_between_them(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("words\ttags\nAnna  ist da\tB-COL O O\n", encoding="utf-8")
    (tmp_path / "a.csv").write_text('words,tags\n"Anna  ist da",B-COL O O\n', encoding="utf-8")
    for name in ("a.tsv", "a.csv"):
        rows = read_file(TASK, tmp_path / name)
        assert rows.surfaces(0) == ["Anna", "ist", "da"]
        assert tags(TASK, rows) == [["B-COL", "O", "O"]]


def test_characters_of_chinese_words_stand_without_spaces(tmp_path: Path) -> None:
    row = {"words": ["张", "三", "in", "Bonn", "，", "ok"], "tags": ["B-COL", "I-COL", "O", "B-MOOD", "O", "O"]}
    rows = read_file(TASK, write(tmp_path / "a.jsonl", [row]))
    assert rows.texts == ["张三in Bonn ， ok"]
    assert rows.surfaces(0) == row["words"]
    rows = read_file(replace(TASK, kind=SPANS.kind), write(tmp_path / "a.jsonl", [row]))
    assert rows.texts == ["张三inBonn，ok"]


def test_spans_of_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "张三 in Bonn", "spans": [[6, 10, "MOOD"], [0, 2, "COL"]]}])
    assert tags(SPANS, read_file(SPANS, path)) == [
        ["B-COL", "I-COL", "O", "O", "O", "O", "B-MOOD", "I-MOOD", "I-MOOD", "I-MOOD"]
    ]
    words = replace(SPANS, kind=KindSpec(PATH, {"scheme": "bioes"}))
    assert tags(words, read_file(words, path)) == [["S-COL", "O", "S-MOOD"]]
    (tmp_path / "a.tsv").write_text('text\tspans\na b\t[[0, 1, "COL"]]\nc\t[]\n', encoding="utf-8")
    assert tags(words, read_file(words, tmp_path / "a.tsv")) == [["S-COL", "O"], ["O"]]


def test_parquet_and_the_hub(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = ["O", "B-COL", "I-COL", "B-MOOD", "I-MOOD"]
    lists = {"words": [["a", "b"], ["c"]], "tags": [["B-COL", "I-COL"], ["O"]]}
    made, task = datasets.Dataset.from_dict(lists), replace(TASK, hub_label_column="tags")
    made.to_parquet(str(tmp_path / "a.parquet"))
    assert tags(TASK, read_file(TASK, tmp_path / "a.parquet")) == lists["tags"]
    assert tags(TASK, from_dataset(task, made, "made")) == lists["tags"]
    classes = made.cast_column("tags", datasets.Sequence(datasets.ClassLabel(names=names)))
    assert tags(TASK, from_dataset(task, classes, "made")) == lists["tags"]
    other = made.cast_column("tags", datasets.Sequence(datasets.ClassLabel(names=[*names[:-1], "I-NAME"])))
    with pytest.raises(ZooError, match=r"label names .* are not those of task 'names'"):
        from_dataset(task, other, "made")


@pytest.mark.parametrize(
    ("written", "bio", "bioes"),
    [
        ("I-COL I-COL O I-MOOD", "B-COL I-COL O B-MOOD", "B-COL E-COL O S-MOOD"),  # IOB1, as eng.train has it
        ("I-COL B-COL O O", "B-COL B-COL O O", "S-COL S-COL O O"),
        ("B-COL E-COL S-COL O", "B-COL I-COL B-COL O", "B-COL E-COL S-COL O"),
        ("B-COL I-MOOD I-MOOD O", "B-COL B-MOOD I-MOOD O", "S-COL B-MOOD E-MOOD O"),
    ],
)
def test_files_may_write_entities_in_any_scheme(tmp_path: Path, written: str, bio: str, bioes: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"words": list("abcd"), "tags": written.split()}])
    for scheme, expected in (("bio", bio), ("bioes", bioes)):
        task = replace(TASK, kind=KindSpec(PATH, {"scheme": scheme}))
        found = tags(task, read_file(task, path))[0]
        assert found == expected.split()
        assert tagged_entities(found) == tagged_entities(written.split())


def test_tags_without_a_scheme_are_the_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"words": ["a", "b"], "tags": ["V", "N"]}])
    assert tags(SPEECH, read_file(SPEECH, path)) == [["V", "N"]]
    assert open_kind(SPEECH).metrics(SPEECH) == ("accuracy",)
    assert tag_names(("N", "V"), "none") == ("N", "V")


def test_test_rows_need_no_tags(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.jsonl", toy_rows(2, 0))
    write(tmp_path / "test.jsonl", [{"words": ["a", "b"]}, {"words": ["c"]}])
    rows = load_test(TASK, tmp_path)
    assert not rows.labelled
    kind = open_kind(TASK)
    assert kind.written(TASK, rows, [["O", "O"], ["B-COL"]])[1] == [["0", "", "O O"], ["1", "", "B-COL"]]


def test_limits_keep_words_and_tags_together(data: Path) -> None:
    whole = read_file(TASK, data / "dev.jsonl")
    some = whole.limited(7)
    rows = toy_rows(48, 1)
    assert (len(some), some.digest() == whole.digest()) == (7, False)
    for place, number in enumerate(some.numbers):
        assert some.surfaces(place) == rows[number]["words"]
        assert tags(TASK, some)[place] == rows[number]["tags"]
    other = replace(whole, tags=[np.zeros_like(whole.tags[0]), *whole.tags[1:]])
    assert other.digest() != whole.digest()


# --- official files --------------------------------------------------------------------------------------------------

CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

Peter\tNNP  I-NP I-PER
Blackburn NNP I-NP I-PER
"""


def test_conll_2003_as_its_files_are(tmp_path: Path) -> None:
    task = shipped_tasks()["conll2003"]
    for name in ("eng.train", "eng.testa"):
        (tmp_path / name).write_text(CONLL, encoding="utf-8")
    (tmp_path / "eng.testb").write_text(CONLL.replace("I-PER", "I-PER \r"), encoding="utf-8")
    found = load_task(task, tmp_path)
    assert [found.train.surfaces(row) for row in range(2)] == [
        ["EU", "rejects", "German", "call"],
        ["Peter", "Blackburn"],
    ]
    assert tags(task, found.train) == [["B-ORG", "O", "B-MISC", "O"], ["B-PER", "I-PER"]]
    assert tags(task, load_test(task, tmp_path)) == tags(task, found.train)
    (tmp_path / "eng.testb").write_text("EU\nrejects\n\nPeter\n", encoding="utf-8")  # words alone
    test = load_test(task, tmp_path)
    assert ([test.surfaces(row) for row in range(2)], test.labelled) == ([["EU", "rejects"], ["Peter"]], False)
    (tmp_path / "eng.train").write_text("a O\nb\n", encoding="utf-8")
    with pytest.raises(ZooError, match=r"eng.train, line 2: 'b' has 1 columns, and the first line with a word has 2"):
        load_task(task, tmp_path)
    (tmp_path / "eng.train").write_text("a\u2028b O\n\nc I-ANIMAL\n", encoding="utf-8")
    with pytest.raises(ZooError, match=r"eng.train, line 3: 'tags' has 'I-ANIMAL', whose type is none of"):
        load_task(task, tmp_path)


def test_cluener_as_its_files_are(tmp_path: Path) -> None:
    task = shipped_tasks()["cluener"]
    row = {
        "text": "《招行》在北京，北京",
        "label": {"book": {"《招行》": [[0, 3]]}, "company": {"招行": [[1, 2]]}, "address": {"北京": [[5, 6], [8, 9]]}},
    }
    rows = read_file(task, write(tmp_path / "a.json", [row]))
    book, place = ["B-book", *["I-book"] * 3], ["B-address", "I-address"]
    assert tags(task, rows) == [[*book, "O", *place, "O", *place]]
    row["label"]["address"]["北京"] = [[4, 5]]
    with pytest.raises(ZooError, match=r"a.json, line 1: '北京' \(address\) does not stand at \[4, 5\]"):
        read_file(task, write(tmp_path / "a.json", [row]))
    for label in ({"address": [1]}, ["address"], {"address": {"北京": [5, 6]}}):
        with pytest.raises(ZooError, match=r"a\.json, line 1: "):
            read_file(task, write(tmp_path / "a.json", [{**row, "label": label}]))


def test_cluener_as_it_was_published() -> None:
    if not SHARED.is_dir():
        pytest.skip("no shared data here")
    task = shipped_tasks()["cluener"]
    found = load_task(task, SHARED / "clue")
    assert (len(found.train), len(found.evaluation)) == (10748, 1343)
    assert len(load_test(task, SHARED / "clue")) == 1345
    kind = open_kind(task)
    gold = tags(task, found.evaluation)
    assert kind.scores(task, found.evaluation, gold)["cluener_f1"] == 1.0
    floor = kind.floors(task, found.train, found.evaluation)["majority"]
    assert floor["cluener_f1"] == floor["entity_f1"] == 0.0
    assert sum(map(len, map(tagged_entities, gold))) == 3072


# --- windows, and the states of words ---------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 2, 3, 8, 9])
def test_windows_read_every_token_once_and_far_from_their_edges(room: int) -> None:
    for length in range(40):
        found = windows(length, room)
        assert [token for window in found for token in range(window.first, window.stop)] == list(range(length))
        for window in found:
            assert window.start <= window.first <= window.stop <= window.start + window.size <= length
            assert window.size == min(length, room)
            assert window.start == 0 or window.first - window.start >= room // 4
            end = window.start + window.size
            assert end == length or end - window.stop >= room // 4


def test_a_word_is_read_at_its_first_token() -> None:
    places = np.array([[0, 2], [2, 2], [2, 4], [4, 7], [9, 9], [0, 3], [0, 3], [3, 5]])
    tokens = PlacedTokens(np.arange(8, dtype=np.int32), np.array([5, 0, 3]), places)
    spaced = np.array([[0, 1], [1, 2], [2, 7], [7, 8], [8, 9]])  # two words of one token, one of two, two of none
    found = word_tokens(tokens, [spaced, np.array([[0, 4]]), np.array([[0, 3], [3, 5], [5, 5]])])
    assert [own.tolist() for own in found] == [[0, 0, 2, -1, -1], [-1], [0, 2, -1]]


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_words_that_share_a_token_are_tagged_together(scheme: str) -> None:
    kind = Tagging(scheme, "characters")
    task = replace(SPANS, kind=KindSpec(PATH, {"scheme": scheme, "unit": "characters"}))
    places = np.array([0, 0, 1, -1, 2, 2, -1])
    rows = TaggedTexts(
        ["张三去 北京 "],
        [np.stack([np.arange(7), np.arange(1, 8)], axis=1)],
        [np.zeros(7, np.int64)],
        numbers=np.arange(1),
        skipped=0,
        source="made",
    )
    states = WordRows(
        None,
        np.zeros(1, np.int64),
        slots=np.arange(3),
        slot_sizes=np.array([3]),
        places=places,
        words=np.array([len(places)]),
    )
    names = kind.tags(task)

    def answered(*wanted: str) -> list[str]:
        return kind.answers(task, rows, states, np.eye(len(names))[[names.index(tag) for tag in wanted]])[0]

    one, two = ("S", "E") if scheme == "bioes" else ("B", "I")
    assert answered(f"{one}-COL", "O", f"{one}-MOOD") == tags_of(
        sorted(tagged_entities(["B-COL", "I-COL", "O", "O", "B-MOOD", "I-MOOD", "O"])), 7, scheme
    )
    joined = tags_of(sorted(tagged_entities(["O", "O", "B-COL", *["I-COL"] * 3, "O"])), 7, scheme)
    assert answered("O", "B-COL", f"{two}-COL") == joined  # the space between them is inside


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("use", ["finetune", "features"])
def test_every_word_of_a_long_text_has_a_tag(name: str, use: str, toy_folders, tmp_path: Path) -> None:
    """A model that is always right gives the gold tags, whatever the windows."""
    rows = toy_rows(12, 3)
    rows.append({"words": [w for row in rows for w in row["words"]], "tags": [t for row in rows for t in row["tags"]]})
    rows.append({"words": ["", " "], "tags": ["O", "O"]})  # the tokenizer leaves nothing of these
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", rows)
    settings = replace(SETTINGS, max_length=11, use=use)
    prepared = PreparedTask(toy_folders[name], TASK, tmp_path, settings)
    found, examples = prepared.evaluation, prepared.data.evaluation
    words = len(rows[-2]["words"])
    assert found.truncated == 0
    assert int((found.owners == 12).sum()) > words / 11
    assert int(found.sequences.lengths.max()) <= 11
    assert prepared.kind.count(found, np.arange(len(found))) == sum(len(row["words"]) for row in rows) - 2
    answers = prepared.kind.answers(TASK, examples, found, right_outputs(prepared))
    assert answers == [row["tags"] for row in rows]
    assert prepared.kind.scores(TASK, examples, answers) == {"entity_f1": 1.0}


def test_characters_of_whole_chinese_words_are_tagged_by_their_words(toy_folders, tmp_path: Path) -> None:
    """A segmenter puts spaces into the text; places are those of the text as it is."""
    pytest.importorskip("rjieba")
    folder = make_model(tmp_path / "model", SPELT)
    tokenizer = load_tokenizer(folder)
    tokenizer.segmenter = "rjieba"
    tokenizer.save(folder)
    text = "今天北京的天气很好。 ok"
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", [{"text": text, "spans": [[2, 4, "COL"], [5, 7, "MOOD"], [11, 13, "COL"]]}])
    prepared = PreparedTask(folder, SPANS, tmp_path, SETTINGS)
    rows, examples = prepared.evaluation, prepared.data.evaluation
    assert rows.sequences.lengths.tolist() == [len(rows.slots) + 2]
    assert 6 <= len(rows.slots) < len(text) - 2
    answers = prepared.kind.answers(SPANS, examples, rows, right_outputs(prepared))
    assert answers == tags(SPANS, examples)


def test_words_in_pieces_are_read_at_the_first(toy_folders, tmp_path: Path) -> None:
    """Pieces of words, and one that only marks where a word begins."""
    folder = make_model(tmp_path / "model", POOLED)
    backend = Tokenizer(Unigram([(word, 0.0) for word in [*WORDS[:5], "▁", "▁r", "ed", "a"]], 1))
    backend.pre_tokenizer = Metaspace(prepend_scheme="always")
    ZooTokenizer(backend, load_tokenizer(folder).roles).save(folder)
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.jsonl", [{"words": ["red", "a", "ed"], "tags": ["B-COL", "O", "B-MOOD"]}])
    prepared = PreparedTask(folder, TASK, tmp_path, SETTINGS)
    sequence, slots = prepared.evaluation.sequences, prepared.evaluation.slots
    pieces = [backend.id_to_token(int(one)) for one in sequence.ids]
    assert pieces == ["[CLS]", "▁r", "ed", "▁", "a", "▁", "ed", "[SEP]"]
    assert [pieces[slot] for slot in slots] == ["▁r", "a", "ed"]


def test_slots_are_where_their_words_stand(toy_folders, data: Path) -> None:
    prepared = PreparedTask(toy_folders["pooled"], TASK, data, replace(SETTINGS, max_length=7))
    rows, examples = prepared.evaluation, prepared.data.evaluation
    read = [[] for _ in range(len(examples))]
    for row, owner in enumerate(rows.owners):
        ids = rows.sequences.ids[rows.sequences.offsets[row] : rows.sequences.offsets[row + 1]]
        slots = rows.slots_of(np.array([row]))
        read[owner] += [WORDS[ids[slot]] for slot in slots[slots >= 0]]
    assert read == [examples.surfaces(number) for number in range(len(examples))]


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_tags_are_learned_by_any_core(name: str, toy_folders, data: Path, tmp_path: Path) -> None:
    result = finetune(toy_folders[name], TASK, data, 1, SETTINGS, tmp_path, progress=False)
    assert result.scores["entity_f1"] > 0.97
    assert result.majority == {"entity_f1": 0.0}
    assert result.train_loss[-1] < 0.1 < result.train_loss[0]
    assert (result.train_rows, result.eval_rows, result.classes_predicted) == (192, 48, 4)
    header, *lines = (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["id", "gold", "predicted"]
    assert [line.split("\t")[1].split() for line in lines] == [row["tags"] for row in toy_rows(48, 1)]


@pytest.mark.parametrize("name", ["pooled", "last", "spelt"])
def test_a_frozen_core_is_enough_for_a_tagger(name: str, toy_folders, data: Path, tmp_path: Path) -> None:
    features = FeatureSettings(2, hidden_size=16, dropout=0.1)
    settings = FinetuneSettings(lr=1e-2, epochs=24, use="features", features=features, max_length=12)
    result = finetune(toy_folders[name], TASK, data, 1, settings, tmp_path, progress=False)
    assert result.scores["entity_f1"] > 0.97
    again = replace(settings, features=replace(features, cache_mb=0))  # layers that are not kept
    assert finetune(
        toy_folders[name], TASK, data, 1, again, tmp_path / "again", progress=False
    ).scores == pytest.approx(result.scores, abs=0.02)


def test_parts_of_speech_are_learned(toy_folders, tmp_path: Path) -> None:
    for part in ("train", "dev"):
        rows = [
            {"words": row["words"], "tags": ["V" if w < "c" else "N" for w in row["words"]]} for row in toy_rows(64, 5)
        ]
        write(tmp_path / f"{part}.jsonl", rows)
    result = finetune(toy_folders["pooled"], SPEECH, tmp_path, 1, SETTINGS, tmp_path / "out", progress=False)
    assert result.scores == {"accuracy": 1.0}
    assert 0.5 <= result.majority["accuracy"] < 0.8


@pytest.mark.parametrize("count", [16, 5, 1])
def test_shares_of_a_batch_add_up_to_the_whole(toy_folders, data: Path, count: int) -> None:
    prepared = PreparedTask(toy_folders["pooled"], TASK, data, replace(SETTINGS, max_length=8))
    model = prepared.model(1).train()
    rows = np.arange(count) * 3

    check_shares(model, prepared, rows)


def test_a_row_scores_the_same_alone_and_padded(toy_folders, data: Path) -> None:
    prepared = PreparedTask(toy_folders["permuted"], TASK, data, SETTINGS)
    model, rows = prepared.model(1).eval(), np.arange(9)
    with torch.inference_mode():
        inputs, slots, _ = prepared.batch("evaluation", rows)
        together = model(inputs, slots)
        alone = [model(*prepared.batch("evaluation", rows[row : row + 1])[:2]) for row in rows]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=2e-6)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_by_place_and_by_surface() -> None:
    task = replace(SPANS, metrics=("entity_f1", "entity_precision", "entity_recall", "cluener_f1", "accuracy"))
    kind = open_kind(task)
    text = "ab ab cd"
    places = np.stack([np.arange(8), np.arange(1, 9)], axis=1)
    names = list(kind.tags(task))
    gold = ["B-COL", "I-COL", "O", "B-COL", "I-COL", "O", "B-MOOD", "I-MOOD"]
    rows = TaggedTexts(
        [text], [places], [np.array([names.index(tag) for tag in gold])], numbers=np.arange(1), skipped=0, source="x"
    )
    found = kind.scores(task, rows, [["B-COL", "I-COL", "O", "O", "O", "O", "O", "O"]])
    assert list(found) == list(task.metrics)
    assert found["entity_precision"] == 1.0
    assert found["entity_recall"] == pytest.approx(1 / 3)
    assert found["entity_f1"] == pytest.approx(0.5)
    assert found["cluener_f1"] == pytest.approx(0.5)  # of the colour 1, since "ab" is found; of the mood 0
    assert found["accuracy"] == pytest.approx(0.5)
    assert kind.floors(task, rows, rows)["majority"]["accuracy"] == pytest.approx(0.25)
    assert kind.distinct([gold]) == 5


# --- inside transformers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pooled", "last", "permuted"])
def test_a_kept_tagger_answers_inside_transformers(name: str, toy_folders, data: Path, tmp_path: Path) -> None:
    finetune(toy_folders[name], TASK, data, 1, replace(SETTINGS, epochs=3), tmp_path, progress=False, save_model=True)
    kept = tmp_path / "model"
    labels = ["O", "B-COL", "I-COL", "B-MOOD", "I-MOOD"]
    assert read_metadata(kept).heads["classifier"]["labels"] == labels
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(kept).eval(), AutoTokenizer.from_pretrained(kept)
    assert model.config.id2label == dict(enumerate(labels))
    prepared = PreparedTask(toy_folders[name], TASK, data, SETTINGS)
    ours = prepared.model(1)
    ours.core, _ = load_core(kept)
    load_head(kept, "classifier", ours.head)
    ours.eval()
    taggers = [pipeline("token-classification", str(kept), aggregation_strategy="none")]
    stock = None
    if name == "pooled":  # of the others no stock class says all facts together
        assert export_folder(kept, tmp_path / "stock")[0].endswith("BertForTokenClassification")
        stock = AutoModelForTokenClassification.from_pretrained(tmp_path / "stock").eval()
        assert (type(stock), stock.config.id2label) == (BertForTokenClassification, model.config.id2label)
        taggers.append(pipeline("token-classification", str(tmp_path / "stock"), aggregation_strategy="none"))
    gold = (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    for row in range(8):
        text = prepared.data.evaluation.texts[row]
        with torch.inference_mode():
            inputs, slots, _ = prepared.batch("evaluation", np.array([row]))
            scores, theirs = ours(inputs, slots), model(**tokenizer(text, return_tensors="pt")).logits[0]
        torch.testing.assert_close(theirs[slots[0]], scores, rtol=0, atol=2e-5)
        if stock is not None:
            with torch.inference_mode():
                of_stock = stock(**tokenizer(text, return_tensors="pt")).logits[0]
            torch.testing.assert_close(of_stock, theirs, rtol=0, atol=2e-5)
        starts = prepared.data.evaluation.words[row][:, 0].tolist()
        for tagger in taggers:
            found = {one["start"]: one["entity"] for one in tagger(text)}
            said = tagged_entities([found.get(start, "O") for start in starts])
            assert said == tagged_entities(gold[row].split("\t")[2].split())


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"words": ["a", "b"], "tags": ["O"]}, "'tags' has 1 tags, and there are 2 words"),
        ({"words": ["a"], "tags": ["B-CAL"]}, r"'B-CAL', whose type is none of task 'names'. Did you mean 'COL'"),
        ({"words": ["a"], "tags": ["M-COL"]}, "'M-COL' is no tag of"),
        ({"words": ["a"], "tags": ["COL"]}, "'COL' is no tag of"),
        ({"words": ["a"], "tags": [1]}, "'tags' holds 1; a list of tags is needed"),
        ({"words": ["a"], "tags": None}, "'tags' is null; a list of tags is needed"),
        ({"words": ["a"], "tags": [[0, 1, "COL"]]}, "a list of tags is needed"),
        ({"words": ["a", 1], "tags": ["O", "O"]}, "'words' is a list with 1; a list of words"),
        ({"words": 3, "tags": []}, "'words' is 3; a text is needed"),
        ({"words": "a b", "tags": ""}, "'tags' has 0 tags, and there are 2 words"),
        ({"words": "a b", "tags": "[[0, 1"}, "broken JSON"),
        ({"words": "a b", "tags": [[0, 9, "COL"]]}, r"\[0, 9, \"COL\"\] is no span of its text, which has 3"),
        ({"words": "a b", "tags": [[1, 1, "COL"]]}, "is no span of its text"),
        ({"words": "a b", "tags": [[0, 1]]}, r"holds \[0, 1\]; \[start, end, \"TYPE\"\] is needed"),
        ({"words": "a b", "tags": [[True, 1, "COL"]]}, "is needed"),
        ({"words": "a b", "tags": [[0, 1, "CAL"]]}, "'CAL', whose type is none of"),
        ({"words": "ab cd", "tags": [[0, 4, "COL"]]}, r"\[0, 4\] 'ab c' does not begin and end with a word"),
        ({"words": "a b", "tags": [[0, 3, "COL"], [2, 3, "MOOD"]]}, r"\[0, 3\] 'a b' and \[2, 3\] 'b' overlap"),
        ({"words": ["a"]}, "no field 'tags'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict, part: str) -> None:
    good = {"words": ["a"], "tags": ["O"]}
    path = write(tmp_path / "a.jsonl", [good, row])
    with pytest.raises(ZooError, match=part) as caught:
        read_file(TASK, path)
    assert str(caught.value).startswith(f"{path}, line 2")


def test_rows_without_any_word_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"no row of 'words' has a word \(1 rows\)"):
        read_file(TASK, write(tmp_path / "a.jsonl", [{"words": [], "tags": []}]))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"columns": ("a", "b")}, "names 2 columns; tagging reads one"),
        ({"labels": ()}, "at least one type of entity"),
        ({"labels": ("O", "B-COL")}, "has the label 'O', a tag"),
        ({"labels": ("B-COL",)}, "has the label 'B-COL', a tag"),
        ({"skip_labels": ("-",)}, "knows no skip_labels"),
        ({"metrics": ("f1",)}, "unknown metric 'f1'"),
        ({"kind": KindSpec(PATH, {"scheme": "bilou"})}, "scheme is 'bilou'; one of bio, bioes, none is needed"),
        ({"kind": KindSpec(PATH, {"unit": "tokens"})}, "unit is 'tokens'; one of words, characters is needed"),
        ({"kind": KindSpec(PATH, {"units": "words"})}, "unit"),
        ({"kind": SPEECH.kind, "metrics": ("entity_f1",)}, "entity_f1 is defined for entities"),
        ({"kind": SPEECH.kind, "labels": ("N",)}, "at least two tags"),
    ],
)
def test_tasks_that_cannot_work_are_refused(change: dict, part: str) -> None:
    with pytest.raises(ZooError, match=part):
        open_kind(replace(TASK, **change))


def test_predictions_repeat_and_differ_between_seeds(toy_folders, data: Path) -> None:
    prepared = PreparedTask(toy_folders["pooled"], TASK, data, SETTINGS)
    one, two, again = (predict(prepared.model(seed), prepared) for seed in (1, 2, 1))
    assert one == again != two
