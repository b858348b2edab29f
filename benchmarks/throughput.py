"""``python benchmarks/throughput.py``: training throughput and peak memory beside transformers' Trainer.

Model and blocks are the same.

    python benchmarks/throughput.py [--steps 20] [--rounds 5] [--peer-precision both] [--output FILE.json]

Every measurement is a process of its own, and the arms take turns, so that a busy machine slows both alike and
each peak of memory belongs to one arm. Ours is the loop of ``python -m pretraining`` (``Trainer.train_step``); the
peer is what transformers' ``run_mlm.py`` does: ``BertForMaskedLM``, ``Trainer``,
``DataCollatorForLanguageModeling``, an Arrow data set, no loader workers. Shape, initial spread, dropout,
optimiser, learning rate, clipping, threads, rows and the expected number of targets (15 %) are the same; fetching,
masking and collation are timed in both. Nothing is logged, saved or evaluated while the clock runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.store.token_store import Store
from pretraining.training.load_config import load_pretrain_config
from zoo.config import CoreConfig
from zoo.core.flops import core_flops, token_head_flops, training_flops
from zoo.runtime.processes import fast_bf16, resolve_precision, start_processes
from zoo.runtime.signals import StopRequest, die_with_parent

MASK_RATE = 0.15
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
DOCUMENTS = 50
Options = argparse.Namespace


# ---- what both arms train ---------------------------------------------------------------------------------


def make_store(folder: Path, vocab: int, rows: int, length: int) -> Store:
    """A token store of ``rows`` blocks of ids with Zipf's frequencies, and its word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from pretraining.store.prepare import prepare_from_ids
    from pretraining.tokenizer.tokenizer import ZooTokenizer

    names = [*SPECIAL.values(), *(f"w{number}" for number in range(len(SPECIAL), vocab))]
    backend = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(SPECIAL.values()))
    shares = 1.0 / np.arange(1, vocab - len(SPECIAL) + 1)
    words = rows * length // DOCUMENTS // length * length + length
    rng = np.random.default_rng(0)

    def documents() -> Iterator[Any]:
        for _ in range(DOCUMENTS):
            ids = rng.choice(len(shares), words, p=shares / shares.sum()) + len(SPECIAL)
            yield np.array_split(ids, max(1, words // 20))

    return prepare_from_ids(documents(), ZooTokenizer(backend, SPECIAL), folder)


def core_fields(options: Options) -> dict[str, Any]:
    """The model, in the names that both libraries use."""
    return {
        "vocab_size": options.vocab,
        "hidden_size": options.hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "intermediate_size": options.intermediate or 4 * options.hidden,
        "max_position_embeddings": max(512, options.length),
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": options.dropout,
    }


def our_values(options: Options) -> dict[str, Any]:
    """Settings of our run: masked LM on contiguous blocks, Trainer's optimiser settings."""
    masked = {
        "class_path": "pretraining.objectives.MaskedLM",
        "init_args": {
            "select": {
                "class_path": "pretraining.masking.RandomTokens",
                "init_args": {"rate": MASK_RATE, "budget": "stochastic"},
            }
        },
    }
    return {
        "name": "throughput",
        "model": {**core_fields(options), "pooler": False},  # BertForMaskedLM has none either
        "data": {
            "corpus": {"files": "unused"},
            "tokenizer": {"kind": "word"},
            "sequence_length": options.length,
            "validation_tokens": 0,
        },
        "objectives": {"masked": masked},
        "tasks": {"blocks": {"layout": {"class_path": "pretraining.layouts.Blocks"}, "objectives": ["masked"]}},
        "train": {
            "steps": options.warmup + options.steps,
            "batch_size": options.batch,
            "lr": options.lr,
            "schedule": {"class_path": "pretraining.optim.WarmupDecay", "init_args": {"warmup": 0.0}},
            "optimizer": {
                "class_path": "torch.optim.AdamW",
                "init_args": {"eps": 1e-8, "weight_decay": 0.0, "fused": True},
            },
            "weight_decay": 0.0,
            "precision": options.precision,
            "threads": options.threads,
            "compile": "yes" if options.compile else "no",
        },
    }


def blocks(store: Store, length: int) -> NDArray[np.int64]:
    """(N, length) all whole blocks of the store: the rows our layout makes."""
    count = store.num_tokens // length
    return np.asarray(store.tokens[: count * length]).astype(np.int64).reshape(count, length)


# ---- measuring inside a child -----------------------------------------------------------------------------


class Clock:
    """Times whole steps between the end of the warm-up and the last step, and the memory of it all."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.last = warmup, warmup + steps
        self.started = self.seconds = self.cpu_started = self.cpu_seconds = 0.0
        self.steps = 0
        self.before = _memory("VmRSS")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def step_ended(self) -> None:
        """Call at the end of every optimiser step."""
        self.steps += 1
        if self.steps in (self.warmup, self.last):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if self.steps == self.warmup:
                self.started, self.cpu_started = time.perf_counter(), time.process_time()
            else:
                self.seconds = time.perf_counter() - self.started
                self.cpu_seconds = time.process_time() - self.cpu_started

    def result(self, options: Options, losses: list[float], parameters: int, targets: float) -> dict[str, Any]:
        """What the child reports."""
        if self.steps != self.last:
            sys.exit(f"{self.steps} steps were done instead of {self.last}: the figures would be wrong")
        tokens = options.steps * options.batch * options.length
        quarter = max(1, len(losses) // 4)
        return {
            "tokens_per_second": tokens / self.seconds,
            "seconds_per_step": self.seconds / options.steps,
            "cpu_seconds_per_step": self.cpu_seconds / options.steps,
            "steps": self.steps,
            "peak_mb": _memory("VmHWM"),
            "before_mb": self.before,
            "device_mb": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
            "parameters": parameters,
            "targets_per_step": targets,
            "first_loss": statistics.mean(losses[:quarter]),
            "last_loss": statistics.mean(losses[-quarter:]),
            "threads": torch.get_num_threads(),
        }


def _memory(field: str) -> float:
    """A line of /proc/self/status in MB; elsewhere the peak that getrusage knows."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    return int(lines[field].split()[0]) / 2**10


def outputs(options: Options) -> int:
    """States of a row that the last layer computes: a row has its share of targets, up to the next whole number."""
    return math.ceil(MASK_RATE * options.length)


def products(options: Options) -> list[tuple[int, int, int, int, int]]:
    """(times, batch, m, k, n) of every matrix product that a step of ours needs, backward ones included."""
    tokens, width = options.batch * options.length, options.hidden
    inner, targets = options.intermediate or 4 * width, round(MASK_RATE * tokens)
    head_width, pairs, last = width // options.heads, options.batch * options.heads, outputs(options)
    forward = [
        (2 * options.layers, 1, tokens, width, width),  # keys and values
        (1, 1, targets, width, width),
        (1, 1, targets, width, options.vocab),
    ]
    for layers, states in ((options.layers - 1, options.length), (1, last)):
        forward += [
            (2 * layers, 1, options.batch * states, width, width),
            (layers, 1, options.batch * states, width, inner),
            (layers, 1, options.batch * states, inner, width),
            (layers, pairs, states, head_width, options.length),
            (layers, pairs, states, options.length, head_width),
        ]
    found = []
    for times, batch, m, k, n in forward:
        found += [(times, batch, m, k, n), (times, batch, m, n, k), (times, batch, k, m, n)]
    return found


def product_rate(options: Options, precision: str, repeats: int = 5) -> float:
    """FLOP/s of bare matrix products in a step's shapes and proportions: what the step could reach at most."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = operations = 0.0
    for times, batch, m, k, n in products(options):
        a = torch.randn(batch, m, k, device=device, dtype=dtype)
        b = torch.randn(batch, k, n, device=device, dtype=dtype)
        out = torch.empty(batch, m, n, device=device, dtype=dtype)
        measured = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            torch.mm(a[0], b[0], out=out[0]) if batch == 1 else torch.bmm(a, b, out=out)
            if device == "cuda":
                torch.cuda.synchronize()
            measured.append(time.perf_counter() - start)
        seconds += times * min(measured[1:])
        operations += times * 2.0 * batch * m * k * n
    return operations / seconds


def step_flops(options: Options) -> int:
    """Operations of one of our steps, from the config alone (``zoo.core.flops``)."""
    config = CoreConfig(**core_fields(options), pooler=False)
    targets = round(MASK_RATE * options.batch * options.length)
    return training_flops(
        core_flops(config, options.batch, options.length, outputs=options.batch * outputs(options))
        + token_head_flops(config, targets, transform=True)
    )


def run_ours(
    options: Options, store: Store, folder: Path, before_step: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Our loop, by its own ``Trainer.train_step``."""
    from pretraining.training.run import Run
    from pretraining.training.stores import TokenStores

    settings = load_pretrain_config([], {**our_values(options), "output": str(folder)})
    accelerator = start_processes(resolve_precision(options.precision), options.threads, [], folder)
    run = Run(settings, folder, accelerator, TokenStores(store, {}), show=False)
    run.resume()
    sums, stop = [], StopRequest()
    clock = Clock(options.warmup, options.steps)
    for _ in range(options.warmup + options.steps):
        before_step()
        run.trainer.train_step(stop)
        sums.append(run.state.log_window[0].clone())  # summed loss and count, left on the device
        run.state.log_window.zero_()
        clock.step_ended()
    losses, targets = [float(total / count) for total, count in sums], [float(count) for _, count in sums]
    result = clock.result(options, losses, sum(p.numel() for p in run.raw_model.parameters()), statistics.mean(targets))
    # Measured next to the steps, since a busy machine's rate wanders; after them, since it takes memory.
    return {**result, "product_rate": product_rate(options, resolve_precision(options.precision))}


def run_peer(options: Options, store: Store, folder: Path, precision: str, **tuning: Any) -> dict[str, Any]:
    """The Trainer of transformers as ``run_mlm.py`` sets it up; ``tuning`` goes to its arguments."""
    import datasets
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(store.path, trust_remote_code=False)
    ids = blocks(store, options.length)
    columns = {
        "input_ids": ids,
        "token_type_ids": 0 * ids,
        "attention_mask": 0 * ids + 1,
        "special_tokens_mask": 0 * ids,
    }
    data = datasets.Dataset.from_dict({name: list(value) for name, value in columns.items()})
    data.save_to_disk(folder / "blocks")  # run_mlm reads memory-mapped Arrow files
    del data, ids, columns
    data = datasets.load_from_disk(folder / "blocks")
    model = BertForMaskedLM(BertConfig(**core_fields(options)))
    losses: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []

    class Recorded(Trainer):  # keeps each loss, which costs nothing; logging is off
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            if len(targets) < options.warmup:
                targets.append((inputs["labels"] != -100).sum())
            loss = super().compute_loss(model, inputs, *args, **more)
            losses.append((loss[0] if isinstance(loss, tuple) else loss).detach())
            return loss

    class Timer(TrainerCallback):
        clock: Clock

        def on_step_end(self, *args: Any, **more: Any) -> None:
            self.clock.step_ended()

    arguments = TrainingArguments(
        output_dir=str(folder / "peer"),
        max_steps=options.warmup + options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.lr,
        bf16=precision == "bf16",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        **tuning,
    )  # everything else as it comes: linear decay, fused AdamW, clipping at 1, no loader workers
    collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=MASK_RATE)
    timer = Timer()
    trainer = Recorded(model=model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[timer])
    timer.clock = Clock(options.warmup, options.steps)
    trainer.train()
    return timer.clock.result(
        options,
        [float(loss) for loss in losses],
        sum(p.numel() for p in model.parameters()),
        statistics.mean(float(t) for t in targets),
    )


def child(options: Options) -> dict[str, Any]:
    """One measurement in this process."""
    store, precision = Store(options.store), options.child.removeprefix("peer-")
    with tempfile.TemporaryDirectory() as folder:
        if options.child == "ours":
            return run_ours(options, store, Path(folder))
        return run_peer(options, store, Path(folder), precision)


# ---- the parent -------------------------------------------------------------------------------------------


def start_child(name: str, argv: list[str], store: Store, threads: int) -> dict[str, Any]:
    """Run one arm in a process of its own and read the figures it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, *argv, "--child", name, "--store", str(store.path)]
        command += ["--threads", str(threads), "--output", str(result)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        environment["ZOO_DIE_WITH_PARENT"] = "1"  # an interrupted benchmark leaves nobody behind
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode or not result.exists():
            sys.exit(
                f"arm {name!r} failed with exit code {done.returncode}:\n{done.stdout[-1500:]}{done.stderr[-3000:]}"
            )
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(rounds: list[dict[str, dict[str, Any]]], flops: int) -> dict[str, Any]:
    """Figures by arm, ratios ours : peer of medians and pair by pair, and the share of the product rate.

    Args:
        rounds: figures by arm, one dictionary for each round.
        flops: operations of one of our steps.
    """
    arms = {
        name: {
            "tokens_per_second": spread([one[name]["tokens_per_second"] for one in rounds]),
            **{key: statistics.median(one[name][key] for one in rounds) for key in ("peak_mb", "before_mb")},
            **{key: rounds[-1][name][key] for key in ("parameters", "targets_per_step", "first_loss", "last_loss")},
        }
        for name in rounds[0]
    }
    if rounds[0]["ours"].get("device_mb") is not None:
        for name, arm in arms.items():
            arm["device_mb"] = statistics.median(one[name]["device_mb"] for one in rounds)
    ratios = {}
    for name in arms:
        if name == "ours":
            continue
        pairs = [one["ours"]["tokens_per_second"] / one[name]["tokens_per_second"] for one in rounds]
        ours, peer = arms["ours"], arms[name]
        ratios[name] = {
            "of_medians": ours["tokens_per_second"]["median"] / peer["tokens_per_second"]["median"],
            "pairs": spread(pairs),
            "cpu_time": statistics.median(
                one[name]["cpu_seconds_per_step"] / one["ours"]["cpu_seconds_per_step"] for one in rounds
            ),
            "peak_memory": ours["peak_mb"] / peer["peak_mb"],
            "memory_of_training": (ours["peak_mb"] - ours["before_mb"]) / (peer["peak_mb"] - peer["before_mb"]),
        }
        if "device_mb" in ours:
            ratios[name]["device_memory"] = ours["device_mb"] / peer["device_mb"]
    rates = [one["ours"]["product_rate"] for one in rounds]
    shares = [flops / one["ours"]["seconds_per_step"] / rate for one, rate in zip(rounds, rates, strict=True)]
    return {"arms": arms, "ratios": ratios, "product_rate": spread(rates), "share_of_product_rate": spread(shares)}


def problems(summary: dict[str, Any]) -> list[str]:
    """Signs that an arm did less than it should."""
    found, ours = [], summary["arms"]["ours"]
    for name, arm in summary["arms"].items():
        if arm["last_loss"] >= arm["first_loss"]:
            found.append(f"the loss of {name} did not fall ({arm['first_loss']:.3f} -> {arm['last_loss']:.3f})")
        if arm["parameters"] != ours["parameters"]:
            found.append(f"{name} has {arm['parameters']:,} parameters, ours {ours['parameters']:,}")
        if abs(arm["targets_per_step"] / ours["targets_per_step"] - 1) > 0.1:
            found.append(
                f"{name} predicts {arm['targets_per_step']:.0f} tokens a step, ours {ours['targets_per_step']:.0f}"
            )
    return found


def report(summary: dict[str, Any]) -> str:
    """The table."""
    lines = [f"{'':10} {'tokens/s':>9} {'min':>9} {'max':>9}   {'peak MB':>8} {'training':>9}   loss"]
    for name, arm in summary["arms"].items():
        speed, grown = arm["tokens_per_second"], arm["peak_mb"] - arm["before_mb"]
        device = f"   device {arm['device_mb']:,.0f} MB" if "device_mb" in arm else ""
        lines.append(
            f"{name:10} {speed['median']:9,.0f} {speed['min']:9,.0f} {speed['max']:9,.0f}   {arm['peak_mb']:8,.0f} "
            f"{grown:9,.0f}   {arm['first_loss']:.2f} -> {arm['last_loss']:.2f}{device}"
        )
    for name, ratio in summary["ratios"].items():
        pairs = ratio["pairs"]
        device = f", on the device {ratio['device_memory']:.2f}x" if "device_memory" in ratio else ""
        lines.append(
            f"ours : {name}  {ratio['of_medians']:.2f}x of medians, pair by pair {pairs['median']:.2f}x "
            f"({pairs['min']:.2f}-{pairs['max']:.2f}), by CPU time "
            f"{ratio['cpu_time']:.2f}x; peak memory {ratio['peak_memory']:.2f}x, of training alone "
            f"{ratio['memory_of_training']:.2f}x{device}"
        )
    rate, share = summary["product_rate"], summary["share_of_product_rate"]
    lines.append(
        f"bare matrix products in a step's shapes: {rate['median'] / 1e9:,.0f} GFLOP/s; our steps run at "
        f"{100 * share['median']:.0f} % of it ({100 * share['min']:.0f}-{100 * share['max']:.0f} %)"
    )
    return "\n".join(lines + [f"WARNING: {text}" for text in problems(summary)])


def parse(argv: list[str]) -> Options:
    """Options; the defaults are BERT-mini."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = {"layers": 4, "hidden": 256, "heads": 4, "vocab": 30_522, "length": 128, "batch": 32}
    for name, default in shape.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--intermediate", type=int, help="default: 4 x hidden")
    parser.add_argument("--dropout", type=float, default=0.1, help="of hidden states and attention, in both arms")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each measurement")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each arm")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="ours")
    parser.add_argument("--peer-precision", choices=["fp32", "bf16", "both"], default="both")
    parser.add_argument("--compile", action="store_true", help="torch.compile ours (raise --warmup then)")
    parser.add_argument("--output", type=Path, help="also write everything as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    options = parse(argv)
    if options.child:
        die_with_parent()
        options.output.write_text(json.dumps(child(options)))
        return
    peers = ["fp32", "bf16"] if options.peer_precision == "both" else [options.peer_precision]
    chosen = resolve_precision(options.precision)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} threads"
    print(
        f"{device}; bf16 in hardware: {'yes' if fast_bf16() else 'no'}; ours runs in {chosen}; "
        f"{options.layers}/{options.hidden}, {options.vocab:,} vocabulary, {options.batch} x {options.length}, "
        f"dropout {options.dropout}, {options.steps} steps x {options.rounds} rounds",
        flush=True,
    )
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        count = (options.warmup + options.steps + 1) * options.batch
        store = make_store(Path(folder), options.vocab, count, options.length)
        for number in range(options.rounds):
            found = {}
            for name in ("ours", *(f"peer-{peer}" for peer in peers)):
                found[name] = start_child(name, argv, store, options.threads)
                print(f"round {number + 1}: {name} {found[name]['tokens_per_second']:,.0f} tokens/s", flush=True)
            rounds.append(found)
    summary = summarise(rounds, step_flops(options))
    print(report(summary))
    if options.output:
        record = {
            "options": {key: str(value) for key, value in vars(options).items() if value is not None},
            "bf16_in_hardware": fast_bf16(),
            "our_precision": chosen,
            "device": device,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "step_flops": step_flops(options),
            **summary,
            "rounds": rounds,
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    if problems(summary):
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
