"""Tokenizers of others: what their files say is what they are, or they are refused by name."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pretraining.corpus.config import CorpusConfig
from pretraining.store.prepare import prepare_store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import extend, load_tokenizer
from zoo.errors import ZooError
from zoo.weights.files import copy_tokenizer

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "town", "The", "caf", "##é", "café", "river", "##s", "坏"),
    *"北京是中国的首都",
]
TEXT = "The town café 北京是 the"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 109540\n"


def folder_with(path, **files):
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        name = name.replace("_txt", ".txt").replace("_json", ".json")
        content = json.dumps(content) if isinstance(content, dict) else content
        (path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(pieces=PIECES, end="\n"):
    return "".join(f"{piece}{end}" for piece in pieces)


def ids_of(tokenizer, text=TEXT):
    return tokenizer.encode_batch([text])[0][0].tolist()


READABLE = {
    "plain": lines(),
    "byte-order mark": "\ufeff" + lines(),
    "CR LF": lines(end="\r\n"),
    "CR": lines(end="\r"),
    "no last end": lines()[:-1],
    "Baidu's": "".join(f"{piece}\t{number}\n" for number, piece in enumerate(PIECES)),
    "Baidu's in another order": "".join(f"{p}\t{n}\n" for n, p in reversed(list(enumerate(PIECES)))),
    "U+2028 and U+0085": lines([*PIECES, "\u2028", "\u0085"]),
    "an empty line": lines([*PIECES, "", "new"]),
}


@pytest.mark.parametrize("name", READABLE)
def test_the_id_of_an_entry_is_its_line(name, tmp_path):
    folder = folder_with(tmp_path / "their", vocab_txt=READABLE[name])
    assert copy_tokenizer(folder, folder_with(tmp_path / "in")) is not None
    for place in (folder, folder / "vocab.txt", tmp_path / "in"):
        tokenizer = load_tokenizer(place)
        assert [tokenizer.backend.token_to_id(piece) for piece in PIECES] == list(range(len(PIECES)))
        assert tokenizer.vocabulary.pad == 0
        assert tokenizer.vocabulary.mask == 4


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": False, "tokenize_chinese_chars": False},
    ],
)
def test_clean_up_is_that_of_transformers_by_either_way(facts, tmp_path):
    from transformers import BertTokenizer

    folder = folder_with(tmp_path / "their", vocab_txt=lines(), tokenizer_config_json=facts)
    right = BertTokenizer.from_pretrained(folder).encode(TEXT, add_special_tokens=False)
    copy_tokenizer(folder, folder_with(tmp_path / "in"))
    assert ids_of(load_tokenizer(folder)) == ids_of(load_tokenizer(tmp_path / "in")) == right


@pytest.mark.parametrize("model", ["albert", "roberta", "gpt2", "xlnet", "electra"])
def test_pieces_of_bert_are_read_as_such_whatever_the_model_is(model, tmp_path):
    config = {"model_type": model, "vocab_size": len(PIECES)}
    folder = folder_with(tmp_path / "their", vocab_txt=lines(), config_json=config)
    copy_tokenizer(folder, folder_with(tmp_path / "in"))
    assert 1 not in ids_of(load_tokenizer(tmp_path / "in"), "北京是中国的首都 the town")


def test_an_entry_that_stands_there_twice_takes_no_new_tokens_id(tmp_path):
    twice = [*PIECES[:9], "$", *PIECES[9:], "$"]
    folder = folder_with(tmp_path / "their", vocab_txt=lines(twice))
    notes = copy_tokenizer(folder, folder_with(tmp_path / "in"))
    assert any("'$' in lines 10 and" in note for note in notes)
    for place in (folder, tmp_path / "in"):
        config = TokenizerConfig(kind="file", path=str(place), new_tokens=["[NEW]"])
        backend = extend(load_tokenizer(place, config), config).backend
        assert backend.token_to_id("$") == len(twice) - 1
        assert backend.token_to_id("[NEW]") == len(twice)
        ids = list(backend.get_vocab(with_added_tokens=True).values())
        assert len(ids) == len(set(ids))


def byte_level(path, **model):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the town lies by the river there"] * 9, trainer)
    state = json.loads(backend.to_str())
    state["model"] |= model
    return folder_with(path, tokenizer_json=state), state


def test_dropout_of_merges_is_switched_off(tmp_path):
    folder, _ = byte_level(tmp_path / "their", dropout=0.5)
    notes = copy_tokenizer(folder, folder_with(tmp_path / "in"))
    assert any("dropout 0.5" in note for note in notes)
    assert json.loads((tmp_path / "in" / "tokenizer.json").read_text())["model"]["dropout"] is None
    for place in (folder, tmp_path / "in"):
        tokenizer = load_tokenizer(place)
        assert len({str(tokenizer.backend.encode("the town lies there").ids) for _ in range(20)}) == 1
    assert "dropout" in load_tokenizer(folder).notes[0]


def test_preparing_text_says_what_was_done_to_read_a_tokenizer(tmp_path, capsys):
    folder, _ = byte_level(tmp_path / "their", dropout=0.5)
    (tmp_path / "text.txt").write_text("the town lies by the river there\n\n" * 3)
    tokenizer = TokenizerConfig(kind="file", path=str(folder), new_tokens=["[NEW]"])
    prepare_store(CorpusConfig(files=str(tmp_path / "text.txt")), tokenizer, tmp_path / "stores", processes=1)
    assert "prepare: tokenizer.path: dropout 0.5" in capsys.readouterr().err


def test_ids_without_a_token_are_kept_free(tmp_path):
    folder, state = byte_level(tmp_path / "their")
    state["model"]["vocab"]["the later"] = 400
    folder_with(folder, tokenizer_json=state)
    config = TokenizerConfig(kind="file", path=str(folder), new_tokens=["[NEW]"])
    tokenizer = extend(load_tokenizer(folder, config), config)
    assert tokenizer.backend.token_to_id("[NEW]") == 401
    assert tokenizer.decode(ids_of(tokenizer, "the town")) == "the town"


def broken(path, change):
    folder, state = byte_level(path)
    change(state)
    return folder_with(folder, tokenizer_json=state)


BAD = {
    # name: (how to make the folder, words of the message)
    "special tokens only": (lambda p: folder_with(p, vocab_txt=lines(PIECES[:5])), "knows no word"),
    "spaces behind the entries": (lambda p: folder_with(p, vocab_txt=lines(PIECES[:5]) + "a \nb \n"), "knows no word"),
    "no unknown token": (lambda p: folder_with(p, vocab_txt="a\nb\n"), r"vocab.txt holds no \[UNK\]"),
    "empty": (lambda p: folder_with(p, vocab_txt=""), "vocab.txt holds no entries"),
    "a pointer as vocab.txt": (
        lambda p: folder_with(p, vocab_txt=LFS),
        "vocab.txt is not the file .*git lfs pull",
    ),
    "a pointer as tokenizer.json": (lambda p: folder_with(p, tokenizer_json=LFS), "tokenizer.json .*git lfs pull"),
    "GBK": (lambda p: folder_with(p, vocab_txt=lines().encode("gbk", "replace")), "vocab.txt, line .*GB18030"),
    "Baidu's with a gap": (lambda p: folder_with(p, vocab_txt="[UNK]\t0\na\t1\nb\t1\n"), "line 3: .*each id"),
    "words of MeCab": (
        lambda p: folder_with(p, vocab_txt=lines(), tokenizer_config_json={"word_tokenizer_type": "mecab"}),
        "word_tokenizer_type .* found in another way",
    ),
    "a special token that is not there": (
        lambda p: folder_with(p, vocab_txt=lines(), tokenizer_config_json={"mask_token": "<mask>"}),
        "lacks special tokens that its files name: mask '<mask>'",
    ),
    "one id for two": (
        lambda p: broken(p, lambda s: s["model"]["vocab"].update(twice=5)),
        "gives id 5 to '.*' and to '.*'",
    ),
    "no model": (lambda p: folder_with(p, tokenizer_json={"a": 1}), "it has no `model`"),
    "deep": (lambda p: folder_with(p, tokenizer_json="[" * 99_999), "tokenizer.json: lists or objects"),
    "merges of another": (
        lambda p: folder_with(p, vocab_json={"a": 0, "b": 1}, merges_txt="#version: 0.2\na b\n"),
        "merges.txt, line 2: 'ab' is not in vocab.json",
    ),
    "added tokens of another": (
        lambda p: folder_with(p, vocab_txt=lines(), added_tokens_json={"[NEW]": 99}),
        r"'\[NEW\]' has id 99 there, but would get 22",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_its_files_do_not_say_is_refused(name, tmp_path):
    make, words = BAD[name]
    with pytest.raises(ZooError, match=words) as caught:
        load_tokenizer(make(tmp_path / "their"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["special tokens only", "no unknown token", "a pointer as vocab.txt", "no model"])
def test_import_refuses_them_too(name, tmp_path):
    with pytest.raises(ZooError, match=r"tokenizer|vocab\.txt"):
        copy_tokenizer(BAD[name][0](tmp_path / "their"), folder_with(tmp_path / "in"))
