"""A checkpoint of theirs as a model of ours: both as values, the families, the matched tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.core.flops import layer_parameters
from zoo.errors import ZooError, nearest
from zoo.heads.build import build_head
from zoo.model_folder import ModelMetadata
from zoo.vocabulary import Template
from zoo.weights.config_fields import read_config
from zoo.weights.families import FAMILIES
from zoo.weights.published import check_finite, check_kinds_of_numbers, check_not_quantised, plain_names
from zoo.weights.table import Converted, Family, HeadTable, MatchedTensors, WeightRow, any_of, match, to_ours

_DEFAULT_LABEL = re.compile(r"LABEL_\d+$")
_FAR_LARGER = 100  # times the weights of a checkpoint; up to there the tensors are named whose shapes differ


class Model(NamedTuple):
    """A model of ours before it is a module or a folder.

    Args:
        metadata: everything but the weights.
        tensors: ``core.*`` and ``heads.NAME.*``, made when asked for.
        report: what was done to it, a line each.
    """

    metadata: ModelMetadata
    tensors: Mapping[str, Tensor]
    report: list[str]


class Checkpoint(NamedTuple):
    """A checkpoint of theirs before it is files.

    Args:
        config: the content of their ``config.json``.
        tensors: under their names, made when asked for.
        report: what was done to it, a line each.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    report: list[str]


# ---- a checkpoint of theirs as a model of ours -----------------------------------------------------------------------


def read_checkpoint(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    specials: Mapping[str, str] | None = None,
    ignore: Iterable[str] = (),
) -> Model:
    """A checkpoint of theirs as a model of ours.

    Args:
        config: their ``config.json``.
        tensors: their tensors by name.
        specials: special tokens of its tokenizer by role (``cls``, ``sep``, ``bos``, ``eos``).
        ignore: patterns of tensors to leave behind.

    Raises:
        ZooError: no table for it, a config that the table does not stand for, missing, unknown or misshapen tensors,
            weights that are quantised or not finite.
    """
    family = find_family(config.get("model_type"))
    tensors, report = plain_names(tensors, family.prefix)
    check_not_quantised(config, tensors)
    tensors, left = _without(tensors, family, ignore)
    report += left
    base = f"{family.prefix}."
    reader = _Reader(family, tensors, base if any(n.startswith(base) for n in tensors) else "", report)
    core = _read_core_config(reader, config)
    _check_layers(core, tensors)
    heads = _read_heads(reader, core, config)
    if any(described.get("dense") == "pooler" for _, described in heads.values()):
        core = core.replace(pooler=True)  # where its tensors are not there, they are missing
    parts = match_core(family.core, core, reader.prefix)
    for name, (table, described) in heads.items():
        parts += match_head(table, described, core, name)
    check_kinds_of_numbers(tensors, [part.theirs for part in parts])
    made = to_ours(tensors, parts)
    _check_copies(reader, core, heads)
    reader.spoken |= {part.theirs for part in parts}
    _raise_on_unknown_tensors(reader)
    _check_shapes(made, core, {name: described for name, (_, described) in heads.items()})
    check_finite(made)
    metadata = ModelMetadata(
        config=core,
        template=_template(family, specials or {}),
        attention=family.attention_of(config),
        heads={name: described for name, (_, described) in heads.items()},
        origin=family.model_type,
        decoder_start_token_id=_decoder_start(family, config) if core.decoder is not None else None,
    )
    return Model(metadata, made, reader.report)


@dataclass
class _Reader:
    """One checkpoint while it is read: which of its tensors are spoken for."""

    family: Family
    tensors: Mapping[str, Tensor]
    prefix: str
    report: list[str] = field(default_factory=list)
    spoken: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether a module or tensor of that full name is there and free."""
        found = {name, f"{name}.weight", f"{name}.bias"} & set(self.tensors)
        return bool(found - self.spoken)


def _without(
    tensors: Mapping[str, Tensor], family: Family, ignore: Iterable[str]
) -> tuple[Mapping[str, Tensor], list[str]]:
    """Without what is rebuilt and what the user leaves behind."""
    derived = re.compile(rf"(?:{re.escape(family.prefix)}\.)?(?:{'|'.join(family.derived) or '(?!)'})$")
    unwanted = any_of(ignore)
    rebuilt = [name for name in tensors if derived.match(name)]
    left = [name for name in tensors if unwanted.search(name) and name not in rebuilt]
    report = [f"rebuilt, not read: {', '.join(rebuilt)}"] if rebuilt else []
    report += [f"left behind as asked: {', '.join(left)}"] if left else []
    if not rebuilt and not left:
        return tensors, report
    kept = [name for name in tensors if name not in {*rebuilt, *left}]
    return Converted(tensors, {name: ((name,), list, 0) for name in kept}), report


def _read_core_config(reader: _Reader, config: Mapping[str, Any]) -> CoreConfig:
    """Config of the core: their config, and what only the tensors say."""
    core = read_config(reader.family, config)
    theirs = {row.ours: f"{reader.prefix}{row.theirs}" for row in reader.family.core}
    if "pooler" in theirs:
        core = core.replace(pooler=reader.has(theirs["pooler"]))
    embedding = f"{theirs['embeddings.word_embeddings']}.weight"
    if embedding in reader.tensors and reader.tensors[embedding].ndim == 2:
        rows = reader.tensors[embedding].shape[0]
        if rows != core.vocab_size:
            said = f"config.json says {core.vocab_size}, the embedding has {rows} rows"
            reader.report.append(f"resized vocabulary: {said}, which are taken")
            core = core.replace(vocab_size=rows)
    return core


def _check_layers(core: CoreConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raise ZooError if the layers are far larger than the checkpoint, before they are made to compare their shapes."""
    described, held = layer_parameters(core), sum(tensor.numel() for tensor in tensors.values())
    if described > _FAR_LARGER * held:
        raise ZooError(
            f"config.json describes {core.num_hidden_layers:,} layers, {core.hidden_size:,} wide, which would take "
            f"{4 * described / 1e9:,.1f} GB; all tensors of the checkpoint take {4 * held / 1e9:,.3f} GB. Is this its "
            "config.json?"
        )


def _read_heads(
    reader: _Reader, core: CoreConfig, config: Mapping[str, Any]
) -> dict[str, tuple[HeadTable, dict[str, Any]]]:
    """Heads that the checkpoint has: those of its class first, then others whose tensors are there."""
    family, found = reader.family, {}
    named = (config.get("architectures") or [None])[0]
    of_class = family.architectures.get(named, ())
    tables = [family.head(name) for name in of_class] + [h for h in family.heads if h.name not in of_class]
    for table in tables:
        rows = table.needed_rows(core.tie_word_embeddings)
        present = [reader.has(row.theirs) for row in rows]
        clash = [f"{k} = {v}" for k, v in table.required_fields.items() if core.to_dict()[k] != v]
        if clash and rows and all(present):
            reader.report.append(f"head {table.name} presumes {', '.join(clash)} there, which this core has not")
        if clash:
            continue
        wanted = any(present) if rows else any(copy.theirs in reader.tensors for copy in table.copies)
        if not rows:  # tensors that a checkpoint may leave out speak for the head where they are there
            wanted |= any(reader.has(row.theirs) for row in table.rows if row.tied is None)
        if table.name in of_class:
            wanted |= not rows  # a head without tensors of its own: only the class says that it is there
        else:
            wanted &= all(present) and (core.pooler or table.config.get("dense") != "pooler")
        if wanted:
            found[table.name] = (table, _read_head_config(reader, table, core, config))
            claimed = re.compile("|".join(re.escape(row.theirs) + r"(?:\.|$)" for row in rows) or "(?!)")
            reader.spoken |= {name for name in reader.tensors if claimed.match(name)}
    absent = [name for name in of_class if name not in found and not family.head(name).required_fields]
    if absent:
        reader.report.append(f"absent heads: {', '.join(absent)}")
    return found


def _read_head_config(reader: _Reader, table: HeadTable, core: CoreConfig, config: Mapping[str, Any]) -> dict[str, Any]:
    """Config of one head, number and names of its classes included."""
    plain = core.to_dict()
    found = {key: plain[value[1:]] if str(value).startswith("$") else value for key, value in table.config.items()}
    found = {key: reader.has(value[1:]) if str(value).startswith("?") else value for key, value in found.items()}
    scores = next((row.theirs for row in table.rows if row.ours == "output"), None)
    if scores is None:
        return found
    tensor = reader.tensors.get(f"{scores}.weight")
    count = int(found.get("num_labels", tensor.shape[0] if tensor is not None else 0))
    found["num_labels"] = count
    names = config.get("id2label") or {}
    labels = [str(names[key]) for key in sorted(names, key=lambda key: (len(str(key)), str(key)))]  # "2" before "10"
    named = len(labels) == count and not all(_DEFAULT_LABEL.match(label) for label in labels)
    if named and found["kind"] in ("classification", "tagging"):
        found["labels"] = labels
    return found


def _decoder_start(family: Family, config: Mapping[str, Any]) -> int | None:
    said = config.get("decoder_start_token_id")
    return family.decoder_start_token_id if said is None else int(said)


def _template(family: Family, specials: Mapping[str, str]) -> Template:
    known = {**family.specials, **{role: token for role, token in specials.items() if token}}
    known = {role: known[role] for role in family.specials}
    return Template(family.single.format(**known), family.pair.format(**known), family.pooling, family.padding_side)


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check_copies(reader: _Reader, core: CoreConfig, heads: Mapping[str, tuple[HeadTable, dict[str, Any]]]) -> None:
    """Tensors that repeat others must do so; they are then known and left out."""
    base = f"{reader.family.prefix}."
    of_core = [c._replace(theirs=reader.prefix + c.theirs, of=reader.prefix + c.of) for c in reader.family.copies]
    for copies in (of_core, *(table.copies for table, _ in heads.values())):
        for copy in copies:
            if copy.theirs not in reader.tensors or copy.tied not in (None, core.tie_word_embeddings):
                continue
            original = copy.of if copy.of in reader.tensors else copy.of.removeprefix(base)
            reader.spoken.add(copy.theirs)
            if copy.written or original not in reader.tensors:
                continue
            if not torch.equal(reader.tensors[copy.theirs], reader.tensors[original]):
                raise ZooError(
                    f"{copy.theirs} is not equal to {original}, although its config.json ties them; if they are meant "
                    "to differ, set tie_word_embeddings to false there."
                )


def _raise_on_unknown_tensors(reader: _Reader) -> None:
    unknown = sorted(set(reader.tensors) - reader.spoken)
    if unknown:
        listing = "\n  ".join(f"{name}.{nearest(name, reader.spoken)}" for name in unknown[:12])
        notes = "".join(f"\n{line}" for line in reader.report)
        parts = {row.theirs.split(".")[0] for row in reader.family.core}
        bare = [name.removeprefix(reader.prefix) for name in unknown if name.startswith(reader.prefix)]
        inside = [name for name in bare if name.split(".")[0] in parts]
        advice = "If they belong to a head that you can do without, leave them behind with --ignore PATTERN."
        if inside:
            advice = (
                f"{inside[0]} is inside the model, which computes something else without it. It cannot be left out."
            )
        raise ZooError(
            f"{len(unknown)} tensors of the checkpoint are in no row of the {reader.family.title} table:\n  {listing}"
            f"{notes}\n{advice}"
        )


def _check_shapes(made: Mapping[str, Tensor], core: CoreConfig, heads: Mapping[str, Mapping[str, Any]]) -> None:
    expected = {f"core.{name}": shape for name, shape in core_shapes(core).items()}
    for head, described in heads.items():
        expected |= {f"heads.{head}.{name}": shape for name, shape in head_shapes(core, described).items()}
    wrong = []
    for name, shape in expected.items():
        try:
            found = str(tuple(made[name].shape))
        except (IndexError, RuntimeError):  # not even the number of axes that the row takes apart
            found = "another number of axes"
        if found != str(tuple(shape)):
            wrong.append(f"{name}: {found} in the checkpoint, {tuple(shape)} by its config.json")
    if wrong:
        listing = "\n  ".join(wrong[:12])
        raise ZooError(f"{len(wrong)} tensors have another shape than config.json says:\n  {listing}")


# ---- families and matched tensors, read by the export too ------------------------------------------------------------


@lru_cache(maxsize=1)
def all_families() -> dict[str, Family]:
    """Every family by its ``model_type``; an export tries the plainest, with the fewest fields, first."""
    return {family.model_type: family for family in sorted(FAMILIES, key=lambda f: (len(f.fields), f.model_type))}


def find_family(name: Any, also: str = "") -> Family:
    """The family of that ``model_type``.

    Args:
        name: the ``model_type``.
        also: what else is known of the folder, for the message.

    Raises:
        ZooError: there are no rows for it.
    """
    known = all_families()
    if name not in known:
        raise ZooError(
            f"no weight table is written for model_type {name!r}; there is one for {', '.join(known)}."
            f"{nearest(str(name), known)}{f' {also}.' if also else ''}"
        )
    return known[name]


def match_core(rows: tuple[WeightRow, ...], core: CoreConfig, prefix: str) -> list[MatchedTensors]:
    """Rows of the core applied to its tensors; their names with a prefix."""
    names = core_shapes(core)
    return [
        MatchedTensors(tuple(f"core.{n}" for n in p.ours), prefix + p.theirs, p.op) for p in match(rows, names, True)
    ]


def match_head(table: HeadTable, described: Mapping[str, Any], core: CoreConfig, name: str) -> list[MatchedTensors]:
    """Rows of a head applied to its tensors."""
    names = head_shapes(core, described)
    parts = match(table.rows, names, core.tie_word_embeddings)
    return [MatchedTensors(tuple(f"heads.{name}.{n}" for n in p.ours), p.theirs, p.op) for p in parts]


def core_shapes(core: CoreConfig) -> dict[str, torch.Size]:
    """Shapes of a core's tensors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in make_core(core).state_dict().items()}


def head_shapes(core: CoreConfig, described: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Shapes of a head's tensors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_head(core, dict(described)).state_dict().items()}
