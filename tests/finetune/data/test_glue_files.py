"""GLUE's files in their official layouts, with all that is odd about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.tasks import shipped_tasks
from finetune.kinds.base import open_kind
from finetune.kinds.load import load_evaluation, load_task, load_test, read_file
from zoo.errors import ZooError

TASKS = shipped_tasks()
MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2"
)
STSB_HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"


def write(path: Path, *lines: str, mark: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + ("\n".join(lines) + "\n").encode())
    return path


def mnli_row(number: int, first: str, second: str, *labels: str) -> str:
    return "\t".join([str(number), "31193", "31193n", "government", *["( x )"] * 4, first, second, *labels])


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.licence or task.groups])
def test_every_shipped_task_can_be_opened(name: str) -> None:
    kind = open_kind(TASKS[name])
    assert set(TASKS[name].metrics) <= set(kind.METRICS)


def test_colas_test_file_has_a_header_where_the_others_have_none(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path / "CoLA" / name, 'gj04\t1\t\t"Odd, he said.', "gj04\t0\t*\tOdd he.")
    write(tmp_path / "CoLA/test.tsv", "index\tsentence", '0\tHe said "go.', "1\tBill whistled.")
    assert load_task(TASKS["cola"], tmp_path).train.texts == ['"Odd, he said.', "Odd he."]
    test = load_test(TASKS["cola"], tmp_path)
    assert (test.texts, test.labelled, test.numbers.tolist()) == (['He said "go.', "Bill whistled."], False, [0, 1])


def test_a_row_that_is_named_twice_in_a_test_file_is_told(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path / name, "sentence\tlabel", "Good.\t1", "Bad.\t0")
    write(tmp_path / "test.tsv", "index\tsentence", "0\tFine.", "0\tFiner.")
    with pytest.raises(ZooError, match=r"test\.tsv, line 3: 'index' is \"0\", as in .*test\.tsv, line 2"):
        load_test(TASKS["sst2"], tmp_path)


def test_mrpc_has_two_origins_of_the_same_rows(tmp_path: Path) -> None:
    rows = ['1\t1\t2\t"Open quote\tSecond.', "0\t3\t4\tThird.\tFourth.", "1\t5\t6\tFifth.\tSixth."]
    write(tmp_path / "glue/MRPC/train.tsv", MRPC_HEADER, rows[0], rows[2], mark=True)
    write(tmp_path / "glue/MRPC/dev.tsv", MRPC_HEADER, rows[1], mark=True)
    test = ["0\t7\t8\tSeventh.\tEighth.", "1\t9\t10\tNinth.\tTenth."]
    write(tmp_path / "glue/MRPC/test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", *test, mark=True)
    own = tmp_path / "own/MRPC"
    write(own / "msr_paraphrase_train.txt", MRPC_HEADER, *rows, mark=True)
    write(own / "msr_paraphrase_test.txt", MRPC_HEADER, *test, mark=True)
    write(own / "mrpc_dev_ids.tsv", "3\t4")
    one, two = (load_task(TASKS["mrpc"], tmp_path / place) for place in ("glue", "own"))
    assert one.digest() == two.digest()
    assert one.train.texts == ['"Open quote', "Fifth."]
    assert one.evaluation.pairs == ["Fourth."]
    three, four = (load_test(TASKS["mrpc"], tmp_path / place) for place in ("glue", "own"))
    assert (three.texts, three.pairs) == (four.texts, four.pairs) == (["Seventh.", "Ninth."], ["Eighth.", "Tenth."])
    assert (three.labelled, four.labelled, four.labels.tolist()) == (False, True, [0, 1])  # Microsoft's file has labels


def test_mistakes_in_mrpcs_own_files(tmp_path: Path) -> None:
    path = write(tmp_path / "msr_paraphrase_train.txt", MRPC_HEADER, "1\t1\t2\ta\tb")
    with pytest.raises(ZooError, match=r"mrpc_dev_ids\.tsv does not exist"):
        read_file(TASKS["mrpc"], path)
    write(tmp_path / "mrpc_dev_ids.tsv", "8\t9")
    with pytest.raises(ZooError, match=r"mrpc_dev_ids\.tsv lists 1 pairs .* lacks; the first is 8, 9"):
        read_file(TASKS["mrpc"], path)
    write(path, MRPC_HEADER, "1\t1\t2\ta")
    with pytest.raises(ZooError, match="line 2: 4 tab-separated columns where line 1 has 5"):
        read_file(TASKS["mrpc"], path)


def test_stsb_has_numbers_from_0_to_5(tmp_path: Path) -> None:
    start = "main-captions\tMSRvid\t2012test\t0001\tnone\tnone"
    header = f"{STSB_HEADER}\tscore"
    for name in ("train.tsv", "dev.tsv"):
        rows = (f'0\t{start}\tA "plane.\tAn air plane.\t5.000', f"1\t{start}\tA man.\tA dog.\t3.800")
        write(tmp_path / "STS-B" / name, header, *rows)
    write(tmp_path / "STS-B/test.tsv", STSB_HEADER, f"0\t{start}\tA cat.\tA cow.")
    found = load_task(TASKS["stsb"], tmp_path)
    assert (found.train.texts, found.train.labels.tolist()) == (['A "plane.', "A man."], [5.0, 3.8])
    test = load_test(TASKS["stsb"], tmp_path)
    assert (test.pairs, test.labelled) == (["A cow."], False)
    write(tmp_path / "STS-B/dev.tsv", header, f"0\t{start}\ta\tb\t5.2")
    with pytest.raises(ZooError, match=r"dev\.tsv, line 2: 'score' .* is \"5\.2\"; a number from 0 to 5 is needed"):
        load_task(TASKS["stsb"], tmp_path)


def test_qqps_broken_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    rows = [
        "0\t1\t2\tWhy?\tWhy so?\t1",
        "7\t8\t9\tHow",
        "is it?\tHow is this?\t0",
        "1\t3\t4\tA\tB\t",
        "2\t5\t6\tC\tD\t0",
    ]
    write(tmp_path / "QQP/train.tsv", header, *rows)
    write(tmp_path / "QQP/dev.tsv", header, rows[0])
    train = load_task(TASKS["qqp"], tmp_path).train
    assert (train.texts, train.labels.tolist(), train.numbers.tolist()) == (["Why?", "C"], [1, 0], [0, 4])
    assert (train.broken, train.skipped) == (2, 1)
    write(tmp_path / "QQP/test.tsv", "id\tquestion1\tquestion2", "0\tWho?", "1\tWhat?\tWhich?")
    with pytest.raises(ZooError, match=r"test\.tsv, line 2: 2 tab-separated columns where line 1 has 3"):
        load_test(TASKS["qqp"], tmp_path)
    write(tmp_path / "QQP/test.tsv", "id\tquestion1\tquestion2", "0\tWho?\tWhom?", "1\tWhat?\tWhich?")
    assert load_test(TASKS["qqp"], tmp_path).pairs == ["Whom?", "Which?"]


def test_mnlis_label_is_found_in_both_layouts_and_two_sets_share_a_model(tmp_path: Path) -> None:
    folder, dev = tmp_path / "glue_data/MNLI", [f"label{n}" for n in range(1, 6)]
    write(folder / "train.tsv", f"{MNLI_HEADER}\tlabel1\tgold_label", mnli_row(0, "a", "b", *["neutral"] * 2))
    five = ["neutral", *["contradiction"] * 4]
    for name, first in (("matched", "c"), ("mismatched", "e")):
        header = "\t".join([MNLI_HEADER, *dev, "gold_label"])
        rows = (mnli_row(0, first, "d", *five, "contradiction"), mnli_row(1, first, "d", *five, "-"))
        write(folder / f"dev_{name}.tsv", header, *rows)
        write(folder / f"test_{name}.tsv", MNLI_HEADER, mnli_row(0, f"test {first}", "f"))
    found = load_task(TASKS["mnli"], tmp_path / "glue_data")
    assert (found.train.labels.tolist(), found.evaluation.labels.tolist()) == ([1], [2])
    assert (found.evaluation.texts, found.evaluation.skipped) == (["c"], 1)
    other = load_evaluation(TASKS["mnli-mm"], tmp_path / "glue_data")
    assert other is not None
    assert (other.texts, other.labels.tolist()) == (["e"], [2])
    tests = [load_test(TASKS[name], tmp_path / "glue_data").texts for name in ("mnli", "mnli-mm")]
    assert tests == [["test c"], ["test e"]]


@pytest.mark.parametrize("name", ["diagnostic.tsv", "AX.tsv"])
def test_ax_has_test_rows_alone(tmp_path: Path, name: str) -> None:
    write(tmp_path / "diagnostic" / name, "index\tsentence1\tsentence2", "0\tThe cat sat.\tThe cat did not sit.")
    assert load_test(TASKS["ax"], tmp_path).pairs == ["The cat did not sit."]
    assert load_evaluation(TASKS["ax"], tmp_path) is None
    with pytest.raises(ZooError, match=r"'ax' has no training rows: the model of task 'mnli'.*--tasks mnli,ax"):
        load_task(TASKS["ax"], tmp_path)
    with pytest.raises(ZooError, match=r"task 'ax': no diagnostic\.\* or AX\.\* that is read"):
        load_test(TASKS["ax"], write(tmp_path / "elsewhere" / "notes.txt", "x").parent)


def test_wnli_is_read_as_its_files_are(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path / "WNLI" / name, "index\tsentence1\tsentence2\tlabel", "0\tI stuck a pin.\tThe pin is.\t1")
    write(tmp_path / "WNLI/test.tsv", "index\tsentence1\tsentence2", "0\tMaude and Dora saw it.\tIt roared.")
    assert load_task(TASKS["wnli"], tmp_path).train.labels.tolist() == [1]
    assert load_test(TASKS["wnli"], tmp_path).texts == ["Maude and Dora saw it."]


def test_the_hub_names_glues_columns_and_labels_in_its_own_way() -> None:
    import datasets

    from finetune.kinds.load import from_dataset

    for name, columns, labels in (
        ("mrpc", ("sentence1", "sentence2"), ["not_equivalent", "equivalent"]),
        ("mnli-mm", ("premise", "hypothesis"), ["entailment", "neutral", "contradiction"]),
        ("qqp", ("question1", "question2"), ["not_duplicate", "duplicate"]),
        ("wnli", ("sentence1", "sentence2"), ["not_entailment", "entailment"]),
    ):
        features = datasets.Features({column: datasets.Value("string") for column in columns})
        features |= {"label": datasets.ClassLabel(names=labels), "idx": datasets.Value("int32")}
        cells = {columns[0]: ["a", "b"], columns[1]: ["c", "d"], "label": [1, 0], "idx": [5, 6]}
        rows = datasets.Dataset.from_dict(cells, features=datasets.Features(features))
        found = from_dataset(TASKS[name], rows, "hub")
        assert (found.texts, found.pairs, found.labels.tolist()) == (["a", "b"], ["c", "d"], [1, 0]), name
        cells["label"] = [-1, -1]
        rows = datasets.Dataset.from_dict(cells, features=datasets.Features(features))
        assert len(from_dataset(TASKS[name], rows, "hub", labelled=False)) == 2
    cells = {"sentence1": ["a"], "sentence2": ["b"], "label": [4.2]}
    assert from_dataset(TASKS["stsb"], datasets.Dataset.from_dict(cells), "hub").labels.tolist() == [4.2]
    rows = datasets.Dataset.from_dict({**cells, "label": [-1.0]})  # as the test split has it
    assert from_dataset(TASKS["stsb"], rows, "hub", labelled=False).labelled is False
