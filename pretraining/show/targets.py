"""What an objective asks for in a row, as notes in words and as lines below the tokens.

Only ``targets(rows)`` and ``describe(rows)`` are read; whose tokens the labels are, a position's own or its
neighbour's, they say themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.objectives.base import Objective
from pretraining.objectives.token_classification import TokenLabels
from pretraining.show.reader import RowReading
from pretraining.show.tracks import in_words, pair_in_words, value_track
from pretraining.show.views import Bools, Ints, TargetKind, Track

_SORTS = 4  # sorts of targets that have lines of their own, at most


@dataclass
class ObjectiveLines:
    """What is found about one objective.

    Args:
        notes: what it asks for and says, in words.
        tracks: the same as lines below the tokens.
        mentions: for each line of mentions, the bytes of their positions: their entities are named there already.
    """

    notes: list[str] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    mentions: set[bytes] = field(default_factory=set)


def read_targets(row: RowReading, name: str, objective: Objective) -> ObjectiveLines:
    """What the objective of this name asks for and says."""
    targets = objective.targets(row.rows).tensors
    tensors = {key: tensor.numpy() for key, tensor in targets.items() if key not in objective.unasked}
    lines = ObjectiveLines()
    _add_labels(lines, row, name, objective, tensors)
    for key, values in tensors.items() if objective.reads_rows else ():
        _add_values(lines, row, name, key, values)
    for key, value in objective.describe(row.rows).items():
        _add_description(lines, row, name, key, value)
    return lines


# --- labels at positions -----------------------------------------------------------------------------


def _add_labels(
    lines: ObjectiveLines, row: RowReading, name: str, objective: Objective, tensors: dict[str, NDArray[Any]]
) -> None:
    """A line for each pair of ``labels`` and ``positions``, which are taken out of the tensors."""
    for key in [key for key in tensors if key.replace("labels", "positions") in tensors.keys() - {key}]:
        labels, where = tensors.pop(key), tensors.pop(key.replace("labels", "positions"))
        part = f"{name} {key.replace('labels', '').strip('_')}".strip()
        for sort, chosen in _sorts(tensors, len(labels)):
            track = _label_track(row, f"{part} {sort}".strip(), objective, where[chosen], labels[chosen])
            lines.tracks.append(track)
            if codes := {short: full for short, full in zip(track.values, track.full, strict=False) if short != full}:
                lines.notes.append(", ".join(f"{short} = {full}" for short, full in codes.items()))
        places = len(np.unique(where))
        many = f"for {places}" if places == len(where) else f"{len(where)} times, at {places}"
        lines.notes.append(f"asks {many} of {row.length} tokens")


def _sorts(tensors: dict[str, NDArray[Any]], count: int) -> list[tuple[str, Bools]]:
    """Sorts of targets that a tensor of whole numbers tells apart (a direction), which is taken away; else all."""
    for key, values in tensors.items():
        if count > 1 and values.shape == (count,) and values.dtype.kind in "biu" and len(np.unique(values)) <= _SORTS:
            del tensors[key]
            names = {0: "", 1: key} if set(values.tolist()) <= {0, 1} else {}
            return [(names.get(int(value), f"{key} {value}"), values == value) for value in np.unique(values)]
    return [("", np.ones(count, dtype=bool))]


def _label_track(row: RowReading, name: str, objective: Objective, where: Ints, labels: Ints) -> Track:
    """Labels at positions. Positions count tokens, or, where there is a second stream, perhaps its states."""
    namer = getattr(objective, "labels", None)
    if isinstance(namer, TokenLabels):
        return _class_track(row, name, namer, where, labels)
    options = [where.astype(np.int64)]
    if row.inputs.query is not None:
        slots = row.inputs.query.positions[0].numpy()
        options.append(slots[np.minimum(options[0], len(slots) - 1)])
    tried = [(_matches(row, option, labels, step), option, step) for option in options for step in (0, 1, -1)]
    share, where, step = max(tried, key=lambda one: one[0])
    known = share > 0.5
    values = [""] * row.length
    marks: list[TargetKind | None] = [None] * row.length
    for place, label in zip(where.tolist(), labels, strict=True):
        values[place] = row.source.printer(label) if known or objective.predicts_tokens else str(label)
        marks[place] = _kind(row, place, step) if known else "other"
    return Track(name, values=tuple(values), marks=tuple(marks))


def _matches(row: RowReading, where: Ints, labels: Ints, step: int) -> float:
    """Share of the labels that are the original tokens ``step`` places to the right."""
    beside = where + step
    inside = (beside >= 0) & (beside < row.length)
    return float((row.original[beside[inside]] == labels[inside]).sum()) / max(len(labels), 1)


def _kind(row: RowReading, place: int, step: int) -> TargetKind:
    """What a label that is a token of the row has to do with its position."""
    if step:
        return "next" if step > 0 else "previous"
    outcome = row.outcomes[place]
    return "same" if outcome == "plain" or outcome == "template" else outcome


def _class_track(row: RowReading, name: str, labels: TokenLabels, where: Ints, values: Ints) -> Track:
    """Classes of positions: the most frequent as a dot, the others briefly; what that means in full beside it."""
    found, counts = np.unique(values, return_counts=True)
    full = {int(label): labels.name(int(label)) for label in found}
    most = int(found[counts.argmax()]) if len(found) > 1 else -1
    short = {label: "·" if label == most else _brief(text, full.values()) for label, text in full.items()}
    shown, meant = [""] * row.length, [""] * row.length
    marks: list[TargetKind | None] = [None] * row.length
    for place, label in zip(where.tolist(), values.tolist(), strict=True):
        shown[place], meant[place], marks[place] = short[label], full[label], "class"
    return Track(name, values=tuple(shown), marks=tuple(marks), full=tuple(meant))


def _brief(name: str, names: Iterable[str]) -> str:
    """The shortest beginning of a name, three letters at least, that no other name has."""
    others = [other for other in names if other != name]
    return next(
        (name[:size] for size in range(3, len(name)) if not any(o.startswith(name[:size]) for o in others)), name
    )


# --- other targets, and what the objective says of the row -------------------------------------------


def _add_values(lines: ObjectiveLines, row: RowReading, name: str, key: str, values: NDArray[Any]) -> None:
    """Targets without positions: one for the row, or one for each token."""
    if values.shape == (1,):
        words = pair_in_words(row) if "label" in key and row.rows.row_labels is not None else ""
        if key != "place" or values[0]:  # the row's first state is what everybody reads
            lines.notes.append(
                f"asks for the row's label: {words or values[0]}" if "label" in key else f"{key} {values[0]}"
            )
    elif track := value_track(row, name, values):
        lines.tracks.append(track)
        lines.notes.append(f"asks for a value at {sum(map(bool, track.values))} of {row.length} tokens")
    else:
        lines.notes.append(f"{key}: {values.size} values")


def _add_description(lines: ObjectiveLines, row: RowReading, name: str, key: str, value: Any) -> None:
    """A value that the objective describes the row by: mentions of entities, one for each token, or a fact."""
    described = np.asarray(value)
    if described.dtype == object and described.shape == row.rows.shape:
        outcomes = described[0, : row.length]
        lines.mentions.add(np.flatnonzero(outcomes != "").tobytes())
        lines.tracks += _mention_tracks(name, key, outcomes, lines.tracks)
    elif track := value_track(row, key, described):
        lines.tracks.append(track)
    else:
        lines.notes.append(f"{key} {in_words(value)}")


def _mention_tracks(name: str, key: str, outcomes: NDArray[Any], tracks: list[Track]) -> Iterator[Track]:
    """Entities by name, and what happened to each; ``NAME`` or ``NAME -> OTHER`` at the first token of a mention.

    The names take the place of the targets' numbers in ``tracks``, which count within a batch.
    """
    parts = [str(outcome).partition(" -> ") if outcome else ("", "", "") for outcome in outcomes]
    marks: tuple[TargetKind | None, ...] = tuple("other" if before else None for before, _, _ in parts)
    own = next((track for track in tracks if track.name == name and tuple(track.marks) == marks), None)
    if own is not None:
        tracks[tracks.index(own)] = Track(name, values=tuple(before for before, _, _ in parts), marks=marks)
    words = []
    for before, changed, after in parts:
        outcome = "kept" if not changed else "removed" if after == "none" else f"replaced by {after}"
        words.append(outcome if own is not None or not before else f"{before} {outcome}")
    values = tuple(text if before else "" for text, (before, _, _) in zip(words, parts, strict=True))
    yield Track(f"{key} read" if own is not None else key, values=values)
