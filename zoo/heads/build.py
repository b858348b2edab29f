"""Head modules: what stands between hidden states and scores, and the loss of those that score tokens.

A head is described by its config, ``{"kind": "token", "transform": true, ...}``, which a model folder's ``config.json``
keeps by the head's name; :func:`build_head` makes the module again, without the objective that trained it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo.config import CoreConfig
from zoo.errors import ZooError, nearest
from zoo.heads.scalar_mix import ScalarMixes
from zoo.heads.sequence_head import SequenceHead
from zoo.heads.task_network import TaskNetwork
from zoo.heads.token_heads import EntityHead, LabelHead, TokenHead

Head = TokenHead | SequenceHead | EntityHead | LabelHead | ScalarMixes | TaskNetwork
HEADS: dict[str, Callable[..., Head]] = {
    "token": TokenHead,
    "pair": SequenceHead,
    "row_class": SequenceHead,
    "classification": SequenceHead,
    "choice": SequenceHead,
    "tagging": LabelHead,
    "span": LabelHead,
    "replaced": LabelHead,
    "entity": EntityHead,
    "mixes": ScalarMixes,
    "features": TaskNetwork,
    "token_class": LabelHead,
}
"""Module of each kind of head; the kind says what it is for."""


def build_head(config: CoreConfig, head_config: dict[str, Any]) -> Head:
    """The module that ``head_config`` describes, with torch's own initial values.

    Raises:
        ZooError: an unknown kind or key.
    """
    options = dict(head_config)
    kind = str(options.pop("kind", ""))
    if kind not in HEADS:
        raise ZooError(f"unknown kind of head {kind!r}; known: {', '.join(HEADS)}.{nearest(kind, HEADS)}")
    named = {} if kind == "token" else {"kind": kind}
    try:
        return HEADS[kind](config, **named, **options)
    except TypeError as error:
        raise ZooError(f"the config {head_config} does not describe a head of kind {kind!r}: {error}") from error
