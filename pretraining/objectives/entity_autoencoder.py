"""Denoising entity auto-encoder: which entity belongs to a mention (specs: ERNIE-THU, section 3.2).

The objective also hands the entity vectors to the core, so that a task which should read entities lists it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pretraining.annotations.linked import ENTITY_ARRAY, names_recipe
from pretraining.arrays import Ints
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets
from pretraining.store.token_store import Store
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.heads.cross_entropy import TokenLoss
from zoo.heads.token_heads import EntityHead
from zoo.inputs import CoreInputs
from zoo.storage.entity_table import NAMES, Entities, keep_entities, open_entities
from zoo.values import NotNegative, Share, UserPath
from zoo.vocabulary import Vocabulary

_NO_MENTION = -100  # as labels that are ignored are written everywhere
_EXAMPLE = [[0, 3, "ANN"], [8, 10, "BO"], [28, 32, "ROME"]]


class EntityAutoencoder(Objective):
    """Give some mentions another entity, take it from others, and ask for the true one everywhere.

    Asked for is a softmax over candidates, by the product of the token's state and their vectors; "no entity" is among
    them, with the logit 0. ``corrupt`` leaves ``rows.targets["entities_read"]`` (B, L): at mentions the number + 1, or
    0 for none; elsewhere -100.

    Args:
        entities: folder of the vectors (:mod:`zoo.storage.entity_table`); the run folder keeps a copy.
        wrong: share of the mentions that get an entity drawn from the candidates, the true one among them.
        missing: share that lose theirs.
        candidates: the different entities of the ``row`` (the paper's reading, which any batch gives the same loss), or
            of the ``batch`` that one process reads at once (its code's).
        weight: factor of the loss; 0 = entities are read only.
    """

    required_fields = frozenset({ENTITY_ARRAY})
    attention = "bidirectional"
    head: EntityHead

    def __init__(
        self,
        entities: UserPath,
        wrong: Share = 0.05,
        missing: Share = 0.15,
        candidates: Literal["row", "batch"] = "row",
        weight: NotNegative = 1.0,
    ) -> None:
        super().__init__()
        if min(wrong, missing) < 0 or wrong + missing > 1:
            raise ZooError(
                f"EntityAutoencoder: wrong = {wrong} and missing = {missing}; shares of one whole are needed, for "
                "example 0.05 and 0.15."
            )
        self.entities, self.by_row, self.weight = entities, candidates == "row", weight
        self._wrong_below, self._missing_below = round(wrong * 2**32), round((wrong + missing) * 2**32)
        self._table: Entities | None = None

    @property
    def table(self) -> Entities:
        """The vectors, opened when first asked for."""
        if self._table is None:
            self._table = open_entities(self.entities)
        return self._table

    def example_settings(self, name: str, corpus: str) -> tuple[str, str]:
        """Text whose records link mentions to entities, and the table that has their vectors."""
        annotation = f"--{corpus}.annotations.{ENTITY_ARRAY}"
        settings = (
            f"--{corpus}.files RECORDS.jsonl {annotation}.class_path pretraining.annotations.LinkedEntities "
            f"{annotation}.init_args.entities TABLE/{NAMES} --objectives.{name}.init_args.entities TABLE"
        )
        return settings, f'{{"text": "Ann wed Bo. She was born in Rome.", "{ENTITY_ARRAY}": {json.dumps(_EXAMPLE)}}}'

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: dense, activation, LayerNorm, to the vectors' width."""
        self._check_fusion(config)
        self.config = config
        self.head = EntityHead(config)

    @staticmethod
    def _check_fusion(config: CoreConfig) -> int:
        """The width of entity vectors that the core reads."""
        if config.fusion is None:
            raise ZooError(
                "EntityAutoencoder needs a core that reads entities: say which layers do in model.fusion.layer_types."
            )
        return config.fusion.entity_size

    def check_model(self, config: CoreConfig) -> None:
        """Raise ZooError if the core reads no entities, or the table is not there or of another width than it reads."""
        width, found = self._check_fusion(config), self.table.width
        if found != width:
            raise ZooError(
                f"the entity vectors in {self.entities} are {found} wide, model.fusion.entity_size is {width}."
            )

    def check_store(self, store: Store) -> None:
        """Raise ZooError if vectors are not finite or of another width, or the store is of other entities."""
        self.check_model(self.config)
        least, most = (int(np.asarray(f(store.arrays[ENTITY_ARRAY], initial=0))) for f in (np.min, np.max))
        if least < 0 or most > len(self.table):
            raise ZooError(
                f"{store.path} names entity {most - 1 if most > 0 else least}, and {self.entities} has vectors of 0 to "
                f"{len(self.table) - 1}: the text was prepared with another list of entities."
            )
        self._check_names(store)
        self.table.check_finite()
        if most == 0:
            raise ZooError(f"{store.path} has not a single entity, so that there is nothing to learn of them.")

    def _check_names(self, store: Store) -> None:
        """Raise ZooError if names or order of the table are not those of the list that the text was linked with."""
        known = store.meta.get("recipe", {}).get("annotations", {}).get(ENTITY_ARRAY, {}).get("names")
        if known is None:  # a store of ids, or an annotation of another class
            return
        names = [name.strip() for name in self.table.names]
        other = next(([n, name] for n, name in known["some"] if n >= len(names) or names[n] != name), None)
        if other is not None:
            own = repr(names[other[0]]) if other[0] < len(names) else "missing"
            difference = f"number {other[0]} is {other[1]!r} there and {own} here"
        elif known["some"][-1][0] == known["count"] - 1:  # numbered without gaps
            here = names_recipe({name: number for number, name in enumerate(names[: known["count"]])})
            if here["digest"] == known["digest"]:
                return
            difference = f"some of the {known['count']:,} names differ"
        else:
            return
        raise ZooError(
            f"{store.path} was prepared with another list of entities than {self.entities}/{NAMES}: {difference}. "
            "Names and their order have to agree: give that file to the annotation (LinkedEntities: entities) and "
            "prepare the text again, or name the table that belongs to the text's list."
        )

    def save_files(self, folder: Path) -> None:
        """Keep the table in the model folder, where fine-tuning finds it."""
        keep_entities(self.entities, folder)

    def corrupt(self, rows: Examples, draw: Draw) -> Examples:
        """Change or remove entities of mentions."""
        aligned = _aligned(rows)
        row, column = np.nonzero(aligned)
        true, read = aligned[row, column], np.full(rows.shape, _NO_MENTION)
        decided = draw.at(rows.example_ids[row], column, "entities")
        bits = draw.at(rows.example_ids[row], column, "entities.wrong").astype(np.uint64)
        groups = row if self.by_row else np.zeros_like(row)
        pool, starts, counts = _distinct(groups, true)
        drawn = pool[starts + ((bits * counts.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)]
        kept = np.where(decided < self._missing_below, 0, true)
        read[row, column] = np.where(decided < self._wrong_below, drawn, kept)
        return rows.with_targets(entities_read=read)

    def inputs(self, rows: Examples, inputs: CoreInputs) -> CoreInputs:
        """Vectors of the batch's entities, and which of them each token reads."""
        known = _known(rows)
        read = rows.targets["entities_read"]
        local = np.where(read > 0, np.searchsorted(known, read) + 1, 0)
        vectors = torch.from_numpy(self.table.rows(known - 1))
        return inputs._replace(entity_ids=torch.from_numpy(local), entity_vectors=vectors)

    def targets(self, rows: Examples) -> Targets:
        """Per mention: flat ``positions``, ``labels`` in ``entity_vectors``, and (T, N) which are ``candidates``."""
        true, known = _aligned(rows), _known(rows)
        row, column = np.nonzero(true)
        labels = np.searchsorted(known, true[row, column]) + 1
        candidates = np.full((len(true), len(known) + 1), not self.by_row)
        candidates[row, labels] = candidates[:, 0] = True
        tensors = {
            "positions": torch.from_numpy(row * rows.shape[1] + column),
            "labels": torch.from_numpy(labels),
            "candidates": torch.from_numpy(candidates[row]),
        }
        return Targets(tensors, len(labels), row * rows.shape[1] + column)

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the true entities."""
        hidden, vectors = run_core().last_hidden_state, run_core.inputs.entity_vectors
        assert vectors is not None
        positions, labels = batch.tensors["positions"], batch.tensors["labels"]
        states = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        logits = self.head(states, vectors).float().masked_fill(~batch.tensors["candidates"], float("-inf"))
        losses = torch.logsumexp(logits, dim=-1) - logits.gather(1, labels[:, None]).squeeze(1)
        right = (logits.detach().argmax(dim=-1) == labels).sum()
        loss = TokenLoss(losses.sum(), losses.detach(), right)
        return LossTerm.by_row(loss, batch, hidden, self.weight)

    def head_flops(self, targets: int) -> int:
        """The head's dense layer; how many candidates it is compared with, only the batch knows."""
        assert self.config.fusion is not None
        return 2 * targets * self.config.hidden_size * self.config.fusion.entity_size

    def describe(self, rows: Examples) -> dict[str, Any]:
        """Names of entities and what happened to each, at the first token of its mention."""
        true, read = _aligned(rows), rows.targets["entities_read"]
        outcomes = np.full(true.shape, "", dtype=object)
        for place in zip(*np.nonzero(true), strict=True):
            name, now = (self._name(int(ids[place])) for ids in (true, read))
            outcomes[place] = name if name == now else f"{name} -> {now}"
        return {"entities": outcomes}

    def _name(self, entity_id: int) -> str:
        return "none" if entity_id == 0 else self.table.names[entity_id - 1]


def _aligned(rows: Examples) -> Ints:
    """(B, L) true entities of mentions, number + 1; a copy."""
    if ENTITY_ARRAY not in rows.arrays:
        raise ZooError(f"EntityAutoencoder needs rows with the array {ENTITY_ARRAY!r}; see data.corpus.annotations.")
    found: Ints = np.where(rows.special_tokens_mask, 0, rows.arrays[ENTITY_ARRAY]).astype(np.int64)
    return found


def _known(rows: Examples) -> Ints:
    """(N,) the batch's different entities, number + 1, ascending; corruption brings no others."""
    found = np.unique(_aligned(rows))
    return found[found > 0]


def _distinct(groups: Ints, ids: Ints) -> tuple[Ints, Ints, Ints]:
    """Different ids of each group, one group after the other, and where each given id's group starts and ends.

    Args:
        groups: (K,) group of each id.
        ids: (K,).

    Returns:
        the different ids; (K,) the first of the id's group among them; (K,) how many the group has.
    """
    order = np.lexsort((ids, groups))
    sorted_groups, sorted_ids = groups[order], ids[order]
    first = np.ones(len(ids), dtype=bool)
    first[1:] = (np.diff(sorted_groups) != 0) | (np.diff(sorted_ids) != 0)
    pool, of_group = sorted_ids[first], sorted_groups[first]
    starts = np.searchsorted(of_group, groups, side="left")
    return pool, starts, np.searchsorted(of_group, groups, side="right") - starts
