"""A small job pool: commands that each leave a file when done, N at once, resumed by starting the same pool again.

Jobs are processes of their own, so a crash takes one job along and not the pool. When the pool ends, by itself, by
a signal or by SIGKILL, no job goes on: each runs in a process group that the pool ends, and asks the kernel for a
SIGTERM at its parent's death.

Importing torch and its kin takes seconds. A *warm* pool pays that once: a server process imports the modules, does
nothing else, and forks itself for each ``python -m MODULE ...`` job.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pretraining.log import duration
from zoo.errors import ZooError

_GRACE = 20.0  # seconds from SIGTERM, on which a pretraining run saves its state, to SIGKILL
_POLL = 0.05
_NOT_DONE = -1000  # stands for: ended well, but without its `done` file
NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Environment under which importing numpy, and pyarrow by way of scikit-learn, starts no thread."""
_TAIL = 12  # lines of a failed job's log that are shown


@dataclass(frozen=True)
class Job:
    """One command.

    Args:
        name: shown on the progress line and in errors.
        argv: the command, for example ``(sys.executable, "-m", "finetune", ...)``.
        done: file that exists when the job is finished, and not before; such jobs are skipped.
        log: file that takes the job's output.
        environment: variables laid over this process's own.
    """

    name: str
    argv: tuple[str, ...]
    done: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its exit code; 0 with ``skipped`` where it had been finished before."""

    job: Job
    code: int
    skipped: bool = False


def run_pool(
    jobs: Sequence[Job],
    at_once: int,
    label: str = "jobs",
    show: Callable[[str], None] | None = None,
    warm: Sequence[str] = (),
) -> list[Outcome]:
    """Run jobs, at most ``at_once`` at a time, in their order; finished ones are skipped.

    A job that fails does not stop the others; all failures are told together at the end.

    Args:
        jobs: what to run.
        at_once: processes at the same time.
        label: first word of the progress line.
        show: takes a progress line whenever a job starts or ends; ``None`` = print to standard error.
        warm: modules to import once for all jobs, which must then be ``(sys.executable, "-m", MODULE, ...)``.

    Raises:
        ZooError: jobs failed, ended without their ``done`` file, or share one.
    """
    if at_once < 1:
        raise ZooError(f"a pool of {at_once} processes cannot work; at least 1 is needed.")
    if len({job.done for job in jobs}) != len(jobs):
        raise ZooError("two jobs of a pool would leave the same file; give each its own output.")
    outcomes = [Outcome(job, 0, skipped=True) for job in jobs if job.done.exists()]
    waiting = [job for job in jobs if not job.done.exists()]
    progress = _Count(label, len(jobs), len(outcomes), show or _print_line)
    running: dict[int, Job] = {}
    with _ended_by_signals():
        starter = _Warm(warm) if warm and len(waiting) > 1 else _Fresh()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[starter.start(job)] = job
                    progress.show(running.values())
                for pid, code in starter.ended():
                    job = running.pop(pid)
                    outcomes.append(Outcome(job, _NOT_DONE if code == 0 and not job.done.exists() else code))
                    progress.finished(outcomes[-1])
                    progress.show(running.values())
                time.sleep(_POLL)
        finally:
            _end(starter, set(running))
            starter.close()
    _raise_failures([outcome for outcome in outcomes if outcome.code != 0])
    return sorted(outcomes, key=lambda outcome: jobs.index(outcome.job))


def _make_room(job: Job) -> dict[str, str]:
    """Make the folders of a job; what is laid over its environment."""
    job.done.parent.mkdir(parents=True, exist_ok=True)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    return {**job.environment, "ZOO_DIE_WITH_PARENT": "1"}


class _Fresh:
    """Starts each job as a new program."""

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, job: Job) -> int:
        """The new process's number, which is also its group's."""
        environment = {**os.environ, **_make_room(job)}
        with job.log.open("wb") as log:
            process = subprocess.Popen(
                job.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the pool, which then ends the whole group
                preexec_fn=_die_with_parent(),
            )
        self._processes[process.pid] = process
        return process.pid

    def ended(self) -> list[tuple[int, int]]:
        """Process numbers and exit codes of jobs that ended since the last call."""
        codes = [(pid, code) for pid, process in self._processes.items() if (code := process.poll()) is not None]
        for pid, _ in codes:
            del self._processes[pid]
        return codes

    def close(self) -> None:
        """Nothing stays behind."""


class _Warm:
    """Starts each job as a fork of a server that has imported the heavy modules (``python -m finetune.pool``)."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "finetune.pool", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **NO_THREADS},
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise ZooError(f"the pool's server ended with exit code {self._server.wait()}; its message stands above.")
        return json.loads(answer)

    def start(self, job: Job) -> int:
        """The fork's process number, which is also its group's."""
        if job.argv[:2] != (sys.executable, "-m"):
            raise ZooError(f"job {job.name}: a warm pool runs `python -m MODULE ...`, not {' '.join(job.argv[:3])!r}.")
        pid: int = self._ask({"argv": job.argv[2:], "log": str(job.log), "environment": _make_room(job)})
        return pid

    def ended(self) -> list[tuple[int, int]]:
        """Process numbers and exit codes of jobs that ended since the last call."""
        return [(pid, code) for pid, code in self._ask({})]

    def close(self) -> None:
        """End the server."""
        _signal_group(self._server.pid, signal.SIGKILL)
        self._server.wait()


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
    ask = _die_with_parent()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            if ask is not None:
                ask()
            _redirect(Path(request["log"]))
            os.environ.update(request["environment"])
            code = _run_module(request["argv"])
        finally:
            os._exit(code)  # not through the server's own endings
    return pid


def _redirect(log: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for target, source in ((0, null), (1, file), (2, file)):
        os.dup2(source, target)


def _run_module(argv: list[str]) -> int:
    """``python -m`` in this process; its exit code."""
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


def _die_with_parent() -> Callable[[], None] | None:
    """What a child runs before its program: ask for SIGTERM at the pool's death (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl: Any = ctypes.CDLL(None).prctl  # looked up before the fork
    parent = os.getpid()

    def ask() -> None:
        prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def _end(starter: _Fresh | _Warm, pids: set[int]) -> None:
    """SIGTERM to every group, SIGKILL to what is left after the grace time."""
    for pid in pids:
        _signal_group(pid, signal.SIGTERM)
    deadline, left = time.monotonic() + _GRACE, set(pids)
    while left and time.monotonic() < deadline:
        try:
            left -= {pid for pid, _ in starter.ended()}
        except (ZooError, OSError):  # the server is gone, and its forks were told so by the kernel
            break
        time.sleep(_POLL)
    for pid in pids:
        _signal_group(pid, signal.SIGKILL)  # also what a job itself has started and left


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGINT leave through ``finally``, with their usual exit codes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        for again in (signal.SIGTERM, signal.SIGINT):  # a second signal must not break the ending of the jobs
            signal.signal(again, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    old = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _raise_failures(failed: list[Outcome]) -> None:
    if not failed:
        return
    told = []
    for outcome in failed[:3]:
        log = outcome.job.log
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() if log.exists() else []
        how = {_NOT_DONE: f"ended without writing {outcome.job.done}"}.get(outcome.code, f"exit code {outcome.code}")
        told.append("\n    ".join([f"{outcome.job.name}: {how}; the end of {log}:", *lines[-_TAIL:]]))
    names = ", ".join(outcome.job.name for outcome in failed)
    raise ZooError(
        f"{len(failed)} job{'s' if len(failed) > 1 else ''} failed ({names}); what is finished stays, the same "
        "command tries the rest again.\n  " + "\n  ".join(told)
    )


class _Count:
    """``label: 3/12 done, running a, b, 41s elapsed, about 2m03s left``."""

    def __init__(self, label: str, total: int, skipped: int, show: Callable[[str], None]) -> None:
        self.label, self.total, self.skipped, self.print = label, total, skipped, show
        self.done = self.failed = 0
        self.start = time.monotonic()

    def finished(self, outcome: Outcome) -> None:
        """Count a job that ended."""
        self.done += 1
        self.failed += outcome.code != 0

    def show(self, running: Iterable[Job]) -> None:
        """Print where the pool stands."""
        elapsed = time.monotonic() - self.start
        names = ", ".join(job.name for job in running)
        parts = [f"{self.skipped + self.done}/{self.total} done"]
        if self.skipped:
            parts.append(f"{self.skipped} of them before")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if names:
            parts.append(f"running {names}")
        parts.append(f"{duration(elapsed)} elapsed")
        if self.done and names:
            left = self.total - self.skipped - self.done
            parts.append(f"about {duration(elapsed / self.done * left)} left")
        self.print(f"{self.label}: " + ", ".join(parts))


def _print_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
