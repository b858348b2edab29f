"""The commands of README and docs/data.md run as they stand, in a fresh working directory."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.settings.yaml_files import shipped_configs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, (ROOT / "docs" / "data.md").read_text(encoding="utf-8")]
MODULES = [found for page in PAGES for found in re.findall(r"^```python (\w+\.py)\n(.*?)^```", page, flags=re.M | re.S)]
TESTED = [re.findall(r"^```(bash|python) tested\n(.*?)^```", page, flags=re.M | re.S) for page in PAGES]


def environment() -> dict[str, str]:
    """This interpreter's commands first, the project importable."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_tested_blocks_run(tmp_path):
    """Those of docs/data.md after the README's, whose first run they start from."""
    assert all(TESTED), "a page has lost its tested blocks"
    for name, code in MODULES:
        (tmp_path / name).write_text(code, encoding="utf-8")
    for language, block in itertools.chain(*TESTED):
        for command in filter(None, block.splitlines()) if language == "bash" else [block]:
            words = ["bash", "-c", command] if language == "bash" else [sys.executable, "-c", command]
            done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "runs" / "first" / "model.safetensors").exists()


def test_the_two_top_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check"):
        assert re.search(rf"^{target}:", makefile, flags=re.M)
    assert README.index("make demo") < README.index("##")
    assert README.index("make test") < README.index("##")


def test_files_and_configs_that_the_readme_names_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
    for kind, name in re.findall(r"(pretraining|ablation) --config ([\w-]+)", README):
        folder = shipped_configs() / {"pretraining": "pretrain", "ablation": "ablation"}[kind]
        assert (folder / f"{name}.yaml").exists(), name


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
        "import sys, pretraining.train; heavy = {'transformers', 'datasets', 'sklearn'} & sys.modules.keys();"
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
