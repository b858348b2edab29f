"""Charts in drawing coordinates: what ``charts.html`` draws as SVG.

Here numbers become places and labels; every tag stands in the template. Points carry their values as tooltips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

PALETTE = 8
"""Colours of ``style.css``."""
WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 38
"""Margins around the axes of a line chart."""
FOREST_WIDTH = 300


@dataclass(frozen=True)
class Series:
    """One line, or one set of points, of a chart.

    Args:
        name: what the legend calls it.
        x: ascending positions.
        y: values; not finite ones leave a gap.
        colour: number in the palette; the dash pattern changes with it, so colour is never the only mark.
        style: ``line``, or ``points`` (joined by a thin line).
        band: half width of the band around each value (one standard deviation over seeds).
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    style: Literal["line", "points"] = "line"
    band: Sequence[float] | None = None


@dataclass(frozen=True)
class Effect:
    """One row of a forest plot: an estimate with its interval and the single paired differences."""

    label: str
    estimate: float
    interval: tuple[float, float] | None
    points: Sequence[float]
    note: str
    strong: bool = False


class Tick(NamedTuple):
    """A place on an axis, or the height of a reference line, with its label."""

    place: float
    label: str


class Dot(NamedTuple):
    """A point with its tooltip."""

    x: float
    y: float
    tip: str


@dataclass(frozen=True)
class Curve:
    """A series in drawing coordinates.

    Args:
        name: what the legend calls it.
        style: ``line`` or ``points``.
        colour: its class in ``style.css``.
        path: corners of the line, as SVG writes them.
        band: corners of the band around it; empty for none.
        dots: its finite values.
    """

    name: str
    style: Literal["line", "points"]
    colour: str
    path: str
    band: str
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
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class ForestRow:
    """One effect in drawing coordinates; ``pairs`` are the single differences, (place, tooltip)."""

    label: str
    note: str
    strong: bool
    mean: float
    interval: tuple[float, float] | None
    pairs: list[Tick]


@dataclass(frozen=True)
class ForestPlot:
    """Effects on one scale; ``strip``, (from, to), is the range of differences that do not matter."""

    title: str
    note: str
    rows: list[ForestRow]
    zero: float
    strip: tuple[float, float] | None
    ticks: list[Tick]
    width: int = FOREST_WIDTH


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


def value_range(series: Sequence[Series], lines: Sequence[tuple[str, float]] = ()) -> tuple[float, float]:
    """Lowest and highest value that a chart of these must show, with a margin."""
    values = [value for _, value in lines]
    for one in series:
        bands = one.band or [0.0] * len(one.y)
        values += [v for y, b in zip(one.y, bands, strict=True) if math.isfinite(y) for v in (y - b, y + b)]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


@dataclass(frozen=True)
class _Frame:
    """Values to drawing coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, y: float) -> float:
        return TOP + (self.y[1] - y) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)

    def curve(self, one: Series) -> Curve:
        bands = one.band or [0.0] * len(one.y)
        kept = [(x, y, b) for x, y, b in zip(one.x, one.y, bands, strict=True) if math.isfinite(y)]
        around = [(x, y + b) for x, y, b in kept] + [(x, y - b) for x, y, b in reversed(kept)]
        return Curve(
            one.name,
            one.style,
            f"c{one.colour % PALETTE}",
            self.path([(x, y) for x, y, _ in kept]),
            self.path(around) if one.band else "",
            [Dot(self.across(x), self.down(y), f"{one.name}: {y:.4g} at {short(x)}") for x, y, _ in kept],
        )


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    lines: Sequence[tuple[str, float]] = (),
    y_range: tuple[float, float] | None = None,
    note: str = "",
) -> LineChart:
    """Lay out a line chart.

    Args:
        title: its heading.
        series: lines and points; may be empty, which is then said in the figure.
        x_label: name and unit of the horizontal axis.
        y_label: name and unit of the vertical axis.
        lines: named horizontal reference values.
        y_range: shared vertical range, so that figures side by side can be compared.
        note: said under the figure.
    """
    drawn = [one for one in series if len(one.x)]
    if not drawn:
        return LineChart(title, x_label, y_label)
    last = max(max(one.x) for one in drawn)
    frame = _Frame((0.0, last if last > 0 else 1.0), y_range or value_range(drawn, lines))
    low, high = frame.y
    return LineChart(
        title,
        x_label,
        y_label,
        note,
        [Tick(frame.across(value), short(value)) for value in ticks(*frame.x)],
        [Tick(frame.down(value), short(value)) for value in ticks(low, high)],
        [Tick(frame.down(value), f"{name} {value:.2f}") for name, value in lines if low <= value <= high],
        [frame.curve(one) for one in drawn],
    )


def forest_plot(title: str, effects: Sequence[Effect], note: str, margin: float | None = None) -> ForestPlot:
    """Lay out paired differences: a dot per pair, the mean, its interval, and the line of no difference.

    Args:
        title: heading of the figure.
        effects: one row each, drawn on one scale; at least one.
        note: what is drawn, with its unit and direction.
        margin: smallest effect that matters, drawn as a shaded strip around 0.
    """
    values = [0.0, *(v for e in effects for v in (e.estimate, *e.points, *(e.interval or ())))]
    if margin:
        values += [-margin, margin]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def across(value: float) -> float:
        return (value - low) / (high - low) * FOREST_WIDTH

    rows = [
        ForestRow(
            e.label,
            e.note,
            e.strong,
            across(e.estimate),
            None if e.interval is None else (across(e.interval[0]), across(e.interval[1])),
            [Tick(across(value), f"{value:+.4g}") for value in e.points],
        )
        for e in effects
    ]
    strip = (across(-margin), across(margin)) if margin else None
    return ForestPlot(
        title, note, rows, across(0.0), strip, [Tick(across(value), short(value)) for value in ticks(low, high, 4)]
    )
