"""The commands of README and of the pages in docs/ run as they stand, in one fresh working directory."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from warm import Warm

from zoo.settings.yaml_files import shipped_configs

DOCS = ROOT / "docs"
# In the order in which somebody reads them: a page may use what the blocks of those before it have made.
FIRST = ["install", "pretraining", "finetuning", "scoring", "transformers", "objectives", "ablations", "data"]
PAGES = {"README": (ROOT / "README.md").read_text(encoding="utf-8")}
PAGES |= {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in FIRST}
PAGES |= {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")) if path.stem not in FIRST}
PAGES |= {"CONTRIBUTING": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")}
README = PAGES["README"]


def files_of(page: str) -> dict[str, str]:
    """Files that a page shows in full, by name: blocks tagged ``LANGUAGE NAME.SUFFIX``."""
    return dict(re.findall(r"^```\w+ (\w+\.\w+)\n(.*?)^```", page, flags=re.M | re.S))


def commands_of(page: str) -> list[str]:
    """Commands of the page's tested blocks: each line of one in bash, a whole one in Python."""
    found = []
    for language, block in re.findall(r"^```(bash|python) tested\n(.*?)^```", page, flags=re.M | re.S):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line for line in lines if line] if language == "bash" else [f"python:{block}"]
    return found


def environment() -> dict[str, str]:
    """This interpreter's commands first, the project importable."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


# Words that the test adds to a command of minutes: as much less of the same.
LESS = {
    "python -m pretraining --config gpt-first --run_folder runs/first": "--train.tokens 80_000",
    "python -m finetune --model runs/first --tasks fewrel --data zoo:sample/tasks "
    "--task_file zoo:sample/tasks/tasks.yaml --seeds 1,2 --lr 1e-3 --epochs 2": "--limit 200",
}
HEAVY = ("accelerate", "jsonargparse", "scipy.stats", "sklearn.metrics", "torch._dynamo", "transformers.pipelines")


class Shell:
    """Runs a page's commands in one folder: the zoo's own as forks of a warm process, others in bash."""

    def __init__(self, folder: Path, warm: Warm) -> None:
        self.folder, self.warm = folder, warm

    def run(self, command: str) -> tuple[int, str]:
        """Exit code, and the end of what the command printed."""
        kind, _, code = command.partition("python:")
        if not kind:
            (self.folder / "block.py").write_text(code, encoding="utf-8")
            return self.fork("block")
        words = shlex.split(f"{command} {LESS.get(command, '')}")
        if words[0] == "zoo":
            return self.fork("zoo.cli", *words[1:])
        if words[:2] == ["python", "-m"]:
            return self.fork(*words[2:])
        shell = ["bash", "-c", command]
        done = subprocess.run(shell, cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=400)
        return done.returncode, done.stdout[-2000:] + done.stderr[-3000:]

    def fork(self, *words: str) -> tuple[int, str]:
        """As ``python -m`` with these words."""
        process = self.warm.start(*words)
        code = process.wait(timeout=600)
        return code, process.output()[-5000:]


@pytest.mark.slow
def test_tested_blocks_run(tmp_path, tmp_path_factory):
    """One run folder serves all pages; a command that stands on two of them runs once."""
    done = set()
    with Warm(tmp_path_factory.mktemp("warm"), place=tmp_path, environment=environment(), modules=HEAVY) as warm:
        shell = Shell(tmp_path, warm)
        for name, page in PAGES.items():
            for file, text in files_of(page).items():
                (tmp_path / file).write_text(text, encoding="utf-8")
            for command in commands_of(page):
                if command not in done:
                    done.add(command)
                    code, printed = shell.run(command)
                    assert code == 0, f"{name}: {command}\n{printed}"
    assert (tmp_path / "runs" / "first" / "model.safetensors").exists()
    assert set(LESS) <= done


@pytest.mark.parametrize(
    "name", ["README", "install", "pretraining", "finetuning", "transformers", "objectives", "data", "writing"]
)
def test_no_page_has_lost_its_tested_blocks(name):
    assert commands_of(PAGES[name])


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 100


def test_the_two_top_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check", "docs", "help"):
        assert re.search(rf"^{target}:", makefile, flags=re.M)
    assert README.index("make demo") < README.index("##")
    assert README.index("make test") < README.index("##")


def test_make_help_has_a_line_for_every_target():
    makefile = (ROOT / "Makefile").read_text()
    printed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"^make (\w+) +\S", printed, flags=re.M)
    assert set(named) == set(re.search(r"^\.PHONY: (.*)", makefile, flags=re.M)[1].split())
    assert printed == subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", PAGES)
def test_files_and_configs_that_a_page_names_exist(name):
    page, folder = PAGES[name], ROOT if name in ("README", "CONTRIBUTING") else DOCS
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page):
        if "://" not in target:
            assert (folder / target).exists(), target
    for kind, config in re.findall(r"(pretraining|ablation) --config ([\w-]+)", page):
        place = shipped_configs() / {"pretraining": "pretrain", "ablation": "ablation"}[kind]
        assert (place / f"{config}.yaml").exists(), config


def test_every_page_is_in_the_contents():
    listed = set(re.findall(r"^([\w-]+)$", PAGES["index"], flags=re.M))
    assert listed == {path.stem for path in DOCS.glob("*.md")} - {"index"}


def test_help_is_light():
    code = (
        "import sys, zoo.cli; zoo.cli.usage();"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & sys.modules.keys();"
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pretraining_leaves_heavy_libraries_alone():
    code = (
        "import sys, pretraining.scoring.scorer, pretraining.show.command; "
        "heavy = {'torch._dynamo'} & sys.modules.keys();"  # torch's compiler, which training imports
        "import pretraining.training.pretrain; "
        "heavy |= {'transformers', 'datasets', 'sklearn'} & sys.modules.keys();"
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
