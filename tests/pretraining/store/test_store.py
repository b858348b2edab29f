"""Preparation: contents, boundaries, restart after a kill, one store whatever the processes, bad input."""

import collections
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from places import ROOT
from tokenizers import Tokenizer

from pretraining.annotations.lexicon import Lexicon
from pretraining.arrays import SENTENCE_START, WORD_START
from pretraining.corpus import chunks as reader
from pretraining.corpus.config import CorpusConfig
from pretraining.store import build, workers
from pretraining.store.job import StoreJob
from pretraining.store.prepare import prepare_from_ids, prepare_store
from pretraining.store.shards import Shard, ShardArrays, read_shard, shard_info, write_shard
from pretraining.store.writer import ABANDONED, work_lock
from pretraining.text.sentences import split_sentences
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.tokenizer.train import train_tokenizer
from zoo.errors import ZooError
from zoo.vocabulary import Template

WORDS = TokenizerConfig(vocab_size=400)


def write_corpus(path: Path, documents: int = 60, seed: int = 1) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    names = ["Alpha", "beta", "gamma", "Delta", "epsilon", "zeta", "café", "Theta", "iota", "kappa"]
    texts = []
    for _ in range(documents):
        lines = []
        for _ in range(rng.integers(1, 4)):
            sentences = [
                " ".join(rng.choice(names, rng.integers(2, 9))).capitalize() + "." for _ in range(rng.integers(1, 5))
            ]
            lines.append(" ".join(sentences))
        texts.append(lines)
    path.write_text("\n\n".join("\n".join(lines) for lines in texts) + "\n", encoding="utf-8")
    return texts


def content(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.name != "meta.json":
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(reader, "CHUNK", 2000)


def test_a_store_holds_what_the_text_says(tmp_path, small_chunks):
    texts = write_corpus(tmp_path / "a.txt")
    store = prepare_store(CorpusConfig(str(tmp_path / "a.txt")), WORDS, tmp_path / "stores", processes=1, quiet=True)
    tokenizer = load_tokenizer(store.path)
    assert store.path.name == f"a-{store.fingerprint[:8]}"
    assert store.num_documents == len(texts)
    offsets = np.asarray(store.sentences)
    sentences = [s for lines in texts for line in lines for s in split_sentences(line)]
    assert len(offsets) - 1 == len(sentences)
    per_document = [sum(len(split_sentences(line)) for line in lines) for lines in texts]
    assert np.diff(store.documents).tolist() == per_document
    for number in range(0, len(sentences), 7):
        ids = store.tokens[offsets[number] : offsets[number + 1]]
        assert ids.tolist() == tokenizer.encode_batch([sentences[number]])[0][0].tolist()
    starts = np.flatnonzero(np.asarray(store.flags) & SENTENCE_START)
    assert starts.tolist() == offsets[:-1].tolist()
    assert (np.asarray(store.flags)[starts] & WORD_START).all()
    counted = collections.Counter(np.asarray(store.tokens).tolist())
    assert {i: n for i, n in enumerate(store.counts.tolist()) if n} == dict(counted)
    assert store.tokens.dtype == np.uint16
    assert not (tmp_path / "stores" / ".work" / "shards").exists()


def test_the_template_is_in_the_files_but_not_in_the_fingerprint(tmp_path):
    write_corpus(tmp_path / "a.txt")
    config = CorpusConfig(str(tmp_path / "a.txt"))
    one = prepare_store(config, WORDS, tmp_path / "one", processes=1, quiet=True)
    two = prepare_store(config, WORDS, tmp_path / "two", processes=1, quiet=True, template=Template())
    assert one.fingerprint == two.fingerprint
    assert load_tokenizer(two.path).encode("alpha").tokens[0] == "[CLS]"


def test_a_finished_store_is_not_built_again_and_a_stale_one_not_used(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_corpus(path)
    first = prepare_store(CorpusConfig(str(path)), WORDS, tmp_path / "stores", processes=1, quiet=True)
    with monkeypatch.context() as m:
        m.setattr("pretraining.store.prepare.build_store", lambda *_: pytest.fail("built again"))
        assert prepare_store(CorpusConfig(str(path)), WORDS, tmp_path / "stores").path == first.path
        elsewhere = tmp_path / "elsewhere" / "a.txt"
        elsewhere.parent.mkdir()
        shutil.copy(path, elsewhere)  # the same bytes in another place are the same store
        assert prepare_store(CorpusConfig(str(elsewhere)), WORDS, tmp_path / "stores").path == first.path
    path.write_text(path.read_text().replace("kappa", "kappo", 1))  # same length, another content
    second = prepare_store(CorpusConfig(str(path)), WORDS, tmp_path / "stores", processes=1, quiet=True)
    assert second.path != first.path
    seen = {json.dumps(StoreJob(CorpusConfig(str(path)), WORDS, tmp_path / "stores", True).request)}
    for corpus, tokenizer in [
        (CorpusConfig(str(path), sentences="line"), WORDS),
        (CorpusConfig(str(path), segmenter="space"), WORDS),
        (CorpusConfig(str(path)), TokenizerConfig(vocab_size=300)),
        (CorpusConfig(str(path)), TokenizerConfig(kind="word", vocab_size=400)),
        (CorpusConfig([str(path), str(elsewhere)]), WORDS),
    ]:
        seen.add(json.dumps(StoreJob(corpus, tokenizer, tmp_path / "stores", True).request))
    assert len(seen) == 6


def test_another_content_of_the_trained_tokenizer_is_another_store(tmp_path, monkeypatch):
    """As other versions of the trainer make; the store that is there is found without training again."""
    write_corpus(tmp_path / "a.txt")
    corpus = CorpusConfig(str(tmp_path / "a.txt"))
    first = prepare_store(corpus, WORDS, tmp_path / "one", processes=1, quiet=True)

    def turned(config, texts, **options):
        trained = train_tokenizer(config, texts, **options)
        state = json.loads(trained.backend.to_str())
        special = len(trained.roles)
        state["model"]["vocab"] = {
            entry: index if index < special else len(state["model"]["vocab"]) - 1 + special - index
            for entry, index in state["model"]["vocab"].items()
        }
        return ZooTokenizer(Tokenizer.from_str(json.dumps(state)), trained.roles)

    monkeypatch.setattr("pretraining.store.build.train_tokenizer", turned)
    second = prepare_store(corpus, WORDS, tmp_path / "two", processes=1, quiet=True)
    assert second.fingerprint != first.fingerprint
    assert second.path.name != first.path.name
    monkeypatch.setattr("pretraining.store.build.train_tokenizer", lambda *_, **__: pytest.fail("trained again"))
    for store in (first, second):
        assert prepare_store(corpus, WORDS, store.path.parent, processes=1, quiet=True).fingerprint == store.fingerprint


def test_new_tokens_are_part_of_the_fingerprint_and_of_the_store(tmp_path):
    (tmp_path / "a.txt").write_text("The quokka sleeps at <url> today. It dreams.\n" * 20)
    corpus, shared = CorpusConfig(str(tmp_path / "a.txt")), {"vocab_size": 60, "min_frequency": 50}
    own = Template("<go> $A", "<go> $A $B")
    stores = []
    for new, template in [([], None), (["quokka", "<go>"], None), (["quokka", "<go>"], own)]:
        config = TokenizerConfig(new_tokens=new, **shared)
        stores.append(prepare_store(corpus, config, tmp_path / "stores", processes=1, quiet=True, template=template))
    loaded = TokenizerConfig("file", str(stores[0].path), new_tokens=["quokka", "<go>"])
    stores.append(prepare_store(corpus, loaded, tmp_path / "stores", processes=2, quiet=True, template=own))
    assert len({store.fingerprint for store in stores}) == 4
    assert np.array_equal(stores[2].tokens, stores[3].tokens)
    assert np.array_equal(stores[2].flags, stores[3].flags)
    quokka = load_tokenizer(stores[2].path).backend.token_to_id("quokka")
    assert quokka == stores[0].meta["vocab_size"]
    assert stores[2].counts[quokka] == 20
    assert stores[0].num_tokens > stores[2].num_tokens
    specials = json.loads((stores[2].path / "tokenizer.json").read_text())["added_tokens"]
    assert {entry["content"]: entry["special"] for entry in specials if entry["id"] >= quokka} == {
        "quokka": False,
        "<go>": True,
    }


@pytest.mark.parametrize("kind", ["wordpiece", "bytebpe"])
def test_one_document_in_many_chunks_is_one_document(tmp_path, monkeypatch, kind):
    body = "\n".join(f"Sentence number {i} is here." for i in range(400))
    (tmp_path / "a.txt").write_text(f"Before it.\n\n{body}\n\nAfter it.\n")
    config = CorpusConfig(str(tmp_path / "a.txt"))
    whole = prepare_store(
        config, TokenizerConfig(kind=kind, vocab_size=400), tmp_path / "whole", processes=1, quiet=True
    )
    monkeypatch.setattr(reader, "CHUNK", 1000)
    parts = prepare_store(
        config, TokenizerConfig(kind=kind, vocab_size=400), tmp_path / "parts", processes=1, quiet=True
    )
    assert np.diff(whole.documents).tolist() == [1, 400, 1]
    assert content(whole.path) == content(parts.path)


def test_byte_level_tokens_of_a_paragraph_decode_to_it(tmp_path):
    text = "One sentence here.  Two of them! And “three”, perhaps. 中文句子。再来一句。"
    (tmp_path / "a.txt").write_text(text + "\n")
    tokenizer = TokenizerConfig(kind="bytebpe", vocab_size=400)
    store = prepare_store(CorpusConfig(str(tmp_path / "a.txt")), tokenizer, tmp_path / "s", processes=1, quiet=True)
    assert len(store.sentences) - 1 == 5
    assert load_tokenizer(store.path).decode(np.asarray(store.tokens)) == text.replace("  ", " ")


@pytest.mark.slow
def test_one_and_two_processes_write_the_same_bytes(tmp_path, small_chunks):
    write_corpus(tmp_path / "a.txt", 300)
    config = CorpusConfig(str(tmp_path / "a.txt"))
    one = prepare_store(config, WORDS, tmp_path / "one", processes=1, quiet=True)
    two = prepare_store(config, WORDS, tmp_path / "two", processes=2, quiet=True)
    assert content(one.path) == content(two.path)
    assert one.meta["fingerprint"] == two.meta["fingerprint"]


CHILD = """
import sys
from pretraining.corpus import chunks
from pretraining.corpus.config import CorpusConfig
chunks.CHUNK = 4000
from pretraining.store.prepare import prepare_store
from pretraining.store.recipe import Recipe
import time
if {slow}:
    run = Recipe.run
    Recipe.run = lambda self, chunk: (time.sleep(0.05), run(self, chunk))[1]
from pretraining.tokenizer.config import TokenizerConfig
config = TokenizerConfig(vocab_size=400)
prepare_store(CorpusConfig({path!r}), config, {folder!r}, processes={processes}, quiet=True)
"""


def start(path: Path, folder: Path, processes: int, slow: bool) -> subprocess.Popen:
    code = CHILD.format(path=str(path), folder=str(folder), processes=processes, slow=slow)
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


@pytest.mark.slow
def test_killed_preparation_goes_on_with_its_finished_shards(tmp_path):
    path = tmp_path / "a.txt"
    write_corpus(path, 600)
    assert start(path, tmp_path / "whole", 1, slow=False).wait(60) == 0
    child = start(path, tmp_path / "killed", 1, slow=True)
    try:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "killed").glob(".work/*/shards/*.shard"))) < 5:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob(".work/*/shards/*.shard")}
    assert not list((tmp_path / "killed").glob("a-*/meta.json"))
    kept = tmp_path / "kept"  # the shards go when the store is finished: hard links remember them
    kept.mkdir()
    for shard in done:
        os.link(shard, kept / shard.name)
    assert start(path, tmp_path / "killed", 2, slow=False).wait(60) == 0
    for shard, changed in done.items():
        assert (kept / shard.name).stat().st_mtime_ns == changed
    (whole,), (again,) = (tmp_path / "whole").glob("a-*"), (tmp_path / "killed").glob("a-*")
    assert whole.name == again.name
    assert content(whole) == content(again)


def test_finished_shards_are_not_made_again_after_a_bad_line_is_mended(tmp_path, small_chunks, monkeypatch):
    write_corpus(tmp_path / "seed.txt")
    given = prepare_store(CorpusConfig(str(tmp_path / "seed.txt")), WORDS, tmp_path / "stores", processes=1, quiet=True)
    tokenizer = TokenizerConfig(kind="file", path=str(given.path))
    path = tmp_path / "b.txt"
    write_corpus(path, 200, seed=2)
    good = path.read_bytes()
    place = good.index(b"\n", len(good) // 2) + 5
    line = good.count(b"\n", 0, place) + 1
    path.write_bytes(good[:place] + b"\xff" + good[place + 1 :])
    made = []
    write = workers.write_shard
    monkeypatch.setattr(workers, "write_shard", lambda p, a: (made.append(p), write(p, a)))
    with pytest.raises(ZooError, match=rf"b\.txt:{line}: invalid UTF-8"):
        prepare_store(CorpusConfig(str(path)), tokenizer, tmp_path / "stores", processes=1, quiet=True)
    before = list(made)
    assert len(before) > 3
    path.write_bytes(good)
    store = prepare_store(CorpusConfig(str(path)), tokenizer, tmp_path / "stores", processes=1, quiet=True)
    assert not set(before) & set(made[len(before) :])
    fresh = prepare_store(CorpusConfig(str(path)), tokenizer, tmp_path / "fresh", processes=1, quiet=True)
    assert content(store.path) == content(fresh.path)


@pytest.mark.slow
def test_bad_input_in_a_worker_is_told_by_file_and_line(tmp_path, small_chunks):
    write_corpus(tmp_path / "seed.txt")
    given = prepare_store(CorpusConfig(str(tmp_path / "seed.txt")), WORDS, tmp_path / "stores", processes=1, quiet=True)
    rows = [json.dumps({"text": f"Row number {i} here."}) for i in range(500)]
    rows[321] = '{"txt": "no"}'
    (tmp_path / "b.jsonl").write_text("\n".join(rows) + "\n")
    tokenizer = TokenizerConfig(kind="file", path=str(given.path))
    with pytest.raises(ZooError, match=r"b\.jsonl:322: no field 'text'.*Did you mean 'txt'"):
        prepare_store(CorpusConfig(str(tmp_path / "b.jsonl")), tokenizer, tmp_path / "stores", processes=2, quiet=True)


def test_a_second_preparation_waits_for_the_first(tmp_path, capfd):
    work = tmp_path / "work"
    with work_lock(work, True):
        code = (
            "from pathlib import Path; from pretraining.store.writer import work_lock\n"
            f"with work_lock(Path({str(work)!r}), False): print('inside')"
        )
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert f"process {os.getpid()}" in child.stderr.readline()
        assert child.poll() is None
    assert child.wait(20) == 0


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    write_corpus(tmp_path / "a.txt")
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 10))
    with pytest.raises(ZooError, match=r"MB are needed.*0 MB are free"):
        prepare_store(CorpusConfig(str(tmp_path / "a.txt")), WORDS, tmp_path / "stores", quiet=True)


def test_white_space_only_is_no_corpus(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n \n")
    with pytest.raises(ZooError, match=r"no text|no documents"):
        prepare_store(CorpusConfig(str(tmp_path / "a.txt")), WORDS, tmp_path / "stores", processes=1, quiet=True)


def test_ids_become_a_store(tmp_path):
    write_corpus(tmp_path / "a.txt")
    tokenizer = load_tokenizer(
        prepare_store(CorpusConfig(str(tmp_path / "a.txt")), WORDS, tmp_path, processes=1, quiet=True).path
    )
    documents = [[[5, 6, 7], [8]], [], [[9, 10], []]]
    store = prepare_from_ids(documents, tokenizer, tmp_path)
    assert store.tokens.tolist() == [5, 6, 7, 8, 9, 10]
    assert store.sentences.tolist() == [0, 3, 4, 6]
    assert store.documents.tolist() == [0, 2, 3]
    assert (np.asarray(store.flags) & SENTENCE_START).tolist() == [2, 0, 0, 2, 2, 0]
    assert prepare_from_ids(documents, tokenizer, tmp_path).path == store.path
    assert not list(tmp_path.glob(".*partial"))
    with pytest.raises(ZooError, match=r"document 0, sentence 0: id 99999 is outside"):
        prepare_from_ids([[[99999]]], tokenizer, tmp_path)


def test_preparing_imports_nothing_heavy():
    heavy = {"torch", "transformers", "datasets", "sklearn", "pyarrow"}
    code = f"import sys, pretraining.store.prepare; print(*{heavy} & set(sys.modules))"
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert out.strip() == ""


def test_a_segmenter_without_anything_to_do_is_refused_before_work(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "train_tokenizer", lambda *_, **__: pytest.fail("work was done"))
    (tmp_path / "en.txt").write_text("Only English here, page after page of it.\n" * 600)
    (tmp_path / "zh.txt").write_text("我们没有在词之间放空格，一页又一页都是这样。\n" * 1100)
    names = "Only English, and 北京, page after page of it.\n"
    (tmp_path / "names.txt").write_text(names + "Only English here.\n" * 1400)
    for segmenter, name, message in [
        ("space", "en", r"there is no Chinese character in the first 24,600 of .*`corpus\.segmenter: none` is for"),
        ("rjieba", "names", r"there are only 2 Chinese characters in the first 25,2.. of "),
        ("space", "zh", r"beside 22,000 Chinese characters of .*zh\.txt' there are 0 spaces: it is not segmented"),
    ]:
        with pytest.raises(ZooError, match=message):
            prepare_store(CorpusConfig(str(tmp_path / f"{name}.txt"), segmenter=segmenter), WORDS, tmp_path, quiet=True)
    (tmp_path / "short.txt").write_text("Too short to tell.")
    monkeypatch.undo()
    short = CorpusConfig(str(tmp_path / "short.txt"), segmenter="space")
    assert prepare_store(short, WORDS, tmp_path, processes=1, quiet=True).num_tokens


def test_shards_that_nobody_goes_on_with_are_removed(tmp_path):
    write_corpus(tmp_path / "a.txt")
    stores = tmp_path / "stores"
    old = time.time() - ABANDONED - 100
    folders = {name: stores / ".work" / name for name in ("old", "held", "young")}
    for name, folder in folders.items():
        (folder / "shards").mkdir(parents=True)
        (folder / "lock").write_text("process 1\n")
        (folder / "shards" / "x.shard").write_text("x")
        for path in (folder / "shards" / "x.shard", folder / "shards", folder / "lock", folder):
            if name != "young":
                os.utime(path, (old, old))
    with (folders["held"] / "lock").open("r") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        prepare_store(CorpusConfig(str(tmp_path / "a.txt")), WORDS, stores, processes=1, quiet=True)
    assert [(folder / "shards").exists() for folder in folders.values()] == [False, True, True]
    assert (folders["old"] / "lock").exists()


def test_shards_of_another_version_are_made_again(tmp_path):
    shard = ShardArrays(
        np.arange(3, dtype=np.uint16),
        np.ones(3, dtype=np.uint8),
        np.array([3]),
        np.array([1]),
        True,
        {"x": np.array([0, 7, 0], dtype=np.int32)},
        {"x": {"cut": 2}},
    )
    path = tmp_path / "a.shard"
    write_shard(path, shard)
    assert shard_info(path) == Shard(path, 3, True)
    again = read_shard(path)
    assert all(np.array_equal(a, b) for a, b in zip(shard[:4], again[:4]))
    assert again.arrays["x"].tolist() == [0, 7, 0]
    assert again.left_out == shard.left_out
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"ZOOSHRD1" + whole[8:], whole[:20], b""):
        path.write_bytes(damaged)
        assert shard_info(path) is None


def test_ids_come_with_arrays(tmp_path):
    write_corpus(tmp_path / "a.txt")
    tokenizer = load_tokenizer(
        prepare_store(CorpusConfig(str(tmp_path / "a.txt")), WORDS, tmp_path, processes=1, quiet=True).path
    )
    documents = [[[5, 6, 7], [8]], [], [[9, 10], []]]
    values = [[[0, 3, 0], [4]], [], [[0, 70_000], []]]
    store = prepare_from_ids(documents, tokenizer, tmp_path, arrays={"entity_id": iter(values)})
    assert store.arrays["entity_id"].tolist() == [0, 3, 0, 4, 0, 70_000]
    other = prepare_from_ids(documents, tokenizer, tmp_path, arrays={"entity_id": [[[0, 3, 0], [5]], [], [[0, 1], []]]})
    assert other.path != store.path
    assert prepare_store(CorpusConfig(str(store.path)), WORDS, tmp_path, quiet=True).path == store.path
    with pytest.raises(ZooError, match="document 0: 'entity_id' does not have one value for each token"):
        prepare_from_ids(documents, tokenizer, tmp_path, arrays={"entity_id": [[[0, 3], [5]]]})


def test_a_tokenizer_that_knows_hardly_anything_is_refused_before_the_work(tmp_path, monkeypatch, capfd):
    write_corpus(tmp_path / "en.txt")
    english = prepare_store(CorpusConfig(str(tmp_path / "en.txt")), WORDS, tmp_path / "s", processes=1)
    assert "unknown" not in capfd.readouterr().err
    loaded = TokenizerConfig(kind="file", path=str(english.path))
    (tmp_path / "zh.txt").write_text("北京是中国的首都。上海是中国的城市。\n" * 20, encoding="utf-8")
    monkeypatch.setattr(build.ShardBuilder, "run", lambda self: pytest.fail("text was prepared"))
    with pytest.raises(ZooError, match=r"100\.0% of the tokens of the beginning of .*zh\.txt.*--data\.tokenizer\.kind"):
        prepare_store(CorpusConfig(str(tmp_path / "zh.txt")), loaded, tmp_path / "s", processes=1)
    monkeypatch.undo()
    (tmp_path / "mixed.txt").write_text("Alpha beta gamma Delta zeta 京 Theta.\n" * 20, encoding="utf-8")
    for _ in range(2):  # built, and opened
        prepare_store(CorpusConfig(str(tmp_path / "mixed.txt")), loaded, tmp_path / "s", processes=1)
        assert "% of the tokens are unknown to the tokenizer ([UNK])" in capfd.readouterr().err
    (tmp_path / "rare.txt").write_text(" ".join(f"rare{n}" for n in range(300)) + " often" * 9, encoding="utf-8")
    of_its_own = TokenizerConfig(kind="word", min_frequency=5)  # trained on the text, most of whose words are too rare
    prepare_store(CorpusConfig(str(tmp_path / "rare.txt")), of_its_own, tmp_path / "s", processes=1)
    assert "% of the tokens are unknown to the tokenizer ([UNK])" in capfd.readouterr().err
    start = "Alpha beta gamma Delta epsilon zeta. " * 800 + "\n"  # the beginning does not tell
    (tmp_path / "later.txt").write_text(start + "北京是中国的首都。\n" * 9000, encoding="utf-8")
    with pytest.raises(ZooError, match=r"% of the tokens of .*later\.txt are unknown"):
        prepare_store(CorpusConfig(str(tmp_path / "later.txt")), loaded, tmp_path / "s", processes=1)


def test_a_prepared_store_says_what_has_no_effect_on_it(tmp_path, capfd):
    write_corpus(tmp_path / "en.txt")
    for name in ("names", "others"):
        (tmp_path / name).write_text(f"{'Alpha' if name == 'names' else 'beta'}\n")
    names, others = (Lexicon(files=str(tmp_path / name)) for name in ("names", "others"))
    corpus = CorpusConfig(str(tmp_path / "en.txt"), annotations={"entity": names})
    store = prepare_store(corpus, WORDS, tmp_path / "s", processes=1)
    assert "entity (Lexicon): " in capfd.readouterr().err  # what its annotations came to
    prepare_store(CorpusConfig(str(store.path), annotations={"entity": names}), WORDS, tmp_path / "s")
    assert "without effect" not in capfd.readouterr().err
    asked = CorpusConfig(str(store.path), annotations={"entity": others, "phrase": names}, segmenter="space")
    prepare_store(asked, WORDS, tmp_path / "s")
    told = capfd.readouterr().err
    assert "without effect, being otherwise there: annotations.entity, annotations.phrase, segmenter space\n" in told
    prepare_store(
        CorpusConfig(str(tmp_path / "en.txt")),
        TokenizerConfig(kind="bytebpe", vocab_size=300),
        tmp_path / "t",
        processes=1,
    )
    (other,) = (tmp_path / "t").glob("en-*")
    prepare_store(CorpusConfig(str(store.path)), TokenizerConfig(kind="file", path=str(other)), tmp_path / "s")
    assert f"there: tokenizer {other}" in capfd.readouterr().err


def test_names_that_are_no_utf8_do_not_stop_a_preparation(tmp_path):
    """GBK's bytes are halves of surrogate pairs to Python."""
    name = os.fsdecode("文本".encode("gbk"))
    folder = tmp_path / "texts"
    folder.mkdir()
    write_corpus(folder / f"{name}.txt")
    os.utime(folder / f"{name}.txt", (1e9, 1e9))  # old enough for its digest to be kept
    pyarrow.parquet.write_table(pyarrow.table({"text": ["One text. It is short."]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(folder / f"{name}.parquet")
    for files in (str(folder), str(folder / f"{name}.txt"), str(folder / "*.parquet")):
        store = prepare_store(CorpusConfig(files), WORDS, tmp_path / "stores", processes=1, quiet=True)
        assert store.meta["source"] == files
    assert any(name in path for path in json.loads((tmp_path / "stores" / ".hashes.json").read_text()))
    (folder / f"{name}.jsonl").write_text("{}")
    with pytest.raises(ZooError, match=r"\.jsonl:1: no field 'text'"):
        prepare_store(CorpusConfig(str(folder)), WORDS, tmp_path / "stores", processes=1, quiet=True)
