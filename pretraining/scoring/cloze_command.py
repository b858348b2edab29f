"""``zoo cloze RUN``: the figures of :mod:`pretraining.scoring.cloze` for a run or another model folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.assemble import run_store
from pretraining.config import PretrainConfig
from pretraining.loader import split_documents
from pretraining.store.prepare import prepare_store
from pretraining.scoring.cloze import ClozeConfig, measure
from pretraining.scoring.scorer import Scorer, segmenter_facts
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.trust import refuse_foreign_code
from zoo.config import read_json
from zoo.errors import ZooError
from zoo.storage.files import write_json
from zoo.settings import load_settings


def cloze_of_run(config: ClozeConfig, show: bool = False) -> dict[str, Any]:
    """Figures of a run on its held-out documents, or of any model folder on a text.

    Raises:
        ZooError: the run held nothing out and no text is given, or its text has changed.
    """
    scorer, folder = Scorer(config.run, config.objective, config.trust_code), Path(config.run)
    if config.corpus is not None:
        tokenizer = TokenizerConfig(kind="file", path=str(folder), special=scorer.tokenizer.roles)
        store = prepare_store(config.corpus, tokenizer, config.stores, quiet=not show)
        every = np.arange(store.num_documents, dtype=np.int64)
        return measure(scorer, store, config, every, every, show)
    if not (folder / "run.json").exists():
        raise ZooError(f"cloze: {folder} has no run.json that names its text; give some with --corpus.files.")
    record = read_json(folder / "run.json")
    refuse_foreign_code(folder, record["config"], config.trust_code)
    run = load_settings(PretrainConfig, [], "zoo cloze", "pretrain", record["config"]).value
    store = run_store(run, show)
    if store.fingerprint != record.get("data_fingerprint"):
        raise ZooError(f"cloze: the text of {folder} has changed since it was trained; give some with --corpus.files.")
    training, held_out = split_documents(store, run.data.validation_tokens)
    if not len(held_out):
        raise ZooError(
            f"cloze: {folder} held no documents out (data.validation_tokens = {run.data.validation_tokens}); give some "
            "text with --corpus.files."
        )
    return measure(scorer, store, config, held_out, training, show)


def _words_as_in_the_run(merged: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """The segmenter of the run's text, where another text is asked about and nothing says what finds its words."""
    corpus, folder = merged.get("corpus"), Path(str(merged.get("run")))
    if not isinstance(corpus, dict) or "segmenter" in corpus or not (folder / "tokenizer.json").exists():
        return {}
    name, dictionary = segmenter_facts(folder, load_tokenizer(folder))
    own = {"corpus.segmenter": name}
    return own if "user_dictionary" in corpus or dictionary is None else {**own, "corpus.user_dictionary": dictionary}


def cloze_command(argv: list[str]) -> int:
    """``zoo cloze RUN [--entity NAME] [--corpus.files FILE]``."""
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load_settings(ClozeConfig, argv, "zoo cloze RUN", "cloze", amend=_words_as_in_the_run).value
    found = cloze_of_run(config, show=True)
    groups = {**found["words"], **{name: found[name] for name in ("longer", "entity", "control") if name in found}}
    if config.corpus is not None:
        print(f"text: {config.corpus.files}, segmenter {config.corpus.segmenter}")
    if found["note"]:
        print(f"note: {found['note']}")
    print(f"{'':10} {'':>8} {'left to right':>18} {'at once':>18} {'by frequency':>13}")
    print(f"{'hidden':<10} {'items':>8} {'exact':>9} {'nats':>8} {'exact':>9} {'nats':>8} {'nats':>13}   per token")
    for name, group in groups.items():
        one_by_one = f"{100 * group['exact']:>7.2f} % {group['nats']:>8.4f}"
        at_once = f"{100 * group['exact_at_once']:>7.2f} % {group['nats_at_once']:>8.4f}"
        print(f"{name:<10} {group['items']:>8,} {one_by_one} {at_once} {group['unigram']:>13.4f}")
    plain = asdict(replace(config, corpus=None))
    asked = {key: value for key, value in plain.items() if key not in ("run", "output", "stores")}
    name = "cloze.json"
    if config.corpus is not None:
        asked["corpus"], name = config.corpus.spec, f"cloze-{found['text']['store']}.json"
    target = Path(config.output) if config.output else Path(config.run) / name
    write_json(target, {"run": Path(config.run).name, "asked": asked, **found})
    print(f"written to {target}")
    return 0
