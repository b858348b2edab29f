"""Windows of passages: what they cover, where their slots are, what they learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers.pre_tokenizers import Whitespace
from toys import FIRST, LAST, MEMORY, PERMUTED, POOLED, SPELT, WORDS, make_model

from finetune.config import FinetuneSettings
from finetune.data.examples import TaskSplits
from finetune.data.questions import GoldAnswer, Questions
from finetune.data.tasks import KindSpec, Task
from finetune.inputs.passages import LONGEST_QUESTION, PassageRows, passage_windows
from finetune.training.prepared import PreparedTask
from pretraining.tokenizer.load import load_tokenizer
from zoo.errors import ZooError

TOYS = {"pooled": POOLED, "first": FIRST, "last": LAST, "memory": MEMORY, "permuted": PERMUTED, "spelt": SPELT}


def prepared(folder: Path, rows: list[tuple[str, str, str | None]], length: int = 16, stride: int = 4) -> PreparedTask:
    """Questions, passages, answers (``None`` = there is none), prepared for a model."""
    kind = KindSpec("finetune.kinds.AnswerSpan", {"unanswerable": True, "stride": stride})
    task = Task(name="qa", columns=("question", "passage"), kind=kind)
    count = len(rows)
    answers = [() if answer is None else (GoldAnswer(answer),) for *_, answer in rows]
    examples = Questions(
        [str(number) for number in range(count)],
        [question for question, *_ in rows],
        [passage for _, passage, _ in rows],
        answers,
        numbers=np.arange(count),
        skipped=0,
        source="test",
    )
    return PreparedTask(folder, task, TaskSplits(examples, examples), FinetuneSettings(max_length=length))


def windows_of(ready: PreparedTask) -> list[dict[str, object]]:
    """Each row in words: its tokens, those at its slots, what its slots stand for, and its answer's ends."""
    rows = ready.train
    assert isinstance(rows, PassageRows)
    ids, offsets = rows.sequences.ids, rows.sequences.offsets
    found = []
    for row, owner in enumerate(rows.owners):
        own = slice(rows.outputs[row], rows.outputs[row + 1])
        tokens = [ready.tokenizer.token(i) for i in ids[offsets[row] : offsets[row + 1]]]
        passage = ready.data.train.passages[owner]
        found.append(
            {
                "tokens": tokens,
                "read": [tokens[slot] for slot in rows.slots[own]],
                "text": [None if a < 0 else passage[a:b] for a, b in rows.characters[own]],
                "slots": rows.slots[own].tolist(),
                "ends": rows.ends[row].tolist(),
            }
        )
    return found


@pytest.mark.parametrize("stride", [0, 1, 4, 128])
def test_every_token_is_in_a_window_and_neighbours_share_the_stride(stride: int) -> None:
    tokens, space = np.array([0, 1, 9, 10, 11, 30, 31, 100]), np.array([10, 10, 10, 10, 10, 10, 1, 7])
    found = passage_windows(tokens, space, stride)
    for question, (count, room) in enumerate(zip(tokens, space, strict=True)):
        mine = found.owners == question
        begins, sizes = found.begins[mine], found.sizes[mine]
        assert begins[0] == 0
        assert begins[-1] + sizes[-1] == count
        assert (sizes <= room).all()
        assert (sizes[:-1] == room).all()
        shared = min(stride, room // 2)
        assert (begins[:-1] + sizes[:-1] - begins[1:] == shared).all()
        assert len(begins) == 1 or sizes[-1] > shared  # no window that says nothing new


@pytest.mark.parametrize("name", TOYS)
def test_slots_are_the_windows_tokens_and_one_for_no_answer(name: str, toy_folders) -> None:
    passage = "a b  c d e f g h red i j k l m n a b c"
    ready = prepared(toy_folders[name], [("same", passage, "red"), ("same a", "blue b", None)])
    seen = set()
    for window in windows_of(ready):
        texts, slots = window["text"], window["slots"]
        nothing = texts.index(None)
        assert slots == sorted(slots)
        assert nothing == (len(texts) - 1 if ready.metadata.template.pooling == "last" else 0)
        assert slots[nothing] == (len(window["tokens"]) - 1 if nothing else 0)
        words = [text for text in texts if text is not None]
        assert words == [word for place, word in enumerate(window["read"]) if place != nothing]
        assert len(window["tokens"]) <= 16
        first, last = window["ends"]
        if "red" in words:
            assert (texts[first], texts[last]) == ("red", "red")
        else:
            assert first == last == nothing
        seen.update(words)
    assert seen == {*passage.split(), "blue"}
    assert ready.train.truncated == 0


def test_an_answer_over_the_edge_of_a_window_is_learned_where_it_is_whole(toy_folders) -> None:
    """Room for 12 tokens of text, the question takes 1, neighbours share 4: windows of 0-11 and 7-15."""
    passage = "a b c d e f g h i j k l m n a"
    ready = prepared(toy_folders["pooled"], [("same", passage, "j k l")])
    one, two = windows_of(ready)
    assert one["text"][-1] == "l" or "l" not in one["text"]
    whole = [{*"jkl"} <= {text for text in window["text"] if text} for window in (one, two)]
    assert whole == [False, True] or whole == [True, True]
    for window, there in zip((one, two), whole, strict=True):
        first, last = window["ends"]
        texts = window["text"]
        assert (texts[first], texts[last]) == (("j", "l") if there else (None, None))


def test_nothing_is_learned_of_an_answer_that_is_nowhere(toy_folders) -> None:
    ready = prepared(toy_folders["pooled"], [("same", "a b", "red"), ("same", "a b", "a")])
    rows = ready.train
    assert rows.ends.tolist() == [[-1, -1], [1, 1]]
    assert ready.kind.count(rows, np.arange(2)) == 1
    assert ready.kind.count(rows, np.zeros(1, np.int64)) == 1  # a divisor


def test_a_long_question_is_cut_and_counted(toy_folders) -> None:
    long = " ".join("abcdefghij" * 8)
    ready = prepared(toy_folders["pooled"], [(long, "red b", "red"), ("same", "red b", "red")])
    one, _ = windows_of(ready)
    assert one["tokens"] == ["[CLS]", *"abcdef", "[SEP]", "red", "b", "[SEP]"]  # half of the room for 13 tokens
    assert ready.train.truncated == 1
    wide = prepared(toy_folders["pooled"], [(long, "red b", "red")], length=512)
    assert len(windows_of(wide)[0]["tokens"]) == LONGEST_QUESTION + 5
    with pytest.raises(ZooError, match="max_length = 4 leaves no room"):
        prepared(toy_folders["pooled"], [("a", "red", "red")], length=4).check()


def test_a_passage_of_which_no_token_is_left(tmp_path: Path) -> None:
    """The tokenizer drops its characters: there is only "no answer" to say."""
    folder = make_model(tmp_path, FIRST)
    tokenizer = load_tokenizer(folder)
    from tokenizers.normalizers import Replace

    tokenizer.backend.normalizer = Replace("x", "")
    tokenizer.backend.pre_tokenizer = Whitespace()
    tokenizer.save(folder)
    ready = prepared(folder, [("a", "xx", "xx"), ("a", "xx red", "red")])
    one, two = windows_of(ready)
    assert (one["text"], one["ends"]) == ([None], [-1, -1])
    assert two["text"][1:] == ["red"]


def test_places_are_those_of_the_text_before_a_segmenter(tmp_path: Path) -> None:
    pytest.importorskip("rjieba")
    passage = "今天天气 很好。"
    words = [*WORDS, "今天", "天气", "今天天气", "很", "好", "很好", "。"]
    toy = SPELT._replace(config=SPELT.config.replace(vocab_size=len(words)))
    folder = make_model(tmp_path, toy, words=words)
    tokenizer = load_tokenizer(folder)
    tokenizer.segmenter = "rjieba"
    tokenizer.save(folder)
    (window,) = windows_of(prepared(folder, [("天气", passage, "很好")]))
    texts = [text for text in window["text"] if text]
    assert "".join(texts) == passage.replace(" ", "")
    first, last = window["ends"]
    assert "".join(window["text"][first : last + 1]) == "很好"


def test_one_passage_of_many_questions_is_tokenised_once(toy_folders, monkeypatch) -> None:
    rows = [("a", "red b", "red"), ("b", "blue c", "blue"), ("c", "red b", "b")]
    ready = prepared(toy_folders["pooled"], rows)
    seen: list[list[str]] = []
    encoder = ready.encoder
    tokens = type(encoder).tokens
    monkeypatch.setattr(
        type(encoder), "tokens", lambda self, texts, where: seen.append(texts) or tokens(self, texts, where)
    )
    found = ready.kind.encode(ready.task, ready.data.train, replace(encoder))
    assert seen == [["a", "b", "c"], ["red b", "blue c"]]
    assert found.ends.tolist() == [[1, 1], [1, 1], [2, 2]]
