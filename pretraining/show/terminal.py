"""``zoo show`` in a terminal: aligned lines below the tokens, wrapped to the width, with or without colour.

Without colour nothing is lost: what a colour says, a sign or a bracket says too.
"""

from __future__ import annotations

import itertools
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from pretraining.show.config import MatrixDisplay
from pretraining.show.views import SIGNS, RowView, Stream, TargetKind, TaskView, TokenCell, Track, TrackSpan

_CODES = {"bold": 1, "dim": 2, "underline": 4, "inverse": 7, "green": 32, "yellow": 33, "blue": 34, "magenta": 35}
_CODES |= {"cyan": 36}
_UNITS = ("yellow", "cyan", "magenta", "blue")  # of the lines of units, one after the other
_STYLES: dict[str, tuple[str, ...]] = {
    "masked": ("bold", "inverse"),
    "replaced": ("bold", "magenta"),
    "kept": ("underline",),
    "template": ("dim",),
    "other document": ("cyan",),
}
_BLOCKS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): "·"}
_LEAST = 24  # columns that a page has at least
_GUTTER = 18  # columns of the names at the left, at most
_PICTURE = 64  # columns of a picture; larger matrices are drawn smaller
_NAME = 9  # columns of a token's name beside a picture


def width_of(text: str) -> int:
    """Columns that a terminal gives a text: two for wide East Asian characters, none for combining ones."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)


def cut(text: str, width: int) -> str:
    """The text in at most ``width`` columns, with an ellipsis where it was longer."""
    if width_of(text) <= width:
        return text
    kept = text
    while kept and width_of(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}…" if width > 0 else ""


def pad(text: str, width: int) -> str:
    """The text with spaces up to ``width`` columns."""
    return text + " " * (width - width_of(text))


def render(views: Sequence[TaskView], width: int, colour: bool, attention: MatrixDisplay = "auto") -> str:
    """All views as text.

    Args:
        views: what to draw, one under the other.
        width: columns.
        colour: whether escape codes are written.
        attention: what attends to what: ``True`` = always as a picture, ``auto`` = where not every token attends to
            all and it was not drawn already, ``False`` = not at all.
    """
    page = _Page(max(width, _LEAST), colour, attention)
    page.align([row for view in views for row in view.rows])
    lines = [line for view in views for line in page.task(view)]
    return "\n".join([*lines, *page.legend()])


class _Page:
    """Draws views, and remembers what has to be explained at the end."""

    def __init__(self, width: int, colour: bool, attention: MatrixDisplay) -> None:
        self.width, self.colour, self.attention = width, colour, attention
        self.used: set[str] = set()
        self.drawn: set[tuple[str, bytes]] = set()
        self.heading: object = None
        self.gutter = 0
        self.widths: dict[tuple[int, str, bool], int] = {}

    def paint(self, text: str, *styles: str) -> str:
        """The text in the named styles, where there is colour."""
        if not (self.colour and styles and text):
            return text
        return f"\x1b[{';'.join(str(_CODES[style]) for style in styles)}m{text}\x1b[0m"

    def align(self, rows: Sequence[RowView]) -> None:
        """Give the same token of the same text the same width everywhere, and names at the left the same room."""
        names = [
            name for row in rows for name in (*(t.name for t in row.tracks), *(part.name for part in row.objectives))
        ]
        self.gutter = min(max(map(width_of, ("reads", *names))), _GUTTER, self.width // 4)
        for row in rows:
            for place, cell in enumerate(row.cells):
                values = (self._value(track, place) for track in row.tracks)
                wide = max(1, width_of(cell.read), *map(width_of, values))
                self.widths[cell.key] = max(self.widths.get(cell.key, 1), wide)
        self.used.clear()

    def task(self, view: TaskView) -> Iterator[str]:
        """A config's heading, its rows, its notes."""
        self.drawn.clear()
        yield ""
        heading = (view.title, view.edge, view.stages)
        if heading != self.heading:
            self.heading = heading
            for number, line in enumerate(textwrap.wrap(view.title, self.width - 2)):
                yield self.paint(f"{'  ' if number else '■ '}{line}", "bold", "yellow")
            if view.edge:
                yield from (self.paint(f"  {line}", "dim") for line in textwrap.wrap(view.edge, self.width - 2))
            for stage in view.stages:
                lines = textwrap.wrap(stage, self.width - 4)
                yield from (self.paint(f"  {'· ' if not n else '  '}{line}", "dim") for n, line in enumerate(lines))
            if view.stages:
                yield ""
        for number, line in enumerate(textwrap.wrap(view.about, self.width - 2)):
            yield self.paint(f"{'  ' if number else '▸ '}{line}", "bold" if view.stages else "dim")
        for row in view.rows:
            yield ""
            yield from self.row(row)
        for note in view.notes:
            yield ""
            yield from (self.paint(f"  {line}", "yellow") for line in textwrap.wrap(f"Note: {note}", self.width - 2))

    def row(self, row: RowView) -> Iterator[str]:
        """One row: heading, tokens, what objectives say, what attends to what."""
        yield from self._heading(row)
        gutter = self.gutter
        yield from self._staves(row, gutter)
        for part in row.objectives:
            yield from self._named(part.name, " · ".join(part.notes), gutter)
        if self.attention is not False:
            yield from self._streams(row, gutter)

    def _heading(self, row: RowView) -> Iterator[str]:
        """Seed, epoch, row and pair in a rule across the page; on a narrow page the pair has lines of its own."""
        place = f"seed {row.seed} · epoch {row.epoch} · row {row.place} of {row.rows}"
        fits = len(place) + len(row.pair) + 12 <= self.width
        place = cut(place, self.width - 6)
        line = f"{self.paint(f'── {place} ', 'dim')}"
        left = self.width - len(place) - 4
        if row.pair and fits:
            line += self.paint("── ", "dim") + self.paint(row.pair, "bold") + " "
            left -= len(row.pair) + 4
        yield line + self.paint("─" * left, "dim")
        if row.pair and not fits:
            yield from (self.paint(text, "bold") for text in textwrap.wrap(row.pair, self.width))

    def _named(self, name: str, text: str, gutter: int) -> Iterator[str]:
        """A name at the left, wrapped text beside it."""
        for number, line in enumerate(textwrap.wrap(text, self.width - gutter - 2) or [""]):
            yield self._line(name if number == 0 else "", [line], gutter)

    def _line(self, name: str, parts: Sequence[str], gutter: int) -> str:
        return (self.paint(pad(cut(name, gutter), gutter), "dim") + "  " + " ".join(parts)).rstrip()

    # -- the tokens

    def _staves(self, row: RowView, gutter: int) -> Iterator[str]:
        """The tokens with the lines below them, broken into staves of the page's width, between words if possible."""
        shown = [[self._value(track, place) for place in range(len(row.cells))] for track in row.tracks]
        room = self.width - gutter - 2
        widths = [min(self.widths[cell.key], room) for cell in row.cells]
        units = itertools.cycle(_UNITS)
        colours = [next(units) if track.unit else "dim" for track in row.tracks]
        for first, last in _breaks(row.cells, widths, room):
            columns = range(first, last)
            yield self._line("reads", [self._cell(row.cells[i], widths[i]) for i in columns], gutter)
            for track, values, hue in zip(row.tracks, shown, colours, strict=True):
                if track.spans:
                    drawn = _brackets(track.spans, first, last, widths)
                    if drawn:
                        yield self._line(track.name, [self.paint(drawn, hue)], gutter)
                elif any(values[first:last]):
                    texts = [pad(cut(values[i], widths[i]), widths[i]) for i in columns]
                    style = ("green",) if track.marks else ()
                    yield self._line(track.name, [self.paint(t, *style) if t.strip() else t for t in texts], gutter)
            yield ""

    def _value(self, track: Track, place: int) -> str:
        """A value with the sign of what it has to do with its position."""
        mark: TargetKind | None = track.marks[place] if track.marks else None
        if mark is None:
            return track.values[place] if track.values else ""
        self.used.add(mark)
        return SIGNS[mark][0] + track.values[place]

    def _cell(self, cell: TokenCell, width: int) -> str:
        """A token as the core reads it."""
        text = cut(cell.read, width)
        look = "other document" if cell.outcome == "plain" and not cell.own else cell.outcome
        self.used.add(look)
        return self.paint(text, *_STYLES.get(look, ())) + " " * (width - width_of(text))

    # -- what attends to what

    def _streams(self, row: RowView, gutter: int) -> Iterator[str]:
        """Each stream in a sentence, then the pictures that are wanted."""
        pictures = []
        for stream in row.streams:
            yield from self._named(stream.name, stream.sentence, gutter)
            if self.attention is True or not (stream.plain or stream.key in self.drawn):
                self.drawn.add(stream.key)
                pictures.append(self._picture(stream, row.cells))
        if not pictures:
            return
        self.used.add("picture")
        yield ""
        sizes = [max(size for _, size in picture) for picture in pictures]
        fits = gutter + 2 + sum(sizes) + 3 * (len(sizes) - 1) <= self.width
        margin = " " * (gutter + 2) if fits or gutter + 2 + max(sizes) <= self.width else ""
        for together in [pictures] if fits else [[picture] for picture in pictures]:
            for parts in itertools.zip_longest(*together, fillvalue=("", 0)):
                beside = [text + " " * (size - used) for (text, used), size in zip(parts, sizes, strict=False)]
                yield (margin + "   ".join(beside)).rstrip()

    def _picture(self, stream: Stream, cells: Sequence[TokenCell]) -> list[tuple[str, int]]:
        """Half-block lines with their widths: two rows of the matrix in each line, a column in each character."""
        name = min(_NAME, self.width // 6)
        step = -(-max(stream.attends.shape) // min(self.width - 2 * name - 2, _PICTURE))
        rows, columns = (range(0, size, step) for size in stream.attends.shape)
        small = [[bool(stream.attends[i : i + step, j : j + step].mean() >= 0.5) for j in columns] for i in rows]
        names = [cut(cells[stream.positions[i]].read, name) for i in rows]
        pairs = [" ".join(names[i : i + 2]) for i in range(0, len(names), 2)]
        side = max(map(width_of, pairs))
        head = cut(stream.name if step == 1 else f"{stream.name}: {step} × {step} pairs in a point", self.width)
        lines = [(self.paint(head, "dim"), width_of(head))] if step > 1 or stream.name != "attention" else []
        for number, pair in enumerate(pairs):
            upper, lower = [*small[2 * number : 2 * number + 2], [False] * len(columns)][:2]
            blocks = "".join(_BLOCKS[both] for both in zip(upper, lower, strict=True))
            drawn = "".join(
                self.paint("".join(part), *(("dim",) if dots else ("green",)))
                for dots, part in itertools.groupby(blocks, lambda block: block == "·")
            )
            gap = " " * (side - width_of(pair))
            lines.append((gap + self.paint(pair, "dim") + " " + drawn, side + 1 + len(columns)))
        return lines

    # -- what the signs mean

    def legend(self) -> Iterator[str]:
        """Every sign and colour that was used, explained; brackets and names explain themselves."""
        entries = [
            (sign, self._sample(mark), text) for mark, (sign, text) in SIGNS.items() if sign and mark in self.used
        ]
        if self.colour:
            texts = {"template": "a template token of the layout", "other document": "from another document"}
            entries += [("", self._sample(look), text) for look, text in texts.items() if look in self.used]
        if "picture" in self.used:
            entries.append(
                ("▀▄█", "", "what attends to what: two tokens that attend in a line, the tokens attended to in columns")
            )
        yield ""
        for sign, sample, text in entries:
            head = " ".join(filter(None, (self.paint(sign, "green"), sample)))
            used = len(sign) + (5 if sample else 0) + (1 if sample and sign else 0)
            for number, line in enumerate(textwrap.wrap(text, self.width - 10)):
                yield ("  " + head + " " * (8 - used) if number == 0 else " " * 10) + self.paint(line, "dim")

    def _sample(self, look: str) -> str:
        """A word in the look of a token, where there is colour."""
        return self.paint("token", *_STYLES[look]) if self.colour and look in _STYLES else ""


def _breaks(cells: Sequence[TokenCell], widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """(first, last) of the staves: as many words as fit; a word that fits no stave is broken."""
    first = place = 0
    while place < len(cells):
        end = place + 1
        while end < len(cells) and not cells[end].starts_word:
            end += 1
        if _total(widths[first:end]) > room and place > first:
            yield first, place
            first = place
        while _total(widths[first:end]) > room and end - first > 1:
            fits = first + 1
            while _total(widths[first : fits + 1]) <= room:
                fits += 1
            yield first, fits
            first = fits
        place = end
    yield first, len(cells)


def _total(widths: Sequence[int]) -> int:
    """Columns of tokens with a space between each two."""
    return sum(widths) + len(widths) - 1


def _brackets(spans: Sequence[TrackSpan], first: int, last: int, widths: Sequence[int]) -> str:
    """Brackets below the columns ``first`` to ``last``; what goes on in the next stave has no corner there."""
    line = ""
    for span in spans:
        start, stop = max(span.start, first), min(span.stop, last)
        if start >= stop:
            continue
        line = pad(line, _total(widths[first:start]) + 1 if start > first else 0)
        left, right = ("╰" if start == span.start else "─"), ("╯" if stop == span.stop else "─")
        line += _bracket(span, _total(widths[start:stop]), left, right)
    return line


def _bracket(span: TrackSpan, size: int, left: str, right: str) -> str:
    """One bracket of ``size`` columns with as much of its label as there is room for."""
    for label in (f"─ {span.label} ", f" {span.label} ", f"─ {span.short} ", span.short):
        if span.label and width_of(label) <= size - 2:
            return left + label + "─" * (size - 2 - width_of(label)) + right
    if span.label:
        return pad(cut(span.short, size), size)
    return "╵" if size == 1 else left + "─" * (size - 2) + right
