"""Precision, recall and F1 of entities: by place as ``seqeval`` counts them, or by surface string as CLUENER does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from finetune.metrics.tag_schemes import TaggedEntity
from zoo.errors import ZooError


class EntityScore(NamedTuple):
    """Precision, recall and F1, each 0 where it divides by 0; ``gold`` entities there are to find."""

    precision: float
    recall: float
    f1: float
    gold: int


@dataclass(frozen=True)
class EntityScores:
    """Scores of N rows.

    Args:
        micro: of all entities together.
        macro: means over the types.
        by_type: of each type, in order of their names.
    """

    micro: EntityScore
    macro: EntityScore
    by_type: dict[str, EntityScore]


def entity_scores(
    gold: Sequence[AbstractSet[TaggedEntity]],
    predicted: Sequence[AbstractSet[TaggedEntity]],
    types: Iterable[str] | None = None,
) -> EntityScores:
    """Scores by place: an entity is right if start, stop and type are.

    With :func:`finetune.metrics.tag_schemes.tagged_entities` these are ``seqeval``'s figures. Its macro averages are
    over the types that either side has. Where neither has any, ``seqeval`` says NaN, and 0 stands here.

    Args:
        gold: (N,) each row's entities.
        predicted: (N,) likewise.
        types: types that the macro averages are over, also those that no row has; none = those that either side has.
    """
    return _scores([_by_type(row) for row in gold], [_by_type(row) for row in predicted], types)


def surface_scores(
    texts: Sequence[Sequence[str]],
    gold: Sequence[AbstractSet[TaggedEntity]],
    predicted: Sequence[AbstractSet[TaggedEntity]],
    types: Iterable[str],
) -> EntityScores:
    """Scores by surface string, CLUENER's own measure, which is ``macro.f1``.

    A row's entities of one type are a set of strings: one that is named twice counts once, and its place does not
    count. Hits, false and missed strings of a type are summed over rows. The macro F1 is the mean of the F1 of all
    ``types``. Source: CLUEbenchmark/CLUENER2020, ``score.py``, which divides by 0 where a type is never predicted;
    its F1 is 0 here.

    Args:
        texts: (N,) texts, or each row's tokens, in which the entities lie.
        gold: (N,) each row's entities.
        predicted: (N,) likewise.
        types: the task's types; entities of others are left out.
    """
    rows = zip(texts, gold, predicted, strict=True)
    both = [(_by_type(gold_row, text), _by_type(row, text)) for text, gold_row, row in rows]
    return _scores([pair[0] for pair in both], [pair[1] for pair in both], types)


def _by_type(row: Iterable[TaggedEntity], text: Sequence[str] | None = None) -> set[tuple[str, Hashable]]:
    return {(e.type, (e.start, e.stop) if text is None else tuple(text[e.start : e.stop])) for e in row}


def _scores(
    gold: Sequence[set[tuple[str, Hashable]]],
    predicted: Sequence[set[tuple[str, Hashable]]],
    types: Iterable[str] | None,
) -> EntityScores:
    if len(gold) != len(predicted):
        raise ZooError(f"{len(gold):,} rows of gold entities and {len(predicted):,} of predicted ones; one each.")
    right, found, there = (Counter[str]() for _ in range(3))
    for gold_row, row in zip(gold, predicted, strict=True):
        right.update(kind for kind, _ in gold_row & row)
        found.update(kind for kind, _ in row)
        there.update(kind for kind, _ in gold_row)
    names = sorted(set(types) if types is not None else found.keys() | there.keys())
    by_type = {name: _score(right[name], found[name], there[name]) for name in names}
    totals = [sum(counts[name] for name in names) for counts in (right, found, there)]
    precision, recall, f1 = np.mean([score[:3] for score in by_type.values()], axis=0) if names else (0.0, 0.0, 0.0)
    macro = EntityScore(float(precision), float(recall), float(f1), totals[2])
    return EntityScores(_score(*totals), macro, by_type)


def _score(right: int, found: int, there: int) -> EntityScore:
    precision = right / found if found else 0.0
    recall = right / there if there else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return EntityScore(precision, recall, f1, there)
