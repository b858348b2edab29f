"""Speed of the recurrent core beside ``torch.nn.LSTM`` with ``proj_size``, measured in one run.

    python benchmarks/recurrent.py                          # sizes of the shipped tiny and mini models
    python benchmarks/recurrent.py --sizes 512:4096 --batch 32 --length 20 --rounds 3     # published size
    python benchmarks/recurrent.py --clipping [--gain 4] [--model RUN]    # how often the clips act

Both arms: token ids to the states of two directions of two layers, and in training their gradients; no dropout, no skip
connections, the same numbers of parameters. Torch's arm is two stacks of ``nn.LSTM``, one of which reads reversed rows,
without clipping, which it does not offer; ours runs with and without. The arms take turns; the ratio is that of the
medians, its range that of the rounds. On a busy machine take ``--threads 1`` and read the ratio by CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from zoo.config import CoreConfig
from zoo.config_parts import RecurrentConfig
from zoo.core.build import build_core
from zoo.core.lstm import BidirectionalLSTM
from zoo.core.lstm_kernel import recurrence
from zoo.inputs import CoreInputs
from zoo.model_folder import load_core

_VOCABULARY = 1000


class Peer(nn.Module):
    """The same core out of torch's parts."""

    def __init__(self, width: int, cell: int, layers: int) -> None:
        super().__init__()
        self.table = nn.Embedding(_VOCABULARY, width)
        self.stacks = nn.ModuleList(nn.LSTM(width, cell, layers, proj_size=width, batch_first=True) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, 2P)."""
        tokens = self.table(ids)
        return torch.cat([self.stacks[0](tokens)[0], self.stacks[1](tokens.flip(1))[0].flip(1)], dim=-1)


def core_config(width: int, cell: int, layers: int, clip: float | None) -> CoreConfig:
    """Of the core that is timed."""
    return CoreConfig(
        vocab_size=_VOCABULARY,
        hidden_size=2 * width,
        num_hidden_layers=layers,
        embedding_norm=False,
        position_type="none",
        type_vocab_size=0,
        pooler=False,
        recurrent=RecurrentConfig(cell, clip, clip, skip_connections=False, dropout=0.0),
    )


def timed(arms: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each arm; they take turns, after one round that does not count."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, run in arms.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            if number:
                found[name].append((time.perf_counter() - start, time.process_time() - used))
    return found


def ratios(peer: list[tuple[float, float]], own: list[tuple[float, float]]) -> str:
    """How many times as fast as the peer: by medians of wall time, by rounds, by medians of processor time."""
    wall, cpu = (statistics.median(p[k] for p in peer) / statistics.median(o[k] for o in own) for k in (0, 1))
    pairs = [p[0] / o[0] for p, o in zip(peer, own, strict=True)]
    return f"{wall:.2f}x ({min(pairs):.2f}-{max(pairs):.2f}), by CPU time {cpu:.2f}x"


def compare(width: int, cell: int, options: argparse.Namespace) -> None:
    """Print one size's figures."""
    ids = torch.randint(0, _VOCABULARY, (options.batch, options.length))
    peer = Peer(width, cell, options.layers)
    ours = {
        name: build_core(core_config(width, cell, options.layers, clip))
        for name, clip in (("clips", 3.0), ("no", None))
    }
    counts = {sum(p.numel() for p in m.parameters()) for m in ours.values()}
    # Torch keeps two biases where one would do.
    counts.add(sum(p.numel() for n, p in peer.named_parameters() if "bias_hh" not in n))
    if len(counts) != 1:
        raise SystemExit(f"the arms differ in parameters: {counts}")
    models: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {"torch": (peer, lambda: peer(ids))}
    for name, core in ours.items():
        models[name] = (core, lambda core=core: core(CoreInputs(ids)).last_hidden_state)

    def step(model: nn.Module, run: Callable[[], Tensor]) -> None:
        model.zero_grad()
        run().square().mean().backward()

    def infer(run: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            for _ in range(options.repeats):
                run()

    training = {name: lambda m=m, r=r: [step(m, r) for _ in range(options.repeats)] for name, (m, r) in models.items()}
    inference = {name: lambda r=r: infer(r) for name, (_, r) in models.items()}
    tokens = options.batch * options.length * options.repeats
    for what, arms in (("training", training), ("inference", inference)):
        seconds = timed(arms, options.rounds)
        rate = tokens / statistics.median(wall for wall, _ in seconds["torch"])
        clipped, free = (ratios(seconds["torch"], seconds[name]) for name in ("clips", "no"))
        print(f"P {width:4d}  C {cell:5d}  {what:9s}  torch {rate:9,.0f} tokens/s  ours {clipped}  no clips {free}")


@torch.no_grad()
def clipping(core: BidirectionalLSTM, name: str, options: argparse.Namespace) -> None:
    """Print the share of cells and outputs that stand at their bound, by layer, on rows of random tokens."""
    cell_clip, clip = core.facts.cell_clip, core.facts.projection_clip
    ids = torch.randint(0, core.config.vocab_size or 1, (options.batch, options.length))
    streams = core.embeddings(CoreInputs(ids)).transpose(0, 1)
    streams = torch.stack([streams, streams.flip(0)])
    width, size = core.config.input_width, core.facts.cell_size
    for number in range(core.config.num_hidden_layers):
        layer = core.layers[core.config.group_of(number)]
        zeros = streams.new_zeros(2, options.batch, width), streams.new_zeros(2, options.batch, size)
        outputs, cells = recurrence(streams, layer.weights(2), *zeros, cell_clip, clip)
        shares = [
            "no bound" if bound is None else f"{float((part[:, 1:].abs() >= bound).float().mean()):.3%} at {bound}"
            for part, bound in ((cells, cell_clip), (outputs, clip))
        ]
        print(f"{name}, layer {number}: cells {shares[0]}, outputs {shares[1]}")
        streams = outputs[:, 1:] + streams if core.facts.skip_connections and number else outputs[:, 1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["64:256", "128:512"], help="widths of projection:cell")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=1, help="passes in one measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clipping", action="store_true", help="report how often the clips act, instead of the speed")
    parser.add_argument("--gain", type=float, default=1.0, help="with --clipping: factor of the weights")
    parser.add_argument("--model", help="with --clipping: a run folder, instead of initial weights")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="LSTM with projections")  # oneDNN has none: said once is enough
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    for size in [options.model] if options.model else options.sizes:
        if not options.clipping:
            compare(*(int(part) for part in size.split(":")), options)
            continue
        core = (
            load_core(size)[0]
            if options.model
            else build_core(core_config(*map(int, size.split(":")), options.layers, 3.0))
        )
        if not isinstance(core, BidirectionalLSTM):
            parser.error(f"{size} has no recurrent core.")
        for parameter in core.parameters():
            parameter.data.mul_(options.gain)
        clipping(core, size, options)


if __name__ == "__main__":
    main()
