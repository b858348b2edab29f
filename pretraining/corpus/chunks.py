"""Sources to chunks: a few megabytes that end with a document, the unit of work, of progress and of restart.

A chunk is known by its bytes, so that mending one line of a file leaves the finished work on all other chunks valid. A
document longer than a chunk is handed over in parts.
"""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.parallel import read_pairs
from pretraining.corpus.sources import Source, no_text_field
from zoo.errors import ZooError
from zoo.storage.files import hub_answers, hub_problem
from zoo.storage.user_files import BLANK, LineEnds, open_bytes

CHUNK = 4 * 2**20
"""Bytes after which the next document end closes a chunk; twice as much closes it anywhere."""
RECORD_LIMIT = 64 * 2**20
"""Longest JSON line that is read; unlike text it cannot be cut, so memory must hold it whole."""
_DOCUMENT_END = re.compile(b"\n(?:" + b"|".join(c.encode() for c in BLANK if c != "\n") + b")*\n")


@dataclass(frozen=True)
class Chunk:
    """Raw bytes of some whole lines of one source.

    Args:
        data: the bytes; for Parquet and hub data sets one JSON string, or object, per line; for pairs a JSON list.
        kind: ``txt``, ``jsonl``, ``pairs``, or ``strings`` and ``rows`` of Parquet and hub data sets.
        file: where they come from.
        line: number of the first line.
        continued: the chunk before it ended inside a document.
        position: bytes of the source read so far, for progress.
        inside_line: the chunk before it ended inside a line.
        language: number of the text's language, from 1; 0 = not known, or several.
    """

    data: bytes
    kind: Literal["txt", "jsonl", "strings", "rows", "pairs"]
    file: str
    line: int
    continued: bool
    position: int
    inside_line: bool = False
    language: int = 0

    @property
    def key(self) -> str:
        """Identity by content: the same bytes read the same way give the same key."""
        digest = hashlib.blake2b(f"{self.kind} {self.continued:d}{self.inside_line:d} ".encode(), digest_size=16)
        digest.update(f"{self.language} ".encode() * bool(self.language) + self.data)
        return digest.hexdigest()


def read_chunks(source: Source, config: CorpusConfig) -> Iterator[Chunk]:
    """Chunks of one source, in order; the same ones on every machine.

    Raises:
        ZooError: damaged compression, a JSON line above ``RECORD_LIMIT``, an unreachable hub data set.
    """
    for chunk in _chunks(source, config):
        yield dataclasses.replace(chunk, language=source.language) if source.language else chunk


def _chunks(source: Source, config: CorpusConfig) -> Iterator[Chunk]:
    if source.kind == "pairs":
        yield from _pair_chunks(source)
        return
    if source.kind == "parquet":
        yield from _parquet_chunks(source, config)
        return
    if source.kind == "hub":
        yield from _hub_chunks(source, config)
        return
    with open_bytes(source.path) as stream:
        yield from _byte_chunks(stream, source)


def _byte_chunks(raw: IO[bytes], source: Source) -> Iterator[Chunk]:
    """Chunks of a text or JSON-lines stream."""
    cut_at = _cut_text if source.kind == "txt" else _cut_records
    limit = 2 * CHUNK if source.kind == "txt" else RECORD_LIMIT
    kind: Literal["txt", "jsonl"] = "txt" if source.kind == "txt" else "jsonl"
    stream, packed = LineEnds(raw), getattr(raw, "fileobj", raw)  # a GzipFile knows what it unpacks
    buffer = _fill(stream, b"", 2 * CHUNK)
    if buffer.startswith(codecs.BOM_UTF8):
        buffer = buffer[len(codecs.BOM_UTF8) :]
    line, continued, inside = 1, False, False
    while buffer:
        cut, goes_on = cut_at(buffer, len(buffer) < 2 * CHUNK)
        while cut == 0:  # a record that is longer than the buffer
            if len(buffer) >= limit:
                raise ZooError(
                    f"{source.path}:{line}: a JSON line of more than {limit // 2**20} MB; a record is read whole, so "
                    "memory would not be bounded. Split it, or give the text as .txt, where lines may have any length."
                )
            longer = _fill(stream, buffer, min(2 * len(buffer), limit))
            cut, goes_on = cut_at(longer, len(longer) == len(buffer))
            buffer = longer
        data = buffer[:cut]
        yield Chunk(data, kind, source.path, line, continued, packed.tell(), inside)
        line += data.count(b"\n")
        continued, inside = goes_on, goes_on and not data.endswith(b"\n")
        buffer = _fill(stream, buffer[cut:], 2 * CHUNK)


def _fill(stream: LineEnds, buffer: bytes, size: int) -> bytes:
    """Read on until ``buffer`` holds ``size`` bytes or the stream ends."""
    parts, have = [buffer], len(buffer)
    while have < size:
        part = stream.read(min(size - have, 2**20))
        if not part:
            break
        parts.append(part)
        have += len(part)
    return b"".join(parts)


def _cut_text(buffer: bytes, last: bool) -> tuple[int, bool]:
    """Where a text chunk ends, and whether its last document goes on behind the cut."""
    end = _DOCUMENT_END.search(buffer, CHUNK) if len(buffer) > CHUNK else None
    if end is not None:
        return end.end(), False
    if last:
        return len(buffer), False
    for separator in (b"\n", b" ", "。".encode()):
        cut = buffer.rfind(separator, CHUNK)
        if cut >= 0:
            return cut + len(separator), True
    cut = len(buffer)
    while cut > len(buffer) - 4 and buffer[cut - 1] & 0xC0 == 0x80:  # back to the start of a UTF-8 character
        cut -= 1
    return cut - 1, True


def _cut_records(buffer: bytes, last: bool) -> tuple[int, bool]:
    """Where a JSON-lines chunk ends; 0 where not one line is whole."""
    if last:
        return len(buffer), False
    end = buffer.find(b"\n", CHUNK)
    if end < 0:
        end = buffer.rfind(b"\n")
    return end + 1, False


def _pair_chunks(source: Source) -> Iterator[Chunk]:
    """Chunks of a parallel corpus: a JSON list of two texts per line, nothing where a side is empty."""
    lines: list[bytes] = []
    size, first, position, number = 0, 1, 0, 0
    for number, pair in enumerate(read_pairs(source.files), start=1):
        line = json.dumps(pair, ensure_ascii=False).encode("utf-8", "surrogatepass") if all(pair) else b""
        lines.append(line + b"\n")
        size += len(lines[-1])
        if size >= CHUNK:
            position = min(position + size, source.size)
            yield Chunk(b"".join(lines), "pairs", source.path, first, False, position)
            lines, size, first = [], 0, number + 1
    if lines:
        yield Chunk(b"".join(lines), "pairs", source.path, first, False, source.size)


def _parquet_chunks(source: Source, config: CorpusConfig) -> Iterator[Chunk]:
    """Chunks of a Parquet file, read some rows at a time."""
    import pyarrow
    import pyarrow.parquet

    with Path(source.path).open("rb") as raw, pyarrow.parquet.ParquetFile(raw) as file:
        rows = max(file.metadata.num_rows, 1)
        names = [config.text_field, *(name for name in config.recorded if name in file.schema_arrow.names)]
        batches = file.iter_batches(batch_size=256, columns=names)
        read = (row for batch in batches for row in batch.to_pylist())
        try:
            yield from _row_chunks(read, source.path, source.size / rows, config)
        except (OSError, pyarrow.ArrowException) as error:
            raise ZooError(f"{source.path}: the Parquet data is damaged or cut short ({error}).") from error


def _hub_chunks(source: Source, config: CorpusConfig) -> Iterator[Chunk]:
    """Chunks of a hub data set."""
    data = load_hub(source.path, config)
    size = int(getattr(data, "size_in_bytes", None) or 0)
    yield from _row_chunks(iter(data), source.path, size / max(len(data), 1), config)


def _row_chunks(
    rows: Iterator[Mapping[str, Any]], file: str, bytes_per_row: float, config: CorpusConfig
) -> Iterator[Chunk]:
    """Chunks of a stream of rows, one per line: JSON strings, or objects where annotations read more than the text."""
    kind: Literal["strings", "rows"] = "rows" if config.recorded else "strings"
    lines: list[bytes] = []
    size, first, number = 0, 1, 0
    for number, row in enumerate(rows, start=1):
        text = row[config.text_field]
        value = {config.text_field: text, **{name: row[name] for name in config.recorded if name in row}}
        line = json.dumps(value if kind == "rows" else text, ensure_ascii=False)
        lines.append(line.encode("utf-8", "surrogatepass") + b"\n")
        size += len(lines[-1])
        if size >= CHUNK:
            yield Chunk(b"".join(lines), kind, file, first, False, int(number * bytes_per_row))
            lines, size, first = [], 0, number + 1
    if lines:
        yield Chunk(b"".join(lines), kind, file, first, False, int(number * bytes_per_row))


def load_hub(name: str, config: CorpusConfig) -> Any:
    """A data set of the hub (or of its local cache) by ``datasets``, memory-mapped.

    Raises:
        ZooError: not there or not reachable, or without the text field.
    """
    import datasets

    hub_answers()
    try:
        data = datasets.load_dataset(name, config.subset, split=config.split)
    except Exception as error:  # datasets raises dozens of kinds; the message is what helps
        raise ZooError(
            f"corpus.files: {name!r} is neither a file or folder here ({Path.cwd()}) nor could it be loaded as a hub "
            f"data set (subset {config.subset!r}, split {config.split!r}): {hub_problem(error)}."
        ) from error
    if config.text_field not in data.column_names:
        raise ZooError(no_text_field(name, config.text_field, list(data.column_names)))
    return data
