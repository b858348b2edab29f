"""Answers for test rows: kept beside the scores of the model that gave them, with what decided them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.results.report import stored_result, write_predictions
from finetune.results.submission import TEST, write_submission
from finetune.training.prepared import PreparedTask
from zoo.errors import ZooError
from zoo.storage.files import read_json, write_json

ANSWERED = f"{TEST}/answered.json"
"""What is written last, in a folder of one task and seed."""


def is_answered(prepared: PreparedTask, folder: Path, fingerprint: dict[str, Any]) -> bool:
    """Whether a task's scores, and its answers for test rows where they are wanted, lie in a folder.

    Args:
        prepared: the task.
        folder: of the task and the seed.
        fingerprint: what decides its result.

    Raises:
        ZooError: what lies there is of other weights, rows or settings.
    """
    if len(prepared.data.evaluation) and stored_result(folder, fingerprint) is None:
        return False
    if prepared.data.test is None:
        return True
    if not (folder / ANSWERED).exists():
        return False
    if read_json(folder / ANSWERED).get("fingerprint") != _of_test(prepared, fingerprint):
        raise ZooError(
            f"{folder / TEST} holds predictions of other test rows, or of another model; give another --output, or "
            "delete that folder."
        )
    return True


def write_answers(prepared: PreparedTask, folder: Path, fingerprint: dict[str, Any], answers: Sequence[Any]) -> None:
    """Write ``test/predictions.tsv``, and the file that the task's site takes.

    Args:
        prepared: the task.
        folder: of the task and the seed.
        fingerprint: what decides its result.
        answers: its kind's, for the test rows.

    Raises:
        ZooError: predictions that the site would not take.
    """
    task, examples, place = prepared.task, prepared.parts["test"], folder / TEST
    place.mkdir(parents=True, exist_ok=True)
    (folder / ANSWERED).unlink(missing_ok=True)
    write_predictions(place / "predictions.tsv", *prepared.kind.written(task, examples, answers))
    path = write_submission(place, task, examples, prepared.kind.submitted(task, examples, answers))
    described = {"rows": len(examples), "file": None if path is None else path.name}
    write_json(folder / ANSWERED, {**described, "fingerprint": _of_test(prepared, fingerprint)})


def _of_test(prepared: PreparedTask, fingerprint: dict[str, Any]) -> dict[str, Any]:
    return {**fingerprint, "test": prepared.parts["test"].digest()}
