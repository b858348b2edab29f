import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from zoo.errors import ZooError, nearest
from zoo.settings.load import load_settings
from zoo.settings.yaml_files import (
    as_yaml,
    config_names,
    flatten,
    merge,
    parse_arguments,
    parse_yaml,
    read_configs,
    read_yaml,
)


class Part:
    def __init__(self, size: int = 3, share: float = 0.5) -> None:
        self.size, self.share = size, share


class OtherPart(Part):
    pass


class Holder(Part):
    def __init__(self, part: Part | None = None, x: Any = None, y: list[int] | None = None, **more: Any) -> None:
        super().__init__(**more)


class Lacking(Part, ABC):
    @abstractmethod
    def needed(self) -> None: ...


@dataclass(frozen=True)
class Inner:
    """Inner.

    Args:
        rate: a rate.
    """

    rate: float = 0.1


@dataclass(frozen=True)
class Outer:
    """Outer.

    Args:
        name: a name.
        inner: nested.
        part: a plug-in.
        parts: plug-ins by name.
        listed: plug-ins in order.
        made: a plug-in that is made later.
        anything: whatever.
    """

    name: str
    inner: Inner = field(default_factory=Inner)
    part: Part | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    listed: list[Part] = field(default_factory=list)
    made: Callable[[list[int]], Part] | None = None
    anything: Any = None


def load(argv, tmp_path=None):
    return load_settings(Outer, argv, "test", "pretrain")


def test_files_merge_in_order_and_overrides_win(tmp_path):
    (tmp_path / "a.yaml").write_text("name: a\ninner: {rate: 0.2}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nname: b\n")
    (tmp_path / "c.yaml").write_text("inner: {rate: 1e-4}\n")
    settings = load(["--config", str(tmp_path / "b.yaml"), "--config", str(tmp_path / "c.yaml"), "--name=z"])
    assert settings.value == Outer("z", Inner(1e-4), settings.value.part)
    assert settings.resolved["inner"] == {"rate": 1e-4}


def test_base_works_at_any_depth_and_refuses_circles(tmp_path):
    (tmp_path / "inner.yaml").write_text("rate: 0.7\n")
    (tmp_path / "outer.yaml").write_text("name: a\ninner: {base: inner.yaml}\n")
    assert load(["--config", str(tmp_path / "outer.yaml")]).value.inner.rate == 0.7
    (tmp_path / "x.yaml").write_text("base: y.yaml\n")
    (tmp_path / "y.yaml").write_text("base: x.yaml\n")
    with pytest.raises(ZooError, match="back to this file"):
        read_yaml(tmp_path / "x.yaml", "pretrain")


def test_one_budget_takes_the_place_of_another():
    """The command line replaces what a base sets; two from one hand stay two, and are refused later."""
    old = {"train": {"tokens": 5, "steps": None, "lr": 1}}
    assert merge(old, {"train": {"steps": 20}}) == {"train": {"steps": 20, "lr": 1}}
    assert merge(old, {"train": {"steps": None}}) == {"train": {"tokens": 5, "steps": None, "lr": 1}}
    assert merge(old, {"train": {"steps": 2, "flops": 3}}) == {"train": {"steps": 2, "flops": 3, "lr": 1}}


def test_a_plus_lays_a_file_over_another_and_a_comma_names_several_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c+d", "e,f"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n")
    assert config_names("a.yaml+b.yaml") == ["a.yaml", "b.yaml"]
    assert config_names("c+d.yaml") == ["c+d.yaml"]
    assert config_names("e,f.yaml") == ["e,f.yaml"]
    assert load(["--config", "a.yaml+b.yaml"]).value == load(["--config", "a.yaml", "--config", "b.yaml"]).value
    with pytest.raises(ZooError, match=r"names several runs.*--config a\.yaml\. .*a\.yaml\+b\.yaml"):
        load(["--config", "a.yaml,b.yaml"])
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "g.yaml").write_text("base: ~/a.yaml\n")
    monkeypatch.chdir("/")
    assert load(["--config", "~/g.yaml"]).value.name == "a"


def test_a_section_that_ships_fills_its_section():
    assert read_configs(["data/zh"], "pretrain")["data"]["corpus"]["files"] == "zoo:sample/zh"
    assert read_configs(["data/zh"], "ablation") == {"common": read_configs(["data/zh"], "pretrain")}
    assert read_configs(["bert-tiny", "model/bert-mini"], "pretrain")["model"]["hidden_size"] == 256


@pytest.mark.parametrize("kind", ["pretrain", "ablation"])
def test_names_in_a_nested_base_mean_the_same_wherever_it_is_read(tmp_path, kind):
    (tmp_path / "own.yaml").write_text("base: bert-tiny\nmodel: {base: bert-mini}\ndata: {base: zh}\n")
    (tmp_path / "arms.yaml").write_text("changes: {one: {base: own.yaml}, two: {model: {base: bert-mini}}}\n")
    changes = read_yaml(tmp_path / "arms.yaml", kind)["changes"]
    assert changes["one"]["data"]["corpus"]["files"] == "zoo:sample/zh"
    assert changes["one"]["model"]["hidden_size"] == changes["two"]["model"]["hidden_size"] == 256
    assert read_yaml(tmp_path / "own.yaml", "pretrain") == changes["one"]


def test_another_class_path_starts_afresh():
    old = {"class_path": "a.A", "init_args": {"x": 1}}
    assert merge(old, {"class_path": "a.B"}) == {"class_path": "a.B"}
    assert merge(old, {"init_args": {"y": 2}}) == {"class_path": "a.A", "init_args": {"x": 1, "y": 2}}


def test_a_users_class_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(
        "from test_settings import Part\n\nclass Mine(Part):\n    def __init__(self, depth: int = 1):\n"
        "        super().__init__(size=depth)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    settings = load(["--name", "a", "--part.class_path", "my_parts.Mine", "--part.init_args.depth", "4"])
    assert type(settings.value.part).__name__ == "Mine"
    assert settings.value.part.size == 4
    again = load_settings(Outer, [], "test", "pretrain", settings.resolved)
    assert again.resolved == settings.resolved


def test_what_a_class_path_names_is_checked_before_it_is_called(tmp_path):
    """Wherever a class can be named, also in arguments, lists and dictionaries, and where none can."""
    mark = tmp_path / "ran"
    spec = {"class_path": "os.system", "init_args": {"command": f"touch {mark}"}}
    holder = {"class_path": "test_settings.Holder", "init_args": {}}
    places = [
        {"part": spec},
        {"parts": {"x": spec}},
        {"listed": [spec]},
        {"made": spec},
        {"made": "os.system"},
        {"part": "os.system"},
        {"part": f"{spec}"},
        {"anything": spec},
        {"anything": [{"deep": spec}]},
        {"inner": spec},
        {"inner": {"rate": spec}},
        {"name": spec},
        *(
            {"part": {**holder, "init_args": {key: value}}}
            for key, value in (("part", spec), ("x", spec), ("y", [spec]))
        ),
        {"part": {"class_path": "test_settings.Inner"}},
        {"part": {"class_path": "test_settings.load"}},
        {"part": {**spec, "init_args": [1]}},
        {"part": {"class_path": "test_settings.Lacking"}},
    ]
    for place in places:
        with pytest.raises(ZooError, match=r"class_path|class path|keys below"):
            load_settings(Outer, [], "test", "pretrain", {"name": "a", **place})
    assert not mark.exists()
    made = load_settings(
        Outer, [], "test", "pretrain", {"name": "a", "made": {"class_path": "test_settings.OtherPart"}}
    )
    assert isinstance(made.value.made([]), OtherPart)
    held = {"part": {**holder, "init_args": {"size": 2, "part": {"class_path": "test_settings.Part"}}}}
    assert load_settings(Outer, [], "test", "pretrain", {"name": "a", **held}).value.part.size == 2


def test_null_drops_an_entry_by_name():
    part = "test_settings.OtherPart"
    argv = ["--name", "a", "--parts.x.class_path", part, "--parts.y.class_path", part, "--parts.y", "null"]
    assert list(load(argv).value.parts) == ["x"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nam", "a"], "Did you mean 'name'"),
        (["--name", "a", "--inner.rat", "1"], "unknown key 'inner.rat'.*'rate'"),
        (["--name", "a", "--inner.rate", "fast"], "inner.rate"),
        (["--name", "a", "--part.class_path", "test_settings.Prt"], "Did you mean 'Part'"),
        (["--name", "a", "--part.class_path", "no_such_module.Part"], "no module 'no_such_module'"),
        (["--name", "a", "--part.class_path", "test_settings.OtherPart", "--part.init_args.siz", "1"], "'size'"),
        (["--config", "bert-tny"], "Did you mean 'bert-tiny'"),
        (["name"], "unexpected argument 'name'"),
        ([], "name"),
    ],
)
def test_mistakes_are_named(argv, message):
    with pytest.raises(ZooError, match=message):
        load(argv)


def test_a_config_is_advised_only_where_something_is_missing():
    with pytest.raises(ZooError, match="required: name\nNo --config was given"):
        load([])
    with pytest.raises(ZooError, match=r"inner\.rate") as caught:
        load(["--name", "a", "--inner.rate", "nan"])
    assert "--config" not in str(caught.value)


def test_broken_yaml_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("name: [a\n")
    with pytest.raises(ZooError, match="not valid YAML"):
        load(["--config", str(tmp_path / "bad.yaml")])
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ZooError, match="holds a list"):
        load(["--config", str(tmp_path / "list.yaml")])


def test_command_line_forms():
    configs, overrides, wants_help = parse_arguments(["--config", "x", "--a.b", "1e-3", "--flag", "--c=[1, 2]"])
    assert configs == ["x"]
    assert overrides == {"a": {"b": 0.001}, "flag": True, "c": [1, 2]}
    assert not wants_help
    assert parse_arguments(["--help"])[2]


@dataclass(frozen=True)
class Lists:
    """Lists.

    Args:
        numbers: numbers, or how many.
        names: names.
        either: a text or several.
    """

    numbers: list[int] | int | None = None
    names: list[str] = field(default_factory=list)
    either: str | list[str] = ""


@pytest.mark.parametrize(
    ("words", "numbers", "names", "either"),
    [
        (["--numbers", "0,2", "--names", "[CLS],[MASK]", "--either", "a,b"], [0, 2], ["[CLS]", "[MASK]"], "a,b"),
        (
            ["--numbers", "[0, 2]", "--names", "[bias, norm]", "--either", "[a, b]"],
            [0, 2],
            ["bias", "norm"],
            ["a", "b"],
        ),
        (["--numbers", "3", "--names", "[MASK]"], 3, ["[MASK]"], ""),
        (["--names", "one"], None, ["one"], ""),
    ],
)
def test_a_list_can_be_given_with_commas(words, numbers, names, either):
    assert load_settings(Lists, words, "test", "pretrain").value == Lists(numbers, names, either)


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(frozen=True)
class Texts:
    """Texts.

    Args:
        path: a text.
        maybe: a text or none.
        names: texts.
        choice: one of some.
        either: a text or a number.
        by: texts by name.
        part: a plug-in.
        switch: yes or no.
    """

    path: str = ""
    maybe: str | None = None
    names: list[str] = field(default_factory=list)
    choice: Literal["yes", "no"] = "yes"
    either: int | str = 0
    by: dict[str, str] = field(default_factory=dict)
    part: Named | None = None
    switch: bool | None = None


def test_text_stays_as_the_command_line_says_it():
    words = "--path true --maybe 2024-01-01 --names 1e3,2 --choice no --either 07 --by.x=1_0 --part.init_args.name off"
    argv = [*words.split(), "--part.class_path", "test_settings.Named"]
    value = load_settings(Texts, argv, "test", "pretrain").value
    assert (value.path, value.maybe, value.names, value.choice) == ("true", "2024-01-01", ["1e3", "2"], "no")
    assert (value.either, value.by, value.part.name) == (7, {"x": "1_0"}, "off")
    assert load_settings(Texts, ["--names", "12", "--maybe", "null"], "test", "pretrain").value.names == ["12"]


def test_numbers_and_dates_of_yaml(tmp_path):
    """PyYAML takes 1e-4 for text and 2024-01-01 for a date; YAML is read as jsonargparse reads it."""
    (tmp_path / "a.yaml").write_text("path: 2024-01-01\nmaybe: '12'\neither: 0x10\nby: {x: '1e3'}\n")
    value = load_settings(Texts, ["--config", str(tmp_path / "a.yaml")], "test", "pretrain").value
    assert (value.path, value.maybe, value.either, value.by) == ("2024-01-01", "12", 16, {"x": "1e3"})
    (tmp_path / "b.yaml").write_text("a: 1e-4\nb: 1E5\nc: 3.\nd: .5\ne: 7\nf: -2.5e+3\n")
    assert read_yaml(tmp_path / "b.yaml", "pretrain") == {"a": 1e-4, "b": 1e5, "c": 3.0, "d": 0.5, "e": 7, "f": -2500.0}
    assert load(["--name", "a", "--inner.rate", "-.5"]).value.inner.rate == -0.5


class Broken(Part):
    def __init__(self, size: int = 3) -> None:
        raise ZooError("the part is broken")


def test_what_a_plug_in_says_is_said():
    """jsonargparse wraps it in a message of its own, which names every other type that would do."""
    with pytest.raises(ZooError, match=r"^the part is broken$"):
        load(["--name", "a", "--part.class_path", "test_settings.Broken"])


def test_what_is_read_before_the_settings_are_built_has_its_types():
    """Ablations and ``amend`` read values that jsonargparse has not seen."""
    seen = []

    def amend(merged, command_line):
        seen.append(merged)
        return {}

    load_settings(Lists, ["--numbers", "0,2", "--names", "1,2"], "test", "pretrain", amend=amend)
    assert seen == [{"numbers": [0, 2], "names": ["1", "2"]}]


def test_a_switch_needs_no_value():
    value = load_settings(Texts, ["--switch", "--path", "x"], "test", "pretrain").value
    assert (value.switch, value.path) == (True, "x")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--path"], "^--path has no value: --path VALUE"),
        (["--path", "x", "--path"], "^--path has no value"),
        (["--either"], "^--either has no value"),
        (["--names", "--path", "x"], "^--names has no value"),
        (["--by"], "^--by has no value"),
        (["--part.class_path", "test_settings.Named", "--part.init_args.name"], "^--part.init_args.name has no value"),
        (["--config", "b.yaml"], "path = true, and text is needed: --path VALUE"),
        (["--config", "a.yaml"], "choice = false, and one of yes, no is needed.*between quotes"),
        (["--config", "c.yaml"], "path = 12, and text is needed"),
        (["--config"], "--config has no value"),
    ],
)
def test_what_is_no_text_is_refused(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("choice: no\n")
    (tmp_path / "b.yaml").write_text("path: yes\n")
    (tmp_path / "c.yaml").write_text("path: 12\n")
    with pytest.raises(ZooError, match=message):
        load_settings(Texts, argv, "test", "pretrain")


def test_what_takes_the_place_of_the_files_lies_under_the_command_line(tmp_path):
    (tmp_path / "a.yaml").write_text("name: file\ninner: {rate: 0.2}\nparts: {x: {class_path: test_settings.Part}}\n")
    seen = []

    def amend(merged, said):
        seen.append((merged["name"], said))
        return {"name": "amended", "inner.rate": 0.3, "parts": {}}

    argv = ["--config", str(tmp_path / "a.yaml"), "--inner.rate", "0.4"]
    value = load_settings(Outer, argv, "test", "pretrain", amend=amend).value
    assert (value.name, value.inner.rate, value.parts) == ("amended", 0.4, {})
    assert seen == [("file", {"inner": {"rate": 0.4}})]
    with pytest.raises(ZooError, match=r"unknown key 'inner\.rat'"):
        load_settings(Outer, [*argv, "--inner.rat", "1"], "test", "pretrain", amend=lambda *_: pytest.fail("asked"))


def test_flatten_and_nearest():
    assert flatten({"a": {"b": 1, "c": {}}}) == {"a.b": 1, "a.c": {}}
    assert nearest("hiden_size", ["hidden_size", "vocab_size"]) == " Did you mean 'hidden_size'?"
    assert nearest("lr", ["train.lr", "data.mask_copies"]) == " Did you mean 'train.lr'?"
    assert nearest("qqq", ["hidden_size"]) == ""


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        load(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: test [--config FILE ...]")
    assert re.search(r"--inner\.rate FLOAT\s+a rate\. \(default: 0\.1\)", text)


def test_help_of_a_plug_in_lists_its_arguments(capsys):
    with pytest.raises(SystemExit):
        load(["--name", "a", "--part.help", "test_settings.Part"])
    assert "--part.init_args.size INT" in capsys.readouterr().out


def test_settings_are_printed_as_a_file_that_gives_them_again(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("name: 名\ninner: {rate: 1e-4}\n", encoding="utf-8")
    argv = [
        "--config",
        str(tmp_path / "a.yaml"),
        "--part.class_path",
        "test_settings.Part",
        "--part.init_args.size",
        "7",
    ]
    with pytest.raises(SystemExit) as ended:
        load([*argv, "--print_config"])
    assert not ended.value.code
    (tmp_path / "b.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load(["--config", str(tmp_path / "b.yaml")]).resolved == load(argv).resolved
    with pytest.raises(ZooError, match="unknown key"):  # what is wrong is refused as ever
        load([*argv, "--inner.rat", "1", "--print_config"])


def test_yaml_keeps_texts_that_are_numbers_without_quotes():
    texts = ("1e-4", "1e3", "2020-01-01", "no", "名", "a: b", "[PAD]", "", "null", "0x1F", "é")
    values: dict[str, object] = dict(zip(texts, texts, strict=True))
    values |= {"number": 1e-05, "large": 1e20, "none": None, "texts": ["1e5", "~"]}
    for every_character in (True, False):
        text = as_yaml(values, every_character)
        assert parse_yaml(text) == values
        assert every_character or text.isascii()
