"""``accelerate launch -m pretraining --config bert-tiny --train.lr 5e-4`` (or ``python -m pretraining``)."""

from __future__ import annotations

import os
import sys

from zoo.errors import run_command
from zoo.settings.load import DRY_RUN, CommandHelp, help_text, print_once, take_switch, wants_help

HELP = CommandHelp(
    "python -m pretraining",
    "pretraining.training.config:PretrainConfig",
    about="Pretrain a model, or go on where a run was interrupted. `zoo list` names the shipped configs.",
    switches=(DRY_RUN,),
)


def main() -> None:
    """Read the settings and run."""

    def command() -> int:
        if wants_help(sys.argv[1:]):
            print(help_text(HELP, sys.argv[1:]))
            return 0
        from pretraining.training.load_config import load_pretrain_config
        from pretraining.training.pretrain import pretrain

        wants_dry_run, argv = take_switch(sys.argv[1:], f"--{DRY_RUN[0]}")
        settings = load_pretrain_config(argv)
        if wants_dry_run:
            from pretraining.tools.plan import plan_run

            print_once("\n".join(plan_run(settings, int(os.environ.get("WORLD_SIZE", "1"))).lines))
            return 0
        pretrain(settings)
        return 0

    run_command(command)


if __name__ == "__main__":
    main()
