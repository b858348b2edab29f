"""A run that starts from a checkpoint: its settings, what it takes over of the config, and the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.training.model import PretrainingModel
from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.errors import ZooError
from zoo.model_folder import (
    ModelMetadata,
    head_configs,
    load_core,
    open_weights,
    pack_model,
    read_metadata,
    weights_digest,
)
from zoo.values import Amount, Count, UserPath, check_fields
from zoo.weights.config_fields import architecture
from zoo.weights.published import check_finite, check_kinds_of_numbers

_LAYER = re.compile(r"core\.layers\.(\d+)\.(.*)")
_UNIT = re.compile(r"(core\.layers\.\d+|heads\.[^.]+)\..*")
_TABLES = ("position_embeddings.weight", "token_type_embeddings.weight", "task_type_embeddings.weight")
# Fields of a core's config that may differ between the checkpoint and the run, beside what only training reads: sizes
# that are bridged.
_BRIDGED = frozenset(
    (
        *("vocab_size", "max_position_embeddings", "type_vocab_size", "task_type_vocab_size", "pooler"),
        *("num_hidden_layers", "num_hidden_groups", "pad_token_id"),
    )
)
# How what is new starts: the run says it, since the checkpoint need not know it.
_OF_THE_RUN = ("initializer", "initializer_range", "residual_init_scale")


@dataclass(frozen=True)
class InitFromConfig:
    """Where a run starts from.

    Args:
        model: a model folder: a finished run, or what ``zoo import`` made.
        layers: the checkpoint's layer that each layer of the run starts from, from 0 on (``0,2,4``: three layers); a
            number n = its first n layers, and, if it has fewer, those again from the first; absent = all as they are.
            Layers are counted as they are run, also where they share weights.
        heads: also copy heads of the same name and config; without it all heads start as in any run.
    """

    model: UserPath
    layers: list[Amount] | Count | None = None
    heads: bool = True

    def __post_init__(self) -> None:
        """Raise ZooError if a layer's number cannot be."""
        check_fields(self, "init_from")


@dataclass
class InitFromReport:
    """What was done, for ``run.json``; whole layers and heads are named in one.

    Args:
        model: the folder's name.
        digest: digest of its weights.
        layers: the checkpoint's layer that each layer of the run started from.
        copied: tensors copied whole.
        partly: tensors of which some rows were copied, and which.
        fresh: tensors that start as in any run.
        left: tensors of the checkpoint that the run has no place for.
    """

    model: str
    digest: str
    layers: list[int]
    copied: list[str] = field(default_factory=list)
    partly: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        found = [f"started from {self.model} (weights {self.digest}), layers {', '.join(map(str, self.layers))}"]
        named = {"copied": self.copied, "fresh": self.fresh, "left behind": self.left}
        found += [f"  {what}: {', '.join(names)}" for what, names in named.items() if names]
        return found + [f"  by row: {name}: {what}" for name, what in self.partly.items()]


# ---- settings -------------------------------------------------------------------------------------------------------


def overlay(merged: Mapping[str, Any], command_line: Mapping[str, Any]) -> dict[str, Any]:
    """What replaces the settings' files: the checkpoint's config, template and tokenizer, by dotted key.

    A tokenizer whose kind the command line names is another one, and stays as files and command line describe it; so
    do ``new_tokens`` and ``sentinels``, which a checkpoint does not have.

    Args:
        merged: all values of the run.
        command_line: those of the command line (and of an ablation) alone.
    """
    model = _below(merged, "init_from").get("model")
    if not isinstance(model, str):
        return {}
    if "init_from" not in command_line and _below(merged, "model").keys() >= {item.name for item in fields(CoreConfig)}:
        return {}  # a file that --print_config made: it has the checkpoint's, and what a command line laid over them
    metadata = checkpoint_metadata(model)
    old = metadata.config
    layers = source_layers(_below(merged, "init_from").get("layers"), old.num_hidden_layers)
    shared = old.groups < old.num_hidden_layers
    sizes = {
        "vocab_size": None,
        "num_hidden_layers": len(layers),
        "num_hidden_groups": len({old.group_of(layer) for layer in layers}) if shared else None,
    }
    files = _below(merged, "model")
    core = {**old.to_dict(), **sizes, **{name: files[name] for name in _OF_THE_RUN if name in files}}
    if old.fusion is None:  # a checkpoint that reads no entities can start a run that does
        core["fusion"] = files.get("fusion")
    if not old.pooler:  # as one for masked tokens alone can start a run whose objective reads a pooler, which is new
        core["pooler"] = files.get("pooler", False)
    taken: dict[str, Any] = {"model": core, "template": metadata.template.to_dict()}
    if "kind" not in _below(command_line, "data", "tokenizer"):
        files = _below(merged, "data", "tokenizer")
        new = {name: files[name] for name in ("new_tokens", "sentinels") if files.get(name)}
        taken["data.tokenizer"] = {"kind": "file", "path": model, **new}
    return taken


def _below(values: Any, *keys: str) -> Mapping[str, Any]:
    """A section of nested values; empty where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def checkpoint_metadata(model: str) -> ModelMetadata:
    """Metadata of the model folder that a run starts from.

    Raises:
        ZooError: no such folder, a folder of transformers, an unfinished run, or no tokenizer; says what would work.
    """
    path, works = Path(model), "give a finished run, or bring a transformers checkpoint in with `zoo import SRC DST`"
    if not path.is_dir():
        raise ZooError(f"init_from.model: {model} is not a folder; {works}.")
    if not (path / "config.json").exists() and not (path / "run.json").exists():
        raise ZooError(f"init_from.model: {model} has no config.json; {works}.")
    try:
        metadata = read_metadata(path)
    except ZooError as error:
        raise ZooError(f"init_from.model: {error}") from error
    if not (path / "tokenizer.json").exists():
        raise ZooError(
            f"init_from.model: {model} has no tokenizer.json, which says what token each row of the embedding belongs "
            "to; put the checkpoint's own there."
        )
    return metadata


def source_layers(layers: Any, have: int) -> list[int]:
    """The checkpoint's layer that each layer of the run starts from.

    Args:
        layers: ``init_from.layers``.
        have: layers of the checkpoint.

    Raises:
        ZooError: no layers, or one that the checkpoint has not.
    """
    if layers is None:
        return list(range(have))
    if isinstance(layers, int) and not isinstance(layers, bool) and layers > 0:
        return [number % have for number in range(layers)]
    if isinstance(layers, list) and layers and all(isinstance(n, int) and 0 <= n < have for n in layers):
        return layers
    raise ZooError(
        f"init_from.layers = {layers!r}, and the checkpoint has layers 0 to {have - 1}: name some of them, as in 0,2, "
        "or say how many are wanted."
    )


# ---- checks ---------------------------------------------------------------------------------------------------------


def check_init_from(init_from: InitFromConfig, config: CoreConfig, folder: Path) -> None:
    """Raise ZooError if a start cannot be made, before any text is read.

    Args:
        init_from: where the run starts from.
        config: of the run's core.
        folder: the run folder.

    Raises:
        ZooError: the run would start from itself, or fields of the config differ that cannot be bridged (named with
            both values).
    """
    if Path(init_from.model).resolve() == folder.resolve():
        raise ZooError(f"init_from.model: {folder} is this run's own folder; choose another --run_folder or --output.")
    metadata = checkpoint_metadata(init_from.model)
    old, new = architecture(metadata.config), architecture(config)
    bridged = _BRIDGED | ({"fusion"} if None in (old["fusion"], new["fusion"]) else set())
    wrong = [f"{k}: {old[k]} there, {new[k]} here" for k in old if k not in bridged and old[k] != new[k]]
    if wrong:
        listing = "\n  ".join(wrong)
        raise ZooError(
            f"{init_from.model} cannot start this run; fields of the core's config that differ:\n  {listing}\nLeave "
            "--model.* away to take the checkpoint's."
        )
    source_groups(init_from, metadata.config, config)


def check_contents(init_from: InitFromConfig, run: ModelMetadata, tokenizer: ZooTokenizer | None) -> None:
    """Raise ZooError if weights cannot be read or the run cannot have the template, before any text is read.

    Args:
        init_from: where the run starts from.
        run: metadata of the run's model.
        tokenizer: the run's, where it is not trained on the text first.

    Raises:
        ZooError: weights are missing, cut short, quantised or not finite; tokens of the template are lacking.
    """
    metadata = checkpoint_metadata(init_from.model)
    weights = open_weights(metadata.path)
    with torch.device("meta"):  # not its buffers, such as spellings, which are no weights
        check_kinds_of_numbers(weights, [f"core.{name}" for name, _ in make_core(metadata.config).named_parameters()])
    check_finite(weights)
    if tokenizer is not None:
        _check_template(metadata, load_tokenizer(metadata.path), run, tokenizer)


def source_groups(init_from: InitFromConfig, old: CoreConfig, new: CoreConfig) -> list[int]:
    """The checkpoint's set of layer weights that each set of the run starts from.

    Raises:
        ZooError: another number of layers than ``init_from.layers`` gives, or layers of the run that share their
            weights would start from different ones.
    """
    layers = source_layers(init_from.layers, old.num_hidden_layers)
    if len(layers) != new.num_hidden_layers:
        raise ZooError(
            f"model.num_hidden_layers = {new.num_hidden_layers}, but {len(layers)} layers are taken of the "
            f"checkpoint's {old.num_hidden_layers}: say --init_from.layers {new.num_hidden_layers}, or which ones."
        )
    first: dict[int, int] = {}
    for number, layer in enumerate(layers):
        other = layers[first.setdefault(new.group_of(number), number)]
        if old.group_of(other) != old.group_of(layer):
            raise ZooError(
                f"two layers of the run share weights (model.num_hidden_groups = {new.groups} for "
                f"{new.num_hidden_layers} layers), but would start from the checkpoint's layers {other} and {layer}, "
                "which do not. Choose other init_from.layers, or give each layer weights of its own with "
                "--model.num_hidden_groups null."
            )
    return [old.group_of(layers[number]) for number in first.values()]


def _check_template(metadata: ModelMetadata, known: ZooTokenizer, run: ModelMetadata, tokenizer: ZooTokenizer) -> None:
    """Raise ZooError if the run lacks tokens of the template, unless it was so before (fine-tuning adds GPT's own)."""
    lacking = [token for token in run.template.tokens if tokenizer.backend.token_to_id(token) is None]
    before = all(known.backend.token_to_id(token) is None for token in lacking)
    if not lacking or (before and run.attention == metadata.attention):
        return
    cls, sep = tokenizer.roles.get("cls"), tokenizer.roles.get("sep")
    single, pair = (f"{cls} $A {sep}", f"{cls} $A {sep} $B {sep}") if cls and sep else ("$A", "$A $B")
    raise ZooError(
        f"template: {', '.join(lacking)} in {run.template.single!r} and {run.template.pair!r} (the checkpoint's, where "
        "no other is named) are no tokens of the run's vocabulary. Add them with --data.tokenizer.new_tokens "
        f"'{','.join(lacking)}', or use another template: --template.single '{single}' --template.pair '{pair}' "
        f"--template.pooling {'first' if cls and sep else 'last'}."
    )


# ---- weights --------------------------------------------------------------------------------------------------------


def init_weights_from(
    init_from: InitFromConfig, model: PretrainingModel, run: ModelMetadata, tokenizer: ZooTokenizer
) -> InitFromReport:
    """Copy a checkpoint's weights into a new model, as far as the two fit.

    Args:
        init_from: the folder, and which layers.
        model: the run's model with its initial values; changed in place.
        run: metadata of the run's model.
        tokenizer: the run's tokenizer.

    Raises:
        ZooError: the folder is damaged, its tokenizer is not its own, or tokens of the template are lacking.
    """
    core, metadata = load_core(init_from.model)
    known, weights = load_tokenizer(metadata.path), open_weights(metadata.path)
    _check_template(metadata, known, run, tokenizer)
    old = pack_model(core, {}) | {name: weights[name] for name in weights if not name.startswith("core.")}
    new = pack_model(model.core, dict(model.heads.items()))  # the model's own tensors, under a folder's names
    described = head_configs(dict(model.heads.items()))
    heads = {name for name, head in described.items() if init_from.heads and metadata.heads.get(name) == head}
    groups = source_groups(init_from, metadata.config, run.config)
    rows = _token_rows(known, metadata.config.vocab_size or 0, tokenizer, run.config.vocab_size or 0)
    by_token = {f"heads.{name}.{part}" for name in heads for part in ("bias", "decoder.weight")}
    by_token |= {f"core.embeddings.word_embeddings.{table}" for table in ("weight", "spellings")}

    layers = source_layers(init_from.layers, metadata.config.num_hidden_layers)
    report = InitFromReport(Path(init_from.model).resolve().name, weights_digest(metadata.path), layers)
    used, fresh = set(), []
    for name, tensor in new.items():
        source = _source(name, groups, heads)
        own = source.startswith("objectives.")  # what it means, only its objective knows: the shape has to do
        if source not in old or (own and not (init_from.heads and old[source].shape == tensor.shape)):
            fresh.append(name)
        else:
            used.add(source)
            _copy(name, old[source], tensor, rows if name in by_token else None, report)
    left = [name for name in old if name not in used]
    report.copied, report.fresh, report.left = *copied_and_fresh(report.copied, fresh), _units(left)
    return report


def _source(name: str, groups: list[int], heads: set[str]) -> str:
    """The checkpoint's name for a tensor of the run; empty where it is not to be copied."""
    layer = _LAYER.fullmatch(name)
    if layer:
        return f"core.layers.{groups[int(layer[1])]}.{layer[2]}"
    kind, owner, *_ = name.split(".")
    return "" if kind == "heads" and owner not in heads else name


def _token_rows(old: ZooTokenizer, old_size: int, new: ZooTokenizer, new_size: int) -> Tensor:
    """(V,) the checkpoint's row for each row of the run's vocabulary, -1 = none.

    Rows are of one token, or of none on both sides: those that round a vocabulary up, and keep their number.
    """
    if old.vocabulary.size > old_size:
        raise ZooError(
            f"init_from.model: the tokenizer there has {old.vocabulary.size} entries, the embedding {old_size} rows; "
            "they are not of the same model."
        )
    known = old.backend.get_vocab(with_added_tokens=True)
    wanted = new.backend.get_vocab(with_added_tokens=True)
    rows = torch.full((new_size,), -1)
    nameless = set(range(min(old_size, new_size))) - set(known.values()) - set(wanted.values())
    for token, row in wanted.items():
        rows[row] = known.get(token, -1)
    for row in nameless:
        rows[row] = row
    return rows


def _copy(name: str, old: Tensor, new: Tensor, rows: Tensor | None, report: InitFromReport) -> None:
    """One tensor: whole, or each row from that of ``rows``; tables of positions and types as far as both go.

    A head over the first tokens only has fewer rows than the vocabulary, on either side.
    """
    if rows is not None:
        rows = rows[: len(new)]
        rows = torch.where(rows < len(old), rows, -1)
    if rows is None and name.endswith(_TABLES):
        rows = torch.arange(len(new))
        rows[len(old) :] = -1
    if rows is None or torch.equal(rows, torch.arange(len(old))):
        if old.shape != new.shape:
            raise ZooError(f"{name} has shape {tuple(old.shape)} in the checkpoint, {tuple(new.shape)} in this run.")
        new.copy_(old)
        report.copied.append(name)
        return
    known = rows >= 0
    new[known] = old[rows[known]].to(new)
    count, left = int(known.sum()), len(old) - len(rows[known].unique())
    report.partly[name] = f"{count} of {len(new)} rows copied, {left} of the checkpoint's {len(old)} left behind"


def copied_and_fresh(copied: list[str], fresh: list[str]) -> tuple[list[str], list[str]]:
    """Units that were copied and that start afresh; of one that did both, what is fresh is named tensor by tensor."""
    parted = {*_units(copied)} & {*_units(fresh)}
    named = [f"{unit} (but for what is fresh)" if unit in parted else unit for unit in _units(copied)]
    return named, list(dict.fromkeys(name if _unit(name) in parted else _unit(name) for name in fresh))


def _units(names: Iterable[str]) -> list[str]:
    """Names of tensors, whole layers and heads in one."""
    return list(dict.fromkeys(map(_unit, names)))


def _unit(name: str) -> str:
    """The layer or head that a tensor is of, or its own name."""
    return _UNIT.sub(r"\1", name)
