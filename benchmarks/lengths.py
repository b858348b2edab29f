"""``python benchmarks/lengths.py``: time and memory of one layer over lengths, and of a core over depths.

    python benchmarks/lengths.py [--longest 16384] [--width 256] [--heads 4] [--chunk 64] [--rounds 2] [--write]

Four arms take the same states, one row, causal, forward and backward pass: hashed attention, local attention, plain
attention that writes its probabilities, and plain attention by torch's fused kernel. Each length runs the arms in turn,
the least time of ``--repeats`` counts. Memory is what the forward pass keeps for the backward pass, in bytes, counted
by autograd's hooks: the same on every machine. ``--write`` draws docs/lengths.svg. Times are ratios of one run.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from zoo.attention import Attention, LocalSelfAttention, LSHSelfAttention
from zoo.attention.context import AttentionContext
from zoo.attention.masks import Mask
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.runtime.provenance import surroundings

ARMS = {"lsh": "hashed", "local": "local", "eager": "plain, eager", "kernel": "plain, kernel"}
COLOURS = {"lsh": "#1b6ca8", "local": "#2a9d5c", "eager": "#c0392b", "kernel": "#8e6bbf"}
EAGER_LIMIT = 4096  # tokens, beyond which plain probabilities alone take gigabytes
PAGE = Path(__file__).parents[1] / "docs" / "lengths.svg"


def config_of(options: argparse.Namespace, **changes: object) -> CoreConfig:
    """A core of the options' width, positions left out."""
    facts = {
        "vocab_size": 512,
        "hidden_size": options.width,
        "num_attention_heads": options.heads,
        "intermediate_size": 4 * options.width,
        "max_position_embeddings": options.longest,
        "position_type": "none",
        "norm_position": "pre",
        "pooler": False,
        "type_vocab_size": 0,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
    }
    return CoreConfig(**{**facts, **changes})  # type: ignore[arg-type]


def arms_of(options: argparse.Namespace) -> dict[str, nn.Module]:
    """The four layers."""
    config = config_of(options)
    hashed = LSHSelfAttention(config, chunk_length=options.chunk, num_hashes=options.rounds)
    local = LocalSelfAttention(config, chunk_length=options.chunk)
    return {"lsh": hashed, "local": local, "eager": Attention(config), "kernel": Attention(config)}


class KeptBytes:
    """Bytes that a forward pass keeps for the backward pass, each storage once, weights left out."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.found: dict[int, int] = {}
        self.held: list[Tensor] = []  # so that no address is given twice

    def pack(self, kept: Tensor) -> Tensor:
        """Count a tensor."""
        place = kept.untyped_storage().data_ptr()
        if place not in self.weights:
            self.found[place] = kept.untyped_storage().nbytes()
            self.held.append(kept)
        return kept

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.found.values())


def layer_once(name: str, layer: nn.Module, states: Tensor, count: bool) -> float:
    """Seconds of a forward and a backward pass, or the bytes between them."""
    context = AttentionContext(Mask(None, True), causal=True, eager_attention=name == "eager")
    if name == "lsh":
        context = context._replace(eager_attention=False)
    states = states.detach().requires_grad_()
    kept, start = KeptBytes(layer), time.perf_counter()
    if count:
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda x: x):
            layer(states, context, 8)
        return float(kept.total)
    layer(states, context, 8)[0].sum().backward()
    return time.perf_counter() - start


def over_lengths(options: argparse.Namespace) -> dict[str, dict[int, tuple[float, float]]]:
    """Seconds and bytes of each arm at each length."""
    arms = arms_of(options)
    found: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in arms}
    length = 512
    while length <= options.longest:
        states = torch.randn(1, length, options.width)
        running = [name for name in arms if name != "eager" or length <= EAGER_LIMIT]
        seconds: dict[str, list[float]] = {name: [] for name in running}
        for turn in range(options.repeats + (length <= 4096)):
            for name in running:
                took = layer_once(name, arms[name], states, count=False)
                if turn or length > 4096:  # the first turn warms up
                    seconds[name].append(took)
        for name in running:
            found[name][length] = min(seconds[name]), layer_once(name, arms[name], states, count=True)
            print(f"{length:,} {name}: {found[name][length][0]:.3f} s", file=sys.stderr, flush=True)
        length *= 2
    return found


def over_depths(options: argparse.Namespace) -> dict[int, tuple[int, int]]:
    """Kept bytes of a core by depth, reversible and not."""
    found = {}
    chunks = {"chunk_length": options.chunk}
    layers = [
        {"class_path": "zoo.attention.LocalSelfAttention", "init_args": chunks},
        {"class_path": "zoo.attention.LSHSelfAttention", "init_args": {**chunks, "num_hashes": options.rounds}},
    ]
    for depth in (2, 4, 8, 16):
        row = []
        for reversible in (True, False):
            core = build_core(
                config_of(options, num_hidden_layers=depth, attention_layers=layers, reversible=reversible)
            )
            kept, ids = KeptBytes(core), torch.zeros(1, 1024, dtype=torch.long)
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda x: x):
                core(CoreInputs(ids, AttentionPattern(True)))
            row.append(kept.total)
        found[depth] = (row[0], row[1])
    return found


def slope(values: dict[int, float]) -> float:
    """Exponent of growth between the last two lengths: 1 = linear, 2 = quadratic."""
    last, before = sorted(values)[-1], sorted(values)[-2]
    return math.log2(values[last] / values[before])


def panel(found: dict[str, dict[int, tuple[float, float]]], which: int, left: int, title: str) -> list[str]:
    """One of the two pictures: both axes are logarithms."""
    values = [row[which] for arm in found.values() for row in arm.values()]
    lengths = sorted({n for arm in found.values() for n in arm})
    low, high = math.log2(min(values)), math.log2(max(values))
    wide = math.log2(lengths[-1] / lengths[0]) or 1.0

    def point(length: int, value: float) -> tuple[float, float]:
        across = 300 * math.log2(length / lengths[0]) / wide
        return left + across, 250 - 200 * (math.log2(value) - low) / ((high - low) or 1.0)

    lines = [f'<text x="{left}" y="30">{title}</text>']
    lines.append(f'<path d="M{left} 45V255H{left + 305}" fill="none" stroke="#888"/>')
    for length in lengths:
        x, _ = point(length, values[0])
        lines.append(f'<text x="{x:.0f}" y="272" text-anchor="middle" font-size="10">{length:,}</text>')
    for name, arm in found.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (point(n, row[which]) for n, row in arm.items()))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
    return lines


def drawing(found: dict[str, dict[int, tuple[float, float]]]) -> str:
    """Both panels with their legend, as SVG."""
    body = panel(found, 0, 40, "time of one layer, forward and backward (log)")
    body += panel(found, 1, 410, "memory kept for the backward pass (log)")
    for place, (name, told) in enumerate(ARMS.items()):
        x = 40 + 165 * place
        body.append(f'<path d="M{x} 295h20" stroke="{COLOURS[name]}" stroke-width="2"/>')
        body.append(f'<text x="{x + 26}" y="299">{told}</text>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 310" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="740" height="310" fill="white"/>', *body, "</svg>", ""])


def main() -> None:
    """Measure, print, and draw where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--longest", type=int, default=16384)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="draw docs/lengths.svg")
    options = parser.parse_args()
    found = over_lengths(options)
    print(f"{surroundings()['machine']['cpu']}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| tokens |" + "|".join(f" {told}: time / kernel; MB " for told in ARMS.values()) + "|")
    for length in found["kernel"]:
        cells = []
        for arm in found.values():
            row = arm.get(length)
            base = found["kernel"][length][0]
            cells.append("–" if row is None else f"{row[0] / base:.2f} ×; {row[1] / 1e6:,.1f}")
        print(f"| {length:,} | " + " | ".join(cells) + " |")
    for name, arm in found.items():
        growth = [slope({n: row[which] for n, row in arm.items()}) for which in (0, 1)]
        print(f"{ARMS[name]}: at the longest rows time grows as length^{growth[0]:.2f}, memory as ^{growth[1]:.2f}")
    for depth, (rebuilt, kept) in over_depths(options).items():
        print(f"{depth} layers, 1,024 tokens: reversible {rebuilt / 1e6:.2f} MB, stored {kept / 1e6:.2f} MB")
    if options.write:
        PAGE.write_text(drawing(found), encoding="utf-8")


if __name__ == "__main__":
    main()
