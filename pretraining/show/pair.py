"""How the segments of a row belong together, in words."""

from __future__ import annotations

import itertools

import numpy as np

from pretraining.objectives import RowClassification
from pretraining.show.reader import RowReading


def pair_in_words(row: RowReading) -> str:
    """The relation by where the segments lie in the store, and the label; empty where a row has no label."""
    label, types = row.rows.pair_label, row.rows.token_type_ids
    if label is None:
        return ""
    if relation := _given_class(row, int(label[0])) or _order_of_segments(row) or _foreign_utterance(row):
        return f"{relation} (label {label[0]})"
    sides = [] if types is None else [row.places[~row.special & (types[0, : row.length] == t)] for t in (0, 1)]
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
    if not values.size or not np.all(values[: row.length][~row.special] == label + 1):
        return ""
    named = next((o.labels for o in task.objectives.values() if isinstance(o, RowClassification)), None)
    words = named[label] if named else row.source.class_name(str(name), label)
    return "the record's class" + ("" if words == str(label) else f": {words}")


def _order_of_segments(row: RowReading) -> str:
    """In which order the segments of the text stand, where the layout numbers them."""
    if "segment" not in row.source.task.layout.provides or "segment" not in row.rows.arrays:
        return ""
    numbers = row.array("segment")[~row.special]
    order = [int(key) for key, _ in itertools.groupby(numbers)]
    if len(order) == 1:
        return "a single segment, in place"
    return f"segments in the order {' '.join(map(str, order))}" + (", as in the text" if order == sorted(order) else "")


def _foreign_utterance(row: RowReading) -> str:
    """Which of several pieces comes from elsewhere, where the layout reads speakers."""
    if not isinstance(getattr(row.source.task.layout, "role", None), str):
        return ""
    pieces = [list(run) for gap, run in itertools.groupby(range(row.length), lambda i: row.special[i]) if not gap]
    own = row.rows.document[0] + 1
    foreign = [n for n, piece in enumerate(pieces, start=1) if row.documents[piece[0]] != own]
    if not foreign:
        return "all utterances belong to one dialogue"
    return f"utterance {foreign[0]} comes from another dialogue"
