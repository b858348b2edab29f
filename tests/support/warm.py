"""Programs as forks of a process that has imported the heavy libraries, which takes a new interpreter seconds.

A fork runs ``python -m MODULE ...`` as a new interpreter would, with environment, session and output of its own. What a
test says of a start itself (launchers, signals during the imports, the import of a library) needs a real program, which
``training.start`` and ``training.launch`` make.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from places import ROOT

from zoo.runtime.pool import NO_THREADS

PRETRAINING = ("pretraining.training.pretrain",)
"""What a run of pretraining imports."""


class Forks:
    """Processes that were started together; to be asked like a ``subprocess.Popen`` whose output is one text."""

    def __init__(self, server: Warm, pids: list[int], logs: list[Path]) -> None:
        self.server, self.pids, self.logs = server, pids, logs
        self.pid = pids[0]

    @property
    def returncode(self) -> int | None:
        """``None`` while one runs; then the first exit code that is not 0, or 0."""
        codes = [self.server.codes.get(pid) for pid in self.pids]
        return None if None in codes else next((code for code in codes if code), 0)

    def poll(self) -> int | None:
        """Look, and return ``returncode``."""
        self.server.look()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end of all; nobody ends the others where one fails, as a launcher would."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(self.output(), timeout)
            time.sleep(0.02)
        return code

    def output(self) -> str:
        """What all have printed until now."""
        return "".join(log.read_text(encoding="utf-8", errors="replace") for log in self.logs)

    def communicate(self, timeout: float = 150.0) -> tuple[str, None]:
        """Wait, and return the output and nothing."""
        self.wait(timeout)
        return self.output(), None

    def send_signal(self, number: int) -> None:
        """To all that still run."""
        self.server.look()
        for pid in self.pids:
            if pid not in self.server.codes:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


class Warm:
    """The process that forks: :mod:`zoo.runtime.pool_server`. It starts when the first program is asked for.

    Args:
        logs: folder for the output of the programs.
        place: their working directory.
        environment: laid over this process's environment.
        modules: what to import once.
    """

    def __init__(
        self,
        logs: Path,
        place: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        modules: Sequence[str] = PRETRAINING,
    ) -> None:
        self.logs, self.place, self.modules = logs, place, modules
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        self.environment = {**os.environ, "PYTHONPATH": path, **NO_THREADS, **(environment or {})}
        self.codes: dict[int, int] = {}
        self.server: subprocess.Popen[str] | None = None
        self.started = 0

    def start(self, *words: object, logs: Path | None = None) -> Forks:
        """``python -m`` with these words, a module and its arguments.

        Args:
            *words: the words.
            logs: folder of its output; ``training.processes_of`` knows a fork by it.
        """
        pid, log = self._fork(words, {}, logs)
        return Forks(self, [pid], [log])

    def launch(self, argv: Sequence[object], processes: int, module: str = "pretraining") -> Forks:
        """So many processes of one group, with the variables that torchrun sets for them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        count = str(processes)
        group = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started = [
            self._fork([module, *argv], {**group, "RANK": str(i), "LOCAL_RANK": str(i)}, None) for i in range(processes)
        ]
        return Forks(self, [pid for pid, _ in started], [log for _, log in started])

    def look(self) -> None:
        """Take the exit codes of what has ended."""
        self.codes.update(dict(self._ask({})))

    def threads(self) -> int:
        """How many the server has started, its own included (Linux)."""
        self.look()
        status = Path(f"/proc/{self.server.pid}/status").read_text(encoding="utf-8")
        return int(status.split("Threads:")[1].split()[0])

    def close(self) -> None:
        """End the server, and with it all that it has started."""
        if self.server is not None:
            self.server.communicate(timeout=60)  # closes its input

    def _fork(self, words: Sequence[object], environment: Mapping[str, str], logs: Path | None) -> tuple[int, Path]:
        self.started += 1
        log = (logs or self.logs) / f"{self.started}.log"
        return self._ask({"argv": [str(word) for word in words], "log": str(log), "environment": environment}), log

    def _ask(self, request: dict):
        if self.server is None:
            words = [sys.executable, "-m", "zoo.runtime.pool_server", *self.modules]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.server = subprocess.Popen(words, cwd=self.place, env=self.environment, text=True, **pipes)
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
