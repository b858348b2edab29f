"""What all processes of a run have to do together: raise an error, and leave the process group."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from zoo.errors import ZooError, disk_full
from zoo.runtime.signals import Stopped

_left_groups: list[Any] = []  # see _leave_group
atexit.register(_left_groups.clear)


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
        error = disk_full(problem)
        if error is None:
            raise
    raise_on_all_ranks(accelerator, error)


@contextmanager
def leave_group_together() -> Iterator[None]:
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
