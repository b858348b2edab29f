"""Weight tables as data: rows of (ours, theirs, operation), read both ways by :func:`to_ours` and :func:`to_theirs`.

A family is a :class:`Family` value in ``zoo/weights/families``; adding one means writing rows, never a function. Names
in rows are those of modules or of single tensors: ``.weight`` and ``.bias`` below a module need no row of their own,
and ``{}`` stands for the number of a layer (or of a set of layer weights, where layers share).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.errors import ZooError, nearest

# ---- operations on tensors: one function for each direction ---------------------------------------------------------


class Operation(NamedTuple):
    """A pair of tensor functions.

    Args:
        to_ours: their tensors to our tensors.
        to_theirs: our tensors to their tensors.
    """

    to_ours: Callable[[list[Tensor]], list[Tensor]]
    to_theirs: Callable[[list[Tensor]], list[Tensor]]


def _turned(tensor: Tensor) -> Tensor:
    return tensor.t() if tensor.ndim == 2 else tensor


OPERATIONS: dict[str, Operation] = {
    "same": Operation(list, list),
    # A vector that is a matrix of one row there.
    "row": Operation(lambda x: [x[0].squeeze(0)], lambda x: [x[0][None]]),
    # A matrix that is stored input first there.
    "transpose": Operation(lambda x: [_turned(x[0])], lambda x: [_turned(x[0])]),
    # Query, key and value in one input-first matrix there.
    "fused": Operation(lambda x: list(_turned(x[0]).chunk(3, dim=0)), lambda x: [_turned(torch.cat(x, dim=0))]),
}
"""What a row may name as its ``op``."""


def _to_heads(heads: int) -> Operation:
    """A matrix (W, H, D) there that makes queries, keys or values; ours is (H D, W)."""
    return Operation(
        lambda x: [x[0].flatten(1).t()], lambda x: [x[0].t().reshape(x[0].shape[1], heads, x[0].shape[0] // heads)]
    )


def _from_heads(heads: int) -> Operation:
    """A matrix (W, H, D) there that reads all heads' contexts; ours is (W, H D)."""
    return Operation(
        lambda x: [x[0].flatten(1)], lambda x: [x[0].reshape(x[0].shape[0], heads, x[0].shape[1] // heads)]
    )


HEAD_OPERATIONS: dict[str, Callable[[int], Operation]] = {"to heads": _to_heads, "from heads": _from_heads}
"""Operations that must know the number of heads, which the first axis of the row's ``like`` says."""


class WeightRow(NamedTuple):
    """One correspondence.

    Args:
        ours: module or tensor in the core or head; a tuple where several make one of theirs.
        theirs: module or tensor in their checkpoint, without the base model's prefix in rows of the core.
        op: a name in :data:`OPERATIONS` or :data:`HEAD_OPERATIONS`.
        tied: the row holds only where the output matrix is (``True``) or is not (``False``) the token embedding.
        like: a tensor of ours with one row for each head.
        given: a tensor of ours that the row holds beside; with ``!`` before it, one that there must not be.
    """

    ours: str | tuple[str, ...]
    theirs: str
    op: str = "same"
    tied: bool | None = None
    like: str = ""
    given: str = ""


class Copy(NamedTuple):
    """A tensor of theirs that repeats another one.

    Args:
        theirs: its name.
        of: the tensor it repeats.
        written: their library wants it in the file although it is not read; else it is left out, and checked to be
            equal where a checkpoint has it.
        tied: as in :class:`WeightRow`.
    """

    theirs: str
    of: str
    written: bool = False
    tied: bool | None = True


# ---- fields of the config --------------------------------------------------------------------------------------------


class ConfigField(NamedTuple):
    """A field of the config under both names.

    Args:
        ours: field of :class:`zoo.config.CoreConfig`.
        theirs: key of their ``config.json``.
        default: what their library takes where the key is absent.
        op: a name in ``zoo.weights.config_fields.TRANSLATIONS``, or a dictionary from our value to theirs.
    """

    ours: str
    theirs: str
    default: Any = None
    op: str | tuple[tuple[Any, Any], ...] = "same"


@dataclass(frozen=True)
class HeadTable:
    """How one head is named and described there.

    Args:
        name: our name for it.
        config: config of our head (``zoo.heads.build``), without labels; ``$NAME`` = that field of the core's config,
            ``?NAME`` = whether a checkpoint has that tensor, which it may leave out.
        rows: its tensors, under their full names there.
        copies: tensors there that repeat others.
        required_fields: fields of the core's config that their code presumes for this head.
        pooling: the state that it reads, where it reads one.
        attention: how tokens attend to each other in models of its class; ``None`` = in either way.
        caveat: what their code makes of what is written; empty = the same as ours.
    """

    name: str
    config: Mapping[str, Any]
    rows: tuple[WeightRow, ...] = ()
    copies: tuple[Copy, ...] = ()
    required_fields: Mapping[str, Any] = field(default_factory=dict)
    pooling: Literal["first", "last"] | None = None
    attention: Literal["bidirectional", "causal"] | None = None
    caveat: str = ""

    def needed_rows(self, tied: bool) -> list[WeightRow]:
        """Rows of tensors that a checkpoint cannot leave out."""
        optional = {str(value)[1:] for value in self.config.values() if str(value).startswith("?")}
        return [row for row in self.rows if row.tied in (None, tied) and row.theirs not in optional]


@dataclass(frozen=True)
class Family:
    """Everything about one family of checkpoints, as data.

    Args:
        model_type: its name in their ``config.json``.
        title: its name for people.
        prefix: name of the base model inside a model with a head; empty = it has none.
        attention: ``bidirectional`` or ``causal``.
        fixed: fields of the core's config that every such model has alike.
        fields: fields that vary, under both names.
        presumed: their keys that must have this value if present, because the table stands for no other.
        core: rows of the core.
        heads: its heads.
        architectures: their class names, each with our names of its heads; the first that covers a model's heads best
            is what it is exported as.
        derived: patterns of tensors that are rebuilt, never read.
        single: template of a text; ``{cls}`` and the like stand for the tokenizer's own special tokens.
        pair: template of two texts.
        specials: special tokens where a tokenizer does not name its own.
        pooling: state that sequence heads read.
        padding_side: side that tokenizers pad at.
        at_least: smallest values of fields that their code can express.
        causal_key: key of their ``config.json`` that is true where tokens attend backwards alone, whatever
            ``attention`` says; empty = there is none.
        copies: tensors of the core that repeat others, without the prefix.
        decoder_start_token_id: what a decoder reads first where their config does not say it.
        config_file: name of their config file; under another than transformers', the file does not say
            ``model_type``, and stock transformers has no class for it.
    """

    model_type: str
    title: str
    prefix: str
    attention: Literal["bidirectional", "causal"]
    fixed: Mapping[str, Any]
    fields: tuple[ConfigField, ...]
    core: tuple[WeightRow, ...]
    heads: tuple[HeadTable, ...]
    architectures: Mapping[str, tuple[str, ...]]
    presumed: Mapping[str, Any] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    single: str = "{cls} $A {sep}"
    pair: str = "{cls} $A {sep} $B {sep}"
    specials: Mapping[str, str] = field(default_factory=lambda: {"cls": "[CLS]", "sep": "[SEP]"})
    pooling: Literal["first", "last"] = "first"
    padding_side: Literal["right", "left"] = "right"
    at_least: Mapping[str, int] = field(default_factory=dict)
    causal_key: str = ""
    copies: tuple[Copy, ...] = ()
    decoder_start_token_id: int | None = None
    config_file: str = "config.json"

    def head(self, name: str) -> HeadTable:
        """The head of that name."""
        return next(head for head in self.heads if head.name == name)

    def attention_of(self, config: Mapping[str, Any]) -> Literal["bidirectional", "causal"]:
        """How tokens attend to each other by their ``config.json``."""
        return "causal" if self.causal_key and config.get(self.causal_key) else self.attention


def any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """One regular expression for several; without any it matches nothing.

    Raises:
        ZooError: one of them is none.
    """
    listed = list(patterns)
    try:
        return re.compile("|".join(f"(?:{pattern})" for pattern in listed) or "(?!)")
    except re.error as error:
        raise ZooError(f"ignore: {', '.join(listed)} is no regular expression: {error}.") from error


# ---- to ours and to theirs -------------------------------------------------------------------------------------------


class MatchedTensors(NamedTuple):
    """A row applied to one set of tensors.

    Args:
        ours: full names on our side.
        theirs: full name on theirs.
        op: the operation.
    """

    ours: tuple[str, ...]
    theirs: str
    op: Operation


def match(rows: tuple[WeightRow, ...], names: Mapping[str, torch.Size], tied: bool) -> list[MatchedTensors]:
    """Apply rows to the tensors of a module.

    Args:
        rows: a core's or a head's.
        names: the tensors that our module has, with their shapes.
        tied: whether the output matrix is the token embedding.

    Raises:
        ZooError: a tensor that no row names, or that two rows name (a mistake in the table).
    """
    parts: list[MatchedTensors] = []
    taken: set[str] = set()
    for row in rows:
        if row.tied not in (None, tied):
            continue
        first, *others = row.ours if isinstance(row.ours, tuple) else (row.ours,)
        pattern = re.compile("^" + re.escape(first).replace(r"\{\}", r"(\d+)") + r"(\.weight|\.bias)?$")
        for name in names:
            found = pattern.match(name)
            if found is None:
                continue
            *numbers, ending = found.groups()
            if row.given and (row.given.lstrip("!").format(*numbers) in names) == row.given.startswith("!"):
                continue
            ours = (name, *(other.format(*numbers) + (ending or "") for other in others))
            if taken & set(ours):
                raise ZooError(f"two rows of a weight table name {', '.join(sorted(taken & set(ours)))}.")
            taken |= set(ours)
            op = HEAD_OPERATIONS[row.op](names[row.like.format(*numbers)][0]) if row.like else OPERATIONS[row.op]
            parts.append(MatchedTensors(ours, row.theirs.format(*numbers) + (ending or ""), op))
    if missed := set(names) - taken:
        raise ZooError(f"no row of the weight table names {', '.join(sorted(missed)[:6])}.")
    return parts


Recipe = tuple[tuple[str, ...], Callable[[list[Tensor]], list[Tensor]], int]


class Converted(Mapping[str, Tensor]):
    """Tensors that are made from others when they are asked for, so that a conversion never holds two models.

    Args:
        source: what they are made from.
        recipes: for each name the source's names, the function, and which of its results is meant.
    """

    def __init__(
        self,
        source: Mapping[str, Tensor],
        recipes: dict[str, Recipe],
    ) -> None:
        self.source, self.recipes = source, recipes

    def __getitem__(self, name: str) -> Tensor:
        """Make one tensor."""
        names, function, place = self.recipes[name]
        return function([self.source[n] for n in names])[place]

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self.recipes)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.recipes)


def to_ours(tensors: Mapping[str, Tensor], parts: list[MatchedTensors]) -> Converted:
    """Their tensors under our names.

    Args:
        tensors: their checkpoint.
        parts: matched rows (:func:`match`), with the names that the checkpoint uses.

    Raises:
        ZooError: tensors that are needed are missing; names the closest ones that nothing asked for.
    """
    needed = {part.theirs for part in parts}
    missing = sorted(needed - set(tensors))
    if missing:
        spare = set(tensors) - needed
        listing = "\n  ".join(f"missing {name}.{nearest(name, spare)}" for name in missing[:12])
        raise ZooError(f"{len(missing)} tensors are missing from the checkpoint:\n  {listing}")
    recipes: dict[str, Recipe] = {}
    for part in parts:
        for place, name in enumerate(part.ours):
            recipes[name] = ((part.theirs,), part.op.to_ours, place)
    return Converted(tensors, recipes)


def to_theirs(tensors: Mapping[str, Tensor], parts: list[MatchedTensors]) -> Converted:
    """Our tensors under their names; the exact inverse of :func:`to_ours`."""
    return Converted(tensors, {part.theirs: (part.ours, part.op.to_theirs, 0) for part in parts})
