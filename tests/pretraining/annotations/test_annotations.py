"""Annotations of the token store: what is found, what records give, which tokens it falls on, and what is refused."""

import gzip
import json
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from places import ROOT, SHARED

from pretraining.annotations.base import Annotator, TextAnnotator, make_annotator
from pretraining.annotations.field import RecordField
from pretraining.annotations.lexicon import CapitalisedNames, ContentPhrases, Lexicon, Words
from pretraining.annotations.linked import LinkedEntities, read_entities
from pretraining.annotations.to_tokens import Annotations, describe
from pretraining.arrays import SENTENCE_START, WORD_START
from pretraining.corpus import chunks as reader
from pretraining.corpus.config import CorpusConfig
from pretraining.store.prepare import prepare_store
from pretraining.store.token_store import Store
from pretraining.text.segmenter import Segmenter, inside_word
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.tokenizer.train import train_tokenizer
from pretraining.training.load_config import load_pretrain_config
from zoo.errors import ZooError
from zoo.sample import sample_path

KINDS = ["wordpiece", "bytebpe", "unigram", "word"]
ENGLISH = [
    "The New York Times wrote about Zürich in New York today.",
    "She sells sea shells by the sea shore; the sea is wide.",
    "Anna lives in York, not in New Yorkshire.",
] * 10
CHINESE = ["我爱北京天安门，天安门上太阳升。", "他在北京大学读书，喜欢卡拉OK和T恤。"] * 10


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, TokenizerConfig]:
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {}
    for kind in KINDS:
        train_tokenizer(TokenizerConfig(kind=kind, vocab_size=500), ENGLISH + CHINESE).save(folder / kind)
        made[kind] = TokenizerConfig("file", str(folder / kind))
    return made


def write_records(path: Path, records) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def build(folder: Path, tokenizer: TokenizerConfig, files: str, annotations: dict[str, Annotator], **facts) -> Store:
    corpus = CorpusConfig(files, annotations=annotations, **facts)
    return prepare_store(corpus, tokenizer, folder / "stores", processes=1, quiet=True)


def units(store: Store, name: str) -> list[str]:
    """Units of an array, spelt by their tokens, white space and markers taken out."""
    tokenizer = load_tokenizer(store.path)
    found: list[list[int]] = []
    for token, code in zip(store.tokens.tolist(), store.arrays[name].tolist()):
        if code == 1:
            found.append([])
        if code:
            found[-1].append(token)
    return [spelt(tokenizer, ids) for ids in found]


def spelt(tokenizer: ZooTokenizer, ids: list[int]) -> str:
    return re.sub(r"[\s▁]|##", "", tokenizer.decode(ids, skip_special_tokens=False)).lower()


@pytest.mark.parametrize("kind", KINDS)
def test_a_lexicon_marks_the_longest_entries_at_word_boundaries(tmp_path, tokenizers, kind):
    (tmp_path / "a.txt").write_text("\n".join(ENGLISH[:3]))
    (tmp_path / "words.txt").write_text("New York\nNew York Times\t17\nsea shells\nsea\nYork\n\n")
    store = build(tmp_path, tokenizers[kind], str(tmp_path / "a.txt"), {"entity": Lexicon(str(tmp_path / "words.txt"))})
    wanted = ["newyorktimes", "newyork", "seashells", "sea", "sea", "york"]
    found = units(store, "entity")
    if kind == "word":  # words that the vocabulary lacks are unknown
        assert len(found) == len(wanted)
    else:
        assert found == wanted
    assert store.arrays["entity"].dtype == np.uint8


def test_a_field_of_classes_is_at_every_token(tmp_path, tokenizers):
    path = write_records(
        tmp_path / "a.jsonl",
        [
            {"text": ["How are you?", "Fine. And you?"], "role": [0, 1], "label": "weak"},
            {"text": "One text. Two sentences.", "role": 0, "label": "strong"},
        ],
    )
    annotations = {"role": RecordField(values=2), "label": RecordField(values=["strong", "weak"])}
    store = build(tmp_path, tokenizers["wordpiece"], path, annotations)
    assert np.diff(store.documents).tolist() == [2, 2]  # a list's lines are one sentence each, a text's are split
    first, second = (store.tokens[a:b] for a, b in zip(store.sentences[:2], store.sentences[1:3]))
    role, label = store.arrays["role"].tolist(), store.arrays["label"].tolist()
    assert role == [1] * len(first) + [2] * len(second) + [1] * (len(role) - len(first) - len(second))
    assert label == [2] * (len(first) + len(second)) + [1] * (len(role) - len(first) - len(second))


def test_lexicons_know_scripts_that_have_no_spaces():
    def find(entries: list[str], text: str, folder: Path, lowercase: bool = False) -> list[str]:
        (folder / "w.txt").write_text("\n".join(entries), encoding="utf-8")
        lexicon = Lexicon(str(folder / "w.txt"))
        lexicon.ready(lowercase)
        spans = lexicon.find(text, None)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        return [text[a:b] for a, b in spans]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert find(["北京", "北京大学", "大学生", "生"], "在北京大学生活", folder) == ["北京大学", "生"]
        assert find(["T恤", "OK"], "穿T恤唱卡拉OK的XT恤和OKs", folder) == ["T恤", "OK"]
        assert find(["new york"], "New York, NEW YORK new yorks renew york", folder, True) == ["New York", "NEW YORK"]
        assert find(["new york"], "New York new york", folder) == ["new york"]
        assert find(["i̇stanbul", "İstanbul"], "in İstanbul", folder, True) == ["İstanbul"]
        assert find(["cafe"], "cafe\u0301 cafe", folder) == ["cafe"]
        assert find(["a", "C++"], "a b C++ a.", folder) == ["a", "C++", "a"]


def test_words_of_the_segmenter(tmp_path, tokenizers):
    (tmp_path / "a.txt").write_text("我 爱 北京 天安门 ， 天安门 上 。 and not these\n", encoding="utf-8")
    annotations = {"phrase": Words(min_length=3)}
    for kind in ("wordpiece", "unigram", "word"):
        store = build(tmp_path, tokenizers[kind], str(tmp_path / "a.txt"), annotations, segmenter="space")
        assert len(units(store, "phrase")) >= 2, kind
        if kind == "wordpiece":
            assert units(store, "phrase") == ["天安门", "天安门"]  # nothing is segmented in sentences without Chinese
    with pytest.raises(ZooError, match=r"annotations\.phrase: Words takes the words of a segmenter"):
        CorpusConfig("a.txt", annotations=annotations)


NAMES = [
    ("The Bank of England met in London.", ["Bank of England", "London"]),
    ("In Paris Anna saw I and Tom Smith-Jones, Bob.", ["Paris Anna", "Tom Smith-Jones", "Bob"]),
    ("Dogs bark. HELLO", ["HELLO"]),
    ("Anna Smith of the north left.", ["Anna Smith"]),
    ("ALL CAPITALS HERE", []),
    ("Élan vital in Zürich", ["Zürich"]),
    ("", []),
]


@pytest.mark.parametrize(("text", "names"), NAMES)
def test_runs_of_capitalised_words(text, names):
    assert [text[a:b] for a, b in CapitalisedNames().find(text, None)] == names


def test_phrases_lie_between_function_words():
    text = "The deep neural networks of today, a red car; one and very long winding dusty country road. Big dog"
    found = [text[a:b] for a, b in ContentPhrases().find(text, None)]
    assert found == ["deep neural networks", "red car", "Big dog"]
    with pytest.raises(ZooError, match="1 <= min_words"):
        ContentPhrases(3, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_spans_and_entities_of_records(tmp_path, tokenizers, kind):
    """Spans count in the text as it stands: blank ends, empty lines and sentence ends included."""
    text = "  The New York Times wrote.\n\n It is about St. Zürich today. "
    mark = [text.index(part) for part in ("New York Times", "Zürich", "St.")]
    records = [
        {
            "text": text,
            "phrase": [[mark[0], mark[0] + 14], [mark[2], mark[1] + 6]],
            "entity_id": [
                [mark[1], mark[1] + 6, "Q72"],
                [mark[0], mark[0] + 8, "Q60"],
                [mark[0] + 9, mark[0] + 14, "Q0"],
            ],
        },
        {
            "text": [" sea shells", "", "the sea"],
            "phrase": [[[1, 11]], [], [[4, 7]]],
            "entity_id": [[], [], [[4, 7, "Q60"]]],
        },
    ]
    (tmp_path / "entities.txt").write_text("Q1\nQ60\nQ72\n")
    annotations = {"phrase": RecordField("units"), "entity_id": LinkedEntities(str(tmp_path / "entities.txt"))}
    store = build(tmp_path, tokenizers[kind], write_records(tmp_path / "a.jsonl", records), annotations)
    found = units(store, "phrase")
    if kind != "word":
        assert found == ["newyorktimes", "st.zürich" if kind == "bytebpe" else "st.zurich", "seashells", "sea"]
    assert len(found) == 4
    assert np.diff(store.documents).tolist() == [2, 2]  # no sentence ends inside "St. Zürich"
    entity = np.asarray(store.arrays["entity_id"])
    assert entity.dtype == np.int32
    assert entity[entity > 0].tolist() == [2, 3, 2]  # number + 1, once each, in the order of the text
    assert store.meta["annotations"]["entity_id"] == {
        "class": "LinkedEntities",
        "marks": "first",
        "units": 3,
        "share": round(3 / store.num_tokens, 5),
        "left_out": {"unknown": 1},
    }
    first = np.flatnonzero(entity)
    assert (np.asarray(store.arrays["phrase"])[first] == [1, 2, 1]).all()
    assert (np.asarray(store.flags)[first[1:2] - (kind == "unigram")] & WORD_START).all()


def test_what_was_found_is_counted(tmp_path, tokenizers):
    (tmp_path / "a.txt").write_text("Anna met Bob Smith today.\nThen Anna Lee left, too.", encoding="utf-8")
    store = build(tmp_path, tokenizers["wordpiece"], str(tmp_path / "a.txt"), {"entity": CapitalisedNames()})
    codes = np.asarray(store.arrays["entity"])
    entry = store.meta["annotations"]["entity"]
    assert entry["units"] == (codes == 1).sum() == 2
    assert entry["mean_length"] == round(float((codes > 0).sum() / 2), 3)
    assert entry["share"] == round(float((codes > 0).mean()), 5)
    assert describe("entity", entry).startswith("entity (CapitalisedNames): 2 units, ")
    assert np.count_nonzero(np.asarray(store.flags) & SENTENCE_START) == 2


def test_a_found_span_that_cuts_a_token_is_counted_and_a_given_one_refused(tmp_path, tokenizers):
    train_tokenizer(TokenizerConfig(kind="bytebpe", vocab_size=268), ["北京大学很大"] * 50).save(tmp_path / "u")
    _, places = load_tokenizer(tmp_path / "u").encode_places(["北京大学很大"])
    assert [1, 3] in places.tolist()  # one token holds two characters
    config = TokenizerConfig("file", str(tmp_path / "u"))
    (tmp_path / "w.txt").write_text("北京\n很大", encoding="utf-8")
    (tmp_path / "a.txt").write_text("北京大学很大", encoding="utf-8")
    store = build(tmp_path, config, str(tmp_path / "a.txt"), {"entity": Lexicon(str(tmp_path / "w.txt"))})
    assert store.meta["annotations"]["entity"]["left_out"] == {"cut": 2}
    record = {"text": "北京大学很大", "entity": [[0, 2]]}
    path = write_records(tmp_path / "a.jsonl", [{"text": "很", "entity": []}, record])
    with pytest.raises(ZooError, match=r"a\.jsonl:2: the span '北京' of 'entity' cuts the token '京大' in .*cut: skip"):
        build(tmp_path, config, path, {"entity": RecordField("units")})
    lenient = build(tmp_path, config, path, {"entity": RecordField("units", cut="skip")})
    assert lenient.meta["annotations"]["entity"]["left_out"] == {"cut": 1}
    assert not np.asarray(lenient.arrays["entity"]).any()


def test_processes_chunks_and_places_make_no_difference(tmp_path, tokenizers, monkeypatch):
    """One store whatever the number of processes and where the files lie; another one for another word list."""
    monkeypatch.setattr(reader, "CHUNK", 400)
    rows = [{"text": [text, "Fine."], "role": [n % 2, 1]} for n, text in enumerate(ENGLISH[:12])]
    path = write_records(tmp_path / "a.jsonl", rows)
    stores = []
    for number, processes in (("one", 1), ("two", 2)):
        (tmp_path / number).mkdir()
        (tmp_path / number / "w.txt").write_text("New York\nsea\n")
        own = {
            "entity": Lexicon(str(tmp_path / number / "w.txt")),
            "role": RecordField(values=["query", "response", "0", "1"]),
        }
        corpus = CorpusConfig(path, annotations=own)
        stores.append(prepare_store(corpus, tokenizers["bytebpe"], tmp_path / number, processes=processes, quiet=True))
    assert stores[0].fingerprint == stores[1].fingerprint
    for name in ("entity", "role"):
        assert np.array_equal(stores[0].arrays[name], stores[1].arrays[name])
    assert stores[0].meta["annotations"] == stores[1].meta["annotations"]
    assert stores[0].meta["annotations"]["entity"]["units"] > 8
    plain = build(tmp_path, tokenizers["bytebpe"], path, {})
    assert plain.fingerprint != stores[0].fingerprint
    assert np.array_equal(plain.tokens, stores[0].tokens)  # ids do not depend on annotations
    assert np.array_equal(plain.flags, stores[0].flags)
    (tmp_path / "one" / "w.txt").write_text("New York\n")
    changed = {"entity": Lexicon(str(tmp_path / "one" / "w.txt"))}
    again = prepare_store(
        CorpusConfig(path, annotations=changed), tokenizers["bytebpe"], tmp_path, processes=1, quiet=True
    )
    assert again.fingerprint not in (stores[0].fingerprint, plain.fingerprint)


def test_parquet_has_columns_for_annotations(tmp_path, tokenizers):
    import pyarrow
    import pyarrow.parquet

    table = {"text": [["How are you?", "Fine."], ["One.", "Two three."]], "label": ["a", "b"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    annotations = {"label": RecordField(values=["a", "b"])}
    store = build(tmp_path, tokenizers["wordpiece"], str(tmp_path / "a.parquet"), annotations)
    assert np.diff(store.documents).tolist() == [2, 2]
    assert np.unique(store.arrays["label"]).tolist() == [1, 2]
    with pytest.raises(ZooError, match=r"a\.parquet: no value in the field 'lable'.*Did you mean 'label'"):
        build(tmp_path, tokenizers["wordpiece"], str(tmp_path / "a.parquet"), {"lable": RecordField()})


RECORDS = {  # the annotation, a record that does not fit, what is said
    "missing": (
        RecordField(),
        {"text": "a", "rôle": 0},
        r"a\.jsonl:2: no value in the field 'x'.*'rôle'.*missing: none",
    ),
    "null": (RecordField(), {"text": "a", "x": None}, r"a\.jsonl:2: no value in the field 'x'"),
    "range": (RecordField(values=2), {"text": "a", "x": 2}, r"a\.jsonl:2: field 'x' is 2; a whole number of 0 to 1"),
    "negative": (RecordField(), {"text": "a", "x": -1}, r"field 'x' is -1"),
    "name": (
        RecordField(values=["query", "reply"]),
        {"text": "a", "x": "replay"},
        r"one of query, reply\. Did you mean 'reply'",
    ),
    "name as number": (RecordField(), {"text": "a", "x": "query"}, r"is 'query'.*need `values: \[NAME"),
    "truth": (RecordField(values=2), {"text": "a", "x": True}, r"is True; a whole number"),
    "count": (RecordField(), {"text": ["a", "b"], "x": [0]}, r"field 'x' holds 1 values for 2 lines"),
    "inside": (RecordField(values=2), {"text": ["a", "b"], "x": [0, 3]}, r"field 'x', value 2 is 3"),
    "no list": (
        RecordField("units"),
        {"text": "a", "x": 3},
        r"field 'x' holds a int \('3'\); a list of \[start, end\]",
    ),
    "no span": (RecordField("units"), {"text": "abc", "x": [[0]]}, r"field 'x', span 1 is \[0\]; \[start, end\]"),
    "no number": (RecordField("units"), {"text": "abc", "x": [["0", 1]]}, r"span 1 is \['0', 1\]"),
    "outside": (RecordField("units"), {"text": "abc", "x": [[0, 1], [2, 4]]}, r"span 2 is \[2, 4\] in a text of 3"),
    "below 0": (RecordField("units"), {"text": "abc", "x": [[-3, -1]]}, r"\[-3, -1\], which is negative; .*from 0"),
    "nothing": (
        RecordField("units"),
        {"text": "abcdef", "x": [[3, 3]]},
        r"\[3, 3\], which is empty; .*would be \[3, 4\]",
    ),
    "backwards": (
        RecordField("units"),
        {"text": "abcdef", "x": [[4, 2]]},
        r"\[4, 2\], which ends before .*\[2, 4\] would",
    ),
    "overlap": (
        RecordField("units"),
        {"text": "abcdef", "x": [[3, 6], [0, 4]]},
        r"the spans \[0, 4\] and \[3, 6\] overlap",
    ),
    "line end": (
        RecordField("units"),
        {"text": "ab\ncd", "x": [[1, 4]]},
        r"span 1, \[1, 4\], goes beyond the end of a line",
    ),
    "lists": (RecordField("units"), {"text": ["ab", "cd"], "x": [[0, 1]]}, r"holds 1 lists of spans for 2 texts"),
    "flat": (
        RecordField("units"),
        {"text": ["ab", "cd"], "x": [[0, 1], [0, 1]]},
        r"text 1, span 1 is 0; \[start, end\]",
    ),
    "text": (RecordField(), {"text": ["a", 3], "x": 0}, r"a\.jsonl:2: field 'text' holds a int in a list"),
    "object": (RecordField(), {"text": {"a": 1}, "x": 0}, r"field 'text' holds a dict; text was expected, or a list"),
}


@pytest.mark.parametrize(("annotator", "record", "message"), RECORDS.values(), ids=RECORDS.keys())
def test_records_that_do_not_fit_are_refused_by_file_and_line(tmp_path, tokenizers, annotator, record, message):
    good = {
        "text": "fine",
        "x": [] if annotator.marks == "units" else annotator.values[0] if isinstance(annotator.values, list) else 0,
    }
    path = write_records(tmp_path / "a.jsonl", [good, record])
    with pytest.raises(ZooError, match=message):
        build(tmp_path, tokenizers["wordpiece"], path, {"x": annotator})
    assert not list((tmp_path / "stores").glob("a-*"))


def test_records_without_a_value_where_that_is_allowed(tmp_path, tokenizers):
    rows = [{"text": "one two", "x": 1}, {"text": "three", "x": None}, {"text": "four"}]
    annotations = {"x": RecordField(missing="none")}
    store = build(tmp_path, tokenizers["wordpiece"], write_records(tmp_path / "a.jsonl", rows), annotations)
    edges = store.document_tokens()
    assert [np.unique(store.arrays["x"][a:b]).tolist() for a, b in pairwise(edges.tolist())] == [[2], [0], [0]]
    (tmp_path / "b.txt").write_text("plain text")
    assert not np.asarray(
        build(tmp_path, tokenizers["wordpiece"], str(tmp_path / "b.txt"), annotations).arrays["x"]
    ).any()
    with pytest.raises(
        ZooError, match=r"annotations\.x \(RecordField\) reads a field of JSON records, and .*b\.txt is plain"
    ):
        build(tmp_path, tokenizers["wordpiece"], str(tmp_path / "b.txt"), {"x": RecordField()})


def test_word_lists_that_cannot_be_read(tmp_path, tokenizers):
    (tmp_path / "a.txt").write_text("text")

    def refused(files, message: str) -> None:
        with pytest.raises(ZooError, match=message):
            build(tmp_path, tokenizers["wordpiece"], str(tmp_path / "a.txt"), {"entity": Lexicon(files)})

    (tmp_path / "gb.txt").write_bytes("北京\n".encode() + "上海\n".encode("gb18030"))
    refused(str(tmp_path / "gb.txt"), r"gb\.txt, line 2: invalid UTF-8 at byte 1 .*iconv -f GB18030")
    (tmp_path / "empty.txt").write_text("\n \n\t5\n")
    refused(str(tmp_path / "empty.txt"), r"empty\.txt holds no entries")
    refused(str(tmp_path / "emtpy.txt"), r"emtpy\.txt does not exist\. Did you mean 'empty\.txt'")
    refused(str(tmp_path / "*.lst"), r"\*\.lst does not exist")
    (tmp_path / "wide.txt").write_bytes("sea shells\nNew York\n".encode("utf-16-le"))
    refused(str(tmp_path / "wide.txt"), r"wide\.txt, line 1: a zero byte at byte 2 .*iconv -f UTF-16LE")
    (tmp_path / "packed.txt").write_bytes(gzip.compress(b"sea shells\n"))
    refused(str(tmp_path / "packed.txt"), r"packed\.txt, line 1: .*gunzip")
    (tmp_path / "lines.jsonl").write_text('{"entry": "sea shells"}\n["New York", 5]\n')
    refused(str(tmp_path / "lines.jsonl"), r"lines such as '\{\"entry\".* JSON or CSV\. One entry per line")
    (tmp_path / "table.csv").write_text("sea shells,5\nNew York,7,place\n")
    refused(str(tmp_path / "table.csv"), r"lines such as 'sea shells,5'.* JSON or CSV")
    (tmp_path / "places.txt").write_text("Springfield, Illinois\nNew York, New York\n1,000\n")  # entries with commas
    build(tmp_path, tokenizers["wordpiece"], str(tmp_path / "a.txt"), {"entity": Lexicon(str(tmp_path / "places.txt"))})
    (tmp_path / "lists").mkdir()
    refused(str(tmp_path / "lists"), r"files: .*lists is a folder without files")
    (tmp_path / "lists" / "a.bin").write_text("")
    (tmp_path / "lists" / "b.txt").write_text("sea\n")
    refused(str(tmp_path / "lists"), r"files: .*lists is a folder; name its files, for example .*b\.txt")


def test_files_of_entities(tmp_path, tokenizers):
    path = tmp_path / "e.txt"
    path.write_text("3\nQ5\t2\nQ6\t0\nQ7\t1\n")  # OpenKE's
    assert read_entities(path) == {"Q5": 2, "Q6": 0, "Q7": 1}
    path.write_text("Q5\r\nQ6\r\n")
    assert read_entities(path) == {"Q5": 0, "Q6": 1}
    for content, message in [
        ("Q5\t1\nQ6\n", r"e\.txt:2: 'Q6' is not `name`"),
        ("Q5\tone\n", r"e\.txt:1: .*name<TAB>number"),
        ("Q5\nQ5\n", r"e\.txt:2: the name 'Q5' or the number 1 occurs a second time"),
        ("Q5\t1\nQ6\t1\n", r"e\.txt:2: the name 'Q6' or the number 1"),
        ("\n", "names no entities"),
    ]:
        path.write_text(content)
        with pytest.raises(ZooError, match=message):
            read_entities(path)
    path.write_text("Q5\nQ6\n")
    rows = [{"text": "sea shells", "x": [[0, 3, f"E{n}"]]} for n in range(20)]
    records = write_records(tmp_path / "a.jsonl", rows)

    def make(**facts) -> Store:
        return build(tmp_path, tokenizers["wordpiece"], records, {"x": LinkedEntities(str(path), **facts)})

    with pytest.raises(ZooError, match=r"not one of the 20 entities that the first records name"):
        make()
    with pytest.raises(ZooError, match=r"a\.jsonl:1: field 'x', span 1: .*has no entity 'E0'"):
        make(unknown="error")
    with pytest.raises(ZooError, match=r"entities: the file .*e\.tsv does not exist"):
        build(tmp_path, tokenizers["wordpiece"], records, {"x": LinkedEntities(str(tmp_path / "e.tsv"))})
    write_records(tmp_path / "a.jsonl", [{"text": "sea", "x": [[0, 3]]}])
    with pytest.raises(ZooError, match=r"span 1 is \[0, 3\]; \[start, end, name of the entity\]"):
        make()


def test_settings_of_annotations():
    with pytest.raises(ZooError, match=r"annotations\.Ph-1: lower-case letters"):
        CorpusConfig("a.txt", annotations={"Ph-1": RecordField()})
    with pytest.raises(ZooError, match="kind is 'unit'; it must be one of units, value"):
        RecordField("unit")
    with pytest.raises(ZooError, match="values = 70000"):
        RecordField(values=70_000)
    assert (RecordField(values=254).dtype, RecordField(values=255).dtype, RecordField().dtype) == (
        "uint8",
        "uint16",
        "uint16",
    )
    lexicon = Lexicon(["a.txt", "b.txt"])
    assert lexicon.spec == {"class_path": "pretraining.annotations.Lexicon", "init_args": {"files": ["a.txt", "b.txt"]}}
    assert RecordField(values=3).spec["init_args"] == {"kind": "value", "values": 3, "missing": "error", "cut": "error"}
    settings = [
        "--config",
        "bert-tiny",
        "--data.corpus.annotations.x.class_path",
        "pretraining.annotations.RecordField",
    ]
    config = load_pretrain_config([*settings, "--data.corpus.annotations.x.init_args.values", "query,reply"]).value
    assert config.data.corpus.annotations["x"].values == ["query", "reply"]
    with pytest.raises(ZooError, match=r"unknown key 'data\.corpus\.annotations\.x\.init_args\.valeus'.*'values'"):
        load_pretrain_config([*settings, "--data.corpus.annotations.x.init_args.valeus", "3"])


class Vowels(TextAnnotator):
    """A user's own annotator."""

    def find(self, text, words):
        return [match.span() for match in re.finditer(r"\b[aeiou]\w+", text)]


def test_an_annotator_of_ones_own(tmp_path, tokenizers):
    (tmp_path / "a.txt").write_text("she eats an apple")
    store = build(tmp_path, tokenizers["wordpiece"], str(tmp_path / "a.txt"), {"vowel": Vowels()})
    assert units(store, "vowel") == ["eats", "an", "apple"]
    assert store.meta["recipe"]["annotations"]["vowel"]["class"] == "Vowels"


SENTENCES = {"unit": RecordField(kind="units"), "more": RecordField(kind="units"), "class": RecordField(values=9)}


def test_sentences_get_the_spans_that_touch_them():
    """As by a look at every span of the line, for spans in any order that overlap, lie in one another or between."""
    rng = np.random.default_rng(0)
    annotations, joined, several = Annotations(SENTENCES, lowercase=False), 0, 0
    for _ in range(300):
        places = np.sort(rng.choice(121, 2 * int(rng.integers(1, 12)), replace=False)).tolist()
        edges, line = list(zip(places[::2], places[1::2])), "x" * 120
        notes = {
            name: [
                (a, min(a + int(rng.integers(1, most)), 120), int(rng.integers(1, 9)))
                for a in rng.integers(0, 120, rng.integers(0, 12)).tolist()
            ]
            for name, most in (("unit", 6), ("more", 40 if rng.random() < 0.3 else 8), ("class", 30))
        }
        whole: list[tuple[int, int]] = []
        for start, end in edges:
            if whole and any(a < whole[-1][1] and b > start for name in ("unit", "more") for a, b, _ in notes[name]):
                whole[-1] = whole[-1][0], end
            else:
                whole.append((start, end))
        assert annotations.undivided(edges, notes) == whole
        joined += len(edges) - len(whole)
        for start, end in [*whole, *edges]:
            expected = {
                name: [(max(a - start, 0), min(b, end) - start, code) for a, b, code in given if a < end and b > start]
                for name, given in notes.items()
            }
            several += sum(len(spans) > 1 for spans in expected.values())
            expected["class"] = [(0, end - start, code) for _, _, code in expected["class"][:1]]
            found = annotations.spans(line[start:end], start, notes, (line[start:end], None), line[start:end])
            assert found == {name: spans for name, spans in expected.items() if spans}
    assert joined > 100
    assert several > 100


def test_a_sentence_does_not_look_at_all_spans_of_its_line():
    looks = 0

    class Watched(tuple):
        def __iter__(self):
            nonlocal looks
            looks += 1
            return super().__iter__()

        def __getitem__(self, place):
            nonlocal looks
            looks += 1
            return super().__getitem__(place)

    count, text = 400, "word word."
    edges = [(11 * n, 11 * n + 10) for n in range(count)]
    notes = {"unit": [Watched((start, start + 4, 1)) for start, _ in edges]}
    annotations = Annotations(SENTENCES, lowercase=False)
    assert annotations.undivided(edges, notes) == edges
    for start, _ in edges:
        assert annotations.spans(text, start, notes, (text, None), text) == {"unit": [(0, 4, 1)]}
    assert 0 < looks < 20 * count


def test_a_large_lexicon_over_the_sample(tokenizers):
    """157,000 entries: every unit is an entry, no entry that fits is missed, longest first."""
    folder = SHARED / "ernie" / "thuocl"
    if not folder.exists():
        pytest.skip("needs shared/data/ernie/thuocl beside the repository")
    lexicon = Lexicon(str(folder / "*.txt"))
    lexicon.ready(True)
    lines = [line for path in folder.glob("*.txt") for line in path.read_text(encoding="utf-8").splitlines()]
    entries = {line.split("\t")[0].strip().lower() for line in lines} - {""}
    assert len(entries) > 140_000

    def inside(text, place):
        """Whether a word of letters with spaces, or a number, goes on across ``place``."""
        return re.match(r"[^\W一-鿿㐀-䶿]{2}", text[place - 1 : place + 1]) is not None

    text = sample_path("zh/wikipedia.txt").read_text(encoding="utf-8")[:6_000].lower()
    for line in text.split("\n"):
        spans, place = lexicon.find(line, None), 0
        wanted = []
        while place < len(line):
            lengths = [n for n in range(30, 0, -1) if line[place : place + n] in entries and place + n <= len(line)]
            lengths = [n for n in lengths if not (inside_word(line, place) or inside_word(line, place + n))]
            if lengths:
                wanted.append((place, place + lengths[0]))
            place += lengths[0] if lengths else 1
        assert spans == wanted


def test_the_formats_of_the_documentation_are_read(tmp_path, tokenizers, monkeypatch):
    page = ROOT / "docs" / "data.md"
    files = dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def made(name: str, annotations: str | None = None, **facts) -> Store:
        specs = yaml.safe_load(files[annotations]) if annotations else {}
        own = {key: make_annotator({"init_args": {}, **spec}, key) for key, spec in specs.items()}
        return build(tmp_path, tokenizers["wordpiece"], name, own, **facts)

    assert np.diff(made("text.txt").documents).tolist() == [3, 1]
    assert np.diff(made("texts.jsonl").documents).tolist() == [3, 2]
    spans = made("spans.jsonl", "annotations.yaml")
    assert units(spans, "phrase") == ["captainahab", "newyork", "whitewhale"]
    assert units(spans, "entity") == ["captainahab", "newyork"]
    linked = np.asarray(made("linked.jsonl", "linked.yaml").arrays["entity_id"])
    assert linked[linked > 0].tolist() == [2, 1]
    dialogue = made("dialogues.jsonl", "dialogues.yaml")
    assert dialogue.arrays["role"][dialogue.sentences[:-1]].tolist() == [1, 2, 2]
    pairs = made("pairs.jsonl", "pairs.yaml")
    assert pairs.arrays["label"][pairs.document_tokens()[:-1]].tolist() == [1, 3]
    segmented = made("segmented.txt", segmenter="space")
    assert (np.asarray(segmented.flags)[:8] & WORD_START).tolist() == [1, 1, 1, 0, 1, 0, 0, 1]
    pytest.importorskip("rjieba")
    assert Segmenter("rjieba", "words.txt").words("去天安门广场唱卡拉OK")[1] == [0, 1, 6, 7]
