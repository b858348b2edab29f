"""CLUE's files in their official layouts, with all that is odd about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.data.spans import MarkedSpan
from finetune.data.tasks import shipped_tasks
from finetune.kinds.load import from_dataset, load_evaluation, load_task, load_test, read_file
from zoo.errors import ZooError

TASKS = shipped_tasks()
TARGET = {"span1_text": "伤口", "span1_index": 3, "span2_text": "它们", "span2_index": 9}
WSC = {"target": TARGET, "idx": 258, "label": "false", "text": "裂开的伤口涂满尘,它们疼。"}


def write(path: Path, *rows: dict[str, Any], mark: bool = False) -> Path:
    """JSON lines as CLUE writes them: Chinese characters as they are, U+2028 among them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
    return path


def test_iflytek_has_119_classes_and_line_separators_in_texts(tmp_path: Path) -> None:
    folder = tmp_path / "iflytek_public"
    text = "一款软件\u2028支持\u0085下载"
    for name in ("train", "dev"):
        rows = [{"label": "118", "label_des": "其他", "sentence": text}, {"label": 0, "sentence": "打车"}]
        write(folder / f"{name}.json", *rows, mark=True)
    write(folder / "test.json", {"id": 0, "sentence": text})
    found = load_task(TASKS["iflytek"], tmp_path)
    assert (found.train.texts, found.train.labels.tolist()) == ([text, "打车"], [118, 0])
    assert len(TASKS["iflytek"].labels) == 119
    assert load_test(TASKS["iflytek"], tmp_path).texts == [text]
    write(folder / "dev.json", {"label": "119", "sentence": "x"})
    with pytest.raises(ZooError, match="line 1: unknown label '119' for task 'iflytek'"):
        load_task(TASKS["iflytek"], tmp_path)


def test_csls_keywords_are_joined_before_the_abstract(tmp_path: Path) -> None:
    row = {"id": 1, "abst": "为解决传统均匀FFT波束形成算法的问题。", "keyword": ["水声学", "FFT"], "label": "1"}
    path = write(tmp_path / "dev.json", row, {**row, "keyword": ["一"], "label": 0})
    found = read_file(TASKS["csl"], path)
    assert (found.texts, found.pairs) == (["水声学 FFT", "一"], [row["abst"]] * 2)
    assert found.labels.tolist() == [1, 0]
    for wrong in ([5], "水声学 FFT", None):
        path = write(tmp_path / "dev.json", {**row, "keyword": wrong})
        if isinstance(wrong, str):
            assert read_file(TASKS["csl"], path).texts == [wrong]
            continue
        with pytest.raises(ZooError, match=r"line 1: 'keyword' is .*; a text is needed"):
            read_file(TASKS["csl"], path)


def test_cluewsc_marks_the_noun_and_the_pronoun(tmp_path: Path) -> None:
    found = read_file(TASKS["cluewsc2020"], write(tmp_path / "dev.json", WSC, {**WSC, "label": "true"}))
    assert found.labels.tolist() == [0, 1]
    assert found.spans == [((MarkedSpan(3, 5, "noun"), MarkedSpan(9, 11, "pronoun")),)] * 2
    marks = [(mark.field, mark.before, mark.behind) for mark in TASKS["cluewsc2020"].marks]
    assert marks == [("noun", "_", "_"), ("pronoun", "[", "]")]
    test = {key: value for key, value in WSC.items() if key != "label"}
    for name in ("train", "dev"):
        write(tmp_path / "cluewsc2020_public" / f"{name}.json", WSC)
    write(tmp_path / "cluewsc2020_public/test.json", {**test, "id": 0})
    rows = load_test(TASKS["cluewsc2020"], tmp_path)
    assert (rows.texts, rows.labelled) == ([WSC["text"]], False)


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ({"span1_index": 4}, r"span1 '伤口' does not stand at character 4, where the text has '口涂'"),
        ({"span1_index": 40}, "span1 '伤口' does not stand at character 40"),
        ({"span2_index": -3}, "span2 '它们' does not stand at character -3"),
        ({"span2_index": "9"}, "span2_index '9'; a text and the number of its first character are needed"),
        ({"span2_text": "伤口涂", "span2_index": 3}, "overlap; marks need spans apart"),
        ({"span2_text": None}, "span2_text is None"),
    ],
)
def test_spans_that_cluewsc_cannot_mean(tmp_path: Path, target: dict[str, Any], part: str) -> None:
    with pytest.raises(ZooError, match=rf"dev\.json, line 2: .*{part}"):
        read_file(TASKS["cluewsc2020"], write(tmp_path / "dev.json", WSC, {**WSC, "target": {**TARGET, **target}}))


def test_a_file_of_another_layout_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.json", {"text": "x", "label": "true"})
    with pytest.raises(ZooError, match="line 1: no field 'target'; there are 'text', 'label'"):
        read_file(TASKS["cluewsc2020"], path)
    path = write(tmp_path / "dev.json", {**WSC, "target": {"span1_text": "伤口"}})
    with pytest.raises(ZooError, match="line 1: 'target': no field 'span1_index'"):
        read_file(TASKS["cluewsc2020"], path)


def test_diagnostics_have_other_keys_than_ocnli_and_no_labels_that_are_needed(tmp_path: Path) -> None:
    row = {"index": 0, "premise": "他走了。", "hypothesis": "他没走。"}
    write(tmp_path / "clue_diagnostics_public/diagnostics_test.json", row)
    found = load_test(TASKS["diagnostics"], tmp_path)
    assert (found.texts, found.pairs, found.labelled) == (["他走了。"], ["他没走。"], False)
    assert load_evaluation(TASKS["diagnostics"], tmp_path) is None
    assert TASKS["diagnostics"].labels == TASKS["ocnli"].labels
    with pytest.raises(ZooError, match="the model of task 'ocnli' answers its rows"):
        load_task(TASKS["diagnostics"], tmp_path)


def test_cmnli_drops_rows_without_majority(tmp_path: Path) -> None:
    rows = [{"sentence1": "一", "sentence2": "二", "label": label} for label in ("neutral", "-", "contradiction")]
    found = read_file(TASKS["cmnli"], write(tmp_path / "dev.json", *rows))
    assert (found.labels.tolist(), found.skipped) == ([1, 2], 1)


def test_the_hub_has_clues_structs_and_lists() -> None:
    import datasets

    value = datasets.Value
    target = {"span1_text": value("string"), "span1_index": value("int32")}
    target |= {"span2_text": value("string"), "span2_index": value("int32")}
    features = {"idx": value("int32"), "text": value("string"), "target": target}
    features["label"] = datasets.ClassLabel(names=["true", "false"])  # true is 0 there
    rows = [{**WSC, "idx": 0, "label": 0}, {**WSC, "idx": 1, "label": 1}]
    found = from_dataset(
        TASKS["cluewsc2020"], datasets.Dataset.from_list(rows, features=datasets.Features(features)), "hub"
    )
    assert [TASKS["cluewsc2020"].labels[label] for label in found.labels] == ["true", "false"]
    assert found.spans[1] == ((MarkedSpan(3, 5, "noun"), MarkedSpan(9, 11, "pronoun")),)
    rows = [{**row, "label": -1} for row in rows]
    test = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    assert from_dataset(TASKS["cluewsc2020"], test, "hub", labelled=False).labelled is False
    cells = {"corpus_id": [1], "abst": ["摘要"], "label": ["1"], "keyword": [["一", "二"]]}
    assert from_dataset(TASKS["csl"], datasets.Dataset.from_dict(cells), "hub").texts == ["一 二"]
    cells = {"sentence1": ["一"], "sentence2": ["二"], "idx": [0], "label": [-1]}
    assert from_dataset(TASKS["diagnostics"], datasets.Dataset.from_dict(cells), "hub", labelled=False).pairs == ["二"]
