"""How every command starts: output that never breaks, names of files that are one text, threads that spin shortly."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.errors import file_problem, for_terminal

ROOT = Path(__file__).parents[2]
TEXT = "北京 → é"
# Not part of the environment unless a test says so.
LOCALE = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE", "OMP_WAIT_POLICY")


def started(body: str, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command whose body is ``body``, run in an environment of its own."""
    clean = {key: value for key, value in os.environ.items() if key not in LOCALE}
    program = f"import os, sys, json\nfrom zoo.errors import *\ndef main():\n    {body}\nrun_command(main)"
    argv = [sys.executable, "-c", program, *words]
    return subprocess.run(argv, capture_output=True, env={**clean, "PYTHONPATH": str(ROOT), **environment})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk", "utf-8", "utf-8:strict"])
def test_output_holds_in_any_encoding(encoding):
    done = started(f"print({TEXT!r}, chr(0xdce4)); raise ZooError({TEXT!r})", PYTHONIOENCODING=encoding)
    assert done.returncode == 2, done.stderr
    name = encoding.partition(":")[0]
    assert TEXT.encode(name, "backslashreplace") in done.stdout
    assert b"Traceback" not in done.stderr


NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_words_and_files_are_utf8_in_a_locale_that_has_only_ascii(tmp_path):
    path = tmp_path / "语料.txt"
    path.write_text("a text", encoding="utf-8")
    body = "print(json.dumps([sys.argv[1:], open(sys.argv[1], encoding='utf-8').read(), sys.stdout.encoding]))"
    done = started(body, str(path), "任务", **NO_UTF8)
    assert done.returncode == 0, done.stderr
    words, text, encoding = json.loads(done.stdout)
    assert words == [str(path), "任务"]
    assert text == "a text"
    assert encoding in ("ascii", "ANSI_X3.4-1968", "us-ascii")  # the terminal's own stays


def test_waiting_threads_spin_shortly_unless_the_user_says_how_long():
    body = "print(os.environ.get('GOMP_SPINCOUNT'))"
    assert started(body).stdout.split() == [b"2000"]
    assert started(body, OMP_WAIT_POLICY="active").stdout.split() == [b"None"]
    assert started(body, GOMP_SPINCOUNT="7").stdout.split() == [b"7"]


def test_the_short_spin_reaches_the_library():
    shown = started("import torch", OMP_DISPLAY_ENV="verbose").stderr.decode()
    if "OPENMP DISPLAY" not in shown or "GOMP_SPINCOUNT" not in shown:
        pytest.skip("this torch has another OpenMP library")
    assert "GOMP_SPINCOUNT = '2000'" in shown


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOENT, "/a/b does not exist."),
        (errno.EACCES, "/a/b must not be read or written by this user"),
        (errno.EISDIR, "/a/b is a folder"),
        (errno.ENOTDIR, "/a/b cannot be: a part of the path is a file"),
        (errno.EROFS, "/a/b lies on a file system that can only be read"),
        (errno.ENOSPC, "the disk is full (/a/b)"),
        (errno.EBUSY, f"/a/b cannot be used: {os.strerror(errno.EBUSY)}"),
    ],
)
def test_a_files_problem_is_said_in_words(number, message):
    problem = file_problem(OSError(number, os.strerror(number), "/a/b"))
    assert str(problem).startswith(message)
    assert "Errno" not in str(problem)


def test_what_is_wrong_with_no_file_is_a_mistake_of_ours():
    assert file_problem(OSError(errno.EPIPE, "broken")) is None
    assert "\x1b" not in str(file_problem(OSError(errno.ENOENT, "", "a\x1b[31m")))


def test_what_a_user_wrote_does_not_steer_the_terminal():
    assert for_terminal("a\x1b[31m\u202e\tb\nc 北") == "a\\x1b[31m\\u202e\\tb\nc 北"
    told = started("raise ZooError('unknown key \\x1b]0;x\\x07')").stderr
    assert b"\x1b" not in told
    assert b"unknown key \\x1b]0;x\\x07" in told


def test_a_launchers_own_traceback_is_explained():
    launched = started("raise ZooError('wrong')", ACCELERATE_MIXED_PRECISION="no")
    assert launched.returncode == 2
    assert b"accelerate launch --quiet" in launched.stderr
    assert b"launcher" not in started("raise ZooError('wrong')").stderr


ENTRIES = ["zoo.cli", "pretraining.__main__", "finetune.__main__", "ablation.__main__"]


def test_commands_start_before_anything_heavy_is_imported():
    heavy = {"torch", "transformers", "datasets", "pyarrow", "sklearn"}
    body = f"import sys, importlib; [importlib.import_module(m) for m in {ENTRIES}]; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.split() == [b"set()"], done


def test_every_program_is_a_command_or_a_worker_of_one():
    workers = {"zoo/runtime/pool_server.py", "pretraining/store/workers.py"}  # of commands, whose environment they have
    programs = {}
    for package in ("zoo", "pretraining", "finetune", "ablation"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if any(isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in ast.parse(text).body):
                programs[path.relative_to(ROOT).as_posix()] = "run_command(" in text
    assert {name for name, command in programs.items() if not command} == workers
    assert {name.removesuffix(".py").replace("/", ".") for name in programs} >= set(ENTRIES)
