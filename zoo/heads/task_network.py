"""A learned mix of a core's layers, for cores that are read and not trained (Peters et al. 2018, sections 3.2, 3.3).

And what reads such mixes: a small network of LSTMs over the tokens of one text, or of two that are compared, for the
class of a text or pair, or for the tag of each word of one text. Shapes: see the legend in ``zoo.inputs``; J layers
that are mixed, the token vectors included, U width of an LSTM's direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo.attention.positions import states_at
from zoo.config import CoreConfig
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.heads.scalar_mix import SITES_PER_TEXT
from zoo.initial import constant, uniform

_NETWORK_SITE = 1 << 22  # the same for the task network


class TaskNetwork(nn.Module):
    """The class of a text, or of a pair of texts, from mixes of a frozen core's layers.

    One text: an LSTM of two directions over the first mix; where there is a second mix, it stands beside the LSTM's
    output (section 3.3); mean and maximum over the tokens; a dense layer with tanh; dropout; the classes.

    Two texts are read by the core, and by that LSTM, each by itself, so that something has to compare them. As in the
    model that ELMo's authors use for entailment (Chen et al. 2017, "Enhanced LSTM", without its trees), every token
    attends to the other text's; what it is, what it found there, their difference and their product go through a dense
    layer with ReLU into a second LSTM, and mean and maximum are taken of that. Scores of the attention are divided by
    the square root of the width, which the original does not do: unscaled, attention starts with one token seeing one.

    Tokens: what the last LSTM says of each token of the last text, in place of mean and maximum. With two texts
    "none of them" is scored, too: mean and maximum of both, through a dense layer of their own.

    Args:
        config: the core's config.
        num_labels: classes.
        kind: ``features``.
        mixes: 1 or 2.
        hidden_size: U.
        pair: whether a row has two texts.
        labels: names of the classes.
        tokens: score tokens of the last text.
    """

    def __init__(
        self,
        config: CoreConfig,
        num_labels: int,
        kind: str = "features",
        mixes: int = 1,
        hidden_size: int = 128,
        pair: bool = False,
        labels: list[str] | None = None,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        if mixes not in (1, 2):
            raise ZooError(f"a task network reads 1 mix, or a second beside its first layer's output; not {mixes}.")
        self.head_config: dict[str, Any] = {"kind": kind, "num_labels": num_labels, "mixes": mixes}
        self.head_config |= {"hidden_size": hidden_size, "pair": pair}
        if labels is not None:
            self.head_config["labels"] = list(labels)
        if tokens:
            self.head_config["tokens"] = True
        width = 2 * hidden_size + (config.output_width if mixes == 2 else 0)
        self.reader = _lstm(config.output_width, hidden_size)
        self.compare = _dense(4 * width, hidden_size) if pair else None
        self.composer = _lstm(hidden_size, hidden_size) if pair else None
        read = 2 * hidden_size if pair else width  # of a token
        self.dense = _dense(read if tokens else (4 if pair else 2) * read, hidden_size)
        self.nothing = _dense(4 * read, read) if pair and tokens else None
        self.output = _dense(hidden_size, num_labels)

    def forward(
        self,
        texts: Sequence[list[Tensor]],
        lengths: Sequence[Tensor],
        keys: Tensor | None = None,
        dropout: float = 0.0,
        slots: Tensor | None = None,
    ) -> Tensor:
        """Mixes of each text -> (B, num_labels), or (S, num_labels) of the slots, row by row.

        Args:
            texts: for each text of the rows its mixes, (B, L, W) each.
            lengths: for each text (B,) tokens, at least 1.
            keys: (B,) of the rows, for dropout; ``None`` = none.
            dropout: probability, before the dense layers but the first, and before the classes.
            slots: (B, R) tokens of the last text that are scored, -1 = none; of a network that scores tokens. In a
                second text 0 stands for none of them, and they are counted from 1.
        """
        with torch.autocast(texts[0][0].device.type, enabled=False):
            wide = [[mix.float() for mix in mixes] for mixes in texts]
            states = [torch.cat([_run(self.reader, m[0], n), *m[1:]], -1) for m, n in zip(wide, lengths, strict=True)]
            if self.compare is not None:
                states = self._compared(states, lengths, keys, dropout)
            if slots is None:
                read = torch.cat([pooled(state, n) for state, n in zip(states, lengths, strict=True)], dim=-1)
            else:
                read = states_at(self._of_tokens(states, lengths), slots.clamp_min(0))
            hidden = torch.tanh(self.dense(keyed_dropout(read, keys, _NETWORK_SITE, dropout)))
            scores = self.output(keyed_dropout(hidden, keys, _NETWORK_SITE + 1, dropout))
            return scores if slots is None else scores[slots >= 0]

    def _of_tokens(self, states: list[Tensor], lengths: Sequence[Tensor]) -> Tensor:
        """(B, L, n) of each text -> what slots read: those of the last one, in a second text behind "none of them"."""
        if self.nothing is None:
            return states[-1]
        read = torch.cat([pooled(state, n) for state, n in zip(states, lengths, strict=True)], dim=-1)
        return torch.cat([self.nothing(read)[:, None], states[-1]], dim=1)

    def _compared(
        self, states: list[Tensor], lengths: Sequence[Tensor], keys: Tensor | None, dropout: float
    ) -> list[Tensor]:
        """(B, L, ...) states of two texts -> (B, L, 2U) of each, after attention to the other one."""
        assert self.compare is not None
        assert self.composer is not None
        a, b = states
        scores = a @ b.transpose(1, 2) / math.sqrt(a.shape[-1])
        hidden = [~_real(state, n)[:, None, :] for state, n in zip(states, lengths, strict=True)]
        found = (
            torch.softmax(scores.masked_fill(hidden[1], -math.inf), dim=-1) @ b,
            torch.softmax(scores.transpose(1, 2).masked_fill(hidden[0], -math.inf), dim=-1) @ a,
        )
        result = []
        for number, (own, other, count) in enumerate(zip(states, found, lengths, strict=True)):
            beside = torch.cat([own, other, own - other, own * other], dim=-1)
            site = _NETWORK_SITE + (1 + number) * SITES_PER_TEXT
            local = torch.relu(self.compare(keyed_dropout(beside, keys, site, dropout)))
            result.append(_run(self.composer, local, count))
        return result


def pooled(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, n) -> (B, 2n) mean and maximum over the first ``lengths`` (B,) positions."""
    real = _real(states, lengths)[..., None]
    mean = states.masked_fill(~real, 0.0).sum(1) / lengths.to(states.device)[:, None]
    return torch.cat([mean, states.masked_fill(~real, -math.inf).amax(1)], dim=-1)


def _real(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, L) the positions that are no padding."""
    return torch.arange(states.shape[1], device=states.device) < lengths.to(states.device)[:, None]


def _run(lstm: nn.LSTM, inputs: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, n) -> (B, L, 2U), padding not read."""
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=inputs.shape[1])
    return states


def _lstm(width: int, hidden_size: int) -> nn.LSTM:
    """Two directions; torch's own initial weights, biases of zero."""
    made = nn.LSTM(width, hidden_size, batch_first=True, bidirectional=True)
    made.initial = {
        name: constant(0.0) if "bias" in name else uniform(1.0 / math.sqrt(hidden_size))
        for name, _ in made.named_parameters()
    }
    return made


def _dense(inner: int, outer: int) -> nn.Linear:
    """A linear map with torch's own range of initial weights, a bias of zero."""
    made = nn.Linear(inner, outer)
    made.initial = {"weight": uniform(1.0 / math.sqrt(inner)), "bias": constant(0.0)}  # type: ignore[assignment]
    return made
