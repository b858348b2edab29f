"""What the arms are: which run came from which, what each one's objective hides, and which settings it changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablation.results.runs import FinishedRun, Results
from zoo.errors import ZooError
from zoo.runtime.templates import TextTable

if TYPE_CHECKING:
    from pretraining.corpus.config import CorpusConfig
    from pretraining.show.views import RowView, TaskView, TokenCell
    from pretraining.training.config import PretrainConfig

Changed = Mapping[str, Sequence[tuple[str, Any, Any]]]
"""For each arm the settings in which it differs from the reference: (key, reference's value, its value)."""
SHOWN_DIFFERENCES = 24
SHOWN_TOKENS = 40
"""Tokens of a line; the rest of its row is counted."""
TEXT_LENGTH = (80, 150)
"""Shortest and longest text in characters; a Chinese one counts for three."""
DOCUMENTS = 200
"""Documents that are searched for a text that is short enough."""


# --- which run came from which ---------------------------------------------------------------------


@dataclass
class _Node:
    """One arm, or (``number`` absent) a model that no arm is."""

    name: str
    number: int | None
    text: str = ""
    how: str = ""
    below: list[_Node] = field(default_factory=list)


@dataclass(frozen=True)
class Twig:
    """One row of the picture of the chain, below the row that it came from.

    Args:
        name: the arm, or a model that no arm is.
        number: the arm's number, by which it has its colour; ``None`` where it is no arm.
        text: what it changed.
        how: what it has from the row above: ``idea``, ``settings`` or ``weights``; empty for a first row.
        depth: how many rows it came through.
        passing: depths whose line goes on below this row.
        parent: other rows came from it.
    """

    name: str
    number: int | None
    text: str
    how: str
    depth: int
    passing: tuple[int, ...]
    parent: bool


def text_of(run: FinishedRun) -> str:
    """The files that a run read."""
    files = run.record.get("config", {}).get("data", {}).get("corpus", {}).get("files", "")
    return ", ".join(map(str, files)) if isinstance(files, list) else str(files or "")


def lineage(results: Results, changed: Changed) -> list[tuple[str, list[Twig]]]:
    """Which arm came from which: (text that these arms read, their rows), a tree for each text.

    An arm came from the arm whose weights it started from; else from the one that its ``edge`` names ("GPT -> BERT");
    else, where it is the reference's model with other settings, from the reference.

    Args:
        results: the runs.
        changed: what each arm changes.
    """
    first = {arm: next(run for run in results.runs if run.arm == arm) for arm in results.arms}
    groups: dict[str, list[str]] = {}
    for arm in results.arms:
        groups.setdefault(text_of(first[arm]), []).append(arm)
    return [(text, _twigs(_roots(names, first, results, changed))) for text, names in groups.items()]


def _roots(names: list[str], first: Mapping[str, FinishedRun], results: Results, changed: Changed) -> list[_Node]:
    nodes = {arm: _Node(arm, results.arms.index(arm)) for arm in names}
    others: dict[str, _Node] = {}
    parents: dict[str, str] = {}
    edges = {arm: _edge(first[arm]) for arm in names}
    folders = {run.folder.name: run.arm for run in results.runs}
    for arm, node in nodes.items():
        tail, head, _ = edges[arm]
        weights = str((first[arm].record.get("config", {}).get("init_from") or {}).get("model") or "").rstrip("/")
        source = weights.rsplit("/", 1)[-1]
        known = [other for other in names if other != arm and tail and edges[other][1] == tail]
        if source:
            parent, node.how = folders.get(source, source), "weights"
        elif known:
            parent, node.how = known[0], "idea"
        elif results.reference in nodes and arm != results.reference and edges[results.reference][1] == head:
            parent, node.how = results.reference, "settings"
        else:
            parent, node.how = tail, "idea" if tail else ""
        keys = [key for key, _, _ in changed.get(arm, ())]
        listed = f"{', '.join(keys[:3])}{f' and {len(keys) - 3} more settings' if len(keys) > 3 else ''}"
        changes_said = listed or "none that a report knows of"
        node.text = changes_said if node.how == "settings" else _edge_text(first[arm])
        if parent in nodes and not _leads_to(parent, arm, parents):
            parents[arm] = parent
            nodes[parent].below.append(node)
        elif parent and parent not in nodes:
            others.setdefault(parent, _Node(parent, None)).below.append(node)
    placed = {*parents, *(node.name for other in others.values() for node in other.below)}
    return [*others.values(), *(node for arm, node in nodes.items() if arm not in placed)]


def _leads_to(arm: str, target: str, parents: Mapping[str, str]) -> bool:
    """Whether going up from an arm comes to another one, so that its being its parent would make a circle."""
    while arm != target and arm in parents:
        arm = parents[arm]
    return arm == target


def _edge_text(run: FinishedRun) -> str:
    return str(run.record.get("config", {}).get("edge", ""))


def _edge(run: FinishedRun) -> tuple[str, str, str]:
    """Model before, model, what it changed, of an edge "GPT -> BERT: both directions"."""
    models, _, text = _edge_text(run).partition(":")
    tail, arrow, head = models.partition("->")
    return (tail.strip(), head.strip(), text.strip()) if arrow else ("", "", models.strip())


def _twigs(nodes: Sequence[_Node], depth: int = 0, passing: tuple[int, ...] = ()) -> list[Twig]:
    rows = []
    for place, node in enumerate(nodes, start=1):
        going_on = (*passing, depth) if depth and place < len(nodes) else passing
        rows.append(Twig(node.name, node.number, node.text, node.how, depth, going_on, bool(node.below)))
        rows += _twigs(node.below, depth + 1, going_on)
    return rows


# --- what each objective hides ---------------------------------------------------------------------


@dataclass(frozen=True)
class HiddenToken:
    """One position of a line.

    Args:
        read: token that the model reads.
        look: ``plain``, ``template``, ``foreign`` (of another document), ``masked``, ``replaced`` or ``kept``.
        original: token that stood there, where another one is read; else empty.
        asked: it is asked for here, or its class, or a neighbour.
        tip: the same in words.
    """

    read: str
    look: str
    original: str
    asked: bool
    tip: str


@dataclass(frozen=True)
class HiddenLine:
    """One task of one or several arms that read and hide alike; without tokens, ``notes`` say why.

    Args:
        arms: names of the arms.
        objectives: what the task's objectives are, in words.
        tokens: the beginning of that row, of the text's first ones, which holds most of it.
        more: tokens of the row that are not shown.
        notes: what the objectives ask for, and what attends to what.
    """

    arms: tuple[str, ...]
    objectives: str
    tokens: tuple[HiddenToken, ...]
    more: int
    notes: tuple[str, ...]


def hidden_lines(arms: Mapping[str, tuple[PretrainConfig, Path]]) -> list[HiddenLine]:
    """What the arms' objectives do to the beginning of the text that each was trained on.

    Args:
        arms: settings and run folder of each arm. Objectives are built here, so the settings serve this call only.
    """
    lines = [line for arm, (config, folder) in arms.items() for line in _lines_of(arm, config, folder)]
    alike: dict[tuple[object, ...], list[str]] = {}
    for line in lines:
        alike.setdefault((line.objectives, line.tokens, line.more, line.notes), []).extend(line.arms)
    return [HiddenLine(tuple(dict.fromkeys(names)), *key) for key, names in alike.items()]  # type: ignore[arg-type]


def _lines_of(arm: str, config: PretrainConfig, folder: Path) -> list[HiddenLine]:
    """A line for each task; a picture that cannot be made costs its line only."""
    from pretraining.show.config import ShowConfig
    from pretraining.show.describe import show_text
    from pretraining.show.text_store import Subject
    from pretraining.tokenizer.load import load_tokenizer
    from pretraining.training.stores import run_store

    try:
        show = ShowConfig(text=example_text(config.data.corpus), run=[str(folder)], rows=3)
        subject = Subject(arm, config, load_tokenizer(folder), folder, run_store(config, False))
        views = show_text(subject, show)
    except (ZooError, OSError) as error:
        return [HiddenLine((arm,), "", (), 0, (f"Not shown: {error}".splitlines()[0],))]
    return [_line(arm, view) for view in views]


def example_text(config: CorpusConfig) -> str:
    """The first two sentences that follow one another in a corpus and are short enough for one line.

    Raises:
        ZooError: the corpus cannot be read, or holds no text.
    """
    from pretraining.corpus.records import iter_documents
    from pretraining.text.sentences import split_sentences

    first = ""
    for document in itertools.islice(iter_documents(config), DOCUMENTS):
        sentences = [
            s for line in document.lines for s in (split_sentences(line) if config.sentences == "rule" else [line])
        ]
        first = first or "\n".join(sentences[:2])
        for pair in itertools.pairwise(sentences):
            if all(len(one) > 8 for one in pair) and TEXT_LENGTH[0] <= _width(" ".join(pair)) <= TEXT_LENGTH[1]:
                return " ".join(pair)
    return first[: TEXT_LENGTH[1]]


def _width(text: str) -> int:
    return sum(1 if ord(character) < 0x2E80 else 3 for character in text)


def _line(arm: str, view: TaskView) -> HiddenLine:
    if not view.rows:
        return HiddenLine((arm,), view.about, (), 0, view.notes)
    row = max(view.rows, key=lambda one: sum(cell.own for cell in one.cells))
    said = [f"{one.name} {', '.join(one.notes)}" for one in row.objectives if one.notes]
    notes = (*said, *(stream.sentence for stream in row.streams))
    kinds = " + ".join(f"{one.name} ({one.kind})" for one in row.objectives)
    tokens = tuple(_token(row, place, cell) for place, cell in enumerate(row.cells[:SHOWN_TOKENS]))
    return HiddenLine((arm,), kinds, tokens, max(0, len(row.cells) - SHOWN_TOKENS), notes)


def _token(row: RowView, place: int, cell: TokenCell) -> HiddenToken:
    from pretraining.show.views import SIGNS

    marks = [(track, mark) for track in row.tracks if track.marks and (mark := track.marks[place])]
    look = "foreign" if cell.outcome == "plain" and not cell.own else cell.outcome
    asked = [f"{track.name}: {SIGNS[mark][1]}: {track.values[place]}" for track, mark in marks]
    original = cell.original if cell.read != cell.original else ""
    said = [f"reads {cell.read}", *([f"in place of {original}"] if original else []), *asked]
    return HiddenToken(cell.read, look, original, bool(marks), "; ".join(said))


def looks_of(lines: Iterable[HiddenLine]) -> Sequence[tuple[str, str]]:
    """The looks that occur, with their meanings, for a legend."""
    found = {token.look for line in lines for token in line.tokens}
    found |= {"asked" for line in lines for token in line.tokens if token.asked}
    return [(look, meaning) for look, meaning in _MEANINGS.items() if look in found]


_MEANINGS = {
    "masked": "hidden by the mask token; what stood there is below",
    "replaced": "replaced by another token; what stood there is below",
    "kept": "chosen, but left as it was",
    "asked": "underlined: something is asked for here (itself, its class or a neighbour)",
    "foreign": "from another document",
    "template": "a template token",
}


# --- which settings each one changes ---------------------------------------------------------------


@dataclass(frozen=True)
class ArmChanges:
    """How many settings an arm changes, and the first of them."""

    name: str
    count: int
    table: TextTable


def changes(reference: str, changed: Changed) -> list[ArmChanges]:
    """For each arm the settings in which it differs from the reference."""
    found = []
    for arm, rows in changed.items():
        if arm == reference:
            continue
        cells = [[key, _value(old), _value(new)] for key, old, new in rows[:SHOWN_DIFFERENCES]]
        more = len(rows) - SHOWN_DIFFERENCES
        note = f"{more} more are in report.json." if more > 0 else ""
        found.append(ArmChanges(arm, len(rows), TextTable(["setting", reference, arm], cells, note)))
    return found


def _value(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
