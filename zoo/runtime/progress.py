"""Progress on standard error: notes, and one line that is rewritten on a terminal."""

from __future__ import annotations

import sys
import time


def duration(seconds: float) -> str:
    """``1h02m``, ``3m20s`` or ``15s``."""
    whole = int(max(seconds, 0) + 0.5)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def note(text: str, enabled: bool = True) -> None:
    """One line that stays, where no progress is shown."""
    Progress("", enabled).note(text)


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

    def skip(self, share: float) -> None:
        """A share that was done before, and does not tell how long the rest will take."""
        if self._first_progress is not None:
            self._first_progress += share

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


class ReadingProgress(Progress):
    """Progress through a known number of bytes, with the rate.

    Args:
        label: what is running.
        total: bytes.
        enabled: whether anything is shown.
    """

    def __init__(self, label: str, total: int, enabled: bool = True) -> None:
        super().__init__(label, enabled)
        self._total, self._begin = max(total, 1), time.monotonic()
        self._position = self._skipped = 0

    def reached(self, position: int) -> None:
        """Tell how far the reading is, in bytes."""
        self._position = position
        text = f"{position / 1e6:,.1f} of {self._total / 1e6:,.1f} MB, {self._rate() / 1e6:.1f} MB/s"
        self.show(min(position / self._total, 1.0), text)

    def skip_bytes(self, size: int) -> None:
        """Bytes that were finished before and do not count for the rate."""
        self._skipped += size
        self.skip(size / self._total)

    def end(self) -> None:
        """Close the line with what was read."""
        spent = time.monotonic() - self._begin
        self.show(1.0, f"{self._position / 1e6:,.1f} MB in {spent:,.1f} s ({self._rate() / 1e6:.1f} MB/s)", last=True)

    def _rate(self) -> float:
        """Bytes a second."""
        return max(self._position - self._skipped, 0) / max(time.monotonic() - self._begin, 1e-9)
