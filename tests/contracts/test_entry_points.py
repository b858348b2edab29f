"""Whatever can be started says, in the first line of its docstring, the command that starts it; its --help exits 0."""

from __future__ import annotations

import ast
import itertools
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from places import ROOT

from zoo.settings.yaml_files import shipped_configs

FOLDERS = ("zoo", "pretraining", "finetune", "ablation", "benchmarks")
STARTED_BY_US = {"zoo/runtime/pool_server.py", "pretraining/store/workers.py"}  # with words that no person writes


def commands_of_zoo() -> dict[str, str]:
    """The file behind each ``zoo NAME``, read off the source, because importing it must not be needed."""
    source = (ROOT / "zoo/cli.py").read_text(encoding="utf-8")
    found = re.findall(r'"(\w+)": (?:\w+)?\(\s*"([\w.]+)(?:",\s*"|:)\w+_command"', source)
    assert len(found) >= 12
    return {name: f"{module.replace('.', '/')}.py" for name, module in found}


def entry_files() -> list[str]:
    """Modules that a person can start."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    started = [path for path in files if re.search(r'^if __name__ == "__main__"', path.read_text("utf-8"), flags=re.M)]
    named = {path.relative_to(ROOT).as_posix() for path in started if path.name != "__main__.py"}
    named |= {path.relative_to(ROOT).as_posix() for path in files if path.name == "__main__.py"}
    return sorted(named | set(commands_of_zoo().values()))


def commands_in_first_line(file: str) -> list[list[str]]:
    """Commands in code marks in the first line of a file's docstring, as words."""
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or ""
    line = docstring.splitlines()[0] if docstring else ""
    marks = re.findall(r"``(.+?)``", line)
    return [shlex.split(mark) for mark in marks if re.match(r"(zoo|python|accelerate launch)\b", mark)]


def file_started_by(words: list[str]) -> str:
    """The file that a command runs."""
    if words[0] == "zoo":
        return commands_of_zoo().get(words[1], "zoo/cli.py" if words[1].startswith("-") else "none")
    if "-m" in words:
        module = words[words.index("-m") + 1].replace(".", "/")
        places = [f"{module}/__main__.py", f"{module}.py"]
        return next((place for place in places if (ROOT / place).is_file()), "none")
    return words[1]


ENTRY_FILES = entry_files()


@pytest.mark.parametrize("file", ENTRY_FILES)
def test_the_docstring_begins_with_a_command_that_starts_the_module(file: str) -> None:
    commands = commands_in_first_line(file)
    assert commands, f"{file}: the docstring's first line names no command, such as ``zoo show --config NAME TEXT``"
    for words in commands:
        assert file_started_by(words) == file, f"{file}: `{shlex.join(words)}` starts {file_started_by(words)}"
        for option, value in itertools.pairwise(words):
            if option == "--config" and not value.isupper():
                assert list(shipped_configs().glob(f"*/{value}.yaml")), f"{file}: no config {value} ships"


@pytest.mark.parametrize("file", [file for file in ENTRY_FILES if file not in STARTED_BY_US])
def test_help_of_every_command_exits_with_0(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, as ``python -m`` and ``python FILE`` would start it."""
    monkeypatch.chdir(ROOT)
    for words in commands_in_first_line(file):
        target = file if words[0] != "zoo" else "zoo/cli.py"
        behind = words[1:2] if words[0] == "zoo" and not words[1].startswith("-") else []
        monkeypatch.setattr(sys, "argv", [target, *behind, "--help"])
        monkeypatch.setattr(sys, "path", [str(Path(ROOT, target).parent), *sys.path])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / target), run_name="__main__")
        assert left.value.code in (0, None), shlex.join(words)
        printed = capsys.readouterr().out
        assert "usage" in printed.lower()
        unknown = [word for word in words if word.startswith("--") and word.split(".")[0] not in printed]
        assert unknown == [], f"{file}: `{shlex.join(words)}` has options that its --help does not name"


@pytest.mark.parametrize(
    ("first", "found"),
    [
        ("``zoo list tiny`` and ``zoo prepare --config bert-tiny``: x", ["pretraining/tools/configs.py"] * 2),
        ("``accelerate launch -m pretraining --config x``", ["pretraining/__main__.py"]),
        ("``zoo nothing``", ["none"]),
        ("``python -m pretraining.linked``", ["none"]),
        ("Nothing to start.", []),
    ],
)
def test_commands_are_found_and_led_back_to_files(first: str, found: list[str], monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(f'"""{first}"""\n')
    started = [file_started_by(words) for words in commands_in_first_line(str(tmp_path / "one.py"))]
    assert started == found
