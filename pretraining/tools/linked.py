"""``zoo linked --tokens FILE --entities FILE --tokenizer FOLDER --output FILE``: text with linked entities.

The form is that of ERNIE-THU's released sample; what is written is a store or JSON lines.

Two files with one line a document: WordPiece ids, and the entity of each id. A line is the number of sentences, then
for each its length and so many values; ``#UNK#`` is no entity. A mention's entity stands at every token of it there,
and at its first one in a store (specs: ERNIE-THU, section 2 and trap 5). Neighbouring mentions of one entity are one.

    zoo linked --tokens wiki_token.tsv.gz --entities wiki_entity.tsv.gz --tokenizer BERT --output FILE
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pretraining.annotations.linked import ENTITY_ARRAY
from pretraining.store.prepare import prepare_from_ids
from pretraining.store.token_store import Store
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.settings.load import load_settings
from zoo.storage.files import replaced_file, write_atomic
from zoo.storage.user_files import read_lines
from zoo.values import UserPath

_NONE = "#UNK#"
_CONTINUES = "##"
_SPACES = re.compile("[ \t]+")  # what parts values; U+00A0 and the like are part of a name
_DIGITS = 10  # of a number that is larger than any id


class TokenMention(NamedTuple):
    """A stretch of tokens of one sentence that names an entity.

    Args:
        start: its first token.
        stop: the token after its last.
        entity: the entity's name.
    """

    start: int
    stop: int
    entity: str


class Sentence(NamedTuple):
    """One sentence.

    Args:
        ids: WordPiece ids.
        mentions: in order.
    """

    ids: list[int]
    mentions: list[TokenMention]


def read_linked(tokens: str | Path, entities: str | Path) -> Iterator[list[Sentence]]:
    """The documents of two such files, gzipped or not.

    Raises:
        ZooError: a file cannot be read, a line's numbers do not add up, or the two files disagree (naming the line).
    """
    pairs = itertools.zip_longest(_read(Path(tokens)), _read(Path(entities)))
    for number, (ids, names) in enumerate(pairs, start=1):
        if ids is None or names is None:
            raise ZooError(f"{tokens if ids is None else entities} ends before line {number}, the other file goes on.")
        if [len(part) for part in ids] != [len(part) for part in names]:
            raise ZooError(f"line {number}: {tokens} and {entities} have sentences of different lengths.")
        wrong = next((i for part in ids for i in part if not (i.isdecimal() and len(i) < _DIGITS)), None)
        if wrong is not None:
            raise ZooError(f"{tokens}, line {number}: an id is no number from 0 on ({wrong[:40]!r}).")
        yield [Sentence([int(i) for i in part], _mentions(own)) for part, own in zip(ids, names, strict=True) if part]


def _read(path: Path) -> Iterator[list[list[str]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if values := [value for value in _SPACES.split(line) if value]:
            yield _sentences(path, number, values)


def _sentences(path: Path, number: int, values: list[str]) -> list[list[str]]:
    """A line's values, sentence by sentence."""
    found, place = [], 1
    for _ in range(_number(values[0], -1)):
        length = _number(values[place], len(values)) if place < len(values) else len(values)
        found.append(values[place + 1 : place + 1 + length])
        place += 1 + length
    if place != len(values) or not found:
        raise ZooError(
            f"{path}, line {number}: {len(values)} values; a number of sentences, then for each its length and so many "
            "values, are needed."
        )
    return found


def _number(value: str, otherwise: int) -> int:
    """The number that a value is, if it can be a length."""
    return int(value) if value.isdecimal() and len(value) < _DIGITS else otherwise


def _mentions(names: Sequence[str]) -> list[TokenMention]:
    found, start = [], 0
    for name, run in itertools.groupby(names):
        stop = start + sum(1 for _ in run)
        if name != _NONE:
            found.append(TokenMention(start, stop, name))
        start = stop
    return found


def entities_of(tokens: str | Path, entities: str | Path) -> list[str]:
    """Names of all entities of two such files, sorted: a list to train vectors for."""
    documents = read_linked(tokens, entities)
    return sorted({mention.entity for document in documents for part in document for mention in part.mentions})


def linked_store(
    tokens: str | Path, entities: str | Path, tokenizer: ZooTokenizer, folder: str | Path, names: Sequence[str]
) -> Store:
    """The files as a store with the array ``entity_id``: number + 1 at the first token of a mention, 0 elsewhere.

    Args:
        tokens: the file of ids.
        entities: the file of entities.
        tokenizer: what the ids belong to.
        folder: parent folder.
        names: entities by number; mentions of others are left out.

    Raises:
        ZooError: as :func:`read_linked` and :func:`pretraining.store.prepare.prepare_from_ids`.
    """
    numbers = {name: number for number, name in enumerate(names, start=1)}

    def aligned(sentence: Sentence) -> list[int]:
        values = [0] * len(sentence.ids)
        for mention in sentence.mentions:
            values[mention.start] = numbers.get(mention.entity, 0)
        return values

    return prepare_from_ids(
        ([part.ids for part in document] for document in read_linked(tokens, entities)),
        tokenizer,
        folder,
        name="linked",
        arrays={ENTITY_ARRAY: ([aligned(part) for part in document] for document in read_linked(tokens, entities))},
    )


def records(documents: Iterator[list[Sentence]], tokenizer: ZooTokenizer) -> Iterator[dict[str, Any]]:
    """Documents as text, a sentence a line, with mentions by character: ``{"text", "entity_id": [[a, b, name]]}``.

    Pieces are put together again; words are parted by spaces, also where the original had none.
    """
    for document in documents:
        text, spans = "", []
        for sentence in document:
            text += "\n" if text else ""
            begins, ends = [], []
            for place, index in enumerate(sentence.ids):
                piece = tokenizer.token(index)
                inside = place > 0 and piece.startswith(_CONTINUES)
                text += "" if inside or place == 0 else " "
                begins.append(len(text))
                text += piece.removeprefix(_CONTINUES) if inside else piece
                ends.append(len(text))
            spans += [[begins[m.start], ends[m.stop - 1], m.entity] for m in sentence.mentions]
        yield {"text": text, ENTITY_ARRAY: spans}


@dataclass(frozen=True)
class LinkedConfig:
    """Settings of ``zoo linked``.

    Args:
        tokens: file of WordPiece ids.
        entities: file of their entities.
        tokenizer: folder or file of the vocabulary that the ids belong to (BERT's uncased English one).
        output: JSONL file to write; ``FILE.entities.txt`` beside it lists the entities.
    """

    tokens: UserPath
    entities: UserPath
    tokenizer: UserPath
    output: UserPath


def write_records(config: LinkedConfig) -> int:
    """Write the JSONL file and the list of its entities; the number of documents."""
    tokenizer, target, count = load_tokenizer(config.tokenizer), Path(config.output), 0
    with replaced_file(target) as stream:  # a document at a time, whatever the size of the whole
        for record in records(read_linked(config.tokens, config.entities), tokenizer):
            stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            count += 1
        names = entities_of(config.tokens, config.entities)
        write_atomic(target.with_name(f"{target.name}.entities.txt"), "".join(f"{name}\n" for name in names))
    return count


def linked_command(argv: list[str]) -> int:
    """``zoo linked --tokens FILE --entities FILE --tokenizer FOLDER --output FILE``."""
    config = load_settings(LinkedConfig, argv, "zoo linked", "linked").value
    print(f"{config.output}: {write_records(config)} documents")
    return 0
