"""GLUE, CLUE and SuperGLUE by one command each: official layouts in, files for the benchmarks' sites out."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT
from toys import POOLED, make_model
from training import finish
from warm import Warm

TEXTS = ["a good b", "red bad c", "blue d good", "e bad bad"]
MNLI = ["index", "promptID", "pairID", "genre", "s1b", "s2b", "s1p", "s2p", "sentence1", "sentence2"]
FIVE = [f"label{number}" for number in range(1, 6)]
STSB = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2"]
PAIR = {"sentence1": TEXTS, "sentence2": TEXTS[::-1]}
NLI = ["entailment", "neutral", "contradiction", "neutral"]


def table(path: Path, header: list[str], cells: dict[str, list[str]], rows: int = 4) -> None:
    """A TSV whose other columns hold what nobody reads."""
    lines = [header] if header[0] else []
    lines += [[cells[name][row] if name in cells else str(row) for name in header] for row in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_glue(folder: Path) -> None:
    """All tables of GLUE, four rows each."""
    binary, entailed = ["0", "1", "1", "0"], ["entailment", "not_entailment"] * 2
    for name in ("train", "dev"):
        table(folder / f"CoLA/{name}.tsv", ["", "label", "mark", "text"], {"label": binary, "text": TEXTS})
        table(folder / f"SST-2/{name}.tsv", ["sentence", "label"], {"sentence": TEXTS, "label": binary})
        header = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
        table(folder / f"MRPC/{name}.tsv", header, {"Quality": binary, "#1 String": TEXTS, "#2 String": TEXTS})
        score = {"score": ["0.000", "5.000", "3.800", "2.5"]}
        table(folder / f"STS-B/{name}.tsv", [*STSB, "score"], PAIR | score)
        header = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]
        cells = {"question1": TEXTS, "question2": TEXTS, "is_duplicate": binary}
        table(folder / f"QQP/{name}.tsv", header, cells)
        header, cells = ["index", "question", "sentence", "label"], {"question": TEXTS, "sentence": TEXTS}
        table(folder / f"QNLI/{name}.tsv", header, cells | {"label": entailed})
        header = ["index", "sentence1", "sentence2", "label"]
        table(folder / f"RTE/{name}.tsv", header, PAIR | {"label": entailed})
        table(folder / f"WNLI/{name}.tsv", header, PAIR | {"label": binary})
    table(folder / "MNLI/train.tsv", [*MNLI, "label1", "gold_label"], PAIR | {"gold_label": NLI})
    for kind in ("matched", "mismatched"):
        table(folder / f"MNLI/dev_{kind}.tsv", [*MNLI, *FIVE, "gold_label"], PAIR | {"gold_label": NLI})
        table(folder / f"MNLI/test_{kind}.tsv", MNLI, PAIR)
    for name in ("CoLA", "SST-2"):
        table(folder / f"{name}/test.tsv", ["index", "sentence"], {"sentence": TEXTS})
    header = ["index", "#1 ID", "#2 ID", "#1 String", "#2 String"]
    table(folder / "MRPC/test.tsv", header, {"#1 String": TEXTS, "#2 String": TEXTS})
    table(folder / "STS-B/test.tsv", STSB, PAIR)
    table(folder / "QQP/test.tsv", ["id", "question1", "question2"], {"question1": TEXTS, "question2": TEXTS})
    table(folder / "QNLI/test.tsv", ["index", "question", "sentence"], {"question": TEXTS, "sentence": TEXTS})
    for name in ("RTE/test", "WNLI/test", "diagnostic/diagnostic"):
        table(folder / f"{name}.tsv", ["index", "sentence1", "sentence2"], PAIR)


def passages(split: str) -> dict[str, Any]:
    """SQuAD's form, as CMRC2018 has it."""
    asked = [
        {"id": f"{split}_{row}_QUERY_0", "question": "red", "answers": [{"text": "good", "answer_start": at}]}
        for row, at in ((0, 2), (1, 2))
    ]
    return {"data": [{"paragraphs": [{"context": "a good b", "qas": asked}]}]}


def write_clue(folder: Path) -> None:
    """All files of CLUE 1.1, some rows each, and its diagnostic set."""
    pairs = [{"sentence1": one, "sentence2": two} for one, two in zip(*PAIR.values(), strict=True)]
    single = [{"sentence": text} for text in TEXTS]
    target = {"span1_text": "good", "span1_index": 2, "span2_text": "b", "span2_index": 7}
    wsc = [{"text": "a good b", "target": target}] * 4
    csl = [{"abst": text, "keyword": ["red", "green"]} for text in TEXTS]
    sets: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
        "afqmc": (pairs, ["0", "1", 0, 1]),
        "tnews": (single, ["100", "116", "104", 103]),
        "iflytek": (single, ["0", "118", "5", 7]),
        "ocnli": (pairs, [*NLI[:3], "-"]),
        "cluewsc2020": (wsc, ["true", "false"] * 2),
        "csl": (csl, ["0", "1", 0, 1]),
    }
    for name, (rows, labels) in sets.items():
        for split in ("train.50k" if name == "ocnli" else "train", "dev"):
            labelled = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
            lines(folder / f"{name}_public/{split}.json", labelled)
        lines(folder / f"{name}_public/test.json", [{**row, "id": number} for number, row in enumerate(rows)])
    diagnostics = [{"index": n, "premise": text, "hypothesis": "a"} for n, text in enumerate(TEXTS)]
    lines(folder / "clue_diagnostics_public/diagnostics_test.json", diagnostics)
    for split in ("train", "dev", "test"):
        lines(folder / f"cmrc2018_public/{split}.json", [passages(split.upper())])
    names = ["#idiom000001#", "#idiom000002#"]
    idioms = {"content": [f"a {names[0]} b", f"{names[1]} c"], "candidates": [*"abcdefghij"]}
    for split in ("train", "dev", "test1.1"):
        lines(folder / f"chid_public/{split}.json", [idioms])
        if split != "test1.1":
            lines(folder / f"chid_public/{split}_answer.json", [{names[0]: 3, names[1]: 0}])
        for half in ("d-", "m-") if split != "test1.1" else ("",):
            answer = {"id": 0} if split == "test1.1" else {"answer": "bad"}
            text = [["red a", "blue b"], [{"question": "good", "choice": ["good", "bad"], **answer}], "7"]
            path = folder / f"c3_public/{half}{split}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([text]), encoding="utf-8")


def write_superglue(folder: Path) -> None:
    """WiC and BoolQ."""
    places = {"start1": 2, "end1": 6, "start2": 7, "end2": 11, "version": 1.1}
    wic = [{"word": "good", "sentence1": TEXTS[0], "sentence2": TEXTS[2], **places, "idx": n} for n in range(4)]
    boolq = [{"question": "is a good", "passage": text, "idx": n} for n, text in enumerate(TEXTS)]
    for name, rows in (("WiC", wic), ("BoolQ", boolq)):
        for split in ("train", "val"):
            lines(folder / f"{name}/{split}.jsonl", [{**row, "label": row["idx"] % 2 == 0} for row in rows])
        lines(folder / f"{name}/test.jsonl", rows)


def of_any_length(path: Path) -> Path:
    """The shipped tasks, whose test files may have any number of rows here."""
    rows = [row for file in sorted((ROOT / "configs/tasks").glob("*.yaml")) for row in yaml.safe_load(file.read_text())]
    for row in rows:
        row.get("submit", {}).pop("rows", None)
    path.write_text(yaml.safe_dump(rows, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


GLUE = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX"]
CLUE = ["afqmc", "tnews11", "iflytek", "ocnli_50k", "cluewsc11", "csl", "cmrc2018", "chid11", "c311", "diagnostics"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "write", "names"),
    [
        ("glue", write_glue, [f"{name}.tsv" for name in GLUE]),
        ("clue", write_clue, [f"{name}_predict.json" for name in CLUE]),
        ("superglue", write_superglue, ["WiC.jsonl", "BoolQ.jsonl"]),
    ],
)
def test_one_command_runs_a_benchmark_and_makes_its_zip(
    group: str, write: Callable[[Path], None], names: list[str], tmp_path: Path, warm: Warm
) -> None:
    write(tmp_path / "data")
    words = ["--model", make_model(tmp_path / "model", POOLED), "--tasks", group, "--data", tmp_path / "data"]
    words += ["--task_file", of_any_length(tmp_path / "tasks.yaml"), "--output", tmp_path / "out", "--seeds", "1"]
    words += ["--epochs", "1", "--max_length", "64", "--threads", "1", "--predict", "test"]
    shown = finish(warm.start("finetune", *words))
    path = tmp_path / f"out/submission-{group}-seed-1.zip"
    assert f"for the benchmark's site: {path}" in shown
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == sorted(names)
        files = {name: archive.read(name).decode().splitlines() for name in names}
    if group == "glue":
        assert all(file[0] == "index\tprediction" and len(file) == 5 for file in files.values())
        assert all(0 <= float(line.split("\t")[1]) <= 5 for line in files["STS-B.tsv"][1:])
        assert {line.split("\t")[1] for line in files["AX.tsv"][1:]} <= set(NLI)
    elif group == "clue":
        assert len(files["ocnli_50k_predict.json"]) == 4
        assert set(json.loads(files["chid11_predict.json"][0])) == {"#idiom000001#", "#idiom000002#"}
        assert set(json.loads(files["cmrc2018_predict.json"][0])) == {"TEST_0_QUERY_0", "TEST_1_QUERY_0"}
        assert json.loads(files["c311_predict.json"][0])["label"] in (0, 1)
    scored = {row["task"] for row in json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))["rows"]}
    assert scored == scored_tasks(group)


def scored_tasks(group: str) -> set[str]:
    rows = [row for file in (ROOT / "configs/tasks").glob("*.yaml") for row in yaml.safe_load(file.read_text())]
    return {row["name"] for row in rows if group in row.get("groups", []) and row.get("eval_files") != []}
