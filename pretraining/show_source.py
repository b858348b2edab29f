"""What ``zoo show`` reads a text with: settings, tokenizer, and a small store that begins with the text.

The text is prepared as any corpus is. Some documents of the config's own store follow it, so that random second
segments are real ones.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.annotate import Annotator, Field
from pretraining.assemble import Stores, check_sources, make_tasks, prepare_store, unmet_needs
from pretraining.config import PretrainConfig, load_pretrain_config
from pretraining.corpus import CorpusConfig
from pretraining.loader import TaskData
from pretraining.objectives import MaskedLM
from pretraining.prepare import prepare
from pretraining.score import rule_of
from pretraining.show_command import ShowConfig
from pretraining.store import Store
from pretraining.tokenizer import TokenizerConfig, ZooTokenizer, load_tokenizer
from pretraining.trust import refuse_foreign_code
from zoo.config import read_json
from zoo.errors import ZooError
from zoo.folder import ModelFacts, read_facts
from zoo.settings.load import load_settings
from zoo.vocabulary import Vocabulary

_OTHERS = 40  # documents that random second segments come from
_OTHER_SENTENCES = 30  # sentences taken of each
_ROOM = 8  # tokens that a row of a pair may have beyond the text
_LENGTH = 128  # longest row of a model that does not say how it was trained
_SHORTEST = 32  # tokens that it may have in any case
_ELSEWHERE = (
    "Second segments come from the text that {folder} was trained on. --data.corpus.files PATH takes them from other "
    "text, under the run's own tokenizer."
)


class Subject(NamedTuple):
    """Settings, and what they read a text with.

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


def load_config(name: str, overrides: list[str], wish: ShowConfig) -> Subject:
    """Settings by a config's name, or by several joined with ``+``; the store is built on demand, as for a run.

    Raises:
        ZooError: wrong settings; or no task could make a row of the text, which is told before anything is prepared.
    """
    argv = [word for part in name.split("+") for word in ("--config", part)]
    config = load_pretrain_config([*argv, *overrides], joint="+").value
    reasons = [_hopeless(config, task, f"--config {name}", wish) for task in wish.chosen_tasks(config.tasks)]
    if all(reasons):
        raise ZooError("\n".join(reasons))
    check_sources(config)
    store = prepare_store(config, True)
    return Subject(config.name, config, load_tokenizer(store.path), store.path, store)


def _hopeless(config: PretrainConfig, name: str, source: str, wish: ShowConfig) -> str:
    """Why a task can make no row of the text, whatever is in it, and a command that would; empty where it may.

    Args:
        config: the settings.
        name: the task.
        source: how the command names them.
        wish: the text.
    """
    layout, corpus = config.tasks[name].layout, corpus_of(config, name)
    lacking = unmet_needs(config, name)
    if lacking is not None:
        if not lacking.settings:
            return lacking.message
        short = [f"--tasks.{name}.layout.init_args.{key} {value}" for key, value in layout.short.items()]
        command = " ".join(["zoo show", source, lacking.settings, *short, f"'{lacking.record}'"])
        return f"{lacking.message} The text is a record then; for example, with a file of such records:\n{command}"
    hint = record_hint(corpus, wish.text)
    if hint and layout.needs & set(corpus.recorded):
        return f"task {name!r}: {type(layout).__name__} makes no row without {', '.join(sorted(layout.needs))}.{hint}"
    return ""


def load_run(name: str, overrides: list[str], wish: ShowConfig) -> Subject:
    """Settings and tokenizer of a run folder, or of a model folder that says of its training only what its facts are.

    Raises:
        ZooError: no such folder, one that names code from elsewhere, or its corpus is gone and is needed.
    """
    folder = Path(name)
    if not (folder / "run.json").is_file() and not (folder / "config.json").is_file():
        raise ZooError(
            f"{folder} has no run.json and no config.json; --run takes a folder of `python -m pretraining` or of "
            "`zoo import`, --config settings."
        )
    title = folder.name
    if (folder / "run.json").is_file():
        record = read_json(folder / "run.json")
    else:
        record = {"config": _settings_of_model(read_facts(folder))}
        title += " (how it was trained is not known: its head's objective, with default settings)"
    recorded: dict[str, Any] = record.get("config", {})
    refuse_foreign_code(folder, recorded, wish.trust_code)
    settings = load_settings(PretrainConfig, overrides, "zoo show", "pretrain", recorded)
    config, store = settings.value, None
    if any(others_wanted(task.layout.provides, wish) for task in config.tasks.values()):
        moved = settings.resolved["data"]["corpus"] != recorded["data"]["corpus"]
        store = _store_of_run(config, folder, None if moved else record.get("data_fingerprint"))
    return Subject(title, config, load_tokenizer(folder), folder, store)


def _settings_of_model(facts: ModelFacts) -> dict[str, Any]:
    """Settings under which a model that was brought in can be shown: what its token head says of its objective.

    Raises:
        ZooError: it has none; says what would work.
    """
    heads = [name for name, head in facts.heads.items() if head["kind"] == "token"]
    if not heads:
        have = ", ".join(f"{name} ({head['kind']})" for name, head in facts.heads.items()) or "none"
        raise ZooError(
            f"{facts.path} has no run.json that says how it was trained, and no head that predicts tokens (its heads: "
            f"{have}). Name the objectives by a config, under the model's tokenizer: zoo show --config NAME "
            f"--data.tokenizer.kind file --data.tokenizer.path {facts.path} TEXT"
        )
    rule = rule_of(facts, heads[0])
    objective: dict[str, Any] = {"class_path": f"pretraining.objectives.{type(rule).__name__}"}
    if isinstance(rule, MaskedLM):
        objective["init_args"] = {"choose": {"class_path": "pretraining.choose.Tokens"}}
    layout = "Blocks" if facts.visibility == "causal" else "FullSentences"
    return {
        "name": facts.path.name,
        "model": facts.config.to_dict(),
        "template": facts.template.to_dict(),
        "data": {
            "corpus": {"files": "the text"},
            "tokenizer": {"kind": "file", "path": str(facts.path)},
            "sequence_length": min(_LENGTH, facts.config.max_length),
        },
        "objectives": {heads[0]: objective},
        "tasks": {"text": {"layout": {"class_path": f"pretraining.layouts.{layout}"}, "objectives": [heads[0]]}},
        "train": {"steps": 1},
    }


def _store_of_run(config: PretrainConfig, folder: Path, fingerprint: str | None) -> Store:
    """The store that a run was trained on, or, without its fingerprint, other text under the run's tokenizer."""
    if fingerprint is None:
        tokenizer = TokenizerConfig(kind="file", path=str(folder))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=tokenizer))
    try:
        store = prepare_store(config, True)
    except ZooError as error:
        raise ZooError(f"{error}\n{_ELSEWHERE.format(folder=folder)}") from error
    if fingerprint not in (None, store.fingerprint):
        raise ZooError(f"{store.path} is not what {folder} was trained on.\n{_ELSEWHERE.format(folder=folder)}")
    return store


def others_wanted(provides: frozenset[str], wish: ShowConfig) -> int:
    """Documents behind the text: by default only where the layout makes pairs."""
    if wish.others is not None:
        return wish.others
    return _OTHERS if "pair_label" in provides else 0


def corpus_of(config: PretrainConfig, task: str) -> CorpusConfig:
    """What a task's text is prepared with: its own corpus settings, else the run's."""
    return config.tasks[task].corpus or config.data.corpus


def text_store(subject: Subject, task: str, wish: ShowConfig, folder: Path) -> TextStore:
    """The text as a task reads it, with documents of the task's own store behind it.

    Raises:
        ZooError: the text cannot be prepared, or the task's own text, which other documents come from, is missing.
    """
    config = subject.config
    count, other = others_wanted(config.tasks[task].layout.provides, wish), subject.store
    corpus, data = config.tasks[task].corpus, config.data
    if count and corpus is not None:
        tokenizer = TokenizerConfig(kind="file", path=str(subject.home), special=subject.tokenizer.roles)
        try:
            other = prepare(corpus, tokenizer, data.stores, processes=data.processes, quiet=True)
        except ZooError as error:
            raise ZooError(
                f"tasks.{task}.corpus: {error} Other documents come from there: --tasks.{task}.corpus.files PATH, or "
                "--others 0 for the text alone."
            ) from error
    return TextStore(tokenised(subject, wish.text, folder, corpus_of(config, task)), other, count)


def record_of(text: str, field: str) -> dict[str, Any] | None:
    """The JSON record that a text is, or ``None`` for plain text.

    Raises:
        ZooError: it holds several records, or one without the field of the text.
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
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
    if not isinstance(annotator, Field):
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
    record = record_of(text, corpus.text_field)
    path = folder / ("text.txt" if record is None else "text.jsonl")
    content = text if record is None else f"{json.dumps(record, ensure_ascii=False)}\n"
    path.write_bytes(content.encode("utf-8", "replace"))
    given = {
        name: annotator if record is not None and name in record else annotator.lenient()
        for name, annotator in corpus.annotations.items()
    }
    own = dataclasses.replace(
        data,
        corpus=dataclasses.replace(corpus, files=str(path), annotations=given),
        tokenizer=TokenizerConfig(kind="file", path=str(subject.home)),
        stores=str(folder),
        processes=1,
    )
    try:
        return prepare_store(dataclasses.replace(subject.config, data=own), False)
    except ZooError as error:
        raise ZooError(str(error).replace(repr(str(path)), "the text").replace(str(path), "the text")) from error


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


def row_length(provides: frozenset[str], tokens: int, configured: int) -> int:
    """Longest row: the config's, but little more than the text where a random second segment would fill it up."""
    return min(configured, max(tokens + _ROOM, _SHORTEST)) if "pair_label" in provides else configured


def make_task(
    config: PretrainConfig, name: str, store: TextStore, vocabulary: Vocabulary, seed: int, length: int
) -> TaskData:
    """One task over the small store, made and checked as a run does; where rows make streams, it is a single one."""
    alone = dataclasses.replace(
        config,
        model=config.model.replace(mem_len=None, reuse_len=None, same_length=False),  # rows are shortened to the text
        tasks={name: config.tasks[name]},
        stages=None,
        curriculum=None,
        data=dataclasses.replace(config.data, sequence_length=length, validation_tokens=0),
        seed=dataclasses.replace(config.seed, data=seed),
        train=dataclasses.replace(config.train, batch_size=1, micro_batch_size=None),
    )
    return make_tasks(alone, Stores(store, {name: store}), vocabulary)[0][name]
