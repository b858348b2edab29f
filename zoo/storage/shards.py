"""Tensors in safetensors files of which every process writes and reads its parts, by torch's distributed checkpoint.

The files of one folder together hold whole tensors, whatever number of processes wrote them. Whole tensors in a single
file are read the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from zoo.errors import ZooError


def save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file for each process; every process takes part, and none goes on before all have written.

    Args:
        folder: where to; made where it is missing.
        tensors: by name; sharded ones, and whole ones that are the same everywhere.

    Raises:
        OSError: a process could not write.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise _first_of(error) from error


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Names, shapes and types of all tensors in a folder's files, as tensors without values.

    Raises:
        ZooError: a file is damaged, or one is missing.
    """
    try:
        found: dict[str, Any] = dict(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ZooError(f"the tensors in {folder} cannot be read ({error}); is the copy complete?") from error
    for name, stored in found.items():
        there, wanted = sum(chunk.sizes.numel() for chunk in stored.chunks), stored.size.numel()
        if there != wanted:
            raise ZooError(f"{folder} has {there:,} of {wanted:,} numbers of {name}; is a file of it missing?")
    return {n: torch.empty(stored.size, dtype=stored.properties.dtype, device="meta") for n, stored in found.items()}


def load_shards(folder: Path, tensors: Mapping[str, Tensor], together: bool) -> None:
    """Fill tensors in place, each process its parts of them.

    Args:
        folder: with the files.
        tensors: by name; sharded or whole ones, of the shapes that are stored.
        together: all processes of a group load at once, as sharded tensors need.

    Raises:
        ZooError: a tensor is not there.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as was asked for
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not together)
    except CheckpointException as error:
        raise ZooError(f"the tensors in {folder} cannot be read ({_first_of(error)}).") from error


def _first_of(error: CheckpointException) -> Exception:
    """What went wrong in the first process where something did."""
    problem: Any = error.failures[min(error.failures)][0]
    return problem if isinstance(problem, Exception) else OSError(str(error))
