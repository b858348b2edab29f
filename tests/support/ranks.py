"""Runs of several real processes (gloo), as forks of a process that has imported all: cheap launches.

What a launcher sets is set here: the variables of torchrun, and those by which accelerate's asks for FSDP2.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from subprocess import PIPE
from typing import Any, Self

ROOT = Path(__file__).parents[2]
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


class Ranks:
    """Starts ``python -m pretraining`` in so many processes, one run after the other."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "ranks.log"
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen([sys.executable, __file__], cwd=ROOT, env=variables, stdin=PIPE, stdout=PIPE)

    def run(self, argv: list[str], processes: int = 2, variables: dict[str, str] | None = None) -> tuple[int, str]:
        """Worst exit code of the processes, and what they printed, mixed.

        Args:
            argv: the run's own command line.
            processes: how many.
            variables: more of them, as FSDP2.
        """
        self.log.unlink(missing_ok=True)
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps([argv, processes, variables or {}, str(self.log)]).encode() + b"\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return code, self.log.read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self.server.communicate()


def _fork(argv: list[str], variables: dict[str, str], log: str) -> int:
    """One process of a run; its number."""
    if child := os.fork():
        return child
    code: Any = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.environ.update(variables)
        sys.argv = ["pretraining", *argv]
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))


def _serve() -> None:
    for line in sys.stdin:
        argv, processes, variables, log = json.loads(line)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        children = []
        for rank in range(processes):
            world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            own = {name: str(value) for name, value in world.items()} if processes > 1 else {}
            children.append(_fork(argv, {**own, **variables}, log))
        print(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)


if __name__ == "__main__":
    import pretraining.training.pretrain  # noqa: F401  what a run imports, once for all of them
    from pretraining.__main__ import main

    _serve()
