"""Settings from YAML files and ``--a.b value`` overrides into typed dataclasses.

One path for every command: files are merged in order (``base: FILE`` inside a file comes first), overrides
are laid on top, an unknown key is an error that names it, and jsonargparse checks types and builds the plug-in classes
that ``class_path`` names, also a user's own from the working directory.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from zoo.errors import ZooError
from zoo.settings.checks import check_keys
from zoo.settings.renamed import RenamedNames
from zoo.settings.yaml_files import (
    merge,
    parse_arguments,
    read_configs,
    set_nested,
    shipped_configs,
    split_arguments,
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings(Generic[T]):
    """Settings as an object and as plain values.

    Args:
        value: the instance, plug-ins built.
        resolved: every key with its value, defaults included, as JSON values.
        argv: the command line they were read from.
    """

    value: T
    resolved: dict[str, Any]
    argv: tuple[str, ...] = ()


def load_settings(
    cls: type[T],
    argv: list[str],
    prog: str,
    kind: str,
    values: dict[str, Any] | None = None,
    amend: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
    renamed: RenamedNames | None = None,
) -> Settings[T]:
    """Settings of a command.

    Args:
        cls: the dataclass to build.
        argv: command line: ``--config FILE`` (several merge in order) and ``--a.b value``.
        prog: the command, for ``--help``.
        kind: folder of shipped configs that ``--config NAME`` is looked up in.
        values: values to lay over the files and under the overrides (ablation arms).
        amend: (all values, those of ``values`` and the overrides alone) -> values by dotted key that take the place
            of what the files say.
        renamed: names that are no longer read, and their new ones.

    Raises:
        ZooError: a missing file, an old name, an unknown key, a wrong value, each with what would work.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for place, word in enumerate(argv):
        if word in ("-h", "--help") or (word.startswith("--") and word.endswith(".help")):
            _print_help(cls, prog, argv[place : place + 2])
    configs, overrides, _ = parse_arguments(argv)
    texts = dict(split_arguments(argv)[0])
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(prog=prog, exit_on_error=False)
    parser.add_argument("--settings", type=cls)
    files = read_configs(configs, kind)
    command_line = merge(values or {}, overrides)
    merged = merge(files, command_line)
    if renamed is not None:
        renamed.check(merged)
    merged = check_keys(cls, merged, texts=texts)
    if amend is not None:
        for key, value in amend(merged, command_line).items():
            set_nested(files, key, value)
        merged = check_keys(cls, merge(files, command_line), texts=texts)
    try:
        parsed = parser.parse_object({"settings": merged})
        resolved = json.loads(parser.dump(parsed, format="json", skip_none=False))["settings"]
        value = parser.instantiate_classes(parsed)["settings"]
    except (ArgumentError, TypeError, ValueError) as error:
        if (cause := _own_error(error)) is not None:
            raise cause from None
        wanted = "required" in str(error) and not configs and not values and (shipped_configs() / kind).is_dir()
        # a config brings what is missing, and mends nothing else
        hint = "\nNo --config was given: name a YAML file, or a config of `zoo list`." if wanted else ""
        raise ZooError(_readable(str(error)) + hint) from error
    return Settings(value, resolved, tuple(argv))


def _own_error(error: BaseException) -> ZooError | None:
    """The error of ours that a library wrapped in its own, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ZooError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _readable(message: str) -> str:
    """A jsonargparse message without our internal top key and without its repetitions."""
    text = message.replace("settings.", "").replace('"settings"', "the settings")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:14])


def _print_help(cls: type[Any], prog: str, argv: list[str]) -> None:
    """Leave, with every key and its type and default; for ``--KEY.help CLASS``, with those of a plug-in."""
    from jsonargparse import ArgumentParser

    usage = f"{prog} --config FILE [--config FILE ...] [--key.subkey value ...]"
    parser = ArgumentParser(prog=prog, usage=usage)
    parser.add_class_arguments(cls, as_group=False)
    parser.parse_args(argv)
