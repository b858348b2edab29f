"""The list of runs."""

import json
import os
import subprocess
import sys

import pytest

from zoo.cli import dispatch
from zoo.errors import ZooError


def write_run(folder, finished, train, step, tokens, lines=()):
    folder.mkdir(parents=True)
    record = {"finished": finished, "name": "mine", "config": {"train": train}, "step": step, "tokens": tokens}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines) + '{"step": 9, "lo')


def test_runs_are_listed_with_what_is_done(tmp_path, capsys):
    log = [json.dumps({"step": step, "tokens": 100 * step, "loss": 9 - step}) for step in (2, 4)]
    write_run(tmp_path / "whole", True, {"steps": 4, "tokens": None}, 4, 400, log)
    write_run(tmp_path / "half", False, {"steps": None, "tokens": 800}, 0, 0, log)
    write_run(tmp_path / "new", False, {"steps": 1000}, 0, 0)
    write_run(tmp_path / "broken\x1b[31m", False, {}, 0, 0)
    (tmp_path / "broken\x1b[31m" / "run.json").write_text("{")
    (tmp_path / "another").mkdir()
    assert dispatch(["runs", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in told.splitlines()}
    assert rows["run"] == "config steps state loss size date"
    assert rows["whole"].startswith("mine 4 of 4 finished 5.000 0.0 MB 20")
    assert rows["half"].startswith("mine 4 of about 8 not finished 5.000")
    assert rows["new"].startswith("mine 0 of 1,000 not finished 0.0 MB")
    assert "run.json is damaged" in rows["broken\\x1b[31m"]
    assert "\x1b" not in told
    assert len(rows) == 5
    assert dispatch(["runs", str(tmp_path / "whole")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("argv", [["nothing-here"], ["."], ["a", "b"], ["--all"]])
def test_where_no_runs_are(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError, match=r"zoo runs|run in it"):
        dispatch(["runs", *argv])


def test_the_list_does_without_torch(tmp_path):
    write_run(tmp_path / "runs" / "one", True, {"steps": 4}, 4, 400)
    body = "import sys; from zoo.cli import *; dispatch(['runs']); print({'torch', 'jsonargparse'} & set(sys.modules))"
    paths = os.pathsep.join(sys.path)
    argv = [sys.executable, "-c", body]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.stdout.splitlines()[-1] == b"set()", done
