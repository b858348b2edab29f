"""Every shipped YAML is built; published sizes have the published parameter counts."""

import contextlib
import functools
import json
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.launch import prepare_multi_gpu_env
from entity_toys import entity_arguments
from ranks import FSDP2
from training import SAMPLE, arguments, log_lines, train
from transformers import XLMConfig, XLMWithLMHeadModel

from ablation.__main__ import main as ablation_main
from finetune.__main__ import main as finetune_main
from pretraining.scoring.cloze import cloze_command
from pretraining.scoring.score import score_command
from pretraining.show.command import show_command
from pretraining.tools.configs import count_parameters, describe_config, digest_of, listed_rows, prepare_command
from pretraining.training.config import PretrainConfig
from pretraining.training.load_config import load_pretrain_config
from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.core.transformer import Transformer
from zoo.errors import ZooError
from zoo.heads.sequence_head import SequenceHead
from zoo.heads.token_heads import TokenHead
from zoo.runtime.sharding import requested_sharding
from zoo.settings.yaml_files import parse_yaml, read_yaml, shipped_configs
from zoo.weights.config_fields import write_config
from zoo.weights.read import all_families

MODELS = sorted(p.stem for p in (shipped_configs() / "model").glob("*.yaml"))
RUNS = sorted(p.stem for p in (shipped_configs() / "pretrain").glob("*.yaml"))

# Specs, section 2 and 8 of each: (core with pooler, with both heads or with the head that the model has).
PUBLISHED = {
    "bert-tiny": (4_385_920, 4_433_468),
    "bert-mini": (11_170_560, 11_267_900),
    "bert-small": (28_763_648, 29_058_876),
    "bert-medium": (41_373_184, 41_668_412),
    "bert-base": (109_482_240, 110_106_428),
    "bert-base-cased": (108_310_272, 108_932_934),
    "bert-base-zh": (102_267_648, 102_882_442),
    "bert-base-multilingual-cased": (177_853_440, 178_566_653),
    "bert-large": (335_141_888, 336_226_108),
    "bert-large-cased": (333_579_264, 334_661_958),
    "bert-large-zh": (325_522_432, 326_597_258),
    "rbt3-zh": (38_476_800, None),
    "rbtl3-zh": (61_001_728, None),
    "ernie-1-base-zh": (99_866_112, 100_477_778),
    "roberta-base": (124_055_040, 124_697_433),
    "roberta-large": (354_310_144, 355_412_057),
    "albert-base": (11_683_584, 11_813_810),
    "albert-large": (17_683_968, 17_847_474),
    "albert-xlarge": (58_724_864, 59_021_490),
    "albert-xxlarge": (222_595_584, 223_158_450),
    "albert-base-zh": (10_547_968, None),
    "albert-large-zh": (16_548_352, None),
    "albert-xlarge-zh": (57_589_248, None),
    "albert-xxlarge-zh": (221_459_968, None),
    "reformer-enwik8": (148_654_080, 149_182_722),
    "gpt-base": (116_534_784, 116_534_784),
    "llama-7b": (6_607_343_616, None),  # with its output matrix 6,738,415,616
    "xlm-en-2048": (667_088_896, 667_119_041),
    "xlm-xnli15-1024": (248_976_384, 249_071_384),
    "ernie-thu-base": (113_432_472, 114_133_760),
    "transformer-base": (63_082_496, 63_082_496),
    "transformer-big": (214_245_376, None),
    "bart-base": (139_420_416, 139_420_416),
    "bart-large": (406_291_456, 406_291_456),
    "t5-small": (60_506_624, None),
    "t5-base": (222_903_552, 222_903_552),
    "t5-v1_1-base": (222_903_552, None),  # with its output matrix 247,577,856
    "t5-v1_1-small": (60_511_616, None),
    "electra-small": (13_483_008, 14_196_219),
    "electra-base": (108_891_648, 119_386_427),
    "electra-large": (334_092_288, 354_655_291),
    "elmo-small": (13_593_296, None),
    "elmo-medium": (28_027_728, None),
    "elmo-base": (93_600_848, 93_600_848 + 407_050_623),
    "word2vec-base": (900_000_000, 1_800_000_000),
}


def facts(name):
    return CoreConfig.from_dict(read_yaml(shipped_configs() / "model" / f"{name}.yaml", "model"))


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built_on_the_meta_device(name):
    config = facts(name)
    with torch.device("meta"):
        core = make_core(config)
    if name in PUBLISHED:
        assert size(core) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.startswith("bert") and PUBLISHED[n][1]])
def test_published_counts_of_both_bert_heads(name):
    with torch.device("meta"):
        parts = Transformer(facts(name)), TokenHead(facts(name)), SequenceHead(facts(name))
    assert sum(size(part) for part in parts) == PUBLISHED[name][1]


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.startswith("xlm")])
def test_published_counts_of_xlm_are_those_of_the_stock_class(name):
    with torch.device("meta"):
        parts = Transformer(facts(name)), TokenHead(facts(name), transform=False)
        stock = XLMWithLMHeadModel(XLMConfig.from_dict(write_config(all_families()["xlm"], facts(name))))
    assert sum(size(part) for part in parts) == stock.num_parameters() == PUBLISHED[name][1]


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n in RUNS and n.endswith("e") and PUBLISHED[n][1]])
def test_published_counts_with_heads(name):
    """The config's own objectives make the heads, so this also checks that the recipe names them."""
    config = load_pretrain_config(["--config", name]).value
    core, whole = count_parameters(config)
    assert (core, whole) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("embedding_size", "shared", "unshared"),
    [(64, 9_681_408, 87_648_000), (128, 11_683_584, 89_650_176), (256, 15_687_936, 93_654_528)],
)
def test_albert_embedding_sizes_and_sharing(embedding_size, shared, unshared):
    base = facts("albert-base").replace(embedding_size=embedding_size)
    with torch.device("meta"):
        assert size(Transformer(base)) == shared
        assert size(Transformer(base.replace(num_hidden_groups=None))) == unshared
    assert unshared - shared == 77_966_592 == 11 * 7_087_872


def test_albert_without_factorisation():
    base = facts("albert-base").replace(embedding_size=768)
    with torch.device("meta"):
        assert size(Transformer(base)) == 31_114_752
        assert size(Transformer(base.replace(embedding_projection=True))) == 31_705_344


def test_parts_of_bert_base():
    config = facts("bert-base")
    with torch.device("meta"):
        core, head, pair = Transformer(config), TokenHead(config), SequenceHead(config)
    assert size(core.embeddings) == 23_837_184
    assert size(core.layers[0]) == 7_087_872
    assert size(core.pooler) == 590_592
    assert size(head) == 622_650
    assert size(pair) == 1_538
    with torch.device("meta"):
        assert size(Transformer(facts("bert-large")).layers[0]) == 12_596_224
        without = config.replace(pooler=False)
        assert size(Transformer(without)) + size(TokenHead(without)) == 109_514_298


@pytest.mark.parametrize("name", RUNS)
def test_every_run_config_reads_back_to_itself(name):
    settings = load_pretrain_config(["--config", name])
    assert isinstance(settings.value, PretrainConfig)
    assert settings.value.name == name
    assert settings.value.edge
    row = {"of": digest_of(name), **describe_config(settings.value)}
    assert kept_rows()[name] == row, "`zoo list --recount` counts the rows of `zoo list` anew"
    assert load_pretrain_config([], settings.resolved).resolved == settings.resolved


@pytest.mark.parametrize("path", sorted((shipped_configs() / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launcher_config_is_one_of_accelerates(path):
    """Its own loader refuses unknown keys; precision and accumulation are the run's, not the launcher's."""
    loaded = load_config_from_file(str(path)).to_dict()
    given = parse_yaml(path.read_text(encoding="utf-8"))
    assert loaded.items() >= {"num_machines": given["num_machines"], "num_processes": given["num_processes"]}.items()
    assert not {"mixed_precision", "gradient_accumulation_steps", "gradient_clipping"} & set(given)


def test_the_launcher_asks_for_fsdp2_by_the_variables_that_a_run_reads(monkeypatch):
    """Those that tests of sharded runs set themselves."""
    path = shipped_configs() / "accelerate" / "fsdp2-8.yaml"
    words = ["--config_file", str(path), "-m", "pretraining"]
    arguments, *_ = accelerate_launch._validate_launch_command(
        accelerate_launch.launch_command_parser().parse_args(words)
    )
    assert prepare_multi_gpu_env(arguments).items() >= FSDP2.items()
    for name, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    assert requested_sharding()


@functools.cache
def kept_rows():
    return parse_yaml(listed_rows().read_text(encoding="utf-8"))


def test_the_list_has_every_config_and_no_other():
    assert sorted(kept_rows()) == RUNS


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Small corpora and the stores that the tests below share."""
    folder = tmp_path_factory.mktemp("configs")
    for language in ("en", "zh"):
        text = (SAMPLE / language / "wikipedia.txt").read_text(encoding="utf-8")
        (folder / f"{language}.txt").write_text("\n\n".join(text.split("\n\n")[:30]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained():
    """Settings that have made their step: configs of one model in several sizes are one under the overrides."""
    return set()


@pytest.mark.parametrize("name", RUNS)
def test_every_run_config_makes_a_step_with_tiny_overrides(place, name, trained, tmp_path):
    model = {"model.num_attention_heads": 2, "model.vocab_size": "null"}
    if name.startswith("albert"):
        model["model.embedding_size"] = 16
    if name.startswith("word2vec"):
        model["model.num_hidden_layers"] = 0
    if name.startswith("xlnet"):
        model["model.reuse_len"] = 24  # half a row, as the layout has it
    if name.startswith("reformer"):
        model |= {"model.axial_pos_embds_dim": "[12, 20]", "model.head_dim": 16}
    language = "zh" if name.endswith("-zh") else "en"
    argv = arguments(place, "bert", 1, **model, **{"data.corpus.files": place / f"{language}.txt", "output": tmp_path})
    argv[1] = name
    if name.startswith("xlm"):  # a text for each language
        argv += ["--data.corpus.files", f"[{place}/en.txt, {place}/zh.txt]"]
    if name.startswith(("transformer-", "recurrent-")) and not name.startswith("transformer-xl"):  # translations
        argv += ["--data.corpus.files", "zoo:sample/pairs/en-zh.tsv"]
    if name.startswith("ernie-thu"):
        argv += entity_arguments(place)
    resolved = load_pretrain_config([*argv, "--output", "runs"]).resolved
    settings = json.dumps({**resolved, "name": "", "edge": ""}, sort_keys=True)
    if settings in trained:
        return
    trained.add(settings)
    lines = log_lines(train(argv))
    assert lines[0]["step"] == 1
    assert all(
        5 < value < 8 or key not in ("masked_lm", "causal_lm", "bidirectional_lm")
        for key, value in lines[0]["terms"].items()
    )


# ---- --print_config ------------------------------------------------------------------------------------------------


def printed(command, capsys) -> str:
    """What a command prints with --print_config, and nothing else on standard output."""
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        assert command() == 0
    text = capsys.readouterr().out
    assert isinstance(parse_yaml(text), dict)
    return text


@pytest.mark.parametrize(
    "words",
    ["bert-tiny", "bert-tiny+data/zh --train.steps 7 --seed 3", "ernie-1-tiny --stages.basic.until 0.4", "xlnet-tiny"],
)
def test_settings_of_a_run_are_printed_as_they_are_read(words, tmp_path, capsys):
    again = str(tmp_path / "x.yaml")
    first = printed(lambda: load_pretrain_config(["--config", *words.split(), "--print_config"]), capsys)
    Path(again).write_text(first, encoding="utf-8")
    for command in (load_pretrain_config, show_command, prepare_command):  # each reads what the others print
        assert printed(lambda run=command: run(["--config", again, "--print_config"]), capsys) == first


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (finetune_main, "--config glue --model runs/x --tasks cola --seeds 1 --lr 3e-05"),
        (lambda: score_command(sys.argv[1:]), "runs/x --pairs blimp --limit 7"),
        (lambda: cloze_command(sys.argv[1:]), "runs/x --items 9"),
        (lambda: ablation_main(sys.argv[1:]), "--config pair-task --seeds [4,5] --common.train.tokens 2000"),
    ],
)
def test_settings_of_other_commands_are_printed_as_they_are_read(program, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", *words.split(), "--print_config"])
    first = printed(program, capsys)
    Path("x.yaml").write_text(first, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["x", "--config", "x.yaml", "--print_config"])
    assert printed(program, capsys) == first
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_show_prints_the_settings_of_one_config():
    with pytest.raises(ZooError, match="one config or one run; several"):
        show_command(["--config", "bert-tiny,gpt-tiny", "--print_config"])
