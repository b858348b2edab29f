"""What transformers, PEFT and Trainer take for granted about a model, beyond opening and saving (test_hf.py)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import rounding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo import hf
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.init import initialise
from zoo.core.transformer import Transformer
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.model_folder import ModelMetadata, load_core, load_head, read_metadata, save_model_folder
from zoo.vocabulary import Template

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", *"abcdefghijklmnopq"]
SEP = WORDS.index("[SEP]")
ENCODER = CoreConfig(
    vocab_size=len(WORDS), hidden_size=32, num_attention_heads=4, intermediate_size=48, initializer_range=0.2
)
DECODER = ENCODER.replace(type_vocab_size=0, pooler=False, norm_position="pre", embedding_norm=False)
TOKEN = {"kind": "token", "transform": True, "bias": True}
BARE = {"kind": "token", "transform": False, "bias": True}
PAIR = {"kind": "pair", "num_labels": 2, "dense": "pooler", "bias": True}
LAST = Template("$A", "$A [SEP] $B", "last")
IDS = torch.tensor([[5, 7, 8, 9], [6, 10, 11, 12]])


@dataclass
class Folder:
    """A model folder, and the modules it was written from."""

    path: Path
    core: Transformer
    heads: dict[str, nn.Module] = field(default_factory=dict)

    def states(
        self, ids: torch.Tensor, attention_pattern: AttentionPattern | None = None, **inputs: Any
    ) -> torch.Tensor:
        with torch.no_grad():
            return self.core(CoreInputs(ids, attention_pattern or AttentionPattern(), **inputs)).last_hidden_state


def write(path: Path, config: CoreConfig, heads: dict[str, dict[str, Any]], causal: bool = False) -> Folder:
    """A model folder as pretraining writes one, tokenizer included."""
    modules: dict[str, nn.Module] = {name: build_head(config, facts) for name, facts in heads.items()}
    for name, module in modules.items():
        initialise(module, config, 1, f"heads.{name}.")
    template = LAST if causal else Template()
    core = build_core(config, seed=1).eval()
    save_model_folder(path, core, modules, ModelMetadata(config, template, "causal" if causal else "bidirectional"))
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.add_special_tokens(WORDS[:5])
    tokenizer = ZooTokenizer(backend, dict(zip(("pad", "unk", "cls", "sep", "mask"), WORDS[:5], strict=True)))
    if not causal:
        tokenizer.set_template(template)
    tokenizer.save(path)
    return Folder(path, core, modules)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("encoder"), ENCODER, {"lm": TOKEN, "next": PAIR})


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("decoder"), DECODER, {"lm": BARE}, causal=True)


# ---- what the config says -------------------------------------------------------------------------------------------


def test_caches_find_the_shapes_they_ask_for(tmp_path):
    folder = write(tmp_path, ENCODER.replace(num_key_value_heads=2), {})
    config = AutoConfig.from_pretrained(folder.path)
    assert (config.head_dim, config.num_key_value_heads, config.num_hidden_layers) == (8, 2, 2)
    assert AutoConfig.from_pretrained(write(tmp_path / "all", ENCODER, {}).path).num_key_value_heads == 4
    assert "head_dim" not in config.to_dict()


def always_sep(path: Path) -> Path:
    """A decoder that finds the separator the likeliest whatever it reads."""
    heads: dict[str, nn.Module] = {"lm": build_head(DECODER, BARE)}
    core = build_core(DECODER, seed=1)
    with torch.no_grad():
        heads["lm"].bias[SEP] = 1e4
    write(path, DECODER, {"lm": BARE}, causal=True)
    save_model_folder(path, core, heads, ModelMetadata(DECODER, LAST, "causal"))
    return path


@pytest.mark.parametrize("opened_with", [AutoModelForCausalLM, hf.ZooForCausalLM])
def test_generation_stops_where_the_tokenizer_ends_a_row(tmp_path, opened_with):
    folder = always_sep(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    assert "eos_token_id" not in config, "a run folder does not say it"
    model = opened_with.from_pretrained(folder)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (2, SEP)
    assert model.generate(IDS[:1], max_new_tokens=5, do_sample=False).tolist() == [[*IDS[0].tolist(), SEP]]
    model.save_pretrained(tmp_path / "saved")  # no tokenizer there
    again = opened_with.from_pretrained(tmp_path / "saved")
    assert again.generate(IDS[:1], max_new_tokens=5, do_sample=False).shape[1] == 5
    found = pipeline("text-generation", str(folder))("good a", max_new_tokens=5, do_sample=False, return_tensors=True)
    assert found[0]["generated_token_ids"][-2:] == [WORDS.index("a"), SEP]


def test_ids_that_the_config_states_are_not_replaced(tmp_path):
    folder = always_sep(tmp_path)
    facts = json.loads((folder / "config.json").read_text())
    facts["core"]["pad_token_id"] = 0
    (folder / "config.json").write_text(json.dumps({**facts, "eos_token_id": 7}))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (2, 7)
    settings = model.generation_config
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (2, 7, 0)
    assert model.generate(IDS[:1], max_new_tokens=5, do_sample=False).shape[1] == 9


# ---- heads ----------------------------------------------------------------------------------------------------------


def test_of_two_heads_of_a_kind_the_first_is_read(tmp_path):
    config = ENCODER.replace(tie_word_embeddings=False)
    folder = write(tmp_path, config, {"first": TOKEN, "second": BARE, "next": PAIR})
    masked, whole = (cls.from_pretrained(folder.path) for cls in (AutoModelForMaskedLM, AutoModelForPreTraining))
    assert list(whole.heads) == ["first", "next"]
    expected = folder.heads["first"](folder.states(IDS), folder.core.token_embedding)
    assert (whole(IDS).prediction_logits - expected).abs().max() < 1e-5
    assert (masked(IDS).logits - expected).abs().max() < 1e-5
    whole.resize_token_embeddings(len(WORDS) + 3)
    whole.save_pretrained(tmp_path / "grown")
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "grown")
    assert torch.equal(again(IDS).prediction_logits, whole(IDS).prediction_logits)


def test_labels_for_a_head_that_is_not_there_are_refused(decoder):
    model = AutoModelForPreTraining.from_pretrained(decoder.path)
    assert torch.isfinite(model(IDS, labels=IDS).loss)
    with pytest.raises(ZooError, match="pair_logits"):
        model(IDS, row_labels=torch.tensor([0, 1]))


CLASSES = {
    "token, causal": ({"lm": BARE}, True, hf.ZooForCausalLM),
    "token": ({"lm": TOKEN}, False, hf.ZooForMaskedLM),
    "token and pair": ({"lm": TOKEN, "next": PAIR}, False, hf.ZooForPreTraining),
    "replaced": ({"found": {"kind": "replaced", "num_labels": 1}}, False, hf.ZooForPreTraining),
    "classification": ({"c": {**PAIR, "kind": "classification"}}, False, hf.ZooForSequenceClassification),
    "tagging": ({"t": {"kind": "tagging", "num_labels": 5}}, False, hf.ZooForTokenClassification),
    "span": ({"s": {"kind": "span", "num_labels": 2}}, False, hf.ZooForQuestionAnswering),
    "choice": ({"c": {**PAIR, "kind": "choice", "num_labels": 1}}, False, hf.ZooForMultipleChoice),
    "none": ({}, False, hf.ZooModel),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_opens_as_the_class_that_reads_its_heads(tmp_path, name):
    heads, causal, wanted = CLASSES[name]
    folder = write(tmp_path, DECODER if causal else ENCODER, heads, causal)
    assert hf.auto_class(read_metadata(tmp_path)) is wanted
    model = hf.from_folder(tmp_path)
    assert type(model) is wanted
    assert model.config.heads == {key: module.head_config for key, module in folder.heads.items()}
    assert all(torch.equal(value, folder.heads[n].state_dict()[k]) for n in heads for k, value in state(model, n))
    with pytest.raises(ZooError, match="not a folder"):
        hf.from_folder(tmp_path / "nowhere")


def state(model, name):
    return model.heads[name].state_dict().items()


@pytest.mark.parametrize(
    ("problem", "labels", "loss"),
    [
        ("regression", torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, 3.0]]), nn.functional.mse_loss),
        (
            "multi_label_classification",
            torch.tensor([[0, 1, 1], [1, 0, 0]]),
            lambda x, y: nn.functional.binary_cross_entropy_with_logits(x, y.float()),
        ),
        ("single_label_classification", torch.tensor([2, 0]), nn.functional.cross_entropy),
    ],
)
def test_the_problem_type_decides_the_loss(encoder, problem, labels, loss):
    model = AutoModelForSequenceClassification.from_pretrained(encoder.path, num_labels=3, problem_type=problem)
    output = model(IDS, labels=labels)
    assert output.loss.item() == pytest.approx(loss(output.logits, labels).item(), rel=1e-6)


def test_one_label_is_a_value(encoder):
    model = AutoModelForSequenceClassification.from_pretrained(encoder.path, num_labels=1)
    for labels in (torch.tensor([0.5, 2.0]), torch.tensor([[0.5], [2.0]]), torch.tensor([1, 2])):
        output = model(IDS, labels=labels)
        expected = (output.logits.flatten() - labels.flatten().float()).square().mean()
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_field_that_transformers_has_too_is_the_core_s():
    """Transformers' own configuration has ``chunk_size_feed_forward``, and sets it before the core is there."""
    core = ENCODER.replace(chunk_size_feed_forward=8)
    config = hf.ZooConfig.of(ModelMetadata(core))
    assert config.chunk_size_feed_forward == config.metadata().config.chunk_size_feed_forward == 8
    assert hf.ZooConfig.from_dict(config.to_dict()).chunk_size_feed_forward == 8
    assert hf.ZooConfig(core=ENCODER.to_dict()).core["chunk_size_feed_forward"] == 0
    assert hf.ZooConfig(core=ENCODER.to_dict(), chunk_size_feed_forward=4).core["chunk_size_feed_forward"] == 4


# ---- initial values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initializer", ["truncated_normal", "normal"])
def test_new_weights_follow_the_zoo_s_rules(initializer):
    facts = {"initializer": initializer, "initializer_range": 0.02, "residual_init_scale": True, "hidden_size": 128}
    config = hf.ZooConfig(core=ENCODER.replace(**facts).to_dict(), heads={"lm": TOKEN})
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config)
    reference = Transformer(ENCODER.replace(**facts))
    initialise(reference, ENCODER.replace(**facts), 0, "core.")
    ours, zoo_s = model.core.state_dict(), reference.state_dict()
    for name, value in ours.items():
        if value.ndim < 2:
            assert torch.equal(value, zoo_s[name]), name
            continue
        assert float(value.std()) == pytest.approx(float(zoo_s[name].std()), rel=0.1), name
        std = 0.02 / (
            2 if name.endswith(("attention.output.weight", "layers.0.output.weight", "1.output.weight")) else 1
        )
        outside = bool((value.abs() > 2 * std * 1.001).any())
        assert outside == (initializer == "normal"), name
    head = dict(model.heads["lm"].named_parameters())
    assert bool((head["bias"] == 0).all())
    assert head["dense.weight"].std() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_new_head_starts_well_in_half_precision(encoder, dtype):
    model = AutoModelForSequenceClassification.from_pretrained(encoder.path, dtype=dtype, num_labels=50)
    weight = model.heads["classifier"].output.weight
    assert weight.dtype == dtype
    assert 0.14 < weight.float().std() < 0.2
    assert weight.float().abs().max() < 0.41
    assert torch.equal(model.core.pooler.weight, encoder.core.pooler.weight.to(dtype)), "loaded values stay"


# ---- inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_may_stand_anywhere(encoder, decoder, attention):
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]])
    for folder, causal in ((encoder, False), (decoder, True)):
        model = AutoModel.from_pretrained(folder.path, attn_implementation=attention)
        found = model(IDS, attention_mask=mask).last_hidden_state
        expected = folder.states(IDS, AttentionPattern(causal=causal, dense=mask.bool()[:, None, :]))
        assert ((found - expected) * mask[..., None]).abs().max() < 1e-5
        changed = model(IDS.where(mask.bool(), torch.tensor(5)), attention_mask=mask).last_hidden_state
        assert ((found - changed) * mask[..., None]).abs().max() < 1e-5
        assert (found - model(IDS).last_hidden_state).abs().max() > 1e-2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_of_nothing_but_padding_stays_finite(encoder, decoder, attention):
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    for folder in (encoder, decoder):
        model = AutoModel.from_pretrained(folder.path, attn_implementation=attention)
        states = model(IDS, attention_mask=mask).last_hidden_state
        assert torch.isfinite(states).all()
        assert (states[:1] - model(IDS[:1]).last_hidden_state).abs().max() < 1e-5


def test_segments_tasks_and_positions_reach_the_core(tmp_path):
    folder = write(tmp_path, ENCODER.replace(task_type_vocab_size=3), {})
    model = AutoModel.from_pretrained(folder.path)
    given = {
        "token_type_ids": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]),
        "task_type_ids": torch.tensor([2, 1]),
        "position_ids": torch.tensor([[3, 2, 1, 0], [0, 1, 2, 3]]),
    }
    plain = model(IDS).last_hidden_state
    for name, value in given.items():
        found = model(IDS, **{name: value}).last_hidden_state
        assert (found - folder.states(IDS, **{name: value})).abs().max() < 1e-5, name
        assert (found - plain).abs().max() > 1e-2, name
    wide = model(IDS, task_type_ids=given["task_type_ids"][:, None].expand(2, 4)).last_hidden_state
    assert torch.equal(wide, model(IDS, task_type_ids=given["task_type_ids"]).last_hidden_state)


# ---- training -------------------------------------------------------------------------------------------------------


class Rows(torch.utils.data.Dataset):
    """Rows of one length with labels of any shape."""

    def __init__(self, labels: dict[str, torch.Tensor], ids: torch.Tensor) -> None:
        self.labels, self.ids = labels, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[number], **{name: value[number] for name, value in self.labels.items()}}


def uneven(ids: torch.Tensor) -> torch.Tensor:
    """Labels of more and more tokens from row to row, so that a mean of means is not the mean."""
    keep = torch.arange(ids.shape[1])[None] <= (torch.arange(len(ids)) // 2)[:, None] + 1
    return ids.masked_fill(~keep, -100)


TRAINED = {
    "masked": (AutoModelForMaskedLM, lambda ids: {"labels": uneven(ids)}),
    "causal": (AutoModelForCausalLM, lambda ids: {"labels": uneven(ids)}),
    "tagging": (AutoModelForTokenClassification, lambda ids: {"labels": uneven(ids % 2)}),
    "classification": (AutoModelForSequenceClassification, lambda ids: {"labels": ids[:, 0] % 2}),
    "span": (
        AutoModelForQuestionAnswering,
        lambda ids: {"start_positions": ids[:, 0] % 5, "end_positions": ids[:, 1] % 5},
    ),
    "choice": (AutoModelForMultipleChoice, lambda ids: {"labels": ids[:, 0, 0] % 3}),
    "pretraining": (AutoModelForPreTraining, lambda ids: {"row_labels": ids[:, 0] % 2}),
}


@pytest.mark.parametrize("name", TRAINED)
def test_accumulated_batches_give_the_gradient_of_one_batch(encoder, decoder, tmp_path, name):
    auto, make_labels = TRAINED[name]
    folder = decoder if name == "causal" else encoder
    shape = (8, 3, 6) if name == "choice" else (8, 6)
    ids = torch.randint(5, len(WORDS), shape, generator=torch.Generator().manual_seed(2))
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
    logged = []
    for steps in (1, 4):
        torch.manual_seed(0)
        model = auto.from_pretrained(folder.path, **still)
        parts = {"per_device_train_batch_size": 8 // steps, "gradient_accumulation_steps": steps, "max_grad_norm": 0.0}
        options = TrainingArguments(str(tmp_path), max_steps=1, seed=1, **parts, **quiet)
        trainer = Trainer(model, options, train_dataset=Rows(make_labels(ids), ids))
        trainer.train()
        logged.append({key: trainer.state.log_history[0][key] for key in ("loss", "grad_norm")})
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)
    assert logged[0]["grad_norm"] > 0.01


def test_checkpointing_outside_training_fills_no_cache_twice(decoder):
    grads = []
    for on in (False, True):
        model = AutoModelForCausalLM.from_pretrained(decoder.path).eval()
        if on:
            model.gradient_checkpointing_enable()
        model(IDS, labels=IDS).loss.backward()
        grads.append([p.grad for p in model.parameters()])
        with torch.no_grad():
            assert model(IDS).past_key_values.get_seq_length() == 4, "without gradients the cache is there"
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("task", "auto"),
    [
        ("SEQ_CLS", AutoModelForSequenceClassification),
        ("TOKEN_CLS", AutoModelForTokenClassification),
        ("QUESTION_ANS", AutoModelForQuestionAnswering),
    ],
)
def test_peft_trains_a_new_head_beside_its_adapters(encoder, task, auto):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(auto.from_pretrained(encoder.path), LoraConfig(task_type=task, target_modules=["query"]))
    heads = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
    assert len(heads) == 2, "weight and bias of the head"
    assert all(".heads." in name for name in heads)


def test_a_causal_model_with_adapters_generates_and_is_checkpointed(decoder, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["query", "value"], r=2, init_lora_weights=False)
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(decoder.path), config)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for n, p in model.named_parameters())
    model.gradient_checkpointing_disable()
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    words = model.eval().generate(input_ids=IDS, **options)
    plain = model.generate(input_ids=IDS, use_cache=False, **options)
    assert torch.equal(words, plain)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(decoder.path), tmp_path).eval()
    assert torch.equal(again.generate(input_ids=IDS, **options), words)
    logits = model(input_ids=IDS).logits
    assert (logits - AutoModelForCausalLM.from_pretrained(decoder.path)(IDS).logits).abs().max() > 1e-2
    assert (model.merge_and_unload()(IDS).logits - logits).abs().max() < 1e-4


# ---- real runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_a_run_opens_with_all_its_heads(shared, family):
    run = shared.finished_run(family)
    model, told = AutoModelForPreTraining.from_pretrained(run, output_loading_info=True)
    assert not told["missing_keys"]
    core, metadata = load_core(run)
    assert list(model.heads) == list(metadata.heads)
    tokenizer = AutoTokenizer.from_pretrained(run)
    batch = tokenizer(["The town lies on the river.", "It was built."], return_tensors="pt", padding=True)
    found = model(**batch)
    inputs = CoreInputs(
        batch["input_ids"], AttentionPattern(lengths=batch["attention_mask"].sum(1)), batch.get("token_type_ids")
    )
    kinds = {"token": "prediction_logits", "pair": "pair_logits"}
    with torch.no_grad():
        output = core.eval()(inputs)
        for name, head_configs in metadata.heads.items():
            head = build_head(metadata.config, head_configs)
            load_head(run, name, head)
            kind = head_configs["kind"]
            args = (output.last_hidden_state, core.token_embedding) if kind == "token" else (output.pooler_output,)
            real = batch["attention_mask"][..., None] if kind == "token" else 1
            assert ((found[kinds[kind]] - head.eval()(*args)) * real).abs().max() < 1e-5


@pytest.mark.slow
def test_a_causal_run_generates(shared):
    run = shared.finished_run("gpt")
    tokenizer = load_tokenizer(run)
    model = AutoModelForCausalLM.from_pretrained(run)
    assert model.generation_config.eos_token_id == tokenizer.vocabulary.sep is not None
    assert model.generation_config.pad_token_id == tokenizer.vocabulary.pad
    text = pipeline("text-generation", str(run))("The town", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert text.startswith("The town")
    ids = torch.tensor([tokenizer.encode("The town").ids])
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))


# ---- the core of a model, and arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_freezing_the_base_model_leaves_the_head_trainable(encoder, decoder, causal):
    auto, folder = (AutoModelForCausalLM, decoder) if causal else (AutoModelForSequenceClassification, encoder)
    model = auto.from_pretrained(folder.path)
    assert model.base_model is model.base_model is not model
    assert {id(p) for p in model.base_model.parameters()} == {id(p) for p in model.core.parameters()}
    for parameter in model.base_model.parameters():
        parameter.requires_grad = False
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all(name.startswith("heads.") for name in trainable)
    assert getattr(model, model.base_model_prefix) is model.core
    assert AutoModel.from_pretrained(folder.path).base_model.core is not model.core


def test_the_base_model_is_a_model(encoder, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(encoder.path).train()
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    assert model.base_model.training
    model.eval()
    states = model.base_model(IDS).last_hidden_state
    assert torch.equal(states, model(IDS, output_hidden_states=True).hidden_states[-1])
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert not any("_base_model" in name for name in model.state_dict())
    model.base_model.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(IDS).last_hidden_state, states)
    kept = model.state_dict().keys()
    assert {name.split(".")[0] for name in kept} == {"core", "heads"}, "names in files are what they were"


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_layers_keep_every_gradient(tmp_path, reentrant):
    config = ENCODER.replace(position_type="relative", type_vocab_size=0, pooler=False, query_stream=True)
    folder = write(tmp_path, config, {"lm": BARE})
    grads = []
    for on in (False, True):
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_pretrained(folder.path).train()
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        torch.manual_seed(0)
        model(IDS, labels=IDS).loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


@pytest.mark.parametrize(
    "unread",
    [
        {"perm_mask": torch.zeros(2, 4, 4)},
        {"target_mapping": torch.zeros(2, 1, 4)},
        {"input_mask": torch.zeros(2, 4)},
        {"mems": [torch.zeros(3, 2, 32)]},
        {"cu_seq_lens_q": torch.tensor([0, 4])},
        {"use_mems": True},
        {"attention_masks": torch.ones(2, 4)},
        {"task_type_ids": torch.ones(2, 4, dtype=torch.long)},
    ],
    ids=lambda given: next(iter(given)),
)
def test_an_argument_that_is_not_read_is_an_error(encoder, unread):
    model = AutoModelForMaskedLM.from_pretrained(encoder.path)
    with pytest.raises(ZooError, match=next(iter(unread))):
        model(IDS, **unread)
    model(IDS, **{**dict.fromkeys(unread), "use_mems": False, "return_dict": True})


def test_segments_and_positions_that_a_core_has_no_place_for(decoder, permuted):
    causal, relative = AutoModelForCausalLM.from_pretrained(decoder.path), AutoModel.from_pretrained(permuted[0].path)
    causal(IDS, token_type_ids=torch.zeros_like(IDS))
    with pytest.raises(ZooError, match="token_type_ids"):
        causal(IDS, token_type_ids=torch.ones_like(IDS))
    with pytest.raises(ZooError, match="position_ids"):
        relative(IDS, position_ids=IDS)


@pytest.fixture(scope="module")
def permuted(tmp_path_factory):
    """A small XLNet of ours, the folder of stock XLNet that `zoo export` writes of it, and that model opened."""
    from transformers import XLNetLMHeadModel

    from zoo.weights.commands import export_folder

    place = tmp_path_factory.mktemp("xlnet")
    config = CoreConfig(
        vocab_size=len(WORDS), hidden_size=32, num_attention_heads=4, intermediate_size=48, initializer_range=0.3,
        position_type="relative", type_vocab_size=0, embedding_norm=False, pooler=False, query_stream=True,
        relative_segments=True, untie_r=True, mem_len=0, attention_bias=False, num_hidden_layers=2,
    )  # fmt: skip
    folder = write(
        place / "ours", config, {"lm": BARE, "classifier": {**PAIR, "kind": "classification", "dense": "tanh"}}
    )
    export_folder(folder.path, place / "stock", "xlnet")
    return folder, XLNetLMHeadModel.from_pretrained(place / "stock").eval()


LONG = torch.tensor([[5, 7, 8, 9, 10, 3], [6, 10, 11, 12, 3, 0], [6, 5, 13, 3, 0, 0]])
REAL = (LONG != 0).long()


def random_order(seed: int) -> torch.Tensor:
    """(3, 6, 6) a random factorisation order; the two positions that come first attend to each other."""
    ranks = torch.rand(3, 6, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1).clamp_min(1)
    return (ranks[:, :, None] <= ranks[:, None, :]).float() * (1 - torch.eye(6)) * 1.0


@pytest.mark.parametrize("masked", ["no mask", "attention_mask", "input_mask"])
@pytest.mark.parametrize("segments", [False, True])
def test_orders_of_prediction_are_read_as_stock_xlnet_reads_them(permuted, masked, segments):
    folder, stock = permuted
    ours = AutoModelForMaskedLM.from_pretrained(folder.path)
    given = {"attention_mask": {"attention_mask": REAL}, "input_mask": {"input_mask": 1 - REAL}}.get(masked, {})
    if segments:
        given["token_type_ids"] = torch.tensor([[0, 0, 1, 1, 1, 1]]).expand(3, 6)
    order = random_order(1)
    order[:, :, 0] = 0  # which every position attends to, so that none is without a key
    mapping = torch.zeros(3, 3, 6)
    for row, places in enumerate(([2, 4, 1], [3, 1, 2], [1, 2, 0])):
        mapping[row, range(3), places] = 1
    mapping[2, 2] = 0  # as transformers' collator fills rows up
    theirs = {key: value.float() if "mask" in key else value for key, value in given.items()}
    with torch.no_grad():
        for extra in (
            {"perm_mask": order},
            {"perm_mask": order, "target_mapping": mapping},
            {"target_mapping": mapping},
        ):
            labels = torch.tensor([[5, 6, -100], [7, -100, 9], [8, 5, -100]]) if "target_mapping" in extra else LONG
            expected = stock(LONG, **theirs, **extra, labels=labels, use_mems=False, output_hidden_states=True)
            found = ours(LONG, **given, **extra, labels=labels, output_hidden_states=True, output_attentions=True)
            real = REAL.bool() if "target_mapping" not in extra else torch.ones(3, 3, dtype=torch.bool)
            bound = rounding(float(expected.logits.abs().max()), 48, 12)
            assert found.logits.shape == expected.logits.shape
            assert (found.logits - expected.logits)[real].abs().max() < bound
            if "target_mapping" in extra:
                assert abs(found.loss - expected.loss) < bound
            assert len(found.hidden_states) == len(expected.hidden_states)
            for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
                kept = (slice(None),) if one.shape[1] == 3 else (REAL.bool(),)
                assert (one - other)[kept].abs().max() < rounding(float(other.abs().max()), 48, 12)
    assert (ours(LONG).logits - ours(LONG, perm_mask=order).logits).abs().max() > 1e-2, "the order matters"


def test_orders_that_cannot_be_read(permuted):
    ours = AutoModelForMaskedLM.from_pretrained(permuted[0].path)
    good = torch.zeros(3, 1, 6)
    with pytest.raises(ZooError, match=r"perm_mask has shape \(3, 6\)"):
        ours(LONG, perm_mask=torch.zeros(3, 6))
    with pytest.raises(ZooError, match=r"perm_mask has shape \(3, 5, 6\)"):
        ours(LONG, perm_mask=torch.zeros(3, 5, 6))
    with pytest.raises(ZooError, match="target_mapping has shape"):
        ours(LONG, target_mapping=torch.zeros(3, 1, 5))
    with pytest.raises(ZooError, match="a single 1"):
        ours(LONG, target_mapping=good + 0.5)
    with pytest.raises(ZooError, match="a single 1"):
        ours(LONG, target_mapping=torch.ones(3, 1, 6))
    with pytest.raises(ZooError, match="the same the other way round"):
        ours(LONG, attention_mask=REAL, input_mask=1 - REAL)
    classes = AutoModelForSequenceClassification.from_pretrained(permuted[0].path)
    classes(LONG, perm_mask=random_order(2))
    with pytest.raises(ZooError, match="no target_mapping"):
        classes(LONG, target_mapping=good)
