"""Every objective: learns, does not leak, and gives the same answer whatever it is batched with.

Adding an objective to these tests = one row of ``OBJECTIVES``.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import jsonargparse
import numpy as np
import pytest
import torch
from entity_toys import FUSION, shared_table
from gradients import UNORDERED, backward_steps
from similar_toys import synthetic, synthetic_list
from stores import BERT_LIKE, FIRST_ID, GPT_LIKE, take
from torch import nn

from pretraining.arrays import CAPITALISED, WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import examples_from_tokens
from pretraining.masking.ngrams import NGrams
from pretraining.masking.noises import SentencePermutation, TextInfilling
from pretraining.masking.predictions import All
from pretraining.masking.sentinels import SpanCorruption
from pretraining.masking.similar_words import SimilarWords
from pretraining.masking.tokens import RandomTokens, Replace
from pretraining.masking.words import KnowledgeUnits, WholeWords
from pretraining.objectives import (
    BidirectionalLM,
    CausalLM,
    ContinuousBagOfWords,
    EntityAutoencoder,
    MaskedLM,
    PairClassification,
    PermutationLM,
    RowClassification,
    SequenceToSequence,
    SkipGram,
    TokenClassification,
)
from pretraining.objectives.base import CoreRunner, Objective, Targets, base_inputs, collate
from pretraining.objectives.skip_gram import WindowObjective
from pretraining.objectives.token_classification import CapitalisationLabels
from pretraining.objectives.token_scoring import MaskedModel, score_words
from zoo.config import CoreConfig
from zoo.config_parts import DecoderConfig, RecurrentConfig
from zoo.core.build import make_core
from zoo.core.init import initialise
from zoo.dropout import row_keys
from zoo.errors import ZooError

TINY = CoreConfig(
    vocab_size=BERT_LIKE.size,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
    initializer_range=0.1,  # large enough that a leak would show
)
TWO_STREAMS = TINY.replace(
    position_type="relative",
    untie_r=True,
    relative_segments=True,
    query_stream=True,
    type_vocab_size=0,
    pooler=False,
)
RECURRENT = TINY.replace(position_type="none", recurrent=RecurrentConfig(cell_size=48, dropout=0.0))
WITH_DECODER = TINY.replace(type_vocab_size=0, pooler=False, decoder=DecoderConfig(), max_position_embeddings=80)
TABLE = TINY.replace(
    num_hidden_layers=0,
    position_type="none",
    type_vocab_size=0,
    embedding_norm=False,
    hidden_dropout_prob=0.0,
    pooler=False,
    tie_word_embeddings=False,
)
DRAW = Draw(seed=2, epoch=0)
ALL_MASK = Replace(mask=1, random=0, keep=0)


def hidden_by_mask(rows: Examples) -> np.ndarray:
    """Positions whose token the core must not learn anything of."""
    return rows.targets["selected"] & (rows.input_ids == BERT_LIKE.mask)


def not_before(rows: Examples, number: int) -> np.ndarray:
    """Positions of a factorisation order that the target with this number must not see, its own among them."""
    row, column = np.nonzero(rows.targets["selected"] & ~rows.special_tokens_mask)
    ranks = rows.targets["ranks"]
    return ranks >= ranks[row[number], column[number]]


def other_side(rows: Examples, number: int) -> np.ndarray:
    """Positions of one row behind the place from which a two-way target looks, forward targets first."""
    columns, forward = np.arange(rows.shape[1])[None, :], int(rows.lengths[0]) - 1
    return columns > number if number < forward else columns < number - forward + 1


class NumberedSentinels(SpanCorruption):
    """Sentinels that need no tokenizer."""

    def bind_tokenizer(self, tokenizer):
        self.sentinels = np.arange(BERT_LIKE.size - 1, BERT_LIKE.size - 20, -1, dtype=np.int32)


class Case(NamedTuple):
    make: Callable[[], Objective]
    hidden: Callable[[Examples], np.ndarray] | None  # (B, L) positions nobody may see
    later: bool = False  # a target may not see later positions either
    can_be_empty: bool = True  # there are rows without any target
    unseen: Callable[[Examples, int], np.ndarray] | None = None  # (B, L) positions that one target may not see
    config: CoreConfig = TINY
    steps: int = 80  # in which it learns one batch by heart
    rate: float = 5e-3
    by_target: bool = True  # a part of its targets' tensors is the targets of that part


OBJECTIVES = {
    "masked tokens": Case(lambda: MaskedLM(RandomTokens(), ALL_MASK), hidden_by_mask),
    "masked tokens, 80/10/10": Case(lambda: MaskedLM(RandomTokens(rate=0.3)), hidden_by_mask),
    "masked words": Case(lambda: MaskedLM(WholeWords(), ALL_MASK), hidden_by_mask),
    "masked words, each by itself": Case(
        lambda: MaskedLM(WholeWords(rate=0.3, budget="bernoulli"), ALL_MASK), hidden_by_mask
    ),
    "masked units": Case(lambda: MaskedLM(KnowledgeUnits("unit", fallback="words"), ALL_MASK), hidden_by_mask),
    "masked n-grams": Case(lambda: MaskedLM(NGrams(), ALL_MASK), hidden_by_mask),
    "similar words": Case(lambda: MaskedLM(WholeWords(), SimilarWords(synthetic_list())), None),
    "masked, dynamic count": Case(
        lambda: MaskedLM(RandomTokens(budget="stochastic", include_special=True)), hidden_by_mask
    ),
    "everything predicted": Case(lambda: MaskedLM(RandomTokens(), ALL_MASK, All()), hidden_by_mask, can_be_empty=False),
    "causal": Case(CausalLM, None, later=True),
    "causal, recurrent": Case(CausalLM, None, later=True, config=RECURRENT, steps=150, rate=4e-2),
    "two-way": Case(BidirectionalLM, None, unseen=other_side, steps=200),
    "two-way, recurrent": Case(BidirectionalLM, None, unseen=other_side, config=RECURRENT, steps=150, rate=4e-2),
    "masked tokens, recurrent": Case(
        lambda: MaskedLM(RandomTokens(), ALL_MASK), hidden_by_mask, config=RECURRENT, steps=150, rate=1e-2
    ),
    "pair, recurrent": Case(PairClassification, None, can_be_empty=False, config=RECURRENT),
    "pair": Case(PairClassification, None, can_be_empty=False),
    "class of a row": Case(lambda: RowClassification(9), None, can_be_empty=False),
    "class of a token": Case(lambda: TokenClassification(CapitalisationLabels()), None),
    "permutation": Case(PermutationLM, None, unseen=not_before, config=TWO_STREAMS),
    "permutation, blocks": Case(
        lambda: PermutationLM(RandomTokens(), perm_size=4), None, unseen=not_before, config=TWO_STREAMS
    ),
    "entities": Case(lambda: EntityAutoencoder(shared_table()), None, config=TINY.replace(fusion=FUSION), steps=150),
    "span corruption": Case(
        lambda: SequenceToSequence([NumberedSentinels()], start="pad"),
        None,
        can_be_empty=False,
        config=WITH_DECODER,
        steps=150,
    ),
    "denoising": Case(
        lambda: SequenceToSequence([SentencePermutation(), TextInfilling(0.3)], bias=True),
        None,
        can_be_empty=False,
        config=WITH_DECODER,
        steps=120,
    ),
    "smoothed labels": Case(
        lambda: SequenceToSequence([TextInfilling(0.3)], label_smoothing=0.1),
        None,
        can_be_empty=False,
        config=WITH_DECODER,
        steps=150,
    ),
    "a word from each near it": Case(SkipGram, None, config=TABLE, steps=150, rate=4e-2, by_target=False),
    "a word from all near it": Case(ContinuousBagOfWords, None, config=TABLE, steps=150, rate=4e-2, by_target=False),
    "pair on the last token": Case(
        lambda: PairClassification(dense="tanh", pooling="last"),
        None,
        can_be_empty=False,
        config=TWO_STREAMS.replace(query_stream=False),
    ),
}


def objectives_where(wanted: Callable[[Case], bool]):
    """Parametrisation over the objectives that a test applies to."""
    cases = {name: case for name, case in OBJECTIVES.items() if wanted(case)}
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


every_objective = objectives_where(lambda case: True)


pytestmark = pytest.mark.usefixtures("one_thread")


def some_rows(count=16, length=24, seed=0) -> Examples:
    """Pairs of different lengths in which no token occurs twice, so that a gradient tells where it came from."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, count)
    lengths[0] = length
    ids = np.stack([rng.permutation(np.arange(FIRST_ID, BERT_LIKE.size))[:length] for _ in range(count)])
    columns, middle = np.arange(length)[None, :], (lengths // 2)[:, None]
    last = (lengths - 1)[:, None]
    special = (columns == 0) | (columns == middle) | (columns >= last)
    ids = np.where(special, BERT_LIKE.sep, ids)
    ids[:, 0] = BERT_LIKE.cls
    ids[columns > last] = BERT_LIKE.pad
    flags = np.where(special | (rng.random((count, length)) < 0.8), WORD_START, 0).astype(np.uint8)
    flags |= np.where(~special & (ids % 3 == 0), CAPITALISED, 0).astype(np.uint8)
    number = np.arange(count, dtype=np.int64)
    return Examples(
        input_ids=ids.astype(np.int32),
        lengths=lengths.astype(np.int64),
        special_tokens_mask=special,
        token_flags=flags,
        example_ids=number + 100,
        document_ids=number,
        token_type_ids=((columns > middle) & (columns <= last)).astype(np.int32),
        row_labels=rng.integers(0, 2, count),
        arrays={
            "entity_id": np.where(~special & (columns % 3 == 1), 1 + ids % 40, 0).astype(np.int32),
            "unit": np.where(special, 0, np.choose(columns % 5, [1, 2, 2, 0, 0])).astype(np.uint8),
        },
    )


def build(objective: Objective, config=TINY, vocabulary=BERT_LIKE):
    objective.build(config, vocabulary)
    objective.bind_tokenizer(synthetic())
    core = make_core(config)
    initialise(core, config, 0, "core.")
    initialise(objective, config, 0, "heads.x.")
    if isinstance(objective, WindowObjective):
        objective.bind_counts(np.ones(vocabulary.size), "the test's text")
        nn.init.normal_(objective.out_embed.weight, std=0.1)  # a table of zeros gives the core no gradient
    return core, objective


def loss_of(core, objective, rows):
    """Loss term of corrupted rows."""
    batch = collate(rows, {"x": objective})
    targets = Targets(batch.targets["x"], batch.counts["x"])
    return objective(CoreRunner(core, batch.inputs), core.token_embedding, targets)


# --- what holds for every objective ---


@every_objective
def test_gradients_reach_head_and_core(case):
    core, objective = build(case.make(), case.config)
    term = loss_of(core, objective, objective.corrupt(some_rows(), DRAW))
    term.total.backward()
    parameters = [(n, p) for n, p in [*objective.named_parameters(), *core.named_parameters()] if p.requires_grad]
    missing = [n for n, p in parameters if p.grad is None]
    assert all("pooler" in name for name in missing)
    assert all(p.grad.abs().sum() > 0 for n, p in core.named_parameters() if p.grad is not None and p.ndim > 1)
    assert all(p.grad.abs().sum() > 0 for p in objective.parameters())


def test_no_gradient_is_added_in_an_order_that_threads_decide():
    """Backward passes of plain indexing repeat on one thread only; a run's loop may not lean on torch's slower way."""
    for name, case in OBJECTIVES.items():
        core, objective = build(case.make(), case.config)
        total = loss_of(core, objective, objective.corrupt(some_rows(), DRAW)).total
        assert not UNORDERED & backward_steps(total), name


@every_objective
def test_states_that_are_not_read_are_not_computed_and_change_nothing(case):
    """The last layer for some states alone: the same loss and gradients, dropout included, as for all of them."""
    dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "activation_dropout": 0.1}
    core, objective = build(
        case.make(), case.config.replace(**({} if case.config.recurrent or case.config is TABLE else dropout))
    )
    batch = collate(objective.corrupt(some_rows(), DRAW), {"x": objective})
    keys = row_keys(seed=3, step=1, rows=np.arange(16))
    targets = Targets(batch.targets["x"], batch.counts["x"])
    found = {}
    for name, positions in {"some": batch.inputs.output_positions, "all": None}.items():
        core.zero_grad()
        inputs = batch.inputs._replace(dropout_keys=keys, output_positions=positions)
        term = objective(CoreRunner(core, inputs), core.token_embedding, targets)
        term.total.backward()
        found[name] = [term.total.detach(), *(p.grad.clone() for p in core.parameters() if p.grad is not None)]
    torch.testing.assert_close(found["some"], found["all"], rtol=1e-4, atol=1e-5)


@every_objective
def test_total_count_and_rows_agree(case):
    core, objective = build(case.make(), case.config)
    rows = objective.corrupt(some_rows(), DRAW)
    term = loss_of(core, objective, rows)
    assert term.count == objective.targets(rows).count == term.row_count.sum()
    assert term.row_total.sum().item() == pytest.approx(term.total.item(), rel=1e-5)
    assert not term.row_total.requires_grad
    assert term.weight == 1.0
    assert copy.copy(case.make()).weight == 1.0
    for row in (0, 5):
        alone = loss_of(core, objective, take(rows, np.array([row])))
        assert alone.total.item() == pytest.approx(term.row_total[row].item(), rel=1e-4)


@every_objective
def test_overfits_one_batch(case):
    core, objective = build(case.make(), case.config.replace(initializer_range=0.02))
    rows = objective.corrupt(some_rows(8), DRAW)
    parameters = [*core.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=case.rate, weight_decay=0.0)
    for _ in range(case.steps):
        term = loss_of(core, objective, rows)
        optimizer.zero_grad()
        (term.total / term.count).backward()
        optimizer.step()
    # Nothing tells which row's first token follows [CLS], or which row's last one stands before the closing [SEP].
    guess = 8 * np.log(8) * (case.later + 2 * (case.unseen is other_side))
    assert (term.total.item() - guess) / term.count < 0.1


@every_objective
def test_what_must_not_be_seen_changes_nothing(case):
    """Other original tokens under the masks and in the padding: the core reads the same."""
    core, objective = build(case.make(), case.config)
    rows = some_rows()
    corrupted = objective.corrupt(rows, DRAW)
    unseen = ~rows.real
    if case.hidden is not None:
        assert case.hidden(corrupted).any()
        unseen |= case.hidden(corrupted)
    changed = np.where(unseen, (rows.input_ids + 17) % 900 + FIRST_ID, rows.input_ids).astype(np.int32)
    other = objective.corrupt(rows.replace(input_ids=changed), DRAW)
    real = corrupted.real
    assert (other.input_ids[real] == corrupted.input_ids[real]).all()
    same_labels = other.with_targets(**corrupted.targets)
    expected, found = loss_of(core, objective, corrupted), loss_of(core, objective, same_labels)
    assert (expected.row_total == found.row_total).all()


@objectives_where(lambda case: case.by_target)
def test_gradient_is_exactly_zero_where_nothing_may_be_seen(case):
    """For single targets: no gradient with respect to the embeddings of tokens that it must not see."""
    core, objective = build(case.make(), case.config)
    rows = take(some_rows(), np.array([0]))
    corrupted = objective.corrupt(rows, DRAW)
    batch = collate(corrupted, {"x": objective})
    positions = batch.targets["x"].get("positions")
    for number in range(batch.counts["x"]):
        targets = Targets({name: t[number : number + 1] for name, t in batch.targets["x"].items()}, 1)
        core.zero_grad()
        # the tied output matrix is held fixed, so that only the inputs' side has a gradient
        objective(CoreRunner(core, batch.inputs), core.token_embedding.detach(), targets).total.backward()
        gradient = core.token_embedding.grad.abs().sum(dim=1)
        if case.config.decoder is not None:
            read = corrupted.targets["decoder_input_ids"][0]
            seen_ids = set(corrupted.input_ids.reshape(-1).tolist()) | set(read[: number + 1].tolist())
            unseen_ids = set(read[number + 1 :].tolist()) - seen_ids
        else:
            unseen = np.zeros(rows.shape, dtype=bool) if case.hidden is None else case.hidden(corrupted)
            if case.later:
                unseen |= np.arange(rows.shape[1])[None, :] > int(positions[number])
            if case.unseen is not None:
                unseen |= case.unseen(corrupted, number)
            seen_ids = set(corrupted.input_ids[~unseen].tolist())
            unseen_ids = set(rows.input_ids[unseen].tolist()) - seen_ids
        assert unseen_ids or not (case.hidden or case.later or case.unseen) or number > 20
        assert all(gradient[i] == 0 for i in unseen_ids)
        assert all(gradient[i] > 0 for i in seen_ids - {TINY.pad_token_id})


@objectives_where(lambda case: case.later)
def test_later_tokens_do_not_move_causal_states(case):
    core, objective = build(case.make(), case.config)
    rows = some_rows()
    changed = rows.input_ids.copy()
    changed[:, 9:] = (changed[:, 9:] + 31) % 900 + FIRST_ID
    losses = []
    for ids in (rows.input_ids, changed.astype(np.int32)):
        batch = collate(rows.replace(input_ids=ids), {"x": objective})
        output = core(batch.inputs).last_hidden_state
        losses.append(output[:, :9])
    assert torch.equal(*losses)


@every_objective
def test_halves_of_a_batch_are_corrupted_alike(case):
    core, objective = build(case.make(), case.config)
    rows = some_rows(32)
    whole = objective.corrupt(rows, DRAW)
    halves = [objective.corrupt(take(rows, np.arange(a, a + 16)), DRAW) for a in (0, 16)]
    together = Examples.concatenate(halves, BERT_LIKE.pad)
    assert (whole.input_ids == together.input_ids).all()
    for name in whole.targets:
        assert (whole.targets[name] == together.targets[name]).all()
    term, parts = loss_of(core, objective, whole), [loss_of(core, objective, half) for half in halves]
    assert term.count == sum(p.count for p in parts)
    assert term.total.item() == pytest.approx(sum(p.total.item() for p in parts), rel=1e-4)


@every_objective
def test_order_and_padding_change_nothing(case):
    core, objective = build(case.make(), case.config)
    rows = some_rows()
    term = loss_of(core, objective, objective.corrupt(rows, DRAW))
    order = np.random.default_rng(0).permutation(16)
    wide = take(rows, order, width=40)
    other = loss_of(core, objective, objective.corrupt(wide, DRAW))
    assert other.count == term.count
    torch.testing.assert_close(other.row_total, term.row_total[torch.from_numpy(order)], rtol=1e-4, atol=1e-5)


@every_objective
def test_corrupting_is_pure(case):
    _, objective = build(case.make(), case.config)
    rows = some_rows()
    before = copy.deepcopy(rows)
    objective.corrupt(rows, DRAW)
    assert (rows.input_ids == before.input_ids).all()
    assert not rows.targets


@objectives_where(lambda case: case.can_be_empty)
def test_no_targets_give_zeros(case):
    core, objective = build(case.make(), case.config)
    rows = some_rows()
    nothing = rows.replace(
        lengths=np.ones_like(rows.lengths), special_tokens_mask=np.ones_like(rows.special_tokens_mask)
    )
    corrupted = objective.corrupt(nothing, DRAW)
    if getattr(getattr(objective, "select", None), "include_special", False):  # these can choose even [CLS]
        corrupted = corrupted.with_targets(selected=np.zeros_like(corrupted.targets["selected"]))
    term = loss_of(core, objective, corrupted)
    assert term.count == 0
    assert term.total.item() == 0
    assert (term.row_total == 0).all()
    term.total.backward()
    grads = [p.grad for p in [*objective.parameters(), *core.parameters()] if p.grad is not None]
    assert grads
    assert all((g == 0).all() for g in grads)


@every_objective
def test_scores(case):
    """A score is a log-probability; neighbours, order and padding do not change it."""
    core, objective = build(case.make(), case.config)
    if not isinstance(objective, MaskedLM | CausalLM | PermutationLM | BidirectionalLM | SequenceToSequence):
        with pytest.raises(ZooError, match="does not say how it scores"):
            objective.score(core, core.token_embedding, some_rows())
        return
    rows = some_rows(6)
    run_core = CoreRunner(core, None)
    scores = objective.score(run_core, core.token_embedding, rows)
    assert scores.dtype == np.float64
    assert scores.shape == (6,)
    assert (scores < 0).all()
    other = objective.score(run_core, core.token_embedding, take(rows, np.array([4, 1]), width=50))
    np.testing.assert_allclose(other, scores[[4, 1]], rtol=1e-5)


# --- what is particular to one ---


def test_heads_see_gathered_positions_only():
    core, objective = build(MaskedLM(RandomTokens()))
    seen = []
    objective.head.dense.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    rows = objective.corrupt(some_rows(), DRAW)
    term = loss_of(core, objective, rows)
    assert seen == [(int(rows.targets["selected"].sum()), TINY.hidden_size)]
    assert term.count == seen[0][0]


def test_objectives_of_a_task_share_one_run_of_the_core():
    objectives = nn.ModuleDict({"masked": MaskedLM(RandomTokens()), "pair": PairClassification()})
    core = build(objectives["masked"])[0]
    build(objectives["pair"])
    rows = some_rows()
    for objective in objectives.values():
        rows = objective.corrupt(rows, DRAW)
    batch = collate(rows, dict(objectives.items()))
    runs = []
    core.register_forward_hook(lambda *call: runs.append(call))
    run_core = CoreRunner(core, batch.inputs)
    for name, objective in objectives.items():
        assert objective(run_core, core.token_embedding, Targets(batch.targets[name], batch.counts[name])).count > 0
    assert len(runs) == 1
    assert batch.counts == {"masked": int(rows.targets["selected"].sum()), "pair": 16}


def test_static_masks_are_the_same_code():
    _, objective = build(MaskedLM(RandomTokens()))
    rows = some_rows()
    masks = [objective.corrupt(rows, Draw(0, epoch % 10)).targets["selected"].tobytes() for epoch in range(20)]
    assert len(set(masks)) == 10
    assert masks[:10] == masks[10:]


def test_causal_targets_are_the_next_tokens():
    _, objective = build(CausalLM())
    rows = some_rows(3, 12)
    targets = objective.targets(rows)
    flat = rows.input_ids.reshape(-1)
    assert targets.count == (rows.lengths - 1).sum()
    assert (targets.tensors["labels"].numpy() == flat[targets.tensors["positions"].numpy() + 1]).all()
    inputs = objective.inputs(rows, base_inputs(rows))
    assert inputs.attention_pattern.causal
    assert inputs.attention_pattern.lengths is not None


def test_labels_are_the_original_ids():
    _, objective = build(MaskedLM(RandomTokens()))
    rows = some_rows()
    corrupted = objective.corrupt(rows, DRAW)
    targets = objective.targets(corrupted)
    positions = targets.tensors["positions"].numpy()
    assert (targets.tensors["labels"].numpy() == rows.input_ids.reshape(-1)[positions]).all()
    assert (corrupted.input_ids.reshape(-1)[positions] != rows.input_ids.reshape(-1)[positions]).mean() > 0.7
    assert 0.1 < objective.describe(corrupted)["selected"] < 0.2


def test_causal_score_is_the_chain_rule():
    core, objective = build(CausalLM(), TINY, GPT_LIKE)
    texts = [([7, 8, 9, 10], [1, 1, 0, 1]), ([20, 21], [1, 1])]
    for prefix, skipped in (([], 1), ([2], 0)):
        rows = examples_from_tokens(texts, GPT_LIKE, prefix)
        scores = objective.score(CoreRunner(core, None), core.token_embedding, rows)
        for (ids, _), score in zip(texts, scores):
            whole = prefix + ids
            one = examples_from_tokens([(whole, [1] * len(whole))], GPT_LIKE)
            hidden = core(objective.inputs(one, base_inputs(one))).last_hidden_state[0]
            log_p = torch.log_softmax(hidden @ core.token_embedding.T, dim=-1)
            expected = sum(log_p[i - 1, whole[i]].item() for i in range(len(prefix) + skipped, len(whole)))
            assert score == pytest.approx(expected, rel=1e-5)


def test_masked_score_hides_the_rest_of_the_word():
    """PLL-word-l2r by hand: words [7] [8 9 10] [11 12]."""
    core, objective = build(MaskedLM(RandomTokens()))
    ids, flags = [7, 8, 9, 10, 11, 12], [1, 1, 0, 0, 1, 0]
    hidden_at = {1: [1], 2: [2, 3, 4], 3: [3, 4], 4: [4], 5: [5, 6], 6: [6]}
    rows = examples_from_tokens([(ids, flags), ([5, 6], [1, 1])], BERT_LIKE, [BERT_LIKE.cls], [BERT_LIKE.sep])
    expected = 0.0
    for position, hidden in hidden_at.items():
        line = [BERT_LIKE.cls, *ids, BERT_LIKE.sep]
        copy_ids = [BERT_LIKE.mask if i in hidden else t for i, t in enumerate(line)]
        copied = examples_from_tokens([(copy_ids, [1] * 8)], BERT_LIKE)
        state = core(base_inputs(copied)).last_hidden_state[0, position]
        expected += torch.log_softmax(objective.head(state, core.token_embedding), -1)[line[position]].item()
    scores = objective.score(CoreRunner(core, None), core.token_embedding, rows)
    assert scores[0] == pytest.approx(expected, rel=1e-5)


def test_masked_score_does_not_depend_on_the_portions():
    core, objective = build(MaskedLM(RandomTokens()))
    rows = some_rows(5)
    scores = objective.score(CoreRunner(core, None), core.token_embedding, rows)
    model = MaskedModel(CoreRunner(core, None), objective.head, core.token_embedding, BERT_LIKE.mask)
    np.testing.assert_allclose(score_words(model, rows, tokens_at_once=30), scores, rtol=1e-5)


def test_bare_rows_are_scored_like_the_learned_text():
    """After learning one line by heart, that line scores higher than any with a changed token."""
    for make in (CausalLM, lambda: MaskedLM(RandomTokens(rate=0.3))):
        core, objective = build(make(), TINY.replace(initializer_range=0.02))
        line = list(range(10, 22))
        many = examples_from_tokens([(line, [1] * 12)] * 16, BERT_LIKE, [BERT_LIKE.cls], [BERT_LIKE.sep])
        optimizer = torch.optim.AdamW([*core.parameters(), *objective.parameters()], lr=5e-3)
        for step in range(60):
            term = loss_of(core, objective, objective.corrupt(many, Draw(0, step)))
            optimizer.zero_grad()
            (term.total / term.count).backward()
            optimizer.step()
        wrong = [[*line[:i], 99, *line[i + 1 :]] for i in (3, 6)]
        rows = examples_from_tokens(
            [(t, [1] * 12) for t in [line, *wrong]], BERT_LIKE, [BERT_LIKE.cls], [BERT_LIKE.sep]
        )
        scores = objective.score(CoreRunner(core, None), core.token_embedding, rows)
        assert scores[0] > scores[1:].max() + 2


def test_what_is_missing_is_named():
    with pytest.raises(ZooError, match="no mask token"):
        MaskedLM(RandomTokens()).build(TINY, GPT_LIKE)
    with pytest.raises(ZooError, match="no pooler"):
        PairClassification().build(TINY.replace(pooler=False), BERT_LIKE)
    with pytest.raises(ZooError, match="SentencePairs"):
        PairClassification().targets(some_rows().replace(row_labels=None))
    with pytest.raises(ZooError, match="different attention patterns"):
        collate(some_rows(), {"a": CausalLM(), "b": CausalLM()})
    masked = build(MaskedLM(RandomTokens()))[1]
    with pytest.raises(ZooError, match="a task of its own"):
        masked.corrupt(masked.corrupt(some_rows(), DRAW), DRAW)


def test_factorised_embeddings():
    core, objective = build(MaskedLM(RandomTokens()), TINY.replace(embedding_size=16))
    loss_of(core, objective, objective.corrupt(some_rows(), DRAW)).total.backward()
    assert objective.head.dense.weight.shape == (16, 32)


def test_parts_come_from_class_paths():
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--objectives", type=dict[str, Objective])
    entry = {
        "class_path": "pretraining.objectives.MaskedLM",
        "init_args": {
            "select": {"class_path": "pretraining.masking.NGrams", "init_args": {"n": 2, "max_predictions": 20}},
            "replacement": {"class_path": "pretraining.masking.Replace", "init_args": {"per": "word"}},
            "predict": {"class_path": "pretraining.masking.All"},
        },
    }
    bare = {"class_path": "pretraining.objectives.CausalLM"}
    made = parser.instantiate(parser.parse_object({"objectives": {"masked": entry, "next": bare}})).objectives
    assert (made["masked"].select.n, made["masked"].select.rate, made["masked"].replacement.per) == (2, 0.15, "word")
    assert isinstance(made["masked"].predict, All)
    assert isinstance(made["next"], CausalLM)
