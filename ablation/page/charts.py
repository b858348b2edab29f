"""Charts in per cent of their drawing area: what ``charts.html`` draws as SVG.

Here numbers become places and labels; every tag stands in the template. Places are per cent, so that a chart takes the
width that a screen or a sheet has while its letters keep their size. Points carry their values as tooltips.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

PALETTE = 8
"""Colours of ``style.css``."""
DASHES = 4
"""Dash patterns of ``style.css``: the next one after every four colours."""
SHAPES = 4
"""Shapes of marks in ``charts.html``."""
TICKS = 4


@dataclass(frozen=True)
class Series:
    """One line, or one set of marks, of a chart.

    Args:
        name: what the legend calls it; series of one name share an entry.
        x: ascending positions.
        y: values; not finite ones leave a gap.
        colour: its number; dash pattern and shape change with it, so colour is never the only mark.
        style: ``line``, or ``points`` (marks joined by a thin line).
        band: half width of the band around each value (one standard deviation over seeds).
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    style: Literal["line", "points"] = "line"
    band: Sequence[float] | None = None


@dataclass(frozen=True)
class Estimate:
    """One row of a dot plot: an estimate, its interval, and the single values behind it.

    Args:
        label: names the row.
        mean: the estimate; ``None`` where there is none, which ``note`` explains.
        interval: around it; absent for one value.
        points: (value, tooltip) of each seed or pair.
        note: the same in figures.
        strong: it carries a verdict.
        colour: number of the arm; absent = the first colour.
    """

    label: str
    mean: float | None
    interval: tuple[float, float] | None
    points: Sequence[tuple[float, str]]
    note: str
    strong: bool = False
    colour: int = 0


class Tick(NamedTuple):
    """A place on an axis, or of a reference line, in per cent, with its label."""

    place: float
    label: str


class Dot(NamedTuple):
    """A point with its tooltip; ``shown`` = as a mark, else it only answers the pointer."""

    x: float
    y: float
    tip: str
    shown: bool = True


class Look(NamedTuple):
    """How a series is told from others: classes in ``style.css``, and a shape."""

    colour: str
    dash: str
    shape: int


@dataclass(frozen=True)
class Curve:
    """A series in drawing coordinates.

    Args:
        name: what the legend calls it.
        style: ``line`` or ``points``.
        look: its colour, dash pattern and shape.
        paths: corners of its parts between gaps, as SVG writes them.
        bands: corners of the bands around these.
        dots: its finite values.
    """

    name: str
    style: Literal["line", "points"]
    look: Look
    paths: list[str]
    bands: list[str]
    dots: list[Dot]


@dataclass(frozen=True)
class LineChart:
    """A figure with axes, ticks, legend, bands and reference lines; without curves it says that nothing was logged."""

    title: str
    x_label: str
    y_label: str
    note: str = ""
    x_ticks: Sequence[Tick] = ()
    y_ticks: Sequence[Tick] = ()
    references: Sequence[Tick] = ()
    curves: Sequence[Curve] = ()

    @property
    def legend(self) -> list[tuple[str, Look, bool, bool]]:
        """Name, look, whether there is a line, whether there are marks: an entry for each name."""
        found: dict[str, tuple[str, Look, bool, bool]] = {}
        for curve in self.curves:
            _, look, line, marks = found.get(curve.name, (curve.name, curve.look, False, False))
            found[curve.name] = (curve.name, look, line or curve.style == "line", marks or curve.style == "points")
        return list(found.values())


@dataclass(frozen=True)
class DotRow:
    """One estimate in drawing coordinates; ``points`` are the single values, (place, tooltip)."""

    label: str
    note: str
    strong: bool
    look: Look
    mean: float | None
    interval: tuple[float, float] | None
    points: list[Tick]


@dataclass(frozen=True)
class DotPlot:
    """Estimates on one scale; ``strip``, (from, to), is the range of differences that do not matter."""

    title: str
    note: str
    rows: list[DotRow]
    references: list[Tick]
    strip: tuple[float, float] | None
    ticks: list[Tick]


def look_of(number: int) -> Look:
    """Colour, dash pattern and shape of an arm: no two of the first sixty-four are alike."""
    return Look(
        f"c{number % PALETTE}",
        f"d{number // (PALETTE // 2) % DASHES}",
        (number + number // (PALETTE * DASHES // 2)) % SHAPES,
    )


def short(value: float) -> str:
    """A number in few characters: 950, 12k, 1.5M, 0.25."""
    size = abs(value)
    for limit, factor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}" if size >= 1000 or value == int(value) else f"{value:.3g}"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers in [low, high], about ``wanted`` of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """Values to per cent of the drawing area."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        return _share(x, *self.x)

    def down(self, y: float) -> float:
        return 100.0 - _share(y, *self.y)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.across(x):.2f},{self.down(y):.2f}" for x, y in points)

    def curve(self, one: Series) -> Curve:
        bands = one.band or [0.0] * len(one.y)
        values = zip(one.x, one.y, bands, strict=True)
        parts = [list(p) for finite, p in itertools.groupby(values, lambda v: math.isfinite(v[1])) if finite]
        around = [[(x, y + b) for x, y, b in p] + [(x, y - b) for x, y, b in reversed(p)] for p in parts]
        return Curve(
            one.name,
            one.style,
            look_of(one.colour),
            [self.path([(x, y) for x, y, _ in p]) for p in parts if len(p) > 1],
            [self.path(p) for p in around if len(p) > 2] if one.band else [],
            [
                Dot(
                    self.across(x),
                    self.down(y),
                    f"{one.name}, {'training' if one.style == 'line' else 'held out'}: {y:.4g} at {short(x)}",
                    one.style == "points" or len(p) == 1,  # a lone value has no line
                )
                for p in parts
                for x, y, _ in p
            ],
        )


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) * 100.0


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value with a margin."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    lines: Sequence[tuple[str, float]] = (),
    note: str = "",
) -> LineChart:
    """Lay out a line chart.

    Args:
        title: its heading.
        series: lines and marks; those without a finite value are only named. May be empty, which is said.
        x_label: name and unit of the horizontal axis.
        y_label: name and unit of the vertical axis.
        lines: named horizontal reference values.
        note: said under the figure.
    """
    drawn = [one for one in series if any(map(math.isfinite, one.y))]
    lost = dict.fromkeys(one.name for one in series if one.name not in {other.name for other in drawn})
    note += f" Nothing finite of {', '.join(lost)}." if lost else ""
    if not drawn:
        return LineChart(title, x_label, y_label, note)
    values = [value for _, value in lines]
    for one in drawn:
        bands = one.band or [0.0] * len(one.y)
        values += [v for y, b in zip(one.y, bands, strict=True) if math.isfinite(y) for v in (y - b, y + b)]
    last = max(max(one.x) for one in drawn)
    frame = _Frame((0.0, last if last > 0 else 1.0), _widened(values))
    return LineChart(
        title,
        x_label,
        y_label,
        note,
        [Tick(frame.across(value), short(value)) for value in ticks(*frame.x, TICKS)],
        [Tick(frame.down(value), short(value)) for value in ticks(*frame.y)],
        [Tick(frame.down(value), f"{name} {value:.2f}") for name, value in lines],
        [frame.curve(one) for one in drawn],
    )


def dot_plot(
    title: str,
    estimates: Sequence[Estimate],
    note: str,
    lines: Sequence[tuple[str, float]] = (),
    margin: float | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> DotPlot:
    """Lay out estimates, a row each on one scale: a dot for each value, the mean, its interval, reference lines.

    Args:
        title: heading of the figure.
        estimates: the rows; at least one.
        note: what is drawn, with its unit and direction.
        lines: named vertical reference values.
        margin: smallest effect that matters, drawn as a shaded strip around 0.
        bounds: values beyond are impossible, so an interval is drawn no further.
    """
    kept = [
        None if e.interval is None else (max(e.interval[0], bounds[0]), min(e.interval[1], bounds[1]))
        for e in estimates
    ]
    values = [value for _, value in lines]
    values += [v for e in estimates for v in (e.mean, *(v for v, _ in e.points)) if v is not None and math.isfinite(v)]
    values += [v for interval in kept for v in interval or ()]
    if margin:
        values += [-margin, margin]
    low, high = _widened(values or [0.0])
    rows = [
        DotRow(
            e.label,
            e.note,
            e.strong,
            look_of(e.colour),
            None if e.mean is None else _share(e.mean, low, high),
            None if interval is None else (_share(interval[0], low, high), _share(interval[1], low, high)),
            [Tick(_share(value, low, high), tip) for value, tip in e.points if math.isfinite(value)],
        )
        for e, interval in zip(estimates, kept, strict=True)
    ]
    strip = (_share(-margin, low, high), _share(margin, low, high)) if margin else None
    marks = [Tick(_share(value, low, high), name) for name, value in lines]
    return DotPlot(title, note, rows, marks, strip, [Tick(_share(v, low, high), short(v)) for v in ticks(low, high, 6)])
