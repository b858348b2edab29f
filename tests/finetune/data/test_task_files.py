"""Files of tasks, found by name and read by extension: TSV, CSV, JSON lines, JSON lists, Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from finetune.data.tables import EXTENSIONS
from finetune.data.tasks import SpanMarkers, Task
from finetune.kinds.load import find_files, load_task, read_file
from zoo.errors import ZooError

TASK = Task(name="mine", columns=("text", "other"), labels=("0", "1"))
ROWS = [
    {"id": 7, "text": "One, two.", "other": 'He said "go".', "label": 1},
    {"id": 8, "text": "\u4e00\u4e8c\u2028three", "other": "four", "label": 0},
    {"id": 9, "text": '"five', "other": "six", "label": 1},
]


def test_every_field_of_a_task_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "finetuning.md").read_text(encoding="utf-8")
    own = page[page.index("## A task of your own") : page.index("## Tagging")]
    rows = re.findall(r"^\| `(\w+)` \|", own, flags=re.M)
    assert sorted(rows) == sorted(field.name for field in fields(Task))


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as the extension says, by other libraries' writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1].lower()
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with (gzip.open if path.name.endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as stream:
        if kind == "csv":
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        elif kind == "tsv":
            stream.writelines("\t".join(map(str, row)) + "\n" for row in (rows[0], *(row.values() for row in rows)))
        elif kind == "json":
            json.dump(rows, stream, indent=2)
        else:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize("end", [*EXTENSIONS, ".tsv.gz", ".csv.gz", ".jsonl.gz", ".json.gz", ".CSV"])
def test_one_task_reads_the_same_rows_from_every_format(tmp_path: Path, end: str) -> None:
    write_rows(tmp_path / "mine" / f"train{end}", ROWS)
    write_rows(tmp_path / "mine" / f"dev{end}", ROWS[:2])
    write(tmp_path / "mine" / "train.triples.tsv", "x")  # another name, and no second training file
    found = load_task(TASK, tmp_path)
    assert found.train.texts == [row["text"] for row in ROWS]
    assert found.train.pairs == [row["other"] for row in ROWS]
    assert found.train.labels.tolist() == [1, 0, 1]
    assert found.train.numbers.tolist() == [0, 1, 2]
    assert len(found.evaluation) == 2
    assert found.train.source.endswith(f"train{end}")


def test_a_path_with_braces_is_told_as_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path / "{0}{x}" / "dev.jsonl", '{"text": "x", "other": "y", "label": 2}')
    with pytest.raises(ZooError) as caught:
        read_file(TASK, path)
    assert f"{path}, line 1: unknown label '2'" in str(caught.value)


def test_csv_has_quotes_lines_in_cells_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufefflabel,text,other\r\n1,"a ""b"",\r\nc",x\r\n,,\r\n\r\n0,d "e,"y"\r\n9,f,g\r\n'
    path = write(tmp_path / "dev.csv", text)
    with pytest.raises(ZooError, match=r"dev\.csv, line 7: unknown label '9'"):
        read_file(TASK, path)
    rows = read_file(replace(TASK, skip_labels=("9",)), path)
    assert (rows.texts, rows.pairs) == (['a "b",\nc', 'd "e'], ["x", "y"])
    assert (rows.labels.tolist(), rows.skipped) == ([1, 0], 1)


def test_csv_without_a_header_has_columns_by_number(tmp_path: Path) -> None:
    task = Task(name="mine", columns=(1,), label_column=0, header=False, labels=("0", "1"))
    assert read_file(task, write(tmp_path / "a.csv", '1,"x, y"\n0,z\n')).texts == ["x, y", "z"]
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(ZooError, match=r"columns by number, which only \.tsv and \.csv have"):
            read_file(task, write_rows(tmp_path / name, ROWS))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.csv", "text,other,lable\nx,y,0\n", r"no column 'label'\. Did you mean 'lable'\? The header has: text, ot"),
        ("a.csv", "text;other;label\nx;y;0\n", r"no column 'text'.* parted by ';': \.tsv parts columns by tabs"),
        ("a.csv", "text\tother\tlabel\nx\ty\t0\n", r"no column 'text'.* parted by '\\t'"),
        ("a.tsv", "text,other,label\nx,y,0\n", r"no column 'text'.* parted by ','"),
        ("a.csv", "text,other,text,label\nx,y,z,0\n", "2 columns are called 'text'"),
        ("a.tsv", "text\tother\ttext\tlabel\nx\ty\tz\t0\n", "2 columns are called 'text'"),
        (
            "a.csv",
            "text,other,label\nx,y,0\nx,0\n",
            "line 3: 2 comma-separated columns where line 1 has 3; found 'x,0",
        ),
        ("a.csv", "text,other,label\nx, z,y,0\n", "line 2: 4 comma-.* A cell with a comma stands between quotes"),
        ("a.csv", 'text,other,label\nx,y,0\n"x,y,0\nz,y,1\n', "line 3: the quotes of this row do not close.*at line 4"),
        ("a.csv", 'text,other,label\n"x" z,y,0\n', "line 2: the quotes of this row do not close.*doubled"),
        ("a.csv", 'text,other,label\n"x' + "y" * 200_000 + '",y,0\n', "line 2: the quotes .* field larger than"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.csv", "\n\n", r"a\.csv is empty"),
        ("a.csv", "text,other,label\n", "no labelled row"),
        ("a.csv", b"text,other,label\nx\0,y,0\n", "line 2: a zero byte"),
        ("a.csv", b"text,other,label\nx\xe9,y,0\n", "line 2: invalid UTF-8"),
        ("a.csv", b"\x1f\x8b\x08\x00", "gunzip"),
        ("a.csv", b"PK\x03\x04\x14\x00", "a zero byte"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.csv.gz", "text,other,label\nx,y,0\n", r"is not gzip data, as its name says.* Rename it to a\.csv"),
        ("a.json", '[{"text": "x", "other": "y", "label": 0}, {"text": "x"}]', "item 2: no field 'other'"),
        ("a.json", '[{"text": "x", "other": "y", "label": 0}, 5]', "item 2: a JSON object .* found a JSON number"),
        ("a.json", '[{"text": "\\ud83d", "other": "y", "label": 0}]', "item 1 holds half a surrogate pair"),
        ("a.json", '[{"text": "x"},\n{"text"}]', "broken JSON: .* line 2, column 8"),
        ("a.jsonl", '[{"text": "x", "other": "y", "label": 0}]', "line 1: a JSON object"),
        ("a.parquet", b"", r"a\.parquet is empty"),
        ("a.parquet", b"text,other,label", r"is not a Parquet file, as its name says \(it starts with b'text'"),
        ("a.parquet", b"PAR1" + b"\x01\xfe" * 500, "the Parquet data is damaged or cut short"),
        ("a.xlsx", b"PK\x03\x04", r"no reader knows the extension '\.xlsx'; readable are \.tsv, \.csv, \.jsonl"),
    ],
)
def test_broken_files_are_told_by_name_and_line(tmp_path: Path, name: str, content: bytes | str, part: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ZooError, match=part) as caught:
        read_file(TASK, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"label": 5}, "row 2: unknown label '5'"),
        ({"label": None}, "row 2: the label 'label' is null; one of these is needed: 0, 1"),
        ({"text": None}, "row 2: 'text' is null; a text is needed"),
        ({"text": b"\xff"}, "'text' is "),
    ],
)
def test_values_of_parquet_are_told_by_row(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    rows = [{**ROWS[0], **({"text": b"x"} if isinstance(change.get("text"), bytes) else {})}, {**ROWS[1], **change}]
    with pytest.raises(ZooError, match=part):
        read_file(TASK, write_rows(tmp_path / "a.parquet", rows))
    with pytest.raises(ZooError, match=r"no column 'text'\. Did you mean 'texts'"):
        read_file(TASK, write_rows(tmp_path / "b.parquet", [{"texts": "x", "other": "y", "label": 0}]))


def test_two_files_that_could_be_meant_are_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "train.tsv", "dev.csv"):
        write_rows(tmp_path / name, ROWS)
    with pytest.raises(ZooError, match=r"has train\.csv and train\.tsv; keep one, or name it in the task's"):
        find_files(TASK, tmp_path)
    named = replace(TASK, train_files=("train.tsv",))
    assert [path.name for path in find_files(named, tmp_path)] == ["train.tsv", "dev.csv"]
    first = replace(TASK, train_files=("train.50k", "train.csv"))
    write_rows(tmp_path / "train.50k.jsonl", ROWS)
    assert [path.name for path in find_files(first, tmp_path)] == ["train.50k.jsonl", "dev.csv"]


def test_spans_come_from_records_and_not_from_tables(tmp_path: Path) -> None:
    task = Task(name="mine", columns=("text",), labels=("0", "1"), marks=(SpanMarkers("head", "[HD]", "[HD]"),))
    rows = [{"text": "Ann wed.", "label": 0, "head": [[0, 3]]}]
    read = [read_file(task, write_rows(tmp_path / f"a.{end}", rows)).spans for end in ("jsonl", "json", "parquet")]
    assert read[0] is not None
    assert read == [read[0]] * 3
    with pytest.raises(ZooError, match=r"a\.csv: marks and mentions of task 'mine' are read from \.jsonl"):
        read_file(task, write_rows(tmp_path / "a.csv", rows))


def test_a_format_that_is_said_holds_for_any_name(tmp_path: Path) -> None:
    task = Task(name="x", columns=("text",), labels=("a", "b"), train_files=("train.txt",), file_format="json")
    for name in ("train.txt", "dev"):
        write(tmp_path / name, '{"text": "the town", "label": "a"}\n')
    train, evaluation = find_files(task, tmp_path)
    assert [path.name for path in (train, evaluation)] == ["train.txt", "dev"]
    assert read_file(task, train).texts == read_file(task, evaluation).texts == ["the town"]
    with pytest.raises(ZooError, match="no reader knows the extension"):
        read_file(replace(task, file_format=None), train)
