"""Every shipped tiny config, store and all, gives the same bytes in another process of as many threads, killed or not.

This file is also the program of those processes: ``python test_repeats.py FOLDER whole|killed``.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from entity_toys import make_store, make_table
from places import ROOT
from training import SAMPLE, Killed, interrupt_at, train

from zoo.settings.yaml_files import shipped_configs

TINY = sorted(p.stem for p in (shipped_configs() / "pretrain").glob("*-tiny*.yaml"))
FINETUNED = ["albert-tiny", "bert-tiny", "elmo-tiny", "ernie-2-tiny", "gpt-tiny", "transformer-xl-tiny", "xlnet-tiny"]
FINETUNINGS = [*((name, "finetune") for name in FINETUNED), ("elmo-tiny", "features")]
DOCUMENTS = {"en": 16, "zh": 16}
STEPS, SAVED, KILLED = 4, 2, 3
THREADS = 2


def run_arguments(folder: Path, name: str) -> list[str]:
    """A few steps of a shipped config at its own size, everything that it makes below ``folder``."""
    values = {
        "data.corpus.files": folder / f"{'zh' if name.endswith('-zh') else 'en'}.txt",
        "data.stores": folder / name / "stores",
        "data.processes": 1,
        "data.validation_tokens": 500,
        "train.steps": STEPS,
        "train.tokens": "null",
        "train.batch_size": 8,
        "train.log_every": 1,
        "train.save_every": SAVED,
        "train.validate_every": STEPS,
        "train.threads": THREADS,
        "run_folder": folder / name / "run",
    }
    if name.startswith("xlm"):
        values["data.corpus.files"] = f"[{folder}/en.txt, {folder}/zh.txt]"
    if name.startswith(("transformer-", "recurrent-")) and not name.startswith("transformer-xl"):  # translations
        values["data.corpus.files"] = "zoo:sample/pairs/en-zh.tsv"
    if name.startswith("ernie-thu"):
        (folder / name).mkdir(exist_ok=True)
        values |= {
            "data.corpus.files": make_store(folder / name, documents=DOCUMENTS["en"]),
            "objectives.entities.init_args.entities": make_table(folder / name / "table", width=100),
        }
    return ["--config", name, *(word for key, value in values.items() for word in (f"--{key}", str(value)))]


def finetune_once(folder: Path, name: str, use: str, killed: bool) -> None:
    """Two seeds on a few rows; killed in the second one's second step, and started again."""
    from finetune.__main__ import run_all
    from finetune.config import FinetuneConfig
    from finetune.data.tasks import read_task_file, tasks_named
    from zoo.sample import resolve

    tasks = tasks_named("fewrel", read_task_file(resolve("zoo:sample/tasks/tasks.yaml")))
    output = folder / name / f"finetuned-{use}"
    config = FinetuneConfig(
        model=str(folder / name / "run"),
        tasks="fewrel",
        data=resolve("zoo:sample/tasks"),
        use=use,
        limit=16,
        epochs=1,
        batch_size=8,
        threads=THREADS,
        save_model=True,
        progress=False,
        report=False,
    )
    for seed in (1, 2):
        if killed and seed == 2:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
                interrupt_finetuning(patch)
                run_all(config, tasks, [1, 2], output)
        run_all(config, tasks, [seed], output)


def interrupt_finetuning(patch: pytest.MonkeyPatch) -> None:
    """The next second step is cut short, as by a kill."""
    from finetune.training import loop

    original = loop.step_loss

    def cut(model, prepared, rows, key, processes):
        if key[1] == 1:
            raise Killed
        return original(model, prepared, rows, key, processes)

    patch.setattr(loop, "step_loss", cut)


def main(folder: Path, part: str) -> None:
    """Train every config, to its end or until it is killed and then on from there; then fine-tune."""
    for language, count in DOCUMENTS.items():
        text = (SAMPLE / language / "wikipedia.txt").read_text(encoding="utf-8")
        (folder / f"{language}.txt").write_text("\n\n".join(text.split("\n\n")[:count]), encoding="utf-8")
    killed = part == "killed"
    for name in TINY:
        argv = run_arguments(folder, name)
        if killed:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
                interrupt_at(patch, KILLED)
                train(argv)
        train(argv)
    for name, use in FINETUNINGS:
        finetune_once(folder, name, use, killed)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[Path]:
    """Two folders with everything, made by two processes side by side; in one of them all runs were cut short once."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive"}
    folders = [tmp_path_factory.mktemp(part) for part in ("whole", "killed")]
    with contextlib.ExitStack() as stack:
        started = []
        for folder, part in zip(folders, ("whole", "killed"), strict=True):
            log = stack.enter_context((folder / "log.txt").open("w"))
            words = [sys.executable, __file__, str(folder), part]
            started.append(stack.enter_context(subprocess.Popen(words, env=env, cwd=ROOT, stdout=log, stderr=log)))
        ended = [process.wait(timeout=900) for process in started]
    assert ended == [0, 0], "\n".join((folder / "log.txt").read_text()[-2000:] for folder in folders)
    return folders


def digests(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The bytes of the files that must not differ, by their place in ``folder``."""
    files = {path.relative_to(folder): path for pattern in patterns for path in folder.glob(pattern)}
    return {str(place): path.read_bytes() for place, path in sorted(files.items())}


def assert_alike(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """Name what differs instead of printing it."""
    assert one
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_tiny_config_repeats_on_threads_store_and_all(outcomes, name):
    """Tokens, counts, tokenizer, weights, losses."""
    made = ("**/*.bin", "**/*token*.json", "run/model.safetensors", "run/log.jsonl", "run/validation.jsonl")
    assert_alike(*(digests(folder / name, *made) for folder in outcomes))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "use"), FINETUNINGS)
def test_fine_tuning_repeats_on_threads(outcomes, name, use):
    """Predictions, losses, the fine-tuned weights; a seed that was killed begins anew."""
    kept = ("fewrel/seed-*/predictions.tsv", "fewrel/seed-*/model/model.safetensors")
    places = [folder / name / f"finetuned-{use}" for folder in outcomes]
    assert_alike(*(digests(place, *kept) for place in places))
    results = [[json.loads(p.read_text()) for p in sorted(place.glob("fewrel/seed-*/result.json"))] for place in places]
    assert results[0] == results[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
