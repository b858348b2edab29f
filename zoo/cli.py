"""``zoo --help``: every subcommand is imported only when it is called, so that help is instant."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

from zoo.errors import ZooError, nearest, run_command
from zoo.settings.load import CommandHelp, help_text, wants_help
from zoo.version import __version__


class Subcommand(NamedTuple):
    """One command of ``zoo``.

    Args:
        function: ``MODULE:FUNCTION`` that takes its words.
        text: what it does.
        settings: ``MODULE:CLASS`` of its settings; empty = it tells its usage itself.
        words: what stands behind it without a key.
    """

    function: str
    text: str
    settings: str = ""
    words: str = ""


_PRETRAIN = "pretraining.training.config:PretrainConfig"
COMMANDS = {
    "prepare": Subcommand(
        "pretraining.tools.configs:prepare_command", "text to a token store: --config bert-tiny", _PRETRAIN
    ),
    "show": Subcommand(
        "pretraining.show.command:show_command",
        "what an objective does to a text: --config NAME TEXT",
        "pretraining.show.config:ShowConfig",
        '"TEXT" (or - for standard input)',
    ),
    "list": Subcommand("pretraining.tools.configs:list_command", "the chain of models: edge, config, objective, size"),
    "runs": Subcommand("zoo.runtime.provenance:runs_command", "the runs in a folder: steps, state, last loss, size"),
    "demo": Subcommand("ablation.demo:demo_command", "pretrain, fine-tune and compare on the shipped sample"),
    "import": Subcommand(
        "zoo.weights.commands:import_command",
        "transformers' or ELMo's files to a model folder: SRC DST",
        "zoo.weights.commands:ImportConfig",
        "SRC DST",
    ),
    "export": Subcommand(
        "zoo.weights.commands:export_command",
        "a model folder to one for transformers or allennlp: RUN DST",
        "zoo.weights.commands:ExportConfig",
        "RUN DST",
    ),
    "pairs": Subcommand(
        "pretraining.tools.pairs:pairs_command",
        "labelled pairs out of text: discourse --files TEXT",
        "pretraining.tools.pairs:PairsConfig",
        "discourse|relevance",
    ),
    "fewrel": Subcommand(
        "finetune.data.fewrel:fewrel_command",
        "FewRel's sentences as a task: --source FOLDER",
        "finetune.data.fewrel:FewRelConfig",
    ),
    "entities": Subcommand(
        "pretraining.tools.entities:entities_command",
        "vectors of a graph's entities: --triples FILE",
        "pretraining.tools.entities:EntitiesConfig",
    ),
    "linked": Subcommand(
        "pretraining.tools.linked:linked_command",
        "text with linked entities to JSON lines: --tokens FILE",
        "pretraining.tools.linked:LinkedConfig",
    ),
    "cloze": Subcommand(
        "pretraining.scoring.cloze:cloze_command",
        "hidden words restored, by length: zoo cloze RUN",
        "pretraining.scoring.cloze:ClozeConfig",
        "RUN",
    ),
    "score": Subcommand(
        "pretraining.scoring.score:score_command",
        "minimal pairs and clozes: zoo score RUN --pairs FOLDER",
        "pretraining.scoring.score:ScoreConfig",
        "RUN",
    ),
}

_USAGE = """usage: zoo COMMAND [--key value ...]

Sesame Zoo {version}: one codebase for the evolution of pretrained language models.

commands:
{commands}

stages (each --help lists its keys):
  accelerate launch -m pretraining --config bert-tiny --train.lr 5e-4
  accelerate launch -m finetune --model RUN --tasks cola,rte --seeds 1,2,3
  python -m ablation --config masking
"""


def usage() -> str:
    """The help text."""
    lines = [f"  {name:<10}{command.text}" for name, command in COMMANDS.items()]
    return _USAGE.format(version=__version__, commands="\n".join(lines))


def dispatch(argv: list[str]) -> int:
    """Run the subcommand that ``argv`` names."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        raise ZooError(f"zoo has no command {argv[0]!r}.{nearest(argv[0], COMMANDS)} See `zoo --help`.")
    name, *words = argv
    command = COMMANDS[name]
    if command.settings and wants_help(words):
        print(help_text(CommandHelp(f"zoo {name}", command.settings, command.words, command.text), words))
        return 0
    module, function = command.function.split(":")
    result: int = getattr(importlib.import_module(module), function)(words)
    return result


def main() -> None:
    """Entry point of the ``zoo`` script."""
    run_command(lambda: dispatch(sys.argv[1:]))


if __name__ == "__main__":
    main()
