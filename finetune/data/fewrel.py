"""``zoo fewrel --source FOLDER --output FOLDER``: FewRel's sentences as a supervised task with spans.

They are split so that nothing that is scored was seen before. It writes
``train.json`` and ``dev.json`` (``sentence``, ``label``, ``head`` and ``tail`` as ``[[start, end, "Q42"]]``),
``tasks.yaml`` for ``--task_file``, and each part's facts as triples (``train.triples.tsv`` ...). Vectors for a model
that is scored here must not come from facts that are scored: ``zoo entities --triples graph.triples.tsv --exclude
dev.triples.tsv``. Nor is it wise to take those of ``train``: the vectors would say the label in training only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from zoo.errors import ZooError
from zoo.settings.load import load_settings
from zoo.settings.yaml_files import as_yaml
from zoo.storage.files import read_json, write_atomic
from zoo.storage.user_files import json_kind
from zoo.values import Probability, Range, Seed, UserPath, check_fields

_DATA = ("train_wiki.json", "val_wiki.json")
_NAMES = "pid2name.json"
MARKS = {"head": ["[HD]", "[HD]"], "tail": ["[TL]", "[TL]"]}


class EntityMention(NamedTuple):
    """An entity and where a sentence names it first: characters [start, stop)."""

    start: int
    stop: int
    entity: str


@dataclass(frozen=True)
class RelationSentence:
    """A sentence that says a fact of two entities.

    Args:
        sentence: its words with spaces between them.
        relation: Wikidata's id, ``P26``.
        head: the fact's subject.
        tail: its object.
    """

    sentence: str
    relation: str
    head: EntityMention
    tail: EntityMention


@dataclass(frozen=True)
class FewRelConfig:
    """What the command is told.

    Args:
        source: folder with FewRel's ``train_wiki.json`` or ``val_wiki.json``, or both, and ``pid2name.json``.
        output: folder for the task.
        split: ``entity``: no entity of ``dev`` is in another part; ``fact``: no fact and no sentence is, entities are.
        dev: share of each relation's sentences in ``dev``.
        graph: share whose facts alone are kept, for vectors (with ``split: fact``, where parts share entities).
        seed: of the order in which sentences are given to ``dev`` and the graph.
    """

    source: UserPath
    output: UserPath
    split: Literal["entity", "fact"] = "entity"
    dev: Annotated[float, Range(above=0, below=1)] = 2 / 7
    graph: Probability = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Raise ZooError if the shares leave no part to train on."""
        check_fields(self)
        if self.graph >= 1 - self.dev:
            raise ZooError(f"dev = {self.dev} and graph = {self.graph}: shares are needed that leave some to train on.")
        if self.graph and self.split == "entity":
            raise ZooError(
                "graph takes facts for vectors out of the rest; with split: entity the parts have no entity in common, "
                "so that those vectors would be read by nobody. Give --split fact."
            )


def read_fewrel(source: str | Path) -> tuple[list[RelationSentence], dict[str, str]]:
    """All sentences, and the names of their relations by id.

    Raises:
        ZooError: a file is missing or not FewRel's, or a mention is none (naming relation and number).
    """
    folder = Path(source)
    files = [folder / name for name in _DATA if (folder / name).is_file()]
    if not files or not (folder / _NAMES).is_file():
        raise ZooError(f"{folder} needs {_NAMES} and {' or '.join(_DATA)}, as FewRel's repository has them in data/.")
    facts, known = [], read_json(folder / _NAMES)
    for path in files:
        for relation, rows in read_json(path).items():
            if not isinstance(rows, list):
                raise ZooError(f"{path}: {relation} holds a JSON {json_kind(rows)}; a list of sentences is needed.")
            for number, row in enumerate(rows):
                facts.append(_relation_sentence(relation, row, f"{path}, {relation}, sentence {number}"))
            if not isinstance(known.get(relation), list) or not known[relation]:
                raise ZooError(f"{folder / _NAMES} has no name for {relation}, which {path.name} holds.")
    used = dict.fromkeys(fact.relation for fact in facts)
    return facts, {relation: str(known[relation][0]) for relation in used}


def _relation_sentence(relation: str, row: Any, where: str) -> RelationSentence:
    try:
        tokens, ends = [str(token).strip() for token in row["tokens"]], [-1]
        for token in tokens:  # a token of white space adds nothing
            ends.append(ends[-1] + (len(token) + 1 if token else 0))
        sentence = " ".join(token for token in tokens if token)

        def mention(entry: Any) -> EntityMention:
            _, entity, places = entry
            inside = [place for place in places[0] if tokens[place]]
            return EntityMention(ends[inside[0]] + 1, ends[inside[-1] + 1], str(entity))

        return RelationSentence(sentence, relation, mention(row["h"]), mention(row["t"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ZooError(
            f"{where}: {str(row)[:80]}; tokens, and h and t as [name, id, [[token numbers]]], are needed ({error!r})."
        ) from error


def split(facts: Sequence[RelationSentence], config: FewRelConfig) -> dict[str, list[RelationSentence]]:
    """The parts ``train``, ``dev`` and, if it is asked for, ``graph``.

    Sentences that must not be parted go together. Groups are taken in an order given by a hash; one joins ``dev`` (or
    then the graph) if no relation gets more of it than its share, so that the part has each relation in its share as
    far as large groups permit. The rest is trained on.
    """
    groups = _groups(facts, with_entities=config.split == "entity")
    order = sorted(groups, key=lambda rows: _order_key(facts[rows[0]], config.seed))
    totals = Counter(fact.relation for fact in facts)
    parts: dict[str, list[int]] = {"train": [], "dev": []}
    for name, share in (("dev", config.dev), ("graph", config.graph)):
        if not share:
            continue
        room = Counter({relation: round(share * count) for relation, count in totals.items()})
        rest, parts[name] = [], []
        for rows in order:
            needed = Counter(facts[row].relation for row in rows)
            if all(room[relation] >= count for relation, count in needed.items()):
                room.subtract(needed)
                parts[name] += rows
            else:
                rest.append(rows)
        order = rest
    parts["train"] = [row for rows in order for row in rows]
    return {name: [facts[row] for row in sorted(rows)] for name, rows in parts.items()}


def _order_key(fact: RelationSentence, seed: int) -> bytes:
    """The hash by which sentences are ordered. Splits hang on the text that is hashed: the names in it never change."""
    head, tail = (f"Mention(start={m.start!r}, stop={m.stop!r}, entity={m.entity!r})" for m in (fact.head, fact.tail))
    text = f"Fact(sentence={fact.sentence!r}, relation={fact.relation!r}, head={head}, tail={tail})"
    return hashlib.sha256(f"{seed} {text}".encode()).digest()


def _groups(facts: Sequence[RelationSentence], with_entities: bool) -> list[list[int]]:
    """Rows that go together: the same sentence, the same two entities, or any one entity; first row first."""
    parent: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for fact in facts:
        pair = fact.head.entity, fact.tail.entity
        ties: Iterable[Any] = pair if with_entities else (tuple(sorted(pair)),)
        for tie in ties:
            parent[root(tie)] = root(("sentence", fact.sentence))
    found: dict[Any, list[int]] = {}
    for row, fact in enumerate(facts):
        found.setdefault(root(("sentence", fact.sentence)), []).append(row)
    return list(found.values())


def write_task(config: FewRelConfig) -> dict[str, int]:
    """Write the task's folder; how many sentences each part has."""
    facts, names = read_fewrel(config.source)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    parts = split(facts, config)
    for part, own in parts.items():
        rows = [
            {"sentence": fact.sentence, "label": names[fact.relation], "head": [fact.head], "tail": [fact.tail]}
            for fact in own
        ]
        if part != "graph":
            write_atomic(folder / f"{part}.json", "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        triples = sorted({f"{fact.head.entity}\t{fact.relation}\t{fact.tail.entity}\n" for fact in own})
        write_atomic(folder / f"{part}.triples.tsv", "".join(triples))
    task = {
        "name": "fewrel",
        "columns": ["sentence"],
        "labels": sorted(names.values()),
        "metrics": ["accuracy", "macro_f1"],
        "marks": MARKS,
        "max_length": 128,
        "epochs": 10,
    }
    write_atomic(folder / "tasks.yaml", as_yaml(task))
    return {part: len(own) for part, own in parts.items()}


def fewrel_command(argv: list[str]) -> int:
    """``zoo fewrel --source FOLDER --output FOLDER [--split fact] ...``."""
    config = load_settings(FewRelConfig, argv, "zoo fewrel", "fewrel").value
    counts = write_task(config)
    print(f"{config.output}: {', '.join(f'{count:,} {part}' for part, count in counts.items())} sentences")
    return 0
