"""What a run writes and shows: the JSONL log, timing, and a progress line."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class JsonLines:
    """An append-only JSONL file that can be cut back to a checkpoint's length.

    Args:
        path: the file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("ab", buffering=0)  # a full disk is told at the write, not at the exit

    def write(self, record: dict[str, Any]) -> None:
        """Append one line and hand it to the kernel."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        while line:
            line = line[self._stream.write(line) :]

    def size(self) -> int:
        """Bytes so far, safely on disk."""
        os.fsync(self._stream.fileno())
        return self.path.stat().st_size

    def cut(self, size: int) -> None:
        """Forget what was written after a checkpoint."""
        self._stream.truncate(size)
        self._stream.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def duration(seconds: float) -> str:
    """``1h02m``, ``3m20s`` or ``15s``."""
    whole = int(max(seconds, 0) + 0.5)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


class Progress:
    """Progress on standard error: one line rewritten on a terminal, a line now and then elsewhere.

    Args:
        label: what is running.
        enabled: whether anything is shown.
        every: seconds between lines where there is no terminal.
    """

    def __init__(self, label: str, enabled: bool = True, every: float = 10.0) -> None:
        self.label, self.enabled, self.every = label, enabled, every
        self.terminal = sys.stderr.isatty()
        self._last = self._start = time.monotonic()
        self._first_progress: float | None = None

    def note(self, text: str) -> None:
        """One line that stays."""
        if self.enabled:
            print(f"\r\033[K{text}" if self.terminal else text, file=sys.stderr, flush=True)

    def show(self, progress: float, text: str, last: bool = False) -> None:
        """Share done (0 to 1), text, and time left at the rate so far."""
        if not self.enabled:
            return
        now = time.monotonic()
        if self._first_progress is None:
            self._first_progress, self._start = progress, now
        if not last and now - self._last < (0.2 if self.terminal else self.every):
            return
        self._last = now
        done = progress - self._first_progress
        left = f"{duration((now - self._start) * (1 - progress) / done)} left" if done > 0 else "..."
        line = f"{self.label} {100 * progress:3.0f}%  {text}  {'done' if last else left}"
        end = "\n" if last or not self.terminal else ""
        print(f"\r\033[K{line}" if self.terminal else line, end=end, file=sys.stderr, flush=True)
