"""What the source of a dataclass or a plug-in says of its settings, read without importing it.

Importing some of them would import torch, which takes seconds.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zoo.errors import ZooError, nearest

_WORDS = {"str": "TEXT", "int": "INT", "float": "FLOAT", "bool": "{true,false}", "Any": "VALUE", "Path": "PATH"}


class Definition(NamedTuple):
    """What a name stands for, a class or an alias's type, and the module whose names it uses."""

    module: str
    node: ast.AST

    @property
    def name(self) -> str:
        """Of a class."""
        return self.node.name if isinstance(self.node, ast.ClassDef) else ""

    @property
    def docstring(self) -> str:
        """Of a class."""
        return (ast.get_docstring(self.node) or "") if isinstance(self.node, ast.ClassDef) else ""

    def bases(self) -> Iterator[Definition]:
        """The classes that it derives from, as far as they are ours."""
        for base in self.node.bases if isinstance(self.node, ast.ClassDef) else ():
            found = look_up(self.module, base.id) if isinstance(base, ast.Name) else None
            if found is not None and found.name:
                yield found

    def is_settings(self) -> bool:
        """Whether it is a dataclass whose fields are settings, and no plug-in, which a ``class_path`` names."""
        if not isinstance(self.node, ast.ClassDef):
            return False
        names = {ast.unparse(base).split(".")[-1] for base in self.node.bases}
        abstract = names & {"ABC", "Protocol"} or any("abstractmethod" in ast.unparse(n) for n in self.node.body)
        return not abstract and any("dataclass" in ast.unparse(d) for d in self.node.decorator_list)


class Argument(NamedTuple):
    """A field, or an argument of ``__init__``; ``default`` is in the words of a YAML file, ``None`` if required."""

    name: str
    annotation: ast.expr | None
    default: str | None


# ---- modules and names -----------------------------------------------------------------------------------------------


@functools.cache
def _tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _file_of(module: str) -> Path:
    """The file of a module; nothing is imported.

    Raises:
        ZooError: there is no such module, or it is not written in Python.
    """
    if (loaded := sys.modules.get(module)) is not None and (file := getattr(loaded, "__file__", None)) is not None:
        return Path(file)
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    stems = [Path(place).joinpath(*inner) for place in (spec and spec.submodule_search_locations) or ()]
    found = [path for stem in stems for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    if not inner and spec is not None and spec.origin is not None:
        found = [Path(spec.origin)]
    if not found or found[0].suffix != ".py":
        raise ZooError(f"no module {module!r} in the working directory or the environment.")
    return found[0]


def look_up(module: str, name: str) -> Definition | None:
    """What a name means in a module, followed through imports; ``None`` where that cannot be told."""
    file = _file_of(module)
    for node in ast.walk(_tree_of(file)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Definition(module, node)
        if isinstance(node, ast.Assign) and name in [ast.unparse(target) for target in node.targets]:
            return Definition(module, node.value)
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    try:
                        return look_up(_absolute(module, file, node), alias.name)
                    except (ZooError, SyntaxError, RecursionError):
                        return None
    return None


def _absolute(module: str, file: Path, node: ast.ImportFrom) -> str:
    """The module that an import names, also by dots."""
    if node.level == 0:
        return str(node.module)
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], str(node.module)])


def find_class(module: str, name: str) -> Definition:
    """A class by its place.

    Raises:
        ZooError: there is none, with the nearest name.
    """
    found = look_up(module, name)
    if found is None or not found.name:
        body = _tree_of(_file_of(module)).body
        known = [node.name for node in body if isinstance(node, ast.ClassDef)]
        known += [
            alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names
        ]
        raise ZooError(f"{module} has no class {name!r}.{nearest(name, known)}")
    return found


def derived_classes(base: Definition) -> list[str]:
    """Paths, as a YAML has them, of the classes of a room that derive from one."""
    package, folder = base.module.rpartition(".")[0], _file_of(base.module).parent
    if not (folder / "__init__.py").is_file():
        return []  # a module of its own, in no room
    parents: dict[str, tuple[str, list[str]]] = {}
    for path in sorted(folder.glob("*.py")):
        for node in _tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                parents[node.name] = path.stem, [ast.unparse(parent).split(".")[-1] for parent in node.bases]
    face_imports = [node for node in _tree_of(folder / "__init__.py").body if isinstance(node, ast.ImportFrom)]
    face = {alias.asname or alias.name for node in face_imports for alias in node.names}

    def derives(name: str) -> bool:
        return any(parent == base.name or derives(parent) for parent in parents.get(name, ("", []))[1])

    found = sorted(name for name in parents if not name.startswith("_") and derives(name))
    return [f"{package}.{name}" if name in face else f"{package}.{parents[name][0]}.{name}" for name in found]


# ---- fields and arguments --------------------------------------------------------------------------------------------


def fields_of(place: Definition) -> Iterator[Argument]:
    """The fields of a dataclass itself, without those that it inherits."""
    assert isinstance(place.node, ast.ClassDef)
    for node in place.node.body:
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("ClassVar"):
            yield Argument(ast.unparse(node.target), node.annotation, _default(node.value))


def init_arguments(place: Definition) -> list[Argument]:
    """Arguments of a class's ``__init__``, which may come from a class that it derives from."""
    assert isinstance(place.node, ast.ClassDef)
    for node in place.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = [*node.args.posonlyargs, *node.args.args][1:]
            nothing: list[ast.expr | None] = [None] * (len(arguments) - len(node.args.defaults))
            pairs = [*zip(arguments, [*nothing, *node.args.defaults], strict=True)]
            pairs += [*zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
            return [Argument(item.arg, item.annotation, _default(value)) for item, value in pairs]
    return [*fields_of(place)] or next((own for base in place.bases() if (own := init_arguments(base))), [])


def _default(node: ast.expr | None) -> str | None:
    """A default in the words of a YAML file; ``None`` = there is none."""
    if node is None:
        return None
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("field"):
        given = {word.arg: word.value for word in node.keywords}
        made = given.get("default_factory")
        if isinstance(made, ast.Lambda):
            return _default(made.body)
        return _default(given.get("default")) if made is None else {"list": "[]"}.get(ast.unparse(made), "")
    try:
        return _yaml(ast.literal_eval(node))
    except ValueError:
        text = ast.unparse(node)
    parts = re.fullmatch(r"(\d+) (\*\*|/) (\d+)", text)
    if parts is None:
        return text
    first, second = int(parts[1]), int(parts[3])
    return str(first**second) if parts[2] == "**" else f"{first / second:.4g}"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return "null" if value is None else str(value) or "empty"


# ---- types -----------------------------------------------------------------------------------------------------------


def _options(annotation: ast.expr | None) -> list[ast.expr]:
    """The alternatives of an annotation, ``None`` left out."""
    if isinstance(annotation, ast.BinOp):
        return [*_options(annotation.left), *_options(annotation.right)]
    missing = annotation is None or (isinstance(annotation, ast.Constant) and annotation.value is None)
    return [] if missing or annotation is None else [annotation]


def values_by_name(annotation: ast.expr | None) -> ast.expr | None:
    """The type of a dictionary's values, where a setting is one whose keys are names."""
    for option in _options(annotation):
        if isinstance(option, ast.Subscript) and ast.unparse(option.value) in ("dict", "Mapping"):
            return option.slice.elts[-1] if isinstance(option.slice, ast.Tuple) else None
    return None


def class_in(module: str, annotation: ast.expr | None) -> Definition | None:
    """The class of ours that a value is made into."""
    for option in _options(annotation):
        found = look_up(module, option.id) if isinstance(option, ast.Name) and option.id not in _WORDS else None
        if found is not None and found.name:
            return found
    return None


def kind_of(module: str, annotation: ast.expr | None) -> str:
    """A type in the words of a help text: ``INT``, ``{auto,fp32}``, ``TEXT,...``, ``CLASS``."""
    return "|".join(dict.fromkeys(_one_kind(module, option) for option in _options(annotation))) or "VALUE"


def _one_kind(module: str, node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).split(".")[-1]
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Literal":
            return "{" + ",".join(_yaml(ast.literal_eval(item)) for item in inner) + "}"
        if outer in ("list", "Sequence", "tuple"):
            kind = kind_of(module, inner[0])
            return f"[{kind}],..." if "," in kind and kind[0] != "{" else f"{kind},..."
        if outer == "Annotated":
            return _bounded(kind_of(module, inner[0]), inner[1])
        return "CLASS" if outer == "Callable" else "VALUE"
    name = ast.unparse(node)
    if name in _WORDS:
        return _WORDS[name]
    found = look_up(module, name) if isinstance(node, ast.Name) else None
    if found is None or not isinstance(found.node, ast.expr):
        return "CLASS"
    return kind_of(found.module, found.node)


def _bounded(kind: str, mark: ast.expr) -> str:
    """A type with what :mod:`zoo.values` says of its values: ``INT>=1``, ``0<=FLOAT<1``, ``NAME``, ``PATH``."""
    if not isinstance(mark, ast.Call):
        return kind
    found = {word.arg: _default(word.value) for word in mark.keywords}
    bounds = [
        f"{sign}{found[key]}"
        for key, sign in (("least", ">="), ("above", ">"), ("most", "<="), ("below", "<"))
        if key in found
    ]
    if len(bounds) == 2:
        lower = bounds[0].lstrip(">=") + ("<=" if "=" in bounds[0] else "<")
        return f"{lower}{kind}{bounds[1]}"
    words = {"_Name": "NAME", "_Path": "PATH"}
    return words.get(ast.unparse(mark.func), kind + "".join(bounds))
