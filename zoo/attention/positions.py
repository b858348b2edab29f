"""What attention knows of positions: states at some; rotary angles; distances, their encoding, what meets them.

Shapes: see the legend in ``zoo.inputs``; Q queries, R distances, K keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.config import CoreConfig


class ScoreTerms(nn.Module):
    """Learned vectors that stand in for a query in the relative scores.

    Attributes:
        content: (H, D) u, which meets keys.
        position: (H, D) v, which meets distances.
        segment: (H, D) s, which meets segments, where scores read them.
        segments: (2, H, D) keys of "the same segment" and "another one".
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        shape = (config.num_attention_heads, config.head_width)
        self.content = nn.Parameter(torch.zeros(shape))
        self.position = nn.Parameter(torch.zeros(shape))
        self.segment = nn.Parameter(torch.zeros(shape)) if config.relative_segments else None
        self.segments = nn.Parameter(torch.zeros(2, *shape)) if config.relative_segments else None


class RelativeScoreInputs(NamedTuple):
    """What the relative scores of all layers have in common in one forward pass.

    Args:
        encoding: (1 or B, R, W) sines and cosines of the distances K, K - 1, ..., far to near, then to the right.
        length: L, tokens of the first stream.
        ordered: queries that are those of the first stream, one after the other: L, or 0 where all have ``columns``.
        keys: K, remembered tokens and the first stream's.
        terms: the vectors that all layers share, where they do.
        columns: (B, 1, Q - ordered, K) place of each key's distance in ``encoding``, for the other queries.
        penalty: (1 or B, 1, Q, K) added to scores: 0, or very low where the query does not attend to the key.
        attends_to_nothing: (B, Q, 1) queries of the second stream that attend to no key at all.
        differs: (B, 1, Q, K) 1 where query and key are of different segments, else 0.
        memory: (B, M, W) what the layer that reads this remembers.
    """

    encoding: Tensor
    length: int
    ordered: int
    keys: int
    terms: ScoreTerms | None = None
    columns: Tensor | None = None
    penalty: Tensor | None = None
    attends_to_nothing: Tensor | None = None
    differs: Tensor | None = None
    memory: Tensor | None = None

    def of_rows(self, positions: Tensor) -> tuple[RelativeScoreInputs, Tensor]:
        """The same for the first stream's queries at (B, R) ``positions`` and the second stream's; (B, R + T) all rows.

        The rows count both streams.
        """
        own = (self.length - positions)[:, None, :, None] + torch.arange(self.keys, device=positions.device)
        encoding, last = self.encoding, self.encoding.shape[1]
        if last < self.keys + self.length:  # keys to the right are hidden, and all have one column without a distance
            encoding, own = functional.pad(encoding, (0, 0, 0, 1)), own.clamp(max=last)
        columns, rows = own, positions
        if self.columns is not None:
            columns = torch.cat([own, self.columns], dim=2)
            second = torch.arange(self.length, self.length + self.columns.shape[2], device=positions.device)
            rows = torch.cat([positions, second.expand(len(positions), -1)], dim=1)

        def chosen(values: Tensor | None) -> Tensor | None:  # (1 or B, ..., 1 or Q, C)
            if values is None or values.shape[-2] == 1:
                return values
            index = rows[(slice(None), *[None] * (values.ndim - 3), slice(None), None)]
            return values.expand(len(rows), *values.shape[1:]).gather(
                -2, index.expand(*index.shape[:-1], values.shape[-1])
            )

        return (
            self._replace(
                encoding=encoding,
                ordered=0,
                columns=columns,
                penalty=chosen(self.penalty),
                attends_to_nothing=chosen(self.attends_to_nothing),
                differs=chosen(self.differs),
            ),
            rows,
        )


def states_at(states: Tensor, columns: Tensor) -> Tensor:
    """The states of some columns of each row.

    Plain indexing has the same values, but its backward pass adds in an order that threads decide where a column is
    asked for twice, so that a run would not repeat.

    Args:
        states: (B, L, ...).
        columns: (B,) or (B, n), from -L to L - 1.

    Returns:
        (B, ...) or (B, n, ...).
    """
    batch, length = states.shape[:2]
    first = torch.arange(batch, device=states.device) * length
    places = columns.to(states.device) % length + (first if columns.ndim == 1 else first[:, None])
    return functional.embedding(places, states.reshape(batch * length, -1)).view(*columns.shape, *states.shape[2:])


def at_positions(states: Tensor, columns: Tensor, length: int) -> Tensor:
    """(B, length, W) the (B, R, W) states at their (B, R) columns, -1 = nowhere, and NaN elsewhere."""
    batch, _, width = states.shape
    nowhere = batch * length
    first = torch.arange(batch, device=states.device)[:, None] * length
    places = torch.where(columns < 0, nowhere, columns + first).flatten()
    placed = states.new_full((nowhere + 1, width), float("nan")).index_copy(0, places, states.flatten(0, 1))
    return placed[:nowhere].view(batch, length, width)


def encode_distances(distances: Tensor, width: int) -> Tensor:
    """(..., R) distances -> (..., R, width): sines of all frequencies, then their cosines."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=distances.device) / width
    angles = distances.float()[..., None] * (1.0 / 10000.0**steps)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def shift(scores: Tensor, length: int, keys: int) -> Tensor:
    """Scores by distance to scores by key, as a view: the linear trick of Dai et al. 2019, appendix B.

    Row i of ``scores`` answers the distances K, K - 1, ... in turn; its key j is M + i - j tokens back, K = M + L, and
    so stands in column L - i + j. Written one row after the other, with the first L numbers left out and rows one
    shorter, it stands in column j.

    Args:
        scores: (B, H, Q, R), R > K.
        length: L; rows from L on are left out.
        keys: K.
    """
    return scores[:, :, :length].flatten(2)[..., length:].unflatten(2, (length, -1))[..., :keys]


def rotary_angles(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (B or 1, 1, L, D), of positions (B or 1, L); pairs are k and k + D/2 (Su et al. 2021)."""
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
    angles = positions.float()[..., None] * (1.0 / theta**steps)
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos(), angles.sin()


def rotate(states: Tensor, rotation: tuple[Tensor, Tensor], rows: Tensor | None = None) -> Tensor:
    """(B, heads, L, D) with every pair turned by its position's angle.

    Args:
        states: of all positions, or of (B, R) ``rows`` alone.
        rotation: cosines and sines of all positions.
        rows: ``None`` = all.
    """
    first, second = states.chunk(2, dim=-1)
    cosines, sines = (part.to(states.dtype) for part in rotation)
    if rows is not None:
        index = rows[:, None, :, None].expand(-1, 1, -1, states.shape[-1])
        cosines, sines = (part.expand(len(rows), -1, -1, -1).gather(2, index) for part in (cosines, sines))
    return states * cosines + torch.cat([-second, first], dim=-1) * sines
