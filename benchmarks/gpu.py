"""``python benchmarks/gpu.py``: all that a GPU is asked to show, in one call of at most ten minutes, as JSON.

    python benchmarks/gpu.py [--minutes 10] [--output gpu.json]
    python benchmarks/gpu.py --toy                                # a few seconds on a CPU: does every part run?

Masked language models of 4/256 and 12/768 by our loop and by transformers' Trainer (:mod:`throughput` says how the two
are made alike), one arm after the other in one process, each from an empty memory:

- ours: uncompiled, with compiled layers, in a larger batch, in fp32; the small one also with compiled layers as CUDA
  graphs (inductor's ``triton.cudagraphs``, what ``mode="reduce-overhead"`` turns on);
- Trainer: as shipped (fp32), in bf16, and at its best tuning (bf16, the larger batch, four loader workers, fused AdamW,
  ``torch_compile``).

Of each arm: tokens/s, seconds of a step, peak memory of the device, losses, and, of ours, the share of the bare matrix
products' rate (in the step's shapes, and of one large square product). Then: waits of the host inside a step (torch's
sync debug mode; on a CPU, operations whose result the host needs), attention under a mask of documents by sdpa and by
flex attention, what steps wait for their rows, how far losses of our arms are apart, and tests of the suite that a GPU
changes. What fails is told in its place, and the rest goes on. The file is written anew after each part.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import prefetch
import throughput
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import functional
from waits import waits_of_step

from pretraining.store.token_store import Store
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.run import Run
from pretraining.training.stores import TokenStores
from zoo.runtime.processes import has_gpu, resolve_precision, start_processes
from zoo.runtime.signals import StopRequest

ROOT = Path(__file__).parents[1]
SHAPES = {
    "4/256": {"layers": 4, "hidden": 256, "heads": 4, "batch": 256},
    "12/768": {"layers": 12, "hidden": 768, "heads": 12, "batch": 64},
}
TOY = {"layers": 1, "hidden": 32, "heads": 2, "vocab": 300, "length": 32, "batch": 4, "steps": 2, "warmup": 1}
LARGER = 4  # times the batch
WORKERS = 4
GOALS = {
    "12/768": "2 x Trainer as shipped, 1.4 x its best tuning, 0.55 of the measured rate",
    "4/256": "4 M tokens/s",
}
TESTS = (
    "tests/zoo/heads/test_cross_entropy.py",
    "tests/pretraining/optim",
    "tests/pretraining/training/test_batches.py",
    "tests/pretraining/training/test_train.py",
)
PICKED = "not slow and (entropy or muon or torch or batches or rows or figure or bit_identical or averaged)"
Options = argparse.Namespace


# ---- arms ------------------------------------------------------------------------------------------------------------


def shaped(options: Options, shape: dict[str, int], **changes: Any) -> Options:
    """Options of :mod:`throughput` for a model, as one arm has them."""
    common = {"steps": options.steps, "warmup": options.warmup, "threads": options.threads}
    values = {**vars(throughput.parse([])), **common, **shape, **(TOY if options.toy else {}), **changes}
    return Options(**values)


def arms_of(options: Options, name: str) -> dict[str, Callable[[Store, Path], dict[str, Any]]]:
    """What is measured of one model, by name; at toy size without what a compiler or several processes take."""
    shape = SHAPES[name]
    larger = LARGER * (TOY if options.toy else shape)["batch"]

    def ours(step: Callable[[], None] = lambda: None, **changes: Any) -> Callable[[Store, Path], dict[str, Any]]:
        own = shaped(options, shape, **{"precision": "bf16", "compile": False, **changes})
        return lambda store, folder: throughput.run_ours(own, store, folder, step)

    def peer(precision: str, batch: int | None = None, **tuning: Any) -> Callable[[Store, Path], dict[str, Any]]:
        own = shaped(options, shape, **({} if batch is None else {"batch": batch}))
        return lambda store, folder: throughput.run_peer(own, store, folder, precision, **tuning)

    compiled = {"compile": True, "warmup": 8}
    best = {"dataloader_num_workers": WORKERS, "dataloader_persistent_workers": True, "optim": "adamw_torch_fused"}
    best |= {"torch_compile": True}
    found = {
        "ours": ours(),
        "trainer, as shipped": peer("fp32"),
        "ours, larger batch": ours(batch=larger),
        "trainer, best tuning": peer("bf16", larger, **({} if options.toy else best)),
        "trainer, bf16": peer("bf16"),
        "ours, fp32": ours(precision="fp32"),
    }
    if not options.toy:
        found["ours, compiled"] = ours(**compiled)
        found["ours, compiled, larger batch"] = ours(**compiled, batch=larger)
        if name == "4/256":
            found["ours, CUDA graphs"] = ours(torch.compiler.cudagraph_mark_step_begin, **compiled)
    return found


def as_graphs(name: str) -> AbstractContextManager[Any]:
    """Within it, what inductor compiles becomes CUDA graphs, where the arm is the one that asks for them."""
    if "CUDA graphs" not in name:
        return nullcontext()
    import torch._inductor.config as inductor

    patched: AbstractContextManager[Any] = inductor.patch({"triton.cudagraphs": True})
    return patched


def run_arm(arm: Callable[[Store, Path], dict[str, Any]], name: str, store: Store) -> dict[str, Any]:
    """One arm's figures, from an empty device, and from what a process begins with."""
    with tempfile.TemporaryDirectory() as folder, as_graphs(name), left_as_found():
        return arm(store, Path(folder))


@contextmanager
def left_as_found() -> Iterator[None]:
    """Whatever an arm sets in this process is as before afterwards: Trainer's settings would compile our model."""
    environment = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        AcceleratorState._reset_state(True)
        torch.use_deterministic_algorithms(False)  # which ours turns on, on a CPU
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def models(options: Options, found: dict[str, Any], left: Callable[[], float], write: Callable[[], None]) -> None:
    """Every arm of both models, the widest differences first."""
    for name in ("4/256",) if options.toy else ("12/768", "4/256"):
        shape, arms = shaped(options, SHAPES[name]), arms_of(options, name)
        own = found.setdefault(name, {"goal": GOALS[name], "flops_per_step": throughput.step_flops(shape)})
        with tempfile.TemporaryDirectory() as folder:
            rows = LARGER * shape.batch * (options.steps + 9)  # no arm reads any twice
            store = throughput.make_store(Path(folder), shape.vocab, rows, shape.length)
            for arm, measure in arms.items():
                own[arm] = attempt(lambda m=measure, a=arm, s=store: run_arm(m, a, s), left)
                print(f"{name:8} {arm:28} {told(own[arm])}", flush=True)
                write()
        own["matrix_rate"] = attempt(lambda: square_rate(64 if options.toy else 8192), left)
        compare(own, shape)
        write()


def told(figures: dict[str, Any]) -> str:
    """An arm in a line."""
    if "tokens_per_second" not in figures:
        return str(figures)
    memory = figures["device_mb"] or figures["peak_mb"]
    return f"{figures['tokens_per_second']:13,.0f} tokens/s {memory:9,.0f} MB"


def compare(own: dict[str, Any], shape: Options) -> None:
    """Shares of the rates, ratios to Trainer, and how far losses are apart, into what was measured of a model."""
    measured = {arm: one for arm, one in own.items() if isinstance(one, dict) and "tokens_per_second" in one}
    ours = {arm: one for arm, one in measured.items() if arm.startswith("ours")}
    rate = own["matrix_rate"].get("flops_per_second")
    flops = own["flops_per_step"] / (shape.batch * shape.length)
    for one in ours.values():
        one["share_of_product_rate"] = flops * one["tokens_per_second"] / one["product_rate"]
        one["mfu"] = flops * one["tokens_per_second"] / rate if rate else None
    best = max((one["tokens_per_second"] for one in ours.values()), default=0.0)
    trainers = {arm: one for arm, one in measured.items() if arm not in ours}
    own["best_of_ours_by"] = {arm: best / one["tokens_per_second"] for arm, one in trainers.items()}
    if "ours" in ours:
        same = {arm: one for arm, one in measured.items() if "larger" not in arm and "best" not in arm}
        own["loss_apart_from_ours"] = {arm: one["last_loss"] - ours["ours"]["last_loss"] for arm, one in same.items()}


def square_rate(size: int) -> dict[str, float]:
    """FLOP/s of one large product in bf16, the best of some."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return {"flops_per_second": 2.0 * size**3 / min(timed(lambda: a @ a, 5))}


def timed(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of some calls after two that warm up."""
    found = []
    for _ in range(repeats + 2):
        wait()
        start = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - start)
    return found[2:]


def wait() -> None:
    """Until the device has done what it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---- what is looked at beside the arms -------------------------------------------------------------------------------


def host_waits(options: Options) -> dict[str, Any]:
    """Places where the host waits for the device inside a training step; there should be none."""
    own = shaped(options, SHAPES["4/256"], precision="auto", compile=False)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        store = throughput.make_store(folder / "stores", own.vocab, 16 * own.batch, own.length)
        (folder / "run").mkdir()
        settings = load_pretrain_config([], {**throughput.our_values(own), "output": str(folder)})
        accelerator = start_processes(resolve_precision("auto"), own.threads, [], folder)
        run, stop = Run(settings, folder / "run", accelerator, TokenStores(store, {}), show=False), StopRequest()
        run.resume()
        run.trainer.train_step(stop)
        if not torch.cuda.is_available():
            with waits_of_step(run.trainer) as found:
                run.trainer.train_step(stop)
            return {"operations": found}
        with warnings.catch_warnings(record=True) as told_of:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run.trainer.train_step(stop)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [f"{warning.filename}:{warning.lineno}" for warning in told_of if "synchroniz" in str(warning.message)]
        return {"places": places}


def document_masks(options: Options) -> dict[str, Any]:
    """Seconds of attention under a mask of packed documents, by sdpa with a dense mask and by flex attention.

    Of both passes; on a CPU, where flex attention has no backward pass, of the first.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    batch, heads, length, width = (2, 2, 64, 16) if options.toy else (16, 12, 2048, 64)
    document = torch.arange(length, device=device) // (length // 8)

    def allowed(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return document[query] == document[key]

    inputs = [torch.randn(batch, heads, length, width, device=device, dtype=dtype) for _ in range(3)]
    dense = (document[:, None] == document[None, :])[None, None]
    block = create_block_mask(allowed, None, None, length, length, device=device)
    flex = flex_attention if options.toy else torch.compile(flex_attention)

    def both(attention: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [one.detach().requires_grad_(device == "cuda") for one in inputs]
        out = attention(*leaves)
        if device == "cuda":
            out.float().square().sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    ways = {
        "sdpa, dense mask": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, attn_mask=dense),
        "flex attention": lambda q, k, v: flex(q, k, v, block_mask=block),
    }
    results = {name: both(way) for name, way in ways.items()}
    first, second = results.values()
    apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(first, second, strict=True))
    return {"apart": apart, **{name: min(timed(lambda w=way: both(w), 5)) for name, way in ways.items()}}


def loader(options: Options) -> dict[str, Any]:
    """What steps wait for their rows (:mod:`prefetch`)."""
    if not options.toy:
        ways = "token masks;n-grams;whole words, Chinese"
        return prefetch.measure_all(prefetch.parse(["--ways", ways, "--batch", "256"]))
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("\n\n".join(f"Document {n} has few words. It ends here." for n in range(60)), encoding="utf-8")
        argv = ["--ways", "token masks", "--files", str(text), "--steps", "2", "--batch", "4"]
        return prefetch.measure_all(prefetch.parse([*argv, "--threads", str(options.threads)]))


def suite(options: Options, seconds: float) -> dict[str, Any]:
    """Tests whose outcome a GPU can change, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", PICKED, *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(seconds, 1.0))
    return {"command": " ".join(command[1:]), "returncode": done.returncode, "told": done.stdout[-1500:]}


# ---- the command -----------------------------------------------------------------------------------------------------


def attempt(part: Callable[[], dict[str, Any]], left: Callable[[], float]) -> dict[str, Any]:
    """A part's figures, or why there are none."""
    if left() <= 0:
        return {"skipped": "the minutes are used up"}
    start = time.perf_counter()
    try:
        figures = part()
    except (Exception, SystemExit) as error:  # the rest is worth having whatever this was
        return {"error": f"{type(error).__name__}: {str(error)[:600]}"}
    return {**figures, "took_seconds": time.perf_counter() - start}


def parse(argv: list[str]) -> Options:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="no part begins after these")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each arm")
    parser.add_argument("--warmup", type=int, default=4, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=throughput.parse([]).threads)
    parser.add_argument("--toy", action="store_true", help="every part at the smallest size, on any machine")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure everything, print, write."""
    options, start = parse(argv), time.monotonic()
    if not options.toy and not torch.cuda.is_available():
        sys.exit("no GPU was found; --toy runs every part at the smallest size on a CPU")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    found: dict[str, Any] = {"device": device, "torch": torch.__version__, "toy": options.toy, "gpu": has_gpu()}

    def left() -> float:
        return 60.0 * options.minutes - (time.monotonic() - start)

    def write() -> None:
        found["seconds"] = time.monotonic() - start
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    models(options, found, left, write)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "host_waits": lambda: host_waits(options),
        "document_masks": lambda: document_masks(options),
        "loader": lambda: loader(options),
    }
    if not options.toy:  # the suite has this benchmark at toy size
        parts["suite"] = lambda: suite(options, left())
    for name, part in parts.items():
        found[name] = attempt(part, left)
        print(f"{name}: {json.dumps(found[name])[:300]}", flush=True)
        write()
    print(f"{options.output} after {found['seconds']:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
