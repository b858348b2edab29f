"""Entity vectors: TransE on toy and real facts, files of others, the sample with linked entities."""

from __future__ import annotations

import json
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from places import SHARED

from pretraining.annotations.linked import read_entities
from pretraining.store.token_store import Store
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tools.entities import EntitiesConfig, make_table, read_vectors
from pretraining.tools.linked import LinkedConfig, TokenMention, entities_of, linked_store, read_linked, write_records
from pretraining.tools.transe import Graph, TransEConfig, TransETrainer, ranks, read_triples, train_transe
from zoo.cli import dispatch
from zoo.errors import ZooError
from zoo.storage.entity_table import open_entities, read_names, save_entities

ERNIE = SHARED / "ernie"
TOY = TransEConfig(width=16, epochs=60, batch_size=64)


def toy_triples() -> list[tuple[str, str, str]]:
    """Towns, each in a country and on a continent, with neighbours: 3 relations, 45 entities."""
    found = []
    for town in range(36):
        country = town % 6
        found.append((f"town {town}", "in", f"country {country}"))
        found.append((f"town {town}", "on", f"continent {country % 3}"))
        found.append((f"town {town}", "beside", f"town {(town + 6) % 36}"))
    return found


def write_triples(path: Path, triples) -> Path:
    path.write_text("".join("\t".join(triple) + "\n" for triple in triples), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    return write_triples(tmp_path_factory.mktemp("triples") / "toy.tsv", toy_triples())


# ---- TransE ---------------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_true_triples_rank_above_corrupted_ones(toy):
    graph = read_triples(toy)
    assert (len(graph.entities), len(graph.relations), len(graph.triples)) == (45, 3, 108)
    vectors = train_transe(graph, TOY, show=False)
    assert vectors.losses[-1] < 0.3 * vectors.losses[0]
    untrained = train_transe(graph, TransEConfig(width=16, epochs=1, batch_size=64, lr=1e-9), show=False)
    chance = (len(graph.entities) + 1) / 2
    assert ranks(untrained, graph.triples).mean() == pytest.approx(chance, rel=0.25)
    assert ranks(vectors, graph.triples).mean() < 0.25 * chance
    lengths = vectors.entities.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("norm", [1, 2])
def test_the_same_seed_gives_the_same_vectors(toy, norm):
    graph = read_triples(toy)
    config = TransEConfig(width=8, epochs=4, batch_size=32, norm=norm)
    first, second = (train_transe(graph, config, show=False) for _ in range(2))
    assert torch.equal(first.entities, second.entities)
    assert torch.equal(first.relations, second.relations)
    other = train_transe(graph, TransEConfig(width=8, epochs=4, batch_size=32, norm=norm, seed=1), show=False)
    assert not torch.equal(first.entities, other.entities)


def test_a_step_moves_by_the_gradient():
    """One batch against autograd: the direction of every row's step, scaled by its first sum of squares."""
    graph = Graph(["a", "b", "c", "d"], ["r", "s"], np.array([[0, 0, 1], [2, 1, 3], [0, 1, 2]]))
    trainer = TransETrainer(graph, TransEConfig(width=6, lr=1e-3, margin=2.0))
    tables = [table.clone().requires_grad_() for table in trainer.tables]
    true = torch.tensor([[0, 0, 1], [2, 1, 3], [0, 1, 2]])
    corrupted = torch.tensor([[0, 0, 3], [1, 1, 3], [0, 1, 1]])

    def distance(t):
        return (tables[0][t[:, 0]] + tables[1][t[:, 1]] - tables[0][t[:, 2]]).norm(dim=1)

    loss = (2.0 + distance(true) - distance(corrupted)).clamp_min(0).sum()
    loss.backward()
    assert trainer.step(true, corrupted).item() == pytest.approx(loss.item(), rel=1e-5)
    for kind, table in enumerate(tables):
        moved = table.detach() - 1e-3 * table.grad / table.grad.square().mean(1, keepdim=True).sqrt()
        expected = torch.nn.functional.normalize(moved) if kind == 0 else moved
        torch.testing.assert_close(trainer.tables[kind], expected, atol=1e-6, rtol=1e-5)


def test_facts_of_a_benchmark_are_left_out(toy, tmp_path):
    answers = [("country 0", "holds", "town 0"), ("town 1", "in", "country 1")]  # also against the direction
    graph = read_triples(toy, write_triples(tmp_path / "answers.tsv", answers))
    assert graph.left_out == 2
    assert len(graph.triples) == 106
    names = [(graph.entities[h], graph.entities[t]) for h, _, t in graph.triples]
    assert ("town 0", "country 0") not in names
    assert ("town 0", "continent 0") in names
    assert "town 0" in graph.entities
    assert len(read_triples(toy).triples) == 108


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no triple"),
        ("a\tr\tb\na\tr\n", r"line 2: 'a\\tr' is no triple; head, relation and tail"),
        ("a r b\n", "line 1: 'a r b' is no triple"),
        ("a\t\tb\n", "line 1: .* is no triple"),
        ("a\tr\tb\tc\n", "line 1: .* with a tab between them"),
    ],
)
def test_files_that_hold_no_triples(tmp_path, text, words):
    path = tmp_path / "facts.tsv"
    path.write_text(text)
    with pytest.raises(ZooError, match=words) as error:
        read_triples(path)
    assert "facts.tsv" in str(error.value)


def test_settings_that_cannot_train(toy, tmp_path):
    with pytest.raises(ZooError, match=r"missing\.tsv does not exist"):
        read_triples(tmp_path / "missing.tsv")
    with pytest.raises(ZooError, match="is a folder; a file is needed"):
        read_triples(tmp_path)
    with pytest.raises(ZooError, match="no triple that is not excluded"):
        read_triples(toy, toy)
    with pytest.raises(ZooError, match=r"transe\.epochs = 0"):
        TransEConfig(epochs=0)
    with pytest.raises(ZooError, match=r"transe\.lr = -1"):
        TransEConfig(lr=-1)
    with pytest.raises(ZooError, match="at least two entities"):
        train_transe(read_triples(write_triples(tmp_path / "one.tsv", [("a", "r", "a")])), TOY, show=False)


def test_fewrels_facts(tmp_path):
    path = ERNIE / "fewrel" / "val_wiki.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: shared data are needed")
    rows = json.loads(path.read_text(encoding="utf-8"))
    facts = [(row["h"][1], relation, row["t"][1]) for relation, own in rows.items() for row in own[::5]]
    graph = read_triples(write_triples(tmp_path / "fewrel.tsv", facts))
    assert len(graph.relations) == 16
    vectors = train_transe(graph, TransEConfig(width=32, epochs=25, batch_size=256), show=False)
    chance = (len(graph.entities) + 1) / 2
    assert vectors.losses[-1] < 0.3 * vectors.losses[0]
    assert ranks(vectors, graph.triples).mean() < 0.1 * chance


# ---- the command, files of others -----------------------------------------------------------------------------------


def test_the_command_trains_a_table(toy, tmp_path, capsys):
    argv = ["entities", "--triples", str(toy), "--output", str(tmp_path / "t"), "--transe.epochs", "5"]
    assert dispatch([*argv, "--transe.width", "8"]) == 0
    assert "45 entities, vectors of width 8" in capsys.readouterr().out
    table = open_entities(tmp_path / "t")
    assert table.names[:2] == ["town 0", "country 0"]
    record = json.loads((tmp_path / "t" / "transe.json").read_text())
    assert (record["entities"], record["relations"], record["triples"], len(record["loss"])) == (45, 3, 108, 5)
    assert (record["source"], record["chance_rank"]) == ("toy.tsv", 23.0)
    assert (tmp_path / "t" / "relations.txt").read_text() == "in\non\nbeside\n"
    same = train_transe(read_triples(toy), TransEConfig(width=8, epochs=5), show=False)
    assert (table.vectors == same.entities.numpy()).all()
    make_table(EntitiesConfig(str(tmp_path / "s"), like=str(tmp_path / "t")), show=False)
    assert (np.sort(open_entities(tmp_path / "s").vectors, axis=0) == np.sort(table.vectors, axis=0)).all()
    assert open_entities(tmp_path / "s").names == table.names


def test_one_way_to_make_a_table(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ZooError, match="file is a file; the table is a folder"):
        EntitiesConfig(str(tmp_path / "file"), triples="a")
    for given in ({}, {"triples": "a", "like": "b"}):
        with pytest.raises(ZooError, match="name one of --triples, --vectors and --like"):
            EntitiesConfig("x", **given)
    with pytest.raises(ZooError, match="--ids names the entities of --vectors"):
        EntitiesConfig("x", triples="a", ids="b")
    with pytest.raises(ZooError, match="--exclude takes facts out of --triples"):
        EntitiesConfig("x", like="a", exclude="b")


def test_vectors_of_others(tmp_path):
    ids, vectors, text = tmp_path / "entity2id.txt", tmp_path / "entity2vec.vec", tmp_path / "w2v.txt"
    ids.write_text("3\nQ7\t0\nQ9\t2\nQ8\t1\n")
    vectors.write_text("1.5\t2\t\n3\t-4e-1\t\n5\t6\t\n")
    text.write_text("2 3\nQ7 1 2 3\nQ8 4 5 6.5\n")
    names, rows = read_vectors(vectors, ids)
    assert names == ["Q7", "Q8", "Q9"]
    assert rows.tolist() == [[1.5, 2], [3, np.float32(-0.4)], [5, 6]]
    table = make_table(EntitiesConfig(str(tmp_path / "t"), vectors=str(text)), show=False)
    assert (table.names, table.vectors.tolist()) == (["Q7", "Q8"], [[1, 2, 3], [4, 5, 6.5]])


@pytest.mark.parametrize(
    ("vectors", "ids", "words"),
    [
        ("1 2\n3\n", "2\na\t0\nb\t1\n", "vector 2 has 1 values, the first has 2"),
        ("1 2\n3 4\n", "1\na\t0\n", r"names 1 entities, .* has 2 vectors"),
        ("1 2\n3 x\n", "2\na\t0\nb\t1\n", "line 2: a value is no number"),
        ("1 2\n3 4\n", "2\na\t0\nb\t0\n", "i:3: the name 'b' or the number 0 occurs a second time"),
        ("1 2\n3 4\n", "2\na\t0\nb\t5\n", "not from 0 to 1"),
        ("1 2\n3 nan\n", "2\na\t0\nb\t1\n", "line 2: the value nan is not finite"),
        ("2 2\na 1 2\nb inf 4\n", None, "line 3: the value inf is not finite"),
        ("2 2\na 1 2\nb 3 -1e50\n", None, "line 3: the value -1e50 is not finite, or too large for float32"),
        ("\u00b2 2\na 1 2\n", None, "line 1: a number of entities and a width belong here"),
        ("a 1 2\n", None, "line 1: a number of entities and a width belong here"),
        ("3 2\na 1 2\nb 3 4\n", None, "line 1 says 3 vectors of width 2, and 2 are there"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path, vectors, ids, words):
    (tmp_path / "v").write_text(vectors, encoding="utf-8")
    if ids is not None:
        (tmp_path / "i").write_text(ids)
    with pytest.raises(ZooError, match=words):
        read_vectors(tmp_path / "v", None if ids is None else tmp_path / "i")


def test_names_and_vectors_that_make_no_table(tmp_path):
    (tmp_path / "v").write_text("2 1\na 1\na 2\n")
    with pytest.raises(ZooError, match="'a' is the name of entity 0 and of entity 1; each entity needs a name"):
        make_table(EntitiesConfig(str(tmp_path / "t"), vectors=str(tmp_path / "v")), show=False)
    for names, vectors, words in [
        (["a", "b"], [[1.0], [np.nan]], "the vector of 'b', number 1, holds a value that is not finite"),
        (["a", "b"], [[1e50], [1.0]], "the vector of 'a', number 0, .*too large for float32"),
        (["a", " b"], [[1.0], [1.0]], "' b' cannot be an entity's name"),
        (["a\tb", "b"], [[1.0], [1.0]], r"'a\\tb' cannot be an entity's name"),
    ]:
        with pytest.raises(ZooError, match=words):
            save_entities(tmp_path / "t", names, vectors)
    assert not (tmp_path / "t").exists()


def test_a_mark_at_the_beginning_is_no_part_of_a_name(tmp_path):
    (tmp_path / "triples").write_text("\ufeffa\tr\tb\n", encoding="utf-8")
    assert read_triples(tmp_path / "triples").entities == ["a", "b"]
    (tmp_path / "vectors").write_text("\ufeff1 1\na 5\n", encoding="utf-8")
    assert read_vectors(tmp_path / "vectors")[0] == ["a"]
    (tmp_path / "names").write_text("\ufeffa\nb\n", encoding="utf-8")
    assert read_names(tmp_path / "names") == ["a", "b"] == list(read_entities(tmp_path / "names"))
    (tmp_path / "triples").write_text("a\tr\tb\n", encoding="utf-16")
    with pytest.raises(ZooError, match="iconv -f UTF-16 "):
        read_triples(tmp_path / "triples")


def test_names_of_digits_are_names_and_a_count_is_none(tmp_path):
    """Every reader of a list gives an entity the same number, whatever it is called."""
    names = ["1984", "Orwell", "London"]
    rows = "".join(f"{name} {n} {n}\n" for n, name in enumerate(names))
    (tmp_path / "w2v.txt").write_text("3 2\n" + rows)
    table = make_table(EntitiesConfig(str(tmp_path / "t"), vectors=str(tmp_path / "w2v.txt")), show=False)
    listed = tmp_path / "t" / "entities.txt"
    assert (
        read_entities(listed)
        == {name: n for n, name in enumerate(table.names)}
        == {"1984": 0, "Orwell": 1, "London": 2}
    )
    listed.write_text("1984\n")
    assert read_entities(listed) == {"1984": 0}
    listed.write_text("3\n1\n2\n3\x0c4\n")  # even where the first could be the number of the others
    assert list(read_entities(listed)) == read_names(listed)
    ids, vectors = tmp_path / "entity2id.txt", tmp_path / "entity2vec.vec"
    vectors.write_text("1\n2\n3\n")
    for head in ("3\n", ""):
        ids.write_text(f"{head}1984\t2\nOrwell\t0\n7\t1\n")
        assert read_entities(ids) == {name: n for n, name in enumerate(read_vectors(vectors, ids)[0])}
        assert read_entities(ids) == {"1984": 2, "Orwell": 0, "7": 1}


def test_lines_that_are_no_entities(tmp_path):
    path = tmp_path / "e.txt"
    for content, message in [
        ("Q5\n\nQ6\n", r"e\.txt:2: an empty line"),  # else Q6 would be another's vector
        ("1984\nOrwell\tthe writer\n", r"e\.txt:2: 'Orwell\\tthe writer' is not"),
        ("2\nQ5\t1\nQ6\n", r"e\.txt:3: 'Q6' is not"),
        ("2\nQ5\t\u00b2\n", r"e\.txt:2: 'Q5\\t\u00b2' is not"),
    ]:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ZooError, match=message):
            read_entities(path)
    path.write_text("Q5\nQ6\n\n")
    assert read_entities(path) == {"Q5": 0, "Q6": 1}


# ---- the sample with linked entities --------------------------------------------------------------------------------

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "old", "town", "##s", "lie", "by", "rivers", "."]


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return tmp_path / "vocab.txt"


def sample(folder: Path, tokens: str, entities: str) -> tuple[Path, Path]:
    for name, text in (("tokens.tsv", tokens), ("entities.tsv", entities)):
        (folder / name).write_text(text.replace(" ", "\t"))
    return folder / "tokens.tsv", folder / "entities.tsv"


TOKENS = "2 4 5 6 7 8 3 9 10 11\n1 2 6 11\n"
LINKS = "2 4 #UNK# Q1 Q1 #UNK# 3 #UNK# Q2 #UNK#\n1 2 Q1 #UNK#\n"


def test_entities_stand_at_the_first_token_of_a_mention(tmp_path, vocabulary):
    """Trap 5: Q1 Q1 Q1 gives its id once, not at every other token."""
    files = sample(tmp_path, "1 5 6 7 7 8 10\n", "1 5 Q1 Q1 Q1 Q2 Q1\n")
    (document,) = read_linked(*files)
    assert document[0].mentions == [TokenMention(0, 3, "Q1"), TokenMention(3, 4, "Q2"), TokenMention(4, 5, "Q1")]
    store = linked_store(*files, load_tokenizer(vocabulary), tmp_path / "stores", ["Q0", "Q1"])
    assert store.arrays["entity_id"].tolist() == [2, 0, 0, 0, 2]  # Q2 is not in the list


def test_the_sample_as_a_store_and_as_text(tmp_path, vocabulary):
    files = sample(tmp_path, TOKENS, LINKS)
    assert entities_of(*files) == ["Q1", "Q2"]
    store = linked_store(*files, load_tokenizer(vocabulary), tmp_path / "stores", ["Q2", "Q1"])
    assert isinstance(store, Store)
    assert (store.num_documents, store.sentences.tolist()) == (2, [0, 4, 7, 9])
    assert store.tokens.tolist() == [5, 6, 7, 8, 9, 10, 11, 6, 11]
    assert store.arrays["entity_id"].dtype == np.int32
    assert store.arrays["entity_id"].tolist() == [0, 2, 0, 0, 0, 1, 0, 2, 0]
    again = linked_store(*files, load_tokenizer(vocabulary), tmp_path / "stores", ["Q1", "Q2"])
    assert again.fingerprint != store.fingerprint  # other numbers are other data
    config = LinkedConfig(*map(str, files), tokenizer=str(vocabulary), output=str(tmp_path / "text.jsonl"))
    assert write_records(config) == 2
    lines = [json.loads(line) for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    assert lines[0]["text"] == "old towns lie\nby rivers ."
    assert [lines[0]["text"][a:b] for a, b, _ in lines[0]["entity_id"]] == ["towns", "rivers"]
    assert lines[1] == {"text": "town .", "entity_id": [[0, 4, "Q1"]]}
    assert (tmp_path / "text.jsonl.entities.txt").read_text() == "Q1\nQ2\n"


@pytest.mark.parametrize(
    ("tokens", "entities", "words"),
    [
        ("2 4 5 6 7 8\n", LINKS, r"tokens.tsv, line 1: 6 values"),
        (TOKENS + "1 1 5\n", LINKS, r"entities.tsv ends before line 3"),
        (TOKENS, "2 3 #UNK# Q1 #UNK# 4 #UNK# Q2 #UNK# Q1\n1 2 Q1 #UNK#\n", "line 1: .* different lengths"),
        (TOKENS.replace("10", "x"), LINKS, r"tokens.tsv, line 1: an id is no number"),
        (TOKENS.replace("10", "-5"), LINKS, r"tokens.tsv, line 1: an id is no number from 0 on \('-5'\)"),
        (TOKENS.replace("10", str(10**26)), LINKS, r"tokens.tsv, line 1: an id is no number"),
        ("\u00b2" + TOKENS, LINKS, r"tokens.tsv, line 1: \d+ values"),
    ],
)
def test_samples_that_do_not_add_up(tmp_path, tokens, entities, words):
    with pytest.raises(ZooError, match=words):
        list(read_linked(*sample(tmp_path, tokens, entities)))


def test_a_large_sample_is_written_a_document_at_a_time(tmp_path, vocabulary):
    files = sample(tmp_path, "1 200" + " 6 7" * 100 + "\n", "1 200" + " Q1 #UNK#" * 100 + "\n")
    for path in files:
        path.write_text(path.read_text() * 200)
    config = LinkedConfig(*map(str, files), tokenizer=str(vocabulary), output=str(tmp_path / "text.jsonl"))
    write_records(config)  # what is loaded once is loaded now
    tracemalloc.start()
    try:
        assert write_records(config) == 200
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / "text.jsonl").stat().st_size / 2
    assert not list(tmp_path.glob(".text*"))


def test_a_damaged_sample_leaves_the_old_file(tmp_path, vocabulary):
    files = sample(tmp_path, TOKENS + "1 1 x\n", LINKS + "1 1 Q1\n")
    target = tmp_path / "text.jsonl"
    target.write_text("old\n")
    with pytest.raises(ZooError, match="line 3: an id is no number"):
        write_records(LinkedConfig(*map(str, files), tokenizer=str(vocabulary), output=str(target)))
    assert target.read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.glob("*text*")) == ["text.jsonl"]


def test_the_released_sample():
    """Its first documents, as far as the specification and the data's own notes describe them."""
    files = [ERNIE / "thu_sample" / f"wiki_{kind}.tsv.gz" for kind in ("token", "entity")]
    if not all(path.exists() for path in files):
        pytest.skip(f"{files[0]} is not there: shared data are needed")
    documents = list(islice(read_linked(*files), 3))
    assert len(documents[0]) == 403
    assert documents[0][0].ids[:3] == [9617, 11140, 2964]
    assert documents[0][0].mentions == [TokenMention(5, 7, "Q179805"), TokenMention(9, 12, "Q417633")]
    mentions = [mention for document in documents for part in document for mention in part.mentions]
    assert all(mention.entity.startswith("Q") and mention.start < mention.stop for mention in mentions)
    assert len(mentions) > 500


@pytest.mark.parametrize("name", ["New\u00a0York", "北京\u3000大学", "New York", "Apollo 11", "a\u0085b", "a\u2028b"])
def test_names_of_vectors_come_in_whole(tmp_path, name):
    path = tmp_path / "vectors.txt"
    path.write_text(f"2 3\n{name} 0.1 0.2 0.5\nAhab\t1e-1 -2 3 \n", encoding="utf-8")
    names, vectors = read_vectors(path)
    assert names == [name, "Ahab"]
    assert np.allclose(vectors, [[0.1, 0.2, 0.5], [0.1, -2, 3]])
    kept = save_entities(tmp_path / "table", names, vectors)
    assert kept.names == names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1 2\nAhab 0.1 0.2 0.3\n", r"line 2: line 1 says that 2 values .* looks like one more"),
        ("1 3\nAhab 0.1 0.2\n", "line 2: a name and 3 values are needed"),
        ("9" * 5000 + " 2\nAhab 0.1 0.2\n", "line 1: a number of entities and a width"),
    ],
)
def test_vectors_that_do_not_fit_their_first_line(tmp_path, content, words):
    (tmp_path / "vectors.txt").write_text(content)
    with pytest.raises(ZooError, match=words):
        read_vectors(tmp_path / "vectors.txt")
