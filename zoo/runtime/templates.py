"""HTML pages from jinja2 templates, which lie beside the code that fills them; and texts for Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MARKS = re.compile(r"[\\`*\[\]|]|^[-+#~=]")


SHARED_PAGES = Path(__file__).parent / "pages"
"""Templates that every page may use."""


@dataclass(frozen=True)
class TextTable:
    """A table whose first column names the rows; a cell is a text, or several lines of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Sequence[str]]]
    note: str = ""


def render_template(path: Path, **values: Any) -> str:
    """Fill a template.

    Every value is escaped, whatever it is; a name that the template uses and that has no value is an error. The filter
    ``arrows`` is :func:`arrows`.

    Args:
        path: the template; those that it includes or extends lie in the same folder, or among the shared ones in
            ``zoo/runtime/pages``: ``layout.html`` with its style, and ``tables.html``.
        values: what it is filled with.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed before a page is written

    environment = Environment(
        loader=FileSystemLoader([path.parent, SHARED_PAGES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["arrows"] = arrows
    return environment.get_template(path.name).render(values)


def markdown_text(text: str) -> str:
    """A text as one line of Markdown that shows it as it is: no markup, no control character."""
    return html.escape(_MARKS.sub(lambda found: f"\\{found[0]}", _one_line(text)), quote=False)


def markdown_code(text: str) -> str:
    """The same as a span of code, where nothing in it would end the span or be markup of HTML."""
    line = _one_line(text)
    return markdown_text(line) if set("<>&`\\") & set(line) else "`" + line.replace("|", "\\|") + "`"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def arrows(text: str) -> str:
    """A text of a config with arrows for what its author could type."""
    return text.replace("->", "→")
