"""Span corruption: spans give way to sentinels, and the decoder says what stood there (T5; Raffel et al. 2020).

Worked example, with two spans of three tokens::

    thank you for inviting me to your party last week
           .   x      x     x  .   .     .    x    x
    source: thank you <extra_id_0> to your party <extra_id_1> </s>
    target: <extra_id_0> for inviting me <extra_id_1> last week </s>
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from pretraining.arrays import Bools, Ints, ragged_ranges
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Selector
from pretraining.masking.noise import Noise
from pretraining.masking.splice import Insertions, closed, drawn_places, splice
from pretraining.store.token_store import Store
from pretraining.tokenizer.config import SENTINEL
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.values import Range
from zoo.vocabulary import Vocabulary


class PartitionedSpans(Selector):
    """T5's spans: exactly so many tokens in exactly so many spans, of which all arrangements are equally likely.

    Of n tokens, round(n * density) are noise, in round(noise / mean_length) spans. Noise and the rest are each cut
    into so many parts of at least one token, and the parts alternate, the rest first. So a row never begins with noise
    and always ends with it. Rounding is half to even (text-to-text-transfer-transformer, preprocessors.py,
    random_spans_noise_mask).

    Args:
        density: share of the tokens that are noise, template tokens not counted.
        mean_length: tokens of a span, on average.
    """

    def __init__(
        self,
        density: Annotated[float, Range(above=0, below=1)] = 0.15,
        mean_length: Annotated[float, Range(least=1)] = 3.0,
    ) -> None:
        if not 0.0 < density < 1.0:
            raise ZooError(f"PartitionedSpans: density is {density}; it must lie between 0 and 1, for example 0.15.")
        if mean_length < 1:
            raise ZooError(f"PartitionedSpans: mean_length is {mean_length}; a span has 1 token at least.")
        self.density, self.mean_length = density, mean_length

    def counts(self, tokens: Ints) -> tuple[Ints, Ints]:
        """Noise tokens, and spans, of texts of so many tokens; none of a single token."""
        noise = np.clip(np.rint(tokens * self.density), 1, np.maximum(tokens - 1, 1)).astype(np.int64)
        most = np.maximum(np.minimum(noise, tokens - noise), 1)
        spans = np.clip(np.rint(noise / self.mean_length), 1, most).astype(np.int64)
        enough = tokens >= 2
        return noise * enough, spans * enough

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Bools:
        """(B, L), True at noise."""
        candidates = ~rows.special_tokens_mask
        tokens = candidates.sum(axis=1)
        noise, spans = self.counts(tokens)
        chosen = np.zeros(rows.shape, dtype=bool)
        if not spans.any():
            return chosen
        last = np.cumsum(spans)[spans > 0] - 1  # of each row's spans
        ends, rest_ends = np.zeros((2, int(spans.sum())), dtype=np.int64)
        inner = np.ones(len(ends), dtype=bool)
        inner[last] = False
        for found, size, stream in ((ends, noise, "spans.noise"), (rest_ends, tokens - noise, "spans.rest")):
            cuts = drawn_places(draw, rows.example_ids, np.maximum(size - 1, 0), np.maximum(spans - 1, 0), stream)
            found[inner] = np.nonzero(cuts)[1] + 1
            found[last] = size[spans > 0]
        starts = np.append(0, ends[:-1])
        starts[np.append(0, last[:-1] + 1)] = 0
        row = np.repeat(np.arange(len(spans)), spans)
        width = int(tokens.max()) + 1
        edges = np.zeros((len(spans), width), dtype=np.int8)  # by a token's rank among the row's candidates
        edges[row, rest_ends + starts] = 1
        edges[row, rest_ends + ends] = -1
        is_noise = np.cumsum(edges, axis=1, dtype=np.int8)
        chosen[candidates] = is_noise[np.arange(width)[None, :] < tokens[:, None]] > 0
        return chosen


class SpanCorruption(Noise):
    """Each span of chosen tokens gives way to a sentinel of its own; the target is the spans, each behind its sentinel.

    Source and target end with the separating token. The tokenizer has the sentinels (``data.tokenizer.sentinels``):
    ``<extra_id_0>`` stands for a row's first span, and has the largest id.

    Args:
        select: which tokens; default :class:`PartitionedSpans`, that is T5's 15 % in spans of 3.
    """

    def __init__(self, select: Selector | None = None) -> None:
        self.select = select or PartitionedSpans()
        self.required_fields = self.select.required_fields
        self.sentinels = np.zeros(0, dtype=np.int32)

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Take the sentinels' ids, from 0 on."""
        found: list[int] = []
        while (number := tokenizer.backend.token_to_id(SENTINEL.format(len(found)))) is not None:
            found.append(number)
        if not found:
            raise ZooError(
                f"SpanCorruption: the tokenizer has no sentinels ({SENTINEL.format(0)}, ...); add some, for example "
                "--data.tokenizer.sentinels 100."
            )
        self.sentinels = np.array(found, dtype=np.int32)

    def check(self, store: Store) -> None:
        """Raise ZooError if ``select`` could choose nothing."""
        self.select.check(store)

    def check_length(self, length: int) -> None:
        """Raise ZooError if a row of text needs more sentinels than the tokenizer has, as far as that is known."""
        if isinstance(self.select, PartitionedSpans) and len(self.sentinels):
            needed = int(self.select.counts(np.array([length]))[1][0])
            self._check_sentinels(needed)

    def _check_sentinels(self, needed: int) -> None:
        if needed > len(self.sentinels):
            raise ZooError(
                f"SpanCorruption: a row has {needed} spans, and the tokenizer {len(self.sentinels)} sentinels; "
                f"{needed} would do (data.tokenizer.sentinels), or shorter rows (data.sequence_length)."
            )

    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Examples:
        """The rows with sentinels, and the spans as their ``labels``."""
        if vocabulary.sep is None:
            raise ZooError("SpanCorruption: the tokenizer has no separating token (sep: </s>) to end a target with.")
        selected, pad = self.select(rows, draw, vocabulary), vocabulary.pad or 0
        first = selected.copy()
        first[:, 1:] &= ~selected[:, :-1]
        counts = first.sum(axis=1)
        self._check_sentinels(int(counts.max(initial=0)))
        row = np.repeat(np.arange(len(counts)), counts)
        ids = self.sentinels[ragged_ranges(np.zeros(len(counts), dtype=np.int64), counts)]
        cell = np.flatnonzero(first)
        sentinels = Insertions(row, cell, ids, rows.token_flags.reshape(-1)[cell])
        source = closed(splice(rows, rows.real & ~selected, sentinels, pad), vocabulary.sep, pad)
        target = closed(splice(rows, selected, sentinels, pad), vocabulary.sep, pad)
        labels = np.where(target.real, target.input_ids, np.int32(-100))
        return source.with_targets(labels=labels, target_lengths=target.lengths)


def length_before(source_length: int, select: PartitionedSpans | None = None) -> tuple[int, int]:
    """The longest text whose source is no longer than ``source_length`` tokens, and its target's length.

    T5 reads 568 tokens for sources of 512 and targets of 114 (preprocessors.py, random_spans_helper).
    """
    chooser = select or PartitionedSpans()
    best = 1, 1
    for tokens in range(1, 4 * source_length):
        noise, spans = (int(count[0]) for count in chooser.counts(np.array([tokens])))
        if tokens - noise + spans + 1 > source_length:
            break
        best = tokens, noise + spans + 1
    return best
