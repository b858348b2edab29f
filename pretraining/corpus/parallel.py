"""Translations: two aligned files, or a table of two columns, read pair by pair.

Line n of one file translates line n of the other. A pair becomes a document of two sentences, first the source, then
the target, so that the store, its tokenizer and its flags need to know nothing of languages.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from zoo.errors import ZooError
from zoo.storage.user_files import is_blank, read_lines, unreadable

_TABLE = (".tsv", ".tsv.gz")


class PairFiles(NamedTuple):
    """Where pairs are.

    Args:
        source: the first language's lines; or a table, one pair a line, its first two columns parted by tabs.
        target: the second language's lines; ``None`` = ``source`` is a table.
    """

    source: Path
    target: Path | None = None

    def __str__(self) -> str:
        """Both names."""
        return str(self.source) if self.target is None else f"{self.source} and {self.target}"

    @property
    def size(self) -> int:
        """Bytes of both.

        Raises:
            ZooError: one cannot be read, or is empty.
        """
        total = 0
        for path in filter(None, self):
            try:
                size = path.stat().st_size
            except OSError as error:
                raise ZooError(f"corpus.files: {unreadable(path, error)}") from error
            if size == 0:
                raise ZooError(f"corpus.files: {path} is empty (0 bytes).")
            total += size
        return total


def pair_files(paths: Sequence[Path]) -> list[PairFiles]:
    """What ``corpus.files`` names where ``corpus.parallel`` is set: tables, or one aligned pair of files.

    Raises:
        ZooError: something else.
    """
    tables = [path for path in paths if path.name.lower().endswith(_TABLE)]
    if tables and len(tables) == len(paths):
        return [PairFiles(path) for path in paths]
    if tables or len(paths) != 2:
        raise ZooError(
            f"corpus.files names {len(paths)} files ({', '.join(map(str, paths[:4]))}), and corpus.parallel: true "
            "reads two files with as many lines, [SOURCE, TARGET], or tables (.tsv) with a pair in each line."
        )
    return [PairFiles(*paths)]


def read_pairs(files: PairFiles) -> Iterator[tuple[str, str]]:
    """Both sides of every pair, in order, without white space around them; either may be empty.

    Raises:
        ZooError: one file ends before the other, or a line of a table has one column, naming the line.
    """
    if files.target is None:
        for number, line in enumerate(read_lines(files.source), start=1):
            columns = line.split("\t")
            if len(columns) < 2 and not is_blank(line):
                raise ZooError(
                    f"{files.source}:{number}: one column ({line[:60]!r}); a source and its translation were expected, "
                    "with a tab between them."
                )
            yield _side(columns[0]), _side(columns[1] if len(columns) > 1 else "")
        return
    sides = itertools.zip_longest(read_lines(files.source), read_lines(files.target))
    for number, (source, target) in enumerate(sides, start=1):
        if source is None or target is None:
            raise _different_length(files, number, source is None, sum(1 for _ in sides))
        yield _side(source), _side(target)


def _side(text: str) -> str:
    return "" if is_blank(text) else text.strip()


def _different_length(files: PairFiles, number: int, source_ended: bool, more: int) -> ZooError:
    """What is said where line ``number`` of one file has no partner, and ``more`` lines come after it."""
    shorter, longer = (files.source, files.target) if source_ended else (files.target, files.source)
    return ZooError(
        f"{longer}:{number}: has no translation: {shorter} ends after line {number - 1:,}, and {longer} has "
        f"{number + more:,} lines. Aligned files have as many lines; where one was lost, all that follow are paired "
        "wrongly."
    )


class PairCounts(NamedTuple):
    """What a look through all pairs found.

    Args:
        pairs: pairs, both sides of which have text.
        empty: lines of which only one side has text.
        first_empty: the first such line, from 1; 0 = none.
    """

    pairs: int
    empty: int
    first_empty: int

    @property
    def told(self) -> str:
        """In words."""
        left_out = f"; {self.empty:,} with an empty side are left out, the first in line {self.first_empty:,}"
        return f"{self.pairs:,} pairs{left_out if self.empty else ''}"


def count_pairs(files: PairFiles, languages: Sequence[str]) -> PairCounts:
    """Look through all pairs before any work is done on them.

    Args:
        files: where they are.
        languages: what their sides are called, for messages.

    Raises:
        ZooError: as :func:`read_pairs`; or one language has no text in any line.
    """
    seen, pairs, empty, first = [0, 0], 0, 0, 0
    for number, sides in enumerate(read_pairs(files), start=1):
        for place, side in enumerate(sides):
            seen[place] += bool(side)
        if all(sides):
            pairs += 1
        elif any(sides):
            empty, first = empty + 1, first or number
    for place, found in enumerate(seen):
        if not found:
            where = files.source if files.target is None else (files.source, files.target)[place]
            column = f" (column {place + 1})" if files.target is None else ""
            raise ZooError(f"corpus.files: {where}{column} has no text in the language {languages[place]!r}.")
    if not pairs:
        raise ZooError(f"corpus.files: {files}: no line has text on both sides, so there is no pair.")
    return PairCounts(pairs, empty, first)
