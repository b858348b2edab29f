"""Reading text: files, folders, globs and hub data sets to documents, in bounded memory.

The reader cuts every source into *chunks* of a few megabytes at document ends. A chunk is the unit of
work, of progress and of restart: it is known by its bytes, so that mending one line of a file leaves
the finished work on all other chunks valid. A document longer than a chunk is handed over in parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from pretraining.annotations.base import Annotator
from pretraining.annotations.base import CharSpan
from pretraining.annotations.base import RecordAnnotator
from pretraining.annotations.base import RecordText
from pretraining.annotations.base import TextAnnotator
from pretraining.text.segmenter import SegmenterName
from typing import Any
from typing import IO
from typing import Literal
from typing import cast
from zoo.errors import ZooError
from zoo.errors import nearest
from zoo.runtime.text_encoding import encoding_hint
from zoo.sample import resolve
import codecs
import dataclasses
import gzip
import hashlib
import json
import re
import zlib

CHUNK = 4 * 2**20
"""Bytes after which the next document end closes a chunk; twice as much closes it anywhere."""
RECORD_LIMIT = 64 * 2**20
"""Longest JSON line that is read; unlike text it cannot be cut, so memory must hold it whole."""

Kind = Literal["txt", "jsonl", "parquet", "hub"]
_EXTENSIONS: dict[str, tuple[Kind, bool]] = {
    ".txt": ("txt", False),
    ".txt.gz": ("txt", True),
    ".jsonl": ("jsonl", False),
    ".jsonl.gz": ("jsonl", True),
    ".parquet": ("parquet", False),
}
_READABLE = ", ".join(_EXTENSIONS)
_MAGIC = (
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PAR1", "a Parquet file"),
    (b"%PDF", "a PDF file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\x7fELF", "a program"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
)
_LOOKED_AT = 4096  # bytes behind a wrong one that may tell what it is
_DOCUMENT_END = re.compile(rb"\n[ \t\r]*\n")
_STRING = "((large_)?string(_view)?|dictionary<values=string.*>)"
_TEXT_COLUMN = re.compile(f"{_STRING}|null|(large_)?list<\\w+: {_STRING}( not null)?>")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class CorpusConfig:
    """Where the text is, and how it becomes sentences and words.

    Args:
        files: a file, a folder (searched through, sorted by name), a glob, a hub id of ``datasets``
            (``wikitext``, ``org/name``), ``zoo:sample/en`` (text that ships with the package), or a list of
            these, read in the order given.
        text_field: field of JSON lines, Parquet files and hub data sets that holds the text: a string, or, in JSON
            lines, a list of strings that are a sentence each (utterances of a dialogue, the two texts of a pair).
        sentences: ``rule`` (:mod:`pretraining.text.sentences`) or ``line`` (one sentence per line).
        segmenter: where Chinese words come from: ``none``, ``rjieba``, ``space`` (segmented already).
        user_dictionary: words for rjieba to know besides its own.
        split: split of a hub data set.
        subset: configuration of a hub data set.
        annotations: what fills the store's arrays of these names (:mod:`pretraining.annotations`).
    """

    files: str | list[str]
    text_field: str = "text"
    sentences: Literal["rule", "line"] = "rule"
    segmenter: SegmenterName = "none"
    user_dictionary: str | None = None
    split: str = "train"
    subset: str | None = None
    annotations: dict[str, Annotator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that no reader knows."""
        for name, known in (("sentences", ("rule", "line")), ("segmenter", ("none", "rjieba", "space"))):
            value = getattr(self, name)
            if value not in known:
                raise ZooError(
                    f"corpus.{name} is {value!r}; it must be one of {', '.join(known)}.{nearest(value, known)}"
                )
        for name, annotator in self.annotations.items():
            where = f"corpus.annotations.{name}"
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ZooError(f"{where}: lower-case letters, digits and _ make the name of an array.")
            if not isinstance(annotator, (TextAnnotator, RecordAnnotator)):
                raise ZooError(f"{where}: {type(annotator).__name__} is neither a TextAnnotator nor a RecordAnnotator.")
            if annotator.needs_words and self.segmenter == "none":
                raise ZooError(
                    f"{where}: {type(annotator).__name__} takes the words of a segmenter, and corpus.segmenter is "
                    "'none'; 'rjieba' finds words of Chinese text, 'space' takes those of text that is segmented."
                )

    @property
    def recorded(self) -> dict[str, RecordAnnotator]:
        """Annotations that read fields of JSON records."""
        return {name: a for name, a in self.annotations.items() if isinstance(a, RecordAnnotator)}

    @property
    def spec(self) -> dict[str, Any]:
        """Plain values that make it again in another process, annotators by their own specs."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**plain, "annotations": {name: annotator.spec for name, annotator in self.annotations.items()}}


@dataclass(frozen=True)
class Document:
    """One document, or a part of one that is longer than a chunk.

    Args:
        lines: paragraphs, without line ends and without empty ones.
        file: where it was read.
        line: number of its first line (for Parquet and hub data sets: of its row), from 1.
        continues: it goes on from the document before it.
        listed: each line is one sentence, whatever the corpus' rule.
        notes: for each line the spans that the record gives, by annotation; empty where there are none.
    """

    lines: list[str]
    file: str
    line: int
    continues: bool = False
    listed: bool = False
    notes: list[dict[str, list[CharSpan]]] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """One file or hub data set.

    Args:
        path: the file, or the hub id.
        kind: how its text is found.
        gzipped: whether it is compressed.
        size: bytes on disk.
    """

    path: str
    kind: Kind
    gzipped: bool = False
    size: int = 0


@dataclass(frozen=True)
class Chunk:
    """Raw bytes of some whole lines of one source.

    Args:
        data: the bytes; for Parquet and hub data sets one JSON string, or object, per line.
        kind: ``txt``, ``jsonl``, or ``strings`` and ``rows`` of Parquet and hub data sets.
        file: where they come from.
        line: number of the first line.
        continued: the chunk before it ended inside a document.
        position: bytes of the source read so far, for progress.
        inside_line: the chunk before it ended inside a line.
    """

    data: bytes
    kind: Literal["txt", "jsonl", "strings", "rows"]
    file: str
    line: int
    continued: bool
    position: int
    inside_line: bool = False

    @property
    def key(self) -> str:
        """Identity by content: the same bytes read the same way give the same key."""
        digest = hashlib.blake2b(f"{self.kind} {self.continued:d}{self.inside_line:d} ".encode(), digest_size=16)
        digest.update(self.data)
        return digest.hexdigest()


# ---------------------------------------------------------------------------------- finding the sources


def resolve_sources(config: CorpusConfig) -> list[Source]:
    """Files and hub data sets that ``config.files`` names, checked as far as that is cheap.

    Raises:
        ZooError: nothing there, unknown extension, empty file, a file that is not what its name says.
    """
    entries = [config.files] if isinstance(config.files, str) else list(config.files)
    if not entries:
        raise ZooError("corpus.files is empty: name a file, a folder, a glob or a hub id.")
    sources: list[Source] = []
    for entry in entries:
        sources.extend(_resolve(entry, config))
    return sources


def _resolve(entry: str, config: CorpusConfig) -> list[Source]:
    """Sources of one entry of ``corpus.files``."""
    path = Path(resolve(entry)).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and _extension(p) is not None)
        if not found:
            others = sorted({p.suffix or "(none)" for p in path.rglob("*") if p.is_file()})
            seen = f"its files end in {', '.join(others[:12])}" if others else "it is empty"
            raise ZooError(f"corpus.files: the folder {path} holds nothing readable ({_READABLE}); {seen}.")
        return [_file_source(p, config) for p in found]
    if path.exists():
        return [_file_source(path, config)]
    if any(mark in entry for mark in "*?["):
        return [_file_source(p, config) for p in matching(entry, path, "corpus.files:")]
    if _HUB_ID.fullmatch(entry) and _extension(path) is None and path.suffix not in (".json", ".gz", ".csv", ".tsv"):
        return [Source(entry, "hub")]
    raise ZooError(_missing(path))


def matching(entry: str, path: Path, setting: str) -> list[Path]:
    """The files that a glob matches, sorted.

    Args:
        entry: the glob as it was given.
        path: the same as a path.
        setting: where it was given, for the message.

    Raises:
        ZooError: there are none.
    """
    anchor = Path(path.anchor)  # Path.glob wants a pattern relative to where it starts
    matched = sorted(p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file())
    if not matched:
        raise ZooError(f"{setting} nothing matches {entry!r} (searched from {Path.cwd()}).")
    return matched


def _missing(path: Path) -> str:
    """Message for a file that is not there, with its neighbours."""
    parent = path.parent
    if not parent.is_dir():
        return f"corpus.files: {path} does not exist, nor does the folder {parent}."
    return f"corpus.files: {path} does not exist.{nearest(path.name, (p.name for p in parent.iterdir()))}"


def _extension(path: Path) -> tuple[Kind, bool] | None:
    """Kind and compression by name, or ``None``."""
    name = path.name.lower()
    for extension in sorted(_EXTENSIONS, key=len, reverse=True):
        if name.endswith(extension) and len(name) > len(extension):
            return _EXTENSIONS[extension]
    return None


def _file_source(path: Path, config: CorpusConfig) -> Source:
    """A file's source; its name, size and first bytes are looked at."""
    found = _extension(path)
    if found is None:
        hint = {".json": " One JSON object per line is called .jsonl.", ".gz": " Gzip needs .txt.gz or .jsonl.gz."}
        raise ZooError(
            f"corpus.files: {path} has an extension that no reader knows; readable are {_READABLE}."
            + hint.get(path.suffix.lower(), "")
        )
    kind, gzipped = found
    size = path.stat().st_size
    if size == 0:
        raise ZooError(f"corpus.files: {path} is empty (0 bytes).")
    with path.open("rb") as file:
        head = file.read(4096)
    _check_magic(path, head, kind, gzipped)
    if kind == "parquet":
        _parquet_columns(path, config.text_field, config.recorded)
    return Source(str(path), kind, gzipped, size)


def _check_magic(path: Path, head: bytes, kind: Kind, gzipped: bool) -> None:
    """Refuse a file whose first bytes say something other than its name."""
    expected = b"\x1f\x8b" if gzipped else b"PAR1" if kind == "parquet" else None
    if expected is not None:
        if not head.startswith(expected):
            what = "gzip data" if gzipped else "a Parquet file"
            works = f" Rename it to {path.name[:-3]}." if gzipped else ""
            raise ZooError(
                f"corpus.files: {path} is not {what}, as its name says (it starts with {head[:8]!r}).{works}"
            )
        return
    for magic, what in _MAGIC:
        if head.startswith(magic):
            works = (
                f"rename it to {path.name}.gz."
                if what == "gzip data"
                else f"only UTF-8 text can be read under this name.{_command(head)}"
            )
            raise ZooError(f"corpus.files: {path} is {what} under the name of a {path.suffix} file; {works}")
    if b"\0" in head:
        raise ZooError(
            f"corpus.files: {path} is binary (a NUL byte at offset {head.index(0)}); UTF-8 text was expected."
            + _command(head)
        )


def _command(head: bytes) -> str:
    """The hint what would make text of a file, where a command would."""
    hint = encoding_hint(head)
    return f" {hint}" if "`" in hint else ""


def _parquet_columns(path: Path, text_field: str, recorded: Mapping[str, RecordAnnotator]) -> None:
    """Refuse a Parquet file that lacks the text column or an annotation's, or holds something else than text."""
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(str(path))
    except Exception as error:  # pyarrow raises several kinds, all of which mean an unreadable file
        raise ZooError(f"corpus.files: {path} cannot be read as Parquet: {error}") from error
    if text_field not in schema.names:
        raise ZooError(_no_field(str(path), text_field, schema.names))
    kind = str(schema.field(text_field).type)
    if not _TEXT_COLUMN.fullmatch(kind):
        raise ZooError(
            f"{path}: column {text_field!r} holds {kind}; text was expected. Columns: {_listed(schema.names)}."
        )
    for name, annotator in recorded.items():
        if name not in schema.names and annotator.missing == "error":
            raise ZooError(_no_note(str(path), name, dict.fromkeys(schema.names)))


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (" …" if len(names) > 20 else "")


def _no_field(where: str, text_field: str, names: list[str]) -> str:
    """Message for a missing text field."""
    have = f"there are {_listed(names)}" if names else "there is none at all"
    return f"{where}: no field {text_field!r} (corpus.text_field); {have}.{nearest(text_field, names)}"


# ------------------------------------------------------------------------------------- cutting into chunks


def read_chunks(source: Source, config: CorpusConfig) -> Iterator[Chunk]:
    """Chunks of one source, in order; the same ones on every machine.

    Raises:
        ZooError: damaged compression, a JSON line above ``RECORD_LIMIT``, an unreachable hub data set.
    """
    if source.kind == "parquet":
        yield from _parquet_chunks(source, config)
        return
    if source.kind == "hub":
        yield from _hub_chunks(source, config)
        return
    with Path(source.path).open("rb") as raw:
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if source.gzipped else raw
        try:
            yield from _byte_chunks(stream, raw, source)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ZooError(f"{source.path}: the gzip data is damaged or cut short ({error}).") from error


def _byte_chunks(stream: IO[bytes], raw: IO[bytes], source: Source) -> Iterator[Chunk]:
    """Chunks of a text or JSON-lines stream."""
    cut_at = _cut_text if source.kind == "txt" else _cut_records
    limit = 2 * CHUNK if source.kind == "txt" else RECORD_LIMIT
    kind: Literal["txt", "jsonl"] = "txt" if source.kind == "txt" else "jsonl"
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
        yield Chunk(data, kind, source.path, line, continued, raw.tell(), inside)
        line += data.count(b"\n")
        continued, inside = goes_on, goes_on and not data.endswith(b"\n")
        buffer = _fill(stream, buffer[cut:], 2 * CHUNK)


def _fill(stream: IO[bytes], buffer: bytes, size: int) -> bytes:
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


def _parquet_chunks(source: Source, config: CorpusConfig) -> Iterator[Chunk]:
    """Chunks of a Parquet file, read some rows at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(source.path) as file:
        rows = max(file.metadata.num_rows, 1)
        names = [config.text_field, *(name for name in config.recorded if name in file.schema_arrow.names)]
        batches = file.iter_batches(batch_size=256, columns=names)
        read = (row for batch in batches for row in batch.to_pylist())
        yield from _row_chunks(read, source.path, source.size / rows, config)


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

    try:
        data = datasets.load_dataset(name, config.subset, split=config.split)
    except Exception as error:  # datasets raises dozens of kinds; the message is what helps
        reason = str(error).strip().split("\n")[0][:300]
        raise ZooError(
            f"corpus.files: {name!r} is neither a file or folder here ({Path.cwd()}) nor could it be loaded as a hub "
            f"data set (subset {config.subset!r}, split {config.split!r}): {type(error).__name__}: {reason}"
        ) from error
    if config.text_field not in data.column_names:
        raise ZooError(_no_field(name, config.text_field, list(data.column_names)))
    return data


# ------------------------------------------------------------------------------- from chunks to documents


def parse_chunk(
    chunk: Chunk, text_field: str = "text", recorded: Mapping[str, RecordAnnotator] | None = None
) -> Iterator[Document]:
    """Documents of a chunk. A first document that continues the last one may be empty; others are not.

    Args:
        chunk: the bytes.
        text_field: field of a record that holds its text.
        recorded: annotations that read a record's field of their name.

    Raises:
        ZooError: invalid UTF-8, a NUL byte, a broken or incomplete record, naming file and line.
    """
    text = _decode(chunk)
    if chunk.kind == "txt":
        yield from _parse_text(text, chunk)
        return
    for number, record in enumerate(text.split("\n"), start=chunk.line):
        if record.strip() and (document := _parse_record(record, chunk, number, text_field, recorded or {})):
            yield document


def _decode(chunk: Chunk) -> str:
    """Bytes to text."""
    if chunk.kind in ("txt", "jsonl") and b"\0" in chunk.data:
        line = chunk.line + chunk.data.count(b"\n", 0, chunk.data.index(0))
        raise ZooError(f"{chunk.file}:{line}: a NUL byte: this is binary data, or text that is not UTF-8.")
    try:
        return chunk.data.decode("utf-8")
    except UnicodeDecodeError as error:
        start = chunk.data.rfind(b"\n", 0, error.start) + 1
        line = chunk.line + chunk.data.count(b"\n", 0, error.start)
        hint = encoding_hint(chunk.data[: error.start + _LOOKED_AT])
        raise ZooError(
            f"{chunk.file}:{line}: invalid UTF-8 at byte {error.start - start + 1} of the line "
            f"({chunk.data[error.start : error.start + 4]!r}). {hint} Then start again: finished parts are kept."
        ) from error


def _parse_text(text: str, chunk: Chunk) -> Iterator[Document]:
    """Documents of plain text: blank lines stand between them.

    Only a line feed ends a line (U+2028 and U+0085 are ordinary characters).
    """
    lines: list[str] = []
    first, continues = chunk.line, chunk.continued
    for number, line in enumerate(text.split("\n"), start=chunk.line):
        stripped = line.strip()
        if stripped:
            if not lines:
                first = number
            lines.append(stripped)
        elif lines or (continues and not (chunk.inside_line and number == chunk.line)):
            yield Document(lines, chunk.file, first, continues)
            lines, continues = [], False
    if lines:
        yield Document(lines, chunk.file, first, continues)


def _parse_record(
    record: str, chunk: Chunk, number: int, text_field: str, recorded: Mapping[str, RecordAnnotator]
) -> Document | None:
    """One record's document; ``None`` where it holds no text."""
    where = f"{chunk.file}:{number}" if chunk.kind == "jsonl" else f"{chunk.file}: row {number}"
    try:
        value = json.loads(record)
    except json.JSONDecodeError as error:
        raise ZooError(f"{where}: broken JSON: {error.msg} at column {error.colno}: {record[:60]!r}") from error
    fields: dict[str, Any] = {}
    if chunk.kind in ("jsonl", "rows"):
        if not isinstance(value, dict):
            raise ZooError(
                f"{where}: a JSON {type(value).__name__}; an object with the field {text_field!r} was expected."
            )
        if text_field not in value:
            raise ZooError(_no_field(where, text_field, list(value)))
        fields, value = value, value[text_field]
    text = _record_text(value, text_field, where)
    notes: list[dict[str, list[CharSpan]]] = [{} for _ in text.lines]
    for name, annotator in recorded.items():
        if fields.get(name) is None:
            if annotator.missing == "error" and any(map(str.strip, text.lines)):
                raise ZooError(_no_note(where, name, fields))
            continue
        if text.listed and annotator.marks == "every" and not isinstance(fields[name], list):
            _check_texts(text, text_field, name, where)
        for note, spans in zip(notes, annotator.read(fields[name], text, f"{where}: field {name!r}")):
            note[name] = spans
    stripped = [line.strip() for line in text.lines]
    kept = [place for place, line in enumerate(stripped) if line]
    if not kept:
        return None
    shifts = [len(line) - len(line.lstrip()) for line in text.lines]
    marked = [_shifted(notes[place], shifts[place]) for place in kept] if recorded else []
    return Document([stripped[place] for place in kept], chunk.file, number, listed=text.listed, notes=marked)


def _shifted(note: dict[str, list[CharSpan]], by: int) -> dict[str, list[CharSpan]]:
    """Spans of a line whose first characters were white space that is taken away."""
    if not by:
        return note
    return {
        name: [(max(start - by, 0), end - by, code) for start, end, code in spans if end > by]
        for name, spans in note.items()
    }


def _no_note(where: str, name: str, fields: dict[str, Any]) -> str:
    """Message for a record without an annotation's field."""
    have = f"there are {_listed(list(fields))}" if fields else "plain text has no fields"
    near = nearest(name, fields)
    if name in fields:
        have, near = "it is null", ""
    return (
        f"{where}: no value in the field {name!r} (corpus.annotations.{name}); {have}. Give every record one, or say "
        f"`missing: none` (annotations.{name}.init_args).{near}"
    )


def _check_texts(text: RecordText, text_field: str, name: str, where: str) -> None:
    """Refuse a list with an empty text, or none, under one class: a pair would be left as a single text."""
    empty = [number for number, line in enumerate(text.lines, start=1) if not line.strip()]
    if empty or not text.lines:
        found = f"text {empty[0]} of {len(text.lines)} is empty" if empty else "is an empty list"
        raise ZooError(
            f"{where}: field {text_field!r}: {found}, and {name!r} (corpus.annotations.{name}) is of them all. Give "
            "every text of the list, or take the record out."
        )


def _record_text(value: Any, text_field: str, where: str) -> RecordText:
    """Text of one record; no lines where it is null."""
    if value is None:
        return RecordText([], False)
    listed = isinstance(value, list)
    parts = value if listed else [value]
    for part in parts:
        if not isinstance(part, str):
            raise ZooError(
                f"{where}: field {text_field!r} holds a {type(part).__name__}{' in a list' if listed else ''}; text "
                "was expected, or a list of texts."
            )
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ZooError(
                f"{where}: field {text_field!r} holds half a surrogate pair ({part[error.start]!r})."
            ) from error
    return RecordText([part.replace("\n", " ") for part in parts] if listed else value.split("\n"), listed)


def iter_documents(config: CorpusConfig) -> Iterator[Document]:
    """Documents of a corpus in order, in bounded memory. Parts of very long ones have ``continues`` set.

    Raises:
        ZooError: what is wrong with the input, naming file and line; no document at all.
    """
    found = False
    for annotator in config.recorded.values():
        annotator.ready(False)
    for source in resolve_sources(config):
        for chunk in read_chunks(source, config):
            for document in parse_chunk(chunk, config.text_field, config.recorded):
                found = True
                yield document
    if not found:
        raise no_documents(config)


def no_documents(config: CorpusConfig) -> ZooError:
    """The error for a corpus without any text."""
    return ZooError(f"corpus.files: {config.files!r} holds no documents: nothing but white space was found.")
