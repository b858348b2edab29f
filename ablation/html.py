"""One self-contained HTML page: inline CSS and SVG, no script, nothing fetched.

Every component takes plain text and escapes it; only :class:`Markup`, made here, is put in as it is. Points
carry SVG ``<title>`` elements, which browsers show as tooltips.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

PALETTE = 8
WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 38


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


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


def escape(text: object) -> Markup:
    """``text`` as HTML; :class:`Markup` stays what it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text), quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Escaped parts side by side."""
    return Markup(between.join(escape(part) for part in parts))


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
    """Data coordinates to drawing coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]

    def px(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def py(self, y: float) -> float:
        return TOP + (self.y[1] - y) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)


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


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    lines: Sequence[tuple[str, float]] = (),
    y_range: tuple[float, float] | None = None,
    note: str = "",
) -> Markup:
    """A figure with axes, ticks, legend, bands and reference lines.

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
        return Markup(f"<figure><figcaption>{escape(title)}</figcaption><p class=note>Nothing was logged.</p></figure>")
    last = max(max(one.x) for one in drawn)
    frame = _Frame((0.0, last if last > 0 else 1.0), y_range or value_range(drawn, lines))
    body = [_axes(frame, x_label, y_label)]
    body += [_reference(frame, name, value) for name, value in lines if frame.y[0] <= value <= frame.y[1]]
    body += [_band(frame, one) for one in drawn if one.band]
    body += [_curve(frame, one) for one in drawn]
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: {escape(y_label)} over '
        f'{escape(x_label)}">{"".join(body)}</svg>'
    )
    tail = f"<p class=note>{escape(note)}</p>" if note else ""
    return Markup(f"<figure><figcaption>{escape(title)}</figcaption>{_legend(drawn)}{svg}{tail}</figure>")


def _axes(frame: _Frame, x_label: str, y_label: str) -> str:
    parts = []
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in ticks(*frame.y):
        y = frame.py(value)
        parts.append(f"<line class=grid x1={LEFT} x2={right} y1={y:.1f} y2={y:.1f} />")
        parts.append(f"<text x={LEFT - 6} y={y + 4:.1f} text-anchor=end>{short(value)}</text>")
    for value in ticks(*frame.x):
        x = frame.px(value)
        parts.append(f"<line class=axis x1={x:.1f} x2={x:.1f} y1={floor} y2={floor + 4} />")
        parts.append(f"<text x={x:.1f} y={floor + 17} text-anchor=middle>{short(value)}</text>")
    parts.append(f"<line class=axis x1={LEFT} x2={right} y1={floor} y2={floor} />")
    parts.append(f"<text class=label x={right} y={HEIGHT - 4} text-anchor=end>{escape(x_label)}</text>")
    parts.append(f"<text class=label x={LEFT + 4} y={TOP + 2}>{escape(y_label)}</text>")
    return "".join(parts)


def _reference(frame: _Frame, name: str, value: float) -> str:
    y, right = frame.py(value), WIDTH - RIGHT
    return (
        f"<line class=reference x1={LEFT} x2={right} y1={y:.1f} y2={y:.1f} />"
        f"<text class=halo x={right} y={y - 5:.1f} text-anchor=end>{escape(name)} {value:.2f}</text>"
    )


def _band(frame: _Frame, one: Series) -> str:
    assert one.band is not None
    kept = [(x, y, b) for x, y, b in zip(one.x, one.y, one.band, strict=True) if math.isfinite(y)]
    upper = [f"{frame.px(x):.1f},{frame.py(y + b):.1f}" for x, y, b in kept]
    lower = [f"{frame.px(x):.1f},{frame.py(y - b):.1f}" for x, y, b in reversed(kept)]
    return f'<polygon class="band c{one.colour % PALETTE}" points="{" ".join(upper + lower)}" />'


def _curve(frame: _Frame, one: Series) -> str:
    kept = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
    path = " ".join(f"{frame.px(x):.1f},{frame.py(y):.1f}" for x, y in kept)
    colour = f"c{one.colour % PALETTE}"
    parts = [f'<polyline class="{one.style} {colour}" points="{path}" />']
    for x, y in kept:
        tip = f"<title>{escape(one.name)}: {y:.4g} at {short(x)}</title>"
        place = f"cx={frame.px(x):.1f} cy={frame.py(y):.1f}"
        if one.style == "points":
            parts.append(f'<circle class="dot {colour}" {place} r=3.2 />')
        parts.append(f"<circle class=hit {place} r=7>{tip}</circle>")
    return "".join(parts)


def _legend(series: Sequence[Series]) -> str:
    items = []
    for one in series:
        mark = '<circle class="dot {c}" cx=12 cy=6 r=3.2 />' if one.style == "points" else ""
        colour = f"c{one.colour % PALETTE}"
        items.append(
            f'<span><svg class=key viewBox="0 0 24 12" aria-hidden=true><polyline class="{one.style} {colour}" '
            f'points="0,6 24,6" />{mark.format(c=colour)}</svg>{escape(one.name)}</span>'
        )
    return f"<p class=legend>{''.join(items)}</p>"


def forest_plot(title: str, effects: Sequence[Effect], x_label: str, margin: float | None = None) -> Markup:
    """Paired differences: a dot per pair, the mean, its interval, and the line of no difference.

    Args:
        title: heading of the figure.
        effects: one row each, drawn on one scale.
        x_label: what a difference means, with its unit and direction.
        margin: smallest effect that matters, drawn as a shaded strip around 0.
    """
    if not effects:
        return Markup("")
    values = [0.0, *(v for e in effects for v in (e.estimate, *e.points, *(e.interval or ())))]
    if margin:
        values += [-margin, margin]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def px(value: float) -> float:
        return (value - low) / (high - low) * 300

    strip = (
        f"<rect class=strip x={px(-margin):.1f} y=0 height=30 width={px(margin) - px(-margin):.1f} />" if margin else ""
    )
    rows = []
    for e in effects:
        parts = [strip, f"<line class=zero x1={px(0):.1f} x2={px(0):.1f} y1=0 y2=30 />"]
        parts += [f"<circle class=pair cx={px(v):.1f} cy=23 r=2><title>{v:+.4g}</title></circle>" for v in e.points]
        if e.interval is not None:
            a, b = px(e.interval[0]), px(e.interval[1])
            parts.append(f"<line class=interval x1={a:.1f} x2={b:.1f} y1=12 y2=12 />")
            parts += [f"<line class=interval x1={end:.1f} x2={end:.1f} y1=8 y2=16 />" for end in (a, b)]
        parts.append(f"<circle class=mean cx={px(e.estimate):.1f} cy=12 r=4 />")
        drawing = f'<svg viewBox="0 0 300 30" role=img aria-label="{escape(e.note)}">{"".join(parts)}</svg>'
        name = f"<strong>{escape(e.label)}</strong>" if e.strong else escape(e.label)
        rows.append(f"<tr><th scope=row>{name}</th><td class=plot>{drawing}</td><td>{escape(e.note)}</td></tr>")
    axis = "".join(
        f"<line class=axis x1={px(v):.1f} x2={px(v):.1f} y1=0 y2=4 /><text x={px(v):.1f} y=16 text-anchor=middle>"
        f"{short(v)}</text>"
        for v in ticks(low, high, 4)
    )
    foot = f'<tr class=foot><td></td><td class=plot><svg viewBox="0 0 300 20">{axis}</svg></td><td></td></tr>'
    return Markup(
        f"<figure class=wide><figcaption>{escape(title)}</figcaption><div class=scroll><table class=forest>"
        f"<tbody>{''.join(rows)}{foot}</tbody></table></div><p class=note>{escape(x_label)}</p></figure>"
    )


def table(head: Sequence[object], rows: Sequence[Sequence[object]], note: str = "") -> Markup:
    """A table whose first column names the rows and stays in place when the rest scrolls."""
    top = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    tail = f"<p class=note>{escape(note)}</p>" if note else ""
    return Markup(f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>{tail}")


def facts(pairs: Sequence[tuple[str, object]]) -> Markup:
    """A list of names and values."""
    return Markup("<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs) + "</dl>")


def paragraph(text: object) -> Markup:
    """One paragraph."""
    return Markup(f"<p>{escape(text)}</p>")


def code(text: str) -> Markup:
    """A block of code."""
    return Markup(f"<pre><code>{escape(text)}</code></pre>")


def charts(figures: Sequence[Markup]) -> Markup:
    """Figures side by side where there is room."""
    return Markup(f"<div class=charts>{''.join(figures)}</div>")


def section(heading: str, *parts: Markup) -> Markup:
    """A heading with what belongs to it."""
    return Markup(f"<section><h2>{escape(heading)}</h2>{''.join(parts)}</section>")


def page(title: str, lead: str, sections: Sequence[Markup]) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><header><h1>{escape(title)}</h1>"
        f"<p class=lead>{escape(lead)}</p></header>{''.join(sections)}</main></body></html>\n"
    )


_LIGHT = ("#0067a5", "#c8501a", "#16806a", "#a8428f", "#9a6b00", "#3f8fc4", "#6650a8", "#5d6670")
_DARK = ("#5cb3f0", "#f08a55", "#43c5a2", "#e486c8", "#e0b040", "#8fd0f7", "#ab98ec", "#a9b3bd")
_DASH = ("none", "none", "none", "none", "6 3", "6 3", "2 3", "2 3")


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"--c{i}:{value};" for i, value in enumerate(colours))


STYLE = (
    f":root{{color-scheme:light dark;--ink:#1c2126;--soft:#5a646e;--paper:#faf9f6;--card:#fff;--rule:#e2dfd8;"
    f"--strip:#ece8dc;{_variables(_LIGHT)}}}"
    f"@media(prefers-color-scheme:dark){{:root{{--ink:#e7e9ea;--soft:#a3adb6;--paper:#14171a;--card:#1c2024;"
    f"--rule:#31373d;--strip:#2a3036;{_variables(_DARK)}}}}}"
    + "".join(f".c{i}{{--c:var(--c{i});stroke-dasharray:{dash}}}" for i, dash in enumerate(_DASH))
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","Noto Sans CJK SC",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:28px 16px 64px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:2.4rem 0 .7rem}
.lead{color:var(--soft);max-width:68ch;margin:0}
p{max-width:76ch}
.note{color:var(--soft);font-size:.86rem;margin:.5rem 0 0;max-width:100ch}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:14px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 14px 12px;
min-width:0}
figure.wide{margin:0 0 14px}
figcaption{font-weight:600;margin-bottom:.15rem;overflow-wrap:anywhere}
figure svg{display:block;width:100%;height:auto}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:.1rem 0 .4rem;font-size:.84rem;
color:var(--soft);max-width:none}
.legend span{display:inline-flex;align-items:center;gap:.4rem}
.legend svg.key{width:24px;height:12px}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft);
font-variant-numeric:tabular-nums}
.halo,.label{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
.grid{stroke:var(--rule);stroke-width:1}
.axis{stroke:var(--soft);stroke-width:1}
.reference{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:2 4;stroke-linecap:round}
polyline{fill:none;stroke:var(--c);stroke-linejoin:round}
polyline.line{stroke-width:2}
polyline.points{stroke-width:1;opacity:.55}
.dot{fill:var(--card);stroke:var(--c);stroke-width:2;stroke-dasharray:none}
.band{fill:var(--c);opacity:.16;stroke:none}
.hit{fill:transparent}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.9rem;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .7rem;text-align:right;border-bottom:1px solid var(--rule);vertical-align:middle}
td{white-space:nowrap}
th[scope=row]{text-align:left;white-space:nowrap;position:sticky;left:0;background:var(--paper);font-weight:600}
figure th[scope=row]{background:var(--card)}
thead th{color:var(--soft);font-weight:500;font-size:.82rem;vertical-align:bottom;line-height:1.3}
thead th:first-child{text-align:left}
td.left,td:has(code){text-align:left}
.forest td:last-child{text-align:left;white-space:normal;min-width:11rem}
.forest .plot{width:45%;min-width:210px;padding:.1rem .4rem}
.forest tr.foot td{border:0}
.zero{stroke:var(--ink);stroke-width:1}
.strip{fill:var(--strip)}
.pair{fill:var(--soft);opacity:.7}
.interval{stroke:var(--c0);stroke-width:2.2}
.mean{fill:var(--c0)}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.25rem 1.2rem;margin:0;font-size:.9rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.7rem .9rem;
overflow-x:auto;font-size:.85rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media(max-width:520px){h1{font-size:1.5rem}main{padding:18px 12px 48px}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:.4rem}}
@media print{body{background:#fff}figure{break-inside:avoid}}
"""
)
