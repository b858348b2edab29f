"""From spans of characters to tokens: a sentence's annotations as one number per token."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.annotations.base import Annotator, CharSpan, RecordAnnotator, TextAnnotator
from zoo.errors import ZooError

Ints = NDArray[np.int64]


class Piece(NamedTuple):
    """A sentence on its way to the tokenizer.

    Args:
        text: as it is tokenised.
        words: characters at which words start, or ``None``.
        spans: of each annotation that says something, in characters of ``text``.
        where: file and line, for messages.
    """

    text: str
    words: list[int] | None
    spans: dict[str, list[CharSpan]]
    where: tuple[str, int]


class _Line:
    """Spans of a line by one annotation, among which those of a sentence are found without a look at all of them.

    Args:
        spans: in any order; they may overlap.
    """

    def __init__(self, spans: list[CharSpan]) -> None:
        self._spans = spans
        self._order = sorted(range(len(spans)), key=lambda number: spans[number][0])
        self._begins = [spans[number][0] for number in self._order]
        self._reach = list(accumulate((spans[number][1] for number in self._order), max))  # ascending, unlike the ends

    def reach(self, end: int) -> int:
        """The furthest end of the spans that begin before ``end``; -1 = there is none."""
        count = bisect_left(self._begins, end)
        return self._reach[count - 1] if count else -1

    def touching(self, start: int, end: int) -> list[CharSpan]:
        """Spans with a character in [start, end), in the order in which they were given."""
        first, last = bisect_right(self._reach, start), bisect_left(self._begins, end)
        return [self._spans[n] for n in sorted(self._order[first:last]) if self._spans[n][1] > start]


class Annotations:
    """All annotations of a corpus, at work in one process.

    Args:
        annotators: by name.
        lowercase: the tokenizer folds case.

    Attributes:
        dtypes: of the arrays.
        recorded: those that read records.
        left_out: by name and reason (``cut`` a token, ``unknown``, ``empty``: without any token), since it was last
            asked for with :meth:`counted`.
    """

    def __init__(self, annotators: Mapping[str, Annotator], lowercase: bool) -> None:
        for annotator in annotators.values():
            annotator.ready(lowercase)
        self._annotators = dict(annotators)
        self._finders = {name: a for name, a in annotators.items() if isinstance(a, TextAnnotator)}
        self.recorded = {name: a for name, a in annotators.items() if isinstance(a, RecordAnnotator)}
        self.dtypes = {name: a.dtype for name, a in annotators.items()}
        self.left_out: Counter[tuple[str, str]] = Counter()
        self._ordered: tuple[Mapping[str, list[CharSpan]], dict[str, _Line]] = ({}, {})

    def _lines(self, notes: Mapping[str, list[CharSpan]]) -> dict[str, _Line]:
        """A line's spans, put in order once for all of its sentences, which follow one another."""
        if self._ordered[0] is not notes:
            self._ordered = notes, {name: _Line(spans) for name, spans in notes.items()}
        return self._ordered[1]

    def undivided(self, edges: list[tuple[int, int]], notes: Mapping[str, list[CharSpan]]) -> list[tuple[int, int]]:
        """Sentences of a line, joined where a given span goes on from one to the next."""
        inner = [line for name, line in self._lines(notes).items() if self._annotators[name].marks != "every"]
        joined: list[tuple[int, int]] = []
        for start, end in edges:
            if joined and any(line.reach(joined[-1][1]) > start for line in inner):
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        return joined

    def spans(
        self,
        text: str,
        start: int,
        notes: Mapping[str, list[CharSpan]],
        plain: tuple[str, Sequence[int] | None],
        encoded: str,
    ) -> dict[str, list[CharSpan]]:
        """A sentence's spans by annotation, in characters of the text that is encoded.

        Args:
            text: the sentence as it stands in its line.
            start: its first character there.
            notes: spans of the line, left as they are from its first sentence to its last.
            plain: the sentence without the spaces between Chinese words, and where a segmenter's words start in it.
            encoded: as it is encoded.
        """
        spans: dict[str, list[CharSpan]] = {}
        for name, finder in self._finders.items():
            if found := finder.find(*plain):
                spans[name] = _moved([(a, b, 1) for a, b in found], plain[0], encoded)
        end = start + len(text)
        for name, line in self._lines(notes).items():
            own = [(max(a - start, 0), min(b, end) - start, code) for a, b, code in line.touching(start, end)]
            if own and self._annotators[name].marks == "every":
                spans[name] = [(0, len(encoded), own[0][2])]
            elif own:
                spans[name] = _moved(own, text, encoded)
        return spans

    def arrays(self, pieces: Sequence[Piece], sizes: Ints, places: Ints | None) -> dict[str, NDArray[Any]]:
        """One array per annotation.

        Args:
            pieces: the sentences.
            sizes: (pieces,) tokens of each.
            places: (n, 2) characters of each token in its sentence; ``None`` where :meth:`needs_places` is false.

        Raises:
            ZooError: a given span cuts a token.
        """
        lengths = np.array([len(piece.text) for piece in pieces], dtype=np.int64)
        shift = np.cumsum(lengths + 2) - lengths - 1  # texts side by side, room for an empty place before each
        wide = None if places is None else places + np.repeat(shift, sizes)[:, None]
        arrays = {}
        for name, annotator in self._annotators.items():
            array = np.zeros(int(sizes.sum()), dtype=annotator.dtype)
            if annotator.marks == "every":
                code = [piece.spans[name][0][2] if name in piece.spans else 0 for piece in pieces]
                array[:] = np.repeat(np.array(code, dtype=array.dtype), sizes)
            elif wide is not None:
                self._mark(name, array, pieces, shift, wide)
            arrays[name] = array
        return arrays

    def needs_places(self, pieces: Sequence[Piece]) -> bool:
        """Whether any span is part of a sentence."""
        return any(self._annotators[name].marks != "every" for piece in pieces for name in piece.spans)

    def _mark(self, name: str, array: NDArray[Any], pieces: Sequence[Piece], shift: Ints, wide: Ints) -> None:
        """Write one annotation's spans."""
        annotator = self._annotators[name]
        owner = [number for number, piece in enumerate(pieces) for _ in piece.spans.get(name, ())]
        if not owner:
            return
        spans = np.array([span for piece in pieces for span in piece.spans.get(name, ())], dtype=np.int64)
        spans[:, :2] += shift[owner][:, None]
        self.left_out[name, "unknown"] += int((spans[:, 2] == 0).sum())
        known = spans[:, 2] > 0
        spans, owner = spans[known], [number for number, kept in zip(owner, known.tolist()) if kept]
        first, last, cuts = locate(wide, spans[:, 0], spans[:, 1])
        if (cuts >= 0).any() and isinstance(annotator, RecordAnnotator) and annotator.cut == "error":
            wrong = int(np.argmax(cuts >= 0))
            piece = pieces[owner[wrong]]
            start, end = (spans[wrong, :2] - shift[owner[wrong]]).tolist()
            token = piece.text[slice(*(wide[cuts[wrong]] - shift[owner[wrong]]).tolist())]
            raise ZooError(
                f"{piece.where[0]}:{piece.where[1]}: the span {piece.text[start:end]!r} of {name!r} cuts the token "
                f"{token!r} in {piece.text[max(start - 20, 0) : end + 20]!r}. Mend the span, or say "
                f"`cut: skip` (annotations.{name}.init_args) to leave such spans out and have them counted."
            )
        empty = (cuts < 0) & (last <= first)
        self.left_out[name, "cut"] += int((cuts >= 0).sum())
        self.left_out[name, "empty"] += int(empty.sum())
        good = (cuts < 0) & ~empty
        first, last = first[good], last[good]
        if annotator.marks == "first":
            array[first] = spans[good, 2]
            return
        count_ = last - first
        inner = np.repeat(first - (np.cumsum(count_) - count_), count_) + np.arange(int(count_.sum()))
        array[inner] = 2
        array[first] = 1

    def counted(self) -> dict[str, dict[str, int]]:
        """What was left out, by name and reason; counting starts again."""
        result: dict[str, dict[str, int]] = {}
        for (name, reason), number in self.left_out.items():
            if number:
                result.setdefault(name, {})[reason] = number
        self.left_out.clear()
        return result


class Found:
    """What a store's annotations came to, added up shard by shard.

    Args:
        annotators: by name.
    """

    def __init__(self, annotators: Mapping[str, Annotator]) -> None:
        self._annotators = annotators
        self._units: Counter[str] = Counter()
        self._covered: Counter[str] = Counter()
        self._left_out: dict[str, Counter[str]] = {name: Counter() for name in annotators}

    def add(self, arrays: Mapping[str, NDArray[Any]], left_out: Mapping[str, Mapping[str, int]]) -> None:
        """Count one shard."""
        for name, annotator in self._annotators.items():
            covered = int(np.count_nonzero(arrays[name]))
            self._covered[name] += covered
            self._units[name] += int((arrays[name] == 1).sum()) if annotator.marks == "units" else covered
            self._left_out[name].update(left_out.get(name, {}))

    def summary(self, tokens: int) -> dict[str, dict[str, Any]]:
        """By annotation: its class, units and their mean length in tokens, share of the tokens, what was left out."""
        result: dict[str, dict[str, Any]] = {}
        for name, annotator in self._annotators.items():
            units, covered = self._units[name], self._covered[name]
            entry: dict[str, Any] = {"class": type(annotator).__name__, "marks": annotator.marks}
            if annotator.marks != "every":
                entry["units"] = units
            if annotator.marks == "units":
                entry["mean_length"] = round(covered / units, 3) if units else 0.0
            entry["share"] = round(covered / max(tokens, 1), 5)
            result[name] = {**entry, "left_out": dict(self._left_out[name])}
        return result


def describe(name: str, entry: Mapping[str, Any]) -> str:
    """One annotation of a store's ``meta.json`` in words."""
    parts = []
    if "units" in entry:
        parts.append(f"{entry['units']:,} " + ("spans" if entry["marks"] == "first" else "units"))
    if "mean_length" in entry:
        parts.append(f"{entry['mean_length']:.2f} tokens on average")
    parts.append(f"{entry['share']:.1%} of the tokens")
    reasons = {"cut": "cut a token", "unknown": "name nothing known", "empty": "hold no token"}
    parts += [f"left out: {number:,} that {reasons[key]}" for key, number in entry["left_out"].items()]
    return f"{name} ({entry['class']}): {', '.join(parts)}"


def locate(places: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """Tokens of spans.

    Args:
        places: (n, 2) first character and end of each token, both in ascending order.
        start: (s,) first characters.
        end: (s,) ends.

    Returns:
        (s,) first token, (s,) the token behind the last one, (s,) a token that is cut by an edge, or -1.
    """
    begins, ends = places[:, 0], np.maximum.accumulate(places[:, 1])
    first = np.searchsorted(begins, start, side="left")
    last = np.searchsorted(begins, end, side="left")
    before, final = np.maximum(first - 1, 0), np.maximum(last - 1, 0)
    cuts = np.where((first > 0) & (ends[before] > start), before, -1)
    cuts = np.where((cuts < 0) & (last > 0) & (ends[final] > end), final, cuts)
    return first, last, cuts


def _moved(spans: list[CharSpan], old: str, new: str) -> list[CharSpan]:
    """Spans of a text in the same text with other white space."""
    if old == new:
        return spans
    if len(new) == len(old) + 1 and new.endswith(old):  # a space in front
        return [(start + 1, end + 1, code) for start, end, code in spans]
    visible = [place for place, character in enumerate(new) if not character.isspace()]
    before = [0]
    for character in old:
        before.append(before[-1] + (not character.isspace()))
    return [
        (visible[before[start]], visible[before[end] - 1] + 1, code)
        for start, end, code in spans
        if before[end] > before[start]
    ]
