"""Tensors in safetensors files: written one at a time, read when they are asked for."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo.errors import ZooError, nearest
from zoo.storage.files import replaced_file
from zoo.storage.user_files import check_pointer

_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}


WEIGHT_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types in which weights are numbers by themselves; in all others they stand with scales only."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically, one tensor at a time.

    The library's own writer wants all tensors in memory at once, and hides a full disk's error number in a text; the
    format is a JSON header and the bytes behind it. Shared storage must have been dropped before (tied weights).

    Args:
        path: the file.
        tensors: by name; asked for twice, so they may be made when asked for.
    """
    width, header, end = {n: (t.element_size(), t.dtype, t.shape) for n, t in tensors.items()}, {}, 0
    names = sorted(width, key=lambda name: (-width[name][0], name))  # the widest first, so that all stay aligned
    if other := [name for name in names if width[name][1] not in _DTYPES]:
        raise ZooError(f"{other[0]} is of type {width[other[0]][1]}, which is not written.")
    for name in names:
        size, dtype, shape = width[name]
        start, end = end, end + size * shape.numel()
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replaced_file(path) as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = tensors[name].detach().cpu().contiguous()
            stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name in safetensors files, read only when asked for and mapped, not copied, on a CPU.

    Args:
        files: file of each tensor.

    Raises:
        ZooError: a file is damaged or missing.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor."""
        path = self._files[name]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            tensor: Tensor = self._open[path].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._files)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        path = self._files[name]
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        return tuple(self._open[path].get_slice(name).get_shape())


def open_tensors(path: Path) -> LazyTensors:
    """The tensors of one safetensors file; a damaged or missing one is named."""
    if not path.exists():
        raise ZooError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as stream:
            return LazyTensors(dict.fromkeys(stream.keys(), path))
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a whole safetensors file; a damaged or missing one is named."""
    return dict(open_tensors(path))


def _unreadable(path: Path, error: Exception) -> ZooError:
    with contextlib.suppress(OSError), path.open("rb") as stream:
        check_pointer(path, stream.read(64))
    return ZooError(f"{path} is not a readable safetensors file ({error}); is the copy complete?")


def check_state(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise ZooError unless ``tensors`` have the names, shapes and kinds of a module's, and finite values.

    Args:
        module: what they are to fill.
        tensors: by name; on the meta device they have no values to look at.
        source: where they come from, for the message.

    Raises:
        ZooError: missing, unknown, misshapen and damaged tensors, by name.
    """
    expected = module.state_dict()
    problems = []
    for name in expected.keys() - tensors.keys():
        problems.append(f"missing {name}.{nearest(name, tensors.keys() - expected.keys())}")
    for name in tensors.keys() - expected.keys():
        problems.append(f"unknown {name}.{nearest(name, expected.keys() - tensors.keys())}")
    for name in expected.keys() & tensors.keys():
        if expected[name].shape != tensors[name].shape:
            problems.append(f"{name} has shape {tuple(tensors[name].shape)}, {tuple(expected[name].shape)} is needed")
        elif expected[name].is_floating_point() and tensors[name].dtype not in WEIGHT_TYPES:
            problems.append(f"{name} is of type {tensors[name].dtype}: quantised weights are not read")
        elif tensors[name].is_meta or not expected[name].is_floating_point():
            continue
        elif not bool(torch.isfinite(tensors[name]).all()):
            problems.append(f"{name} holds numbers that are not finite (NaN or infinite)")
    if problems:
        listing = "\n  ".join(sorted(problems)[:12]) + ("\n  ..." if len(problems) > 12 else "")
        raise ZooError(f"{source} does not fit this model ({len(problems)} differences):\n  {listing}")


def load_state(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fill ``module`` from ``tensors`` exactly: what does not fit is an error, as of :func:`check_state`."""
    check_state(module, tensors, source)
    module.load_state_dict(tensors)
