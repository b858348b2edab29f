"""Permutation language modelling: spans, orders, what may be seen, scores (specs: XLNet, section 8)."""

import numpy as np
import pytest
import torch
from stores import BERT_LIKE, FIRST_ID, full_rows, synthetic_store, take
from training import arguments, log_lines

from ablation.config import arms, load_ablation
from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import examples_from_tokens
from pretraining.layouts.segment_pairs import SegmentPairs
from pretraining.masking.context_spans import ContextSpans, draw_permutation_ranks, split_parts
from pretraining.masking.tokens import RandomTokens
from pretraining.objectives import MaskedLM, PairClassification, PermutationLM
from pretraining.objectives.base import Targets, base_inputs, collate
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.pretrain import pretrain
from zoo.attention.masks import attended_keys
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.init import initialise
from zoo.core.transformer import Transformer
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, QueryStream

DRAW = Draw(seed=4, epoch=0)
CONFIG = CoreConfig(
    vocab_size=BERT_LIKE.size,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=64,
    embedding_norm=False,
    position_type="relative",
    untie_r=True,
    relative_segments=True,
    query_stream=True,
    mem_len=30,
    reuse_len=20,
    type_vocab_size=0,
    attention_bias=False,
    pooler=False,
    initializer_range=0.1,
)


pytestmark = pytest.mark.usefixtures("one_thread")


def plain_rows(count, length, word_starts=1.0, reuse_length=None, reversed_share=0.0, seed=0) -> Examples:
    """Rows of text alone, without template tokens."""
    rng = np.random.default_rng(seed)
    rows = full_rows(count, length, seed, word_starts)
    return rows.replace(
        input_ids=rng.integers(FIRST_ID, BERT_LIKE.size, (count, length)).astype(np.int32),
        special_tokens_mask=np.zeros((count, length), dtype=bool),
        token_flags=np.where(rng.random((count, length)) < word_starts, WORD_START, 0).astype(np.uint8),
        reuse_length=None if reuse_length is None else np.full(count, reuse_length),
        reversed=rng.random(count) < reversed_share if reversed_share else None,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Rows of the published shape: 256 reused tokens, A sep B sep cls, half of them backwards."""
    store = synthetic_store(tmp_path_factory.mktemp("published"), count=400, sentences=(3, 40), word_start_share=0.75)
    layout = SegmentPairs()
    layout.parallel_rows = 8
    plan = layout.plan(store, np.arange(400), 512, BERT_LIKE, DRAW)
    return layout.rows(store, plan, np.arange(160), 512, BERT_LIKE)


# ---- which tokens -----------------------------------------------------------------------------------------


def naive_spans(starts, goal, example, chooser):
    """``_sample_mask`` piece by piece, its draws given; without the filling."""
    shares = np.cumsum(1.0 / np.arange(1, chooser.max_gram + 1))
    size, chosen, cursor, step = len(starts), np.zeros(len(starts), dtype=bool), 0, 0
    spans = []
    while cursor < size and chosen.sum() < goal:
        number = (np.array([example]), np.array([step]))
        u = int(DRAW.at(*number, "spans.length")[0]) / 2**32
        n = min(1 + int((u >= shares[:-1] / shares[-1]).sum()), goal - int(chosen.sum()))
        context = n * chooser.alpha // chooser.beta
        left = (int(DRAW.at(*number, "spans.context")[0]) * context) >> 32
        start = cursor + left
        while start < size and not starts[start]:
            start += 1
        if start >= size or start + n >= size:
            break
        chosen[start : start + n] = True
        spans.append((start, n))
        cursor, step = start + n + context - left, step + 1
    return chosen, spans


@pytest.mark.parametrize("chooser", [ContextSpans(), ContextSpans(num_predict=20, max_gram=3, alpha=5, beta=2)])
def test_spans_follow_the_procedure_piece_by_piece(chooser, published):
    rows = take(published, np.arange(40))
    rows = rows.replace(reuse_length=published.reuse_length[:40], reversed=published.reversed[:40])
    parts = split_parts(rows)
    selected = chooser(rows, DRAW, BERT_LIKE)
    goals = chooser.goals(rows, parts)
    for p in range(80):
        own = slice(parts.start[p], parts.start[p] + parts.size[p])
        way = -1 if rows.reversed[parts.row[p]] else 1
        starts = ((rows.token_flags[parts.row[p], own] & WORD_START) != 0)[::way]
        expected, spans = naive_spans(starts, goals[p], parts.example_ids[p], chooser)
        found = selected[parts.row[p], own][::way]
        assert found.sum() == goals[p]
        assert (found >= expected).all(), "what is filled up comes on top"
        assert all(n <= chooser.max_gram and starts[start] for start, n in spans)


def test_85_of_512_are_selected_and_template_tokens_are_not_predicted(published):
    objective = PermutationLM()
    objective.build(CONFIG, BERT_LIKE)
    rows = objective.corrupt(published, DRAW)
    selected = rows.targets["selected"]
    assert (selected.sum(1) == 85).all()
    assert (selected[:, :256].sum(1) == 43).all()
    dropped = (selected & rows.special_tokens_mask).sum(1)
    assert dropped.max() > 0
    batch = collate(rows, {"x": objective})
    assert batch.counts["x"] == (85 - dropped).sum()
    assert batch.inputs.query.positions.shape == (160, (85 - dropped).max())
    labels = batch.targets["x"]["labels"].numpy()
    assert (labels == rows.input_ids[selected & ~rows.special_tokens_mask]).all()
    assert (rows.input_ids == published.input_ids).all(), "the text is not changed"
    described = objective.describe(rows)
    assert described["selected"] == pytest.approx(85 / 512)


@pytest.mark.parametrize(("word_starts", "mean", "sd"), [(1.0, 36.4, 1.3), (0.75, 35.6, 1.5)])
def test_pieces_out_of_spans_before_filling(word_starts, mean, sd):
    """Measured on the original's procedure: 256 pieces, goal 43, 3000 draws."""
    rows = plain_rows(3000, 256, word_starts)
    parts, chooser = split_parts(rows), ContextSpans(num_predict=43)
    starts = (rows.token_flags & WORD_START) != 0
    counts = chooser.spans(starts, parts, chooser.goals(rows, parts), DRAW).sum(1)
    assert counts.mean() == pytest.approx(mean, abs=0.15)
    assert counts.std() == pytest.approx(sd, abs=0.3)
    assert counts.max() < 43
    free = chooser.spans(starts, parts, np.full(3000, 10_000), DRAW)
    assert free.mean() == pytest.approx(0.142 if word_starts == 1 else 0.139, abs=0.002)


def test_lengths_of_spans_are_drawn_by_one_over_n():
    """With word starts so rare that spans cannot touch, runs of chosen pieces are the spans."""
    rows = plain_rows(4000, 240, 0.0)
    starts = np.zeros((4000, 240), dtype=bool)
    starts[:, ::40] = True
    chosen = ContextSpans().spans(starts, split_parts(rows), np.full(4000, 10_000), DRAW)
    # A word start is missed where the context before it leads past it; what is chosen there begins at the next.
    heads = chosen[:, ::40]
    lengths = sum(chosen[:, k::40][heads].astype(int) for k in range(5))
    shares = np.bincount(lengths, minlength=6)[1:] / len(lengths)
    expected = np.array([0.43796, 0.21898, 0.14599, 0.10949, 0.08759])
    assert len(lengths) > 15_000
    assert np.abs(shares - expected).max() < 4 * 0.5 / np.sqrt(len(lengths))
    assert not chosen[:, 5::40].any()


def test_choice_does_not_depend_on_batch_or_padding():
    rows = plain_rows(12, 60, 0.7, reuse_length=30, reversed_share=0.5)
    rows = rows.replace(
        lengths=np.arange(49, 61), special_tokens_mask=np.arange(60)[None, :] >= np.arange(49, 61)[:, None]
    )
    chooser = ContextSpans()
    whole = chooser(rows, DRAW, BERT_LIKE)
    assert not whole[~rows.real].any()
    one = take(rows, np.array([3]), width=80).replace(reuse_length=rows.reuse_length[[3]], reversed=rows.reversed[[3]])
    assert (chooser(one, DRAW, BERT_LIKE)[0, :60] == whole[3]).all()
    assert (whole != chooser(rows, Draw(4, 1), BERT_LIKE)).any(axis=1).all()
    ranks = draw_permutation_ranks(rows, whole, DRAW)
    assert (draw_permutation_ranks(one, chooser(one, DRAW, BERT_LIKE), DRAW)[0, :60] == ranks[3]).all()


def test_backward_rows_are_chosen_from_their_own_beginning():
    rows = plain_rows(6, 50, 0.6)
    mirrored = rows.replace(token_flags=rows.token_flags[:, ::-1].copy(), reversed=np.ones(6, dtype=bool))
    chooser = ContextSpans()
    assert (chooser(mirrored, DRAW, BERT_LIKE)[:, ::-1] == chooser(rows, DRAW, BERT_LIKE)).all()


# ---- order and visibility ---------------------------------------------------------------------------------


def table_of(rows, ranks, second):
    """(B, L, L) what attends to what, as the core computes it."""
    visible = base_inputs(rows).attention_pattern._replace(permutation_ranks=torch.from_numpy(ranks))
    positions = torch.arange(rows.shape[1]).expand(rows.shape) if second else torch.arange(rows.shape[1])[None]
    return attended_keys(visible, positions, rows.shape[1], 0, second).expand(-1, rows.shape[1], -1).numpy()


@pytest.mark.parametrize("perm_size", [None, 256, 64, 60])
def test_rules_of_visibility(published, perm_size):
    """The table of section 3.4 cell by cell, and its counts."""
    rows = take(published, np.arange(6))
    rows = rows.replace(
        reuse_length=published.reuse_length[:6],
        reversed=published.reversed[:6],
        special_tokens_mask=published.special_tokens_mask[:6],
    )
    selected = ContextSpans()(rows, DRAW, BERT_LIKE)
    ranks = draw_permutation_ranks(rows, selected, DRAW, perm_size)
    first, second = table_of(rows, ranks, False), table_of(rows, ranks, True)
    ordered, target = selected | rows.special_tokens_mask, selected & ~rows.special_tokens_mask
    plain = ~ordered
    diagonal = np.eye(512, dtype=bool)[None]
    same = (np.arange(512) < 256)[:, None] == (np.arange(512) < 256)[None, :]
    earlier = same[None] & ordered[:, :, None] & ordered[:, None, :] & (ranks[:, None, :] < ranks[:, :, None])
    in_half = same[None] & plain[:, None, :] | earlier
    from_before = np.zeros((512, 512), dtype=bool)
    from_before[256:, :256] = True
    assert (second[target] == (in_half | from_before)[target]).all()
    assert (first == (in_half | (ordered[:, :, None] & diagonal) | from_before)).all()
    assert not first[:, :256, 256:].any()
    assert first[:, 256:, :256].all(), "256 x 256"
    for row in range(6):
        for half in (slice(0, 256), slice(256, 512)):
            own, count = target[row, half], target[row, half].sum()
            assert second[row, half, half][np.ix_(own, own)].sum() == count * (count - 1) // 2
            assert not first[row, half, half][np.ix_(plain[row, half], ordered[row, half])].any()


def test_permutation_blocks():
    rows = plain_rows(20, 512, reuse_length=256)
    selected = np.ones((20, 512), dtype=bool)
    ranks = draw_permutation_ranks(rows, selected, DRAW, perm_size=64)
    for half in (0, 256):
        blocks = ranks[:, half : half + 256].reshape(20, 4, 64) - 64 * np.arange(4)[None, :, None]
        assert (blocks == blocks[:, :1]).all()
        assert (np.sort(blocks[:, 0], axis=1) - blocks[:, 0].min(1, keepdims=True) == np.arange(64)).all()
    assert (ranks[:, :256] != ranks[:, 256:] - 257).any(), "each half has an order of its own"
    assert len({tuple(row) for row in ranks}) == 20
    whole = draw_permutation_ranks(rows, selected, DRAW)
    assert (np.sort(whole, axis=1) == np.append(np.arange(1, 257), np.arange(258, 514))).all()


def test_without_a_reused_part_a_row_is_one_order():
    rows = plain_rows(8, 40)
    ranks = draw_permutation_ranks(rows, np.arange(40)[None, :] % 2 == np.zeros((8, 1)), DRAW)
    assert (ranks[:, 1::2] == 0).all()
    assert all(len(set(row)) == 20 and min(row) >= 1 and max(row) <= 40 for row in ranks[:, ::2].tolist())


# ---- no leak ----------------------------------------------------------------------------------------------


def build(objective=None, config=CONFIG):
    objective = objective or PermutationLM()
    objective.build(config, BERT_LIKE)
    core = Transformer(config)
    initialise(core, config, 0, "core.")
    initialise(objective, config, 0, "heads.x.")
    return core, objective


def distinct_rows(count=2, length=40, reuse_length=20):
    """Template tokens at the end of the second part, no token twice."""
    rng = np.random.default_rng(1)
    rows = plain_rows(count, length, 0.8, reuse_length)
    ids = np.stack([rng.permutation(np.arange(FIRST_ID, BERT_LIKE.size))[:length] for _ in range(count)])
    special = np.zeros((count, length), dtype=bool)
    special[:, [length - 8, length - 2, length - 1]] = True
    return rows.replace(input_ids=ids.astype(np.int32), special_tokens_mask=special, reversed=np.arange(count) % 2 == 1)


def gradient_of(core, batch, pick):
    """(B, L) absolute gradient of a picked state's largest entries with respect to each token's embedding."""
    core.zero_grad()
    pick(core(batch.inputs)).backward()
    return core.token_embedding.grad.abs().sum(1)[batch.inputs.input_ids]


def test_logits_of_a_target_depend_on_nothing_that_comes_later():
    core, objective = build()
    rows = objective.corrupt(distinct_rows(1), DRAW)
    batch = collate(rows, {"x": objective})
    ranks, selected = rows.targets["ranks"][0], rows.targets["selected"][0]
    embedding = core.token_embedding.detach()
    for slot, position in enumerate(batch.inputs.query.positions[0].tolist()):

        def logits(output, slot=slot):
            return objective.head(output.query_states[0, slot], embedding).square().sum()

        found = gradient_of(core, batch, logits)[0].numpy()
        seen = ranks < ranks[position]
        assert (found[~seen] == 0).all()
        assert (found[seen] > 0).all()
        assert not seen[position]
        assert seen[~selected & ~rows.special_tokens_mask[0] & (np.arange(40) < 20)].all()


def test_plain_states_know_no_target():
    core, objective = build()
    rows = objective.corrupt(distinct_rows(1), DRAW)
    batch = collate(rows, {"x": objective})
    batch = batch._replace(
        inputs=batch.inputs._replace(output_positions=None)
    )  # states that the objective does not read
    ordered = rows.targets["selected"][0] | rows.special_tokens_mask[0]
    for position in np.flatnonzero(~ordered)[::5]:
        found = gradient_of(core, batch, lambda output, p=position: output.last_hidden_state[0, p].square().sum())[0]
        hidden = ordered.copy()
        if position >= 20:
            hidden[:20] = False
        else:
            hidden[20:] = True
        assert ((found.numpy() == 0) == hidden).all()


def test_the_first_part_and_the_memory_know_nothing_of_the_second():
    core, objective = build()
    rows = objective.corrupt(distinct_rows(), DRAW)
    ids = rows.input_ids.copy()
    ids[:, 20:] = (ids[:, 20:] + 31) % 900 + FIRST_ID
    both = [collate(r, {"x": objective}).inputs for r in (rows, rows.replace(input_ids=ids))]
    outputs = [core(inputs._replace(output_positions=None)) for inputs in both]
    assert torch.equal(*(output.last_hidden_state[:, :20] for output in outputs))
    assert not torch.equal(*(output.last_hidden_state[:, 20:] for output in outputs))
    for name, memory in outputs[0].state.items():
        assert memory.shape[1] == 20
        assert torch.equal(memory, outputs[1].state[name])


def test_masked_tokens_of_the_next_row_are_not_remembered():
    """Masked LM on the same rows: the part that is shown again is not seen by what is remembered."""
    config = CONFIG.replace(query_stream=False)
    objective = MaskedLM(RandomTokens())
    core, _ = build(objective, config)
    rows = objective.corrupt(distinct_rows(), DRAW)
    ids = rows.input_ids.copy()
    ids[:, 20:] = (ids[:, 20:] + 31) % 900 + FIRST_ID
    states = [core(collate(r, {"x": objective}).inputs).state for r in (rows, rows.replace(input_ids=ids))]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# ---- the objective ----------------------------------------------------------------------------------------


def run(core, objective, rows):
    batch = collate(rows, {"x": objective})
    output = core(batch.inputs)
    return objective(lambda: output, core.token_embedding, Targets(batch.targets["x"], batch.counts["x"]))


def test_loss_is_the_cross_entropy_at_the_targets():
    core, objective = build()
    rows = objective.corrupt(distinct_rows(3), DRAW)
    term = run(core, objective, rows)
    batch = collate(rows, {"x": objective})
    states = core(batch.inputs).query_states
    expected = 0.0
    for row in range(3):
        places = np.flatnonzero(rows.targets["selected"][row] & ~rows.special_tokens_mask[row])
        assert batch.inputs.query.positions[row, : len(places)].tolist() == places.tolist()
        logits = objective.head(states[row, : len(places)], core.token_embedding)
        labels = torch.from_numpy(rows.input_ids[row, places].astype(np.int64))
        expected += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    assert term.total.item() == pytest.approx(expected, rel=1e-5)


def test_untrained_loss_is_that_of_guessing(published):
    config = CONFIG.replace(initializer_range=0.02)
    core, objective = build(config=config)
    rows = take(published, np.arange(2)).replace(
        reuse_length=published.reuse_length[:2], reversed=published.reversed[:2]
    )
    term = run(core, objective, objective.corrupt(rows, DRAW))
    assert term.total.item() / term.count == pytest.approx(np.log(1000), abs=0.05)


def test_score_is_the_mean_over_orders_by_hand():
    """Left to right by running every prefix; the other orders by their visibility alone."""
    core, objective = build(PermutationLM(score_orders=0))
    texts = [([7, 8, 9, 10], [1, 1, 0, 1]), ([20, 21], [1, 1])]
    suffix = [BERT_LIKE.sep, BERT_LIKE.cls]
    rows = examples_from_tokens(texts, BERT_LIKE, (), suffix)
    scores = objective.score(core, core.token_embedding, rows)
    ids = torch.tensor([[7, 8, 9, 10, *suffix]])
    expected = 0.0
    dense = torch.ones(1, 6, 6, dtype=torch.bool).tril()
    dense[:, :, 4:] = True  # template tokens are seen by all, and see each other only
    dense[:, 4:, :4] = False
    for i in range(4):
        sees = torch.tensor([j < i or j > 3 for j in range(6)])[None, None]
        query = QueryStream(torch.tensor([[i]]), AttentionPattern(dense=sees))
        state = core(CoreInputs(ids, AttentionPattern(dense=dense), query=query)).query_states[0, 0]
        expected += torch.log_softmax(objective.head(state, core.token_embedding), -1)[ids[0, i]].item()
    assert scores[0] == pytest.approx(expected, rel=1e-5)
    several = PermutationLM(score_orders=3)
    several.build(CONFIG, BERT_LIKE)
    several.load_state_dict(objective.state_dict())
    mean = several.score(core, core.token_embedding, rows)
    alone = several.score(core, core.token_embedding, take(rows, np.array([1]), width=9))
    assert mean[1] == pytest.approx(alone[0], rel=1e-5)
    assert mean[0] != pytest.approx(scores[0], rel=1e-6)
    swapped = examples_from_tokens([texts[1], texts[0]], BERT_LIKE, (), suffix)
    np.testing.assert_allclose(several.score(core, core.token_embedding, swapped), mean[::-1], rtol=1e-5)


def test_a_learned_line_scores_higher_than_a_changed_one():
    config = CONFIG.replace(initializer_range=0.02, mem_len=None)
    core, objective = build(config=config)
    line, suffix = list(range(10, 22)), [BERT_LIKE.sep, BERT_LIKE.cls]
    many = examples_from_tokens([(line, [1] * 12)] * 16, BERT_LIKE, (), suffix)
    objective.select = ContextSpans(rate=0.5, alpha=1)
    optimizer = torch.optim.AdamW([*core.parameters(), *objective.parameters()], lr=5e-3)
    for step in range(60):
        term = run(core, objective, objective.corrupt(many, Draw(0, step)))
        optimizer.zero_grad()
        (term.total / term.count).backward()
        optimizer.step()
    wrong = [[*line[:i], 99, *line[i + 1 :]] for i in (3, 6)]
    rows = examples_from_tokens([(t, [1] * 12) for t in [line, *wrong]], BERT_LIKE, (), suffix)
    scores = objective.score(core, core.token_embedding, rows)
    assert scores[0] > scores[1:].max() + 2


def test_pair_task_on_the_last_token(published):
    objectives = {"x": PermutationLM(), "pair": PairClassification(dense="tanh", pooling="last")}
    core, _ = build(objectives["x"])
    objectives["pair"].build(CONFIG, BERT_LIKE)
    rows = objectives["x"].corrupt(take(published, np.arange(4)).replace(reuse_length=published.reuse_length[:4]), DRAW)
    batch = collate(rows, objectives)
    assert batch.targets["pair"]["place"].tolist() == [511] * 4
    output = core(batch.inputs)
    term = objectives["pair"](lambda: output, core.token_embedding, Targets(batch.targets["pair"], 4))
    logits = objectives["pair"].head(output.last_hidden_state[:, -1])
    expected = torch.nn.functional.cross_entropy(logits, batch.targets["pair"]["labels"], reduction="sum")
    assert term.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_single_tokens_instead_of_spans():
    core, objective = build(PermutationLM(select=RandomTokens(rate=0.2)))
    rows = objective.corrupt(distinct_rows(), DRAW)
    assert (rows.targets["selected"].sum(1) == 8).all()
    assert not (rows.targets["selected"] & rows.special_tokens_mask).any()
    assert run(core, objective, rows).count == 16


def test_what_does_not_work_is_refused():
    with pytest.raises(ZooError, match="query_stream"):
        PermutationLM().build(CONFIG.replace(query_stream=False), BERT_LIKE)
    with pytest.raises(ZooError, match="a task of its own"):
        objective = build()[1]
        objective.corrupt(objective.corrupt(distinct_rows(), DRAW), DRAW)
    for values in ({"num_predict": 0}, {"rate": 1.5}, {"alpha": 0}, {"max_gram": 0}):
        with pytest.raises(ZooError, match="ContextSpans"):
            ContextSpans(**values)
    for values in ({"perm_size": 0}, {"score_orders": -1}):
        with pytest.raises(ZooError, match="PermutationLM"):
            PermutationLM(**values)


def test_initial_start_vector_is_drawn():
    start = build_core(CONFIG, seed=1).relative.start
    assert start.shape == (1, 1, 32)
    assert 0.05 < start.std() < 0.2


# ---- as runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", load_ablation(["--config", "permutation"]).changes)
def test_every_arm_of_the_ablation_makes_steps(arm, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "arms"
    folder.mkdir(exist_ok=True)
    values = next(a.values for a in arms(load_ablation(["--config", "permutation"])) if a.name == arm)
    facts = {"model.num_attention_heads": 2, "model.reuse_len": 24, "train.batch_size": 4}
    argv = arguments(folder, "xlnet", 3, **facts)
    settings = load_pretrain_config(argv[2:], {k: v for k, v in values.items() if k not in ("train", "data", "output")})
    run = pretrain(settings, show=False)
    terms = log_lines(run)[0]["terms"]
    assert 5 < next(iter(terms.values())) < 8
    assert set(terms) == set(settings.value.objectives)


@pytest.mark.parametrize(("size", "reuse"), [(64, None), (None, 60), (100, None), (30, 60)])
def test_blocks_that_divide_the_parts_of_a_row(size, reuse):
    length = 128 if reuse is None else 120
    PermutationLM(perm_size=size).check_layout(SegmentPairs(reuse_len=reuse), length)


def test_blocks_that_do_not_divide_are_refused_before_text_is_read(tmp_path):
    facts = {"model.reuse_len": 24, "objectives.permutation_lm.init_args.perm_size": 10}
    argv = arguments(tmp_path, "xlnet", 3, **facts, **{"data.corpus.files": tmp_path / "none.txt"})
    with pytest.raises(
        ZooError, match=r"perm_size = 10 positions do not divide a row's 24 and 24 tokens.*\(24 at most\)"
    ):
        pretrain(load_pretrain_config(argv), show=False)
