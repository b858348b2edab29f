"""A small job pool: commands that each leave a file when done, N at once, resumed by starting the same pool again.

Jobs are processes of their own, so a crash takes one job along and not the pool. When the pool ends, by itself, by
a signal or by SIGKILL, no job goes on: each runs in a process group that the pool ends, and asks the kernel for a
SIGTERM at its parent's death.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pretraining.log import duration
from zoo.errors import ZooError

_GRACE = 20.0  # seconds from SIGTERM, on which a pretraining run saves its state, to SIGKILL
_POLL = 0.05
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
    jobs: Sequence[Job], at_once: int, label: str = "jobs", show: Callable[[str], None] | None = None
) -> list[Outcome]:
    """Run jobs, at most ``at_once`` at a time, in their order; finished ones are skipped.

    A job that fails does not stop the others; all failures are told together at the end.

    Args:
        jobs: what to run.
        at_once: processes at the same time.
        label: first word of the progress line.
        show: takes a progress line whenever a job starts or ends; ``None`` = print to standard error.

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
    running: dict[subprocess.Popen[bytes], Job] = {}
    with _ended_by_signals():
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[_start(job)] = job
                    progress.show(running.values())
                for process in [process for process in running if process.poll() is not None]:
                    job = running.pop(process)
                    outcomes.append(Outcome(job, _exit_code(process, job)))
                    progress.finished(outcomes[-1])
                    progress.show(running.values())
                time.sleep(_POLL)
        finally:
            _end(list(running))
    _raise_failures([outcome for outcome in outcomes if outcome.code != 0])
    return sorted(outcomes, key=lambda outcome: jobs.index(outcome.job))


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.done.parent.mkdir(parents=True, exist_ok=True)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **job.environment, "ZOO_DIE_WITH_PARENT": "1"}
    with job.log.open("wb") as log:
        return subprocess.Popen(
            job.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a Ctrl-C is for the pool, which then ends the whole group
            preexec_fn=_die_with_parent(),
        )


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


def _exit_code(process: subprocess.Popen[bytes], job: Job) -> int:
    """The exit code; -1000 where the job ended well but left no ``done`` file."""
    code = process.returncode
    return -1000 if code == 0 and not job.done.exists() else code


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to every group, SIGKILL to what is left after the grace time."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        _signal_group(process, signal.SIGKILL)  # also what the job itself has started and left
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


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
        lines = outcome.job.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-_TAIL:]
        how = {-1000: f"ended without writing {outcome.job.done}"}.get(outcome.code, f"exit code {outcome.code}")
        told.append("\n    ".join([f"{outcome.job.name}: {how}; the end of {outcome.job.log}:", *lines]))
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
