"""A batch of rows on its way from the store to the core: numpy, padded, columnar."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START


@dataclass(frozen=True)
class Examples:
    """B rows of up to L tokens. Shapes are (B, L) unless said otherwise; nothing is changed in place.

    Args:
        input_ids: int32, padding id beyond each row's length.
        lengths: (B,) int64 real tokens, template tokens included.
        special_tokens_mask: True at the layout's template tokens ([CLS], [SEP]) and at padding.
        token_flags: uint8 bits of ``pretraining.arrays``; template tokens and padding carry ``WORD_START``.
        example_ids: (B,) int64 identity of the row in its plan: the key of all its random draws.
        document_ids: (B,) int64 store document that the row's first piece comes from.
        token_type_ids: int32 segment of each token, where the layout makes segments.
        row_labels: (B,) int64 class of each row, where there is one; of a pair 0 = true order, true continuation.
        task_type_ids: (B,) int64 number of the task, where the core has a table of them; absent = 0.
        next_token: (B,) int32 token that follows the row in the text, -1 = none; where a layout knows it.
        reuse_length: (B,) int64 tokens at the row's start that the row after it remembers. They must not attend to
            the others, which that row repeats; absent = no such part.
        token_document: (B, L) int32 store document of each token, where documents do not attend to others; or absent.
        reversed: (B,) whether the row's text runs backwards; absent = no row's does.
        arrays: named per-token arrays of the store, gathered like the tokens (0 at template tokens).
        targets: by name what ``corrupt`` adds (selections, original ids), or a layout (``decoder_targets``).
    """

    input_ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    special_tokens_mask: NDArray[np.bool_]
    token_flags: NDArray[np.uint8]
    example_ids: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int32] | None = None
    row_labels: NDArray[np.int64] | None = None
    task_type_ids: NDArray[np.int64] | None = None
    next_token: NDArray[np.int32] | None = None
    reuse_length: NDArray[np.int64] | None = None
    token_document: NDArray[np.int32] | None = None
    reversed: NDArray[np.bool_] | None = None
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    targets: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L)."""
        return self.input_ids.shape[0], self.input_ids.shape[1]

    @property
    def real(self) -> NDArray[np.bool_]:
        """(B, L), True at real tokens, False at padding."""
        mask: NDArray[np.bool_] = np.arange(self.input_ids.shape[1])[None, :] < self.lengths[:, None]
        return mask

    @staticmethod
    def concatenate(parts: Sequence[Examples], pad: int) -> Examples:
        """Rows one below the other, padded to the longest with the id ``pad``; targets to their own longest."""
        if len(parts) == 1:
            return parts[0]
        ids = dict.fromkeys(("input_ids", "decoder_input_ids"), pad)
        fills = {**ids, "labels": -100, "special_tokens_mask": True, "token_flags": WORD_START}

        def join(arrays: list[NDArray[Any]], fill: int | bool) -> NDArray[Any]:
            if arrays[0].ndim == 1:
                return np.concatenate(arrays)
            width = max(array.shape[1] for array in arrays)
            return np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=fill) for a in arrays])

        values: dict[str, Any] = {}
        for item in dataclasses.fields(Examples):
            own = [getattr(part, item.name) for part in parts]
            if isinstance(own[0], dict):
                values[item.name] = {key: join([o[key] for o in own], fills.get(key, 0)) for key in own[0]}
            else:
                values[item.name] = None if own[0] is None else join(own, fills.get(item.name, 0))
        return Examples(**values)

    def replace(self, **changes: Any) -> Examples:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def with_targets(self, **targets: NDArray[Any]) -> Examples:
        """A copy with targets added."""
        return self.replace(targets={**self.targets, **targets})
