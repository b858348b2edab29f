"""Spans in fine-tuning: marks around them, entities at them, truncation, FewRel with spans, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from entity_toys import FUSION, WIDTH, make_table
from places import SHARED
from toys import LAST, MEMORY, PAIR, PERMUTED, POOLED, SPELT, Toy, make_data, make_model
from training import SAMPLE

from finetune.config import FinetuneSettings
from finetune.data.examples import LabelledTexts, TaskSplits
from finetune.data.fewrel import FewRelConfig, read_fewrel, split, write_task
from finetune.data.spans import MarkedSpan, respaced
from finetune.data.tasks import SpanMarkers, Task, read_task_file
from finetune.inputs.encode import encode, template_tokens, truncate, truncate_marked, window, with_word_spaces
from finetune.inputs.marks import Marked, place_spans
from finetune.kinds.load import load_task
from finetune.results.report import Result, notes, summary
from finetune.training.loop import predict
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from finetune.training.saved import open_saved
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.train import train_tokenizer
from zoo.core.characters import character_table
from zoo.errors import ZooError
from zoo.model_folder import load_head
from zoo.storage.entity_table import NAMES, open_entities, save_entities
from zoo.vocabulary import Template

FEWREL = SHARED / "ernie" / "fewrel"
LETTERS = list("abcdefghijklmn")
MARKED = Task(
    name="marked",
    columns=("text",),
    labels=("blue", "red"),
    marks=(SpanMarkers("head", "[HD]", "[HD]"), SpanMarkers("tail", "[TL]", "[TL]")),
    epochs=5,
)
LINKED = replace(MARKED, name="linked", marks=(), mentions=("head",), labels=("down", "up"))
KNOWING = POOLED._replace(config=POOLED.config.replace(fusion=FUSION))
SETTINGS = FinetuneSettings(lr=3e-3)


pytestmark = pytest.mark.usefixtures("one_thread")


def row(text: str, label: str, **fields: Any) -> dict[str, Any]:
    return {"text": text, "label": label, **fields}


def write(folder: Path, train: list[dict[str, Any]], dev: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("dev", dev or train)):
        (folder / f"{name}.json").write_text("".join(f"{json.dumps(one)}\n" for one in rows), encoding="utf-8")
    return folder


def coloured(count: int, seed: int) -> list[dict[str, Any]]:
    """Red and blue stand at the same places in every text; which of them is the head decides, and only marks tell."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(count):
        x, y, z = generator.choice(LETTERS, size=3)
        spans = {"red": [2, 5], "blue": [8, 12]}
        head, tail = ("red", "blue") if generator.random() < 0.5 else ("blue", "red")
        rows.append(row(f"{x} red {y} blue {z}", head, head=[spans[head]], tail=[spans[tail]]))
    return rows


def knowing(count: int, entities: range, seed: int) -> list[dict[str, Any]]:
    """The first value of the entity's vector decides; no word does, and no entity of training is scored."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(count):
        number = int(generator.choice(entities))
        text = " ".join(generator.choice(LETTERS, size=5))
        rows.append(row(text, LINKED.labels[number % 2], head=[[4, 5, f"Q{number}"], [6, 7, "unknown"]]))
    return rows


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """120 entities whose number's parity is the sign of their vectors' first value."""
    vectors = np.random.default_rng(0).standard_normal((120, WIDTH))
    vectors[:, 0] = np.where(np.arange(120) % 2, 3.0, -3.0)
    folder = tmp_path_factory.mktemp("table")
    save_entities(folder, [f"Q{i}" for i in range(120)], vectors)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("bert"), POOLED)


@pytest.fixture(scope="module")
def ernie(tmp_path_factory, table: Path) -> Path:
    """A core that reads entities, with its table."""
    folder = make_model(tmp_path_factory.mktemp("ernie"), KNOWING)
    save_entities(folder, open_entities(table).names, open_entities(table).vectors)
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("colours"), coloured(320, 0), coloured(96, 1))


@pytest.fixture(scope="module")
def knowledge(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("linked"), knowing(320, range(80), 0), knowing(96, range(80, 120), 1))


def one(model: Path, task: Task, rows: list[dict[str, Any]], folder: Path, **settings: Any) -> PreparedTask:
    return PreparedTask(model, task, write(folder, rows), FinetuneSettings(**settings))


def tokens_of(prepared: PreparedTask) -> str:
    return " ".join(prepared.tokenizer.token(index) for index in prepared.train.sequences.ids)


# ---- what is learned ------------------------------------------------------------------------------------------------


def test_marks_tell_which_of_two_words_is_meant(bert: Path, colours: Path, tmp_path: Path) -> None:
    result = finetune(bert, MARKED, colours, 1, SETTINGS, tmp_path / "marked", progress=False)
    assert result.scores["accuracy"] > 0.95
    assert (result.marks_cut, result.mentions) == (0, None)
    plain = replace(MARKED, marks=(), mentions=("head", "tail"))
    without = finetune(bert, plain, colours, 1, replace(SETTINGS, epochs=2), tmp_path / "plain", progress=False)
    assert without.scores["accuracy"] < 0.7


def test_vectors_tell_what_no_word_does(ernie: Path, knowledge: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(lr=3e-3, epochs=5)
    result = finetune(ernie, LINKED, knowledge, 1, settings, tmp_path / "with", progress=False, save_model=True)
    assert result.scores["accuracy"] > 0.95
    assert result.mentions == {"named": 832, "known": 416}
    without = replace(settings, entities="none")
    nothing = finetune(ernie, LINKED, knowledge, 1, without, tmp_path / "without", progress=False, save_model=True)
    assert nothing.scores["accuracy"] < 0.7
    assert nothing.mentions is None

    saved = tmp_path / "with" / "model"
    assert (saved / NAMES).read_bytes() == (ernie / NAMES).read_bytes()
    prepared = PreparedTask(saved, LINKED, knowledge, settings)
    model = prepared.model(9)
    load_head(saved, "classifier", model.heads["classifier"])
    lines = (tmp_path / "with" / "predictions.tsv").read_text().splitlines()[1:]
    told = np.array([[float(cell) for cell in line.split("\t")[3:]] for line in lines])
    assert np.abs(predict(model, prepared) - told).max() < 1e-6
    asked = open_saved(saved)
    examples = asked.read(knowledge / "dev.json")
    assert np.abs(np.asarray(asked.predict(examples).answers) - told).max() < 1e-6
    unknown = {**knowing(1, range(1), 0)[0], "head": [[0, 1, "never heard of"]]}
    mixed, alone = (write(tmp_path / str(len(rows)), rows) for rows in ([unknown, *knowing(1, range(1), 0)], [unknown]))
    beside, own = (asked.predict(asked.read(folder / "dev.json")) for folder in (mixed, alone))
    assert beside.warnings == []
    assert "none of the 1 entities that are named has a vector" in own.warnings[0]
    np.testing.assert_allclose(own.answers[0], beside.answers[0], atol=1e-6)
    plain = open_saved(tmp_path / "without" / "model")
    lines = (tmp_path / "without" / "predictions.tsv").read_text().splitlines()[1:]
    told = np.array([[float(cell) for cell in line.split("\t")[3:]] for line in lines])
    assert np.abs(np.asarray(plain.predict(plain.read(knowledge / "dev.json")).answers) - told).max() < 1e-6


def test_logits_of_a_saved_model_with_marks_and_entities_are_the_same_to_the_bit(
    ernie: Path, colours: Path, tmp_path: Path
) -> None:
    lines = (colours / "dev.json").read_text().splitlines()
    rows = [{**json.loads(line), "head": [[*json.loads(line)["head"][0], "Q3"]]} for line in lines]
    prepared = one(ernie, MARKED, rows, tmp_path / "data")
    model = prepared.model(1).eval()
    prepared.save(model, tmp_path / "saved")
    again = PreparedTask(tmp_path / "saved", MARKED, tmp_path / "data", FinetuneSettings())
    loaded = again.model(2)
    load_head(tmp_path / "saved", "classifier", loaded.heads["classifier"])
    assert np.array_equal(again.evaluation.sequences.ids, prepared.evaluation.sequences.ids)
    assert np.array_equal(predict(loaded, again), predict(model, prepared))


def test_a_table_of_an_unlinked_task_is_kept_with_the_saved_model(ernie: Path, colours: Path, tmp_path: Path) -> None:
    prepared = PreparedTask(ernie, MARKED, colours, SETTINGS)
    assert prepared.entities.table is None
    prepared.save(prepared.model(1), tmp_path / "model")
    assert open_entities(tmp_path / "model").names == open_entities(ernie).names


def test_a_result_with_other_vectors_is_another_result(
    ernie: Path, knowledge: Path, table: Path, tmp_path: Path
) -> None:
    settings = FinetuneSettings(epochs=1, limit=32)
    finetune(ernie, LINKED, knowledge, 1, settings, tmp_path / "out", progress=False)
    other = make_table(tmp_path / "other", 120)
    with pytest.raises(ZooError, match="differs in: entities"):
        finetune(ernie, LINKED, knowledge, 1, replace(settings, entities=str(other)), tmp_path / "out", progress=False)


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_new_marks_become_rows_and_known_ones_do_not(bert: Path, colours: Path) -> None:
    prepared = PreparedTask(bert, MARKED, colours, SETTINGS)
    known = prepared.stored_tokenizer.vocabulary.size
    ids = [prepared.tokenizer.backend.token_to_id(token) for token in ("[HD]", "[TL]")]
    assert ids == [known, known + 1]
    assert prepared.model(1).core.token_embedding.shape[0] == known + 2
    assert prepared.tokenizer.encode("[HD] red").ids[1] != known  # written in a text it is text
    same = replace(MARKED, marks=(SpanMarkers("head", "good", "good"), SpanMarkers("tail", "bad", "bad")))
    own = PreparedTask(bert, same, colours, SETTINGS)
    assert own.model(1).core.token_embedding.shape[0] == known


def test_tokens_stand_where_the_spans_are(bert: Path, tmp_path: Path) -> None:
    rows = [row("a red b blue c", "red", head=[[2, 5]], tail=[[8, 14]]), row("red", "red", head=[[0, 3]], tail=[])]
    with pytest.raises(ZooError, match=r"train.json, line 2: 'tail' has no span"):
        one(bert, MARKED, rows, tmp_path)
    prepared = one(bert, MARKED, rows[:1], tmp_path)
    assert tokens_of(prepared) == "[CLS] a [HD] red [HD] b [TL] blue c [TL] [SEP]"


def test_the_texts_own_tokens_stay_as_they_are_under_every_tokenizer() -> None:
    texts = (SAMPLE / "en" / "wikipedia.txt").read_text(encoding="utf-8").splitlines()[:80]
    texts = [text for text in texts if len(text.split()) > 6]
    generator = np.random.default_rng(0)
    for kind in ("wordpiece", "bytebpe", "unigram"):
        tokenizer = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=600), texts)
        spans = []
        for text in texts:
            words = text.split(" ")
            first = int(generator.integers(len(words) - 1))
            start = len(" ".join([*words[:first], ""]))
            stop = start + len(" ".join(words[first : first + 2]))
            spans.append((MarkedSpan(start, stop, "head", "E"),))
        (ids, _, sizes), places = tokenizer.encode_places(texts)
        made = place_spans((ids, sizes, places), spans, {"head": (9001, 9002)}, {"E": 4}, 0.0, [""] * len(texts))
        assert np.array_equal(made.ids[made.ids < 9000], ids)
        ends = np.cumsum(made.lengths)
        for number, (text, (span,)) in enumerate(zip(texts, spans, strict=True)):
            own = made.ids[ends[number] - made.lengths[number] : ends[number]].tolist()
            linked = made.entities[ends[number] - made.lengths[number] : ends[number]].tolist()
            first, last = own.index(9001), own.index(9002)
            assert (made.first[number], made.stop[number]) == (first, last + 1)
            assert [place for place, value in enumerate(linked) if value] == [first + 1]
            assert linked[first + 1] == 5
            inside = tokenizer.decode(own[first + 1 : last])
            wanted = tokenizer.decode(tokenizer.encode_places([text[span.start : span.stop]])[0][0])
            assert inside.replace(" ", "") == wanted.replace(" ", "")


def test_entities_that_are_read(ernie: Path, bert: Path, table: Path, tmp_path: Path) -> None:
    task = replace(MARKED, mentions=("found",), confidence=0.3)
    found = [[0, 1, "Q7", 0.2], [2, 5, "Q8", 0.9], [6, 7, "Q9", 0.4], [8, 12, "nobody", 1]]
    rows = [row("a red b blue c", "red", head=[[2, 5, "Q1"]], tail=[[8, 12]], found=found)]
    prepared = one(ernie, task, rows, tmp_path)
    assert tokens_of(prepared) == "[CLS] a [HD] red [HD] b [TL] blue [TL] c [SEP]"
    assert prepared.train.sequences.entities.tolist() == [0, 0, 0, 2, 0, 10, 0, 0, 0, 0, 0]  # marked fields come first
    assert prepared.entities.mentions == {"named": 8, "known": 6}
    inputs = prepared.batch("train", np.array([0, 0])).inputs
    assert inputs.entity_ids[1].tolist() == [0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0]
    vectors = open_entities(table).vectors
    assert torch.equal(inputs.entity_vectors, torch.from_numpy(np.stack([0 * vectors[0], vectors[1], vectors[9]])))
    surer = one(ernie, task, rows, tmp_path, confidence=0.5)
    assert surer.train.sequences.entities.tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    ignored = one(bert, task, rows, tmp_path)
    assert ignored.entities.table is None
    assert ignored.batch("train", np.array([0])).inputs.entity_ids is None


def test_a_core_that_spells_words_spells_marks(tmp_path: Path, colours: Path) -> None:
    folder = make_model(tmp_path / "spelt", SPELT)
    prepared = PreparedTask(folder, MARKED, colours, FinetuneSettings(limit=8, epochs=1))
    assert prepared.tokenizer.vocabulary.size == prepared.stored_tokenizer.vocabulary.size
    table = prepared.train.sequences.characters.table
    for mark in character_table(["[HD]", "[TL]"], table.shape[1]):
        assert (table == mark).all(dim=1).sum() == 1
    finetune(folder, MARKED, prepared, 1, SETTINGS, tmp_path / "out", progress=False)


def test_frozen_layers_read_marks_that_exist(bert: Path, ernie: Path, colours: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(use="features", limit=16, epochs=1)
    with pytest.raises(ZooError, match=r"\[HD\], \[TL\], no tokens of .* stays as it is"):
        _ = PreparedTask(bert, MARKED, colours, settings).train
    known = replace(MARKED, marks=(SpanMarkers("head", "good", "good"), SpanMarkers("tail", "bad", "bad")))
    prepared = PreparedTask(bert, known, colours, settings)
    assert finetune(bert, known, prepared, 1, settings, tmp_path / "a", progress=False).marks_cut == 0
    rows = knowing(8, range(80), 0)
    linked = one(ernie, LINKED, rows, tmp_path / "data", use="features", epochs=1)
    assert linked.batch("train", np.arange(4)).inputs.texts[0].inputs.entity_ids.any()


def test_pairs_have_spans_for_each_text(bert: Path, tmp_path: Path) -> None:
    task = replace(MARKED, columns=("text", "other"), marks=(SpanMarkers("head", "[E]", "[/E]"),))
    rows = [row("a red", "red", other="b blue c", head=[[[2, 5]], [[2, 6]]])]
    prepared = one(bert, task, rows, tmp_path)
    assert tokens_of(prepared) == "[CLS] a [E] red [/E] [SEP] b [E] blue [/E] c [SEP]"
    with pytest.raises(ZooError, match="SPANS OF THE SECOND"):
        one(bert, task, [{**rows[0], "head": [[2, 5]]}], tmp_path)


def test_a_segmenters_spaces_move_spans() -> None:
    old, new = "ab cd  efg", "a bc d ef g"
    spans = (MarkedSpan(1, 4, "x", "Q"), MarkedSpan(7, 10, "y"))
    moved = respaced(spans, old, new)
    assert [new[span.start : span.stop] for span in moved] == ["bc", "ef g"]
    text = "我爱 北京 天安门"
    examples = LabelledTexts(
        [text],
        None,
        np.zeros(1, np.int64),
        [((MarkedSpan(1, 5, "head"),),)],
        numbers=np.zeros(1, np.int64),
        skipped=0,
        source="x",
    )
    spaced = with_word_spaces(examples, "space")
    ((moved_span,),) = spaced.spans[0]
    assert spaced.texts[0][moved_span.start : moved_span.stop] == "爱 北京"


@pytest.mark.parametrize("toy", [LAST, MEMORY, PERMUTED], ids=["causal", "memory", "permuted"])
def test_marks_go_with_every_core(toy: Toy, colours: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", toy)
    settings = FinetuneSettings(limit=8, epochs=1)
    prepared = PreparedTask(folder, MARKED, colours, settings)
    assert tokens_of(prepared).count("[HD]") == 16
    finetune(folder, MARKED, prepared, 1, settings, tmp_path / "out", progress=False)


def test_fewer_rows_keep_their_own_spans(tmp_path: Path) -> None:
    rows = [row("ab" * 9, "red", head=[[i, i + 1]], tail=[[17, 18]]) for i in range(16)]
    few = load_task(MARKED, write(tmp_path, rows), limit=5).train
    assert [spans[0][0].start for spans in few.spans] == few.numbers.tolist()
    assert len(few.spans) == 5
    whole = load_task(MARKED, tmp_path)
    assert few.digest() != whole.train.digest() == whole.evaluation.digest()
    rows[3]["head"] = [[3, 5]]
    assert load_task(MARKED, write(tmp_path, rows)).train.digest() != whole.train.digest()


def test_the_report_tells_what_was_cut_and_linked() -> None:
    told = {"marks_cut": 2, "mentions": {"named": 8, "known": 6}}
    facts = {"train_rows": 10, "eval_rows": 5, "classes_predicted": 2, "truncated": 0.0, "steps": 1}
    result = Result("x", 1, {"accuracy": 0.5}, {"accuracy": 0.4}, **facts, train_loss=[], fingerprint={}, **told)
    lines = notes(summary([result]))
    assert "x: 6 of 8 mentions name an entity that has a vector (75%)." in lines
    assert "x: in 2 of 15 rows max_length leaves no room for all that is marked." in lines


# ---- truncation -----------------------------------------------------------------------------------------------------


def test_rows_lose_what_is_not_marked(bert: Path) -> None:
    """Against a direct search: the first window that holds all that is marked, or, where none does, its beginning."""
    generator, tokenizer = np.random.default_rng(0), PreparedTask(bert, PAIR, _no_pairs(), SETTINGS).tokenizer.backend
    lengths = generator.integers(1, 30, size=300)
    first = generator.integers(0, lengths)
    stop = generator.integers(first + 1, lengths + 1)
    ids = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    marked = Marked(ids, lengths, ids + 1, first, stop)
    spans = [((),)] * len(lengths)
    nothing = np.zeros(len(lengths), np.int64)
    examples = LabelledTexts([""] * len(lengths), None, nothing, spans, numbers=nothing, skipped=0, source="x")
    layout = template_tokens(Template(), pair=False)
    data = encode(examples, layout, tokenizer, 12, marker=lambda texts, own, where: marked)
    kept = np.minimum(lengths, 10)
    for number in range(len(lengths)):
        own = data.ids[data.offsets[number] : data.offsets[number + 1]][1:-1]
        starts = range(lengths[number] - kept[number] + 1)
        fitting = [s for s in starts if s <= first[number] and stop[number] <= s + kept[number]]
        start = fitting[0] if fitting else first[number]
        assert own.tolist() == list(range(start, start + kept[number])), number
        assert data.lost[number] == (not fitting)
        assert data.entities[data.offsets[number] + 1] == start + 1
    assert np.array_equal(data.cut, kept < lengths)
    assert 20 < data.marks_cut < 200


def both(lengths: tuple[int, int], first: tuple[int, int], stop: tuple[int, int], budget: int) -> tuple[int, int]:
    """Tokens popped one by one off the longer text, but not off one that has no more than its marks' stretch.

    Where both have no more than that, they give as texts without marks do.
    """
    a, b = lengths
    least = [stop[0] - first[0], stop[1] - first[1]]
    while sum(least) > budget:
        least[0 if least[0] > least[1] else 1] -= 1
    while a + b > budget:
        if b <= least[1] or (a > b and a > least[0]):
            a -= 1
        else:
            b -= 1
    return a, b


def test_pairs_lose_what_is_not_marked(bert: Path) -> None:
    """Against the popping of single tokens: what is marked in either text stays, if both together fit."""
    generator, tokenizer = np.random.default_rng(0), PreparedTask(bert, PAIR, _no_pairs(), SETTINGS).tokenizer.backend
    count, room, sides = 1500, 17, []
    for side in range(2):
        lengths = generator.integers(1, 30, size=count)
        first = generator.integers(0, lengths)
        stop = generator.integers(first, lengths) + 1
        plain = generator.random(count) < 0.3
        lengths[0], first[0], stop[0], plain[0] = (17, 1, 16, False) if side == 0 else (17, 0, 0, True)
        ids = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
        sides.append(Marked(ids, lengths, ids + 1, np.where(plain, 0, first), np.where(plain, 0, stop)))
    nothing = np.zeros(count, np.int64)
    examples = LabelledTexts(
        ["a"] * count, ["b"] * count, nothing, [((), ())] * count, numbers=nothing, skipped=0, source="x"
    )
    layout = template_tokens(Template(), pair=True)
    parts = {"a": sides[0], "b": sides[1]}
    data = encode(examples, layout, tokenizer, room + 3, marker=lambda texts, own, where: parts[texts[0]])
    lost, saved, unmarked = 0, 0, 0
    for number in range(count):
        lengths, first, stop = (
            (int(getattr(sides[0], name)[number]), int(getattr(sides[1], name)[number]))
            for name in ("lengths", "first", "stop")
        )
        fits = sum(stop) - sum(first) <= room
        types = data.types[data.offsets[number] : data.offsets[number + 1]]
        kept = int((types == 0).sum()) - 2, int((types == 1).sum()) - 1
        assert kept == both(lengths, first, stop, room), number
        assert data.lost[number] == (not fits), number
        plain = [int(n) for n in np.concatenate(truncate(*(np.array([n]) for n in lengths), room))]
        if not sum(stop):
            assert list(kept) == plain
            unmarked += sum(lengths) > room
        saved += fits and any(p < s - f for p, s, f in zip(plain, stop, first, strict=True))
        lost += not fits
    assert (lost > 50, saved > 50, unmarked > 50) == (True, True, True)


def test_a_marked_text_takes_the_room_of_an_unmarked_one() -> None:
    """95 marked tokens of 110 and 110 unmarked ones: 95 and 30 of 125, where 63 and 62 would cut marks."""
    ids, size = np.zeros(110, np.int32), np.array([110])
    first, second = (Marked(ids, size, ids, np.array([a]), np.array([b])) for a, b in ((5, 100), (0, 0)))
    assert [int(n[0]) for n in truncate_marked(first, second, 125)] == [95, 30]
    assert [int(n[0]) for n in truncate_marked(second, first, 125)] == [30, 95]
    assert [int(n[0]) for n in truncate_marked(second, second, 125)] == [63, 62]
    assert window(first, np.array([95])).tolist() == [5]


def _no_pairs() -> TaskSplits:
    none = LabelledTexts(["a"], ["a"], np.zeros(1, np.int64), numbers=np.zeros(1, np.int64), skipped=0, source="x")
    return TaskSplits(none, none)


def test_rows_without_room_for_their_marks_are_counted(bert: Path, tmp_path: Path) -> None:
    text = "red " + "a b c d e f g " * 4 + "blue"
    end = len(text)
    rows = [
        row(text, "red", head=[[0, 3]], tail=[[end - 4, end]]),
        row(text, "red", head=[[end - 6, end - 5]], tail=[[end - 4, end]]),
    ]
    settings = FinetuneSettings(epochs=1, max_length=12)
    result = finetune(bert, MARKED, write(tmp_path, rows), 1, settings, tmp_path / "out", progress=False)
    assert (result.marks_cut, result.truncated) == (2, 1.0)  # the first row of either file


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ([[2, 50]], "no span of its text, which has 14 characters"),
        ([[-1, 5]], "no span of its text"),
        ([[5, 5]], "no span of its text"),
        ([[1, 2]], "white space only"),
        ([[2.0, 5]], "two whole numbers"),
        ([[True, 5]], "two whole numbers"),
        ([2, 5], r"holds 2; \[start, end\]"),
        ([[2, 5, "Q1", 0.5, 1]], r"\[start, end, name, confidence\]"),
        ([[2, 5, 42]], "names its entity by 42"),
        ([[2, 5, "Q1", "high"]], "confidence 'high'"),
        ([[2, 5, "Q1", float("nan")]], "confidence nan"),
        ([[2, 5, "Q1", -0.5]], "a number from 0 on"),
        ("red", "a list"),
        ([], "has no span"),
        ([[7, 10]], r"'head' \[7, 10\] ' bl' and 'tail' \[8, 12\] 'blue' overlap"),
    ],
)
def test_spans_that_cannot_be(head: Any, message: str, tmp_path: Path) -> None:
    rows = [row("red", "red", head=[[0, 1]], tail=[[1, 2]]), row("a red b blue c", "red", head=head, tail=[[8, 12]])]
    with pytest.raises(ZooError, match=rf"train.json, line 2.*{message}"):
        load_task(MARKED, write(tmp_path, rows))


def test_rows_without_spans_are_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="reads the spans head, tail, and its rows have none"):
        PreparedTask(bert, MARKED, _no_pairs(), SETTINGS)
    long = row("a " * 70_000, "red", head=[[0, 1]], tail=[[2, 3]])
    with pytest.raises(ZooError, match=r"train\.json, line 1: a text of 140,000 characters"):
        _ = one(bert, MARKED, [long], tmp_path).train


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no field 'tail'"):
        load_task(MARKED, write(tmp_path, [row("red", "red", head=[[0, 1]])]))


def test_a_span_that_the_tokenizer_drops_is_told_before_training(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=300), ["a red b blue c"] * 5)
    places = tokenizer.encode_places(["a \x00\u200e b"])
    flat = (places[0][0], places[0][2], places[1])
    with pytest.raises(ZooError, match=r"line 1: of 'head' \[2, 3\] the tokenizer leaves no token"):
        place_spans(flat, [(MarkedSpan(2, 3, "head"),)], {"head": (1, 1)}, {}, 0.0, ["x.json, line 1"])


def test_tables_that_do_not_fit(ernie: Path, bert: Path, knowledge: Path, table: Path, tmp_path: Path) -> None:
    bare = make_model(tmp_path / "bare", KNOWING)
    with pytest.raises(ZooError, match=r"has no entities.txt .* --entities FOLDER"):
        PreparedTask(bare, LINKED, knowledge, SETTINGS)
    assert PreparedTask(bare, LINKED, knowledge, FinetuneSettings(entities=str(table))).entities.table is not None
    assert PreparedTask(bare, LINKED, knowledge, FinetuneSettings(entities="none")).entities.table is None
    narrow = make_table(tmp_path / "narrow", 120, width=8)
    with pytest.raises(ZooError, match=r"8 wide, the model in .* reads 12"):
        PreparedTask(ernie, LINKED, knowledge, FinetuneSettings(entities=str(narrow)))
    save_entities(tmp_path / "others", ["P1"], np.zeros((1, WIDTH)))
    with pytest.raises(ZooError, match=r"not one of the \d+ entities"):
        PreparedTask(ernie, LINKED, knowledge, FinetuneSettings(entities=str(tmp_path / "others")))
    with pytest.raises(ZooError, match="reads no entities"):
        PreparedTask(bert, LINKED, knowledge, FinetuneSettings(entities=str(table)))
    plain = make_data(tmp_path / "plain")
    with pytest.raises(ZooError, match="no row of task 'colour' names an entity"):
        PreparedTask(ernie, PAIR, plain, FinetuneSettings(entities=str(table)))
    assert PreparedTask(bare, PAIR, plain, SETTINGS).entities.table is None  # nothing is named, nothing is needed


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("marks: {head: [[HD], [HD]]}", "two tokens in quotes"),
        ('marks: {head: ["[HD]"]}', "two tokens in quotes"),
        ("marks: [head]", "a mapping from fields"),
        ('marks: {head: ["[H D]", "x"]}', "one token without spaces"),
        ('marks: {head: ["#", "#"]}\nmentions: [head]', "'head' of spans more than once"),
        ("mentions: found\nhub: someone/some", "the task names a hub dataset"),
    ],
)
def test_task_files_that_cannot_be(extra: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    base = "name: x\ncolumns: text\nlabels: [a, b]\n"
    path.write_text(base + extra)
    with pytest.raises(ZooError, match=message):
        read_task_file(path)


# ---- FewRel ---------------------------------------------------------------------------------------------------------


def fewrel(folder: Path) -> Path:
    """Six facts in FewRel's form; two share an entity, two a sentence; one has a token of white space."""

    def fact(tokens: str, head: tuple[str, list[int]], tail: tuple[str, list[int]]) -> dict[str, Any]:
        h, t = ([name.lower(), name, [places]] for name, places in (head, tail))
        return {"tokens": tokens.split("|"), "h": h, "t": t}

    rows = {
        "P26": [
            fact("Ann| |Lee|wed|Bo|.", ("Q1", [0, 1, 2]), ("Q2", [4])),
            fact("Cy|wed|Di", ("Q3", [0]), ("Q4", [2])),
            fact("Ed|wed|Fi", ("Q5", [0]), ("Q6", [2])),
        ],
        "P25": [
            fact("Bo|'s|mother|is|Gil", ("Q2", [0]), ("Q7", [4])),
            fact("Cy|wed|Di", ("Q8", [0]), ("Q9", [2])),
            fact("Hal|is|of|Ida", ("Q10", [0]), ("Q11", [3])),
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "val_wiki.json").write_text(json.dumps(rows))
    (folder / "pid2name.json").write_text(json.dumps({"P25": ["mother", ""], "P26": ["spouse", ""], "P1": ["x", ""]}))
    return folder


def test_fewrel_as_a_task(bert: Path, tmp_path: Path) -> None:
    source = fewrel(tmp_path / "source")
    assert write_task(FewRelConfig(str(source), str(tmp_path / "task"), dev=0.34)) == {"train": 4, "dev": 2}
    task = read_task_file(tmp_path / "task" / "tasks.yaml")["fewrel"]
    assert task.labels == ("mother", "spouse")
    assert task.marks == (SpanMarkers("head", "[HD]", "[HD]"), SpanMarkers("tail", "[TL]", "[TL]"))
    data = load_task(task, tmp_path / "task")
    ann = next(i for i, text in enumerate(data.train.texts) if text.startswith("Ann"))
    (head, tail), text = data.train.spans[ann][0], data.train.texts[ann]
    assert text == "Ann Lee wed Bo ."
    assert (text[head.start : head.stop], head.entity) == ("Ann Lee", "Q1")
    assert (text[tail.start : tail.stop], tail.entity) == ("Bo", "Q2")
    assert "Q1\tP26\tQ2\n" in (tmp_path / "task" / "train.triples.tsv").read_text()
    assert len(PreparedTask(bert, task, tmp_path / "task", SETTINGS).train) == 4


def test_fewrel_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"needs pid2name\.json"):
        read_fewrel(tmp_path)
    source = fewrel(tmp_path)
    (source / "val_wiki.json").write_text(json.dumps({"P26": [{"tokens": ["a"], "h": ["a", "Q1", [[3]]], "t": []}]}))
    with pytest.raises(ZooError, match="P26, sentence 0"):
        read_fewrel(source)
    with pytest.raises(ZooError, match="read by nobody"):
        FewRelConfig("a", "b", graph=0.2)
    with pytest.raises(ZooError, match="some to train on"):
        FewRelConfig("a", "b", split="fact", dev=0.5, graph=0.5)


@pytest.mark.skipif(not FEWREL.is_dir(), reason="needs shared/data/ernie/fewrel beside the repository")
def test_the_real_sentences_are_split_without_a_leak() -> None:
    facts, names = read_fewrel(FEWREL)
    assert (len(facts), len(names)) == (11_200, 16)
    for fact in facts:
        for mention in (fact.head, fact.tail):
            assert fact.sentence[mention.start : mention.stop].strip() == fact.sentence[mention.start : mention.stop]
    by_entity = split(facts, FewRelConfig("", "", split="entity"))
    sides = [{m.entity for fact in by_entity[part] for m in (fact.head, fact.tail)} for part in ("train", "dev")]
    assert not sides[0] & sides[1]
    assert len(by_entity["dev"]) > 2_500
    by_fact = split(facts, FewRelConfig("", "", split="fact", graph=0.3))
    assert {part: len(own) for part, own in by_fact.items()} == {"train": 4_640, "dev": 3_200, "graph": 3_360}
    for what in (lambda f: f.sentence, lambda f: frozenset((f.head.entity, f.tail.entity))):
        seen = [{what(fact) for fact in own} for own in by_fact.values()]
        assert not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2])
