"""Jobs of a pool on a cluster: submitit hands each to SLURM, and the pool waits for the file that it leaves.

submitit is the launcher only. What it pickles is this module's name and the path of a JSON file, which is the job. What
it pickles of the end is not read.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.runtime.pool import NOT_DONE, Job, Outcome, ended_by_signals, make_room, raise_failures
from zoo.storage.files import read_json, write_json

_POLL = 0.5
_CLUSTER = "cluster"


def make_executor(settings: dict[str, Any], folder: Path, name: str) -> Any:
    """What submits jobs, as submitit has it.

    Args:
        settings: ``cluster`` (``slurm``, or ``local`` for trying), ``timeout_min``, and whatever else submitit's
            ``AutoExecutor.update_parameters`` takes (``gpus_per_node``, ``cpus_per_task``, ``slurm_partition``, ...).
        folder: takes submitit's own files.
        name: of the jobs.

    Raises:
        ZooError: submitit or the cluster is not there, or a setting is none of submitit's.
    """
    try:
        import submitit
    except ImportError as error:
        raise ZooError(
            "`submit` needs submitit, which is not installed: `pip install submitit` brings it. Without `submit` the "
            "runs are started on this machine."
        ) from error
    if not settings.get("timeout_min"):
        raise ZooError("submit.timeout_min is missing: minutes after which the cluster ends a run, such as 720.")
    others = {key: value for key, value in settings.items() if key != _CLUSTER}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=settings.get(_CLUSTER, "slurm"))
        executor.update_parameters(name=name, **others)
    except (ValueError, RuntimeError, NameError, TypeError, AssertionError) as error:
        said = " ".join(str(error).split())
        raise ZooError(f"submit: {said[:600]} (submit.cluster: local tries it on this machine).") from error
    return executor


def run_submitted(jobs: Sequence[Job], executor: Any, at_once: int, show: Callable[[str], None]) -> list[Outcome]:
    """Submit what is not finished, wait, and say what failed, as :func:`zoo.runtime.pool.run_pool` does.

    A signal that ends the waiting cancels the jobs.

    Args:
        jobs: what to run.
        executor: from :func:`make_executor`.
        at_once: jobs that are submitted at the same time.
        show: takes a line whenever a job is submitted or ends.

    Raises:
        ZooError: jobs failed, or ended without their ``done`` file.
    """
    waiting = [job for job in jobs if not job.done.exists()]
    outcomes = [Outcome(job, 0, skipped=True) for job in jobs if job not in waiting]
    running: dict[str, tuple[Job, Any]] = {}
    with ended_by_signals():
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[job.name] = (job, executor.submit(run_job_file, str(_write(job))))
                    show(f"{job.name}: submitted as {running[job.name][1].job_id}")
                for job, submitted in list(running.values()):
                    if submitted.done():
                        del running[job.name]
                        outcomes.append(Outcome(job, 0 if job.done.exists() else NOT_DONE))
                        show(
                            f"{job.name}: {'finished' if job.done.exists() else 'failed'}, {len(outcomes)}/{len(jobs)}"
                        )
                time.sleep(_POLL)
        finally:
            for _, submitted in running.values():
                submitted.cancel(check=False)
    raise_failures([outcome for outcome in outcomes if outcome.code != 0])
    return sorted(outcomes, key=lambda outcome: jobs.index(outcome.job))


def _write(job: Job) -> Path:
    """The job as a file."""
    environment = make_room(job)
    job.log.unlink(missing_ok=True)
    path = job.done.with_suffix(".job")
    write_json(path, {"argv": job.argv, "log": str(job.log), "environment": environment, "folder": str(Path.cwd())})
    return path


def run_job_file(path: str) -> int:
    """Run the job that a file describes, on whichever machine; its exit code."""
    job = read_json(Path(path))
    with Path(job["log"]).open("wb") as log:
        done = subprocess.run(
            job["argv"],
            cwd=job["folder"],
            env={**os.environ, **job["environment"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    print(json.dumps({"exit code": done.returncode}), flush=True)
    return done.returncode
