"""Vectors with names in word2vec's two formats (specs: word2vec, section 6).

Both begin with a line ``count width``. In the text form a line is a name and its values, spaces between them. In the
binary form a record is a name, a space, ``width`` little-endian float32 values, and a line end, which some writers
leave out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError
from zoo.storage.files import replaced_file
from zoo.storage.user_files import open_bytes, read_lines

_SPACES = " \t"  # what parts values
_DIGITS = 10  # of a number that is larger than any count
_DECIMAL = re.compile(rb"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")
_HEAD = 2**16  # bytes that tell the form
_LONGEST_NAME = 4096  # bytes
Floats = NDArray[np.float32]


class NamedVectors(NamedTuple):
    """Names, and a vector for each.

    Args:
        names: N of them.
        vectors: (N, width) float32.
    """

    names: list[str]
    vectors: Floats


# --- reading ---------------------------------------------------------------------------------------------------------


def read_vector_file(path: Path) -> NamedVectors:
    """Names and vectors of a file in either form, also where its name ends in ``.gz``.

    Raises:
        ZooError: a file that is neither, with the line, or in the binary form the byte, at which it is wrong.
    """
    with open_bytes(path) as stream:
        head = stream.read(_HEAD)
    if _is_binary(head):
        return _read_binary(path)
    return _read_text(path)


def _is_binary(head: bytes) -> bool:
    """Whether values behind the first name are bytes of numbers, not digits."""
    line = head.partition(b"\n")[2].partition(b"\n")[0]
    try:
        float(line.rstrip().rpartition(b" ")[2])
    except ValueError:
        return not line.decode(errors="replace").replace("\t", "").isprintable() or b"\xff" in line
    return False


def _stated(line: bytes) -> tuple[int, int] | None:
    """Count and width that a first line states."""
    parts = line.removeprefix(b"\xef\xbb\xbf").split()
    if len(parts) != 2 or not all(part.isdigit() and len(part) < _DIGITS for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def _read_text(path: Path) -> NamedVectors:
    """The text form.

    The first line says how many values a line ends with. What stands before them is the name, spaces in it included;
    only spaces and tabs part values, as U+00A0, U+3000 and U+0085 may stand in a name.
    """
    lines = ((number, line) for number, line in enumerate(read_lines(path), start=1) if line.strip(_SPACES))
    _, first = next(lines, (1, ""))
    stated = _stated(first.encode())
    if stated is None:
        raise ZooError(f"{path}, line 1: a number of entities and a width belong here (word2vec), or give --ids.")
    count, width = stated
    names, rows = list[str](), list[Floats]()
    for number, line in lines:
        name, *values = line.encode().rstrip().rsplit(None, width)
        if len(values) != width:
            raise ZooError(
                f"{path}, line {number}: a name and {width} values are needed, as line 1 says; found {line[:60]!r}."
            )
        if _DECIMAL.fullmatch(name.split()[-1]) and len(name.split()) > 1:
            raise ZooError(
                f"{path}, line {number}: line 1 says that {width} values stand behind a name, here {name.decode()!r}, "
                "whose end looks like one more. Write _ for spaces in a name that ends so, or mend the width in line 1."
            )
        names.append(name.decode().lstrip(_SPACES))
        rows.append(read_values(path, number, values))
    if len(names) != count:
        raise ZooError(f"{path}: line 1 says {count} vectors of width {width}, and {len(names)} are there.")
    return NamedVectors(names, np.stack(rows) if rows else np.zeros((0, width), dtype=np.float32))


def read_values(path: Path, line: int, parts: Sequence[bytes]) -> Floats:
    """The values of a line.

    Raises:
        ZooError: one is no number, or not finite.
    """
    try:
        with np.errstate(over="ignore"):  # what is too large is an error below
            values: Floats = np.array(parts, dtype=np.float32)
    except ValueError as error:
        raise ZooError(f"{path}, line {line}: a value is no number ({error}).") from error
    if not np.isfinite(values).all():
        wrong = parts[int(np.argmin(np.isfinite(values)))]
        raise ZooError(f"{path}, line {line}: the value {wrong.decode()} is not finite, or too large for float32.")
    return values


def _read_binary(path: Path) -> NamedVectors:
    """The binary form."""
    with open_bytes(path) as stream:
        content = stream.read()
    head, _, _ = content.partition(b"\n")
    stated = _stated(head[:_LONGEST_NAME])
    if stated is None:
        raise ZooError(f"{path}, line 1: a number of vectors and a width belong here (word2vec's binary form).")
    count, width = stated
    place = len(head) + 1
    if count * (4 * width + 2) > len(content) - place:
        raise ZooError(
            f"{path}: line 1 says {count:,} vectors of width {width}, which take more than the file's {len(content):,} "
            "bytes: it is cut short, or its first line is wrong."
        )
    names, vectors = list[str](), np.empty((count, width), dtype=np.float32)
    for number, (start, name, end) in enumerate(_records(path, content, place, count, width)):
        vectors[number] = np.frombuffer(content, "<f4", width, end)
        if not np.isfinite(vectors[number]).all():
            raise ZooError(
                f"{path}, byte {start}: the vector of {name!r} (number {number + 1}) holds a value that is not finite: "
                "the file is damaged before here, or a name in it holds a space."
            )
        names.append(name)
    return NamedVectors(names, vectors)


def _records(path: Path, content: bytes, place: int, count: int, width: int) -> Iterator[tuple[int, str, int]]:
    """Where each record starts, its name, and where its values start."""
    for number in range(1, count + 1):
        while content[place : place + 1] == b"\n":  # behind the record before
            place += 1
        end = content.find(b" ", place, place + _LONGEST_NAME)
        if end < 0 or end + 1 + 4 * width > len(content):
            raise ZooError(f"{path}, byte {place}: record {number} of {count} is cut short or has no name.")
        try:
            name = content[place:end].decode()
        except UnicodeDecodeError as error:
            raise ZooError(
                f"{path}, byte {place + error.start}: the name of record {number} is no UTF-8: the file is damaged "
                "before here, or a name in it holds a space, which ends a name in the binary form."
            ) from error
        yield place, name, end + 1
        place = end + 1 + 4 * width
    if content[place:].strip(b"\n"):
        raise ZooError(
            f"{path}, byte {place}: {len(content) - place:,} bytes are left behind the {count:,} vectors that line 1 "
            "says: its count is wrong, or a name in the file holds a space."
        )


# --- writing ---------------------------------------------------------------------------------------------------------


def write_vector_file(path: Path, names: Sequence[str], vectors: Floats, binary: bool) -> None:
    """Write a file in either form, whole or not at all.

    Raises:
        ZooError: a name is empty or holds white space that other readers would end it at.
    """
    wrong = next((name for name in names if not name or not set(name).isdisjoint(" \t\n\r\v\f\0")), None)
    if wrong is not None:
        raise ZooError(f"{wrong!r} cannot be written: a space ends a name in word2vec's formats. Write _ in its place.")
    with replaced_file(path) as stream:
        stream.write(f"{len(names)} {vectors.shape[1]}\n".encode())
        for name, vector in zip(names, np.asarray(vectors, dtype="<f4"), strict=True):
            if binary:
                stream.write(name.encode() + b" " + vector.tobytes() + b"\n")
            else:
                stream.write(f"{name} {' '.join(f'{value:.9g}' for value in vector.tolist())}\n".encode())
