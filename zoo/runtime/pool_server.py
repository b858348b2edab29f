"""The server of a warm pool (``python -m zoo.runtime.pool_server MODULE ...``): it imports once and forks for each job.

Importing torch and its kin takes seconds. The server pays that once, does nothing else, and forks itself for each
``python -m MODULE ...`` job.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from zoo.runtime.signals import child_dies_with_parent


def serve(modules: Sequence[str]) -> None:
    """The warm server: import, then fork for each request line on standard input until that closes.

    A request with ``argv`` starts a job and is answered by its process number; an empty one is answered by
    ``[[process number, exit code], ...]`` of what ended. Nothing here may start a thread or compute anything:
    forks inherit memory, but not threads.
    """
    with redirect_stdout(sys.stderr):  # standard output carries answers only
        for module in modules:
            importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        if request:
            answer: Any = _fork(request)
        else:
            answer = _reap()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _reap() -> list[tuple[int, int]]:
    ended = []
    with suppress(ChildProcessError):  # no child left
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _fork(request: dict[str, Any]) -> int:
    ask = child_dies_with_parent()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            if ask is not None:
                ask()
            _redirect(Path(request["log"]))
            os.environ.update(request["environment"])
            code = run_module(request["argv"])
        finally:
            os._exit(code)  # not through the server's own endings
    return pid


def _redirect(log: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for target, source in ((0, null), (1, file), (2, file)):
        os.dup2(source, target)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def run_module(argv: list[str]) -> int:
    """``python -m`` with these words in this process; its exit code."""
    sys.argv = list(argv)
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException:  # what python itself does at the top
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1:])
