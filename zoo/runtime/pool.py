"""A pool of processes that runs jobs, each a command that leaves a file when it is done."""

from __future__ import annotations

import json
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

from zoo.errors import ZooError
from zoo.runtime.progress import duration
from zoo.runtime.signals import child_dies_with_parent

NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Environment under which importing numpy, and pyarrow by way of scikit-learn, starts no thread."""

_GRACE = 20.0  # seconds from SIGTERM, on which a pretraining run saves its state, to SIGKILL

_POLL = 0.05

_TAIL = 12  # lines of a failed job's log that are shown

NOT_DONE = -1000
"""Stands for the exit code of a job that ended well, but without its ``done`` file."""


# ---- jobs ------------------------------------------------------------------------------------------------------------


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


# ---- the pool --------------------------------------------------------------------------------------------------------


def run_pool(
    jobs: Sequence[Job],
    at_once: int,
    label: str = "jobs",
    show: Callable[[str], None] | None = None,
    warm: Sequence[str] = (),
) -> list[Outcome]:
    """Run jobs, at most ``at_once`` at a time, in their order; finished ones are skipped.

    A job that fails does not stop the others; one error at the end names all failures.

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
    with ended_by_signals():
        starter = _Warm(warm) if warm and len(waiting) > 1 else _Fresh()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[starter.start(job)] = job
                    progress.show(running.values())
                for pid, code in starter.ended():
                    job = running.pop(pid)
                    outcomes.append(Outcome(job, NOT_DONE if code == 0 and not job.done.exists() else code))
                    progress.finished(outcomes[-1])
                    progress.show(running.values())
                time.sleep(_POLL)
        finally:
            _end(starter, set(running))
            starter.close()
    raise_failures([outcome for outcome in outcomes if outcome.code != 0])
    return sorted(outcomes, key=lambda outcome: jobs.index(outcome.job))


@contextmanager
def ended_by_signals() -> Iterator[None]:
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


def _end(starter: _Fresh | _Warm, pids: set[int]) -> None:
    """SIGTERM to every group, SIGKILL to what is left after the grace time."""
    for pid in pids:
        _signal_group(pid, signal.SIGTERM)
    deadline, left = time.monotonic() + _GRACE, set(pids)
    while left and time.monotonic() < deadline:
        try:
            left -= {pid for pid, _ in starter.ended()}
        except (ZooError, OSError):  # the server is gone, and the kernel has ended its forks
            break
        time.sleep(_POLL)
    for pid in pids:
        _signal_group(pid, signal.SIGKILL)  # also what a job itself has started and left


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def raise_failures(failed: list[Outcome]) -> None:
    """Raise ZooError that names jobs that failed, with the end of their logs, if there are any."""
    if not failed:
        return
    reports = []
    for outcome in failed[:3]:
        log = outcome.job.log
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() if log.exists() else []
        how = {NOT_DONE: f"ended without writing {outcome.job.done}"}.get(outcome.code, f"exit code {outcome.code}")
        reports.append("\n    ".join([f"{outcome.job.name}: {how}; the end of {log}:", *lines[-_TAIL:]]))
    names = ", ".join(outcome.job.name for outcome in failed)
    raise ZooError(
        f"{len(failed)} job{'s' if len(failed) > 1 else ''} failed ({names}); what is finished stays, the same "
        "command tries the rest again.\n  " + "\n  ".join(reports)
    )


# ---- two ways to start a job -----------------------------------------------------------------------------------------


class _Fresh:
    """Starts each job as a new program."""

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, job: Job) -> int:
        """The new process's number, which is also its group's."""
        environment = {**os.environ, **make_room(job)}
        with job.log.open("wb") as log:
            process = subprocess.Popen(
                job.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the pool, which then ends the whole group
                preexec_fn=child_dies_with_parent(),
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
    """Starts each job as a fork of a server that has imported the heavy modules: :mod:`zoo.runtime.pool_server`."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "zoo.runtime.pool_server", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **NO_THREADS},
            start_new_session=True,
            preexec_fn=child_dies_with_parent(),
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
        pid: int = self._ask({"argv": job.argv[2:], "log": str(job.log), "environment": make_room(job)})
        return pid

    def ended(self) -> list[tuple[int, int]]:
        """Process numbers and exit codes of jobs that ended since the last call."""
        return [(pid, code) for pid, code in self._ask({})]

    def close(self) -> None:
        """End the server."""
        _signal_group(self._server.pid, signal.SIGKILL)
        self._server.wait()


def make_room(job: Job) -> dict[str, str]:
    """Make the folders of a job; what is laid over its environment."""
    job.done.parent.mkdir(parents=True, exist_ok=True)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    encoding = "utf-8:backslashreplace"  # of its log, whatever the terminal has
    return {**job.environment, "ZOO_DIE_WITH_PARENT": "1", "PYTHONIOENCODING": encoding}


# ---- the progress line -----------------------------------------------------------------------------------------------


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
