"""ChID's JSON lines: passages with blanks for idioms, ten candidates for all blanks of a line; answers beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data.formats.base import RecordFormat
from zoo.errors import ZooError
from zoo.storage.user_files import check_record, parse_json, read_lines, read_records

_BLANK = re.compile(r"#idiom\d+#")


def read_chid(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Blanks, with their passage as ``content``: a list of the texts around all its blanks.

    Beside it stand ``blank``, the number of the one that is asked about, the line's ``candidates``, ``line``, which
    the blanks of a line share, and ``id``, the blank's name. ``answer``, a candidate's number, is that of the file
    ``train_answer.json`` for ``train.json``; a test file has none.

    Raises:
        ZooError: the answers are missing; or a line of another form, by its number.
    """
    answers = _answers(path)
    for number, record in read_records(path, ("content", "candidates")):
        where = f"{path}, line {number}"
        for made in _records(record, str(number), where):
            place = f"{where}, {made['id']}"
            if answers is not None:
                if made["id"] not in answers:
                    raise ZooError(f"{place}: {_answer_file(path).name} has no answer for it.")
                made["answer"] = answers[made["id"]]
            yield place, made


def _answer_file(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.json')}_answer.json")


def _answers(path: Path) -> Mapping[str, Any] | None:
    found = _answer_file(path)
    if found.is_file():
        return check_record(parse_json("\n".join(read_lines(found)), str(found)), str(found))
    if path.name.startswith("test"):
        return None
    raise ZooError(f"{path}: its answers, {found.name}, are not beside it; they are needed to train and to score.")


def hub_chid(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The same of one line of the hub, whose ``answers`` stand in the order of the blanks."""
    where = f"row {row.get('idx', '')} of the hub"
    found = list(_records(row, str(row.get("idx", "")), where))
    answers = row.get("answers") or []
    numbers = answers["candidate_id"] if isinstance(answers, dict) else [one["candidate_id"] for one in answers]
    if len(numbers) not in (0, len(found)):
        raise ZooError(f"{where}: {len(found)} blanks and {len(numbers)} answers; one each is needed.")
    return [{**record, "answer": number} for record, number in zip(found, numbers, strict=True)] if numbers else found


def _records(record: dict[str, Any], line: str, where: str) -> Iterator[dict[str, Any]]:
    passages = record["content"]
    if not isinstance(passages, list) or not all(isinstance(passage, str) for passage in passages):
        raise ZooError(f"{where}: 'content' is {str(passages)[:60]}; a list of passages is needed.")
    for passage in passages:
        pieces = _BLANK.split(passage)
        for number, name in enumerate(_BLANK.findall(passage)):
            yield {
                "content": pieces,
                "blank": number,
                "candidates": record["candidates"],
                "line": line,
                "id": name,
            }


CHID = RecordFormat(read_chid, hub_chid)
"""Blanks in passages, one example a blank."""
