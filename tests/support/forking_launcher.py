"""``python -m forking_launcher ...``: accelerate's launcher, whose program is a fork of it and no new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

from accelerate.commands import launch

from zoo.runtime.pool_server import run_module


class Fork:
    """What the launcher asks of a ``subprocess.Popen``, for ``[python, -m, MODULE, ...]``."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.clear()
            os.environ.update(env)
            os._exit(run_module(command[command.index("-m") + 1 :]))

    def wait(self) -> None:
        """Until it ends."""
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


if __name__ == "__main__":
    launch.subprocess = SimpleNamespace(Popen=Fork, CalledProcessError=subprocess.CalledProcessError)
    launch.main()
