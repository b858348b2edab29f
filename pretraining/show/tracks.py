"""The lines below a row's tokens beside the targets: values, brackets; and how its segments belong together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.annotations.linked import LinkedEntities, read_entities
from pretraining.objectives.row_classification import RowClassification
from pretraining.objectives.token_classification import TokenLabels
from pretraining.show.reader import RowReading
from pretraining.show.views import Bools, Ints, Track, TrackSpan

_IGNORED = -100  # torch's label for "no loss here"


# --- values ------------------------------------------------------------------------------------------


def value_tracks(row: RowReading, targets: Sequence[Track], mentions: set[bytes]) -> Iterator[Track]:
    """Originals that nobody asks for, permutation ranks, and what else ``corrupt`` has left.

    Args:
        row: the row.
        targets: lines that objectives ask for.
        mentions: positions of mentions whose entities these name already, as bytes.
    """
    lost = row.read != row.original
    for track in targets:
        lost &= np.array([mark not in ("masked", "replaced") for mark in track.marks] or True)
    if lost.any():
        printer = row.source.printer
        yield Track("original", values=tuple(printer(i) if gone else "" for i, gone in zip(row.original, lost)))
    known = [row.original]
    if row.inputs.attention_pattern.permutation_ranks is not None:
        known.append(row.inputs.attention_pattern.permutation_ranks[0, : row.length].numpy())
        yield Track("order", values=tuple(map(str, known[-1])))
    for name, values in row.rows.targets.items():
        line = None if name == "selected" else value_track(row, name, values)
        if line and np.flatnonzero(line.values).tobytes() in mentions:
            continue  # the entities of mentions, which stand there by name
        if line and not any(np.array_equal(values[0, : row.length], other) for other in known):
            yield line


def value_track(row: RowReading, name: str, values: NDArray[Any]) -> Track | None:
    """A (1, L) array as a line: true as a dot, ids as tokens where the array's name says that it holds some."""
    if values.shape != row.rows.shape:
        return None
    cut = values[0, : row.length]
    if cut.dtype == bool:
        return Track(name, values=tuple("●" if value else "" for value in cut))
    printed = row.source.printer if name.endswith("_ids") else in_words
    return Track(name, values=tuple("" if value == _IGNORED else printed(value) for value in cut))


def in_words(value: Any) -> str:
    """A described value: a share in percent, another fraction briefly, anything else as it is."""
    if isinstance(value, float | np.floating):
        return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.3g}"
    return str(value)


# --- brackets ----------------------------------------------------------------------------------------


def bracket_tracks(row: RowReading, mentions: set[bytes]) -> Iterator[Track]:
    """Words of several pieces, the store's arrays, segments and documents.

    Args:
        row: the row.
        mentions: positions of mentions whose entities are named already, as bytes.
    """
    words = _runs(np.cumsum(row.starts), lambda _: ("", ""))
    if words := tuple(span for span in words if span.stop - span.start > 1):
        yield Track("words", spans=words)
    for name in row.rows.arrays:
        yield from _array_tracks(row, name, mentions)
    if row.rows.reuse_length is not None:
        yield Track(
            "memory", spans=(TrackSpan(0, int(row.rows.reuse_length[0]), "remembered for the next row", "kept"),)
        )
    yield from _segment_tracks(row)


def _array_tracks(row: RowReading, name: str, mentions: set[bytes]) -> Iterator[Track]:
    """A named array: units as brackets, classes as named segments, mentions by number or name, else runs."""
    values, source = row.array(name), row.source
    annotator, layout = source.annotations.get(name), source.task.layout
    marks = annotator.marks if annotator is not None else None
    labels = [getattr(objective, "labels", None) for objective in source.task.objectives.values()]
    if any(name in each.required_fields for each in labels if isinstance(each, TokenLabels)):
        return  # asked for, so shown already
    if marks == "units":
        if units := unit_spans(values, row.special_tokens_mask):
            yield Track(name, spans=units, unit=True)
        return
    if np.flatnonzero(values).tobytes() in mentions:
        return
    if isinstance(annotator, LinkedEntities):
        names = {number + 1: text for text, number in read_entities(annotator.data_files()["entities"][0]).items()}
        if values.any():
            yield Track(name, values=tuple(names.get(int(value), "") for value in values))
        return

    def label(value: int) -> tuple[str, str]:
        text = source.class_name(name, int(value) - 1) if marks == "every" else str(value)
        return text, text

    if name == getattr(layout, "label", None) and marks == "every" and row.rows.row_labels is not None:
        return  # said once, for the row
    whole = np.where(row.special_tokens_mask, values[row.nearest], values) if marks == "every" else values
    if runs := tuple(span for span in _runs(whole, label) if whole[span.start]):
        yield Track(name, spans=runs, unit=marks == "every" or name in layout.provided_fields)


def _segment_tracks(row: RowReading) -> Iterator[Track]:
    """Segments, and whose text they are, where a row has several of either."""
    store, types = row.source.store, row.rows.token_type_ids
    document = row.documents[row.nearest]
    sides = np.zeros_like(document) if types is None else types[0, : row.length].astype(np.int64)
    most, own = store.num_documents + 1, store.own_documents
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


def unit_spans(codes: Ints, special: Bools) -> tuple[TrackSpan, ...]:
    """Units of an array of 0 (outside), 1 (first token), 2 (later ones), each one span.

    A row that is cut inside a unit begins with its later tokens; they are one unit, too.

    Args:
        codes: (L,) the array.
        special: (L,) template tokens, which are in no unit.
    """
    spans: list[TrackSpan] = []
    for place, code in enumerate(codes.tolist()):
        if not code or special[place]:
            continue
        if code == 2 and spans and spans[-1].stop == place:
            spans[-1] = TrackSpan(spans[-1].start, place + 1)
        else:
            spans.append(TrackSpan(place, place + 1))
    return tuple(spans)


def _runs(values: Ints, label: Callable[[int], tuple[str, str]]) -> tuple[TrackSpan, ...]:
    """Runs of equal values as spans with a label and a short one."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return tuple(TrackSpan(a, b, *label(values[a])) for a, b in itertools.pairwise(edges))


# --- in words ----------------------------------------------------------------------------------------


def pair_in_words(row: RowReading) -> str:
    """The relation by where the segments lie in the store, and the label; empty where a row has no label."""
    label, types = row.rows.row_labels, row.rows.token_type_ids
    if label is None:
        return ""
    if relation := _given_class(row, int(label[0])) or _order_of_segments(row) or _foreign_utterance(row):
        return f"{relation} (label {label[0]})"
    sides = (
        [] if types is None else [row.places[~row.special_tokens_mask & (types[0, : row.length] == t)] for t in (0, 1)]
    )
    if not sides or not all(map(len, sides)):
        return f"label {label[0]}"
    first, second = (side[:: -1 if row.backwards else 1] for side in sides)
    documents = np.searchsorted(row.source.store.document_tokens(), [first[0], second[0]], side="right")
    if label[0] == 0:  # by definition the true order
        relation = "B follows A in the text"
    elif documents[0] != documents[1]:
        relation = "B comes from another document"
    elif second[-1] + 1 == first[0]:
        relation = "A and B are swapped"
    else:
        relation = f"B comes from {'earlier' if second[0] < first[0] else 'later'} in the document"
    return f"{relation} (label {label[0]}){', read backwards' if row.backwards else ''}"


def _given_class(row: RowReading, label: int) -> str:
    """The class that the record itself gives the row, by the layout's array of it; else nothing."""
    task = row.source.task
    name = getattr(task.layout, "label", None)
    values = row.rows.arrays.get(name, np.zeros((1, 0)))[0] if isinstance(name, str) else np.zeros(0)
    if not values.size or not np.all(values[: row.length][~row.special_tokens_mask] == label + 1):
        return ""
    named = next((o.labels for o in task.objectives.values() if isinstance(o, RowClassification)), None)
    words = named[label] if named else row.source.class_name(str(name), label)
    return "the record's class" + ("" if words == str(label) else f": {words}")


def _order_of_segments(row: RowReading) -> str:
    """In which order the segments of the text stand, where the layout numbers them."""
    if "segment" not in row.source.task.layout.provided_fields or "segment" not in row.rows.arrays:
        return ""
    numbers = row.array("segment")[~row.special_tokens_mask]
    order = [int(key) for key, _ in itertools.groupby(numbers)]
    if len(order) == 1:
        return "a single segment, in place"
    return f"segments in the order {' '.join(map(str, order))}" + (", as in the text" if order == sorted(order) else "")


def _foreign_utterance(row: RowReading) -> str:
    """Which of several pieces comes from elsewhere, where the layout reads speakers."""
    if not isinstance(getattr(row.source.task.layout, "role", None), str):
        return ""
    pieces = [
        list(run) for gap, run in itertools.groupby(range(row.length), lambda i: row.special_tokens_mask[i]) if not gap
    ]
    own = row.rows.document_ids[0] + 1
    foreign = [n for n, piece in enumerate(pieces, start=1) if row.documents[piece[0]] != own]
    if not foreign:
        return "all utterances belong to one dialogue"
    return f"utterance {foreign[0]} comes from another dialogue"
