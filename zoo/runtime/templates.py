"""HTML pages from jinja2 templates, which lie beside the code that fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def render_template(path: Path, **values: Any) -> str:
    """Fill a template.

    Every value is escaped, whatever it is; a name that the template uses and that has no value is an error.

    Args:
        path: the template; those that it includes or extends lie in the same folder.
        values: what it is filled with.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed before a page is written

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(path.name).render(values)
