"""The files and hub data sets that a corpus names, checked as far as that is cheap."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pretraining.annotations.base import RecordAnnotator
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.parallel import PairFiles, pair_files
from zoo.errors import ZooError, nearest
from zoo.sample import resolve
from zoo.storage.folders import is_glob, walk, walk_glob
from zoo.storage.object_store import fetch_files, is_url
from zoo.storage.text_encoding import encoding_hint
from zoo.storage.user_files import check_pointer, unreadable

Kind = Literal["txt", "jsonl", "parquet", "hub", "pairs"]
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
_STRING = "((large_)?string(_view)?|dictionary<values=string.*>)"
_TEXT_COLUMN = re.compile(f"{_STRING}|null|(large_)?list<\\w+: {_STRING}( not null)?>")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """One file or hub data set.

    Args:
        path: the file, or the hub id.
        kind: how its text is found.
        gzipped: whether it is compressed.
        size: bytes on disk.
        target: the file with the translations of ``path``'s lines, where there is one.
        language: number of its language, from 1; 0 = not known, or several.
    """

    path: str
    kind: Kind
    gzipped: bool = False
    size: int = 0
    target: str | None = None
    language: int = 0

    @property
    def files(self) -> PairFiles:
        """The files of pairs."""
        return PairFiles(Path(self.path), None if self.target is None else Path(self.target))


def resolve_sources(config: CorpusConfig, notes: list[str] | None = None) -> list[Source]:
    """Files and hub data sets that ``config.files`` names, checked as far as that is cheap.

    Args:
        config: the corpus.
        notes: where a line is put for each folder and glob: what is read of it, and what is passed over.

    Raises:
        ZooError: nothing there, unknown extension, empty file, a file that is not what its name says.
    """
    entries = [config.files] if isinstance(config.files, str) else list(config.files)
    if not entries:
        raise ZooError("corpus.files is empty: name a file, a folder, a glob or a hub id.")
    if config.parallel:
        return [_pair_source(files) for files in pair_files([_one_file(entry) for entry in entries])]
    sources: list[Source] = []
    numbers = [config.language_names.index(name) + 1 for name in config.languages or ()] or [0] * len(entries)
    for entry, number in zip(entries, numbers, strict=True):
        found = _resolve(entry, config, [] if notes is None else notes)
        sources.extend(dataclasses.replace(source, language=number) for source in found)
    return sources


def _resolve(entry: str, config: CorpusConfig, notes: list[str]) -> list[Source]:
    """Sources of one entry of ``corpus.files``."""
    if is_url(entry):
        fetched = fetch_files(entry, "corpus.files", lambda file: _extension(file) is not None)
        notes.append(_told(Path(entry), len(fetched), Counter()))
        return [_file_source(file, config) for file in fetched]
    path = Path(resolve(entry)).expanduser()
    if path.is_dir():
        found = walk(path)
        files = [file for file in found.files if _extension(file) is not None]
        others = sorted({file.suffix or "(none)" for file in found.files if _extension(file) is None})
        if not files:
            seen = f"its files end in {', '.join(others[:12])}" if others else "it is empty"
            hidden = f", but for {_counts(found.passed)}" if found.passed else ""
            raise ZooError(f"corpus.files: the folder {path} holds nothing readable ({_READABLE}); {seen}{hidden}.")
        passed = found.passed + Counter({f"of other kinds ({', '.join(others[:6])})": len(found.files) - len(files)})
        notes.append(_told(path, len(files), passed))
        return [_file_source(file, config) for file in files]
    if path.exists():
        return [_file_source(path, config)]
    if is_glob(entry):
        found = walk_glob(path)
        if not found.files:
            raise ZooError(f"corpus.files: nothing matches {entry!r} (searched from {Path.cwd()}).")
        notes.append(_told(path, len(found.files), found.passed))
        return [_file_source(file, config) for file in found.files]
    if _HUB_ID.fullmatch(entry) and _extension(path) is None and path.suffix not in (".json", ".gz", ".csv", ".tsv"):
        return [Source(entry, "hub")]
    raise ZooError(_missing(path))


def _one_file(entry: str) -> Path:
    """The file that an entry of a parallel corpus names; what is aligned with what, a folder would not say."""
    if is_url(entry):
        return fetch_files(entry, "corpus.files", lambda file: True)[0]
    path = Path(resolve(entry)).expanduser()
    if not path.is_file():
        raise ZooError(
            f"corpus.files: {path} is a folder; a parallel corpus names its files." if path.is_dir() else _missing(path)
        )
    return path


def _pair_source(files: PairFiles) -> Source:
    target = None if files.target is None else str(files.target)
    return Source(str(files.source), "pairs", size=files.size, target=target)


def _told(path: Path, read: int, passed: Counter[str]) -> str:
    """What of a folder is read, and what is not."""
    without = f"; passed over: {_counts(passed)}" if passed.total() else ""
    return f"{path}: {read:,} {'file' if read == 1 else 'files'}{without}"


def _counts(passed: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(passed.items()) if count)


def _missing(path: Path) -> str:
    """Message for a file that is not there, with its neighbours."""
    parent, parts = path.parent, str(path).split(",")
    if len(parts) > 1 and all(Path(part.strip()).exists() for part in parts):
        return f"corpus.files: {path} is no file, but each part between commas is: give a list, '[{', '.join(parts)}]'."
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
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ZooError(f"corpus.files: {unreadable(path, error)}") from error
    if size == 0:
        raise ZooError(f"corpus.files: {path} is empty (0 bytes).")
    check_pointer(path, head)
    _check_magic(path, head, kind, gzipped)
    if kind == "parquet":
        _parquet_columns(path, config.text_field, config.recorded)
    return Source(str(path), kind, gzipped, size)


def _check_magic(path: Path, head: bytes, kind: Kind, gzipped: bool) -> None:
    """Raise ZooError if a file's first bytes say something other than its name."""
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
    """Raise ZooError if a Parquet file lacks the text column or an annotation's, or has no text there."""
    import pyarrow.parquet

    try:
        with path.open("rb") as file:  # a name that is no UTF-8 is none to pyarrow
            schema = pyarrow.parquet.read_schema(file)
    except Exception as error:  # pyarrow raises several kinds, all of which mean an unreadable file
        raise ZooError(f"corpus.files: {path} cannot be read as Parquet: {error}") from error
    if text_field not in schema.names:
        raise ZooError(no_text_field(str(path), text_field, schema.names))
    kind = str(schema.field(text_field).type)
    if not _TEXT_COLUMN.fullmatch(kind):
        raise ZooError(
            f"{path}: column {text_field!r} holds {kind}; text was expected. Columns: {_listed(schema.names)}."
        )
    for name, annotator in recorded.items():
        if name not in schema.names and annotator.missing == "error":
            raise ZooError(no_annotation_field(str(path), name, dict.fromkeys(schema.names)))


def _listed(names: list[str]) -> str:
    """Names for a message, the first twenty of them."""
    return ", ".join(map(repr, names[:20])) + (" …" if len(names) > 20 else "")


def no_text_field(where: str, text_field: str, names: list[str]) -> str:
    """Message for a missing text field."""
    have = f"there are {_listed(names)}" if names else "there is none at all"
    return f"{where}: no field {text_field!r} (corpus.text_field); {have}.{nearest(text_field, names)}"


def no_annotation_field(where: str, name: str, fields: dict[str, Any]) -> str:
    """Message for a record without an annotation's field."""
    have = f"there are {_listed(list(fields))}" if fields else "plain text has no fields"
    near = nearest(name, fields)
    if name in fields:
        have, near = "it is null", ""
    return (
        f"{where}: no value in the field {name!r} (corpus.annotations.{name}); {have}. Give every record one, or say "
        f"`missing: none` (annotations.{name}.init_args).{near}"
    )
