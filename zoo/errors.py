"""Errors a user can mend (what was wrong, what was found, what would work), and how every command starts and ends."""

from __future__ import annotations

import difflib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class ZooError(Exception):
    """A mistake in the input, the configuration or the surroundings, said in one screen.

    The message says what was wrong, where it was found and what would work. Commands print it as
    their last output and exit with code 2; a traceback is for our own mistakes only.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if not close:  # the last part alone often carries the typing mistake
        tails = {option.rsplit(".", 1)[-1]: option for option in options}
        tail = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.5)
        close = [tails[tail[0]]] if tail else []
    return f" Did you mean {close[0]!r}?" if close else ""


def for_terminal(text: str) -> str:
    """A text of a user or a file as a terminal may show it: marks that steer the terminal are written as escapes."""
    return "".join(mark if mark.isprintable() or mark == "\n" else ascii(mark)[1:-1] for mark in text)


_IN_WORDS = {
    errno.ENOENT: "does not exist",
    errno.EACCES: "must not be read or written by this user: change its permissions, or name another",
    errno.EPERM: "must not be changed by this user: name another place",
    errno.EROFS: "lies on a file system that can only be read: name another place",
    errno.EISDIR: "is a folder, and a file is needed",
    errno.ENOTDIR: "cannot be: a part of the path is a file, no folder",
    errno.EEXIST: "exists already: name another place, or move it away",
    errno.ENAMETOOLONG: "has a name that is too long for this file system: name a shorter one",
    errno.ELOOP: "is a link that leads back to itself",
    errno.EIO: "cannot be read or written: the disk reports an error",
    errno.EMFILE: "cannot be opened: this user has too many files open (`ulimit -n` shows how many may be)",
    errno.ESTALE: "is gone: the network folder that it lay in has changed",
}


def file_problem(error: OSError) -> ZooError | None:
    """What is wrong with a file or the disk, with its path and in words; ``None`` for an error that names no file."""
    where = for_terminal(str(error.filename))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        named = f" ({where})" if error.filename else ""
        return ZooError(
            f"the disk is full{named}. What was finished before stays valid: free some room "
            "and start the same command again, it continues from there."
        )
    if not error.filename:
        return None
    return ZooError(f"{where} {_IN_WORDS.get(error.errno or 0) or f'cannot be used: {error.strerror or error}'}.")


def start_process() -> None:
    """What every command does first, before anything imports torch: output that never breaks, threads that do not spin.

    Text that the output's encoding lacks is written as escapes. Threads that wait for torch's others spin only shortly,
    unless the user says how long, since beside a busy program long spinning slows both (GNU's OpenMP reads the
    variable when it is loaded).
    """
    _ensure_utf8_paths()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "2000"


def _ensure_utf8_paths() -> None:
    """Start this process anew in Python's UTF-8 mode where the locale's encoding cannot hold the name of a file.

    In an ASCII or Latin-1 locale the words of the command line, and paths that a YAML file names, would be other text
    than the same words in a file. Output keeps its encoding.
    """
    try:
        "\N{CJK UNIFIED IDEOGRAPH-6587}".encode(sys.getfilesystemencoding())
    except UnicodeEncodeError:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:backslashreplace")
        os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _leave(error: ZooError) -> NoReturn:
    """Print what went wrong and leave with exit code 2, also as a launcher's child."""
    sys.stdout.flush()
    print(f"\nerror: {for_terminal(str(error))}", file=sys.stderr)
    if os.environ.keys() & {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}:
        print(
            "(The launcher now shows a traceback of its own, which only says that this process ended with code 2; "
            "`accelerate launch --quiet` leaves it out for one process.)",
            file=sys.stderr,
        )
    sys.stderr.flush()
    sys.exit(2)


def run_command(command: Callable[[], int | None]) -> None:
    """Run a command line's body and turn :class:`ZooError` into a message and exit code 2."""
    start_process()
    try:
        code = command()
    except ZooError as error:
        _leave(error)
    except BrokenPipeError:  # `zoo list | head`: the reader has seen enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        problem = file_problem(error)
        if problem is None:
            raise  # not about a file that the user named: a mistake of ours
        _leave(problem)
    except KeyboardInterrupt:
        print("\ninterrupted: start the same command again to continue.", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)
