"""Tokenizers: flags, cached = direct, round trips, AutoTokenizer, repeatable training, loading."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT

from pretraining.arrays import CAPITALISED, WORD_START
from pretraining.text.segmenter import Segmenter, aligned
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.entries import ids_and_flags, places_of
from pretraining.tokenizer.load import extend, load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.tokenizer.train import train_tokenizer
from pretraining.tokenizer.units import word_marks
from pretraining.tokenizer.word_cache import WordCache
from zoo.errors import ZooError
from zoo.sample import sample_path
from zoo.vocabulary import Template

ENGLISH = [
    "The quick brown Fox doesn't jump over 3.5 lazy dogs, unbelievable!",
    "Café society in Zürich: naïve readers — and others — read (mostly) at night.",
    "She sells sea shells by the sea shore; the shells she sells are surely sea shells.",
] * 20
CHINESE = [
    "我爱北京天安门，天安门上太阳升。",
    "他在北京大学读书，喜欢T恤 and Hello。",
    "中国人民银行发布了新的货币政策。",
] * 20
TEMPLATES = {
    "wordpiece": Template(),
    "word": Template(),
    "unigram": Template(),
    "bytebpe": Template("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
}


def train(kind: str, size: int = 600, **facts) -> ZooTokenizer:
    return train_tokenizer(TokenizerConfig(kind=kind, vocab_size=size, **facts), iter(ENGLISH + CHINESE))


@pytest.fixture(scope="module")
def trained() -> dict[str, ZooTokenizer]:
    return {kind: train(kind) for kind in TEMPLATES}


def test_special_ids_are_the_published_ones(trained):
    def order(kind):
        v = trained[kind].vocabulary
        return v.pad, v.unk, v.cls, v.sep, v.mask

    assert order("wordpiece") == (0, 1, 2, 3, 4)
    assert order("unigram") == (0, 1, 2, 3, 4)
    assert order("bytebpe") == (1, 3, 0, 2, trained["bytebpe"].vocabulary.size - 1)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_looking_words_up_equals_encoding_whole_texts(trained, kind):
    tokenizer = trained[kind]
    texts = [
        *ENGLISH[:3],
        *CHINESE[:3],
        "",
        " two  spaces ",
        " lead",
        "tab\there",
        "x",
        "[MASK] <s>",
        "e\u0301A\u00a0b",
        "Ǆx",
    ]
    ids = [e.ids for e in _as_text(tokenizer).encode_batch(texts, add_special_tokens=False)]
    once = tokenizer.encode_batch(texts)
    again = tokenizer.encode_batch(texts)
    alone = [encoded_whole(tokenizer, [text], [None])[:2] for text in texts]
    for text, wanted, first, second, whole in zip(texts, ids, once, again, alone):
        assert first[0].tolist() == wanted, text
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])
        assert first[1].tolist() == whole[1].tolist(), text


def encoded_whole(tokenizer, texts, boundaries):
    """Ids, flags, sizes and places of texts, none of whose words was looked up."""
    entries = WordCache(tokenizer.backend, word_marks(tokenizer.backend)).whole.encode(texts, boundaries)
    return *ids_and_flags(entries.tokens), entries.sizes, np.stack(places_of(entries.tokens), axis=1)


def _as_text(tokenizer):
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    return backend


def test_wordpiece_word_starts_follow_the_hashes_and_capitals_the_surface(trained):
    tokenizer = trained["wordpiece"]
    ids, flags = tokenizer.encode_batch(["The quick Fox unbelievable Zürich 我爱"])[0]
    tokens = [tokenizer.token(i) for i in ids]
    assert [bool(f & WORD_START) for f in flags] == [not t.startswith("##") for t in tokens]
    words = np.cumsum(flags & WORD_START) - 1
    capital = [bool(flags[words == w][0] & CAPITALISED) for w in range(words[-1] + 1)]
    assert capital == [True, False, True, False, True, False, False]
    for w in range(words[-1] + 1):
        assert len(set((flags[words == w] & CAPITALISED).tolist())) == 1  # all pieces of a word agree


@pytest.mark.parametrize("kind", ["wordpiece", "bytebpe", "unigram"])
def test_a_chinese_word_is_one_group(trained, kind):
    tokenizer = trained[kind]
    text = "我爱北京天安门"
    ids, flags = tokenizer.encode_batch([text], [[0, 1, 2, 4]])[0]
    alone, alone_flags = tokenizer.encode_batch([text])[0]
    assert ids.tolist() == alone.tolist()  # the segmenter changes flags, never ids
    offsets = _as_text(tokenizer).encode(text, add_special_tokens=False).offsets
    begins = {offsets[i][0] for i in range(len(ids)) if flags[i] & WORD_START}
    assert begins <= {0, 1, 2, 4}
    if kind == "wordpiece":
        assert (flags & WORD_START).tolist() == [1, 1, 1, 0, 1, 0, 0]
        assert (alone_flags & WORD_START).all()


def test_segmented_mixed_text_is_aligned_like_the_direct_way(trained):
    tokenizer = trained["wordpiece"]
    text, starts = "他在北京大学读书，喜欢T恤 and Hello。", [0, 1, 2, 6, 8, 9, 11, 13, 14, 17, 18, 23]
    cached = tokenizer.encode_batch([text], [starts])[0]
    direct = encoded_whole(tokenizer, [text], [starts])
    assert cached[0].tolist() == direct[0].tolist()
    assert (cached[1] & WORD_START).tolist() == (direct[1] & WORD_START).tolist()


def test_round_trips(trained):
    for text in ENGLISH[:3] + CHINESE[:3]:
        assert trained["bytebpe"].decode(trained["bytebpe"].encode_batch([text])[0][0]) == text
    text = "she sells sea shells by the sea shore"
    for kind in ("wordpiece", "unigram", "word"):
        assert trained[kind].decode(trained[kind].encode_batch([text])[0][0]) == text


@pytest.mark.parametrize("kind", TEMPLATES)
def test_autotokenizer_opens_it_and_agrees(trained, kind, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = train(kind)
    tokenizer.set_template(TEMPLATES[kind], segments=kind != "bytebpe")
    tokenizer.save(tmp_path)
    opened = AutoTokenizer.from_pretrained(str(tmp_path))
    assert opened.mask_token_id == tokenizer.vocabulary.mask
    assert opened.pad_token_id == tokenizer.vocabulary.pad
    for text in [*ENGLISH[:3], *CHINESE[:3], f"a {tokenizer.roles['mask']} here"]:
        assert opened(text)["input_ids"] == tokenizer.encode(text).ids
        pair, ours = opened(text, "second text"), tokenizer.encode(text, "second text")
        assert pair["input_ids"] == ours.ids
        assert ("token_type_ids" in pair) == (kind != "bytebpe")
        if kind != "bytebpe":
            assert pair["token_type_ids"] == ours.type_ids
            assert set(ours.type_ids) == {0, 1}
    again = load_tokenizer(tmp_path)
    assert again.vocabulary == tokenizer.vocabulary
    assert again.backend_key() == tokenizer.backend_key()


def test_wordpiece_agrees_with_transformers_bert_tokenizer(trained, tmp_path):
    from transformers import BertTokenizerFast

    vocabulary = trained["wordpiece"].backend.get_vocab()
    (tmp_path / "vocab.txt").write_text("".join(t + "\n" for t in sorted(vocabulary, key=vocabulary.get)))
    theirs = BertTokenizerFast(vocab=vocabulary, do_lower_case=True)
    ours = load_tokenizer(tmp_path / "vocab.txt")
    for text in ENGLISH[:3] + CHINESE[:3] + ["\x07bell \ufffd Ünï"]:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert trained["wordpiece"].encode_batch([text])[0][0].tolist() == expected
        assert ours.encode_batch([text])[0][0].tolist() == expected


TRAIN_ELSEWHERE = """
import hashlib, sys
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.train import train_tokenizer
from zoo.sample import sample_path
for language, size in (("en", 2000), ("zh", 4500)):
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(sample_path(language).glob("*.txt")))
    lines = [*text[:120_000].split("\\n"), *["25°C am 3°C, 5°F £7 ©a½ ™b §x †y ‡z a¤b c¦d e§f g¬h i®j k¯l m±n"] * 3]
    for kind in sys.argv[1:]:
        trained = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=size), iter(lines))
        print(kind, language, hashlib.sha256(trained.backend.to_str().encode()).hexdigest())
"""


def test_training_repeats_in_another_process():
    """Hash tables of the trainers have another order in each process; no vocabulary may follow it, nor the threads."""
    command = [sys.executable, "-c", TRAIN_ELSEWHERE, *TEMPLATES]
    processes = []
    for number in (1, 3):
        threads = {"RAYON_NUM_THREADS": str(number), "OMP_NUM_THREADS": str(number)}
        env = {**os.environ, "PYTHONHASHSEED": str(number), **threads}
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env))
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert len(outputs[0]) == 2 * len(TEMPLATES)
    assert outputs[0] == outputs[1]


def test_a_unigram_model_reads_the_character_that_sentencepiece_reserves():
    tokenizer = train_tokenizer(TokenizerConfig(kind="unigram", vocab_size=60), ["▅ ▅▅ town ▅x"] * 9)
    assert tokenizer.decode(tokenizer.backend.encode("▅x town").ids) == "▅x town"


def test_a_unigram_model_reads_words_without_an_end():
    """SentencePiece leaves out lines of more than 4,192 bytes, and is slow with long ones."""
    endless = ["town" * 50_000, "a river " * 20_000] * 2
    tokenizer = train_tokenizer(TokenizerConfig(kind="unigram", vocab_size=60), endless)
    vocabulary = tokenizer.backend.get_vocab()
    assert "▁river" in vocabulary
    assert any("town" in entry for entry in vocabulary)


def test_a_unigram_model_keeps_its_size():
    """Not even the least size is passed, and what cannot hold a character is an error."""
    texts = ["a town by the river"] * 5
    for size in (7, 8):
        trained = train_tokenizer(TokenizerConfig(kind="unigram", vocab_size=size), texts)
        assert trained.backend.get_vocab_size() == size
    with pytest.raises(ZooError, match=r"a space, a character and 5 special tokens need 7"):
        train_tokenizer(TokenizerConfig(kind="unigram", vocab_size=6), texts)
    with pytest.raises(ZooError, match="no text"):
        train_tokenizer(TokenizerConfig(kind="unigram"), ["\u200b"])


def test_a_signal_among_the_texts_of_a_unigram_model_is_raised_as_itself():
    class Interrupted(list):
        def __iter__(self):
            self.reads = getattr(self, "reads", 0) + 1
            yield "a town by the river"
            if self.reads == 3:  # checked, counted, then read by SentencePiece
                raise KeyboardInterrupt
            yield "a town"

    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(TokenizerConfig(kind="unigram", vocab_size=40), Interrupted())


def test_symbols_inside_words_come_behind_the_alphabet_in_order():
    lines = ["25°C is 77°F, a™b c®d e±f g¬h"] * 9
    tokenizer = train_tokenizer(TokenizerConfig(kind="wordpiece", vocab_size=200), lines)
    vocabulary = tokenizer.backend.get_vocab()
    symbols = [f"##{symbol}" for symbol in sorted("°™®±¬")]
    first = vocabulary[symbols[0]]
    assert [vocabulary[symbol] for symbol in symbols] == list(range(first, first + len(symbols)))
    assert all(vocabulary[c] < first for c in "ab27")
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_gpt1_vocabulary_loads_and_ends_words(tmp_path):
    base = ["<unk>", *"abcdehlorw", *[c + "</w>" for c in "abcdehlorw,"], "lo", "lo</w>", "he", "hel"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(base)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nl o\nl o</w>\nh e\nhe l\n")
    tokenizer = load_tokenizer(tmp_path)
    ids, flags = tokenizer.encode_batch(["Hello, world"])[0]
    assert [tokenizer.token(i) for i in ids] == ["hel", "lo</w>", ",</w>", "w", "o", "r", "l", "d</w>"]
    assert (flags & WORD_START).tolist() == [1, 0, 1, 1, 0, 0, 0, 0]
    assert tokenizer.decode(ids) == "hello , world"
    assert tokenizer.vocabulary.unk == 0
    assert tokenizer.vocabulary.mask is None


@pytest.mark.parametrize("kind", TEMPLATES)
def test_new_tokens_are_words_of_text_or_special(kind, tmp_path):
    """Ids and word starts with new tokens: looked up = whole texts = AutoTokenizer, after saving too."""
    from transformers import AutoTokenizer

    before = train(kind, 500)
    size = before.vocabulary.size
    new = ["<go>", "yak", "<url>", "京天安", "<go>", "the", before.roles["mask"]]
    config = TokenizerConfig(kind=kind, vocab_size=500, new_tokens=new)
    tokenizer = extend(before, config, Template("<go> $A", "<go> $A $B"))
    known = tokenizer.backend.token_to_id
    added = [token for token in dict.fromkeys(new) if known(token) >= size]
    assert [known(token) for token in added] == list(range(size, tokenizer.vocabulary.size))
    assert {"<go>", "yak", "<url>", "京天安"} <= set(added)
    assert tokenizer.roles == before.roles
    tokenizer.save(tmp_path)
    text = "The Yak at <url>, (yak) yaks <go> 我爱北京天安门上 yak"
    ids, flags = tokenizer.encode_batch([text])[0]
    assert ids.tolist() == _as_text(tokenizer).encode(text, add_special_tokens=False).ids
    assert known("<go>") not in ids  # special: written out in a text it is text
    assert (ids == known("<url>")).sum() == 1
    assert (ids == known("京天安")).sum() == 1
    assert (ids == known("yak")).sum() == (3 if config.folds_case else 2)  # yaks is another word
    again = load_tokenizer(tmp_path)
    assert again.vocabulary == tokenizer.vocabulary
    for found, wanted in zip(again.encode_batch([text])[0], (ids, flags)):
        assert np.array_equal(found, wanted)
    plain = text.replace("<go> ", "")
    opened = AutoTokenizer.from_pretrained(str(tmp_path))
    assert opened(plain, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch([plain])[0][0].tolist()
    assert opened("<go>", add_special_tokens=False)["input_ids"] == [known("<go>")]
    url = int(np.flatnonzero(ids == known("<url>"))[0])
    place = (
        url if kind in ("wordpiece", "word") else url - 1
    )  # else the space before it is a token, and starts the word
    assert flags[place] & WORD_START
    assert bool(flags[url] & WORD_START) == (place == url)


def test_new_tokens_take_the_roles_that_are_free(tmp_path):
    bare = train("bytebpe", special={"pad": "<pad>"})
    assert bare.vocabulary.mask is None
    names = ["[CLS]", "</s>", "<blank>"]
    grown = extend(bare, TokenizerConfig(kind="bytebpe", special={"mask": "<blank>"}, new_tokens=names))
    size = bare.vocabulary.size
    assert (grown.vocabulary.cls, grown.vocabulary.sep, grown.vocabulary.mask) == (size, size + 1, size + 2)
    ids = grown.encode("the <blank> sea").ids
    assert grown.vocabulary.mask in ids
    assert grown.token(ids[ids.index(grown.vocabulary.mask) - 1]) != "Ġ"  # the mask takes the space before it
    grown.save(tmp_path)
    assert (
        load_tokenizer(tmp_path).roles
        == grown.roles
        == {"pad": "<pad>", "cls": "[CLS]", "sep": "</s>", "mask": "<blank>"}
    )
    full = train("wordpiece")
    assert extend(full, TokenizerConfig(new_tokens=["<mask>"])).roles["mask"] == "[MASK]"


def test_sentinels_are_special_and_counted_downwards(tmp_path):
    before = train("unigram", 300)
    size, config = before.vocabulary.size, TokenizerConfig(kind="unigram", vocab_size=300, sentinels=3)
    grown = extend(before, config)
    known = grown.backend.token_to_id
    assert [known(f"<extra_id_{number}>") for number in range(4)] == [size + 2, size + 1, size, None]
    assert size + 2 not in grown.encode_batch(["the <extra_id_0> sea"])[0][0]  # written out in a text it is text
    grown.save(tmp_path)
    assert load_tokenizer(tmp_path).backend.token_to_id("<extra_id_0>") == size + 2
    assert config.recipe() == TokenizerConfig(kind="unigram", vocab_size=300).recipe()  # added, not trained


def test_new_tokens_end_words_where_words_have_ends(tmp_path):
    vocabulary = {t: i for i, t in enumerate(["<unk>", "t", "h", "e", "e</w>", "s", "a", "a</w>", "th", "the</w>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    config = TokenizerConfig(kind="file", path=str(tmp_path), new_tokens=["sea"])
    ids, flags = extend(load_tokenizer(tmp_path, config), config).encode_batch(["the sea the"])[0]
    assert ids.tolist() == [9, 10, 9]
    assert (flags & WORD_START).all()


def test_mistakes_are_explained(trained, tmp_path):
    with pytest.raises(ZooError, match="Did you mean 'wordpiece'"):
        TokenizerConfig(kind="wordpeice")
    with pytest.raises(ZooError, match=r"needs tokenizer\.path"):
        TokenizerConfig(kind="file")
    with pytest.raises(ZooError, match="too small"):
        train("bytebpe", 100)
    with pytest.raises(ZooError, match="no text"):
        train_tokenizer(TokenizerConfig(), iter(["", " "]))
    with pytest.raises(ZooError, match=r"'\[CLS\]' is no token"):
        trained["bytebpe"].set_template(Template())
    with pytest.raises(ZooError, match=r"does not exist"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ZooError, match=r"is no tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(ZooError, match="outside the vocabulary"):
        trained["word"].token(10**6)


MIXED = {  # text, words of a segmenter: the groups of tokens that come out
    "我爱卡拉OK": ["我", "爱", "卡拉OK"],
    "他穿T恤。": ["他", "穿", "T恤", "。"],
    "学(C++语言)吧": ["学", "(", "C++语言", ")", "吧"],
    "用C++语言": ["用", "C++语言"],
    "阿Q正传 and Hello": ["阿Q", "正传", " ", "and", " ", "Hello"],
    "买iPhone手机": ["买", "iPhone", "手机"],
}


def groups(tokenizer: ZooTokenizer, text: str, starts: list[int]) -> list[str]:
    """Characters of each word of the store."""
    (_, flags, _), places = tokenizer.encode_places([text], [starts])
    words = np.cumsum(flags & WORD_START)
    spans = [places[words == number] for number in range(1, words[-1] + 1)]
    return [text[int(span[0, 0]) : int(span[-1, 1])] for span in spans]


@pytest.mark.parametrize("text", MIXED)
def test_a_word_of_a_segmenter_is_one_group_whatever_its_script(trained, text):
    words = MIXED[text]
    starts = np.cumsum([0, *map(len, words)])[:-1].tolist()
    tokenizer = trained["wordpiece"]
    assert groups(tokenizer, text, starts) == [word for word in words if word.strip()]
    cached = tokenizer.encode_batch([text], [starts])[0]
    whole = encoded_whole(tokenizer, [text], [starts])
    assert cached[0].tolist() == whole[0].tolist()
    assert (cached[1] & WORD_START).tolist() == (whole[1] & WORD_START).tolist()


def test_words_that_do_not_align_fall_back_to_characters(trained):
    text, starts = "大BA股票市场", [0, 2, 4, 6]  # 大B | A股 | 票市 | 场: a boundary inside what is one token, BA
    assert aligned(text, starts) == [0, 1, 3, 4, 6]
    tokenizer = trained["wordpiece"]
    ids, _ = tokenizer.encode_batch([text], [aligned(text, starts)])[0]
    assert ids.tolist() == tokenizer.encode_batch([text])[0][0].tolist()
    assert groups(tokenizer, text, aligned(text, starts)) == ["大", "BA", "股", "票市", "场"]
    letters = "在Москва城"
    assert aligned(letters, list(range(len(letters)))) == [0, 1, 7]
    assert aligned("我爱(OK)", [0, 2, 3, 5]) == [0, 2, 3, 5]


def test_pieces_of_chinese_that_continue_words_never_reach_the_ids(tmp_path):
    """BERT-wwm, check 8: such entries are in the vocabulary, and a boundary is a flag, not a piece."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天气很好的", *("##" + c for c in "今天气很好的")]
    (tmp_path / "vocab.txt").write_text("\n".join([*pieces, "re", "##liable", "##l"]) + "\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    text, words = (
        "今天天气很reliable",
        ["今天", "天气", "很", "reliable"],
    )  # the paper's kind of example (specs: wwm, 3)
    starts = np.cumsum([0, *map(len, words)])[:-1].tolist()
    ids, flags = tokenizer.encode_batch([text], [starts])[0]
    assert [tokenizer.token(i) for i in ids] == ["今", "天", "天", "气", "很", "re", "##liable"]
    assert (flags & WORD_START).tolist() == [1, 0, 1, 0, 1, 1, 0]
    for number in range(1, len(text)):  # whatever the boundaries
        found = tokenizer.encode_batch([text, "天气很好的天气"], [[0, number], [0, min(number, 6)]])
        assert not {tokenizer.token(i) for ids, _ in found for i in ids} & set(pieces[11:])


def test_places_are_the_characters_of_the_tokens(trained):
    """Looked up = whole texts, and every visible character but those that normalisation drops is a token's."""
    texts = ["北京大学 Zürich xyzQ", "café  night", " 我爱 unbelievable.", "The quick Fox", " and she", "", "a\tb"]
    for kind, tokenizer in trained.items():
        (_, _, sizes), places = tokenizer.encode_places(texts)
        edges = np.append(0, np.cumsum(sizes))
        for text, a, b in zip(texts, edges, edges[1:]):
            (_, _, alone_size, offsets) = encoded_whole(tokenizer, [text], [None])
            assert alone_size[0] == b - a
            covered = {c for start, end in places[a:b].tolist() for c in range(start, end)}
            assert covered == {n for n, c in enumerate(text) if not c.isspace()}, (kind, text)
            for (start, end), (first, last) in zip(places[a:b].tolist(), offsets.tolist()):
                assert start >= end or text[start:end] == text[first:last].strip()
            assert (np.diff(places[a:b], axis=0) >= 0).all()


def test_words_of_running_text_are_looked_up_as_they_are_encoded(trained):
    """Ids, flags and places of segmented text: cached = whole, on a text of many words, twice."""
    pytest.importorskip("rjieba")
    text = sample_path("zh/wikipedia.txt").read_text(encoding="utf-8")[:8000]
    segmenter, tokenizer = Segmenter("rjieba"), trained["wordpiece"]
    found = [pair for line in text.split("\n") if (pair := segmenter.words(line.strip())) is not None]
    texts, starts = [pair[0] for pair in found], [pair[1] for pair in found]
    for _ in range(2):
        flat, places = tokenizer.encode_places(texts, starts)
        ids, flags, sizes, offsets = encoded_whole(tokenizer, texts, starts)
        assert np.array_equal(flat[0], ids)
        assert np.array_equal(flat[1], flags)
        assert np.array_equal(flat[2], sizes)
        assert np.array_equal(places, offsets)
    assert 0.3 < (flags & WORD_START).mean() < 0.8
