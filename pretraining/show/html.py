"""``zoo show --html FILE``: the same as one self-contained page, light and dark, nothing fetched.

Here the views become what ``page.html`` draws; every tag stands in that template, and everything that comes from
a text, a config or a vocabulary is escaped there. A few lines of script dim the tokens that the one under the pointer
does not attend to; without script nothing is missing. The page is well-formed XML.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.show.config import MatrixDisplay
from pretraining.show.views import SIGNS, ObjectiveView, RowView, Stream, TaskView, TokenCell, Track, printable
from zoo.runtime.templates import render_template

_POINT, _NAMED = 14, 40  # size of a matrix point; longest matrix whose points are named
_SMALL = 5  # size of the points of longer ones
_LONGEST = 160  # longest row whose tokens know what they attend to
_CHARACTER = 7.4  # width of a character of a name
_COLOURS = 4  # of brackets


class _Bar(NamedTuple):
    """The part of a bracket above one token; its label stands where it begins."""

    colour: int
    first: bool
    last: bool
    title: str
    label: str


class _Value(NamedTuple):
    """A value below a token; with its sign where an objective asks for it."""

    text: str
    title: str
    is_target: bool = False
    sign: str = ""


class _Token(NamedTuple):
    """One position: brackets above the token that is read, below it what is asked for there and other values."""

    read: str
    look: str
    title: str
    bars: list[_Bar | None]
    values: list[_Value]


class _Name(NamedTuple):
    """A text at its place in a picture."""

    text: str
    x: float
    y: float


class _Line(NamedTuple):
    """One token that attends: its name, what it attends to in words, and the squares of that."""

    name: _Name
    title: str
    path: str


class _Picture(NamedTuple):
    """A matrix in drawing coordinates: a line for each token that attends, a column for each attended to."""

    name: str
    sentence: str
    named: bool
    left: float
    top: float
    across: int
    down: int
    columns: list[_Name]
    rows: list[_Line]
    grid: str

    @property
    def width(self) -> float:
        return self.left + self.across

    @property
    def height(self) -> float:
        return self.top + self.down


class _Card(NamedTuple):
    """One row: heading, tokens word by word, what objectives say, what attends to what.

    ``attends`` says what each token attends to, for the script: a string of 0 and 1 for each; empty where to all.
    ``brackets`` and ``lines`` are what stands above and below the tokens.
    """

    place: str
    pair: str
    attends: str
    brackets: int
    lines: list[str]
    words: list[list[_Token]]
    objectives: Sequence[ObjectiveView]
    streams: Sequence[Stream]
    pictures: list[_Picture]


class _Legend(NamedTuple):
    """The signs and looks that occur."""

    signs: list[tuple[str, str, str]]
    looks: list[tuple[str, str]]
    pieces: bool
    attends: bool


def render_html(views: Sequence[TaskView], text: str, attention: MatrixDisplay = "auto") -> str:
    """The whole document.

    Args:
        views: what to draw, one under the other.
        text: what they were made of.
        attention: what attends to what: ``True`` = always as a picture, ``auto`` = where not every token attends to
            all and it was not drawn already, ``False`` = not at all.
    """
    return render_template(
        Path(__file__).with_name("page.html"),
        names=", ".join(dict.fromkeys(view.title for view in views)),
        text="".join(c if c == "\n" else printable(c) for c in text.strip()),
        legend=_legend(views),
        configs=[
            _config(list(same), attention)
            for _, same in itertools.groupby(views, key=lambda view: (view.title, view.edge, view.stages))
        ],
    )


def _legend(views: Sequence[TaskView]) -> _Legend:
    rows = [row for view in views for row in view.rows]
    marks = {mark for row in rows for track in row.tracks for mark in track.marks}
    looks = {_look(cell) for row in rows for cell in row.cells}
    meanings = {"template": "a template token of the layout", "foreign": "from another document"}
    return _Legend(
        [
            (mark if mark in ("masked", "replaced", "kept") else "", sign, meaning)
            for mark, (sign, meaning) in SIGNS.items()
            if sign and mark in marks
        ],
        [(look, meaning) for look, meaning in meanings.items() if look in looks],
        any(not cell.starts_word for row in rows for cell in row.cells),
        any(_attends(row) for row in rows),
    )


def _look(cell: TokenCell) -> str:
    """The class of a token."""
    return "foreign" if cell.outcome == "plain" and not cell.own else cell.outcome


def _config(views: Sequence[TaskView], attention: MatrixDisplay) -> dict[str, Any]:
    """A config's section: introduced once, then its tasks. No picture is drawn twice in a task."""
    tasks = []
    for view in views:
        drawn: set[tuple[str, bytes]] = set()
        cards = [_card(row, attention, drawn) for row in view.rows]
        tasks.append({"about": view.about, "cards": cards, "notes": view.notes})
    return {"title": views[0].title, "edge": views[0].edge, "stages": views[0].stages, "tasks": tasks}


def _card(row: RowView, attention: MatrixDisplay, drawn: set[tuple[str, bytes]]) -> _Card:
    edges = [i for i, cell in enumerate(row.cells) if cell.starts_word or i == 0]
    streams = row.streams if attention is not False else ()
    pictures = []
    for stream in streams:
        if attention is True or not (stream.plain or stream.key in drawn):
            drawn.add(stream.key)
            pictures.append(_picture(stream, row.cells))
    return _Card(
        f"seed {row.seed} · epoch {row.epoch} · row {row.place} of {row.rows}",
        row.pair,
        _attends(row),
        len(_bracketed(row)),
        [track.name for track in row.tracks if track.values],
        [
            [_token(row, place) for place in range(first, last)]
            for first, last in itertools.pairwise([*edges, len(row.cells)])
        ],
        row.objectives,
        streams,
        pictures,
    )


def _attends(row: RowView) -> str:
    stream = row.streams[0]
    if stream.plain or len(row.cells) > _LONGEST:
        return ""
    return " ".join("".join("01"[int(x)] for x in line) for line in stream.attends)


def _bracketed(row: RowView) -> list[Track]:
    """The tracks that are brackets above the tokens."""
    return [track for track in row.tracks if track.spans and track.name != "words"]


def _token(row: RowView, place: int) -> _Token:
    cell, brackets = row.cells[place], _bracketed(row)
    values = [_value(track, place) for track in row.tracks if track.values]
    while values and not (values[-1].is_target or values[-1].text):
        values.pop()  # an empty value keeps its line only where another follows
    notes = [f"original {cell.original}", f"now {cell.read}"]
    notes += [f"{track.name}: {_target(track, place)}" for track in row.tracks if track.marks and track.marks[place]]
    notes += [f"{track.name}{': ' if label else ''}{label}" for track in brackets for label in _spanned(track, place)]
    bars = [_bar(track, place, first) for first, track in enumerate(brackets)]
    return _Token(cell.read, _look(cell), " · ".join(notes), bars, values)


def _target(track: Track, place: int) -> str:
    """What is asked for at a position, in full."""
    return track.full[place] if track.full else track.values[place]


def _spanned(track: Track, place: int) -> list[str]:
    """Labels of the spans that hold a position: one or none."""
    return [span.label for span in track.spans if span.start <= place < span.stop]


def _value(track: Track, place: int) -> _Value:
    value, mark = track.values[place], track.marks[place] if track.marks else None
    if mark is None:
        return _Value(value, track.name)
    sign, meaning = SIGNS[mark]
    title = f"{track.name}: {_target(track, place)}, {meaning}" if track.full else f"{track.name}: {meaning}"
    return _Value(value, title, True, sign)


def _bar(track: Track, place: int, first: int) -> _Bar | None:
    """The part of a bracket above one token, ``None`` where there is none; ``first`` is the first one's colour."""
    for number, span in enumerate(track.spans, start=first):
        if span.start <= place < span.stop:
            colour = (first if track.unit else number) % _COLOURS  # units of one sort have one colour
            label = span.label if span.stop - span.start > 3 else span.short
            return _Bar(colour, place == span.start, place == span.stop - 1, f"{track.name}: {span.label}", label)
    return None


def _picture(stream: Stream, cells: Sequence[TokenCell]) -> _Picture:
    rows, columns = stream.attends.shape
    named = max(rows, columns) <= _NAMED
    size = _POINT if named else _SMALL
    names, tops = [cells[place].read for place in stream.positions], [cell.read for cell in cells[:columns]]
    left, top = ((10 + _CHARACTER * max(map(_columns, texts))) if named else 0.0 for texts in (names, tops))
    lines = []
    for i, name in enumerate(names):
        y, attends = top + i * size, stream.attends[i]
        squares = "".join(
            f"M{left + start * size:.1f} {y:.1f}h{length * size}v{size}h-{length * size}z"
            for start, length in _true_runs(attends)
        )
        title = f"{name} attends to {int(attends.sum())} of {columns} tokens"
        lines.append(_Line(_Name(name, left - 6, y + size - 3), title, squares))
    grid = "".join(f"M{left + j * size:.1f} {top:.1f}V{top + rows * size:.1f}" for j in range(columns + 1))
    grid += "".join(f"M{left:.1f} {top + i * size:.1f}H{left + columns * size:.1f}" for i in range(rows + 1))
    heads = [_Name(name, left + (j + 0.5) * size + 4, top - 6) for j, name in enumerate(tops if named else [])]
    return _Picture(stream.name, stream.sentence, named, left, top, columns * size, rows * size, heads, lines, grid)


def _true_runs(values: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(start, length) of the runs of true values."""
    start = 0
    for value, run in itertools.groupby(values.tolist()):
        length = len(list(run))
        if value:
            yield start, length
        start += length


def _columns(text: str) -> int:
    """About how wide a name is, in Latin characters."""
    return sum(1 if ord(character) < 0x2E80 else 2 for character in text)
