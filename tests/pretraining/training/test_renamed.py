"""Names that broke once: whatever reads an old one says the new one first; nothing shipped has one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from ablation.config import load_ablation
from pretraining.scoring.cloze import cloze_command
from pretraining.scoring.scorer import Scorer
from pretraining.show.command import show_command
from pretraining.training.checks import check_run_folder
from pretraining.training.load_config import class_paths, load_pretrain_config
from pretraining.training.renamed import RENAMED, RENAMED_OPTIONS
from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.errors import ZooError
from zoo.model_folder import ModelMetadata, read_metadata, save_model_folder
from zoo.settings.checks import import_class
from zoo.settings.yaml_files import set_nested, shipped_configs

OBJECTIVE = "objectives.masked_lm.init_args"
# (key, value, what the message has to say): of each kind of name one
SAMPLES = [
    ("start.model", "runs/x", "start is now init_from"),
    ("chain", "GPT -> BERT", "chain is now edge"),
    ("data.copies", 10, "data.copies is now data.mask_copies"),
    ("tasks.pairs.choose.class_path", "pretraining.choose.Units", "tasks.pairs.choose is now tasks.pairs.select"),
    (f"{OBJECTIVE}.fill.class_path", "pretraining.fill.Replace", f"{OBJECTIVE}.fill is now {OBJECTIVE}.replacement"),
    (f"{OBJECTIVE}.choose.init_args.count", "nearest", f"is now {OBJECTIVE}.select.init_args.budget"),
    (f"{OBJECTIVE}.select.init_args.budget", "independent", f"now {OBJECTIVE}.select.init_args.budget: bernoulli"),
    (f"{OBJECTIVE}.select.class_path", "pretraining.choose.Tokens", "is now pretraining.masking.RandomTokens"),
    (f"{OBJECTIVE}.select", "pretraining.choose.Tokens", "is now pretraining.masking.RandomTokens"),
]


def nested(key: str, value: Any) -> dict[str, Any]:
    """A value at a dotted key."""
    result: dict[str, Any] = {}
    set_nested(result, key, value)
    return result


@pytest.fixture
def old_run(tmp_path):
    """A run folder whose settings have an old key, with the model of another core: settings are told first."""
    record = load_pretrain_config(["--config", "bert-tiny"]).resolved
    record["chain"] = record.pop("edge")
    folder = tmp_path / "run"
    core = CoreConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    save_model_folder(folder, make_core(core), {}, ModelMetadata(core))
    (folder / "run.json").write_text(json.dumps({"finished": True, "config": record}))
    return folder


@pytest.mark.parametrize(("old", "new"), [*RENAMED.keys.items(), *RENAMED_OPTIONS.keys.items()])
def test_every_old_key_is_named_with_its_new_one(old, new):
    table = RENAMED if old in RENAMED.keys else RENAMED_OPTIONS
    place = old.replace("*", "part")
    with pytest.raises(ZooError, match=re.escape(f"{place} is now {'.'.join([*place.split('.')[:-1], new])}\n")):
        table.check(nested(place, 1))


@pytest.mark.parametrize(("key", "values"), RENAMED.values.items())
def test_every_old_value_is_named_with_its_new_one(key, values):
    place = key.replace("*", "part")
    for old, new in values.items():
        with pytest.raises(ZooError, match=re.escape(f"{place}: {old} is now {place}: {new}")):
            RENAMED.check(nested(place, old))


@pytest.mark.parametrize(("old", "new"), RENAMED.class_paths.items())
def test_every_old_class_path_is_named_with_its_new_one_which_is_there(old, new):
    for value in ({"class_path": old}, old, [{"class_path": old}]):
        with pytest.raises(ZooError, match=re.escape(f"{old} is now {new}\n")):
            RENAMED.check({"objectives": {"a": value}})
    assert import_class(new, "test").__name__ == new.rpartition(".")[2]
    with pytest.raises(ZooError):
        import_class(old, "test")


@pytest.mark.parametrize(("key", "value", "message"), SAMPLES)
def test_yaml_the_command_line_and_recorded_settings_say_the_new_name_first(tmp_path, key, value, message):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(nested(key, value) | {"unknown": 1}))
    with pytest.raises(ZooError, match=re.escape(message)):
        load_pretrain_config(["--config", "bert-tiny", "--config", str(file)])
    with pytest.raises(ZooError, match=re.escape(message)):
        load_pretrain_config(["--config", "bert-tiny", "--unknown", "1", f"--{key}", str(value)])
    with pytest.raises(ZooError, match=re.escape(message)):
        load_pretrain_config([], {"name": "old", **nested(key, value)})  # lacks a model and all else


def test_arguments_of_classes_of_ones_own_have_names_of_their_own():
    own = {"class_path": "my_code.Objective", "init_args": {"choose": 1, "fill": 2}}
    RENAMED.check({"objectives": {"a": own}})
    RENAMED.check({"tasks": {"a": {"layout": {"init_args": {"count": 1}}}}})  # a layout's count is no selector's
    nested_path = own | {"init_args": {"choose": {"class_path": "pretraining.choose.Tokens"}}}
    with pytest.raises(ZooError, match=r"\(the settings\):\n.*choose\.class_path: \S+ is now \S+RandomTokens\nWrite"):
        RENAMED.check({"objectives": {"a": nested_path}})
    with pytest.raises(ZooError, match=r"init_args\.select"):
        RENAMED.check({"objectives": {"a": own | {"class_path": "pretraining.objectives.MaskedLM"}}})


def test_a_long_list_is_cut():
    with pytest.raises(ZooError, match="and 8 more\nWrite"):
        RENAMED.check({"tasks": {f"t{number}": {"choose": 1} for number in range(20)}})


def test_scoring_and_showing_an_old_run_says_the_new_name(old_run, monkeypatch):
    monkeypatch.setattr("pretraining.scoring.scorer.load_tokenizer", lambda _: TokenizerOfEight)
    for read in (
        lambda: show_command(["--run", str(old_run), "A text."]),
        lambda: Scorer(old_run),
        lambda: cloze_command([str(old_run)]),
    ):
        with pytest.raises(ZooError, match=r"run\.json\):\n  chain is now edge"):
            read()


class TokenizerOfEight:
    """As much of a tokenizer as is looked at before the settings."""

    class vocabulary:
        size = 8


def test_a_run_that_would_continue_an_old_folder_says_the_new_name(old_run):
    settings = load_pretrain_config(["--config", "bert-tiny", "--run_folder", str(old_run)])
    with pytest.raises(ZooError, match=r"run\.json\):\n  chain is now edge"):
        check_run_folder(old_run, settings)


@pytest.mark.parametrize(("old", "new"), [("all", "bidirectional"), ("causal", "causal")])
def test_an_old_model_folder_says_the_new_name(old_run, old, new):
    path = old_run / "config.json"
    facts = json.loads(path.read_text())
    del facts["attention"]
    path.write_text(json.dumps(facts | {"visibility": old}))
    with pytest.raises(ZooError, match=f"config.json has an old name: visibility '{old}' is now attention '{new}'"):
        read_metadata(old_run)
    with pytest.raises(ZooError, match="is now attention"):
        load_pretrain_config(["--config", "bert-tiny", "--init_from.model", str(old_run)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--visibility", "true"], "visibility is now attention"),
        (["--start.model", "runs/x"], "start is now init_from"),
        (["--objectives.masked_lm.init_args.choose.class_path", "x"], "choose is now"),
    ],
)
def test_options_of_show_say_the_new_name(words, message):
    with pytest.raises(ZooError, match=message):
        show_command(["--config", "bert-tiny", *words, "A text."])


@pytest.mark.parametrize("place", ["pretrain", "common", "changes.arm"])
def test_an_ablation_says_the_new_name_and_the_arm(tmp_path, place):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(nested(f"{place}.data.copies", 10)))  # lacks a name and all else
    with pytest.raises(ZooError, match=f"{place}.data.copies is now data.mask_copies"):
        load_ablation(["--config", str(file)])


@pytest.mark.parametrize(
    "path", sorted(shipped_configs().rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_no_shipped_config_has_an_old_name(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(values, list):  # rows of tasks, which no settings are read from
        return
    RENAMED.check(values)
    for part in ("pretrain", "common", "changes"):
        for own in [values.get(part) or {}] if part != "changes" else (values.get(part) or {}).values():
            RENAMED.check(own or {})
    for found in class_paths(values):
        import_class(found, str(path))


def test_no_text_names_an_old_class():
    old = re.compile("|".join(rf"\b{re.escape(path)}\b" for path in RENAMED.class_paths))
    own = (Path("pretraining/training/renamed.py"), Path("tests/pretraining/training/test_renamed.py"))
    files = [path for kind in ("*.py", "*.md", "*.yaml") for path in ROOT.rglob(kind)]
    kept = [path for path in files if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    assert not [p for p in kept if p.relative_to(ROOT) not in own and old.search(p.read_text(encoding="utf-8"))]
