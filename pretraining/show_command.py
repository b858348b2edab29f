"""``zoo show``: the command line; what it shows is computed and drawn elsewhere, loaded only then."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoo.errors import ZooError, nearest
from zoo.settings.load import load_settings

Visibility = bool | Literal["auto"]
_FLAGS = ("trust_code", "help")
_PROGRAM = 'zoo show "TEXT" (or - for standard input)'


@dataclass(frozen=True)
class ShowConfig:
    """What ``zoo show`` is asked for. Any other ``--key value`` is laid over the configs.

    Args:
        text: the text; blank lines end documents. Or a JSON record, as a line of a JSONL file holds it, where a task
            reads roles, classes or entities: ``{"text": ["...", "..."], "role": [0, 1]}``.
        config: configs to show one after the other, by name or file; ``a+b`` merges two of them.
        run: run folders, likewise: their own settings and tokenizer; of an imported model, what its head asks for.
        seed: data seeds, one under the other: ``1`` or ``1,2,3``; absent = the config's.
        epoch: pass over the data.
        rows: rows shown of each seed.
        length: longest row; absent = the config's, or little more than the text where pairs are made.
        others: documents of the task's store that follow the text; absent = 40 where pairs are made, else none.
        task: tasks to show, where there are several; absent = all.
        visibility: who sees whom: ``true`` = as a picture, ``false`` = not at all, ``auto`` = as a picture
            where there is something to see.
        html: write one HTML page there instead.
        trust_code: also run code from outside the package, which a run folder names.
    """

    text: str = ""
    config: list[str] = field(default_factory=list)
    run: list[str] = field(default_factory=list)
    seed: int | str | None = None
    epoch: int = 0
    rows: int = 3
    length: int | None = None
    others: int | None = None
    task: str | None = None
    visibility: Visibility = "auto"
    html: str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be shown."""
        if not self.config and not self.run:
            raise ZooError("nothing to show the text under: --config NAME (see `zoo list`) or --run FOLDER.")
        if not self.text.strip():
            raise ZooError('the text is empty: zoo show --config bert-tiny "The town lies by the river."')
        for name, least in (("rows", 1), ("length", 2), ("others", 0), ("epoch", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ZooError(f"--{name} {value}: at least {least} is needed.")
        _ = self.seeds

    @property
    def seeds(self) -> list[int]:
        """The seeds asked for."""
        words = [] if self.seed is None else str(self.seed).split(",")
        try:
            return [int(word) for word in words]
        except ValueError:
            raise ZooError(f"--seed {self.seed}: whole numbers are needed, for example 1,2,3.") from None

    def chosen_tasks(self, tasks: Iterable[str]) -> list[str]:
        """Those of ``tasks`` that are asked for."""
        known = list(tasks)
        chosen = self.task.split(",") if self.task else known
        for name in chosen:
            if name not in known:
                raise ZooError(f"--task {name}: the tasks are {', '.join(known)}.{nearest(name, known)}")
        return chosen


def read_arguments(argv: list[str]) -> tuple[ShowConfig, list[str]]:
    """The command line as wishes, and as overrides of the configs."""
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
        if key in sources:
            sources[key] += [name for name in value.split(",") if name]
        elif key == "text":
            words.append(value)
        else:
            (own if key in names or key == "help" else overrides).append(word)
    if {"-h", "--help", "--help=true"} & {*words, *own}:
        load_settings(ShowConfig, ["--help"], _PROGRAM, "pretrain")
    text = sys.stdin.buffer.read().decode("utf-8", "replace") if words == ["-"] else " ".join(words)
    return load_settings(ShowConfig, own, _PROGRAM, "pretrain", {"text": text, **sources}).value, overrides


def _check_overrides(overrides: list[str]) -> None:
    """Refuse a key that is neither the command's nor the configs'."""
    from pretraining.config import PretrainConfig

    known = [item.name for kind in (ShowConfig, PretrainConfig) for item in dataclasses.fields(kind)]
    for override in overrides:
        key = override[2:].partition("=")[0]
        if key.split(".")[0] not in known:
            raise ZooError(f"unknown option --{key}.{nearest(key, known)} `zoo show --help` lists them.")


def colour_wanted() -> bool:
    """Whether standard output is to be coloured: a terminal, unless NO_COLOR; FORCE_COLOR for pagers."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def show_command(argv: list[str]) -> int:
    """``zoo show --config CONFIG "TEXT"``."""
    wish, overrides = read_arguments(argv)
    _check_overrides(overrides)
    from pretraining.show import show_text
    from pretraining.show_source import load_config, load_run

    subjects = [load_config(name, overrides, wish) for name in wish.config]
    subjects += [load_run(name, overrides, wish) for name in wish.run]
    views = [view for subject in subjects for view in show_text(subject, wish)]
    if wish.html is not None:
        from pretraining.show_html import render_html

        Path(wish.html).write_text(render_html(views, wish.text, wish.visibility), encoding="utf-8")
        print(f"written to {wish.html}")
        return 0
    from pretraining.show_text import render

    print(render(views, shutil.get_terminal_size((100, 24)).columns, colour_wanted(), wish.visibility))
    return 0
