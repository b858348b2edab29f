"""Settings of the documentation site: `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGES = ("zoo", "pretraining", "finetune", "ablation")
sys.path.insert(0, str(ROOT))

project = "Sesame Zoo"
author = "The Sesame Zoo contributors"
copyright = "The Sesame Zoo contributors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Sesame Zoo"
html_copy_source = False
html_show_sourcelink = False
toc_object_entries = False  # the side bar lists pages; thousands of names would take a sixth of the build's time

# ---- Markdown -------------------------------------------------------------------------------------------------------

myst_heading_anchors = 3  # [text](page.md#a-heading) works as it does where Markdown is read as it stands

# ---- API pages from the docstrings ----------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # `Attributes:` describe, they do not define: dataclass fields stand in the code, too
napoleon_use_rtype = False  # types stand in the signature; what a docstring says before a colon is prose

# References to our own public names must resolve. The libraries' documentation is not at hand when the site is built.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", rf"(?!({'|'.join(PACKAGES)})\.).*"),
    ("py:.*", r".*\._\w+"),  # private classes stand in signatures
    ("py:.*", r".*\.[A-Z]([a-z]+T)?"),  # type variables, too
]


def rooms(root: Path) -> dict[str, list[str]]:
    """The modules of every folder of the product that holds code, by the folder's dotted name."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            folder = ".".join(file.parent.relative_to(root).parts)
            module = [] if file.stem == "__init__" else [f"{folder}.{file.stem}"]
            if file.stem != "__main__":
                found.setdefault(folder, []).extend(module)
    return found


def write_api(root: Path, folder: Path) -> None:
    """One page for every room, made anew from the package tree, so that no page can name a file that has moved.

    The pages are reStructuredText, as the docstrings are.
    """
    folder.mkdir(exist_ok=True)
    names = rooms(root)
    order = sorted(names, key=lambda room: (PACKAGES.index(room.split(".")[0]), room))
    intro = "One page for every room, from its docstrings."
    pages = {
        "index": "\n".join(
            [
                *title("API", "="),
                intro,
                "",
                ".. toctree::",
                "   :maxdepth: 1",
                "",
                *(f"   {room}" for room in order),
                "",
            ]
        )
    }
    for room in order:
        lines = [*title(room, "="), f".. automodule:: {room}", "   :no-members:", ""]
        for module in names[room]:
            lines += [*title(module.removeprefix(f"{room}."), "-"), f".. automodule:: {module}", ""]
        pages[room] = "\n".join(lines)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not read again
            path.write_text(text, encoding="utf-8")


def title(text: str, line: str) -> list[str]:
    """A heading; underscores are escaped, since a trailing one would make a link."""
    escaped = text.replace("_", r"\_")
    return [escaped, line * len(escaped), ""]


def follow_face(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element) -> Element | None:
    """Find what a package re-exports: `pretraining.masking.WholeWords` is written where a config names it so."""
    face, _, name = node.get("reftarget", "").rpartition(".")
    found = getattr(sys.modules.get(face), name, None)
    where = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if node.get("refdomain") != "py" or where in (".", f"{face}.{name}"):
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], where, node, contnode)


def setup(app: Sphinx) -> None:
    """Make the API pages before Sphinx looks for pages."""
    write_api(ROOT, HERE / "api")
    app.connect("missing-reference", follow_face)
