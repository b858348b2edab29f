"""``zoo retrieve RUN``: are translations each other's nearest sentences? Accuracy both ways, beside chance.

A sentence is the mean of its tokens' states. Each side's own mean is taken away, since what a state says of its
language is the same for all sentences, and cosines are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.corpus.parallel import pair_files, read_pairs
from pretraining.layouts.gather import examples_from_tokens
from pretraining.layouts.translation_pairs import Pairs
from pretraining.objectives.base import base_inputs
from pretraining.scoring.scorer import template_ids
from pretraining.store.token_store import Store
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.training.config import PretrainConfig
from pretraining.training.load_config import load_run_config
from pretraining.training.loader import split_documents
from pretraining.training.stores import TokenStores, look_for_stores
from zoo.core.base import Core
from zoo.errors import ZooError
from zoo.model_folder import import_foreign, load_core
from zoo.runtime.processes import keep_heap
from zoo.settings.load import load_settings
from zoo.storage.files import read_json, write_json
from zoo.values import Amount, Count, UserPath, check_fields

Tokens = NDArray[np.integer[Any]]
_AT_ONCE = 1024  # queries whose similarities are held at a time


@dataclass(frozen=True)
class RetrieveConfig:
    """What ``zoo retrieve`` is asked for.

    Args:
        run: a run folder of ``python -m pretraining``, or a model folder.
        pairs: translations: a table (``.tsv``), or two aligned files; absent = the pairs that the run held out.
        languages: the two sides' languages by the run's names; absent = those of the run's translations.
        limit: pairs that are compared; the first ones.
        layer: whose states: 0 = the embeddings, absent = the last layer.
        center: take each side's mean state away.
        batch_size: sentences per call of the model.
        trust_code: also run objectives from outside the package, which ``run.json`` names.
        output: JSON file for the figures; absent = ``retrieval.json`` in the folder.
    """

    run: UserPath
    pairs: UserPath | list[UserPath] | None = None
    languages: list[str] | None = None
    limit: Count | None = None
    layer: Amount | None = None
    center: bool = True
    batch_size: Count = 64
    trust_code: bool = False
    output: UserPath | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self)


class Sides(NamedTuple):
    """Token ids of both sides of some pairs, and the number of each side's language; ``None`` = the model has none."""

    source: list[Tokens]
    target: list[Tokens]
    languages: tuple[int, int] | None


def distinct_pairs(source: list[Tokens], target: list[Tokens]) -> list[int]:
    """Pairs neither sentence of which came before, so that there is one right answer to each."""
    seen: tuple[set[bytes], set[bytes]] = (set(), set())
    kept = []
    for number, sides in enumerate(zip(source, target, strict=True)):
        keys = [np.asarray(ids, dtype=np.int64).tobytes() for ids in sides]
        if all(keys) and not any(key in own for key, own in zip(keys, seen, strict=True)):
            kept.append(number)
            for key, own in zip(keys, seen, strict=True):
                own.add(key)
    return kept


@torch.no_grad()
def sentence_states(
    core: Core,
    tokenizer: ZooTokenizer,
    template: str,
    sentences: list[Tokens],
    language: int | None,
    layer: int | None = None,
    batch_size: int = 64,
) -> NDArray[np.float64]:
    """(N, W) mean state of each sentence's tokens, template tokens left out.

    Args:
        core: the core.
        tokenizer: the ids'.
        template: of a single text.
        sentences: token ids of each.
        language: number that all tokens carry as their type.
        layer: whose states; 0 = the embeddings, ``None`` = the last layer.
        batch_size: sentences at once.

    Raises:
        ZooError: a sentence is too long, or there is no such layer.
    """
    prefix, suffix = template_ids(template, tokenizer)
    room, layers = core.config.max_length - len(prefix) - len(suffix), core.config.num_hidden_layers
    longest = max(map(len, sentences), default=0)
    if longest > room:
        raise ZooError(f"a sentence of {longest} tokens is longer than this model's {room}; leave it out of the pairs.")
    if layer is not None and layer > layers:
        raise ZooError(f"layer {layer}: this model has {layers} layers (0 = the embeddings).")
    found = np.zeros((len(sentences), core.config.output_width))
    order = np.argsort([len(ids) for ids in sentences], kind="stable")
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        texts = [(sentences[i], np.zeros(len(sentences[i]), dtype=np.uint8)) for i in part]
        rows = examples_from_tokens(texts, tokenizer.vocabulary, prefix, suffix)
        if language is not None:
            rows = rows.replace(token_type_ids=np.full(rows.shape, language, dtype=np.int32))
        output = core(base_inputs(rows), output_hidden_states=layer is not None)
        states = output.last_hidden_state if layer is None else (output.hidden_states or ())[layer]
        text = torch.from_numpy(~rows.special_tokens_mask)[:, :, None]
        found[part] = ((states * text).sum(1) / text.sum(1)).double().numpy()
    return found


def retrieval(queries: NDArray[np.float64], candidates: NDArray[np.float64], center: bool = True) -> dict[str, float]:
    """Share of N queries whose own candidate has the highest cosine, both ways; equally high ones share the credit.

    Args:
        queries: (N, W) states of one side.
        candidates: (N, W) states of the other, in the same order.
        center: take each side's mean away.

    Returns:
        ``forward``, ``backward``, their ``mean``, and ``chance``.
    """
    sides = [side - side.mean(0) if center else side for side in (queries, candidates)]
    one, other = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in sides)
    found = {"forward": _first_hits(one, other), "backward": _first_hits(other, one)}
    return {**found, "mean": (found["forward"] + found["backward"]) / 2, "chance": 1 / len(queries)}


def _first_hits(queries: NDArray[np.float64], candidates: NDArray[np.float64]) -> float:
    credits = 0.0
    for start in range(0, len(queries), _AT_ONCE):
        likeness = queries[start : start + _AT_ONCE] @ candidates.T
        best = likeness == likeness.max(axis=1, keepdims=True)
        own = best[np.arange(len(best)), start + np.arange(len(best))]
        credits += float((own / best.sum(axis=1)).sum())
    return credits / len(queries)


# --- where the pairs come from ---------------------------------------------------------------------


def _run_config(folder: Path, trust_code: bool) -> PretrainConfig | None:
    """The settings of a run; ``None`` for another model folder."""
    if not (folder / "run.json").exists():
        return None
    resolved = read_json(folder / "run.json").get("config", {})
    return load_run_config(folder, resolved, "zoo retrieve", trust_code).value


def _stores(config: PretrainConfig) -> TokenStores:
    stores, lines = look_for_stores(config)
    if stores is None:
        raise ZooError(
            f"the run's text is not prepared here ({'; '.join(lines)}); give pairs with --pairs FILE, or prepare it "
            "again (zoo prepare with the run's config)."
        )
    return stores


def _held_out(config: PretrainConfig, stores: TokenStores) -> tuple[Store, Pairs]:
    """The run's translations and those of them that it held out."""
    store = next((s for s in (stores.main, *stores.by_task.values()) if s.parallel), None)
    if store is None:
        raise ZooError("the run read no translations (corpus.parallel); give pairs with --pairs FILE.")
    documents = split_documents(store, config.data.validation_tokens)[1]
    return store, Pairs.of(store, documents, "zoo retrieve")


def _order_of_languages(config: PretrainConfig, stores: TokenStores) -> list[str]:
    """The run's languages in the order of their embeddings."""
    orders = [task.layout.languages_of(stores.for_task(name)) for name, task in config.tasks.items()]
    return next((order for order in orders if order), [])


def read_sides(config: RetrieveConfig, core: Core, tokenizer: ZooTokenizer) -> Sides:
    """The pairs that are compared.

    Raises:
        ZooError: none is left, the text of the run is gone, or a language is not one of the run's.
    """
    run = _run_config(Path(config.run), config.trust_code)
    typed = core.config.type_vocab_size > 1
    if run is None and config.pairs is None:
        raise ZooError(f"{config.run} is no run folder, so no pairs were held out; give pairs with --pairs FILE.")
    stores = _stores(run) if run is not None and (config.pairs is None or typed) else None
    names, order = config.languages, [] if run is None or stores is None else _order_of_languages(run, stores)
    if config.pairs is None:
        assert run is not None
        assert stores is not None
        store, pairs = _held_out(run, stores)
        names = names or store.languages
        source, target = (
            [np.asarray(store.tokens[a : a + n]) for a, n in zip(pairs.starts[:, k], pairs.lengths[:, k], strict=True)]
            for k in (0, 1)
        )
    else:
        listed = [config.pairs] if isinstance(config.pairs, str) else list(config.pairs)
        texts = [p for files in pair_files([Path(name) for name in listed]) for p in read_pairs(files) if all(p)]
        source, target = ([ids for ids, _ in tokenizer.encode_batch([p[k] for p in texts])] for k in (0, 1))
    kept = distinct_pairs(source, target)[: config.limit]
    if len(kept) < 2:
        raise ZooError(f"there are {len(kept)} pairs of different sentences; at least 2 are needed.")
    languages = _numbers(names, order) if typed else None
    return Sides([source[i] for i in kept], [target[i] for i in kept], languages)


def _numbers(names: list[str] | None, order: list[str]) -> tuple[int, int]:
    """Numbers of the two sides' languages: by the run's order, or 0 and 1 where it has none."""
    names = names or order[:2]
    if not order:
        return 0, 1
    if len(names) != 2 or not set(names) <= set(order):
        raise ZooError(f"--languages {','.join(names)}: two of the run's are needed ({', '.join(order)}).")
    return order.index(names[0]), order.index(names[1])


def retrieve_command(argv: list[str]) -> int:
    """``zoo retrieve RUN [--pairs FILE]``."""
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load_settings(RetrieveConfig, argv, "zoo retrieve RUN", "score").value
    keep_heap()
    folder = Path(config.run)
    if config.trust_code:
        import_foreign(folder)
    core, metadata = load_core(folder)
    core.eval()
    tokenizer = load_tokenizer(folder)
    sides = read_sides(config, core, tokenizer)
    numbers = sides.languages or (None, None)
    states = [
        sentence_states(core, tokenizer, metadata.template.single, texts, number, config.layer, config.batch_size)
        for texts, number in zip(sides[:2], numbers, strict=True)
    ]
    figures = retrieval(states[0], states[1], config.center)
    result = {"run": folder.name, "pairs": len(sides.source), "layer": config.layer, "center": config.center, **figures}
    forward, backward, chance = (100 * figures[key] for key in ("forward", "backward", "chance"))
    print(
        f"retrieval among {len(sides.source):,} pairs: {forward:.2f} % forward, {backward:.2f} % backward "
        f"(chance {chance:.2f} %)"
    )
    target = Path(config.output) if config.output else folder / "retrieval.json"
    write_json(target, result)
    print(f"written to {target}")
    return 0
