"""A tag for each word of a text: entities in BIO or BIOES, or tags of another kind, such as parts of speech."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.data.tables import TaskTable
from finetune.data.tagged import OUTSIDE, TaggedTexts, TagScheme, Unit, read_tagged, tag_names, tags_of
from finetune.data.tasks import Task
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.rows import Targets, TaskRows
from finetune.inputs.windows import WordRows, word_rows
from finetune.kinds.base import Outputs, TaskKind, most_frequent
from finetune.metrics import TaggedEntity, entity_scores, surface_scores, tagged_entities
from finetune.metrics import scores as label_scores
from zoo.errors import ZooError

_OF_ENTITIES = ("entity_f1", "entity_precision", "entity_recall", "cluener_f1")


class Tagging(TaskKind[TaggedTexts]):
    """One tag for each word; a text that is too long is read in windows, so that every word has one.

    A word is tagged by its first token's state. Words that share a token, as the characters of a Chinese word do for a
    tokenizer of whole words, are tagged together: an entity goes from the first of its first token's words to the last
    of its last token's, and where two gold entities share a token, the first is learned.

    Args:
        scheme: ``bio`` or ``bioes``: ``labels`` are types of entities, and these tags are made of them; ``none``:
            ``labels`` are the tags.
        unit: what a text that comes without a list of words is made of: ``words`` between spaces, or ``characters``;
            words of a list are joined by spaces, characters by nothing.

    Raises:
        ZooError: another scheme or unit.
    """

    METRICS = (*_OF_ENTITIES, "accuracy")

    def __init__(self, scheme: TagScheme = "bio", unit: Unit = "words") -> None:
        for name, value, known in (
            ("scheme", scheme, ("bio", "bioes", "none")),
            ("unit", unit, ("words", "characters")),
        ):
            if value not in known:
                raise ZooError(f"kind.init_args.{name} is {value!r}; one of {', '.join(known)} is needed.")
        self.scheme, self.unit = scheme, unit

    def check(self, task: Task) -> None:
        """Raise ZooError unless there is one column, some labels and a metric that fits the scheme."""
        where = f"task {task.name!r}"
        if len(task.columns) != 1:
            raise ZooError(f"{where} names {len(task.columns)} columns; tagging reads one, of texts or lists of words.")
        if len(task.labels) < (2 if self.scheme == "none" else 1):
            what = "two tags" if self.scheme == "none" else "one type of entity"
            raise ZooError(f"{where} needs at least {what} in labels, found {list(task.labels)}.")
        wrong = [label for label in task.labels if label == OUTSIDE or label[1:2] == "-"]
        if self.scheme != "none" and wrong:
            raise ZooError(
                f"{where} has the label {wrong[0]!r}, a tag; labels are types of entities, such as PER, of which the "
                "tags are made, or kind.init_args.scheme is none."
            )
        if task.skip_labels or task.span_fields:
            raise ZooError(f"{where}: tagging knows no skip_labels, marks or mentions; leave them out.")
        if self.scheme == "none" and (wrong := [metric for metric in task.metrics if metric in _OF_ENTITIES]):
            raise ZooError(f"{where}: {wrong[0]} is defined for entities (scheme: bio or bioes); accuracy would work.")

    def metrics(self, task: Task) -> tuple[str, ...]:
        """Names of a task's metrics, the primary one first."""
        return task.metrics or (("accuracy",) if self.scheme == "none" else ("entity_f1",))

    def tags(self, task: Task) -> tuple[str, ...]:
        """All tags, in class order."""
        return tag_names(task.labels, self.scheme)

    def read(self, task: Task, table: TaskTable, labelled: bool = True) -> TaggedTexts:
        """A table's texts, words and tags."""
        return read_tagged(task, table, labelled, self.scheme, self.unit)

    def head_config(self, task: Task) -> dict[str, Any]:
        """A score for each tag, at the first token of each word."""
        tags = list(self.tags(task))
        return {"kind": "tagging", "num_labels": len(tags), "labels": tags}

    # ---- states of tokens

    def encode(self, task: Task, examples: TaggedTexts, encoder: RowEncoder) -> WordRows:
        """Rows with a slot for each word's token, and the tags of the slots."""
        where = [f"{examples.source}, line {number + 1}" for number in examples.numbers]
        rows = word_rows(encoder, examples.texts, examples.words, where)
        names, numbers = self.tags(task), {tag: number for number, tag in enumerate(self.tags(task))}
        found: list[int] = []
        for own, tags in zip(rows.by_example(), examples.tags, strict=True):
            found += [numbers[tag] for tag in self._of_states([names[tag] for tag in tags], own)]
        return replace(rows, targets=np.array(found, np.int64))

    def _of_states(self, tags: Sequence[str], places: NDArray[np.int64]) -> list[str]:
        """Tags of words -> tags of the states that they are read from."""
        count = int(places.max(initial=-1)) + 1
        if self.scheme == "none":
            made = [""] * count
            for place, tag in zip(places[::-1].tolist(), tags[::-1], strict=True):
                if place >= 0:
                    made[place] = tag  # the first of several stays
            return made
        entities, taken = list[TaggedEntity](), 0
        for entity in sorted(tagged_entities(tags)):
            own = places[entity.start : entity.stop]
            own = own[own >= taken]
            if len(own):
                taken = int(own[-1]) + 1
                entities.append(TaggedEntity(int(own[0]), taken, entity.type))
        return tags_of(entities, count, self.scheme)

    def _of_words(self, tags: Sequence[str], places: NDArray[np.int64]) -> list[str]:
        """Tags of states -> tags of the words that are read from them; words of no state are as those around."""
        if self.scheme == "none":
            known = np.maximum.accumulate(places)
            return [tags[max(place, 0)] if tags else "" for place in known.tolist()]
        solid = np.flatnonzero(places >= 0)
        states = places[solid]
        entities = [
            TaggedEntity(
                int(solid[np.searchsorted(states, entity.start)]),
                int(solid[np.searchsorted(states, entity.stop) - 1]) + 1,
                entity.type,
            )
            for entity in tagged_entities(tags)
        ]
        return tags_of(entities, len(places), self.scheme)

    # ---- training

    def targets(self, examples: TaggedTexts, rows: TaskRows, chosen: NDArray[np.int64]) -> Targets:
        """(S,) tag numbers of the slots."""
        assert isinstance(rows, WordRows)
        return (torch.from_numpy(rows.targets[rows.outputs_of(chosen)].astype(np.int64)),)

    def count(self, rows: TaskRows, chosen: NDArray[np.int64]) -> int:
        """Slots."""
        return max(int((rows.outputs[chosen + 1] - rows.outputs[chosen]).sum()), 1)

    def loss(self, scores: Tensor, targets: Targets) -> Tensor:
        """Summed cross-entropy."""
        return functional.cross_entropy(scores, targets[0], reduction="sum")

    # ---- answers

    def answers(self, task: Task, examples: TaggedTexts, rows: TaskRows, outputs: Outputs) -> list[list[str]]:
        """The tags of each example's words; entities are mended as ``conlleval`` reads them."""
        assert isinstance(rows, WordRows)
        names, best = self.tags(task), outputs.argmax(axis=1)
        places = rows.by_example()
        ends = np.cumsum([int(own.max(initial=-1)) + 1 for own in places])
        parts = np.split(best, ends[:-1])
        return [
            self._of_words([names[tag] for tag in part], own) if len(part) else [names[0]] * len(own)
            for part, own in zip(parts, places, strict=True)
        ]

    def scores(self, task: Task, examples: TaggedTexts, answers: Sequence[Any]) -> dict[str, float]:
        """The metrics of tags."""
        names = self.tags(task)
        gold = [[names[tag] for tag in tags] for tags in examples.tags]
        wanted, found = self.metrics(task), dict[str, float]()
        if any(metric in _OF_ENTITIES for metric in wanted):
            right, guessed = ([tagged_entities(tags) for tags in side] for side in (gold, answers))
            by_place = entity_scores(right, guessed).micro
            found = dict(zip(_OF_ENTITIES, (by_place.f1, by_place.precision, by_place.recall), strict=False))
            if "cluener_f1" in wanted:
                texts = [examples.surfaces(row) for row in range(len(examples))]
                found["cluener_f1"] = surface_scores(texts, right, guessed, task.labels).macro.f1
        if "accuracy" in wanted:
            found |= label_scores(["accuracy"], _numbers(gold, names), _numbers(answers, names))
        return {metric: found[metric] for metric in wanted}

    def floors(self, task: Task, train: TaggedTexts, evaluation: TaggedTexts) -> dict[str, dict[str, float]]:
        """Always ``O``; without a scheme, always the most frequent tag of the rows that are scored."""
        names = self.tags(task)
        numbers = np.concatenate([*evaluation.tags, np.zeros(0, np.int64)]).tolist()
        tag = OUTSIDE if self.scheme != "none" or not numbers else names[most_frequent(numbers)]
        return {"majority": self.scores(task, evaluation, [[tag] * len(tags) for tags in evaluation.tags])}

    def distinct(self, answers: Sequence[Any]) -> int:
        """Different tags."""
        return len({tag for tags in answers for tag in tags})

    def written(self, task: Task, examples: TaggedTexts, answers: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
        """Row number in the source, gold tags and predicted tags, with spaces between them."""
        names = self.tags(task)
        gold = [" ".join(names[tag] for tag in tags) if examples.labelled else "" for tags in examples.tags]
        rows = zip(examples.numbers, gold, answers, strict=True)
        return ["id", "gold", "predicted"], [[str(number), known, " ".join(tags)] for number, known, tags in rows]

    def submitted(self, task: Task, examples: TaggedTexts, answers: Sequence[Any]) -> list[tuple[str, Any]]:
        """Row number; text, and its entities by type and surface, ``[start, last]`` in characters.

        Source: CLUEbenchmark/CLUENER2020, ``README.md``.
        """
        rows = zip(examples.numbers, examples.texts, examples.words, answers, strict=True)
        return [
            (str(number), {"text": text, "label": _surfaces(text, words, tagged_entities(tags))})
            for number, text, words, tags in rows
        ]

    def records(self, task: Task, examples: TaggedTexts, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """The tag of each word, the words, and with a scheme the entities: type, text and characters [start, end)."""
        found: list[dict[str, Any]] = []
        for row, tags in enumerate(answers):
            found.append({"predicted": list(tags), "words": examples.surfaces(row)})
            if self.scheme != "none":
                text, words = examples.texts[row], examples.words[row]
                spans = [(e.type, int(words[e.start, 0]), int(words[e.stop - 1, 1])) for e in tagged_entities(tags)]
                found[-1]["entities"] = [
                    {"type": label, "text": text[start:end], "start": start, "end": end}
                    for label, start, end in sorted(spans, key=lambda span: span[1])
                ]
        return found


def _surfaces(
    text: str, words: NDArray[np.int64], entities: Iterable[TaggedEntity]
) -> dict[str, dict[str, list[list[int]]]]:
    """Entities of a text: type -> surface -> places, each with its last character included."""
    found: dict[str, dict[str, list[list[int]]]] = {}
    for entity in sorted(entities):
        start, stop = int(words[entity.start, 0]), int(words[entity.stop - 1, 1])
        found.setdefault(entity.type, {}).setdefault(text[start:stop], []).append([start, stop - 1])
    return found


def _numbers(tags: Iterable[Sequence[str]], names: Sequence[str]) -> NDArray[np.int64]:
    """(all words,) class numbers."""
    known = {name: number for number, name in enumerate(names)}
    return np.array([known[tag] for row in tags for tag in row], np.int64)
