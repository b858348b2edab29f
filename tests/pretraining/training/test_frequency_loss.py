"""The loss of knowing token frequencies, and what stands at the target's own position."""

from types import SimpleNamespace

import numpy as np
import pytest
from stores import full_rows

from pretraining.keyed_random import Draw
from pretraining.masking import RandomTokens, Replace, SimilarWords
from pretraining.masking.predictions import All
from pretraining.objectives import CausalLM, MaskedLM
from pretraining.training.assemble import frequency_loss
from pretraining.training.stores import TokenStores
from zoo.vocabulary import Vocabulary

SIZE = 40
SHARES = 1.0 / np.arange(1, SIZE + 1)
SHARES /= SHARES.sum()
VOCABULARY = Vocabulary(size=SIZE + 1, mask=SIZE)  # the mask token never occurs in text
STORE = SimpleNamespace(counts=np.append(SHARES * 1e6, 0.0))
ENTROPY = float(-(SHARES * np.log(SHARES)).sum())


def measured(replacement: Replace) -> float:
    """Entropy of targets given what the core reads there, from a count of a million of drawn pairs."""
    rows = full_rows(4000, 256)
    drawn = np.random.default_rng(0).choice(SIZE, size=rows.shape, p=SHARES).astype(np.int32)
    rows = rows.replace(input_ids=drawn, special_tokens_mask=np.zeros(rows.shape, dtype=bool))
    selected = RandomTokens(rate=1.0)(rows, Draw(0, 0), VOCABULARY)
    read = replacement(rows, selected, Draw(0, 0), VOCABULARY)
    pairs = np.zeros((SIZE + 1, SIZE))
    np.add.at(pairs, (read[selected], drawn[selected]), 1)
    chance = pairs / pairs.sum()
    given = chance / np.maximum(chance.sum(axis=1, keepdims=True), 1e-300)
    return float(-(chance * np.log(np.where(given > 0, given, 1.0))).sum())


@pytest.mark.parametrize("mix", [(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.0, 0.3, 0.7), (0.6, 0.0, 0.4), (0.0, 0.0, 1.0)])
def test_it_is_what_counting_finds(mix):
    mask, random, keep = mix
    replacement = Replace(mask=mask, random=random, keep=keep)
    assert frequency_loss(STORE, MaskedLM(RandomTokens(), replacement).shown) == pytest.approx(
        measured(replacement), abs=0.005
    )


def test_nothing_shown_is_the_unigram_entropy():
    for objective in (CausalLM(), MaskedLM(RandomTokens(), Replace(1.0, 0.0, 0.0))):
        assert frequency_loss(STORE, objective.shown) == pytest.approx(ENTROPY)
    assert MaskedLM(RandomTokens(), predict=All()).shown is None  # most targets are in place: no floor is offered


def test_similar_words_show_every_target():
    """What is not kept is a word that tells little more than a random one."""
    shown = MaskedLM(RandomTokens(), SimilarWords(files="x")).shown
    assert shown == (0.9, 0.1)
    assert frequency_loss(STORE, shown) < ENTROPY


def test_a_text_of_its_own_gives_a_task_its_frequencies():
    main, other = (SimpleNamespace(fingerprint=name) for name in ("main", "other"))
    stores = TokenStores(main, {"talk": other, "same": main})
    assert stores.common(["talk"]) is other
    assert stores.common(["same", "plain"]) is main
    assert stores.common(["talk", "plain"]) is main


def test_bert_shows_enough_for_a_fifth_less():
    """What a masked loss below the unigram entropy may be worth: nothing of the context."""
    shown = frequency_loss(STORE, MaskedLM(RandomTokens()).shown)
    assert 0.8 * ENTROPY < shown < 0.95 * ENTROPY


def test_everything_kept_tells_everything():
    assert frequency_loss(STORE, (0.0, 1.0)) == pytest.approx(0.0)


def test_tokens_that_never_occur_add_nothing():
    store = SimpleNamespace(counts=np.concatenate([SHARES * 1e6, np.zeros(1)]))
    assert frequency_loss(store) == pytest.approx(ENTROPY)
    assert np.isfinite(frequency_loss(store, (0.1, 0.1)))
