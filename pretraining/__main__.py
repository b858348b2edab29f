"""``accelerate launch -m pretraining --config bert-tiny --train.lr 5e-4`` (or ``python -m pretraining``)."""

from __future__ import annotations

import sys

from zoo.errors import run_command


def main() -> None:
    """Read the settings and run."""

    def command() -> int:
        from pretraining.training.load_config import load_pretrain_config
        from pretraining.training.pretrain import pretrain

        pretrain(load_pretrain_config(sys.argv[1:]))
        return 0

    run_command(command)


if __name__ == "__main__":
    main()
