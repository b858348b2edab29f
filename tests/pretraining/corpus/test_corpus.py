"""Reading: formats, bad input by file and line, long documents, sentences and words."""

import gzip
import itertools
import json
from pathlib import Path

import pytest

from pretraining.annotations.field import RecordField
from pretraining.corpus import chunks as reader
from pretraining.corpus.chunks import read_chunks
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.records import iter_documents
from pretraining.corpus.sources import resolve_sources
from pretraining.text.segmenter import Segmenter, join_words
from pretraining.text.sentences import MAX_CHARACTERS, sentence_spans, split_sentences
from zoo.errors import ZooError

TEXTS = ["First line.\nSecond line.", "Another\u2028document.", "第三篇。"]


def write_all(folder: Path) -> dict[str, Path]:
    import pyarrow
    import pyarrow.parquet

    text = "\n\n".join(TEXTS) + "\n"
    rows = "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(TEXTS))
    paths = {name: folder / f"a.{name}" for name in ("txt", "txt.gz", "jsonl", "jsonl.gz", "parquet")}
    paths["txt"].write_text(text)
    paths["txt.gz"].write_bytes(gzip.compress(text.encode()))
    paths["jsonl"].write_text(rows)
    paths["jsonl.gz"].write_bytes(gzip.compress(rows.encode()))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "id": [1, 2, 3]}), paths["parquet"])
    return paths


def test_every_format_gives_the_same_documents(tmp_path):
    expected = [text.split("\n") for text in TEXTS]
    for name, path in write_all(tmp_path).items():
        assert [d.lines for d in iter_documents(CorpusConfig(str(path)))] == expected, name
    everything = list(iter_documents(CorpusConfig(str(tmp_path))))
    assert [d.lines for d in everything] == expected * 5
    assert [d.lines for d in iter_documents(CorpusConfig(str(tmp_path / "*.jsonl*")))] == expected * 2


def test_byte_order_mark_and_carriage_returns(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.\r\nTwo.\r\n\r\n \t\r\nThree.\r\n")
    found = list(iter_documents(CorpusConfig(str(path))))
    assert [d.lines for d in found] == [["One.", "Two."], ["Three."]]
    assert [d.line for d in found] == [1, 5]


BAD = {
    "empty": ("a.txt", b"", "a.txt is empty"),
    "white": ("a.txt", b" \n\n\t\n", "holds no documents"),
    "utf8": ("a.txt", b"good\n\nalso good\nb\xe4d\n", r"a\.txt:4: invalid UTF-8 at byte 2"),
    "nul": ("a.txt", b"text\x00more", "is binary"),
    "late nul": ("a.txt", b"x" * 5000 + b"\nab\x00c\n", r"a\.txt:2: a NUL byte"),
    "utf16": ("a.txt", "text".encode("utf-16"), "UTF-16.*`iconv -f UTF-16 -t UTF-8"),
    "utf16 without a mark": ("a.txt", "text\n".encode("utf-16-le"), "is binary.*`iconv -f UTF-16LE -t UTF-8"),
    "chinese": (
        "a.txt",
        "First.\n\n小镇在河边。\n".encode("gb18030"),
        r"a\.txt:3: invalid.*`iconv -f GB18030 -t UTF-8",
    ),
    "late chinese": ("a.txt", b"x\n" * 5000 + "小镇在河边。\n".encode("gb18030"), r"a\.txt:5001: .*`iconv -f GB18030"),
    "latin1": ("a.txt", "un café très bon\n".encode("latin-1"), r"a\.txt:1: .*`iconv -f WINDOWS-1252 -t UTF-8"),
    "damaged": ("a.txt", "小镇在河边。\n".encode() * 9 + b"\xe5\x9b\nx", r"a\.txt:10: .*mend or delete that line"),
    "cut off": ("a.txt", "小镇在河边。\n".encode()[:-2], r"a\.txt:1: .*last character is cut off"),
    "zstandard": ("a.txt", b"\x28\xb5\x2f\xfd\x04", "is Zstandard data under the name.*`unzstd` it"),
    "gzip as text": ("a.txt", gzip.compress(b"text"), "is gzip data under the name"),
    "text as gzip": ("a.txt.gz", b"text", "is not gzip data"),
    "cut gzip": ("a.txt.gz", gzip.compress(bytes(range(32, 127)) * 90)[:-9], "damaged or cut short"),
    "parquet": ("a.parquet", b"text", "is not a Parquet file"),
    "json": ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2: broken JSON"),
    "list": ("a.jsonl", b"[1]\n", r"a\.jsonl:1: a JSON list"),
    "column": (
        "a.jsonl",
        b'{"txet": "a", "id": 1}\n',
        r"a\.jsonl:1: no field 'text'.*'txet', 'id'.*Did you mean 'txet'",
    ),
    "number": ("a.jsonl", b'{"text": 5}\n', r"a\.jsonl:1: field 'text' holds a int"),
    "extension": ("a.csv", b"text", "no reader knows; readable are .txt"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ZooError, match=message):
        list(iter_documents(CorpusConfig(str(tmp_path / name))))


LISTS = [
    (["a", ""], r"a\.jsonl:2: field 'text': text 2 of 2 is empty, and 'class' \(corpus.annotations.class\) is of them"),
    ([" ", "b"], r"a\.jsonl:2: field 'text': text 1 of 2 is empty"),
    (["", ""], r"a\.jsonl:2: field 'text': text 1 of 2 is empty"),
    ([], r"a\.jsonl:2: field 'text': is an empty list"),
]


@pytest.mark.parametrize(("texts", "message"), LISTS)
def test_a_class_of_all_texts_needs_every_text(tmp_path, texts, message):
    """A pair that lacks a text would be a single text with the pair's class, or nothing at all."""
    path = tmp_path / "a.jsonl"
    good = [{"text": ["a", "b"], "class": 1, "role": [0, 1]}, {"text": texts, "class": 0, "role": [0] * len(texts)}]
    path.write_text("".join(json.dumps(record) + "\n" for record in good))
    with pytest.raises(ZooError, match=message):
        list(iter_documents(CorpusConfig(str(path), annotations={"class": RecordField(), "role": RecordField()})))
    found = list(
        iter_documents(CorpusConfig(str(path), annotations={"role": RecordField()}))
    )  # utterances of a dialogue
    assert [d.lines for d in found] == [["a", "b"], *[kept for kept in [[t for t in texts if t.strip()]] if kept]]


def test_a_value_that_is_null_is_said_to_be_null(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "phrase": null}\n')
    with pytest.raises(ZooError, match=r"no value in the field 'phrase' \(.*\); it is null\. Give") as refused:
        list(iter_documents(CorpusConfig(str(path), annotations={"phrase": RecordField("units")})))
    assert "Did you mean" not in str(refused.value)


def test_bad_places(tmp_path):
    (tmp_path / "corpus.txt").write_text("text")
    with pytest.raises(ZooError, match=r"does not exist.*Did you mean 'corpus\.txt'"):
        resolve_sources(CorpusConfig(str(tmp_path / "corpsu.txt")))
    with pytest.raises(ZooError, match=r"each part between commas is: give a list, '\[.*corpus.txt, .*corpus.txt\]'"):
        resolve_sources(CorpusConfig(f"{tmp_path / 'corpus.txt'},{tmp_path / 'corpus.txt'}"))
    with pytest.raises(ZooError, match="nothing matches"):
        resolve_sources(CorpusConfig(str(tmp_path / "*.jsonl")))
    (tmp_path / "sub").mkdir()
    with pytest.raises(ZooError, match="it is empty"):
        resolve_sources(CorpusConfig(str(tmp_path / "sub")))
    with pytest.raises(ZooError, match="Did you mean 'rjieba'"):
        CorpusConfig("a.txt", segmenter="jieba")


def test_parquet_without_the_column(tmp_path):
    write_all(tmp_path)
    with pytest.raises(ZooError, match=r"no field 'texts'.*'text', 'id'.*Did you mean 'text'"):
        resolve_sources(CorpusConfig(str(tmp_path / "a.parquet"), text_field="texts"))


@pytest.mark.parametrize("separator", ["\n", " ", ""])
def test_a_document_longer_than_a_chunk_comes_in_parts(tmp_path, monkeypatch, separator):
    monkeypatch.setattr(reader, "CHUNK", 1000)
    body = separator.join(f"wörd{i}" for i in range(2000))
    (tmp_path / "a.txt").write_text(f"before\n\n{body}\n\nafter\n")
    config = CorpusConfig(str(tmp_path / "a.txt"))
    chunks = list(read_chunks(resolve_sources(config)[0], config))
    assert b"".join(c.data for c in chunks).decode() == (tmp_path / "a.txt").read_text()
    assert max(len(c.data) for c in chunks) <= 2000
    documents = list(iter_documents(config))
    whole: list[list[str]] = []
    for document in documents:
        if document.continues:
            whole[-1] += document.lines
        else:
            whole.append(list(document.lines))
    assert len(whole) == 3
    assert "".join(whole[1]).replace(" ", "") == body.replace(separator, "") if separator else "".join(whole[1]) == body


def test_a_json_line_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "CHUNK", 1000)
    monkeypatch.setattr(reader, "RECORD_LIMIT", 2**20)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + json.dumps({"text": "x" * 500_000}) + "\n")
    assert [len(d.lines[0]) for d in iter_documents(CorpusConfig(str(path)))] == [4, 500_000]
    path.write_text('{"text": "fine"}\n' * 200 + json.dumps({"text": "x" * 1_100_000}) + "\n")
    with pytest.raises(ZooError, match=r"a\.jsonl:\d+: a JSON line of more than 1 MB"):
        list(iter_documents(CorpusConfig(str(path))))


SENTENCES = [
    ("Mr. Smith paid $3.50. He left.", ["Mr. Smith paid $3.50.", "He left."]),
    ('"Really?" she asked. "Yes." He went.', ['"Really?" she asked.', '"Yes."', "He went."]),
    ("The U.S. Army came. In the U.S. The rest.", ["The U.S. Army came.", "In the U.S.", "The rest."]),
    ("J. K. Rowling wrote No. 5. Good!", ["J. K. Rowling wrote No. 5.", "Good!"]),
    ("Wait... and see... Then go.", ["Wait... and see...", "Then go."]),
    ("all lower case. no capitals here.", ["all lower case.", "no capitals here."]),
    ("他说：“你好。”然后走了。真的吗？！好……吧。", ["他说：“你好。”", "然后走了。", "真的吗？！", "好……", "吧。"]),
    ("价格是3.5元。（完。）下一句", ["价格是3.5元。", "（完。）", "下一句"]),
    ("  ", []),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_sentences(text, expected):
    assert split_sentences(text) == expected


def test_sentences_lose_nothing_but_spaces_and_stay_short():
    text = "Word. " * 50 + "x" * (3 * MAX_CHARACTERS) + " end of it " * 2000
    spans = sentence_spans(text)
    assert "".join(text[a:b] for a, b in spans).replace(" ", "") == text.replace(" ", "")
    assert all(0 < b - a <= MAX_CHARACTERS for a, b in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_presegmented_text_loses_spaces_beside_chinese_only():
    text, starts = Segmenter("space").words("我 爱 北京 天安门 ， hello world 。")
    assert text == "我爱北京天安门，hello world。"
    assert [text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(text)])] == [
        "我", "爱", "北京", "天安门", "，", "hello", "world", "。",
    ]  # fmt: skip
    assert join_words(text, starts) == "我 爱 北京 天安门 ， hello world 。"
    assert Segmenter("none").words("我爱") is None


def test_rjieba_and_its_dictionary(tmp_path):
    pytest.importorskip("rjieba")
    assert Segmenter("rjieba").words("我爱北京天安门") == ("我爱北京天安门", [0, 1, 2, 4])
    (tmp_path / "words.txt").write_text("爱北京 100000\n")
    own = Segmenter("rjieba", str(tmp_path / "words.txt"))
    assert own.words("我爱北京天安门")[1] == [0, 1, 4]
    assert own.recipe != Segmenter("rjieba").recipe


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("云计算\n大数据\n".encode("gb18030"), r"words\.txt, line 1: invalid UTF-8 .*iconv -f GB18030"),
        ("云计算\n大数据\n".encode("utf-16"), r"words\.txt, line 1: .*iconv -f UTF-16 "),
        ("云计算\0\n".encode(), r"words\.txt, line 1: a zero byte"),
        (
            "云计算 ²\n".encode(),
            r"words\.txt:1: '云计算 ²' is not `word \[frequency \[tag\]\]`; a line should be a word",
        ),
        (f"好\n云计算 {10**26}\n".encode(), r"words\.txt:2: .*at most 9 digits"),
        ("云计算 5 n more\n".encode(), r"words\.txt:1: .*is not `word"),
        ("云计算,5,n\n".encode(), r"words\.txt:1: .*has a comma, and rjieba finds no word across one"),
        (b"\n \n", r"words\.txt holds no word"),
    ],
)
def test_dictionaries_of_no_effect_are_refused(tmp_path, content, message):
    pytest.importorskip("rjieba")
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(ZooError, match=message):
        Segmenter("rjieba", str(tmp_path / "words.txt"))


def test_a_dictionary_is_one_file(tmp_path):
    pytest.importorskip("rjieba")
    (tmp_path / "words.txt").write_text("云计算\n", encoding="utf-8")
    with pytest.raises(ZooError, match=r"user_dictionary: .* is a folder; name its files, for example .*words\.txt"):
        Segmenter("rjieba", str(tmp_path))
    with pytest.raises(
        ZooError, match=r"user_dictionary: the file .*word\.txt does not exist.*Did you mean 'words\.txt'"
    ):
        Segmenter("rjieba", str(tmp_path / "word.txt"))


def test_rjieba_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rjieba", None)
    with pytest.raises(ZooError, match=r"pip install sesame-zoo\[zh\]"):
        Segmenter("rjieba")


def test_a_list_of_texts_is_a_document_of_one_sentence_each(tmp_path):
    rows = [{"text": ["How are you? Well?", "", " Fine.\nYou? "]}, {"text": []}, {"text": [""]}, {"text": "One. Two."}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(iter_documents(CorpusConfig(str(path))))
    assert [(d.lines, d.listed, d.line) for d in found] == [
        (["How are you? Well?", "Fine. You?"], True, 1),
        (["One. Two."], False, 4),
    ]
    assert found[0].notes == []


def test_a_segmenter_that_changes_the_text_leaves_characters(monkeypatch):
    monkeypatch.setattr(pytest.importorskip("rjieba"), "cut", lambda text: ["我爱", "北京"])
    segmenter = Segmenter("rjieba")
    assert segmenter.words("我爱北京") == ("我爱北京", [0, 2])
    assert segmenter.words("我爱北京市") is None
    assert segmenter.words("我爱南京") is None
    assert segmenter.words("no Chinese") is None


def test_words_end_where_sentences_do(tmp_path):
    pytest.importorskip("rjieba")
    (tmp_path / "words.txt").write_text("好。天安门 100000\n卡拉OK 100000\n")
    segmenter = Segmenter("rjieba", str(tmp_path / "words.txt"))
    text = "他说好。天安门很大，唱卡拉OK。"
    words = []
    for start, end in sentence_spans(text):
        part, starts = segmenter.words(text[start:end])
        assert starts[0] == 0
        words += [part[a:b] for a, b in zip(starts, [*starts[1:], len(part)])]
    assert "".join(words) == text
    assert "卡拉OK" in words
    assert not any("。" in word[:-1] for word in words)
