"""TransE: vectors of a graph's entities and relations such that head + relation is near tail (Bordes et al. 2013).

Margin loss against triples with a random head or tail, entities of length 1. One step departs from the paper: rows are
moved by Adagrad with one sum of squares a row instead of plain SGD, so that one rate serves rare and frequent rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.keyed_random import Draw, scaled
from zoo.errors import ZooError
from zoo.runtime.progress import Progress
from zoo.storage.user_files import read_lines
from zoo.values import Count, Positive, Range, Seed, check_fields

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TransEConfig:
    """How the vectors are trained.

    Args:
        width: of a vector.
        epochs: passes over the triples.
        batch_size: triples a step.
        lr: rate.
        margin: by how much a true triple should be nearer than a corrupted one.
        norm: of the distance: 1 = sum of absolute values, 2 = Euclidean.
        seed: of initial values, order and corruption.
    """

    width: Annotated[int, Range(least=1, most=2**16)] = 100
    epochs: Count = 100
    batch_size: Count = 4096
    lr: Positive = 0.1
    margin: Positive = 1.0
    norm: Literal[1, 2] = 2
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Raise ZooError if a number is too small to train with."""
        check_fields(self, "transe")


class Graph(NamedTuple):
    """Triples by number.

    Args:
        entities: names, in order of appearance.
        relations: names, likewise.
        triples: (T, 3) int64 head, relation, tail.
        left_out: triples of the file that were excluded.
    """

    entities: list[str]
    relations: list[str]
    triples: Ints
    left_out: int = 0


class Vectors(NamedTuple):
    """What was learned.

    Args:
        entities: (N, width) float32 of length 1.
        relations: (M, width) float32.
        losses: mean loss of a triple in each epoch.
    """

    entities: Tensor
    relations: Tensor
    losses: list[float]


def read_triple_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Head, relation and tail of each line, which tabs part; empty lines are passed over.

    Raises:
        ZooError: no such file, not UTF-8, or a line that is no triple (naming it).
    """
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.split("\t")
        if parts == [""]:
            continue
        if len(parts) != 3 or not all(part.strip() for part in parts):
            raise ZooError(
                f"{path}, line {number}: {line.strip()[:80]!r} is no triple; head, relation and tail are "
                "needed, with a tab between them."
            )
        yield parts[0].strip(), parts[1].strip(), parts[2].strip()


def read_triples(path: str | Path, exclude: str | Path | None = None) -> Graph:
    """A graph from a file, each triple once.

    Args:
        path: head, relation, tail, one triple a line, with tabs between them.
        exclude: triples of a benchmark in the same form: no fact stays that joins two entities which one of them joins,
            in whichever direction, because vectors trained on it would know the answer. Their entities stay.

    Raises:
        ZooError: a file cannot be read, a line is no triple, or no triple is left.
    """
    answers = (
        {frozenset((head, tail)) for head, _, tail in read_triple_lines(Path(exclude))}
        if exclude is not None
        else set()
    )
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    found: dict[tuple[int, int, int], None] = {}
    left_out = 0
    for head, relation, tail in read_triple_lines(Path(path)):
        ends = [entities.setdefault(name, len(entities)) for name in (head, tail)]
        if frozenset((head, tail)) in answers:
            left_out += 1
        else:
            found[ends[0], relations.setdefault(relation, len(relations)), ends[1]] = None
    if not found:
        raise ZooError(f"{path} has no triple{' that is not excluded' if left_out else ''}.")
    return Graph([*entities], [*relations], np.array([*found], dtype=np.int64), left_out)


def train_transe(graph: Graph, config: TransEConfig, show: bool = True) -> Vectors:
    """Train vectors of all entities and relations; the same arguments give the same vectors on the same machine.

    Args:
        graph: the triples.
        config: how.
        show: progress on standard error.

    Raises:
        ZooError: a graph of one entity, in which nothing can be corrupted, or vectors that are not finite.
    """
    if len(graph.entities) < 2:
        raise ZooError("TransE needs at least two entities.")
    trainer = TransETrainer(graph, config)
    progress, losses = Progress("transe", show), []
    for epoch in range(config.epochs):
        losses.append(trainer.epoch(epoch))
        if not math.isfinite(losses[-1]):
            raise ZooError(f"TransE's loss is not finite in epoch {epoch}: lower transe.lr (now {config.lr}).")
        done = epoch + 1
        progress.show(done / config.epochs, f"epoch {done}  loss {losses[-1]:.4f}", last=done == config.epochs)
    return Vectors(trainer.tables[0].cpu(), trainer.tables[1].cpu(), losses)


class TransETrainer:
    """Tables of entities and relations, and a sum of squares for each of their rows."""

    def __init__(self, graph: Graph, config: TransEConfig) -> None:
        self.graph, self.config = graph, config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        generator = torch.Generator().manual_seed(config.seed)
        bound = 6.0 / math.sqrt(config.width)
        sizes = (len(graph.entities), len(graph.relations))
        tables = [torch.empty(size, config.width).uniform_(-bound, bound, generator=generator) for size in sizes]
        self.tables = [torch.nn.functional.normalize(table).to(self.device) for table in tables]
        self.squares = [torch.zeros(size, device=self.device) for size in sizes]

    def epoch(self, number: int) -> float:
        """One pass; the mean loss."""
        triples, draw = self.graph.triples, Draw(self.config.seed, number)
        order = draw.permutation(len(triples), "transe.order")
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for start in range(0, len(order), self.config.batch_size):
            examples = order[start : start + self.config.batch_size]
            bits = draw.bits(examples, 2, "transe.corrupt")
            # A drawn entity is never the one that it replaces.
            side = np.where(bits[:, 0] >> np.uint32(31) == 1, 0, 2)
            true = triples[examples]
            other = scaled(bits[:, 1], len(self.graph.entities) - 1)
            old = true[np.arange(len(true)), side]
            corrupted = true.copy()
            corrupted[np.arange(len(true)), side] = other + (other >= old)
            total += self.step(torch.from_numpy(true).to(self.device), torch.from_numpy(corrupted).to(self.device))
        return float(total) / len(triples)

    def step(self, true: Tensor, corrupted: Tensor) -> Tensor:
        """One batch: gradients by hand, for only the rows in it are touched."""
        near, down = self._distance(true)
        far, up = self._distance(corrupted)
        losses = (self.config.margin + near - far).clamp_min(0.0)
        active = (losses > 0).to(down.dtype)[:, None]
        down, up = down * active, -up * active  # how the loss grows with head + relation - tail of each
        ends = torch.cat([true[:, 0], true[:, 2], corrupted[:, 0], corrupted[:, 2]])
        self._move(0, ends, torch.cat([down, -down, up, -up]))
        self._move(1, torch.cat([true[:, 1], corrupted[:, 1]]), torch.cat([down, up]))
        touched = ends.unique()
        self.tables[0][touched] = torch.nn.functional.normalize(self.tables[0][touched])
        return losses.sum(dtype=torch.float64)

    def _distance(self, triples: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) distances, and (B, width) their gradients with respect to head + relation - tail."""
        entities, relations = self.tables
        difference = entities[triples[:, 0]] + relations[triples[:, 1]] - entities[triples[:, 2]]
        if self.config.norm == 1:
            return difference.abs().sum(dim=1), difference.sign()
        length = difference.norm(dim=1)
        return length, difference / length.clamp_min(1e-12)[:, None]

    def _move(self, kind: int, rows: Tensor, gradients: Tensor) -> None:
        different, place = rows.unique(return_inverse=True)
        summed = torch.zeros(len(different), gradients.shape[1], device=self.device).index_add_(0, place, gradients)
        self.squares[kind][different] += summed.square().mean(dim=1)
        rate = self.config.lr / (self.squares[kind][different] + 1e-10).sqrt()
        self.tables[kind][different] -= rate[:, None] * summed


def ranks(vectors: Vectors, triples: Ints, norm: int = 2) -> Ints:
    """(T,) rank of each triple's true tail among all entities by distance, 1 = nearest; other true tails count, too."""
    found = np.empty(len(triples), dtype=np.int64)
    portion = max(1, 2**24 // max(vectors.entities.numel(), 1))
    for start in range(0, len(triples), portion):
        part = torch.from_numpy(triples[start : start + portion])
        aim = vectors.entities[part[:, 0]] + vectors.relations[part[:, 1]]
        distances = torch.cdist(aim[None], vectors.entities[None], p=float(norm))[0]
        own = distances.gather(1, part[:, 2:])
        found[start : start + portion] = ((distances < own).sum(dim=1) + 1).numpy()
    return found
