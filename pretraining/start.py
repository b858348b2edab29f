"""A run that starts from a checkpoint's weights: another objective, more tokens, fewer or more layers.

    accelerate launch -m pretraining --config roberta-tiny --start.model FOLDER

``FOLDER`` is a finished run, or what ``zoo import`` made of a transformers checkpoint. Its facts, template and
tokenizer take the place of what the *files* of the settings say; the command line wins over both. Tensors are matched
by name, rows of the vocabulary by token; what is not copied starts as in any run, and everything is reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretraining.model import PretrainingModel
from pretraining.tokenizer import ZooTokenizer, load_tokenizer
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.folder import ModelFacts, head_facts, open_weights, pack_model, read_facts, weights_digest

_BY_TOKEN = re.compile(r"core\.embeddings\.word_embeddings\.weight|heads\.[^.]+\.(bias|decoder\.weight)")
_TABLES = ("position_embeddings.weight", "token_type_embeddings.weight", "task_type_embeddings.weight")
# Facts that may differ between the checkpoint and the run: what they change is copied as far as it goes.
_BRIDGED = frozenset(
    (
        *("vocab_size", "num_hidden_layers", "num_hidden_groups", "max_position_embeddings", "pad_token_id", "pooler"),
        *("type_vocab_size", "task_type_vocab_size", "hidden_dropout_prob", "attention_probs_dropout_prob"),
        *("initializer", "initializer_range", "residual_init_scale"),
    )
)


@dataclass(frozen=True)
class StartConfig:
    """Where a run starts from.

    Args:
        model: a model folder: a finished run, or what ``zoo import`` made.
        layers: the checkpoint's layer that each layer of the run starts from; a number n = its first n layers, and, if
            it has fewer, those again from the first; ``null`` = all as they are.
        heads: also copy heads of the same name and facts.
    """

    model: str
    layers: list[int] | int | None = None
    heads: bool = True


@dataclass
class StartReport:
    """What was done, for ``run.json``.

    Args:
        model: the folder.
        digest: digest of its weights.
        copied: tensors copied whole.
        partly: tensors of which some rows were copied, and how many.
        fresh: tensors that start as in any run.
        left: tensors of the checkpoint that the run has no place for.
    """

    model: str
    digest: str
    copied: int = 0
    partly: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        found = [f"started from {self.model}: {self.copied} tensors copied"]
        found += [f"  {name}: {what}" for name, what in self.partly.items()]
        found += [f"  fresh: {', '.join(self.fresh)}"] if self.fresh else []
        found += [f"  left behind: {', '.join(self.left)}"] if self.left else []
        return found


def overlay(files: dict[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """The settings' files with the checkpoint's facts, template and tokenizer in place of their own.

    Args:
        files: what the files say.
        merged: the same with the command line, which names the checkpoint.
    """
    start = merged.get("start")
    if not isinstance(start, dict) or not start.get("model"):
        return files
    facts = read_facts(str(start["model"]))
    model = {**facts.config.to_dict(), "vocab_size": None}
    layers = source_layers(start.get("layers"), facts.config)
    if layers is not None:
        model["num_hidden_layers"] = len(layers)
    data = {**files.get("data", {}), "tokenizer": {"kind": "file", "path": str(start["model"])}}
    return {**files, "model": model, "template": facts.template.to_dict(), "data": data}


def source_layers(layers: Any, config: CoreConfig) -> list[int] | None:
    """The checkpoint's layer of each layer of the run; ``None`` = all, or layers that share their weights.

    Raises:
        ZooError: a layer that the checkpoint has not, or a choice of layers where they share weights.
    """
    have = config.num_hidden_layers
    if layers is None:
        return None
    if isinstance(layers, int):
        if layers < 1:
            raise ZooError(f"start.layers = {layers}; at least one layer is needed.")
        return [number % have for number in range(layers)]
    if not isinstance(layers, list) or not layers or not all(isinstance(n, int) and 0 <= n < have for n in layers):
        raise ZooError(
            f"start.layers = {layers!r}: numbers from 0 to {have - 1} are needed (the checkpoint has {have} layers), "
            "as in '[0, 1, 2]', or one number of layers."
        )
    if config.groups != have:
        raise ZooError(
            f"start.layers = {layers}, but the checkpoint's {have} layers share {config.groups} set(s) of weights: "
            "there is nothing to choose. Give a number of layers instead."
        )
    return layers


def start_from(start: StartConfig, model: PretrainingModel, tokenizer: ZooTokenizer) -> StartReport:
    """Copy a checkpoint's weights into a new model, as far as the two fit.

    Args:
        start: the folder, and which layers.
        model: the run's model with its initial values; changed in place.
        tokenizer: the run's tokenizer.

    Raises:
        ZooError: the folder is no model, or facts differ that cannot be bridged (named with both values).
    """
    facts = read_facts(start.model)
    _check_facts(facts, model.core.config)
    weights, old = open_weights(facts.path), load_tokenizer(facts.path)
    rows = _token_rows(old, tokenizer, facts.config.vocab_size or 0)
    report = StartReport(Path(start.model).name, weights_digest(facts.path))
    heads = dict(model.heads.items())
    target = pack_model(model.core, heads)  # the model's own tensors, under a folder's names
    ready = _same_heads(facts, heads) if start.heads else set()
    sources = _sources(list(target), start, facts.config, model.core.config, ready)
    with torch.no_grad():
        for name, tensor in target.items():
            if sources.get(name) not in weights:
                report.fresh.append(name)
            else:
                _copy(name, weights[sources[name]], tensor, rows, facts.config.vocab_size or 0, report)
    used = {source for source in sources.values() if source in weights}
    report.left = sorted(set(weights) - used)
    return report


def _check_facts(facts: ModelFacts, config: CoreConfig) -> None:
    old, new = facts.config.to_dict(), config.to_dict()
    wrong = [f"{k} = {old[k]} there, {new[k]} here" for k in old if k not in _BRIDGED and old[k] != new[k]]
    if wrong:
        listing = "\n  ".join(wrong)
        raise ZooError(
            f"{facts.path} cannot start this run; facts of the core that differ:\n  {listing}\nLeave --model.* away to "
            "take the checkpoint's."
        )


def _token_rows(old: ZooTokenizer, new: ZooTokenizer, size: int) -> Tensor:
    """(V,) row of the checkpoint's table for each token of the run, -1 = it has none."""
    if old.vocabulary.size > size:
        raise ZooError(
            f"the tokenizer beside the checkpoint has {old.vocabulary.size} entries, its embedding {size} rows; they "
            "are not of the same model."
        )
    known = old.backend.get_vocab(with_added_tokens=True)
    rows = torch.full((new.vocabulary.size,), -1)
    for token, index in new.backend.get_vocab(with_added_tokens=True).items():
        rows[index] = known.get(token, -1)
    return rows


def _same_heads(facts: ModelFacts, heads: Mapping[str, nn.Module]) -> set[str]:
    """Heads that both have, described alike."""
    described = head_facts(heads)
    return {name for name, head in described.items() if facts.heads.get(name) == head}


def _sources(names: list[str], start: StartConfig, old: CoreConfig, new: CoreConfig, heads: set[str]) -> dict[str, str]:
    """The checkpoint's name for each tensor of the run that may be copied."""
    layers = source_layers(start.layers, old) if old.groups == old.num_hidden_layers else None
    layers = layers or list(range(new.groups))
    found = {}
    for name in names:
        kind, owner, *rest = name.split(".")
        if kind == "core" and owner == "layers":
            number = int(rest[0])
            source = layers[number] if number < len(layers) else number
            found[name] = ".".join((kind, owner, str(source), *rest[1:]))
        elif kind == "core" or (kind == "heads" and owner in heads) or (kind == "objectives" and start.heads):
            found[name] = name
    return found


def _copy(name: str, old: Tensor, new: Tensor, rows: Tensor, size: int, report: StartReport) -> None:
    """One tensor, whole or by rows."""
    by_token = _BY_TOKEN.fullmatch(name) and old.shape[1:] == new.shape[1:] and len(old) == size
    if by_token and (len(new) != size or not torch.equal(rows, torch.arange(size))):
        known = torch.nonzero(rows >= 0).squeeze(1)
        new[known] = old[rows[known]].to(new)
        report.partly[name] = f"{len(known)} of {len(new)} rows, by token"
    elif old.shape == new.shape:
        new.copy_(old)
        report.copied += 1
    elif name.endswith(_TABLES) and old.shape[1:] == new.shape[1:]:
        kept = min(len(old), len(new))
        new[:kept] = old[:kept].to(new)
        report.partly[name] = f"the first {kept} of {len(new)} rows"
    else:
        raise ZooError(f"{name} has shape {tuple(old.shape)} in the checkpoint and {tuple(new.shape)} in this run.")
