"""``zoo completion``: real shells complete commands, options, configs and choices, and no Python starts for it."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from zoo.cli import COMMANDS, completion_command
from zoo.errors import ZooError
from zoo.settings.yaml_files import shipped_configs

TYPED = [
    ("zoo sc", ["score"]),
    ("zoo show --con", ["--config"]),
    ("zoo show --config bert-t", ["bert-tiny", "bert-tiny-zh"]),
    ("zoo prepare --train.l", ["--train.log_every", "--train.lr"]),
    ("zoo prepare --train.precision ", ["auto", "bf16", "fp32"]),
    ("zoo prepare --train.schedule.class_path pretraining.optim.W", ["pretraining.optim.WarmupDecay"]),
    ("zoo pairs dis", ["discourse"]),
    ("zoo completion f", ["fish"]),
    ("python -m pretr", ["pretraining"]),
    ("python -m pretraining --dry", ["--dry_run"]),
    ("accelerate launch -m pretraining --config elmo-b", ["elmo-base"]),
    ("python -m ablation --config mask", ["masking"]),
    ("python -m finetune --config gl", ["glue"]),
    ("python train.py --con", []),
    ("python -m pip p", []),
]
BASH_ONLY = [  # keys below a name, and configs over configs
    ("zoo show --config bert-tiny+data/z", ["bert-tiny+data/zh"]),
    ("zoo show --config = bert-mi", ["bert-mini"]),  # as readline parts --config=bert-mi
    ("zoo show --config =", ["bert-mini"]),
    ("zoo prepare --objec", ["--objectives."]),
    ("zoo prepare --objectives.mine.class_path pretraining.objectives.Causal", ["pretraining.objectives.CausalLM"]),
    ("python -m pretraining --tasks.x.layout.class_path pretraining.layouts.Blo", ["pretraining.layouts.Blocks"]),
]


def script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    assert completion_command([shell]) == 0
    path = tmp_path / f"completion.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")


def asked(shell: str, text: str, folder: Path) -> list[str]:
    done = subprocess.run([shell, "-c", text], capture_output=True, text=True, timeout=60, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")


def test_bash_completes(capsys, tmp_path):
    needs("bash")
    lines = [f"source {script('bash', capsys, tmp_path)}"]
    for typed, _ in TYPED + BASH_ONLY:
        *words, last = typed.split(" ")
        array = " ".join(map(shlex.quote, [*words, last]))
        lines.append(f'COMP_WORDS=({array}); COMP_CWORD={len(words)}; _zoo 2>/dev/null; echo "${{COMPREPLY[*]}}"')
    answers = asked("bash", "\n".join(lines), tmp_path)
    for (typed, wanted), answer in zip(TYPED + BASH_ONLY, answers, strict=False):
        found = sorted(answer.split())
        assert found == wanted if not typed.endswith("=") else set(wanted) < set(found), typed


def test_bash_completes_files_where_a_path_is_wanted(capsys, tmp_path):
    needs("bash")
    (tmp_path / "own.yaml").touch()
    text = f"source {script('bash', capsys, tmp_path)}\n"
    text += "COMP_WORDS=(zoo show --config ow); COMP_CWORD=3; _zoo 2>/dev/null; echo ${COMPREPLY[*]}"
    assert asked("bash", text, tmp_path)[0] == "own.yaml"


def test_fish_completes(capsys, tmp_path):
    needs("fish")
    path = script("fish", capsys, tmp_path)
    for typed, wanted in TYPED:
        if typed.startswith("python -m pretr") and " --" not in typed:
            continue  # which modules there are is left to fish's own completion of python
        answers = asked("fish", f"source {path}; complete -C {shlex.quote(typed)}", tmp_path)
        found = {line.split("\t")[0] for line in answers}
        assert set(wanted) <= found, (typed, answers)


def at_tab(shell: list[str], setup: str, typed: str, wanted: str) -> str:
    """What an interactive shell shows after the typed words and a Tab, as soon as it shows what is wanted."""
    child, stream = pty.fork()
    if child == 0:
        os.execvpe(shell[0], shell, {**os.environ, "TERM": "dumb", "PS1": "> "})
    shown, end = b"", time.monotonic() + 60
    os.write(stream, f"{setup}\necho rea''dy\n".encode())
    sent = False
    try:
        while time.monotonic() < end:
            if select.select([stream], [], [], 0.2)[0]:
                shown += os.read(stream, 65536)
            if not sent and b"ready" in shown:
                os.write(stream, typed.encode() + b"\t")
                shown, sent = b"", True
            if sent and wanted.encode() in shown:
                break
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(stream)
    return shown.decode(errors="replace")


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("zoo sc", "zoo score"), ("zoo show --con", "--config"), ("zoo prepare --seed.d", "--seed.data")],
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_tab_completes(shell, typed, wanted, capsys, tmp_path):
    needs(shell)
    words = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}[shell]
    assert wanted in at_tab(words, f"source {script(shell, capsys, tmp_path)}", typed, wanted)


def test_every_command_and_config_is_in_every_script(capsys, tmp_path):
    for shell in ("bash", "zsh", "fish"):
        text = script(shell, capsys, tmp_path).read_text()
        for name in [*COMMANDS, *(path.stem for path in (shipped_configs() / "pretrain").glob("*.yaml"))]:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), (shell, name)


def test_another_shell_is_refused():
    with pytest.raises(ZooError, match=r"bash\|zsh\|fish"):
        completion_command(["tcsh"])
    with pytest.raises(ZooError, match="one shell"):
        completion_command([])
