"""Every number that a user can set has a range, and no name of a user becomes more than a name."""

import dataclasses
import importlib
import inspect
import json
import pkgutil
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import torch

import ablation
import finetune
import pretraining
import zoo
from finetune.data.tasks import Task
from finetune.kinds.base import TaskKind
from pretraining.annotations.base import Annotator
from pretraining.layouts.base import Layout
from pretraining.masking.base import Replacement, Selector
from pretraining.masking.noise import Noise
from pretraining.objectives.base import Objective
from pretraining.optim.learning_rate import Schedule
from pretraining.training.config import PretrainConfig, SeedConfig, TrainConfig
from pretraining.training.curriculum import Curriculum
from pretraining.training.load_config import load_pretrain_config, load_run_config
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.hf.config import ZooConfig
from zoo.settings.load import load_settings
from zoo.settings.yaml_files import set_nested
from zoo.values import Name, Range, UserPath, annotations_of, check_name, check_value, user_path

ROLES = (
    Objective,
    Layout,
    Selector,
    Replacement,
    Noise,
    Schedule,
    Curriculum,
    Annotator,
    TaskKind,
    torch.optim.Optimizer,
)


def modules() -> Iterator[Any]:
    for package in (zoo, pretraining, finetune, ablation):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def own_classes() -> set[type[Any]]:
    return {
        item
        for module in modules()
        for item in vars(module).values()
        if inspect.isclass(item) and item.__module__ == module.__name__
    }


def config_classes() -> list[type[Any]]:
    """Dataclasses that settings, task files and metadata are read into."""
    endings = ("Config", "Settings", "Finetuning")
    found = {c for c in own_classes() if dataclasses.is_dataclass(c) and c.__name__.endswith(endings)} | {Task}
    found -= {ZooConfig}  # transformers' kind of config; what it holds is a CoreConfig
    return sorted(found, key=lambda c: c.__qualname__)


def plug_ins() -> list[type[Any]]:
    """Classes that settings name."""
    return sorted((c for c in own_classes() if issubclass(c, ROLES)), key=lambda c: c.__qualname__)


def numbers_without_range(annotation: Any, ranged: bool = False) -> bool:
    """Whether a number may stand somewhere in a type, and nothing says which."""
    if annotation in (int, float):
        return not ranged
    if typing.get_origin(annotation) is Annotated:
        ranged = any(isinstance(mark, Range) for mark in annotation.__metadata__)
        return numbers_without_range(typing.get_args(annotation)[0], ranged)
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return any(numbers_without_range(part) for part in typing.get_args(annotation))


def test_every_number_of_every_config_has_a_range():
    assert len(config_classes()) > 20
    lacking = [
        f"{cls.__name__}.{name}"
        for cls in config_classes()
        for name, kind in annotations_of(cls).items()
        if name not in COLUMNS and numbers_without_range(kind)
    ]
    assert lacking == []


COLUMNS = ("columns", "label_column", "test_columns")  # of a task: what a column without a header is called


def test_every_number_of_every_plug_in_has_a_range():
    assert len(plug_ins()) > 30
    lacking = [
        f"{cls.__name__}.{name}"
        for cls in plug_ins()
        for name, kind in typing.get_type_hints(cls.__init__, include_extras=True).items()
        if name in inspect.signature(cls).parameters and numbers_without_range(kind)
    ]
    assert lacking == []


def defaults(cls: type[Any]) -> Any:
    """An instance, or ``None`` where settings are needed that this test does not know."""
    try:
        return cls()
    except (TypeError, ZooError):
        return TrainConfig(steps=1) if cls is TrainConfig else None


def test_a_number_out_of_its_range_makes_no_config():
    """Also in Python, without a command line."""
    tried = 0
    for cls in config_classes():
        if (made := defaults(cls)) is None:
            continue
        for name, kind in annotations_of(cls).items():
            options = [kind, *(typing.get_args(kind) if typing.get_origin(kind) is not Annotated else ())]
            if any(typing.get_origin(o) is Annotated and isinstance(o.__metadata__[0], Range) for o in options):
                for wrong in (-(10**9), float("nan"), float("inf"), 10**30):
                    with pytest.raises(ZooError, match=name):
                        dataclasses.replace(made, **{name: wrong})
                tried += 1
    assert tried > 60


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--train.lr -1", r"train\.lr = -1; a number above 0 is needed"),
        ("--train.weight_decay -0.1", r"train\.weight_decay = -0\.1; a number of at least 0"),
        ("--train.max_grad_norm .nan", r"train\.max_grad_norm = nan"),
        ("--data.validation_tokens -5", r"data\.validation_tokens"),
        ("--model.hidden_dropout_prob 1", r"model\.hidden_dropout_prob = 1; a number from 0 to below 1"),
        ("--objectives.masked_lm.init_args.weight -1", r"objectives\.masked_lm\.init_args\.weight = -1"),
        (
            "--objectives.masked_lm.init_args.select.init_args.rate 1.5",
            r"select\.init_args\.rate = 1\.5; a number from 0",
        ),
        (
            "--train.schedule.class_path pretraining.optim.WarmupDecay --train.schedule.init_args.warmup 1",
            r"warmup = 1;",
        ),
        (
            "--train.optimizer.class_path pretraining.optim.Lamb --train.optimizer.init_args.betas [0.9,2]",
            r"betas\[1\] = 2",
        ),
        ("--stages.a.until 2 --stages.a.tasks.pairs 1", r"stages\.a\.until = 2; a number above 0 and at most 1"),
        ("--seed.init -3", r"seed\.init = -3; a whole number of at least 0"),
    ],
)
def test_the_message_names_the_setting_and_the_range(argument, message):
    with pytest.raises(ZooError, match=message):
        load_pretrain_config(["--config", "bert-tiny", *argument.split()])


ROLE_PLACES = ("train.optimizer", "train.schedule", "curriculum", "objectives.masked_lm", "tasks.pairs.layout")


@pytest.mark.parametrize("place", ROLE_PLACES)
@pytest.mark.parametrize("named", ["mark_of_this_test.Thing", "os.getcwd"])
def test_a_recorded_run_names_no_code_in_any_form(place, named, tmp_path, monkeypatch):
    """A class path that stands alone, as jsonargparse would take it, is not imported either."""
    (tmp_path / "mark_of_this_test.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    recorded = load_pretrain_config(["--config", "bert-tiny"]).resolved
    for value in (named, {"class_path": named, "init_args": {}}):
        own = json.loads(json.dumps(recorded))
        set_nested(own, place, value)
        with pytest.raises(ZooError, match=r"class path|class_path|not the package's own code"):
            load_run_config(tmp_path, own, "test", trusted=False)


BAD_NAMES = [
    "../../evil",
    "a/b",
    "a\\b",
    ".hidden",
    "-x",
    "",
    "a b",
    "a\x1b[31m",
    "<b>",
    "a\n",
    "\u202eevil",
    "x" * 151,
    7,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_is_no_path_and_prints_as_it_is(name):
    with pytest.raises(ZooError, match=r"name|text") as caught:
        check_name(name, "name")
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", ["bert-tiny", "名字", "run_2.1", "É1"])
def test_names_of_any_script(name):
    check_name(name, "name")


def test_every_name_of_a_run_is_checked():
    for argument in (
        "--name ../x",
        "--tasks.a/b.task_type_id 0",
        "--objectives.<b>.class_path pretraining.objectives.CausalLM",
    ):
        with pytest.raises(ZooError, match="make a name"):
            load_pretrain_config(["--config", "bert-tiny", *argument.split()])
    with pytest.raises(ZooError, match="make a name"):
        Task(name="../../x", columns=("text",), labels=("a", "b"))


@dataclasses.dataclass(frozen=True)
class Places:
    """Paths.

    Args:
        one: a path.
        many: paths.
        named: by name.
    """

    one: UserPath = "~/a"
    many: UserPath | list[UserPath] = "x"
    named: dict[Name, UserPath] = dataclasses.field(default_factory=dict)


def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    values = {"one": "~/b", "many": ["~/c", "d~"], "named": {"x": "~"}}
    made = load_settings(Places, [], "test", "pretrain", values).value
    assert made == Places("/somewhere/b", ["/somewhere/c", "d~"], {"x": "/somewhere"})
    assert load_settings(Places, ["--many=~/e"], "test", "pretrain").value.many == "/somewhere/e"
    config = load_pretrain_config(["--config", "bert-tiny", "--output=~/runs", "--data.corpus.files=~/t.txt"]).value
    assert (config.output, config.data.corpus.files) == ("/somewhere/runs", "/somewhere/t.txt")
    with pytest.raises(ZooError, match="no home folder"):
        user_path("~nobody-of-this-name/x")


def test_what_is_no_path_keeps_its_tilde():
    assert check_value(str, "~", "name") == "~"


def test_a_bare_seed_is_both_seeds():
    config = load_pretrain_config(["--config", "bert-tiny", "--seed", "5"]).value
    assert config.seed == SeedConfig(init=5, data=5)


def test_a_config_of_a_file_is_checked_too():
    with pytest.raises(ZooError, match=r"model\.num_hidden_layers = -2"):
        CoreConfig.from_dict({"num_hidden_layers": -2})
    assert PretrainConfig.__doc__
