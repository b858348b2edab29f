"""Lists of similar words, tokenizers that know them, and rows made of words: what tests of similar words share."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from stores import BERT_LIKE, FIRST_ID
from tokenizers import Tokenizer, models, pre_tokenizers

from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import examples_from_tokens
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.tokenizer.train import train_tokenizer

LIST = """美丽	漂亮	好看	优雅美观
漂亮	美丽	好看
图书馆	阅览室	博物馆	书店	展览馆
看	瞧	望	观看

中国	华夏
"""
KNOWN = {"美丽": ["漂亮", "好看"], "漂亮": ["美丽", "好看"], "看": ["瞧", "望"], "中国": ["华夏"]}
KNOWN["图书馆"] = ["阅览室", "博物馆", "展览馆"]
OTHERS = ["我", "石桥", "古老的", "天气", "首都"]  # words without an entry


@cache
def chinese() -> ZooTokenizer:
    """A character of each word in the list and the texts is a token."""
    texts = [LIST.replace("\t", ""), *OTHERS] * 3
    return train_tokenizer(TokenizerConfig(kind="wordpiece", vocab_size=200, min_frequency=1), texts)


def rows_of(words: list[list[str]], width: int | None = None, cut: int = 0) -> Examples:
    """A row ``[CLS] words [SEP]`` of each list of words, without the first ``cut`` tokens of its text."""
    tokenizer = chinese()
    encoded = []
    for line in words:
        starts = np.cumsum([0, *map(len, line)])[:-1].tolist()
        ((ids, flags),) = tokenizer.encode_batch(["".join(line)], [starts])
        encoded.append((ids[cut:], flags[cut:]))
    rows = examples_from_tokens(encoded, tokenizer.vocabulary, [tokenizer.vocabulary.cls], [tokenizer.vocabulary.sep])
    assert width is None or rows.shape[1] == width
    return rows


@cache
def synthetic() -> ZooTokenizer:
    """Tokens of the synthetic stores by name: ``t17`` has the id 17."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"t{i}" for i in range(FIRST_ID, BERT_LIKE.size))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(names[:FIRST_ID])
    return ZooTokenizer(backend, dict(zip(("pad", "unk", "cls", "sep", "mask"), names)))


@cache
def synthetic_list() -> str:
    """A list in which every other token of the synthetic stores is like the next two."""
    folder = tempfile.mkdtemp(prefix="similar-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "similar.txt"
    path.write_text("".join(f"t{i}\tt{i + 1}\tt{i + 2}\n" for i in range(FIRST_ID, BERT_LIKE.size - 2, 2)))
    return str(path)
