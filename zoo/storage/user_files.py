"""Files that people hand over, and one way to read them.

What is wrong with a file is said by its name, and its line where there is one: it is not there, it is packed otherwise
than its name says, cut short, no UTF-8, binary, a pointer that git-lfs left in its place, no JSON, or no table of even
rows. Nothing here is guessed: what cannot be read as it stands is refused with what would work.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, cast

from zoo.errors import ZooError, nearest
from zoo.storage.text_encoding import encoding_hint

_BLOCK = 2**14
_HEAD = 2**14  # bytes that tell what a file is
_POINTERS = {  # beginnings of files that stand for others
    b"version https://git-lfs.github.com/spec/": "git-lfs left in its place (`git lfs pull` fetches the file itself)",
    b"/annex/objects/": "git-annex left in its place (`git annex get` fetches the file itself)",
    b"# xet version ": "git-xet left in its place (`git xet checkout` fetches the file itself)",
}
_LINE_END = re.compile(rb"\r+\n|\n\r(?!\n)|\r")
BLANK = "".join(filter(str.isspace, map(chr, range(0x3001)))) + (
    "\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2800\u3164\ufeff"  # without width, or without ink
)
"""Characters that show nothing: a line of them alone is blank."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

# --- bytes -----------------------------------------------------------------------------------------------------------


def pointer_kind(head: bytes) -> str | None:
    """What left a file of these first bytes in the place of another; ``None`` for a file that is one."""
    return next((what for start, what in _POINTERS.items() if head.startswith(start)), None)


def check_pointer(path: Path | str, head: bytes) -> None:
    """Raise ZooError if a file with these first bytes stands for another that was not fetched."""
    if (what := pointer_kind(head)) is not None:
        raise ZooError(f"{path} is not the file itself, but a pointer of some lines that {what}.")


def unreadable(path: Path | str, error: OSError) -> ZooError:
    """The message for a file that the system does not let us read."""
    place = Path(path)
    if isinstance(error, FileNotFoundError):
        if place.is_symlink():
            return ZooError(f"{path} is a link to {place.readlink()}, which does not exist.")
        with contextlib.suppress(OSError):
            return ZooError(f"{path} does not exist.{nearest(place.name, [p.name for p in place.parent.iterdir()])}")
        return ZooError(f"{path} does not exist, nor does the folder {place.parent}.")
    if isinstance(error, IsADirectoryError):
        return ZooError(f"{path} is a folder; a file is needed.")
    if isinstance(error, PermissionError):
        return ZooError(f"{path} may not be read by this user (permission denied).")
    return ZooError(f"{path} cannot be read: {error.strerror or error}.")


@contextlib.contextmanager
def open_bytes(path: Path | str) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where its name ends in ``.gz``. Only what reads them belongs into the block.

    Raises:
        ZooError: the file cannot be read, is a pointer, is no gzip data though it is called so, or is cut short.
    """
    try:
        with Path(path).open("rb") as raw:
            head = raw.peek(64)
            check_pointer(path, head)
            if Path(path).suffix.lower() != ".gz":
                yield raw
                return
            if not head.startswith(b"\x1f\x8b"):
                name = Path(path).name[:-3]
                raise ZooError(
                    f"{path} is not gzip data, as its name says (it starts with {head[:8]!r}). Rename it to {name}, or "
                    "fetch it again."
                )
            with gzip.GzipFile(fileobj=raw) as stream:
                yield cast(IO[bytes], stream)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ZooError(f"{path}: the gzip data is damaged or cut short ({error}); fetch the file again.") from error
    except OSError as error:
        raise unreadable(path, error) from error


class ByteReader(Protocol):
    """What bytes can be read from."""

    def read(self, size: int = ..., /) -> bytes:
        """At most so many bytes; none at the end."""


class LineEnds:
    r"""Bytes of a stream whose lines all end with a line feed.

    A line ends with ``\n``, ``\r\n`` (however many ``\r`` stand there), ``\n\r``, or with ``\r`` alone, as files of old
    Macintosh do; U+2028, U+0085 and the like are ordinary characters.

    Args:
        stream: the bytes.
    """

    def __init__(self, stream: ByteReader) -> None:
        self._stream, self._held = stream, b""

    def read(self, size: int) -> bytes:
        """About ``size`` bytes; none at the end."""
        while True:
            part = self._stream.read(size)
            joined = self._held + part
            body = joined.rstrip(b"\r\n") if part else joined  # a line end may go on in the next part
            self._held = joined[len(body) :]
            if body or not part:
                return _with_line_feeds(body)


def _with_line_feeds(data: bytes) -> bytes:
    if b"\r" not in data:
        return data
    data = data.replace(b"\r\n", b"\n")
    return _LINE_END.sub(b"\n", data) if b"\r" in data else data


# --- text ------------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 text file without their ends, in bounded memory; a byte-order mark is dropped.

    Raises:
        ZooError: as :func:`open_bytes`; not UTF-8 or with zero bytes, naming the line.
    """
    with open_bytes(path) as stream:
        source, number, head = LineEnds(stream), 0, b""
        rest = list[bytes]()  # parts of a line; a file may be one line of many megabytes
        while part := source.read(_BLOCK):
            if not number and not head:
                part = part.removeprefix(codecs.BOM_UTF8)
                head = part[:_HEAD]
            lines = part.split(b"\n")
            rest.append(lines[0])
            if len(lines) == 1:
                continue
            for line in (b"".join(rest), *lines[1:-1]):
                number += 1
                yield _decoded(line, path, number, head)
            rest = [lines[-1]]
        if last := b"".join(rest):
            yield _decoded(last, path, number + 1, head)


def _decoded(line: bytes, path: Path | str, number: int, head: bytes) -> str:
    if (place := line.find(b"\0")) >= 0:
        raise ZooError(f"{path}, line {number}: a zero byte at byte {place + 1} of the line. {encoding_hint(head)}")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        seen = head if line[: error.end] in head else head + line[: error.end + 64]
        raise ZooError(
            f"{path}, line {number}: invalid UTF-8 at byte {error.start + 1} of the line "
            f"({line[error.start : error.start + 4]!r}). {encoding_hint(seen)}"
        ) from error


def is_blank(line: str) -> bool:
    """Whether a line shows nothing: white space of any kind, and characters without width."""
    stripped = line.strip()
    return not stripped or (stripped[0] in BLANK and not stripped.strip(BLANK))


def whole_text(path: Path) -> str:
    """A whole UTF-8 text file; its lines end with a line feed, a byte-order mark is dropped.

    Raises:
        ZooError: as :func:`read_lines`.
    """
    return "\n".join(read_lines(path))


# --- JSON ------------------------------------------------------------------------------------------------------------


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON.
        where: file, and line or record, with which messages begin.

    Raises:
        ZooError: it is no JSON, or JSON that Python does not read: numbers of thousands of digits, lists in lists in
            lists.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if "\n" not in text.rstrip() else f"line {error.lineno}, column {error.colno}"
        shown = text[max(error.pos - 30, 0) : error.pos + 30].strip()
        raise ZooError(f"{where}: broken JSON: {error.msg} at {place}: {shown!r}") from error
    except RecursionError as error:
        raise ZooError(
            f"{where}: lists or objects of JSON lie too deep in each other to be read; leave that field out."
        ) from error
    except ValueError as error:  # Python converts no number of more than 4,300 digits
        raise ZooError(
            f"{where}: a number of JSON has thousands of digits, which cannot be read; leave it out, or put it in "
            "quotes."
        ) from error


def parse_record(text: str, where: str, fields: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON object of one record, with these fields.

    Args:
        text: the JSON.
        where: file and line, with which messages begin.
        fields: those that must be there, and hold no half of a surrogate pair.

    Raises:
        ZooError: as :func:`parse_json`; it is no object, or lacks a field, or no UTF-8 can be made of one.
    """
    wanted = list(fields)
    value = check_record(parse_json(text, where), where, wanted)
    if _SURROGATE.search(text):
        for name in wanted:
            check_surrogates(value[name], f"{where}: field {name!r}")
    return value


def check_record(value: Any, where: str, fields: Sequence[str] = ()) -> dict[str, Any]:
    """A value of JSON, if it is an object with these fields; ZooError otherwise, which begins with ``where``."""
    if not isinstance(value, dict):
        needed = f" with {', '.join(map(repr, fields))}" if fields else ""
        found = f"found a JSON {json_kind(value)}: {json.dumps(value, ensure_ascii=False)[:60]!r}"
        raise ZooError(f"{where}: a JSON object{needed} was expected, {found}.")
    for name in fields:
        if name not in value:
            have = ", ".join(map(repr, list(value)[:20])) or "none"
            raise ZooError(f"{where}: no field {name!r}; there are {have}.{nearest(name, value)}")
    return value


def read_records(path: Path, fields: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and JSON object of each line of a file that is not blank (``.jsonl``, also ``.jsonl.gz``).

    Args:
        path: the file.
        fields: those that every record must have, see :func:`parse_record`.

    Raises:
        ZooError: as :func:`read_lines` and :func:`parse_record`.
    """
    wanted = tuple(fields)
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield number, parse_record(line, f"{path}, line {number}", wanted)


def record_text(value: Any, name: str, where: str) -> str:
    """A field's text, and not how Python writes something else.

    Raises:
        ZooError: it is no text.
    """
    if isinstance(value, str):
        return value
    shown = json.dumps(value, ensure_ascii=False, default=lambda other: f"of type {type(other).__name__}")[:80]
    raise ZooError(f"{where}: {name!r} is {shown}; a text is needed, in JSON between quotes.")


def check_surrogates(value: Any, where: str) -> None:
    """Raise ZooError if a text, at any depth of a JSON value, holds half of a surrogate pair."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ZooError(
                f"{where} holds half a surrogate pair ({value[error.start]!r}), of which no character can be made; the "
                "record was cut there. Mend or delete it."
            ) from error
    elif isinstance(value, dict | list):
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            check_surrogates(item, where)


def json_kind(value: Any) -> str:
    """What JSON calls a value that Python read from it."""
    words = {dict: "object", list: "list", str: "string", bool: "true or false", type(None): "null"}
    return words.get(type(value), "number")


# --- tables ----------------------------------------------------------------------------------------------------------


def read_table(path: Path, quoted: bool, even: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is not blank.

    Args:
        path: the file.
        quoted: commas part the cells, and quotes may stand around one (CSV). Otherwise tabs part them, and a quote is
            an ordinary character.
        even: all rows must have as many cells as the first.

    Raises:
        ZooError: as :func:`read_lines`; quotes that do not close, a row of another width.
    """
    rows = _csv_rows(path) if quoted else ((n, line.split("\t")) for n, line in enumerate(read_lines(path), start=1))
    first, width = 0, 0
    for number, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if not first:
            first, width = number, len(cells)
        if even and len(cells) != width:
            parted, works = ("comma", " A cell with a comma stands between quotes in CSV.") if quoted else ("tab", "")
            shown = ("," if quoted else "\t").join(cells)[:80]
            raise ZooError(
                f"{path}, line {number}: {len(cells)} {parted}-separated columns where line {first} has {width}; found "
                f"{shown!r}.{works}"
            )
        yield number, cells


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and cells, of each row: a cell between quotes may hold line ends."""
    reader = csv.reader((f"{line}\n" for line in read_lines(path)), strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ZooError(
                f"{path}, line {first}: the quotes of this row do not close as CSV's do (at line {reader.line_num}: "
                f'{error}). A cell that begins with a quote ends with one, and a quote in it is doubled: "a ""b"" c".'
            ) from error
        if cells is None:
            return
        yield first, cells


def column_place(column: str, names: Sequence[str], path: Path) -> int:
    """Where a column stands among those of a table; ZooError if it is missing, or there twice."""
    if names.count(column) == 1:
        return names.index(column)
    listed = ", ".join(names[:20])
    if column in names:
        raise ZooError(
            f"{path}: {names.count(column)} columns are called {column!r}; one is needed. There are: {listed}."
        )
    mark = next((mark for mark in ("\t", ";", ",") if len(names) == 1 and mark in names[0]), None)
    works = f" They seem to be parted by {mark!r}: .tsv parts columns by tabs, .csv by commas." if mark else ""
    raise ZooError(f"{path}: no column {column!r}.{nearest(column, names)} The header has: {listed}.{works}")


def read_parquet(path: Path, columns: Sequence[str], optional: Iterable[str] = ()) -> list[dict[str, Any]]:
    """These columns of a Parquet file's rows.

    Args:
        path: the file.
        columns: that it must have.
        optional: read where it has them.

    Raises:
        ZooError: as :func:`open_bytes`; it is no Parquet file or a damaged one, or a column is missing.
    """
    import pyarrow
    import pyarrow.parquet

    with open_bytes(path) as stream:
        if not (head := stream.read(4)):
            raise ZooError(f"{path} is empty.")
        if head != b"PAR1":
            raise ZooError(f"{path} is not a Parquet file, as its name says (it starts with {head!r}).")
        try:
            with pyarrow.parquet.ParquetFile(stream) as file:
                for column in columns:
                    column_place(column, file.schema_arrow.names, path)
                also = [column for column in optional if column in file.schema_arrow.names]
                return file.read(columns=list(dict.fromkeys([*columns, *also]))).to_pylist()
        except (OSError, ValueError, pyarrow.ArrowException) as error:  # ValueError: a text that is no UTF-8
            raise ZooError(f"{path}: the Parquet data is damaged or cut short ({error}).") from error
