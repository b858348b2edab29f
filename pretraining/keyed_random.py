"""Counter-based random numbers: a draw is a pure function of (seed, epoch, stream, example, position).

No generator is carried along, so any worker, process or restart sees the same draws. The hash is
murmur3's 32-bit finaliser applied to a row key combined with a position key; it passes the uniformity
and correlation tests in ``tests/pretraining/test_keyed_random.py`` and runs at memory speed on whole batches.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

UInt32 = NDArray[np.uint32]
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def mix64(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser, elementwise; overflow wraps on purpose."""
    with np.errstate(over="ignore"):
        z = value.astype(np.uint64, copy=True)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def mix32(value: UInt32) -> UInt32:
    """murmur3's 32-bit finaliser, in place; returns its argument."""
    with np.errstate(over="ignore"):
        value ^= value >> np.uint32(16)
        value *= np.uint32(0x85EBCA6B)
        value ^= value >> np.uint32(13)
        value *= np.uint32(0xC2B2AE35)
        value ^= value >> np.uint32(16)
    return value


class Draw(NamedTuple):
    """Random numbers of one (seed, epoch).

    Args:
        seed: the run's data seed.
        epoch: pass over the data; static masks use ``epoch % copies``.
    """

    seed: int
    epoch: int

    def keys(self, examples: NDArray[np.integer], stream: str) -> NDArray[np.uint64]:
        """One 64-bit key per example for the named stream of draws; same shape as ``examples``."""
        with np.errstate(over="ignore"):
            base = mix64(np.array([self.seed], dtype=np.int64).view(np.uint64) + _SPREAD)
            base = mix64(base + np.array([self.epoch], dtype=np.int64).view(np.uint64) * _SPREAD)
            base = mix64(base + np.uint64(zlib.crc32(stream.encode())) * _SPREAD)
            return mix64(examples.astype(np.int64).view(np.uint64) * _SPREAD + base)

    def bits(self, examples: NDArray[np.integer], length: int, stream: str) -> UInt32:
        """(B, length) independent uniform 32-bit numbers, keyed by example and position."""
        keys = self.keys(examples, stream)
        low = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        high = (keys >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
        with np.errstate(over="ignore"):
            positions = np.arange(1, length + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
            grid: UInt32 = np.multiply(positions[None, :], high[:, None], dtype=np.uint32)
            grid += low[:, None]
        return mix32(grid)

    def at(self, examples: NDArray[np.integer], positions: NDArray[np.integer], stream: str) -> UInt32:
        """The same numbers as :meth:`bits`, at chosen (example, position) pairs only."""
        return bits_at(self.keys(examples, stream), positions)

    def uniform(self, examples: NDArray[np.integer], stream: str) -> NDArray[np.float64]:
        """One number in [0, 1) per example."""
        return (self.keys(examples, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, examples: NDArray[np.integer], high: int | NDArray[np.int64], stream: str) -> NDArray[np.int64]:
        """One whole number in [0, high) per example."""
        return np.floor(self.uniform(examples, stream) * high).astype(np.int64)

    def permutation(self, count: int, stream: str) -> NDArray[np.int64]:
        """A random order of ``count`` things."""
        return np.argsort(self.keys(np.arange(count), stream), kind="stable")


def bits_at(keys: NDArray[np.uint64], positions: NDArray[np.integer]) -> UInt32:
    """The 32-bit number at each position of the row that a key of :meth:`Draw.keys` belongs to; shapes alike."""
    low = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    high = (keys >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    with np.errstate(over="ignore"):
        spread = (positions.astype(np.uint32) + np.uint32(1)) * np.uint32(0x9E3779B9)
        return mix32(spread * high + low)


def scaled(bits: UInt32, high: int) -> NDArray[np.int64]:
    """Uniform whole numbers in [0, high) from 32-bit draws (multiply and shift; bias below high/2**32)."""
    return ((bits.astype(np.uint64) * np.uint64(high)) >> np.uint64(32)).astype(np.int64)
