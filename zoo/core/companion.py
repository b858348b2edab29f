"""A second, narrower core that reads another core's embedding tables, with a head over the vocabulary.

It stands beside a core in training, as a generator beside its discriminator (Clark et al. 2020, section 3.2). The
tables are the other core's own tensors: they are held without being registered, so that a state has them once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.core.build import make_core
from zoo.core.embeddings import Embeddings
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.inputs import CoreInputs

_OWN_DROPOUT = 0x5BD1E995  # what its dropout keys differ by, so that its masks are not the other core's


class SharedEmbeddings(nn.Module):
    """Tables and norm of another core, and a projection of its own.

    Args:
        config: of the core that reads them.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_width
        self.projection = nn.Linear(width, config.input_width) if config.has_embedding_projection else nn.Identity()
        self._lender: tuple[Embeddings, ...] = ()

    def borrow(self, lender: Embeddings) -> None:
        """From now on read the tables of ``lender``."""
        self._lender = (lender,)

    @property
    def lender(self) -> Embeddings:
        """Whose tables these are."""
        assert self._lender, "the tables are lent by Companion.borrow"
        return self._lender[0]

    @property
    def word_embeddings(self) -> nn.Module:
        """The lender's table of tokens."""
        return self.lender.word_embeddings

    def forward(self, inputs: CoreInputs, past: int = 0) -> Tensor:
        """(B, L) ids -> (B, L, width of the first layer's input)."""
        lender = self.lender
        normed = lender.norm(lender.summed(inputs, past))
        dropped = keyed_dropout(normed, inputs.dropout_keys, 0, self.config.hidden_dropout_prob)
        projected: Tensor = self.projection(dropped)
        return projected


class Companion(nn.Module):
    """The narrower core with its token head.

    Args:
        config: of the companion, see :func:`narrowed`.
        head: made for that config; describes itself (``head_config``).
    """

    core: Core

    def __init__(self, config: CoreConfig, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.core = make_core(config)
        self.core.embeddings = SharedEmbeddings(config)  # type: ignore[assignment]  # what a core asks of its tables
        self.head = head
        self._host: tuple[Core, ...] = ()

    def borrow(self, host: Core) -> None:
        """Read the embeddings of ``host``, and recompute layers where it does."""
        assert isinstance(self.core.embeddings, SharedEmbeddings)
        self._host = (host,)
        self.core.embeddings.borrow(host.embeddings)

    def describe(self) -> dict[str, Any]:
        """What a model folder's ``config.json`` keeps of it."""
        return {"core": self.config.to_dict(), "head": dict(self.head.head_config)}  # type: ignore[arg-type]

    def forward(self, inputs: CoreInputs) -> Tensor:
        """(B, L) ids -> (B, L, W) last states."""
        keys = inputs.dropout_keys
        self.core.recompute_layers = bool(self._host) and self._host[0].recompute_layers
        own = inputs._replace(dropout_keys=None if keys is None else keys ^ _OWN_DROPOUT)
        states: Tensor = self.core(own).last_hidden_state
        return states


def narrowed(config: CoreConfig, fraction: float, num_hidden_layers: int | None = None) -> CoreConfig:
    """The config of a companion whose layers are ``fraction`` as wide.

    Heads keep their width, as many as fit, one at least (google-research/electra, ``get_generator_config``).

    Args:
        config: of the core whose embeddings it reads.
        fraction: of hidden and inner width.
        num_hidden_layers: its depth; ``None`` = the core's.

    Raises:
        ZooError: no such core can be built; says why.
    """
    width = round(config.hidden_size * fraction)
    asked = f"a generator of {fraction:g} x {config.hidden_size} = {width}"
    if width < 1:
        raise ZooError(f"{asked} has no width; a fraction of a quarter to a half would work.")
    if config.embedding_projection is False and width != config.embedding_width:
        raise ZooError(
            f"{asked} cannot read embeddings {config.embedding_width} wide without a projection: leave "
            f"model.embedding_projection out, or set fraction: {config.embedding_width / config.hidden_size:g}."
        )
    heads = max(1, width // config.head_width)
    if width % heads:
        fitting = max(1, round(width / config.head_width)) * config.head_width
        raise ZooError(
            f"{asked} is not a multiple of its {heads} heads; fraction: {fitting / config.hidden_size:g} would work."
        )
    try:
        return config.replace(
            hidden_size=width,
            embedding_size=config.embedding_width,
            num_attention_heads=heads,
            head_dim=None,
            num_key_value_heads=None,
            intermediate_size=max(1, round(config.intermediate_size * fraction)),
            num_hidden_layers=num_hidden_layers or config.num_hidden_layers,
            num_hidden_groups=None if num_hidden_layers else config.num_hidden_groups,
            pooler=False,
        )
    except ZooError as error:
        raise ZooError(f"{asked} cannot be built: {error}") from error
