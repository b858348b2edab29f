"""A learned mix of a core's layers, for cores that are read and not trained (Peters et al. 2018, sections 3.2, 3.3).

And what reads such mixes: a small network of LSTMs over the tokens of one text, or of two that are compared. Shapes:
see the legend in ``zoo.inputs``; J layers that are mixed, the token vectors included, U width of an LSTM's direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo.config import CoreConfig
from zoo.core import Core
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.init import constant, uniform
from zoo.inputs import CoreInputs

_SITE = 1 << 21  # number of the first mix's dropout, beyond those of any core and of fine-tuning's heads
_NETWORK_SITE = 1 << 22  # the same for the task network
_SITES_PER_TEXT = 8
_EPSILON = 1e-12


def normed_together(states: Tensor, real: Tensor | None) -> Tensor:
    """States less their mean over all real tokens *and* dimensions of the batch, over that standard deviation.

    Not the norm per token that the paper's words suggest: one mean and one variance (specs: ELMo, trap 8).

    Args:
        states: (B, L, W).
        real: (B, L) boolean; ``None`` = all.
    """
    if real is None:
        mean = states.mean()
        return (states - mean) / torch.sqrt((states - mean).square().mean() + _EPSILON)
    mask = real[..., None].to(states.dtype)
    count = (mask.sum() * states.shape[-1]).clamp_min(1.0)
    mean = (states * mask).sum() / count
    variance = ((states - mean) * mask).square().sum() / count
    return (states - mean) / torch.sqrt(variance + _EPSILON)


class ScalarMix(nn.Module):
    """gamma * sum over layers of softmax(w)_j * states_j, with w from 0 and gamma from 1: at first the plain mean.

    Args:
        layers: layers mixed, the token vectors included.
        layer_norm: norm each layer first, see :func:`normed_together`.
    """

    def __init__(self, layers: int, layer_norm: bool = False) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.weights = nn.Parameter(torch.zeros(layers))
        self.gamma = nn.Parameter(torch.ones(()))

    def forward(self, layers: Sequence[Tensor], real: Tensor | None = None) -> Tensor:
        """(B, L, W) of every layer -> (B, L, W); ``real`` (B, L) marks real tokens, which the norm alone reads."""
        if len(layers) != len(self.weights):
            raise ZooError(f"this mix is of {len(self.weights)} layers, {len(layers)} were given.")
        if self.layer_norm:
            layers = [normed_together(states, real) for states in layers]
        shares = torch.softmax(self.weights, dim=0)
        return self.gamma * sum((share * states for share, states in zip(shares, layers, strict=True)), start=0.0)

    def shares(self) -> list[float]:
        """Weight of each layer, for reports."""
        return [float(share) for share in torch.softmax(self.weights.detach(), dim=0)]

    def regulariser(self) -> Tensor:
        """0-d sum of w squared, which a task's loss takes times a small lambda.

        Softmax does not see a shift, so this is the same as pulling w + 1/layers towards 1/layers, the published form
        (specs: ELMo, trap 9): a large lambda keeps the plain mean, 0.001 lets the weights move.
        """
        return self.weights.square().sum()


class Mixes(nn.ModuleList):
    """Separate mixes of one core's layers, as a model folder's head of kind ``mixes``.

    Args:
        config: the core's facts.
        mixes: how many: one for a task network's input, a second for its output (section 3.3).
        layer_norm: of each.
        kind: ``mixes``.
    """

    def __init__(self, config: CoreConfig, mixes: int = 1, layer_norm: bool = False, kind: str = "mixes") -> None:
        if mixes < 1:
            raise ZooError(f"{mixes} mixes of a core's layers are asked for; at least 1 is needed.")
        super().__init__(ScalarMix(config.num_hidden_layers + 1, layer_norm) for _ in range(mixes))
        self.facts: dict[str, Any] = {"kind": kind, "mixes": mixes, "layer_norm": layer_norm}

    def forward(self, layers: Sequence[Tensor], real: Tensor | None = None) -> list[Tensor]:
        """(B, L, W) of every layer -> (B, L, W) of each mix; ``real`` as in :class:`ScalarMix`."""
        return [mix(layers, real) for mix in self]

    def regulariser(self) -> Tensor:
        """Sum of the mixes' regularisers."""
        return torch.stack([mix.regulariser() for mix in self if isinstance(mix, ScalarMix)]).sum()

    def shares(self) -> list[dict[str, Any]]:
        """Each mix's ``shares`` of the layers, the token vectors first, and its factor ``gamma``."""
        return [{"shares": m.shares(), "gamma": float(m.gamma.detach())} for m in self if isinstance(m, ScalarMix)]


class FrozenFeatures(nn.Module):
    """A core that stays as it is, and one or more mixes of its layers as token vectors for a task.

    Args:
        core: the pretrained core, of any kind; it gets no gradient and no dropout.
        mixes: separate mixes, see :class:`Mixes`.
        layer_norm: of the mixes.
        dropout: on each mix.

    Raises:
        ZooError: no mix is asked for.
    """

    def __init__(self, core: Core, mixes: int = 1, layer_norm: bool = False, dropout: float = 0.5) -> None:
        super().__init__()
        self.core, self.dropout = core.requires_grad_(False), dropout
        self.mixes = Mixes(core.config, mixes, layer_norm)

    def forward(self, inputs: CoreInputs) -> list[Tensor]:
        """(B, L) ids -> (B, L, W) of each mix; rows start from an empty state, and template tokens are included."""
        real, lengths = None, inputs.visible.lengths
        if lengths is not None:
            real = torch.arange(inputs.input_ids.shape[1], device=inputs.input_ids.device) < lengths[:, None]
        return self.mix(self.layers(inputs), real, inputs.dropout_keys)

    @torch.no_grad()
    def layers(self, inputs: CoreInputs) -> tuple[Tensor, ...]:
        """(B, L) ids -> (B, L, W) of every layer, the token vectors first: always the same for the same rows."""
        states = self.core(inputs._replace(dropout_keys=None), output_hidden_states=True).hidden_states
        assert states is not None
        return tuple(states)

    def mix(
        self, layers: Sequence[Tensor], real: Tensor | None = None, keys: Tensor | None = None, text: int = 0
    ) -> list[Tensor]:
        """Layers to mixes, with dropout.

        Args:
            layers: J tensors (B, L, W).
            real: (B, L) real tokens, which norms alone read.
            keys: (B,) of the rows, for dropout; ``None`` = none.
            text: number of the text, where a row has several.
        """
        site = _SITE + text * _SITES_PER_TEXT
        return [keyed_dropout(m, keys, site + n, self.dropout) for n, m in enumerate(self.mixes(layers, real))]

    def regulariser(self) -> Tensor:
        """Sum of the mixes' regularisers."""
        return self.mixes.regulariser()


class TaskNetwork(nn.Module):
    """The class of a text, or of a pair of texts, from mixes of a frozen core's layers.

    One text: an LSTM of two directions over the first mix; where there is a second mix, it stands beside the LSTM's
    output (section 3.3); mean and maximum over the tokens; a dense layer with tanh; dropout; the classes.

    Two texts are read by the core, and by that LSTM, each by itself, so that something has to compare them. As in the
    model that ELMo's authors use for entailment (Chen et al. 2017, "Enhanced LSTM", without its trees), every token
    attends to the other text's; what it is, what it found there, their difference and their product go through a dense
    layer with ReLU into a second LSTM, and mean and maximum are taken of that. Scores of the attention are divided by
    the square root of the width, which the original does not do: unscaled, attention starts with one token seeing one.

    Args:
        config: the core's facts.
        num_labels: classes.
        kind: ``features``.
        mixes: 1 or 2.
        hidden_size: U.
        pair: whether a row has two texts.
        labels: names of the classes.
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
    ) -> None:
        super().__init__()
        if mixes not in (1, 2):
            raise ZooError(f"a task network reads 1 mix, or a second beside its first layer's output; not {mixes}.")
        self.facts: dict[str, Any] = {"kind": kind, "num_labels": num_labels, "mixes": mixes}
        self.facts |= {"hidden_size": hidden_size, "pair": pair}
        if labels is not None:
            self.facts["labels"] = list(labels)
        width = 2 * hidden_size + (config.hidden_size if mixes == 2 else 0)
        self.reader = _lstm(config.hidden_size, hidden_size)
        self.compare = _dense(4 * width, hidden_size) if pair else None
        self.composer = _lstm(hidden_size, hidden_size) if pair else None
        self.dense = _dense(2 * 2 * 2 * hidden_size if pair else 2 * width, hidden_size)
        self.output = _dense(hidden_size, num_labels)

    def forward(
        self, texts: Sequence[list[Tensor]], lengths: Sequence[Tensor], keys: Tensor | None = None, dropout: float = 0.0
    ) -> Tensor:
        """Mixes of each text -> (B, num_labels).

        Args:
            texts: for each text of the rows its mixes, (B, L, W) each.
            lengths: for each text (B,) tokens, at least 1.
            keys: (B,) of the rows, for dropout; ``None`` = none.
            dropout: probability, before the dense layers but the first, and before the classes.
        """
        with torch.autocast(texts[0][0].device.type, enabled=False):
            wide = [[mix.float() for mix in mixes] for mixes in texts]
            states = [torch.cat([_run(self.reader, m[0], n), *m[1:]], -1) for m, n in zip(wide, lengths, strict=True)]
            if self.compare is not None:
                states = self._compared(states, lengths, keys, dropout)
            read = torch.cat([pooled(state, n) for state, n in zip(states, lengths, strict=True)], dim=-1)
            hidden = torch.tanh(self.dense(keyed_dropout(read, keys, _NETWORK_SITE, dropout)))
            return self.output(keyed_dropout(hidden, keys, _NETWORK_SITE + 1, dropout))

    def _compared(
        self, states: list[Tensor], lengths: Sequence[Tensor], keys: Tensor | None, dropout: float
    ) -> list[Tensor]:
        """(B, L, ...) states of two texts -> (B, L, 2U) of each with the other one looked at."""
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
            site = _NETWORK_SITE + (1 + number) * _SITES_PER_TEXT
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
