"""``zoo show --config bert-tiny "TEXT"``: the command line; what it shows is computed elsewhere, loaded only then."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path

from pretraining.show.config import ShowConfig
from pretraining.training.renamed import RENAMED, RENAMED_OPTIONS
from zoo.errors import ZooError, nearest
from zoo.settings.load import PRINT_CONFIG, load_settings
from zoo.settings.yaml_files import parse_arguments

_FLAGS = ("trust_code", "help", "print_config")
_PROGRAM = 'zoo show "TEXT" (or - for standard input)'


def read_arguments(argv: list[str]) -> tuple[ShowConfig, list[str]]:
    """The command line as the command's own settings, and as overrides of the configs."""
    names = {item.name for item in dataclasses.fields(ShowConfig)}
    own: list[str] = []
    overrides: list[str] = []
    words: list[str] = []
    sources: dict[str, list[str]] = {"config": [], "run": []}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            words.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        takes = rest and not rest[0].startswith("--") and (key not in _FLAGS or rest[0] in ("true", "false"))
        if takes and not equals:
            value, word = rest[0], f"--{key}={rest.pop(0)}"
        if key == "config" and sources[key]:  # laid over what came before, as in every command
            sources[key] = [f"{old}+{name}" for old in sources[key] for name in value.split(",") if name]
        elif key in sources:
            sources[key] += [name for name in value.split(",") if name]
        elif key == "text":
            words.append(value)
        else:
            (own if key in names or key == "help" else overrides).append(word)
    for renamed in (RENAMED_OPTIONS, RENAMED):
        renamed.check(parse_arguments(overrides)[1], "the command line")
    if {"-h", "--help", "--help=true"} & {*words, *own}:
        load_settings(ShowConfig, ["--help"], _PROGRAM, "pretrain")
    if PRINT_CONFIG in overrides:
        words = ["-needs none-"]
    text = sys.stdin.buffer.read().decode("utf-8", "replace") if words == ["-"] else " ".join(words)
    return load_settings(ShowConfig, own, _PROGRAM, "pretrain", {"text": text, **sources}).value, overrides


def _check_overrides(overrides: list[str]) -> None:
    """Raise ZooError if a key is neither the command's nor the configs'."""
    from pretraining.training.config import PretrainConfig

    known = [item.name for kind in (ShowConfig, PretrainConfig) for item in dataclasses.fields(kind)]
    for override in overrides:
        key = override[2:].partition("=")[0]
        if key.split(".")[0] not in known and override != PRINT_CONFIG:
            raise ZooError(f"unknown option --{key}.{nearest(key, known)} `zoo show --help` lists them.")


def colour_wanted() -> bool:
    """Whether standard output is to be coloured: a terminal, unless NO_COLOR; FORCE_COLOR for pagers."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def show_command(argv: list[str]) -> int:
    """``zoo show --config CONFIG "TEXT"``."""
    show_config, overrides = read_arguments(argv)
    _check_overrides(overrides)
    if PRINT_CONFIG in overrides and len(show_config.config) + len(show_config.run) > 1:
        raise ZooError("--print_config prints the settings of one config or one run; several are given.")
    from pretraining.show.describe import show_text
    from pretraining.show.load import load_config, load_run

    subjects = [load_config(name, overrides, show_config) for name in show_config.config]
    subjects += [load_run(name, overrides, show_config) for name in show_config.run]
    views = [view for subject in subjects for view in show_text(subject, show_config)]
    if show_config.html is not None:
        from pretraining.show.html import render_html

        Path(show_config.html).write_text(render_html(views, show_config.text, show_config.attention), encoding="utf-8")
        print(f"written to {show_config.html}")
        return 0
    from pretraining.show.terminal import render

    print(render(views, shutil.get_terminal_size((100, 24)).columns, colour_wanted(), show_config.attention))
    return 0
