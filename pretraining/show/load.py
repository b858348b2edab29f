"""From a config's name or a run folder to the settings and the tokenizer that read a text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pretraining.objectives.masked_lm import MaskedLM
from pretraining.scoring.scorer import rule_of
from pretraining.show.config import ShowConfig
from pretraining.show.text_store import Subject, corpus_of, others_wanted, record_hint
from pretraining.store.token_store import Store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.checks import missing_field
from pretraining.training.config import PretrainConfig
from pretraining.training.load_config import load_pretrain_config, load_run_config
from pretraining.training.stores import check_sources, run_store
from zoo.errors import ZooError
from zoo.model_folder import ModelMetadata, read_metadata
from zoo.storage.files import read_json

_LENGTH = 128  # longest row of a model that does not say how it was trained
_ELSEWHERE = (
    "Second segments come from the text that {folder} was trained on. --data.corpus.files PATH takes them from other "
    "text, under the run's own tokenizer."
)


def load_config(name: str, overrides: list[str], show_config: ShowConfig) -> Subject:
    """Settings by a config's name, or by several joined with ``+``; the store is built on demand, as for a run.

    Raises:
        ZooError: wrong settings; or no task could make a row of the text, which is said before anything is prepared.
    """
    config = load_pretrain_config(["--config", name, *overrides]).value
    reasons = [
        _hopeless(config, task, f"--config {name}", show_config) for task in show_config.chosen_tasks(config.tasks)
    ]
    if all(reasons):
        raise ZooError("\n".join(reasons))
    check_sources(config)
    store = run_store(config, True)
    return Subject(config.name, config, load_tokenizer(store.path), store.path, store)


def _hopeless(config: PretrainConfig, name: str, source: str, show_config: ShowConfig) -> str:
    """Why a task can make no row of the text, whatever is in it, and a command that would; empty where it may.

    Args:
        config: the settings.
        name: the task.
        source: how the command names them.
        show_config: the text.
    """
    layout, corpus = config.tasks[name].layout, corpus_of(config, name)
    missing = missing_field(config, name)
    if missing is not None:
        if not missing.settings:
            return missing.message
        short = [f"--tasks.{name}.layout.init_args.{key} {value}" for key, value in layout.short.items()]
        command = " ".join(["zoo show", source, missing.settings, *short, f"'{missing.record}'"])
        return f"{missing.message} The text is a record then; for example, with a file of such records:\n{command}"
    hint = record_hint(corpus, show_config.text)
    if hint and layout.required_fields & set(corpus.recorded):
        needed = ", ".join(sorted(layout.required_fields))
        return f"task {name!r}: {type(layout).__name__} makes no row without {needed}.{hint}"
    return ""


def load_run(name: str, overrides: list[str], show_config: ShowConfig) -> Subject:
    """Settings and tokenizer of a run folder, or of a model folder, whose metadata alone say how it was trained.

    Raises:
        ZooError: no such folder, one that names code from elsewhere, or its corpus is gone and is needed.
    """
    folder = Path(name)
    if not (folder / "run.json").is_file() and not (folder / "config.json").is_file():
        raise ZooError(
            f"{folder} has no run.json and no config.json; --run takes a folder of `python -m pretraining` or of "
            "`zoo import`, --config settings."
        )
    title = folder.name
    if (folder / "run.json").is_file():
        record = read_json(folder / "run.json")
    else:
        record = {"config": _settings_of_model(read_metadata(folder))}
        title += " (how it was trained is not known: its head's objective, with default settings)"
    recorded: dict[str, Any] = record.get("config", {})
    settings = load_run_config(folder, recorded, "zoo show", show_config.trust_code, overrides)
    config, store = settings.value, None
    if any(others_wanted(task.layout.provided_fields, show_config) for task in config.tasks.values()):
        moved = settings.resolved["data"]["corpus"] != recorded["data"]["corpus"]
        store = _store_of_run(config, folder, None if moved else record.get("data_fingerprint"))
    return Subject(title, config, load_tokenizer(folder), folder, store)


def _settings_of_model(metadata: ModelMetadata) -> dict[str, Any]:
    """Settings under which a model that was brought in can be shown: what its token head says of its objective.

    Raises:
        ZooError: it has none; says what would work.
    """
    heads = [name for name, head in metadata.heads.items() if head["kind"] == "token"]
    if not heads:
        have = ", ".join(f"{name} ({head['kind']})" for name, head in metadata.heads.items()) or "none"
        raise ZooError(
            f"{metadata.path} has no run.json that says how it was trained, and no head that predicts tokens (its "
            f"heads: {have}). Name the objectives by a config, under the model's tokenizer: zoo show --config NAME "
            f"--data.tokenizer.kind file --data.tokenizer.path {metadata.path} TEXT"
        )
    rule = rule_of(metadata, heads[0])
    objective: dict[str, Any] = {"class_path": f"pretraining.objectives.{type(rule).__name__}"}
    if isinstance(rule, MaskedLM):
        objective["init_args"] = {"select": {"class_path": "pretraining.masking.RandomTokens"}}
    layout = "Blocks" if metadata.attention == "causal" else "FullSentences"
    return {
        "name": metadata.path.name,
        "model": metadata.config.to_dict(),
        "template": metadata.template.to_dict(),
        "data": {
            "corpus": {"files": "the text"},
            "tokenizer": {"kind": "file", "path": str(metadata.path)},
            "sequence_length": min(_LENGTH, metadata.config.max_length),
        },
        "objectives": {heads[0]: objective},
        "tasks": {"text": {"layout": {"class_path": f"pretraining.layouts.{layout}"}, "objectives": [heads[0]]}},
        "train": {"steps": 1},
    }


def _store_of_run(config: PretrainConfig, folder: Path, fingerprint: str | None) -> Store:
    """The store that a run was trained on, or, without its fingerprint, other text under the run's tokenizer."""
    if fingerprint is None:
        tokenizer = TokenizerConfig(kind="file", path=str(folder))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=tokenizer))
    try:
        store = run_store(config, True)
    except ZooError as error:
        raise ZooError(f"{error}\n{_ELSEWHERE.format(folder=folder)}") from error
    if fingerprint not in (None, store.fingerprint):
        raise ZooError(f"{store.path} is not what {folder} was trained on.\n{_ELSEWHERE.format(folder=folder)}")
    return store
