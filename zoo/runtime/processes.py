"""The processes of a run: device and precision, errors that all of them raise, the end of their group."""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from zoo.errors import ZooError, file_problem, nearest
from zoo.runtime.locks import RUN_LOCK
from zoo.runtime.signals import Stopped, die_with_parent, usable_cpus

_Moved = TypeVar("_Moved")
_TRACKER_PACKAGES = {"comet_ml": "comet-ml"}  # where the package has another name than the tracker


# ---- device and precision --------------------------------------------------------------------------------------------


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
    check_trackers(trackers)
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    own = "bf16" if precision == "bf16" else "no"
    if wanted not in ("no", own):
        raise ZooError(
            f"the launcher asks for mixed precision {wanted!r} but the settings say train.precision = {precision}; "
            "leave the launcher's flag away: the YAML owns precision."
        )
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != own:
        AcceleratorState._reset_state()  # an earlier run of this process (demo, tests) had another precision
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # a run follows it itself: zoo.runtime.sharding
    # The others wait while the main process prepares a corpus; the usual half hour would end a large one.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    accelerator = Accelerator(
        cpu=not has_gpu(),
        mixed_precision=own,
        log_with=trackers or None,
        project_dir=str(folder),
        kwargs_handlers=[patience],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ZooError(
            f"the launcher started {launched} processes but this one counts {accelerator.num_processes}: each would "
            "believe it is alone and all would write. Start with `accelerate launch --multi_gpu --num_processes "
            f"{launched} -m pretraining ...` (it also starts CPU processes)."
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(accelerator.num_processes)))
    torch.set_num_threads(threads or max(1, usable_cpus() // local))
    _add_in_one_order(accelerator.device)
    keep_heap()
    return accelerator


def check_trackers(names: list[str]) -> None:
    """Raise ZooError if a tracker is unknown or not installed; accelerate would leave it out without a word."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    there = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ZooError(f"train.trackers: {name!r} is no tracker.{nearest(name, known)} Known: {', '.join(known)}.")
        if name not in there:
            package = _TRACKER_PACKAGES.get(name, name)
            raise ZooError(
                f"train.trackers: {name} is not installed: `pip install {package}` brings it, or leave it out; "
                "log.jsonl in the run folder has the same figures."
            )


def has_gpu() -> bool:
    """Whether runs go to a GPU: CUDA's, or a Mac's (mps)."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def sums_type(device: torch.device) -> torch.dtype:
    """The widest type of floats in which a device adds up; a Mac's GPU has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def peak_memory() -> int:
    """Bytes of the most memory that this process ever held."""
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held


def device_memory() -> int:
    """Bytes of memory that this process may come to have: the accelerator's, or the machine's or container's."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = Path("/sys/fs/cgroup") / name
        if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdecimal():
            found.append(int(text))
    return min(found)


def resolve_precision(precision: str) -> str:
    """``auto`` to ``bf16`` or ``fp32``."""
    return precision if precision != "auto" else ("bf16" if fast_bf16() else "fp32")


def fast_bf16() -> bool:
    """Whether this machine multiplies bf16 faster than fp32 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "AVX512" in capabilities and ("avx512_bf16" in flags or "amx_bf16" in flags)


def autocast(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.autocast:
    """The precision that is asked for; weights stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def to_device(value: _Moved, device: torch.device) -> _Moved:
    """Tensors in named tuples, at any depth, on the device."""
    if device.type == "cpu":
        return value
    return _to_device(value, device)


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "_fields"):
        return type(value)(*(_to_device(item, device) for item in value))
    return tuple(_to_device(item, device) for item in value) if isinstance(value, tuple) else value


def _add_in_one_order(device: torch.device) -> None:
    """Let a run repeat on a CPU whatever an objective of the user's does.

    The backward pass of indexing by tensors adds in the order in which threads come, unless torch is told otherwise. On
    a CPU nothing else becomes slower, and nothing is refused; on a GPU some operations would be.
    """
    torch.use_deterministic_algorithms(device.type == "cpu")
    # What it would fill serves to find errors only, and takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def keep_heap() -> None:
    """Let glibc keep freed blocks of any size instead of returning them to the kernel at every step.

    Each training step, and each batch that is scored, takes the blocks that the one before freed; without this they
    cost page faults. It holds for the whole process, so commands call it, and what opens a model does not.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: also what a vocabulary's matrix takes comes from the heap
        libc.mallopt(-1, 512 * 2**20)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return


# ---- errors, and the end of the group --------------------------------------------------------------------------------


def raise_on_all_ranks(accelerator: Accelerator, error: ZooError | None) -> None:
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
def errors_on_all_ranks(accelerator: Accelerator) -> Iterator[None]:
    """What goes wrong in the block in one process, a full disk included, is raised in every process at its end."""
    error: ZooError | None = None
    try:
        yield
    except ZooError as problem:
        error = problem
    except OSError as problem:
        error = file_problem(problem)
        if error is None:
            raise
    raise_on_all_ranks(accelerator, error)


def check_shared_folder(accelerator: Accelerator, folder: Path, patience: float = 60.0) -> None:
    """Raise in every process where one of them, on another machine, does not see the main process's run folder.

    Args:
        accelerator: this process and its companions.
        folder: the run folder, whose lock the main process holds.
        patience: seconds in which shared storage shows what another machine wrote.

    Raises:
        ZooError: a process has no such folder, or another one of that name.
    """
    if accelerator.num_processes == 1:
        return
    lock, main = folder / RUN_LOCK, accelerator.is_main_process
    holder = [lock.read_text(encoding="utf-8") if main else ""]
    torch.distributed.broadcast_object_list(holder, src=0)
    end = time.monotonic() + patience
    with errors_on_all_ranks(accelerator):
        while not lock.exists() or lock.read_text(encoding="utf-8") != holder[0]:
            if time.monotonic() > end:
                raise ZooError(
                    f"process {accelerator.process_index} of {accelerator.num_processes} does not see the run folder "
                    f"{folder} of the first process: all machines of a run need one --output on shared storage."
                )
            time.sleep(0.2)


@contextmanager
def leave_group_together() -> Iterator[None]:
    """End the process group where all processes leave the block, so that none aborts while it exits."""
    try:
        yield
    except (ZooError, Stopped):
        _leave_group()
        raise
    _leave_group()


_left_groups: list[Any] = []  # see _leave_group

atexit.register(_left_groups.clear)


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
