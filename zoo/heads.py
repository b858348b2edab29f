"""Head modules: what stands between hidden states and scores, and the loss of those that score tokens.

A head is described by facts, ``{"kind": "token", "transform": true, ...}``, which a model folder's ``config.json``
keeps by the head's name; :func:`build_head` makes the module again, without the objective that trained it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.config import CoreConfig
from zoo.core import activation
from zoo.errors import ZooError, nearest
from zoo.loss import TokenLoss, linear_cross_entropy
from zoo.mix import Mixes, TaskNetwork
from zoo.vocabulary import Template, parse_layout


class TokenHead(nn.Module):
    """Scores over the vocabulary with the token embedding as output matrix.

    Args:
        config: the core's facts.
        transform: dense W -> E, activation and LayerNorm before the output matrix (BERT's masked head);
            without it the states go in as they are (GPT).
        bias: a bias per vocabulary entry.
        half: read the first half of the states, which in a recurrent core is the forward direction's; a caller may
            also give one direction's half by itself.
        outputs: score only so many entries, the vocabulary's first; needs a matrix of its own. ``None`` = all.
    """

    def __init__(
        self,
        config: CoreConfig,
        transform: bool = True,
        bias: bool = True,
        half: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        assert config.vocab_size is not None
        self.facts: dict[str, Any] = {"kind": "token", "transform": transform, "bias": bias}
        self.facts |= ({"half": True} if half else {}) | ({} if outputs is None else {"outputs": outputs})
        entries = config.vocab_size if outputs is None else outputs
        if config.tie_word_embeddings and entries != config.vocab_size:
            raise ZooError(
                f"a head over the first {entries} of {config.vocab_size} tokens cannot have the token embedding as its "
                "matrix: set model.tie_word_embeddings: false, or let it score all of them."
            )
        width, inner = config.embedding_width, config.hidden_size // 2 if half else config.hidden_size
        self.inner = inner
        # A factorised core needs the map back to the embedding width even without the transform.
        self.dense = nn.Linear(inner, width) if transform or width != inner else nn.Identity()
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if transform else nn.Identity()
        self.activation = activation(config.hidden_act) if transform else nn.Identity()
        self.decoder = None if config.tie_word_embeddings else nn.Linear(width, entries, bias=False)
        self.bias = nn.Parameter(torch.zeros(entries)) if bias else None

    def features(self, hidden: Tensor) -> Tensor:
        """(T, W) states -> (T, E) what the output matrix is multiplied with."""
        return self.norm(self.activation(self.dense(hidden[..., : self.inner])))

    def matrix(self, embedding: Tensor) -> Tensor:
        """(V, E) the output matrix: the token embedding, or an own one where the two are not tied."""
        return embedding if self.decoder is None else self.decoder.weight

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(T, W) states and the (V, E) token embedding -> (T, V) logits."""
        return functional.linear(self.features(hidden), self.matrix(embedding), self.bias)

    def loss(self, hidden: Tensor, embedding: Tensor, positions: Tensor, labels: Tensor) -> TokenLoss:
        """Summed cross-entropy at T positions; states are gathered first, so nothing is computed elsewhere.

        Args:
            hidden: (B, L, W) states.
            embedding: (V, E) the core's token embedding.
            positions: (T,) flat positions, row * L + column.
            labels: (T,) ids expected there.
        """
        states = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        return linear_cross_entropy(self.features(states), self.matrix(embedding), self.bias, labels)


class SequenceHead(nn.Module):
    """Scores of a whole row: next sentence, sentence order, the class of a text.

    Args:
        config: the core's facts.
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
        self.facts: dict[str, Any] = {"kind": kind, "num_labels": num_labels, "dense": dense, "bias": bias}
        if labels is not None:
            self.facts["labels"] = list(labels)
        own = dense not in ("pooler", "none")
        self.reads_pooler = dense == "pooler"
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if own else nn.Identity()
        self.activation = activation(dense) if own else nn.Identity()
        self.output = nn.Linear(config.hidden_size, num_labels, bias=bias)

    def features(self, state: Tensor) -> Tensor:
        """(B, W) state -> (B, W) what the classifier is multiplied with; dropout, where wanted, follows it."""
        return self.activation(self.dense(state))

    def forward(self, state: Tensor) -> Tensor:
        """(B, W) pooled or chosen state -> (B, num_labels)."""
        return self.output(self.features(state))


def new_sequence_head(config: CoreConfig, pooling: str, visibility: str) -> dict[str, Any]:
    """Facts ``dense`` and ``bias`` of a new head over one state of the row (specs: BERT, section 5; GPT, section 5).

    The first token's state: the core's pooler, or a new dense layer with tanh where it has none. The last token's: a
    new dense layer with tanh (XLNet); where tokens see the past only, the state as it is, and no bias (GPT).

    Args:
        config: the core's facts.
        pooling: the template's.
        visibility: ``all`` or ``causal``.
    """
    if pooling == "last" and visibility == "causal":
        return {"dense": "none", "bias": False}
    return {"dense": "pooler" if pooling == "first" and config.pooler else "tanh", "bias": True}


def chosen_state(hidden: Tensor, pooling: str, last: Tensor | None) -> Tensor:
    """(B, L, W) -> (B, W) the state that a template's ``pooling`` names.

    Args:
        hidden: states of rows that begin at their first position, unless ``pooling`` is ``last``.
        pooling: ``first``, ``last``, or ``ends``: each direction's half where that direction has read everything.
        last: (B,) position of each row's last real token; ``None`` = the row's last one.
    """
    if pooling == "first":
        return hidden[:, 0]
    rows = torch.arange(len(hidden), device=hidden.device)
    closing = hidden[:, -1] if last is None else hidden[rows, last.to(hidden.device)]
    if pooling == "last":
        return closing
    half = hidden.shape[-1] // 2
    return torch.cat([closing[:, :half], hidden[:, 0, half:]], dim=-1)


def check_template(template: Template, config: CoreConfig, visibility: str) -> None:
    """Refuse a template that the core's states or segments cannot serve.

    Raises:
        ZooError: says which fact is in the way and what would work.
    """
    if template.pooling == "ends" and (config.recurrent is None or visibility != "all"):
        why = "tokens see the past only" if config.recurrent is not None else "this core's states have no such halves"
        raise ZooError(
            "template.pooling: ends reads the forward half of the last state and the backward half of the first, and "
            f"{why} (model.recurrent, visibility); first or last would work."
        )
    highest = max(segment for layout in (template.single, template.pair) for _, segment in parse_layout(layout))
    if highest > 1 and not config.relative_segments and 1 < config.type_vocab_size <= highest:
        raise ZooError(
            f"the template numbers a segment {highest}, and the core has {config.type_vocab_size} "
            "(model.type_vocab_size), numbered from 0."
        )


class EntityHead(nn.Module):
    """What entity vectors are multiplied with, so that a token's state scores entities (specs: ERNIE-THU, 3.2).

    Args:
        config: the core's facts; it has entities.
        kind: ``entity``.
    """

    def __init__(self, config: CoreConfig, kind: str = "entity") -> None:
        super().__init__()
        if config.fusion is None:
            raise ZooError("this head scores entities, and this core has none (model.fusion).")
        self.facts: dict[str, Any] = {"kind": kind}
        self.dense = nn.Linear(config.hidden_size, config.fusion.entity_size)
        self.activation = activation(config.hidden_act)
        self.norm = nn.LayerNorm(config.fusion.entity_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, vectors: Tensor) -> Tensor:
        """(T, W) states and (N, entity width) vectors -> (T, N) logits; a zero vector's is 0."""
        return self.norm(self.activation(self.dense(hidden))) @ vectors.to(hidden.dtype).t()


class LabelHead(nn.Module):
    """Scores of every position: tags, the two ends of an answer, replaced or not.

    Args:
        config: the core's facts.
        num_labels: scores per position.
        kind: ``tagging``, ``span`` (start and end), ``replaced`` (one logit: a token that does not belong) or
            ``token_class`` (a pretraining objective's classes).
        dense: activation of a dense layer of its own before the scores; ``none`` = none.
        labels: names of the classes.
    """

    def __init__(
        self,
        config: CoreConfig,
        num_labels: int,
        kind: str = "tagging",
        dense: str = "none",
        labels: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.facts: dict[str, Any] = {"kind": kind, "num_labels": num_labels, "dense": dense}
        if labels is not None:
            self.facts["labels"] = list(labels)
        own = dense != "none"
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if own else nn.Identity()
        self.activation = activation(dense) if own else nn.Identity()
        self.output = nn.Linear(config.hidden_size, num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, num_labels)."""
        return self.output(self.activation(self.dense(hidden)))


Head = TokenHead | SequenceHead | EntityHead | LabelHead | Mixes | TaskNetwork
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
    "mixes": Mixes,
    "features": TaskNetwork,
    "token_class": LabelHead,
}
"""Module of each kind of head; the kind says what it is for."""


def build_head(config: CoreConfig, facts: dict[str, Any]) -> Head:
    """The module that ``facts`` describe, with torch's own initial values.

    Raises:
        ZooError: an unknown kind or fact.
    """
    options = dict(facts)
    kind = str(options.pop("kind", ""))
    if kind not in HEADS:
        raise ZooError(f"unknown kind of head {kind!r}; known: {', '.join(HEADS)}.{nearest(kind, HEADS)}")
    named = {} if kind == "token" else {"kind": kind}
    try:
        return HEADS[kind](config, **named, **options)
    except TypeError as error:
        raise ZooError(f"the facts {facts} do not describe a head of kind {kind!r}: {error}") from error
