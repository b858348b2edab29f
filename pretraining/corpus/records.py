"""Chunks to documents: plain text, and records of JSON lines, Parquet files and hub data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pretraining.annotations.base import CharSpan, RecordAnnotator, RecordText
from pretraining.corpus.chunks import Chunk, read_chunks
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.sources import no_annotation_field, no_text_field, resolve_sources
from zoo.errors import ZooError
from zoo.storage.text_encoding import encoding_hint
from zoo.storage.user_files import check_surrogates, is_blank, json_kind, parse_json

_HINT_BYTES = 4096  # bytes behind a wrong one that may tell what it is


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
        hint = encoding_hint(chunk.data[: error.start + _HINT_BYTES])
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
        if not is_blank(line):
            if not lines:
                first = number
            lines.append(line.strip())
        elif lines or (continues and not (chunk.inside_line and number == chunk.line)):
            yield Document(lines, chunk.file, first, continues)
            lines, continues = [], False
    if lines:
        yield Document(lines, chunk.file, first, continues)


def _parse_record(
    record: str, chunk: Chunk, number: int, text_field: str, recorded: Mapping[str, RecordAnnotator]
) -> Document | None:
    """One record's document; ``None`` where it holds no text."""
    where = f"{chunk.file}:{number}" if chunk.kind in ("jsonl", "pairs") else f"{chunk.file}: row {number}"
    value = parse_json(record, where)
    fields: dict[str, Any] = {}
    if chunk.kind in ("jsonl", "rows"):
        if not isinstance(value, dict):
            raise ZooError(f"{where}: a JSON {json_kind(value)}; an object with the field {text_field!r} was expected.")
        if text_field not in value:
            raise ZooError(no_text_field(where, text_field, list(value)))
        fields, value = value, value[text_field]
    text = _record_text(value, text_field, where)
    notes: list[dict[str, list[CharSpan]]] = [{} for _ in text.lines]
    for name, annotator in recorded.items():
        if fields.get(name) is None:
            if annotator.missing == "error" and any(map(str.strip, text.lines)):
                raise ZooError(no_annotation_field(where, name, fields))
            continue
        if text.listed and annotator.marks == "every" and not isinstance(fields[name], list):
            _check_texts(text, text_field, name, where)
        for note, spans in zip(notes, annotator.read(fields[name], text, f"{where}: field {name!r}")):
            note[name] = spans
    stripped = [line.strip() for line in text.lines]
    kept = [place for place, line in enumerate(stripped) if not is_blank(line)]
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


def _check_texts(text: RecordText, text_field: str, name: str, where: str) -> None:
    """Raise ZooError if a list under one class has an empty text, or none: a pair would be left as one text."""
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
        check_surrogates(part, f"{where}: field {text_field!r}")
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
