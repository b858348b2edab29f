"""SQuAD's JSON, which CMRC 2018 and DRCD use, too: titles, their passages, questions of each passage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.formats.base import RecordFormat
from zoo.errors import ZooError
from zoo.storage.user_files import check_record, check_surrogates, json_kind, parse_json, whole_text

_OLDER = {"context_text": "context", "query_text": "question", "query_id": "id"}
"""Names of CMRC 2018's first release, a list of passages whose answers have no places."""


def read_questions(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A record with ``id``, ``question``, ``context`` and ``answers`` for each question of a file.

    A question that ``is_impossible`` has no answers; its ``plausible_answers`` are left out.
    Source: SQuAD's files of versions 1.1 and 2.0; ymcui/cmrc2018, ``data`` and ``squad-style-data``.

    Args:
        path: the file.

    Raises:
        ZooError: no JSON, or a part that is missing or no object or list; by its place.
    """
    value = parse_json(whole_text(path), str(path))
    check_surrogates(value, str(path))
    if isinstance(value, list):
        for number, passage in enumerate(value):
            yield from _of_passage(passage, f"{path}, passage {number + 1}")
        return
    for number, title in enumerate(_items(value, "data", str(path))):
        where = f"{path}, data[{number}]"
        for place, passage in enumerate(_items(title, "paragraphs", where)):
            yield from _of_passage(passage, f"{where}.paragraphs[{place}]")


def _of_passage(passage: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    passage = _renamed(passage, where)
    for number, item in enumerate(_items(passage, "qas", where)):
        place = f"{where}.qas[{number}]"
        question = check_record(_renamed(item, place), place, ["question", "id"])
        record = {"id": question["id"], "question": question["question"]}
        record["context"] = check_record(passage, where, ["context"])["context"]
        if question.get("is_impossible") is True:
            record["answers"] = []
        elif "answers" in question:
            record["answers"] = question["answers"]
        yield f"{place} ({question['id']})", record


def _renamed(value: Any, where: str) -> dict[str, Any]:
    return {_OLDER.get(name, name): item for name, item in check_record(value, where).items()}


def _items(value: Any, name: str, where: str) -> list[Any]:
    """The list that an object has under a name."""
    items = check_record(value, where, [name])[name]
    if not isinstance(items, list):
        raise ZooError(f"{where}: {name!r} is a JSON {json_kind(items)}; a list is needed.")
    return items


SQUAD = RecordFormat(read_questions)
"""On the hub, these tasks are tables, a row for each question."""
