"""Encoded rows of many examples, made a part at a time, kept in files, and mapped into memory when they are read.

So memory does not grow with the number of rows, processes of one machine share them, and the next run finds them. A
folder of the cache holds an array a file, and ``rows.json``, which says how they make :class:`TaskRows`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.examples import TaskExamples
from finetune.data.tasks import Task
from finetune.inputs.batches import EncodedRows
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.entities import TaskEntities
from finetune.inputs.features import TextRows
from finetune.inputs.passages import PassageRows
from finetune.inputs.rows import TaskRows, WrittenRows
from finetune.inputs.task_tokenizer import WordCharacters
from finetune.inputs.windows import WordRows
from pretraining.text.segmenter import Segmenter
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.runtime.locks import file_lock
from zoo.runtime.progress import note
from zoo.storage.entity_table import table_digest
from zoo.storage.files import file_digest, read_json, text_digest, write_json

FEWEST = 10_000
"""Examples from which on rows are kept in files; fewer are encoded in seconds."""
AT_ONCE = 2048
"""Examples that are encoded at a time."""
FORMAT = 1
"""Version of the files; part of every key."""
_OWN = "finetune.kinds."
_INDEX = "rows.json"
_CLASSES: dict[str, Any] = {
    c.__name__: c for c in (TaskRows, WordRows, PassageRows, WrittenRows, EncodedRows, TextRows)
} | {WordCharacters.__name__: WordCharacters}
_MAPPED = {"ids", "types", "entities", "slots", "targets", "places", "characters"}
"""Arrays with a value for each token, which stay in their files, in a narrow type; others are few, and copied."""
_ABANDONED = 86_400.0  # seconds after which an unfinished folder has no writer


def user_cache() -> Path:
    """Where rows are kept if nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sesame-zoo" / "rows"


@dataclass(frozen=True)
class RowCache:
    """Folders with rows, each under a key; those that were not read for longest go when there are too many.

    Args:
        folder: holds them.
        most_mb: size of all of them.
    """

    folder: Path = field(default_factory=user_cache)
    most_mb: int = 10_000

    def rows(self, key: str, parts: Callable[[], Iterable[tuple[int, TaskRows]]]) -> TaskRows | None:
        """The rows under a key; made of ``parts`` where there are none, or none that are whole.

        One process makes them, and others that want the same wait for it.

        Args:
            key: of everything that they follow from; a name for a folder.
            parts: number of examples and rows, part by part.

        Returns:
            The rows; ``None`` where the folder cannot be written.

        Raises:
            ZooError: what is wrong with the examples.
        """
        place = self.folder / key
        try:
            if (found := _opened(place)) is not None:
                return found
            with file_lock(self.folder / f".{key}.lock", None, _wait):
                found = _opened(place)
                if found is None:
                    shutil.rmtree(place, ignore_errors=True)
                    _write(place, parts())
                    found = _opened(place)
                    self._make_room(place)
                (self.folder / f".{key}.lock").unlink(missing_ok=True)
            return found
        except OSError as error:
            note(f"encoded rows are not kept in {self.folder} ({error.strerror or error}); they stay in memory.")
            return None

    def _make_room(self, newest: Path) -> None:
        """Delete what was not read for longest, but for what was just made, and what killed writers left."""
        found = list[tuple[float, int, Path]]()
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process may delete it, too
                if path.name.startswith("."):
                    if path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED:
                        shutil.rmtree(path, ignore_errors=True)
                elif (path / _INDEX).exists():
                    size = sum(file.stat().st_size for file in path.iterdir())
                    found.append(((path / _INDEX).stat().st_mtime, size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total > self.most_mb * 2**20 and path != newest:
                shutil.rmtree(path, ignore_errors=True)
                total -= size


def _wait(holder: str) -> None:
    note(f"waiting for encoded rows, which {holder} makes.")


# ---- writing ---------------------------------------------------------------------------------------------------------


class _Leaf(NamedTuple):
    """An array of rows: its path in them, and its values as they are kept."""

    path: str
    values: NDArray[Any]


class _Totals:
    """What was written before a part, by which its numbers are shifted."""

    def __init__(self) -> None:
        self.examples = 0
        self.tables: dict[str, int] = {}

    def leaves(self, rows: TaskRows) -> Iterator[_Leaf]:
        """The arrays of a part, counted on from the parts before."""
        for path, values in _arrays(rows, ""):
            name = path.rpartition(".")[2]
            if name == "offsets":
                values = np.diff(values)
            elif path == "owners":
                values = values + self.examples
            elif path.endswith("characters.words"):
                values = values + self.tables.get(path, 0)
            yield _Leaf(path, values)
        for path, values in _arrays(rows, ""):
            if path.endswith("characters.table"):
                words = path.removesuffix("table") + "words"
                self.tables[words] = self.tables.get(words, 0) + len(values)


def _arrays(value: Any, path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """All arrays in rows, by their paths."""
    if isinstance(value, np.ndarray):
        yield path, value
    elif isinstance(value, Tensor):
        yield path, value.numpy()
    elif isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        for number, item in enumerate(value):
            yield from _arrays(item, f"{path}.{number}")
    elif type(value).__name__ in _CLASSES:
        for name in _field_names(type(value)):
            yield from _arrays(getattr(value, name), f"{path}.{name}".lstrip("."))


def _field_names(kind: Any) -> tuple[str, ...]:
    return kind._fields if hasattr(kind, "_fields") else tuple(item.name for item in dataclasses.fields(kind))


def _tree(value: Any) -> Any:
    """Rows without their arrays, as JSON: what they are made of."""
    if isinstance(value, np.ndarray | Tensor):
        return "tensor" if isinstance(value, Tensor) else "array"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return {"tuple" if isinstance(value, tuple) else "list": [_tree(item) for item in value]}
    if value is None or isinstance(value, int):
        return {"value": value}
    kind = type(value)
    if _CLASSES.get(kind.__name__) is not kind:
        raise TypeError(f"{kind} is no class of rows that are kept")
    return {"class": kind.__name__, "fields": {name: _tree(getattr(value, name)) for name in _field_names(kind)}}


class _ArrayFile:
    """A file that one array grows in, in a narrow type; as long as all is zero, nothing is written.

    Args:
        path: the file.
        first: the first part, which says type and shape.
    """

    def __init__(self, path: Path, first: NDArray[Any]) -> None:
        self.path, self.shape = path, first.shape[1:]
        self.given = first.dtype
        self.dtype = np.dtype(np.int32) if first.dtype == np.int64 else first.dtype
        self.count, self._stream = 0, None  # type: int, Any

    def add(self, values: NDArray[Any]) -> None:
        """Append some values."""
        if self._stream is None and values.any():
            self._stream = self.path.open("wb")
            for _ in range(self.count):
                self._stream.write(bytes(self.dtype.itemsize * int(np.prod(self.shape))))
        if self._stream is not None:
            if values.dtype == np.int64 and len(values) and np.abs(values).max() >= 2**31:
                raise OverflowError(f"{self.path.name}: numbers of {values.dtype} do not fit")
            self._stream.write(values.astype(self.dtype).tobytes())
        self.count += len(values)

    def close(self) -> dict[str, Any]:
        """What the index says of the file."""
        told = {"dtype": self.dtype.str, "given": self.given.str, "shape": [self.count, *self.shape]}
        if self._stream is None:
            return told
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return {**told, "digest": file_digest(self.path)}


def _write(place: Path, parts: Iterable[tuple[int, TaskRows]]) -> None:
    """Write rows into a folder that appears whole or not at all."""
    made = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        totals, files, tree = _Totals(), dict[str, _ArrayFile](), None
        for examples, rows in parts:
            tree = _tree(rows) if tree is None else tree
            for leaf in totals.leaves(rows):
                if leaf.path not in files:
                    files[leaf.path] = _ArrayFile(made / f"{leaf.path}.bin", leaf.values)
                files[leaf.path].add(leaf.values)
            totals.examples += examples
        arrays = {path: file.close() for path, file in files.items()}
        write_json(made / _INDEX, {"format": FORMAT, "tree": tree, "arrays": arrays})
        made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _opened(place: Path) -> TaskRows | None:
    """The rows in a folder; ``None`` where it is not there, or not whole."""
    index = place / _INDEX
    if not index.exists():
        return None
    try:
        told = read_json(index)
        arrays = {path: _array(place / f"{path}.bin", one) for path, one in told["arrays"].items()}
        rows: TaskRows = _rebuilt(told["tree"], "", arrays)
        index.touch()  # it was read now
    except (ZooError, KeyError, TypeError, ValueError, FileNotFoundError):
        return None
    return rows


def _array(path: Path, told: dict[str, Any]) -> NDArray[Any]:
    """An array of its file, mapped where it has a value for each token.

    Raises:
        ValueError: the file is not what was written.
    """
    shape, dtype = tuple(told["shape"]), np.dtype(told["dtype"])
    mapped = path.name.split(".")[-2] in _MAPPED
    kept = dtype if mapped else np.dtype(told["given"])
    if "digest" not in told:
        return np.broadcast_to(np.zeros((), kept), shape)
    if path.stat().st_size != dtype.itemsize * int(np.prod(shape)) or file_digest(path) != told["digest"]:
        raise ValueError(f"{path} was changed")
    found = np.memmap(path, dtype, "r", shape=shape)
    return found if mapped else np.asarray(found).astype(kept)


def _rebuilt(tree: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Rows of their arrays."""
    if isinstance(tree, str):
        found = arrays[path]
        if path.rpartition(".")[2] == "offsets":
            return np.append(0, np.cumsum(found, dtype=np.int64))
        return torch.from_numpy(np.array(found)) if tree == "tensor" else found
    if "value" in tree:
        return tree["value"]
    if "class" in tree:
        inner = {name: _rebuilt(item, f"{path}.{name}".lstrip("."), arrays) for name, item in tree["fields"].items()}
        return _CLASSES[tree["class"]](**inner)
    items = [_rebuilt(item, f"{path}.{number}", arrays) for number, item in enumerate(next(iter(tree.values())))]
    return tuple(items) if "tuple" in tree else items


# ---- what is kept ----------------------------------------------------------------------------------------------------


class Encodes(Protocol):
    """A kind of task, as far as it makes ids."""

    def encode(self, task: Task, examples: Any, encoder: RowEncoder) -> TaskRows:
        """Examples as rows of ids."""


def encoded_rows(
    task: Task,
    kind: Encodes,
    examples: TaskExamples,
    encoder: RowEncoder,
    entities: TaskEntities,
    cache: RowCache | None,
) -> TaskRows:
    """Rows of ids; of many examples they are made a part at a time, and kept in files.

    A kind that encodes by code of its own has nothing kept, since that code may change.

    Args:
        task: what the examples are of.
        kind: the task's.
        examples: a part of it.
        encoder: the model's.
        entities: that the model reads.
        cache: ``None`` = all stay in memory.

    Raises:
        ZooError: texts that cannot be laid out.
    """

    def parts() -> Iterator[tuple[int, TaskRows]]:
        for start in range(0, len(examples), AT_ONCE):
            some = examples.chosen(np.arange(start, min(start + AT_ONCE, len(examples))))
            yield len(some), kind.encode(task, some, encoder)

    own = type(kind).encode.__module__.startswith(_OWN)
    if cache is not None and own and len(examples) >= FEWEST:
        found = cache.rows(rows_key(task, examples, encoder, entities), parts)
        if found is not None:
            return found
    return kind.encode(task, examples, encoder)


def rows_key(task: Task, examples: TaskExamples, encoder: RowEncoder, entities: TaskEntities) -> str:
    """A name that changes with all that ids follow from: texts, tokenizer, layout, code."""
    tokenizer = encoder.tokenizer
    facts: dict[str, Any] = {
        "format": FORMAT,
        "code": code_digest(),
        "tokenizer": [tokenizer.backend.to_str(), tokenizer.roles, _version(encoder.segmenter)],
        "layout": [encoder.template.to_dict(), encoder.max_length, encoder.pad, encoder.both_orders, encoder.apart],
        "task": [task.kind.class_path, dict(task.kind.init_args), task.labels, task.marks, task.mentions],
    }
    if entities.table is not None:
        facts["entities"] = [table_digest(entities.table.folder), entities.confidence, sorted(entities.numbers)]
    if encoder.characters is not None:
        facts["characters"] = text_digest(encoder.characters.spellings.numpy().tobytes())
    return f"{task.name}-{text_digest(json.dumps(facts, sort_keys=True))[:16]}-{examples.digest()}"


@functools.cache
def code_digest() -> str:
    """Hex digits that change with the code that makes ids, and with the library of tokenizers."""
    hashed = hashlib.blake2b(_version("tokenizers").encode(), digest_size=16)
    here = Path(__file__).parent
    for folder in (here, here.parent / "kinds", *(Path(inspect.getfile(c)).parent for c in (ZooTokenizer, Segmenter))):
        for path in sorted(folder.glob("*.py")):
            hashed.update(path.read_bytes())
    return hashed.hexdigest()


def _version(name: str) -> str:
    """A name, and its version where it is a package."""
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name
