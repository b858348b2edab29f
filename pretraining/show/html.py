"""``zoo show --html FILE``: the same as one self-contained page, light and dark, nothing fetched.

Everything that comes from a text, a config or a vocabulary is escaped. A few lines of script dim the tokens that the
one under the pointer does not see; without script nothing is missing. The page is well-formed XML.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pretraining.show.config import MatrixDisplay
from pretraining.show.views import SIGNS, RowView, Stream, TaskView, TokenCell, Track, visible

_POINT, _NAMED = 14, 40  # size of a matrix point; longest matrix whose points are named
_SMALL = 5  # size of the points of longer ones
_LONGEST = 160  # longest row whose tokens know whom they see
_CHARACTER = 7.4  # width of a character of a name


def escape(text: object) -> str:
    """Text for an element or a quoted attribute."""
    return html.escape(str(text), quote=True)


def page(views: Sequence[TaskView], text: str, visibility: MatrixDisplay = "auto") -> str:
    """The whole document.

    Args:
        views: what to draw, one under the other.
        text: what they were made of.
        visibility: who sees whom: ``True`` = always as a picture, ``auto`` = where there is something to see and
            it was not drawn already, ``False`` = not at all.
    """
    body = "".join(
        _config(list(same), visibility)
        for _, same in itertools.groupby(views, key=lambda view: (view.title, view.chain, view.stages))
    )
    quote = "".join(c if c == "\n" else visible(c) for c in text.strip())
    names = ", ".join(dict.fromkeys(view.title for view in views))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>{escape(names)} on a text</title><style>{_STYLE}</style></head><body><main>"
        f"<header><p class='over'>zoo show</p><blockquote>{escape(quote)}</blockquote>{_legend(views)}</header>"
        f"{body}</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _legend(views: Sequence[TaskView]) -> str:
    """The signs and looks that occur."""
    rows = [row for view in views for row in view.rows]
    marks = {mark for row in rows for track in row.tracks for mark in track.marks}
    looks = {_look(cell) for row in rows for cell in row.cells}
    entries = []
    for mark, (sign, meaning) in SIGNS.items():
        if sign and mark in marks:
            sample = f"<b class='read {mark}'>token</b>" if mark in ("masked", "replaced", "kept") else ""
            entries.append(f"<li>{sample}<i class='sign'>{sign}</i>{escape(meaning)}</li>")
    meanings = {"template": "a template token of the layout", "foreign": "from another document"}
    entries += [f"<li><b class='read {k}'>token</b>{v}</li>" for k, v in meanings.items() if k in looks]
    if any(not cell.starts_word for row in rows for cell in row.cells):
        entries.append("<li><b class='word'><b class='read'>to</b><b class='read'>ken</b></b>pieces of one word</li>")
    if any(_sight(row) for row in rows):
        entries.append("<li class='hint'>Point at a token: those that it does not see fade.</li>")
    return f"<ul class='legend'>{''.join(entries)}</ul>"


def _look(cell: TokenCell) -> str:
    """The class of a token."""
    return "foreign" if cell.fate == "plain" and not cell.own else cell.fate


def _config(views: Sequence[TaskView], visibility: MatrixDisplay) -> str:
    """A config's section: introduced once, then its tasks."""
    view = views[0]
    chain = f"<p class='chain'>{escape(view.chain)}</p>" if view.chain else ""
    stages = "".join(f"<li>{escape(stage)}</li>" for stage in view.stages)
    listed = f"<ul class='stages'>{stages}</ul>" if stages else ""
    tasks = "".join(_task(each, visibility) for each in views)
    return f"<section><h2>{escape(view.title)}</h2>{chain}{listed}{tasks}</section>"


def _task(view: TaskView, visibility: MatrixDisplay) -> str:
    """A task: what it is, its rows, its notes."""
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in view.notes)
    drawn: set[tuple[str, bytes]] = set()
    rows = "".join(_row(row, visibility, drawn) for row in view.rows)
    return f"<p class='about{' task' if view.stages else ''}'>{escape(view.about)}</p>{rows}{notes}"


def _row(row: RowView, visibility: MatrixDisplay, drawn: set[tuple[str, bytes]]) -> str:
    """One row as a card: heading, tokens, facts, who sees whom."""
    place = f"seed {row.seed} · epoch {row.epoch} · row {row.place} of {row.rows}"
    pair = f"<strong>{escape(row.pair)}</strong>" if row.pair else ""
    facts = [
        f"<dt>{escape(part.name)}<small>{escape(part.kind)}</small></dt><dd>{escape(' · '.join(part.facts))}</dd>"
        for part in row.asked
    ]
    pictures = []
    for stream in row.streams if visibility is not False else ():
        facts.append(f"<dt>{escape(stream.name)}</dt><dd>{escape(stream.sentence)}</dd>")
        if visibility is True or not (stream.plain or stream.key in drawn):
            drawn.add(stream.key)
            pictures.append(_picture(stream, row.cells))
    return (
        f"<article{_sight(row)}><h3><span>{escape(place)}</span>{pair}</h3><div class='row'>{_names(row)}"
        f"<div class='tokens'>{_tokens(row)}</div></div>"
        f"<dl>{''.join(facts)}</dl>"
        + (f"<div class='pictures'>{''.join(pictures)}</div>" if pictures else "")
        + "</article>"
    )


def _sight(row: RowView) -> str:
    """Whom each token sees, for the script: a string of 0 and 1 for each."""
    stream = row.streams[0]
    if stream.plain or len(row.cells) > _LONGEST:
        return ""
    return f" data-sees='{' '.join(''.join('01'[int(x)] for x in seen) for seen in stream.seen)}'"


def _tokens(row: RowView) -> str:
    """The tokens in reading order, the pieces of a word together, each above what is asked for there."""
    edges = [i for i, cell in enumerate(row.cells) if cell.starts_word or i == 0]
    parts = []
    for first, last in itertools.pairwise([*edges, len(row.cells)]):
        inner = "".join(_token(row, place) for place in range(first, last))
        parts.append(f"<span class='word'>{inner}</span>" if last - first > 1 else inner)
    return "".join(parts)


def _names(row: RowView) -> str:
    """What the lines are called, as a column before the first token."""
    bars = "".join("<i class='bar'></i>" for track in row.tracks if track.spans and track.name != "words")
    names = "".join(f"<i class='value'>{escape(track.name)}</i>" for track in row.tracks if track.values)
    return f"<span class='names'>{bars}<b class='read'>reads</b>{names}</span>"


def _token(row: RowView, place: int) -> str:
    """One position: brackets above the token that is read, below it what is asked for there and other values."""
    cell = row.cells[place]
    spans = [track for track in row.tracks if track.spans and track.name != "words"]
    bars = "".join(_bar(track, place, first) for first, track in enumerate(spans))
    below = [_value(track, place) for track in row.tracks if track.values]
    while below and not below[-1]:
        below.pop()  # an empty value keeps its line only where another follows
    values = "".join(value or "<i class='value'>&#160;</i>" for value in below)
    said = [f"original {cell.original}", f"now {cell.read}"]
    said += [f"{track.name}: {_target(track, place)}" for track in row.tracks if track.marks and track.marks[place]]
    said += [f"{track.name}{': ' if label else ''}{label}" for track in spans for label in _spanned(track, place)]
    title = escape(" · ".join(said))
    read = f"<b class='read {_look(cell)}' title='{title}'>{escape(cell.read)}</b>"
    return f"<span class='token'>{bars}{read}{values}</span>"


def _target(track: Track, place: int) -> str:
    """What is asked for at a position, in full."""
    return track.full[place] if track.full else track.values[place]


def _spanned(track: Track, place: int) -> list[str]:
    """Labels of the spans that hold a position: one or none."""
    return [span.label for span in track.spans if span.start <= place < span.stop]


def _value(track: Track, place: int) -> str:
    """A value below a token, empty where there is none."""
    value, mark = escape(track.values[place]), track.marks[place] if track.marks else None
    if mark is not None:
        sign, meaning = SIGNS[mark]
        title = escape(
            f"{track.name}: {_target(track, place)}, {meaning}" if track.full else f"{track.name}: {meaning}"
        )
        return f"<i class='asked' title='{title}'><i class='sign'>{sign}</i>{value}</i>"
    return f"<i class='value' title='{escape(track.name)}'>{value}</i>" if value else ""


def _bar(track: Track, place: int, first: int) -> str:
    """The part of a bracket above one token, with its label where it begins; ``first`` is the first one's colour."""
    for number, span in enumerate(track.spans, start=first):
        number = first if track.unit else number  # units of one sort have one colour
        if span.start <= place < span.stop:
            label = span.label if span.stop - span.start > 3 else span.short
            text = f"<u>{escape(label)}</u>" if place == span.start else ""
            ends = f"{' first' if place == span.start else ''}{' last' if place == span.stop - 1 else ''}"
            return f"<i class='bar c{number % 4}{ends}' title='{escape(f'{track.name}: {span.label}')}'>{text}</i>"
    return "<i class='bar'></i>"


def _picture(stream: Stream, cells: Sequence[TokenCell]) -> str:
    """A matrix: a line for each token that looks, a column for each looked at."""
    rows, columns = stream.seen.shape
    named = max(rows, columns) <= _NAMED
    size = _POINT if named else _SMALL
    names, tops = [cells[place].read for place in stream.who], [cell.read for cell in cells[:columns]]
    left, top = ((10 + _CHARACTER * max(map(_columns, texts))) if named else 0.0 for texts in (names, tops))
    width, height = left + columns * size, top + rows * size
    drawn = [f"<rect class='back' x='{left:.1f}' y='{top:.1f}' width='{columns * size}' height='{rows * size}' />"]
    for j, name in enumerate(tops if named else []):
        place = f"translate({left + (j + 0.5) * size + 4:.1f} {top - 6:.1f}) rotate(-90)"
        drawn.append(f"<text transform='{place}'>{escape(name)}</text>")
    for i, name in enumerate(names):
        y = top + i * size
        title = f"<title>{escape(name)} sees {int(stream.seen[i].sum())} of {columns} tokens</title>"
        text = f"<text x='{left - 6:.1f}' y='{y + size - 3:.1f}' text-anchor='end'>{escape(name)}</text>"
        runs = "".join(
            f"M{left + start * size:.1f} {y:.1f}h{length * size}v{size}h-{length * size}z"
            for start, length in _seen_runs(stream.seen[i])
        )
        drawn.append(f"<g>{title}{text if named else ''}<path d='{runs}' /></g>")
    lines = "".join(f"M{left + j * size:.1f} {top:.1f}V{height:.1f}" for j in range(columns + 1))
    lines += "".join(f"M{left:.1f} {top + i * size:.1f}H{width:.1f}" for i in range(rows + 1))
    return (
        f"<figure><figcaption>{escape(stream.name)}: who looks, downwards; at whom, across</figcaption>"
        f"<svg viewBox='0 0 {width:.1f} {height:.1f}' width='{width:.0f}' height='{height:.0f}' role='img' "
        f"aria-label='{escape(stream.sentence)}'>{''.join(drawn)}<path class='lines' d='{lines}' /></svg></figure>"
    )


def _seen_runs(seen: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(start, length) of the runs of seen tokens."""
    start = 0
    for value, run in itertools.groupby(seen.tolist()):
        length = len(list(run))
        if value:
            yield start, length
        start += length


def _columns(text: str) -> int:
    """About how wide a name is, in Latin characters."""
    return sum(1 if ord(character) < 0x2E80 else 2 for character in text)


_STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#68727c;--faint:#a7aeb5;--paper:#faf9f6;--card:#fff;--rule:#e4e1da;
--chip:#f1efe9;--mask:#23292f;--onmask:#fff;--random:#a8428f;--onrandom:#fff;--ask:#0b7a55;--asktint:#e3f3ec;
--other:#0067a5;--c0:#c9a227;--c1:#5c8fc7;--c2:#7fb069;--c3:#b07bc7;--see:#2f8f78;--hide:#ebe8e1}
@media(prefers-color-scheme:dark){:root{--ink:#e7e9ea;--soft:#9aa5ae;--faint:#5f6a73;--paper:#14171a;--card:#1c2024;
--rule:#30363c;--chip:#282d33;--mask:#e7e9ea;--onmask:#14171a;--random:#e486c8;--onrandom:#2a0f24;--ask:#4fd0a3;
--asktint:#1d332c;--other:#6db7ee;--c0:#d9b84a;--c1:#6fa6e0;--c2:#8fc77a;--c3:#c493dc;--see:#46b99c;--hide:#272c31}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","Noto Sans CJK SC",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1060px;margin:0 auto;padding:36px 18px 72px}
.over{margin:0 0 .3rem;color:var(--soft);font-size:.85rem;letter-spacing:.04em}
blockquote{margin:0;font-size:1.55rem;line-height:1.35;letter-spacing:-.01em;white-space:pre-line;overflow-wrap:anywhere;
max-height:11rem;overflow:auto}
.legend{display:flex;flex-wrap:wrap;gap:.35rem 1.4rem;list-style:none;margin:1.3rem 0 0;padding:0;font-size:.85rem;
color:var(--soft)}
.legend li{display:flex;align-items:center;gap:.45rem}
.legend .read{font-size:.8rem}
.hint{font-style:italic}
section{margin-top:2.6rem}
h2{font-size:1.3rem;margin:0;letter-spacing:-.01em}
.chain,.about{margin:.15rem 0 0;color:var(--soft);font-size:.92rem;max-width:88ch}
.stages{margin:.4rem 0 0;padding-left:1.2rem;color:var(--soft);font-size:.88rem}
.about.task{margin-top:1.8rem;color:var(--ink);font-weight:600}
.note{margin:.8rem 0 0;padding:.1rem 0 .1rem .8rem;border-left:3px solid var(--c0);font-size:.9rem;color:var(--soft);
max-width:88ch}
article{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:14px 18px 16px;margin-top:14px}
h3{display:flex;flex-wrap:wrap;gap:.1rem .9rem;align-items:baseline;margin:0 0 .8rem;font-weight:400;font-size:.85rem;
color:var(--soft)}
h3 strong{color:var(--ink);font-weight:600;font-size:.95rem}
.row{display:flex;align-items:flex-start}
.tokens{flex:1;display:flex;flex-wrap:wrap;gap:12px 5px;align-items:flex-start}
.token{display:inline-flex;flex-direction:column;align-items:stretch;min-width:1.7em;transition:opacity .12s}
.word{display:inline-flex;flex-wrap:wrap;gap:12px 1px}
.word>.token:not(:first-child)>.read,.word>.read:not(:first-child){border-top-left-radius:0;border-bottom-left-radius:0}
.word>.token:not(:last-child)>.read,.word>.read:not(:last-child){border-top-right-radius:0;border-bottom-right-radius:0}
.names{flex:none;display:flex;flex-direction:column;padding-right:.9rem}
.names>*{font:italic .85rem/1.55rem system-ui,sans-serif!important;color:var(--faint)!important;
background:none!important;border-color:transparent!important;padding-inline:0!important;text-align:right!important}
.read,.asked,.value{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Noto Sans Mono CJK SC",
monospace;font-style:normal;white-space:pre;text-align:center}
.read{background:var(--chip);border:1.5px solid var(--chip);border-radius:6px;padding:.13rem .42rem;font-weight:400;
font-size:.95rem}
.read.masked{background:var(--mask);border-color:var(--mask);color:var(--onmask);font-weight:600}
.read.replaced{background:var(--random);border-color:var(--random);color:var(--onrandom);font-weight:600}
.read.kept{border:1.5px dashed var(--ask)}
.read.template{background:none;border-color:var(--rule);color:var(--soft)}
.read.foreign{color:var(--other)}
.asked,.value{font-size:.86rem;line-height:1.55rem;min-height:1.55rem}
.asked{color:var(--ask)}
.sign{font-style:normal;color:var(--ask);opacity:.75;padding-right:.15em}
.value{color:var(--soft)}
.bar{display:block;height:3px;margin:17px -3px 4px;background:var(--c,none);font-style:normal;position:relative}
.bar.first{border-top-left-radius:3px;border-bottom-left-radius:3px;margin-left:0}
.bar.last{border-top-right-radius:3px;border-bottom-right-radius:3px;margin-right:0}
.bar u{position:absolute;left:1px;bottom:4px;font-size:.74rem;line-height:1.1;text-decoration:none;color:var(--c);
font-weight:600;white-space:nowrap}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem 1.1rem;margin:1rem 0 0;font-size:.9rem}
dt{color:var(--soft)}dt small{margin-left:.5em;color:var(--faint)}dd{margin:0}
.pictures{display:flex;flex-wrap:wrap;gap:18px 34px;margin-top:1rem;overflow-x:auto}
figure{margin:0}figcaption{color:var(--soft);font-size:.82rem;margin-bottom:.35rem}
svg{display:block;max-width:none}
svg text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Noto Sans Mono CJK SC",monospace;
fill:var(--soft)}
svg g path{fill:var(--see)}
svg .back{fill:var(--hide)}
svg .lines{fill:none;stroke:var(--card);stroke-width:2;pointer-events:none}
svg g:hover text{fill:var(--ink);font-weight:600}svg g:hover path{fill:var(--ask)}
.unseen{opacity:.16}.looks .read{outline:2px solid var(--see);outline-offset:1px}
@media(max-width:560px){.names{display:none}main{padding:20px 12px 48px}blockquote{font-size:1.2rem}
article{padding:12px}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}}
@media print{body{background:#fff}article{break-inside:avoid}}
"""

_SCRIPT = """
document.querySelectorAll('article[data-sees]').forEach(card => {
  const rows = card.dataset.sees.split(' '), tokens = [...card.querySelectorAll('.token')];
  tokens.forEach((token, i) => {
    token.onmouseenter = () => tokens.forEach((other, j) => {
      other.classList.toggle('unseen', rows[i][j] === '0');
      other.classList.toggle('looks', i === j);
    });
    token.onmouseleave = () => tokens.forEach(other => other.classList.remove('unseen', 'looks'));
  });
});
"""
