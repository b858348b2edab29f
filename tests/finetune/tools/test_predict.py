"""``zoo predict``: answers on the terminal and in files of every form, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from toys import PAIR, POOLED, SINGLE

from finetune.config import FinetuneSettings
from finetune.data.tasks import KindSpec, Task
from finetune.kinds.load import read_file
from finetune.tools.predict import answer_lines, predict_command, save_records
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from zoo import cli
from zoo.errors import ZooError

TOYS = {"pooled": POOLED}
SETTINGS = FinetuneSettings(lr=3e-3, limit=64, epochs=2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def mood(toy_folders, toy_data: Path, tmp_path_factory) -> Path:
    """A kept classifier of single texts."""
    place = tmp_path_factory.mktemp("mood")
    finetune(toy_folders["pooled"], SINGLE, toy_data, 1, SETTINGS, place, progress=False, save_model=True)
    return place / "model"


@pytest.fixture(scope="module")
def colour(toy_folders, toy_data: Path, tmp_path_factory) -> Path:
    """A kept classifier of pairs, whose training is no matter."""
    return untrained(toy_folders["pooled"], PAIR, toy_data, tmp_path_factory.mktemp("colour"))


def untrained(model: Path, task: Task, data: Path, place: Path) -> Path:
    prepared = PreparedTask(model, task, data, SETTINGS)
    prepared.save(prepared.model(1), place / "model")
    return place / "model"


def scored(model: Path) -> list[list[str]]:
    """What fine-tuning predicted, without the gold answers."""
    lines = (model.parent / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [[cell for n, cell in enumerate(line.split("\t")) if n != 1] for line in lines]


def texts(data: Path) -> list[str]:
    return read_file(SINGLE, data / "mood" / "dev.tsv").limited(SETTINGS.limit).texts


def write(path: Path, rows: list[str]) -> Path:
    """The same texts as any kind of file, with a gold column that means nothing."""
    records = [{"text": text, "label": "?"} for text in rows]
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif kind in ("jsonl", "json.gz"):
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    elif kind == "json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        mark = "," if kind == "csv" else "\t"
        lines = [f"{mark.join(row.values())}\n" for row in [{"a": "text", "b": "label"}, *records]]
        path.write_text("".join(lines), encoding="utf-8")
    return path


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "json", "json.gz", "parquet"])
def test_every_kind_of_input(kind: str, mood: Path, toy_data: Path, tmp_path: Path, capsys) -> None:
    source = write(tmp_path / f"in.{kind}", texts(toy_data))
    assert predict_command([str(mood), "--input", str(source), "--output", str(tmp_path / "out.tsv")]) == 0
    assert capsys.readouterr().out == f"64 answers written to {tmp_path / 'out.tsv'}\n"
    header, *lines = (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "id\tpredicted\tp(neg)\tp(pos)"
    for number, (line, wanted) in enumerate(zip(lines, scored(mood), strict=True)):
        own = line.split("\t")
        assert own[:2] == [str(number), wanted[1]]
        assert [float(cell) for cell in own[2:]] == pytest.approx([float(cell) for cell in wanted[2:]], abs=3e-6)


def test_every_kind_of_output_says_the_same(mood: Path, toy_data: Path, tmp_path: Path, capsys) -> None:
    source = write(tmp_path / "in.jsonl", texts(toy_data)[:5])
    for kind in ("tsv", "csv", "jsonl"):
        predict_command([str(mood), "--input", str(source), "--output", str(tmp_path / f"out.{kind}")])
    capsys.readouterr()
    predict_command([str(mood), "--input", str(source)])
    assert capsys.readouterr().out == (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    with (tmp_path / "out.csv").open(newline="") as stream:
        of_csv = [*csv.DictReader(stream)]
    with (tmp_path / "out.tsv").open(newline="") as stream:
        assert [*csv.DictReader(stream, delimiter="\t")] == of_csv
    assert [row["predicted"] for row in of_csv] == [record["predicted"] for record in records]
    assert [float(row["p(pos)"]) for row in of_csv] == [record["probabilities"]["pos"] for record in records]
    assert len(records) == 5
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_columns_of_other_names(colour: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "in.csv").write_text("left,right\nred,red\nred,blue\n")
    words = [str(colour), "--input", str(tmp_path / "in.csv")]
    predict_command([*words, "--columns", "left,right"])
    assert len(capsys.readouterr().out.splitlines()) == 2
    with pytest.raises(ZooError, match="no column 'a'"):
        predict_command(words)


def test_cells_of_a_table(tmp_path: Path) -> None:
    records = [
        {"id": "0", "predicted": ["O", "B-X"], "words": ["a", "b"], "entities": [{"type": "X", "text": "b, c"}]},
        {"id": "1", "predicted": [], "words": [], "entities": []},
        {"id": "2", "predicted": 'say "a"\n', "score": None, "probabilities": [0.25, 0.75]},
    ]
    save_records(tmp_path / "out.csv", records)
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = [*csv.DictReader(stream)]
    assert (rows[0]["predicted"], rows[0]["words"]) == ("O B-X", "a b")
    assert json.loads(rows[0]["entities"]) == records[0]["entities"]
    assert (rows[1]["words"], rows[1]["score"]) == ("", "")
    assert (rows[2]["predicted"], rows[2]["probabilities"]) == ('say "a"\n', "0.250000 0.750000")
    save_records(tmp_path / "out.tsv", records)
    assert (tmp_path / "out.tsv").read_text().splitlines()[3].split("\t")[1] == 'say "a"'
    save_records(tmp_path / "out.jsonl", records)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == records


# --- the terminal ----------------------------------------------------------------------------------------------------


def test_a_text_is_answered(mood: Path, capsys) -> None:
    assert predict_command([str(mood), "a good b"]) == 0
    first, second, *probabilities = capsys.readouterr().out.splitlines()
    shares = {line.split()[0]: float(line.split()[1]) for line in probabilities}
    assert (first, second) == (f"predicted: {max(shares, key=shares.get)}", "probabilities:")
    assert [*shares.values()] == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)


def test_a_pair_is_answered(colour: Path, capsys) -> None:
    assert cli.dispatch(["predict", str(colour), "red", "blue"]) == 0
    assert capsys.readouterr().out.startswith(("predicted: other\n", "predicted: same\n"))


def test_other_kinds_on_the_terminal(toy_folders, tmp_path: Path, capsys) -> None:
    row = {"text": "a red b", "tags": "O B-COL O", "question": "same", "answer": "red", "choices": ["a", "b"]}
    for part in ("train", "dev"):
        (tmp_path / f"{part}.jsonl").write_text(json.dumps({**row, "value": 2, "label": 1}) + "\n")
    base = Task(name="x", columns=("text",))
    tags = replace(base, label_column="tags", labels=("COL",), kind=KindSpec("finetune.kinds.Tagging"))
    spans = replace(base, columns=("question", "text"), label_column="answer")
    spans = replace(spans, kind=KindSpec("finetune.kinds.AnswerSpan"))
    choice, value = (replace(base, kind=KindSpec(f"finetune.kinds.{name}")) for name in ("Choice", "Regression"))
    found = {}
    for name, task, words in (
        ("tags", tags, ["a red b"]),
        ("spans", spans, ["same", "a red b"]),
        ("choice", choice, ["a", "red", "blue", "green"]),
        ("value", replace(value, label_column="value"), ["-a red"]),
    ):
        model = untrained(toy_folders["pooled"], task, tmp_path, tmp_path / name)
        assert predict_command([str(model), *words]) == 0
        found[name] = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in found["tags"][:3]] == ["a", "red", "b"]
    assert [line.partition(":")[0] for line in found["spans"]] == [
        "predicted",
        "best text",
        "start",
        "end",
        "score",
        "no answer score",
    ]
    assert found["choice"][1].removeprefix("text: ") == ["red", "blue", "green"][int(found["choice"][0][-1])]
    assert len(found["choice"]) == 6
    assert isinstance(float(found["value"][0].removeprefix("predicted: ")), float)


def test_lines_of_an_answer() -> None:
    tagged = {
        "id": "0",
        "predicted": ["B-PER", "O"],
        "words": ["Ann", "sleeps"],
        "entities": [{"type": "PER", "text": "Ann", "start": 0, "end": 3}],
    }
    assert answer_lines(tagged) == ["Ann     B-PER", "sleeps  O", "PER: Ann (0 to 3)"]
    assert answer_lines({"id": "0", "predicted": "", "score": None}) == ["predicted: (none)", "score: (none)"]


def test_what_is_cut_or_unknown_is_told(mood: Path, tmp_path: Path, capsys) -> None:
    long = " ".join("a" * 200)
    predict_command([str(mood), long])
    assert capsys.readouterr().err == "warning: the text is longer than the model's 128 tokens, and cut.\n"
    source = write(tmp_path / "in.jsonl", [long, "a", "never heard"])
    predict_command([str(mood), "--input", str(source), "--output", str(tmp_path / "out.csv")])
    assert "warning: 1 of 3 rows are longer than the model's 128 tokens, and cut." in capsys.readouterr().err
    predict_command([str(mood), "never heard of"])
    assert "100% of the tokens are unknown" in capsys.readouterr().err


# --- bad input -------------------------------------------------------------------------------------------------------

BAD_WORDS = [
    (["a", "b"], r"reads 1 text a row \(text\); 2 given"),
    ([], "answers texts, or the rows of --input FILE, and neither is given"),
    (["a", "--input", "IN"], "and both are given"),
    (["a", "--columns", "x"], "say how --input is read, and there is none"),
    (["a", "--output", "out.xlsx"], r"its extension says how it is written; .tsv, .csv, .jsonl would work"),
    (["a", "--output", "nowhere/out.csv"], "there is no folder nowhere"),
    (["a", "--output", "IN"], "exists already; name another file, or remove it first"),
    (["a", "--outptu", "x.csv"], "Did you mean 'output'"),
    (["--input", "nowhere.csv"], "nowhere.csv does not exist"),
    (["--input", "IN", "--columns", "txt"], r"no column 'txt'.*The header has: text, label"),
    (["--input", "IN", "--file_format", "squat"], "file_format = 'squat'"),
    (["--input", "."], "extension"),
]


@pytest.mark.parametrize(("words", "part"), BAD_WORDS)
def test_words_that_make_no_sense(words: list[str], part: str, mood: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "in.csv", ["a", "b"])
    with pytest.raises(ZooError, match=part):
        predict_command([str(mood), *(str(source) if word == "IN" else word for word in words)])
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


BAD_FILES = [
    ("in.csv", b"", "in.csv is empty"),
    ("in.csv", b"text\n", "the texts of 'text' are all empty|no row"),
    ("in.csv", b"said\na\n", "no column 'text'"),
    ("in.csv", b"text,label\na\n", "1 comma-separated columns where line 1 has 2"),
    ("in.tsv", b"\x00\x01\xff\xfe junk", "zero byte|UTF-8"),
    ("in.jsonl", b'{"text": 3}\n', "a text is needed"),
    ("in.jsonl", b'{"text": "a"\n', "line 1: broken JSON"),
    ("in.json", b"[1]", "a JSON object"),
    ("in.parquet", b"PAR1junk", "damaged or cut short"),
    ("in.parquet", b"", "is empty"),
    ("in.csv.gz", b"text\na\n", "is not gzip data"),
    ("in.txt", b"a\n", "no reader knows the extension"),
]


@pytest.mark.parametrize(("name", "content", "part"), BAD_FILES)
def test_files_that_cannot_be_read(name: str, content: bytes, part: str, mood: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ZooError, match=part):
        predict_command([str(mood), "--input", str(tmp_path / name), "--output", str(tmp_path / "out.csv")])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_refusal_is_one_line_and_exit_code_2(toy_folders, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["zoo", "predict", str(toy_folders["pooled"]), "a"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert "is not fine-tuned; its heads are: none" in error
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(ZooError, match="no model: give the folder of a fine-tuned one"):
        predict_command([])
