"""Fine-tuning end to end on tiny cores: learning, repeating, resuming, refusing, and the report."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import FIRST, LAST, PAIR, POOLED, SINGLE, WORDS, check_shares, make_model
from training import FAMILIES, SAMPLE, finish
from transformers import AutoTokenizer
from warm import Warm

from finetune.__main__ import HEAVY, main
from finetune.config import FinetuneSettings
from finetune.data.tasks import read_task_file
from finetune.results.report import Result, notes, summary, text_table, write_report
from finetune.training.loop import predict, step_loss
from finetune.training.prepared import PreparedTask
from finetune.training.processes import Processes
from finetune.training.run import finetune
from zoo.errors import ZooError
from zoo.model_folder import load_core
from zoo.runtime.progress import Progress

SETTINGS = FinetuneSettings(lr=3e-3)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=[POOLED, FIRST, LAST], ids=["pooled", "first", "last"])
def model(request, tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("bert"), POOLED)


def test_a_learnable_single_task_is_learned(model: Path, toy_data: Path, tmp_path: Path) -> None:
    result = finetune(model, SINGLE, toy_data, 1, SETTINGS, tmp_path, progress=False)
    assert result.scores["accuracy"] > 0.95
    assert result.majority["accuracy"] < 0.75
    assert result.train_loss[-1] < 0.3 < result.train_loss[0]
    assert result.steps == 6 * 10
    assert (result.train_rows, result.eval_rows, result.classes_predicted) == (320, 96, 2)


def test_the_loss_that_is_shown_is_the_mean_over_rows(bert: Path, toy_data: Path, tmp_path: Path, monkeypatch) -> None:
    """A short last batch counts for its rows, also among processes that do not share it evenly."""
    shown: list[str] = []
    monkeypatch.setattr(Progress, "show", lambda self, share, text, last=False: shown.append(text))
    for rows, size in ((12, 32), (40, 32), (40, 16)):
        shown.clear()
        settings = replace(SETTINGS, limit=rows, batch_size=size, epochs=1)
        result = finetune(bert, SINGLE, toy_data, 1, settings, tmp_path / f"{rows}-{size}")
        assert float(shown[-1].split("loss ")[1]) == pytest.approx(result.train_loss[-1], abs=0.0006)


def test_a_pair_task_that_needs_both_texts_is_learned(model: Path, toy_data: Path, tmp_path: Path) -> None:
    result = finetune(model, PAIR, toy_data, 1, SETTINGS, tmp_path, progress=False)
    assert result.scores["accuracy"] > 0.95
    assert result.majority["accuracy"] < 0.65


def test_predictions_are_saved_in_the_order_of_the_file(bert: Path, toy_data: Path, tmp_path: Path) -> None:
    result = finetune(bert, SINGLE, toy_data, 1, SETTINGS, tmp_path, progress=False)
    header, *lines = (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["id", "gold", "predicted", "p(neg)", "p(pos)"]
    rows = [line.split("\t") for line in lines]
    gold = [
        line.split("\t")[1] for line in (toy_data / "mood" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert [row[0] for row in rows] == [str(i) for i in range(96)]
    assert [row[1] for row in rows] == gold
    assert np.mean([row[1] == row[2] for row in rows]) == pytest.approx(result.scores["accuracy"])
    assert all(abs(float(row[3]) + float(row[4]) - 1) < 2e-6 for row in rows)


def test_same_seed_repeats_bit_for_bit_and_another_does_not(bert: Path, toy_data: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(lr=1e-3, epochs=1)
    prepared = PreparedTask(bert, SINGLE, toy_data, settings)
    found = {
        name: finetune(bert, SINGLE, prepared, seed, settings, tmp_path / name, progress=False)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    }
    assert found["a"] == found["b"]
    assert (tmp_path / "a/predictions.tsv").read_bytes() == (tmp_path / "b/predictions.tsv").read_bytes()
    assert found["a"].train_loss != found["c"].train_loss


def test_finetuning_seed_changes_new_weights_only(bert: Path, toy_data: Path) -> None:
    prepared = PreparedTask(bert, SINGLE, toy_data, SETTINGS)
    one, two, again = (prepared.model(seed).state_dict() for seed in (1, 2, 1))
    differing = {name for name in one if not torch.equal(one[name], two[name])}
    assert differing == {"head.output.weight"}
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_missing_template_tokens_become_new_rows(tmp_path: Path, toy_data: Path) -> None:
    folder = make_model(tmp_path / "gpt", LAST)
    prepared = PreparedTask(folder, PAIR, toy_data, SETTINGS)
    ids = {word: prepared.tokenizer.backend.token_to_id(word) for word in ("_start_", "_extract_", "_delimiter_")}
    assert list(ids.values()) == [len(WORDS) + i for i in range(3)]
    old = load_core(folder)[0].token_embedding.detach()
    one, two = (prepared.model(seed).core.token_embedding.detach() for seed in (1, 2))
    assert one.shape[0] == len(WORDS) + 3
    assert torch.equal(one[: len(WORDS)], old)
    assert not torch.equal(one[len(WORDS) :], two[len(WORDS) :])
    assert 0.05 < float(one[len(WORDS) :].std()) < 0.2
    assert int(prepared.train.sequences.ids.max()) == len(WORDS) + 2


def test_new_rows_do_not_start_from_rows_that_no_token_had(tmp_path: Path, toy_data: Path) -> None:
    """An embedding with spare rows: they are dropped, and new tokens get what they get without them."""
    spare = LAST._replace(config=LAST.config.replace(vocab_size=len(WORDS) + 7))
    folders = [make_model(tmp_path / str(toy.config.vocab_size), toy) for toy in (LAST, spare)]
    tables = [PreparedTask(folder, PAIR, toy_data, SETTINGS).model(1).core.token_embedding for folder in folders]
    assert tables[0].shape == tables[1].shape
    assert torch.equal(tables[0][len(WORDS) :], tables[1][len(WORDS) :])


def test_a_new_token_never_takes_the_number_of_another(tmp_path: Path, toy_data: Path) -> None:
    """The tokenizers library counts entries, so that a vocabulary with gaps makes it give a number twice."""
    gaps = [*WORDS[:-3], "", "", "", WORDS[-1]]
    folder = make_model(tmp_path / "gaps", LAST._replace(config=LAST.config.replace(vocab_size=len(gaps))), words=gaps)
    numbers = PreparedTask(folder, SINGLE, toy_data, SETTINGS).tokenizer.backend.get_vocab(with_added_tokens=True)
    assert sorted(numbers.values()) == list(range(len(numbers)))
    assert [numbers[token] >= len(gaps) for token in ("_start_", "_extract_")] == [True, True]
    assert numbers[WORDS[-1]] == len(gaps) - 1


def test_a_row_scores_the_same_alone_and_padded(model: Path, toy_data: Path) -> None:
    prepared = PreparedTask(model, SINGLE, toy_data, SETTINGS)
    classifier = prepared.model(1).eval()
    rows = np.arange(12)
    with torch.inference_mode():
        together = prepared.batch("evaluation", rows).inputs
        assert together.attention_pattern.lengths is not None
        padded = classifier(together)
        for row in rows:
            alone = classifier(prepared.batch("evaluation", rows[row : row + 1]).inputs)
            torch.testing.assert_close(alone[0], padded[row], rtol=0, atol=2e-6)


def test_finished_results_are_read_back_and_interrupted_ones_redone(bert: Path, toy_data: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(lr=1e-3, epochs=1, limit=64)
    first = finetune(bert, SINGLE, toy_data, 1, settings, tmp_path, progress=False)
    stamp = (tmp_path / "result.json").stat().st_mtime_ns
    assert finetune(bert, SINGLE, toy_data, 1, settings, tmp_path, progress=False) == first
    assert (tmp_path / "result.json").stat().st_mtime_ns == stamp
    (tmp_path / "result.json").unlink()  # killed after the predictions, before the end
    assert finetune(bert, SINGLE, toy_data, 1, settings, tmp_path, progress=False) == first


def test_results_of_something_else_are_not_taken(bert: Path, toy_data: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(lr=1e-3, epochs=1, limit=64)
    finetune(bert, SINGLE, toy_data, 1, settings, tmp_path / "out", progress=False)
    with pytest.raises(ZooError, match=r"differs in: lr \(0.001 there, 0.002 now\)"):
        finetune(
            bert, SINGLE, toy_data, 1, FinetuneSettings(lr=2e-3, epochs=1, limit=64), tmp_path / "out", progress=False
        )
    other = make_model(tmp_path / "other", POOLED, seed=5)
    with pytest.raises(ZooError, match="differs in: model"):
        finetune(other, SINGLE, toy_data, 1, settings, tmp_path / "out", progress=False)


def test_a_second_writer_is_refused(bert: Path, toy_data: Path, tmp_path: Path) -> None:
    from zoo.runtime.locks import run_lock

    with run_lock(tmp_path), pytest.raises(ZooError, match="one writer"):
        finetune(bert, SINGLE, toy_data, 1, FinetuneSettings(epochs=1, limit=16), tmp_path, progress=False)


def test_models_that_do_not_fit_are_refused(bert: Path, toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="positions for 512 tokens"):
        PreparedTask(bert, SINGLE, toy_data, FinetuneSettings(max_length=513))
    folder = make_model(tmp_path / "small", POOLED._replace(config=POOLED.config.replace(vocab_size=10)))
    with pytest.raises(ZooError, match=r"tokenizer .* has 25 entries, the model's embedding 10 rows"):
        _ = PreparedTask(folder, SINGLE, toy_data, SETTINGS).tokenizer
    with pytest.raises(ZooError, match="is not a folder"):
        PreparedTask(tmp_path / "nowhere", SINGLE, toy_data, SETTINGS)
    eight = POOLED.config.replace(max_position_embeddings=8)
    short = make_model(tmp_path / "short", POOLED._replace(config=eight))
    prepared = PreparedTask(short, SINGLE, toy_data, SETTINGS)  # not asked for a length: the core's own is taken
    assert prepared.train.lengths.max() == prepared.max_length == 8
    assert prepared.train.truncated > 0


def test_a_diverging_run_says_so(bert: Path, toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no longer a number"):
        finetune(
            bert, SINGLE, toy_data, 1, FinetuneSettings(lr=1e38, epochs=1, warmup=0.0, grad_clip=1e38), tmp_path, False
        )
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("count", [16, 5, 1])
def test_shares_of_a_batch_add_up_to_the_whole(bert: Path, toy_data: Path, count: int) -> None:
    prepared = PreparedTask(bert, SINGLE, toy_data, SETTINGS)
    model = prepared.model(1).train()
    rows = np.arange(count) * 3

    check_shares(model, prepared, rows)


def test_dropout_works_in_training_and_not_in_prediction(bert: Path, toy_data: Path) -> None:
    prepared = PreparedTask(bert, SINGLE, toy_data, SETTINGS)
    model, rows = prepared.model(1), np.arange(4)
    one, two = (step_loss(model, prepared, rows, (1, step), Processes()).item() for step in (0, 1))
    assert one != two
    assert np.array_equal(predict(model, prepared), predict(model, prepared))


# --- the report ------------------------------------------------------------------------------------------------


def result(task: str, seed: int, accuracy: float, rows: int = 5000, classes: int = 2) -> Result:
    return Result(task, seed, {"accuracy": accuracy}, {"accuracy": 0.6}, 100, rows, classes, 0.0, 10, [0.5], {})


def test_report_gives_mean_sd_n_and_majority() -> None:
    rows = summary([result("a", 1, 0.7), result("b", 1, 0.5, rows=277, classes=1), result("a", 2, 0.8)])
    assert [(row["task"], row["n"]) for row in rows] == [("a", 2), ("b", 1)]
    assert rows[0]["mean"] == pytest.approx(75.0)
    assert rows[0]["sd"] == pytest.approx(np.std([70, 80], ddof=1))
    assert rows[0]["majority"] == pytest.approx(60.0)
    assert rows[0]["scores"] == pytest.approx({"1": 70.0, "2": 80.0})
    assert rows[1]["sd"] is None
    table = text_table(rows).splitlines()
    assert "majority" in table[0]
    assert table[2].split()[:6] == ["a", "accuracy", "75.00", "7.07", "2", "60.00"]
    assert table[3].endswith("1 of 1")  # one seed predicted a single class
    told = " ".join(notes(rows))
    assert "never deciding: b." in told
    assert "Fewer than 5 seeds" in told


def test_report_files(tmp_path: Path) -> None:
    text = write_report(tmp_path, "runs/x", {"lr": 0.1}, [result("a", i, 0.7 + i / 100) for i in range(5)], {})
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert stored["rows"][0]["n"] == 5
    assert stored["settings"] == {"lr": 0.1}
    assert "| a | accuracy | 72.00 | 1.58 | 5 | 60.00 |" in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "Fewer than" not in text


def test_an_unfinished_run_says_how_far_it_is(toy_data: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"command": "python -m pretraining --config x"}', encoding="utf-8")
    with pytest.raises(
        ZooError, match=r"not finished: it has no checkpoint yet\. .*: python -m pretraining --config x$"
    ):
        PreparedTask(tmp_path, SINGLE, toy_data, SETTINGS)
    for name in ("step-000000900", "step-000001200", ".writing-000001500"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    with pytest.raises(ZooError, match=r"not finished: its newest checkpoint is of step 1,200\."):
        PreparedTask(tmp_path, SINGLE, toy_data, SETTINGS)


def test_texts_in_another_language_are_refused(bert: Path, tmp_path: Path) -> None:
    """20 tokens a row over both parts, of which some are no words of the model."""

    def prepared(unknown: int, name: str) -> PreparedTask:
        folder = tmp_path / name
        folder.mkdir()
        line = " ".join(["狗"] * unknown + ["a"] * (20 - unknown))
        for part in ("train.tsv", "dev.tsv"):
            (folder / part).write_text(f"text\tlabel\n{line}\tneg\n{line}\tpos\n", encoding="utf-8")
        return PreparedTask(bert, SINGLE, folder, SETTINGS)

    with pytest.raises(ZooError, match=rf"'mood': 55% of its tokens.* tokenizer of {bert}.*pretrained on text of"):
        finetune(bert, SINGLE, prepared(11, "most"), 1, SETTINGS, tmp_path / "out", progress=False)
    half, few = prepared(10, "half"), prepared(1, "few")
    for allowed in (half, few):
        allowed.check()
    assert half.warnings == [f"task 'mood': 50% of its tokens are unknown to the tokenizer of {bert}."]
    assert few.warnings == []


# --- the command -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Has imported what the command's own pool imports."""
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with Warm(tmp_path_factory.mktemp("warm"), environment=environment, modules=HEAVY) as server:
        yield server


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.yaml"
    path.write_text(
        "- {name: mood, columns: text, labels: [neg, pos], metrics: [accuracy, f1]}\n"
        "- {name: colour, columns: [a, b], labels: [other, same]}\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("label", [None, "pso"], ids=["no file", "last label"])
def test_a_mistake_in_the_last_task_is_told_before_the_first_trains(
    bert: Path, toy_data: Path, task_file: Path, tmp_path: Path, monkeypatch, label: str | None, jobs: str
) -> None:
    """No file, or a label that nobody knows at the end of one."""
    data = tmp_path / "data"
    shutil.copytree(toy_data, data)
    if label:
        with (data / "mood" / "train.tsv").open("a", encoding="utf-8") as stream:
            stream.write(f"good\t{label}\n")
    else:
        (data / "mood" / "train.tsv").unlink()
    trained: list[str] = []
    monkeypatch.setattr("finetune.training.run.finetune", lambda *_: trained.append("a task"))
    monkeypatch.setattr("finetune.__main__.run_pool", lambda *_, **__: trained.append("a pool"))
    monkeypatch.setattr("zoo.runtime.processes.start_processes", lambda *_: None)
    words = ["--model", bert, "--tasks", "colour,mood", "--data", data, "--task_file", task_file, "--jobs", jobs]
    monkeypatch.setattr(sys, "argv", ["finetune", *map(str, words), "--output", str(tmp_path / "out")])
    with pytest.raises(ZooError, match=f"unknown label '{label}'" if label else r"no train\.\*"):
        main()
    assert trained == []


def test_a_dry_run_says_what_would_be_trained(
    bert: Path, toy_data: Path, task_file: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    words = ["--model", bert, "--tasks", "mood,colour", "--seeds", "1,2", "--data", toy_data, "--task_file", task_file]
    words += ["--epochs", "2", "--limit", "20", "--batch_size", "8", "--output", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["finetune", *map(str, words), "--dry_run"])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "out").exists()
    assert lines[1].startswith("mood: 20 training rows, 20 development rows, 2 epochs of 3 steps, batch 8")
    assert "4 of 4 trainings to run, 1 at a time" in lines
    assert re.fullmatch(
        r"time: about [\dhms]+, by measured steps \(mood [\d.e-]+ s a step, colour [\d.e-]+ s a step\)", lines[-2]
    )
    assert lines[-1] == f"output: {tmp_path / 'out'}"
    task = read_task_file(str(task_file))["mood"]
    settings = FinetuneSettings(epochs=2, limit=20, batch_size=8)
    finetune(bert, task, toy_data, 2, settings, tmp_path / "out" / "mood" / "seed-2", False)
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("seeds 1, 2; finished: seed 2")
    assert "3 of 4 trainings to run, 1 at a time" in lines
    monkeypatch.setattr(sys, "argv", ["finetune", *map(str, words), "--dry_run", "--lr", "0.5"])
    with pytest.raises(ZooError, match="holds a finished result that differs in: lr"):
        main()


@pytest.mark.slow
def test_the_command_pools_resumes_reports_and_trains_again_what_was_not_kept(
    bert: Path, toy_data: Path, task_file: Path, warm: Warm, tmp_path: Path
) -> None:
    words = ["--model", bert, "--tasks", "mood,colour", "--data", toy_data, "--task_file", task_file, "--epochs", "1"]
    words += ["--limit", "64", "--output", tmp_path / "out", "--threads", "1", "--seeds"]
    assert "mood    accuracy" in finish(warm.start("finetune", *words, "1,2"))
    results = [tmp_path / f"out/{task}/seed-{seed}/result.json" for task in ("mood", "colour") for seed in (1, 2)]
    before = [path.read_bytes() for path in results]
    finish(warm.start("finetune", *words, "1", "--save_model", "true"))
    results[3].unlink()
    kept, again = (finish(warm.start("finetune", *words, "1,2", "--save_model", "true", "--jobs", "2")) for _ in "ab")
    assert "step" not in kept + again  # the children train, never the process that reports
    assert "2/4 done, 2 of them before, running" in kept
    assert "running" not in again
    assert [path.read_bytes() for path in results] == before  # a child gives what one process gave
    assert all((path.parent / "model" / "tokenizer.json").exists() for path in results)
    assert len(json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))["rows"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("how", [["mood"], ["mood,colour", "--multi_task", "only"]], ids=["alone", "multi-task"])
def test_two_processes_give_what_one_gives(
    how: list[str], bert: Path, toy_data: Path, task_file: Path, warm: Warm, tmp_path: Path
) -> None:
    words = ["--model", bert, "--seeds", "1", "--data", toy_data, "--task_file", task_file]
    words += ["--epochs", "1", "--tasks", *how]
    assert "1 process " in finish(warm.start("finetune", *words, "--output", tmp_path / "one"))
    both = warm.launch([*words, "--output", tmp_path / "two"], processes=2, module="finetune")
    assert "2 processes " in finish(both)
    losses = [json.loads((tmp_path / n / "mood/seed-1/result.json").read_text())["train_loss"] for n in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    probabilities = [
        np.loadtxt(tmp_path / n / "mood/seed-1/predictions.tsv", skiprows=1, usecols=3) for n in ("one", "two")
    ]
    np.testing.assert_allclose(*probabilities, atol=1e-3)


@pytest.mark.slow
def test_mistakes_end_in_one_message(bert: Path, toy_data: Path, warm: Warm) -> None:
    for words, part in (
        (["--model", bert, "--tasks", "colla", "--data", toy_data], "unknown task 'colla'. Did you mean 'cola'?"),
        (["--model", bert, "--tasks", "cola", "--epoch", "3"], "unknown key 'epoch'. Did you mean 'epochs'?"),
        (["--tasks", "cola"], "no model"),
    ):
        found = warm.start("finetune", *words)
        assert found.wait(timeout=100) == 2
        assert part in found.output()
        assert "Traceback" not in found.output()


@pytest.mark.slow
def test_the_warm_servers_of_the_commands_start_no_threads(warm: Warm) -> None:
    """A fork inherits no threads: what a library had started before would be missing in every job."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    assert warm.threads() == 1


# --- real runs -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_of_every_family_can_be_finetuned(family: str, shared, tmp_path: Path) -> None:
    """What pretraining writes is what fine-tuning reads: facts, weights, tokenizer, template, attention."""
    run = shared.finished_run(family)
    tasks = read_task_file(SAMPLE / "tasks" / "tasks.yaml")
    task = tasks["fewrel"]
    settings = FinetuneSettings(limit=64, epochs=1)
    prepared = PreparedTask(run, task, SAMPLE / "tasks", settings)
    found = finetune(run, task, prepared, 1, settings, tmp_path / "out", progress=False, save_model=True)
    assert np.isfinite(found.train_loss).all()
    kept = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    rows = prepared.data.evaluation
    laid_out = kept(rows.texts, rows.pairs, truncation=True)["input_ids"]
    assert np.concatenate(laid_out).tolist() == prepared.evaluation.sequences.ids.tolist()
    metadata = prepared.metadata
    assert (metadata.attention == "causal") == (metadata.template.pooling == "last")
    first = prepared.train.sequences.ids[prepared.train.sequences.offsets[:-1]]
    assert len(set(first.tolist())) == 1  # the start token, known to the tokenizer or new
    unknown = prepared.tokenizer.vocabulary.unk
    assert unknown is None or np.mean(prepared.train.sequences.ids == unknown) < 0.05
