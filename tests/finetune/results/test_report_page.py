"""The report of several tasks: averages by each benchmark's rule, outside lines, the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from finetune.data.tasks import shipped_tasks
from finetune.kinds.base import open_kind
from finetune.results.averages import averages, outside_lines
from finetune.results.report import Result, write_report
from zoo.settings.yaml_files import shipped_configs

GLUE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


def scored(seeds: tuple[int, ...] = (1, 2), **tasks: dict[str, float]) -> dict[str, dict[int, dict[str, float]]]:
    return {
        name.replace("_", "-"): {seed: {m: v + seed - 1 for m, v in own.items()} for seed in seeds}
        for name, own in tasks.items()
    }


FULL = {
    "cola": {"matthews": 10.0},
    "sst2": {"accuracy": 20.0},
    "mrpc": {"f1": 30.0, "accuracy": 50.0},  # 40
    "stsb": {"pearson": 40.0, "spearman": 60.0},  # 50
    "qqp": {"f1": 50.0, "accuracy": 70.0},  # 60
    "mnli": {"accuracy": 70.0},
    "qnli": {"accuracy": 80.0},
    "rte": {"accuracy": 90.0},
    "wnli": {"accuracy": 30.0},
}


def test_glue_s_average_is_over_its_nine_tasks() -> None:
    assert [task.name for task in shipped_tasks().values() if "glue" in task.groups and not task.model_of] == GLUE
    (found,) = averages(shipped_tasks(), scored(**FULL))
    assert (found.group, found.n, found.lacking) == ("glue", 2, ())
    assert found.mean == pytest.approx((10 + 20 + 40 + 50 + 60 + 70 + 80 + 90 + 30) / 9 + 0.5)
    assert found.sd == pytest.approx(0.5**0.5)


def test_mnli_s_two_sets_are_averaged_first_and_ax_is_not_counted() -> None:
    both = {**FULL, "mnli_mm": {"accuracy": 60.0}, "ax": {"matthews": 0.0}}
    (found,) = averages(shipped_tasks(), scored((1,), **both))
    assert found.mean == pytest.approx((10 + 20 + 40 + 50 + 60 + 65 + 80 + 90 + 30) / 9)
    assert found.sd is None
    assert found.note == "mean over 9 tasks; mnli with mnli-mm"


def test_no_average_without_every_task() -> None:
    without = {name: own for name, own in FULL.items() if name != "wnli"}
    (found,) = averages(shipped_tasks(), scored(**without))
    assert found.mean is None
    assert found.lacking == ("wnli",)
    assert averages(shipped_tasks(), scored(cola={"matthews": 1.0})) == []  # nobody meant the benchmark
    extra = {name: {"accuracy": 1.0} for name, task in shipped_tasks().items() if "superglue" in task.groups}
    assert averages(shipped_tasks(), scored(**extra)) == []  # two of its eight tasks are no benchmark


def test_seeds_that_some_task_lacks_do_not_count() -> None:
    scores = scored((1, 2, 3), **FULL)
    del scores["rte"][3]
    (found,) = averages(shipped_tasks(), scores)
    assert found.n == 2


def test_averaged_metrics_are_the_tasks_own() -> None:
    for task in shipped_tasks().values():
        assert set(task.average) <= set(open_kind(task).metrics(task)), task.name
        assert task.averaged_into is None or task.averaged_into in shipped_tasks()


def test_published_scores_name_known_tasks_and_metrics_and_their_source() -> None:
    told = yaml.safe_load((shipped_configs() / "benchmarks.yaml").read_text(encoding="utf-8"))
    assert set(told["averaged"]) <= {group for task in shipped_tasks().values() for group in task.groups}
    for entry in told["published"]:
        assert entry.keys() == {"model", "source", "split", "training", "scores"}
        for task, own in entry["scores"].items():
            known = open_kind(shipped_tasks()[task]).metrics(shipped_tasks()[task])
            assert set(own) <= set(known), (entry["model"], task)
    lines = outside_lines([("sst2", "accuracy"), ("mine", "accuracy")])
    assert [(line.task, line.score) for line in lines] == [("sst2", 83.2), ("sst2", 85.9)]


class Texts(HTMLParser):
    """The visible words of a page, and whether anything is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe"):
            self.fetched.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def result(task: str, seed: int, score: float, **more: object) -> Result:
    made = Result(task, seed, {"accuracy": score}, {"accuracy": 0.6}, 100, 3000, 2, 0.0, 10, [0.5], {})
    return replace(made, **more)


def test_the_page_shows_scores_floors_and_others_and_fetches_nothing(tmp_path: Path) -> None:
    timing = {"seconds": 12.5, "peak_mb": 640.0}
    results = [result("sst2", seed, 0.7 + seed / 100, timing=timing) for seed in (1, 2)]
    results.append(result("mine<b>", 1, 0.5, random={"accuracy": 0.25}))
    text = write_report(tmp_path, "runs/<x>", {"lr": 0.1}, results, shipped_tasks())
    assert "random" in text
    page = (tmp_path / "results.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    read = Texts()
    read.feed(page)
    words = re.sub(r"\s+", " ", " ".join(read.words))
    assert read.fetched == []
    assert "71.50" in words
    assert "25.00" in words
    assert "12.5" in words
    assert "Turc et al. 2019" in words
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [line["score"] for line in kept["outside"]] == [83.2, 85.9]
    markdown = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "Published scores of other models:" in markdown
    assert "full training sets" in markdown
