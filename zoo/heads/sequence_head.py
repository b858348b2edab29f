"""The head that scores a row by one of its states, and which state that is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.attention.positions import states_at
from zoo.config import CoreConfig
from zoo.core.functions import activation
from zoo.errors import ZooError
from zoo.vocabulary import Template, parse_layout


class SequenceHead(nn.Module):
    """Scores of a whole row: next sentence, sentence order, the class of a text.

    Args:
        config: the core's config.
        num_labels: classes.
        kind: ``pair`` (next sentence or sentence order), ``row_class`` (another pretraining objective's),
            ``classification`` (a fine-tuned one's) or ``choice`` (one score for each of several rows).
        dense: activation of a dense layer of its own, W -> W, over the state that the template's ``pooling`` names;
            ``pooler`` = the core's pooled state instead; ``none`` = that state as it is (GPT, section 3.2).
        bias: a bias per class.
        labels: names of the classes.
    """

    def __init__(
        self,
        config: CoreConfig,
        num_labels: int = 2,
        kind: str = "pair",
        dense: str = "pooler",
        bias: bool = True,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__()
        if dense == "pooler" and not config.pooler:
            raise ZooError("this head reads the core's pooled state, and this core has no pooler (model.pooler: true).")
        self.head_config: dict[str, Any] = {"kind": kind, "num_labels": num_labels, "dense": dense, "bias": bias}
        if labels is not None:
            self.head_config["labels"] = list(labels)
        own = dense not in ("pooler", "none")
        self.reads_pooler = dense == "pooler"
        self.dense = nn.Linear(config.output_width, config.hidden_size) if own else nn.Identity()
        self.activation = activation(dense) if own else nn.Identity()
        width = config.output_width if dense == "none" else config.hidden_size
        self.output = nn.Linear(width, num_labels, bias=bias)

    def features(self, state: Tensor) -> Tensor:
        """(B, W) state -> (B, W) what the classifier is multiplied with; dropout, where wanted, follows it."""
        return self.activation(self.dense(state))

    def forward(self, state: Tensor) -> Tensor:
        """(B, W) pooled or chosen state -> (B, num_labels)."""
        return self.output(self.features(state))


def new_sequence_head(config: CoreConfig, pooling: str, attention: str) -> dict[str, Any]:
    """``dense`` and ``bias`` of a new head over one state of the row (specs: BERT, section 5; GPT, section 5).

    The first token's state: the core's pooler, or a new dense layer with tanh where it has none. The last token's: a
    new dense layer with tanh (XLNet); where attention is causal, the state as it is, and no bias (GPT).

    Args:
        config: the core's config.
        pooling: the template's.
        attention: ``bidirectional`` or ``causal``.
    """
    if pooling == "last" and attention == "causal":
        return {"dense": "none", "bias": False}
    return {"dense": "pooler" if pooling == "first" and config.pooler else "tanh", "bias": True}


def pooled_state(hidden: Tensor, pooling: str, last: Tensor | None) -> Tensor:
    """(B, L, W) -> (B, W) the state that a template's ``pooling`` names.

    Args:
        hidden: states of rows that begin at their first position, unless ``pooling`` is ``last``.
        pooling: ``first``, ``last``, or ``ends``: each direction's half where that direction has read everything.
        last: (B,) position of each row's last real token; ``None`` = the row's last one.
    """
    if pooling == "first":
        return hidden[:, 0]
    closing = hidden[:, -1] if last is None else states_at(hidden, last)
    if pooling == "last":
        return closing
    half = hidden.shape[-1] // 2
    return torch.cat([closing[:, :half], hidden[:, 0, half:]], dim=-1)


def check_template(template: Template, config: CoreConfig, attention: str) -> None:
    """Raise ZooError if the core's states or segments cannot serve the template.

    Raises:
        ZooError: says which field is in the way and what would work.
    """
    if template.pooling == "ends" and (config.recurrent is None or attention != "bidirectional"):
        why = "attention is causal" if config.recurrent is not None else "this core's states have no such halves"
        raise ZooError(
            "template.pooling: ends reads the forward half of the last state and the backward half of the first, and "
            f"{why} (model.recurrent, attention); first or last would work."
        )
    highest = max(segment for layout in (template.single, template.pair) for _, segment in parse_layout(layout))
    if highest > 1 and not config.relative_segments and 1 < config.type_vocab_size <= highest:
        raise ZooError(
            f"the template numbers a segment {highest}, and the core has {config.type_vocab_size} "
            "(model.type_vocab_size), numbered from 0."
        )
