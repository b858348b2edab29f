"""Jobs handed to submitit, here to its local executor: files in, files out, failures named."""

import json
import sys

import pytest

from zoo.errors import ZooError
from zoo.runtime.pool import Job
from zoo.runtime.submitted import make_executor, run_job_file, run_submitted

LOCAL = {"cluster": "local", "timeout_min": 5}
WRITE = "import os, sys; print('said', os.environ['WORD']); open(sys.argv[1], 'w').write(os.environ['WORD'])"


def job(folder, name, code=WRITE):
    done = folder / "arms" / f"{name}.json"
    return Job(name, (sys.executable, "-c", code, str(done)), done, done.with_suffix(".log"), {"WORD": name})


def test_jobs_are_run_from_files_and_what_is_done_is_left(tmp_path):
    pytest.importorskip("submitit")
    jobs = [job(tmp_path, "a"), job(tmp_path, "b"), job(tmp_path, "c", "import sys; sys.exit('no such corpus')")]
    jobs[0].done.parent.mkdir()
    jobs[0].done.write_text("before")
    lines = []
    executor = make_executor(LOCAL, tmp_path / "submitit", "trial")
    with pytest.raises(ZooError, match=r"1 job failed \(c\); what is finished stays.*\n.*\n.*no such corpus"):
        run_submitted(jobs, executor, 1, lines.append)
    assert [one.done.read_text() for one in jobs[:2]] == ["before", "b"]
    assert jobs[1].log.read_text() == "said b\n"
    assert json.loads(jobs[1].done.with_suffix(".job").read_text())["argv"] == list(jobs[1].argv)
    assert [line.split(":")[0] for line in lines] == ["b", "b", "c", "c"]
    outcomes = run_submitted(jobs[:2], executor, 2, lines.append)
    assert [(outcome.job.name, outcome.skipped) for outcome in outcomes] == [("a", True), ("b", True)]


def test_a_job_file_is_all_that_a_machine_needs(tmp_path):
    one = job(tmp_path, "a")
    one.done.parent.mkdir()
    file = tmp_path / "a.job"
    described = {"argv": one.argv, "log": str(one.log), "environment": one.environment, "folder": str(tmp_path)}
    file.write_text(json.dumps(described))
    assert run_job_file(str(file)) == 0
    assert one.done.read_text() == "a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": "local"}, "submit.timeout_min is missing: minutes"),
        ({**LOCAL, "cluster": "slrum"}, "submit: .*slrum"),
        ({**LOCAL, "slurm_partion": "gpu"}, "submit: .*partion.*Valid arguments: .*partition"),
        ({**LOCAL, "gpus_per_node": "two"}, 'submit: .*"gpus_per_node" expected type'),
        ({"timeout_min": 5}, "submit: .*slurm.*submit.cluster: local tries it on this machine"),
    ],
)
def test_what_cannot_be_submitted_is_said(tmp_path, settings, message, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")  # no SLURM here
    with pytest.raises(ZooError, match=message):
        make_executor(settings, tmp_path, "trial")


def test_submitit_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ZooError, match=r"needs submitit, which is not installed: `pip install submitit`"):
        make_executor(LOCAL, tmp_path, "trial")
