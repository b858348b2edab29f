"""Signals: leaving on SIGTERM with the state saved, and no process that outlives its parent unasked."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

STOPPED = 143
"""Exit code of a run that was asked to stop, as a shell has it after SIGTERM."""
GRACE = 5.0
"""Seconds that SIGTERM's handler has to be called in."""

_watchers: list[int] = []  # ends of the pipes of _watched, innermost last
_held = threading.local()  # the signal mask before a fork


def _hold_sigterm() -> None:
    """Before a fork: SIGTERM waits, in the child until it is its own."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if _watchers else None


def _release_sigterm() -> None:
    if _held.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _forget_watchers() -> None:
    """In a forked child: SIGTERM ends it, and does not go through its parent's pipe."""
    if _held.mask is not None:
        _watchers.clear()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _release_sigterm()


os.register_at_fork(before=_hold_sigterm, after_in_parent=_release_sigterm, after_in_child=_forget_watchers)


def usable_cpus() -> int:
    """CPUs that this process may run on: its affinity's, or the machine's where there is none (Mac)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stopped(SystemExit):
    """The run was asked to stop, saved its state and can be continued; exit code 143 as after SIGTERM."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the launcher dies, so that no orphan goes on writing (Linux).

    Only under a launcher (or a job pool that sets ``ZOO_DIE_WITH_PARENT``): a run started from a shell may
    outlive it.
    """
    marks = ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION", "ZOO_DIE_WITH_PARENT")
    if sys.platform.startswith("linux") and any(mark in os.environ for mark in marks):
        _ask_for_sigterm(ctypes.CDLL(None).prctl, _orphaned)


def child_dies_with_parent() -> Callable[[], None] | None:
    """What a child of this process runs before its program: :func:`die_with_parent`, whatever started the parent.

    To be called before the fork, after which nothing may be looked up. ``None`` where there is no such thing.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()
    return lambda: _ask_for_sigterm(prctl, lambda: os.getppid() != parent)


def _ask_for_sigterm(prctl: Callable[..., Any], orphaned: Callable[[], bool]) -> None:
    """Ask for SIGTERM at the parent's death, and send it where the parent is dead already."""
    prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if orphaned():  # it died before we asked, most likely during the seconds that the imports take
        os.kill(os.getpid(), signal.SIGTERM)


def _orphaned() -> bool:
    """Whether the launcher is dead already, so that this process belongs to init or another reaper.

    accelerate's own launcher shares its session with its child. torchrun gives each child a session of its own; there
    only a reaper that is no Python program (inside a container the launcher itself may be process 1) tells.
    """
    parent, session = os.getppid(), os.getsid(0)
    if session != os.getpid():
        return os.getsid(parent) != session
    return parent == 1 and b"python" not in Path("/proc/1/cmdline").read_bytes()


class StopRequest:
    """Takes SIGTERM: at once until the loop runs (a kill loses nothing then), at a step's end from then on.

    Attributes:
        asked: SIGTERM came.
        patient: only remember it, so that the loop can save and leave.
    """

    def __init__(self) -> None:
        self.asked = self.patient = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.asked = True
        if not self.patient:
            raise Stopped


@contextmanager
def stop_on_sigterm(grace: float = GRACE) -> Iterator[StopRequest]:
    """Within the block SIGTERM goes to a :class:`StopRequest`; afterwards the old handler is back.

    Args:
        grace: seconds that the handler has to be called in; then the process ends without it.
    """
    request = StopRequest()
    try:
        old: Any = signal.signal(signal.SIGTERM, request)
    except ValueError:  # not the main thread: whoever runs us handles signals
        yield request
        return
    try:
        with _watched(request, grace):
            yield request
    finally:
        signal.signal(signal.SIGTERM, old)


@contextmanager
def _watched(request: StopRequest, grace: float) -> Iterator[None]:
    """Within the block SIGTERM ends the process also while the main thread is inside of a library.

    Python calls a handler between two of its own instructions, and a tokenizer can train for minutes in one. The
    signal's number comes through a pipe to a thread, which waits a little for the handler, and leaves if it was not
    called.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGTERM:
                time.sleep(grace)
                if not (request.asked or request.patient):
                    os._exit(STOPPED)
        os.close(reader)

    threading.Thread(target=watch, daemon=True).start()
    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _watchers.append(writer)
    try:
        yield
    finally:
        if writer in _watchers:  # not in a forked child, whose parent's it is
            _watchers.remove(writer)
            signal.set_wakeup_fd(old)
        os.close(writer)
