"""MRPC's two origins: GLUE's three tables, and Microsoft's two files with GLUE's list of the development rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.formats.base import RecordFormat
from zoo.errors import ZooError
from zoo.storage.user_files import column_place, read_table

_WHOLE, _DEVELOPMENT = "msr_paraphrase_train.txt", "mrpc_dev_ids.tsv"
_IDS = ("#1 ID", "#2 ID")


def read_mrpc(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows by the columns of the file's header.

    ``msr_paraphrase_train.txt`` stands for its rows that are not in ``mrpc_dev_ids.tsv`` beside it, and that list for
    those that are. Any other file stands for itself. Source: nyu-mll/GLUE-baselines, ``download_glue_data.py``.

    Raises:
        ZooError: one of the two is not there, an id of the list is not found, or rows of different widths; by line.
    """
    if path.name not in (_WHOLE, _DEVELOPMENT):
        yield from _table(path)
        return
    listed = {(cells[0], cells[1]) for _, cells in read_table(path.with_name(_DEVELOPMENT), quoted=False)}
    found = set[tuple[str, str]]()
    for where, record in _table(path.with_name(_WHOLE)):
        ids = (record[_IDS[0]], record[_IDS[1]])
        found.add(ids)
        if (ids in listed) == (path.name == _DEVELOPMENT):
            yield where, record
    lacking = sorted(listed - found)
    if lacking:
        raise ZooError(
            f"{path.with_name(_DEVELOPMENT)} lists {len(lacking):,} pairs that {_WHOLE} beside it lacks; the first is "
            f"{lacking[0][0]}, {lacking[0][1]}. The whole file of the corpus is needed."
        )


def _table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = read_table(path, quoted=False)
    header = next(rows, None)
    if header is None:
        raise ZooError(f"{path} is empty.")
    names = header[1]
    for name in _IDS if path.name == _WHOLE else ():
        column_place(name, names, path)
    for number, cells in rows:
        yield f"{path}, line {number}", dict(zip(names, cells, strict=True))


MRPC = RecordFormat(read_mrpc)
"""On the hub, MRPC is a table."""
