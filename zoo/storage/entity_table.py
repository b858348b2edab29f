"""The frozen table of entity vectors: two files in a folder, which is a folder of its own or a model folder.

- ``entities.txt``          names in UTF-8, one a line; the line's number, from 0 on, is the entity's number
- ``entities.safetensors``  ``vectors``, float32 (N, width), one row for each line

The table is no parameter: it is read where it lies, never trained and never part of a checkpoint.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.errors import ZooError
from zoo.storage.files import file_digest, replaced_file, write_atomic
from zoo.storage.tensors import open_tensors, save_tensors
from zoo.storage.user_files import read_lines

NAMES = "entities.txt"
VECTORS = "entities.safetensors"
_BREAKS = frozenset("\n\r\t\0")
Floats = NDArray[np.float32]
_PORTION = 65_536  # vectors that are looked at at once


@dataclass(frozen=True)
class Entities:
    """A table, opened. Its vectors are mapped, so that opening costs no memory whatever their number.

    Args:
        folder: where it lies.
        vectors: (N, width) float32.
    """

    folder: Path
    vectors: Floats

    @property
    def width(self) -> int:
        """Width of a vector."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        """Entities."""
        return len(self.vectors)

    @cached_property
    def names(self) -> list[str]:
        """Name of each entity."""
        return read_names(self.folder / NAMES)

    def check_finite(self) -> None:
        """Read all vectors once.

        Raises:
            ZooError: one has a value that is not finite, naming the entity.
        """
        for start in range(0, len(self), _PORTION):
            if (place := _not_finite(self.vectors[start : start + _PORTION])) is not None:
                raise ZooError(
                    f"{self.folder / VECTORS}: the vector of entity {start + place}, {self.names[start + place]!r}, "
                    "holds a value that is not finite; make the table again from vectors without it."
                )

    def rows(self, numbers: NDArray[np.integer]) -> Floats:
        """(K + 1, width) a zero row, which stands for no entity, and the vectors of K entities."""
        found: Floats = np.zeros((len(numbers) + 1, self.width), dtype=np.float32)
        found[1:] = self.vectors[numbers]
        return found


def _not_finite(vectors: Floats) -> int | None:
    """First row with a value that is not finite."""
    good = np.isfinite(vectors).all(axis=1)
    return None if good.all() else int(np.argmin(good))


def read_names(path: Path) -> list[str]:
    """Names of a list, in order.

    Raises:
        ZooError: no such file, not UTF-8, an empty line, or a name that occurs twice (with both lines).
    """
    names = list(read_lines(path))
    if len(set(names)) == len(names) and "" not in names:
        return names
    lines: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise ZooError(f"{path}, line {number}: an empty line, where an entity's name belongs.")
        if name in lines:
            raise ZooError(f"{path}, line {number}: {name!r} stands in line {lines[name]} already.")
        lines[name] = number
    raise AssertionError("unreachable")


def open_entities(folder: str | Path) -> Entities:
    """The table in a folder.

    Raises:
        ZooError: a file is missing or damaged, or names and vectors are not equally many.
    """
    path = Path(folder)
    for name in (NAMES, VECTORS):
        if not (path / name).is_file():
            raise ZooError(
                f"{path} has no {name}; a folder with {NAMES} and {VECTORS} is needed, which `zoo entities` makes."
            )
    tensors = open_tensors(path / VECTORS)
    if "vectors" not in tensors:
        raise ZooError(f"{path / VECTORS} holds {', '.join(tensors) or 'nothing'}; a tensor `vectors` is needed.")
    vectors = tensors["vectors"]
    if vectors.ndim != 2 or vectors.dtype != torch.float32:
        raise ZooError(
            f"{path / VECTORS}: vectors are {str(vectors.dtype).removeprefix('torch.')} {tuple(vectors.shape)}; "
            "float32 (entities, width) is needed."
        )
    with (path / NAMES).open("rb") as stream:
        count = sum(1 for _ in stream)
    if count != len(vectors):
        raise ZooError(
            f"{path / NAMES} names {count} entities, {path / VECTORS} has {len(vectors)} vectors; they are not of the "
            "same table."
        )
    return Entities(path, vectors.numpy())


def save_entities(folder: str | Path, names: Sequence[str], vectors: Any) -> Entities:
    """Write a table, both files atomically, the vectors first.

    Raises:
        ZooError: names and vectors are not equally many, a name cannot stand in a line or occurs twice, or a value is
            not finite in float32.
    """
    path = Path(folder)
    if len(names) != len(vectors):
        raise ZooError(f"{len(names)} names for {len(vectors)} entity vectors.")
    wrong = next((name for name in names if not name or name.strip() != name or not _BREAKS.isdisjoint(name)), None)
    if wrong is not None:
        raise ZooError(f"{wrong!r} cannot be an entity's name: it has to fill one line, without tabs.")
    _check_different(names)
    with np.errstate(over="ignore"):  # what is too large is an error below
        values: Floats = np.ascontiguousarray(vectors, dtype=np.float32)
    if len(values) and (row := _not_finite(values)) is not None:
        raise ZooError(
            f"the vector of {names[row]!r}, number {row}, holds a value that is not finite or too large for float32; "
            "vectors of ordinary numbers are needed."
        )
    path.mkdir(parents=True, exist_ok=True)
    save_tensors(path / VECTORS, {"vectors": torch.as_tensor(values)})
    write_atomic(path / NAMES, "".join(f"{name}\n" for name in names))
    return open_entities(path)


def _check_different(names: Sequence[str]) -> None:
    """Raise ZooError if a name occurs twice, with the numbers of both."""
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if (before := first.setdefault(name, number)) != number:
            raise ZooError(
                f"{name!r} is the name of entity {before} and of entity {number}; each entity needs a name of its own."
            )


def keep_entities(source: str | Path, target: str | Path) -> None:
    """Keep a table with a model: copy it into the model's folder, unless it is there.

    Raises:
        ZooError: the folder has another table already.
    """
    here, there = Path(source), Path(target)
    if here.resolve() == there.resolve():
        return
    for name in (VECTORS, NAMES):
        if not (there / name).exists():
            with (here / name).open("rb") as given, replaced_file(there / name) as kept:
                shutil.copyfileobj(given, kept)
        elif file_digest(here / name) != file_digest(there / name):
            raise ZooError(
                f"{there} was started with other entities than {here} has now ({name} differs). Restore them, delete "
                "the folder, or choose another --output."
            )


def control(entities: Entities, kind: Literal["shuffled", "random"], seed: int = 0) -> Floats:
    """Vectors that say nothing about their entities, to compare true ones with.

    Args:
        entities: the true ones.
        kind: ``shuffled``: each entity gets the vector of another; ``random``: normal values with the true vectors'
            mean and deviation in each column.
        seed: of the order or the values.
    """
    generator = np.random.default_rng(seed)
    true = np.asarray(entities.vectors)
    if kind == "random":
        drawn = generator.standard_normal(true.shape) * true.std(axis=0) + true.mean(axis=0)
        values: Floats = drawn.astype(np.float32)
        return values
    order = generator.permutation(len(true))
    shuffled: Floats = np.empty_like(true)
    shuffled[order] = true[np.roll(order, 1)]  # one cycle: nobody keeps its own
    return shuffled


def table_digest(folder: Path) -> str:
    """16 hex digits that change with the names or vectors of a table of entities."""
    hashed = hashlib.sha256()
    for name in (NAMES, VECTORS):
        hashed.update(file_digest(folder / name).encode())
    return hashed.hexdigest()[:16]
