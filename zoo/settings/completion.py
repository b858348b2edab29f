"""``zoo completion bash``: a script by which a shell completes commands, options and their values.

It is made from what ``--help`` tells (:func:`zoo.settings.load.option_groups`), once: no Python starts at a Tab.
"""

from __future__ import annotations

import functools
import re
import textwrap
from typing import NamedTuple

from zoo.settings.load import COMMON_SWITCHES, CommandHelp, Option, option_groups
from zoo.settings.yaml_files import shipped_configs

SHELLS = ("bash", "zsh", "fish")
FILES = "<files>"
"""Stands for a path among the words that may follow."""
_CHOICES = re.compile(r"\{([^{}]*)\}")
_NAMED = ".NAME"  # a part of a key that the settings themselves name


class CompletedOption(NamedTuple):
    """What a shell knows of an option.

    Args:
        key: dotted; ``NAME`` stands for a name that the settings give.
        values: words that may follow it, ``FILES`` for a path; none = anything may.
        text: what it means.
        is_switch: nothing follows it.
    """

    key: str
    values: tuple[str, ...]
    text: str
    is_switch: bool = False

    @property
    def word(self) -> str:
        """What is typed: ``--train.lr``; up to a name that the settings give: ``--objectives.``."""
        return "--" + (self.key.partition(_NAMED)[0] + "." if _NAMED in self.key else self.key)


class CompletedCommand(NamedTuple):
    """What a shell knows of a command.

    Args:
        name: ``score``, or ``-m pretraining``.
        about: what it does.
        words: those that may follow without a key.
        options: the others.
    """

    name: str
    about: str
    words: tuple[str, ...]
    options: list[CompletedOption]


def completed(name: str, command: CommandHelp, configs: str) -> CompletedCommand:
    """A command from its help.

    Args:
        name: as in :class:`CompletedCommand`.
        command: its help; of one that tells its usage itself, ``settings`` is empty.
        configs: folder of the shipped configs that ``--config NAME`` is looked up in.
    """
    words = tuple(command.words.split("|")) if re.fullmatch(r"\w+(\|\w+)+", command.words) else (FILES,)
    if not command.settings:
        return CompletedCommand(name, command.about, words, [CompletedOption("help", (), "its usage", True)])
    options = []
    for switch, text in (*COMMON_SWITCHES, *command.switches):
        key, _, value = switch.partition(" ")
        options.append(CompletedOption(key, config_words(configs) if key == "config" else (), text, not value))
    for settings in (command.settings, *command.laid_over):
        options += _options_of(settings)
    found = {option.key: option for option in reversed(options)}  # where two have a key, the first counts
    return CompletedCommand(name, command.about, words, [*found.values()][::-1])


@functools.cache
def _options_of(settings: str) -> list[CompletedOption]:
    """Those of a dataclass, ``MODULE:CLASS``; several commands share one."""
    module, _, cls = settings.partition(":")
    groups = option_groups(module, cls)
    return [made for group in groups for option in group.options for made in _completed_options(option)]


def _completed_options(option: Option) -> list[CompletedOption]:
    """A setting, or, where that is a class, the keys below it."""
    if "CLASS" not in option.kind:
        return [CompletedOption(option.key, _values_of(option.kind), option.text)]
    text = f"{option.text.partition(' Classes: ')[0]}"
    path = CompletedOption(f"{option.key}.class_path", option.classes, text)
    return [path, CompletedOption(f"{option.key}.init_args{_NAMED}", (), text)]


def config_words(folder: str) -> tuple[str, ...]:
    """What may follow ``--config``: shipped configs of a folder, those of one section as ``data/zh``, and files."""
    shipped = shipped_configs()
    sections = [f"{part}/{path.stem}" for part in ("data", "train") for path in (shipped / part).glob("*.yaml")]
    names = sorted(path.stem for path in (shipped / folder).glob("*.yaml"))
    return (*names, *(sorted(sections) if names and folder == "pretrain" else ()), FILES)


def _values_of(kind: str) -> tuple[str, ...]:
    choices = [word for found in _CHOICES.findall(kind) for word in found.split(",")]
    return (*choices, *([FILES] if "PATH" in kind else []))


# ---- bash and zsh ----------------------------------------------------------------------------------------------------

_BASH = r"""# Completion of Sesame Zoo's commands in @SHELL@, made by `zoo completion @SHELL@`.
@HEAD@
_zoo_words() {
  case "$1 $2" in
@WORDS@
  esac
}

_zoo_values() {
  case "$1 $2" in
@VALUES@
  esac
}

_zoo() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" command="" key="" start="" candidates i
  COMPREPLY=()
  if [[ "${COMP_WORDS[0]##*/}" == zoo ]]; then
    ((COMP_CWORD > 1)) && command="${COMP_WORDS[1]}" || command=zoo
  else  # python -m pretraining, accelerate launch -m pretraining
    [[ "$prev" == -m ]] && command=MODULE
    for ((i = 1; i < COMP_CWORD - 1; i++)); do
      [[ "${COMP_WORDS[i]}" == -m ]] && command="-m ${COMP_WORDS[i+1]}" && break
    done
  fi
  [[ "$prev" == --* ]] && key="$prev"
  [[ "$prev" == "=" ]] && key="${COMP_WORDS[COMP_CWORD-2]}"  # bash parts --config=NAME into three words
  [[ "$cur" == "=" ]] && cur=""
  if [[ -n "$key" && "$cur" != -* ]]; then
    candidates="$(_zoo_values "$command" "${key#--}")"
    start="${cur%"${cur##*[,+]}"}"  # NAME+NAME and NAME,NAME
  else
    candidates="$(_zoo_words "$command" "$cur")"
  fi
  COMPREPLY=($(compgen -P "$start" -W "${candidates//<files>/}" -- "${cur#"$start"}"))
  if [[ "$candidates" == *"<files>"* ]]; then
    compopt -o filenames 2>/dev/null
    local IFS=$'\n'  # names of files may have spaces
    COMPREPLY+=($(compgen -P "$start" -f -- "${cur#"$start"}"))
  fi
  [[ "${#COMPREPLY[@]}" == 1 && "${COMPREPLY[*]}" == --*. ]] && compopt -o nospace 2>/dev/null
  return 0
}

complete -o default -F _zoo zoo
"""
_ZSH_HEAD = """autoload -U +X compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""


def bash_script(commands: list[CompletedCommand], zsh: bool = False) -> str:
    """The script for bash, or for zsh, which runs the same functions.

    Args:
        commands: all of them.
        zsh: for zsh.
    """
    names = [command.name for command in commands]
    first = [name for name in names if not name.startswith("-m ")]
    modules = [name.removeprefix("-m ") for name in names if name.startswith("-m ")]
    words = {"zoo ": [*first, "--help", "--version"]}
    values: dict[tuple[str, ...], list[str]] = {}  # by the words, the places that they stand at
    for command in commands:
        words[f"{command.name} -"] = list(dict.fromkeys(option.word for option in command.options))
        words[f"{command.name} "] = [*command.words]
        for option in command.options:
            place = "*".join(f'"{part}"' for part in f"{command.name} {option.key}".split("NAME") if part)
            if option.values:
                values.setdefault(option.values, []).append(place)
    words["MODULE "] = modules
    filled = {
        "SHELL": "zsh" if zsh else "bash",
        "HEAD": _ZSH_HEAD * zsh,
        "WORDS": "\n".join(f'    "{place}"*) echo "{" ".join(found)}" ;;' for place, found in words.items()),
        "VALUES": "\n".join(f'    {"|".join(places)}) echo "{" ".join(found)}" ;;' for found, places in values.items()),
    }
    text = _BASH
    for name, part in filled.items():
        text = text.replace(f"@{name}@", part)
    return text


# ---- fish ------------------------------------------------------------------------------------------------------------

_FISH = """# Completion of Sesame Zoo's commands in fish, made by `zoo completion fish`.
function __zoo_in --description 'whether the command line is that of a command'
    set -l words (commandline -opc)
    if string match -qr '(^|/)zoo$' -- $words[1]
        test "$words[2]" = "$argv[1]"
    else
        string match -q -- "* $argv[1] *" "$words "
    end
end
"""
_LAUNCHERS = ("python", "python3", "accelerate", "torchrun")


def fish_script(commands: list[CompletedCommand]) -> str:
    """The script for fish, which also completes ``python -m`` and launchers, beside what it knows of them.

    Args:
        commands: all of them.
    """
    lines = [_FISH]
    for command in commands:
        module = command.name.startswith("-m ")
        programs = " ".join(f"-c {name}" for name in (_LAUNCHERS if module else ("zoo",)))
        if not module:
            lines.append(f"complete -c zoo -f -n __fish_use_subcommand -a {command.name} -d {_quoted(command.about)}")
        where = f"complete {programs} -n {_quoted(f'__zoo_in {_quoted(command.name)}')}"
        if command.words and command.words != (FILES,):
            lines.append(f"{where} -f -a {_quoted(' '.join(command.words))}")
        told = set[str]()
        for option in command.options:
            takes = "" if option.is_switch or option.word.endswith(".") else " -r" if FILES in option.values else " -x"
            words = " ".join(word for word in option.values if word != FILES)
            given = f" -a {_quoted(words)}" if words and takes else ""
            if option.word not in told:
                lines.append(f"{where} -l {option.word[2:]}{takes}{given} -d {_quoted(_short(option.text))}")
            told.add(option.word)
    return "\n".join(lines)


def _short(text: str) -> str:
    """The beginning of what an option means, for a line beside it."""
    return textwrap.shorten(text.replace("`", "").partition(".")[0], 60, placeholder=" ...")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
