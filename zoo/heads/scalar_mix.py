"""A learned mix of a core's layers, for cores that are read and not trained (Peters et al. 2018, 3.2).

Shapes: see the legend in ``zoo.inputs``; J layers that are mixed, the token vectors included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.inputs import CoreInputs

_SITE = 1 << 21  # number of the first mix's dropout, beyond those of any core and of fine-tuning's heads
SITES_PER_TEXT = 8
_EPSILON = 1e-12


def normalise_jointly(states: Tensor, real: Tensor | None) -> Tensor:
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
        layer_norm: norm each layer first, see :func:`normalise_jointly`.
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
            layers = [normalise_jointly(states, real) for states in layers]
        shares = torch.softmax(self.weights, dim=0)
        return self.gamma * sum((share * states for share, states in zip(shares, layers, strict=True)), start=0.0)

    def shares(self) -> list[float]:
        """Weight of each layer, for reports."""
        return [float(share) for share in torch.softmax(self.weights.detach(), dim=0)]

    def regulariser(self) -> Tensor:
        """0-d sum of w squared, which a task's loss takes times a small lambda.

        A shift changes no softmax, so this is the same as pulling w + 1/layers towards 1/layers, the published form
        (specs: ELMo, trap 9): a large lambda keeps the plain mean, 0.001 lets the weights move.
        """
        return self.weights.square().sum()


class ScalarMixes(nn.ModuleList):
    """Separate mixes of one core's layers, as a model folder's head of kind ``mixes``.

    Args:
        config: the core's config.
        mixes: how many: one for a task network's input, a second for its output (section 3.3).
        layer_norm: of each.
        kind: ``mixes``.
    """

    def __init__(self, config: CoreConfig, mixes: int = 1, layer_norm: bool = False, kind: str = "mixes") -> None:
        if mixes < 1:
            raise ZooError(f"{mixes} mixes of a core's layers are asked for; at least 1 is needed.")
        super().__init__(ScalarMix(config.num_hidden_layers + 1, layer_norm) for _ in range(mixes))
        self.head_config: dict[str, Any] = {"kind": kind, "mixes": mixes, "layer_norm": layer_norm}

    def forward(self, layers: Sequence[Tensor], real: Tensor | None = None) -> list[Tensor]:
        """(B, L, W) of every layer -> (B, L, W) of each mix; ``real`` as in :class:`ScalarMix`."""
        return [mix(layers, real) for mix in self]

    def regulariser(self) -> Tensor:
        """Sum of the mixes' regularisers."""
        return torch.stack([mix.regulariser() for mix in self if isinstance(mix, ScalarMix)]).sum()

    def shares(self) -> list[dict[str, Any]]:
        """Each mix's ``shares`` of the layers, the token vectors first, and its factor ``gamma``."""
        return [{"shares": m.shares(), "gamma": float(m.gamma.detach())} for m in self if isinstance(m, ScalarMix)]


class FrozenCore(nn.Module):
    """A core that stays as it is, and one or more mixes of its layers as token vectors for a task.

    Args:
        core: the pretrained core, of any kind; it gets no gradient and no dropout.
        mixes: separate mixes, see :class:`ScalarMixes`.
        layer_norm: of the mixes.
        dropout: on each mix.

    Raises:
        ZooError: no mix is asked for.
    """

    def __init__(self, core: Core, mixes: int = 1, layer_norm: bool = False, dropout: float = 0.5) -> None:
        super().__init__()
        self.core, self.dropout = core.requires_grad_(False), dropout
        self.mixes = ScalarMixes(core.config, mixes, layer_norm)

    def forward(self, inputs: CoreInputs) -> list[Tensor]:
        """(B, L) ids -> (B, L, W) of each mix; rows start from an empty state, and template tokens are included."""
        real, lengths = None, inputs.attention_pattern.lengths
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
        site = _SITE + text * SITES_PER_TEXT
        return [keyed_dropout(m, keys, site + n, self.dropout) for n, m in enumerate(self.mixes(layers, real))]

    def regulariser(self) -> Tensor:
        """Sum of the mixes' regularisers."""
        return self.mixes.regulariser()
