"""What a job pool runs, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One command.

    Args:
        name: shown on the progress line and in errors.
        argv: the command, for example ``(sys.executable, "-m", "finetune", ...)``.
        done: file that exists when the job is finished, and not before; such jobs are skipped.
        log: file that takes the job's output.
        environment: variables laid over this process's own.
    """

    name: str
    argv: tuple[str, ...]
    done: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its exit code; 0 with ``skipped`` where it had been finished before."""

    job: Job
    code: int
    skipped: bool = False
