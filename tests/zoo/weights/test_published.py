"""What published folders do to configs, names and numbers: read and said, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import zoo
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.model_folder import ModelMetadata, load_core, pack_model
from zoo.sample import sample_path
from zoo.storage.tensors import load_state, save_tensors
from zoo.weights.commands import export_folder, import_folder
from zoo.weights.files import open_checkpoint
from zoo.weights.published import plain_names, sample_tokens, untrained_head
from zoo.weights.read import read_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 438007537\n"
WEIGHT = "bert.encoder.layer.0.output.dense.weight"


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """The config and tensors of a stock BERT, and its folder without a tokenizer."""
    from transformers import BertConfig, BertForPreTraining

    folder = tmp_path_factory.mktemp("stock")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    BertForPreTraining(BertConfig(vocab_size=30, max_position_embeddings=16, **sizes)).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors"), folder


def folder_of(place: Path, config: dict, tensors: dict, name: str = "config.json", pickled: bool = False) -> Path:
    place.mkdir()
    (place / name).write_text(json.dumps(config))
    if pickled:
        torch.save(tensors, place / "pytorch_model.bin")
    else:
        save_file(tensors, place / "model.safetensors")
    return place


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"model._orig_mod.{name}",
        lambda name: f"_forward_module.model.{name}",
        lambda name: name.replace("bert.encoder.", "bert._orig_mod.encoder."),
        lambda name: name.replace(".attention.", "._fsdp_wrapped_module.attention."),
        lambda name: name.replace("layer.0.", "layer.0._checkpoint_wrapped_module."),
    ],
)
def test_what_wrappers_write_before_names_is_left_out_and_said(stock, wrap):
    config, tensors, _ = stock
    found = read_checkpoint(config, {wrap(name): tensor for name, tensor in tensors.items()})
    plain = read_checkpoint(config, tensors)
    assert found.metadata == plain.metadata
    assert all(torch.equal(found.tensors[name], plain.tensors[name]) for name in plain.tensors)
    assert any("wrapped in when saved" in line for line in found.report)
    assert plain.report == []


def test_a_wrapped_base_model_without_the_familys_prefix(stock):
    config, tensors, _ = stock
    base = {n.removeprefix("bert."): t for n, t in tensors.items() if n.startswith("bert.")}
    found = read_checkpoint(config, {f"module.{name}": tensor for name, tensor in base.items()})
    assert found.metadata.heads == {}


def test_a_familys_own_prefix_is_no_wrapper():
    names = dict.fromkeys(("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"), torch.zeros(1))
    assert plain_names(names, "model")[0] is names
    with_head = {**names, "lm_head.weight": torch.zeros(1)}
    assert plain_names(with_head, "model") == (with_head, [])
    wrapped, report = plain_names({f"model.{name}": tensor for name, tensor in with_head.items()}, "model")
    assert set(wrapped) == set(with_head)
    assert len(report) == 1


def test_two_tensors_of_one_name_are_refused(stock):
    config, tensors, _ = stock
    norm = "bert.embeddings.LayerNorm.weight"
    for twin in (f"model.{norm}", norm.replace("weight", "gamma")):
        with pytest.raises(ZooError, match=r"two tensors are bert.embeddings.LayerNorm.weight"):
            read_checkpoint(config, {**tensors, twin: tensors[norm] + 1})


# ---- configs --------------------------------------------------------------------------------------------------------


def old_names(tensors: dict) -> dict:
    return {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in tensors.items()
    }


@pytest.mark.parametrize("name", ["bert_config.json", "config.json"])
def test_folders_from_before_types_were_named(stock, name, tmp_path):
    config, tensors, _ = stock
    old = {k: v for k, v in config.items() if k not in ("model_type", "architectures", "transformers_version")}
    folder = folder_of(tmp_path / "old", {**old, "directionality": "bidi"}, old_names(tensors), name, pickled=True)
    report = "\n".join(import_folder(folder, tmp_path / "in"))
    assert "BERT" in report
    assert "gamma, beta" in report
    core, metadata = load_core(tmp_path / "in")
    assert torch.equal(core.layers[0].output.weight, tensors[WEIGHT])
    assert set(metadata.heads) == {"masked_lm", "next_sentence"}
    assert torch.equal(zoo.from_transformers(folder).core.layers[0].output.weight, tensors[WEIGHT])


def test_a_class_tells_the_type_too_and_what_tells_nothing_is_refused(stock, tmp_path):
    config, tensors, _ = stock
    base = {n.removeprefix("bert."): t for n, t in tensors.items() if n.startswith("bert.")}
    plain = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    named = folder_of(tmp_path / "a", {**plain, "architectures": ["BertModel"]}, base)
    assert any("after its class" in line for line in import_folder(named, tmp_path / "in"))
    with pytest.raises(ZooError, match='"model_type": "bert"'):
        import_folder(folder_of(tmp_path / "b", plain, base), tmp_path / "in-b")
    (tmp_path / "c").mkdir()
    with pytest.raises(ZooError, match=r"no config.json \(nor bert_config.json"):
        import_folder(tmp_path / "c", tmp_path / "in-c")


def test_a_config_with_a_byte_order_mark(stock, tmp_path):
    config, tensors, _ = stock
    folder = folder_of(tmp_path / "bom", config, tensors)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8-sig")
    import_folder(folder, tmp_path / "in")


@pytest.mark.parametrize("file", ["bert_model.ckpt.index", "tf_model.h5", "flax_model.msgpack", "model.pdparams"])
def test_weights_of_other_frameworks_are_named(stock, file, tmp_path):
    (tmp_path / "bert_config.json").write_text(json.dumps(stock[0]))
    (tmp_path / file).write_bytes(b"\0" * 64)
    with pytest.raises(ZooError, match=f"{file} is .* which is not read"):
        import_folder(tmp_path, tmp_path / "in")


# ---- numbers --------------------------------------------------------------------------------------------------------


def quantised(tensors: dict, dtype: torch.dtype, beside: dict[str, torch.Tensor]) -> dict:
    return {
        **tensors,
        WEIGHT: tensors[WEIGHT].to(dtype),
        **{WEIGHT.removesuffix("weight") + n: t for n, t in beside.items()},
    }


SCALE = {"weight_scale": torch.ones(1)}
BESIDE = {
    "int8": (torch.int8, SCALE),
    "float8": (torch.float8_e4m3fn, {"weight_scale_inv": torch.ones(1)}),
    "bitsandbytes 8 bits": (torch.int8, {"SCB": torch.ones(16)}),
    "bitsandbytes 4 bits": (
        torch.uint8,
        {"weight.absmax": torch.ones(4), "weight.quant_state.bitsandbytes__nf4": torch.ones(4)},
    ),
    "scales beside numbers": (torch.bfloat16, SCALE),
    "mlx": (torch.uint8, {"scales": torch.ones(1), "biases": torch.ones(1)}),
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("ignore", [(), ("scale|SCB|absmax|quant_state|biases",)])
def test_scales_beside_weights_are_refused_even_if_they_are_to_be_left_behind(stock, kind, ignore):
    config, tensors, _ = stock
    with pytest.raises(ZooError, match="quantised") as error:
        read_checkpoint(config, quantised(tensors, *BESIDE[kind]), ignore=ignore)
    assert "--ignore" not in str(error.value)


def test_packed_weights_of_four_bits(stock):
    config, tensors, _ = stock
    stem = WEIGHT.removesuffix(".weight")
    rest = {name: tensor for name, tensor in tensors.items() if name != WEIGHT}
    gptq = {
        f"{stem}.qweight": torch.ones(2, 2, dtype=torch.int32),
        f"{stem}.qzeros": torch.ones(2),
        f"{stem}.scales": torch.ones(2),
    }
    packed = {f"{WEIGHT}_packed": torch.ones(2, 2, dtype=torch.int32), f"{WEIGHT}_scale": torch.ones(2)}
    for more in (gptq, packed):
        with pytest.raises(ZooError, match=r"quantised \(gptq\)"):
            read_checkpoint({**config, "quantization_config": {"quant_method": "gptq"}}, {**rest, **more})


def test_no_advice_leads_to_leaving_a_part_of_the_model_behind(stock):
    config, tensors, _ = stock
    for name in (WEIGHT.replace("weight", "adapter_up"), "bert.embeddings.extra.weight"):
        with pytest.raises(ZooError, match="It cannot be left out") as error:
            read_checkpoint(config, {**tensors, name: torch.ones(2)})
        assert "--ignore" not in str(error.value)
    with pytest.raises(ZooError, match="--ignore"):
        read_checkpoint(config, {**tensors, "my_head.weight": torch.ones(2)})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2])
def test_types_that_need_scales_are_refused_without_them(stock, dtype):
    config, tensors, _ = stock
    with pytest.raises(ZooError, match=f"1 weights are of type {str(dtype).removeprefix('torch.')}, such as {WEIGHT}"):
        read_checkpoint(config, quantised(tensors, dtype, {}))
    for plain in (torch.float64, torch.float16, torch.bfloat16):
        read_checkpoint(config, quantised(tensors, plain, {}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(stock, value, tmp_path):
    config, tensors, _ = stock
    broken = {**tensors, WEIGHT: tensors[WEIGHT].clone()}
    broken[WEIGHT][0, 0] = value
    with pytest.raises(ZooError, match="not finite"):
        read_checkpoint(config, broken)


def test_our_own_folders_are_checked_as_well(stock, tmp_path):
    import_folder(stock[2], tmp_path / "in")
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    name = "core.layers.0.output.weight"
    for broken, words in (
        (torch.full_like(tensors[name], torch.nan), "not finite"),
        (tensors[name].to(torch.int8), "int8"),
    ):
        save_tensors(tmp_path / "in" / "model.safetensors", {**tensors, name: broken})
        with pytest.raises(ZooError, match=words):
            load_core(tmp_path / "in")
        with pytest.raises(ZooError, match=words):
            export_folder(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ZooError, match="not written"):
        save_tensors(tmp_path / "x", {"a": torch.zeros(2).to(torch.float8_e4m3fn)})
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(ZooError, match="quantised weights are not read"):
        load_state(layer, {"weight": torch.zeros(2, 2, dtype=torch.int8), "bias": torch.zeros(2)}, "x")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_a_pointer_or_empty(stock, name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(stock[0]))
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(ZooError, match="git lfs pull"):
        open_checkpoint(tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ZooError, match="is the copy complete"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink(missing_ok=True)
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    torch.save({"epoch": 3, "state_dict": {"a": torch.zeros(1)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ZooError, match=r"\(epoch, state_dict\)"):
        open_checkpoint(tmp_path)


# ---- a head that was never trained -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of the shipped text's words, in a folder."""
    folder = tmp_path_factory.mktemp("words")
    split = pre_tokenizers.BertPreTokenizer()
    with sample_path("en/wikipedia.txt").open(encoding="utf-8") as stream:
        found = [word for word, _ in split.pre_tokenize_str(stream.read(60_000).lower())]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(found)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(entries)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), split
    backend.save(str(folder / "tokenizer.json"))
    return folder, backend


def small(words, **fields):
    """A model with a masked head that reads nothing but its bias: its metadata, core and head."""
    size = words[1].get_vocab_size()
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = CoreConfig(vocab_size=size, max_position_embeddings=64, **shape, **fields)
    described = {"kind": "token", "transform": False, "bias": True}
    core, head = build_core(config), build_head(config, described)
    with torch.no_grad():
        core.layers[0].output_norm.weight.zero_()
    return ModelMetadata(config, heads={"lm": described}), core, head


def test_a_head_with_random_numbers_is_told_and_a_trained_one_is_not(words):
    folder, backend = words
    metadata, core, head = small(words)
    rows, entropy = sample_tokens(backend, 62)
    assert 5.5 < entropy < 7.5
    frequencies = torch.bincount(rows[:, ::7].reshape(-1), minlength=metadata.config.vocab_size).float()
    with torch.no_grad():
        head.bias.copy_((frequencies + 1e-3).log())  # what it will be asked, and no more, it knows
        assert untrained_head(metadata, pack_model(core, {"lm": head}), folder, "[MASK]") is None
        head.bias.normal_(0, 3, generator=torch.Generator().manual_seed(0))
        told = untrained_head(metadata, pack_model(core, {"lm": head}), folder, "[MASK]")
    assert told is not None
    assert "never to have been trained" in told
    assert f"{entropy:.2f}" in told
    assert untrained_head(metadata, pack_model(core, {"lm": head}), folder, "") is None


def test_nothing_is_said_where_the_text_is_of_another_language(words):
    other = Tokenizer(models.WordLevel({"[UNK]": 0, "[MASK]": 1, "der": 2, "die": 3}, unk_token="[UNK]"))
    other.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert sample_tokens(other, 61) is None
    assert sample_tokens(words[1], 5) is None, "rows are too short"
    chinese = Tokenizer.from_str(words[1].to_str())
    with sample_path("zh/wikipedia.txt").open(encoding="utf-8") as stream:
        found = [word for word, _ in chinese.pre_tokenizer.pre_tokenize_str(stream.read(60_000).lower())]
    entries = ["[UNK]", "[MASK]", *dict.fromkeys(found)]
    chinese.normalizer = normalizers.BertNormalizer()  # parts Chinese characters
    numbered = {c: i for i, c in enumerate(dict.fromkeys([*entries, *"".join(entries[2:])]))}
    chinese.model = models.WordLevel(numbered, unk_token="[UNK]")
    found = sample_tokens(chinese, 61)
    assert found is not None
    assert 5 < found[1] < 7.5


def test_the_import_says_it(stock, words, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path / "theirs"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=words[1].get_vocab_size(), max_position_embeddings=64, **sizes)
    BertForMaskedLM(config).save_pretrained(folder)
    words[1].save(str(folder / "tokenizer.json"))
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    assert any("never to have been trained" in line for line in import_folder(folder, tmp_path / "in"))
