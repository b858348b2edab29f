"""Annotations of the token store: what is found, what records give, which tokens it falls on, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pretraining.annotate import Annotator, Field, Lexicon, Linked, Words
from pretraining.corpus import CorpusConfig
from pretraining.prepare import prepare
from pretraining.store import SENTENCE_START, WORD_START, Store
from pretraining.tokenizer import TokenizerConfig, ZooTokenizer, load_tokenizer, train_tokenizer
from zoo.errors import ZooError

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
    return prepare(corpus, tokenizer, folder / "stores", processes=1, quiet=True)


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
    annotations = {"role": Field(values=2), "label": Field(values=["strong", "weak"])}
    store = build(tmp_path, tokenizers["wordpiece"], path, annotations)
    assert np.diff(store.documents).tolist() == [2, 2]  # a list's lines are one sentence each, a text's are split
    first, second = (store.tokens[a:b] for a, b in zip(store.sentences[:2], store.sentences[1:3]))
    role, label = store.arrays["role"].tolist(), store.arrays["label"].tolist()
    assert role == [1] * len(first) + [2] * len(second) + [1] * (len(role) - len(first) - len(second))
    assert label == [2] * (len(first) + len(second)) + [1] * (len(role) - len(first) - len(second))
