"""``zoo --help``: every subcommand is imported only when it is called, so that help is instant."""

from __future__ import annotations

import importlib
import sys

from zoo.errors import ZooError, nearest, run_command
from zoo.version import __version__

_COMMANDS = {
    "prepare": ("pretraining.tools.configs", "prepare_command", "text to a token store: --config bert-tiny"),
    "show": ("pretraining.show.command", "show_command", "what an objective does to a text: --config NAME TEXT"),
    "list": ("pretraining.tools.configs", "list_command", "the chain of models: edge, config, objective, size"),
    "runs": ("zoo.runtime.provenance", "runs_command", "the runs in a folder: steps, state, last loss, size"),
    "demo": ("ablation.demo", "demo_command", "pretrain, fine-tune and compare on the shipped sample"),
    "import": ("zoo.weights.commands", "import_command", "transformers' or ELMo's files to a model folder: SRC DST"),
    "export": (
        "zoo.weights.commands",
        "export_command",
        "a model folder to one for transformers or allennlp: RUN DST",
    ),
    "pairs": ("pretraining.tools.pairs", "pairs_command", "labelled pairs out of text: discourse --files TEXT"),
    "fewrel": ("finetune.data.fewrel", "fewrel_command", "FewRel's sentences as a task: --source FOLDER"),
    "entities": ("pretraining.tools.entities", "entities_command", "vectors of a graph's entities: --triples FILE"),
    "linked": ("pretraining.tools.linked", "linked_command", "text with linked entities to JSON lines: --tokens FILE"),
    "cloze": ("pretraining.scoring.cloze", "cloze_command", "hidden words restored, by length: zoo cloze RUN"),
    "score": ("pretraining.scoring.score", "score_command", "minimal pairs and clozes: zoo score RUN --pairs FOLDER"),
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
    lines = [f"  {name:<10}{text}" for name, (_, _, text) in _COMMANDS.items()]
    return _USAGE.format(version=__version__, commands="\n".join(lines))


def dispatch(argv: list[str]) -> int:
    """Run the subcommand that ``argv`` names."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    if argv[0] not in _COMMANDS:
        raise ZooError(f"zoo has no command {argv[0]!r}.{nearest(argv[0], _COMMANDS)} See `zoo --help`.")
    module, function, _ = _COMMANDS[argv[0]]
    result: int = getattr(importlib.import_module(module), function)(argv[1:])
    return result


def main() -> None:
    """Entry point of the ``zoo`` script."""
    run_command(lambda: dispatch(sys.argv[1:]))


if __name__ == "__main__":
    main()
