"""What an objective does to a text, as plain data; :mod:`pretraining.show_text` and ``show_html`` draw it.

The text becomes the first document of a small store, prepared as any corpus is, with documents of the config's own
store behind it. The config's layout, objectives and draws then run over this store through the loader that training
uses, so what is shown is what a run computes: row n of the text has the masks of row n of a run with that seed.

Only generic facts are read: rows, ``rows.targets``, ``targets(rows)``, the collated inputs, ``describe(rows)``.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.assemble import fit_vocabulary, make_tasks, prepare_store
from pretraining.config import PretrainConfig
from pretraining.layout import Plan
from pretraining.loader import TaskData
from pretraining.objective import Objective, collate
from pretraining.rows import Rows
from pretraining.score import _KNOWN_CODE, _class_paths
from pretraining.show_command import ShowConfig
from pretraining.store import WORD_START, Store
from pretraining.tokenizer import TokenizerConfig, ZooTokenizer, load_tokenizer
from zoo.attention import make_mask
from zoo.config import read_json
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, Visibility
from zoo.settings import load_settings
from zoo.vocabulary import Vocabulary

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Fate = Literal["plain", "template", "masked", "replaced", "kept"]
Mark = Literal["", "masked", "replaced", "kept", "same", "next", "previous", "other"]

_OTHERS = 40  # documents that random second segments come from
_OTHER_SENTENCES = 30  # sentences taken of each
_ROOM = 8  # tokens that a row of a pair may have beyond the text
_SHORTEST = 32  # unless the config's rows are shorter themselves


# --- the description ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One position of a row.

    Args:
        read: token that the core reads.
        original: token that stood there.
        fate: what happened to it.
        own: it is part of the text (template tokens are nobody's).
        starts_word: a word or a template token starts here.
    """

    read: str
    original: str
    fate: Fate
    own: bool
    starts_word: bool


@dataclass(frozen=True)
class Span:
    """Positions [start, stop) and what they are."""

    start: int
    stop: int
    label: str = ""


@dataclass(frozen=True)
class Track:
    """One line below the tokens: a value for each position, or spans of positions.

    Args:
        name: an objective's name for what it asks for, else what the values are.
        values: one for each position, empty = nothing there.
        marks: what the values have to do with their positions, for what an objective asks for.
        spans: instead of values.
    """

    name: str
    values: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What one objective makes of a row.

    Args:
        name: its name in the settings.
        kind: its class.
        facts: what it asks for and what it says of the row, in words.
    """

    name: str
    kind: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """Who sees whom among the states of one stream.

    Args:
        name: ``tokens``, or, where there are two, ``content`` and ``query``.
        who: (Q,) position of each state that looks.
        seen: (Q, K) whether it sees the token at each position.
        sentence: the same in words.
        shape: ``all``, ``causal``, or another.
    """

    name: str
    who: tuple[int, ...]
    seen: Bools
    sentence: str
    shape: Literal["all", "causal", "other"]


@dataclass(frozen=True)
class RowView:
    """One row of the text.

    Args:
        seed: data seed of its draws.
        epoch: pass over the data.
        number: its number in the plan, the key of its draws.
        rows: how many rows the text makes.
        pair: how its two segments belong together, and the label.
        cells: its positions.
        tracks: lines below them.
        asked: objective by objective.
        streams: who sees whom.
    """

    seed: int
    epoch: int
    number: int
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
        task: the task's name.
        layout: class of its layout.
        length: longest row.
        objectives: (name, class) of those that read the rows.
        rows: the rows shown, seed by seed.
        notes: what a reader should know besides.
    """

    title: str
    chain: str
    task: str
    layout: str
    length: int
    objectives: tuple[tuple[str, str], ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]


# --- settings, tokenizer, text -----------------------------------------------------------------------


class Subject(NamedTuple):
    """Settings, and what they read a text with.

    Args:
        title: what to call them.
        config: the settings.
        tokenizer: the tokenizer.
        home: folder that it lies in.
        store: where other documents come from, if any are needed.
    """

    title: str
    config: PretrainConfig
    tokenizer: ZooTokenizer
    home: Path
    store: Store | None


def load_config(name: str, overrides: Sequence[str], wish: ShowConfig) -> Subject:
    """Settings by a config's name, or by several joined with ``+``; the store is built on demand as for a run."""
    argv = [word for part in name.split("+") for word in ("--config", part)]
    config = load_settings(PretrainConfig, [*argv, *overrides], "zoo show", "pretrain").value
    store = prepare_store(config, True)
    return Subject(config.name, config, load_tokenizer(store.path), store.path, store)


def load_run(name: str, overrides: Sequence[str], wish: ShowConfig) -> Subject:
    """Settings and tokenizer of a run folder.

    Raises:
        ZooError: no run folder, one that names code from elsewhere, or its corpus is gone and is needed.
    """
    folder = Path(name)
    if not (folder / "run.json").is_file():
        raise ZooError(f"{folder} has no run.json; --run takes a folder of `python -m pretraining`, --config settings.")
    record = read_json(folder / "run.json")
    recorded: dict[str, Any] = record.get("config", {})
    foreign = [path for path in _class_paths(recorded) if not path.startswith(_KNOWN_CODE)]
    if foreign and not wish.trust_code:
        raise ZooError(
            f"{folder} was trained with {', '.join(foreign)}, not the package's own code; if you trust it, say "
            "--trust_code."
        )
    settings = load_settings(PretrainConfig, list(overrides), "zoo show", "pretrain", recorded)
    config, store = settings.value, None
    if any(_others(task.layout.provides, wish) for task in config.tasks.values()):
        moved = settings.resolved["data"]["corpus"] != recorded["data"]["corpus"]
        tokenizer = TokenizerConfig(kind="file", path=str(folder)) if moved else config.data.tokenizer
        found = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=tokenizer))
        try:
            store = prepare_store(found, True)
        except ZooError as error:
            raise ZooError(f"{error}\n{_ELSEWHERE.format(folder=folder)}") from error
        if not moved and store.fingerprint != record.get("data_fingerprint"):
            raise ZooError(f"{store.path} is not what {folder} was trained on.\n{_ELSEWHERE.format(folder=folder)}")
    return Subject(folder.name, config, load_tokenizer(folder), folder, store)


_ELSEWHERE = (
    "Second segments come from the text that {folder} was trained on. --data.corpus.files PATH takes them from other "
    "text, under the run's own tokenizer."
)


def _others(provides: frozenset[str], wish: ShowConfig) -> int:
    """Documents wanted behind the text: by default only where the layout makes pairs."""
    if wish.others is not None:
        return wish.others
    return _OTHERS if "pair_label" in provides else 0


def _tokenised(subject: Subject, text: str, folder: Path) -> Store:
    """The text as a store of its own, prepared as a run's corpus is, with the subject's tokenizer."""
    path = folder / "text.txt"
    path.write_bytes(text.encode("utf-8", "replace"))
    data = subject.config.data
    corpus = dataclasses.replace(data.corpus, files=str(path))
    tokenizer = TokenizerConfig(kind="file", path=str(subject.home))
    own = dataclasses.replace(data, corpus=corpus, tokenizer=tokenizer, stores=str(folder), processes=1)
    try:
        return prepare_store(dataclasses.replace(subject.config, data=own), False)
    except ZooError as error:
        raise ZooError(str(error).replace(repr(str(path)), "the text").replace(str(path), "the text")) from error


class TextStore(Store):
    """The documents of a text, and some of another store behind them, in memory.

    Args:
        own: the text.
        other: where the others come from.
        count: how many; spread evenly over the store.
    """

    def __init__(self, own: Store, other: Store | None, count: int) -> None:
        available = 0 if other is None else other.num_documents
        chosen = np.unique(np.linspace(0, max(available - 1, 0), min(count, available)).astype(np.int64))
        parts = [(own, number, None) for number in range(own.num_documents)]
        parts += [(other, int(number), _OTHER_SENTENCES) for number in chosen] if other is not None else []
        spans, sizes, counts = [], [], []
        for store, number, limit in parts:
            first, last = (int(edge) for edge in store.documents[number : number + 2])
            edges = np.asarray(store.sentences[first : min(last, first + (limit or last)) + 1])
            spans.append((store, slice(int(edges[0]), int(edges[-1]))))
            sizes.append(np.diff(edges))
            counts.append(len(edges) - 1)
        self.path, self.meta, self.fingerprint = Path("the text"), own.meta, own.fingerprint
        self.tokens = np.concatenate([store.tokens[span] for store, span in spans])
        self.flags = np.concatenate([store.flags[span] for store, span in spans])
        self.sentences = np.append(0, np.cumsum(np.concatenate(sizes))).astype(np.int64)
        self.documents = np.append(0, np.cumsum(counts)).astype(np.int64)
        self.counts = (other or own).counts
        self.arrays = {
            name: np.concatenate([_array(store, name, span, values.dtype) for store, span in spans])
            for name, values in {**(other.arrays if other is not None else {}), **own.arrays}.items()
        }
        self.own_documents, self.own_tokens = own.num_documents, own.num_tokens


def _array(store: Store, name: str, span: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A part of a named array; zeros where a store was prepared without it."""
    if name in store.arrays:
        return np.asarray(store.arrays[name][span])
    return np.zeros(span.stop - span.start, dtype=dtype)


# --- from a text to rows -----------------------------------------------------------------------------


def show_text(subject: Subject, text: str, wish: ShowConfig) -> list[TaskView]:
    """A text under every task of a config.

    Args:
        subject: settings and tokenizer.
        text: what to show; blank lines end documents, as in any ``.txt`` corpus.
        wish: seeds, rows, epoch, length, tasks.

    Raises:
        ZooError: what the tokenizer, the layout or an objective refuses.
    """
    config, vocabulary = subject.config, subject.tokenizer.vocabulary
    facts = fit_vocabulary(config.model, vocabulary)
    for objective in config.objectives.values():
        objective.build(facts, vocabulary)
    seeds = wish.seeds or [config.seed.data]
    views = []
    with tempfile.TemporaryDirectory() as folder:
        own = _tokenised(subject, text, Path(folder))
        for name in wish.chosen_tasks(config.tasks):
            layout = config.tasks[name].layout
            store = TextStore(own, subject.store, _others(layout.provides, wish))
            length = wish.length or _length(layout.provides, store.own_tokens, config.data.sequence_length)
            rows: list[RowView] = []
            for seed in seeds:
                rows += _rows(_task(config, name, store, vocabulary, seed, length), subject.tokenizer, wish)
            views.append(
                TaskView(
                    title=subject.title,
                    chain=config.chain,
                    task=name,
                    layout=type(layout).__name__,
                    length=length,
                    objectives=tuple(
                        (key, type(config.objectives[key]).__name__) for key in config.tasks[name].objectives
                    ),
                    rows=tuple(rows),
                    notes=tuple(_notes(store, vocabulary, layout.provides, rows, wish)),
                )
            )
    return views


def _length(provides: frozenset[str], tokens: int, configured: int) -> int:
    """Longest row: the config's, but little more than the text where a second segment would fill it up."""
    return min(configured, max(tokens + _ROOM, _SHORTEST)) if "pair_label" in provides else configured


def _task(
    config: PretrainConfig, name: str, store: TextStore, vocabulary: Vocabulary, seed: int, length: int
) -> TaskData:
    """One task over the small store, made and checked as a run does."""
    data = dataclasses.replace(config.data, sequence_length=length, validation_tokens=0)
    seeds = dataclasses.replace(config.seed, data=seed)
    alone = dataclasses.replace(config, tasks={name: config.tasks[name]}, stages=None, data=data, seed=seeds)
    return make_tasks(alone, store, vocabulary)[0][name]


def _rows(task: TaskData, tokenizer: ZooTokenizer, wish: ShowConfig) -> list[RowView]:
    """The rows that begin with the text, as many as wanted."""
    store = task.store
    assert isinstance(store, TextStore)
    plan, _ = task.plan(wish.epoch)
    numbers = np.flatnonzero(plan.documents < store.own_documents)
    if not len(numbers):
        raise ZooError(f"{type(task.layout).__name__} makes no row of this text; a longer text would work.")
    return [
        _Reader(task, tokenizer, plan, int(number)).view(wish.epoch, len(numbers)) for number in numbers[: wish.rows]
    ]


def _notes(
    store: TextStore, vocabulary: Vocabulary, provides: frozenset[str], rows: list[RowView], wish: ShowConfig
) -> Iterator[str]:
    """What a reader should know besides."""
    unknown = int((store.tokens[: store.own_tokens] == vocabulary.unk).sum())
    if unknown:
        yield f"{unknown} of the text's {store.own_tokens} tokens are unknown to this vocabulary."
    if "pair_label" in provides and np.diff(store.documents[: store.own_documents + 1]).max() < 2:
        yield (
            "The text is a single sentence, so its second segment is always a random one; with two sentences or more "
            "other pairs come up too."
        )
    most = max(row.rows for row in rows)
    if most > wish.rows:
        yield f"The text makes {most} rows, {wish.rows} are shown; --rows {most} shows all."


# --- from a row to its description -------------------------------------------------------------------


class _Reader:
    """Reads one row of a plan: laid out, corrupted, collated.

    Args:
        task: the rows' task.
        tokenizer: spells ids.
        plan: an epoch's plan.
        number: the row.
    """

    def __init__(self, task: TaskData, tokenizer: ZooTokenizer, plan: Plan, number: int) -> None:
        self.task, self.plan, self.number = task, plan, number
        self.vocabulary = task.vocabulary
        self.spell = Speller(tokenizer)

    def view(self, epoch: int, of: int) -> RowView:
        """The row's description."""
        task, index = self.task, np.array([self.number])
        clean = task.layout.rows(task.store, self.plan, index, task.length, self.vocabulary)
        self.rows = task.corrupted(epoch, index)
        self.inputs = collate(self.rows, task.objectives).inputs
        self.length = int(self.rows.lengths[0])
        self.read: Ints = self.inputs.input_ids[0, : self.length].numpy()
        self.original: Ints = clean.input_ids[0, : self.length]
        self.places = self._places()
        self.fates = self._fates()
        asked = [self._asked(name, objective) for name, objective in task.objectives.items()]
        tracks = [track for part in asked for track in part[1]]
        return RowView(
            seed=task.seed,
            epoch=epoch,
            number=self.number,
            rows=of,
            pair=self._pair(),
            cells=tuple(self._cells()),
            tracks=(*tracks, *self._tracks(tracks)),
            asked=tuple(part[0] for part in asked),
            streams=tuple(streams(self.inputs, self.length)),
        )

    def _places(self) -> NDArray[np.int64]:
        """(L,) where in the store each token is, -1 at template tokens."""
        pieces = slice(self.plan.offsets[self.number], self.plan.offsets[self.number + 1])
        starts, lengths = self.plan.starts[pieces], self.plan.lengths[pieces]
        flat = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)] or [np.zeros(0)])
        places = np.full(self.length, -1, dtype=np.int64)
        text = np.flatnonzero(~self.rows.special[0, : self.length])
        places[text[: len(flat)]] = flat[: len(text)]
        return places

    def _fates(self) -> list[Fate]:
        """(L,) what happened to each token."""
        changed = self.read != self.original
        chosen = self.rows.targets.get("selected")
        kept = changed & False if chosen is None else chosen[0, : self.length] & ~changed
        fates: list[Fate] = []
        for position in range(self.length):
            if changed[position]:
                fates.append("masked" if self.read[position] == self.vocabulary.mask else "replaced")
            elif kept[position]:
                fates.append("kept")
            else:
                fates.append("template" if self.rows.special[0, position] else "plain")
        return fates

    def _cells(self) -> Iterator[Cell]:
        assert isinstance(self.task.store, TextStore)
        starts = (self.rows.flags[0] & WORD_START) != 0
        for i in range(self.length):
            yield Cell(
                read=self.spell(self.read[i]),
                original=self.spell(self.original[i]),
                fate=self.fates[i],
                own=0 <= self.places[i] < self.task.store.own_tokens,
                starts_word=bool(starts[i] or self.rows.special[0, i]),
            )

    def _pair(self) -> str:
        """How the two segments of a pair belong together, by where they lie in the store; and the label."""
        label, types = self.rows.pair_label, self.rows.token_type_ids
        if label is None or types is None:
            return ""
        text = self.places >= 0
        sides = [self.places[text & (types[0, : self.length] == side)] for side in (0, 1)]
        relation = ""
        if all(map(len, sides)):
            first, second = (int(side[0]) for side in sides)
            documents = np.searchsorted(self.task.store.document_tokens(), [first, second], side="right")
            if documents[0] != documents[1]:
                relation = "B comes from another document"
            else:
                relation = "B follows A in the text" if first < second else "A and B are swapped"
        return f"{relation} (label {label[0]})" if relation else f"label {label[0]}"

    # -- what is asked for

    def _asked(self, name: str, objective: Objective) -> tuple[Asked, list[Track]]:
        """What an objective asks for, as facts and as lines below the tokens."""
        found = objective.targets(self.rows)
        tensors = {key: tensor.numpy() for key, tensor in found.tensors.items()}
        facts, tracks = [], []
        for key, values in tensors.items():
            where = key.replace("labels", "positions")
            if "positions" in key and key.replace("positions", "labels") in tensors:
                continue
            if "labels" in key and where in tensors:
                tracks.append(self._asked_tokens(name, objective, tensors[where], values))
                facts.append(f"asks for {len(values)} of {self.length} tokens")
            elif values.shape == (1,):
                facts.append(f"asks for the row's label, {values[0]}")
            elif track := self._track(name, values):
                tracks.append(track)
                facts.append(f"asks for a value at {sum(map(bool, track.values))} of {self.length} tokens")
            else:
                facts.append(f"{key}: {values.size} values")
        for key, value in objective.describe(self.rows).items():
            if track := self._track(key, np.asarray(value)):
                tracks.append(track)
            else:
                facts.append(f"{key} {_in_words(value)}")
        return Asked(name, type(objective).__name__, tuple(facts)), tracks

    def _asked_tokens(self, name: str, objective: Objective, flat: Ints, labels: Ints) -> Track:
        """Labels at positions. Whose tokens they are, its own or a neighbour's, is seen from the labels themselves."""
        where = flat.astype(np.int64)
        if self.inputs.query is not None:
            slots = self.inputs.query.positions[0].numpy()
            if where.max(initial=0) < len(slots) and self._matches(slots[where], labels, 0) > self._matches(
                where, labels, 0
            ):
                where = slots[where]
        shares = {step: self._matches(where, labels, step) for step in (0, 1, -1)}
        step = max(shares, key=lambda s: shares[s])
        known = shares[step] > 0.5
        values, marks = [""] * self.length, [Mark.__args__[0]] * self.length  # type: ignore[attr-defined]
        for position, label in zip(where, labels, strict=True):
            if not 0 <= position < self.length:
                continue
            values[position] = self.spell(label) if known or objective.predicts_tokens else str(label)
            marks[position] = self._mark(int(position), step) if known else "other"
        return Track(name, values=tuple(values), marks=tuple(marks))

    def _matches(self, where: Ints, labels: Ints, step: int) -> float:
        """Share of the labels that are the original tokens ``step`` places to the right."""
        beside = where + step
        inside = (beside >= 0) & (beside < self.length)
        return float((self.original[beside[inside]] == labels[inside]).sum() / max(len(labels), 1))

    def _mark(self, position: int, step: int) -> Mark:
        if step:
            return "next" if step > 0 else "previous"
        fate = self.fates[position]
        return "same" if fate in ("plain", "template") else fate  # type: ignore[return-value]

    # -- other lines

    def _tracks(self, asked: Sequence[Track]) -> Iterator[Track]:
        """Originals that nobody asks for, words, orders, arrays, segments."""
        shown = np.zeros(self.length, dtype=bool)
        for track in asked:
            shown |= np.array([mark in ("masked", "replaced") for mark in track.marks] or False)
        lost = (self.read != self.original) & ~shown
        if lost.any():
            yield Track("original", values=tuple(self.spell(t) if x else "" for t, x in zip(self.original, lost)))
        visible = self.inputs.visible
        known = [self.original] if visible.orders is None else [self.original, visible.orders[0].numpy()]
        if visible.orders is not None and (track := self._track("order", visible.orders.numpy())):
            yield track
        for name, values in self.rows.targets.items():
            if name == "selected" or values.shape != self.rows.shape:
                continue
            if not any(np.array_equal(values[0, : self.length], other[: self.length]) for other in known) and (
                track := self._track(name, values)
            ):
                yield track
        words = self._runs(np.cumsum([c.starts_word for c in self._cells()]), lambda _: "", shortest=2)
        if words:
            yield Track("words", spans=words)
        for name, values in self.rows.arrays.items():
            if runs := self._runs(values[0, : self.length], str, skip=0):
                yield Track(name, spans=runs)
        yield from self._segments()

    def _track(self, name: str, values: NDArray[Any]) -> Track | None:
        """A (1, L) array as a line: True as a dot, ids by their names where the array's name says so."""
        if values.shape != self.rows.shape:
            return None
        cut = values[0, : self.length]
        if cut.dtype == bool:
            return Track(name, values=tuple("●" if value else "" for value in cut))
        if name.endswith("_ids"):
            return Track(name, values=tuple(self.spell(value) for value in cut))
        return Track(name, values=tuple("" if value == _IGNORED else _in_words(value) for value in cut))

    def _runs(self, values: Ints, label: Any, skip: int | None = None, shortest: int = 1) -> tuple[Span, ...]:
        """Runs of equal values as spans."""
        edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
        return tuple(
            Span(a, b, label(values[a]))
            for a, b in zip(edges[:-1], edges[1:], strict=True)
            if b - a >= shortest and values[a] != skip
        )

    def _segments(self) -> Iterator[Track]:
        """Segments, and whose text they are, where a row has several of either."""
        assert isinstance(self.task.store, TextStore)
        types = self.rows.token_type_ids
        sides = np.zeros(self.length, dtype=np.int64) if types is None else types[0, : self.length].astype(np.int64)
        document = np.searchsorted(self.task.store.document_tokens(), self.places, side="right")
        for position in range(1, self.length):  # a separator belongs to what it closes
            if self.places[position] < 0:
                document[position] = document[position - 1]
        document[: int((self.places >= 0).argmax())] = document[int((self.places >= 0).argmax())]
        both = sides * (len(self.task.store.documents) + 1) + document
        if len(np.unique(both)) < 2:
            return
        foreign = (document > self.task.store.own_documents).any()

        def label(value: int) -> str:
            side, number = divmod(int(value), len(self.task.store.documents) + 1)
            names = [] if types is None else [chr(ord("A") + side)]
            if foreign:
                names.append("the text" if number <= self.task.store.own_documents else "another document")  # type: ignore[attr-defined]
            return ": ".join(names)

        yield Track("segments", spans=self._runs(both, label))


_IGNORED = -100  # torch's label for "no loss here"


def _in_words(value: Any) -> str:
    """A described value: a share in percent, another number briefly, anything else as it is."""
    if isinstance(value, float | np.floating):
        return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.3g}"
    return str(value)


class Speller:
    """Tokens as a reader knows them: bytes as characters, a space as ``▁``, nothing that moves a cursor.

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: ZooTokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = _byte_alphabet() if tokenizer.keeps_spaces else None

    def __call__(self, index: int) -> str:
        """The token with this id."""
        token = self._tokenizer.token(index)
        if self._bytes is not None and all(character in self._bytes for character in token):
            token = bytes(self._bytes[character] for character in token).decode("utf-8", "backslashreplace")
        return "".join(self._visible(character) for character in token.replace(" ", "▁")) or "∅"

    @staticmethod
    def _visible(character: str) -> str:
        return character if character.isprintable() else character.encode("unicode_escape").decode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the others are moved up by 256."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}


# --- who sees whom -----------------------------------------------------------------------------------


def visible_pairs(visible: Visibility, length: int) -> Bools:
    """(B or 1, L, L) who sees whom, from the very mask that the core hands to its kernels."""
    mask = make_mask(visible, length, torch.device("cpu"))
    seen = torch.ones(1, 1, length, length, dtype=torch.bool)
    if mask.allowed is not None:
        seen = seen & mask.allowed
    if mask.causal:
        seen = seen.tril()
    pairs: Bools = seen[:, 0].numpy()
    return pairs


def streams(inputs: CoreInputs, length: int) -> Iterator[Stream]:
    """Every stream of a collated row, its first ``length`` positions."""
    width = inputs.input_ids.shape[1]
    seen = visible_pairs(inputs.visible, width)[0, :length, :length]
    yield _stream("tokens", tuple(range(length)), seen)


def _stream(name: str, who: tuple[int, ...], seen: Bools) -> Stream:
    """A stream, its shape told by the matrix itself."""
    if seen.all():
        return Stream(name, who, seen, "every token sees every token", "all")
    square = seen.shape[0] == seen.shape[1]
    if square and np.array_equal(seen, np.tril(np.ones_like(seen))):
        return Stream(name, who, seen, "every token sees itself and what stands before it", "causal")
    if square and seen.diagonal().all() and all(np.array_equal(seen[i], seen[j]) for i, j in np.argwhere(seen)):
        groups = len(np.unique(seen, axis=0))
        return Stream(name, who, seen, f"tokens of {groups} groups that do not see each other", "other")
    return Stream(name, who, seen, f"{100 * seen.mean():.0f} % of all pairs see each other", "other")
