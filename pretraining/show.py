"""What an objective does to a text, as plain data; ``show_text`` and ``show_html`` draw it.

The config's layout, objectives and draws run over the text through the loader that training uses, so what is shown is
what a run computes: row n of the text has the masks of row n of a run with that seed. Only generic facts are read:
rows, ``rows.targets``, ``targets(rows)``, the collated inputs, ``describe(rows)``; no objective is known by name.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.annotate import Linked, read_entities
from pretraining.assemble import fit_vocabulary
from pretraining.corpus.config import CorpusConfig
from pretraining.labels import TokenLabels
from pretraining.loader import TaskData
from pretraining.objective import Objective, collate
from pretraining.objectives import RowClassification
from pretraining.show_command import ShowConfig
from pretraining.show_source import Subject, TextStore, corpus_of, make_task, record_hint, row_length, text_store
from pretraining.tokenizer.flags import WORD_START
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.attention import make_mask
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, Visibility
from zoo.relative import visible_keys

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Fate = Literal["plain", "template", "masked", "replaced", "kept"]
Mark = Literal["masked", "replaced", "kept", "same", "next", "previous", "class", "other"]

_IGNORED = -100  # torch's label for "no loss here"
_SORTS = 4  # sorts of targets that have lines of their own, at most

SIGNS: dict[Mark, tuple[str, str]] = {
    "masked": ("↑", "hidden by the mask token, and asked for"),
    "replaced": ("≠", "replaced by another token, and asked for"),
    "kept": ("=", "chosen, left as it was, and asked for"),
    "same": ("·", "neither chosen nor changed, but asked for"),
    "next": ("→", "the next token, asked for"),
    "previous": ("←", "the token before, asked for"),
    "class": ("", "its class, asked for"),
    "other": ("?", "asked for"),
}
"""The sign of each mark, and its meaning."""


# --- the description ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One position of a row.

    Args:
        read: token that the core reads.
        original: token that stood there.
        fate: what happened to it.
        own: it is part of the text; template tokens are nobody's.
        starts_word: a word or a template token starts here.
        place: where it stands in the text, -1 for what is no part of it.
    """

    read: str
    original: str
    fate: Fate
    own: bool
    starts_word: bool
    place: int = -1

    @property
    def key(self) -> tuple[int, str, bool]:
        """The same for the same token of a text in other rows, under other seeds and configs."""
        return self.place, self.original, self.own


@dataclass(frozen=True)
class Span:
    """Positions [start, stop), and what they are: at length, and in a word where there is no room."""

    start: int
    stop: int
    label: str = ""
    short: str = ""


@dataclass(frozen=True)
class Track:
    """One line below the tokens: a value for each position, or spans of positions.

    Args:
        name: the objective that asks for the values, else what they are.
        values: one for each position, empty = nothing there.
        marks: what each value has to do with its position, where an objective asks for them.
        spans: instead of values.
        full: what a short value stands for, where it does.
        unit: the spans are units of the text (phrases, entities) or speakers, so that they have a colour of their own.
    """

    name: str
    values: tuple[str, ...] = ()
    marks: tuple[Mark | None, ...] = ()
    spans: tuple[Span, ...] = ()
    full: tuple[str, ...] = ()
    unit: bool = False


@dataclass(frozen=True)
class Asked:
    """What one objective makes of a row: its name, its class, and what it asks for and says, in words."""

    name: str
    kind: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """Who sees whom among the states of one stream.

    Args:
        name: what to call it.
        who: (Q,) position of each state that looks.
        seen: (Q, K) whether it sees the token at each position.
        sentence: the same in words.
        plain: everything is seen, so that there is nothing to draw.
    """

    name: str
    who: tuple[int, ...]
    seen: Bools
    sentence: str
    plain: bool

    @property
    def key(self) -> tuple[str, bytes]:
        """What tells it from another one, so that nothing is drawn twice."""
        return f"{self.name} {self.seen.shape}", self.seen.tobytes()


@dataclass(frozen=True)
class RowView:
    """One row of the text.

    Args:
        seed: data seed of its draws.
        epoch: pass over the data.
        number: its number in the plan, the key of its draws.
        place: which of the text's rows it is, from 1.
        rows: how many rows the text makes.
        pair: how its two segments belong together, and the label; empty where it is no pair.
        cells: its positions.
        tracks: lines below them.
        asked: objective by objective.
        streams: who sees whom.
    """

    seed: int
    epoch: int
    number: int
    place: int
    rows: int
    pair: str
    cells: tuple[Cell, ...]
    tracks: tuple[Track, ...]
    asked: tuple[Asked, ...]
    streams: tuple[Stream, ...]


@dataclass(frozen=True)
class TaskView:
    """A text under one task of one config.

    Args:
        title: the config's or the run folder's name.
        chain: the config's place in the chain of models.
        about: task, layout and objectives in a sentence.
        rows: the rows shown, seed by seed.
        notes: what a reader should know besides.
        stages: which tasks are run when, a line each; the same in all views of a config, as title and chain are.
    """

    title: str
    chain: str
    about: str
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]
    stages: tuple[str, ...] = ()


# --- from a text to rows -----------------------------------------------------------------------------


def show_text(subject: Subject, wish: ShowConfig) -> list[TaskView]:
    """A text under every task of a config.

    Args:
        subject: settings and tokenizer.
        wish: the text, and which seeds, rows, epoch, tasks.

    Raises:
        ZooError: what the tokenizer, the layout or an objective refuses.
    """
    config, vocabulary = subject.config, subject.tokenizer.vocabulary
    facts = fit_vocabulary(config.model, vocabulary)
    for objective in config.objectives.values():
        objective.build(facts, vocabulary)
        objective.bind(subject.tokenizer)
    views = []
    with tempfile.TemporaryDirectory() as folder:
        for name in wish.chosen_tasks(config.tasks):
            layout = config.tasks[name].layout
            readers = " and ".join(
                f"{key} ({type(config.objectives[key]).__name__})" for key in config.tasks[name].objectives
            )
            about = f"{name}: {type(layout).__name__} makes rows for {readers}."
            rows: list[RowView] = []
            try:
                store = text_store(subject, name, wish, Path(folder))
                length = wish.length or row_length(layout.provides, store.own_tokens, config.data.sequence_length)
                about = f"{name}: {type(layout).__name__} makes rows of up to {length} tokens for {readers}."
                for seed in wish.seeds or [config.seed.data]:
                    task = make_task(config, name, store, vocabulary, seed, length)
                    rows += _rows(task, store, Speller(subject.tokenizer), facts, wish, corpus_of(config, name))
                notes = tuple(_notes(task, store, rows, wish))
            except ZooError as error:
                told = f"{error}{record_hint(corpus_of(config, name), wish.text)}"
                if wish.task or len(config.tasks) == 1:
                    raise ZooError(told) from error
                rows, notes = [], (f"not shown: {told}",)  # the text may still do for the others
            stages = tuple(config.stage_lines())
            views.append(TaskView(subject.title, config.chain, about, tuple(rows), notes, stages))
    if not any(view.rows for view in views):
        raise ZooError("\n".join(note for view in views for note in view.notes))
    return views


def _rows(
    task: TaskData, store: TextStore, spell: Speller, facts: CoreConfig, wish: ShowConfig, corpus: CorpusConfig
) -> list[RowView]:
    """The rows that begin with the text, as many as wanted."""
    plan, _ = task.plan(wish.epoch)
    numbers = np.flatnonzero(plan.documents < store.own_documents).tolist()
    if not numbers:
        raise ZooError(f"{type(task.layout).__name__} makes no row of this text; a longer text would work.")
    return [
        _Reader(task, store, spell, facts, wish.epoch, number, corpus).view(place, len(numbers))
        for place, number in enumerate(numbers[: wish.rows], start=1)
    ]


def _notes(task: TaskData, store: TextStore, rows: Sequence[RowView], wish: ShowConfig) -> Iterator[str]:
    """What a reader should know besides."""
    unknown = int((store.tokens[: store.own_tokens] == task.vocabulary.unk).sum())
    if unknown:
        yield f"{unknown} of the text's {store.own_tokens} tokens are unknown to this vocabulary."
    if "pair_label" in task.layout.provides and np.diff(store.documents[: store.own_documents + 1]).max() < 2:
        yield (
            "The text is a single sentence, so its second segment is always a random one; of two sentences or more "
            "other pairs are made too."
        )
    most = max(row.rows for row in rows)
    if most > wish.rows:
        yield f"The text makes {most} rows; --rows {most} shows them all."


# --- from a row to its description -------------------------------------------------------------------


class _Reader:
    """One row of a plan, laid out, corrupted and collated, as a description. L positions.

    Args:
        task: the row's task.
        store: the text.
        spell: ids to tokens.
        facts: the core that will read the row.
        epoch: pass over the data.
        number: the row.
        corpus: how the text was prepared, for the meaning of its arrays.
    """

    def __init__(
        self,
        task: TaskData,
        store: TextStore,
        spell: Speller,
        facts: CoreConfig,
        epoch: int,
        number: int,
        corpus: CorpusConfig,
    ) -> None:
        self.annotations = corpus.annotations
        self.told: set[bytes] = set()  # positions of mentions whose entities are named already
        self.task, self.store, self.spell, self.facts = task, store, spell, facts
        self.epoch, self.number = epoch, number
        plan, index = task.plan(epoch)[0], np.array([number])
        clean = task.layout.rows(store, plan, index, task.length, task.vocabulary)
        self.rows = task.corrupted(epoch, index)
        self.inputs = collate(self.rows, task.objectives).inputs
        self.length = int(self.rows.lengths[0])
        self.read: Ints = self.inputs.input_ids[0, : self.length].numpy()
        self.original: Ints = clean.input_ids[0, : self.length]
        self.special = self.rows.special[0, : self.length]
        self.starts = (self.rows.flags[0, : self.length] & WORD_START != 0) | self.special
        self.backwards = self.rows.reversed is not None and bool(self.rows.reversed[0])
        self.places = self._places()
        self.fates = self._fates()

    def view(self, place: int, rows: int) -> RowView:
        """The description; it is the ``place``-th of so many ``rows`` of the text."""
        asked, tracks = [], []
        for name, objective in self.task.objectives.items():
            facts, lines = self._asked(name, objective)
            asked.append(Asked(name, type(objective).__name__, tuple(facts)))
            tracks += lines
        return RowView(
            seed=self.task.seed,
            epoch=self.epoch,
            number=self.number,
            place=place,
            rows=rows,
            pair=self._pair(),
            cells=tuple(self._cells()),
            tracks=(*tracks, *self._values(tracks), *self._brackets()),
            asked=tuple(asked),
            streams=tuple(streams(self.facts, self.inputs, self.length)),
        )

    def _places(self) -> NDArray[np.int64]:
        """(L,) where in the store each token is, -1 at template tokens."""
        plan = self.task.plan(self.epoch)[0]
        pieces = slice(plan.offsets[self.number], plan.offsets[self.number + 1])
        way = -1 if self.backwards else 1
        both = zip(plan.starts[pieces], plan.lengths[pieces], strict=True)
        flat = np.concatenate([np.arange(start, start + count)[::way] for start, count in both] or [np.zeros(0)])
        places = np.full(self.length, -1, dtype=np.int64)
        text = np.flatnonzero(~self.special)
        places[text[: len(flat)]] = flat[: len(text)]
        return places

    def _fates(self) -> list[Fate]:
        """(L,) what happened to each token."""
        changed = self.read != self.original
        chosen = self.rows.targets.get("selected", self.rows.special & False)[0]
        fates: list[Fate] = []
        for place in range(self.length):
            if changed[place]:
                fates.append("masked" if self.read[place] == self.task.vocabulary.mask else "replaced")
            elif chosen[place]:
                fates.append("kept")
            else:
                fates.append("template" if self.special[place] else "plain")
        return fates

    def _cells(self) -> Iterator[Cell]:
        for place, fate in enumerate(self.fates):
            own = 0 <= self.places[place] < self.store.own_tokens
            read, original = self.spell(self.read[place]), self.spell(self.original[place])
            yield Cell(
                read, original, fate, bool(own), bool(self.starts[place]), int(self.places[place]) if own else -1
            )

    def _pair(self) -> str:
        """How the two segments of a pair belong together, by where they lie in the store; and the label."""
        label, types = self.rows.pair_label, self.rows.token_type_ids
        if label is None:
            return ""
        if relation := self._given_class(int(label[0])) or self._order_of_segments() or self._foreign_utterance():
            return f"{relation} (label {label[0]})"
        sides = [] if types is None else [self.places[~self.special & (types[0, : self.length] == t)] for t in (0, 1)]
        if not sides or not all(map(len, sides)):
            return f"label {label[0]}"
        first, second = (side[:: -1 if self.backwards else 1] for side in sides)
        documents = np.searchsorted(self.store.document_tokens(), [first[0], second[0]], side="right")
        if label[0] == 0:  # by definition the true order
            relation = "B follows A in the text"
        elif documents[0] != documents[1]:
            relation = "B comes from another document"
        elif second[-1] + 1 == first[0]:
            relation = "A and B are swapped"
        else:
            relation = f"B comes from {'earlier' if second[0] < first[0] else 'later'} in the document"
        return f"{relation} (label {label[0]}){', read backwards' if self.backwards else ''}"

    def _given_class(self, label: int) -> str:
        """The class that the record itself gives the row, by the layout's array of it; else nothing."""
        own = ~self.special
        name = getattr(self.task.layout, "label", None)
        values = self.rows.arrays.get(name, np.zeros((1, 0)))[0] if isinstance(name, str) else np.zeros(0)
        if not values.size or not np.all(values[: self.length][own] == label + 1):
            return ""
        named = next((o.labels for o in self.task.objectives.values() if isinstance(o, RowClassification)), None)
        said = named[label] if named else self._class_name(str(name), label)
        return "the record's class" + ("" if said == str(label) else f": {said}")

    def _order_of_segments(self) -> str:
        """In which order the segments of the text stand, where the layout numbers them."""
        if "segment" not in self.task.layout.provides or "segment" not in self.rows.arrays:
            return ""
        numbers = self.rows.arrays["segment"][0, : self.length][~self.special]
        order = [int(key) for key, _ in itertools.groupby(numbers)]
        if len(order) == 1:
            return "a single segment, in place"
        return f"segments in the order {' '.join(map(str, order))}" + (
            ", as in the text" if order == sorted(order) else ""
        )

    def _foreign_utterance(self) -> str:
        """Which of several pieces comes from elsewhere, where the layout reads speakers."""
        if not isinstance(getattr(self.task.layout, "role", None), str):
            return ""
        documents = np.searchsorted(self.store.document_tokens(), self.places, side="right")
        pieces = [list(run) for gap, run in itertools.groupby(range(self.length), lambda i: self.special[i]) if not gap]
        own = self.rows.document[0] + 1
        foreign = [n for n, piece in enumerate(pieces, start=1) if documents[piece[0]] != own]
        if not foreign:
            return "all utterances belong to one dialogue"
        return f"utterance {foreign[0]} comes from another dialogue"

    def _class_name(self, array: str, number: int) -> str:
        """What the record calls the class of this number."""
        names = getattr(self.annotations.get(array), "values", None)
        if isinstance(names, list):
            return str(names[number])
        if array == getattr(self.task.layout, "role", None):
            return ("query", "response")[number] if number < 2 else f"speaker {number + 1}"
        return str(number)

    # -- what is asked for

    def _asked(self, name: str, objective: Objective) -> tuple[list[str], list[Track]]:
        """What an objective asks for and says, as facts and as lines below the tokens."""
        tensors = {key: tensor.numpy() for key, tensor in objective.targets(self.rows).tensors.items()}
        facts: list[str] = []
        tracks: list[Track] = []
        for key in [key for key in tensors if key.replace("labels", "positions") in tensors.keys() - {key}]:
            labels, where = tensors.pop(key), tensors.pop(key.replace("labels", "positions"))
            part = f"{name} {key.replace('labels', '').strip('_')}".strip()
            for sort, chosen in _sorts(tensors, len(labels)):
                line = self._asked_tokens(f"{part} {sort}".strip(), objective, where[chosen], labels[chosen])
                tracks.append(line)
                if codes := {short: full for short, full in zip(line.values, line.full, strict=False) if short != full}:
                    facts.append(", ".join(f"{short} = {full}" for short, full in codes.items()))
            places = len(np.unique(where))
            many = f"for {places}" if places == len(where) else f"{len(where)} times, at {places}"
            facts.append(f"asks {many} of {self.length} tokens")
        for key, values in tensors.items():
            if values.shape == (1,):
                words = self._pair() if "label" in key and self.rows.pair_label is not None else ""
                if key != "place" or values[0]:  # the row's first state is what everybody reads
                    facts.append(
                        f"asks for the row's label: {words or values[0]}" if "label" in key else f"{key} {values[0]}"
                    )
            elif track := self._track(name, values):
                tracks.append(track)
                facts.append(f"asks for a value at {sum(map(bool, track.values))} of {self.length} tokens")
            else:
                facts.append(f"{key}: {values.size} values")
        for key, value in objective.describe(self.rows).items():
            described = np.asarray(value)
            if described.dtype == object and described.shape == self.rows.shape:
                tracks += self._mentions(name, key, described[0, : self.length], tracks)
            elif track := self._track(key, described):
                tracks.append(track)
            else:
                facts.append(f"{key} {_in_words(value)}")
        return facts, tracks

    def _asked_tokens(self, name: str, objective: Objective, where: Ints, labels: Ints) -> Track:
        """Labels at positions. Whose tokens they are, a position's own or its neighbour's, the labels themselves say.

        Positions count tokens, or, where there is a second stream, perhaps its states.
        """
        namer = getattr(objective, "labels", None)
        if isinstance(namer, TokenLabels):
            return self._classes(name, namer, where, labels)
        options = [where.astype(np.int64)]
        if self.inputs.query is not None:
            slots = self.inputs.query.positions[0].numpy()
            options.append(slots[np.minimum(options[0], len(slots) - 1)])
        tried = [(self._matches(option, labels, step), option, step) for option in options for step in (0, 1, -1)]
        share, where, step = max(tried, key=lambda one: one[0])
        known = share > 0.5
        values = [""] * self.length
        marks: list[Mark | None] = [None] * self.length
        for place, label in zip(where.tolist(), labels, strict=True):
            values[place] = self.spell(label) if known or objective.predicts_tokens else str(label)
            marks[place] = self._mark(place, step) if known else "other"
        return Track(name, values=tuple(values), marks=tuple(marks))

    def _classes(self, name: str, labels: TokenLabels, where: Ints, values: Ints) -> Track:
        """Classes of positions: the most frequent as a dot, the others briefly; what that means in full beside it."""
        found, counts = np.unique(values, return_counts=True)
        full = {int(label): labels.name(int(label)) for label in found}
        most = int(found[counts.argmax()]) if len(found) > 1 else -1
        short = {label: "·" if label == most else _brief(text, full.values()) for label, text in full.items()}
        shown, meant = [""] * self.length, [""] * self.length
        marks: list[Mark | None] = [None] * self.length
        for place, label in zip(where.tolist(), values.tolist(), strict=True):
            shown[place], meant[place], marks[place] = short[label], full[label], "class"
        return Track(name, values=tuple(shown), marks=tuple(marks), full=tuple(meant))

    def _mentions(self, name: str, key: str, fates: NDArray[Any], tracks: list[Track]) -> Iterator[Track]:
        """Entities by name, and what happened to each; ``NAME`` or ``NAME -> OTHER`` at the first token of a mention.

        The names take the place of the targets' numbers, which count within a batch.
        """
        self.told.add(np.flatnonzero(fates != "").tobytes())
        parts = [str(fate).partition(" -> ") if fate else ("", "", "") for fate in fates]
        marks: tuple[Mark | None, ...] = tuple("other" if before else None for before, _, _ in parts)
        own = next((track for track in tracks if track.name == name and tuple(track.marks) == marks), None)
        if own is not None:
            tracks[tracks.index(own)] = Track(name, values=tuple(before for before, _, _ in parts), marks=marks)
        said = []
        for before, changed, after in parts:
            fate = "kept" if not changed else "removed" if after == "none" else f"replaced by {after}"
            said.append(fate if own is not None or not before else f"{before} {fate}")
        values = tuple(text if before else "" for text, (before, _, _) in zip(said, parts, strict=True))
        yield Track(f"{key} read" if own is not None else key, values=values)

    def _matches(self, where: Ints, labels: Ints, step: int) -> float:
        """Share of the labels that are the original tokens ``step`` places to the right."""
        beside = where + step
        inside = (beside >= 0) & (beside < self.length)
        return float((self.original[beside[inside]] == labels[inside]).sum()) / max(len(labels), 1)

    def _mark(self, place: int, step: int) -> Mark:
        if step:
            return "next" if step > 0 else "previous"
        fate = self.fates[place]
        return "same" if fate == "plain" or fate == "template" else fate

    # -- other lines

    def _values(self, asked: Sequence[Track]) -> Iterator[Track]:
        """Originals that nobody asks for, factorisation orders, and what else ``corrupt`` has left."""
        lost = self.read != self.original
        for track in asked:
            lost &= np.array([mark not in ("masked", "replaced") for mark in track.marks] or True)
        if lost.any():
            yield Track("original", values=tuple(self.spell(i) if gone else "" for i, gone in zip(self.original, lost)))
        known = [self.original]
        if self.inputs.visible.orders is not None:
            known.append(self.inputs.visible.orders[0, : self.length].numpy())
            yield Track("order", values=tuple(map(str, known[-1])))
        for name, values in self.rows.targets.items():
            line = None if name == "selected" else self._track(name, values)
            if line and np.flatnonzero(line.values).tobytes() in self.told:
                continue  # the entities of mentions, which stand there by name
            if line and not any(np.array_equal(values[0, : self.length], other) for other in known):
                yield line

    def _track(self, name: str, values: NDArray[Any]) -> Track | None:
        """A (1, L) array as a line: true as a dot, ids as tokens where the array's name says that it holds some."""
        if values.shape != self.rows.shape:
            return None
        cut = values[0, : self.length]
        if cut.dtype == bool:
            return Track(name, values=tuple("●" if value else "" for value in cut))
        spell = self.spell if name.endswith("_ids") else _in_words
        return Track(name, values=tuple("" if value == _IGNORED else spell(value) for value in cut))

    def _brackets(self) -> Iterator[Track]:
        """Words of several pieces, the store's arrays, segments and documents."""
        words = _runs(np.cumsum(self.starts), lambda _: ("", ""))
        if words := tuple(span for span in words if span.stop - span.start > 1):
            yield Track("words", spans=words)
        for name, values in self.rows.arrays.items():
            yield from self._array(name, values[0, : self.length])
        if self.rows.reused is not None:
            yield Track("memory", spans=(Span(0, int(self.rows.reused[0]), "remembered for the next row", "kept"),))
        yield from self._segments()

    def _array(self, name: str, values: NDArray[Any]) -> Iterator[Track]:
        """A named array: units as brackets, classes as named segments, mentions by number or name, else runs."""
        annotator = self.annotations.get(name)
        marks = annotator.marks if annotator is not None else None
        sources = [getattr(objective, "labels", None) for objective in self.task.objectives.values()]
        if any(name in source.needs for source in sources if isinstance(source, TokenLabels)):
            return  # asked for, so shown already
        if marks == "units":
            if units := _units(values, self.special):
                yield Track(name, spans=units, unit=True)
            return
        if np.flatnonzero(values).tobytes() in self.told:
            return
        if isinstance(annotator, Linked):
            names = {number + 1: text for text, number in read_entities(annotator.sources()["entities"][0]).items()}
            if values.any():
                yield Track(name, values=tuple(names.get(int(value), "") for value in values))
            return

        def label(value: int) -> tuple[str, str]:
            text = self._class_name(name, int(value) - 1) if marks == "every" else str(value)
            return text, text

        if name == getattr(self.task.layout, "label", None) and marks == "every" and self.rows.pair_label is not None:
            return  # said once, for the row
        nearest = np.maximum.accumulate(np.where(self.special, int((~self.special).argmax()), np.arange(self.length)))
        whole = np.where(self.special, values[nearest], values) if marks == "every" else values
        if runs := tuple(span for span in _runs(whole, label) if whole[span.start]):
            yield Track(name, spans=runs, unit=marks == "every" or name in self.task.layout.provides)

    def _segments(self) -> Iterator[Track]:
        """Segments, and whose text they are, where a row has several of either."""
        document = np.searchsorted(self.store.document_tokens(), self.places, side="right")
        first = int((~self.special).argmax())
        nearest = np.maximum.accumulate(np.where(self.special, first, np.arange(self.length)))
        document = document[nearest]  # a separator belongs to what it closes
        types = self.rows.token_type_ids
        sides = np.zeros_like(document) if types is None else types[0, : self.length].astype(np.int64)
        most, own = self.store.num_documents + 1, self.store.own_documents
        foreign = bool((document > own).any())

        def label(both: int) -> tuple[str, str]:
            side, number = divmod(int(both), most)
            whose = ("another document", "other") if number > own else ("the text", "text")
            if types is not None:
                letter = chr(ord("A") + side)
                return (f"{letter}: {whose[0]}" if foreign else letter), letter
            return whose if foreign else (f"document {number}", str(number))

        spans = _runs(sides * most + document, label)
        if len(spans) > 1:
            yield Track("documents" if types is None else "segments", spans=spans)


def _units(codes: Ints, special: Bools) -> tuple[Span, ...]:
    """Units of an array of 0 (outside), 1 (first token), 2 (later ones), each one span.

    A row that is cut inside a unit begins with its later tokens; they are one unit, too.
    """
    spans: list[Span] = []
    for place, code in enumerate(codes.tolist()):
        if not code or special[place]:
            continue
        if code == 2 and spans and spans[-1].stop == place:
            spans[-1] = Span(spans[-1].start, place + 1)
        else:
            spans.append(Span(place, place + 1))
    return tuple(spans)


def _brief(name: str, names: Iterable[str]) -> str:
    """The shortest beginning of a name, three letters at least, that no other name has."""
    others = [other for other in names if other != name]
    return next(
        (name[:size] for size in range(3, len(name)) if not any(o.startswith(name[:size]) for o in others)), name
    )


def _sorts(tensors: dict[str, NDArray[Any]], count: int) -> list[tuple[str, Bools]]:
    """Sorts of targets that a tensor of whole numbers tells apart (a direction), which is taken away; else all."""
    for key, values in tensors.items():
        if count > 1 and values.shape == (count,) and values.dtype.kind in "biu" and len(np.unique(values)) <= _SORTS:
            del tensors[key]
            names = {0: "", 1: key} if set(values.tolist()) <= {0, 1} else {}
            return [(names.get(int(value), f"{key} {value}"), values == value) for value in np.unique(values)]
    return [("", np.ones(count, dtype=bool))]


def _runs(values: Ints, label: Callable[[int], tuple[str, str]]) -> tuple[Span, ...]:
    """Runs of equal values as spans with a label and a short one."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return tuple(Span(a, b, *label(values[a])) for a, b in itertools.pairwise(edges))


def _in_words(value: Any) -> str:
    """A described value: a share in percent, another fraction briefly, anything else as it is."""
    if isinstance(value, float | np.floating):
        return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.3g}"
    return str(value)


class Speller:
    """Ids as a reader knows them: bytes as characters, a space as ``▁``, nothing that moves a cursor.

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: ZooTokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = _byte_alphabet() if tokenizer.keeps_spaces else {}

    def __call__(self, index: int) -> str:
        """The token with this id."""
        token = self._tokenizer.token(index)
        if all(character in self._bytes for character in token):
            token = bytes(self._bytes[character] for character in token).decode("utf-8", "backslashreplace")
        return "".join(map(visible, token.replace(" ", "▁"))) or "∅"


def visible(character: str) -> str:
    """A character that is drawn, or its escape."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the others are moved up by 256."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}


# --- who sees whom -----------------------------------------------------------------------------------


def streams(facts: CoreConfig, inputs: CoreInputs, length: int) -> Iterator[Stream]:
    """Every stream of states of a collated row, its first ``length`` positions.

    Visibility comes from the functions that the core itself makes its masks with.

    Args:
        facts: which core it is.
        inputs: one row.
        length: its real tokens.
    """
    width, visible, query = inputs.input_ids.shape[1], inputs.visible, inputs.query
    everyone = list(range(length))
    found: list[tuple[str, list[int], Bools]]
    if facts.recurrent is not None:  # no masks: a direction reads the row from its end
        forward = masked_pairs(Visibility(causal=True), width)[0]
        found = [("forward", everyone, forward), ("backward", everyone, forward.T)][: 1 if visible.causal else 2]
    elif facts.position_type == "relative":
        places, window = torch.arange(width)[None], facts.mem_len if facts.same_length else None
        found = [("sees", everyone, _pairs(visible_keys(visible, places, width, 0, False, window), width, width))]
        if query is not None:
            who: list[int] = query.positions[0].tolist()
            seen = _pairs(visible_keys(query.visible, query.positions, width, 0, True, window), len(who), width)
            found = [("content", *found[0][1:]), ("query", who, seen)]
    else:
        found = [("sees", everyone, masked_pairs(visible, width)[0])]
    order = None if visible.orders is None else visible.orders[0, :length].numpy()
    for name, lookers, matrix in found:
        cut = matrix[: len(lookers), :length]
        yield Stream(name, tuple(lookers), cut, _who_sees_whom(cut, lookers, order), bool(cut.all()))


def masked_pairs(visible: Visibility, length: int) -> Bools:
    """(B or 1, L, L) who sees whom, from the very mask that kernels are given."""
    mask = make_mask(visible, length, torch.device("cpu"))
    seen = torch.ones(1, 1, length, length, dtype=torch.bool)
    if mask.allowed is not None:
        seen = seen & mask.allowed
    if mask.causal:
        seen = seen.tril()
    pairs: Bools = seen[:, 0].numpy()
    return pairs


def _pairs(seen: Tensor | None, rows: int, columns: int) -> Bools:
    """(Q, K) of the first row of visibility, where ``None`` stands for all."""
    whole = torch.ones(1, rows, columns, dtype=torch.bool)
    pairs: Bools = (whole if seen is None else whole & seen)[0].numpy()
    return pairs


def _who_sees_whom(seen: Bools, who: Sequence[int], order: Ints | None) -> str:
    """A (Q, K) matrix in words; what it is, the matrix itself says."""
    if seen.all():
        return "every token sees every token"
    looks, looked_at = np.array(who, dtype=np.int64)[:, None], np.arange(seen.shape[1])[None, :]
    known = {"every token sees itself and what stands before it": looked_at <= looks}
    known["every token sees itself and what stands after it"] = looked_at >= looks
    if order is not None:
        known["every token sees itself and what comes before it in the order"] = order[looked_at] <= order[looks]
        known["every state sees what comes before it in the order, not its own token"] = order[looked_at] < order[looks]
    for sentence, matrix in known.items():
        if np.array_equal(seen, matrix):
            return sentence
    square = seen.shape[0] == seen.shape[1]
    if square and seen.diagonal().all() and all(np.array_equal(seen[i], seen[j]) for i, j in np.argwhere(seen)):
        return f"{len(np.unique(seen, axis=0))} groups of tokens that do not see each other"
    return f"{100 * seen.mean():.0f} % of the pairs see each other"
