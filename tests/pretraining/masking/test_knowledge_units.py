"""Knowledge masking: units of phrases and entities, three stages on one head (specs/ernie-baidu-1.md, section 8)."""

import functools
import json

import numpy as np
import pytest
import torch
from stores import BERT_LIKE, FIRST_ID, full_rows, take, write_store
from training import Killed, arguments, chinese_articles, finish, interrupt_at, log_lines, outcome, train

from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts.blocks import Blocks
from pretraining.masking.tokens import RandomTokens, random_ids
from pretraining.masking.words import KnowledgeUnits, WholeWords
from pretraining.objectives import CausalLM, MaskedLM, PairClassification
from pretraining.scoring.scorer import Scorer
from pretraining.tools.configs import count_parameters
from pretraining.training.config import TaskConfig
from pretraining.training.load_config import load_pretrain_config, run_folder_of
from zoo.config import CoreConfig
from zoo.core.transformer import Transformer
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.model_folder import open_weights
from zoo.vocabulary import Vocabulary
from zoo.weights.commands import export_folder, import_folder

ENTITY, PHRASE = KnowledgeUnits("entity"), KnowledgeUnits("phrase", budget="bernoulli")
CHOOSERS = {
    "entities": ENTITY,
    "phrases": PHRASE,
    "both": KnowledgeUnits(["entity", "phrase"], rate=0.3),
    "words between": KnowledgeUnits("entity", fallback="words", max_predictions=9),
    "stochastic": KnowledgeUnits("phrase", budget="stochastic"),
}
every_chooser = pytest.mark.parametrize("choose", CHOOSERS.values(), ids=CHOOSERS)


def some_units(rows, rng, share=0.25, longest=4):
    """(B, L) codes of units at random places, some cut by separators."""
    codes = np.zeros(rows.shape, dtype=np.uint8)
    free = np.zeros(len(codes), dtype=int)
    for column in range(rows.shape[1]):
        row = np.flatnonzero((free <= column) & (rng.random(len(codes)) < share))
        size = rng.integers(2, longest + 1, len(row))
        for step in range(longest):
            codes[row[size > step], column + step : column + step + 1] = 1 if step == 0 else 2
        free[row] = column + size
    codes[rows.special_tokens_mask] = 0
    return codes


@functools.cache
def unit_rows(count=400, length=128, seed=0):
    """Rows with words, phrases and entities; and an id for each token's entity unit, or for itself."""
    rng = np.random.default_rng(seed)
    rows = full_rows(count, length, seed, word_start_share=0.7, separators=2)
    return rows.replace(arrays={"entity": some_units(rows, rng, 0.1), "phrase": some_units(rows, rng, 0.3)})


def reference_units(rows, row, arrays, words=False):
    """Positions of each unit by the rule as it is written, one token after the other."""
    units, before = [], None
    for column in range(rows.lengths[row]):
        if rows.special_tokens_mask[row, column]:
            before = None
            continue
        own = next((name for name in arrays if rows.arrays[name][row, column]), "")
        goes_on = (
            rows.arrays[own][row, column] == 2 if own else words and not rows.token_flags[row, column] & WORD_START
        )
        if goes_on and before == own:
            units[-1].append(column)
        else:
            units.append([column])
        before = own
    return units


ROWS = unit_rows()


@every_chooser
def test_units_are_chosen_wholly_or_not_at_all(choose):
    """Checks 4 and 6; the units are those of the rule."""
    chosen = choose(ROWS, Draw(0, 0), BERT_LIKE)
    starts = choose.starts(ROWS, Draw(0, 0))
    assert not (chosen & ROWS.special_tokens_mask).any()
    longer = 0
    for row in range(100):
        units = reference_units(ROWS, row, choose.array, choose.fallback == "words")
        assert [unit[0] for unit in units] == np.flatnonzero(starts[row]).tolist()
        assert all(chosen[row, unit].all() or not chosen[row, unit].any() for unit in units)
        longer += sum(len(unit) > 1 and chosen[row, unit[0]] for unit in units)
    assert longer > 100


@every_chooser
def test_batch_padding_and_epochs(choose):
    rows, draw = take(ROWS, np.arange(32)), Draw(1, 2)
    whole = choose(rows, draw, BERT_LIKE)
    for part in (np.arange(16), np.arange(16, 32)):
        wide = choose(take(rows, part, width=150), draw, BERT_LIKE)
        assert (wide[:, :128] == whole[part]).all()
        assert not wide[:, 128:].any()
    assert (choose(rows, Draw(1, 3), BERT_LIKE) != whole).any()


@pytest.fixture(params=["ernie-1-base-zh", "ernie-1-tiny", "ernie-2-base", "ernie-2-tiny", "ernie-2-tiny-zh"])
def shipped(request):
    """How a config hides units: chooser and filler."""
    config = load_pretrain_config(["--config", request.param]).value
    last = list(config.tasks.values())[-1 if "basic" in config.tasks else 0]
    objective = last.own(config.objectives)["masked_lm"]
    return objective.select, objective.replacement


def test_independent_units(shipped):
    """Checks 2 and 5: 15 % of the units and of the tokens; the number per row is binomial, not constant.

    And check 10 of ERNIE 2.0, whose knowledge masking has these statistics.
    """
    choose, _ = shipped
    rows = unit_rows(5000)
    chosen, starts = choose(rows, Draw(0, 0), BERT_LIKE), choose.starts(rows, Draw(0, 0))
    assert starts.sum() >= 100_000
    assert (starts | rows.special_tokens_mask)[:, :127].mean() < 0.9  # units of several tokens are there
    assert abs(chosen[starts].mean() - 0.15) < 0.003
    assert abs(chosen[~rows.special_tokens_mask].mean() - 0.15) < 0.005
    taken, units = (chosen & starts).sum(axis=1), starts.sum(axis=1)
    assert abs(taken.var() / ((0.15 * 0.85 * units).mean() + (0.15 * units).var()) - 1) < 0.1
    budgeted = KnowledgeUnits("phrase", max_predictions=20)(rows, Draw(0, 0), BERT_LIKE).sum(axis=1)
    assert budgeted.max() == 19
    assert (budgeted == 19).mean() > 0.98


def test_shares_of_first_and_later_tokens(shipped):
    """Check 3: the released code's first token shares its draw with the selection; its shares are those of the rest."""
    choose, fill = shipped
    rows = unit_rows(5000)
    chosen, starts = choose(rows, Draw(0, 0), BERT_LIKE), choose.starts(rows, Draw(0, 0))
    ids = fill(rows, chosen, Draw(0, 0), BERT_LIKE)
    for part in (chosen & starts, chosen & ~starts):
        assert part.sum() > 10_000
        masked, kept = ids[part] == BERT_LIKE.mask, ids[part] == rows.input_ids[part]
        shares = masked.mean(), (~masked & ~kept).mean(), kept.mean()
        assert np.abs(np.array(shares) - [0.8, 0.1, 0.1]).max() < 0.01


def test_character_mode_is_unit_mode_without_units():
    """Check 9, even draw by draw."""
    bare = ROWS.replace(arrays={"phrase": np.zeros(ROWS.shape, dtype=np.uint8)})
    for count in ("bernoulli", "nearest"):
        tokens = RandomTokens(budget=count)(bare, Draw(0, 0), BERT_LIKE)
        assert (KnowledgeUnits("phrase", budget=count)(bare, Draw(0, 0), BERT_LIKE) == tokens).all()
        assert (KnowledgeUnits([], budget=count)(bare, Draw(0, 0), BERT_LIKE) == tokens).all()
        words = WholeWords(budget=count)(bare, Draw(0, 0), BERT_LIKE)
        assert (KnowledgeUnits([], "words", budget=count)(bare, Draw(0, 0), BERT_LIKE) == words).all()


@pytest.mark.parametrize("vocabulary", [BERT_LIKE, Vocabulary(size=40, pad=7, unk=1, cls=2, sep=3, mask=4)])
def test_random_ids_leave_out_padding_only(vocabulary):
    """Check 7: [1, V) where padding is 0; [CLS], [SEP] and [MASK] stay possible."""
    bits = Draw(0, 0).bits(np.arange(1000), 200, "x").ravel()
    counts = np.bincount(random_ids(bits, vocabulary, False, exclude_padding=True), minlength=vocabulary.size)
    assert counts[vocabulary.pad] == 0
    assert (np.delete(counts, vocabulary.pad) > 0).all()
    both = random_ids(bits, vocabulary, True, exclude_padding=True)
    assert (both == random_ids(bits, vocabulary, True)).all()


def test_the_configs_draw_no_padding(shipped):
    """Check 7, as it is wired; without that, one of 40 ids would be padding."""
    _, fill = shipped
    assert (fill.mask, fill.random, fill.keep) == (0.8, 0.1, 0.1)
    vocabulary = Vocabulary(size=40, pad=0, unk=1, cls=2, sep=3, mask=4)
    rows = unit_rows(200)
    rows = rows.replace(input_ids=np.where(rows.special_tokens_mask, 2, 5 + rows.input_ids % 35).astype(np.int32))
    chosen = np.ones(rows.shape, dtype=bool) & ~rows.special_tokens_mask
    ids = fill(rows, chosen, Draw(0, 0), vocabulary)[chosen]
    counts = np.bincount(ids, minlength=40)
    assert counts[0] == 0
    assert (counts[1:] > 0).all()


def test_published_counts():
    """Check 1, with both heads."""
    config = load_pretrain_config(["--config", "ernie-1-base-zh"]).value
    assert count_parameters(config) == (99_866_112, 100_477_778)
    without = config.model.replace(pooler=False)
    with torch.device("meta"):
        parts = Transformer(without), TokenHead(without)
    assert sum(p.numel() for part in parts for p in part.parameters()) == 99_885_648
    assert config.model.max_position_embeddings == 513
    assert (config.model.hidden_act, config.model.layer_norm_eps) == ("relu", 1e-5)


# --- stages: one head, hidden text of three kinds --------------------------------------------------


def test_a_task_chooses_otherwise_on_the_same_head():
    objectives = {"masked_lm": MaskedLM(RandomTokens()), "pair": PairClassification()}
    layout = Blocks()
    task = TaskConfig(layout, ["masked_lm", "pair"], select=ENTITY)
    own = task.own(objectives)
    assert own["masked_lm"].select is ENTITY
    assert own["pair"] is objectives["pair"]
    assert own["masked_lm"].required_fields == {"entity"}
    assert objectives["masked_lm"].required_fields == frozenset()
    assert isinstance(objectives["masked_lm"].select, RandomTokens)
    objectives["masked_lm"].build(CoreConfig(vocab_size=1000, hidden_size=16, num_attention_heads=2), BERT_LIKE)
    late = task.own(objectives)["masked_lm"]
    assert late.head is objectives["masked_lm"].head
    assert (late.corrupt(ROWS, Draw(0, 0)).targets["selected"] == ENTITY(ROWS, Draw(0, 0), BERT_LIKE)).all()
    assert TaskConfig(layout, ["masked_lm"]).own(objectives)["masked_lm"] is objectives["masked_lm"]
    with pytest.raises(ZooError, match="CausalLM chooses no positions"):
        CausalLM().with_selector(ENTITY)


def test_units_need_their_array_and_units_in_it(tmp_path):
    documents = [[list(range(FIRST_ID, 105))] * 60 for _ in range(2)]
    store = write_store(tmp_path, documents, arrays={"entity": np.zeros(12_000, dtype=np.uint8)})
    with pytest.raises(ZooError, match="marks no unit in 12,000 tokens"):
        MaskedLM(ENTITY).check_store(store)
    with pytest.raises(ZooError, match="'tokens' or 'words'"):
        KnowledgeUnits("entity", fallback="characters")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A little Chinese text, and dialogues made of its sentences."""
    pytest.importorskip("rjieba")
    folder = tmp_path_factory.mktemp("ernie")
    articles = chinese_articles()
    (folder / "text.txt").write_text("\n\n".join(articles), encoding="utf-8")
    said = [sentence + "。" for article in articles for sentence in article.replace("\n", "").split("。") if sentence]
    threads = [said[start : start + 2 + start % 4] for start in range(0, 400, 5)]
    records = [{"text": thread, "role": [n % 2 for n in range(len(thread))]} for thread in threads]
    (folder / "dialogues.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return folder


def ernie(place, output, **more):
    """Three stages and dialogues; log lines and checkpoints do not meet."""
    often = {"train.save_every": 5, "train.log_every": 3, "train.validate_every": 12}
    argv = arguments(place, steps=24, **{**often, "output": output, **more})
    argv[1] = "ernie-1-tiny-zh"
    dialogues = ["--config", "pretrain_tasks/dialogue", "--tasks.dialogue.corpus.files", str(place / "dialogues.jsonl")]
    return [*argv[:2], *dialogues, *argv[2:]]


@pytest.fixture(scope="module")
def finished(place):
    return train(ernie(place, place / "runs"))


def test_stages_and_dialogues_train_one_head(finished, place, tmp_path):
    """All tasks were run, one masked head came out, and it is what scoring, export and import take."""
    state = json.loads((finished / "run.json").read_text())
    assert state["finished"]
    names = {key.split(".")[1] for key in open_weights(finished) if key.startswith("heads.")}
    assert names == {"masked_lm", "next_sentence", "real_dialogue"}
    lines = [line for line in log_lines(finished) if "terms" in line]
    for line in lines:
        pairs = set(line["tasks"]) - {"dialogue"}
        expected = {
            "masked_lm",
            *(["next_sentence"] if pairs else []),
            *(["real_dialogue"] * ("dialogue" in line["tasks"])),
        }
        assert set(line["terms"]) == expected
        assert pairs <= {line["stage"], lines[max(0, lines.index(line) - 1)]["stage"]}  # it says where it ends
        assert sum(line["tasks"].values()) == 3
    assert list(dict.fromkeys(line["stage"] for line in lines)) == ["basic", "phrase", "entity"]
    assert set().union(*(line["tasks"] for line in lines)) == {"basic", "phrase", "entity", "dialogue"}
    validations = [line for line in log_lines(finished) if "validation" in line]
    assert {"basic", "phrase", "entity", "dialogue"} <= {line["validation"]["task"] for line in validations}
    assert [line["stage"] for line in validations] == ["phrase"] * 4 + ["entity"] * 4
    scorer = Scorer(finished)
    assert scorer.name == "masked_lm"
    expected = scorer.score(["中国的首都是北京。"])
    export_folder(finished, tmp_path / "out", family="ernie")
    import_folder(tmp_path / "out", tmp_path / "in")
    assert np.array_equal(Scorer(tmp_path / "in").score(["中国的首都是北京。"]), expected)


def test_stages_go_on_bit_for_bit(finished, place, tmp_path, monkeypatch):
    """Cut short in the second stage, between two checkpoints."""
    argv = ernie(place, tmp_path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 13)
        with pytest.raises(Killed):
            train(argv)
    assert outcome(train(argv)) == outcome(finished)


@pytest.mark.slow
def test_two_processes_draw_the_same_tasks(finished, place, warm, tmp_path):
    argv = ernie(place, tmp_path)
    assert "2 processes" in finish(warm.launch(argv, processes=2))
    other = log_lines(run_folder_of(load_pretrain_config(argv)))
    for one, two in zip(log_lines(finished), other, strict=True):
        assert (one["step"], one["tokens"]) == (two["step"], two["tokens"])
        if "terms" in one:
            assert one["terms"] == {name: pytest.approx(value, rel=1e-4) for name, value in two["terms"].items()}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tasks.phrase.select.init_args.array": "clause"}, "needs clause"),
        ({"stages.entity.until": 0.9}, "0.9; the last one must end at until: 1"),
        ({"stages.phrase.until": 0.3333}, "each needs an end of its own"),
        ({"tasks.phrase.objectives": "[next_sentence]"}, "none of its objectives"),
        ({"tasks.dialogue.corpus.annotations.role": "null"}, "no array 'role'"),
    ],
)
def test_what_cannot_train_is_refused_before(place, tmp_path, more, message):
    with pytest.raises(ZooError, match=message):
        train(ernie(place, tmp_path, **more))
    assert not list(tmp_path.glob("*/log.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"text": ["你好吗？", "我很好。"]}).encode(), "role"),
        ('{"text": ["你好吗？", "我很好。"], "role": [0, 1]}'.encode("gbk"), "UTF-8"),
    ],
)
def test_a_tasks_own_text_is_looked_at_before_the_runs(place, tmp_path, content, message):
    (tmp_path / "wrong.jsonl").write_bytes(content + b"\n")
    stores = tmp_path / "stores"
    more = {"tasks.dialogue.corpus.files": tmp_path / "wrong.jsonl", "data.stores": stores}
    with pytest.raises(ZooError, match=rf"tasks\.dialogue\.corpus: .*{message}"):
        train(ernie(place, tmp_path, **more))
    assert not stores.exists()
