"""Weight tables in both directions: bit for bit, every tensor once, bad input, and what can or cannot be expressed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
import tempfile
import typing
import zlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import APART, GRID
from safetensors.torch import load_file
from stock import (
    LABELS,
    Case,
    Ours,
    bare_cases,
    both_scores,
    cases,
    end_of,
    fixed_names,
    make_batch,
    make_stock,
    randomise,
    read_stock,
    split_cases,
    stock_config,
    stock_inputs,
    stored,
    tied_names,
    unread_copies,
)
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.model_folder import ModelMetadata
from zoo.storage.tensors import save_tensors
from zoo.vocabulary import Template
from zoo.weights.config_fields import canonical, matching_heads, read_config
from zoo.weights.read import Model, all_families, read_checkpoint
from zoo.weights.table import match
from zoo.weights.write import write_checkpoint

RICHEST = [next(case for case in cases() if case.model_type == model_type) for model_type in GRID]  # most heads
VARIED = [case for case in cases() if case.point == next(iter(GRID[case.model_type]))]  # every class at one point


class Saved(typing.NamedTuple):
    """A stock model and what its ``save_pretrained`` wrote."""

    model: PreTrainedModel
    config: dict[str, Any]
    tensors: dict[str, Tensor]


@cache
def saved(case: Case) -> Saved:
    model = make_stock(case)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
        tensors = load_file(Path(folder) / "model.safetensors")
        return Saved(model, config, {name: x for name, x in tensors.items() if name not in fixed_names(model)})


pytestmark = pytest.mark.usefixtures("one_thread")


def by_id(case: Case) -> str:
    return case.id


def assert_same(one: Model, other: Model) -> None:
    assert one.metadata == other.metadata
    assert set(one.tensors) == set(other.tensors)
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def refused(config: dict, tensors: dict, *words: str, **options: Any) -> None:
    """Reading is refused, and the message has every word."""
    with pytest.raises(ZooError) as error:
        read_checkpoint(config, tensors, **options)
    for word in words:
        assert word in str(error.value)


# ---- there and back -------------------------------------------------------------------------------------------------


def test_every_family_has_a_grid():
    stock = {name for name, family in all_families().items() if family.config_file == "config.json"}
    assert set(GRID) | APART == stock  # others have tests of their own


@pytest.mark.parametrize("case", cases(), ids=by_id)
def test_stock_checkpoints_come_back_bit_for_bit(case):
    model, config, tensors = saved(case)
    assert set(tensors) == set(stored(model))
    read = read_checkpoint(config, tensors)
    written = write_checkpoint(read.metadata, read.tensors)
    assert read.report == written.report == []
    assert (written.config["model_type"], written.config["architectures"]) == (case.model_type, [case.architecture])
    assert set(written.tensors) == set(tensors)
    unread = unread_copies(model, case.family)
    for name, value in tensors.items():
        assert torch.equal(written.tensors[name], tensors[unread[name]] if name in unread else value), name


@pytest.mark.parametrize("case", cases(), ids=by_id)
def test_every_tensor_on_both_sides_is_used_once(case):
    model, config, tensors = saved(case)
    read = read_checkpoint(config, tensors)
    Ours(read.metadata, read.tensors)  # loads them strictly
    uses = Counter((theirs, place) for (theirs,), _, place in read.tensors.recipes.values())
    assert set(uses.values()) == {1}
    parts = Counter(theirs for theirs, _ in uses)
    assert all((theirs, place) in uses for theirs, count in parts.items() for place in range(count))
    assert set(tensors) - set(parts) == set(unread_copies(model, case.family)) & set(tensors)


@pytest.mark.parametrize("case", cases(), ids=by_id)
def test_stock_transformers_opens_what_is_written(case, tmp_path):
    model, config, tensors = saved(case)
    read = read_checkpoint(config, tensors)
    written = write_checkpoint(read.metadata, read.tensors)
    (tmp_path / "config.json").write_text(json.dumps(written.config))
    opened = AutoConfig.from_pretrained(tmp_path)
    assert type(opened) is type(model.config)
    opened.eos_token_id = model.config.eos_token_id  # a tokenizer's to say
    back = read_config(case.family, opened.to_dict()).replace(pooler=read.metadata.config.pooler)
    assert canonical(back) == canonical(read.metadata.config)
    again = getattr(transformers, case.architecture)._from_config(opened, attn_implementation="eager").eval()
    told = again.load_state_dict(dict(written.tensors), strict=False)
    assert set(told.missing_keys) <= tied_names(model) | fixed_names(model)
    assert not told.unexpected_keys
    batch = make_batch(read.metadata, case.seed, case.model_type)
    given = stock_inputs(batch, read.metadata)
    with torch.no_grad():
        expected, found = model(**given, use_cache=False), again(**given, use_cache=False)
    tensors = {key: value for key, value in expected.items() if isinstance(value, Tensor)}
    assert all(torch.equal(found[key], value) for key, value in tensors.items())


@pytest.mark.parametrize("case", bare_cases(), ids=by_id)
def test_keys_that_a_config_leaves_out_mean_what_they_mean_there(case):
    config = stock_config(case)
    short = {**config.to_diff_dict(), "model_type": case.model_type}
    assert len(short) < len(config.to_dict())
    for left, right in ((short, config.to_dict()), ({}, AutoConfig.for_model(case.model_type).to_dict())):
        assert canonical(read_config(case.family, left)) == canonical(read_config(case.family, right))


@pytest.mark.parametrize("model_type", GRID)
def test_a_mistake_in_a_table_is_found(model_type):
    family = all_families()[model_type]
    names = make_core(read_config(family, stock_config(bare_case(model_type)).to_dict())).state_dict()
    match(family.core, names, True)
    with pytest.raises(ZooError, match="two rows of a weight table name"):
        match((*family.core, family.core[0]), names, True)
    with pytest.raises(ZooError, match="no row of the weight table names"):
        match(family.core[1:], names, True)


def bare_case(model_type: str) -> Case:
    """The first point of a family without a head."""
    return next(case for case in bare_cases() if case.model_type == model_type)


# ---- other layouts of the same checkpoint ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", VARIED, ids=by_id)
def test_with_or_without_the_base_models_prefix(case):
    _, config, tensors = saved(case)
    prefix = f"{case.family.prefix}."
    plain = read_checkpoint(config, tensors)
    if any(name.startswith(prefix) for name in tensors):
        other = {name.removeprefix(prefix): value for name, value in tensors.items()}
    else:
        other = {prefix + name: value for name, value in tensors.items()}
    assert set(other) != set(tensors)
    assert_same(read_checkpoint(config, other), plain)


@pytest.mark.parametrize("case", VARIED, ids=by_id)
def test_old_names_of_norms(case):
    _, config, tensors = saved(case)
    norms = {name[:-7] for name, value in tensors.items() if name.endswith(".weight") and value.ndim == 1}
    renamed = {f"{norm}.weight": f"{norm}.gamma" for norm in norms} | {f"{norm}.bias": f"{norm}.beta" for norm in norms}
    old = {renamed.get(name, name): value for name, value in tensors.items()}
    read = read_checkpoint(config, old)
    assert_same(read, read_checkpoint(config, tensors))
    assert read.report == [f"{len(set(old) - set(tensors))} old names (gamma, beta) read as weight, bias"]


@pytest.mark.parametrize("case", VARIED, ids=by_id)
def test_tied_tensors_that_are_written_out(case):
    model, config, tensors = saved(case)
    whole = {name: value.clone() for name, value in model.state_dict().items() if name not in fixed_names(model)}
    assert set(whole) - set(tensors) == tied_names(model)
    assert_same(read_checkpoint(config, whole), read_checkpoint(config, tensors))
    for name in tied_names(model):
        refused(config, {**whole, name: whole[name] + 1e-3}, f"{name} is not equal to", "tie_word_embeddings")


@pytest.mark.parametrize("case", VARIED, ids=by_id)
def test_buffers_that_are_rebuilt(case):
    _, config, tensors = saved(case)
    names = [pattern.replace(r"\d+", "0").replace("\\", "") for pattern in case.family.derived]
    names += [f"{case.family.prefix}.{name}" for name in names]
    buffers = {name: torch.arange(5)[None] for name in names}
    read = read_checkpoint(config, {**tensors, **buffers})
    assert_same(read, read_checkpoint(config, tensors))
    assert read.report == ([f"rebuilt, not read: {', '.join(names)}"] if names else [])


@pytest.mark.parametrize("case", VARIED, ids=by_id)
def test_a_vocabulary_that_was_resized(case):
    _, config, tensors = saved(case)
    rows = config["vocab_size"]
    read = read_checkpoint({**config, "vocab_size": rows - 8}, tensors)
    assert_same(read, read_checkpoint(config, tensors))
    said = f"config.json says {rows - 8}, the embedding has {rows} rows"
    assert read.report == [f"resized vocabulary: {said}, which are taken"]


def test_the_first_gpt2_files_have_no_prefix_and_masks_for_every_layer():
    case = next(case for case in VARIED if case.architecture == "GPT2LMHeadModel")
    _, config, tensors = saved(case)
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 24, 24).tril() for i in range(3)}
    read = read_checkpoint(config, {**bare, **masks})
    assert_same(read, read_checkpoint(config, tensors))
    assert list(read.metadata.heads) == ["causal_lm"]
    assert list(read_checkpoint({**config, "architectures": ["GPT2Model"]}, bare).metadata.heads) == []


@pytest.mark.parametrize("case", VARIED, ids=by_id)
def test_heads_that_the_class_names_and_the_checkpoint_lacks(case):
    model, config, _ = saved(case)
    read = read_checkpoint(config, saved(bare_case(case.model_type)).tensors)
    heads = [case.family.head(name) for name in case.family.architectures[case.architecture]]
    tied = model.config.tie_word_embeddings
    absent = [h.name for h in heads if h.needed_rows(tied) and not h.required_fields]
    assert read.report == ([f"absent heads: {', '.join(absent)}"] if absent else [])
    assert set(read.metadata.heads).isdisjoint(absent)


@pytest.mark.parametrize("case", [c for c in VARIED if c.architecture.endswith("ForPreTraining")], ids=by_id)
def test_heads_beyond_those_of_the_named_class_are_kept(case):
    _, config, tensors = saved(case)
    own = case.family.architectures[case.architecture]
    narrow = next(name for name, heads in case.family.architectures.items() if not heads or heads == own[:1])
    for named in (narrow, "SomeoneElsesModel"):
        read = read_checkpoint({**config, "architectures": [named]}, tensors)
        assert set(read.metadata.heads) == set(own)
        assert write_checkpoint(read.metadata, read.tensors).config["architectures"] == [case.architecture]


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RICHEST, ids=by_id)
def test_a_checkpoint_under_another_familys_config(case):
    _, config, tensors = saved(case)
    for model_type in set(GRID) - {case.model_type}:
        other = stock_config(bare_case(model_type)).to_dict()
        with pytest.raises(ZooError, match=r"tensors are missing from the checkpoint|are in no row of the"):
            read_checkpoint({**other, "architectures": config["architectures"]}, tensors)


@pytest.mark.parametrize("case", [case for case in VARIED if case in bare_cases()], ids=by_id)
def test_a_missing_tensor_is_named_with_the_closest_that_is_there(case):
    _, config, tensors = saved(case)
    names = [name for name in tensors if "pooler" not in name]  # a core without a pooler is a core
    for name in names[::5]:
        rest = {other: value for other, value in tensors.items() if other != name}
        refused(config, rest, "1 tensors are missing from the checkpoint", f"missing {name}")
        refused(config, {**rest, f"{name}_": tensors[name]}, f"missing {name}", f"Did you mean '{name}_'?")


@pytest.mark.parametrize("name", ["cls.predictions.transform.LayerNorm.bias", "bert.pooler.dense.weight"])
def test_a_head_of_which_a_part_is_missing(name):
    case = next(case for case in VARIED if case.architecture == "BertForPreTraining")
    _, config, tensors = saved(case)
    refused(config, {other: value for other, value in tensors.items() if other != name}, f"missing {name}")
    pooler = {other for other in tensors if "pooler" in other}
    refused(config, {other: value for other, value in tensors.items() if other not in pooler}, *pooler)


@pytest.mark.parametrize("case", VARIED, ids=by_id)
def test_unknown_tensors_are_listed_and_can_be_left_behind(case):
    _, config, tensors = saved(case)
    more = {**tensors, "adapter.one.weight": torch.zeros(2, 2), "adapter.two.weight": torch.zeros(2, 2)}
    refused(config, more, "2 tensors", "adapter.one.weight", "adapter.two.weight", "--ignore", case.family.title)
    refused(config, more, "1 tensors", "adapter.two.weight", ignore=["one"])
    read = read_checkpoint(config, more, ignore=[r"^adapter\."])
    assert_same(read, read_checkpoint(config, tensors))
    assert read.report == ["left behind as asked: adapter.one.weight, adapter.two.weight"]


@pytest.mark.parametrize("case", VARIED, ids=by_id)
def test_matrices_that_lie_the_other_way_round(case):
    _, config, tensors = saved(case)
    oblong = [name for name, value in tensors.items() if value.ndim == 2 and value.shape[0] != value.shape[1]]
    assert oblong
    for name in oblong[::3]:
        with pytest.raises(ZooError, match=r"tensors have another shape than config\.json says"):
            read_checkpoint(config, {**tensors, name: tensors[name].t()})


def test_tensors_that_a_row_cannot_take_apart():
    _, config, tensors = saved(bare_case("gpt2"))
    odd = {**tensors, "h.0.attn.c_attn.bias": torch.zeros(1)}
    refused(config, odd, "core.layers.0.attention.key.bias: another number of axes in the checkpoint, (32,) by")
    _, config, tensors = saved(bare_case("xlnet"))
    odd = {**tensors, "layer.0.rel_attn.q": torch.zeros(32)}
    refused(config, odd, "core.layers.0.attention.query.weight: another number of axes")


def test_an_ignore_pattern_that_is_none():
    _, config, tensors = saved(bare_case("bert"))
    refused(config, tensors, "ignore: [ is no regular expression", ignore=["["])


def test_a_classifier_without_its_class_is_a_tagger_where_no_pooler_is():
    for purpose, kind in (("SequenceClassification", "classification"), ("TokenClassification", "tagging")):
        case = next(case for case in VARIED if case.architecture == f"BertFor{purpose}")
        _, config, tensors = saved(case)
        read = read_checkpoint({**config, "architectures": None}, tensors)
        assert [head["kind"] for head in read.metadata.heads.values()] == [kind]


def test_class_names_are_read_in_the_order_of_their_numbers():
    case = next(case for case in VARIED if case.architecture == "BertForTokenClassification")
    _, config, tensors = saved(case)
    wide = {**tensors, "classifier.weight": torch.zeros(12, 32), "classifier.bias": torch.zeros(12)}
    names = {str(i): f"class {i}" for i in (2, 10, 1, 0, *range(3, 10), 11)}
    read = read_checkpoint({**config, "id2label": names}, wide)
    assert next(iter(read.metadata.heads.values()))["labels"] == [f"class {i}" for i in range(12)]


def test_an_unknown_model_type_names_the_nearest():
    refused({"model_type": "robert"}, {}, "no weight table", "'robert'", "Did you mean")
    refused({}, {}, "no weight table", "None")


FOREIGN = [
    ("bert", {"hidden_size": "32"}, "hidden_size = '32'; a number is needed"),
    ("bert", {"num_hidden_layers": None}, "num_hidden_layers = None; a number is needed"),
    ("openai-gpt", {"n_embd": None}, "n_embd = None; a number is needed"),
    ("bert", {"is_decoder": True}, "is_decoder = True"),
    ("bert", {"add_cross_attention": True}, "add_cross_attention = True"),
    ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
    ("ernie", {"hidden_act": "mish"}, "hidden_act = 'mish'; the zoo has 'gelu', 'gelu_new', 'relu', 'silu'"),
    ("electra", {"is_decoder": True}, "is_decoder = True"),
    ("albert", {"inner_group_num": 2}, "inner_group_num = 2"),
    ("albert", {"position_embedding_type": "relative_key_query"}, "position_embedding_type"),
    ("albert", {"num_hidden_layers": 18, "num_hidden_groups": 14}, "layer 9 of 18 in 14 groups"),
    ("albert", {"num_hidden_groups": 9}, "num_hidden_groups = 9"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights = False"),
    ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn = True"),
    ("openai-gpt", {"afn": "swish"}, "afn = 'swish'"),
    ("xlnet", {"attn_type": "uni"}, "attn_type = 'uni'"),
    ("xlnet", {"bi_data": True}, "bi_data = True"),
    ("xlnet", {"same_length": True}, "same_length = True"),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}}, "positions are scaled"),
    ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "positions are scaled"),
    ("llama", {"head_dim": 16}, "heads are 16 wide"),
    ("llama", {"num_key_value_heads": 3}, "num_key_value_heads = 3 does not divide"),
]


@pytest.mark.parametrize(("model_type", "changes", "message"), FOREIGN, ids=lambda value: str(value)[:40])
def test_what_a_table_does_not_stand_for_is_refused(model_type, changes, message):
    _, config, tensors = saved(bare_case(model_type))
    refused({**config, **changes}, tensors, message)


@pytest.mark.parametrize("case", split_cases()[1], ids=by_id)
def test_heads_that_presume_other_facts_are_refused_or_left_behind(case):
    _, config, tensors = saved(case)
    refused(config, tensors, "presumes hidden_act = ", "--ignore")
    bare = bare_cases()[0]._replace(model_type=case.model_type, point=case.point)
    bare = bare._replace(architecture=list(case.family.architectures)[-1])
    heads = [name for name in tensors if not name.startswith(f"{case.family.prefix}.")]
    read = read_checkpoint(config, tensors, ignore=[f"^{re.escape(name)}$" for name in heads])
    assert read.metadata.heads == {}
    assert set(read.tensors) >= {name for name in read_checkpoint(*saved(bare)[1:]).tensors if "pooler" not in name}


def test_files_of_the_first_llama_checkpoints():
    """Angles under their old key, a padding of -1 for none, the angles' steps as a tensor of every layer."""
    _, config, tensors = saved(bare_case("llama"))
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "head_dim")}
    steps = {f"layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
    read = read_checkpoint({**old, "rope_theta": 500.0, "pad_token_id": -1}, {**tensors, **steps})
    assert (read.metadata.config.rope_theta, read.metadata.config.pad_token_id) == (500.0, None)
    assert read_config(all_families()["llama"], old).rope_theta == 10000.0


def test_published_xlm_says_words_and_padding_under_older_names():
    """And a causal model is one by its own key, there and back."""
    _, config, tensors = saved(bare_case("xlm"))
    old = {key: value for key, value in config.items() if key not in ("vocab_size", "pad_token_id")}
    old |= {"n_words": config["vocab_size"], "pad_index": 3, "causal": True}
    read = read_checkpoint(old, tensors)
    assert (read.metadata.config.vocab_size, read.metadata.config.pad_token_id) == (config["vocab_size"], 3)
    assert read.metadata.attention == "causal"
    assert write_checkpoint(read.metadata, read.tensors, "xlm").config["causal"] is True


def test_a_causal_xlm_has_the_states_of_the_stock_class():
    case = bare_case("xlm")
    model = make_stock(case)
    model.config.causal = model.causal = True
    ours = read_stock(model)
    assert ours.metadata.attention == "causal"
    batch = make_batch(ours.metadata, case.seed, "xlm")
    with torch.no_grad():
        expected = model(**stock_inputs(batch, ours.metadata)).last_hidden_state[batch.real]
        states = ours.core(batch.inputs).last_hidden_state[batch.real]
    assert (states - expected).abs().max() < 1e-5


# ---- out: what can and what cannot be said --------------------------------------------------------------------------


def facts_of(model_type: str, heads: dict | None = None, attention: str | None = None, **changes: Any) -> ModelMetadata:
    """A model like a family's first point, changed."""
    family = all_families()[model_type]
    core = read_config(family, stock_config(bare_case(model_type)).to_dict()).replace(**changes)
    return ModelMetadata(core, Template(pooling=family.pooling), attention or family.attention, heads or {})


TOKEN = {"kind": "token", "transform": True, "bias": True}
BEYOND = {
    "rotary ALBERT": (facts_of("albert", position_type="rotary"), ["position_type = rotary (ALBERT: learned)"]),
    "post-norm LLaMA": (facts_of("llama", norm_position="post"), ["norm_position = post (LLaMA: pre)"]),
    "causal with a masked head": (facts_of("gpt2", {"masked": TOKEN}), ["heads.masked: transform = True"]),
    "causal BERT": (facts_of("bert", attention="causal"), ["attention = causal (BERT: bidirectional)"]),
    "no biases": (facts_of("bert", attention_bias=False), ["attention_bias = False (BERT: True)"]),
    "bidirectional LLaMA": (
        facts_of("llama", attention="bidirectional"),
        ["attention = bidirectional (LLaMA: causal)"],
    ),
    "gated GPT-2": (facts_of("gpt2", glu=True), ["glu = True"]),
    "no segments": (facts_of("bert", type_vocab_size=0), ["type_vocab_size = 0 (BERT: at least 1)"]),
    "sinusoids": (facts_of("bert", position_type="sinusoidal"), ["position_type = sinusoidal"]),
    "positions without padding": (
        facts_of("roberta", pad_token_id=None, position_offset=1, pooler=False),
        ["position_offset = 1"],
    ),
    "positions elsewhere": (facts_of("roberta", position_offset=5), ["position_offset = 5"]),
    "padding beyond the vocabulary": (facts_of("bert", pad_token_id=500), ["pad_token_id = 500 (BERT: below"]),
    "an odd head width": (facts_of("bert", hidden_size=36, position_type="none"), ["position_type = none (BERT"]),
    "a rounding error there": (
        facts_of("albert", num_hidden_layers=18, num_hidden_groups=14),
        ["layer 9 of 18 in 14 groups"],
    ),
    "the erf form in GPT": (facts_of("openai-gpt", hidden_act="gelu"), ["norm_position = post (GPT-2: pre)"]),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_stock_transformers_cannot_express_is_named(name):
    facts, words = BEYOND[name]
    with pytest.raises(ZooError) as error:
        write_checkpoint(facts, {})
    for word in ("no stock transformers class can express this model", "import zoo.hf", *words):
        assert word in str(error.value)


def test_a_family_can_be_asked_for():
    facts = facts_of("bert")
    assert write_checkpoint(facts, {}).config["model_type"] == "bert"
    assert write_checkpoint(facts, {}, family="ernie").config["model_type"] == "ernie"
    with pytest.raises(ZooError, match=r"As GPT-2 this model cannot be expressed(.|\n)*norm_position = post"):
        write_checkpoint(facts, {}, family="gpt2")
    with pytest.raises(ZooError, match=r"position_offset = 0 \(RoBERTa: 1\)"):
        write_checkpoint(facts, {}, family="roberta")
    with pytest.raises(ZooError, match=r"hidden_act = gelu \(GPT: gelu_new or relu or silu\)"):
        write_checkpoint(facts_of("openai-gpt", hidden_act="gelu"), {}, family="openai-gpt")
    with pytest.raises(ZooError, match="Did you mean 'ernie'"):
        write_checkpoint(facts, {}, family="erni")


def test_a_length_that_is_no_limit_is_in_nobodys_way():
    facts = facts_of("xlnet", max_position_embeddings=64)
    assert write_checkpoint(facts, {}).config["model_type"] == "xlnet"
    assert write_checkpoint(facts_of("llama", max_position_embeddings=64), {}).config["max_position_embeddings"] == 64


def test_weights_go_back_to_where_they_came_from():
    facts = dataclasses.replace(facts_of("bert"), origin="ernie")
    assert write_checkpoint(facts, {}).config["model_type"] == "ernie"
    assert write_checkpoint(dataclasses.replace(facts, origin="gpt2"), {}).config["model_type"] == "bert"
    assert write_checkpoint(dataclasses.replace(facts, origin="unheard-of"), {}).config["model_type"] == "bert"


def test_what_a_class_has_no_place_for_or_lacks_is_reported():
    pair = {"kind": "pair", "num_labels": 2, "dense": "pooler", "bias": True}
    strange = {"kind": "replaced", "num_labels": 1, "dense": "none"}

    def report(model_type: str, heads: dict, **changes: Any) -> tuple[str, list[str]]:
        written = write_checkpoint(facts_of(model_type, heads, **changes), {}, family=model_type)
        return written.config["architectures"][0], written.report

    assert report("bert", {"masked": TOKEN, "odd": strange, "order": pair}) == (
        "BertForPreTraining",
        ["left out, BertForPreTraining has no place for it: head odd"],
    )
    assert report("bert", {"one": pair, "two": pair}) == (
        "BertForNextSentencePrediction",
        ["left out, BertForNextSentencePrediction has no place for it: head two"],
    )
    assert report("bert", {"masked": TOKEN}) == (
        "BertForMaskedLM",
        ["BertForMaskedLM has no pooler; this model's is in the file, for BertModel"],
    )
    assert report("albert", {}, pooler=False) == (
        "AlbertModel",
        ["AlbertModel has a pooler, which this model lacks: filled at random there"],
    )
    assert report("albert", {"order": pair}) == (
        "AlbertForPreTraining",
        ["AlbertForPreTraining has a head that this model lacks, filled at random there: masked_lm"],
    )
    own = {"kind": "classification", "num_labels": LABELS, "dense": "tanh", "bias": True}
    assert report("bert", {"sorts": own}, pooler=False) == ("BertForSequenceClassification", [])


# ---- recombined models ----------------------------------------------------------------------------------------------

NUMBERS: dict[str, tuple] = {
    "vocab_size": (53, 61),
    "hidden_size": (12, 24, 32),
    "num_hidden_layers": (1, 2, 3),
    "num_attention_heads": (1, 2, 4),
    "num_key_value_heads": (None, 1, 2),
    "intermediate_size": (20, 48, 96, 128),
    "embedding_size": (None, 8, 24, 32),
    "embedding_projection": (None, True, False),
    "num_hidden_groups": (None, 1, 2),
    "rope_theta": (10000.0, 300.0),
    "max_position_embeddings": (9, 14),
    "position_offset": (0, 1, 2, 8),
    "attention_layers": (None, [{"class_path": "zoo.attention.SlidingWindow", "init_args": {"window": 4}}]),
    "type_vocab_size": (0, 1, 2, 4),
    "task_type_vocab_size": (0, 3, 5),
    "layer_norm_eps": (1e-12, 1e-5, 1e-2),
    "pad_token_id": (None, 0, 1, 7),
}
HEADS = (
    *({"kind": "token", "transform": t, "bias": b} for t in (True, False) for b in (True, False)),
    *({"kind": "pair", "num_labels": n, "dense": d, "bias": True} for n in (2, 3) for d in ("pooler", "none")),
    *(
        {"kind": "classification", "num_labels": n, "dense": dense, "bias": bias}
        for n in (1, LABELS)
        for dense in ("pooler", "none", "tanh", "gelu", "relu")
        for bias in (True, False)
    ),
    *({"kind": kind, "num_labels": 2, "dense": d} for kind in ("tagging", "span") for d in ("none", "gelu")),
    *({"kind": "replaced", "num_labels": 1, "dense": dense} for dense in ("none", "gelu", "relu")),
    {"kind": "choice", "num_labels": 1, "dense": "pooler", "bias": True},
)
"""Heads for recombined models, those of no family included."""


@cache
def choices() -> dict[str, tuple]:
    """Values of every fact of a core, so that a new fact is tried without a change here."""
    kinds, found = typing.get_type_hints(CoreConfig), {}
    for fact in dataclasses.fields(CoreConfig):
        kind = kinds[fact.name]
        groups = [part for part in typing.get_args(kind) if dataclasses.is_dataclass(part)]
        if fact.name in NUMBERS:
            found[fact.name] = NUMBERS[fact.name]
        elif typing.get_origin(kind) is typing.Literal:
            found[fact.name] = typing.get_args(kind)
        elif kind is bool:
            found[fact.name] = (True, False)
        elif groups:
            found[fact.name] = (None, groups[0]())
        else:
            found[fact.name] = (fact.default, (fact.default or 0) + (0.25 if kind is float else 1))
    return found


@cache
def draw(seed: int) -> tuple[str, int, ModelMetadata]:
    """A family that a model starts from, how many of its facts were changed, and the model."""
    dice = random.Random(seed)
    model_type = list(GRID)[seed % len(GRID)]
    while True:
        case = dice.choice([case for case in bare_cases() if case.model_type == model_type])
        family, changed = case.family, dice.choice((0, 0, 1, 1, 2, 3))
        core = read_config(family, stock_config(case).to_dict())
        attention, pooling = family.attention, family.pooling
        try:
            for name in dice.sample(sorted(choices()), changed):
                core = core.replace(**{name: dice.choice(choices()[name])})
            if changed and dice.random() < 0.15:
                attention = dice.choice(("bidirectional", "causal"))
                pooling = dice.choice(("first", "last"))
            if "pooler" not in family.fixed:
                core = core.replace(pooler=dice.random() < 0.6)
            heads = draw_heads(dice, case, core)
            with torch.device("meta"):
                make_core(core)
                _ = [build_head(core, facts) for facts in heads.values()]
        except ZooError:  # facts that no core can have together
            continue
        return case.model_type, changed, ModelMetadata(core, Template(pooling=pooling), attention, heads)


def draw_heads(dice: random.Random, case: Case, core: CoreConfig) -> dict[str, dict[str, Any]]:
    """Heads of one of the family's classes, or any."""
    if dice.random() < 0.4:
        return {f"head_{i}": dict(dice.choice(HEADS)) for i in range(dice.choice((0, 1, 2)))}
    return heads_of(case._replace(architecture=dice.choice(list(case.family.architectures))), core)


def heads_of(case: Case, core: CoreConfig) -> dict[str, dict[str, Any]]:
    """Facts of the heads of a class that presume nothing that the core has not."""
    plain, found = core.to_dict(), {}
    for name in case.family.architectures[case.architecture]:
        table = case.family.head(name)
        if all(plain[key] == value for key, value in table.required_fields.items()):
            facts = {k: plain[v[1:]] if str(v).startswith("$") else v for k, v in table.config.items()}
            facts = {k: True if str(v).startswith("?") else v for k, v in facts.items()}  # a part that may be left out
            found[name] = facts if facts["kind"] == "token" else {"num_labels": LABELS, **facts}
    return found


def build(metadata: ModelMetadata, seed: int) -> Ours:
    """The model with random weights."""
    core = make_core(metadata.config)
    heads = {name: build_head(metadata.config, head) for name, head in metadata.heads.items()}
    named = {f"core.{key}": value for key, value in core.state_dict().items()}
    for name, head in heads.items():
        named |= {f"heads.{name}.{key}": value for key, value in head.state_dict().items()}
    ours = Ours(metadata, named)
    randomise(ours, seed)
    return ours.eval()


def assert_stock_agrees(metadata: ModelMetadata, seed: int, model_type: str, folder: Path) -> None:
    """Written as files, stock transformers opens it, says nothing that was not reported, and gives the same numbers."""
    ours, family = build(metadata, seed), all_families()[model_type]
    written = write_checkpoint(metadata, ours.state_dict(), model_type)
    (folder / "config.json").write_text(json.dumps(written.config))
    save_tensors(folder / "model.safetensors", written.tensors)
    architecture = getattr(transformers, written.config["architectures"][0])
    model, told = architecture.from_pretrained(folder, output_loading_info=True)
    assert not told["mismatched_keys"]
    model.config.eos_token_id = end_of(metadata.config)
    fixed = "embed_positions" if metadata.config.position_type == "sinusoidal" else "no such name"  # rebuilt there
    missing = {name for name in told["missing_keys"] if fixed not in name}
    assert bool(missing) == any("filled at random" in line for line in written.report)
    assert bool(told["unexpected_keys"]) == any("has no pooler" in line for line in written.report)
    batch = make_batch(metadata, seed, model_type)
    with torch.no_grad():
        output = ours.core(batch.inputs)
        whole = model.eval()(
            **stock_inputs(batch, dataclasses.replace(metadata, origin=model_type)), output_hidden_states=True
        )
        side = "" if metadata.config.decoder is None else "decoder_"
        expected = whole[f"{side}hidden_states"][-1][batch.real]
        assert (output.last_hidden_state[batch.real] - expected).abs().max() < 1e-5
        kept = {name: metadata.heads[name] for name in matching_heads(family, metadata)}
        kept = {name: head for name, head in kept.items() if f"head {name}" not in " ".join(written.report)}
        ours.metadata = dataclasses.replace(metadata, heads=kept)
        for mine, theirs in both_scores(ours, output, whole, batch):
            assert (mine - theirs).abs().max() < 1e-5
    back = read_checkpoint(json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors"))
    free = {**training_only(back.metadata.config), "pooler": back.metadata.config.pooler}  # a head can bring a pooler
    if not metadata.config.has_position_table:  # a length that is no limit, for which not every family has a word
        free["max_position_embeddings"] = back.metadata.config.max_position_embeddings
    assert canonical(back.metadata.config) == canonical(metadata.config.replace(**free))
    assert all(torch.equal(back.tensors[name], value) for name, value in ours.core.state_dict(prefix="core.").items())


def training_only(core: CoreConfig) -> dict[str, Any]:
    """Facts that steer training only, which not every family has a word for."""
    facts = ("dropout", "initializer", "init_scale", "z_loss", "axial_norm_std", "chunk_size")
    return {name: value for name, value in core.to_dict().items() if any(word in name for word in facts)}


@pytest.mark.parametrize("fact", [*choices(), "attention", "pooling"])
@pytest.mark.parametrize("model_type", GRID)
def test_a_fact_changed_alone_is_refused_or_the_same_in_stock_transformers(model_type, fact, tmp_path):
    """Under the class with the most heads, and under every class where heads read the fact too."""
    start, architectures = facts_of(model_type), list(all_families()[model_type].architectures)
    architectures = architectures if fact in ("hidden_act", "pooling") else architectures[:1]
    for architecture, value in itertools.product(architectures, choices().get(fact, (None,))):
        core, attention, pooling = start.config, start.attention, start.template.pooling
        heads = heads_of(bare_case(model_type)._replace(architecture=architecture), core)
        if fact == "attention":
            attention = {"bidirectional": "causal", "causal": "bidirectional"}[attention]
        elif fact == "pooling":
            pooling = {"first": "last", "last": "first"}[pooling]
        elif value == getattr(core, fact):
            continue
        else:
            try:
                core = core.replace(**{fact: value})
                with torch.device("meta"):
                    _ = [make_core(core), *(build_head(core, head) for head in heads.values())]
            except ZooError:  # no core has that fact beside the others, or no such head over it
                continue
        changed = ModelMetadata(core, Template(pooling=pooling), attention, heads)
        try:
            write_checkpoint(changed, {}, model_type)
        except ZooError:
            continue
        assert_stock_agrees(changed, zlib.crc32(fact.encode()), model_type, tmp_path)


@pytest.mark.parametrize("seed", range(200))
def test_a_recombined_model_is_refused_or_the_same_in_stock_transformers(seed, tmp_path):
    started, changed, metadata = draw(seed)
    able = []
    for model_type in GRID:
        try:
            write_checkpoint(metadata, {}, model_type)
        except ZooError:
            continue
        able.append(model_type)
        assert_stock_agrees(metadata, seed, model_type, tmp_path)
    if not changed:
        assert started in able or metadata.heads, "what was read from a family can be said in it"
    try:
        chosen = write_checkpoint(metadata, {}).config["model_type"]
    except ZooError:
        chosen = None
    assert chosen in able if able else chosen is None


def test_the_recombined_models_reach_every_family_and_both_outcomes():
    outcomes: Counter = Counter()
    for seed in range(50 * len(GRID)):
        started, changed, facts = draw(seed)
        try:
            heads = len(matching_heads(all_families()[started], facts))
            write_checkpoint(facts, {}, started)
            outcomes["expressed", started, bool(heads)] += 1
            outcomes["expressed although changed"] += bool(changed)
        except ZooError:
            outcomes["refused"] += 1
    for model_type in GRID:
        assert outcomes["expressed", model_type, True] >= 2, model_type
        assert outcomes["expressed", model_type, False] >= 1, model_type
    assert outcomes["expressed although changed"] > 40
    assert outcomes["refused"] > 40
