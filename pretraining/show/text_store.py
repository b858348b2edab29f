"""What a text is shown under: a config or run folder, with its tokenizer and the store of other documents."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.annotations.base import Annotator
from pretraining.annotations.field import RecordField
from pretraining.corpus.config import CorpusConfig
from pretraining.show.config import ShowConfig
from pretraining.store.prepare import prepare_store
from pretraining.store.token_store import Store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.training.assemble import make_tasks
from pretraining.training.config import PretrainConfig
from pretraining.training.loader import TaskLoader
from pretraining.training.stores import TokenStores, run_store
from zoo.errors import ZooError
from zoo.storage.user_files import parse_json
from zoo.vocabulary import Vocabulary

_OTHERS = 40  # documents that random second segments come from
_OTHER_SENTENCES = 30  # sentences taken of each
_BETWEEN = " ||| "  # a text and its translation, as in Moses' tables
_ROOM = 8  # tokens that a row of a pair may have beyond the text
_SHORTEST = 32  # tokens that it may have in any case


def others_wanted(provided: frozenset[str], show_config: ShowConfig) -> int:
    """Documents behind the text: by default only where the layout makes pairs."""
    if show_config.others is not None:
        return show_config.others
    return _OTHERS if "row_labels" in provided else 0


def corpus_of(config: PretrainConfig, task: str) -> CorpusConfig:
    """What a task's text is prepared with: its own corpus settings, else the run's."""
    return config.tasks[task].corpus or config.data.corpus


def text_store(subject: Subject, task: str, show_config: ShowConfig, folder: Path) -> TextStore:
    """The text as a task reads it, with documents of the task's own store behind it.

    Raises:
        ZooError: the text cannot be prepared, or the task's own text, which other documents come from, is missing.
    """
    config = subject.config
    count, other = others_wanted(config.tasks[task].layout.provided_fields, show_config), subject.store
    corpus, data = config.tasks[task].corpus, config.data
    if count and corpus is not None:
        tokenizer = TokenizerConfig(kind="file", path=str(subject.home), special=subject.tokenizer.roles)
        try:
            other = prepare_store(corpus, tokenizer, data.stores, processes=data.processes, quiet=True)
        except ZooError as error:
            raise ZooError(
                f"tasks.{task}.corpus: {error} Other documents come from there: --tasks.{task}.corpus.files PATH, or "
                "--others 0 for the text alone."
            ) from error
    return TextStore(tokenised(subject, show_config.text, folder, corpus_of(config, task)), other, count)


def record_of(text: str, field: str) -> dict[str, Any] | None:
    """The JSON record that a text is, or ``None`` for plain text.

    Raises:
        ZooError: it holds several records, or one without the field of the text.
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        record = parse_json(text, "the text")
    except ZooError:
        return None  # a text may well begin with a bracket
    if field not in record:
        raise ZooError(f"the record has no field {field!r} (corpus.text_field); it has {', '.join(record) or 'none'}.")
    return dict(record)


def record_hint(corpus: CorpusConfig, text: str) -> str:
    """What a record would have to hold that plain text cannot, as the end of a message; empty where that is nothing."""
    if not corpus.recorded or record_of(text, corpus.text_field) is not None:
        return ""
    example = {corpus.text_field: ["...", "..."], **{n: _example(a) for n, a in corpus.recorded.items()}}
    shown = json.dumps(example, ensure_ascii=False)
    return (
        f"\nPlain text has no {', '.join(corpus.recorded)}: give a JSON record as the text (one line of a JSONL file): "
        f"zoo show ... '{shown}'"
    )


def _example(annotator: Annotator) -> Any:
    """A value of an annotation for a record of two texts."""
    if annotator.marks == "units":
        return [[[0, 2]], []]
    if not isinstance(annotator, RecordField):
        return [[[0, 2, "NAME"]], []]
    names = annotator.values if isinstance(annotator.values, list) else [0, 1]
    return [names[0], names[-1]]


def tokenised(subject: Subject, text: str, folder: Path, corpus: CorpusConfig | None = None) -> Store:
    """The text as a store of its own in ``folder``, prepared as a corpus is, with the subject's tokenizer.

    Args:
        subject: settings and tokenizer.
        text: plain text, or a JSON record as a line of a JSONL file holds it.
        folder: where the store is made.
        corpus: how to prepare it; absent = as the run's own corpus.
    """
    data = subject.config.data
    corpus = corpus or data.corpus
    languages = corpus.languages or []
    record = record_of(text, corpus.text_field) if len(languages) < 2 else None
    if len(languages) < 2:
        contents = (
            {"text.txt": text} if record is None else {"text.jsonl": json.dumps(record, ensure_ascii=False) + "\n"}
        )
    elif corpus.parallel:
        contents = {"text.tsv": "\t".join(_text_of_each(text, languages)) + "\n"}
    else:
        contents = {f"text-{n}.txt": part for n, part in enumerate(_text_of_each(text, languages))}
    paths = [folder / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content.encode("utf-8", "replace"))
    given = {
        name: annotator if record is not None and name in record else annotator.lenient()
        for name, annotator in corpus.annotations.items()
    }
    own = dataclasses.replace(
        data,
        corpus=dataclasses.replace(
            corpus, files=str(paths[0]) if len(paths) == 1 else list(map(str, paths)), annotations=given
        ),
        tokenizer=TokenizerConfig(kind="file", path=str(subject.home)),
        stores=str(folder),
        processes=1,
    )
    try:
        return run_store(dataclasses.replace(subject.config, data=own), False)
    except ZooError as error:
        message = str(error)
        for path in paths:
            message = message.replace(repr(str(path)), "the text").replace(str(path), "the text")
        raise ZooError(message) from error


def _text_of_each(text: str, languages: list[str]) -> list[str]:
    """A text and its translations, one in each language.

    Raises:
        ZooError: a language has none, or several.
    """
    parts = [" ".join(part.split()) for part in text.replace("\t", _BETWEEN).split(_BETWEEN)]
    if len(parts) != len(languages) or not all(parts):
        raise ZooError(
            f"the text is to be one in each of {', '.join(languages)}, with a tab or {_BETWEEN.strip()} between them: "
            f"zoo show ... '{_BETWEEN.join(f'TEXT IN {language}' for language in languages)}'"
        )
    return parts


class TextStore(Store):
    """The documents of a text, and some of another store behind them, in memory.

    Args:
        own: the text.
        other: where the others come from.
        count: how many of them, spread evenly over their store.

    Attributes:
        own_documents: documents of the text.
        own_tokens: its tokens.
    """

    def __init__(self, own: Store, other: Store | None, count: int) -> None:
        parts: list[tuple[Store, int, int | None]] = [(own, number, None) for number in range(own.num_documents)]
        if other is not None:
            chosen = np.linspace(0, other.num_documents - 1, min(count, other.num_documents)).astype(np.int64)
            parts += [(other, int(number), _OTHER_SENTENCES) for number in np.unique(chosen)]
        spans, sizes = [], []
        for store, number, limit in parts:
            first, last = (int(edge) for edge in store.documents[number : number + 2])
            edges = np.asarray(store.sentences[first : min(last, first + (limit or last)) + 1])
            spans.append((store, slice(int(edges[0]), int(edges[-1]))))
            sizes.append(np.diff(edges))
        self.path, self.meta, self.fingerprint = Path("the text"), own.meta, own.fingerprint
        self.tokens = np.concatenate([store.tokens[span] for store, span in spans])
        self.flags = np.concatenate([store.flags[span] for store, span in spans])
        self.sentences = np.append(0, np.cumsum(np.concatenate(sizes))).astype(np.int64)
        self.documents = np.append(0, np.cumsum([len(part) for part in sizes])).astype(np.int64)
        self.counts = (other or own).counts
        dtypes = {name: values.dtype for store in (other or own, own) for name, values in store.arrays.items()}
        self.arrays = {
            name: np.concatenate([_part_of(store, name, span, dtype) for store, span in spans])
            for name, dtype in dtypes.items()
        }
        self.own_documents, self.own_tokens = own.num_documents, own.num_tokens


def _part_of(store: Store, name: str, span: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A part of a named array; zeros where a store was prepared without it."""
    if name in store.arrays:
        return np.asarray(store.arrays[name][span])
    return np.zeros(span.stop - span.start, dtype=dtype)


def row_length(provided: frozenset[str], tokens: int, configured: int) -> int:
    """Longest row: the config's, but little more than the text where a random second segment would fill it up."""
    return min(configured, max(tokens + _ROOM, _SHORTEST)) if "row_labels" in provided else configured


def make_task(
    config: PretrainConfig, name: str, store: TextStore, vocabulary: Vocabulary, seed: int, length: int
) -> TaskLoader:
    """One task over the small store, made and checked as a run does; where rows make streams, it is a single one."""
    alone = dataclasses.replace(
        config,
        model=config.model.replace(mem_len=None, reuse_len=None, same_length=False),  # rows are shortened to the text
        tasks={name: config.tasks[name]},
        stages=None,
        curriculum=None,
        data=dataclasses.replace(config.data, sequence_length=length, validation_tokens=0),
        seed=dataclasses.replace(config.seed, data=seed),
        train=dataclasses.replace(config.train, batch_size=1, batch_tokens=None, micro_batch_size=None),
    )
    return make_tasks(alone, TokenStores(store, {name: store}), vocabulary)[0][name]


class Subject(NamedTuple):
    """A config or run folder under which a text is shown.

    Args:
        title: what to call them.
        config: the settings.
        tokenizer: the tokenizer.
        home: folder that it lies in.
        store: where other documents come from; ``None`` where a run needs none.
    """

    title: str
    config: PretrainConfig
    tokenizer: ZooTokenizer
    home: Path
    store: Store | None
