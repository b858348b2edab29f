"""Entities and their scores against ``seqeval``, and CLUENER's own measure against hand counts."""

import json
import random
from pathlib import Path

import pytest

from finetune.metrics.entities import EntityScore, entity_scores, surface_scores
from finetune.metrics.tag_schemes import SCHEMES, TaggedEntity, tagged_entities
from zoo.errors import ZooError

CLUENER = Path(__file__).parents[4] / "shared" / "data" / "clue" / "cluener" / "dev.json"

STRICT = {"iob2": "IOB2", "bioes": "IOBES"}


def random_tags(draw: random.Random, scheme: str, rows: int = 12) -> list[list[str]]:
    """Rows of tags without any order, some of them all outside; long enough for every two letters to meet."""
    letters = SCHEMES[scheme]

    def tag() -> str:
        letter = draw.choice(letters + "O")
        return letter if letter == "O" else f"{letter}-{draw.choice(['PER', 'LOC', 'A-B'])}"

    return [["O"] * 4 if draw.random() < 0.1 else [tag() for _ in range(draw.randint(1, 15))] for _ in range(rows)]


def by_seqeval(gold: list[list[str]], predicted: list[list[str]], scheme: str) -> dict[str, object]:
    metrics = pytest.importorskip("seqeval.metrics", reason="seqeval of the development extras is not installed")
    from seqeval import scheme as schemes

    more = {"mode": "strict", "scheme": getattr(schemes, STRICT[scheme])} if scheme in STRICT else {}
    report = metrics.classification_report(gold, predicted, output_dict=True, zero_division=0, **more)
    return {name: (row["precision"], row["recall"], row["f1-score"], row["support"]) for name, row in report.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(30))
def test_scores_equal_seqevals(scheme: str, seed: int) -> None:
    draw = random.Random(seed)
    gold = random_tags(draw, scheme)
    predicted = [[tag if draw.random() < 0.7 else "O" for tag in row] for row in gold]
    tags = [tag for row in gold for tag in row]
    other = [[draw.choice(tags) if draw.random() < 0.3 else tag for tag in row] for row in gold]
    for answer in (predicted, other, gold):
        found = entity_scores(*([tagged_entities(row, scheme) for row in side] for side in (gold, answer)))
        expected = by_seqeval(gold, answer, scheme)
        assert tuple(found.micro) == pytest.approx(expected["micro avg"])
        assert tuple(found.macro) == pytest.approx(expected["macro avg"])
        assert {name: tuple(score) for name, score in found.by_type.items()} == {
            name: pytest.approx(row) for name, row in expected.items() if not name.endswith(" avg")
        }


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        ("I-A I-A O", "conlleval", {(0, 2, "A")}),
        ("B-A I-B E-B", "conlleval", {(0, 1, "A"), (1, 3, "B")}),
        ("B-A E-A I-A", "conlleval", {(0, 2, "A"), (2, 3, "A")}),
        ("B I O S", "conlleval", {(0, 2, "_"), (3, 4, "_")}),
        ("I-A I-A B-A", "iob2", {(2, 3, "A")}),
        ("B-A I-B B-A I-A", "iob2", {(0, 1, "A"), (2, 4, "A")}),
        ("B-A I-A O S-B", "bioes", {(3, 4, "B")}),
        ("B-A I-A E-A B-A", "bioes", {(0, 3, "A")}),
        ("O O", "bioes", set()),
        ("", "conlleval", set()),
    ],
)
def test_entities_of_tags(tags: str, scheme: str, expected: set) -> None:
    assert tagged_entities(tags.split(), scheme) == {TaggedEntity(*entity) for entity in expected}


@pytest.mark.parametrize(
    ("tag", "scheme"), [("X-A", "conlleval"), ("E-A", "iob2"), ("", "bioes"), ("B_A", "iob2"), ("O-A", "iob2")]
)
def test_a_tag_of_another_scheme_is_refused(tag: str, scheme: str) -> None:
    with pytest.raises(ZooError, match="is no tag of"):
        tagged_entities(["O", tag], scheme)


def test_nothing_there_and_nothing_found_is_zero() -> None:
    empty = entity_scores([set(), set()], [set(), set()])
    assert (empty.micro, empty.macro, empty.by_type) == (EntityScore(0, 0, 0, 0), EntityScore(0, 0, 0, 0), {})
    one = {TaggedEntity(0, 1, "A")}
    assert entity_scores([set()], [one]).micro == EntityScore(0, 0, 0, 0)
    assert entity_scores([one], [set()]).macro == EntityScore(0, 0, 0, 1)


def test_rows_of_one_side_only_are_refused() -> None:
    with pytest.raises(ZooError, match="1 rows of gold entities and 2"):
        entity_scores([set()], [set(), set()])


def test_named_types_without_entities_count_in_macro() -> None:
    one = [{TaggedEntity(0, 1, "A")}]
    assert entity_scores(one, one).macro.f1 == 1
    assert entity_scores(one, one, ("A", "B")).macro.f1 == 0.5


def test_surface_strings_count_once_a_row_and_wherever_they_stand() -> None:
    texts = ["京在京", "京在京"]
    gold = [{TaggedEntity(0, 1, "city"), TaggedEntity(2, 3, "city")}, {TaggedEntity(0, 1, "city")}]
    found = [{TaggedEntity(2, 3, "city")}, {TaggedEntity(2, 3, "city"), TaggedEntity(1, 2, "city")}]
    scores = surface_scores(texts, gold, found, ("city", "name"))
    assert scores.by_type["city"] == EntityScore(2 / 3, 1.0, pytest.approx(0.8), 2)
    assert scores.macro.f1 == pytest.approx(0.4)
    assert entity_scores(gold, found).micro.f1 == pytest.approx(1 / 3)


def test_surface_scores_of_real_rows_equal_a_count_on_their_dictionaries() -> None:
    if not CLUENER.is_file():
        pytest.skip("shared/data/clue/cluener is not here")
    rows = [json.loads(line) for line in CLUENER.read_text(encoding="utf-8").split("\n") if line]
    draw = random.Random(0)
    types = sorted({kind for row in rows for kind in row["label"]})
    named = [
        [
            (kind, name, place)
            for kind, names in row["label"].items()
            for name, places in names.items()
            for place in places
        ]
        for row in rows
    ]
    found = [
        [(draw.choice(types), *one[1:]) if draw.random() < 0.2 else one for one in row if draw.random() < 0.8]
        for row in named
    ]
    pooled = dict.fromkeys(types, (0, 0, 0))
    for row, answer in zip(named, found, strict=True):
        for kind in types:
            there, here = ({name for k, name, _ in side if k == kind} for side in (row, answer))
            pooled[kind] = tuple(map(sum, zip(pooled[kind], (len(there & here), len(here), len(there)), strict=True)))
    expected = sum(2 * hits / (here + there) for hits, here, there in pooled.values()) / len(types)
    sets = [[{TaggedEntity(a, b + 1, kind) for kind, _, (a, b) in row} for row in side] for side in (named, found)]
    scores = surface_scores([row["text"] for row in rows], *sets, types)
    assert len(types) == 10
    assert scores.macro.f1 == pytest.approx(expected)
    assert 0.5 < expected < 0.9
