"""C3's JSON lists: a text by its lines, and questions on it with two to four choices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.formats.base import RecordFormat
from zoo.errors import ZooError
from zoo.storage.user_files import check_record, check_surrogates, parse_json, read_lines


def read_c3(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Questions as ``context``, ``question``, ``choice``, and, where there is one, ``answer``, the right one's text.

    A file of dialogues, ``d-train.json`` or ``c3-d-train.json``, is read with the file of mixed texts beside it
    (``m-train.json``), as C3's two halves make one task. A text's lines are joined by line ends (CLUE's baseline,
    ``run_c3.py``).

    Raises:
        ZooError: the other half is missing; or a row of another form, by its number.
    """
    yield from _half(path)
    other = path.with_name(re.sub(r"^(c3-)?d-", r"\1m-", path.name))
    if other != path:
        if not other.is_file():
            raise ZooError(f"{path}: the other half of C3's rows, {other.name}, is not beside it; both are needed.")
        yield from _half(other)


def _half(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = parse_json("\n".join(read_lines(path)), str(path))
    if not isinstance(rows, list):
        raise ZooError(f"{path}: a list of [[lines of a text], [questions], id] is needed.")
    for number, row in enumerate(rows, start=1):
        where = f"{path}, item {number}"
        if not isinstance(row, list) or len(row) < 2 or not all(isinstance(part, list) for part in row[:2]):
            raise ZooError(f"{where}: {str(row)[:60]} is not [[lines of a text], [questions], id].")
        for place, question in enumerate(row[1], start=1):
            own = f"{where}, question {place}"
            yield own, _record(row[0], check_record(question, own, ("question", "choice")), own)


def hub_c3(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The same of one row of the hub: a question, with an empty answer in the test split."""
    record = {**row, "answer": row.get("answer") or None}
    if record["answer"] is not None:
        record.pop("id", None)  # of the text, which several questions share
    return [_record(row["context"], record, f"row {row.get('id', '')} of the hub")]


def _record(lines: Any, question: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ZooError(f"{where}: its text is {str(lines)[:60]}; a list of lines is needed.")
    found = {"context": "\n".join(lines), "question": question["question"], "choice": question["choice"]}
    found |= {name: question[name] for name in ("answer", "id") if question.get(name) is not None}
    check_surrogates(list(found.values()), where)
    return found


C3 = RecordFormat(read_c3, hub_c3)
"""Questions on texts, one example a question."""
