"""A decoder's text from an encoder's: loss, what the decoder reads, what cannot work (specs: Transformer, 3, 8)."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from stores import BERT_LIKE, GPT_LIKE, full_rows, take

from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts import FullSentences, TranslationPairs
from pretraining.layouts.examples import Examples
from pretraining.layouts.translation_pairs import decoder_targets
from pretraining.masking import SentencePermutation, SpanCorruption, TextInfilling, TokenMasking
from pretraining.objectives import SequenceToSequence
from pretraining.objectives.base import CoreRunner, Targets, collate
from pretraining.objectives.sequence_to_sequence import smoothing_floor
from zoo.config import CoreConfig
from zoo.config_parts import DecoderConfig
from zoo.core.build import make_core
from zoo.core.init import initialise
from zoo.errors import ZooError
from zoo.heads.cross_entropy import LogitFacts, linear_cross_entropy
from zoo.inputs import CoreInputs, DecoderInputs

TINY = CoreConfig(
    vocab_size=BERT_LIKE.size,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    position_type="sinusoidal",
    embedding_norm=False,
    type_vocab_size=0,
    pooler=False,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.1,
    decoder=DecoderConfig(),
)


def pairs(count=6, length=12, seed=0):
    """Rows whose targets are their own tokens from right to left."""
    rows = full_rows(count, length, seed)
    back = rows.input_ids.copy()
    back[:, 1:-1] = back[:, -2:0:-1]
    return rows.with_targets(**decoder_targets(rows.replace(input_ids=back), BERT_LIKE.sep, BERT_LIKE.pad))


def built(objective, config=TINY):
    objective.build(config, BERT_LIKE)
    core = make_core(config)
    initialise(core, config, 0, "core.")
    initialise(objective, config, 0, "heads.x.")
    return core, objective


def term_of(core, objective, rows):
    batch = collate(rows, {"x": objective})
    return objective(
        CoreRunner(core, batch.inputs), core.token_embedding, Targets(batch.targets["x"], batch.counts["x"])
    )


def trained(core, objective, rows, steps=150, rate=5e-3):
    optimizer = torch.optim.Adam([*core.parameters(), *objective.parameters()], lr=rate)
    for _ in range(steps):
        term = term_of(core, objective, rows)
        optimizer.zero_grad()
        (term.total / term.count).backward()
        optimizer.step()
    return float(term.total.detach()) / term.count


def test_smoothed_loss_of_a_perfect_match_is_the_floor_and_of_uniform_logits_ln_v():
    """specs: Transformer, 8.5."""
    entries, smoothing = 40, 0.1
    floor, label, one = smoothing_floor(smoothing, entries), torch.tensor([7]), torch.ones(1, 1)
    shares = torch.full((1, entries), smoothing / (entries - 1))
    shares[0, 7] = 1 - smoothing
    matched = linear_cross_entropy(one, shares.log().t(), None, label, facts=LogitFacts(smoothing))
    assert float(matched.total) == pytest.approx(floor, abs=1e-6)
    uniform = linear_cross_entropy(one, torch.zeros(entries, 1), None, label, facts=LogitFacts(smoothing))
    assert float(uniform.total) == pytest.approx(math.log(entries))
    assert smoothing_floor(0.0, entries) == 0


def test_smoothing_is_of_training_alone_and_its_least_loss_is_nothing():
    rows = pairs()
    core, plain = built(SequenceToSequence())
    _, smooth = built(SequenceToSequence(label_smoothing=0.1))
    assert term_of(core, smooth, rows).total != term_of(core, plain, rows).total
    smooth.eval()
    assert torch.equal(term_of(core, smooth, rows).total, term_of(core, plain, rows).total)
    smooth.train()
    assert 0 <= trained(core, smooth, rows, steps=80) < 0.2


def test_copying_ten_symbols_is_learned():
    """specs: Transformer, 8.9."""
    rows = full_rows(8, 12)
    rows = rows.with_targets(**decoder_targets(rows, BERT_LIKE.sep, BERT_LIKE.pad))
    core, objective = built(SequenceToSequence())
    assert trained(core, objective, rows, steps=80) < 0.1
    scores = objective.score(CoreRunner(core, None), core.token_embedding, rows)
    assert (scores > -2).all()


def test_the_decoder_reads_the_target_behind_a_start_token():
    rows = full_rows(5, 20)
    for start, token in (("sep", BERT_LIKE.sep), ("pad", BERT_LIKE.pad), ("cls", BERT_LIKE.cls)):
        _, objective = built(SequenceToSequence([TokenMasking()], start=start))
        noised = objective.corrupt(rows, Draw(0, 0))
        assert (noised.targets["labels"] == rows.input_ids).all()
        assert (noised.targets["decoder_input_ids"][:, 0] == token).all()
        assert (noised.targets["decoder_input_ids"][:, 1:] == rows.input_ids[:, :-1]).all()
        assert (noised.input_ids == BERT_LIKE.mask).any()


def test_spans_are_read_behind_a_start_token_too():
    noise = SpanCorruption()
    noise.sentinels = np.arange(999, 950, -1, dtype=np.int32)
    _, objective = built(SequenceToSequence([noise], start="pad"))
    targets = objective.corrupt(full_rows(4, 30), Draw(0, 0)).targets
    assert (targets["decoder_input_ids"][:, 0] == BERT_LIKE.pad).all()
    assert (targets["decoder_input_ids"][:, 1:] == targets["labels"][:, :-1]).all()


def test_padding_of_source_and_target_changes_nothing():
    """specs: Transformer, 8.3."""
    core, objective = built(SequenceToSequence())
    short, long = pairs(3, 9), pairs(3, 30, seed=1)
    alone = term_of(core, objective, short)
    together = term_of(core, objective, Examples.concatenate([short, long], BERT_LIKE.pad))
    torch.testing.assert_close(together.row_total[:3], alone.row_total, rtol=1e-5, atol=1e-5)
    assert together.count == alone.count + 3 * 30


def test_without_a_target_the_loss_is_zero():
    core, objective = built(SequenceToSequence(label_smoothing=0.1))
    rows = pairs()
    term = term_of(core, objective, rows.with_targets(labels=np.full_like(rows.targets["labels"], -100)))
    assert term.count == 0
    assert term.total.item() == 0
    term.total.backward()
    assert all((p.grad == 0).all() for p in core.parameters() if p.grad is not None)


def test_scores_are_log_probabilities_of_the_target_given_its_source():
    core, objective = built(SequenceToSequence(bias=True))
    rows = pairs()
    objective.eval()
    scores = objective.score(CoreRunner(core, None), core.token_embedding, rows)
    np.testing.assert_allclose(scores, -term_of(core, objective, rows).row_total.detach().numpy(), rtol=1e-5)
    part = objective.score(CoreRunner(core, None), core.token_embedding, take(rows, np.array([4, 1])))
    np.testing.assert_allclose(part, scores[[4, 1]], rtol=1e-5)
    core, objective = built(SequenceToSequence([SentencePermutation()]))
    with pytest.raises(ZooError, match="given its source"):
        objective.score(CoreRunner(core, None), core.token_embedding, full_rows(2, 9))


@pytest.mark.parametrize("kind", ["mask", "sentinel"])
def test_a_text_by_itself_is_scored_word_by_word(kind):
    """As by hand: a copy for each word, the word hidden from the encoder, its tokens scored in the target."""
    spans = SpanCorruption()
    spans.sentinels = np.arange(999, 990, -1, dtype=np.int32)
    core, objective = built(SequenceToSequence([spans if kind == "sentinel" else TextInfilling()]))
    objective.eval()
    rows = full_rows(2, 9, word_start_share=0.6)
    expected = np.zeros(2)
    for number in range(2):
        ids, starts = rows.input_ids[number].tolist(), np.flatnonzero(rows.token_flags[number] & WORD_START).tolist()
        starts = sorted({*starts, 1})  # the first token after [CLS] begins a word in any case
        for start, end in itertools.pairwise(starts[1:]):
            word = ids[start:end]
            source = [*ids[:start], 999 if kind == "sentinel" else BERT_LIKE.mask, *ids[end:]]
            target = [999, *word, BERT_LIKE.sep] if kind == "sentinel" else ids
            first = 1 if kind == "sentinel" else start
            given = CoreInputs(
                torch.tensor([source]), decoder=DecoderInputs(torch.tensor([[BERT_LIKE.sep, *target[:-1]]]))
            )
            logits = objective.head(core(given).last_hidden_state[0], core.token_embedding).log_softmax(-1)
            places = range(first, first + len(word))
            expected[number] += sum(float(logits[place, target[place]].detach()) for place in places)
    scores = objective.score(CoreRunner(core, None), core.token_embedding, rows)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_what_cannot_work_is_explained():
    with pytest.raises(ZooError, match=r"no decoder.*model\.decoder"):
        SequenceToSequence().check_model(TINY.replace(decoder=None))
    with pytest.raises(ZooError, match=r"must lie in \[0, 1\)"):
        SequenceToSequence(label_smoothing=1.0)
    with pytest.raises(ZooError, match="no mask token"):
        SequenceToSequence([TextInfilling()]).build(TINY, dataclasses.replace(BERT_LIKE, mask=None))
    with pytest.raises(ZooError, match="no token to start with"):
        SequenceToSequence([TextInfilling()]).build(TINY, GPT_LIKE)
    with pytest.raises(ZooError, match="targets of their own"):
        SequenceToSequence([TextInfilling()]).check_layout(TranslationPairs(), 64)
    SequenceToSequence([TextInfilling()]).check_layout(FullSentences(), 64)
    objective = built(SequenceToSequence([TextInfilling()]))[1]
    with pytest.raises(ZooError, match="two objectives"):
        objective.corrupt(pairs(), Draw(0, 0))
