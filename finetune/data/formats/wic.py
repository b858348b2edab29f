"""Word in Context: SuperGLUE's JSON lines, and the tables of the authors' own release, whose labels lie beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.formats.base import RecordFormat
from zoo.errors import ZooError
from zoo.storage.user_files import read_lines, read_records, read_table

_DATA, _GOLD = ".data.txt", ".gold.txt"
_LABELS = {"T": "true", "F": "false"}


def read_wic(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``sentence1``, ``sentence2``, ``label``, and ``target``: the word's place in each, ``[[[start, end]], ...]``.

    Source: jiant, ``tasks.py``, for SuperGLUE's form; WiC's README for the other.

    Raises:
        ZooError: a word that stands outside of its sentence, or another number of labels than of rows; by line.
    """
    if path.name.endswith(_DATA):
        yield from _read_release(path)
        return
    for number, record in read_records(path, ("sentence1", "sentence2", "start1", "end1", "start2", "end2")):
        yield f"{path}, line {number}", _with_target(record)


def hub_wic(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The same of one row of the hub, whose test rows have no class."""
    record = _with_target(row)
    if record.get("label") is None:
        record.pop("label", None)
    return [record]


def _with_target(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "target": [[[record[f"start{side}"], record[f"end{side}"]]] for side in (1, 2)]}


def _read_release(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    gold_path = path.with_name(path.name.removesuffix(_DATA) + _GOLD)
    rows = list(read_table(path, quoted=False))
    gold = [line.strip() for line in read_lines(gold_path)] if gold_path.is_file() else None
    if gold is not None and len(gold) != len(rows):
        raise ZooError(f"{gold_path} has {len(gold):,} labels, and {path} {len(rows):,} rows; they go line by line.")
    for place, (number, cells) in enumerate(rows):
        where = f"{path}, line {number}"
        if len(cells) != 5:
            raise ZooError(
                f"{where}: {len(cells)} columns; word, part of speech, places such as 2-5 and two sentences are needed."
            )
        words = cells[2].split("-")
        if len(words) != 2 or not all(word.isdecimal() for word in words):
            raise ZooError(f"{where}: {cells[2]!r} does not name the two places of the word, as in 2-5.")
        sides = [_word(text, int(word), where) for text, word in zip(cells[3:], words, strict=True)]
        record = {"sentence1": cells[3], "sentence2": cells[4], "target": sides}
        yield where, record if gold is None else {**record, "label": _LABELS.get(gold[place], gold[place])}


def _word(sentence: str, number: int, where: str) -> list[list[int]]:
    """Characters of a word of a sentence whose words are parted by spaces."""
    words = sentence.split(" ")
    if number >= len(words):
        raise ZooError(
            f"{where}: the word {number} is asked for, and the sentence has {len(words)}: {sentence[:60]!r}."
        )
    start = sum(len(word) + 1 for word in words[:number])
    return [[start, start + len(words[number])]]


WIC = RecordFormat(read_wic, hub_wic)
"""Pairs of sentences with a span in each."""
