"""``zoo entities --triples FILE --output FOLDER``: a table of entity vectors.

They are trained on triples, read from files of others, or made as a control.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretraining.annotations.linked import read_entities
from pretraining.tools.transe import TransEConfig, ranks, read_triples, train_transe
from zoo.errors import ZooError
from zoo.settings.load import load_settings
from zoo.storage.entity_table import Entities, control, open_entities, save_entities
from zoo.storage.files import write_atomic, write_json
from zoo.storage.tensors import save_tensors
from zoo.storage.user_files import read_lines
from zoo.storage.vector_files import read_values, read_vector_file
from zoo.values import Seed, UserPath, check_fields

_RANKED = 1000  # triples whose tails are ranked for the record
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EntitiesConfig:
    """Settings of ``zoo entities``. Exactly one of ``triples``, ``vectors`` and ``like`` says where vectors come from.

    Args:
        output: folder for the table.
        triples: file of a graph's facts, one a line: head, relation, tail, tabs between them.
        exclude: benchmark's facts in the same form, which the graph must not hold.
        vectors: file of vectors: OpenKE's, with ``ids`` beside it, or word2vec's text or binary form.
        ids: OpenKE's ``entity2id.txt``.
        like: another table, of which a control is made.
        control: ``shuffled``: every entity gets the vector of another; ``random``: values like those of the table.
        seed: of the control.
        transe: how vectors are trained.
    """

    output: UserPath
    triples: UserPath | None = None
    exclude: UserPath | None = None
    vectors: UserPath | None = None
    ids: UserPath | None = None
    like: UserPath | None = None
    control: Literal["shuffled", "random"] = "shuffled"
    seed: Seed = 0
    transe: TransEConfig = field(default_factory=TransEConfig)

    def __post_init__(self) -> None:
        """Raise ZooError if there is not exactly one way to make the table."""
        check_fields(self)
        given = [name for name in ("triples", "vectors", "like") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ZooError(f"name one of --triples, --vectors and --like; found {', '.join(given) or 'none'}.")
        if self.ids is not None and self.vectors is None:
            raise ZooError("--ids names the entities of --vectors; give that, too.")
        if self.exclude is not None and self.triples is None:
            raise ZooError("--exclude takes facts out of --triples; give that, too.")
        if Path(self.output).exists() and not Path(self.output).is_dir():
            raise ZooError(f"--output {self.output} is a file; the table is a folder.")


def train_table(config: EntitiesConfig, show: bool = True) -> Entities:
    """Vectors trained on triples; relations and a record of the training are kept beside them."""
    assert config.triples is not None
    graph = read_triples(config.triples, config.exclude)
    vectors = train_transe(graph, config.transe, show)
    folder = Path(config.output)
    table = save_entities(folder, graph.entities, vectors.entities.numpy())
    save_tensors(folder / "relations.safetensors", {"vectors": vectors.relations})
    write_atomic(folder / "relations.txt", "".join(f"{name}\n" for name in graph.relations))
    step = -(-len(graph.triples) // _RANKED)
    found = ranks(vectors, graph.triples[::step], config.transe.norm)
    record: dict[str, Any] = {
        "source": Path(config.triples).name,
        "exclude": None if config.exclude is None else Path(config.exclude).name,
        "left_out": graph.left_out,
        "entities": len(graph.entities),
        "relations": len(graph.relations),
        "triples": len(graph.triples),
        "transe": dataclasses.asdict(config.transe),
        "loss": vectors.losses,
        "mean_rank": float(found.mean()),
        "chance_rank": (len(graph.entities) + 1) / 2,
        "hits_at_10": float((found <= 10).mean()),
    }
    write_json(folder / "transe.json", record)
    return table


def read_vectors(vectors: str | Path, ids: str | Path | None = None) -> tuple[list[str], Floats]:
    """Names and vectors from files of others.

    Args:
        vectors: with ``ids``, one vector a line and nothing else (OpenKE's ``entity2vec.vec``); without, word2vec's
            text or binary form: a line with count and width, then name and values.
        ids: OpenKE's ``entity2id.txt``: a line with the count, then name and number.

    Raises:
        ZooError: a file that is none of these (naming the line), or the two do not agree.
    """
    path = Path(vectors)
    if ids is None:
        return read_vector_file(path)
    lines = ((number, line) for number, line in enumerate(read_lines(path), start=1) if line.strip(" \t"))
    rows = [read_values(path, number, line.encode().split()) for number, line in lines]
    names = _read_ids(Path(ids))
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != len(rows[0])), None)
    if wrong is not None:
        raise ZooError(f"{path}: vector {wrong} has {len(rows[wrong - 1])} values, the first has {len(rows[0])}.")
    if len(names) != len(rows):
        raise ZooError(f"{ids} names {len(names)} entities, {path} has {len(rows)} vectors.")
    return names, np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)


def _read_ids(path: Path) -> list[str]:
    """Names by number."""
    numbers = read_entities(path)
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise ZooError(f"{path} numbers {len(numbers)} entities, but not from 0 to {len(numbers) - 1}.")
    return sorted(numbers, key=numbers.__getitem__)


def make_table(config: EntitiesConfig, show: bool = True) -> Entities:
    """The table that is asked for."""
    if config.triples is not None:
        return train_table(config, show)
    if config.vectors is not None:
        return save_entities(config.output, *read_vectors(config.vectors, config.ids))
    assert config.like is not None
    true = open_entities(config.like)
    return save_entities(config.output, true.names, control(true, config.control, config.seed))


def entities_command(argv: list[str]) -> int:
    """``zoo entities --output FOLDER (--triples FILE | --vectors FILE [--ids FILE] | --like FOLDER)``."""
    config = load_settings(EntitiesConfig, argv, "zoo entities", "entities").value
    table = make_table(config)
    print(f"{table.folder}: {len(table):,} entities, vectors of width {table.width}")
    return 0
