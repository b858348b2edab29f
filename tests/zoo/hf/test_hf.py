"""Models of the zoo inside transformers: Auto classes, saving, generation, Trainer, pipelines, PEFT, encoders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
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
    DataCollatorForLanguageModeling,
    StaticCache,
    Trainer,
    TrainingArguments,
    pipeline,
)

import zoo
from finetune.models.task_model import TaskModel
from zoo import hf
from zoo.config import CoreConfig
from zoo.config_parts import CharacterConfig, RecurrentConfig
from zoo.core.build import build_core
from zoo.core.init import initialise
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.inputs import AttentionPattern, CoreInputs, QueryStream
from zoo.model_folder import ModelMetadata, load_core, open_weights, read_metadata, save_model_folder
from zoo.vocabulary import Template, Vocabulary

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"the a cat dog sat ran on under mat tree red blue".split()]  # noqa: SIM905
BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TOKEN = {"kind": "token", "transform": True, "bias": True}
PAIR = {"kind": "pair", "num_labels": 2, "dense": "pooler", "bias": True}
BARE = {"kind": "token", "transform": False, "bias": False}
LAST = Template("$A", "$A [SEP] $B", "last")
MODELS = {
    "both directions": (CoreConfig(vocab_size=len(WORDS), **BASE, pad_token_id=0), Template(), "bidirectional"),
    "recombined": (  # shared layers, narrow embeddings, rotary positions, RMSNorm: no stock class has these together
        CoreConfig(
            vocab_size=len(WORDS),
            **BASE,
            embedding_size=16,
            num_hidden_groups=1,
            position_type="rotary",
            norm="rms",
            glu=True,
            pooler=False,
            pad_token_id=0,
        ),
        Template(),
        "bidirectional",
    ),
    "sinusoidal": (
        CoreConfig(vocab_size=len(WORDS), **BASE, position_type="sinusoidal", pad_token_id=0),
        Template(),
        "bidirectional",
    ),
    "recurrent": (
        CoreConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            recurrent=RecurrentConfig(cell_size=24),
            position_type="none",
            type_vocab_size=0,
            embedding_norm=False,
            pooler=False,
            pad_token_id=0,
        ),
        Template(),
        "bidirectional",
    ),
    "causal, relative": (
        CoreConfig(
            vocab_size=len(WORDS),
            **BASE,
            position_type="relative",
            type_vocab_size=0,
            attention_bias=False,
            pooler=False,
            pad_token_id=0,
        ),
        LAST,
        "causal",
    ),
    "causal, memory": (  # Transformer-XL's facts, with what XLNet adds
        CoreConfig(
            vocab_size=len(WORDS),
            **BASE,
            position_type="relative",
            untie_r=True,
            relative_segments=True,
            query_stream=True,
            mem_len=32,
            type_vocab_size=0,
            attention_bias=False,
            pooler=False,
            pad_token_id=0,
        ),
        LAST,
        "causal",
    ),
    "two streams": (
        CoreConfig(
            vocab_size=len(WORDS),
            **BASE,
            position_type="relative",
            untie_r=True,
            relative_segments=True,
            query_stream=True,
            embedding_norm=False,
            type_vocab_size=0,
            attention_bias=False,
            pooler=False,
            pad_token_id=0,
        ),
        Template(),
        "bidirectional",
    ),
    "characters": (
        CoreConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            recurrent=RecurrentConfig(cell_size=24),
            characters=CharacterConfig(filters=((1, 8), (2, 16)), max_characters_per_token=10, n_highway=1),
            position_type="none",
            type_vocab_size=0,
            embedding_norm=False,
            tie_word_embeddings=False,
            pooler=False,
            pad_token_id=0,
        ),
        Template(),
        "bidirectional",
    ),
    "causal": (
        CoreConfig(
            vocab_size=len(WORDS),
            **BASE,
            type_vocab_size=0,
            pooler=False,
            norm_position="pre",
            embedding_norm=False,
            pad_token_id=0,
        ),
        LAST,
        "causal",
    ),
    "causal, grouped keys, untied": (
        CoreConfig(
            vocab_size=len(WORDS),
            **BASE,
            num_key_value_heads=2,
            position_type="rotary",
            tie_word_embeddings=False,
            type_vocab_size=0,
            pooler=False,
            pad_token_id=0,
        ),
        LAST,
        "causal",
    ),
}
MASKED = [name for name, (_, _, attention) in MODELS.items() if attention == "bidirectional"]
CAUSAL = [name for name in MODELS if name not in MASKED]


def make_folder(folder: Path, name: str) -> Path:
    """A model folder with weights large enough to tell models apart, and a tokenizer."""
    config, template, attention = MODELS[name]
    heads: dict[str, nn.Module] = {"lm": build_head(config, TOKEN if attention == "bidirectional" else BARE)}
    if config.pooler:
        heads["next"] = build_head(config, PAIR)
    wide = config.replace(initializer_range=0.3)
    core = build_core(wide, seed=1)
    core.set_spellings(WORDS, Vocabulary(len(WORDS), cls=2, sep=3))
    for head, module in heads.items():
        initialise(module, wide, 1, f"heads.{head}.")
    save_model_folder(folder, core, heads, ModelMetadata(config, template, attention))  # type: ignore[arg-type]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(WORDS[:5])
    tokenizer.decoder = decoders.WordPiece()
    if template.pooling == "first":
        ids = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    inputs = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names, **inputs})
    (folder / "tokenizer_config.json").write_text(text)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("hf")
    return {name: make_folder(place / name.replace(" ", "-"), name) for name in MODELS}


def batch(rows: int = 3, length: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and a mask with padding at the right."""
    ids = torch.randint(5, len(WORDS), (rows, length), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return ids, mask


def expected(folder: Path, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Token logits by the core and head themselves."""
    core, metadata = load_core(folder)
    head = build_head(metadata.config, metadata.heads["lm"])
    weights = open_weights(folder)
    head.load_state_dict({k.removeprefix("heads.lm."): weights[k] for k in weights if k.startswith("heads.lm.")})
    visible = AttentionPattern(causal=metadata.attention == "causal", lengths=mask.sum(1))
    with torch.no_grad():
        return head(core.eval()(CoreInputs(ids, visible)).last_hidden_state, core.token_embedding)


def auto(name: str):
    return AutoModelForMaskedLM if name in MASKED else AutoModelForCausalLM


# ---- opening and saving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_folder_opens_and_gives_the_core_s_own_numbers(folders, name, attention):
    ids, mask = batch()
    model, told = auto(name).from_pretrained(folders[name], output_loading_info=True, attn_implementation=attention)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    logits = model(ids, attention_mask=mask).logits
    assert ((logits - expected(folders[name], ids, mask)) * mask[..., None]).abs().max() < 1e-5
    assert logits.std() > 0.1
    assert model(ids, attention_mask=mask, return_dict=False)[0].equal(logits)


@pytest.mark.parametrize("name", [name for name, (config, _, _) in MODELS.items() if config.recurrent is None])
def test_states_and_attentions_come_back_when_asked_for(folders, name):
    ids, mask = batch()
    model = AutoModel.from_pretrained(folders[name])
    plain = model(ids, attention_mask=mask)
    assert plain.hidden_states is None
    assert plain.attentions is None
    told = model(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    assert len(told.hidden_states) == BASE["num_hidden_layers"] + 1
    assert len(told.attentions) == BASE["num_hidden_layers"]
    real = mask[..., None]
    assert ((told.last_hidden_state - plain.last_hidden_state) * real).abs().max() < 1e-5
    assert torch.equal(told.hidden_states[-1], told.last_hidden_state)
    weights = told.attentions[0]
    assert weights.shape == (3, BASE["num_attention_heads"], 9, 9)
    assert (weights.sum(-1) - 1).abs().max() < 1e-5
    assert weights[1, :, :4, 4:].abs().max() == 0  # nobody looks at padding
    if name in CAUSAL:
        assert weights.triu(1).abs().max() == 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", ["5GB", "8KB"])
def test_saving_and_opening_changes_nothing_on_either_side(folders, name, size, tmp_path):
    ids, mask = batch()
    model = auto(name).from_pretrained(folders[name])
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("*.safetensors"))) > (size == "8KB")
    again = auto(name).from_pretrained(tmp_path)
    assert torch.equal(again(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)
    core, metadata = load_core(tmp_path)  # and the zoo reads what transformers wrote
    assert metadata.config == read_metadata(folders[name]).config
    assert metadata.heads == {"lm": read_metadata(folders[name]).heads["lm"]}
    assert (metadata.template, metadata.attention) == (MODELS[name][1], MODELS[name][2])
    assert all(torch.equal(p, q) for p, q in zip(core.parameters(), load_core(folders[name])[0].parameters()))
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.hidden_size, config.vocab_size, config.pad_token_id) == (32, len(WORDS), 0)
    assert not {"hidden_size", "vocab_size"} & set(json.loads((tmp_path / "config.json").read_text()))


def test_every_auto_class_takes_its_own_heads(folders, tmp_path):
    folder = folders["both directions"]
    ids, mask = batch()
    whole = AutoModelForPreTraining.from_pretrained(folder)
    assert list(whole.heads) == ["lm", "next"]
    output = whole(ids, attention_mask=mask, labels=ids, row_labels=torch.tensor([0, 1, 0]))
    masked = AutoModelForMaskedLM.from_pretrained(folder)(ids, attention_mask=mask, labels=ids)
    pair = nn.functional.cross_entropy(output.pair_logits, torch.tensor([0, 1, 0]))
    assert output.loss.item() == pytest.approx(float(masked.loss + pair), rel=1e-6)
    for cls, new in (
        (
            AutoModelForSequenceClassification,
            {"heads.classifier.output.weight", "heads.classifier.output.bias"},
        ),
        (
            AutoModelForTokenClassification,
            {"heads.token_classifier.output.weight", "heads.token_classifier.output.bias"},
        ),
        (AutoModelForQuestionAnswering, {"heads.qa_outputs.output.weight", "heads.qa_outputs.output.bias"}),
        (AutoModelForMultipleChoice, {"heads.choice_classifier.output.weight", "heads.choice_classifier.output.bias"}),
    ):
        _, told = cls.from_pretrained(folder, output_loading_info=True)
        assert told["missing_keys"] == new, cls
    labels = {"id2label": {0: "no", 1: "yes", 2: "perhaps"}, "label2id": {"no": 0, "yes": 1, "perhaps": 2}}
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, **labels)
    assert classifier(ids, attention_mask=mask, labels=torch.tensor([0, 2, 1])).logits.shape == (3, 3)
    classifier.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.id2label == labels["id2label"]
    assert read_metadata(tmp_path).heads["classifier"]["labels"] == ["no", "yes", "perhaps"]
    assert torch.equal(again(ids).logits, classifier(ids).logits)
    choice = AutoModelForMultipleChoice.from_pretrained(folder)
    assert choice(ids.view(1, 3, 9), labels=torch.tensor([2])).logits.shape == (1, 3)
    answer = AutoModelForQuestionAnswering.from_pretrained(folder)
    spans = {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([2, 2, 99])}
    assert torch.isfinite(answer(ids, attention_mask=mask, **spans).loss)


def test_a_head_that_reads_the_last_state_finds_it_wherever_the_padding_is(folders):
    model = AutoModelForSequenceClassification.from_pretrained(folders["causal"]).eval()
    ids = torch.tensor([[6, 7, 8]])
    plain = model(ids).logits
    pads = torch.zeros(1, 2, dtype=torch.long)
    right = model(torch.cat([ids, pads], 1), attention_mask=torch.tensor([[1, 1, 1, 0, 0]])).logits
    position = torch.tensor([[0, 0, 0, 1, 2]])
    left = model(
        torch.cat([pads, ids], 1), attention_mask=torch.tensor([[0, 0, 1, 1, 1]]), position_ids=position
    ).logits
    assert (right - plain).abs().max() < 1e-6
    assert (left - plain).abs().max() < 1e-6


def test_refusals_say_what_would_work(folders):
    with pytest.raises(ZooError, match="AutoModelForCausalLM"):
        AutoModelForMaskedLM.from_pretrained(folders["causal"])
    with pytest.raises(ZooError, match="AutoModelForMaskedLM"):
        AutoModelForCausalLM.from_pretrained(folders["both directions"])
    model = AutoModelForCausalLM.from_pretrained(folders["both directions"], attention="causal")
    assert model.config.attention == "causal"
    ids, mask = batch()
    encoder = AutoModel.from_pretrained(folders["both directions"])
    with pytest.raises(ZooError, match="input_ids"):
        encoder(inputs_embeds=torch.zeros(1, 2, 32))
    with pytest.raises(ZooError, match="4 axes"):
        encoder(ids, attention_mask=mask[:, None, None])
    cache = StaticCache(config=model.config, max_cache_len=16)
    with pytest.raises(ZooError, match="static"):
        model(ids, past_key_values=cache)
    with pytest.raises(ZooError, match="longer than the 512 positions"):
        encoder(torch.zeros(1, 513, dtype=torch.long))


def test_import_zoo_stays_light():
    code = "import sys, zoo; sys.exit(len({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- what transformers does to models -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MODELS if name != "characters"])
@pytest.mark.parametrize("size", [len(WORDS) + 7, len(WORDS) - 2])
def test_resized_vocabulary(folders, name, size, tmp_path):
    ids = batch()[0].clamp(max=len(WORDS) - 3)
    model = auto(name).from_pretrained(folders[name])
    before = model(ids).logits
    model.resize_token_embeddings(size, mean_resizing=False)
    kept = min(size, len(WORDS))
    after = model(ids).logits
    assert after.shape[-1] == size == model.config.vocab_size == model.core.config.vocab_size
    assert (after[..., :kept] - before[..., :kept]).abs().max() < 1e-6
    model.save_pretrained(tmp_path)
    assert torch.equal(auto(name).from_pretrained(tmp_path)(ids).logits, after)
    load_core(tmp_path)


def test_words_that_are_spelt_cannot_be_resized(folders):
    model = AutoModelForMaskedLM.from_pretrained(folders["characters"])
    with pytest.raises(ZooError, match="no table to give 24 rows"):
        model.resize_token_embeddings(24)


OPENED = [
    (cls, name)
    for name, (config, _, attention) in MODELS.items()
    for cls in (
        AutoModel,
        AutoModelForMaskedLM if attention == "bidirectional" else AutoModelForCausalLM,
        AutoModelForPreTraining,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
        AutoModelForMultipleChoice,
    )
]


@pytest.mark.parametrize(("cls", "name"), OPENED, ids=[f"{cls.__name__[4:]}-{name}" for cls, name in OPENED])
def test_every_trained_weight_gets_a_gradient(folders, name, cls, tmp_path):
    """Data-parallel training waits for all of them; what a class never reads is frozen, and is saved all the same."""
    ids, mask = batch()
    if name == "two streams":
        ids[:, 2] = WORDS.index("[MASK]")
    if cls is AutoModelForMultipleChoice:
        ids, mask = ids[None], mask[None]
    model = cls.from_pretrained(folders[name]).train()
    output = model(ids, attention_mask=mask)
    values = [value for key, value in output.items() if torch.is_tensor(value) and value.requires_grad]
    torch.stack([value.float().square().sum() for value in values]).sum().backward()
    lacking = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert all("pooler" in key or key == "core.relative.start" for key in frozen)
    stored = {key for key in open_weights(folders[name]) if key.startswith("core.")}
    model.save_pretrained(tmp_path)
    assert stored <= set(open_weights(tmp_path))


def test_a_pooler_is_trained_where_it_is_read(folders):
    def trained(cls, name="both directions"):
        return cls.from_pretrained(folders[name]).core.pooler.weight.requires_grad

    assert trained(AutoModel)
    assert trained(AutoModelForPreTraining)
    assert trained(AutoModelForSequenceClassification)
    assert not trained(AutoModelForMaskedLM)
    assert not trained(AutoModelForTokenClassification)
    assert not AutoModelForMaskedLM.from_config(
        hf.ZooConfig.of(read_metadata(folders["both directions"]))
    ).core.pooler.weight.requires_grad


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("pooling", ["first", "last"])
@pytest.mark.parametrize("pooler", [True, False])
def test_a_new_head_is_the_one_that_fine_tuning_makes(attention, pooling, pooler):
    config = MODELS["both directions"][0].replace(pooler=pooler)
    metadata = ModelMetadata(config, Template(pooling=pooling), attention)
    tuned = TaskModel(
        build_core(config), metadata, {"kind": "classification", "num_labels": 2, "labels": ["no", "yes"]}, 0.0, 1
    ).head
    model = AutoModelForSequenceClassification.from_config(hf.ZooConfig.of(metadata))
    assert model.head.head_config == {key: value for key, value in tuned.head_config.items() if key != "labels"}
    assert model.head.state_dict().keys() == tuned.state_dict().keys()


@pytest.mark.parametrize("name", MODELS)
def test_training_drops_and_repeats_with_the_seed(folders, name):
    ids, mask = batch()
    model = auto(name).from_pretrained(folders[name]).train()

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return model(ids, attention_mask=mask, labels=ids).loss.item()

    assert loss(1) == loss(1) != loss(2)
    model.eval()
    assert loss(1) == loss(2)


def test_gradient_checkpointing_gives_the_same_gradients(folders):
    ids, mask = batch()
    grads = []
    for on in (False, True):
        model = AutoModelForMaskedLM.from_pretrained(folders["recombined"]).train()
        if on:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        torch.manual_seed(0)
        model(ids, attention_mask=mask, labels=ids).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision(folders, name, dtype):
    ids, mask = batch()
    exact = auto(name).from_pretrained(folders[name])(ids, attention_mask=mask).logits
    model = auto(name).from_pretrained(folders[name], dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    logits = model(ids, attention_mask=mask).logits
    assert logits.dtype == dtype
    error = (logits.float() - exact).abs()[mask.bool()].max() / exact.abs().max()
    assert error < (0.1 if dtype == torch.bfloat16 else 0.02)
    labels = ids.masked_fill(mask == 0, -100)
    model.train()(ids, attention_mask=mask, labels=labels).loss.backward()


@pytest.mark.parametrize("place", ["cpu", "auto"])
def test_device_map(folders, place):
    ids, mask = batch()
    model = AutoModelForMaskedLM.from_pretrained(folders["recombined"], device_map=place)
    plain = AutoModelForMaskedLM.from_pretrained(folders["recombined"])
    assert torch.equal(model(ids, attention_mask=mask).logits, plain(ids, attention_mask=mask).logits)


def test_attention_can_be_switched(folders):
    ids, mask = batch()
    model = AutoModel.from_pretrained(folders["both directions"])
    before = model(ids, attention_mask=mask).last_hidden_state
    model.set_attn_implementation("eager")
    after = model(ids, attention_mask=mask).last_hidden_state
    assert model.core.eager_attention
    assert ((before - after) * mask[..., None]).abs().max() < 1e-5


def test_new_heads_start_as_the_zoo_s_do(folders):
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(hf.ZooConfig.of(read_metadata(folders["both directions"])))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert 0.01 < parameter.std() < 0.03, name
        else:
            assert bool((parameter == (1.0 if name.endswith("norm.weight") else 0.0)).all()), name


@pytest.mark.parametrize("name", MODELS)
def test_every_part_starts_as_in_the_zoo(name):
    """The same constants, and where values are drawn the same width and shape of their distribution."""
    config, template, attention = MODELS[name]
    config = config.replace(hidden_size=128, embedding_size=None, intermediate_size=160)
    metadata = ModelMetadata(config, template, attention)
    torch.manual_seed(5)
    model = AutoModel.from_config(hf.ZooConfig.of(metadata))
    reference = dict(build_core(config, seed=2).named_parameters())
    for key, value in model.core.named_parameters():
        expected = reference[key]
        if expected.unique().numel() == 1:
            assert torch.equal(value, expected), key
            continue
        assert not torch.equal(value, expected), key
        if value.numel() > 200:
            assert value.std().item() == pytest.approx(expected.std().item(), rel=0.2), key
        if value.numel() > 3000:  # normal, cut and uniform values differ in how far they reach
            reach = [float(x.abs().max() / x.std()) for x in (value, expected)]
            assert reach[0] == pytest.approx(reach[1], rel=0.25), key


def test_push_to_hub_uploads_the_folder_s_files(folders, monkeypatch):
    uploaded: dict[str, list[str]] = {}

    def upload(self, folder, repo_id, files_timestamps, **kwargs):
        uploaded[repo_id] = sorted(p.name for p in Path(folder).iterdir())

    monkeypatch.setattr("transformers.utils.hub.PushToHubMixin._upload_modified_files", upload)
    api = type("Api", (), {"create_repo": lambda self, repo_id, **kwargs: type("Repo", (), {"repo_id": repo_id})})
    monkeypatch.setattr("transformers.utils.hub.hf_api", api)
    card = type("Card", (), {"save": lambda self, path: Path(path).write_text("card", encoding="utf-8")})
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *args, **kwargs: card())
    AutoModelForMaskedLM.from_pretrained(folders["recombined"]).push_to_hub("someone/model")
    assert {"config.json", "model.safetensors", "README.md"} <= set(uploaded["someone/model"])


# ---- generation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_equals_generation_without(folders, name, beams):
    model = AutoModelForCausalLM.from_pretrained(folders[name])
    prompt = torch.tensor([[0, 0, 6, 7], [5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    options = {"max_new_tokens": 12, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    cached = model.generate(prompt, attention_mask=mask, **options)
    plain = model.generate(prompt, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(cached, plain)
    alone = model.generate(prompt[:1, 2:], **options)  # left padding changes nothing
    assert torch.equal(alone[0], cached[0, 2 : 2 + len(alone[0])])
    assert not cached[0, 2 + len(alone[0]) :].any()  # padding, where it ended before the other


@pytest.mark.parametrize("name", CAUSAL)
def test_every_token_is_run_once(folders, name, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(folders[name])
    lengths: list[int] = []
    forward = model.core.forward
    monkeypatch.setattr(
        model.core,
        "forward",
        lambda inputs, *a, **k: (lengths.append(inputs.input_ids.shape[1]), forward(inputs, *a, **k))[1],
    )
    model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert lengths == [3, 1, 1, 1, 1]


def whole_text(model, ids: torch.Tensor, dense: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of all positions, run at once without any memory."""
    with torch.no_grad():
        states = model.core(CoreInputs(ids, AttentionPattern(causal=True, dense=dense))).last_hidden_state
        return model.token_scores(model.head, states)


@pytest.mark.parametrize("same_length", [False, True])
@pytest.mark.parametrize("remembered", [32, 5])
def test_generation_with_memory_equals_the_whole_text_at_once(folders, remembered, same_length):
    """Within the memory, nothing is lost. Beyond it a token sees the last ``mem_len`` ones and itself; with
    ``same_length`` one less, which the core's own mask says of a text that is run at once.
    """
    model = AutoModelForCausalLM.from_pretrained(folders["causal, memory"], mem_len=remembered, same_length=same_length)
    assert model.core.config.mem_len == remembered
    prompt = torch.tensor([[6, 7, 9], [5, 6, 8]])
    options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    made = model.generate(prompt, **options)
    ids, length = made.sequences, made.sequences.shape[1]
    assert length == 19
    places = torch.arange(length)
    near = places[:, None] - places[None, :] <= remembered  # no limit in the prompt, which is shorter
    expected = whole_text(model, ids, None if same_length else near[None])
    for step, logits in enumerate(made.logits):
        assert (logits - expected[:, prompt.shape[1] + step - 1]).abs().max() < 1e-4, step
    unlimited = whole_text(AutoModelForCausalLM.from_pretrained(folders["causal, memory"]), ids)
    assert ((expected - unlimited).abs().max() > 0.01) == (remembered < length)


# ---- pipelines, Trainer, PEFT, sentence-transformers ----------------------------------------------------------------


def test_pipelines(folders, tmp_path):
    folder = str(folders["both directions"])
    answer = pipeline("fill-mask", folder, top_k=3)("the [MASK] sat on the mat")
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("the [MASK] sat on the mat")["input_ids"]])
    best = expected(Path(folder), ids, torch.ones_like(ids))[0, 2].topk(3).indices
    assert [row["token"] for row in answer] == best.tolist()
    labelled = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for task, cls in (
        ("text-classification", AutoModelForSequenceClassification),
        ("token-classification", AutoModelForTokenClassification),
    ):
        model = cls.from_pretrained(folder, **labelled)
        model.save_pretrained(tmp_path / task)
        tokenizer.save_pretrained(tmp_path / task)
        found = pipeline(task, str(tmp_path / task))("the cat ran")
        assert {row.get("label", row.get("entity")) for row in found} <= {"no", "yes"}
    text = pipeline("text-generation", str(folders["causal"]))("the cat", max_new_tokens=4, do_sample=False)
    assert len(text[0]["generated_text"].split()) > 2
    vectors = pipeline("feature-extraction", folder)("the cat")
    assert len(vectors[0][0]) == 32


def test_masked_positions_are_asked_of_the_second_stream(folders):
    """What stands at them reaches nobody; everything else does, and they are predicted independently."""
    folder, mask = folders["two streams"], WORDS.index("[MASK]")
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert model.config.mask_token_id == mask
    ids, real = batch()
    plain = model(ids, attention_mask=real).logits
    asked = torch.zeros_like(ids, dtype=torch.bool)
    asked[0, 2] = asked[0, 5] = asked[2, 0] = True
    masked = ids.masked_fill(asked, mask)
    output = model(masked, attention_mask=real, output_hidden_states=True, output_attentions=True)
    weights = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager")
    assert ((weights(masked, attention_mask=real).logits - output.logits) * real[..., None]).abs().max() < 1e-5
    model.core.embeddings.word_embeddings.weight.requires_grad_(False)
    with torch.no_grad():
        model.core.embeddings.word_embeddings.weight[mask] += 3.0
    again = model(masked, attention_mask=real).logits
    others = [number for number in range(len(WORDS)) if number != mask]  # its own logit is read from that row
    assert ((again - output.logits)[..., others] * real[..., None]).abs().max() < 1e-5
    assert not torch.allclose(output.logits[0, 2], plain[0, 2])
    alone = model(ids.masked_fill(asked & (torch.arange(9) != 5), mask), attention_mask=real).logits
    assert not torch.allclose(alone[0, 2], output.logits[0, 2])  # token 5 is seen there, and hidden here
    assert (again[1, :4, others] - alone[1, :4, others]).abs().max() < 1e-5  # a row in which nothing is asked
    core = load_core(folder)[0]
    visible = AttentionPattern(lengths=real.sum(1), permutation_ranks=asked.int())
    query = QueryStream(torch.tensor([[2, 5], [0, 0], [0, 0]]), visible)
    with torch.no_grad():
        states = core.eval()(CoreInputs(masked, visible, query=query)).query_states
    places = ((0, 2), (0, 5), (2, 0))
    for (row, place), state in zip(places, (states[0, 0], states[0, 1], states[2, 0]), strict=True):
        assert (output.hidden_states[-1][row, place] - state).abs().max() < 1e-5
        for probabilities in output.attentions:
            assert (probabilities[row, :, place].sum(-1) - 1).abs().max() < 1e-5
            assert probabilities[row, :, place][:, asked[row]].abs().max() == 0
    assert output.hidden_states[0].shape == (3, 9, 32)


def test_fill_mask_on_xlnet_equals_stock_xlnet(folders, tmp_path):
    """Theirs has to be told with ``perm_mask`` and ``target_mapping`` what is hidden and what is asked."""
    from transformers import XLNetConfig, XLNetLMHeadModel

    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
    config = XLNetConfig(vocab_size=len(WORDS), **sizes, mem_len=None, pad_token_id=0, initializer_range=0.3)
    stock = XLNetLMHeadModel(config).eval()
    stock.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((folders["two streams"] / name).read_text())
    ours = zoo.from_transformers(tmp_path)
    ids = torch.tensor([[2, 6, 4, 9, 11, 4, 3]])
    hidden = ids == 4
    mapping = torch.nn.functional.one_hot(torch.tensor([[2, 5]]), 7).float()
    with torch.no_grad():
        expected = stock(
            ids, perm_mask=hidden[:, None, :].expand(1, 7, 7).float(), target_mapping=mapping, use_mems=False
        ).logits
        found = ours(ids).logits[:, [2, 5]]
    assert (found - expected).abs().max() < 1e-5
    text = "cat [MASK] sat on [MASK]"
    ours.save_pretrained(tmp_path / "ours")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "ours" / name).write_text((tmp_path / name).read_text())
    answers = pipeline("fill-mask", str(tmp_path / "ours"), top_k=2)(text)
    rows = AutoTokenizer.from_pretrained(tmp_path / "ours")(text, return_tensors="pt")
    best = ours(**rows).logits[0][rows["input_ids"][0] == 4].topk(2).indices
    assert [[row["token"] for row in answer] for answer in answers] == best.tolist()


class Rows(torch.utils.data.Dataset):
    """Texts whose class is their colour."""

    def __init__(self, tokenizer, count: int = 64) -> None:
        generator = torch.Generator().manual_seed(0)
        colours = torch.randint(0, 2, (count,), generator=generator).tolist()
        self.rows = [
            tokenizer(f"the {('red', 'blue')[c]} {('cat', 'dog')[i % 2]} sat on the mat") for i, c in enumerate(colours)
        ]
        self.labels = colours

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int):
        return {**self.rows[number], "labels": self.labels[number]}


def train(model, data, tmp_path, steps: int = 100, collator=None, lr: float = 5e-3):
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
    rate = {"learning_rate": lr, "warmup_steps": 5, "per_device_train_batch_size": 16}
    options = TrainingArguments(str(tmp_path), max_steps=steps, seed=1, **rate, **quiet)
    trainer = Trainer(model, options, train_dataset=data, data_collator=collator)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return sum(losses[:3]) / 3, sum(losses[-3:]) / 3


def test_trainer_fine_tunes_and_pretrains(folders, tmp_path):
    folder = folders["both directions"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = Rows(tokenizer)
    fresh = hf.ZooConfig.of(read_metadata(folder))
    classifier = AutoModelForSequenceClassification.from_config(fresh)
    first, last = train(classifier, data, tmp_path)
    assert last < 0.3 < first
    texts = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in data.rows]
    masked = AutoModelForMaskedLM.from_config(fresh)
    first, last = train(masked, texts, tmp_path, 60, DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3))
    assert last < first - 1


def test_lora_trains_its_own_weights_only(folders, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    folder = folders["both directions"]
    ids, mask = batch()
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_config(hf.ZooConfig.of(read_metadata(folder)))
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=4)
    model = get_peft_model(base, config)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    first, last = train(model, Rows(AutoTokenizer.from_pretrained(folder)), tmp_path, 150, lr=2e-2)
    assert last < 0.5 * first
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    model.eval()
    logits = model(ids, attention_mask=mask).logits
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    assert torch.equal(again.eval()(ids, attention_mask=mask).logits, logits)
    merged = model.merge_and_unload()
    assert (merged(ids, attention_mask=mask).logits - logits).abs().max() < 1e-4


def test_sentence_transformers_encodes_with_it(folders):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    folder = str(folders["recombined"])
    word = Transformer(folder, max_seq_length=32)
    texts = ["the cat sat", "a red dog ran under the tree"]
    encoder = SentenceTransformer(modules=[word, Pooling(word.get_word_embedding_dimension(), "mean")], device="cpu")
    found = torch.tensor(encoder.encode(texts))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        assert (states.mean(1)[0] - vector).abs().max() < 1e-5


# ---- from and to stock models ---------------------------------------------------------------------------------------


def test_stock_models_and_back(tmp_path):
    from transformers import BertConfig, BertForPreTraining

    torch.manual_seed(0)
    stock = BertForPreTraining(BertConfig(vocab_size=len(WORDS), **BASE)).eval()
    ids, mask = batch()
    model = zoo.from_transformers(stock)
    assert isinstance(model, hf.ZooForPreTraining)
    theirs, ours = stock(ids, attention_mask=mask), model(ids, attention_mask=mask)
    assert ((theirs.prediction_logits - ours.prediction_logits) * mask[..., None]).abs().max() < 1e-5
    assert (theirs.seq_relationship_logits - ours.pair_logits).abs().max() < 1e-5
    back = zoo.to_transformers(model)
    assert type(back) is BertForPreTraining
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), stock.state_dict().values(), strict=True))
    stock.save_pretrained(tmp_path / "stock")
    for source in (tmp_path / "stock", str(tmp_path / "stock")):
        assert torch.equal(zoo.from_transformers(source)(ids).pair_logits, model(ids).pair_logits)
    model.save_pretrained(tmp_path / "zoo")
    assert torch.equal(zoo.from_transformers(tmp_path / "zoo")(ids).pair_logits, model(ids).pair_logits)
    with torch.no_grad():
        next(iter(stock.parameters())).zero_()
    assert model.get_input_embeddings().weight.abs().max() > 0, "the two share no memory"


def test_a_model_no_stock_class_can_express_is_refused(folders):
    model = AutoModelForMaskedLM.from_pretrained(folders["recombined"])
    with pytest.raises(ZooError, match="position_type = rotary"):
        zoo.to_transformers(model)
