"""What ``zoo show`` draws, as plain data: tokens, lines below them, rows, tasks; and ids as a reader knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretraining.tokenizer.tokenizer import ZooTokenizer

Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]
TokenOutcome = Literal["plain", "template", "masked", "replaced", "kept"]
TargetKind = Literal["masked", "replaced", "kept", "same", "next", "previous", "class", "other"]

SIGNS: dict[TargetKind, tuple[str, str]] = {
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


@dataclass(frozen=True)
class TokenCell:
    """One position of a row.

    Args:
        read: token that the core reads.
        original: token that stood there.
        outcome: what happened to it.
        own: it is part of the text; template tokens are nobody's.
        starts_word: a word or a template token starts here.
        place: where it stands in the text, -1 for what is no part of it.
    """

    read: str
    original: str
    outcome: TokenOutcome
    own: bool
    starts_word: bool
    place: int = -1

    @property
    def key(self) -> tuple[int, str, bool]:
        """The same for the same token of a text in other rows, under other seeds and configs."""
        return self.place, self.original, self.own


@dataclass(frozen=True)
class TrackSpan:
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
    marks: tuple[TargetKind | None, ...] = ()
    spans: tuple[TrackSpan, ...] = ()
    full: tuple[str, ...] = ()
    unit: bool = False


@dataclass(frozen=True)
class ObjectiveView:
    """What one objective makes of a row: its name, its class, and what it asks for and says, in words."""

    name: str
    kind: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """What the states of one stream attend to.

    Args:
        name: what to call it.
        positions: (Q,) of the states that attend.
        attends: (Q, K) whether each of them attends to the token at each position.
        sentence: the same in words.
        plain: everything is attended to, so that there is nothing to draw.
    """

    name: str
    positions: tuple[int, ...]
    attends: Bools
    sentence: str
    plain: bool

    @property
    def key(self) -> tuple[str, bytes]:
        """What tells it from another one, so that nothing is drawn twice."""
        return f"{self.name} {self.attends.shape}", self.attends.tobytes()


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
        objectives: what each of them asks for and says.
        streams: what attends to what.
    """

    seed: int
    epoch: int
    number: int
    place: int
    rows: int
    pair: str
    cells: tuple[TokenCell, ...]
    tracks: tuple[Track, ...]
    objectives: tuple[ObjectiveView, ...]
    streams: tuple[Stream, ...]


@dataclass(frozen=True)
class TaskView:
    """A text under one task of one config.

    Args:
        title: the config's or the run folder's name.
        edge: where the config stands among the models: which one it changes, and what it changes.
        about: task, layout and objectives in a sentence.
        rows: the rows shown, seed by seed.
        notes: what a reader should know besides.
        stages: which tasks are run when, a line each; the same in all views of a config, as title and edge are.
    """

    title: str
    edge: str
    about: str
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]
    stages: tuple[str, ...] = ()


class TokenPrinter:
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
        return "".join(map(printable, token.replace(" ", "▁"))) or "∅"


def printable(character: str) -> str:
    """A character that is drawn, or its escape."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the others are moved up by 256."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}
