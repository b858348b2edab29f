"""Frozen layers as features: texts read one by one, their layers kept, a task network on mixes of them.

A pair's texts are read apart, each in the template's layout of a single text: what the core says of a text then does
not depend on what it is compared with (as it was when ELMo's authors did this), is the same question for every kind of
core, and is asked once for each text. Template tokens that the tokenizer lacks are left out, since a core that stays
as it is cannot learn them; those it has are read, and only the text's own tokens go on (specs: ELMo, section 5).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.examples import LabelledTexts
from finetune.data.spans import RowSpans
from finetune.inputs.batches import EncodedRows, evaluation_batches
from zoo.inputs import CoreInputs
from zoo.vocabulary import Template, parse_layout

_BATCH = 64  # texts per call of the core, when layers are kept


class TextFeatures(NamedTuple):
    """One text of each of B rows, to be run or run already.

    Args:
        lengths: (B,) tokens of the text itself, at least 1.
        inputs: rows for the core, template tokens included; ``None`` = the layers are there.
        start: (B,) position of the text's first token in them.
        layers: (B, L, J, W) layers of the text's own tokens.
    """

    lengths: Tensor
    inputs: CoreInputs | None = None
    start: Tensor | None = None
    layers: Tensor | None = None


class FeatureBatch(NamedTuple):
    """Inputs of a :class:`FeatureClassifier`.

    Args:
        texts: one or two of them.
        dropout_keys: (B,) of the rows; ``None`` = no dropout.
    """

    texts: tuple[TextFeatures, ...]
    dropout_keys: Tensor | None = None


@dataclass
class TextRows:
    """N rows of one or two texts, each encoded by itself; looks like :class:`EncodedRows` to the loop.

    Args:
        texts: for each text of a row all rows' tokens.
        template: tokens before and after a text in its layout.
        layers: for each of ``texts`` (T, J, W) layers of the texts' own tokens, where they are kept.
    """

    texts: tuple[EncodedRows, ...]
    template: tuple[int, int]
    layers: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        """Rows."""
        return len(self.texts[0])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each row, of both texts where there are two."""
        return np.sum([text.lengths for text in self.texts], axis=0)

    @property
    def cut(self) -> NDArray[np.bool_]:
        """(N,) rows that lost tokens."""
        found: NDArray[np.bool_] = np.any([text.cut for text in self.texts], axis=0)
        return found

    @property
    def truncated(self) -> int:
        """Rows that lost tokens."""
        return int(self.cut.sum())

    @property
    def marks_cut(self) -> int:
        """Rows that lost a part of what is marked in them."""
        return int(np.any([text.lost for text in self.texts], axis=0).sum())

    def own(self, text: EncodedRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) tokens of each row's text itself, and where they begin; an empty text is what stands in its place."""
        before, after = self.template
        return np.maximum(text.lengths - before - after, 1), np.minimum(before, text.lengths - 1)

    def tokens(self) -> int:
        """Tokens of all texts themselves."""
        return int(sum(self.own(text)[0].sum() for text in self.texts))

    def fill(self, read: Callable[[EncodedRows, NDArray[np.int64]], Tensor]) -> None:
        """Keep the layers of all texts.

        Args:
            read: rows of a text -> (B, L, J, W) layers of the text's own tokens.
        """
        for text in self.texts:
            lengths, _ = self.own(text)
            ends = np.cumsum(lengths)
            kept: Tensor | None = None
            for rows in evaluation_batches(text.lengths, _BATCH):
                found = read(text, rows)
                if kept is None:
                    kept = torch.empty(int(ends[-1]), *found.shape[2:], dtype=torch.float32)
                for row, layers in zip(rows, found.float().cpu(), strict=True):
                    kept[ends[row] - lengths[row] : ends[row]] = layers[: lengths[row]]
            assert kept is not None
            self.layers.append(kept)

    def kept(self, number: int, rows: NDArray[np.int64]) -> TextFeatures:
        """Layers of some rows' text, out of those that are kept."""
        lengths, _ = self.own(self.texts[number])
        first, lengths = (np.cumsum(lengths) - lengths)[rows], lengths[rows]
        columns = np.arange(int(lengths.max()))
        at = np.where(columns < lengths[:, None], first[:, None] + columns, first[:, None])
        return TextFeatures(torch.from_numpy(lengths), layers=self.layers[number][torch.from_numpy(at)])


def known_template(template: Template, known: Callable[[str], bool]) -> Template:
    """The template without special tokens that the tokenizer lacks."""

    def kept(layout: str) -> str:
        words = [f"{word}:{segment}" for word, segment in parse_layout(layout) if word.startswith("$") or known(word)]
        return " ".join(word.removesuffix(":1" if word.startswith("$B") else ":0") for word in words)

    return dataclasses.replace(template, single=kept(template.single), pair=kept(template.pair))


def sides(examples: LabelledTexts) -> list[LabelledTexts]:
    """The first texts of all rows, and the second ones where there are any, as rows of single texts."""
    texts = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]

    def spans(side: int) -> list[RowSpans] | None:
        return None if examples.spans is None else [(row[side],) for row in examples.spans]

    return [dataclasses.replace(examples, texts=own, pairs=None, spans=spans(n)) for n, own in enumerate(texts)]
