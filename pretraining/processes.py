"""Processes, threads, precision, signals and the one-writer lock of a run folder."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from zoo.errors import ZooError, disk_full

LOCK_PATIENCE = 5.0
"""Seconds that a second writer waits before it is refused."""
STOPPED = 143
"""Exit code of a run that was asked to stop, as a shell has it after SIGTERM."""
_LOCK = ".lock"
SIGTERM_GRACE = 5.0  # seconds that SIGTERM's handler has to be called in

_left_groups: list[Any] = []  # see _leave_group
atexit.register(_left_groups.clear)

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


class Stopped(SystemExit):
    """The run was asked to stop, saved its state and can be continued; exit code 143 as after SIGTERM."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


def fast_bf16() -> bool:
    """Whether this machine multiplies bf16 faster than fp32 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "AVX512" in capabilities and ("avx512_bf16" in flags or "amx_bf16" in flags)


def resolve_precision(precision: str) -> str:
    """``auto`` to ``bf16`` or ``fp32``."""
    return precision if precision != "auto" else ("bf16" if fast_bf16() else "fp32")


def start_processes(precision: str, threads: int | None, trackers: list[str], folder: Path) -> Accelerator:
    """The accelerator of this process: device, precision and process group, checked against the launcher.

    Args:
        precision: resolved precision.
        threads: CPU threads per process, ``None`` = cores / local processes.
        trackers: accelerate trackers.
        folder: where trackers write.

    Raises:
        ZooError: the launcher asked for several processes that did not find each other, or for another
            precision.
    """
    die_with_parent()  # first: to find each other the processes need the launcher, and would wait a day for a dead one
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    own = "bf16" if precision == "bf16" else "no"
    if wanted not in ("no", own):
        raise ZooError(
            f"the launcher asks for mixed precision {wanted!r} but the settings say train.precision = {precision}; "
            "leave the launcher's flag away: the YAML owns precision."
        )
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != own:
        AcceleratorState._reset_state()  # an earlier run of this process (demo, tests) had another precision
    on_gpu = torch.cuda.is_available()
    # The others wait while the main process prepares a corpus; the usual half hour would end a large one.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    accelerator = Accelerator(
        cpu=not on_gpu,
        mixed_precision=own,
        log_with=trackers or None,
        project_dir=str(folder),
        kwargs_handlers=[patience],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ZooError(
            f"the launcher started {launched} processes but this one sees {accelerator.num_processes}: each would "
            "believe it is alone and all would write. Start with `accelerate launch --multi_gpu --num_processes "
            f"{launched} -m pretraining ...` (it also starts CPU processes)."
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(accelerator.num_processes)))
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local))
    _keep_heap()
    return accelerator


def _keep_heap() -> None:
    """Let glibc keep freed blocks up to 32 MB instead of returning them to the kernel at every step.

    A training step frees and takes the same blocks again; without this each costs page faults.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, its largest value
        libc.mallopt(-1, 512 * 2**20)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the launcher dies, so that no orphan goes on writing (Linux).

    Only under a launcher (or a job pool that sets ``ZOO_DIE_WITH_PARENT``): a run started from a shell may
    outlive it.
    """
    marks = ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION", "ZOO_DIE_WITH_PARENT")
    if not sys.platform.startswith("linux") or not any(mark in os.environ for mark in marks):
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if _orphaned():  # it died before we asked, most likely during the seconds that the imports take
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
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Within the block SIGTERM goes to a :class:`StopRequest`; afterwards the old handler is back."""
    request = StopRequest()
    try:
        old: Any = signal.signal(signal.SIGTERM, request)
    except ValueError:  # not the main thread: whoever runs us handles signals
        yield request
        return
    try:
        with _watched(request):
            yield request
    finally:
        signal.signal(signal.SIGTERM, old)


@contextmanager
def _watched(request: StopRequest) -> Iterator[None]:
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
                time.sleep(SIGTERM_GRACE)
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


def _lock(stream: IO[str]) -> None:
    """Take the lock, waiting a little: a run whose launcher was killed needs a step to notice and leave."""
    end = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@contextmanager
def one_writer(folder: Path) -> Iterator[IO[str]]:
    """Hold the run folder's lock; it goes with the process, however that ends.

    A folder that was made for this and in which nothing else was written, as by a run that is refused, goes as well.

    Raises:
        ZooError: another process holds it.
    """
    stream, made = _locked(folder)
    with stream:
        stream.seek(0)
        stream.truncate()
        stream.write(f"process {os.getpid()}")
        stream.flush()
        try:
            yield stream
        finally:
            with contextlib.suppress(OSError):  # it stays: somebody put something there, or may not remove it
                _remove_unused(stream, made)


def _locked(folder: Path) -> tuple[IO[str], list[Path]]:
    """The folder's lock file, locked; and which of the two, the file first, was missing and is made.

    Raises:
        ZooError: another process holds it.
    """
    path = folder / _LOCK
    while True:
        made = [place for place in (path, folder) if not place.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # another writer has just removed the folder
            continue
        try:
            _lock(stream)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            stream.close()
            raise ZooError(
                f"{folder} is being written by {holder}; a run folder has one writer. Wait for it, stop it, or "
                "choose other settings or another --output."
            ) from error
        if _is_at(stream, path):
            return stream, made
        stream.close()  # the file that we waited for was removed, and whoever comes now locks another one


def _is_at(stream: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_unused(stream: IO[str], made: list[Path]) -> None:
    """Remove the lock that this process has, and the folder, as far as it made them, where nothing else is in it."""
    if made and _is_at(stream, made[0]) and [path.name for path in made[0].parent.iterdir()] == [_LOCK]:
        made[0].unlink()
        for folder in made[1:]:
            folder.rmdir()


def together(accelerator: Accelerator, error: ZooError | None) -> None:
    """Raise any process's error in every process, so that none waits for one that has left."""
    if accelerator.num_processes == 1:
        if error is not None:
            raise error
        return
    messages: list[str | None] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(messages, None if error is None else str(error))
    if error is not None:
        raise error
    for message in filter(None, messages):
        raise ZooError(message)


@contextmanager
def agreed(accelerator: Accelerator) -> Iterator[None]:
    """What goes wrong in the block in one process, a full disk included, is raised in every process at its end."""
    error: ZooError | None = None
    try:
        yield
    except ZooError as problem:
        error = problem
    except OSError as problem:
        error = disk_full(problem)
        if error is None:
            raise
    together(accelerator, error)


@contextmanager
def leaving_together() -> Iterator[None]:
    """End the process group where all processes leave the block, so that none aborts while it exits."""
    try:
        yield
    except (ZooError, Stopped):
        _leave_group()
        raise
    _leave_group()


def _leave_group() -> None:
    """End the process group, and keep the object until Python exits.

    Otherwise a wrapped model that is still alive may own it last, and the process may never end: when its last owner
    goes, a gloo group waits for its threads; one of them may need the interpreter's lock, to let go of the last
    exchange's tensors; and the C++ half of a wrapped model, unlike Python, holds that lock while it waits.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _left_groups.append(torch.distributed.group.WORLD)
        torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
