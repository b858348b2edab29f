"""Reading the official layouts, the table of tasks, and rows to batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from places import SHARED
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from finetune.config import FinetuneConfig
from finetune.data.examples import LabelledTexts
from finetune.data.tasks import Task, read_task_file, shipped_tasks, tasks_named
from finetune.inputs.batches import collate_rows, evaluation_batches, training_batches
from finetune.inputs.encode import encode, template_tokens, tokenize, truncate
from finetune.kinds.base import open_kind
from finetune.kinds.load import find_files, from_dataset, load_task, load_test, read_file
from finetune.results.submission import check_test_rows
from zoo.errors import ZooError
from zoo.vocabulary import Template

# --- the table -------------------------------------------------------------------------------------------------


def test_select_expands_groups_and_keeps_order() -> None:
    assert [task.name for task in tasks_named("rte, cola")] == ["rte", "cola"]
    glue = "cola sst2 mrpc stsb qqp mnli mnli-mm ax qnli rte wnli"
    assert [task.name for task in tasks_named("glue")] == glue.split()
    assert next(task.name for task in tasks_named("sst2,glue")) == "sst2"


def test_user_task_file(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("name: mine\ncolumns: text\nlabels: [0, 1]\nmetrics: [macro_f1, accuracy]\n", encoding="utf-8")
    task = read_task_file(path)["mine"]
    assert task == Task(name="mine", columns=("text",), labels=("0", "1"), metrics=("macro_f1", "accuracy"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text('label\ttext\n1\t"quoted\n0\tplain\n', encoding="utf-8")
    found = load_task(task, tmp_path)
    assert found.train.texts == ['"quoted', "plain"]
    assert found.train.labels.tolist() == [1, 0]
    assert load_task(task, folder).digest() == found.digest()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: x\ncolumns: [a]\nlabels: [p, q]\nmetric: [f1]", "Did you mean 'metrics'"),
        ("name: x\ncolumns: [a]\nlabels: [p, q]\nmetrics: [acuracy]", "Did you mean 'accuracy'"),
        ("name: x\ncolumns: [a, b, c]\nlabels: [p, q]", "3 text columns"),
        ("name: x\ncolumns: [a]\nlabels: [p]", "at least two different labels"),
        ("name: x\ncolumns: [a]\nlabels: [yes, no]", "in quotes"),
        ("name: x\nlabels: [p, q]", "lacks columns"),
        ("name: x\ncolumns: [a]\nlabels: [p, q, r]\nmetrics: [f1]", "macro_f1 would work"),
        ("name: x\ncolumns: [a]\nlabels: [p, q]\nheader: false", "counted from 0"),
        ("name: x\ncolumns: [a]\nlabels: [p, q]\nfile_format: xml", "one of tsv, csv, jsonl, json, parquet, "),
        ("{name: x, columns: [a], labels: [p, q], eval_files: []}", "names no eval_files; a name is needed"),
        *(
            (f"{{name: x, columns: [a], labels: [p, q], {line}}}", f"my.yaml: {part}")
            for line, part in (
                ("epochs: many", "epochs of task 'x' is 'many'; a whole number is needed"),
                ("epochs: 1.5", "epochs of task 'x' is 1.5; a whole number is needed"),
                ("max_length: '64'", "max_length of task 'x' is '64'; a whole number is needed"),
                ("max_length: true", "max_length of task 'x' is True; a whole number is needed"),
                ("confidence: high", "confidence of task 'x' is 'high'; a number is needed"),
                ("header: maybe", "header of task 'x' is 'maybe'; true or false is needed"),
                ("train_files: [5]", r"train_files of task 'x' is \[5\]; one or a list, each text"),
                ("folders: 5", "folders of task 'x' is 5; one or a list, each text"),
                ("label_column: null", "label_column of task 'x' is None; text .* or a whole number is needed"),
                ("hub: 5", "hub of task 'x' is 5; text .* or null is needed"),
                ("skip_labels: [null]", "a label is None; text is needed"),
            )
        ),
        ("{name: 5, columns: [a], labels: [p, q]}", "name of task 5 is 5; text .* is needed"),
        (
            "{name: x, columns: [a], labels: [p, q], epochs: 0}",
            "'x'.epochs = 0; a whole number of at least 1 is needed",
        ),
        ("{name: x, columns: [a], labels: [p, q], confidence: .nan}", "'x'.confidence = nan; a number of at least 0"),
        ("- just text", "found str"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_in_a_task_file(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ZooError, match=part):
        open_kind(read_task_file(path)["x"])


def test_mistakes_in_names() -> None:
    with pytest.raises(ZooError, match="Did you mean 'cola'"):
        tasks_named("colla")
    with pytest.raises(ZooError, match="no task is named"):
        tasks_named(" ,")


# --- files -----------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, content: bytes | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_cola_has_no_header_and_quotes_are_letters(tmp_path: Path) -> None:
    path = write(tmp_path, "dev.tsv", 'gj04\t1\t\tHe said "go.\ngj04\t0\t*\tGo he.\u2028Still one line.\r\n')
    rows = read_file(shipped_tasks()["cola"], path)
    assert rows.texts == ['He said "go.', "Go he.\u2028Still one line."]
    assert rows.labels.tolist() == [1, 0]
    assert rows.numbers.tolist() == [0, 1]


def test_mrpc_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, "dev.tsv", b"\xef\xbb\xbfQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t2\t3\tx y\tz\n")
    rows = read_file(shipped_tasks()["mrpc"], path)
    assert (rows.texts, rows.pairs, rows.labels.tolist()) == (["x y"], ["z"], [1])


def test_ocnli_skips_rows_without_majority(tmp_path: Path) -> None:
    lines = [
        json.dumps({"sentence1": "一", "sentence2": "二", "label": label}) for label in ("neutral", "-", "entailment")
    ]
    rows = read_file(shipped_tasks()["ocnli"], write(tmp_path, "dev.json", "\n".join(lines) + "\n"))
    assert rows.labels.tolist() == [1, 0]
    assert rows.numbers.tolist() == [0, 2]  # row numbers of the source survive
    assert rows.skipped == 1


@pytest.mark.parametrize(
    ("task", "content", "part"),
    [
        ("cola", "gj04\t1\t\tfine\ngj04\t7\t\tbad label\n", r"line 2: unknown label '7'.*known: 0, 1"),
        ("cola", "gj04\t1\t\tfine\ngj04\t1\tshort\n", "line 2: 3 tab-separated columns where line 1 has 4"),
        ("cola", b"gj04\t1\t\tfine\ngj04\t1\t\t\xff\n", r"line 2: invalid UTF-8 at byte 9 .*xff"),
        ("cola", b"\x1f\x8b\x08\x00", "gunzip"),
        ("cola", "gj04\t1\t\t一二三四五六七八九十\n".encode("gb18030"), "Chinese text, `iconv -f GB18030"),
        ("tnews", '{"label": "100", "sentence": "一二三'.encode()[:-1], "last character is cut off"),
        ("cola", "gj04\t1\t\t\ngj04\t0\t\t \n", r"texts of column 3 are all empty \(2 rows\)"),
        ("cola", b"\x00\x01", "a zero byte"),
        ("cola", "", "is empty"),
        ("cola", "a\tb\n", "reads column 3, but line 1 has columns 0 to 1"),
        (
            "rte",
            "index\tsentense1\tsentence2\tlabel\n0\ta\tb\tentailment\n",
            "no column 'sentence1'. Did you mean 'sentense1'",
        ),
        ("rte", "index\tsentence1\tsentence2\tlabel\n", "no labelled row"),
        (
            "ocnli",
            '{"sentence1": "a", "sentence2": "b", "lable": "neutral"}',
            "line 1: no field 'label'; .* Did you mean 'lable'",
        ),
        ("ocnli", '{"sentence1": "a", "sentence2": "b", "label": "neutral"}\n{oops', "line 2: broken JSON"),
        (
            "tnews",
            '{"sentence": "x", "label": "100"}\n{"sentence": "x", "id": ' + "9" * 5000 + "}",
            "line 2: a number of",
        ),
        (
            "tnews",
            '{"sentence": "x", "label": "100", "tree": ' + "[" * 99_999 + "]" * 99_999 + "}",
            "line 1: .* too deep",
        ),
        ("tnews", '{"sentence": "x \\ud83d", "label": "100"}', "line 1: field 'sentence' holds half a surrogate pair"),
        ("tnews", "null", "line 1: a JSON object with .* found a JSON null"),
        ("ocnli", '["a"]', "item 1: a JSON object with .* was expected"),
        *(
            ("tnews", f'{{"sentence": "x", "label": "100"}}\n{{"sentence": {value}, "label": "100"}}', part)
            for value, part in (
                ('["a", "b"]', r"""line 2: 'sentence' is \["a", "b"\]; a text is needed"""),
                ("null", "line 2: 'sentence' is null; a text is needed"),
                ("5", "line 2: 'sentence' is 5; a text is needed"),
            )
        ),
        ("tnews", '{"sentence": "x", "label": ["100"]}', r"""the label 'label' is \["100"\]; one of .*: 100, 101"""),
        ("tnews", '{"sentence": "x", "label": true}', "line 1: the label 'label' is true"),
    ],
)
def test_bad_files_are_told_by_line(tmp_path: Path, task: str, content: bytes | str, part: str) -> None:
    path = write(tmp_path, "dev.json" if "clue" in shipped_tasks()[task].groups else "dev.tsv", content)
    with pytest.raises(ZooError, match=part) as caught:
        read_file(shipped_tasks()[task], path)
    assert str(path) in str(caught.value)


def test_json_labels_may_be_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "dev.json", '{"sentence": "x", "label": 101}\n')
    assert read_file(shipped_tasks()["tnews"], path).labels.tolist() == [1]


def test_training_rows_of_one_class_are_warned_of(tmp_path: Path) -> None:
    task = Task(name="mine", columns=("text",), labels=("a", "b"))
    write(tmp_path, "train.tsv", "text\tlabel\nx\tb\ny\tb\n")
    write(tmp_path, "dev.tsv", "text\tlabel\nx\ta\ny\tb\n")
    (found,) = open_kind(task).warnings(task, load_task(task, tmp_path))
    assert "train.tsv: all 2 rows that task 'mine' trains on have the label 'b'; no other" in found
    write(tmp_path, "train.tsv", "text\tlabel\nx\tb\ny\ta\n")
    assert open_kind(task).warnings(task, load_task(task, tmp_path)) == []


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="is not a folder"):
        find_files(shipped_tasks()["cola"], tmp_path / "nowhere")
    with pytest.raises(ZooError, match=r"no train\.\* with dev\.\* that is read \(\.tsv, \.csv, \.jsonl .*CoLA"):
        find_files(shipped_tasks()["cola"], tmp_path)
    write(tmp_path / "CoLA", "train.tsv", "x")
    with pytest.raises(ZooError, match=r"has .*train.tsv but no dev\.\* that is read \(\.tsv, \.csv"):
        find_files(shipped_tasks()["cola"], tmp_path)


def test_limit_is_a_fixed_sample_not_the_head() -> None:
    rows = LabelledTexts(
        [str(i) for i in range(1000)], None, np.arange(1000) % 2, numbers=np.arange(1000), skipped=0, source="x"
    )
    chosen = rows.limited(100)
    assert chosen.numbers.tolist() == rows.limited(100).numbers.tolist() == sorted(chosen.numbers.tolist())
    assert chosen.texts == [str(i) for i in chosen.numbers]
    assert chosen.numbers.max() > 800
    assert rows.limited(None) is rows


@pytest.mark.parametrize(
    ("name", "train", "dev", "skipped"),
    [
        ("cola", 8551, 1043, (0, 0)),
        ("sst2", 67349, 872, (0, 0)),
        ("mrpc", 3668, 408, (0, 0)),
        ("rte", 2490, 277, (0, 0)),
        ("qnli", 9999, 5463, (0, 0)),
        ("mnli", 9999, 9815, (0, 0)),
        ("ocnli", 9985, 2950, (15, 50)),
        ("afqmc", 34334, 4316, (0, 0)),
        ("tnews", 53360, 10000, (0, 0)),
        ("cluewsc2020", 1244, 304, (0, 0)),
        ("wic", 5428, 638, (0, 0)),
    ],
)
def test_official_files_have_the_documented_rows(name: str, train: int, dev: int, skipped: tuple[int, int]) -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    found = load_task(shipped_tasks()[name], SHARED)
    assert (len(found.train), len(found.evaluation)) == (train, dev)
    assert (found.train.skipped, found.evaluation.skipped) == skipped
    assert set(found.train.labels) == set(range(len(shipped_tasks()[name].labels)))
    assert not any("\t" in text or "\n" in text for text in found.evaluation.texts)


@pytest.mark.parametrize("name", ["afqmc", "cluener", "wic"])
def test_official_test_files_have_the_rows_that_a_site_takes(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    task = shipped_tasks()[name]
    found = load_test(task, SHARED)
    assert task.submit is not None
    assert (len(found), found.labelled) == (task.submit.rows, False)
    check_test_rows(task, found)


# --- the hub ---------------------------------------------------------------------------------------------------


def test_hub_rows_convert_by_label_name() -> None:
    import datasets

    names = ["unacceptable", "acceptable"]
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = datasets.Dataset.from_dict({"sentence": ["Good.", "Bad."], "label": [1, 0]}, features=features)
    found = from_dataset(shipped_tasks()["cola"], rows, "hub")
    assert (found.texts, found.labels.tolist()) == (["Good.", "Bad."], [1, 0])


def test_hub_order_of_labels_may_differ() -> None:
    import datasets

    names = ["neutral", "entailment", "contradiction"]  # another order than the task's row
    features = datasets.Features(
        {c: datasets.Value("string") for c in ("sentence1", "sentence2")} | {"label": datasets.ClassLabel(names=names)}
    )
    rows = datasets.Dataset.from_dict(
        {"sentence1": list("abcd"), "sentence2": list("efgh"), "label": [0, 1, 2, -1]}, features=features
    )
    found = from_dataset(shipped_tasks()["ocnli"], rows, "hub")
    assert [shipped_tasks()["ocnli"].labels[i] for i in found.labels] == names
    assert found.skipped == 1
    assert found.pairs == ["e", "f", "g"]


def test_hub_numbers_are_texts_and_nothing_is_not() -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"sentence": [2024, 7], "label": [0, 1]})
    assert from_dataset(shipped_tasks()["sst2"], rows, "hub").texts == ["2024", "7"]
    rows = datasets.Dataset.from_dict({"sentence": ["x", None], "label": [0, 1]})
    with pytest.raises(ZooError, match="hub, row 1: 'sentence' is null"):
        from_dataset(shipped_tasks()["sst2"], rows, "hub")


def test_hub_mistakes() -> None:
    import datasets

    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"sentence": ["x"], "label": [0]}, features=features)
    with pytest.raises(ZooError, match="are not those of task 'sst2'"):
        from_dataset(shipped_tasks()["sst2"], rows, "hub")
    with pytest.raises(ZooError, match=r"no column 'sentence1'. Did you mean 'sentence'"):
        from_dataset(shipped_tasks()["rte"], rows, "hub")
    test_split = datasets.Dataset.from_dict({"sentence": ["x"], "label": [-1]})
    with pytest.raises(ZooError, match="unknown label '-1'"):
        from_dataset(shipped_tasks()["sst2"], test_split, "hub")


def test_unreachable_hub_says_what_would_work(monkeypatch) -> None:
    import datasets

    def refuse(*_: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr("finetune.kinds.load.hub_answers", lambda: True)  # whether this machine reaches it
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ZooError, match=r"nyu-mll/glue/cola.*ConnectionError: no route\).*--data FOLDER"):
        load_task(shipped_tasks()["cola"], "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ZooError, match=r"nyu-mll/glue/cola.*cannot be reached.*--data FOLDER"):
        load_task(shipped_tasks()["cola"], "hub")


# --- rows to batches -------------------------------------------------------------------------------------------


def reference_truncation(a: int, b: int, budget: int) -> tuple[int, int]:
    while a + b > budget:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


def test_truncation_equals_popping_one_by_one() -> None:
    for budget in (2, 3, 7, 12):
        a, b = (grid.ravel() for grid in np.meshgrid(np.arange(20), np.arange(20)))
        found = np.stack(truncate(a, b, budget), axis=1)
        expected = [reference_truncation(int(x), int(y), budget) for x, y in zip(a, b)]
        assert found.tolist() == [list(pair) for pair in expected]


@pytest.fixture
def tokenizer() -> Tokenizer:
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghij"]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return made


def examples(texts: list[str], pairs: list[str] | None = None) -> LabelledTexts:
    count = len(texts)
    return LabelledTexts(texts, pairs, np.zeros(count, np.int64), numbers=np.arange(count), skipped=0, source="test")


def test_pairs_are_laid_out_and_typed(tokenizer: Tokenizer) -> None:
    words = template_tokens(Template(), pair=True)
    data = encode(examples(["a b", "c", ""], ["d", "e f g h i j", "a"]), words, tokenizer, 8)
    rows = [data.ids[s:e].tolist() for s, e in zip(data.offsets, data.offsets[1:])]
    assert rows == [[1, 4, 5, 2, 7, 2], [1, 6, 2, 8, 9, 10, 11, 2], [1, 2, 4, 2]]
    types = [data.types[s:e].tolist() for s, e in zip(data.offsets, data.offsets[1:])]
    assert types == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1]]
    assert data.truncated == 1


def test_templates_and_lengths_that_cannot_work(tokenizer: Tokenizer) -> None:
    with pytest.raises(ZooError, match=r"must name \$A and \$B"):
        template_tokens(Template(pair="[CLS] $A [SEP]"), pair=True)
    words = template_tokens(Template(), pair=True)
    with pytest.raises(ZooError, match="leaves no room"):
        encode(examples(["a"], ["b"]), words, tokenizer, 4)


def test_long_texts_are_cut_before_they_are_kept(tokenizer: Tokenizer) -> None:
    ids, lengths = tokenize(["a " * 5000, "b"], tokenizer, 10)
    assert (len(ids), lengths.tolist()) == (12, [11, 1])  # one over the limit, so that truncation is seen


def test_every_row_once_per_epoch_keyed_by_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, size=10_001)
    batches = training_batches(lengths, 32, seed=1, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(10_001))
    assert len(batches) == 313
    assert sorted(map(len, batches)) == [17] + [32] * 312  # only one batch is short
    again = training_batches(lengths, 32, seed=1, epoch=0)
    assert all((x == y).all() for x, y in zip(batches, again))
    for other in (training_batches(lengths, 32, seed=2, epoch=0), training_batches(lengths, 32, seed=1, epoch=1)):
        assert not np.array_equal(np.concatenate(batches), np.concatenate(other))


def test_length_groups_waste_little_and_keep_lengths_mixed_over_time() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, size=10_000)
    batches = training_batches(lengths, 32, seed=1, epoch=0)
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    assert lengths.sum() / padded > 0.95  # random batches: about 0.54
    means = np.array([lengths[rows].mean() for rows in batches])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.2  # not from short to long


def test_evaluation_covers_every_row() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, size=1001)
    batches = evaluation_batches(lengths, 64)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1001))


def test_collate_pads_and_hides_padding(tokenizer: Tokenizer) -> None:
    words = template_tokens(Template(), pair=False)
    data = encode(examples(["a b c", "d"]), words, tokenizer, 16)
    inputs = collate_rows(data, np.array([1, 0]), pad=9, causal=True, segments=True)
    assert inputs.input_ids.tolist() == [[1, 7, 2, 9, 9], [1, 4, 5, 6, 2]]
    assert inputs.attention_pattern.lengths is not None
    assert inputs.attention_pattern.lengths.tolist() == [3, 5]
    assert inputs.attention_pattern.causal
    assert inputs.dropout_keys is None
    alone = collate_rows(data, np.array([0]), 9, False, False, keys=(1, 2, np.array([0])))
    assert alone.attention_pattern.lengths is None  # nothing is padded, so the fastest kernel may be chosen
    assert alone.token_type_ids is None
    assert alone.dropout_keys is not None


# --- the command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model": ""}, "no model"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"warmup": 1.0}, "warmup = 1.0"),
        ({"jobs": 0}, "jobs = 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1"),
    ],
)
def test_settings_that_cannot_train(change: dict, part: str) -> None:
    with pytest.raises(ZooError, match=part):
        FinetuneConfig(**{"model": "run", **change})


def test_seeds_are_split_and_checked() -> None:
    assert FinetuneConfig(model="run", seeds="3, 1,3").seed_list == [3, 1]
    assert FinetuneConfig(model="run", seeds=7).seed_list == [7]
    for wrong in ("1,x", "", "-1"):
        with pytest.raises(ZooError, match="--seeds"):
            _ = FinetuneConfig(model="run", seeds=wrong).seed_list
