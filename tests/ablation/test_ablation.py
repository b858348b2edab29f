"""The grid of arms and seeds: expansion, refusals, skipping, resuming; and the demo's command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from runs import write_run

from ablation.__main__ import main, split_grid_arguments
from ablation.config import AblationConfig, arms, build, changed_settings, load_ablation
from ablation.demo import choose_families, demo_command, take_options, with_tokens
from ablation.grid import GridCell, cells, check_primary, read_cell, settings_of
from pretraining.tools.plan import RunPlan
from pretraining.training.load_config import run_folder_of
from zoo.errors import ZooError
from zoo.sample import resolve, sample_path
from zoo.settings.yaml_files import flatten, shipped_configs

SHIPPED = sorted(path.stem for path in (shipped_configs() / "ablation").glob("*.yaml"))


def ablation(**values: object) -> AblationConfig:
    base = {
        "name": "trial",
        "primary": "validation.masked_lm",
        "changes": {
            "a": {"data": {"mask_copies": 1}},
            "b": {"data": {"mask_copies": None}, "finetune": {"tasks": "thuocl"}},
        },
        "pretrain": {"train": {"lr": 1.0, "tokens": 5}, "data": {"mask_copies": 10, "sequence_length": 64}},
        "common": {"train": {"tokens": 7}},
        "seeds": [3, 1],
        "finetune": {"tasks": "fewrel", "seeds": [1, 2]},
    }
    return build({**base, **values})


def test_arms_lay_changes_over_the_base_and_the_common_part_over_both() -> None:
    grid = arms(ablation())
    assert [(arm.name, arm.seed) for arm in grid] == [("a", 3), ("b", 3), ("a", 1), ("b", 1)]
    first, second = grid[0].values, grid[1].values
    assert first["train"] == second["train"] == {"lr": 1.0, "tokens": 7}
    assert (first["data"], second["data"]) == (
        {"mask_copies": 1, "sequence_length": 64},
        {"mask_copies": None, "sequence_length": 64},
    )
    assert first["seed"] == second["seed"] == {"init": 3, "data": 3}
    assert "finetune" not in second
    assert grid[0].finetune is not None
    assert grid[1].finetune is not None
    assert (grid[0].finetune.tasks, grid[1].finetune.tasks) == ("fewrel", "thuocl")
    assert grid[1].finetune.seeds == [1, 2]


def test_differences_name_what_an_arm_changes() -> None:
    assert changed_settings(ablation()) == {"a": [], "b": [("data.mask_copies", 1, None)]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"changse": {}}, "unknown key 'changse'.*Did you mean 'changes'"),
        ({"changes": {}}, "lacks changes"),
        ({"changes": {"a b": {}}}, "a name in changes = 'a b'"),
        ({"changes": {"../a": {}}}, "a name in changes = '../a'"),
        ({"changes": {"a": {"seed": {"init": 3}}}}, "'seed' belongs to the ablation"),
        ({"reference": "c"}, "reference = 'c' is not an arm"),
        ({"submit": "now"}, "submit = 'now'; settings of submitit are needed, such as"),
        ({"seeds": []}, "seeds = \\[\\]"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": True}, "different whole numbers"),
        ({"primary": {"measures": "x"}}, "unknown key 'primary.measures'.*'measure'"),
        ({"primary": {"measure": "x", "floor": "frequency_loss"}}, r"primary.floor = 'frequency_loss'.*\{beats:"),
        ({"primary": {"measure": "x", "floor": {"measure": "y"}}}, "what has to be beaten is needed"),
        ({"primary": {"measure": "x", "floor": {"beat": "y"}}}, "unknown key 'primary.floor.beat'.*'beats'"),
        ({"primary": {"measure": "x", "floor": {"beats": 0.5}}}, "primary.floor.beats = 0.5.*text is needed"),
        ({"primary": {"measure": "x", "floor": {"beats": ["y"]}}}, r"primary.floor.beats = \['y'\]"),
        ({"primary": {"measure": "x", "floor": {"beats": "y", "better": "less"}}}, "primary.floor.better = 'less'"),
        ({"primary": {"measure": "x", "floor": {"beats": "cloze.unigram.2"}}}, "primary.floor.beats.*needs `cloze:"),
        ({"finetune": {"task": "fewrel"}}, "unknown key 'finetune.task'.*'tasks'"),
        ({"finetune": {"seeds": [1]}}, "finetune cannot be read.*tasks"),
        ({"changes": {"a": {"finetune": {"taks": "x"}}}}, "changes.a.finetune.taks"),
    ],
)
def test_mistakes_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        arms(ablation(**values))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_arm_of_a_shipped_ablation_is_a_valid_run(name: str) -> None:
    config = load_ablation(["--config", name])
    grid = cells(config)
    assert len({cell.folder for cell in grid}) == len(config.seeds) * len(config.changes)
    for cell in grid[: len(config.changes)]:
        settings = settings_of(cell.arm)
        assert settings.value.seed.init == settings.value.seed.data == config.seeds[0]
        chinese = cell.arm.name.endswith("-zh")  # a tokenizer for each language
        like = next(other.arm for other in grid if other.arm.name.endswith("-zh") == chinese)
        assert settings.value.data.tokenizer == settings_of(like).value.data.tokenizer
        assert settings.value.train.tokens == settings_of(grid[0].arm).value.train.tokens
    assert "base" not in json.dumps(config.changes)


def test_the_demo_compares_families_on_one_tokenizer_and_budget() -> None:
    config = load_ablation(["--config", "demo"])
    assert {"gpt", "bert", "roberta", "albert"} <= set(config.changes)
    shown = [arm for arm in arms(config) if arm.name not in config.extra]
    assert [arm.name for arm in shown if arm.name.endswith("-zh")] == ["bert-zh", "bert-wwm-zh"]
    english = [arm for arm in shown if not arm.name.endswith("-zh")]
    assert len({json.dumps(arm.values["data"]["tokenizer"], sort_keys=True) for arm in english}) == 1
    assert len({arm.values["data"]["corpus"]["files"] for arm in english}) == 1
    assert len({arm.values["train"]["tokens"] for arm in english}) == 1


def test_the_demos_vocabularies_are_those_of_its_arms():
    """What `common` says would win over an arm's own."""
    found = arms(load_ablation(["--config", "demo"]))
    sizes = {arm.name: arm.values["data"]["tokenizer"]["vocab_size"] for arm in found}
    assert {size for name, size in sizes.items() if name.endswith("-zh")} == {4096}
    assert {size for name, size in sizes.items() if not name.endswith("-zh")} == {1024}


@pytest.mark.slow
def test_the_chinese_pair_differs_in_what_is_hidden() -> None:
    config = load_ablation(["--config", "demo"])
    pair = [c.arm for c in cells(config) if c.arm.name in ("bert-zh", "bert-wwm-zh")]
    first, second = (flatten(settings_of(arm).resolved) for arm in pair)
    changed = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    assert all(key in ("name", "edge") or ".select" in key for key in changed)
    assert any(key.endswith("select.class_path") for key in changed)


def test_an_arm_with_wrong_settings_is_named() -> None:
    config = load_ablation(["--config", "masking"])
    broken = build({**vars_of(config), "changes": {"odd": {"data": {"mask_copeis": 1}}}, "reference": None})
    with pytest.raises(ZooError, match=r"arm 'odd'.*unknown key 'data\.mask_copeis'.*'mask_copies'"):
        cells(broken)


@pytest.mark.slow
def test_a_cell_knows_the_run_folder_that_pretraining_will_use() -> None:
    config = load_ablation(["--config", "masking", "--seeds", "[1, 4]"])
    for cell in (cells(config)[1], cells(config)[-1]):
        assert cell.folder == run_folder_of(settings_of(cell.arm))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_decides_in_a_shipped_ablation_will_be_measured(name: str) -> None:
    check_primary(load_ablation(["--config", name]))


@pytest.mark.parametrize(
    ("name", "primary", "message"),
    [
        (
            "masking",
            {"measure": "reference_masks.masked_ml"},
            "primary.measure.*Did you mean 'reference_masks.masked_lm'",
        ),
        (
            "masking",
            {"measure": "frequency_loss.masked_lm"},
            "primary.measure = 'frequency_loss.masked_lm'",
        ),  # a fact, not a measure
        (
            "masking",
            {"floor": {"beats": "frequency_loss.masked_ln"}},
            "primary.floor.beats.*Did you mean 'frequency_loss.masked_lm'",
        ),
        ("masking", {"floor": {"beats": "majority.fewrel.f1"}}, "Did you mean 'majority.fewrel.accuracy'"),
        ("units-zh", {"floor": {"beats": "cloze.unigram.5"}}, "primary.floor.beats = 'cloze.unigram.5'"),
        (
            "units-zh",
            {"floor": {"measure": "cloze.nats.longr"}},
            "primary.floor.measure.*Did you mean 'cloze.nats.longer'",
        ),
    ],
)
def test_a_figure_that_nobody_will_measure_is_refused_before_anything_runs(
    name: str, primary: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"primary": primary, "output": str(tmp_path / "runs")}))
    with pytest.raises(ZooError, match=message):
        main(["--config", name, "--config", str(tmp_path / "own.yaml"), "--seeds", "[1]"])
    assert not (tmp_path / "runs").exists()


def vars_of(config: AblationConfig) -> dict[str, object]:
    values = dict(vars(config))
    primary = {**vars(config.primary), "floor": config.primary.floor and vars(config.primary.floor)}
    return {**values, "primary": primary, "finetune": vars(config.finetune) if config.finetune else None}


@pytest.mark.slow
def test_done_files_change_with_everything_that_decides_the_result() -> None:
    two = [{name: change for name, change in load_ablation(["--config", "masking"]).changes.items() if name in TWO}]
    config = build({**vars_of(load_ablation(["--config", "masking", "--seeds", "[1, 2]"])), "changes": two[0]})
    base = {cell.name: cell.done.name for cell in cells(config)}
    fewer = cells(build({**vars_of(config), "seeds": [2]}))
    assert {cell.name: cell.done.name for cell in fewer}.items() <= base.items()  # more seeds keep what is done
    for key, value in (("settings", {"lr": 1e-3}), ("seeds", [9])):
        tuned = {**vars(config.finetune), key: value}
        assert not set(base.values()) & {c.done.name for c in cells(build({**vars_of(config), "finetune": tuned}))}
    longer = build({**vars_of(config), "common": {**config.common, "train": {"tokens": 9}}})
    assert not set(base.values()) & {cell.done.name for cell in cells(longer)}
    other = build({**vars_of(config), "reference": "one-copy"})  # other validation questions
    assert not set(base.values()) & {cell.done.name for cell in cells(other)}


def test_a_cell_is_read_back_or_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    cell = GridCell(arms(ablation())[0], folder, tmp_path / "a.yaml", tmp_path / "a.json")
    assert read_cell(cell) is None
    record = {
        "run": str(folder),
        "scores": {"t.accuracy": {"1": 0.5, "2": 0.7}},
        "baselines": {"t.accuracy": 0.1},
        "reference_validation": {"masked_lm": 5.5},
    }
    cell.done.write_text(json.dumps(record))
    run = read_cell(cell)
    assert run is not None
    assert run.measures["t.accuracy"] == pytest.approx(0.6)
    assert run.measures["reference_masks.masked_lm"] == 5.5
    (folder / "run.json").unlink()
    with pytest.raises(ZooError, match=r"no run\.json"):
        read_cell(cell)


def test_the_command_line_is_split() -> None:
    argv = ["--config", "masking", "--only.arm", "a", "--report-only", "--only.seed", "2"]
    assert split_grid_arguments(argv) == (["--config", "masking"], {"arm": "a", "seed": "2"}, True)


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="nothing is finished"):
        main(["--config", "masking", "--output", str(tmp_path), "--report-only"])


def test_demo_options() -> None:
    options, rest = take_options(["--families=gpt,bert", "--tokens", "1e5", "--output", "o", "--seeds", "[2]"])
    assert options == {"families": "gpt,bert", "tokens": "1e5", "output": "o"}
    assert rest == ["--seeds", "[2]"]
    config = load_ablation(["--config", "demo"])
    assert list(choose_families(config, options).changes) == ["gpt", "bert"]
    assert choose_families(config, {"families": "gpt"}).against == "gpt"
    assert set(config.changes) - set(choose_families(config, {}).changes) == set(config.extra)
    assert set(choose_families(config, {"all": "true"}).changes) == set(config.changes)
    with pytest.raises(ZooError, match=r"unknown family 'brt'.*Did you mean 'bert'"):
        choose_families(config, {"families": "brt"})
    assert with_tokens({"train": {"lr": 1}}, "2_000") == {"train": {"lr": 1, "tokens": 2000}}
    for wrong in ("many", "0"):
        with pytest.raises(ZooError, match="--tokens"):
            with_tokens({}, wrong)


def test_demo_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_command(["--help"]) == 0
    assert "--families" in capsys.readouterr().out


def test_sample_names_are_resolved() -> None:
    assert resolve({"a": ["zoo:sample/en", 3]}) == {"a": [str(sample_path("en")), 3]}
    with pytest.raises(ZooError, match="has no 'fr'"):
        resolve("zoo:sample/fr")


TWO = ("dynamic", "one-copy")
TINY = {
    "name": "tiny",
    "primary": {"measure": "reference_masks.masked_lm", "floor": {"beats": "frequency_loss.masked_lm"}},
    "reference": "tokens",
    "seeds": [1, 2],
    "pretrain": {"base": "pretrain/bert-tiny"},
    "common": {
        "data": {
            "tokenizer": {"vocab_size": 600},
            "sequence_length": 32,
            "validation_tokens": 2000,
            "processes": 1,
        },
        "model": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        "train": {"tokens": 2500, "batch_size": 16, "log_every": 1, "save_every": 2, "precision": "fp32"},
    },
    "changes": {
        "tokens": {},
        "words": {
            "objectives": {
                "masked_lm": {
                    "init_args": {"select": {"class_path": "pretraining.masking.WholeWords", "init_args": {}}}
                }
            }
        },
    },
    "finetune": {"tasks": "tiny", "seeds": [1], "settings": {"epochs": 1, "max_length": 16}},
}


def write_tiny(folder: Path) -> Path:
    """A small corpus, a small task and an ablation over them."""
    text = sample_path("en/wikipedia.txt").read_text(encoding="utf-8")
    (folder / "corpus").mkdir()
    (folder / "corpus" / "text.txt").write_text("\n\n".join(text.split("\n\n")[:40]), encoding="utf-8")
    (folder / "tasks" / "tiny").mkdir(parents=True)
    for side, count in (("train", 33), ("dev", 17)):
        lines = sample_path(f"tasks/fewrel/{side}.tsv").read_text(encoding="utf-8").split("\n")
        kept = [line for line in lines if line.endswith(("\tsport", "\tcrosses"))][:count]
        (folder / "tasks" / "tiny" / f"{side}.tsv").write_text("\n".join([lines[0], *kept]) + "\n", encoding="utf-8")
    task = {"name": "tiny", "columns": ["sentence"], "labels": ["crosses", "sport"], "folders": ["tiny"]}
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    values = json.loads(json.dumps(TINY))
    values["output"] = str(folder / "runs")
    values["common"]["data"] |= {"corpus": {"files": str(folder / "corpus")}, "stores": str(folder / "stores")}
    values["finetune"] |= {"data": str(folder / "tasks"), "task_file": str(folder / "task.yaml")}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return folder / "tiny.yaml"


@pytest.mark.slow
def test_an_ablation_runs_skips_and_resumes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing at toy size: child processes, pairs, fixed questions, a report; then nothing is run twice.

    The second time the jobs run in this process.
    """
    file = write_tiny(tmp_path)
    assert main(["--config", str(file)]) == 0
    root = tmp_path / "runs" / "ablation-tiny"
    report = json.loads((root / "report.json").read_text())
    assert [(run["arm"], run["seed"]) for run in report["runs"]] == [
        ("tokens", 1), ("words", 1), ("tokens", 2), ("words", 2),
    ]  # fmt: skip
    compared = {c["measure"]: c for c in report["comparisons"]}
    assert compared["reference_masks.masked_lm"]["n"] == 2
    assert "no verdict" in compared["reference_masks.masked_lm"]["verdict"]
    assert "tiny.accuracy" in compared
    assert [(floor["arm"], floor["n"]) for floor in report["floors"]] == [("tokens", 2), ("words", 2)]
    assert (root / "report.html").exists()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    done = sorted((root / "arms").glob("*.json"))
    done[0].unlink()  # one cell is asked again, and finds all its steps finished
    capfd.readouterr()
    run = lambda jobs, *_, **__: [main(list(job.argv[3:])) for job in jobs if not job.done.exists()]  # noqa: E731
    monkeypatch.setattr("ablation.grid.run_pool", run)
    assert main(["--config", str(file)]) == 0
    assert done[0].exists()
    assert "4 runs, 3 finished" in capfd.readouterr().err
    assert json.loads((root / "report.json").read_text())["scores"] == report["scores"]
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}


@pytest.mark.slow
def test_the_reference_questions_reproduce_a_runs_own_validation(tmp_path: Path) -> None:
    """Asked its own questions through the ablation's path, a run gives the loss that it logged itself."""
    from ablation.grid import fixed_validation
    from pretraining.training.pretrain import pretrain

    config = load_ablation(["--config", str(write_tiny(tmp_path))])
    cell = cells(config)[0]
    folder = pretrain(settings_of(cell.arm), show=False)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    own = [line["validation"]["terms"] for line in lines if "validation" in line][-1]
    again = fixed_validation(folder, settings_of(cell.arm))
    assert again == pytest.approx({name: figures["loss"] for name, figures in own.items()}, rel=1e-5)


@pytest.mark.slow
def test_the_demo_makes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--families", "gpt,bert", "--tokens", "3000", "--output", str(tmp_path / "runs"), "--config"]
    assert demo_command([*argv, str(write_demo(tmp_path))]) == 0
    page = tmp_path / "runs" / "ablation-demo" / "demo.html"
    assert str(page) in capsys.readouterr().out
    assert "by frequency" in page.read_text()
    assert re.search(r'<i class="token masked asked" title="reads \[MASK\]; in place of \w', page.read_text())
    assert "Not shown" not in page.read_text()
    assert "has to beat majority.tiny.accuracy" in page.read_text()


def write_demo(folder: Path) -> Path:
    """The shipped demo at toy size."""
    values = yaml.safe_load(write_tiny(folder).read_text())
    own = {"base": "demo", "common": values["common"], "finetune": values["finetune"]}
    own["primary"] = {"measure": "tiny.accuracy", "better": "higher", "floor": {"beats": "majority.tiny.accuracy"}}
    (folder / "demo.yaml").write_text(yaml.safe_dump(own))
    return folder / "demo.yaml"


def test_seeds_are_given_between_commas(tmp_path):
    base = ["--config", "pair-task"]
    for words in ("4,5", "[4,5]", "4, 5"):
        assert load_ablation([*base, "--seeds", words]).seeds == [4, 5]
    assert load_ablation([*base, "--seeds", "4"]).seeds == [4]
    finetune = load_ablation(["--config", "masking", "--finetune.seeds", "4"]).finetune
    assert finetune is not None
    assert finetune.seeds == [4]
    with pytest.raises(ZooError, match=r"seeds.*four"):
        load_ablation([*base, "--seeds", "four,5"])


def test_a_plan_measures_each_arm(tmp_path, capsys):
    argv = ["--config", str(write_tiny(tmp_path)), "--output", str(tmp_path / "runs")]
    assert main([*argv, "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    config = load_ablation(argv)
    assert [line.partition(":")[0] for line in lines] == [*config.changes, "time"]
    for line in lines[:-1]:
        assert f"{len(config.seeds)} of {len(config.seeds)} to run" in line
        assert re.search(r", \d+ steps, each: about .* s a step, .* tokens/s: measured on ", line)
    assert re.match(r"time: about \S+ of pretraining, \d+ at a time x \d+ threads", lines[-1])
    assert not list((tmp_path / "runs").glob("*/run.json"))
    for cell in cells(config):
        cell.done.parent.mkdir(parents=True, exist_ok=True)
        cell.done.write_text("{}")
    assert main([*argv, "--plan"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{next(iter(config.changes))}: 0 of {len(config.seeds)} to run"


def test_runs_of_a_plan_go_to_who_is_free_first(tmp_path, capsys, monkeypatch):
    """Eight workers do two runs no faster than two do; the seed that has done least stands for its arm."""
    argv = ["--config", str(write_tiny(tmp_path)), "--output", str(tmp_path / "runs"), "--workers", "8"]
    seeds = load_ablation(argv).seeds

    def plan(settings):
        seconds = 60.0 if settings.value.seed.data == seeds[-1] else 6.0
        return RunPlan(["time: told"], 10, seconds, None, 0, True)

    monkeypatch.setattr("pretraining.tools.plan.plan_run", plan)
    assert main([*argv, "--plan"]) == 0
    assert "time: about 1m00s of pretraining, 8 at a time" in capsys.readouterr().out


def test_a_dry_run_lists_what_would_run(tmp_path, capsys):
    argv = ["--config", "pair-task", "--seeds", "[4,5]", "--output", str(tmp_path / "runs")]
    assert main([*argv, "--dry_run"]) == 0
    grid = cells(load_ablation(argv))
    grid[1].done.parent.mkdir(parents=True)
    grid[1].done.write_text("{}")
    first = capsys.readouterr().out.splitlines()
    assert first[0] == f"{grid[0].name}: to run, {grid[0].folder}"
    assert first[-1].startswith(f"{len(grid)} of {len(grid)} to run; reports: ")
    assert main([*argv, "--dry_run"]) == 0
    assert f"{grid[1].name}: finished, {grid[1].folder}" in capsys.readouterr().out
    assert not list((tmp_path / "runs").glob("*/run.json"))
