"""``--help``: from the source alone it says what the imported settings say, in plain words, without torch."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys

import pytest
from places import ROOT

from ablation.__main__ import HELP as ABLATION
from finetune.__main__ import HELP as FINETUNE
from pretraining.__main__ import HELP as PRETRAIN
from zoo.cli import COMMANDS, dispatch
from zoo.errors import ZooError
from zoo.settings.load import CommandHelp, help_text, option_groups
from zoo.settings.source import find_class, kind_of, look_up

SETTINGS = sorted(
    {command.settings for command in COMMANDS.values() if command.settings}
    | {command.settings for command in (PRETRAIN, FINETUNE, ABLATION)}
)


def options_of(settings):
    return {o.key: o for group in option_groups(*settings.split(":")) for o in group.options}


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_setting_is_told_with_its_default(settings):
    module, name = settings.split(":")
    cls = getattr(importlib.import_module(module), name)
    told = options_of(settings)
    heads = {key.split(".")[0] for key in told}
    for field in dataclasses.fields(cls):
        assert field.name in heads, field.name
        if field.name not in told:
            continue  # a group of settings, or values by name
        option = told[field.name]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            assert option.default is None, field.name
        elif isinstance(field.default, bool | None):
            assert option.default == json.dumps(field.default), field.name
        elif isinstance(field.default, str):
            assert option.default == (field.default or "empty")
        elif isinstance(field.default, int | float):
            assert float(option.default) == pytest.approx(field.default, rel=1e-3)
    for option in told.values():
        assert option.text.strip(), f"{settings}: {option.key} has no text"
        assert option.kind, option.key


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("width", [60, 100])
def test_help_has_no_marks_and_keeps_its_width(settings, width):
    text = help_text(CommandHelp("prog", settings, "WORDS", "About."), ["--help"], width)
    assert text.startswith("usage: prog WORDS [--config FILE ...]")
    assert "`" not in text
    assert not re.search(r":\w+:`|\bNone\b|\bOptional\[|Literal\[", text)
    long = [line for line in text.splitlines() if len(line) > width and not line.startswith("  --")]
    assert [line for line in long if " " in line.strip()] == []


def test_types_choices_classes_and_groups():
    text = help_text(PRETRAIN, ["--help"], 100)
    assert text.startswith("usage: python -m pretraining [--config")
    assert "--train.precision {auto,fp32,bf16}" in text
    assert re.search(r"--train\.steps INT>=1 .*budget in optimiser steps. \(default: null\)", text)
    assert re.search(r"--name NAME .*\(required\)", text)
    assert "--objectives.NAME CLASS" in text
    assert "pretraining.objectives.MaskedLM" in text
    assert "\n--data.corpus: where the text comes from:\n" in text
    assert "\n--tasks.NAME.corpus: text of its own" in text
    assert "its keys are those of --data.corpus" in " ".join(text.split())
    assert re.search(r"--data\.tokenizer\.train_bytes INT>=1\s+upper bound", text)
    assert f"(default: {2**27})" in text


def test_a_class_is_told_by_its_path():
    text = help_text(PRETRAIN, ["--config", "x", "--objectives.NAME.help", "pretraining.objectives.MaskedLM"], 100)
    assert text.startswith("pretraining.objectives.MaskedLM: ")
    assert "--objectives.NAME.init_args.select CLASS" in text
    assert "pretraining.masking.WholeWords" in text
    other = help_text(PRETRAIN, ["--train.optimizer.help", "torch.optim.AdamW"], 100)
    assert "--train.optimizer.init_args.weight_decay FLOAT" in other
    for words, part in (
        (["torch.optim.Adamw"], "Did you mean 'Adam"),
        (["no_such.Thing"], "no module 'no_such'"),
        ([], "path"),
    ):
        with pytest.raises(ZooError, match=part):
            help_text(PRETRAIN, ["--train.optimizer.help", *words], 100)


def test_names_are_followed_through_imports_and_aliases():
    found = find_class("pretraining.training.config", "CorpusConfig")
    assert found.module == "pretraining.corpus.config"
    alias = look_up("pretraining.corpus.config", "SegmenterName")
    assert kind_of(alias.module, alias.node) == "{none,rjieba,space}"
    assert look_up("pretraining.corpus.config", "Nowhere") is None


LIGHT = [["zoo.cli", name, "--help"] for name in COMMANDS]
LIGHT += [[module, "--help"] for module in ("pretraining", "finetune", "ablation")]
LIGHT += [["zoo.cli", "list", "tiny"], ["zoo.cli", "tasks"], ["zoo.cli", "tasks", "rte"], ["zoo.cli", "--version"]]


def test_no_help_imports_anything_heavy():
    """All in one process: every command's help, the list of configs and the version, and no heavy module after it."""
    body = (
        "import runpy, sys\n"
        f"for words in {LIGHT}:\n"
        "    sys.argv = words\n"
        "    try: runpy.run_module(words[0], run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as end: assert not end.code, (words, end.code)\n"
        "print('\\nHEAVY', {'torch', 'transformers', 'accelerate', 'datasets'} & set(sys.modules))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    shown = done.stdout.decode()
    assert shown.splitlines()[-1] == "HEAVY set()"
    assert shown.count("usage: zoo ") == len(COMMANDS)
    assert shown.count("usage: python -m ") == 3


def test_help_of_a_command_stands_before_its_work(capsys):
    assert dispatch(["score", "RUN", "--pairs", "x", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: zoo score RUN [--config")
    assert "--segmenter {none,rjieba,space}" in shown
