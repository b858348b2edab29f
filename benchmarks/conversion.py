"""``python benchmarks/conversion.py``: time and memory of `zoo import` and `zoo export` at base size.

Each is a process of its own.

    python benchmarks/conversion.py [--families bert,gpt2]

Weights are random, made here and thrown away. Memory is the peak of the child's resident set less that of the same
command on a model of almost no weights, and stands beside the size of the weights; a page of a mapped file counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = {"hidden": 768, "layers": 12, "vocabulary": 30522}
SMALL = {"hidden": 12, "layers": 1, "vocabulary": 99}


def make(folder: Path, family: str, hidden: int, layers: int, vocabulary: int) -> None:
    """A random checkpoint of a family with a language-model head."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForPreTraining

    names = {"vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 12}
    config = AutoConfig.for_model(family, **names)
    if hasattr(config, "intermediate_size"):
        config.intermediate_size = 4 * hidden
    causal = family in ("gpt2", "openai-gpt", "llama")
    torch.manual_seed(0)
    model = (AutoModelForCausalLM if causal else AutoModelForPreTraining).from_config(config, trust_remote_code=False)
    model.save_pretrained(folder)


def run(*words: str) -> tuple[float, int]:
    """Seconds and peak bytes of one `zoo` command."""
    start = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "zoo.cli", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"zoo {' '.join(words)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.monotonic() - start, usage.ru_maxrss * unit


def measure(family: str) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sizes, peaks, seconds = {}, {}, {}
        for name, shape in (("small", SMALL), ("base", BASE)):
            source = folder / name
            # In a process of its own: a child's peak counts what its parent held when it was started.
            asked = ["--make", str(source), "--families", family, "--shape", ",".join(map(str, shape.values()))]
            subprocess.run([sys.executable, __file__, *asked], check=True, capture_output=True)
            sizes[name] = (source / "model.safetensors").stat().st_size
            there = run("import", str(source), str(folder / f"{name}-zoo"))
            back = run("export", str(folder / f"{name}-zoo"), str(folder / f"{name}-out"))
            seconds[name] = there[0] + back[0]
            peaks[name] = max(there[1], back[1])
        extra = (peaks["base"] - peaks["small"]) / sizes["base"]
        return (
            f"{family:12} {sizes['base'] / 2**20:7.0f} MiB   import + export {seconds['base']:5.1f} s   "
            f"memory {extra:4.2f} x the weights"
        )


def main() -> None:
    """Print one line a family."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--families", default="bert,roberta,albert,openai-gpt,gpt2,electra,ernie,llama")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make, options.families, *map(int, options.shape.split(",")))
        return
    for family in options.families.split(","):
        print(measure(family), flush=True)


if __name__ == "__main__":
    main()
