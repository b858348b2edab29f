"""The job pool: skipping, failing, and above all that no job outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

from zoo.errors import ZooError
from zoo.runtime.pool import Job, Outcome, run_pool


@pytest.fixture(params=["fresh", "warm"])
def pool(request, tmp_path: Path, monkeypatch):
    """``run_pool`` with new programs, and with forks of a warm server; jobs run a piece of code."""
    (tmp_path / "jobcode.py").write_text("import sys; code = sys.argv[1]; exec(code)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")

    def run(jobs: list[Job], at_once: int, show=lambda _: None) -> list[Outcome]:
        return run_pool(jobs, at_once, "test", show, warm=["json"] if request.param == "warm" else [])

    return run


def job(folder: Path, name: str, code: str) -> Job:
    text = f"import os, sys, time, pathlib; done = pathlib.Path(r'{folder / name}')\n{code}"
    return Job(name, (sys.executable, "-m", "jobcode", text), folder / name, folder / f"{name}.log", {"NAME": name})


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_jobs_run_and_finished_ones_are_skipped(tmp_path: Path, pool) -> None:
    (tmp_path / "b").write_text("from before")
    jobs = [job(tmp_path, name, "done.write_text(os.environ['NAME'] + ' now')") for name in "abc"]
    lines: list[str] = []
    outcomes = pool(jobs, 2, lines.append)
    assert [(o.job.name, o.code, o.skipped) for o in outcomes] == [("a", 0, False), ("b", 0, True), ("c", 0, False)]
    assert [(tmp_path / name).read_text() for name in "abc"] == ["a now", "from before", "c now"]
    assert lines[-1].startswith("test: 3/3 done, 1 of them before")


def test_at_most_so_many_run_at_once_and_really_together(tmp_path: Path, pool) -> None:
    code = (
        "done.with_suffix('.on').touch(); count = lambda end: len(list(done.parent.glob('*.' + end)))\n"
        "end = time.monotonic() + 20\n"
        "while count('on') < 2 and time.monotonic() < end: time.sleep(0.01)\n"  # the first two wait for each other
        "time.sleep(0.3); seen = count('on') - count('off')\n"
        "done.with_suffix('.off').touch(); done.write_text(str(seen))"
    )
    pool([job(tmp_path, name, code) for name in "abcd"], 2)
    assert max(int((tmp_path / name).read_text()) for name in "abcd") == 2


def test_failures_do_not_stop_the_others_and_are_told_with_the_log(tmp_path: Path, pool) -> None:
    jobs = [
        job(tmp_path, "bad", "print('the reason'); sys.exit(3)"),
        job(tmp_path, "good", "done.touch()"),
        job(tmp_path, "forgetful", "pass"),
        job(tmp_path, "raising", "raise ValueError('a bug')"),
    ]
    with pytest.raises(ZooError, match="3 jobs failed") as caught:
        pool(jobs, 1)
    text = str(caught.value)
    assert "bad: exit code 3" in text
    assert "the reason" in text
    assert "ValueError: a bug" in text
    assert "forgetful: ended without writing" in text
    assert (tmp_path / "good").exists()
    with pytest.raises(ZooError, match="leave the same file"):
        run_pool([jobs[0], jobs[0]], 1)
    with pytest.raises(ZooError, match="at least 1"):
        run_pool(jobs, 0)


def test_logs_are_utf8_whatever_the_terminal_has(tmp_path: Path, pool, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    pool([job(tmp_path, name, "print('北京'); done.touch()") for name in "ab"], 1)
    assert (tmp_path / "a.log").read_text(encoding="utf-8") == "北京\n"


def test_a_job_that_cannot_start_ends_the_others(tmp_path: Path) -> None:
    code = f"import os, time; open(r'{tmp_path}/pid', 'w').write(str(os.getpid())); time.sleep(300)"
    forever = Job("forever", (sys.executable, "-S", "-c", code), tmp_path / "f", tmp_path / "f.log")
    broken = Job("broken", (str(tmp_path / "no-such-program"),), tmp_path / "x", tmp_path / "x.log")
    with pytest.raises(FileNotFoundError):
        run_pool([forever, broken], 2, show=lambda _: None)
    assert not (tmp_path / "pid").exists() or not alive(int((tmp_path / "pid").read_text() or 0))


def test_a_warm_pool_says_when_its_server_cannot_start(tmp_path: Path, capfd) -> None:
    jobs = [job(tmp_path, name, "pass") for name in "ab"]
    with pytest.raises(ZooError, match="server ended with exit code 1"):
        run_pool(jobs, 2, show=lambda _: None, warm=["no_such_module"])
    assert "no_such_module" in capfd.readouterr().err
    with pytest.raises(ZooError, match="a warm pool runs"):
        run_pool([Job(n, ("echo",), tmp_path / n, tmp_path / "l") for n in "ab"], 1, warm=["json"])


POOL = """
import sys
from pathlib import Path
from zoo.runtime.pool import Job
from zoo.runtime.pool import NO_THREADS, run_pool
folder, warm = Path(sys.argv[1]), sys.argv[2:]
child = "import os, subprocess, sys, time, pathlib; p = pathlib.Path(sys.argv[-1]); " \\
    "g = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(300)']); " \\
    "(p.parent / (p.name + '.tmp')).write_text(f'{os.getpid()} {g.pid}'); " \\
    "(p.parent / (p.name + '.tmp')).rename(p.with_suffix('.pid')); time.sleep(300)"
argv = [(sys.executable, "-m", "jobcode", child, str(folder / n)) for n in "ab"]
run_pool([Job(n, argv[i], folder / n, folder / (n + ".log")) for i, n in enumerate("ab")], 2, warm=warm)
"""


@pytest.mark.parametrize("warm", [[], ["json"]], ids=["fresh", "warm"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1), (signal.SIGKILL, -9)], ids=["term", "int", "kill"]
)
def test_no_job_outlives_the_pool(tmp_path: Path, number: signal.Signals, code: int, warm: list[str]) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("PDEATHSIG is Linux's")
    (tmp_path / "jobcode.py").write_text("import sys; code = sys.argv[1]; exec(code)", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    argv = [sys.executable, "-c", POOL, str(tmp_path), *warm]
    pool = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    pids: list[list[int]] = []
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        pids = [[int(pid) for pid in path.read_text().split()] for path in tmp_path.glob("*.pid")]
        assert all(alive(pid) for pair in pids for pid in pair)
        os.kill(pool.pid, number)
        assert pool.wait(timeout=30) in (code, -number)
        wait_for(lambda: not any(alive(child) for child, _ in pids))
        if number != signal.SIGKILL:  # a job's own children are in its group, which the pool ends
            wait_for(lambda: not any(alive(grandchild) for _, grandchild in pids))
    finally:
        for pid in (pid for pair in pids for pid in pair):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        if pool.poll() is None:
            pool.kill()
