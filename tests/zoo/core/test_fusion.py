"""Entities beside the tokens (ERNIE of Tsinghua): the core, the objective, its rows. Numbers: specs, section 8."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from entity_toys import FUSION, WIDTH, make_table, shared_table
from stores import BERT_LIKE, FIRST_ID, synthetic_documents, take, write_store
from torch.nn import functional

from pretraining.annotations.base import Annotator
from pretraining.annotations.linked import LinkedEntities
from pretraining.corpus.config import CorpusConfig
from pretraining.keyed_random import Draw
from pretraining.layouts.at_least import MinimumMarked, marked_before
from pretraining.layouts.blocks import Blocks
from pretraining.layouts.examples import Examples
from pretraining.layouts.sentence_pairs import SentencePairs
from pretraining.objectives import EntityAutoencoder, MaskedLM, PairClassification
from pretraining.objectives.base import CoreRunner, Targets, collate
from pretraining.store.prepare import prepare_store
from pretraining.tokenizer.config import TokenizerConfig
from zoo.config import CoreConfig
from zoo.config_parts import FusionConfig
from zoo.core.build import build_core, make_core
from zoo.core.flops import core_flops
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.heads.token_heads import EntityHead
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.model_folder import ModelMetadata, pack_model
from zoo.storage.entity_table import NAMES, VECTORS, control, keep_entities, open_entities, save_entities
from zoo.storage.tensors import save_tensors
from zoo.weights.read import read_checkpoint
from zoo.weights.write import write_checkpoint

BASE = CoreConfig(
    vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
)
SMALL = CoreConfig(
    vocab_size=BERT_LIKE.size,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    initializer_range=0.1,
    pad_token_id=0,
    fusion=FusionConfig(("plain", "mixed", "full", "full"), 100, 4),
)
HEADS = {
    "masked_lm": {"kind": "token", "transform": True, "bias": True},
    "next_sentence": {"kind": "pair", "num_labels": 2, "dense": "pooler", "bias": True},
    "entities": {"kind": "entity"},
}
DRAW = Draw(seed=5, epoch=0)


def inputs(seed: int = 0, batch: int = 4, length: int = 20, width: int = 100, entities: int = 6) -> CoreInputs:
    """Rows of different lengths, about a third of whose tokens have an entity; the last row has none."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([length, length - 6, length - 11, length])[:batch]
    real = torch.arange(length) < lengths[:, None]
    ids = torch.randint(FIRST_ID, BERT_LIKE.size, (batch, length), generator=g) * real
    at = torch.randint(1, entities + 1, (batch, length), generator=g) * (torch.rand(batch, length, generator=g) < 0.3)
    at[:, 0] = at[-1] = 0
    table = torch.randn(entities + 1, width, generator=g)
    table[0] = 0
    types = (torch.arange(length) > length // 2).long().expand(batch, length)
    return CoreInputs(ids, AttentionPattern(lengths=lengths), types, entity_ids=at * real, entity_vectors=table)


def linked_rows(count: int, length: int = 32, entities: int = 40, share: float = 0.4, seed: int = 0) -> Examples:
    """Rows whose mentions are drawn at random."""
    rng = np.random.default_rng(seed)
    special = np.zeros((count, length), dtype=bool)
    special[:, [0, -1]] = True
    at = np.where(rng.random((count, length)) < share, rng.integers(1, entities + 1, (count, length)), 0)
    number = np.arange(count, dtype=np.int64)
    return Examples(
        input_ids=rng.integers(FIRST_ID, BERT_LIKE.size, (count, length)).astype(np.int32),
        lengths=np.full(count, length, dtype=np.int64),
        special_tokens_mask=special,
        token_flags=np.ones((count, length), dtype=np.uint8),
        example_ids=number,
        document_ids=number,
        arrays={"entity_id": np.where(special, 0, at).astype(np.int32)},
    )


NARROW = SMALL.replace(fusion=FUSION)


def made(config: CoreConfig = NARROW, **options) -> EntityAutoencoder:
    objective = EntityAutoencoder(shared_table(), **options)
    objective.build(config, BERT_LIKE)
    return objective


def loss_of(core, objective, rows):
    batch = collate(rows, {"x": objective})
    targets = Targets(batch.targets["x"], batch.counts["x"])
    return objective(CoreRunner(core, batch.inputs), core.token_embedding, targets)


# ---- the core -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "core_size", "whole"),
    [
        (["plain"] * 6 + ["full"] * 6, 113_432_472, 114_133_760),
        (["plain"] * 5 + ["mixed"] + ["full"] * 6, 114_050_244, 114_751_532),
        (["plain"] * 12, 109_482_240, 110_183_528),
        ([], 109_482_240, 110_183_528),
    ],
)
def test_published_counts(kinds, core_size, whole):
    config = BASE.replace(fusion=FusionConfig(kinds))
    with torch.device("meta"):
        core = make_core(config)
        heads = [build_head(config, facts) for facts in HEADS.values()]
    sizes = [sum(p.numel() for p in module.parameters()) for module in (core, *heads)]
    assert sizes[0] == core_size
    assert sum(sizes) == whole
    assert sizes[-1] == 77_100


def test_counts_of_one_layer():
    with torch.device("meta"):
        layers = make_core(BASE.replace(fusion=FusionConfig(["plain", "mixed", "full"]))).layers
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers[:3]]
    assert sizes == [7_087_872, 7_705_644, 7_746_244]
    assert 6 * (sizes[2] - sizes[0]) == 3_950_232


def by_the_specification(tensors: dict[str, torch.Tensor], given: CoreInputs, kinds: tuple[str, ...]) -> torch.Tensor:
    """Last token states out of tensors with the released names, step by step as the specification's section 2 says."""

    def linear(name, x):
        return x @ tensors[f"bert.{name}.weight"].T + tensors[f"bert.{name}.bias"]

    def norm(name, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (variance + 1e-12).sqrt() * tensors[f"bert.{name}.weight"] + tensors[f"bert.{name}.bias"]

    def attention(name, x, heads, seen):
        parts = [linear(f"{name}.{p}", x).unflatten(-1, (heads, -1)).transpose(1, 2) for p in ("query", "key", "value")]
        scores = parts[0] @ parts[1].mT / math.sqrt(parts[0].shape[-1])
        scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
        return (scores.softmax(-1) @ parts[2]).transpose(1, 2).flatten(-2)

    ids, length = given.input_ids, given.input_ids.shape[1]
    tables = {n: tensors[f"bert.embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type")}
    x = norm(
        "embeddings.LayerNorm",
        tables["word"][ids] + tables["position"][:length] + tables["token_type"][given.token_type_ids],
    )
    y, has = given.entity_vectors[given.entity_ids], given.entity_ids > 0
    has[:, 0] = True
    real = torch.arange(length) < given.attention_pattern.lengths[:, None]
    for number, kind in enumerate(kinds):
        at = f"encoder.layer.{number}"
        attended = linear(f"{at}.attention.output.dense", attention(f"{at}.attention.self", x, 4, real))
        x = norm(f"{at}.attention.output.LayerNorm", x + attended)
        inner = linear(f"{at}.intermediate.dense", x)
        if kind == "full":
            looked = linear(f"{at}.attention.output_ent.dense", attention(f"{at}.attention.self_ent", y, 4, has))
            y = norm(f"{at}.attention.output_ent.LayerNorm", y + looked)
        if kind != "plain":
            y = y * has[..., None]
            inner = inner + linear(f"{at}.intermediate.dense_ent", y)
        inner = functional.gelu(inner)
        x = norm(f"{at}.output.LayerNorm", x + linear(f"{at}.output.dense", inner))
        if kind != "plain":
            y = norm(f"{at}.output.LayerNorm_ent", y + linear(f"{at}.output.dense_ent", inner))
    return x


@torch.no_grad()
def test_states_are_those_of_the_specification():
    """Among others: 4 entity heads of width 25, scores by 1/5; residual sums; the first position never masked."""
    core, given = build_core(SMALL).eval(), inputs()
    for name, parameter in core.named_parameters():  # so that no bias or gain goes unnoticed
        if parameter.ndim == 1:
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3
    assert core.layers[2].fusion.attention.query.out_features // core.layers[2].fusion.attention.heads == 25
    theirs = write_checkpoint(ModelMetadata(SMALL), pack_model(core, {})).tensors
    expected = by_the_specification({f"bert.{n}": t for n, t in theirs.items()}, given, SMALL.fusion.layer_types)
    real = torch.arange(20) < given.attention_pattern.lengths[:, None]
    torch.testing.assert_close(core(given).last_hidden_state[real], expected[real], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_plain_layers_are_berts():
    fused, plain = SMALL.replace(fusion=FusionConfig(["plain"] * 4)), SMALL.replace(fusion=None)
    given = inputs()
    bare = given._replace(entity_ids=None, entity_vectors=None)
    states = build_core(fused).eval()(given), build_core(plain).eval()(bare)
    assert torch.equal(states[0].last_hidden_state, states[1].last_hidden_state)
    assert torch.equal(states[0].pooler_output, states[1].pooler_output)


@torch.no_grad()
def test_tokens_keep_the_initial_values_of_a_core_without_entities():
    plain = dict(build_core(SMALL.replace(fusion=None), 3).named_parameters())
    fused = dict(build_core(SMALL, 3).named_parameters())
    assert all(torch.equal(fused[name], value) for name, value in plain.items())
    new = {name: value for name, value in fused.items() if name not in plain}
    assert all(".fusion." in name for name in new)
    matrices = torch.cat([value.flatten() for value in new.values() if value.ndim > 1])
    assert matrices.std().item() == pytest.approx(SMALL.initializer_range, rel=0.15)  # cut at two deviations


@torch.no_grad()
def test_no_entities_is_the_empty_stream():
    """Rows without entities, ids that are all 0, and no ids at all are one; and not what a plain core computes."""
    core, given = build_core(SMALL).eval(), inputs()
    empty = given._replace(entity_ids=torch.zeros_like(given.entity_ids))
    none = given._replace(entity_ids=None, entity_vectors=None)
    states = [core(one).last_hidden_state for one in (empty, none, given)]
    assert torch.equal(states[0], states[1])
    torch.testing.assert_close(states[0][3], states[2][3], atol=1e-5, rtol=1e-5)  # the row without any
    assert not torch.allclose(states[0][0], states[2][0], atol=1e-2)
    for layer in core.layers[1:]:  # a zero vector still brings its bias (trap 2)
        layer.fusion.intermediate.bias += 1.0
    assert not torch.allclose(core(none).last_hidden_state, states[1], atol=1e-2)


def test_vectors_are_frozen_and_the_last_entity_output_is_dead():
    core, given = build_core(SMALL), inputs()
    given = given._replace(entity_vectors=given.entity_vectors.requires_grad_())
    core(given).last_hidden_state.square().sum().backward()
    assert given.entity_vectors.grad is None
    assert not any(isinstance(b, torch.Tensor) and b.shape[-1] == 100 for b in core.buffers())
    dead = [f"layers.3.fusion.{part}.{kind}" for part in ("output", "output_norm") for kind in ("weight", "bias")]
    named = dict(core.named_parameters())
    assert [name for name, p in named.items() if p.grad is None and "pooler" not in name] == dead
    assert [name for name, p in named.items() if not p.requires_grad] == dead
    assert all(named[f"layers.2.fusion.{part}.weight"].grad.abs().sum() > 0 for part in ("output", "output_norm"))


def test_dropout_follows_the_row_and_checkpointing_changes_nothing():
    core, given = build_core(SMALL), inputs()
    keyed = given._replace(dropout_keys=row_keys(0, 3, np.arange(4)))
    whole = core(keyed).last_hidden_state
    assert not torch.allclose(whole, core(given).last_hidden_state, atol=1e-2)
    order = torch.tensor([2, 0])
    part = CoreInputs(
        keyed.input_ids[order],
        AttentionPattern(lengths=keyed.attention_pattern.lengths[order]),
        keyed.token_type_ids[order],
        dropout_keys=keyed.dropout_keys[order],
        entity_ids=keyed.entity_ids[order],
        entity_vectors=keyed.entity_vectors,
    )
    real = torch.arange(20) < part.attention_pattern.lengths[:, None]
    torch.testing.assert_close(core(part).last_hidden_state[real], whole[order][real], atol=1e-5, rtol=1e-5)
    gradients = []
    for recompute in (False, True):
        core.recompute_layers = recompute
        core.zero_grad()
        core(keyed).last_hidden_state.square().sum().backward()
        gradients.append(core.layers[2].fusion.output.weight.grad)
    torch.testing.assert_close(*gradients)


def test_dropout_reaches_the_entities():
    """With dropout on entities alone, token states of a layer later differ."""
    config = SMALL.replace(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.3)
    core, given = build_core(config), inputs()
    for layer in core.layers:
        layer.dropout = 0.0
    keyed = given._replace(dropout_keys=row_keys(0, 1, np.arange(4)))
    with torch.no_grad():
        core.embeddings.config = config.replace(hidden_dropout_prob=0.0)
        states = [core(one).last_hidden_state for one in (given, keyed)]
    assert not torch.allclose(states[0][0], states[1][0], atol=1e-3)


def test_flops_are_torchs_count():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    core, given = build_core(SMALL).eval(), inputs()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        core(given)
    assert core_flops(SMALL, 4, 20) == counter.get_total_flops()
    assert core_flops(SMALL, 4, 20) > core_flops(SMALL.replace(fusion=None), 4, 20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fusion": FusionConfig(["plain"] * 5)}, "names 5 layers, model.num_hidden_layers is 4"),
        ({"num_hidden_groups": 2}, "cannot share weights"),
        ({"norm_position": "pre"}, "needs model.norm_position: post"),
        ({"glu": True}, "needs model.glu: False"),
    ],
)
def test_facts_that_do_not_go_together(change, words):
    with pytest.raises(ZooError, match=words):
        SMALL.replace(**change)


def test_facts_of_the_entities_alone():
    with pytest.raises(ZooError, match=r"layer_types\[1\] is 'norm'; plain, mixed, full would work"):
        FusionConfig(["plain", "norm"])
    with pytest.raises(ZooError, match="num_attention_heads = 3 does not divide"):
        FusionConfig(entity_size=100, num_attention_heads=3)
    assert CoreConfig.from_dict(SMALL.to_dict()) == SMALL


def test_inputs_that_a_core_with_entities_does_not_take():
    core, given = build_core(SMALL), inputs()
    with pytest.raises(ZooError, match=r"32 wide, model\.fusion\.entity_size is 100"):
        core(inputs(width=32))
    with pytest.raises(ZooError, match="give both, or neither"):
        core(given._replace(entity_vectors=None))
    with pytest.raises(ZooError, match="all tokens attend to each other"):
        core(given._replace(attention_pattern=AttentionPattern(causal=True)))
    with pytest.raises(ZooError, match="does not read entity_ids, entity_vectors"):
        build_core(SMALL.replace(fusion=None))(given)
    with pytest.raises(ZooError, match="this core has none"):
        EntityHead(SMALL.replace(fusion=None))


# ---- released names -------------------------------------------------------------------------------------------------


def test_released_names_there_and_back_bit_for_bit():
    core = build_core(SMALL)
    metadata = ModelMetadata(SMALL, heads=HEADS, origin="ernie-thu")
    ours = pack_model(core, {name: build_head(SMALL, head) for name, head in HEADS.items()})
    written = write_checkpoint(metadata, ours)
    assert written.config["layer_types"] == ["sim", "mix", "norm", "norm"]
    shapes = {name: tuple(tensor.shape) for name, tensor in written.tensors.items() if "_ent" in name}
    for part in ("query", "key", "value"):
        assert shapes[f"bert.encoder.layer.2.attention.self_ent.{part}.weight"] == (100, 100)
    assert shapes["bert.encoder.layer.2.attention.output_ent.dense.weight"] == (100, 100)
    assert shapes["bert.encoder.layer.2.attention.output_ent.LayerNorm.bias"] == (100,)
    assert shapes["bert.encoder.layer.1.intermediate.dense_ent.weight"] == (48, 100)
    assert shapes["bert.encoder.layer.1.output.dense_ent.weight"] == (100, 48)
    assert shapes["bert.encoder.layer.1.output.LayerNorm_ent.weight"] == (100,)
    assert shapes["cls.predictions_ent.transform.dense.weight"] == (100, 32)
    assert shapes["cls.predictions_ent.transform.LayerNorm.weight"] == (100,)
    assert not any("layer.0." in name or "layer.1.attention" in name for name in shapes)
    back = read_checkpoint(written.config, written.tensors)
    assert (back.metadata.config, back.metadata.heads, back.report) == (SMALL, HEADS, [])
    assert set(back.tensors) == set(ours)
    assert all(torch.equal(back.tensors[name], ours[name]) for name in ours)


def test_a_width_that_their_code_does_not_have_is_named():
    metadata = ModelMetadata(SMALL.replace(fusion=FusionConfig(["mixed"], 12, 3)))
    with pytest.raises(ZooError, match=r"fusion = .*'entity_size': 12"):
        write_checkpoint(metadata, {}, "ernie-thu")


# ---- the table ------------------------------------------------------------------------------------------------------


def test_controls_keep_the_values_and_lose_their_places(tmp_path):
    true = open_entities(make_table(tmp_path, count=50))
    shuffled = control(true, "shuffled", seed=1)
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, true.vectors))
    assert not any((a == b).all() for a, b in zip(shuffled, true.vectors, strict=True))
    drawn = control(true, "random", seed=1)
    assert drawn.shape == true.vectors.shape
    assert abs(drawn.std() / true.vectors.std() - 1) < 0.1
    assert (control(true, "random", seed=1) == drawn).all()
    assert (control(true, "random", seed=2) != drawn).any()


def test_tables_that_are_not_whole(tmp_path):
    with pytest.raises(ZooError, match=r"no entities\.txt; .*zoo entities"):
        open_entities(tmp_path)
    table = make_table(tmp_path / "a", count=5)
    (table / "entities.txt").write_text("Q1\nQ2\n")
    with pytest.raises(ZooError, match=r"names 2 entities, .* has 5 vectors"):
        open_entities(table)
    save_tensors(table / VECTORS, {"vectors": torch.zeros(2, 3, 4)})
    with pytest.raises(ZooError, match=r"float32 \(2, 3, 4\); float32 \(entities, width\) is needed"):
        open_entities(table)
    (table / "entities.txt").write_text("Q1\nQ2\nQ1\n")
    save_tensors(table / VECTORS, {"vectors": torch.zeros(3, 4)})
    with pytest.raises(ZooError, match="line 3: 'Q1' stands in line 1 already"):
        _ = open_entities(table).names
    with pytest.raises(ZooError, match="2 names for 3 entity vectors"):
        save_entities(tmp_path / "b", ["a", "b"], np.zeros((3, 4)))


def test_a_model_folder_keeps_its_table(tmp_path):
    table, run = make_table(tmp_path / "table"), tmp_path / "run"
    run.mkdir()
    for _ in range(2):
        keep_entities(table, run)
    assert (open_entities(run).vectors == open_entities(table).vectors).all()
    with pytest.raises(ZooError, match=r"started with other entities than .*entities\.safetensors differs"):
        keep_entities(make_table(tmp_path / "other", seed=1), run)


# ---- the objective --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidates", ["row", "batch"])
def test_shares_of_what_happens_to_mentions(candidates):
    rows, objective = linked_rows(9000), made(candidates=candidates)
    true, read = rows.arrays["entity_id"], objective.corrupt(rows, DRAW).targets["entities_read"]
    mention = true > 0
    assert mention.sum() > 100_000
    assert (read[~mention] == -100).all()
    missing, changed = (read[mention] == 0).mean(), ((read != true) & (read > 0))[mention].mean()
    distinct = 40 if candidates == "batch" else np.mean([len(np.unique(t[t > 0])) for t in true])
    assert missing == pytest.approx(0.15, abs=0.005)
    assert changed == pytest.approx(0.05 * (1 - 1 / distinct), abs=0.002)  # a drawn entity can be the true one
    assert (read == true)[mention].mean() == pytest.approx(0.80 + 0.05 / distinct, abs=0.005)


@pytest.mark.parametrize("candidates", ["row", "batch"])
def test_a_wrong_entity_is_any_of_the_candidates(candidates):
    """All mentions redrawn: uniform over the different entities, the true one as likely as another."""
    rows = linked_rows(4000, entities=6, share=0.3, seed=1)
    read = made(wrong=1.0, missing=0.0, candidates=candidates).corrupt(rows, DRAW).targets["entities_read"]
    kept, expected = 0, 0.0
    for true, drawn in zip(rows.arrays["entity_id"], read, strict=True):
        own = np.unique(true[true > 0]) if candidates == "row" else np.arange(1, 7)
        assert np.isin(drawn[true > 0], own).all()
        kept += int((drawn == true)[true > 0].sum())
        expected += (true > 0).sum() / max(len(own), 1)
    assert kept == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("candidates", ["row", "batch"])
def test_targets_and_candidates(candidates):
    rows, objective = linked_rows(12), made(candidates=candidates)
    corrupted = objective.corrupt(rows, DRAW)
    batch = collate(corrupted, {"x": objective})
    vectors, tensors, true = batch.inputs.entity_vectors, batch.targets["x"], rows.arrays["entity_id"]
    assert batch.counts["x"] == (true > 0).sum() == len(tensors["labels"])  # kept ones, too
    assert (vectors[0] == 0).all()
    assert len(torch.unique(vectors, dim=0)) == len(vectors) == 1 + len(np.unique(true[true > 0]))
    table = open_entities(shared_table()).vectors
    flat = true.reshape(-1)[tensors["positions"].numpy()]
    assert (vectors[tensors["labels"]].numpy() == table[flat - 1]).all()
    read = corrupted.targets["entities_read"]
    given = vectors[batch.inputs.entity_ids].numpy()
    assert (given[read > 0] == table[read[read > 0] - 1]).all()
    assert (given[read <= 0] == 0).all()
    assert tensors["candidates"][:, 0].all()
    assert tensors["candidates"].gather(1, tensors["labels"][:, None]).all()
    if candidates == "batch":
        assert tensors["candidates"].all()
    for target, place in enumerate(tensors["positions"].tolist()) if candidates == "row" else ():
        own = np.unique(true[place // 32])
        expected = {tuple(table[i - 1]) for i in own if i > 0}
        assert {tuple(v) for v in vectors[1:][tensors["candidates"][target, 1:]].tolist()} == {
            tuple(float(x) for x in row) for row in expected
        }


def test_the_loss_is_the_softmax_over_candidates():
    config = SMALL.replace(fusion=FusionConfig(("full",), WIDTH, 3), num_hidden_layers=1)
    objective, core, rows = made(config), build_core(config), linked_rows(3, length=12)
    corrupted = objective.corrupt(rows, DRAW)
    term = loss_of(core, objective, corrupted)
    batch = collate(corrupted, {"x": objective})
    hidden = core(batch.inputs._replace(output_positions=None)).last_hidden_state
    table, total, true = (
        torch.from_numpy(np.array(open_entities(shared_table()).vectors)),
        0.0,
        rows.arrays["entity_id"],
    )
    for row, column in zip(*np.nonzero(true), strict=True):
        own = np.unique(true[row][true[row] > 0])
        features = objective.head.norm(objective.head.activation(objective.head.dense(hidden[row, column])))
        logits = torch.cat([torch.zeros(1), table[own - 1] @ features])  # "none" first, its logit 0
        total -= torch.log_softmax(logits, 0)[1 + np.flatnonzero(own == true[row, column])[0]].item()
    assert term.total.item() == pytest.approx(total, rel=1e-4)
    assert objective.head(hidden[0], torch.zeros(1, WIDTH)).abs().max() == 0


def test_only_candidates_of_the_batch_depend_on_the_batch():
    config = SMALL.replace(fusion=FUSION)
    core, rows = build_core(config), linked_rows(16)
    halves = [take(rows, np.arange(a, a + 8)) for a in (0, 8)]
    for candidates, same in (("row", True), ("batch", False)):
        objective = made(config, candidates=candidates)
        whole = loss_of(core, objective, objective.corrupt(rows, DRAW)).total.item()
        parts = sum(loss_of(core, objective, objective.corrupt(half, DRAW)).total.item() for half in halves)
        assert (parts == pytest.approx(whole, rel=1e-4)) == same


def test_a_row_without_entities_asks_for_nothing():
    core, objective = build_core(SMALL.replace(fusion=FUSION)), made()
    rows = linked_rows(2, share=0.0)
    term = loss_of(core, objective, objective.corrupt(rows, DRAW))
    assert (term.count, term.total.item()) == (0, 0)


def test_what_happened_is_told_by_name():
    objective, rows = made(), linked_rows(4, seed=3)
    corrupted = objective.corrupt(rows, DRAW)
    told = objective.describe(corrupted)["entities"]
    true, read = rows.arrays["entity_id"], corrupted.targets["entities_read"]
    assert (told[true == 0] == "").all()
    for place in zip(*np.nonzero(true), strict=True):
        name = f"Q{true[place] - 1}"
        now = "none" if read[place] == 0 else f"Q{read[place] - 1}"
        assert told[place] == (name if name == now else f"{name} -> {now}")
    assert any("-> none" in text for text in told[true > 0])


def test_objectives_of_the_task_go_together():
    from pretraining.masking.tokens import RandomTokens

    config = SMALL.replace(fusion=FUSION)
    objectives = {"m": MaskedLM(RandomTokens(max_predictions=40)), "p": PairClassification(), "e": made(config)}
    rows = linked_rows(300, length=256).replace(row_labels=np.zeros(300, dtype=np.int64))
    for objective in objectives.values():
        objective.build(config, BERT_LIKE)
        rows = objective.corrupt(rows, DRAW)
    counts = collate(rows, objectives).counts
    assert counts["m"] == 38 * 300  # K of rows of 256 tokens
    assert counts["e"] == (rows.arrays["entity_id"] > 0).sum()
    both = rows.targets["selected"] & (rows.targets["entities_read"] == 0)
    removed = (rows.targets["entities_read"] == 0).sum()
    assert both.sum() / removed == pytest.approx(38 / 254, abs=0.02)  # the two are chosen apart


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(ZooError, match="shares of one whole"):
        EntityAutoencoder("x", wrong=0.9, missing=0.2)
    with pytest.raises(ZooError, match=r"model\.fusion\.layer_types"):
        EntityAutoencoder("x").build(SMALL.replace(fusion=None), BERT_LIKE)
    with pytest.raises(ZooError, match=r"array 'entity_id'; see data\.corpus\.annotations"):
        made().corrupt(linked_rows(2).replace(arrays={}), DRAW)
    documents = synthetic_documents(count=4)
    tokens = sum(len(s) for d in documents for s in d)
    for number, (most, words) in enumerate(
        [(41, "names entity 40, and .* has vectors of 0 to 39"), (0, "not a single")]
    ):
        values = np.zeros(tokens, dtype=np.int32)
        values[3] = most
        store = write_store(tmp_path / str(number), documents, arrays={"entity_id": values})
        with pytest.raises(ZooError, match=words):
            made().check_store(store)
    with pytest.raises(ZooError, match=r"12 wide, model\.fusion\.entity_size is 100"):
        made(SMALL).check_store(store)


def test_a_table_of_other_names_than_the_texts_is_refused(tmp_path):
    """Also where there are as many: by order, by names, and by names that the store did not write down."""
    names = [f"Q{i}" for i in range(200)]
    vectors = np.ones((200, WIDTH))
    save_entities(tmp_path / "table", names, vectors)
    record = {"text": "Ann wed Bo.", "entity_id": [[0, 3, "Q3"], [8, 10, "Q150"]]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    annotations: dict[str, Annotator] = {"entity_id": LinkedEntities(str(tmp_path / "table" / NAMES))}
    corpus = CorpusConfig(str(tmp_path / "a.jsonl"), annotations=annotations)
    store = prepare_store(corpus, TokenizerConfig(vocab_size=100, min_frequency=1), tmp_path, processes=1, quiet=True)

    def check(own: list[str]) -> None:
        save_entities(tmp_path / "other", own, np.ones((len(own), WIDTH)))
        objective = EntityAutoencoder(str(tmp_path / "other"))
        objective.build(NARROW, BERT_LIKE)
        objective.check_store(store)

    check(names)
    check([*names, "one more"])  # behind them it does no harm
    with pytest.raises(ZooError, match=r"number 0 is 'Q0' there and 'Q199' here.*\(LinkedEntities: entities\)"):
        check(names[::-1])
    with pytest.raises(ZooError, match=r"number 196 is 'Q196' there and missing here"):
        check(names[:196])
    with pytest.raises(ZooError, match=r"some of the 200 names differ"):
        check([name.replace("Q2", "q2") if name == "Q2" else name for name in names])


def test_a_table_with_values_that_are_not_finite_is_refused(tmp_path):
    table = open_entities(make_table(tmp_path / "table"))
    vectors = np.array(table.vectors)
    vectors[7, 2] = np.inf
    save_tensors(tmp_path / "table" / VECTORS, {"vectors": torch.from_numpy(vectors)})
    with pytest.raises(ZooError, match=r"entities\.safetensors: the vector of entity 7, 'Q7', .*not finite"):
        open_entities(tmp_path / "table").check_finite()


# ---- rows with enough mentions --------------------------------------------------------------------------------------


def test_rows_without_enough_mentions_are_left_out(tmp_path):
    documents = synthetic_documents(seed=4, count=30)
    tokens = sum(len(s) for d in documents for s in d)
    values = (np.random.default_rng(0).random(tokens) < 0.06).astype(np.int32) * 7
    store = write_store(tmp_path, documents, arrays={"entity_id": values})
    pairs = SentencePairs("next_or_random")
    layout, all_documents = MinimumMarked(pairs, "entity_id", 5), np.arange(30)
    assert layout.provided_fields == pairs.provided_fields
    plans = [one.plan(store, all_documents, 64, BERT_LIKE, DRAW) for one in (pairs, layout)]
    rows = [one.rows(store, plan, np.arange(len(plan)), 64, BERT_LIKE) for one, plan in zip((pairs, layout), plans)]
    wanted = (rows[0].arrays["entity_id"] > 0).sum(axis=1) >= 5
    assert 0 < wanted.sum() < len(wanted)
    assert (rows[0].input_ids[wanted] == rows[1].input_ids[:, : rows[0].shape[1]]).all()
    assert (rows[0].row_labels[wanted] == rows[1].row_labels).all()
    assert (rows[1].example_ids == np.arange(wanted.sum())).all()
    with pytest.raises(ZooError, match=r"no row of 64 tokens has 60 .* the most is \d+"):
        MinimumMarked(pairs, "entity_id", 60).plan(store, all_documents, 64, BERT_LIKE, DRAW)
    with pytest.raises(ZooError, match=r"which .* has not \(it has entity_id\)"):
        MinimumMarked(pairs, "spans", 5).plan(store, all_documents, 64, BERT_LIKE, DRAW)
    with pytest.raises(ZooError, match="at least 1 is needed"):
        MinimumMarked(Blocks(), "entity_id", 0)


def test_marks_are_counted_in_portions():
    values = (np.random.default_rng(1).random(1000) < 0.3).astype(np.int32)
    places = np.random.default_rng(2).integers(0, 1001, 300)
    expected = np.append(0, np.cumsum(values))[places]
    for portion in (1, 7, 500, 1000, 5000):
        assert (marked_before(values, places, portion) == expected).all()
