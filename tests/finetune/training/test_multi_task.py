"""Several tasks under one core: which batches an epoch has, all kinds together, the same result after a kill."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kind_toys import CHOICES, SPANS, TAGS, VALUES, make_kinds
from toys import PAIR, POOLED, SINGLE, Share, make_data, make_model

from finetune.__main__ import main
from finetune.config import FinetuneSettings, MixingSettings
from finetune.models.task_model import JointModel
from finetune.training.loop import Checkpoints, Course, predict, step_loss, train
from finetune.training.prepared import PreparedTask
from finetune.training.processes import ALONE
from finetune.training.run import MODEL, Training, finetune, run_training
from zoo.errors import ZooError
from zoo.runtime.progress import Progress

SETTINGS = FinetuneSettings(lr=2e-3, epochs=2, batch_size=16, limit=96, multi_task="only")
SILENT = Progress("", False)
EVERY = [SINGLE, PAIR, TAGS, SPANS, CHOICES, VALUES]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kinds(make_data(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model", POOLED)


def course(folder: Path, data: Path, tasks: Any = (SINGLE, TAGS, PAIR), **changes: Any) -> Course:
    settings = dataclasses.replace(SETTINGS, **changes)
    return Course([PreparedTask(folder, task, data, settings) for task in tasks])


def joint(trained: Course, seed: int = 1) -> JointModel:
    first, *others = trained.tasks
    model: Any = first.model(seed)
    heads: Any = {one.task.name: one.headed(model.core, seed) for one in others}
    return JointModel({first.task.name: model, **heads}, whole=True)


# --- which batches ---------------------------------------------------------------------------------------------


def test_an_epoch_has_every_row_once_and_mixes_the_tasks(folder: Path, data: Path) -> None:
    trained = course(folder, data)
    for epoch in (0, 1):
        steps = trained.epoch(3, epoch)
        for task in trained.tasks:
            rows = np.concatenate([rows for one, rows in steps if one is task])
            assert sorted(rows) == list(range(len(task.train)))
        assert len({one.task.name for one, _ in steps[:6]}) > 1
    names = [[one.task.name for one, _ in trained.epoch(3, epoch)] for epoch in (0, 1, 0)]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize(
    ("mixing", "shares"),
    [
        (MixingSettings(), [20, 2, 4]),
        (MixingSettings(cap=32), [2, 2, 2]),
        (MixingSettings(power=0.0), [9, 9, 9]),
        (MixingSettings(power=0.5), [15, 5, 7]),
    ],
)
def test_shares_are_capped_and_tempered(folder: Path, data: Path, mixing: MixingSettings, shares: list[int]) -> None:
    trained = course(folder, data, (SINGLE, VALUES, PAIR), limit=None, mixing=mixing)
    tasks = list(trained.tasks)
    tasks[2] = PreparedTask(folder, PAIR, data, dataclasses.replace(SETTINGS, limit=64, mixing=mixing))
    assert Course(tasks).shares() == shares


def test_what_an_epoch_leaves_the_next_one_reads(folder: Path, data: Path) -> None:
    trained = course(folder, data, mixing=MixingSettings(cap=32))
    steps = [step for epoch in range(3) for step in trained.epoch(1, epoch)]
    rows = np.concatenate([rows for one, rows in steps if one.task is SINGLE])
    assert sorted(rows) == list(range(96))  # three epochs of two batches of 16


# --- one core, many heads --------------------------------------------------------------------------------------


def test_tasks_of_every_kind_learn_under_one_core(folder: Path, data: Path) -> None:
    trained = course(folder, data, EVERY, lr=5e-3, epochs=12, batch_size=8, limit=30)
    model = joint(trained)
    state = train(model, trained, 1, ALONE, SILENT)
    assert state.losses[-1] < 0.35 * state.losses[0]
    for task in trained.tasks:
        assert model.of(task.task.name).core is model.core
        own = dataclasses.replace(task.data, evaluation=task.data.train)
        found = PreparedTask(folder, task.task, own, task.settings)
        scores = found.kind.scores(task.task, own.evaluation, predict(model, found))
        floor = found.kind.floors(task.task, own.train, own.evaluation)["majority"]
        name = next(iter(scores))
        assert scores[name] > floor[name] + 0.15, (task.task.name, scores, floor)


def test_a_step_trains_the_core_and_one_head(folder: Path, data: Path) -> None:
    trained = course(folder, data, (TAGS, SINGLE))
    model = joint(trained)
    assert model.core.pooler is not None
    assert model.core.pooler.weight.requires_grad  # one of the two reads it
    for task in trained.tasks:
        model.zero_grad()
        model.task = task.task.name
        step_loss(model, task, np.arange(8), (1, 0), ALONE).backward()
        heads = [head for head, module in model.heads.items() if any(p.grad is not None for p in module.parameters())]
        assert heads == [str(list(trained.tasks).index(task))]
        assert model.core.token_embedding.grad is not None
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    assert sum(name.startswith("core.") for name in names) == len(list(model.core.named_parameters()))
    assert set(model.state_dict()) >= set(names)
    assert not any(name.startswith("_models") for name in model.state_dict())


def test_shares_of_a_batch_add_up(folder: Path, data: Path) -> None:
    trained = course(folder, data, (TAGS, PAIR), classifier_dropout=0.0)
    model = joint(trained)
    for task in trained.tasks:
        model.task = task.task.name
        whole = step_loss(model, task, np.arange(7), (1, 5), ALONE)
        parts = [step_loss(model, task, np.arange(7), (1, 5), Share(rank, 2)) for rank in (0, 1)]
        torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-5, atol=1e-5)


class Killed(Exception):
    """What stands for a kill."""


class KillAfter(Checkpoints):
    """A checkpoint at every step, and an end after some of them."""

    left = 0

    def due(self) -> bool:
        return True

    def save(self, *arguments: Any, **named: Any) -> None:
        super().save(*arguments, **named)
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("stop", [1, 9])
def test_a_killed_training_goes_on_to_the_same_result(stop: int, folder: Path, data: Path, tmp_path: Path) -> None:
    trained = course(folder, data, mixing=MixingSettings(cap=40, power=0.7))
    whole = joint(trained)
    straight = train(whole, trained, 1, ALONE, SILENT)
    kills = KillAfter(tmp_path, {"of": "this"}, 1.0)
    kills.left = stop
    with pytest.raises(Killed):
        train(joint(trained), trained, 1, ALONE, SILENT, kills)
    again = joint(trained)
    resumed = train(again, trained, 1, ALONE, SILENT, Checkpoints(tmp_path, {"of": "this"}, 0.0))
    assert resumed.step == straight.step
    np.testing.assert_allclose(resumed.losses, straight.losses, rtol=1e-6)
    pairs = zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("use", ["probe", "lora"])
def test_a_core_that_stays_stays_for_all(use: Any, folder: Path, data: Path, tmp_path: Path) -> None:
    if use == "lora":
        pytest.importorskip("peft")
    trained = course(folder, data, (SINGLE, TAGS), use=use)
    runs = [Training(one, tmp_path / one.task.name) for one in trained.tasks]
    results = run_training(runs, 1, tmp_path / "both", progress=False, save_model=True)
    assert [result.task for result in results] == ["mood", "tags"]
    before = PreparedTask(folder, SINGLE, data, FinetuneSettings()).model(1).core
    kept = [PreparedTask(run.folder / MODEL, SINGLE, data, FinetuneSettings()).model(1).core for run in runs]
    same = [torch.equal(*(c.state_dict()["layers.0.attention.query.weight"] for c in (before, one))) for one in kept]
    assert same == [use == "probe"] * 2
    assert all(torch.equal(*pair) for pair in zip(*(c.state_dict().values() for c in kept), strict=True))


# --- the command -----------------------------------------------------------------------------------------------

TASKS = """
- {name: mood, columns: [text], labels: [neg, pos]}
- {name: colour, columns: [a, b], labels: [other, same]}
- {name: tags, columns: [text], labels: [A, B], kind: finetune.kinds.Tagging, max_length: 8}
"""


@pytest.fixture
def command(folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "tasks.yaml").write_text(TASKS)
    fixed = {"model": folder, "data": data, "task_file": tmp_path / "tasks.yaml", "output": tmp_path / "out"}
    fixed |= {"tasks": "mood,colour,tags", "seeds": 1, "epochs": 1, "limit": 48, "progress": "false"}
    monkeypatch.setattr("zoo.runtime.processes.start_processes", lambda *_: None)

    def run(**changes: Any) -> int:
        words = [text for key, value in (fixed | changes).items() for text in (f"--{key}", str(value))]
        monkeypatch.setattr("sys.argv", ["finetune", *words])
        return main()

    return run


def test_one_command_trains_all_and_says_so(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(multi_task="only", save_model="true")
    told = capsys.readouterr().out
    assert all(f"{name} (multi-task)" in told for name in ("mood", "colour", "tags"))
    assert "under one core, with a head each: mood, colour, tags" in told
    results = [json.loads((tmp_path / "out" / t / "seed-1" / "result.json").read_text()) for t in ("mood", "tags")]
    assert [one[0] for one in results[0]["fingerprint"]["together"]] == ["mood", "colour", "tags"]
    assert results[0]["steps"] == results[1]["steps"] == 2 + 2 + 3  # tags are read in windows
    monkeypatch.setattr("finetune.training.run.train", lambda *_: pytest.fail("it was finished"))
    command(multi_task="only", save_model="true")
    assert capsys.readouterr().out == told
    with pytest.raises(ZooError, match=r"differs in: .*together"):
        command(multi_task="only", tasks="mood,colour")


def test_each_task_alone_from_the_core_of_all(
    command: Any, folder: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    command(multi_task="first")
    assert "tags (multi-task first)" in capsys.readouterr().out
    start = tmp_path / "out" / "multi-task" / "seed-1" / "tags" / "model"
    settings = FinetuneSettings(epochs=1, limit=48, multi_task="first")
    alone = finetune(folder, TAGS, data, 1, settings, tmp_path / "alone", progress=False, start=start)
    found = json.loads((tmp_path / "out" / "tags" / "seed-1" / "result.json").read_text())
    assert found["train_loss"] == alone.train_loss
    assert "together" not in found["fingerprint"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"multi_task": "only", "tasks": "mood"}, "needs several tasks"),
        ({"multi_task": "only", "patience": 2}, "multi_task and patience do not go together"),
        ({"multi_task": "first", "from_task": "mood"}, "multi_task and from_task do not go together"),
        ({"multi_task": "only", "use": "features"}, "one core for all tasks"),
        ({"multi_task": "only", "jobs": 2}, "leave --jobs out"),
        ({"multi_task": "only", "mixing.power": 1.5}, r"mixing\.power = 1\.5"),
    ],
)
def test_what_does_not_go_together_is_refused(command: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ZooError, match=told):
        command(**changes)


def test_marks_that_are_new_tokens_are_refused(command: Any, tmp_path: Path, data: Path) -> None:
    rows = [{"text": "good a", "label": "pos", "head": [[0, 4]]}, {"text": "bad b", "label": "neg", "head": [[0, 3]]}]
    folder = tmp_path / "marked"
    folder.mkdir()
    for part in ("train", "dev"):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "more.yaml").write_text(
        TASKS + '- {name: marked, columns: [text], labels: [neg, pos], marks: {head: ["[HD]", "[HD]"]}, '
        f"folders: [{folder}]}}\n"
    )
    with pytest.raises(ZooError, match="the marks of task"):
        command(multi_task="only", tasks="mood,marked", task_file=tmp_path / "more.yaml")


def test_answers_alone_come_from_the_kept_models(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs(test: bool) -> list[Training]:
        found = []
        for task in (SINGLE, TAGS):
            prepared = PreparedTask(folder, task, data, SETTINGS)
            if test:
                more = dataclasses.replace(prepared.data, test=prepared.data.evaluation)
                prepared = PreparedTask(folder, task, more, SETTINGS)
            found.append(Training(prepared, tmp_path / task.name))
        return found

    place = tmp_path / "both"
    before = run_training(runs(False), 1, place, progress=False, save_model=True)
    with monkeypatch.context() as patch:
        patch.setattr("finetune.training.run.train", lambda *_: pytest.fail("it was trained again"))
        assert run_training(runs(True), 1, place, progress=False) == before
    for task in (SINGLE, TAGS):
        own = tmp_path / task.name
        assert (own / "test" / "predictions.tsv").read_text() == (own / "predictions.tsv").read_text()
