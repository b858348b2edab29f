"""``zoo --help``: every subcommand is imported only when it is called, so that help is instant."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

from zoo.errors import ZooError, nearest, run_command
from zoo.settings.completion import SHELLS, bash_script, completed, fish_script
from zoo.settings.load import CommandHelp, help_text, wants_help
from zoo.version import __version__


class Subcommand(NamedTuple):
    """One command of ``zoo``.

    Args:
        function: ``MODULE:FUNCTION`` that takes its words.
        text: what it does.
        settings: ``MODULE:CLASS`` of its settings; empty = it tells its usage itself.
        words: what stands behind it without a key.
        laid_over: further settings that it takes, likewise.
        configs: folder of shipped configs that its ``--config NAME`` is looked up in, where it has one.
    """

    function: str
    text: str
    settings: str = ""
    words: str = ""
    laid_over: tuple[str, ...] = ()
    configs: str = ""

    def help(self, name: str) -> CommandHelp:
        """What its help needs to know."""
        return CommandHelp(f"zoo {name}", self.settings, self.words, self.text, laid_over=self.laid_over)


_PRETRAIN = "pretraining.training.config:PretrainConfig"
COMMANDS = {
    "prepare": Subcommand(
        "pretraining.tools.configs:prepare_command",
        "text to a token store: --config bert-tiny",
        _PRETRAIN,
        configs="pretrain",
    ),
    "show": Subcommand(
        "pretraining.show.command:show_command",
        "what an objective does to a text: --config NAME TEXT",
        "pretraining.show.config:ShowConfig",
        '"TEXT" (or - for standard input)',
        (_PRETRAIN,),
        "pretrain",
    ),
    "plan": Subcommand(
        "pretraining.tools.plan:plan_command",
        "steps, memory and time of a run on this machine: --config NAME --hours 5",
        "pretraining.tools.plan:PlanConfig",
        "",
        (_PRETRAIN,),
        "pretrain",
    ),
    "list": Subcommand("pretraining.tools.configs:list_command", "the chain of models: edge, config, objective, size"),
    "runs": Subcommand("zoo.runtime.provenance:runs_command", "the runs in a folder: steps, state, last loss, size"),
    "demo": Subcommand("ablation.demo:demo_command", "pretrain, fine-tune and compare on the shipped sample"),
    "average": Subcommand(
        "pretraining.tools.average:average_command",
        "the mean of a run's last checkpoints as a model: zoo average RUN --last 5",
        "pretraining.tools.average:AverageConfig",
        "RUN",
    ),
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
    "tasks": Subcommand(
        "finetune.tools.tasks:tasks_command",
        "the tasks: kind, rows, metric, files: zoo tasks [NAME ...] [--data FOLDER]",
        "finetune.tools.tasks:TasksConfig",
        "[NAME ...]",
    ),
    "predict": Subcommand(
        "finetune.tools.predict:predict_command",
        'a fine-tuned model\'s answers: zoo predict MODEL "TEXT", or --input FILE',
        "finetune.tools.predict:PredictConfig",
        'MODEL ["TEXT" ...]',
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
    "vectors": Subcommand(
        "pretraining.tools.vectors:vectors_command",
        "word vectors of a run or a file: zoo vectors RUN nearest WORD, similarity FILE, analogies FILE, export FILE",
        "pretraining.tools.vectors:VectorsConfig",
        "RUN nearest|similarity|analogies|export|import WORD|FILE|FOLDER ...",
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
    "retrieve": Subcommand(
        "pretraining.scoring.retrieve:retrieve_command",
        "whether translations are each other's nearest sentences: zoo retrieve RUN",
        "pretraining.scoring.retrieve:RetrieveConfig",
        "RUN",
    ),
    "translate": Subcommand(
        "pretraining.scoring.translate:translate_command",
        "what a decoder writes of a text, and its BLEU: zoo translate RUN FILE",
        "pretraining.scoring.translate:TranslateConfig",
        'RUN FILE|"TEXT"',
    ),
    "completion": Subcommand(
        "zoo.cli:completion_command",
        "a script for a shell's Tab key: source <(zoo completion bash)",
        words="bash|zsh|fish",
    ),
}
MODULES = {"pretraining": "pretrain", "finetune": "finetune", "ablation": "ablation"}
"""Packages that ``python -m`` runs, and the folders of their configs."""

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
    lines = [f"  {name:<12}{command.text}" for name, command in COMMANDS.items()]
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
        print(help_text(command.help(name), words))
        return 0
    module, function = command.function.split(":")
    result: int = getattr(importlib.import_module(module), function)(words)
    return result


_COMPLETION = """usage: zoo completion bash|zsh|fish

A script on standard output, by which the shell completes commands, options, configs and choices:

  bash   source <(zoo completion bash)       in ~/.bashrc
  zsh    source <(zoo completion zsh)        in ~/.zshrc
  fish   zoo completion fish | source        in ~/.config/fish/config.fish

bash and zsh complete `python -m pretraining` too where you hand them the words of python and of launchers:

  complete -o default -F _zoo python accelerate torchrun"""


def completion_command(argv: list[str]) -> int:
    """Print the script by which a shell completes the commands.

    Raises:
        ZooError: no such shell.
    """
    if {"-h", "--help"} & set(argv):
        print(_COMPLETION)
        return 0
    if len(argv) != 1 or argv[0] not in SHELLS:
        raise ZooError(f"zoo completion {' '.join(argv)}: one shell is needed: zoo completion {'|'.join(SHELLS)}.")
    commands = [completed(name, command.help(name), command.configs) for name, command in COMMANDS.items()]
    for module, folder in MODULES.items():
        told: CommandHelp = importlib.import_module(f"{module}.__main__").HELP
        commands.append(completed(f"-m {module}", told, folder))
    print(fish_script(commands) if argv[0] == "fish" else bash_script(commands, zsh=argv[0] == "zsh"))
    return 0


def main() -> None:
    """Entry point of the ``zoo`` script."""
    run_command(lambda: dispatch(sys.argv[1:]))


if __name__ == "__main__":
    main()
