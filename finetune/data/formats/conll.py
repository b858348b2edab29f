"""CoNLL's columns: a word a line, its tag in the last column, an empty line behind each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.formats.base import RecordFormat
from zoo.errors import ZooError
from zoo.storage.user_files import read_lines

_BLANKS = re.compile("[ \t]+")  # and no other white space, which may be a word of the web
_DOCUMENT = "-DOCSTART-"


def read_conll(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sentences as ``tokens``, the first column, and ``tags``, the last one; lines of ``-DOCSTART-`` are dropped.

    A file of words alone has no ``tags``.

    Raises:
        ZooError: a line with another number of columns than the first; by line.
    """
    width, begun, rows = 0, 0, list[list[str]]()
    for number, line in enumerate(read_lines(path), start=1):
        plain = line.strip(" \t\r\n")
        fields = _BLANKS.split(plain) if plain else []
        if fields and fields[0] != _DOCUMENT:
            width = width or len(fields)
            if len(fields) != width:
                raise ZooError(
                    f"{path}, line {number}: {plain[:60]!r} has {len(fields)} columns, and the first line with a word "
                    f"has {width}; each line is a word and its columns, parted by spaces or tabs."
                )
            begun = begun if rows else number
            rows.append(fields)
        elif rows:
            yield f"{path}, line {begun}", _sentence(rows)
            rows = []
    if rows:
        yield f"{path}, line {begun}", _sentence(rows)


def _sentence(rows: list[list[str]]) -> dict[str, Any]:
    tokens = [row[0] for row in rows]
    return {"tokens": tokens} if len(rows[0]) == 1 else {"tokens": tokens, "tags": [row[-1] for row in rows]}


CONLL = RecordFormat(read_conll)
