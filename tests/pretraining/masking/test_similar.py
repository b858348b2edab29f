"""Similar words instead of a mask token, n-grams of given shares, and runs of the shipped configuration."""

import pickle
import re

import numpy as np
import pytest
from places import ROOT
from similar_toys import KNOWN, LIST, OTHERS, chinese, rows_of, synthetic, synthetic_list
from stores import BERT_LIKE, full_rows, synthetic_store, take, write_store
from training import SAMPLE, Killed, arguments, chinese_articles, interrupt_at, log_lines, outcome, train

from ablation.grid import fixed_validation
from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import examples_from_tokens
from pretraining.masking.groups import word_starts
from pretraining.masking.ngrams import NGrams
from pretraining.masking.similar_words import SimilarWords, read_similar
from pretraining.masking.tokens import RandomTokens
from pretraining.masking.words import WholeWords
from pretraining.objectives import MaskedLM
from pretraining.scoring.cloze import cloze_command
from pretraining.scoring.score import score_command
from pretraining.show.command import show_command
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.train import train_tokenizer
from pretraining.tools.configs import count_parameters
from pretraining.training.load_config import differing_keys, load_pretrain_config
from zoo.errors import ZooError
from zoo.model_folder import open_weights
from zoo.storage.files import read_json
from zoo.weights.commands import export_folder

pytestmark = pytest.mark.usefixtures("one_thread")
SHIPPED = SAMPLE / "lexicon" / "similar-zh.txt"


@pytest.fixture(scope="module")
def similar(tmp_path_factory):
    """Makes a bound fill of the small list, or of other lines."""
    folder = tmp_path_factory.mktemp("lists")

    def make(text=LIST, tokenizer=None, **options):
        path = folder / "similar.txt"
        path.write_text(text, encoding="utf-8")
        fill = SimilarWords(str(path), **options)
        fill.bind_tokenizer(tokenizer or chinese())
        return fill

    return make


def ids_of(word: str) -> tuple[int, ...]:
    return tuple(chinese().encode_batch([word], [[0]])[0][0].tolist())


def words_of(rows: Examples) -> list[tuple[int, int, int]]:
    """(row, first column, end) of every word."""
    start = word_starts(rows, ~rows.special_tokens_mask)
    edge = start | rows.special_tokens_mask
    found = []
    for row, column in np.argwhere(start):
        end = column + 1
        while end < rows.shape[1] and not edge[row, end]:
            end += 1
        found.append((int(row), int(column), int(end)))
    return found


@pytest.fixture(scope="module")
def many():
    """Rows of words with and without entries; the words' places, and their texts."""
    rng = np.random.default_rng(0)
    pool = [*KNOWN, *OTHERS]
    lines = [[pool[i] for i in rng.integers(0, len(pool), 1000)] for _ in range(220)]
    rows = rows_of(lines)
    places = words_of(rows)
    assert len(places) == 220_000
    return rows, places, [word for line in lines for word in line]


def fates_of(rows, ids, places, texts):
    """How many words with an entry stayed, became each similar one, or another thing; the same of those without."""
    candidates = {word: {ids_of(other) for other in others} for word, others in KNOWN.items()}
    found = {True: {"kept": 0, "other": 0}, False: {"kept": 0, "other": 0}}
    by_word: dict[tuple[str, tuple[int, ...]], int] = {}
    for (row, column, end), word in zip(places, texts, strict=True):
        new, old = (tuple(values[row, column:end].tolist()) for values in (ids, rows.input_ids))
        fates = found[word in KNOWN]
        if new == old:
            fates["kept"] += 1
        elif new in candidates.get(word, ()):
            by_word[word, new] = by_word.get((word, new), 0) + 1
        else:
            fates["other"] += 1
    return found, by_word


def test_80_10_10_by_word(similar, many):
    """Cui et al. 2020, section 3.2, over 110,000 words with and as many without a similar one."""
    rows, places, texts = many
    ids = similar()(rows, ~rows.special_tokens_mask, Draw(0, 0), chinese().vocabulary)
    found, by_word = fates_of(rows, ids, places, texts)
    total = sum(found[True].values()) + sum(by_word.values())
    assert total > 100_000
    assert abs(sum(by_word.values()) / total - 0.8) < 0.01
    assert abs(found[True]["kept"] / total - 0.1) < 0.01
    assert abs(found[True]["other"] / total - 0.1) < 0.01
    alone = sum(found[False].values())
    assert alone > 100_000
    assert abs(found[False]["kept"] / alone - 0.1) < 0.01  # where there is none, a random word
    for word, others in KNOWN.items():  # each of as many tokens, alike often; no other
        counts = [by_word[word, ids_of(other)] for other in others]
        assert sum(counts) == sum(count for (key, _), count in by_word.items() if key == word)
        assert np.abs(np.array(counts) / sum(counts) - 1 / len(others)).max() < 0.02


def test_random_words_are_no_special_tokens(similar, many):
    rows, _, _ = many
    vocabulary = chinese().vocabulary
    ids = similar(similar=0, random=1, keep=0)(rows, ~rows.special_tokens_mask, Draw(0, 0), vocabulary)
    counts = np.bincount(ids[~rows.special_tokens_mask], minlength=vocabulary.size)
    assert counts[list(vocabulary.special_ids)].tolist() == [0] * 5
    usual = (~rows.special_tokens_mask).sum() / (vocabulary.size - 5)
    assert np.abs(counts[counts > 0] / usual - 1).max() < 0.15
    assert (counts > 0).sum() == vocabulary.size - 5


def test_the_decision_is_one_per_word(similar, many):
    rows, places, texts = many
    ids = similar(similar=0.5, random=0, keep=0.5)(rows, ~rows.special_tokens_mask, Draw(0, 0), chinese().vocabulary)
    found, by_word = fates_of(rows, ids, places, texts)
    assert found[True]["other"] == 0  # wholly kept or wholly a similar word
    assert abs(found[True]["kept"] / (found[True]["kept"] + sum(by_word.values())) - 0.5) < 0.01


def test_what_is_not_selected_stays_and_nothing_is_changed_in_place(similar, many):
    rows, _, _ = many
    before = rows.input_ids.copy()
    selected = WholeWords()(rows, Draw(0, 0), chinese().vocabulary)
    ids = similar()(rows, selected, Draw(0, 0), chinese().vocabulary)
    assert (ids[~selected] == before[~selected]).all()
    assert (ids[selected] != before[selected]).mean() > 0.8
    assert (rows.input_ids == before).all()
    assert (ids.dtype, ids.shape) == (np.int32, rows.shape)
    nothing = np.zeros_like(selected)
    assert (similar()(rows, nothing, Draw(0, 0), chinese().vocabulary) == before).all()


def reference(fill: SimilarWords, rows: Examples, selected, draw: Draw, vocabulary, entries) -> np.ndarray:
    """One word at a time, with the same draws."""
    ids = rows.input_ids.copy()

    def bits(row, column, stream):
        return int(draw.at(rows.example_ids[[row]], np.array([column]), stream)[0])

    for row, column, end in words_of(rows):
        places = [c for c in range(column, end) if selected[row, c]]
        if not places:
            continue
        share = bits(row, column, "fill") / 2**32
        others = entries.get(tuple(rows.input_ids[row, column:end].tolist()), [])
        if share < 0.8 and others and len(places) == end - column:
            ids[row, column:end] = others[bits(row, column, "fill.similar") * len(others) >> 32]
        elif share < 0.9:
            plain = [i for i in range(vocabulary.size) if i not in vocabulary.special_ids]
            for place in places:
                ids[row, place] = plain[bits(row, place, "fill.random") * len(plain) >> 32]
    return ids


@pytest.mark.parametrize(
    "choose", [WholeWords(0.6), NGrams(n=4, rate=0.5), RandomTokens(0.5), RandomTokens(0.5, include_special=True)]
)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_words_one_by_one_give_the_same(similar, choose, cut):
    """Rows of different lengths, some of which begin with a word's rest; words of which only a part is selected."""
    rng = np.random.default_rng(1)
    pool = [*KNOWN, *OTHERS]
    lines = [["图书馆", *(pool[i] for i in rng.integers(0, len(pool), rng.integers(1, 20)))] for _ in range(40)]
    rows, draw, vocabulary = rows_of(lines, cut=cut), Draw(3, 1), chinese().vocabulary
    selected = choose(rows, draw, vocabulary) & ~rows.special_tokens_mask
    entries = {ids_of(word): [ids_of(other) for other in others] for word, others in KNOWN.items()}
    expected = reference(similar(), rows, selected, draw, vocabulary, entries)
    assert (similar()(rows, selected, draw, vocabulary) == expected).all()


def test_a_words_rest_at_the_front_is_a_word(similar):
    """`漂亮好看` cut in the middle leaves `亮`; of `好看` cut so, `看` is left, which has an entry of its own."""
    rows = rows_of([["好看", "我"]] * 400, cut=1).replace(example_ids=np.arange(400))
    ids = similar(similar=1, random=0, keep=0)(rows, ~rows.special_tokens_mask, Draw(0, 0), chinese().vocabulary)
    assert set(ids[:, 1].tolist()) == {ids_of("瞧")[0], ids_of("望")[0]}


def test_a_selected_template_token_is_a_word_of_its_own(similar):
    rows = rows_of([["美丽", "漂亮"]] * 300).replace(example_ids=np.arange(300))
    ids = similar(similar=1, random=0, keep=0)(rows, rows.real, Draw(0, 0), chinese().vocabulary)
    assert not set(ids[:, [0, 5]].ravel().tolist()) & set(chinese().vocabulary.special_ids)
    assert {tuple(pair) for pair in ids[:, 1:3].tolist()} == {ids_of("漂亮"), ids_of("好看")}


def test_draws_are_keyed(similar, many):
    """Parts of the batch, another order and more padding give the same; another seed or epoch does not."""
    fill, vocabulary = similar(), chinese().vocabulary
    rows = take(many[0], np.arange(32), 400)
    selected = WholeWords(0.5)(rows, Draw(0, 0), vocabulary)
    ids = fill(rows, selected, Draw(0, 0), vocabulary)
    assert (fill(rows, selected, Draw(0, 0), vocabulary) == ids).all()
    order = np.random.default_rng(0).permutation(32)[:9]
    part = fill(take(rows, order, 450), np.pad(selected[order], ((0, 0), (0, 50))), Draw(0, 0), vocabulary)
    assert (part[:, :400] == ids[order]).all()
    again = pickle.loads(pickle.dumps(fill))  # noqa: S301  our own
    assert (again(rows, selected, Draw(0, 0), vocabulary) == ids).all()
    for other in (Draw(1, 0), Draw(0, 1)):
        assert (fill(rows, selected, other, vocabulary) != ids)[selected].mean() > 0.2


# --- lists and vocabularies ------------------------------------------------------------------------


def replacements(fill, word: str) -> set[str]:
    """What a word becomes, by its tokens, in many draws."""
    rows = rows_of([[word]] * 300).replace(example_ids=np.arange(300))
    ids = fill(rows, ~rows.special_tokens_mask, Draw(0, 0), chinese().vocabulary)
    return {"".join(map(chinese().token, line[1:-1])) for line in ids.tolist()}


def test_the_first_that_can_be_used(similar):
    certain = {"similar": 1, "random": 0, "keep": 0}
    text = "图书馆\t书店\t图书馆\t阅览室\t博物馆\n图书馆\t展览馆\t阅览室\n"
    assert replacements(similar(text, **certain), "图书馆") == {"阅览室", "博物馆", "展览馆"}
    assert replacements(similar(text, best=1, **certain), "图书馆") == {"阅览室"}
    assert replacements(similar(text, best=2, **certain), "图书馆") == {"阅览室", "博物馆"}


def test_windows_line_ends(similar):
    assert replacements(similar("看\t瞧\r\n", similar=1, random=0, keep=0), "看") == {"瞧"}


def has_entry(fill, tokenizer, text: str) -> bool:
    ids = tokenizer.encode_batch([text])[0][0]
    return bool(fill.table.find(ids, np.zeros(1, dtype=np.int64), np.array([len(ids)]))[0] >= 0)


def test_case_is_the_tokenizers(similar):
    texts = ["good fine bad Good Fine Bad"] * 9
    for lowercase in (True, False):
        tokenizer = train_tokenizer(TokenizerConfig(vocab_size=80, min_frequency=1, lowercase=lowercase), texts)
        fill = similar("Good\tFine\nbad idea\tbad\n", tokenizer)
        assert has_entry(fill, tokenizer, "Good")
        assert has_entry(fill, tokenizer, "good") == lowercase
        assert not has_entry(fill, tokenizer, "bad idea")  # two words, so nothing that is selected as one


def test_byte_level_words_are_known_with_and_without_the_space_before(similar):
    config = TokenizerConfig(kind="bytebpe", vocab_size=300, min_frequency=1)
    tokenizer = train_tokenizer(config, ["cat dog", "dog cat"] * 9)
    fill = similar("cat\tdog\n", tokenizer, similar=1, random=0, keep=0)
    ids = tokenizer.encode_batch(["cat cat"])[0][0]
    assert len(ids) == 2
    rows = examples_from_tokens([(ids, [1, 1])], tokenizer.vocabulary)
    filled = fill(rows, rows.real, Draw(0, 0), tokenizer.vocabulary)
    assert tokenizer.decode(filled[0]) == "dog dog"


def test_a_list_without_tabs_is_told_before_any_text_is_read(tmp_path):
    (tmp_path / "list.txt").write_text("美丽 漂亮 好看\n快乐\t\n", encoding="utf-8")
    with pytest.raises(ZooError, match=r"none of the 2 entries .* behind a tab .*'美丽 漂亮 好看'"):
        SimilarWords(str(tmp_path / "list.txt")).data_files()


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("龘龘\t龖龖\n", "the 1 entries .* 1 words are not one word of known tokens, 0 have no .*, 0 none of as many"),
        ("美丽 漂亮 好看\n", "1 words are not one word"),  # spaces, not tabs
        ("美丽\n漂亮\t\n", "the 2 entries .* 0 words are not .* 2 have no similar word behind a tab, 0 none"),
        ("美丽\t看\n图书馆\t书店\n看\t龘\n", "the 3 entries .* 0 words are .* 0 have no similar .* 3 none of as many"),
        ("", "holds no entries; lines of"),
        ("\n\t看\n", "holds no entries; lines of"),
    ],
)
def test_lists_of_no_use_say_why(similar, text, counts):
    with pytest.raises(ZooError, match=counts):
        similar(text)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "similar.txt").write_bytes("看\t瞧\n美丽\t漂亮\n".encode("gb18030"))
    for name, message in (("similar.txt", "similar.txt, line 1: invalid UTF-8"), ("similat.txt", "mean 'similar.txt'")):
        fill = SimilarWords(str(tmp_path / name))
        for ask in (fill.data_files, lambda fill=fill: fill.bind_tokenizer(chinese())):
            with pytest.raises(ZooError, match=message):
                ask()
    with pytest.raises(ZooError, match=r"bind_tokenizer\(tokenizer\)"):
        SimilarWords("x").table  # noqa: B018


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.2), (1.1, -0.1, 0), (0.5, 0.1, 0.1)])
def test_shares_that_do_not_add_up(shares):
    with pytest.raises(ZooError, match="must add up to 1"):
        SimilarWords("x", *shares)
    with pytest.raises(ZooError, match="best is 0"):
        SimilarWords("x", best=0)


def test_texts_of_no_use_are_refused(similar, tmp_path):
    vocabulary = chinese().vocabulary
    objective = MaskedLM(NGrams(), similar())
    others = [i for word in OTHERS[1:] for i in ids_of(word)]
    known = [i for word in KNOWN for i in ids_of(word)]
    flags = np.zeros(11_000, dtype=np.uint8)
    flags[::2] = WORD_START
    characters = write_store(tmp_path / "a", [[(known * 2000)[:11_000]]], vocab_size=vocabulary.size)
    with pytest.raises(ZooError, match="segmenter: rjieba"):
        objective.check_store(characters)
    strange = write_store(tmp_path / "b", [[(others * 2000)[:11_000]]], flags, vocab_size=vocabulary.size)
    with pytest.raises(ZooError, match=r"of 5,500 words in .* none has an entry"):
        objective.check_store(strange)
    objective.check_store(
        write_store(tmp_path / "c", [[(known[:2] * 6000)[:11_000]]], flags, vocab_size=vocabulary.size)
    )
    short = write_store(tmp_path / "d", [[others]], vocab_size=vocabulary.size)
    objective.check_store(short)  # too little to tell
    words = MaskedLM(RandomTokens(), SimilarWords(synthetic_list()))
    words.bind_tokenizer(synthetic())
    words.check_store(synthetic_store(tmp_path / "e"))  # words are tokens in this vocabulary


def test_the_shipped_list_is_usable(tmp_path):
    """Words of the same length, no word twice in a line, and what docs/data.md shows can be read."""
    entries = read_similar([SHIPPED])
    assert len(entries) == 673 == len(SHIPPED.read_text(encoding="utf-8").splitlines())
    for word, others in entries.items():
        assert 1 <= len(others) <= 3
        assert all({other, *entries[other]} == {word, *others} for other in others)  # closed groups
        assert {len(other) for other in others} == {len(word)}
        assert len({word, *others}) == len(others) + 1
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "similar.txt").write_text(re.search(r"```text file=similar.txt\n(.*?)```", page, re.DOTALL)[1])
    assert read_similar([tmp_path / "similar.txt"])["图书馆"] == ["阅览室", "书店"]


# --- n-grams ---------------------------------------------------------------------------------------


def test_lengths_follow_the_given_shares():
    rows = full_rows(2000, 128)
    lengths = NGrams(n=4, shares=[0.4, 0.3, 0.2, 0.1]).lengths(rows, 128, Draw(0, 0))
    found = np.bincount(lengths.ravel(), minlength=5)[1:] / lengths.size
    assert np.abs(found - [0.4, 0.3, 0.2, 0.1]).max() < 0.005
    usual = [1 / n / (1 + 1 / 2 + 1 / 3) for n in (1, 2, 3)]
    same = [c(rows, Draw(0, 0), BERT_LIKE) for c in (NGrams(), NGrams(shares=usual))]
    assert (same[0] == same[1]).all()


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.5, 0.2, 0.2], [1.2, -0.1, -0.1], []])
def test_impossible_shares_of_lengths(shares):
    with pytest.raises(ZooError, match=r"each of the lengths 1 to 3 \(n = 3\)"):
        NGrams(shares=shares)


# --- the configuration -----------------------------------------------------------------------------


def test_published_count():
    assert count_parameters(load_pretrain_config(["--config", "macbert-base-zh"]).value) == (102_267_648, 102_882_442)


def test_only_the_edge_differs_from_bert_wwm():
    before, after = (
        load_pretrain_config(["--config", name]).resolved for name in ("bert-wwm-tiny-zh", "macbert-tiny-zh")
    )
    keys = {line.partition(":")[0] for line in differing_keys(before, after)}
    assert {key.split(".init_args")[0] for key in keys} == {
        "name",
        "edge",
        "objectives.masked_lm",
        "objectives.next_sentence",
        "objectives.next_sentence.class_path",
        "objectives.sentence_order",
        "objectives.sentence_order.class_path",
        "tasks.pairs.layout",
        "tasks.pairs.objectives",
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    pytest.importorskip("rjieba")
    folder = tmp_path_factory.mktemp("runs")
    text = chinese_articles()
    (folder / "text.txt").write_text("\n\n".join(text), encoding="utf-8")
    (folder / "similar.txt").write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def settings(place, output, steps=8, **more):
    files = {"objectives.masked_lm.init_args.replacement.init_args.files": place / "similar.txt"}
    argv = arguments(place, steps=steps, **{"output": output, **files, **more})
    argv[1] = "macbert-tiny-zh"
    return argv


@pytest.fixture(scope="module")
def run(place):
    return train(settings(place, place / "runs"))


def test_a_run_learns_and_goes_on_bit_for_bit(run, place, tmp_path, monkeypatch):
    losses = [line["terms"]["masked_lm"] for line in log_lines(run) if "terms" in line]
    assert losses[-1] < losses[0]
    argv = settings(place, tmp_path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Killed):
            train(argv)
    assert outcome(train(argv)) == outcome(run)


def test_other_lists_are_refused_when_a_run_goes_on(run, place, tmp_path, monkeypatch):
    assert len(read_json(run / "run.json")["source_fingerprints"]["masked_lm"]) == 32
    argv, path = settings(place, tmp_path), place / "similar.txt"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Killed):
            train(argv)
    before = path.read_bytes()
    path.write_bytes(before + "石桥\t木桥\n".encode())
    with pytest.raises(ZooError, match="a file that an objective reads changed"):
        train(argv)
    path.write_bytes(before)
    assert outcome(train(argv)) == outcome(run)


def test_lists_are_read_before_the_text_is_prepared(place, tmp_path):
    key = "objectives.masked_lm.init_args.replacement.init_args.files"
    argv = settings(place, tmp_path, **{"data.stores": tmp_path / "stores", key: place / "missing.txt"})
    with pytest.raises(ZooError, match=r"objectives\.masked_lm: SimilarWords: files: the file .*missing\.txt"):
        train(argv)
    assert not (tmp_path / "stores").exists()
    shown = ["--config", "macbert-tiny-zh", "中国的首都。", f"--{key}={place / 'missing.txt'}"]
    with pytest.raises(ZooError, match=r"objectives\.masked_lm: SimilarWords: files: the file .*missing\.txt"):
        show_command([*shown, "--data.stores", str(tmp_path / "stores")])
    assert not (tmp_path / "stores").exists()


def test_figures_by_a_mask_token_that_was_never_read_are_in_doubt(run, tmp_path, capsys):
    argv = [str(run), "--items", "5", "--output", str(tmp_path / "cloze.json")]
    assert cloze_command(argv) == 0
    assert "note: masked_lm hides words without a mask token" in capsys.readouterr().out
    assert "these figures say nothing" in read_json(tmp_path / "cloze.json")["note"]
    (tmp_path / "gaps.jsonl").write_text('{"text": "中国的首都是___。", "options": ["北京", "上海"], "answer": 0}\n')
    argv = [str(run), "--cloze", str(tmp_path / "gaps.jsonl"), "--output", str(tmp_path / "scores.json")]
    assert score_command(argv) == 0
    assert "these figures say nothing" in read_json(tmp_path / "scores.json")["note"]


def test_weights_are_berts(run, tmp_path):
    """The same network, so the same tables: exported, it opens as a stock BERT."""
    transformers = pytest.importorskip("transformers")
    export_folder(run, tmp_path / "out")
    _, report = transformers.BertForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {key.split(".")[1] for key in open_weights(run) if key.startswith("heads.")} == {
        "masked_lm",
        "sentence_order",
    }


def test_its_masks_can_be_an_ablations_reference(run, place):
    """Held-out losses on the run's own rows, made again by another command, are those of its log."""
    found = fixed_validation(run, load_pretrain_config(settings(place, place / "runs")))
    logged = [line["validation"]["terms"] for line in log_lines(run) if "validation" in line][-1]
    assert found.keys() == logged.keys()
    for name, figures in logged.items():
        assert found[name] == pytest.approx(figures["loss"], rel=1e-4)
