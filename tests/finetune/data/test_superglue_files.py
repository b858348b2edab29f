"""WiC in both of its forms, and BoolQ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from places import SHARED

from finetune.data.spans import MarkedSpan
from finetune.data.tasks import shipped_tasks
from finetune.kinds.load import from_dataset, load_task, load_test, read_file
from zoo.errors import ZooError

TASKS = shipped_tasks()
WIC = {
    "word": "board",
    "sentence1": "Room and board.",
    "sentence2": "He nailed boards across the windows.",
    "start1": 9,
    "end1": 14,
    "start2": 10,
    "end2": 16,
    "idx": 0,
    "version": 1.1,
}
TARGET = ((MarkedSpan(9, 14, "target"),), (MarkedSpan(10, 16, "target"),))


def write(path: Path, content: str | list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(text, encoding="utf-8")
    return path


def test_wic_of_superglue_marks_the_word_in_both_sentences(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write(tmp_path / f"WiC/{name}.jsonl", [{**WIC, "label": False}, {**WIC, "label": True}])
    write(tmp_path / "WiC/test.jsonl", [WIC])
    found = load_task(TASKS["wic"], tmp_path)
    assert (found.train.labels.tolist(), found.train.spans) == ([0, 1], [TARGET, TARGET])
    test = load_test(TASKS["wic"], tmp_path)
    assert (test.spans, test.labelled) == ([TARGET], False)


def test_wics_own_release_gives_the_same_examples(tmp_path: Path) -> None:
    line = "board\tN\t2-2\tRoom and board .\tHe nailed boards across the windows .\n"
    for name in ("train", "dev"):
        write(tmp_path / f"wic/{name}/{name}.data.txt", line * 2)
        write(tmp_path / f"wic/{name}/{name}.gold.txt", "F\nT\n")
    write(tmp_path / "wic/test/test.data.txt", line)
    found = load_task(TASKS["wic"], tmp_path)
    assert (found.train.labels.tolist(), found.train.spans) == ([0, 1], [TARGET, TARGET])
    assert load_test(TASKS["wic"], tmp_path).spans == [TARGET]


def test_every_word_of_the_real_release_stands_where_its_number_says() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    found = load_test(TASKS["wic"], SHARED)
    lines = (SHARED / "wic/test/test.data.txt").read_text(encoding="utf-8").split("\n")
    assert len(found) == 1400
    for texts, spans, line in zip(zip(found.texts, found.pairs, strict=True), found.spans, lines, strict=False):
        words = [text[span[0].start : span[0].stop].lower() for text, span in zip(texts, spans, strict=True)]
        stem = line.split("\t")[0][:2].lower()
        assert sum(word.startswith(stem) for word in words) >= 1  # "be" is "was", but not in both


@pytest.mark.parametrize(
    ("line", "gold", "part"),
    [
        ("board\tN\t2-9\tRoom and board .\tBoards .", "F", "line 1: the word 9 is asked for, and the sentence has 2"),
        ("board\tN\t2\tRoom and board .\tBoards .", "F", "line 1: '2' does not name the two places of the word"),
        ("board\tN\t2-0\tRoom and board .", "F", "line 1: 4 columns; word, part of speech"),
        ("board\tN\t2-0\tRoom and board .\tBoards .", "F\nT", r"gold\.txt has 2 labels, and .*data\.txt 1 rows"),
        ("board\tN\t2-0\tRoom and board .\tBoards .", "X", "line 1: unknown label 'X'"),
    ],
)
def test_mistakes_in_wics_own_release(tmp_path: Path, line: str, gold: str, part: str) -> None:
    path = write(tmp_path / "dev.data.txt", line + "\n")
    write(tmp_path / "dev.gold.txt", gold + "\n")
    with pytest.raises(ZooError, match=part):
        read_file(TASKS["wic"], path)


def test_a_word_outside_of_its_sentence_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "val.jsonl", [{**WIC, "end1": 90, "label": True}])
    with pytest.raises(ZooError, match=r"val\.jsonl, line 1: .*\[9, 90\] is no span of its text"):
        read_file(TASKS["wic"], path)


def test_boolqs_labels_are_true_and_false_of_json(tmp_path: Path) -> None:
    row = {"question": "is it so", "passage": "It is so.", "idx": 0}
    for name in ("train", "val"):
        write(tmp_path / f"BoolQ/{name}.jsonl", [{**row, "label": True}, {**row, "label": False}])
    write(tmp_path / "BoolQ/test.jsonl", [row])
    found = load_task(TASKS["boolq"], tmp_path)
    assert (found.train.labels.tolist(), found.train.pairs) == ([1, 0], ["It is so."] * 2)
    assert load_test(TASKS["boolq"], tmp_path).texts == ["is it so"]


def test_the_hub_has_the_same_columns() -> None:
    import datasets

    features = {name: datasets.Value("int32") for name in ("start1", "end1", "start2", "end2", "idx")}
    features |= {name: datasets.Value("string") for name in ("word", "sentence1", "sentence2")}
    features["label"] = datasets.ClassLabel(names=["False", "True"])
    row = {name: value for name, value in WIC.items() if name != "version"}
    for labels, labelled in (([1, 0], True), ([-1, -1], False)):
        rows = datasets.Dataset.from_list(
            [{**row, "idx": number, "label": label} for number, label in enumerate(labels)],
            features=datasets.Features(features),
        )
        found = from_dataset(TASKS["wic"], rows, "hub", labelled)
        assert (found.spans, found.labelled) == ([TARGET, TARGET], labelled)
        assert found.labels.tolist() == ([1, 0] if labelled else [0, 0])
