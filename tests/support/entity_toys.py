"""Small tables of entity vectors, stores with mentions, and facts of small cores that read them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from training import write_corpus

from pretraining.corpus.config import CorpusConfig
from pretraining.store.prepare import prepare_from_ids, prepare_store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from zoo.config_parts import FusionConfig
from zoo.storage.entity_table import save_entities
from zoo.vocabulary import Template

WIDTH = 12
FUSION = FusionConfig(layer_types=("mixed", "full"), entity_size=WIDTH, num_attention_heads=3)


def make_table(folder: Path, count: int = 40, width: int = WIDTH, seed: int = 0) -> Path:
    """Entities Q0, Q1, ... with random vectors of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    save_entities(folder, [f"Q{i}" for i in range(count)], vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return folder


@cache
def shared_table() -> str:
    """One table for all tests that only read it."""
    folder = tempfile.mkdtemp(prefix="entities-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(make_table(Path(folder)))


def make_store(folder: Path, entities: int = 40, share: int = 4, documents: int = 60) -> Path:
    """A store of the shipped sample whose every ``share``-th token is a mention; its entity follows from the token."""
    corpus = CorpusConfig(files=str(write_corpus(folder, documents)))
    plain = prepare_store(corpus, TokenizerConfig(vocab_size=600), folder / "plain", processes=1, quiet=True)
    texts: list[list[list[int]]] = []
    for document in range(plain.num_documents):
        first, last = plain.documents[document : document + 2]
        edges = plain.sentences[first : last + 1]
        texts.append([plain.tokens[a:b].tolist() for a, b in pairwise(edges)])
    ids = [[[1 + i % entities if i % share == 0 else 0 for i in part] for part in text] for text in texts]
    tokenizer = load_tokenizer(plain.path)
    return prepare_from_ids(texts, tokenizer, folder / "linked", template=Template(), arrays={"entity_id": ids}).path


def entity_arguments(folder: Path, **more: int) -> list[str]:
    """The part of a tiny run's command line that says what entities need; store and table are made in ``folder``."""
    values = {
        "data.corpus.files": make_store(folder, **more),
        "objectives.entities.init_args.entities": make_table(folder / "table"),
        "model.num_hidden_layers": 2,
        "model.fusion.layer_types": "[mixed,full]",
        "model.fusion.entity_size": WIDTH,
        "model.fusion.num_attention_heads": 3,
    }
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]
