"""``accelerate launch -m pretraining --config bert-tiny --train.lr 5e-4`` (or ``python -m pretraining``)."""

from __future__ import annotations

import sys

from zoo.errors import run_command
from zoo.settings.load import CommandHelp, help_text, wants_help

HELP = CommandHelp(
    "python -m pretraining",
    "pretraining.training.config:PretrainConfig",
    about="Pretrain a model, or go on where a run was interrupted. `zoo list` names the shipped configs.",
)


def main() -> None:
    """Read the settings and run."""

    def command() -> int:
        if wants_help(sys.argv[1:]):
            print(help_text(HELP, sys.argv[1:]))
            return 0
        from pretraining.training.load_config import load_pretrain_config
        from pretraining.training.pretrain import pretrain

        pretrain(load_pretrain_config(sys.argv[1:]))
        return 0

    run_command(command)


if __name__ == "__main__":
    main()
