"""How documents become rows: contiguous blocks, full sentences, sentence pairs.

A row is one or more *pieces*: runs of consecutive tokens of the store. Sentence pairs and full sentences
open with the tokenizer's ``cls`` and put its ``sep`` behind every piece; ``length`` counts these too.

Rows follow each other as a chain: where a row starts depends on where the one before it ended. So the
successor is computed for *every* possible start at once, vectorised, with draws keyed by the start; walking
the chain is then one list lookup per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from numpy.typing import NDArray
from pretraining.arrays import Ints
from pretraining.arrays import ragged_ranges
from pretraining.layout import Layout
from pretraining.layout import Plan
from pretraining.random import Draw
from pretraining.rows import Rows
from pretraining.store.token_store import Store
from pretraining.tokenizer.flags import WORD_START
from typing import Any
from typing import Literal
from typing import NamedTuple
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary
import numpy as np

SENTENCES_AT_ONCE = 2_000_000  # planned together, which bounds the memory of a plan under way


# --- from a plan to rows ---------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Where the Q pieces of B rows go in a padded, flattened grid.

    Args:
        lengths: (B,) tokens of each row.
        width: columns of the grid.
        piece: (Q,) number of each piece in the plan.
        cell: (Q,) flat cell of each piece's first token.
        tokens: (Q,) tokens of each piece.
        follows: (Q,) 1 where a separator follows the piece, else 0.
    """

    lengths: Ints
    width: int
    piece: Ints
    cell: Ints
    tokens: Ints
    follows: Ints


def _grid(plan: Plan, indices: Ints, opens: bool, closes: bool) -> _Grid:
    first = plan.offsets[indices]
    counts = plan.offsets[indices + 1] - first
    piece = ragged_ranges(first, counts)
    row = np.repeat(np.arange(len(indices)), counts)
    tokens = plan.lengths[piece].astype(np.int64)
    follows = np.ones_like(tokens) if plan.separators is None else plan.separators[piece].astype(np.int64)
    ends = np.cumsum(tokens + follows)
    row_ends = np.append(0, ends)[np.cumsum(counts)]
    row_starts = np.append(0, row_ends[:-1])
    lengths = row_ends - row_starts + int(opens) + int(closes)
    width = int(lengths.max(initial=1))
    cell = row * width + ends - tokens - follows - row_starts[row] + int(opens)
    return _Grid(lengths, width, piece, cell, tokens, follows)


def gather(
    store: Store, plan: Plan, indices: Ints, length: int, vocabulary: Vocabulary, opens: bool, closes: bool = False
) -> Rows:
    """The named rows of a plan as one padded batch; no Python per row or token.

    Args:
        store: where the tokens are.
        plan: the table of rows.
        indices: (B,) rows wanted.
        length: longest row allowed, template tokens included.
        vocabulary: gives the template tokens and the padding id (0 where there is none).
        opens: whether rows begin with the opening token.
        closes: whether they end with it, in a segment of its own.

    Raises:
        ZooError: the plan was made for longer rows.
    """
    indices = np.asarray(indices, dtype=np.int64)
    grid = _grid(plan, indices, opens, closes)
    if grid.width > length:
        raise ZooError(f"a row of this plan has {grid.width} tokens, rows of {length} were asked for: plan again.")
    shape, size = (len(indices), grid.width), len(indices) * grid.width
    place, source = ragged_ranges(grid.cell, grid.tokens), _sources(plan, indices, grid)

    def fetched(values: NDArray[Any], fill: int, dtype: Any) -> NDArray[Any]:
        cells = np.full(size, fill, dtype=dtype)
        cells[place] = np.asarray(values)[source]
        return cells

    input_ids = fetched(store.tokens, vocabulary.pad or 0, np.int32)
    if grid.follows.any():
        input_ids[(grid.cell + grid.tokens)[grid.follows > 0]] = _id(vocabulary.sep)
    if opens:
        input_ids[:: grid.width] = _id(vocabulary.cls)
    last = np.arange(len(indices)) * grid.width + grid.lengths - 1
    if closes:
        input_ids[last] = _id(vocabulary.cls)
    special = np.ones(size, dtype=bool)
    special[place] = False
    rows = Rows(
        input_ids=input_ids.reshape(shape),
        lengths=grid.lengths,
        special=special.reshape(shape),
        flags=fetched(store.flags, WORD_START, np.uint8).reshape(shape),
        example=indices,
        document=plan.documents[indices],
        following=None if plan.following is None else plan.following[indices],
        reversed=None if plan.reversed is None else plan.reversed[indices],
        arrays={name: fetched(values, 0, values.dtype).reshape(shape) for name, values in store.arrays.items()},
    )
    if plan.pair_label is None:
        return rows
    types = np.zeros(size, dtype=np.int32)
    later = plan.types[grid.piece] != 0
    spans = (grid.tokens + grid.follows)[later]
    types[ragged_ranges(grid.cell[later], spans)] = np.repeat(plan.types[grid.piece][later], spans)
    if closes:
        types[last] = 2
    return rows.replace(token_type_ids=types.reshape(shape), pair_label=plan.pair_label[indices].astype(np.int64))


def _sources(plan: Plan, indices: Ints, grid: _Grid) -> Ints:
    """Token of the store for every token of the grid, piece by piece, from the end where a row is read backwards."""
    starts = plan.starts[grid.piece]
    source = ragged_ranges(starts, grid.tokens)
    if plan.reversed is None:
        return source
    backwards = np.repeat(plan.reversed[indices], plan.offsets[indices + 1] - plan.offsets[indices])
    mirrored: Ints = np.repeat(2 * starts + grid.tokens - 1, grid.tokens) - source
    return np.where(np.repeat(backwards, grid.tokens), mirrored, source)


def _id(special: int | None) -> int:
    """A special id that ``plan`` has made sure of."""
    if special is None:
        raise ZooError("this plan was made with a tokenizer that has template tokens; the one given has not.")
    return special


def rows_from_texts(
    sentences: Sequence[tuple[Sequence[int] | NDArray[Any], Sequence[int] | NDArray[Any]]],
    vocabulary: Vocabulary,
    template_prefix: Sequence[int] = (),
    template_suffix: Sequence[int] = (),
) -> Rows:
    """Rows of texts that are already tokenised, for scoring and showing.

    Args:
        sentences: (token ids, flag bits per token) of each text.
        vocabulary: gives the padding id.
        template_prefix: special ids before each text, for example ``[cls]``.
        template_suffix: special ids after each text, for example ``[sep]``.
    """
    before, after = len(template_prefix), len(template_suffix)
    lengths = np.array([len(ids) + before + after for ids, _ in sentences], dtype=np.int64)
    shape = (len(sentences), int(lengths.max(initial=1)))
    input_ids = np.full(shape, vocabulary.pad or 0, dtype=np.int32)
    special = np.ones(shape, dtype=bool)
    flags = np.full(shape, WORD_START, dtype=np.uint8)
    for row, (ids, bits) in enumerate(sentences):
        if len(ids) != len(bits):
            raise ValueError(f"text {row} has {len(ids)} ids but {len(bits)} flags")
        end = before + len(ids)
        input_ids[row, :before], input_ids[row, before:end] = template_prefix, ids
        input_ids[row, end : end + after] = template_suffix
        special[row, before:end], flags[row, before:end] = False, bits
    number = np.arange(len(sentences), dtype=np.int64)
    return Rows(input_ids, lengths, special, flags, example=number, document=number)


# --- what the layouts share ------------------------------------------------------------------------


def _check_documents(store: Store, documents: Ints, layout: str) -> None:
    offsets = store.document_tokens()
    if len(documents) == 0 or int((offsets[documents + 1] - offsets[documents]).sum()) == 0:
        raise ZooError(
            f"{layout}: {len(documents)} documents without a single token in {store.path}; rows need text. Give a "
            "larger corpus, or hold out fewer documents for validation."
        )


def _check_template(vocabulary: Vocabulary, layout: str, cls: bool, sep: bool) -> None:
    missing = [name for name, needed in (("cls", cls), ("sep", sep)) if needed and getattr(vocabulary, name) is None]
    if missing:
        names = {"cls": "an opening token (cls: [CLS] or <s>)", "sep": "a separator (sep: [SEP] or </s>)"}
        raise ZooError(
            f"{layout}: the tokenizer has no {' and no '.join(names[name] for name in missing)}. Train or load one "
            "that has it, add it (data.tokenizer.new_tokens), or use the layout pretraining.layouts.Blocks, which "
            "needs no template tokens."
        )


def _slabs(store: Store, documents: Ints, sentences: int = SENTENCES_AT_ONCE) -> Iterator[Ints]:
    """The documents in portions of about so many ``sentences``."""
    offsets = np.asarray(store.documents)
    total = np.cumsum(offsets[documents + 1] - offsets[documents])
    cuts = np.unique(np.searchsorted(total, np.arange(sentences, total[-1], sentences)))
    yield from (part for part in np.split(documents, cuts) if len(part))


def concatenate(plans: list[Plan]) -> Plan:
    """Plans one after the other as one."""
    if len(plans) == 1:
        return plans[0]
    sizes = [np.diff(plan.offsets) for plan in plans]
    labels = [plan.pair_label for plan in plans if plan.pair_label is not None]
    separators = [plan.separators for plan in plans if plan.separators is not None]
    return Plan(
        starts=np.concatenate([plan.starts for plan in plans]),
        lengths=np.concatenate([plan.lengths for plan in plans]),
        types=np.concatenate([plan.types for plan in plans]),
        offsets=np.append(0, np.cumsum(np.concatenate(sizes))),
        documents=np.concatenate([plan.documents for plan in plans]),
        pair_label=np.concatenate(labels) if labels else None,
        separators=np.concatenate(separators) if separators else None,
    )


def follow_chain(successor: Ints) -> Ints:
    """0, successor[0], successor[successor[0]], ... until the end is reached."""
    following, end, here = successor.tolist(), len(successor), 0
    found = []
    while here < end:
        found.append(here)
        here = following[here]
    return np.array(found, dtype=np.int64)


class _Sentences(NamedTuple):
    """Sentences of some documents, numbered without gaps. S sentences, D documents.

    Args:
        starts: (S,) store token at which each begins.
        tokens: (S + 1,) tokens before each.
        number: (S,) number in the store.
        place: (S,) document each belongs to, 0 .. D - 1.
        bounds: (D + 1,) first sentence of each document.
    """

    starts: Ints
    tokens: Ints
    number: Ints
    place: Ints
    bounds: Ints


def _sentences(store: Store, documents: Ints) -> _Sentences:
    offsets = np.asarray(store.documents)
    counts = offsets[documents + 1] - offsets[documents]
    number = ragged_ranges(offsets[documents], counts)
    edges = np.asarray(store.sentences)
    starts = edges[number]
    return _Sentences(
        starts=starts,
        tokens=np.append(0, np.cumsum(edges[number + 1] - starts)),
        number=number,
        place=np.repeat(np.arange(len(documents)), counts),
        bounds=np.append(0, np.cumsum(counts)),
    )


def _cut_long(sentences: _Sentences, longest: int) -> _Sentences:
    """Sentences of more than ``longest`` tokens cut into consecutive parts of at most that many."""
    lengths = np.diff(sentences.tokens)
    parts = np.maximum(-(-lengths // longest), 1)
    if (parts == 1).all():
        return sentences
    within = ragged_ranges(np.zeros(len(parts), dtype=np.int64), parts)
    part_lengths = np.minimum(np.repeat(lengths, parts) - within * longest, longest)
    bounds = np.append(0, np.cumsum(parts))[sentences.bounds]
    return _Sentences(
        starts=np.repeat(sentences.starts, parts) + within * longest,
        tokens=np.append(0, np.cumsum(part_lengths)),
        number=np.repeat(sentences.number, parts),
        place=np.repeat(sentences.place, parts),
        bounds=bounds,
    )


# --- the layouts -----------------------------------------------------------------------------------


class Blocks(Layout):
    """Contiguous windows of ``length`` tokens over the concatenated documents (GPT, section 4.1).

    Every token is in exactly one window. Windows of a single token are left out: nothing could be
    predicted there.

    Args:
        separate_documents: windows do not cross a document's end; its last window may be shorter.
        separator: the separator token follows every document and counts as a token of the stream.
        shift: the first window is cut at a random place, a new one in every epoch, so that windows do
            not end at the same tokens each time.
        separator_after: ``sentences``: the separator follows every sentence instead.
    """

    def __init__(
        self,
        separate_documents: bool = False,
        separator: bool = False,
        shift: bool = False,
        separator_after: Literal["documents", "sentences"] = "documents",
    ) -> None:
        self.separate_documents = separate_documents
        self.separator = separator
        self.shift = shift
        self.separator_after = separator_after

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Windows of exactly ``length`` tokens, except at the ends."""
        _check_documents(store, documents, "Blocks")
        _check_template(vocabulary, "Blocks with separator: true", cls=False, sep=self.separator)
        if length < 2:
            raise ZooError(f"Blocks: rows of {length} tokens hold nothing to predict; at least 2 are needed.")
        first, texts, owner = self._units(store, documents)
        stream = np.append(0, np.cumsum(texts + int(self.separator)))  # where each unit starts in the stream
        cuts = self._cuts(stream[np.searchsorted(owner, np.append(documents, documents[-1] + 1))], length, draw)
        edges = np.unique(np.concatenate([cuts, stream]))
        starts, sizes = edges[:-1], np.diff(edges)
        place = np.searchsorted(stream, starts, side="right") - 1
        closes = np.zeros(len(starts), dtype=bool)
        if self.separator:
            closes = edges[1:] == stream[place + 1]
        plan_offsets = np.searchsorted(starts, cuts)
        lengths = np.diff(cuts)
        plan = Plan(
            starts=first[place] + starts - stream[place],
            lengths=(sizes - closes).astype(np.int32),
            types=np.zeros(len(starts), dtype=np.int8),
            offsets=plan_offsets,
            documents=owner[place[plan_offsets[:-1]]],
            separators=closes,
        )
        return select(plan, np.flatnonzero(lengths > 1))

    def _units(self, store: Store, documents: Ints) -> tuple[Ints, Ints, Ints]:
        """(U,) first token, tokens and document of what a separator follows: documents, or their sentences."""
        if self.separator and self.separator_after == "sentences":
            sentences = _sentences(store, documents)
            return sentences.starts, np.diff(sentences.tokens), documents[sentences.place]
        offsets = store.document_tokens()
        return offsets[documents], offsets[documents + 1] - offsets[documents], documents

    def _cuts(self, stream: Ints, length: int, draw: Draw) -> Ints:
        """Stream positions at which windows start, and the end; ``stream`` is where documents start, and the end."""
        if not self.separate_documents:
            first = np.zeros(1, dtype=np.int64)
            shift = int(draw.integers(first, length, "layout.shift")[0]) if self.shift else 0
            inner = np.arange(shift or length, stream[-1], length)
            return np.concatenate([first, inner, stream[-1:]])
        starts, sizes = stream[:-1], np.diff(stream)
        shifts = np.zeros_like(starts)
        if self.shift:
            shifts = draw.integers(np.arange(len(starts)), length, "layout.shift")
        first_size = np.where(shifts == 0, length, shifts)
        more = np.maximum(-(-(sizes - first_size) // length), 0)
        later = np.repeat(starts + first_size, more) + ragged_ranges(np.zeros_like(more), more) * length
        return np.unique(np.concatenate([stream, later]))

    def rows(self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary) -> Rows:
        """The named windows."""
        return gather(store, plan, indices, length, vocabulary, opens=False)


def select(plan: Plan, rows: Ints) -> Plan:
    """The named rows of a plan, in that order."""
    counts = np.diff(plan.offsets)[rows]
    pieces = ragged_ranges(plan.offsets[rows], counts)
    return Plan(
        starts=plan.starts[pieces],
        lengths=plan.lengths[pieces],
        types=plan.types[pieces],
        offsets=np.append(0, np.cumsum(counts)),
        documents=plan.documents[rows],
        pair_label=None if plan.pair_label is None else plan.pair_label[rows],
        separators=None if plan.separators is None else plan.separators[pieces],
        following=None if plan.following is None else plan.following[rows],
        reversed=None if plan.reversed is None else plan.reversed[rows],
    )


class FullSentences(Layout):
    """Whole sentences, one after the other, while they fit (RoBERTa section 4.2).

    A row is ``cls``, then for each document it touches the sentences taken from it and one ``sep``: every row
    begins with ``cls``, ends with ``sep``, and a separator stands between documents. (fairseq also puts one
    behind each line, its unit of text; here a line is not a unit.) A sentence too long for a row of its own is
    cut into parts, which are then treated as sentences; no other sentence is split, and no token is lost. Rows
    also end after every two million sentences or so, where the plan is made in portions.

    Args:
        cross_documents: rows may cross document ends (FULL-SENTENCES); false = DOC-SENTENCES.
        separator_between_documents: put a separator between documents inside a row, not only at its end.
    """

    portion = SENTENCES_AT_ONCE

    def __init__(self, cross_documents: bool = True, separator_between_documents: bool = True) -> None:
        self.cross_documents = cross_documents
        self.separator_between_documents = separator_between_documents

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Rows of at most ``length`` tokens."""
        _check_documents(store, documents, "FullSentences")
        _check_template(vocabulary, "FullSentences", cls=True, sep=True)
        if length < 3:
            raise ZooError(f"FullSentences: rows of {length} tokens have no room for text beside cls and sep.")
        return concatenate([self._plan(store, part, length) for part in _slabs(store, documents, self.portion)])

    def _plan(self, store: Store, documents: Ints, length: int) -> Plan:
        units = _cut_long(_sentences(store, documents), length - 2)
        separators = units.place if self.separator_between_documents else np.zeros_like(units.place)
        cost_end = units.tokens[1:] + separators
        successor = np.searchsorted(cost_end, units.tokens[:-1] + separators + length - 2, side="right")
        if not self.cross_documents:
            successor = np.minimum(successor, units.bounds[units.place + 1])
        chain = follow_chain(successor)
        cuts = np.append(chain, len(units.starts))
        edges = np.unique(np.concatenate([cuts, units.bounds]))
        firsts = edges[:-1]
        sizes = units.tokens[edges[1:]] - units.tokens[firsts]
        full = sizes > 0  # documents without a token leave no piece
        row = np.searchsorted(chain, firsts, side="right") - 1
        firsts, sizes, row = firsts[full], sizes[full], row[full]
        counts = np.unique(row, return_counts=True)[1]
        closes = np.ones(len(firsts), dtype=bool)
        if not self.separator_between_documents:
            closes[:-1] = row[1:] != row[:-1]
        offsets = np.append(0, np.cumsum(counts))
        return Plan(
            starts=units.starts[firsts],
            lengths=sizes.astype(np.int32),
            types=np.zeros(len(firsts), dtype=np.int8),
            offsets=offsets,
            documents=documents[units.place[firsts[offsets[:-1]]]],
            separators=closes,
        )

    def rows(self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary) -> Rows:
        """The named rows."""
        return gather(store, plan, indices, length, vocabulary, opens=True)


class _Pairs(NamedTuple):
    """Pieces of pairs under construction; (R,) each."""

    first_start: Ints
    first_length: Ints
    second_start: Ints
    second_length: Ints
    label: Ints
    example: Ints
    document: Ints


class SentencePairs(Layout):
    """Two segments from one document or two, as BERT and ALBERT build them (create_pretraining_data.py).

    A document is cut into chunks of whole sentences that reach a target length: the whole row, or, for a
    share of the documents, a random shorter one. A chunk's first k sentences, k uniform, are segment A.

    - ``next_or_random``: B is a run of sentences from another document (label 1) for ``random_share`` of the
      chunks, and then the chunk's other sentences start the next chunk; else B is the rest of the chunk
      (label 0). Chunks of one sentence always get a random B.
    - ``ordered_or_swapped``: B is the rest of the chunk; for ``random_share`` the two are swapped (label 1).
      Chunks of one sentence get a random B, label 1, as in ALBERT's code.

    Pairs that are too long lose tokens from the longer segment, at its front or back with equal chance.

    Args:
        second: what the second segment is.
        short_seq_prob: share of documents, drawn anew each epoch, with a shorter target length.
        random_share: share of chunks of two and more sentences whose label is 1.
    """

    provides = frozenset({"token_type_ids", "pair_label"})
    portion = SENTENCES_AT_ONCE

    def __init__(
        self,
        second: Literal["next_or_random", "ordered_or_swapped"],
        short_seq_prob: float = 0.1,
        random_share: float = 0.5,
    ) -> None:
        for name, share in (("short_seq_prob", short_seq_prob), ("random_share", random_share)):
            if not 0.0 <= share <= 1.0:
                raise ZooError(f"SentencePairs: {name} is {share}; a share in [0, 1] is needed.")
        if second not in ("next_or_random", "ordered_or_swapped"):
            raise ZooError(f"SentencePairs: second is {second!r}; 'next_or_random' or 'ordered_or_swapped' would work.")
        self.second = second
        self.short_seq_prob = short_seq_prob
        self.random_share = random_share

    def plan(self, store: Store, documents: NDArray[np.int64], length: int, vocabulary: Vocabulary, draw: Draw) -> Plan:
        """Pairs of at most ``length`` tokens."""
        _check_documents(store, documents, "SentencePairs")
        _check_template(vocabulary, "SentencePairs", cls=True, sep=True)
        if length < 5:
            raise ZooError(f"SentencePairs: rows of {length} tokens have no room for two segments; 5 is the least.")
        self._check_pairs(store, documents, length)
        parts = [self._plan(store, documents, part, length, draw) for part in _slabs(store, documents, self.portion)]
        return concatenate(parts)

    def _check_pairs(self, store: Store, documents: Ints, length: int) -> None:
        """Refuse documents of which only random pairs, or none at all, could be made."""
        offsets = np.asarray(store.documents)
        counts = offsets[documents + 1] - offsets[documents]
        advice = (
            "Use pretraining.layouts.FullSentences (or Blocks) with the objective MaskedLM or CausalLM and without "
            "PairClassification"
        )
        if counts.max() < 2:
            raise ZooError(
                f"SentencePairs: each of the {len(documents)} documents of {store.path} is a single sentence; a pair "
                f"needs two. {advice}; or prepare the corpus with `sentences: rule`, and with a blank line between "
                "documents."
            )
        if len(documents) < 2 and self.second == "next_or_random":
            raise ZooError(
                f"SentencePairs: random second segments come from another document, but {store.path} offers a single "
                f"one here. Put blank lines between documents; or use second: ordered_or_swapped. {advice} otherwise."
            )
        if not any(_has_chunk(_sentences(store, part), length - 3) for part in _slabs(store, documents, self.portion)):
            raise ZooError(
                f"SentencePairs: no row of {length} tokens holds two consecutive sentences of one document, so every "
                f"pair would be a random one. Shorten the sentences (`sentences: rule`) or lengthen the rows. {advice} "
                "otherwise."
            )

    def _plan(self, store: Store, all_documents: Ints, documents: Ints, length: int, draw: Draw) -> Plan:
        sentences = _sentences(store, documents)
        if not len(sentences.starts):
            return _pairs_to_plan(None)
        targets = self.targets(documents, length - 3, draw)
        first = np.arange(len(sentences.starts))
        ends, middles, is_random, label = self._chunks(sentences, targets, first, draw)
        chain = follow_chain(np.where(is_random, middles, ends))
        end, middle, random = ends[chain], middles[chain], is_random[chain]
        first_length = sentences.tokens[middle] - sentences.tokens[chain]
        second_start = sentences.starts[np.minimum(middle, len(sentences.starts) - 1)]
        second_length = sentences.tokens[end] - sentences.tokens[middle]
        example = sentences.number[chain]
        document = documents[sentences.place[chain]]
        wanted = targets[sentences.place[chain]] - first_length
        start, size = _random_seconds(store, all_documents, example[random], document[random], wanted[random], draw)
        second_start[random], second_length[random] = start, size
        pairs = _Pairs(
            sentences.starts[chain], first_length, second_start, second_length, label[chain], example, document
        )
        if self.second == "ordered_or_swapped":
            pairs = _swap(pairs, (pairs.label == 1) & ~random)
        if len(all_documents) < 2:  # nothing to draw the residue from
            pairs = _Pairs(*(field[~random] for field in pairs))
        return _pairs_to_plan(_truncate(pairs, length - 3, draw))

    def targets(self, documents: Ints, budget: int, draw: Draw) -> Ints:
        """(D,) tokens at which a chunk of each document is complete, at most ``budget``; drawn once per pass."""
        short = draw.uniform(documents, "pairs.short") < self.short_seq_prob
        return np.where(short, 2 + draw.integers(documents, budget - 1, "pairs.target"), budget)

    def _chunks(
        self, sentences: _Sentences, targets: Ints, first: Ints, draw: Draw
    ) -> tuple[Ints, Ints, NDArray[np.bool_], Ints]:
        """For every sentence as the start of a chunk: its end, the first sentence of B, whether B is random, label."""
        tokens = sentences.tokens
        reach = np.searchsorted(tokens, tokens[:-1] + targets[sentences.place], side="left")
        ends = np.minimum(np.maximum(reach, first + 1), sentences.bounds[sentences.place + 1])
        count = ends - first
        inner = draw.integers(sentences.number, np.maximum(count - 1, 1), "pairs.split") + 1
        middles = first + np.where(count > 1, inner, 1)
        tossed = draw.uniform(sentences.number, "pairs.label") < self.random_share
        single = count == 1
        is_random = single | tossed if self.second == "next_or_random" else single
        return ends, middles, is_random, (single | tossed).astype(np.int64)

    def rows(self, store: Store, plan: Plan, indices: NDArray[np.int64], length: int, vocabulary: Vocabulary) -> Rows:
        """The named pairs: ``cls A sep B sep``, types 0 for ``cls A sep`` and 1 for ``B sep``."""
        return gather(store, plan, indices, length, vocabulary, opens=True)


def _has_chunk(sentences: _Sentences, budget: int) -> bool:
    """Whether some chunk of at most ``budget`` tokens can reach a second sentence."""
    follows = sentences.place[1:] == sentences.place[:-1]
    return bool((follows & (np.diff(sentences.tokens)[:-1] < budget)).any())


def _random_seconds(
    store: Store, documents: Ints, example: Ints, document: Ints, wanted: Ints, draw: Draw
) -> tuple[Ints, Ints]:
    """Start and length of random second segments.

    Up to 10 draws find another document; from a uniform sentence on, sentences are taken until ``wanted``
    tokens are reached or the document ends.
    """
    drawn = draw.bits(example, 10, "pairs.document").astype(np.uint64) * np.uint64(len(documents))
    candidates = documents[(drawn >> np.uint64(32)).astype(np.int64)]
    other = candidates != document[:, None]
    choice = np.where(other.any(axis=1), other.argmax(axis=1), 9)
    chosen = candidates[np.arange(len(example)), choice]
    bounds, edges = np.asarray(store.documents), np.asarray(store.sentences)
    begin, end = bounds[chosen], bounds[chosen + 1]
    sentence = np.minimum(begin + draw.integers(example, end - begin, "pairs.sentence"), len(edges) - 2)
    start = edges[sentence]
    last = np.searchsorted(edges, start + wanted, side="left")
    last = np.minimum(np.maximum(last, np.minimum(sentence + 1, end)), end)
    return start, np.maximum(edges[last] - start, 0)


def _swap(pairs: _Pairs, swapped: NDArray[np.bool_]) -> _Pairs:
    """A and B exchanged where told."""
    return pairs._replace(
        first_start=np.where(swapped, pairs.second_start, pairs.first_start),
        first_length=np.where(swapped, pairs.second_length, pairs.first_length),
        second_start=np.where(swapped, pairs.first_start, pairs.second_start),
        second_length=np.where(swapped, pairs.first_length, pairs.second_length),
    )


def _truncate(pairs: _Pairs, budget: int, draw: Draw) -> _Pairs:
    """Cut pairs to ``budget`` tokens: one token at a time from the longer (tie: B), front or back.

    In closed form: the longer one loses the difference first, then both in turn, B first; of r removals a
    binomial(r, 1/2) number is at the front, counted as the ones among r random bits.
    """
    first, second = pairs.first_length, pairs.second_length
    excess = np.maximum(first + second - budget, 0)
    alone = np.minimum(excess, np.abs(first - second))
    rest = excess - alone
    cut_first = np.where(first > second, alone, 0) + rest // 2
    cut_second = np.where(first > second, 0, alone) + (rest + 1) // 2
    front_first = coin_sum(cut_first, pairs.example, "pairs.front.first", draw)
    front_second = coin_sum(cut_second, pairs.example, "pairs.front.second", draw)
    return pairs._replace(
        first_start=pairs.first_start + front_first,
        first_length=first - cut_first,
        second_start=pairs.second_start + front_second,
        second_length=second - cut_second,
    )


def coin_sum(tosses: Ints, example: Ints, stream: str, draw: Draw) -> Ints:
    """Heads among ``tosses`` fair coins, per example."""
    heads = np.zeros(len(tosses), dtype=np.int64)
    word, some = 0, np.flatnonzero(tosses > 0)
    while some.size:
        bits = draw.at(example[some], np.full(len(some), word), stream)
        left = tosses[some] - 32 * word
        bits >>= np.maximum(32 - left, 0).astype(np.uint32)
        heads[some] += np.bitwise_count(bits)
        word, some = word + 1, some[left > 32]
    return heads


def _pairs_to_plan(pairs: _Pairs | None) -> Plan:
    """Two pieces per row; pairs with an empty segment are left out."""
    if pairs is None:
        none = np.zeros(0, dtype=np.int64)
        return Plan(
            none, none.astype(np.int32), none.astype(np.int8), np.zeros(1, np.int64), none, none.astype(np.int8)
        )
    full = (pairs.first_length > 0) & (pairs.second_length > 0)
    pairs = _Pairs(*(field[full] for field in pairs))
    count = len(pairs.label)
    return Plan(
        starts=np.stack([pairs.first_start, pairs.second_start], axis=1).reshape(-1),
        lengths=np.stack([pairs.first_length, pairs.second_length], axis=1).reshape(-1).astype(np.int32),
        types=np.tile(np.array([0, 1], dtype=np.int8), count),
        offsets=np.arange(0, 2 * count + 1, 2, dtype=np.int64),
        documents=pairs.document,
        pair_label=pairs.label.astype(np.int8),
    )
