"""``python benchmarks/translation.py``: training on translations beside stock Marian, on the same batches.

    python benchmarks/translation.py [--steps 200] [--width 256] [--layers 3] [--batch_tokens 1500] [--files EN DE]

Our loop takes its steps, dropout 0. A stock ``MarianMTModel`` with the exported initial weights takes the same batches
in a plain loop: forward pass, cross-entropy of all logits, backward pass, the same AdamW and rates. So does a second
copy of it whose weights start one rounding higher: how far the two stock curves part is what rounding alone makes of
these steps. Printed are the largest differences between curves of losses, and source and target tokens a second of
both. Where the ratio is above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn
from torch.nn import functional

from pretraining.objectives.base import Batch
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.run import Run
from pretraining.training.stores import run_stores
from zoo.runtime.processes import start_processes
from zoo.runtime.signals import StopRequest
from zoo.weights.commands import export_folder


class Curves(NamedTuple):
    """Losses and seconds of both arms, by step, and tokens of each step.

    Args:
        ours: nats a target.
        theirs: likewise.
        nudged: of the stock copy that starts one rounding away.
        our_seconds: of our steps.
        their_seconds: of the stock loop's.
        tokens: of source and target.
    """

    ours: list[float]
    theirs: list[float]
    nudged: list[float]
    our_seconds: list[float]
    their_seconds: list[float]
    tokens: list[int]


class StockLoop:
    """A stock model and the plain loop that trains it.

    Args:
        model: of transformers, in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)

    def train_step(self, inputs: dict[str, torch.Tensor], lr: float) -> float:
        """The loss in nats a target, before the step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        given = {name: value for name, value in inputs.items() if name != "labels"}
        logits = self.model(**given, use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def nudged(model: nn.Module) -> nn.Module:
    """A copy whose weights are larger by one step of 32-bit numbers at most."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + torch.finfo(torch.float32).eps)
    return other


def settings_of(folder: Path, steps: int, more: dict[str, Any]) -> list[str]:
    """Words that make transformer-tiny what Marian can say, without dropout."""
    values = {
        "model.sinusoid_layout": "halves",
        "model.layer_norm_eps": 1e-5,
        "model.hidden_dropout_prob": 0.0,
        "objectives.translation.init_args.label_smoothing": 0.0,
        # A stock embedding gives the padding token's row no gradient, not even where the decoder starts with it.
        "tasks.pairs.layout.init_args.start": "sep",
        "data.stores": folder / "stores",
        "data.processes": 1,
        "train.steps": steps,
        "train.tokens": "null",
        "train.threads": torch.get_num_threads(),
        "train.precision": "fp32",
        "train.validate_every": 0,
        "run_folder": folder / "run",
        **more,
    }
    return [
        "--config",
        "transformer-tiny",
        *(word for key, value in values.items() for word in (f"--{key}", str(value))),
    ]


def both_curves(folder: Path, steps: int, more: dict[str, Any]) -> Curves:
    """Train both, a step each in turn.

    Args:
        folder: where the run is made.
        steps: of each.
        more: settings, over those of :func:`settings_of`.
    """
    from transformers import MarianMTModel

    settings = load_pretrain_config(settings_of(folder, steps, more))
    config = settings.value
    (folder / "run").mkdir()
    accelerator = start_processes("fp32", config.train.threads, [], folder / "run")
    run = Run(settings, folder / "run", accelerator, run_stores(config, False), show=False)
    run.resume()
    run._save_model(folder / "start")
    export_folder(folder / "start", folder / "marian", "marian")
    stock = MarianMTModel.from_pretrained(folder / "marian").train()
    theirs, other = StockLoop(stock), StockLoop(nudged(stock))
    batches, make = list[Batch](), run.trainer.micro_batches

    def noted(rows: Any) -> list[Batch]:
        batches[:] = make(rows)
        return batches

    run.trainer.micro_batches = noted  # type: ignore[method-assign]
    found = Curves([], [], [], [], [], [])
    for _ in range(steps):
        start, before = time.perf_counter(), run.state.log_window.clone()
        result = run.trainer.train_step(StopRequest())
        found.our_seconds.append(time.perf_counter() - start)
        total, count = (run.state.log_window - before)[0].tolist()
        found.ours.append(total / count)
        found.tokens.append(batches[0].tokens)
        inputs = stock_inputs(batches[0])
        start = time.perf_counter()
        found.theirs.append(theirs.train_step(inputs, result.lr))
        found.their_seconds.append(time.perf_counter() - start)
        found.nudged.append(other.train_step(inputs, result.lr))
    return found


def stock_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch of ours as the arguments of a stock model, with its labels."""
    inputs, decoder = batch.inputs, batch.inputs.decoder
    assert decoder is not None
    lengths = inputs.attention_pattern.lengths
    width = inputs.input_ids.shape[1]
    full = torch.full((len(inputs.input_ids),), width) if lengths is None else lengths
    targets = batch.targets["translation"]
    labels = torch.full(decoder.input_ids.shape, -100).flatten().scatter(0, targets["positions"], targets["labels"])
    return {
        "input_ids": inputs.input_ids,
        "attention_mask": (torch.arange(width)[None, :] < full[:, None]).long(),
        "decoder_input_ids": decoder.input_ids,
        "labels": labels.view_as(decoder.input_ids),
    }


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch_tokens", type=int, default=1500)
    parser.add_argument("--files", nargs=2, help="aligned files; default the shipped pairs")
    options = parser.parse_args()
    more: dict[str, Any] = {
        "model.hidden_size": options.width,
        "model.num_hidden_layers": options.layers,
        "model.intermediate_size": 4 * options.width,
        "train.batch_tokens": options.batch_tokens,
    }
    if options.files:
        more |= {"data.corpus.files": f"[{', '.join(options.files)}]"}
    with tempfile.TemporaryDirectory() as folder:
        found = both_curves(Path(folder), options.steps, more)
    apart, rounding = (
        max(abs(a - b) for a, b in zip(found.theirs, other, strict=True)) for other in (found.ours, found.nudged)
    )
    warm = min(5, options.steps - 1)
    rates = [
        statistics.median(t / s for t, s in zip(found.tokens[warm:], seconds[warm:], strict=True))
        for seconds in (found.our_seconds, found.their_seconds)
    ]
    print(
        f"{options.layers}/{options.width}, {options.steps} steps, {torch.get_num_threads()} threads: losses from "
        f"{found.ours[0]:.3f} to {found.ours[-1]:.3f}, at most {apart:.1e} apart (stock from a rounding of itself "
        f"{rounding:.1e}); ours {rates[0]:,.0f} tokens/s, stock {rates[1]:,.0f}, ratio {rates[0] / rates[1]:.2f}"
    )


if __name__ == "__main__":
    main()
