"""The house: rooms in order, no circle, nothing private across files, names that mean one thing, a readable path.

The lists of this file are the plan of docs/design.md in a form that a machine can hold the code against.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("zoo", "pretraining", "finetune", "ablation")

# A place imports from places before it and from its own; a folder ends with "/", a file stands for itself.
ORDER = [
    "zoo/version.py",
    "zoo/errors.py",
    "zoo/values.py",
    "zoo/vocabulary.py",
    "zoo/config_parts.py",
    "zoo/core_fields.py",
    "zoo/config.py",
    "zoo/inputs.py",
    "zoo/dropout.py",
    "zoo/initial.py",
    "zoo/linear.py",
    "zoo/norms.py",
    "zoo/sample/",
    "zoo/settings/",
    "zoo/storage/",
    "zoo/runtime/",
    "zoo/attention/",
    "zoo/core/",
    "zoo/heads/",
    "zoo/model_folder.py",
    "zoo/weights/",
    "zoo/hf/",
    "zoo/__init__.py",
    "pretraining/arrays.py",
    "pretraining/keyed_random.py",
    "pretraining/optim/",
    "pretraining/text/",
    "pretraining/tokenizer/",
    "pretraining/annotations/",
    "pretraining/corpus/",
    "pretraining/store/",
    "pretraining/layouts/",
    "pretraining/masking/",
    "pretraining/objectives/",
    "pretraining/training/",
    "pretraining/scoring/",
    "pretraining/show/",
    "pretraining/tools/",
    "pretraining/__init__.py",
    "pretraining/__main__.py",
    "finetune/metrics/",
    "finetune/config.py",
    "finetune/data/",
    "finetune/inputs/",
    "finetune/models/",
    "finetune/kinds/",
    "finetune/results/",
    "finetune/training/",
    "finetune/tools/",
    "finetune/__init__.py",
    "finetune/__main__.py",
    "ablation/config.py",
    "ablation/results/",
    "ablation/page/",
    "ablation/grid.py",
    "ablation/demo.py",
    "ablation/__init__.py",
    "ablation/__main__.py",
    "zoo/cli.py",
]

SAME_NAME = {"main"}  # may be defined more than once
DYNAMIC_IMPORTS = {"zoo/cli.py", "zoo/settings/checks.py", "zoo/settings/yaml_files.py", "zoo/runtime/pool_server.py"}
LISTS = {
    "finetune/data/formats/__init__.py",
    "finetune/metrics/__init__.py",
    "zoo/sample/__init__.py",
    "zoo/weights/families/__init__.py",
}  # faces that list what lies beside them
A_FILE_EACH = {  # rooms that grow by a file for each core, layout, masking scheme, objective, kind of task and the like
    "finetune/data/formats",
    "finetune/kinds",
    "finetune/metrics",
    "pretraining/layouts",
    "pretraining/masking",
    "pretraining/objectives",
    "pretraining/optim",
    "zoo/attention",
    "zoo/core",
    "zoo/weights/families",
}
READ_BERT = ROOT / "docs" / "read-bert.md"


class Import(NamedTuple):
    """One name that a file imports."""

    file: str
    line: int
    module: str
    name: str | None


@functools.cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@functools.cache
def product() -> tuple[str, ...]:
    return tuple(
        sorted(
            str(path.relative_to(ROOT).as_posix()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
        )
    )


def files_of_tests() -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in ("tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    )


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@functools.cache
def file_of(module: str) -> str | None:
    for file in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
        if (ROOT / file).is_file():
            return file
    return None


@functools.cache
def imports_of(file: str) -> tuple[Import, ...]:
    """What a file imports of the project, in functions and for types only, too."""
    found = []
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found += [Import(file, node.lineno, a.name, None) for a in node.names if a.name.split(".")[0] in PACKAGES]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports by dots"
            if (node.module or "").split(".")[0] in PACKAGES:
                found += [Import(file, node.lineno, str(node.module), a.name) for a in node.names]
    return tuple(found)


def target_of(item: Import) -> str:
    """The file that an import reads."""
    inner = file_of(f"{item.module}.{item.name}") if item.name else None
    file = inner or file_of(item.module)
    assert file is not None, f"{item.file}:{item.line} imports {item.module}, which is no file"
    return file


@functools.cache
def graph() -> dict[str, set[str]]:
    """The files that each file imports."""
    return {file: {target_of(item) for item in imports_of(file)} - {file} for file in product()}


def place_of(file: str) -> int:
    places = [n for n, place in enumerate(ORDER) if file == place or (place.endswith("/") and file.startswith(place))]
    assert places, f"{file} has no place in ORDER: a new room needs one"
    return max(places, key=lambda n: len(ORDER[n]))


def is_face(file: str) -> bool:
    return file.endswith("__init__.py")


def circles() -> list[list[str]]:
    """Strongly connected components of more than one file (Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(file: str) -> None:
        number[file] = low[file] = len(number)
        stack.append(file)
        for other in graph()[file]:
            if other not in number:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in stack:
                low[file] = min(low[file], number[other])
        if low[file] == number[file]:
            part = []
            while (top := stack.pop()) != file:
                part.append(top)
            if part:
                found.append([*part, file])

    for file in graph():
        if file not in number:
            visit(file)
    return found


def top_level(file: str) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in tree_of(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node


# ---- rooms ------------------------------------------------------------------------------------------------------


def test_no_circle_of_imports():
    assert circles() == []


def test_every_file_imports_from_earlier_rooms_or_its_own():
    up = [
        f"{file} imports {other}"
        for file, others in graph().items()
        for other in others
        if place_of(other) > place_of(file)
    ]
    assert up == []


def test_files_and_rooms_stay_small():
    files = [file for file in product() if not is_face(file)]
    long = {file: n for file in files if (n := len((ROOT / file).read_text(encoding="utf-8").splitlines())) > 400}
    assert long == {}
    rooms = Counter(file.rsplit("/", 1)[0] for file in files)
    assert {room: count for room, count in rooms.items() if count > 20} == {}
    assert sum(file.rsplit("/", 1)[0] not in A_FILE_EACH for file in files) <= 200


def test_a_face_defines_nothing_and_nobody_inside_reads_it():
    for file in product():
        if is_face(file) and file != "zoo/__init__.py" and file not in LISTS:
            kinds = {type(node) for node in tree_of(file).body}
            assert kinds <= {ast.Expr, ast.ImportFrom, ast.Import, ast.Assign}, file
    read = [
        f"{item.file}:{item.line} reads the face {item.module}"
        for file in product()
        if not is_face(file)
        for item in imports_of(file)
        if is_face(target_of(item)) and target_of(item) not in LISTS
    ]
    assert read == []


def test_modules_are_imported_by_name_in_few_places():
    users = {
        file
        for file in product()
        for node in ast.walk(tree_of(file))
        if (isinstance(node, ast.Attribute) and node.attr == "import_module")
        or (isinstance(node, ast.alias) and node.name == "import_module")
    }
    assert users <= DYNAMIC_IMPORTS


# ---- names ------------------------------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("where", ["product", "tests"])
def test_nothing_private_crosses_files(where):
    found = []
    for file in product() if where == "product" else files_of_tests():
        modules = {}
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.ImportFrom):
                if (node.module or "").split(".")[0] in PACKAGES:
                    found += [f"{file}:{node.lineno} {node.module}.{a.name}" for a in node.names if is_private(a.name)]
                for a in node.names:
                    if file_of(f"{node.module}.{a.name}"):
                        modules[a.asname or a.name] = f"{node.module}.{a.name}"
            elif isinstance(node, ast.Import):
                modules.update({a.asname: a.name for a in node.names if a.asname and a.name.split(".")[0] in PACKAGES})
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and isinstance(node.value, ast.Name):
                if node.value.id in modules:
                    found.append(f"{file}:{node.lineno} {modules[node.value.id]}.{node.attr}")
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "patch", "delattr")):
                texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                ours = [
                    t for t in texts if "." not in t or t.split(".")[0] in PACKAGES
                ]  # others' privates are their own matter
                found += [f"{file}:{node.lineno} patches {t}" for t in ours if is_private(t.rsplit(".", 1)[-1])]
    assert found == []


def test_no_public_name_is_defined_twice():
    places = defaultdict(list)
    for file in product():
        for node in top_level(file):
            if not node.name.startswith("_"):
                places[node.name].append(file)
    assert {name: files for name, files in places.items() if len(files) > 1 and name not in SAME_NAME} == {}


def test_strings_that_name_modules_and_classes_resolve():
    """Commands, ``-m`` modules and class paths that stand as text in code, configs and documents."""
    path = re.compile(r"(?<![\w./-])(?:zoo|pretraining|finetune|ablation)(?:\.[A-Za-z_]\w*)+")
    texts = [ROOT / file for file in product()]
    texts += [*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    wrong = []
    for file in texts:
        if "api" in file.parts or file.name == "renamed.py":  # the table of names that are gone
            continue
        for found in set(path.findall(file.read_text(encoding="utf-8"))):
            if not resolves(found.rstrip(".")):
                wrong.append(f"{file.relative_to(ROOT)}: {found}")
    assert wrong == []


SUFFIXES = {"md", "yaml", "json", "jsonl", "html", "py", "txt", "toml"}
NOT_PATHS = {"finetune.rows", "finetune.batches", "finetune.limit", "finetune.network"}  # names of draws, frozen


def resolves(dotted: str) -> bool:
    """Whether a dotted text is a module, or something in one; settings' keys such as ``finetune.seeds`` are neither."""
    parts = dotted.split(".")
    if dotted in NOT_PATHS or parts[-1] in SUFFIXES:
        return True
    for size in range(len(parts), 0, -1):
        file = file_of(".".join(parts[:size]))
        if file is None:
            continue
        rest = parts[size:]
        if not rest or (
            size == 1
            and rest[0].islower()
            and file_of(parts[0])
            and len(parts) == 2
            and parts[0] in ("finetune", "pretraining")
        ):
            return True
        return rest[0] in names_in(file)
    return False


@functools.cache
def names_in(file: str) -> set[str]:
    names = set()
    for node in tree_of(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {a.asname or a.name for a in node.names}
    return names | ({"from_transformers", "to_transformers"} if file == "zoo/__init__.py" else set())


# ---- one way ----------------------------------------------------------------------------------------------------


def test_core_inputs_are_packed_in_one_place():
    callers = {
        file
        for file in product()
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "CoreInputs"
    }
    assert {file for file in callers if not file.startswith("zoo/hf/")} <= {"zoo/inputs.py"}


# ---- the readable path ------------------------------------------------------------------------------------------


def paths_named(text: str) -> list[str]:
    """Files that a document names in code marks, in order, each once."""
    found = re.findall(r"`((?:zoo|pretraining|finetune|ablation)/[\w/]+\.py)`", text)
    return list(dict.fromkeys(found))


def test_bert_is_read_in_ten_files():
    rows_to_step, *_ = READ_BERT.read_text(encoding="utf-8").split("\n## ")
    files = paths_named(rows_to_step)
    lines = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files}
    assert 8 <= len(files) <= 10
    assert sum(lines.values()) <= 1500, lines
    assert lines["pretraining/training/step.py"] <= 150
    assert lines["pretraining/objectives/masked_lm.py"] <= 101
    whole = paths_named(READ_BERT.read_text(encoding="utf-8"))
    assert len(whole) <= 20


def test_every_path_that_a_document_names_exists():
    missing = []
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for name in re.findall(
            r"`((?:zoo|pretraining|finetune|ablation|tests|configs|docs|benchmarks)/[\w./-]+)`",
            document.read_text("utf-8"),
        ):
            if not (ROOT / name).exists() and "NAME" not in name and document.name != "CHANGELOG.md":
                missing.append(f"{document.name}: {name}")
    assert missing == []
