"""A checkpoint of theirs as a model of ours, and back: facts and tensors, no files."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.config import CoreConfig
from zoo.core import make_core
from zoo.errors import ZooError, nearest
from zoo.heads import build_head
from zoo.model_folder import ModelFacts
from zoo.vocabulary import Template
from zoo.weights import families
from zoo.weights.facts import differences, matching_heads, read_config, write_config
from zoo.weights.table import Converted, Family, HeadTable, Parts, Row, any_of, dump, load, match

_OLD_ENDINGS = ((".gamma", ".weight"), (".beta", ".bias"))  # norms before 2019
_DEFAULT_LABEL = re.compile(r"LABEL_\d+$")


class Model(NamedTuple):
    """A model of ours before it is a module or a folder.

    Args:
        facts: everything but the weights.
        tensors: ``core.*`` and ``heads.NAME.*``, made when asked for.
        report: what was done to it, a line each.
    """

    facts: ModelFacts
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


@lru_cache(maxsize=1)
def all_families() -> dict[str, Family]:
    """Every family by its ``model_type``; an export tries the plainest, with the fewest facts, first."""
    names = [f"{families.__name__}.{found.name}" for found in pkgutil.iter_modules(families.__path__)]
    found = {family.model_type: family for family in (importlib.import_module(name).FAMILY for name in names)}
    return dict(sorted(found.items(), key=lambda item: (len(item[1].facts), item[0])))


def find_family(name: Any) -> Family:
    """The family of that ``model_type``.

    Raises:
        ZooError: there are no rows for it.
    """
    known = all_families()
    if name not in known:
        raise ZooError(
            f"no weight table is written for model_type {name!r}; there is one for {', '.join(known)}."
            f"{nearest(str(name), known)}"
        )
    return known[name]


# ---- theirs to ours -------------------------------------------------------------------------------------------------


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
        ZooError: no table for it, facts that the table does not stand for, missing, unknown or misshapen tensors.
    """
    family = find_family(config.get("model_type"))
    tensors, report = _modern_names(tensors)
    tensors, left = _without(tensors, family, ignore)
    report += left
    base = f"{family.prefix}."
    reader = _Reader(family, tensors, base if any(n.startswith(base) for n in tensors) else "", report)
    core = _read_core_facts(reader, config)
    heads = _read_heads(reader, core, config)
    if any(described.get("dense") == "pooler" for _, described in heads.values()):
        core = core.replace(pooler=True)  # where its tensors are not there, they are missing
    parts = _core_parts(family.core, core, reader.prefix)
    for name, (table, described) in heads.items():
        parts += _head_parts(table, described, core, name)
    made = load(tensors, parts)
    _check_copies(reader, core, heads)
    reader.spoken |= {part.theirs for part in parts}
    _refuse_unknown(reader)
    _check_shapes(made, core, {name: facts for name, (_, facts) in heads.items()})
    facts = ModelFacts(
        config=core,
        template=_template(family, specials or {}),
        visibility=family.visibility,
        heads={name: facts for name, (_, facts) in heads.items()},
        origin=family.model_type,
    )
    return Model(facts, made, reader.report)


def _modern_names(tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], list[str]]:
    """Names as they are written today."""
    names = {}
    for name in tensors:
        ending = next((e for e in _OLD_ENDINGS if name.endswith(e[0])), None)
        names[name.removesuffix(ending[0]) + ending[1] if ending else name] = name
    renamed = sum(new != old for new, old in names.items())
    if not renamed:
        return tensors, []
    return Converted(tensors, {new: ((old,), list, 0) for new, old in names.items()}), [
        f"{renamed} old names (gamma, beta) read as weight, bias"
    ]


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


def _read_core_facts(reader: _Reader, config: Mapping[str, Any]) -> CoreConfig:
    """Facts of the core: their config, and what only the tensors say."""
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


def _read_heads(
    reader: _Reader, core: CoreConfig, config: Mapping[str, Any]
) -> dict[str, tuple[HeadTable, dict[str, Any]]]:
    """Heads that the checkpoint has: those of its class first, then others whose tensors are there."""
    family, found = reader.family, {}
    named = (config.get("architectures") or [None])[0]
    of_class = family.architectures.get(named, ())
    tables = [family.head(name) for name in of_class] + [h for h in family.heads if h.name not in of_class]
    for table in tables:
        rows = [row for row in table.rows if row.tied in (None, core.tie_word_embeddings)]
        present = [reader.has(row.theirs) for row in rows]
        clash = [f"{k} = {v}" for k, v in table.needs.items() if core.to_dict()[k] != v]
        if clash and rows and all(present):
            reader.report.append(f"head {table.name} presumes {', '.join(clash)} there, which this core has not")
        if clash:
            continue
        wanted = any(present) if rows else any(copy.theirs in reader.tensors for copy in table.copies)
        if table.name in of_class:
            wanted |= not rows  # a head without tensors of its own: only the class says that it is there
        else:
            wanted &= all(present) and (core.pooler or table.facts.get("dense") != "pooler")
        if wanted:
            found[table.name] = (table, _read_head_facts(reader, table, core, config))
            claimed = re.compile("|".join(re.escape(row.theirs) + r"(?:\.|$)" for row in rows) or "(?!)")
            reader.spoken |= {name for name in reader.tensors if claimed.match(name)}
    absent = [name for name in of_class if name not in found and not family.head(name).needs]
    if absent:
        reader.report.append(f"absent heads: {', '.join(absent)}")
    return found


def _read_head_facts(reader: _Reader, table: HeadTable, core: CoreConfig, config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of one head, number and names of its classes included."""
    plain = core.to_dict()
    facts = {key: plain[value[1:]] if str(value).startswith("$") else value for key, value in table.facts.items()}
    scores = next((row.theirs for row in table.rows if row.ours == "output"), None)
    if scores is None:
        return facts
    tensor = reader.tensors.get(f"{scores}.weight")
    count = int(facts.get("num_labels", tensor.shape[0] if tensor is not None else 0))
    facts["num_labels"] = count
    names = config.get("id2label") or {}
    labels = [str(names[key]) for key in sorted(names, key=lambda key: (len(str(key)), str(key)))]  # "2" before "10"
    named = len(labels) == count and not all(_DEFAULT_LABEL.match(label) for label in labels)
    if named and facts["kind"] in ("classification", "tagging"):
        facts["labels"] = labels
    return facts


def _core_parts(rows: tuple[Row, ...], core: CoreConfig, prefix: str) -> list[Parts]:
    names = _core_shapes(core)
    return [Parts(tuple(f"core.{n}" for n in p.ours), prefix + p.theirs, p.op) for p in match(rows, names, True)]


def _head_parts(table: HeadTable, facts: Mapping[str, Any], core: CoreConfig, name: str) -> list[Parts]:
    names = _head_shapes(core, facts)
    parts = match(table.rows, names, core.tie_word_embeddings)
    return [Parts(tuple(f"heads.{name}.{n}" for n in p.ours), p.theirs, p.op) for p in parts]


def _core_shapes(core: CoreConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in make_core(core).state_dict().items()}


def _head_shapes(core: CoreConfig, facts: Mapping[str, Any]) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_head(core, dict(facts)).state_dict().items()}


def _check_copies(reader: _Reader, core: CoreConfig, heads: Mapping[str, tuple[HeadTable, dict[str, Any]]]) -> None:
    """Tensors that repeat others must do so; they are then known and left out."""
    base = f"{reader.family.prefix}."
    for table, _ in heads.values():
        for copy in table.copies:
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


def _refuse_unknown(reader: _Reader) -> None:
    unknown = sorted(set(reader.tensors) - reader.spoken)
    if unknown:
        listing = "\n  ".join(f"{name}.{nearest(name, reader.spoken)}" for name in unknown[:12])
        notes = "".join(f"\n{line}" for line in reader.report)
        raise ZooError(
            f"{len(unknown)} tensors of the checkpoint are in no row of the {reader.family.title} table:\n  {listing}"
            f"{notes}\nIf they belong to a head that you can do without, leave them behind with --ignore PATTERN."
        )


def _check_shapes(made: Mapping[str, Tensor], core: CoreConfig, heads: Mapping[str, Mapping[str, Any]]) -> None:
    expected = {f"core.{name}": shape for name, shape in _core_shapes(core).items()}
    for head, facts in heads.items():
        expected |= {f"heads.{head}.{name}": shape for name, shape in _head_shapes(core, facts).items()}
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


def _template(family: Family, specials: Mapping[str, str]) -> Template:
    known = {**family.specials, **{role: token for role, token in specials.items() if token}}
    known = {role: known[role] for role in family.specials}
    return Template(family.single.format(**known), family.pair.format(**known), family.pooling, family.padding_side)


# ---- ours to theirs -------------------------------------------------------------------------------------------------


def write_checkpoint(facts: ModelFacts, tensors: Mapping[str, Tensor], family: str | None = None) -> Checkpoint:
    """A model of ours as a checkpoint of theirs.

    Args:
        facts: everything but the weights.
        tensors: ``core.*`` and ``heads.NAME.*``.
        family: ``model_type`` to write; ``None`` = the one that the weights came from, or the first that can say it.

    Raises:
        ZooError: the family, or every family, lacks a word for some fact; names the facts.
    """
    table = _choose_family(facts, family)
    heads = matching_heads(table, facts)
    architecture, names = _architecture(table, {head.name for head in heads.values()})
    heads = {name: head for name, head in heads.items() if head.name in names}
    prefix = f"{table.prefix}." if names else ""
    parts = _core_parts(table.core, facts.config, prefix)
    copies: dict[str, str] = {}
    for name, head in heads.items():
        parts += _head_parts(head, facts.heads[name], facts.config, name)
        wanted = [c for c in head.copies if c.written and c.tied in (None, facts.config.tie_word_embeddings)]
        copies |= {copy.theirs: copy.of for copy in wanted}
    made = dump(tensors, parts)
    for name, original in copies.items():
        made.recipes[name] = made.recipes[original]
    config = {**write_config(table, facts.config), "architectures": [architecture], **_labels(facts, heads)}
    left = [name for name in facts.heads if name not in heads]
    report = [f"left out, {architecture} has no place for it: head {name}" for name in left]
    report += _gaps(table, architecture, facts.config, set(made))
    return Checkpoint(config, made, report)


def _gaps(family: Family, architecture: str, core: CoreConfig, written: set[str]) -> list[str]:
    """What the class has and the file has not, or the other way round: it opens all the same, with a warning."""

    def present(name: str) -> bool:
        return bool({name, f"{name}.weight", f"{name}.bias"} & written)

    report = []
    heads = [family.head(name) for name in family.architectures[architecture]]
    for head in heads:
        rows = [row for row in head.rows if row.tied in (None, core.tie_word_embeddings)]
        if not all(present(row.theirs) for row in rows):
            report.append(f"{architecture} has a head that this model lacks, filled at random there: {head.name}")
    pooler = next((row.theirs for row in family.core if row.ours == "pooler"), None)
    if pooler is not None:
        wanted = not heads or any(head.facts.get("dense") == "pooler" for head in heads)
        found = present(pooler) or present(f"{family.prefix}.{pooler}")
        if wanted and not found:
            report.append(f"{architecture} has a pooler, which this model lacks: filled at random there")
        if found and not wanted:
            report.append(
                f"{architecture} has no pooler; this model's is in the file, for {[*family.architectures][-1]}"
            )
    return report


def _choose_family(facts: ModelFacts, name: str | None) -> Family:
    known = all_families()
    first = [find_family(name)] if name else [known[facts.origin]] if facts.origin in known else []
    candidates = first if name else [*first, *(f for f in known.values() if f not in first)]
    reasons: dict[str, list[str]] = {}
    for family in candidates:
        reasons[family.title] = differences(family, facts)
        if not reasons[family.title]:
            return family
    stock = [f.title for f in candidates if name or f.config_file == "config.json"]
    title = min(stock, key=lambda key: len(reasons[key]))
    listing = "\n  ".join(reasons[title])
    which = f"As {title} this model cannot be expressed; in the way:"
    if not name:
        which = f"no stock transformers class can express this model. Nearest is {title}; in the way:"
    raise ZooError(
        f"{which}\n  {listing}\nThe folder itself opens with transformers' Auto classes after `import zoo.hf`."
    )


def _architecture(family: Family, heads: set[str]) -> tuple[str, set[str]]:
    """The class that keeps most of the heads, the first of equals."""
    ranked = sorted(family.architectures.items(), key=lambda item: (-len(heads & set(item[1])), len(item[1])))
    name, own = ranked[0]
    return name, heads & set(own)


def _labels(facts: ModelFacts, heads: Mapping[str, HeadTable]) -> dict[str, Any]:
    """Names of the classes, as their config keeps them."""
    for name, table in heads.items():
        if table.facts["kind"] in ("classification", "tagging"):
            head = facts.heads[name]
            labels = head.get("labels") or [f"LABEL_{i}" for i in range(head["num_labels"])]
            return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return {}
