"""The processes of a run: device, precision, threads and process group."""

from __future__ import annotations

import ctypes
import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from zoo.errors import ZooError
from zoo.runtime.signals import die_with_parent


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
